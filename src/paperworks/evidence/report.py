"""The results page of all papers, in Markdown and as one static HTML page, from their records and evidence."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from paperworks.evidence import formatting
from paperworks.evidence.benchmark import Benchmark, read_benchmarks
from paperworks.evidence.entry import Entry, Kind
from paperworks.evidence.files import write_atomically
from paperworks.evidence.record import Paper
from paperworks.evidence.store import Evidence, read_evidence
from paperworks.evidence.verdicts import Judgement, count_verdicts, judgements

_INTRODUCTION = (
    "What each paper reports, and what its claims measured when they were run here. A verdict is computed from the "
    "measurement and the claim's bar; a known shortfall is one whose reason was found. ± is half the 95 % confidence "
    "interval of the mean over seeds; ★ marks what a paper is known for."
)


def write_reports(
    papers: Sequence[Paper], *, folder: Path | None = None, markdown: Path | None = None, html: Path | None = None
) -> None:
    """Write the results page to `markdown` and `html`, whichever is given; figures are linked relative to it."""
    for path, write in ((markdown, markdown_report), (html, html_report)):
        if path is not None:
            write_atomically(path, write(papers, folder, path.parent).encode())


def markdown_report(papers: Sequence[Paper], folder: Path | None = None, beside: Path = Path()) -> str:
    """Write the results page as Markdown.

    Parameters
    ----------
    papers
        Whose evidence to show, in this order; planned papers are listed at the end.
    folder
        Where the evidence is; as for `read_evidence` by default.
    beside
        The folder that the page will be in, for the links to figures.
    """
    shown, planned = _read(papers, folder)
    lines = ["# Results", "", _INTRODUCTION, "", f"**{_summary(shown)}**", ""]
    for results in shown:
        lines += _markdown_paper(results, beside)
    for benchmark in read_benchmarks(folder):
        lines += _markdown_benchmark(benchmark)
    if planned:
        lines += ["## Planned", "", *(f"- **{field}**: {', '.join(slugs)}" for field, slugs in planned.items()), ""]
    return "\n".join(lines)


def html_report(papers: Sequence[Paper], folder: Path | None = None, beside: Path = Path()) -> str:
    """Write the results page as one HTML document that needs no script and no other file but the figures.

    The parameters are those of `markdown_report`.
    """
    shown, planned = _read(papers, folder)
    contents = "".join(
        f'<li><a href="#{escape(r.paper.slug)}">{escape(r.paper.slug)}</a> {escape(count_verdicts(r.claims))}</li>'
        for r in shown
    )
    listed = "".join(
        f"<dt>{escape(field)}</dt><dd>{', '.join(map(escape, slugs))}</dd>" for field, slugs in planned.items()
    )
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Results – Paperworks</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_CSS}</style></head><body><h1>Results</h1>",
            f"<p>{escape(_INTRODUCTION)}</p><p><strong>{escape(_summary(shown))}</strong></p>",
            f"<ul class=contents>{contents}</ul>",
            *(_html_paper(results, beside) for results in shown),
            *map(_html_benchmark, read_benchmarks(folder)),
            f"<h2>Planned</h2><dl>{listed}</dl>" if planned else "",
            "</body></html>",
            "",
        ]
    )


@dataclass(frozen=True)
class _Results:
    paper: Paper
    evidence: Evidence
    claims: list[Judgement]
    peers: list[Judgement]

    @property
    def all(self) -> list[Judgement]:
        return self.claims + self.peers

    @property
    def tables(self) -> list[tuple[tuple[str, ...], list[Judgement]]]:
        """The tables that there is something in, each with its columns."""
        claims = (("claim", "reported", "measured", "bar", "verdict"), self.claims)
        peers = (("race", "peer", "measured", "bar", "verdict"), self.peers)
        return [table for table in (claims, peers) if table[1]]

    @property
    def origin(self) -> str:
        """Say once what the entries have in common, and what they differ in as a list."""
        entries = [judgement.entry for judgement in self.all if judgement.entry]
        parts: list[Callable[[Entry], str]] = [
            lambda e: f"{e.scale} scale",
            lambda e: e.provenance.date[:10],
            _revision,
            lambda e: f"{e.provenance.machine['cpu']}, {e.provenance.machine['cores']} cores",
        ]
        return " · ".join(found for part in parts if (found := " / ".join(_distinct(map(part, entries)))))


def _read(papers: Sequence[Paper], folder: Path | None) -> tuple[list[_Results], dict[str, list[str]]]:
    shown, planned = [], dict[str, list[str]]()
    for paper in papers:
        if paper.planned:
            planned.setdefault(paper.field, []).append(paper.slug)
            continue
        evidence = read_evidence(paper.slug, folder)
        found: dict[Kind, list[Judgement]] = {"claim": [], "peer": []}
        for judgement in judgements(paper, evidence):
            found[judgement.kind].append(judgement)
        shown.append(_Results(paper, evidence, found["claim"], found["peer"]))
    return shown, dict(sorted(planned.items()))


def _summary(shown: Sequence[_Results]) -> str:
    claims = [judgement for results in shown for judgement in results.claims]
    peers = [judgement for results in shown for judgement in results.peers]
    return (
        f"{len(shown)} papers. {len(claims)} claims: {count_verdicts(claims)}. "
        f"{len(peers)} races: {count_verdicts(peers)}."
    )


def _revision(entry: Entry) -> str:
    commit, _, dirty = entry.provenance.revision.partition("+")
    return f"revision {commit[:10]}{'+' + dirty if dirty else ''}" if commit else ""


def _origin_of(entry: Entry) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(entry.provenance.versions.items()))
    seeds = f"seeds {', '.join(map(str, entry.seeds))}"
    time = f"{formatting.duration(entry.seconds)} on {entry.provenance.threads} thread(s)"
    parts = [f"{entry.scale} scale", seeds, time, entry.provenance.date, _revision(entry), versions]
    return " · ".join(part for part in parts if part)


def _source(paper: Paper) -> tuple[str, str]:
    """Return the name and address of where the paper itself is."""
    if paper.arxiv:
        return f"arXiv {paper.arxiv}", f"https://arxiv.org/abs/{paper.arxiv}"
    return f"doi {paper.doi}", f"https://doi.org/{paper.doi}"


def _remarks(results: _Results) -> Iterable[tuple[Judgement, str]]:
    """Give what has to be said of single claims: notes of the record, remarks of the run, why there is no value."""
    for judgement in results.all:
        if judgement.item.note:
            yield judgement, judgement.item.note
        if judgement.entry and judgement.entry.remark:
            yield judgement, judgement.entry.remark


def _figure(results: _Results, entry: Entry | None, suffix: str, beside: Path) -> str:
    """Return the address of the entry's figure relative to `beside`, empty where it has none."""
    for path in results.evidence.figure_paths(entry) if entry else []:
        if path.suffix == suffix:
            return Path(os.path.relpath(path, beside)).as_posix()
    return ""


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


# Markdown


def _markdown_paper(results: _Results, beside: Path) -> list[str]:
    paper = results.paper
    name, address = _source(paper)
    lines = [f"## {paper.slug}", "", f"{_md(paper.title)} ([{_md(name)}]({address}))", ""]
    if results.origin:
        lines += [f"<sub>{_md(results.origin)} · `paperworks run {paper.slug}`</sub>", ""]
    for columns, found in results.tables:
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [*(_markdown_row(judgement, results, beside) for judgement in found), ""]
    if notes := [f"- `{judgement.item.id}`: {_md(text)}" for judgement, text in _remarks(results)]:
        lines += [*notes, ""]
    return lines


def _markdown_row(judgement: Judgement, results: _Results, beside: Path) -> str:
    figure = _figure(results, judgement.entry, ".svg", beside)
    cells = [
        f"{'★ ' if judgement.headline else ''}`{judgement.item.id}` {_md(judgement.item.says)}",
        _md(judgement.reported),
        "<br>".join(map(_md, formatting.measured(judgement.entry))) + (f" [figure]({figure})" if figure else ""),
        "<br>".join(f"`{bar}`" for bar in formatting.bars(judgement.item.bars)),
        f"**{judgement.verdict.name}**" + (f": {_md(judgement.verdict.detail)}" if judgement.verdict.detail else ""),
    ]
    return f"| {' | '.join(cells)} |"


def _markdown_benchmark(benchmark: Benchmark) -> list[str]:
    rows = [
        f"| {_md(f.name)} | {_md(f.text)} | {f'`{f.bar}`' if f.bar else ''} | {f.verdict} |" for f in benchmark.figures
    ]
    note = [_md(benchmark.note), ""] if benchmark.note else []
    return [
        f"## {_md(benchmark.title)}",
        "",
        _md(benchmark.says),
        "",
        f"<sub>{_md(benchmark.origin)} · `paperworks benchmark {benchmark.id}`</sub>",
        "",
        "| figure | measured | bar | verdict |",
        "|---|---|---|---|",
        *rows,
        "",
        *note,
    ]


def _md(text: str) -> str:
    """Take from characters that Markdown gives a meaning to that meaning."""
    return re.sub(r"([\\`*_\[\]|<>#$~])", r"\\\1", " ".join(text.split()))


# HTML

_CSS = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;color:#1c1e21;background:#fff;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1,h2,h3{line-height:1.25}h2{margin-top:3rem;border-top:1px solid #ddd;padding-top:1.5rem}
a{color:#0b5cad}.contents{columns:2 22rem;padding-left:1.2rem}.origin,.says,.contents{color:#5a6069;font-size:.9rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;border-bottom:1px solid #e4e6e9}
th{background:#f6f7f9}td.number{white-space:pre-line;font-variant-numeric:tabular-nums}
.verdict{font-weight:600}.holds{color:#176b3a}.falls-short,.error{color:#b3261e}.known-shortfall{color:#8a5a00}
.not-run,.not-measured,.not-at-this-scale{color:#5a6069}
details{margin:.4rem 0}summary{cursor:pointer}details img{max-width:100%;height:auto;display:block;margin:1rem 0}
details table{width:auto}pre{background:#f6f7f9;padding:.8rem;overflow-x:auto;font-size:.82rem}
"""


def _html_paper(results: _Results, beside: Path) -> str:
    paper = results.paper
    name, address = _source(paper)
    notes = "".join(
        f"<li><code>{escape(judgement.item.id)}</code>: {escape(text)}</li>" for judgement, text in _remarks(results)
    )
    return "\n".join(
        [
            f'<section id="{escape(paper.slug)}"><h2>{escape(paper.slug)}</h2>',
            f'<p>{escape(paper.title)} (<a href="{escape(address)}">{escape(name)}</a>)</p>',
            f"<p>{escape(paper.summary)}</p>",
            f"<p class=origin>{escape(results.origin)}</p>" if results.origin else "",
            *(_html_table(columns, found) for columns, found in results.tables),
            f"<ul>{notes}</ul>" if notes else "",
            *(_html_details(judgement, results, beside) for judgement in results.all if judgement.entry),
            "</section>",
        ]
    )


def _html_benchmark(benchmark: Benchmark) -> str:
    rows = "".join(
        f"<tr><td>{escape(f.name)}</td><td class=number>{escape(f.text)}</td><td>{escape(f.bar)}</td>"
        f'<td><span class="verdict {f.verdict.replace(" ", "-")}">{f.verdict}</span></td></tr>'
        for f in benchmark.figures
    )
    head = "".join(f"<th scope=col>{column}</th>" for column in ("figure", "measured", "bar", "verdict"))
    return (
        f"<section><h2>{escape(benchmark.title)}</h2><p>{escape(benchmark.says)} {escape(benchmark.note)}</p>"
        f"<p class=origin>{escape(benchmark.origin)}</p>"
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _html_table(columns: Sequence[str], found: Sequence[Judgement]) -> str:
    head = "".join(f"<th scope=col>{column}</th>" for column in columns)
    rows = "".join(
        f"<tr><td>{'★ ' if j.headline else ''}<code>{escape(j.item.id)}</code>"
        f"<div class=says>{escape(j.item.says)}</div></td>"
        f"<td>{escape(j.reported)}</td>"
        f"<td class=number>{escape(chr(10).join(formatting.measured(j.entry))) or '–'}</td>"
        f"<td class=number>{escape(chr(10).join(formatting.bars(j.item.bars)))}</td>"
        f'<td><span class="verdict {j.verdict.name.replace(" ", "-")}">{j.verdict.name}</span>'
        f"<div class=says>{escape(j.verdict.detail)}</div></td></tr>"
        for j in found
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _html_details(judgement: Judgement, results: _Results, beside: Path) -> str:
    entry = judgement.entry
    assert entry is not None
    figure = _figure(results, entry, ".svg", beside)
    seeds = {
        name or "value": ", ".join(formatting.number(value) for value in values)
        for name, values in entry.per_seed.items()
    }
    return "\n".join(
        [
            f"<details><summary><code>{escape(judgement.item.id)}</code></summary>",
            f"<p class=origin>{escape(_origin_of(entry))}</p>",
            *(f"<p>{escape(name)} seed by seed: {escape(values)}</p>" for name, values in seeds.items()),
            f'<img loading=lazy src="{escape(figure)}" alt="Figure of {escape(judgement.item.id)}">' if figure else "",
            _html_data(entry.table["columns"], entry.table["rows"]) if entry.table else "",
            f"<pre>{escape(entry.traceback)}</pre>" if entry.traceback else "",
            "</details>",
        ]
    )


def _html_data(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th scope=col>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return formatting.number(value) if isinstance(value, (bool, int, float)) else str(value)
