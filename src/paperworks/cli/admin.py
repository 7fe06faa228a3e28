"""`paperworks feed`: what the owner of a site does now and then."""

from pathlib import Path
from typing import Annotated

import typer

from paperworks.cli.app import JsonOption, app, fail
from paperworks.cli.feed import Feed, Sender, Smtp, needs_site

admin_app = typer.Typer(help="Back up the feed, restore it, and see whether all is well with it.")
app.add_typer(admin_app, name="feed", no_args_is_help=True)

_COLOURS = {"well": "green", "look": "yellow", "wrong": "bold red"}


@admin_app.command("backup")
def backup(
    into: Annotated[Path, typer.Argument(help="The file to write, or a folder for one that is named by the time.")],
    feed: Feed = None,
) -> None:
    """Copy the feed as it is now, while the site goes on, and check the copy. Made for cron."""
    with needs_site():
        from paperworks.feed.backup import back_up
        from paperworks.feed.store import FeedStore

        written = back_up(FeedStore(feed), into)
        size = written.stat().st_size / 1e6
        typer.echo(f"Wrote {written} ({size:.1f} MB); keep it safe, it holds people's addresses")


@admin_app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="What `backup` wrote.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    feed: Feed = None,
) -> None:
    """Put the feed back to what it was at a back-up; what is there now is backed up first.

    Accounts, subscriptions and tokens that people ended since then stay ended.
    """
    with needs_site():
        from paperworks.feed.backup import database_file
        from paperworks.feed.backup import restore as put_back

        if not yes:
            typer.confirm(f"Overwrite {database_file(feed)} by {file}?", abort=True)
        before = put_back(feed, file)
        typer.echo(f"Restored {file}; what was there is in {before}. Start a running site anew.")


@admin_app.command("doctor")
def doctor(feed: Feed = None, smtp: Smtp = None, sender: Sender = None, as_json: JsonOption = False) -> None:
    """Look at schema, indices, disk, clock and mail, and change nothing; exit code 1 where something is wrong."""
    with needs_site():
        import json
        from dataclasses import asdict

        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from paperworks.feed.doctor import examine
        from paperworks.feed.mail import Mailer
        from paperworks.feed.store import FeedStore
        from paperworks.web import settings_from_environment

        settings = settings_from_environment(feed=feed, smtp=smtp, sender=sender)
        mailer = Mailer(settings.smtp, settings.sender, timeout=10) if settings.smtp else None
        found = list(examine(FeedStore(settings.feed, upgrade=False), mailer=mailer))
        if as_json:
            typer.echo(json.dumps([asdict(finding) for finding in found], indent=1))
        else:
            table = Table("part", "", "found", box=None)
            for finding in found:
                colour = _COLOURS[finding.state]
                table.add_row(finding.part, f"[{colour}]{finding.state}[/]", escape(finding.says))
            Console().print(table)
        raise typer.Exit(any(finding.state == "wrong" for finding in found))


@admin_app.command("forget")
def forget(feed: Feed = None) -> None:
    """Delete what was kept for a time that is over, as a running site does every ten minutes."""
    with needs_site():
        from paperworks.feed.housekeeping import SENDS_KEPT
        from paperworks.feed.housekeeping import forget as delete_old
        from paperworks.feed.store import FeedStore

        gone = delete_old(FeedStore(feed))
        what = ", ".join(f"{count} of {name.replace('_', ' ')}" for name, count in gone.items())
        typer.echo(f"Deleted {what}; who got which digest is kept for {SENDS_KEPT.days} days")


@admin_app.command("submissions")
def submissions(
    drop: Annotated[str, typer.Option(help="Take back all that the person with this address sent.")] = "",
    feed: Feed = None,
) -> None:
    """List what readers sent of their measurements, or take one person's back."""
    with needs_site():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from paperworks.feed.people import People, clean_email
        from paperworks.feed.store import FeedStore
        from paperworks.feed.submissions import Submissions

        store = FeedStore(feed)
        kept = Submissions(store)
        if drop:
            if clean_email(drop) not in {email for email, *_ in kept.overview()}:
                fail(f"nobody with the address {drop!r} sent anything")
            person = People(store).of_email(drop)
            for slug in kept.papers(person):
                kept.drop(person, slug)
        table = Table("from", "paper", "entries", "last", box=None)
        for email, slug, count, last in kept.overview():
            table.add_row(escape(email), slug, str(count), f"{last:%Y-%m-%d %H:%M}")
        Console().print(table)
