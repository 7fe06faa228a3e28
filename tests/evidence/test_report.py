import io
import json
import os
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from paperworks.evidence import (
    claims_json,
    claims_table,
    paper_views,
    read_evidence,
    report,
    results_of,
    write_reports,
)
from paperworks.evidence.entry import Value
from paperworks.evidence.report import paper_page, results_page
from paperworks.evidence.report_html import html_report
from paperworks.evidence.store import add_entry

EVIL = '<script>alert("x")</script> | [link](x) *bold* `code`'


@pytest.fixture
def measured(write_paper, make_entry, value, tmp_path):
    """A measured paper with every kind of verdict and text that tries to break out, and a planned one."""
    paper = write_paper(
        tmp_path / "some_paper",
        "",
        {
            "holds": {"headline": True, "says": EVIL, "reported": EVIL, "where": EVIL, "labels": {"": EVIL}},
            "named": {"bar": {"a": ">= 1", "b": "true"}, "labels": {"a": "the first one"}},
            "open": {},
            "short": {},
            "known": {"note": f"reason {EVIL}"},
            "early": {"scale": "full"},
            "wrong": {},
            "missing": {},
        },
        {"numpy": {"says": "time, ours / NumPy"}},
    )
    folder = tmp_path / "evidence"
    table = {"columns": ["steps", EVIL], "rows": [[10, None], [0.123456, EVIL]]}
    three = Value(2.0, 1.0, 3.0, "Student's t over 3 seeds", (1.0, 2.0, 3.0))
    for entry, figures in [
        (
            make_entry(
                "holds", values={"": three}, unit="s", table=table, remark=EVIL, seeds=(0, 1, 2), recordings=(EVIL,)
            ),
            {".svg": b"<svg/>", ".1.wav": b"RIFF"},
        ),
        (make_entry("holds", outcome="stopped", reason=EVIL), {}),
        (make_entry("named", values={"a": value(1.5), "b": value(True)}), {}),
        (make_entry("open", values={"": value(1.0, 0.5)}), {}),
        (make_entry("short", values={"": value(float("nan"))}), {}),
        (make_entry("known", values={"": value(0.25)}), {}),
        (make_entry("early", values={"": value(0.0)}), {}),
        (make_entry("wrong", outcome="error", reason=EVIL, traceback=f"Traceback\n  {EVIL}"), {}),
        (make_entry("numpy", kind="peer", values={"": value(0.5)}, settings=EVIL, floor=0.25), {}),
    ]:
        add_entry(paper.slug, folder, entry, figures)
    planned = write_paper(tmp_path / "planned_paper", "", {"c1": {}})
    (planned.folder / "claims.py").unlink()
    return [paper, planned], folder


class Page(HTMLParser):
    """Collects tags and text, and fails where tags don't close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.sources = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name == "src"]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def results(measured):
    return results_of(*measured)


def test_the_results_page_has_a_line_for_each_paper(measured, results):
    papers, folder = measured
    text = results_page(papers, results, folder.parent, folder)
    (row,) = [line for line in text.splitlines() if line.startswith("| [")]
    assert row.startswith("| [some-paper](evidence/some-paper/README.md): A \\<b\\>title\\</b\\> | diffusion |")
    assert "1 error, 1 falls short, 2 holds, 1 known shortfall, 1 not at this scale" in row
    assert "1 undecided | 1 holds | 2024-05-01, 7 outdated |" in row
    assert "- **diffusion**: planned-paper" in text
    assert "**1 papers. 8 claims: " in text
    assert "7 of all are outdated.**" in text


def test_the_page_of_a_paper_has_all_that_is_known_of_each_claim(results):
    text = paper_page(results[0])
    claims = {part.split("`")[1]: part for part in text.split("\n### ")[1:]}
    assert list(claims) == ["holds", "named", "open", "short", "known", "early", "wrong", "missing", "numpy"]
    assert claims["holds"].startswith("★ `holds`")
    assert "**holds, outdated**" in claims["holds"]
    assert "2 s \\[1, 3\\] | `>= 1` ✓ |" in claims["holds"]
    assert "![Figure of holds](holds.desk.svg)" in claims["holds"]
    assert re.search(r"^Listen: \[.+\]\(holds\.desk\.1\.wav\)$", claims["holds"], re.MULTILINE)
    assert "A newer run gave no value: stopped, 2024-05-01" in claims["holds"]
    assert "3 seeds · Student's t over 3 seeds" in claims["holds"]
    assert "| the first one | 1.5 | `>= 1` ✓ |" in claims["named"]
    assert "| b | yes | `true` ✓ |" in claims["named"]
    assert "**undecided, outdated** (\\[0.5, 1.5\\], bar \\>= 1)" in claims["open"]
    assert "`>= 1` ?" in claims["open"]
    assert "**falls short, outdated** (nan, bar \\>= 1)" in claims["short"]
    assert "**known shortfall, outdated**" in claims["known"]
    assert "**error**" in claims["wrong"]
    assert "**not measured**" in claims["missing"]
    assert "Floor: 0.25, what the shared kernel alone costs." in claims["numpy"]
    assert "desk scale · 2024-05-01 · revision 0123456789 · A CPU, 2 cores" in claims["numpy"]


def test_markdown_can_not_be_broken_out_of(measured, results):
    papers, folder = measured
    for page in (paper_page(results[0]), results_page(papers, results, folder, folder)):
        assert "<script" not in page.replace("\\<", "")
        assert "[link](" not in page.replace("\\[", "")
        for line in page.splitlines():
            if line.startswith("| ") and "alert" in line:
                assert line.replace("\\|", "").count("|") == 4


def test_html_is_well_formed_and_escapes_everything(measured, results):
    papers, folder = measured
    page = Page(html_report(papers, results, folder, folder))
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 10  # says, reported, where, label, remark, column, cell, note, reason, traceback …
    assert page.tags.count("details") == 8
    assert "planned-paper" in page.text
    assert "0.1235" in page.text
    assert "one by one: 1, 2, 3" in page.text
    assert "link" not in page.tags
    assert [source.rpartition(".")[2] for source in page.sources] == ["svg", "wav"]


def test_figures_are_linked_relative_to_the_page(measured, results, tmp_path):
    papers, folder = measured
    for beside in (tmp_path, tmp_path / "site" / "pages", folder):
        source = Page(html_report(papers, results, beside, folder)).sources[0]
        assert not os.path.isabs(source)
        assert (beside / source).resolve() == (folder / "some-paper" / "holds.desk.svg").resolve()


def test_reports_are_written_where_they_are_asked_for(measured, tmp_path):
    papers, folder = measured
    written = write_reports(papers, folder=folder, markdown=tmp_path / "RESULTS.md", html=tmp_path / "r.html")
    assert written == [folder / "some-paper" / "README.md", tmp_path / "RESULTS.md", tmp_path / "r.html"]
    before = [path.read_bytes() for path in written]
    write_reports(papers, folder=folder, markdown=tmp_path / "RESULTS.md", html=tmp_path / "r.html")
    assert [path.read_bytes() for path in written] == before


def test_an_installed_package_is_not_written_into(measured, tmp_path, monkeypatch):
    papers, folder = measured
    monkeypatch.setattr(report, "committed_folder", lambda: folder)
    monkeypatch.setattr(report, "checkout", lambda: None)
    assert write_reports(papers, markdown=tmp_path / "RESULTS.md") == [tmp_path / "RESULTS.md"]
    assert "README.md" not in (tmp_path / "RESULTS.md").read_text(), "no link leads nowhere"


def test_a_history_that_can_not_be_read_costs_its_own_paper_a_line(measured):
    papers, folder = measured
    history = folder / "some-paper" / "history.jsonl"
    history.write_text(history.read_text() + "{")
    text = results_page(papers, results_of(papers, folder), folder, folder)
    assert "line 10: malformed, left out" in text


def test_the_table_for_a_terminal(measured):
    papers, folder = measured
    console = Console(width=240, file=io.StringIO())
    own = read_evidence("some-paper", folder)
    console.print(claims_table(paper_views(papers[0], own, own), title="A title"))
    text = console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")
    for expected in (
        "A title",
        "★ holds",
        "2 s [1, 3]",
        ">= 1",
        "falls short",
        "known shortfall",
        "[link](x)",
        "numpy",
    ):
        assert expected in text
    for expected in (
        "undecided",
        "outdated: the code has changed since",
        "newer run: stopped",
        "yours, ",
        "the first one",
    ):
        assert expected in text


def test_json_is_strict_and_the_same_everywhere(measured):
    papers, folder = measured

    def refuse(constant):
        raise AssertionError(constant)

    found = paper_views(papers[0], read_evidence("some-paper", folder))
    by_id = {item["id"]: item for item in json.loads(claims_json(found), parse_constant=refuse)}
    (value,) = by_id["holds"]["values"]
    assert (value["value"], value["low"], value["high"], value["holds"]) == (2.0, 1.0, 3.0, True)
    assert value["samples"] == [1.0, 2.0, 3.0]
    assert by_id["holds"]["figures"] == ["holds.desk.1.wav", "holds.desk.svg"]
    assert by_id["short"]["values"][0]["value"] is None
    assert by_id["short"]["values"][0]["text"] == "nan"
    assert by_id["short"]["fails"] is True
    assert by_id["missing"]["date"] == ""
    assert by_id["numpy"]["kind"] == "peer"
    assert by_id["known"]["note"].startswith("reason")
    assert [(v["label"], v["bar"]) for v in by_id["named"]["values"]] == [("the first one", ">= 1"), ("b", "true")]
