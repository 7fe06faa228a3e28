"""Rules of maxima, pooling and softmax, and of the shift that keeps exponentials small."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.perturbations import row_dot
from paperworks.robustness.bounds.registry import Rule
from paperworks.robustness.bounds.rounding import depth, double, least, quantum, unit
from paperworks.robustness.bounds.values import Backward, Interval, LinearBounds


class MaxRule(Rule):
    """Greatest value over axes (`amax`).

    Lower line: the input of greatest lower end. Upper: that input where its lower end is above all other upper ends,
    else the constant greatest upper end. α-CROWN mixes inputs for the lower line.
    """

    def windows(self, node: Node, x: Tensor, lead: int, fill: float) -> Tensor:
        """Return the candidates of each output on a last axis."""
        rank = len(node.inputs[0].shape)
        axes = node.args[1] if len(node.args) > 1 else []
        axes = [axes] if isinstance(axes, int) else axes
        axes = sorted(a % rank for a in (axes or range(rank)))
        kept = [a for a in range(rank) if a not in axes]
        x = x.permute(*range(lead), *(lead + a for a in kept), *(lead + a for a in axes))
        return x.reshape(*x.shape[:lead], *node.shape, -1)

    def rounding(self, node: Node, call: Call, size: Callable[[Node], Tensor], ends: Interval) -> Tensor | None:
        """Return the error of coefficients spread over candidates: the maxima themselves are exact."""
        candidates = self.windows(node, size(node.inputs[0]), 1, 0.0)
        terms = 2 * candidates.shape[-1] + depth(node.shape.numel())
        return call.gap(node, terms) * candidates.amax(-1)

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return None: maxima are chosen."""
        return None

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the maxima."""
        return self.windows(node, args[0], 1, -torch.inf).amax(-1)

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the maxima of the ends: exact."""
        lower, upper = call.bounds(node.inputs[0])
        return Interval(*(self.windows(node, end, 1, -torch.inf).amax(-1) for end in (lower, upper)))

    def _choice(self, node: Node, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Return the one-hot choice of each output, where it is certain, and the greatest upper end."""
        lower, upper = (self.windows(node, end, 1, -torch.inf) for end in call.bounds(node.inputs[0]))
        first = lower.argmax(-1, keepdim=True)
        chosen = torch.zeros_like(lower).scatter_(-1, first, 1.0)
        others = torch.where(chosen > 0, -torch.inf, upper).amax(-1)
        return chosen, lower.gather(-1, first)[..., 0] >= others, upper.amax(-1)

    def undecided(self, node: Node, bounds: Interval, call: Call) -> Tensor | None:
        """Return everywhere: ends of all candidates decide."""
        return None

    def _spread(self, node: Node, rows: Tensor) -> Tensor:
        """Apply the adjoint of `windows`."""
        zeros = rows.new_zeros(*rows.shape[:2], *node.inputs[0].shape)
        pull: Any = torch.func.vjp(lambda x: self.windows(node, x, 2, 0.0), zeros)[1]
        return pull(rows)[0]

    def backward(self, node: Node, rows: Tensor, call: Call) -> Backward:
        """Hand coefficients to the chosen input; what is not certain falls out as a constant above."""
        chosen, certain, greatest = self._choice(node, call)
        mix, lower = chosen, call.bounds(node.inputs[0]).lower
        if call.freedom is not None:
            (weights,) = call.freedom.of((call.start, call.part), node, rows, lambda: [chosen[None]])
            # Never what is padded: it isn't there to be chosen.
            weights = weights[:, 0].clamp(min=0) * self.windows(node, torch.ones_like(lower), 1, 0.0)
            total = weights.sum(-1, keepdim=True)
            mix = torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), chosen)
            mix = torch.where(certain[..., None], chosen, mix)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        passed = positive[..., None] * mix + (negative * certain)[..., None] * chosen
        constant = row_dot(negative, torch.where(certain, 0.0, greatest))
        return Backward([(node.inputs[0], self._spread(node, passed))], constant)

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Take the chosen input's linear bounds."""
        chosen, certain, greatest = self._choice(node, call)
        b = call.linear[node.inputs[0]]

        def pick(x: Tensor, lead: int) -> Tensor:
            return (self.windows(node, x, lead, 0.0) * chosen).sum(-1)

        return LinearBounds(
            pick(b.lower_weight, 2),
            pick(b.lower_bias, 1),
            pick(b.upper_weight, 2) * certain,
            torch.where(certain, pick(b.upper_bias, 1), greatest),
        )


class MaxPoolRule(MaxRule):
    """Max-pooling in any number of dimensions, with padding, stride and dilation."""

    def windows(self, node: Node, x: Tensor, lead: int, fill: float) -> Tensor:
        """Gather each window from the image, padded by `fill`."""
        sizes = node.inputs[0].shape[2:]
        kernel, stride, padding, dilation = self._geometry(node, len(sizes))
        for axis, (k, s, p, d) in enumerate(zip(kernel, stride, padding, dilation, strict=True)):
            dim = -len(sizes)  # each axis done goes to the end, so that the next one takes its place
            outputs = node.shape[2 + axis]
            span = (outputs - 1) * s + d * (k - 1) + 1
            pad = [0] * (2 * (len(sizes) - 1)) + [p, max(span - p - sizes[axis], 0)]
            x = functional.pad(x, pad, value=fill) if any(pad) else x
            places = torch.arange(outputs)[:, None] * s + torch.arange(k)[None] * d
            index = places.flatten().to(x.device)
            x = x.index_select(dim, index).unflatten(dim, (outputs, k)).movedim(dim, -1)
        return x.flatten(-len(sizes))

    @staticmethod
    def _geometry(node: Node, dimensions: int) -> list[list[int]]:
        defaults: list[Any] = [None, [], [0], [1]]
        given = [node.args[i + 1] if len(node.args) > i + 1 else defaults[i] for i in range(4)]
        given[1] = given[1] or given[0]
        return [list(g) * dimensions if len(g) == 1 else list(g) for g in given]


class SoftmaxRule(Rule):
    r"""Softmax between a quotient by chords and the log-sum-exp line.

    The lower line is the tangent at the middle of :math:`e^{x_k} / \sum_i (\kappa_i x_i + \beta_i)`, whose denominator
    holds the chords of exp: convex where that is positive. The upper is :math:`a_k - c_k (\mathrm{LSE}(x) - x_k)` with
    the chord of log between the least and greatest probability, concave, hence its tangent. Both have gradients
    :math:`v_k (\delta_{ki} - w_i)`, so that no matrix is made.

    References
    ----------
    Wei et al. (2023), Convex Bounds on the Softmax Function, arXiv 2303.01713.
    """

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return probabilities."""
        return torch.softmax(args[0], self._axis(node))

    @staticmethod
    def _axis(node: Node) -> int:
        rank = len(node.shape)
        return node.args[1] % rank - rank if rank else 0

    def _terms(self, node: Node) -> int:
        return node.shape[self._axis(node)] if node.shape else 1

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the exact image of a box, each output for itself."""
        ends = double(*call.bounds(node.inputs[0]))
        return Interval(*(end.to(call.dtype) for end in softmax_ends(*ends, self._axis(node))))

    def rounding(self, node: Node, call: Call, size: Callable[[Node], Tensor], ends: Interval) -> Tensor | None:
        """Return the error of probabilities: exponents far below 0 are off by more units, of next to nothing."""
        return self._error(node, call, ends.upper.detach())

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return the errors at both ends, no greater than the lower one is."""
        low, high = (self._error(node, call, end.detach()) for end in ends)
        return torch.minimum(low, ends.lower.detach()), high

    def _error(self, node: Node, call: Call, p: Tensor) -> Tensor:
        exponents = call.gap(node, 0) * -p.clamp(min=quantum(call.dtype)).log()
        # Ends are made of logits less the greatest of all, which in double precision is rounded like all else.
        lower, upper = (end.detach() for end in call.bounds(node.inputs[0]))
        away = upper.amax(self._axis(node), keepdim=True) - lower
        away = torch.where(away < _MASKED, away, 0.0).amax(self._axis(node), keepdim=True)
        exponents = exponents + 4 * unit(torch.float64) * away
        return (call.gap(node, self._terms(node) + 4) + exponents) * p + least(call.type_of(node))

    def rounding_of_lines(self, node: Node, call: Call) -> Tensor | None:
        """Return the error of the module's probabilities, and of what lines add up."""
        own = self._error(node, call, call.ends[node].upper.detach())
        lines = self._away(node, call, *self._lines(node, call), call.reach[node.inputs[0]])
        return own + torch.maximum(*lines).movedim(-1, self._axis(node))

    def _lines(self, node: Node, call: Call) -> tuple[Tensor, ...]:
        """Return (v, w, constant) of the lower line, then of the upper, the axis moved last, in double precision."""
        axis = self._axis(node)
        lower, upper = (end.movedim(axis, -1) for end in double(*call.bounds(node.inputs[0])))
        shift = upper.detach().amax(-1, keepdim=True)
        hidden = upper - shift < _HIDDEN  # by a mask: what they add to a sum is a constant, and they have no slope
        lower, upper = (torch.where(hidden, upper - shift, end - shift) for end in (lower, upper))
        middle, width = (lower + upper) / 2, upper - lower
        middle = torch.where(hidden, 0.0, middle)
        flat = width < 1e-9
        chord = (upper.exp() - lower.exp()) / torch.where(flat, 1.0, width)
        kappa = torch.where(hidden, 0.0, torch.where(flat, upper.exp(), chord))
        total = torch.where(hidden, upper.exp(), upper.exp() + kappa * (middle - upper)).sum(-1, keepdim=True)
        v = torch.where(hidden, 0.0, middle.exp() / total)
        w = kappa / total
        at = middle + torch.where(hidden, 0.0, shift)
        below = v - v * (at - (w * at).sum(-1, keepdim=True))
        # log p lies above its chord, so p <= a + c log p with c the chord's inverse slope.
        log_low, log_high = (end.movedim(axis, -1) for end in self._log_ends(node, call))
        low, high, span = log_low.exp(), log_high.exp(), log_high - log_low
        narrow = span < 1e-7
        c = torch.where(hidden, 0.0, torch.where(narrow, high, (high - low) / torch.where(narrow, 1.0, span)))
        log_p = torch.log_softmax(torch.where(hidden, -torch.inf, middle), -1)
        p = log_p.exp()
        log_p = torch.where(hidden, 0.0, log_p)
        # Where the span is too narrow for a chord, p is at most its greatest value.
        above = high + c * torch.where(hidden, 0.0, log_p - log_high)
        above = above + torch.where(narrow, c * span, 0.0) - c * (at - (p * at).sum(-1, keepdim=True))
        return v, w, below, c, p, above

    def _log_ends(self, node: Node, call: Call) -> tuple[Tensor, Tensor]:
        return log_softmax_ends(*double(*call.bounds(node.inputs[0])), self._axis(node))

    def _away(self, node: Node, call: Call, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far rounding can move each line, from what it adds up: lines, then sizes of the input."""
        v, w, below, c, p, above, size = rest
        size = size.movedim(self._axis(node), -1).double()
        gap = call.gap(node, 2 * self._terms(node) + depth(node.shape.numel()))

        def away(first: Tensor, share: Tensor, constant: Tensor) -> Tensor:
            at = torch.where(share == 0, 0.0, share * size).sum(-1, keepdim=True) + torch.where(first == 0, 0.0, size)
            return (gap * (torch.where(first == 0, 0.0, first * at) + constant.abs())).to(call.dtype)

        return away(v, w, below), away(c, p, above)

    def backward(self, node: Node, rows: Tensor, call: Call) -> Backward:
        """Multiply by the gradients of the tangent planes."""
        lines = self._lines(node, call)
        below, above = lines[2].to(call.dtype), lines[5].to(call.dtype)
        if call.sound:
            away = self._away(node, call, *(t.detach() for t in lines), call.size(node.inputs[0]))
            below, above = below - away[0], above + away[1]
        v, w, _, c, p, _ = (t.to(call.dtype) for t in lines)
        rows = rows.movedim(self._axis(node), -1)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        by_low, by_up = positive * v, negative * c
        found = by_low + by_up - by_low.sum(-1, keepdim=True) * w - by_up.sum(-1, keepdim=True) * p
        constant = row_dot(positive, below) + row_dot(negative, above)
        return Backward([(node.inputs[0], found.movedim(-1, self._axis(node)))], constant)

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Pass linear bounds through the tangent planes: v_k ((1 - w_k) x_k - the sum of the others' w_i x_i)."""
        v, w, below, c, p, above = (t.to(call.dtype) for t in self._lines(node, call))
        axis = self._axis(node)
        b = LinearBounds(*(t.movedim(axis, -1) for t in call.linear[node.inputs[0]]))

        def through(v: Tensor, w: Tensor, own: Tensor, others: Tensor) -> Tensor:
            weighted = torch.where(w == 0, 0.0, w * others)  # what is hidden may be infinite
            found = v * ((1 - w) * own - (weighted.sum(-1, keepdim=True) - weighted))
            return torch.where(v == 0, 0.0, found)

        parts = (
            through(v, w, b.lower_weight, b.upper_weight),
            through(v, w, b.lower_bias, b.upper_bias) + below,
            through(c, p, b.upper_weight, b.lower_weight),
            through(c, p, b.upper_bias, b.lower_bias) + above,
        )
        return LinearBounds(*(t.movedim(-1, axis) for t in parts))


_MASKED = 1e30  # farther below is what a mask leaves out
_HIDDEN = -60.0  # below the greatest upper end, where an exponential is less than rounding is to the sum


def softmax_ends(lower: Tensor, upper: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the exact ends of each probability over a box of logits."""
    low, high = log_softmax_ends(lower, upper, axis)
    return low.exp(), high.exp()


def log_softmax_ends(lower: Tensor, upper: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the exact ends of each log-probability over a box of logits."""

    def end(own: Tensor, others: Tensor) -> Tensor:
        # The sum of the others' exponentials, each axis element left out in turn, without cancellation.
        x = others.movedim(axis, -1)
        n = x.shape[-1]
        eye = torch.eye(n, dtype=torch.bool, device=x.device)
        rest = torch.where(eye, -torch.inf, x[..., None, :]).logsumexp(-1)
        mine = own.movedim(axis, -1)
        return -torch.logaddexp(torch.zeros_like(mine), rest - mine).movedim(-1, axis)

    # Differences decide alone; what is common to all would be rounded.
    shift = upper.detach().amax(axis, keepdim=True)
    lower, upper = lower - shift, upper - shift
    return end(lower, upper), end(upper, lower)


def mean_square_ends(lower: Tensor, upper: Tensor, axes: Any) -> tuple[Tensor, Tensor]:
    """Return ends of a mean of squares over a box, by the triangle inequality of its root."""
    middle, radius = ((end / 2).square().mean(axes, keepdim=True).sqrt() for end in (lower + upper, upper - lower))
    return (middle - radius).clamp(min=0).square(), (middle + radius).square()


def logsumexp_ends(lower: Tensor, upper: Tensor, axes: Any, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Return the exact ends of a log-sum-exp over a box."""
    return torch.logsumexp(lower, axes, keepdim), torch.logsumexp(upper, axes, keepdim)


class ShiftRule(Rule):
    """x minus a constant that a computation fixes once, the greatest upper end over an axis: exponentials stay <= 1."""

    def shift(self, node: Node, call: Call) -> Tensor:
        """Return the constant, made when first asked for."""
        if node not in call.state:
            source = node.inputs[0]
            top = call.bounds(source).upper
            call.state[node] = top.detach().amax(self._axes(node), keepdim=True)
        return call.state[node]

    @staticmethod
    def _axes(node: Node) -> list[int]:
        rank = len(node.shape)
        axes = node.args[1]
        return [a % rank - rank for a in ([axes] if isinstance(axes, int) else axes)]

    def rounding(self, node: Node, call: Call, size: Callable[[Node], Tensor], ends: Interval) -> Tensor | None:
        """Return the error of a difference."""
        gap = call.gap(node, 1 + depth(node.shape.numel()))
        return gap * size(node.inputs[0]) + gap * self.shift(node, call).abs()

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Shift by the greatest element."""
        return args[0] - args[0].amax(self._axes(node), keepdim=True)

    def is_affine(self, node: Node, call: Call) -> bool:
        """Return True."""
        return True

    def undecided(self, node: Node, bounds: Interval, call: Call) -> Tensor | None:
        """Return nowhere: any constant will do."""
        return torch.zeros_like(bounds.lower, dtype=torch.bool)

    def interval(self, node: Node, call: Call) -> Interval:
        """Shift the ends."""
        shift = self.shift(node, call)
        return Interval(*(end - shift for end in call.bounds(node.inputs[0])))

    def backward(self, node: Node, rows: Tensor, call: Call) -> Backward:
        """Hand coefficients on."""
        return Backward([(node.inputs[0], rows)], -row_dot(rows, self.shift(node, call).expand(-1, *node.shape)))

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Shift the biases."""
        b, shift = call.linear[node.inputs[0]], self.shift(node, call)
        return LinearBounds(b.lower_weight, b.lower_bias - shift, b.upper_weight, b.upper_bias - shift)


class UnshiftRule(ShiftRule):
    """A value plus the constant that a shift took away; arguments (value, shifted, axes)."""

    def _back(self, node: Node, call: Call) -> Tensor:
        shifted = node.args[1]
        shift = call.state[shifted]
        return shift.reshape(shift.shape[0], *node.shape)

    def rounding(self, node: Node, call: Call, size: Callable[[Node], Tensor], ends: Interval) -> Tensor | None:
        """Return the error of a sum."""
        gap = call.gap(node, 1 + depth(node.shape.numel()))
        return gap * size(node.args[0]) + gap * self._back(node, call).abs()

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the value moved back by the greatest element; the third argument is the unshifted input."""
        top = args[2].amax([a % len(node.args[2].shape) - len(node.args[2].shape) for a in node.args[3]], keepdim=True)
        return args[0] + top.reshape(top.shape[0], *node.shape)

    def needs(self, node: Node, call: Call) -> tuple[Node, ...]:
        """Return nothing."""
        return ()

    def interval(self, node: Node, call: Call) -> Interval:
        """Shift the ends back."""
        return Interval(*(end + self._back(node, call) for end in call.bounds(node.args[0])))

    def backward(self, node: Node, rows: Tensor, call: Call) -> Backward:
        """Hand coefficients on."""
        return Backward([(node.args[0], rows)], row_dot(rows, self._back(node, call)))

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Shift the biases back."""
        b, back = call.linear[node.args[0]], self._back(node, call)
        return LinearBounds(b.lower_weight, b.lower_bias + back, b.upper_weight, b.upper_bias + back)
