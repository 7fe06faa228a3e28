"""`paperworks new`."""

from typing import Annotated

import typer

from paperworks.cli.app import app, errors_of_use


@app.command()
def new(
    arxiv_id: Annotated[str, typer.Argument(help="The paper's arXiv id without a version, such as 2206.00927.")],
    field: Annotated[str, typer.Option("--field", "-f", help="The field package its methods will live in.")],
    slug: Annotated[str, typer.Option(help="Its short name; the arXiv id by default.")] = "",
    title: Annotated[str, typer.Option(help="Its exact title.")] = "",
) -> None:
    """Start a paper: a folder with a record to fill, shown as planned until its claims can be measured."""
    from paperworks.papers.scaffold import scaffold

    with errors_of_use():
        folder = scaffold(arxiv_id, field, slug=slug, title=title)
    typer.echo(f"Made {folder}")
    typer.echo("Next: fill paper.toml, then write claims.py and usage.py beside it.")
