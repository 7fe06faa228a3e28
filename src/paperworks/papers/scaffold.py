"""The files that a new paper starts from: a folder in this repository, or a small package of one's own."""

import json
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from paperworks import papers
from paperworks.evidence.provenance import checkout
from paperworks.papers import templates

_LINK = re.compile(r"(?:https?://)?(?:www\.|dx\.)?(?:arxiv\.org/(?:abs|pdf)/|doi\.org/)|(?:arxiv|doi):", re.IGNORECASE)
ARXIV = re.compile(r"(\d{2})(\d{2})\.\d{4,5}")
OLD_ARXIV = re.compile(r"[a-z-]+(?:\.[A-Z]{2})?/(\d{2})(\d{2})\d{3}")
DOI = re.compile(r"10\.\d{4,9}/\S+")


@dataclass(frozen=True)
class Identifier:
    """What names a paper: an arXiv id or a DOI, and the year, which only an arXiv id tells (else 0)."""

    text: str
    is_arxiv: bool
    year: int

    @property
    def link(self) -> str:
        """Where the paper itself is."""
        return f"https://arxiv.org/abs/{self.text}" if self.is_arxiv else f"https://doi.org/{self.text}"

    @property
    def slug(self) -> str:
        """A short name made from it."""
        kind = "arxiv" if self.is_arxiv else "doi"
        return f"{kind}-" + re.sub(r"[^a-z0-9]+", "-", self.text.casefold()).strip("-")


def parse_identifier(text: str) -> Identifier:
    """Read an arXiv id, new or old, or a DOI, or a link to one.

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> parse_identifier("https://arxiv.org/abs/math.PR/0309285").year
    2003
    >>> parse_identifier("10.3390/mca24020041").link
    'https://doi.org/10.3390/mca24020041'
    """
    prefix = _LINK.match(text.strip())
    bare = text.strip()[prefix.end() if prefix else 0 :]
    if DOI.fullmatch(bare):
        return Identifier(bare.lower(), False, 0)
    match = ARXIV.fullmatch(bare) or OLD_ARXIV.fullmatch(bare)
    if not match or not 1 <= int(match[2]) <= 12:
        raise ValueError(
            f"id is {text!r}; it takes an arXiv id without a version, such as 2206.00927 or math/0309285, or a DOI"
        )
    return Identifier(bare, True, int(match[1]) + (1900 if int(match[1]) > 90 else 2000))


def scaffold(
    identifier: str,
    field: str,
    *,
    slug: str = "",
    title: str = "",
    authors: Sequence[str] = (),
    year: int = 0,
    root: Path | None = None,
) -> Path:
    """Make the folder of a paper in Paperworks itself, in a checkout also stubs of its method and test.

    Parameters
    ----------
    identifier
        The paper's arXiv id or DOI.
    field
        One of `paperworks.papers.FIELDS`.
    slug
        The paper's short name; made from the identifier by default.
    title, authors, year
        As far as they are known.
    root
        The folder of papers; Paperworks' own by default.

    Returns
    -------
    Path
        The paper's folder.

    Raises
    ------
    ValueError
        Where the identifier, field or slug is not one.
    FileExistsError
        Where the slug is taken.
    """
    if field not in papers.FIELDS:
        raise ValueError(f"field is {field!r}; it takes one of {', '.join(papers.FIELDS)}")
    facts = _facts(parse_identifier(identifier), field, slug, title, authors, year)
    name = facts["module"]
    folder = (root or papers.ROOT) / name
    if folder.exists() or folder.with_suffix(".py").exists():
        raise FileExistsError(f"paper '{facts['slug']}' is there already: {folder}")
    facts["package"] = f"paperworks.{field}"
    facts["where"] = f"src/paperworks/{field}/{name}.py, and export it in the package's __init__.py"
    files = _paper_files(folder)
    if root is None and (project := checkout()):
        stubs = {project / f"src/paperworks/{field}/{name}.py": templates.METHOD}
        stubs[project / f"tests/{field}/test_{name}.py"] = templates.TEST
        files |= {path: content for path, content in stubs.items() if not path.exists()}
    _write(files, facts)
    return folder


def scaffold_package(
    identifier: str,
    field: str,
    *,
    slug: str = "",
    title: str = "",
    authors: Sequence[str] = (),
    year: int = 0,
    root: Path = Path(),
) -> Path:
    """Make a package of one's own with one paper, which Paperworks finds once it is installed.

    The parameters are those of `scaffold`, except that a `field` may be new, and that the package goes into a folder
    of `root` with the paper's short name, which is returned.

    Raises
    ------
    ValueError
        Where the identifier, field or slug is not one.
    FileExistsError
        Where the folder is there already, or Paperworks has a paper of that name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", field):
        raise ValueError(f"field is {field!r}; it takes one lower-case word, such as {', '.join(papers.FIELDS)}")
    facts = _facts(parse_identifier(identifier), field, slug, title, authors, year)
    slug, name = facts["slug"], facts["module"]
    project = root / slug
    if project.exists():
        raise FileExistsError(f"{project} is there already")
    if slug in papers.slugs():
        raise FileExistsError(f"a paper '{slug}' is there already: {papers.load(slug).folder}; choose another --slug")
    facts["package"] = name
    facts["where"] = f"src/{name}/method.py"
    source = project / "src" / name
    _write(
        {
            project / "pyproject.toml": templates.PROJECT,
            source / "__init__.py": templates.PACKAGE,
            source / "method.py": templates.METHOD,
            source / "papers" / "__init__.py": '"""One folder for each paper."""\n',
            project / "tests" / f"test_{name}.py": templates.TEST,
            **_paper_files(source / "papers" / name),
        },
        facts,
    )
    return project


def _facts(
    identifier: Identifier, field: str, slug: str, title: str, authors: Sequence[str], year: int
) -> dict[str, str]:
    """Return what the files are filled with."""
    slug = slug or identifier.slug
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug) or keyword.iskeyword(slug):
        raise ValueError(f"slug is {slug!r}; it takes lower-case words joined by hyphens, such as dpm-solver")
    reference = f"{'arXiv' if identifier.is_arxiv else 'doi'}:{identifier.text}"
    title = " ".join(title.split()) or reference
    key = "arxiv  " if identifier.is_arxiv else "doi    "
    return {
        "slug": slug,
        "module": slug.replace("-", "_"),
        "name": "".join(word.capitalize() for word in slug.split("-")),
        "field": field,
        "title": _toml(title),
        "docstring": title.replace("\\", "\\\\").replace('"', '\\"').rstrip("."),
        "identifier": f"{key} = {_toml(identifier.text)}",
        "reference": reference,
        "link": identifier.link,
        "year": str(identifier.year or year),
        "authors": "[" + ", ".join(_toml(" ".join(author.split())) for author in authors) + "]",
    }


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _paper_files(folder: Path) -> dict[Path, str]:
    return {
        folder / "paper.toml": templates.RECORD,
        folder / "__init__.py": '"""$docstring."""\n',
        folder / "claims.py": templates.CLAIMS,
        folder / "usage.py": templates.USAGE,
    }


def _write(files: dict[Path, str], facts: dict[str, str]) -> None:
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(content).substitute(facts), encoding="utf-8")
