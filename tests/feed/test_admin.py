import os
import sqlite3
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from mail_server import mail_server
from paperworks.cli.app import app
from paperworks.feed import Entry, FeedStore
from paperworks.feed.api_tokens import ApiTokens
from paperworks.feed.backup import BadBackup, back_up, restore
from paperworks.feed.doctor import examine
from paperworks.feed.mail import Mailer
from paperworks.feed.people import People
from paperworks.feed.search.fused import search
from paperworks.feed.sessions import Sessions


@pytest.fixture
def post():
    with mail_server() as server:
        yield server


@pytest.fixture
def feed(tmp_path):
    store = FeedStore(tmp_path / "feed.db")
    store.add([Entry(title=f"On sampling, part {n}", arxiv_id=f"2611.{n:05}") for n in range(300)])
    yield store
    store.close()


class TestBackup:
    def test_a_feed_that_is_written_to_is_backed_up_and_comes_back(self, feed, tmp_path):
        stop, added = threading.Event(), []

        def write():
            while not stop.is_set():
                feed.add([Entry(title=f"Later {len(added)}", arxiv_id=f"2612.{len(added):05}")])
                added.append(1)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            copy = back_up(feed, tmp_path / "copies" / "feed.db")
        finally:
            stop.set()
            writer.join()
        assert stat.S_IMODE(os.stat(copy).st_mode) == 0o600, "addresses are in it"
        assert [path.name for path in copy.parent.iterdir()] == ["feed.db"]
        kept = FeedStore(copy)
        assert 300 <= kept.count() <= 300 + len(added)
        assert [finding.says for finding in examine(kept) if finding.state == "wrong"] == []
        kept.close()

        reader = FeedStore(feed.url)  # of a site that runs
        assert reader.count() == 300 + len(added)
        before = restore(feed, copy)
        assert reader.count() == feed.count() == FeedStore(copy).count()
        assert FeedStore(before).count() == 300 + len(added)
        assert search(feed, "sampling part 7", None).ids
        feed.add([Entry(title="Another one", arxiv_id="2612.99999")])
        assert len(search(feed, "another", None).ids) == 1

    def test_a_folder_gets_a_file_named_by_the_time(self, feed, tmp_path):
        (tmp_path / "copies").mkdir()
        assert back_up(feed, tmp_path / "copies").name.startswith(f"feed-{datetime.now(UTC):%Y%m%d}T")

    def test_an_index_of_meanings_whose_numbers_are_others_goes(self, feed, tmp_path):
        (tmp_path / "meaning.7.faiss").write_bytes(b"of other numbers")
        copy = back_up(feed, tmp_path / "copy.db")
        restore(feed, copy)
        assert not list(tmp_path.glob("meaning.*"))

    @pytest.mark.parametrize("what", ["none", "text", "cut", "other", "future", "empty"])
    def test_what_is_no_backup_changes_nothing(self, feed, tmp_path, what):
        file = tmp_path / "bad.db"
        if what == "text":
            file.write_text("hello " * 1000)
        elif what == "cut":
            file.write_bytes(back_up(feed, tmp_path / "copy.db").read_bytes()[:-9000])
        elif what in ("other", "future"):
            back_up(feed, file)
            with sqlite3.connect(file) as connection:
                change = (
                    "DROP TABLE alembic_version" if what == "other" else "UPDATE alembic_version SET version_num = '9'"
                )
                connection.execute(change)
        elif what == "empty":
            file.touch()
        with pytest.raises(BadBackup, match=r"bad\.db"):
            restore(feed, file)
        assert feed.count() == 300
        assert not list(tmp_path.glob("*-before-*"))

    def test_a_copy_ends_however_often_the_feed_is_written_to(self, feed, tmp_path, monkeypatch):
        """A copy in steps begins anew after each write of another connection."""
        asked = []

        class Watched(sqlite3.Connection):
            def backup(self, target, *, pages=-1, **more):
                asked.append(pages)
                super().backup(target, pages=pages, **more)

        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, factory=Watched))
        back_up(feed, tmp_path / "copy.db")
        assert asked == [-1]

    @pytest.mark.parametrize("damage", ["pages", "head", "gone"])
    def test_a_feed_that_is_damaged_is_set_aside(self, feed, tmp_path, damage):
        copy = back_up(feed, tmp_path / "copy.db")
        feed.close()
        path = tmp_path / "feed.db"
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            start = 0 if damage == "head" else 8192
            path.write_bytes(content[:start] + b"?" * (len(content) - start))
        before = restore(path, copy)
        assert FeedStore(path).count() == 300
        assert damage == "gone" or b"?" * 5000 in before.read_bytes()

    def test_what_people_ended_since_stays_ended(self, feed, tmp_path):
        people, tokens, sessions = People(feed), ApiTokens(feed), Sessions(feed)
        ann, bo, cy = (people.of_email(f"{name}@example.org") for name in ("ann", "bo", "cy"))
        leaked, good = tokens.make(ann, "leaked"), tokens.make(ann, "good")
        signed_out, signed_in = sessions.open(bo), sessions.open(ann)
        for person in (ann, bo):
            people.subscribe(person, "daily")
        copy = back_up(feed, tmp_path / "copy.db")
        tokens.end(ann, tokens.of(ann)[0].id)
        sessions.end(bo)
        people.unsubscribe(bo)
        people.delete(cy)
        later = people.of_email("dan@example.org")
        restore(feed, copy)
        assert [people.email(person) for person in (ann, bo, cy, later)] == [
            "ann@example.org",
            "bo@example.org",
            None,
            None,
        ]
        assert (tokens.person(leaked), tokens.person(good)) == (None, ann)
        assert (sessions.person(signed_out), sessions.person(signed_in)) == (None, ann)
        assert people.subscription(bo) is None
        assert people.subscription(ann)

        other = FeedStore(tmp_path / "other" / "feed.db")  # on a new machine
        other.add([Entry(title="Another one")])
        People(other).delete(People(other).of_email("owner@example.org"))
        restore(other, copy)
        assert People(other).email(cy) == "cy@example.org"
        assert ApiTokens(other).person(leaked) == ann
        assert Sessions(other).person(signed_in) == ann

    def test_only_files_are_backed_up(self, memory, feed, tmp_path):
        with pytest.raises(ValueError, match="in memory"):
            back_up(memory, tmp_path / "copy.db")
        with pytest.raises(ValueError, match="the feed itself"):
            back_up(feed, tmp_path / "feed.db")
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="file"):
            back_up(feed, tmp_path / "file" / "copy.db")


def test_postgresql_has_its_own_tools(store, tmp_path):
    if store.on_sqlite:
        pytest.skip("is not PostgreSQL")
    with pytest.raises(ValueError, match="pg_dump"):
        back_up(store, tmp_path / "copy.db")


class TestDoctor:
    def test_a_feed_that_is_well(self, store):
        store.add([Entry(title="On sampling", arxiv_id="2611.00001")])
        found = {finding.part: finding for finding in examine(store)}
        assert found["schema"].state == found["index of words"].state == found["database"].state == "well"
        assert found["database"].says == "1 papers, 0 people"
        assert found["index of meanings"].state == found["ingest"].state == found["mail"].state == "look"

    @pytest.mark.parametrize("title", ["हिन्दी भाषा मॉडल", "ไทยภาษา", "深度学习 的 方法", "שָׁלוֹם", 'C++ – ½ "x_y"'])
    def test_titles_of_all_scripts_are_in_the_index(self, store, title):
        store.add([Entry(title=title)])
        assert {f.part: f.state for f in examine(store)}["index of words"] == "well"

    def test_what_is_wrong_is_found(self, feed):
        with feed.engine.begin() as connection:
            connection.execute(text("DELETE FROM paper_words_data WHERE id > 10"))
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        found = {finding.part: finding for finding in examine(feed, now=datetime(2020, 1, 1, tzinfo=UTC))}
        wrong = {part for part, finding in found.items() if finding.state == "wrong"}
        assert {"schema", "index of words", "clock"} <= wrong
        assert "is to come" in {
            finding.says.partition("which ")[2].partition(";")[0]
            for finding in examine(feed, now=datetime.now(UTC) - timedelta(minutes=10))
        }

    def test_it_changes_nothing_and_makes_nothing(self, feed, tmp_path):
        with feed.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        feed.close()
        run = lambda name: CliRunner().invoke(app, ["feed", "doctor", "--feed", str(tmp_path / name)])  # noqa: E731
        assert "revision 0001" in run("feed.db").output
        assert "revision 0001" in run("feed.db").output
        assert (run("none.db").exit_code, (tmp_path / "none.db").exists()) == (2, False)

    def test_mail_is_tried_and_none_is_sent(self, feed, post):
        (mail,) = [f for f in examine(feed, mailer=Mailer(post.url, "papers@example.org")) if f.part == "mail"]
        assert (mail.state, post.got) == ("look", []), "without TLS"
        (mail,) = [f for f in examine(feed, mailer=Mailer("smtp://127.0.0.1:1", "a@example.org")) if f.part == "mail"]
        assert mail.state == "wrong"


def test_the_commands_take_back_only_what_someone_sent_and_restore_what_is_damaged(feed, tmp_path):
    run = lambda *words: CliRunner().invoke(app, ["feed", *words, "--feed", str(tmp_path / "feed.db")])  # noqa: E731
    nobody = run("submissions", "--drop", "a-typo@example.org")
    assert nobody.exit_code == 2
    assert "nobody with the address" in nobody.output
    assert [finding.says for finding in examine(feed) if finding.part == "database"] == ["300 papers, 0 people"]
    assert run("backup", str(tmp_path / "copy.db")).exit_code == 0
    feed.close()
    (tmp_path / "feed.db").write_bytes(b"no database" * 1000)
    assert "Restored" in run("restore", str(tmp_path / "copy.db"), "--yes").output
    assert feed.count() == 300
