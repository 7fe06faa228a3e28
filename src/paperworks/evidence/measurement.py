"""What one run of a claim's function returns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINGLE = ""  # the name of the value of a claim that has one bar


class NotAtThisScale(Exception):
    """Raised by a claim's function that can't be measured at the scale of the run."""


@dataclass(frozen=True)
class Table:
    """Rows of a measurement that a reader wants to see beside the value.

    Examples
    --------
    >>> Table(["steps", "error"], [[10, 0.5], [20, 0.25]]).columns
    ['steps', 'error']
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"rows: a row has {len(row)} cells for {len(self.columns)} columns: {list(row)!r}")


@dataclass(frozen=True)
class Measurement:
    """The measured value of a claim with what stands behind it.

    Parameters
    ----------
    value
        One number or truth value, or one per name of the claim's bars.
    unit
        Unit of the value, empty where it has none.
    per_seed
        The values seed by seed (for several named values, a mapping of the same names).
    table
        Rows that show where the value comes from.
    figure
        A matplotlib figure, best made with `Run.figure`.
    remark
        One sentence on what was seen in this run, where numbers don't say it.

    Examples
    --------
    >>> Measurement(3.02).values
    {'': 3.02}
    >>> Measurement.over_seeds([1.0, 2.0, 3.0]).value
    2.0
    """

    value: float | bool | Mapping[str, float | bool]
    unit: str = ""
    per_seed: Sequence[float] | Mapping[str, Sequence[float]] = ()
    table: Table | None = None
    figure: "Figure | None" = field(default=None, compare=False)
    remark: str = ""

    @classmethod
    def over_seeds(cls, per_seed: Sequence[float] | Mapping[str, Sequence[float]], **kwargs: Any) -> "Measurement":
        """Make a measurement whose value is the mean over seeds."""
        if isinstance(per_seed, Mapping):
            return cls(value={name: _mean(v) for name, v in per_seed.items()}, per_seed=per_seed, **kwargs)
        return cls(value=_mean(per_seed), per_seed=per_seed, **kwargs)

    @property
    def values(self) -> dict[str, float | bool]:
        """The values by name; a single value is named by the empty string."""
        return dict(self.value) if isinstance(self.value, Mapping) else {SINGLE: self.value}

    @property
    def seed_values(self) -> dict[str, list[float]]:
        """The per-seed values by name, for the names that have any."""
        named = self.per_seed if isinstance(self.per_seed, Mapping) else {SINGLE: self.per_seed}
        return {name: [float(v) for v in values] for name, values in named.items() if len(values)}


def _mean(values: Sequence[float]) -> float:
    if not len(values):
        raise ValueError("per_seed: got no values; it takes at least one")
    return math.fsum(float(v) for v in values) / len(values)
