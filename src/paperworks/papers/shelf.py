"""Where papers are: in Paperworks, in packages that announce theirs, and in folders that a user names.

A package announces the folder of its papers by an entry point of the group ``paperworks.papers``, whose value is the
package that holds one folder for each paper, such as ``my_package.papers``. A user names folders in
``$PAPERWORKS_PAPERS`` (several as in ``$PATH``), or with ``paperworks --papers PATH``.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paperworks.evidence.record import RecordError
from paperworks.papers import recordcache

OWN = Path(__file__).parent
GROUP = "paperworks.papers"
VARIABLE = "PAPERWORKS_PAPERS"


@dataclass(frozen=True)
class Place:
    """The folder of a paper, and whose it is: empty for Paperworks' own, else the name of a package or a folder."""

    folder: Path
    origin: str


def find_places(own: Path = OWN) -> tuple[dict[str, Place], dict[str, RecordError]]:
    """Find the folders of all papers, in order of their slugs, and what keeps others from being found.

    Where two papers have the same slug, the first counts: Paperworks' own, then packages', then folders'.

    Parameters
    ----------
    own
        The folder of Paperworks' own papers.

    Returns
    -------
    places : dict
        The place of each paper by its slug.
    problems : dict
        For each thing that can't be listed, by a name of it, why.
    """
    found: dict[str, Place] = {folder: Place(path, "") for folder, path in papers_in(own)}
    problems: dict[str, RecordError] = {}
    for origin, folder, wanted in [*_announced(), *_named()]:
        papers = list(papers_in(folder)) if folder else []
        if not papers:
            problems[origin] = RecordError(f"{wanted}: holds no paper, neither paper.toml nor a folder with one")
        for slug, path in papers:
            if slug in found and not path.samefile(found[slug].folder):
                problems[f"{slug} of {origin}"] = RecordError(
                    f"{path}: the name '{slug}' is taken by {found[slug].folder}; rename the folder"
                )
            else:
                found.setdefault(slug, Place(path, origin))
    return dict(sorted(found.items())), problems


def make_importable() -> None:
    """Let Python find the packages in which the papers of ``$PAPERWORKS_PAPERS`` lie, here and in tasks."""
    roots = dict.fromkeys(
        str(import_root(path)) for _, folder, _ in _named() if folder for _, path in papers_in(folder)
    )
    for root in roots:
        if root not in sys.path:
            sys.path.append(root)
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), root]))


def papers_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Give the slug and folder of a paper, if this is one's folder, else of those just below it or in a project."""
    if (folder / "paper.toml").is_file():
        yield folder.name.replace("_", "-"), folder
        return
    for record in sorted([*folder.glob("*/paper.toml"), *folder.glob("src/*/papers/*/paper.toml")]):
        yield record.parent.name.replace("_", "-"), record.parent


def _named() -> Iterator[tuple[str, Path | None, str]]:
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        folder = Path(os.path.expanduser(name)).resolve()  # which leaves the ~ of nobody as it is
        first = next((path for _, path in papers_in(folder)), folder)
        inside = first.resolve().relative_to(import_root(first)).parts
        yield inside[0] if inside else folder.name, folder, str(folder)


def _announced() -> Iterator[tuple[str, Path | None, str]]:
    for package, value in recordcache.entry_points(GROUP):
        yield package, _folder_of(value), f"the entry point '{value}' of {package}"


def _folder_of(package: str) -> Path | None:
    """Return the folder of a package without importing it or any that holds it."""
    top, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (folder := Path(location, *rest)).is_dir():
            return folder
    return None


def import_root(folder: Path) -> Path:
    """Return the folder from which Python imports the package that a folder is part of."""
    folder = folder.resolve()  # "." has itself for a parent
    while folder != folder.parent and (folder / "__init__.py").exists():
        folder = folder.parent
    return folder
