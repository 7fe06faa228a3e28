"""`paperworks new` and `check`."""

import os
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

from paperworks.cli.app import app, complete_slug, errors_of_use, fail
from paperworks.papers.scaffold import parse_identifier, scaffold, scaffold_package


@app.command()
def new(
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="The paper's arXiv id (2206.00927, math/0309285) or DOI, or a link.")
    ] = "",
    field: Annotated[str, typer.Option("--field", "-f", help="The field that its methods belong to.")] = "",
    slug: Annotated[str, typer.Option(help="Its short name, such as dpm-solver; by default made from the id.")] = "",
    title: Annotated[str, typer.Option(help="Its exact title.")] = "",
    bibtex: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A BibTeX entry to take title, authors, year from.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Make a package of your own in this folder, even in a checkout."),
    ] = None,
) -> None:
    """Start a paper: in a checkout of Paperworks a folder of it, else a small package of your own.

    What isn't said is taken from the BibTeX entry, else from your feed, where the paper is in it. The files are stubs
    that fail with a clear sentence until they are filled; `paperworks check` says what is missing.
    """
    from paperworks.evidence.provenance import checkout

    known: dict[str, Any] = {}
    if bibtex:
        identifier, known = _from_bibtex(bibtex, identifier)
    if not identifier:
        fail("say which paper it is: an arXiv id or a DOI, such as 2206.00927, or --bibtex with one in it")
    if not field:
        fail("say which field it belongs to, such as --field diffusion")
    known = known or _from_feed(identifier)
    if title:
        known["title"] = title
    with errors_of_use():
        if into is None and checkout():
            folder = scaffold(identifier, field, slug=slug, **known)
            steps = [f"paperworks check {folder}"]
        else:
            folder = scaffold_package(identifier, field, slug=slug, root=into or Path(), **known)
            steps = [f"pip install -e {folder}", f"paperworks check {folder}"]
    typer.echo(f"Made {folder}")
    typer.echo(f"Next: {' · '.join(steps)} says what is still to be filled.")


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...", help="Folders or short names; all by default.", autocompletion=complete_slug
        ),
    ] = None,
) -> None:
    """Say every rule that a paper's record and files break, with the line; exit code 1 where there is one."""
    from paperworks.papers.check import check as breaches
    from paperworks.papers.shelf import find_places, papers_in

    places, problems = find_places()
    folders: dict[Path, str] = {}
    for name in names or places:
        if name in places and not Path(name, "paper.toml").exists():
            folders[places[name].folder] = name
            continue
        inside = [path for _, path in papers_in(Path(name))]
        if not inside:
            fail(f"{name} is no paper: neither a short name, nor a folder with paper.toml in it or just below")
        folders |= dict.fromkeys(inside, name)
    found = [finding for folder in folders for finding in breaches(folder)]
    for finding in found:
        typer.echo(str(finding))
    wrong = len(found)
    if not names:
        for error in problems.values():
            typer.echo(str(error))
        wrong += len(problems)
    count = f"{len(folders)} {'paper' if len(folders) == 1 else 'papers'}"
    typer.echo(f"{count}: {wrong} to mend" if wrong else f"{count}: nothing to mend")
    raise typer.Exit(bool(wrong))


def _from_bibtex(path: Path, identifier: str) -> tuple[str, dict[str, Any]]:
    """Return the identifier, and what else the entry of a BibTeX file says."""
    try:
        from paperworks.feed.ingest.bibliography import read_bibtex

        with errors_of_use():
            batches = list(read_bibtex(path.read_text(encoding="utf-8")))
    except ModuleNotFoundError as error:
        fail(f"BibTeX needs the package {error.name}; install what reads it:  pip install 'paperworks[site]'")
    entries = [entry for batch in batches for entry in batch.entries]
    if len(entries) != 1:
        refused = "; ".join(reason for batch in batches for reason in batch.refused)
        fail(f"{path} has {len(entries)} entries of papers; it takes one" + (f" ({refused})" if refused else ""))
    entry = entries[0]
    year = entry.published.year if entry.published else 0
    return identifier or entry.arxiv_id or entry.doi, {"title": entry.title, "authors": entry.authors, "year": year}


def _from_feed(identifier: str) -> dict[str, Any]:
    """Return what the feed knows of a paper; nothing where there is no feed."""
    url = os.environ.get("PAPERWORKS_FEED", "")
    file = Path(url or Path(platformdirs.user_data_dir("paperworks"), "feed.db"))
    if "://" not in url and not file.is_file():  # opening it would make it
        return {}
    try:
        from sqlalchemy import or_, select

        from paperworks.feed.schema import FeedPaper
        from paperworks.feed.store import FeedStore
    except ModuleNotFoundError:
        return {}
    with errors_of_use():
        name = parse_identifier(identifier).text.lower()
        store = FeedStore(url or None)
        with store.session() as session:
            paper = session.scalar(select(FeedPaper).where(or_(FeedPaper.arxiv_id == name, FeedPaper.doi == name)))
            if paper is None:
                return {}
            return {
                "title": paper.title,
                "authors": paper.authors.splitlines(),
                "year": paper.published.year if paper.published else 0,
            }
