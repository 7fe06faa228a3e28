import pytest
from starlette.testclient import TestClient

from mail_server import mail_server
from paperworks.web import Settings, create_app
from site_visitor import EVIL, HOME, embed


@pytest.fixture
def post():
    with mail_server() as server:
        yield server


@pytest.fixture
def app(tmp_path, post):
    feed = str(tmp_path / "feed.db")
    settings = Settings(
        base_url=HOME, feed=feed, smtp=post.url, sender="papers@example.org", meaning=False, digests=False
    )
    return create_app(settings, embed=embed)


@pytest.fixture
def client(app):
    with TestClient(app, base_url=HOME) as client:
        app.state.site.store.add([EVIL])
        yield client


@pytest.fixture
def site(client):
    return client.app.state.site
