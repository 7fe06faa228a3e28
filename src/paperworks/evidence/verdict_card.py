"""What was found of a paper in one sentence, on a picture to share and on a badge."""

import io
import textwrap
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from paperworks.evidence.views import ClaimView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from paperworks.evidence.record import Paper

WIDTH, HEIGHT = 1200, 630
"""Pixels of a picture to share, as the Open Graph protocol's readers show it."""
_ROOM, _MOST = WIDTH - 2 * 64, 19
"""Pixels of a line, and boxes beside each other."""
_DECIDED = ("holds", "falls short", "known shortfall", "undecided")


class _Mark(NamedTuple):
    """How a verdict shows: in colour, and by a sign for who doesn't see it."""

    colour: str
    sign: str


_GOOD, _BAD, _KNOWN, _NONE = (
    _Mark("#166534", "✓"),
    _Mark("#b3261e", "✗"),
    _Mark("#854d0e", "✗"),
    _Mark("#5a5a62", "–"),
)
_MARKS = {"holds": _GOOD, "falls short": _BAD, "error": _BAD, "known shortfall": _KNOWN}
_MARKS["undecided"] = _Mark("#854d0e", "?")


def verdict_sentence(claims: Sequence[ClaimView]) -> str:
    """Say in words for everybody what was found of a paper's claims.

    Parameters
    ----------
    claims
        Views of the claims of one paper.

    Returns
    -------
    str
        One sentence or two: how the claim fares that the paper is known for, and how many hold.
    """
    if not any(view.verdict in _DECIDED for view in claims):
        return "None of its claims has been measured yet."
    main = next((view for view in claims if view.headline and view.verdict in _DECIDED), None)
    words = {
        "holds": "holds when it is measured again",
        "falls short": "falls short when it is measured again",
        "known shortfall": "falls short when it is measured again, for a reason that is known",
        "undecided": "can't be decided yet",
    }
    begin = f"What it is known for {words[main.verdict]}: {_ended(main.says)} " if main else ""
    return begin + tally(claims)


def tally(claims: Sequence[ClaimView]) -> str:
    """Count the claims by verdict in one sentence.

    Returns
    -------
    str
        The sentence, such as "Of 6 claims 4 hold, 1 falls short and 1 is undecided."
    """
    found = Counter(view.verdict for view in claims)
    all_of_them = len(claims)
    held, short = found.pop("holds", 0), found.pop("falls short", 0) + found.pop("known shortfall", 0)
    if held == all_of_them:
        return f"All {held} claims hold." if held > 1 else "Its one claim holds."
    open_ = found.pop("undecided", 0)
    rest = sum(found.values())
    parts = [
        f"{held or 'none'} {'holds' if held == 1 else 'hold'}",
        *([f"{short} {'falls' if short == 1 else 'fall'} short"] if short else []),
        *([f"{open_} {'is' if open_ == 1 else 'are'} undecided"] if open_ else []),
        *([f"{rest} {'is' if rest == 1 else 'are'} not measured"] if rest else []),
    ]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"Of {all_of_them} claim{'s' * (all_of_them > 1)} {listed}."


def badge(claims: Sequence[ClaimView]) -> bytes:
    """Draw a badge for a README: how many claims hold.

    Parameters
    ----------
    claims
        Views of the claims of one paper.

    Returns
    -------
    bytes
        An SVG file of one line.
    """
    held, decided = sum(view.verdict == "holds" for view in claims), sum(view.verdict in _DECIDED for view in claims)
    text = f"{held} of {len(claims)} claims hold" if decided else "not measured yet"
    fully = held == len(claims)
    mark = _NONE if not decided else _GOOD if fully else _BAD if not held else _KNOWN
    left, right = 86, 14 + round(6.6 * len(text))
    label = escape(f"Paperworks: {text}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{label}">'
        f'<title>{label}</title><rect width="{left}" height="20" fill="#1d1d1f"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{mark.colour}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">Paperworks</text>'
        f'<text x="{left + right / 2}" y="14" textLength="{right - 12}">{escape(text)}</text></g></svg>\n'
    ).encode()


def verdict_card(paper: "Paper", claims: Sequence[ClaimView], kind: Literal["svg", "png"] = "png") -> bytes:
    """Draw what was found of a paper as a picture to share, of 1200 by 630 pixels.

    Parameters
    ----------
    paper
        The record of the paper.
    claims
        Views of its claims.
    kind
        "png" (default) or "svg", whose text is drawn as outlines, so that it looks alike everywhere.

    Returns
    -------
    bytes
        Content of the file.
    """
    import matplotlib as mpl

    figure = _drawn(paper, claims)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "paperworks"}):
        figure.savefig(buffer, format=kind, dpi=100, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _drawn(paper: "Paper", claims: Sequence[ClaimView]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="#fbfaf7")

    def write(x: float, y: float, text: str, size: float, colour: str = "#1d1d1f", **more: Any) -> None:
        drawn = figure.text(
            x / WIDTH, 1 - y / HEIGHT, text, fontsize=0.72 * size, color=colour, va="top", parse_math=False, **more
        )
        if (wide := drawn.get_window_extent().width) > _ROOM:  # such as capitals, or another script
            drawn.set_fontsize(0.72 * size * _ROOM / wide)

    figure.add_artist(Rectangle((0, 0), 14 / WIDTH, 1, color="#9a3412", transform=figure.transFigure))
    elsewhere = f" · a record of {paper.origin}" if paper.origin else ""
    write(64, 44, f"Paperworks · {paper.field}{elsewhere}", 24, "#5a5a62")
    y = 86.0
    for line in _wrapped(paper.title, 46, 3):
        write(64, y, line, 40, weight="bold")
        y += 52
    y = max(y + 14, 210)
    for line in _wrapped(verdict_sentence(claims), 74, 5):
        write(64, y, line, 27)
        y += 38
    side, gap = 46, 10
    shown = claims if len(claims) <= _MOST else claims[: _MOST - 1]
    for number, view in enumerate(shown):
        mark = _MARKS.get(view.verdict, _NONE)
        x = 64 + number * (side + gap)
        corner = (x / WIDTH, 1 - (480 + side) / HEIGHT)
        box = Rectangle(corner, side / WIDTH, side / HEIGHT, color=mark.colour, transform=figure.transFigure)
        figure.add_artist(box)
        write(x + side / 2, 488, mark.sign, 28, "#ffffff", ha="center", weight="bold")
    if len(shown) < len(claims):
        write(64 + len(shown) * (side + gap), 488, f"+{len(claims) - len(shown)}", 28, "#5a5a62")
    measured = max((view.date[:10] for view in claims if view.date), default="")
    source = f"arXiv {paper.arxiv}" if paper.arxiv else f"doi {paper.doi}"
    facts = [source, *([f"measured {measured}"] if measured else []), f"paperworks run {paper.slug}"]
    write(64, 564, "  ·  ".join(facts), 22, "#5a5a62")
    return figure


def _wrapped(text: str, width: int, most: int) -> list[str]:
    text = "".join(sign if sign.isprintable() else " " for sign in text)  # an SVG file holds no control characters
    return textwrap.wrap(text, width, max_lines=most, placeholder=" …")


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
