import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of an example
hypothesis.settings.load_profile("untimed")

collect_ignore = ["papers/third_party"]  # a package of its own, which test_third_party.py installs


def pytest_addoption(parser):
    parser.addoption("--papers", default="", help="Only the tests of these papers and of the modules of their methods.")


class Reached:
    """What tests some papers: their claims and records, their methods' modules, and what is tested by a method's name.

    Modules are found by the text of the sources: to import them all takes longer than to test one of them.
    """

    def __init__(self, slugs: list[str]) -> None:
        from paperworks.papers import load

        self.words: set[str] = set()  # in the parameters of a test
        self.files: list[str] = []  # in the name of a file all of which tests them
        self.others = ["papers/test_claims.py", "papers/test_records.py"]  # files that test other papers too
        for paper in map(load, slugs):
            methods = {method.rpartition(".")[2] for method in paper.methods}
            self.words |= {paper.slug, *methods}
            self.files.append(f"papers/{paper.folder.name}/")
            self.others.append(f"tests/{paper.field}/")
            field = paper.folder.parents[1] / paper.field
            defined = re.compile(rf"^(?:class|def) (?:{'|'.join(methods)})\b", re.MULTILINE)
            for source in field.rglob("*.py"):
                if defined.search(source.read_text(encoding="utf-8")):
                    module = source.relative_to(field).parts[0].removesuffix(".py")
                    self.files += [f"tests/{paper.field}/test_{module}", f"{paper.field}/{module}.py"]
                    self.files.append(f"paperworks/{paper.field}/{module}/")

    def has_file(self, file: str) -> bool:
        return any(place in file for place in (*self.files, *self.others))

    def has_test(self, nodeid: str) -> bool:
        file, _, parameters = nodeid.rstrip("]").partition("[")
        return any(place in file for place in self.files) or any(
            re.search(rf"(?:^|-){re.escape(word)}(?:-|$)", parameters) for word in self.words
        )


def pytest_configure(config):
    slugs = config.getoption("--papers").replace(",", " ").split()
    config.reached = Reached(slugs) if slugs else None
    config.pluginmanager.register(NamedAnew())


class NamedAnew:
    """Gives the nodes of an example the names that it shows, whatever ran before it."""

    def pytest_runtest_setup(self, item):
        if isinstance(item, pytest.DoctestItem) and (optimization := sys.modules.get("paperworks.optimization")):
            optimization.GRAPH.clear()


@pytest.fixture(autouse=True)
def _numbers_of_its_own(request):
    """Give a test the same numbers of its module's generator `RNG` whichever tests ran before it."""
    generator = getattr(request.module, "RNG", None) if getattr(request, "module", None) else None
    if generator is not None:
        generator.bit_generator.state = type(generator.bit_generator)(0).state


def pytest_ignore_collect(collection_path, config):
    ignored = config.reached and collection_path.is_file() and not config.reached.has_file(collection_path.as_posix())
    return True if ignored else None


def pytest_collection_modifyitems(config, items):
    if config.reached:
        config.hook.pytest_deselected(items=[item for item in items if not config.reached.has_test(item.nodeid)])
        items[:] = [item for item in items if config.reached.has_test(item.nodeid)]


def pytest_terminal_summary(terminalreporter):
    """Tell which papers and folders of tests took longest, and how much of the committed evidence is outdated."""
    from paperworks.evidence.results import results_of
    from paperworks.papers import load_all, slugs

    names = {f"[{slug}": slug for slug in slugs()} | {f"papers/{slug.replace('-', '_')}/": slug for slug in slugs()}
    spent: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if seconds := getattr(report, "duration", 0.0):
                nodeid = report.nodeid
                paper = max((name for mark, name in names.items() if mark in nodeid), key=len, default="")
                spent[paper or "/".join(nodeid.split("::")[0].split("/")[:-1])] += seconds
    terminalreporter.section("seconds by paper and folder, the largest")
    for name, seconds in spent.most_common(15):
        terminalreporter.line(f"{seconds:8.1f}  {name}")
    if terminalreporter.config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return  # the digests take many seconds, too long for a few tests
    found = [view for results in results_of(load_all()) for view in results.all]
    old = sum(bool(view.outdated) for view in found)
    terminalreporter.line(f"{old} of {len(found)} committed claims and races are outdated (paperworks outdated)")


@pytest.fixture
def untyped():
    """Switch the runtime type checks off, as they are for a user, whose bad input the code itself has to catch."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL server of the machine's own package, and give the URL of an empty database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = found[-1] if found else shutil.which("initdb")
    if not initdb:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="paperworks-postgresql-"))
    as_user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        user = "postgres"
        shutil.chown(folder, user)
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    run = lambda *command: subprocess.run(  # noqa: E731
        [*as_user, *map(str, command)], check=True, cwd=folder, stdout=subprocess.DEVNULL
    )
    data, tools = folder / "data", Path(initdb).parent
    run(initdb, "-D", data, "-A", "trust", "-E", "UTF8", "-U", "postgres", "--no-sync", "--locale=C.UTF-8")
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
    run(tools / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        run(tools / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty_postgresql(postgresql: str) -> str:
    """Empty the server's database, and give its URL."""
    from sqlalchemy import create_engine, text

    engine = create_engine(postgresql.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        for statement in (others, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public"):
            connection.execute(text(statement))
    engine.dispose()
    return postgresql
