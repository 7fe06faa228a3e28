import hashlib
import re
from datetime import UTC, datetime

import numpy as np

from paperworks.feed import Entry

HOME = "http://localhost"


def embed(texts):
    """Stand in for the sentence model: a vector by the words of a text."""
    vectors = np.zeros((len(texts), 384), dtype=np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 384] += 1
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


EVIL = Entry(
    title="On <script>alert(1)</script> noise",
    arxiv_id="2611.00001",
    version=2,
    authors=["Ann <b>Lee</b>", "Bo Ito"],
    abstract='An "abstract" & more </p><img src=x onerror=alert(1)>.',
    categories=["cs.LG"],
    published=datetime(2026, 11, 25, 9, 30, tzinfo=UTC),
    links={"code": "https://example.org/code"},
)


def form_token(client, path):
    """Return the token of the first form of a page."""
    return re.search(r'name="form_token" value="([^"]+)"', client.get(path).text)[1]


def link_in(message):
    """Return the path of the link of a mail."""
    text = message.get_payload(decode=True).decode()
    return re.search(rf"{HOME}(/\S+)", text)[1]


def sign_in(client, post, email="ann@example.org", next="/"):
    """Sign someone in as they would do it, by the link in the mail."""
    token = form_token(client, "/sign-in")
    client.post("/sign-in", data={"email": email, "next": next, "form_token": token})
    link = link_in(post.got[-1][1])
    return client.post(link, data={"form_token": form_token(client, link)}, follow_redirects=False)
