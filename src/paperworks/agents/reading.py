"""What the tools that only read answer: papers, methods, evidence, comparisons."""

import difflib
import re
from typing import Literal

from paperworks.agents import answers
from paperworks.agents.answers import clip
from paperworks.agents.definitions import definition_of, exports_of
from paperworks.evidence import formatting
from paperworks.evidence.comparison import compare_paper
from paperworks.evidence.digests import unchanging
from paperworks.evidence.entry import KINDS, Entry, Kind
from paperworks.evidence.record import Paper
from paperworks.evidence.report import escape, paper_document
from paperworks.evidence.results import results_of
from paperworks.evidence.store import Evidence, evidence_of, own_folder, read_evidence
from paperworks.evidence.verdicts import items_of
from paperworks.evidence.views import ClaimView, paper_views
from paperworks.papers import UnknownPaper, fields, load, load_all
from paperworks.papers.search import search

_BESIDE = ("paperworks.testbeds", "paperworks.numerics")  # what usage code takes along with methods

Item = Literal["claim", "race"]
Whose = Literal["committed", "own"]


def search_papers(words: str, field: str = "", limit: int = 10) -> answers.PaperRows:
    """Find papers by words, best first."""
    found = search(_in_field(field), words)
    return _rows(found[:limit], len(found))


def list_papers(field: str = "", offset: int = 0, limit: int = 100) -> answers.PaperRows:
    """List papers by their slugs."""
    found = _in_field(field)
    return _rows(found[offset : offset + limit], len(found))


def list_fields() -> answers.FieldRows:
    """List the fields."""
    papers = load_all()
    counts = {name: sum(paper.field == name for paper in papers) for name in fields()}
    return answers.FieldRows(fields=[answers.FieldRow(name=name, papers=count) for name, count in counts.items()])


def similar_papers(slug: str, limit: int = 5) -> answers.PaperRows:
    """Find the papers that share most words with a paper's title and tags."""
    paper = find(slug)
    others = [other for other in load_all() if other.slug != slug]
    found = search(others, " ".join([paper.title, *paper.tags]))
    return _rows(found[:limit], len(found))


def show_paper(slug: str) -> answers.PaperText:
    """Show a paper's record, with the verdicts on its claims."""
    paper = find(slug)
    return answers.PaperText(
        slug=paper.slug,
        title=paper.title,
        authors=list(paper.authors[:100]),
        year=paper.year,
        field=paper.field,
        summary=clip(paper.summary, 2 * answers.WORDS),
        note=clip(paper.note),
        arxiv=paper.arxiv,
        doi=paper.doi,
        links=dict(paper.links),
        tags=list(paper.tags),
        questions=list(paper.questions),
        origin=paper.origin or "paperworks",
        planned=paper.planned,
        methods=list(paper.methods),
        peers=[peer.package for peer in paper.peers],
        claims=[answers.claim_text(view) for view in paper_views(paper, *evidence_of(paper)) if view.kind == "claim"],
        usage=clip(paper.usage, answers.LONG),
    )


def show_races(slug: str) -> answers.RaceTexts:
    """Show the races of a paper against its peers."""
    paper = find(slug)
    views = paper_views(paper, *evidence_of(paper))
    return answers.RaceTexts(paper=slug, races=[answers.race_text(view) for view in views if view.kind == "peer"])


def show_method(name: str) -> answers.MethodText:
    """Show a method, or what is used along with one, by its whole name or by its last part."""
    papers = load_all()
    method = _full_name(name, papers)
    try:
        found = definition_of(method)
    except SyntaxError as error:
        raise ValueError(f"the source of {method} can't be read: {error}") from None
    if found is None:
        raise ValueError(f"{method} is no class or function whose source is here")
    package, _, last = method.rpartition(".")
    of_papers = [paper for paper in papers if method in paper.methods]
    of_papers = of_papers or [paper for paper in papers if re.search(rf"\b{re.escape(last)}\b", paper.usage)]
    return answers.MethodText(
        name=method,
        kind="class" if found.kind == "class" else "function",
        import_line=f"from {package} import {last}",
        signature=clip(found.signature, 4 * answers.WORDS),
        docstring=clip(found.docstring, answers.LONG),
        members=[
            answers.MemberText(signature=clip(member.signature), says=clip(member.says, 300))
            for member in found.members[:40]
        ],
        source=f"{found.module}, line {found.line}",
        papers=[paper.slug for paper in of_papers],
        usage=clip(of_papers[0].usage, answers.LONG) if of_papers else "",
    )


def _full_name(name: str, papers: list[Paper]) -> str:
    """Return which of the papers' methods, or else of what their packages and testbeds export, a name stands for."""
    methods = list(dict.fromkeys(method for paper in papers for method in paper.methods))
    packages = dict.fromkeys([*(method.rpartition(".")[0] for method in methods), *_BESIDE])
    others = [f"{package}.{export}" for package in packages for export in exports_of(package)]
    known = _named(name, methods) or _named(name, others)
    if len(known) == 1:
        return known[0]
    if known:
        raise ValueError(f"name is {name!r}, of which there are {' and '.join(known)}; it takes one of them")
    short = {last.casefold(): last for last in (method.rpartition(".")[2] for method in [*others, *methods])}
    near = [short[found] for found in difflib.get_close_matches(name.casefold().rpartition(".")[2], short, n=3)]
    near = next((list(paper.methods[:8]) for paper in papers if paper.slug == name), near)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; search_papers finds papers, show_paper their methods"
    raise ValueError(f"name is {name!r}, which is no paper's method{hint}")


def _named(name: str, known: list[str]) -> list[str]:
    """Return those of some dotted names that end in a name; else those that do in any case, or of an inner module."""
    if exact := [full for full in known if f".{full}".endswith(f".{name}")]:
        return exact
    module, _, last = name.casefold().rpartition(".")
    parts = [(full, *full.casefold().rpartition(".")[::2]) for full in known]
    return [
        full for full, package, end in parts if end == last and (not module or f"{module}.".startswith(f"{package}."))
    ]


def read_claim(slug: str, id: str, whose: Whose = "committed") -> tuple[answers.EvidenceText, ClaimView]:
    """Read the evidence of a claim or race: the newest entry and the history; and the view that has its figure."""
    paper = find(slug)
    kind = kind_of(paper, id)
    evidence = evidence_of(paper)[0] if whose == "committed" else read_evidence(slug, own_folder())
    view = next(v for v in paper_views(paper, evidence) if (v.kind, v.id) == (kind, id))
    history = [entry for entry in evidence.entries if (entry.kind, entry.id) == (kind, id)]
    return answers.EvidenceText(
        paper=slug,
        claim=answers.claim_text(view),
        whose=whose,
        scale=view.scale,
        seeds=len(view.seeds),
        numbers=answers.numbers_of(view),
        table=answers.table_of(view.to_json()["table"]),
        remark=clip(view.remark),
        settings=clip(view.settings),
        versions=dict(view.versions or {}),
        processor_seconds=view.processor_seconds,
        newer_failure=clip(view.failure),
        traceback=clip(view.traceback, 4 * answers.WORDS),
        figure=view.figure(".svg") is not None,
        history=[_past(entry) for entry in history[: -answers.ENTRIES - 1 : -1]],
    ), view


def compare_evidence(slug: str) -> answers.Comparisons:
    """Set the user's own evidence of a paper beside the committed one."""
    found = compare_paper(find(slug))
    return answers.Comparisons(
        paper=slug,
        comparisons=[
            answers.Comparison(id=id, kind=_item(kind), result=compared.result, detail=clip(compared.detail))
            for (kind, id), compared in found.items.items()
        ],
        problems=list(found.problems),
    )


def paper_page(slug: str) -> str:
    """Write all of a paper as Markdown."""
    paper = find(slug)
    return paper_document(paper, next(iter(results_of([paper])), None))


def evidence_page(slug: str) -> str:
    """Write the user's own evidence of a paper, as the committed one has it, as Markdown."""
    paper = find(slug)
    return paper_document(paper, next(iter(results_of([paper], own_folder())), None))


def papers_page() -> str:
    """Write the list of all papers as Markdown."""
    lines = [f"- [{paper.slug}](paperworks://papers/{paper.slug}): {escape(paper.title)}" for paper in load_all()]
    return "\n".join(["# Papers", "", *lines, ""])


def find(slug: str) -> Paper:
    """Load a paper as its record is now.

    Raises
    ------
    UnknownPaper
        Where no paper has that slug; the message offers those whose title, arXiv id or methods come near.
    """
    load.cache_clear()  # a server outlives the edits of whoever writes a paper
    try:
        return load(slug)
    except UnknownPaper:
        pass
    names: dict[str, str] = {}
    for paper in load_all():
        lasts = [method.rpartition(".")[2] for method in paper.methods]
        for name in (paper.slug, paper.slug.replace("-", "_"), paper.arxiv, paper.title, *paper.methods, *lasts):
            names.setdefault(name.casefold(), paper.slug)
    word = slug.casefold()
    near = [word] if word in names else difflib.get_close_matches(word, names, n=3)
    found = dict.fromkeys(names[name] for name in near)
    hint = f"did you mean {' or '.join(found)}?" if found else "search_papers and list_papers give the short names"
    raise UnknownPaper(f"paper is {clip(slug, 80)!r}, which is no paper's short name; {hint}")


def kind_of(paper: Paper, id: str) -> Kind:
    """Return whether an id is a claim's or a race's."""
    there = {item.id: kind for kind in reversed(KINDS) for item in items_of(paper, kind)}
    if id not in there:
        near = difflib.get_close_matches(id, there, n=3, cutoff=0.3)
        has = [item.id for kind in KINDS for item in items_of(paper, kind)][:12]
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(has) or 'none'}"
        raise ValueError(f"claim is {clip(id, 80)!r}, which {paper.slug} doesn't have; {hint}")
    return there[id]


def _in_field(field: str) -> list[Paper]:
    if field and field not in (known := fields()):
        raise ValueError(f"field is {field!r}; it takes one of {', '.join(known)}")
    return [paper for paper in load_all() if field in ("", paper.field)]


def _rows(papers: list[Paper], total: int) -> answers.PaperRows:
    with unchanging():
        return answers.PaperRows(papers=[_row(paper) for paper in papers], total=total)


def _row(paper: Paper) -> answers.PaperRow:
    evidence: Evidence = evidence_of(paper)[0]
    views: list[ClaimView] = [] if paper.planned else paper_views(paper, evidence)
    claims = [view for view in views if view.kind == "claim"]
    measured = any(view.date for view in claims)
    return answers.PaperRow(
        slug=paper.slug,
        title=paper.title,
        year=paper.year,
        field=paper.field,
        tags=list(paper.tags),
        status="planned" if paper.planned else "measured" if measured else "unmeasured",
        claims=len(paper.claims),
        hold=sum(view.verdict == "holds" for view in claims),
    )


def _past(entry: Entry) -> answers.PastEntry:
    values = [f"{name}: " * bool(name) + formatting.value(value, entry.unit) for name, value in entry.values.items()]
    return answers.PastEntry(
        date=entry.provenance.date,
        scale=entry.scale,
        outcome=entry.outcome,
        values=clip("; ".join(values), 500),
        seeds=len(entry.seeds),
        revision=entry.provenance.revision,
        reason=clip(entry.reason, 500),
    )


def _item(kind: Kind) -> Item:
    return "race" if kind == "peer" else "claim"
