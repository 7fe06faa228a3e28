"""The evidence of a week: what was measured, what fell short, what is undecided, and what is outdated now."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from paperworks.evidence.results import PaperResults
from paperworks.evidence.views import ClaimView

_SHORT = ("falls short", "known shortfall", "error")


@dataclass(frozen=True)
class EvidenceWeek:
    """What the evidence says of one week.

    Parameters
    ----------
    first, last
        The days that it is of, both included.
    measured
        Views of claims and races that were measured in it, not carried over from earlier.
    outdated
        Views of those that are outdated now, whenever they were measured.
    """

    first: date
    last: date
    measured: tuple[ClaimView, ...]
    outdated: tuple[ClaimView, ...]

    @property
    def holding(self) -> tuple[ClaimView, ...]:
        """Those measured that hold."""
        return tuple(view for view in self.measured if view.verdict == "holds")

    @property
    def short(self) -> tuple[ClaimView, ...]:
        """Those measured that fall short, for a known reason or not, or failed."""
        return tuple(view for view in self.measured if view.verdict in _SHORT)

    @property
    def undecided(self) -> tuple[ClaimView, ...]:
        """Those measured whose interval stands on both sides of the bar."""
        return tuple(view for view in self.measured if view.verdict == "undecided")

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        counts = f"{len(self.holding)} hold, {len(self.short)} fall short, {len(self.undecided)} are undecided"
        old = f"; {len(self.outdated)} of all are outdated" if self.outdated else ""
        return f"{len(self.measured)} claims and races were measured: {counts}{old}."


def week_of(results: Iterable[PaperResults], last: date) -> EvidenceWeek:
    """Find what was measured in the seven days that end with one.

    Parameters
    ----------
    results
        Results of papers, as `results_of` gives them.
    last
        The last day, in UTC.

    Returns
    -------
    EvidenceWeek
        What the evidence says of these days.
    """
    first = last - timedelta(days=6)
    views = [view for found in results for view in found.all]
    span = (first.isoformat(), last.isoformat())
    measured = tuple(v for v in views if v.measured and not v.carried and span[0] <= v.date[:10] <= span[1])
    return EvidenceWeek(first, last, measured, tuple(view for view in views if view.outdated))
