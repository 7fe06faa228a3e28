"""Products: linear where one factor is constant, between McCormick planes where both are perturbed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.linear import LinearRule, align, leading, unbroadcast
from paperworks.robustness.bounds.patches import Rows, closed, crop, cut, laid_out, opened
from paperworks.robustness.bounds.perturbations import PerturbationLpNorm, row_dot
from paperworks.robustness.bounds.products import product
from paperworks.robustness.bounds.rounding import least, unit
from paperworks.robustness.bounds.strides import Geometry, phases, pulled
from paperworks.robustness.bounds.values import Backward, Interval, LinearBounds

Apply = Callable[[Node, Any, Any, int], Tensor]
_EXPAND_AT_MOST = 1 << 22  # products that an interval of a matrix product may lay out


class BilinearRule(LinearRule):
    r"""An operator linear in each of its first two arguments, with coefficients +1 of all products of their elements.

    With both perturbed, :math:`v \in [v_l, v_u]` and :math:`w \in [w_l, w_u]`,

    .. math:: v w \ge w_l v + v_l w - v_l w_l, \qquad v w \le w_u v + v_l w - v_l w_u,

    and another plane of each sort; option `product` mixes the two (the paper's r).

    Parameters
    ----------
    apply
        The operator on factors with `lead` axes in front, `apply(node, a, b, lead)`.

    Examples
    --------
    >>> from paperworks.robustness import register_bound
    >>> rule = BilinearRule(lambda node, a, b, lead: torch.linalg.vecdot(a, b))
    >>> register_bound(torch.ops.aten.linalg_vecdot.default, rule)

    References
    ----------
    Xu et al. (2020), arXiv 2002.12920, appendix A.3; Shi et al. (2020), arXiv 2002.06622.
    """

    def __init__(self, apply: Apply, terms: Callable[[Node], int] | None = None) -> None:
        super().__init__(data=(0, 1), terms=terms)
        self._product = apply

    def has_offset(self, node: Node, call: Call) -> bool:
        """Return whether both factors are perturbed, so that planes have constants."""
        return self._both(node, call)

    def sizes(self, node: Node, call: Call, size: Callable[[Node], Tensor], gap: float) -> Tensor:
        """Return the sum of the sizes of all products: of both planes, where both factors are perturbed."""
        first, second = node.args[:2]

        def plain(x: Any) -> Any:
            return call.size(x) if isinstance(x, Node) else abs(x)

        if self._both(node, call):
            by_first = self.product(node, size(first), plain(second), 1)
            return 2 * (by_first + self.product(node, plain(first), size(second), 1))
        if isinstance(first, Node) and first in call.perturbed:
            return self.product(node, size(first), plain(second), 1)
        return self.product(node, plain(first), size(second), 1)

    def signs_kept(self, node: Node, call: Call) -> tuple[bool, bool]:
        """Return False twice: products of either sign are added up."""
        return False, False

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return the greatest error: ends are made of middles and radii."""
        return None if most is None else (most, most)

    def product(self, node: Node, a: Any, b: Any, lead: int) -> Tensor:
        """Apply the operator to factors with `lead` axes in front."""
        return self._product(node, a, b, lead)

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Apply the operator."""
        return self.product(node, args[0], args[1], lead)

    def adjoint_of(self, node: Node, side: int, rows: Tensor, other: Tensor) -> Tensor:
        """Return coefficients of the factor at `side`, the other being a value with the batch in front."""
        shape = node.args[side].shape
        other = leading(other, 2)

        def run(x: Tensor) -> Tensor:
            return self.product(node, x, other, 2) if side == 0 else self.product(node, other, x, 2)

        lead = torch.broadcast_shapes(rows.shape[:2], other.shape[:2])
        pull: Any = torch.func.vjp(run, rows.new_zeros(*lead, *shape))[1]
        return pull(rows.expand(*lead, *node.shape))[0]

    def _both(self, node: Node, call: Call) -> bool:
        return all(isinstance(a, Node) and a in call.perturbed for a in node.args[:2])

    def _sides(self, node: Node, call: Call) -> tuple[int, Node, Tensor]:
        """Return the place of the perturbed factor, its node and the value of the constant one."""
        side = 0 if isinstance(node.args[0], Node) and node.args[0] in call.perturbed else 1
        other = node.args[1 - side]
        moving = node.args[side]
        if isinstance(other, Node):
            value = call.value(other)
            return side, moving, value if value.is_floating_point() else call.constant(other)
        reference = call.graph.inputs[0]
        return side, moving, torch.as_tensor(other, dtype=call.value(reference).dtype)[None]

    def needs(self, node: Node, call: Call) -> tuple[Node, ...]:
        """Return both factors where both are perturbed."""
        return tuple(dict.fromkeys(node.args[:2])) if self._both(node, call) else ()

    def is_affine(self, node: Node, call: Call) -> bool:
        """Return whether one factor is constant."""
        return not self._both(node, call)

    def _with_constant(
        self, node: Node, side: int, other: Tensor, lower: Tensor, upper: Tensor, lead: int
    ) -> tuple[Tensor, Tensor]:
        """Return the ends of the product of a constant with what is between two ends."""
        other = leading(other, lead)

        def product(x: Tensor, y: Tensor) -> Tensor:
            return self.product(node, x, y, lead) if side == 0 else self.product(node, y, x, lead)

        if lower is upper:
            both = product(lower, other)
            return both, both
        middle = product(lower / 2 + upper / 2, other)
        radius = product(upper / 2 - lower / 2, other.abs())
        return middle - radius, middle + radius

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the image of the box."""
        if not self._both(node, call):
            side, moving, other = self._sides(node, call)
            ends = call.bounds(moving)
            return Interval(*self._with_constant(node, side, other, ends.lower, ends.upper, 1))
        return self.corners(node, call.bounds(node.args[0]), call.bounds(node.args[1]))

    def corners(self, node: Node, a: Interval, b: Interval) -> Interval:
        """Return ends of the product of two intervals, from middles and radii."""
        ma, ra, mb, rb = (
            (a.lower + a.upper) / 2,
            (a.upper - a.lower) / 2,
            (b.lower + b.upper) / 2,
            (b.upper - b.lower) / 2,
        )
        middle = self.product(node, ma, mb, 1)
        radius = self.product(node, ma.abs() + ra, rb, 1) + self.product(node, ra, mb.abs(), 1)
        return Interval(middle - radius, middle + radius)

    def backward(self, node: Node, rows: Any, call: Call) -> Backward:
        """Apply the adjoint, or those of the two planes."""
        if not self._both(node, call):
            side, moving, other = self._sides(node, call)
            return Backward([(moving, self.adjoint_of(node, side, rows, other))])
        (v_l, v_u), (w_l, w_u) = call.bounds(node.args[0]), call.bounds(node.args[1])
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        # Planes as (sign part, coefficient of v, coefficient of w): the constant is minus the product of the two.
        planes = [(positive, w_l, v_l), (positive, w_u, v_u), (negative, w_u, v_l), (negative, w_l, v_u)]
        mix = self._mix(node, rows, call)
        shares = [mix[0], 1 - mix[0], mix[1], 1 - mix[1]]
        v: Any = 0.0
        w: Any = 0.0
        constant: Any = 0.0
        for (part, of_v, of_w), share in zip(planes, shares, strict=True):
            if isinstance(share, float) and share == 0:
                continue
            weighted = part * share
            v = v + self.adjoint_of(node, 0, weighted, of_v)
            w = w + self.adjoint_of(node, 1, weighted, of_w)
            constant = constant - row_dot(weighted, self.product(node, of_w, of_v, 1))
        return Backward([(node.args[0], v), (node.args[1], w)], constant)

    def _mix(self, node: Node, rows: Tensor, call: Call) -> tuple[Any, Any]:
        """Return the shares of the first planes of the lower and of the upper side."""
        r = call.options.product
        if call.freedom is None:
            return r, r
        start = rows.new_full((2, call.batch, *node.shape), r)
        (mix,) = call.freedom.of((call.start, call.part), node, rows, lambda: [start])
        mix = mix.clamp(0, 1)
        return mix[:, 0], mix[:, 1]

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Multiply by the constant, or sum the two planes' ends."""
        if not self._both(node, call):
            side, moving, other = self._sides(node, call)
            b = call.linear[moving]
            lw, uw = self._with_constant(node, side, other, b.lower_weight, b.upper_weight, 2)
            lb, ub = self._with_constant(node, side, other, b.lower_bias, b.upper_bias, 1)
            return LinearBounds(lw, lb, uw, ub)
        (v_l, _), (w_l, w_u) = call.bounds(node.args[0]), call.bounds(node.args[1])
        v, w = call.linear[node.args[0]], call.linear[node.args[1]]
        lower, upper = (
            [
                self._with_constant(node, 0, of_v, v_ends[0], v_ends[1], lead)[end]
                + self._with_constant(node, 1, v_l, w_ends[0], w_ends[1], lead)[end]
                for v_ends, w_ends, lead in (
                    ((v.lower_weight, v.upper_weight), (w.lower_weight, w.upper_weight), 2),
                    ((v.lower_bias, v.upper_bias), (w.lower_bias, w.upper_bias), 1),
                )
            ]
            for end, of_v in ((0, w_l), (1, w_u))
        )
        return LinearBounds(
            lower[0],
            lower[1] - self.product(node, v_l, w_l, 1),
            upper[0],
            upper[1] - self.product(node, v_l, w_u, 1),
        )


class MultiplyRule(BilinearRule):
    """Elementwise product with broadcasting; either factor may be a number."""

    diagonal = True

    def __init__(self) -> None:
        super().__init__(self._multiply)

    def terms(self, node: Node) -> int:
        """Return 1, or more where coefficients are summed over what was broadcast."""
        return max(node.shape.numel() // max(1, n.shape.numel()) for n in self.data_nodes(node))

    @staticmethod
    def _multiply(node: Node, a: Any, b: Any, lead: int) -> Tensor:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            rank = len(node.shape)
            a, b = (align(t, t.shape[lead:], rank) for t in (a, b))
        return a * b

    def handed(self, node: Node, margin: Tensor, call: Call) -> Tensor | None:
        """Return the margin times the size of the constant factor, and what rounding its product with rows does."""
        if self._both(node, call):
            return None
        _, moving, other = self._sides(node, call)
        if moving.shape != node.shape:
            return None
        return margin * align(other, other.shape[1:], len(node.shape)).abs() * (1 + 8 * unit(call.dtype))

    def is_local(self, node: Node, call: Call) -> bool:
        """Return whether one factor is constant, and the other not broadcast."""
        return not self._both(node, call) and all(n.shape == node.shape for n in node.inputs if n in call.perturbed)

    def adjoint_of(self, node: Node, side: int, rows: Any, other: Tensor) -> Any:
        """Multiply, and sum over what was broadcast."""
        other = align(other, other.shape[1:], len(node.shape))
        rows, box = opened(rows)
        found, shape = rows * crop(other, box), node.args[side].shape
        return closed(found if shape == node.shape else unbroadcast(found, shape, 2), box)

    def signs_kept(self, node: Node, call: Call) -> tuple[bool, bool]:
        """Return twice whether an end is one product, which is rounded to a number of its own sign."""
        alone = not self._both(node, call) or node.args[0] is node.args[1]
        return alone, alone

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return the error of one product."""
        gap, lost = call.gap(node, 1), least(call.type_of(node))
        return tuple(gap * end.detach().abs() + lost for end in ends)

    def _with_constant(
        self, node: Node, side: int, other: Tensor, lower: Tensor, upper: Tensor, lead: int
    ) -> tuple[Tensor, Tensor]:
        """Return the ends of the product of a constant with what is between two ends."""
        other = leading(other, lead)
        if lower is upper:
            return (self._multiply(node, lower, other, lead),) * 2
        rank = len(node.shape)
        lower, upper, other = (align(t, t.shape[lead:], rank) for t in (lower, upper, other))
        turned = other < 0  # by the sign of the constant alone: coefficients of forward bounds have no order
        return torch.where(turned, upper, lower) * other, torch.where(turned, lower, upper) * other

    def corners(self, node: Node, a: Interval, b: Interval) -> Interval:
        """Return the least and greatest of the four corners."""
        if node.args[0] is node.args[1]:
            squares = a.lower.square(), a.upper.square()
            spans = (a.lower < 0) & (a.upper > 0)
            return Interval(torch.where(spans, 0.0, torch.minimum(*squares)), torch.maximum(*squares))
        products = torch.stack([self._multiply(node, x, y, 1) for x in a for y in b])
        return Interval(*torch.aminmax(products, dim=0))


class MatmulRule(BilinearRule):
    """Products of matrices, and of batches of them (`mm`, `bmm`)."""

    def __init__(self) -> None:
        super().__init__(self._matmul)

    def terms(self, node: Node) -> int:
        """Return the longest of the three axes: the product sums over one, and its adjoints over the others."""
        return max(*node.args[0].shape[-2:], node.shape[-1])

    @staticmethod
    def _matmul(node: Node, a: Tensor, b: Tensor, lead: int) -> Tensor:
        if b.ndim == lead + 2 and b.shape[:lead].numel() == 1:
            return a @ b[(0,) * lead]  # one product for all rows and samples
        return a @ b

    def adjoint_of(self, node: Node, side: int, rows: Tensor, other: Tensor) -> Tensor:
        """Multiply by the transpose of the other factor."""
        other = other.mT
        if side == 1:
            return other @ rows
        return product(rows, other[0]) if other.ndim == 3 and other.shape[0] == 1 else rows @ other

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the image of the box, or of the ball where the right factor is a weight that ranges over one.

        Every column of the product sees a column of the weight alone, so that its radius is that of the ball times
        the dual norm of a row of the left factor.
        """
        ball = None if self._both(node, call) else _ball_of(node.args[1], call)
        if ball is None or node.args[0] in call.perturbed:
            return super().interval(node, call)
        value = call.value(node)
        size = torch.linalg.vector_norm(call.value(node.args[0]), ord=ball.dual, dim=-1, keepdim=True)
        radius = ball.eps * size
        call.exact.add(node)
        return Interval(value - radius, value + radius)

    def corners(self, node: Node, a: Interval, b: Interval) -> Interval:
        """Sum the exact ends of each product where they fit in memory."""
        rows, inner, columns = a.lower.shape[-2], a.lower.shape[-1], b.lower.shape[-1]
        lead = torch.broadcast_shapes(a.lower.shape[:-2], b.lower.shape[:-2]).numel()
        if lead * rows * inner * columns > _EXPAND_AT_MOST:
            return super().corners(node, a, b)
        products = [x[..., :, :, None] * y[..., None, :, :] for x in a for y in b]
        lower = torch.minimum(torch.minimum(products[0], products[1]), torch.minimum(products[2], products[3]))
        upper = torch.maximum(torch.maximum(products[0], products[1]), torch.maximum(products[2], products[3]))
        return Interval(lower.sum(-2), upper.sum(-2))


def _ball_of(factor: Node, call: Call) -> PerturbationLpNorm | None:
    """Return the ball that a matrix ranges over, if it is a perturbed weight or its transpose and no box."""
    root = factor.inputs[0] if factor.op is torch.ops.aten.t.default else factor
    ball = call.perturbations.get(root) if root.kind == "parameter" and len(root.shape) == 2 else None
    return ball if isinstance(ball, PerturbationLpNorm) and not ball.is_box else None


class ConvolutionRule(BilinearRule):
    """Convolutions and transposed convolutions of any dimension, without bias."""

    def __init__(self) -> None:
        super().__init__(self._convolve)

    def terms(self, node: Node) -> int:
        """Return the products that an element of the output or of coefficients can add up."""
        if any(n.kind != "parameter" for n in self.data_nodes(node)[1:]):
            return super().terms(node)  # the adjoint by the weight sums over places
        weight = node.args[1].shape
        return max(weight[0], weight[1]) * weight[2:].numel()

    @staticmethod
    def _convolve(node: Node, x: Tensor, weight: Tensor, lead: int) -> Tensor:
        rest = node.args[3:]
        if weight.shape[:lead].numel() != 1:  # a weight for each sample
            shape = torch.broadcast_shapes(x.shape[:lead], weight.shape[:lead])
            x, weight = (t.expand(*shape, *t.shape[lead:]).flatten(0, lead - 1) for t in (x, weight))
            out = torch.vmap(lambda a, b: torch.ops.aten.convolution(a, b, None, *rest))(x, weight)
            return out.unflatten(0, shape)
        out = torch.ops.aten.convolution(x.flatten(0, lead), weight[(0,) * lead], None, *rest)
        return out.unflatten(0, x.shape[: lead + 1])

    def is_local(self, node: Node, call: Call) -> bool:
        """Return whether it is a plain convolution by a constant weight, the same for all samples."""
        weight = node.args[1]
        return weight not in call.perturbed and len(call.value(weight)) == 1 and not node.args[6]

    def backward(self, node: Node, rows: Any, call: Call) -> Backward:
        """Convolve the other way."""
        if not self.is_local(node, call):
            return super().backward(node, laid_out(rows, node), call)
        (weight,) = call.value(node.args[1])
        if node not in call.kernels:
            call.kernels[node] = phases(weight, *layout(node))
        return Backward([(node.args[0], self._pulled(node, rows, weight, call.kernels[node]))])

    def adjoint_of(self, node: Node, side: int, rows: Tensor, other: Tensor) -> Tensor:
        """Convolve the other way, by a weight that may be an end of what it ranges over."""
        if side == 1 or other.shape[0] != 1:
            return super().adjoint_of(node, side, rows, other)
        weight = other[0]
        stride, padding, dilation, transposed, _, groups = node.args[3:9]
        if transposed:
            found = torch.ops.aten.convolution(
                rows.flatten(0, 2), weight, None, stride, padding, dilation, False, [0] * (weight.ndim - 2), groups
            )
            return found.unflatten(0, rows.shape[:3])
        return laid_out(self._pulled(node, rows, weight, phases(weight, *layout(node))), node.args[0])

    @staticmethod
    def _pulled(node: Node, rows: Rows, weight: Tensor, kernel: Tensor) -> Rows:
        tensor, box = opened(rows)
        source = node.args[0].shape
        lead, box = tensor.shape[:3], box or tuple(slice(0, n) for n in node.shape[2:])
        found, box = pulled(tensor.flatten(0, 2), box, *layout(node), weight, kernel, source[2:])
        return cut(found.unflatten(0, lead), box, source)


def layout(node: Node) -> tuple[Geometry, int]:
    """Return how a convolution is laid over places, and its groups."""
    stride, padding, dilation, _, _, groups = node.args[3:9]
    return Geometry.of(node.args[1].shape[2:], stride, padding, dilation), groups
