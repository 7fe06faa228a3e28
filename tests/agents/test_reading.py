import ast
import base64
import io
import json
import subprocess
import sys

import matplotlib.image
import pytest
from jsonschema import validate
from mcp import MCPError

from paperworks import papers
from paperworks.evidence import store
from paperworks.papers import recordcache

MOST = 60_000  # characters of an answer


def test_listing_and_showing_import_no_torch():
    code = """
import sys, anyio
from mcp import Client
from paperworks.agents import create_server

async def main():
    async with Client(create_server()) as client:
        paper = {"paper": "dpm-solver"}
        for call in (("list_papers", {}), ("show_paper", paper), ("show_method", {"name": "DPMSolver"})):
            assert not (await client.call_tool(*call)).is_error

anyio.run(main)
print([name for name in ("torch", "scipy", "matplotlib") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_tool_says_what_it_does_takes_and_gives(ask):
    tools = {tool.name: tool for tool in ask.do(lambda client: client.list_tools()).tools}
    assert set(tools) == {
        "search_papers", "list_papers", "list_fields", "show_paper", "similar_papers", "show_method", "read_evidence",
        "show_races", "compare_evidence", "run_claim",
    }  # fmt: skip
    for name, tool in tools.items():
        assert tool.description.endswith(".")
        assert len(tool.description) < 130
        assert tool.output_schema["type"] == "object"
        assert tool.annotations.read_only_hint is (name != "run_claim")
        assert tool.annotations.destructive_hint is tool.annotations.open_world_hint is False


CALLS = {
    "search_papers": {"words": "sample a diffusion model in 10 steps", "field": "diffusion", "limit": 3},
    "list_papers": {"field": "audio"},
    "list_fields": {},
    "show_paper": {"paper": "dpm-solver"},
    "similar_papers": {"paper": "dpm-solver", "limit": 3},
    "show_method": {"name": "DPMSolver"},
    "read_evidence": {"paper": "dpm-solver", "claim": "c1-orders"},
    "show_races": {"paper": "dpm-solver"},
    "compare_evidence": {"paper": "dpm-solver"},
}


def test_each_answers_by_its_schema(ask):
    async def both(client):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        return tools, {name: await client.call_tool(name, given) for name, given in CALLS.items()}

    tools, results = ask.do(both)
    for name, result in results.items():
        assert not result.is_error, result.content[0].text
        validate(result.structured_content, tools[name].output_schema)
        assert json.loads(result.content[0].text) == result.structured_content
    given = {name: result.structured_content for name, result in results.items()}
    assert given["search_papers"]["papers"][0]["slug"] == "dpm-solver"
    assert {row["field"] for row in given["list_papers"]["papers"]} == {"audio"}
    assert sum(row["papers"] for row in given["list_fields"]["fields"]) == len(papers.slugs())
    assert given["show_paper"]["methods"] == list(papers.load("dpm-solver").methods)
    assert {row["slug"] for row in given["similar_papers"]["papers"]} & {"pndm", "bdia", "adjoint-dpm"}
    assert given["show_method"]["import_line"] == "from paperworks.diffusion import DPMSolver"
    assert "DPMSolver(" in given["show_method"]["usage"]
    assert given["read_evidence"]["history"][0]["scale"] == "desk"
    assert [race["package"] for race in given["show_races"]["races"]] == given["show_paper"]["peers"]
    assert {row["kind"] for row in given["compare_evidence"]["comparisons"]} == {"claim", "race"}


def test_a_page_of_a_list_goes_on_where_the_last_one_ended(ask):
    one, two, whole = ask(
        ("list_papers", {"limit": 2}), ("list_papers", {"offset": 2, "limit": 2}), ("list_papers", {"limit": 4})
    )
    slugs = [[row["slug"] for row in page.structured_content["papers"]] for page in (one, two, whole)]
    assert slugs[0] + slugs[1] == slugs[2] == papers.slugs()[:4]
    assert one.structured_content["total"] == len(papers.slugs())


def test_a_figure_comes_as_png(ask):
    (result,) = ask(("read_evidence", {"paper": "dpm-solver", "claim": "c1-orders", "figure": True}))
    _, picture = result.content
    assert (picture.type, picture.mime_type) == ("image", "image/png")
    drawn = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture.data)), format="png")
    assert drawn.shape[1] > 500
    assert drawn[..., :3].std() > 0.05  # something is drawn


def test_answers_are_bounded(ask):
    every = [(tool, {"paper": slug}) for slug in papers.slugs()[::4] for tool in ("show_paper", "show_races")]
    assert max(len(result.content[0].text) for result in ask(("list_papers", {"limit": 100}), *every)) < MOST


WRONG = {
    "search_papers": [
        ({"words": ""}, "words is ''"),
        ({"words": "x" * 401}, "words is 'xxx"),
        ({"words": "?!"}, "it takes at least one word"),
        ({"words": ["a"]}, "valid string"),
        ({"words": "a", "limit": 0}, "limit is 0"),
        ({"words": "a", "limit": 10**30}, "limit is"),
        ({"words": "a", "limit": float("nan")}, "limit is"),
        ({"words": "a", "limit": "many"}, "limit is 'many'"),
        ({"words": "a", "field": "alchemy"}, "field is 'alchemy'; it takes one of diffusion"),
        ({"words": "a", "colour": "red"}, "takes no 'colour'; it takes field, limit, words"),
        ({}, "words is missing"),
    ],
    "list_papers": [({"offset": -1}, "offset is -1"), ({"field": None}, "field is None")],
    "show_paper": [
        ({"paper": "../../etc/passwd"}, "paper is '../../etc/passwd', which is no paper's short name"),
        ({"paper": "dpm_solver\n"}, "did you mean dpm-solver?"),
        ({"paper": "x" * 100_000}, "paper is"),
        ({"paper": "dpm-solve"}, "did you mean dpm-solver?"),
        ({"paper": "DPM-Solver"}, "did you mean dpm-solver?"),
        ({"paper": "paperworks.diffusion.DPMSolver"}, "did you mean dpm-solver?"),
        ({"paper": "2206.00927"}, "did you mean dpm-solver?"),
        ({"paper": papers.load("dpm-solver").title}, "did you mean dpm-solver?"),
        ({"paper": ""}, "search_papers and list_papers give the short names"),
        ({"paper": {"slug": "dpm-solver"}}, "valid string"),
    ],
    "show_method": [
        ({"name": "os.system"}, "which is no paper's method"),
        ({"name": "DPMSolve"}, "did you mean DPMSolver"),
        ({"name": "\x00"}, "which is no paper's method"),
        ({"name": "dpm-solver"}, "did you mean paperworks.diffusion.DPMSolver or"),
        ({"name": "paperworks.audio.DPMSolver"}, "which is no paper's method"),
        ({"name": "ModelFn"}, "is no class or function"),
    ],
    "read_evidence": [
        ({"paper": "dpm-solver", "claim": "../history"}, "claim is '../history'"),
        ({"paper": "dpm-solver", "claim": "c9"}, "it has c1-orders, "),
        ({"paper": "dpm-solver", "claim": "c1-order"}, "did you mean c1-orders"),
        ({"paper": "dpm-solver", "claim": ""}, "it has c1-orders, "),
        ({"paper": "dpm-solver", "claim": "c1-orders", "whose": "theirs"}, "whose is 'theirs'"),
    ],
    "run_claim": [
        ({"paper": "dpm-solver", "claim": "c1-orders", "scale": "full"}, "scale is 'full'"),
        ({"paper": "dpm-solver", "claim": "c1-orders", "seconds": 10**6}, "seconds is 1000000"),
        ({"paper": "nothing", "claim": "c1-orders"}, "paper is 'nothing'"),
        ({"paper": "dpm-solver", "claim": "nothing"}, "claim is 'nothing'"),
    ],
    "no_such_tool": [({}, "Unknown tool")],
}


def test_what_is_wrong_with_a_call_is_said_in_one_sentence(ask, told, tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWORKS_EVIDENCE", str(tmp_path))
    calls = [(name, given, says) for name, wrong in WRONG.items() for given, says in wrong]
    for result, (*_, says) in zip(ask(*((name, given) for name, given, _ in calls)), calls, strict=True):
        assert says in told(result)
    assert list(tmp_path.iterdir()) == []


def test_what_usage_code_imports_can_be_shown(ask):
    names = [
        f"{statement.module}.{alias.name}"
        for paper in papers.load_all()
        for statement in ast.walk(ast.parse(paper.usage))
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("paperworks.")
        for alias in statement.names
        if not alias.name.isupper()  # a constant, which has no signature
    ]
    names = sorted(set(names))
    assert "paperworks.diffusion.NoiseScheduleVP" in names
    for name, result in zip(names, ask(*(("show_method", {"name": name}) for name in names)), strict=True):
        assert not result.is_error, result.content[0].text
        package, _, last = name.rpartition(".")
        assert result.structured_content["import_line"] == f"from {package} import {last}"
        assert last in result.structured_content["usage"]


@pytest.mark.parametrize(
    "name",
    ["dpmsolver", "diffusion.DPMSolver", "paperworks.diffusion.dpm_solver.DPMSolver", "paperworks.Diffusion.dpmsolver"],
)
def test_a_method_is_known_however_its_name_is_written(ask, name):
    (result,) = ask(("show_method", {"name": name}))
    assert result.structured_content["name"] == "paperworks.diffusion.DPMSolver"


def test_a_defect_of_ours_shows_nothing_of_itself(ask, told, monkeypatch):
    def fail(slug):
        raise RuntimeError("/a/secret/path")

    monkeypatch.setattr("paperworks.agents.reading.show_paper", fail)
    (result,) = ask(("show_paper", {"paper": "dpm-solver"}))
    assert told(result) == "Error executing tool show_paper"


def test_evidence_that_can_t_be_read_is_told(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWORKS_EVIDENCE", str(tmp_path))
    (tmp_path / "dpm-solver").mkdir()
    (tmp_path / "dpm-solver" / store.HISTORY).write_text("no JSON\n")
    (result,) = ask(("compare_evidence", {"paper": "dpm-solver"}))
    (problem,) = result.structured_content["problems"]
    assert "line 1" in problem


def test_calls_at_once_answer_each_as_alone(ask):
    async def all_at_once(client):
        import anyio

        found = {}

        async def call(slug):
            found[slug] = (await client.call_tool("show_paper", {"paper": slug})).structured_content["slug"]

        async with anyio.create_task_group() as group:
            for slug in papers.slugs()[:12]:
                group.start_soon(call, slug)
        return found

    found = ask.do(all_at_once)
    assert found == {slug: slug for slug in papers.slugs()[:12]}


def test_a_call_that_comes_while_the_cache_of_records_is_read_finds_it_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("PAPERWORKS_CACHE", str(tmp_path))
    (tmp_path / "records.json").write_text("{}")
    cache, read, found = recordcache._Cache(), json.loads, []

    def loads(content):
        if not found:
            found.append("asked")
            found.append(sorted(cache.open()))  # what another thread does meanwhile
        return read(content)

    monkeypatch.setattr(recordcache.json, "loads", loads)
    assert sorted(cache.open()) == found[1] == ["entry points", "form", "records"]


def test_a_defect_that_is_a_key_error_shows_nothing_of_itself_either(ask, told, monkeypatch):
    monkeypatch.setattr("paperworks.agents.reading.show_paper", lambda slug: {}["secret"])
    (result,) = ask(("show_paper", {"paper": "dpm-solver"}))
    assert told(result) == "Error executing tool show_paper"


def test_what_is_missing_is_told_with_what_it_takes(ask, told):
    (result,) = ask(("run_claim", {"paper": "dpm-solver"}))
    assert told(result).startswith("claim is missing; it takes this: Id of a claim or race, such as c1-orders")


class TestResourcesAndPrompts:
    def test_pages_are_markdown(self, ask):
        async def pages(client):
            uris = ["paperworks://papers", "paperworks://papers/dpm-solver", "paperworks://evidence/dpm-solver"]
            return [(await client.read_resource(uri)).contents[0] for uri in uris]

        listed, page, own = ask.do(pages)
        assert {content.mime_type for content in (listed, page, own)} == {"text/markdown"}
        assert "- [dpm-solver](paperworks://papers/dpm-solver): DPM-Solver" in listed.text
        assert page.text.startswith("# DPM-Solver")
        for part in ("## Methods", "## Usage", "## Claims", "`c1-orders`", "## Races"):
            assert part in page.text

    @pytest.mark.parametrize("name", ["nothing", "..%2F..%2Fetc", "%00", "x" * 5000])
    def test_what_is_not_there_is_no_resource(self, ask, name):
        async def read(client):
            with pytest.raises(MCPError, match=r"nknown resource|no paper") as error:
                await client.read_resource(f"paperworks://papers/{name}")
            return str(error.value)

        assert "Traceback" not in ask.do(read)

    def test_names_of_papers_are_completed(self, ask):
        from mcp.types import ResourceTemplateReference

        ref = ResourceTemplateReference(type="ref/resource", uri="paperworks://papers/{paper}")
        found = ask.do(lambda client: client.complete(ref, {"name": "paper", "value": "dpm"}))
        assert found.completion.values == ["dpm-solver"]

    def test_prompts_carry_what_they_are_given(self, ask):
        prompts = {prompt.name for prompt in ask.do(lambda client: client.list_prompts()).prompts}
        assert prompts == {"solve_with_a_paper", "check_a_paper"}
        got = ask.do(lambda client: client.get_prompt("check_a_paper", {"paper": "dpm-solver"}))
        assert "dpm-solver" in got.messages[0].content.text
