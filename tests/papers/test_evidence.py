"""The committed evidence is whole: readable, of committed code, with its figures and nothing else beside it."""

import pytest

from paperworks.evidence.store import HISTORY, committed_folder, read_evidence
from paperworks.evidence.verdicts import items_of, outdated
from paperworks.papers import load_all

# A paper that was never measured here says so on its pages; once begun, nothing of it is missing.
MEASURED = [
    paper
    for paper in load_all()
    if not paper.planned and not paper.origin and (committed_folder() / paper.slug / HISTORY).exists()
]
each_paper = pytest.mark.parametrize("paper", MEASURED, ids=[paper.slug for paper in MEASURED])


@each_paper
def test_every_claim_and_race_has_an_entry_of_committed_code(paper):
    evidence = read_evidence(paper.slug)
    assert evidence.problem == ""
    for kind in ("claim", "peer"):
        for item in items_of(paper, kind):
            entry = evidence.newest(kind, item.id)
            assert entry is not None, f"{kind} {item.id} was never measured"
            assert entry.scale == "desk"
            revision = entry.provenance.revision
            assert len(revision) == 40 or outdated(paper, entry), f"{kind} {item.id}: of {revision!r}"


@each_paper
def test_its_folder_holds_its_history_its_page_and_its_figures(paper):
    evidence, folder = read_evidence(paper.slug), committed_folder()
    figures = {path.name for entry in evidence.entries for path in evidence.figure_paths(entry)}
    there = {path.name for path in (folder / paper.slug).iterdir() if path.suffix != ".png"}
    kept = {name for name in figures if name.endswith((".svg", ".wav"))}
    assert there - {"README.md"} == {HISTORY, *kept}
