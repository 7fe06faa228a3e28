"""Rules of maxima, pooling and softmax, and of the shift that keeps exponentials small."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.perturbations import row_dot
from paperworks.robustness.bounds.registry import Rule
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
    r"""Softmax between a quotient of chords and tangents and the log-sum-exp line.

    The lower line is the tangent at the middle of :math:`e^{x_k} / \sum_i (\kappa_i x_i + \beta_i)`, whose denominator
    holds the chords of exp, in the form that is convex: :math:`1 / \sum_i` chord of :math:`e^{x_i - x_k}`. The upper
    is :math:`a_k - c_k (\mathrm{LSE}(x) - x_k)` with the chord of log between the least and greatest probability,
    concave, hence its tangent.

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
        return node.args[1] % rank - rank

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the exact image of a box, each output for itself."""
        return Interval(*softmax_ends(*call.bounds(node.inputs[0]), self._axis(node)))

    def _tangents(self, node: Node, call: Call) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return gradients (batch, ..., k, i) and constants (batch, ..., k) of both lines, the axis moved last."""
        axis = self._axis(node)
        lower, upper = (end.movedim(axis, -1) for end in call.bounds(node.inputs[0]))
        low, high = (end.movedim(axis, -1) for end in call.bounds(node))
        middle = (lower + upper) / 2
        # Differences d_i = x_i - x_k: chords of exp on their ranges.
        n = lower.shape[-1]
        eye = torch.eye(n, dtype=torch.bool, device=lower.device)
        d_l = torch.where(eye, 0.0, lower[..., None, :] - upper[..., :, None])
        d_u = torch.where(eye, 0.0, upper[..., None, :] - lower[..., :, None])
        width = d_u - d_l
        slope = torch.where(width > 1e-8, (d_u.exp() - d_l.exp()) / torch.where(width > 1e-8, width, 1.0), d_u.exp())
        at = middle[..., None, :] - middle[..., :, None]
        total = (d_u.exp() + slope * (at - d_u)).sum(-1)
        # 1 / (an affine function of x that is positive on the box) is convex: its tangent bounds from below.
        of_d = -slope / total.square()[..., None]
        lower_gradient = of_d - torch.diag_embed(of_d.sum(-1))
        lower_constant = 1 / total - (lower_gradient * middle[..., None, :]).sum(-1)
        # log p lies above its chord, so p <= a + c log p with c the chord's inverse slope.
        ratio = high / low
        c = torch.where(ratio > 1 + 1e-6, (high - low) / torch.where(ratio > 1 + 1e-6, ratio.log(), 1.0), high)
        a = high - c * high.log()
        log_p = torch.log_softmax(middle, -1)
        p = log_p.exp()
        upper_gradient = c[..., :, None] * (eye.to(p) - p[..., None, :])
        upper_constant = a + c * log_p - (upper_gradient * middle[..., None, :]).sum(-1)
        return lower_gradient, lower_constant, upper_gradient, upper_constant

    def backward(self, node: Node, rows: Tensor, call: Call) -> Backward:
        """Multiply by the gradients of the tangent planes."""
        low, low_constant, up, up_constant = self._tangents(node, call)
        rows = rows.movedim(self._axis(node), -1)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        found = (positive[..., None, :] @ low + negative[..., None, :] @ up)[..., 0, :]
        constant = row_dot(positive, low_constant) + row_dot(negative, up_constant)
        return Backward([(node.inputs[0], found.movedim(-1, self._axis(node)))], constant)

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Pass linear bounds through the tangent planes."""
        low, low_constant, up, up_constant = self._tangents(node, call)
        axis = self._axis(node)
        b = LinearBounds(*(t.movedim(axis, -1) for t in call.linear[node.inputs[0]]))

        def through(matrix: Tensor, first: Tensor, second: Tensor) -> Tensor:
            found = matrix.clamp(min=0) @ first[..., None] + matrix.clamp(max=0) @ second[..., None]
            return found[..., 0]

        parts = (
            through(low, b.lower_weight, b.upper_weight),
            through(low, b.lower_bias, b.upper_bias) + low_constant,
            through(up, b.upper_weight, b.lower_weight),
            through(up, b.upper_bias, b.lower_bias) + up_constant,
        )
        return LinearBounds(*(t.movedim(-1, axis) for t in parts))


def softmax_ends(lower: Tensor, upper: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the exact ends of each probability over a box of logits."""
    return log_softmax_ends(lower, upper, axis)[0].exp(), log_softmax_ends(lower, upper, axis)[1].exp()


def log_softmax_ends(lower: Tensor, upper: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the exact ends of each log-probability over a box of logits."""

    def end(own: Tensor, others: Tensor) -> Tensor:
        # The sum of the others' exponentials, each axis element left out in turn, without cancellation.
        x = others.movedim(axis, -1)
        n = x.shape[-1]
        eye = torch.eye(n, dtype=torch.bool, device=x.device)
        rest = torch.where(eye, -torch.inf, x[..., None, :]).logsumexp(-1)
        mine = own.movedim(axis, -1)
        return (mine - torch.logaddexp(mine, rest)).movedim(-1, axis)

    return end(lower, upper), end(upper, lower)


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
