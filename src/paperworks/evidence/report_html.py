"""The results of all papers as one static HTML page that needs no script and no other file but the figures."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from paperworks.evidence import formatting
from paperworks.evidence.benchmark import Benchmark, read_benchmarks
from paperworks.evidence.record import Paper
from paperworks.evidence.results import INTRODUCTION, PaperResults, provenance_of, source, summary, told_of
from paperworks.evidence.verdicts import count_verdicts
from paperworks.evidence.views import ClaimView

_CSS = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;color:#1c1e21;background:#fff;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1,h2,h3{line-height:1.25}h2{margin-top:3rem;border-top:1px solid #ddd;padding-top:1.5rem}
a{color:#0b5cad}.contents{columns:2 22rem;padding-left:1.2rem}.origin,.says,.contents{color:#5a6069;font-size:.9rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;border-bottom:1px solid #e4e6e9}
th{background:#f6f7f9}td.number{white-space:pre-line;font-variant-numeric:tabular-nums}
.verdict{font-weight:600}.holds{color:#176b3a}.falls-short,.error{color:#b3261e}.known-shortfall,.undecided,.outdated{color:#8a5a00}
.not-run,.not-measured,.not-at-this-scale,.stopped{color:#5a6069}
details{margin:.4rem 0}summary{cursor:pointer}details img{max-width:100%;height:auto;display:block;margin:1rem 0}
details table{width:auto}pre{background:#f6f7f9;padding:.8rem;overflow-x:auto;font-size:.82rem}
"""


def html_report(papers: Sequence[Paper], results: Sequence[PaperResults], beside: Path, home: Path) -> str:
    """Write the page; figures are linked relative to the folder `beside`, benchmarks are those in `home`."""
    contents = "".join(
        f'<li><a href="#{escape(r.paper.slug)}">{escape(r.paper.slug)}</a> '
        f"{escape(count_verdicts(v.verdict for v in r.claims))}</li>"
        for r in results
    )
    planned = ", ".join(escape(paper.slug) for paper in papers if paper.planned)
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Results – Paperworks</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_CSS}</style></head><body><h1>Results</h1>",
            f"<p>{escape(INTRODUCTION)}</p><p><strong>{escape(summary(results))}</strong></p>",
            f"<ul class=contents>{contents}</ul>",
            *(_paper(found, beside) for found in results),
            *map(_benchmark, read_benchmarks(home)),
            f"<h2>Planned</h2><p>{planned}</p>" if planned else "",
            "</body></html>",
            "",
        ]
    )


def _paper(found: PaperResults, beside: Path) -> str:
    paper = found.paper
    name, address = source(paper)
    tables = [_claims(title, group) for title, group in (("claim", found.claims), ("race", found.races)) if group]
    return "\n".join(
        [
            f'<section id="{escape(paper.slug)}"><h2>{escape(paper.slug)}</h2>',
            f'<p>{escape(paper.title)} (<a href="{escape(address)}">{escape(name)}</a>)</p>',
            f"<p>From {escape(paper.origin)}</p>" if paper.origin else "",
            f"<p>{escape(paper.summary)}</p>",
            *tables,
            *(_details(view, beside) for view in found.all if view.date),
            "</section>",
        ]
    )


def _claims(title: str, group: Sequence[ClaimView]) -> str:
    head = "".join(f"<th scope=col>{name}</th>" for name in (title, "reported", "measured", "bar", "verdict"))
    rows = "".join(
        f"<tr><td>{'★ ' if v.headline else ''}<code>{escape(v.id)}</code><div class=says>{escape(v.says)}</div></td>"
        f"<td>{escape(v.reported)}<div class=says>{escape(v.where)}</div></td>"
        f"<td class=number>{_lines(v, 'text')}</td><td class=number>{_lines(v, 'bar')}</td>"
        f'<td><span class="verdict {v.verdict.replace(" ", "-")}">{v.verdict}</span>'
        f"{'<div class=outdated>outdated</div>' if v.outdated else ''}"
        f"<div class=says>{escape(v.detail)}</div></td></tr>"
        for v in group
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _lines(view: ClaimView, what: str) -> str:
    lines = [f"{v.label}: {getattr(v, what) or '–'}" if v.label else getattr(v, what) or "–" for v in view.values]
    return escape("\n".join(lines))


def _details(view: ClaimView, beside: Path) -> str:
    def address(path: Path) -> str:
        return escape(Path(os.path.relpath(path, beside)).as_posix())

    figure = view.figure(".svg")
    samples = [
        f"<p>{escape(v.label or 'value')} one by one: {escape(', '.join(map(formatting.number, v.samples)))}</p>"
        for v in view.values
        if v.samples
    ]
    return "\n".join(
        [
            f"<details><summary><code>{escape(view.id)}</code></summary>",
            f"<p class=origin>{escape(provenance_of(view))}</p>",
            *(f"<p>{escape(fact)}</p>" for fact in told_of(view)),
            *samples,
            f'<img loading=lazy src="{address(figure)}" alt="Figure of {escape(view.id)}">' if figure else "",
            *(
                f'<p>{escape(says)}<br><audio controls preload=none src="{address(path)}" aria-label="{escape(says)}">'
                "</audio></p>"
                for path, says in view.sounds()
            ),
            _data(view.table["columns"], view.table["rows"]) if view.table else "",
            f"<pre>{escape(view.traceback)}</pre>" if view.traceback else "",
            "</details>",
        ]
    )


def _data(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th scope=col>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return formatting.number(value) if isinstance(value, (bool, int, float)) else str(value)


def _benchmark(benchmark: Benchmark) -> str:
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
