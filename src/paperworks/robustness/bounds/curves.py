r"""Functions of one variable, and the lines that bound them on intervals.

One idea serves them all: a line of *any* slope k bounds f on [l, u] once its intercept is the least (or greatest) value
of f(x) - kx there, and that is found among l, u, the kinks of f and the points where f' = k. So the choice of a slope
decides how tight a line is, and never whether it holds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
_BISECTIONS = 32  # for critical points that have no closed form: an error of theirs enters intercepts squared
_ROUGH = 20  # for tangents: any slope bounds
_ROUGHER = 10  # where the slope to the point touched is what counts: an error of the point enters it squared
_NARROW = 1e-8  # below this width, to the size of the ends, a chord's slope is rounding error
_STEEPEST = 1e30  # any slope bounds, and one that overflows is of no use


def _middle(lower: Tensor, upper: Tensor) -> Tensor:
    return (lower + upper) / 2


class Lines(NamedTuple):
    """A lower and an upper line: slopes and intercepts."""

    lower_slope: Tensor
    lower_intercept: Tensor | None
    upper_slope: Tensor
    upper_intercept: Tensor | None


@dataclass(frozen=True)
class Piece:
    """A stretch where a function is convex or concave.

    Parameters
    ----------
    convex
        Which of the two.
    critical
        The inverse of the derivative on the stretch, clamped to it for values the derivative doesn't take; found by
        bisection where it is not given.
    start, end
        The stretch.
    """

    convex: bool
    critical: Function | None = None
    start: float = -math.inf
    end: float = math.inf


@dataclass(frozen=True)
class Curve:
    """A function of one variable that is piecewise convex, concave or linear.

    Lines are differentiable in the ends of intervals, but for points of tangency found by bisection, which are held.

    Parameters
    ----------
    f, df
        The function and its derivative.
    pieces
        The stretches where it is curved.
    kinks
        Where linear pieces meet others.
    increasing, decreasing
        Whether it is monotone.
    domain
        Open interval where it is defined; `closed` includes the left end.
    slopes
        Slopes of its linear pieces.
    s_shaped
        Bound an interval around the inflection by a chord or the tangent through an end alone (the paper's rule); other
        curves take the tangent at the middle into account as well.
    slack
        How far the implementation of `f` is from the curve described.
    touch
        Where the tangent touches a curve that is convex or concave everywhere, by default in the middle.
    rounds
        How many units in the last place the implementation of `f` may be off, 0 where it is exact.
    absolute
        How much the implementation may be off whatever the value, to that of 1: of functions that are made of others.
    cancels
        Whether these are units of x, where that is the greater: of functions that add up what cancels.

    Examples
    --------
    >>> curve = Curve(torch.exp, torch.exp, [Piece(convex=True, critical=torch.log)], increasing=True)
    >>> low, high = torch.tensor(-1.0), torch.tensor(1.0)
    >>> lines = curve.lines(low, high)
    >>> bool(lines.lower_slope <= 1.0 <= lines.upper_slope)
    True
    """

    f: Function
    df: Function
    pieces: Sequence[Piece] = ()
    kinks: Sequence[float] = ()
    increasing: bool = False
    decreasing: bool = False
    domain: tuple[float, float] = (-math.inf, math.inf)
    closed: bool = False
    slopes: Sequence[float] = ()
    s_shaped: bool = False
    slack: float = 0.0
    touch: Callable[[Tensor, Tensor], Tensor] = _middle
    rounds: int = 4
    absolute: float = 0.0
    cancels: bool = False

    def check(self, lower: Tensor, upper: Tensor, where: str) -> None:
        """Raise ValueError where an interval leaves the domain."""
        low, high = self.domain
        if low == -math.inf and high == math.inf:
            return
        least, greatest = float(lower.detach().min()), float(upper.detach().max())
        if least < low or greatest > high or (not self.closed and (least == low or greatest == high)):
            bracket = "[" if self.closed else "("
            takes = f"an interval inside {bracket}{low:g}, {high:g})"
            raise ValueError(f"{where} is bounded by [{least:g}, {greatest:g}]; it takes {takes}")

    def image(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and greatest values on intervals."""
        if self.increasing:
            return self.f(lower) - self.slack, self.f(upper) + self.slack
        if self.decreasing:
            return self.f(upper) - self.slack, self.f(lower) + self.slack
        flat = torch.zeros_like(lower)
        return self.intercept(flat, lower, upper, False), self.intercept(flat, lower, upper, True)

    def intercept(self, slope: Tensor, lower: Tensor, upper: Tensor, above: bool) -> Tensor:
        """Return the greatest (`above`) or least value of f(x) - slope x on intervals."""
        best = torch.maximum if above else torch.minimum
        found = best(self.f(lower) - slope * lower, self.f(upper) - slope * upper)
        for kink in self.kinks:
            at = torch.clamp(torch.full_like(lower, kink), lower, upper)
            found = best(found, self.f(at) - slope * at)
        for piece in self.pieces:
            if piece.convex != above:
                with torch.no_grad():
                    at = self._critical(piece, slope, lower, upper)
                # By the envelope theorem its place can be held fixed, but where it is an end it moves with that.
                at = torch.clamp(at, lower, upper)
                beyond = self._beyond(piece, at, slope, lower, upper, above)
                found = best(found, beyond + self.f(at) - slope * at)
        return found + self.slack if above else found - self.slack

    @torch.no_grad()
    def _beyond(self, piece: Piece, at: Tensor, slope: Tensor, lower: Tensor, upper: Tensor, above: bool) -> Tensor:
        """Return how far f(x) - slope x may go beyond its value at a point, by its tangent there, on a curved piece.

        It is nothing at the critical point itself, and so a bound holds wherever the search for that ended.
        """
        # What of the piece is inside; an end of the interval, where nothing is.
        low, high = (end.clamp(piece.start, piece.end).clamp(lower, upper) for end in (lower, upper))
        steep = self.df(at) - slope
        left, right = steep * (low - at), steep * (high - at)
        zero = torch.zeros_like(left)
        left, right = torch.where(at > low, left, zero), torch.where(at < high, right, zero)
        best = torch.maximum if above else torch.minimum
        return best(best(left, right), zero)

    def _critical(self, piece: Piece, slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        low, high = lower.clamp(piece.start, piece.end), upper.clamp(piece.start, piece.end)
        if piece.critical is not None:
            at = piece.critical(slope)
            return torch.where(at.isnan(), low, at)

        def before(x: Tensor) -> Tensor:
            return (self.df(x) < slope) == piece.convex

        at = _bisect(before, *torch.broadcast_tensors(low, high + 0 * slope))
        # Beyond an end of the interval, for the point to move with that, and not just short of it.
        at = torch.where(before(high), torch.where(high == upper, math.inf, high), at)
        return torch.where(before(low), at, torch.where(low == lower, -math.inf, low))

    def _tangent(self, piece: Piece, through: Tensor, lower: Tensor, upper: Tensor, steps: int = _ROUGH) -> Tensor:
        """Return the point of a piece inside [lower, upper] whose tangent passes through f(through), if any does."""
        low, high = lower.clamp(piece.start, piece.end), upper.clamp(piece.start, piece.end)
        value = self.f(through)

        def short(x: Tensor) -> Tensor:
            """Whether the point touched lies farther from `through`, seen along the axis, than x."""
            misses = self.f(x) + self.df(x) * (through - x) < value
            # Walking towards `through`, tangents of a convex piece rise at it.
            return misses == ((through >= x) == piece.convex)

        return _bisect(short, low, high, steps)

    def chord(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return the slope between the ends of intervals, or the derivative where they nearly meet."""
        width = upper - lower
        narrow = width <= _NARROW * (lower.abs() + upper.abs())
        slope = (self.f(upper) - self.f(lower)) / torch.where(narrow, 1.0, width)
        if not narrow.any():
            return _finite(slope)
        return torch.where(narrow, _finite(self.df((lower + upper) / 2)), _finite(slope))

    def lines(self, lower: Tensor, upper: Tensor, dtype: torch.dtype | None = None) -> Lines:
        """Return the lines of least area among tangents and chords, whose slopes a type can hold."""
        return Lines(*self.line(lower, upper, False, dtype), *self.line(lower, upper, True, dtype))

    def line(
        self, lower: Tensor, upper: Tensor, above: bool, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return slope and intercept of one of the two."""
        slope = self.slope(lower, upper, self.chord(lower, upper), above).clamp(-_STEEPEST, _STEEPEST)
        slope = slope if dtype is None else slope.to(dtype).to(lower)
        return slope, self.intercept(slope, lower, upper, above)

    def slope(self, lower: Tensor, upper: Tensor, chord: Tensor, above: bool) -> Tensor:
        """Return, of the slopes worth trying, the one whose line is best in the middle of the interval."""
        if len(self.pieces) == 1 and not self.kinks:
            return chord if self.pieces[0].convex == above else _finite(self.df(self.touch(lower, upper)))
        middle = (lower + upper) / 2
        candidates = [chord, *(torch.full_like(chord, s) for s in self.slopes)]
        for at in self._kinks_inside(lower, upper):
            candidates += [self.chord(lower, at), self.chord(at, upper)]
        if self.pieces:
            with torch.no_grad():
                touched = [
                    self._tangent(piece, end, lower, upper)
                    for piece in self.pieces
                    if piece.convex != above
                    for end in (lower, upper)
                ]
            touched += self._kinks_inside(lower, upper)
            candidates += [_finite(self.df(torch.clamp(x, lower, upper))) for x in touched]
            candidates.append(self._tangent_in_the_middle(lower, upper, middle, chord))
        sign = -1.0 if above else 1.0
        values = torch.stack(
            [sign * (k * middle + self.intercept(k, lower, upper, above)) for k in (c.detach() for c in candidates)]
        )
        best = values.argmax(0, keepdim=True)
        return torch.stack(candidates).gather(0, best)[0]

    def _tangent_in_the_middle(self, lower: Tensor, upper: Tensor, middle: Tensor, chord: Tensor) -> Tensor:
        tangent = _finite(self.df(middle))
        if not self.s_shaped:
            return tangent
        mixed = (lower < 0) & (upper > 0)
        return torch.where(mixed, chord, tangent)

    def _kinks_inside(self, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [torch.clamp(torch.full_like(lower, kink), lower, upper) for kink in self.kinks]

    def slope_range(self, lower: Tensor, upper: Tensor, above: bool) -> tuple[Tensor, Tensor]:
        """Return the least and greatest slopes worth trying: those of the convex (or concave) envelope at its ends.

        A line that is steeper or flatter lies, on all of the interval, beyond the one through an end of it.
        """
        marks = self._kinks_inside(lower, upper)
        curved = [piece for piece in self.pieces if piece.convex != above]
        with torch.no_grad():  # a piece without an end of its own touches no tangent from that end of the interval
            touched = [
                [self._tangent(p, end, lower, upper, _ROUGHER) for p in curved if math.isfinite(limit(p))]
                for end, limit in ((lower, lambda p: p.start), (upper, lambda p: p.end))
            ]
        slopes = []
        for end, tangents in zip((lower, upper), touched, strict=True):
            found = [self.chord(lower, upper)]
            for at in (*marks, *(torch.clamp(x, lower, upper) for x in tangents)):
                found.append(self.chord(torch.minimum(end, at), torch.maximum(end, at)))
            if curved:
                steep = self.df(end)
                found.append(torch.where(steep.isfinite(), steep, found[0]))
            stacked = torch.stack(found).clamp(-_STEEPEST, _STEEPEST)
            slopes.append(stacked.amin(0) if (end is lower) != above else stacked.amax(0))
        return torch.minimum(*slopes), torch.maximum(*slopes)


def _finite(slope: Tensor) -> Tensor:
    return torch.where(slope.isfinite(), slope, 0.0)


def _bisect(right: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, steps: int = _BISECTIONS) -> Tensor:
    """Return where a condition that holds on the left of a point stops holding."""
    for _ in range(steps):
        middle = (low + high) / 2
        go = right(middle)
        low, high = torch.where(go, middle, low), torch.where(go, high, middle)
    return (low + high) / 2
