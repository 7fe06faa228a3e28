import importlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

import paperworks
from paperworks import papers
from paperworks.evidence import notebook, run_papers
from paperworks.evidence.comparison import compare_paper
from paperworks.evidence.entry import Value
from paperworks.evidence.notebook_results import RESULTS, load_ipython_extension, result_html
from paperworks.evidence.results import results_of
from paperworks.evidence.same import Compared
from paperworks.evidence.store import read_evidence
from paperworks.evidence.verdicts import judge
from paperworks.papers import FIELDS

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
VOID = {"img"}
KNOWN = {
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "p",
    "ul",
    "li",
    "details",
    "summary",
    "pre",
    "code",
    "a",
}


class Checked(HTMLParser):
    """Reads markup, and fails where it is not well formed, or holds what no display of ours has."""

    def __init__(self, markup):
        super().__init__()
        self.open, self.words, self.tags = [], [], []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag in KNOWN | VOID
        for name, value in attributes:
            assert name in {"style", "scope", "href", "rel", "target", "src", "alt"}
            if name == "src":
                assert value.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
            if name == "href":
                assert value.startswith("https://")
            if name == "style":
                assert not re.search(r"color:(?!white)|url", value.replace("background:white", ""))
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def shown(thing):
    before = repr(thing)
    found = Checked(thing._repr_html_())
    assert repr(thing) == before
    return found


@pytest.fixture(scope="module")
def measured(write_paper, tmp_path_factory):
    """Run a paper whose record and evidence have markup in every text."""
    source = f"""
    EVIL = {EVIL!r}

    @measures("c1")
    def c1(run):
        figure, axes = run.figure()
        axes.plot([1, 2])
        table = Table((EVIL, "n"), ((EVIL, 1.5), (None, 2.0)))
        return Measurement({{"one": exact(2.0), "two": exact(0.0)}}, unit=EVIL, remark=EVIL, table=table, figure=figure)

    @measures("c2")
    def c2(run):
        raise RuntimeError(EVIL)

    @races("p1")
    def p1(run):
        return Measurement(exact(0.5), settings=EVIL)
    """
    texts = {"says": EVIL, "reported": EVIL, "measure": EVIL, "where": EVIL, "note": EVIL}
    bars = {"bar": {"one": ">= 1", "two": ">= 1"}, "labels": {"one": EVIL, "two": EVIL}}
    folder = tmp_path_factory.mktemp("notebook")
    paper = write_paper(
        folder / "fixture",
        source,
        {"c1": {**texts, **bars, "headline": True}, "c2": texts},
        {"p1": {"says": EVIL, "package": EVIL, "note": EVIL}},
    )
    paper = replace(
        paper,
        title=EVIL,
        authors=(EVIL,),
        field=EVIL,
        summary=EVIL,
        note=EVIL,
        methods=(EVIL,),
        links={"paper": f"javascript:{EVIL}"},
    )
    folder = folder / "evidence"
    report = run_papers([paper], kinds=["claim", "peer"], scale="smoke", folder=folder)
    return paper, folder, report


def test_all_that_is_shown_is_escaped_well_formed_and_of_one_piece(measured):
    paper, folder, report = measured
    evidence = read_evidence(paper.slug, folder)
    (results,) = results_of([paper], folder)
    claim = paper.claims[0]
    things = [
        paper,
        *paper.claims,
        *paper.peers,
        *results.all,
        results,
        replace(results, problem=EVIL),
        replace(report, unwritten=(EVIL,)),
        evidence,
        replace(evidence, problem=EVIL),
        *evidence.entries,
        judge(claim, evidence.newest("claim", "c1")),
        judge(paper.claims[1], evidence.newest("claim", "c2")),
        judge(claim, None),
        compare_paper(paper, folder),
        Compared("different", EVIL),
        replace(results.claims[0], own=results.claims[0]),
    ]
    for thing in things:
        shown(thing)
    words = shown(results.claims[0]).text
    for part in (EVIL, "✓", "✗", "known shortfall", ">= 1"):
        assert part in words


def test_tables_have_captions_and_headers(measured):
    _, _, report = measured
    found = shown(report)
    scopes = [attributes.get("scope") for tag, attributes in found.tags if tag == "th"]
    assert scopes.count("col") == 6
    assert scopes.count("row") == sum(len(view.values) for view in report.views)
    assert [tag for tag, _ in found.tags].count("caption") == 1


def test_a_figure_is_in_the_page_with_words_for_it(measured):
    _, _, report = measured
    (picture,) = [attributes for tag, attributes in shown(report.views[0]).tags if tag == "img"]
    assert picture["alt"] == f"Figure of c1: {EVIL}"
    assert notebook.picture(Path("nothing.png"), "words") == notebook.picture(None, "words") == ""


def test_a_long_table_is_cut():
    found = Checked(notebook.table("many", ("n",), [(n,) for n in range(notebook.ROWS + 5)]))
    assert [tag for tag, _ in found.tags].count("tr") == notebook.ROWS + 1
    assert "and 5 more rows" in found.text


def test_a_paper_is_looked_up_by_its_slug():
    found = paperworks.paper("dpm-solver")
    assert found.paper == papers.load("dpm-solver")
    words = shown(found).text
    for part in ("DPM-Solver: A Fast ODE Solver", "c1-orders", "Claims", "Races", "Usage"):
        assert part in words
    with pytest.raises(papers.UnknownPaper, match="did you mean dpm-solver"):
        paperworks.paper("dpm-solve")
    shown(papers.load("dpm-solver"))


def test_plain_text_is_as_it_was():
    assert repr(Compared("equal")) == "Compared(result='equal', detail='')"
    assert repr(Value(1.0)) == "Value(value=1.0, low=None, high=None, method='', samples=())"


class Formatter:
    """Stands in for IPython's, of which it has the one method that is called."""

    def __init__(self):
        self.known = {}

    def for_type_by_name(self, module, name, show):
        self.known[module, name] = show


def test_the_extension_names_every_result_that_is_exported():
    formatter = Formatter()
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"text/html": formatter}))
    paperworks.load_ipython_extension(shell)
    exported = set()
    for field in (*FIELDS, "numerics"):
        package = importlib.import_module(f"paperworks.{field}")
        for name in package.__all__:
            if name.endswith(("Result", "BDIAImages")):
                exported.add((getattr(package, name).__module__, name))
    assert exported <= set(formatter.known)
    for module, name in formatter.known:
        assert isinstance(getattr(importlib.import_module(module), name), type)
    assert set(formatter.known.values()) == {result_html}
    assert paperworks.load_ipython_extension is load_ipython_extension
    assert sum(map(len, RESULTS.values())) == len(formatter.known)


class TestResult(NamedTuple):
    __test__ = False
    statistic: float
    reject: bool
    samples: np.ndarray
    image: torch.Tensor
    name: str
    parts: dict
    none: object = None


def test_results_are_tables_of_their_fields():
    image = torch.linspace(-1, 1, 60, requires_grad=True).reshape(3, 4, 5)
    result = TestResult(1 / 3, True, np.array([1.0, np.nan]), image, EVIL, {EVIL: [1, 2]})
    words = Checked(result_html(result)).text
    for part in (
        "0.3333",
        "yes",
        "1, nan (2, float64)",
        "3 × 4 × 5, float32, from -1 to 1",
        EVIL,
        f"{EVIL}: 1, 2",
        "–",
    ):
        assert part in words
    for odd in (
        np.empty((0, 3)),
        np.array(["a", EVIL] * 10),
        torch.zeros(20, dtype=torch.complex64),
        10**400,
        [0] * 50,
    ):
        Checked(result_html(result._replace(samples=odd)))


def test_a_solver_s_result_is_shown():
    from paperworks.solvers import sor

    result = sor(np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([1.0, 2.0]), omega=1.2)
    words = Checked(result_html(result)).text
    for name in ("x", "info", "iterations", "converged", "residual_norms"):
        assert name in words
