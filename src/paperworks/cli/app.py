"""The Typer application and what all its commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from paperworks import __version__

if TYPE_CHECKING:
    from rich.console import Console

_PIPED_WIDTH = 240  # so that what is piped to another program has each row on one line

app = typer.Typer(
    name="paperworks",
    help="Daily papers you can run: find a paper's method, import it, and re-measure its claims on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]


def fail(message: str) -> NoReturn:
    """End with an error of use: one line that says what to do, exit code 2."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(2)


@contextmanager
def errors_of_use() -> Iterator[None]:
    """Turn what a user can mend (a name, a file, a setting) into one line and exit code 2."""
    try:
        yield
    except (ValueError, LookupError, OSError) as error:
        fail(str(error))


def console_for_output() -> "Console":
    """Return a console for standard output, wide where that is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _PIPED_WIDTH))


def complete_slug(incomplete: str) -> list[str]:
    """Offer the slugs that begin with what is typed."""
    from paperworks.papers import slugs

    return [slug for slug in slugs() if slug.startswith(incomplete)]


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"paperworks {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


# The commands register themselves with the application.
from paperworks.cli import comparing, feed, making, reading, running  # noqa: E402, F401
