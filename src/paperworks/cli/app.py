"""The Typer application and what all its commands share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

_PIPED_WIDTH = 240  # so that what is piped to another program has each row on one line
_READING = ("list", "search", "show")


class Commands(TyperGroup):
    """The commands; those that only read are made without the others, whose options cost more than a whole list."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name."""
        _register(reading_alone=cmd_name in _READING)
        return _built().get(cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names of all commands."""
        _register()
        return list(_built())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take `--papers` wherever it stands."""
        options: list[str] = []
        rest: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
            elif word == "--papers":
                options += [word, *[value for value in [next(words, None)] if value is not None]]
            else:
                (options if word.startswith("--papers=") else rest).append(word)
        return super().parse_args(ctx, [*options, *rest])


app = typer.Typer(
    name="paperworks",
    cls=Commands,
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
        from paperworks import __version__

        typer.echo(f"paperworks {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    papers: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of papers of your own, or of one; repeat for more. Also $PAPERWORKS_PAPERS."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    from paperworks.papers import shelf

    if papers:
        for folder in papers:
            if not folder.is_dir():
                fail(f"--papers is {folder}, which is no folder")
        # In the environment, so that the processes of tasks and of the site find them too.
        os.environ[shelf.VARIABLE] = os.pathsep.join(str(folder.resolve()) for folder in papers)
    if os.environ.get(shelf.VARIABLE):
        shelf.make_importable()


def _register(*, reading_alone: bool = False) -> None:
    """Import the modules of the commands, which register them with the application."""
    from paperworks.cli import reading  # noqa: F401

    if not reading_alone:
        from paperworks.cli import admin, agents, comparing, feed, making, running, sharing  # noqa: F401


def _built() -> dict[str, Any]:
    """Make the commands that are registered; Typer makes them once, before any module was imported."""
    group = typer.main.get_command(app)
    return dict(group.commands)  # type: ignore[attr-defined]
