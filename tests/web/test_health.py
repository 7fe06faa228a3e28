from sqlalchemy.exc import OperationalError


def test_a_site_whose_database_answers_is_well(client):
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers


def test_one_whose_database_is_gone_is_not(client, site, monkeypatch):
    def session():
        raise OperationalError("SELECT 1", {}, OSError("gone"))

    monkeypatch.setattr(site.store, "session", session)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (503, {"status": "the database doesn't answer"})
