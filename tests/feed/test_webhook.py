import http.server
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from paperworks.feed import Entry
from paperworks.feed.digest import Section
from paperworks.feed.webhook import MAX_ATTEMPTS, Webhook, message, post_digest, verify_signature
from paperworks.web.settings import Settings

SECRET = "0123456789abcdef"
MONDAY = datetime(2026, 11, 30, 8, tzinfo=UTC)


@pytest.fixture
def hook():
    """Give a server that answers posts by a list of statuses, the last one again and again, and keeps what came."""
    got, answers = [], [200]

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
            status, *headers = answers[0] if isinstance(answers[0], tuple) else (answers[0],)
            if len(answers) > 1:
                answers.pop(0)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Webhook(f"http://127.0.0.1:{server.server_port}/secret-path", SECRET), got, answers
    server.shutdown()
    server.server_close()


@pytest.fixture
def feed(store):
    store.add([Entry(title="On <sampling> & | noise", arxiv_id="2611.00001", published=MONDAY)])
    return store


def test_a_post_is_signed_once_and_shows_the_evidence_of_the_week(feed, hook):
    webhook, got, _ = hook
    assert post_digest(feed, webhook, "https://papers.example.org", now=MONDAY) == "sent"
    assert post_digest(feed, webhook, "https://papers.example.org", now=MONDAY) == "nothing due"
    ((headers, body),) = got
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Paperworks-Delivery"] == "weekly-2026-W49"
    assert verify_signature(SECRET, body, headers["X-Paperworks-Signature"])
    assert not verify_signature(SECRET, body + b" ", headers["X-Paperworks-Signature"])
    assert not verify_signature("another secret..", body, headers["X-Paperworks-Signature"])
    said = json.loads(body)
    texts = [block["text"]["text"] for block in said["blocks"]]
    assert texts[0] == "Daily Papers, 2026-W49"
    assert "<https://papers.example.org/paper/1|On &lt;sampling&gt; &amp; \u00a6 noise>" in texts[1]
    assert "claims and races were measured" in texts[2]
    assert all(len(text) <= 3000 for text in texts)
    assert said["text"]


def test_what_fails_for_now_is_tried_again_later_and_not_for_ever(feed, hook):
    webhook, got, answers = hook
    answers[:] = [503, (429, ("Retry-After", "7200")), 500]
    now = MONDAY
    assert post_digest(feed, webhook, "https://p.example.org", now=now) == "retry"
    assert post_digest(feed, webhook, "https://p.example.org", now=now + timedelta(minutes=4)) == "nothing due"
    now += timedelta(minutes=5)
    assert post_digest(feed, webhook, "https://p.example.org", now=now) == "retry"
    soon = now + timedelta(minutes=119)
    assert post_digest(feed, webhook, "https://p.example.org", now=soon) == "nothing due", "the server said so"
    states = []
    for attempt in range(2, MAX_ATTEMPTS):
        now += timedelta(hours=2 * attempt)
        states.append(post_digest(feed, webhook, "https://p.example.org", now=now))
    assert states == ["retry", "retry", "failed"]
    assert len(got) == MAX_ATTEMPTS
    assert {headers["X-Paperworks-Delivery"] for headers, _ in got} == {"weekly-2026-W49"}


@pytest.mark.parametrize("status", [301, 400, 403, 404, 410])
def test_what_is_refused_for_good_or_led_elsewhere_is_not_tried_again(feed, hook, status):
    webhook, got, answers = hook
    answers[:] = [(status, ("Location", "http://127.0.0.1:1/"))]
    assert post_digest(feed, webhook, "https://p.example.org", now=MONDAY) == "failed"
    assert post_digest(feed, webhook, "https://p.example.org", now=MONDAY + timedelta(hours=9)) == "nothing due"
    assert len(got) == 1


def test_a_server_that_is_down_is_asked_again(feed):
    down = Webhook("http://127.0.0.1:9/secret-path", SECRET)
    assert post_digest(feed, down, "https://p.example.org", now=MONDAY) == "retry"
    with feed.engine.connect() as connection:
        (error, name) = connection.exec_driver_sql("SELECT error, hook FROM posts").one()
    assert error == "ConnectError"
    assert "secret-path" not in error + name


@pytest.mark.parametrize(
    ("url", "secret", "says"),
    [
        ("http://example.org/secret-path", SECRET, "with https"),
        ("ftp://example.org/secret-path", SECRET, "such as https"),
        ("nonsense", SECRET, "such as https"),
        ("https://example.org/secret-path", "short", "at least 16"),
    ],
)
def test_only_safe_webhooks_are_taken(url, secret, says):
    with pytest.raises(ValueError, match=says) as found:
        Webhook(url, secret)
    assert "secret-path" not in str(found.value)


def test_old_posts_and_other_headers_are_not_genuine():
    header = Webhook("https://example.org", SECRET).headers(b"{}", "x", 1000.0)["X-Paperworks-Signature"]
    assert verify_signature(SECRET, b"{}", header, now=1299.0)
    assert not verify_signature(SECRET, b"{}", header, now=1301.0)
    for other in ("", "t=1,v1=", header.upper(), header + ",v1=0", "t=x,v1=" + "0" * 64):
        assert not verify_signature(SECRET, b"{}", other, now=1000.0)


def test_long_sections_fit():
    section = Section(
        "T", [], 3, "https://x", tuple(("word " * 50, "https://example.org/" + "x" * 100) for _ in range(99))
    )
    (_, block) = message("Title", [section])["blocks"]
    assert len(block["text"]["text"]) <= 3000


def test_what_does_not_fit_is_counted():
    lines = tuple((f"{number} {'says & ' * 60}", "https://example.org/paper/a#claims") for number in range(16))
    (_, block) = message("Week", [Section("Evidence", [], 3, "https://example.org/results/week", lines)])["blocks"]
    said = block["text"]["text"]
    assert len(said) < 3000
    assert said.endswith(f"<https://example.org/results/week|and {3 + 16 - said.count('•')} more>")


@pytest.mark.parametrize("url", ["https://h:99999/", "https://[abc", "https://h/\n x"])
def test_an_address_that_is_none_is_told_of_at_once(url):
    with pytest.raises(ValueError, match="url is no address") as error:
        Webhook(url, SECRET)
    assert "\n" not in str(error.value)


def test_neither_address_nor_secret_is_printed():
    webhook = Webhook("https://hooks.example.org/secret-path", SECRET)
    settings = Settings(webhook=webhook.url, webhook_secret=SECRET, smtp="smtps://ann:pass-word@example.org")
    for text in (repr(webhook), repr(settings)):
        assert not re.search(f"secret-path|{SECRET}|pass-word", text)


def test_a_server_may_say_by_a_date_when_it_is_to_be_asked_again(feed, hook):
    webhook, _, answers = hook
    later = datetime.now(UTC) + timedelta(hours=3)
    answers[:] = [(503, ("Retry-After", format_datetime(later, usegmt=True))), 200]
    assert post_digest(feed, webhook, "https://papers.example.org", now=MONDAY) == "retry"
    assert post_digest(feed, webhook, "https://papers.example.org", now=MONDAY + timedelta(hours=2)) == "nothing due"
    assert post_digest(feed, webhook, "https://papers.example.org", now=MONDAY + timedelta(hours=4)) == "sent"
