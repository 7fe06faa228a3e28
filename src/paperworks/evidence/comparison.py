"""A person's own evidence of a paper beside the committed one, claim by claim."""

from dataclasses import dataclass
from pathlib import Path

from paperworks.evidence import notebook
from paperworks.evidence.entry import KINDS, Kind
from paperworks.evidence.record import Paper
from paperworks.evidence.same import Compared, compare
from paperworks.evidence.store import own_folder, read_evidence
from paperworks.evidence.verdicts import items_of


@dataclass(frozen=True)
class ComparedPaper:
    """How a person's own evidence of a paper compares with the committed one.

    Parameters
    ----------
    paper
        Name of the paper.
    items
        For each claim and race, by its kind and id, the outcome.
    problems
        What of the evidence can't be read, in one line each.
    """

    paper: str
    items: dict[tuple[Kind, str], Compared]
    problems: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows = [(id, kind, found.result, found.detail) for (kind, id), found in self.items.items()]
        caption = f"Your evidence of {self.paper} beside the committed one"
        return notebook.lines(*self.problems, notebook.table(caption, ("id", "kind", "result", "detail"), rows))


def compare_paper(paper: Paper, folder: Path | None = None) -> ComparedPaper:
    """Compare a person's own evidence of a paper with the committed one.

    Parameters
    ----------
    paper
        The paper whose evidence is compared.
    folder
        Folder of the person's evidence, by default `own_folder()`.

    Returns
    -------
    ComparedPaper
        The outcome for each claim, then for each race, in the record's order.
    """
    committed, own = read_evidence(paper.slug), read_evidence(paper.slug, folder or own_folder())
    items: dict[tuple[Kind, str], Compared] = {}
    for kind in KINDS:
        for item in items_of(paper, kind):
            mine = own.newest(kind, item.id)
            theirs = committed.newest(kind, item.id, mine.scale if mine else None)
            items[kind, item.id] = compare(theirs or committed.newest(kind, item.id), mine)
    return ComparedPaper(paper.slug, items, tuple(e.problem for e in (committed, own) if e.problem))
