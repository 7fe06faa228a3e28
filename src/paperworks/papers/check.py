"""Every rule that a paper's record and the files beside it have to meet, each breach with its line."""

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from paperworks.evidence.measurement import SINGLE
from paperworks.evidence.record import Claim, Paper, Peer, RecordError, read_paper
from paperworks.papers import FIELDS
from paperworks.papers.scaffold import ARXIV, DOI, OLD_ARXIV
from paperworks.papers.shelf import OWN, import_root

_UNFILLED = "this line is still to be filled"
_NOT_PYTHON = "is not Python: "


@dataclass(frozen=True, order=True)
class Finding:
    """A breach of a rule: the file, the line (from 1), and a sentence that says what is wrong and what it takes."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


Breach = tuple[str, str]  # a key of the record, or "claims c1-order" for one of an entry, and what is wrong


def check(folder: Path) -> list[Finding]:
    """Check a paper's folder; return what is wrong, by file and line.

    Examples
    --------
    >>> check(OWN / "dpm_solver")
    []
    """
    path = folder / "paper.toml"
    try:
        paper = read_paper(folder)
    except RecordError as error:
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return [Finding(path, _line_of_error(text, str(error)), str(error).removeprefix(f"{path}: "))]
    text = path.read_text(encoding="utf-8")
    found = [Finding(path, _line(text, *key.split()), wrong) for rule in _RULES for key, wrong in rule(paper)]
    for file in sorted(folder.glob("*.py")):
        found += _python(file)
    found += [Finding(path, number, _UNFILLED) for number in _todo(text)]
    if not any(finding.text.startswith(_NOT_PYTHON) for finding in found):
        found += _folder(paper, text)
    return sorted(set(found))


def _identity(paper: Paper) -> Iterator[Breach]:
    if paper.arxiv:
        match = ARXIV.fullmatch(paper.arxiv) or OLD_ARXIV.fullmatch(paper.arxiv)
        if not match:
            yield "arxiv", f"arxiv is {paper.arxiv!r}; it takes an id without a version, such as 2206.00927"
        elif paper.year % 100 != int(match[1]):
            yield "year", f"year is {paper.year}; the first version stands on arXiv in a year that ends in {match[1]}"
    elif not DOI.fullmatch(paper.doi):
        yield "doi", f"doi is {paper.doi!r}; it takes one such as 10.3390/mca24020041"
    if not 1900 <= paper.year <= 2100:
        yield "year", f"year is {paper.year}; it takes the year in which the paper came out"
    address = f"https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else f"https://doi.org/{paper.doi}"
    if paper.links.get("paper") != address:
        yield "links", f"links.paper is {paper.links.get('paper', '')!r}; it takes {address}"
    for name, link in paper.links.items():
        if not link.startswith("https://"):
            yield "links", f"links.{name} is {link!r}; it takes an address with https://"
    if paper.title != " ".join(paper.title.split()) or paper.title.endswith(".") or not paper.title:
        yield "title", f"title is {paper.title!r}; it takes one line without a full stop at its end"
    if not paper.authors or len(set(paper.authors)) < len(paper.authors):
        yield "authors", "authors has to name each author once"
    for author in paper.authors:
        if " " not in author or author != author.strip():
            yield "authors", f"authors has {author!r}; it takes the given and the family name"
    own = paper.folder.resolve().is_relative_to(OWN)
    if own and paper.field not in FIELDS:
        yield "field", f"field is {paper.field!r}; it takes one of {', '.join(FIELDS)}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", paper.field):
        yield "field", f"field is {paper.field!r}; it takes one lower-case word"


def _texts(paper: Paper) -> Iterator[Breach]:
    summary = paper.summary
    sentences = len(re.findall(r"[.!?](?=\s|$)", summary))
    if not (2 <= sentences <= 4 and 200 <= len(summary) <= 700 and summary.endswith(".")):
        what = f"summary has {sentences} sentences and {len(summary)} characters"
        yield (
            "summary",
            f"{what}; it takes 2 to 4 whole sentences with 200 to 700 characters",
        )
    if "\n" in summary or "  " in summary:
        yield "summary", "summary has line breaks or double spaces; end its lines with a space and a backslash"
    if not 2 <= len(set(paper.tags)) == len(paper.tags) <= 5:
        yield "tags", f"tags has {len(paper.tags)}; it takes 2 to 5 different ones"
    if not 2 <= len(set(paper.questions)) == len(paper.questions) <= 5:
        yield (
            "questions",
            f"questions has {len(paper.questions)}; it takes 2 to 5 that people with the problem ask",
        )
    for question in paper.questions:
        if not question.endswith("?") or len(question) > 120 or "\n" in question:
            yield "questions", f"questions has {question!r}; it takes one question of at most 120 characters"


def _methods(paper: Paper) -> Iterator[Breach]:
    if not paper.methods or len(set(paper.methods)) < len(paper.methods):
        yield "methods", "methods has to name each public class or function of the paper once"
    own = paper.folder.resolve().is_relative_to(OWN)
    form = rf"paperworks\.{re.escape(paper.field)}\.[A-Za-z]\w*" if own else r"[A-Za-z]\w*(\.\w+)*\.[A-Za-z]\w*"
    for method in paper.methods:
        if not re.fullmatch(form, method):
            example = f"paperworks.{paper.field}.Name" if own else "my_package.Name"
            yield "methods", f"methods has {method!r}; it takes a name that can be imported, such as {example}"


def _entries(paper: Paper) -> Iterator[Breach]:
    if len(paper.claims) < 2:
        yield "claims", f"there are {len(paper.claims)} claims; it takes 2 or more"
    if not paper.peers:
        yield "peers", "there is no peer; it takes a package to race against"
    entries: list[Claim | Peer] = [*paper.claims, *paper.peers]
    for entry in entries:
        kind, form, example = (
            ("claims", r"[a-z]+\d+[a-z]?(-[a-z0-9]+)+", "c1-order")
            if isinstance(entry, Claim)
            else ("peers", r"[a-z0-9]+(-[a-z0-9]+)*", "scikit-learn")
        )
        where = f"{kind} {entry.id}"
        if not re.fullmatch(form, entry.id):
            yield where, f"id is {entry.id!r}; it takes the form {example}"
        for name in entry.bars:
            if name != SINGLE and not re.fullmatch(r"[a-z]\w*", name):
                yield where, f"bar names the value {name!r}; it takes a lower-case name"
            elif name != SINGLE and not paper.planned and not entry.labels.get(name):
                yield where, f"labels says nothing of {name!r}; it takes some words for people"
        texts: tuple[str, ...] = ("says", "reported", "measure") if isinstance(entry, Claim) else ("says", "package")
        if isinstance(entry, Claim) and not paper.planned:
            texts += ("where",)
        for key in texts:
            if not getattr(entry, key).strip():
                yield where, f"{key} is empty"
    numbers = [re.match(r"([a-z]+)(\d+)([a-z]?)", claim.id) for claim in paper.claims]
    order = [(match[1], int(match[2]), match[3]) for match in numbers if match]
    if order != sorted(set(order)):
        yield "claims", "the claims are not in the order of their numbers, each of which stands once"
    headlines = sum(claim.headline for claim in paper.claims)
    if not 1 <= headlines <= 2:
        yield "claims", f"{headlines} claims are headlines; it takes 1 or 2: what the paper is known for"


_RULES: tuple[Callable[[Paper], Iterator[Breach]], ...] = (_identity, _texts, _methods, _entries)


def _python(file: Path) -> Iterator[Finding]:
    """Check that a file is Python, and that nothing of a stub is left in it."""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        ast.parse(text)
    except SyntaxError as error:
        yield Finding(file, error.lineno or 1, f"{_NOT_PYTHON}{error.msg}")
        return
    stubs = [number for number, line in enumerate(text.splitlines(), 1) if "is a stub:" in line]
    for number in sorted({*_todo(text), *stubs}):
        yield Finding(file, number, _UNFILLED)


def _folder(paper: Paper, text: str) -> Iterator[Finding]:
    """Check that the files beside the record fit it."""
    init, claims, usage = (paper.folder / name for name in ("__init__.py", "claims.py", "usage.py"))
    docstring = (ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) if init.exists() else "") or ""
    name = docstring.partition("\n")[0].rstrip(".")
    if len(name) < 5 or not paper.title.startswith(name):
        yield Finding(init, 1, "has to begin with a docstring that is the title, or its beginning where it is long")
    if paper.planned:
        return
    record = paper.folder / "paper.toml"
    there = _tasks(ast.parse(claims.read_text(encoding="utf-8")))
    wanted = {("measures", claim.id): "claims" for claim in paper.claims}
    wanted |= {("races", peer.id): "peers" for peer in paper.peers}
    for (decorator, id), kind in wanted.items():
        if (decorator, id) not in there:
            yield Finding(record, _line(text, kind, id), f'claims.py has no function @{decorator}("{id}")')
    for (decorator, id), line in there.items():
        if (decorator, id) not in wanted:
            yield Finding(claims, line, f'@{decorator}("{id}") belongs to nothing in paper.toml')
    if not usage.exists():
        yield Finding(usage, 1, "is missing: ten lines that a reader can paste")
    for method in paper.methods:
        try:
            source = _source(method, paper.folder)
        except Exception as error:
            why = f"{method} can't be imported: {type(error).__name__}: {error}"
            yield Finding(record, _line(text, "methods"), why)
        else:
            if source and not source.is_relative_to(OWN.parent):
                yield from _python(source)


def _tasks(tree: ast.Module) -> dict[tuple[str, str], int]:
    """Find what the functions of a module are tied to, with their lines."""
    found = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
            name = getattr(call.func, "id", None) or getattr(call.func, "attr", "")
            if name in ("measures", "races"):
                found[name, str(call.args[0].value)] = call.lineno
    return found


def _source(method: str, folder: Path) -> Path | None:
    """Import a method, and return the file that it stands in, None where there is none."""
    module, _, name = method.rpartition(".")
    root = str(import_root(folder))
    if root not in sys.path:
        sys.path.append(root)
    found = getattr(importlib.import_module(module), name)
    file = getattr(sys.modules.get(getattr(found, "__module__", "")), "__file__", None)
    return Path(file) if file else None


def _todo(text: str) -> list[int]:
    return [number for number, line in enumerate(text.splitlines(), 1) if re.search(r"\bTODO\b(?! are)", line)]


def _line(text: str, key: str, id: str = "") -> int:
    """Return the line of a key of the record, or of an entry by its table's key and its id; 1 where there is none."""
    pattern = rf'^id\s*=\s*["\']{re.escape(id)}["\']' if id else rf"^(?:{key}\b.*=|\[+{key}\b)"
    start = 0
    if id and (table := re.search(rf"^\[\[{key}\]\]", text, re.MULTILINE)):
        start = table.start()
    found = re.compile(pattern, re.MULTILINE).search(text, start)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _line_of_error(text: str, error: str) -> int:
    """Return the line that an error of the reader speaks of, as near as it says."""
    if found := re.search(r"at line (\d+)", error):
        return int(found[1])
    if found := re.search(r"(claim|peer) '([^']*)'", error):
        return _line(text, f"{found[1]}s", found[2])
    if "end of document" in error:
        return text.count("\n") + 1
    found = re.search(r": (?:unknown key )?'?(\w+)", error.rpartition(".toml")[2])
    keys = re.findall(r"'(\w+)'", error) + ([found[1]] if found else [])
    return next((line for key in keys if (line := _line(text, key)) > 1), 1)
