import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from sqlalchemy import select, update

from mail_server import Post, free_port, mail_server
from paperworks.feed import Entry, FeedStore
from paperworks.feed.digest import DigestRunning, alone, send_digest, uncertain_sends
from paperworks.feed.mail import Mailer, NotSent
from paperworks.feed.people import People
from paperworks.feed.schema import Activity, FeedPaper, Send, Subscription
from paperworks.feed.tokens import Tokens

TOKENS = Tokens("x" * 40)
URL = "https://papers.example.org"


@pytest.fixture
def post():
    with mail_server() as server:
        yield server


@pytest.fixture
def mailer(post):
    with Mailer(post.url, "Daily Papers <papers@example.org>", timeout=5) as mailer:
        yield mailer


def subscribers(store, *names, frequency="daily", confirmed=True):
    people = People(store)
    for name in names:
        person = people.of_email(f"{name}@example.org")
        people.subscribe(person, frequency)
        if confirmed:
            people.confirm(person)


@pytest.fixture
def filled(store):
    store.add([Entry(title="On <script>alert(1)</script> noise", abstract="What & why.", authors=["Ann Lee"])])
    subscribers(store, "ann", "bo", "cy")
    return store


def states(store):
    with store.session() as session:
        return [send.state for send in session.scalars(select(Send).order_by(Send.person_id))]


def bounces(store):
    with store.session() as session:
        return [found.bounces for found in session.scalars(select(Subscription).order_by(Subscription.person_id))]


def at(store, paper, moment):
    with store.session() as session:
        session.execute(update(FeedPaper).where(FeedPaper.id == paper).values(added=moment))


def told(store, mailer, post, now):
    """Send the digest of a moment, and return what its copies say."""
    post.got.clear()
    send_digest(store, mailer, TOKENS, URL, now=now)
    copies = ((to, message.get_payload()[0].get_payload(decode=True).decode()) for to, message in post.got)
    return {to.partition("@")[0]: text.replace("\r\n", "\n") for to, text in copies}


def new(text):
    """Return the part of a copy after what is trending."""
    return text.partition("\nNew")[2]


def later(**spans):
    return datetime.now(UTC) + timedelta(minutes=1) + timedelta(**spans)


class TestDigest:
    def test_what_is_new_for_a_search_is_told_though_older_papers_fit_better(self, store, mailer, post):
        store.add([Entry(title=f"Lattice lattice {i}") for i in range(250)])
        with store.session() as session:
            session.execute(update(FeedPaper).values(added=datetime(2020, 1, 1, tzinfo=UTC)))
        store.add([Entry(title="A long title about many other things, and a lattice", abstract="Other. " * 50)])
        people = People(store)
        subscribers(store, "ann")
        people.save_search(people.of_email("ann@example.org"), "lattice")
        send_digest(store, mailer, TOKENS, URL, now=later())
        text = post.got[0][1].get_payload()[0].get_payload(decode=True).decode()
        assert "many other things" in " ".join(text.partition("New for")[2].split())

    def test_each_subscriber_gets_one_copy(self, filled, mailer, post):
        subscribers(filled, "weekly", frequency="weekly")
        subscribers(filled, "silent", confirmed=False)
        assert str(send_digest(filled, mailer, TOKENS, URL, now=later())) == "3 sent, 0 put off, 0 refused, 0 uncertain"
        assert str(send_digest(filled, mailer, TOKENS, URL, now=later())) == "0 sent, 0 put off, 0 refused, 0 uncertain"
        assert post.addresses() == ["ann@example.org", "bo@example.org", "cy@example.org"]
        assert send_digest(filled, mailer, TOKENS, URL, "weekly", now=later()).sent == 1
        assert send_digest(filled, mailer, TOKENS, URL, now=later(days=1)).sent == 3

    def test_a_copy_says_what_it_should(self, filled, mailer, post):
        people = People(filled)
        people.save_search(people.of_email("ann@example.org"), "noise")
        send_digest(filled, mailer, TOKENS, URL, now=later())
        message = post.got[0][1]
        text, html = (part.get_payload(decode=True).decode() for part in message.walk() if not part.is_multipart())
        assert "On <script>alert(1)</script> noise" in text
        assert "<script>" not in html
        assert "&lt;script&gt;" in html
        assert "New for “noise”" in text
        assert f"{URL}/paper/1" in html
        assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        token = message["List-Unsubscribe"].strip("<>").rpartition("/")[2]
        assert people.unsubscribe_by_key(TOKENS.read("unsubscribe", token)["subscription"])
        assert people.subscription(people.of_email("ann@example.org")) is None
        assert message["Message-ID"].endswith("@example.org>")
        assert len({m["Message-ID"] for _, m in post.got}) == 3

    def test_who_is_refused_for_now_is_tried_again_later(self, filled, mailer, post):
        post.refuse["bo@example.org"] = "451 later"
        sent = send_digest(filled, mailer, TOKENS, URL, now=later())
        assert (sent.sent, sent.retry) == (2, 1)
        assert "451 later" in sent.problems[0]
        post.refuse.clear()
        assert send_digest(filled, mailer, TOKENS, URL, now=later(minutes=2)).sent == 0
        assert send_digest(filled, mailer, TOKENS, URL, now=later(minutes=6)).sent == 1
        assert sorted(post.addresses()) == ["ann@example.org", "bo@example.org", "cy@example.org"]

    def test_pauses_double_and_end(self, filled, mailer, post):
        post.refuse["bo@example.org"] = "451 later"
        moment, pauses = later(), []
        for _ in range(5):
            send_digest(filled, mailer, TOKENS, URL, now=moment)
            with filled.session() as session:
                bo = session.scalars(select(Send).order_by(Send.id)).all()[1]
                pauses.append(bo.next_attempt and (bo.next_attempt - moment).total_seconds() / 60)
                moment = bo.next_attempt or moment
        assert pauses == [5, 10, 20, 40, None]
        assert states(filled) == ["sent", "failed", "sent"]

    @pytest.mark.parametrize("answer", ["550 5.1.1 no such user", "553 5.1.3 bad syntax", "550 5.1.10 null MX"])
    def test_whose_address_is_none_three_times_in_a_row_is_unsubscribed(self, filled, mailer, post, answer):
        post.refuse["bo@example.org"] = answer
        for day in range(2):
            send_digest(filled, mailer, TOKENS, URL, now=later(days=day))
        assert bounces(filled) == [0, 2, 0]
        post.refuse.clear()
        send_digest(filled, mailer, TOKENS, URL, now=later(days=2))  # a delivery resets the count
        assert bounces(filled) == [0, 0, 0]
        post.refuse["bo@example.org"] = answer
        for day in range(3, 7):
            send_digest(filled, mailer, TOKENS, URL, now=later(days=day))
        assert states(filled).count("failed") == 5
        assert bounces(filled) == [0, 0]

    @pytest.mark.parametrize(
        "refusal",
        [
            {"refuse_sender": "550 5.7.1 the sender is not allowed here"},
            {"refuse_sender": "550 5.1.8 the sender's domain is unknown"},
            {"refuse_data": "554 5.7.1 this is spam"},
            {"refuse_data": "552 5.2.2 the quota is used up"},
            {"refuse": {"bo@example.org": "550 5.7.1 relaying denied"}},
            {"refuse": {"bo@example.org": "550 5.1.8 the sender's domain is unknown"}},
            {"refuse": {"bo@example.org": "550 5.1.0 the sender is unknown"}},
            {"refuse": {"bo@example.org": "552 5.2.2 the mailbox is full"}},
            {"refuse": {"bo@example.org": "550 for no reason"}},
        ],
    )
    def test_what_is_not_the_address_s_fault_counts_for_nothing(self, filled, mailer, post, refusal):
        vars(post).update(refusal)
        for day in range(5):
            send_digest(filled, mailer, TOKENS, URL, now=later(days=day))
        assert bounces(filled) == [0, 0, 0]

    @pytest.mark.parametrize("answer", ["550 5.1.1 no such user", "450 4.7.1 later"])
    def test_a_run_in_which_nearly_all_are_refused_stops_and_removes_nobody(self, store, mailer, post, answer):
        names = [f"p{i:02}" for i in range(40)]
        subscribers(store, *names)
        post.refuse = {f"{name}@example.org": answer for name in names[1:]}
        for day in range(5):
            before = post.asked
            sent = send_digest(store, mailer, TOKENS, URL, now=later(days=day))
            assert post.asked - before == 10
            assert "stopped, since 9 of the last 10 recipients were refused" in str(sent)
            assert "none was counted" in sent.stopped
        assert bounces(store) == [0] * 40
        post.refuse.clear()
        assert send_digest(store, mailer, TOKENS, URL, now=later(days=4, minutes=30)).sent == 39  # those put off, too

    def test_a_relay_that_begins_to_refuse_in_mid_run_stops_it(self, store, mailer, post):
        subscribers(store, *(f"p{i:02}" for i in range(60)))
        post.refuse = {f"p{i:02}@example.org": "550 5.1.1 none" for i in range(30, 60)}
        sent = send_digest(store, mailer, TOKENS, URL, now=later())
        assert sent.sent == 30
        assert 10 <= sent.retry + sent.failed <= 20
        assert sent.stopped
        assert bounces(store) == [0] * 60

    def test_all_of_few_that_are_refused_are_kept(self, store, mailer, post):
        subscribers(store, "ann", "bo")
        post.refuse = dict.fromkeys(["ann@example.org", "bo@example.org"], "550 5.1.1 no such user")
        for day in range(5):
            assert "none was counted" in send_digest(store, mailer, TOKENS, URL, now=later(days=day)).stopped
        assert bounces(store) == [0, 0]

    def test_a_digest_covers_all_since_the_last_that_was_delivered(self, filled, mailer, post, monkeypatch):
        monkeypatch.setattr("paperworks.feed.digest.TRENDING", 0)  # what is trending is not told of twice
        people = People(filled)
        people.save_search(people.of_email("ann@example.org"), "lattice")
        post.refuse["bo@example.org"] = "552 5.2.2 the mailbox is full"
        now = later()
        assert "On <script>" in told(filled, mailer, post, now)["ann"]
        filled.add([Entry(title="Lattice of the first day")])
        at(filled, 2, now + timedelta(hours=1))
        texts = told(filled, mailer, post, now + timedelta(days=1, minutes=1))  # a minute later than yesterday
        assert texts["ann"].count("Lattice of the first day") == 2  # new, and new for the search
        filled.add([Entry(title="Lattice of the outage"), Entry(title="Written while an issue was made")])
        at(filled, 3, now + timedelta(days=2))
        at(filled, 4, now + timedelta(days=1))  # before the last issue, that couldn't see it
        post.refuse.clear()
        texts = told(filled, mailer, post, now + timedelta(days=5))
        for title, count in (("Lattice of the outage", 2), ("Written while an issue", 1), ("Lattice of the first", 0)):
            assert new(texts["ann"]).count(title) == count, title
        for title in ("Lattice of the outage", "Written while an issue", "Lattice of the first"):
            assert new(texts["bo"]).count(title) == 1, title  # what was not delivered is not lost
        assert "New\n" not in told(filled, mailer, post, now + timedelta(days=6))["ann"]

    def test_a_lab_s_first_digest_is_of_its_papers_and_says_how_many_more_there_are(self, store, mailer, post):
        now = later()
        store.add([Entry(title=f"Shipped {i}", slug=f"shipped-{i}", published=now - timedelta(900)) for i in range(20)])
        store.add([Entry(title=f"Of the lab {i}", published=now - timedelta(hours=i / 2)) for i in range(300)])
        with store.session() as session:
            session.add_all(Activity(paper_id=i, kind="run", day=now.date(), count=9) for i in range(1, 21))
        subscribers(store, "ann")
        text = told(store, mailer, post, now)["ann"]
        assert text.count("* Of the lab") == 30
        assert "Shipped" not in text
        assert f"And 290 more: {URL}/" in text

    def test_who_unsubscribes_meanwhile_gets_nothing_more(self, filled, mailer, post, monkeypatch):
        people = People(filled)
        post.refuse["bo@example.org"] = "451 later"
        original = Mailer.send

        def send(self, message):
            original(self, message)
            if message["To"] == "ann@example.org":
                people.unsubscribe(people.of_email("cy@example.org"))

        monkeypatch.setattr(Mailer, "send", send)
        assert send_digest(filled, mailer, TOKENS, URL, now=later()).sent == 1
        people.unsubscribe(people.of_email("bo@example.org"))
        post.refuse.clear()
        send_digest(filled, mailer, TOKENS, URL, now=later(minutes=10))
        assert post.addresses() == ["ann@example.org"]

    def test_who_is_deleted_as_the_copy_is_sent_stops_nothing(self, filled, mailer, post, monkeypatch):
        people = People(filled)
        original = Mailer.send

        def send(self, message):
            people.delete(people.of_email(message["To"]))
            original(self, message)

        monkeypatch.setattr(Mailer, "send", send)
        assert send_digest(filled, mailer, TOKENS, URL, now=later()).sent == 3

    def test_a_lost_answer_is_uncertain_and_never_repeated(self, filled, mailer, post):
        post.drop_after_data.add("bo@example.org")
        assert str(send_digest(filled, mailer, TOKENS, URL, now=later())) == "2 sent, 0 put off, 0 refused, 1 uncertain"
        post.drop_after_data.clear()
        assert send_digest(filled, mailer, TOKENS, URL, now=later(hours=1)).sent == 0
        assert post.addresses().count("bo@example.org") == 1
        [left] = uncertain_sends(filled)
        assert left["email"] == "bo@example.org"

    def test_a_connection_lost_before_the_message_is_tried_again(self, filled, mailer, post):
        post.drop_at_rcpt.add("bo@example.org")
        sent = send_digest(filled, mailer, TOKENS, URL, now=later())
        assert (sent.sent, sent.retry) == (2, 1)
        post.drop_at_rcpt.clear()
        assert send_digest(filled, mailer, TOKENS, URL, now=later(minutes=6)).sent == 1

    def test_one_process_sends_at_a_time(self, filled, mailer):
        with alone(filled), pytest.raises(DigestRunning):
            send_digest(FeedStore(filled.url), mailer, TOKENS, URL)


def test_a_digest_that_was_killed_sends_the_rest_and_nobody_a_second_copy(tmp_path, post):
    path = tmp_path / "feed.db"
    store = FeedStore(path)
    store.add([Entry(title="On noise")])
    names = [f"p{i}" for i in range(12)]
    subscribers(store, *names)
    post.pause = 0.1
    code = (
        "import sys; from paperworks.feed import FeedStore; from paperworks.feed.mail import Mailer\n"
        "from paperworks.feed.digest import send_digest; from paperworks.feed.tokens import Tokens\n"
        "send_digest(FeedStore(sys.argv[1]), Mailer(sys.argv[2], 'a@example.org'), Tokens('x' * 40), 'https://x.example')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path), post.url])
    deadline = time.monotonic() + 60
    while len(post.got) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    post.pause = 0.0
    time.sleep(0.3)
    with Mailer(post.url, "a@example.org") as mailer:
        sent = send_digest(store, mailer, TOKENS, URL, now=datetime.now(UTC))
    counts = {name: post.addresses().count(f"{name}@example.org") for name in names}
    assert max(counts.values()) == 1
    assert sent.uncertain == 1
    assert sum(counts.values()) >= 11  # all but, at most, the one whose fate is unknown
    assert states(store).count("sent") == 11


class TestMailer:
    @pytest.mark.parametrize(
        ("url", "sender", "message"),
        [
            ("http://x", "a@b.org", "smtp://"),
            ("smtp://u:p@mail.example.org?starttls=no", "a@b.org", "no TLS"),
            ("smtp://x?starttls=maybe", "a@b.org", "yes or no"),
            ("smtp://x", "nobody", "e-mail address"),
            ("smtp://x", "a@b.org\nBcc: c@d.org", "e-mail address"),
        ],
    )
    def test_settings_that_are_not_good_are_refused(self, url, sender, message):
        with pytest.raises(ValueError, match=message):
            Mailer(url, sender)

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("smtp://localhost", "localhost:25, UNENCRYPTED"),
            ("smtp://127.0.0.1:2525", "127.0.0.1:2525, UNENCRYPTED"),
            ("smtp://[::1]", "::1:25, UNENCRYPTED"),
            ("smtp://localhost?starttls=yes", "localhost:25, by TLS"),
            ("smtp://mail.example.org", "mail.example.org:587, by TLS"),
            ("smtp://mail.example.org?starttls=no", "mail.example.org:587, UNENCRYPTED"),
            ("smtps://localhost", "localhost:465, by TLS"),
        ],
    )
    def test_it_says_whether_mail_is_encrypted(self, url, said):
        assert str(Mailer(url, "a@b.org")) == said

    def test_a_plain_relay_on_this_machine_works_as_it_is(self, post):
        with Mailer(post.url.partition("?")[0], "a@b.org") as mailer:
            mailer.send(mailer.message("c@d.org", "S", "T"))
        assert post.addresses() == ["c@d.org"]

    def test_a_relay_without_starttls_is_told_of(self, post):
        with (
            Mailer(post.url.replace("=no", "=yes"), "a@b.org") as mailer,
            pytest.raises(NotSent, match=r"no STARTTLS; \?starttls=no"),
        ):
            mailer.send(mailer.message("c@d.org", "S", "T"))

    @pytest.mark.parametrize("header", ["Subject", "To", "List_Id"])
    def test_no_header_makes_another(self, mailer, header):
        values = {"to": "c@d.org", "subject": "S", "text": "T"}
        values[header.lower() if header != "List_Id" else header] = "a\r\nBcc: eve@example.org"
        with pytest.raises(ValueError, match=r"newline|linefeed"):
            mailer.message(**values)

    def test_a_server_that_is_not_there_is_not_sent(self):
        with (
            Mailer("smtp://127.0.0.1:9?starttls=no", "a@b.org", timeout=2) as mailer,
            pytest.raises(NotSent, match="Refused") as caught,
        ):
            mailer.send(mailer.message("c@d.org", "S", "T"))
        assert not caught.value.permanent

    def test_dots_and_lines_arrive_as_they_are(self, mailer, post):
        mailer.send(mailer.message("c@d.org", "Sübject", ".\n..two\nend ü"))
        [(_, message)] = post.got
        assert message.get_payload(decode=True).decode().replace("\r\n", "\n") == ".\n..two\nend ü\n"

    def test_it_speaks_tls_and_signs_in(self, tmp_path):
        import ssl

        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        make += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
        try:
            subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("openssl is not installed")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        signed = []

        def check(server, session, envelope, mechanism, data):
            signed.append((data.login, data.password))
            return AuthResult(success=data.password == b"p@ss", handled=False)

        handler = Post()
        controller = Controller(
            handler,
            hostname="localhost",
            port=free_port(),
            tls_context=context,
            require_starttls=True,
            authenticator=check,
        )
        controller.start()
        try:
            port = controller.port
            trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
            with Mailer(f"smtp://me:p%40ss@localhost:{port}?starttls=yes", "a@b.org", context=trust) as mailer:
                mailer.send(mailer.message("c@d.org", "S", "T"))
            assert signed[0] == (b"me", b"p@ss")
            assert handler.addresses() == ["c@d.org"]
            with (
                Mailer(f"smtp://me:wrong@localhost:{port}?starttls=yes", "a@b.org", context=trust) as mailer,
                pytest.raises(NotSent, match="refuses the sign-in"),
            ):
                mailer.send(mailer.message("c@d.org", "S", "T"))
            with (
                Mailer(f"smtp://localhost:{port}?starttls=yes", "a@b.org") as mailer,
                pytest.raises(NotSent, match="certificate"),
            ):
                mailer.send(mailer.message("c@d.org", "S", "T"))
        finally:
            controller.stop()
