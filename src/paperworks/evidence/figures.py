"""The house style of figures: light, legible, units on the axes, the reported value as a line."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "paperworks",  # the same figure gives the same file
    "svg.fonttype": "none",
}


def new_figure(nrows: int = 1, ncols: int = 1, **kwargs: Any) -> "tuple[Figure, Any]":
    """Make a figure and its axes in the house style, without any global state of matplotlib."""
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    style: Any = {**STYLE, "axes.prop_cycle": cycler(color=PALETTE)}
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.2 * ncols, 3.6 * nrows), layout="constrained")
        return figure, figure.subplots(nrows, ncols, **kwargs)


def reported_line(axes: "Axes", value: float, label: str = "reported") -> None:
    """Draw the paper's reported value as a horizontal line.

    Parameters
    ----------
    axes
        Axes of matplotlib to draw on.
    value
        Height of the line, in the unit of the axis.
    label
        Words for the legend.
    """
    axes.axhline(value, color="#666666", linestyle="--", linewidth=1.2, label=label)


def save_figure(figure: "Figure", stem: Path) -> list[Path]:
    """Write the figure as `stem`.svg and `stem`.png and return both paths."""
    import matplotlib as mpl

    from paperworks.evidence.files import write_atomically

    paths = []
    style: Any = STYLE
    options: dict[str, Any]
    for suffix, options in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 144})):
        buffer = io.BytesIO()
        with mpl.rc_context(style):
            figure.savefig(buffer, format=suffix[1:], **options)
        paths.append(stem.with_suffix(suffix))
        write_atomically(paths[-1], buffer.getvalue())
    return paths
