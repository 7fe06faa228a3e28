"""`paperworks card` and `paperworks cite`."""

from pathlib import Path
from typing import Annotated

import typer

from paperworks.cli.app import app, complete_slug, errors_of_use
from paperworks.cli.reading import Folder


@app.command()
def card(
    slug: Annotated[str, typer.Argument(metavar="PAPER", help="Short name.", autocompletion=complete_slug)],
    into: Annotated[Path, typer.Option(file_okay=False, help="Folder that the files are written to.")] = Path(),
    evidence: Folder = None,
) -> None:
    """Write what was found of a paper as a picture to share (SVG and PNG) and as a badge for a README."""
    from paperworks.evidence.files import write_atomically
    from paperworks.evidence.store import evidence_of
    from paperworks.evidence.verdict_card import badge, tally, verdict_card
    from paperworks.evidence.views import paper_views
    from paperworks.papers import load

    with errors_of_use():
        paper = load(slug)
        claims = [view for view in paper_views(paper, evidence_of(paper, evidence)[0]) if view.kind == "claim"]
        into.mkdir(parents=True, exist_ok=True)
        files = {f"{paper.slug}-card.{kind}": verdict_card(paper, claims, kind) for kind in ("svg", "png")}
        files[f"{paper.slug}-badge.svg"] = badge(claims)
        for name, content in files.items():
            write_atomically(into / name, content)
            typer.echo(f"Wrote {into / name}")
    typer.echo(f"For a README:  ![{tally(claims).rstrip('.')}]({paper.slug}-badge.svg)")


@app.command()
def cite(
    slug: Annotated[str, typer.Argument(metavar="PAPER", help="Short name.", autocompletion=complete_slug)],
) -> None:
    """Print the BibTeX of a paper, to cite it beside Paperworks (CITATION.cff) where its method is used."""
    from paperworks.feed.bibtex import record_to_bibtex
    from paperworks.papers import load

    with errors_of_use():
        typer.echo(record_to_bibtex(load(slug)), nl=False)
