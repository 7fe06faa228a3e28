import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from paperworks.evidence import paper_views, read_evidence
from paperworks.feed.api_tokens import ApiTokens
from paperworks.papers import load
from paperworks.web.account import WRITES
from site_visitor import HOME


def test_no_call_fails_whatever_is_asked(client, site, monkeypatch):
    monkeypatch.setitem(WRITES, "times", 10_000)
    token = ApiTokens(site.store).make(site.people.of_email("ann@example.org"), "tests")
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", client.app, headers={"Host": "localhost"})
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 17
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def ask(case):
            response = case.call(headers={"Host": "localhost", "Authorization": f"Bearer {token}"})
            assert response.status_code < 500, response.text
            assert response.status_code not in (401, 429)

        ask()


def test_a_paper_of_ours_has_its_claims(client):
    paper = client.get("/api/papers/dpm-solver").json()
    assert paper["arxiv"] == "2206.00927"
    shown = {view.id: view for view in paper_views(load("dpm-solver"), read_evidence("dpm-solver"))}
    for claim in paper["claims"]:
        assert claim["verdict"] == shown[claim["id"]].verdict
        assert [value["text"] for value in claim["values"]] == [value.text for value in shown[claim["id"]].values]
    assert "DPMSolver" in paper["usage"]


def test_lists_and_searches_are_the_pages_own(client):
    assert client.get("/api/papers").json()["papers"][0]["url"] == f"{HOME}/paper/2611.00001"
    found = client.get("/api/search", params={"q": "sample in ten steps"}).json()["papers"]
    assert found[0]["url"] == f"{HOME}/paper/dpm-solver"
    shown = paper_views(load("dpm-solver"), read_evidence("dpm-solver"))
    holding = sum(view.kind == "claim" and view.verdict == "holds" for view in shown)
    assert found[0]["claims"] == {"hold": holding, "of": 6}
    assert client.get("/api/trending/week").json()["more"]
    assert "diffusion" in client.get("/api/fields").json()
    assert len(client.get("/api/results").json()) == 51


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/papers/none", 404),
        ("/api/search?q=-a", 400),
        ("/api/search", 422),
        ("/api/trending/x", 422),
        ("/api/x", 404),
    ],
)
def test_errors_are_json(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.json()["detail"]
