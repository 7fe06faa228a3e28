import io
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from paperworks.evidence import (
    html_report,
    judgements,
    judgements_json,
    judgements_table,
    markdown_report,
    read_evidence,
    write_reports,
)
from paperworks.evidence.store import add_entry

EVIL = '<script>alert("x")</script> | [link](x) *bold* `code`'


@pytest.fixture
def measured(write_paper, make_entry, tmp_path):
    """A measured paper with every kind of verdict and text that tries to break out, and a planned one."""
    paper = write_paper(
        tmp_path / "some_paper",
        "",
        {
            "holds": {"headline": True, "says": EVIL, "reported": EVIL},
            "named": {"bar": {"a": ">= 1", "b": "true"}},
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
    three = {"per_seed": {"": (1.0, 2.0, 3.0)}, "interval": {"": (1.0, 3.0)}, "seeds": (0, 1, 2)}
    for entry, figures in [
        (make_entry("holds", values={"": 2.0}, unit="s", table=table, remark=EVIL, **three), {".svg": b"<svg/>"}),
        (make_entry("named", values={"a": 1.5, "b": True}), {}),
        (make_entry("short", values={"": float("nan")}), {}),
        (make_entry("known", values={"": 0.25}), {}),
        (make_entry("early", values={"": 0.0}), {}),
        (make_entry("wrong", outcome="error", reason=EVIL, traceback=f"Traceback\n  {EVIL}"), {}),
        (make_entry("numpy", kind="peer", values={"": 0.5}), {}),
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
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_markdown_has_a_row_for_each_claim_and_race(measured):
    papers, folder = measured
    text = markdown_report(papers, folder)
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| ") and "`" in line}
    assert list(rows) == ["holds", "named", "short", "known", "early", "wrong", "missing", "numpy"]
    assert "| ★ `holds`" in rows["holds"]
    assert "2 s ± 1" in rows["holds"]
    assert rows["holds"].endswith("| **holds** |")
    assert "| a: 1.5<br>b: yes | `a: >= 1`<br>`b: true` |" in rows["named"]
    assert "**falls short**: nan, bar \\>= 1" in rows["short"]
    assert "**known shortfall**" in rows["known"]
    assert "**not at this scale**" in rows["early"]
    assert "**error**" in rows["wrong"]
    assert "**not measured**" in rows["missing"]
    assert "| numpy | 0.5 |" in rows["numpy"]
    assert "- `known`: reason " in text
    assert "desk scale · 2024-05-01 · revision 0123456789 · A CPU, 2 cores" in text
    assert "- **diffusion**: planned-paper" in text
    assert "1 papers. 7 claims: 1 error, 1 falls short, 2 holds, 1 known shortfall" in text
    assert "1 races: 1 holds." in text


def test_markdown_cells_can_not_be_broken_out_of(measured):
    papers, folder = measured
    for line in markdown_report(papers, folder).splitlines():
        if line.startswith("| ★") or "`wrong`" in line:
            assert line.replace("\\|", "").count("|") == 6
            assert "<script" not in line.replace("\\<", "")
            assert "[link](" not in line.replace("\\[", "")


def test_html_is_well_formed_and_escapes_everything(measured):
    papers, folder = measured
    page = Page(html_report(papers, folder))
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 7  # says, reported, remark, column, cell, note, reason, traceback
    assert page.tags.count("details") == 7
    assert "planned-paper" in page.text
    assert "0.1235" in page.text
    assert "value seed by seed: 1, 2, 3" in page.text


def test_html_needs_no_other_file_but_the_figures(measured):
    papers, folder = measured
    page = Page(html_report(papers, folder))
    assert "link" not in page.tags
    assert len(page.sources) == 1


def test_figures_are_linked_relative_to_the_page(measured, tmp_path):
    papers, folder = measured
    for beside in (tmp_path, tmp_path / "site" / "pages", folder):
        source = Page(html_report(papers, folder, beside)).sources[0]
        assert not os.path.isabs(source)
        assert (beside / source).resolve() == (folder / "some-paper" / "holds.desk.svg").resolve()
        assert f"]({source})" in markdown_report(papers, folder, beside)


def test_reports_are_the_same_for_the_same_evidence(measured):
    papers, folder = measured
    assert markdown_report(papers, folder) == markdown_report(papers, folder)
    assert html_report(papers, folder) == html_report(papers, folder)


def test_reports_are_written_where_they_are_asked_for(measured, tmp_path):
    papers, folder = measured
    write_reports(papers, folder=folder, markdown=tmp_path / "RESULTS.md")
    assert (tmp_path / "RESULTS.md").read_text() == markdown_report(papers, folder, tmp_path)
    write_reports(papers, folder=folder, html=tmp_path / "site" / "index.html")
    assert (tmp_path / "site" / "index.html").read_text() == html_report(papers, folder, tmp_path / "site")


def test_no_papers_make_an_empty_page():
    assert "0 papers" in markdown_report([], Path("nowhere"))
    Page(html_report([], Path("nowhere")))


def test_the_table_for_a_terminal_shows_text_as_it_is(measured):
    papers, folder = measured
    console = Console(width=200, file=io.StringIO())
    console.print(judgements_table(list(judgements(papers[0], read_evidence("some-paper", folder))), title="A title"))
    text = console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")
    for expected in ("A title", "★ holds", "2 s ± 1", ">= 1", "falls short", "known shortfall", "[link](x)", "numpy"):
        assert expected in text


def test_json_is_strict_and_whole(measured):
    papers, folder = measured

    def refuse(constant):
        raise AssertionError(constant)

    found = list(judgements(papers[0], read_evidence("some-paper", folder)))
    data = json.loads(judgements_json(found), parse_constant=refuse)
    by_id = {item["id"]: item for item in data}
    assert by_id["holds"]["verdict"] == "holds"
    assert by_id["holds"]["entry"]["per_seed"] == {"": [1.0, 2.0, 3.0]}
    assert by_id["short"]["entry"]["values"] == {"": "nan"}
    assert by_id["short"]["fails"] is True
    assert by_id["missing"]["entry"] is None
    assert by_id["numpy"]["kind"] == "peer"
    assert by_id["known"]["note"].startswith("reason")
    assert by_id["named"]["bars"] == {"a": ">= 1", "b": "true"}
