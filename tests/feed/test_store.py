import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, delete, inspect, select, text

import paperworks.feed
from feed_papers import papers
from paperworks.feed import Added, Entry, FeedStore, FutureSchema, MalformedEntry
from paperworks.feed.entry import one_line, parse_arxiv_id, title_key, web_link
from paperworks.feed.schema import (
    Base,
    Embedding,
    FeedPaper,
    Harvest,
    Person,
    SavedSearch,
    Send,
    Subscription,
    Vote,
)
from paperworks.feed.search import search


@pytest.fixture(params=["sqlite", "postgresql"])
def first_version(request, tmp_path):
    """Give a database that the first version made, with something in each table."""
    from alembic import command
    from alembic.config import Config

    url = f"sqlite:///{tmp_path / 'feed.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("empty_postgresql")
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    config = Config()
    config.set_main_option("script_location", str(Path(paperworks.feed.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in FIRST_VERSION if request.param == "postgresql" else [*FIRST_VERSION, FIRST_WORDS]:
            connection.exec_driver_sql(statement)
    yield url, engine
    engine.dispose()


_PAPER = "INSERT INTO papers (title, title_key, arxiv_id, version, authors, abstract, summary, categories, published, "
_PAPER += "updated, added, upvotes, links) VALUES ('{}', '{}', {}, 0, '', '', '', '', {}, {}, {}, 0, '{{}}')"
_THEN, _LATER = "'2026-11-01 08:00:00.000000'", "'2026-11-02 06:00:00.000000'"
FIRST_VERSION = [
    _PAPER.format("On noise", "onnoise", "NULL", _THEN, _THEN, _THEN),
    _PAPER.format("Lattices", "lattices", "'2611.00002'", _THEN, _THEN, _THEN),
    f"INSERT INTO people (email, created, sessions) VALUES ('ann@x.org', {_THEN}, 0), ('bo@x.org', {_THEN}, 3)",
    f"INSERT INTO votes VALUES (1, 2, {_THEN})",
    f"INSERT INTO reading_list VALUES (1, 1, {_THEN})",
    f"INSERT INTO saved_searches (person_id, query, created) VALUES (2, 'noise', {_THEN})",
    f"INSERT INTO subscriptions VALUES (1, 'daily', {_THEN}, {_THEN}, 2), (2, 'weekly', {_THEN}, NULL, 0)",
    f"INSERT INTO digests (frequency, period, since, until, trending) VALUES ('daily', 'd', {_THEN}, {_LATER}, '{{}}')",
    f"INSERT INTO sends (digest_id, person_id, state, attempts, changed, error) VALUES (1, 1, 'sent', 1, {_LATER}, '')",
    "INSERT INTO embeddings (paper_id, vector) VALUES (2, '')",
    'INSERT INTO hits ("key", "window", count) VALUES (\'a\', 1, 1)',
]
FIRST_WORDS = "INSERT INTO paper_words(rowid, title, authors, abstract, summary, categories) "
FIRST_WORDS += "SELECT id, title, authors, abstract, summary, categories FROM papers"


class TestAdd:
    def test_the_same_paper_by_any_name_is_one(self, store):
        store.add([Entry(title="A Study of Things", arxiv_id="2206.00927")])
        store.add([Entry(title="Another title", arxiv_id="https://arxiv.org/abs/2206.00927v2", doi="10.1000/x")])
        store.add([Entry(title="Yet another", doi="https://doi.org/10.1000/X", abstract="What it says.")])
        store.add([Entry(title="another TITLE!", slug="things")])
        [paper] = papers(store)
        assert (paper.arxiv_id, paper.version, paper.doi, paper.slug) == ("2206.00927", 2, "10.1000/x", "things")
        assert paper.abstract == "What it says."

    def test_equal_titles_of_different_ids_are_two(self, store):
        assert store.add(
            [Entry(title="Editorial", arxiv_id="2206.00001"), Entry(title="Editorial", arxiv_id="2206.00002")]
        ) == Added(2, 0, 0)

    def test_a_short_name_that_belongs_to_another_paper_is_not_taken(self, store):
        store.add([Entry(title="One", arxiv_id="2206.00001"), Entry(title="Two", arxiv_id="2206.00002", slug="two")])
        store.add([Entry(title="One", arxiv_id="2206.00001", slug="two")])
        assert [p.slug for p in papers(store)] == [None, "two"]

    def test_two_arxiv_ids_that_share_a_doi_are_two_papers(self, store):
        parts = [Entry(title=f"Part {i}", arxiv_id=f"2206.0000{i}", doi="10.1000/x") for i in (1, 2)]
        assert store.add(parts) == Added(2, 0, 0)
        assert store.add(parts) == Added(0, 0, 2)
        assert store.add([Entry(title="Part 2", doi="10.1000/x", abstract="Of the second.")]) == Added(0, 1, 0)
        assert [(p.arxiv_id, p.doi, p.abstract) for p in papers(store)] == [
            ("2206.00001", "10.1000/x", ""),
            ("2206.00002", "10.1000/x", "Of the second."),
        ]

    def test_equal_titles_are_one_paper_where_authors_and_year_agree(self, store):
        day = datetime(2022, 6, 1, tzinfo=UTC)
        lee = {"title": "Editorial", "authors": ["Ann Lee", "Bo Ito"], "published": day}
        other = {**lee, "authors": ["Abe Lee", "Bo Ito"]}
        assert store.add([Entry(**lee), Entry(**other), Entry(**{**lee, "published": day.replace(year=2023)})]).new == 3
        assert store.add([Entry(title="editorial.", authors=["A. Lee", "B. Ito"], published=day)]).new == 0
        assert store.add([Entry(title="Editorial", authors=["Ann Lee"], published=day)]).new == 1

    def test_a_list_of_authors_that_is_cut_short_is_the_same_and_replaces_nothing(self, store):
        names = ["Ann Lee", "Bo Ito", "Cy Fox", "Di Roe"]
        store.add([Entry(title="T", authors=names)])
        assert store.add([Entry(title="T", authors=["A. Lee", "B. Ito", "C. Fox"], doi="10.1000/t")]).new == 0
        assert store.add([Entry(title="T", authors=names[:3])]) == Added(0, 0, 1)

    def test_our_fields_and_arxivs_categories_are_both_kept(self, store):
        store.add([Entry(title="T", arxiv_id="2206.00001", slug="t", categories=["diffusion"])])
        store.add([Entry(title="T", arxiv_id="2206.00001v2", categories=["cs.LG", "stat.ML"])])
        store.add([Entry(title="T", arxiv_id="2206.00001", slug="t", categories=["diffusion"])])
        store.add([Entry(title="T", arxiv_id="2206.00001v3", categories=["stat.ML"])])
        assert papers(store)[0].categories == "stat.ML diffusion"

    def test_versions_are_kept_and_a_withdrawal_can_be_taken_back(self, store):
        first, second, third = (datetime(2022, month, 1, tzinfo=UTC) for month in (6, 7, 8))
        name = {"title": "T", "arxiv_id": "2206.00001"}
        store.add([Entry(**name, version=1, versions={1: first}, withdrawn=False, comment="9 pages")])
        store.add([Entry(**name, version=2, versions={1: first, 2: second}, withdrawn=True, comment="Withdrawn.")])
        [paper] = papers(store)
        assert (paper.version, paper.withdrawn, paper.comment) == (2, True, "Withdrawn.")
        store.add([Entry(**name, version=1, withdrawn=False), Entry(**name, comment="?")])
        assert papers(store)[0].withdrawn
        store.add([Entry(**name, version=3, versions={3: third}, withdrawn=False)])
        [paper] = papers(store)
        assert not paper.withdrawn
        assert paper.versions == {"1": first.isoformat(), "2": second.isoformat(), "3": third.isoformat()}

    def test_undated_papers_stay_undated(self, store):
        store.add([Entry(title="T")])
        assert papers(store)[0].published is papers(store)[0].updated is None

    def test_what_is_empty_overwrites_nothing_and_an_older_version_only_fills(self, store):
        store.add([Entry(title="New title", arxiv_id="2206.00001v3", abstract="New.", authors=["A"])])
        store.add([Entry(title="Old title", arxiv_id="2206.00001v1", abstract="Old.", categories=["cs.LG"])])
        [paper] = papers(store)
        assert (paper.title, paper.abstract, paper.authors, paper.categories) == ("New title", "New.", "A", "cs.LG")

    def test_links_are_joined_and_votes_never_fall(self, store):
        store.add([Entry(title="T", upvotes=5, links={"code": "https://a.example/x"})])
        store.add([Entry(title="T", upvotes=3, links={"page": "https://b.example/y", "bad": "javascript:alert(1)"})])
        [paper] = papers(store)
        assert paper.upvotes == 5
        assert paper.links == {"code": "https://a.example/x", "page": "https://b.example/y"}

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
    def test_adding_twice_adds_nothing(self, drawn):
        store = FeedStore("sqlite://")
        ids = {"a": "2206.00001", "b": "2206.00002", "c": "2206.00003"}
        entries = [Entry(title=f"Title {name}", arxiv_id=ids[name] if known else "") for name, known in drawn]
        store.add(entries)
        before = [(p.id, p.title, p.arxiv_id) for p in papers(store)]
        added = store.add(entries)
        assert added.new == 0
        assert [p[0] for p in before] == [p.id for p in papers(store)]
        assert len(before) == len({name for name, _ in drawn})

    def test_a_state_is_kept_with_the_last_papers(self, store, monkeypatch):
        monkeypatch.setattr("paperworks.feed.store._BATCH", 10)
        store.add([Entry(title=f"T {i}") for i in range(15)], state=("source", {"offset": 7}))
        store.add([], state=("source", {"offset": 8}))
        with store.session() as session:
            assert session.get(Harvest, "source").state == {"offset": 8}
        assert store.count() == 15


class TestEntry:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"title": " \n"}, "title is empty"),
            ({"title": "…"}, "title is empty"),
            ({"title": "x" * 2000}, "at most 1000"),
            ({"title": "T", "arxiv_id": "12.3"}, "arXiv id is '12.3'"),
            ({"title": "T", "doi": "x"}, "DOI is 'x'"),
            ({"title": "T", "published": datetime(2022, 1, 1)}, "time zone"),
        ],
    )
    def test_what_is_malformed_is_refused(self, options, message):
        with pytest.raises(MalformedEntry, match=message):
            Entry(**options)

    @given(st.text())
    def test_text_becomes_one_line_that_can_be_stored(self, text):
        line = one_line(text)
        assert line == one_line(line)
        assert "\x00" not in line
        line.encode()

    @given(st.text())
    def test_a_link_is_to_the_web_or_none(self, text):
        assert web_link(text) in ("", text.strip())
        assert not web_link("javascript:" + text)

    def test_ids(self):
        assert parse_arxiv_id("arXiv:2206.00927v12") == ("2206.00927", 12)
        assert parse_arxiv_id("oai:arXiv.org:math/0309136") == ("math/0309136", 0)
        assert title_key("Café-Náïve") == "cafenaive"


class TestSchema:
    def test_migrations_make_what_the_models_say(self, store):
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        def ours(thing, name, kind, reflected, compare_to):
            return not (kind == "table" and name.startswith(("paper_words", "alembic"))) and name not in (
                "words",
                "papers_newest",
            )

        with store.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"include_object": ours})
            assert compare_metadata(context, Base.metadata) == []

    def test_a_database_of_the_first_version_goes_on_with_all_that_is_in_it(self, first_version):
        url, engine = first_version
        store = FeedStore(url)
        with store.session() as session:
            assert session.scalars(select(Person.email).order_by(Person.id)).all() == ["ann@x.org", "bo@x.org"]
            assert session.scalars(select(Vote.paper_id)).all() == [2]
            assert session.scalars(select(SavedSearch.query)).all() == ["noise"]
            assert session.scalars(select(Embedding.paper_id)).all() == [2]
            assert [(s.person_id, s.state) for s in session.scalars(select(Send))] == [(1, "sent")]
            ann, bo = session.scalars(select(Subscription).order_by(Subscription.person_id))
            assert (ann.covered_until, ann.covered_paper) == (datetime(2026, 11, 2, 6, tzinfo=UTC), 2)
            assert (bo.covered_until, bo.covered_paper, bo.frequency) == (None, 0, "weekly")
            assert len({ann.key, bo.key}) == 2
            assert min(len(ann.key), len(bo.key)) >= 24
        with engine.connect() as connection:
            if store.on_sqlite:
                assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert search(store, "lattices").ids == [2]
        store.add([Entry(title="Lattices anew", arxiv_id="2611.00002"), Entry(title="Third lattice")])
        assert sorted(search(store, "lattices").ids) == [2, 3]
        with store.session() as session:  # what refers to a person and to a paper goes with them still
            session.execute(delete(Person).where(Person.id == 1))
            session.execute(delete(FeedPaper).where(FeedPaper.id == 3))
            assert session.scalars(select(Send)).all() == session.scalars(select(Vote)).all() == []
        store.add([Entry(title="Fourth")])
        assert [paper.id for paper in papers(store)] == [1, 2, 4]
        store.close()

    def test_a_change_of_the_schema_that_fails_changes_nothing(self, first_version, monkeypatch):
        url, engine = first_version
        with monkeypatch.context() as patch:
            patch.setattr("secrets.token_urlsafe", lambda length: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                FeedStore(url)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "0001"
            assert connection.scalar(text("SELECT count(*) FROM subscriptions")) == 2
        FeedStore(url).close()

    def test_a_database_of_a_newer_version_is_left_alone(self, store):
        with store.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(FutureSchema, match=r"schema '9999'.*update Paperworks"):
            FeedStore(store.engine.url.render_as_string(hide_password=False))

    def test_sqlite_keeps_a_log_and_checks_references(self, tmp_path):
        with FeedStore(tmp_path / "feed.db").engine.connect() as connection:
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
            assert connection.scalar(text("PRAGMA foreign_keys")) == 1

    def test_a_url_of_another_database_is_refused(self):
        with pytest.raises(ValueError, match="it takes a file, or a URL of sqlite or postgresql"):
            FeedStore("mysql://localhost/feed")

    def test_moments_come_back_in_utc(self, store):
        moment = datetime(2022, 6, 2, 8, 43, tzinfo=UTC)
        store.add([Entry(title="T", published=moment)])
        assert papers(store)[0].published == moment
        assert "papers" in inspect(store.engine).get_table_names()


def test_what_was_committed_survives_a_kill(tmp_path):
    path = tmp_path / "feed.db"
    code = (
        "import sys; from paperworks.feed import Entry, FeedStore; store = FeedStore(sys.argv[1])\n"
        "for k in range(10**6):\n"
        "    store.add([Entry(title=f'T {k} of {i}') for i in range(100)], state=('s', {'done': k + 1}))\n"
        "    print(k, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) >= 5:
            time.sleep(0.01)
            process.kill()
            break
    process.wait()
    process.stdout.close()
    store = FeedStore(path)
    with store.session() as session:
        done = session.get(Harvest, "s").state["done"]
    assert store.count() == 100 * done >= 600


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes there")
def test_a_new_database_is_for_its_owner_alone(tmp_path):
    FeedStore(tmp_path / "new" / "feed.db").close()
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "new").glob("feed.db*")} == {0}
