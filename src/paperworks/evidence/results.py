"""The results of papers, made once for every page that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paperworks.evidence import formatting, notebook
from paperworks.evidence.digests import unchanging
from paperworks.evidence.record import Paper
from paperworks.evidence.store import evidence_of
from paperworks.evidence.verdicts import count_verdicts
from paperworks.evidence.views import COLUMNS, ClaimView, paper_views, rows_html

INTRODUCTION = (
    "What each paper reports, and what its claims measured when they were run here. Every value has an interval, in "
    "brackets where it is more than a point: a claim holds when the whole interval is on the right side of its bar, "
    "falls short when it is on the wrong side, and is undecided else. A known shortfall is one whose reason was found; "
    "outdated is what was measured before the code that it stands on was changed. ★ marks what a paper is known for."
)


@dataclass(frozen=True)
class PaperResults:
    """A paper with the views of its claims and races.

    Parameters
    ----------
    paper
        The record of the paper.
    claims
        Views of its claims in the record's order.
    races
        Views of its races in the record's order.
    problem
        Why its evidence can't be read, in one line; empty where all is well.
    """

    paper: Paper
    claims: tuple[ClaimView, ...]
    races: tuple[ClaimView, ...]
    problem: str = ""

    @property
    def all(self) -> tuple[ClaimView, ...]:
        """Claims, then races."""
        return self.claims + self.races

    @property
    def outdated(self) -> int:
        """How many claims and races are outdated."""
        return sum(bool(found.outdated) for found in self.all)

    def _repr_html_(self) -> str:
        return notebook.lines(
            self.paper._head_html(),
            self.problem,
            *(
                notebook.table(title, COLUMNS, rows_html(group))
                for title, group in (("Claims", self.claims), ("Races", self.races))
                if group
            ),
            notebook.folded("Usage", notebook.code(self.paper.usage)) if self.paper.usage else "",
        )


def results_of(papers: Sequence[Paper], folder: Path | None = None) -> list[PaperResults]:
    """Return the results of the papers that have claims to measure, by the committed evidence or that of `folder`.

    Returns
    -------
    list[PaperResults]
        One for each paper that has claims, in the order given.
    """
    found = []
    with unchanging():
        for paper in papers:
            if paper.planned:
                continue
            evidence, _ = evidence_of(paper, folder)
            all_views = paper_views(paper, evidence)
            claims, races = (tuple(v for v in all_views if v.kind == kind) for kind in ("claim", "peer"))
            found.append(PaperResults(paper, claims, races, evidence.problem))
    return found


def summary(results: Sequence[PaperResults]) -> str:
    """Count papers, claims, races and their verdicts, in one line."""
    claims = [view for found in results for view in found.claims]
    races = [view for found in results for view in found.races]
    old = sum(found.outdated for found in results)
    return (
        f"{len(results)} papers. {len(claims)} claims: {count_verdicts(v.verdict for v in claims)}. "
        f"{len(races)} races: {count_verdicts(v.verdict for v in races)}. {old} of all are outdated."
    )


def source(paper: Paper) -> tuple[str, str]:
    """Return the name and address of where the paper itself is."""
    if paper.arxiv:
        return f"arXiv {paper.arxiv}", f"https://arxiv.org/abs/{paper.arxiv}"
    return f"doi {paper.doi}", f"https://doi.org/{paper.doi}"


def told_of(view: ClaimView) -> list[str]:
    """Say what else a reader has to know of a claim, a sentence or two each."""
    facts = [
        view.note,
        view.remark,
        f"Peer's settings: {view.settings}" if view.settings else "",
        f"Floor: {formatting.number(view.floor)}, what the shared kernel alone costs."
        if view.floor is not None
        else "",
        f"Outdated: {view.outdated}." if view.outdated else "",
        f"A newer run gave no value: {view.failure}" if view.failure else "",
    ]
    return [fact for fact in facts if fact]


def provenance_of(view: ClaimView) -> str:
    """Say how a claim was measured, in one line; empty where it wasn't."""
    if not view.date:
        return ""
    seeds = f"{len(view.seeds)} seeds" if len(view.seeds) > 1 else f"seed {view.seeds[0]}"
    methods = ", ".join(dict.fromkeys(value.method for value in view.values if value.method))
    time = f"{formatting.duration(view.processor_seconds or view.seconds)} of processor time"
    versions = ", ".join(f"{name} {version}" for name, version in sorted((view.versions or {}).items()) if version)
    return " · ".join(filter(None, [view.origin, seeds, methods, time, versions]))
