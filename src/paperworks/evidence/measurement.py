"""What one run of a claim's function returns."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paperworks.evidence.estimates import Estimate, mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINGLE = ""  # the name of the value of a claim that has one bar


class NotAtThisScale(Exception):
    """Raised by a claim's function that can't be measured at the scale of the run."""


@dataclass(frozen=True)
class Table:
    """Rows of a measurement that a reader wants to see beside the value.

    Parameters
    ----------
    columns
        Headings of the columns.
    rows
        Rows of cells, each as long as `columns`.

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
    """The measured values of a claim with what stands behind them.

    Parameters
    ----------
    value
        One estimate, or one per name of the claim's bars; `paperworks.evidence.estimates` makes them.
    unit
        Unit of the value, empty where it has none.
    table
        Rows that show where the value comes from.
    figure
        A matplotlib figure, best made with `Run.figure`.
    remark
        One sentence on what was seen in this run, where numbers don't say it.
    settings
        In the case of a race: the settings at which the peer ran, in words.
    floor
        In the case of a race: what the kernel that both sides share costs alone, as a ratio like the value; none can go
        below it.

    Raises
    ------
    TypeError
        Where a value is no estimate: a bare number doesn't say how far chance moves it.

    Examples
    --------
    >>> from paperworks.evidence.estimates import exact
    >>> Measurement(exact(3.02)).values[""].value
    3.02
    >>> Measurement.over_seeds([1.0, 2.0, 3.0]).values[""].value
    2.0
    """

    value: Estimate | Mapping[str, Estimate]
    unit: str = ""
    table: Table | None = None
    figure: "Figure | None" = field(default=None, compare=False)
    remark: str = ""
    settings: str = ""
    floor: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if not isinstance(value, Estimate):
                where = f"value {name!r}" if name else "value"
                raise TypeError(f"{where} is {value!r}; it takes an Estimate, such as exact(…) or mean([…])")

    @classmethod
    def over_seeds(cls, samples: Collection[float] | Mapping[str, Collection[float]], **kwargs: Any) -> "Measurement":
        """Make a measurement whose values are means over seeds; `kwargs` are those of a measurement.

        Parameters
        ----------
        samples
            One number for each seed, or a mapping from the name of each value to such numbers.

        Returns
        -------
        Measurement
            A measurement whose values are means over seeds.
        """
        if isinstance(samples, Mapping):
            return cls({name: mean(values) for name, values in samples.items()}, **kwargs)
        return cls(mean(samples), **kwargs)

    @property
    def values(self) -> dict[str, Estimate]:
        """The estimates by name; a single one is named by the empty string."""
        return dict(self.value) if isinstance(self.value, Mapping) else {SINGLE: self.value}
