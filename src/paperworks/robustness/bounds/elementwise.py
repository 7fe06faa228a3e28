"""Rules of functions that act on each element alone."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.curves import Curve, Lines
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.patches import Box, closed, crop, opened
from paperworks.robustness.bounds.perturbations import row_dot
from paperworks.robustness.bounds.registry import Rule
from paperworks.robustness.bounds.rounding import depth, double, least, unit
from paperworks.robustness.bounds.values import Backward, Interval, LinearBounds

_OWN = 8  # roundings of lines and of coefficients multiplied by them
_PACE = 0.12  # of slopes between the flattest and the steepest worth trying: the best one is seldom an end


class ElementwiseRule(Rule):
    """A function of one variable, described by a `Curve`.

    Parameters
    ----------
    make
        Called with the operator's arguments behind the first (slopes, limits), returns the curve.

    Examples
    --------
    >>> from paperworks.robustness import register_bound
    >>> from paperworks.robustness.bounds import Curve, Piece
    >>> def cube() -> Curve:
    ...     root = lambda k: (k.clamp(min=0) / 3).sqrt()
    ...     pieces = [Piece(False, lambda k: -root(k), end=0.0), Piece(True, root, start=0.0)]
    ...     return Curve(lambda x: x**3, lambda x: 3 * x**2, pieces, increasing=True)
    >>> rule = ElementwiseRule(cube)
    """

    outward = True
    from_origin = False
    """Whether lower lines pass through the origin, but for rounding."""

    def __init__(self, make: Callable[..., Curve]) -> None:
        self._make = functools.lru_cache(maxsize=256)(make)

    def curve(self, node: Node) -> Curve:
        """Return the function at a node."""
        return self._make(*node.args[1:], **node.kwargs)

    def partial(self, node: Node) -> bool:
        """Return whether the curve has a domain."""
        return self.curve(node).domain != (-math.inf, math.inf)

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the operator's value: it needs no mapping over samples."""
        return node.op(*args, **kwargs) if callable(node.op) else self.curve(node).f(args[0]).to(node.dtype)

    def undecided(self, node: Node, bounds: Interval, call: Call) -> Tensor | None:
        """Return where the function can bend: nowhere if its lines are exact."""
        curve = self.curve(node)
        if curve.pieces or not curve.kinks:
            return None
        marks = [(bounds.lower < kink) & (bounds.upper > kink) for kink in curve.kinks]
        return functools.reduce(torch.logical_or, marks)

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the exact image."""
        bounds = call.bounds(node.inputs[0])
        curve = self.curve(node)
        curve.check(*bounds, f"the input of {node.name!r} ({node.op})")
        return Interval(*(end.to(call.dtype) for end in curve.image(*double(*bounds))))

    def rounding(self, node: Node, call: Call, size: Callable[[Node], Tensor], ends: Interval) -> Tensor | None:
        """Return the error of the function as it is implemented."""
        if not self.curve(node).rounds:
            return None
        return self._error(node, call, torch.maximum(ends.lower.detach().abs(), ends.upper.detach().abs()))

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return the errors of the function at its ends."""
        return None if most is None else tuple(self._error(node, call, end.detach().abs()) for end in ends)

    def signs_kept(self, node: Node, call: Call) -> tuple[bool, bool]:
        """Return twice whether errors are to the value alone."""
        curve = self.curve(node)
        kept = not (curve.absolute or curve.cancels or curve.slack)
        return kept, kept

    def _error(self, node: Node, call: Call, size: Tensor) -> Tensor:
        curve = self.curve(node)
        found = call.gap(node, curve.rounds) * size + 8 * unit(call.dtype) * curve.absolute + least(call.type_of(node))
        return found + call.gap(node, 4) * call.size(node.inputs[0]) if curve.cancels else found

    def rounding_of_lines(self, node: Node, call: Call) -> Tensor | None:
        """Return the error of linear bounds passed through lines: lines hold for the function already."""
        lines = self._lines_at(node, call)
        gap = call.gap(node, 4)
        reach = call.reach[node.inputs[0]]
        steep = torch.maximum(lines.lower_slope.detach().abs(), lines.upper_slope.detach().abs())
        found = gap * steep * reach
        for intercept in (lines.lower_intercept, lines.upper_intercept):
            found = found if intercept is None else found + gap * intercept.detach().abs()
        return found

    def lines(self, node: Node, bounds: Interval, call: Call) -> Lines:
        """Return the lines that bound the function, by option and interval."""
        curve = self.curve(node)
        curve.check(*bounds, f"the input of {node.name!r} ({node.op})")
        return curve.lines(*double(*bounds), call.dtype)

    def is_local(self, node: Node, call: Call) -> bool:
        """Return True."""
        return True

    def free_lines(self, node: Node, bounds: Interval, call: Call, rows: Tensor) -> Lines:
        """Return the lines whose slopes are parameters to optimise, for each row."""
        curve = self.curve(node)
        bounds = Interval(*double(*bounds))
        ranges = (curve.slope_range(*bounds, above) for above in (False, True))
        low, high = (torch.stack(ends) for ends in zip(*ranges, strict=True))

        def start() -> list[Tensor]:
            lines = curve.lines(*bounds)
            width = torch.where(high > low, high - low, 1.0)
            chosen = torch.stack([lines.lower_slope, lines.upper_slope])
            return [((chosen - low) / width).clamp(0, 1).to(call.dtype)]

        assert call.freedom is not None
        (share,) = call.freedom.of((call.start, call.part), node, rows, start, _PACE)
        slopes = (low + share.clamp(0, 1) * (high - low)).to(call.dtype).to(low)
        bounds = Interval(*(end.expand_as(slopes[:, 0]) for end in bounds))
        return Lines(
            slopes[:, 0],
            curve.intercept(slopes[:, 0], *bounds, False),
            slopes[:, 1],
            curve.intercept(slopes[:, 1], *bounds, True),
        )

    def _lines_at(self, node: Node, call: Call) -> Lines:
        """Return the lines at all places."""
        bounds = call.bounds(node.inputs[0])
        kept = call.lines.get(node)
        if kept is None or kept[0] is not bounds:
            kept = call.lines[node] = (bounds, self._outward(node, call, self.lines(node, bounds, call)))
        return kept[1]

    def _bent(self, node: Node, call: Call, rows: Tensor, box: Box | None) -> Sequence[Any]:
        """Return the slope and intercept of lower lines in a box, and what upper ones have more."""
        if call.freedom is not None:
            bounds = Interval(*(crop(end, box) for end in call.bounds(node.inputs[0])))
            return self._differences(self._outward(node, call, self.free_lines(node, bounds, call, rows), box))
        lines = self._lines_at(node, call)
        kept = call.bends.get(node)
        if kept is None or kept[0] is not lines:
            made = self._differences(lines)
            given = torch.broadcast_tensors(*(t for t in made if t is not None))
            kept = call.bends[node] = (lines, [t is not None for t in made], torch.stack(given))
        found = iter(crop(kept[2], box).contiguous())
        return [next(found) if there else None for there in kept[1]]

    def _differences(self, lines: Lines) -> Sequence[Any]:
        below, above = lines.lower_intercept, lines.upper_intercept
        if self.from_origin and below is not None:
            above = -below if above is None else above - below
        return [lines.lower_slope, lines.upper_slope - lines.lower_slope, below, above]

    def _outward(self, node: Node, call: Call, lines: Lines, box: Box | None = None) -> Lines:
        """Return lines in the type of the computation, moved apart by what rounding does at the node.

        That is the error of the function as it is implemented, of the lines and of coefficients multiplied by slopes,
        and that of the input where this is its only consumer.
        """
        if not call.sound:
            low, up = (None if c is None else c.to(call.dtype) for c in (lines.lower_intercept, lines.upper_intercept))
            return Lines(lines.lower_slope.to(call.dtype), low, lines.upper_slope.to(call.dtype), up)
        source = node.inputs[0]
        handed = call.margins.get(source) if source in call.carried else None
        own = call.margins.get(node)
        with torch.no_grad():
            by_slope = _OWN * unit(call.dtype) * call.size(source)
            by_slope = crop(by_slope if handed is None else by_slope + handed, box)
            own = own if own is None else crop(own, box)
        share = (_OWN + depth(node.shape.numel())) * unit(call.dtype)

        def moved(slope: Tensor, intercept: Tensor | None, sign: int) -> tuple[Tensor, Tensor]:
            slope = slope.to(call.dtype)
            away = slope.detach().abs() * by_slope
            away = away if own is None else away + own
            if intercept is None:
                return slope, sign * away
            intercept = intercept.to(call.dtype)
            return slope, intercept + sign * torch.add(away, intercept.detach().abs(), alpha=share)

        return Lines(*moved(*lines[:2], -1), *moved(*lines[2:], 1))

    def backward(self, node: Node, rows: Any, call: Call) -> Backward:
        """Take the lower line where a coefficient is positive, and the upper one where it is negative."""
        rows, box = opened(rows)
        single = type(self) is ElementwiseRule and rows.shape[0] == 1 and box is None and call.freedom is None
        if single and not bool((rows > 0).any()):
            # A single row that asks for nothing but upper lines: that of a fused loss.
            bounds = call.bounds(node.inputs[0])
            self.curve(node).check(*bounds, f"the input of {node.name!r} ({node.op})")
            line = self.curve(node).line(*double(*bounds), True, call.dtype)
            _, _, slope, intercept = self._outward(node, call, Lines(*line, *line))
            assert intercept is not None
            return Backward([(node.inputs[0], rows * slope)], row_dot(rows, intercept))
        slope, bend, below, above = self._bent(node, call, rows, box)
        negative, whole = rows.clamp(max=0), node.shape.numel()
        found = rows * slope
        found.addcmul_(negative, bend)  # in place: memory is what this costs
        constant: Tensor | float = 0.0
        if below is not None:  # what rounding takes from origins is so little that it may be taken from all rows
            constant = row_dot(rows if self.from_origin else rows - negative, below, whole)
        if above is not None:
            constant = constant + row_dot(negative, above, whole)
        return Backward([(node.inputs[0], closed(found, box))], constant)

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Pass linear bounds through the lines."""
        lines = self._lines_at(node, call)
        b = call.linear[node.inputs[0]]

        def through(slope: Tensor, first: Tensor, second: Tensor) -> Tensor:
            return slope.clamp(min=0) * first + slope.clamp(max=0) * second

        lb = through(lines.lower_slope, b.lower_bias, b.upper_bias)
        ub = through(lines.upper_slope, b.upper_bias, b.lower_bias)
        return LinearBounds(
            through(lines.lower_slope, b.lower_weight, b.upper_weight),
            lb if lines.lower_intercept is None else lb + lines.lower_intercept,
            through(lines.upper_slope, b.upper_weight, b.lower_weight),
            ub if lines.upper_intercept is None else ub + lines.upper_intercept,
        )


class ReLURule(ElementwiseRule):
    r"""max(0, x): upper line the chord, lower line of slope :math:`\alpha \in [0, 1]` through the origin.

    References
    ----------
    Zhang et al. (2018), arXiv 1811.00866 (adaptive slopes); Xu et al. (2021), arXiv 2011.13824 (optimised ones).
    """

    from_origin = True

    def __init__(self) -> None:
        super().__init__(lambda: Curve(torch.relu, lambda x: (x > 0).to(x), kinks=[0.0], increasing=True, rounds=0))

    def lines(self, node: Node, bounds: Interval, call: Call) -> Lines:
        """Return the chord, and the line that option `relu` names."""
        lower, upper = bounds
        slope, intercept = self._chord(lower, upper)
        match call.options.relu:
            case "adaptive":
                alpha = (upper > -lower).to(slope)
            case "reversed-adaptive":
                alpha = torch.where((lower < 0) & (upper > 0), upper <= -lower, lower >= 0).to(slope)
            case "same-slope":
                alpha = slope
            case "zero-lb":
                alpha = (lower >= 0).to(slope)
            case _:
                alpha = (upper > 0).to(slope)
        return Lines(alpha, None, slope, intercept)

    @staticmethod
    def _chord(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and intercept of the upper line; exact where the sign is decided."""
        left, right = lower.clamp(max=0), upper.clamp(min=0)
        slope = right / (right - left).clamp(min=1e-8)
        slope = torch.where(lower >= 0, 1.0, slope)
        return slope, torch.where(lower >= 0, 0.0, torch.maximum(-slope * left, right - slope * right))

    def free_lines(self, node: Node, bounds: Interval, call: Call, rows: Tensor) -> Lines:
        """Return the chord, and lower lines of each row's own slopes."""
        lower, upper = bounds
        slope, intercept = self._chord(lower, upper)

        def start() -> list[Tensor]:
            return [self.lines(node, bounds, call).lower_slope[None]]

        assert call.freedom is not None
        (alpha,) = call.freedom.of((call.start, call.part), node, rows, start)
        alpha = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, alpha[:, 0].clamp(0, 1)))
        return Lines(alpha, None, slope, intercept)

    def backward(self, node: Node, rows: Any, call: Call) -> Backward:
        """Take the lines, and off what constraints of split neurons add: multipliers times what is no less than 0."""
        found = super().backward(node, rows, call)
        source, start = node.inputs[0], call.start
        if call.splits is None or start is not call.graph.output or not isinstance(rows, Tensor):
            return found
        call.splits.arrived[node] = rows.detach()
        multipliers = call.splits.multipliers.get(source)
        if multipliers is None:
            return found
        ((_, arrived),) = found.coefficients
        coefficients = arrived - multipliers
        if not call.sound:
            return Backward([(source, coefficients)], found.constant)
        # The sum rounds, and the module's own value at the source lies off by its margin.
        away = 2 * unit(call.dtype) * row_dot(coefficients.abs(), call.size(source))
        off = _OWN * unit(call.dtype) * call.size(source) + call.margins.get(source, 0.0)
        return Backward([(source, coefficients)], found.constant - away - row_dot(multipliers.abs(), off))
