"""Hyper-gradients: by the pseudo-inverse of the lower level's KKT matrix, by conjugate gradients, or by a penalty."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, minres
from torch import Tensor

from paperworks.core.validation import check_choice, check_number
from paperworks.optimization.bilevel.levels import (
    Levels,
    Objective,
    Point,
    Projection,
    Tensors,
    by,
    detached,
    filled,
    leaves,
    mixed,
)
from paperworks.optimization.bilevel.minimise import minimise


class Penalised(NamedTuple):
    """Value and gradient of the penalised objective at one sigma, with the lower solutions behind them."""

    value: float
    gradient: Tensors
    y: Tensors
    z: Tensors


def penalised(
    levels: Levels, x: Tensors, y: Tensors, project: Callable[[Tensors], Tensors], sigma: float, atol: float
) -> Penalised:
    """Solve both lower problems from y, and put value and gradient of the penalised objective together."""

    def following(weight: float) -> Callable[[Tensors], tuple[float, Tensors]]:
        @torch.enable_grad()
        def value_and_gradient(at: Tensors) -> tuple[float, Tensors]:
            at = leaves(at)
            total = levels.value("g", detached(x), at)
            if weight:
                total = total + weight * levels.value("f", detached(x), at)
            return float(total.detach()), by("g", total, at)

        return value_and_gradient

    z = minimise(following(0.0), y, project, atol)
    w = minimise(following(sigma), z.y, project, atol)
    if max(z.residual, w.residual) > 10 * atol:
        warnings.warn(
            f"the lower level was solved to {max(z.residual, w.residual):.2g}, not {atol:.2g}; the hyper-gradient is "
            f"off by about that over sigma {sigma:g}",
            stacklevel=3,
        )
    of_f, of_gap, value, gap = levels.upper(x, w.y, z.y)
    return Penalised(value + gap / sigma, mixed(1 / sigma, of_gap, of_f), w.y, z.y)


def hypergradient(
    f: Objective,
    g: Objective,
    x: Any,
    y: Any,
    *,
    constraints: Callable[[Any], Tensor] | None = None,
    method: Literal["pinv", "cg", "penalty"] = "pinv",
    sigma: float = 1e-4,
    richardson: bool = False,
    project_y: Projection | None = None,
    rtol: float = 1e-10,
    atol: float = 1e-8,
) -> Any:
    r"""Return the gradient by x of `min f(x, y)` over the minimisers y of `g(x, .)`.

    With "pinv" and "cg" y has to be the lower solution, of several the one with the least f. The gradient is then

    .. math:: \nabla_x f - [0, \nabla^2_{xy} g]
              \begin{pmatrix} 0 & J \\ J^T & \nabla^2_{yy} \mathcal L\end{pmatrix}^\dagger
              \begin{pmatrix} 0 \\ \nabla_y f \end{pmatrix}

    with J the gradients of the active constraints and :math:`\mathcal L = g + \sum_i \lambda_i c_i`. The pseudo-inverse
    serves lower levels with several solutions as well.

    Parameters
    ----------
    f, g
        Upper and lower objective, functions of x and y that return a number.
    x
        Upper variables: a tensor, a nest of them, or a module.
    y
        The lower solution; with "penalty" a start near it.
    constraints
        Function of y that returns a vector, <= 0 on the lower feasible set; only with "pinv".
    method
        "pinv" builds the matrix, "cg" takes products with the Hessian in a conjugate-gradient method for symmetric
        matrices, singular ones included (MINRES), and "penalty" takes first-order gradients only: that of
        `penalty_bilevel`, with both lower problems solved from y.
    sigma
        Penalty parameter of "penalty", whose error is of its order.
    richardson
        With "penalty", extrapolate from sigma and sigma / 2 to an error of order sigma squared.
    project_y
        Projection on the lower feasible set, with "penalty".
    rtol
        Which singular values count as 0 with "pinv", relative to the largest; the relative residual of "cg".
    atol
        Constraints above minus this are active. With "penalty", the accuracy of the lower solutions times 1e4.

    Returns
    -------
    Any
        The gradient in the structure of x.

    Raises
    ------
    ValueError
        If options don't fit the method, a constraint is violated, or the lower level is not finite.
    RuntimeError
        If an objective is not differentiable in y.

    Warns
    -----
    UserWarning
        If an active constraint has a multiplier near 0 or below, where the gradient is one-sided or y is no solution.

    References
    ----------
    arXiv:2309.01753, the section on explicit forms of the hyper-gradient.

    Examples
    --------
    >>> f, g = lambda x, y: (y - 1).square().sum() / 2, lambda x, y: (y - x**2).square().sum() / 2
    >>> x = torch.tensor([2.0, 3.0], dtype=torch.float64)
    >>> hypergradient(f, g, x, x**2)
    tensor([12., 48.], dtype=torch.float64)
    """
    check_choice("method", method, get_args(Literal["pinv", "cg", "penalty"]))
    check_number("sigma", sigma, gt=0)
    check_number("rtol", rtol, gt=0)
    check_number("atol", atol, gt=0)
    if constraints is not None and method != "pinv":
        raise ValueError(f"constraints are given with method {method!r}; they take 'pinv', or project_y with 'penalty'")
    if project_y is not None and method != "penalty":
        raise ValueError(f"project_y is given with method {method!r}; it takes 'penalty'")
    at_x, at_y = Point("x", x), Point("y", y)
    levels = Levels(f, g, at_x, at_y)
    if method == "penalty":
        project = at_y.within(project_y)
        first = penalised(levels, at_x.start, at_y.start, project, sigma, 1e-4 * atol).gradient
        if richardson:
            second = penalised(levels, at_x.start, at_y.start, project, sigma / 2, 1e-4 * atol).gradient
            first = [2 * b - a for a, b in zip(first, second, strict=True)]
        return at_x.together(first)
    return at_x.together(_implicit(levels, constraints, method == "cg", rtol, atol))


@torch.enable_grad()
def _implicit(
    levels: Levels, constraints: Callable[[Any], Tensor] | None, krylov: bool, rtol: float, atol: float
) -> Tensors:
    x, y = leaves(levels.x.start), leaves(levels.y.start)
    value = levels.value("f", x, y)
    slope = _flat(by("f", value, y, keep=True))
    direct = by("", value, x)
    lower = levels.value("g", x, y)
    pull = torch.cat([t.reshape(-1) for t in by("g", lower, y, keep=True)])

    def product(v: Tensor) -> Tensor:
        linear = not pull.requires_grad
        found = [None] * len(y) if linear else torch.autograd.grad(pull, y, v, retain_graph=True, allow_unused=True)
        return _flat(filled(found, y))

    if krylov:
        solution = _minres(product, slope, rtol)
    else:
        eye = torch.eye(len(slope), dtype=slope.dtype, device=slope.device)
        H = torch.stack([product(row) for row in eye])
        J, curved = _active(levels, constraints, y, pull.detach(), atol)
        K = torch.cat([torch.cat([J.new_zeros(len(J), len(J)), J], 1), torch.cat([J.T, H + curved], 1)])
        right = torch.cat([J.new_zeros(len(J)), slope])
        solution = (torch.linalg.pinv((K + K.T) / 2, rtol=rtol, hermitian=True) @ right)[len(J) :]
    crossed = torch.autograd.grad(pull, x, solution, allow_unused=True) if pull.requires_grad else [None] * len(x)
    return [d if c is None else d - c for d, c in zip(direct, crossed, strict=True)]


def _active(
    levels: Levels, constraints: Callable[[Any], Tensor] | None, y: Tensors, pull: Tensor, atol: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of active constraints, and the curvature that their multipliers add."""
    n = len(pull)
    if constraints is None:
        return pull.new_zeros(0, n), pull.new_zeros(n, n)
    values = constraints(levels.y.together(y)).reshape(-1)
    if float(values.detach().max()) > max(atol, 1e3 * torch.finfo(values.dtype).eps):
        raise ValueError(f"constraints are violated by {float(values.detach().max()):.3g} at y; it takes a feasible y")
    active = values[values.detach() >= -atol]
    if not len(active):
        return pull.new_zeros(0, n), pull.new_zeros(n, n)
    J = torch.stack([_flat(_partial(c, y)) for c in active])
    multipliers = torch.linalg.lstsq(J.T, -pull[:, None], driver="gelsd" if J.device.type == "cpu" else None).solution[
        :, 0
    ]
    if float(multipliers.min()) < 1e-8 * (1 + float(pull.abs().max())):
        warnings.warn(
            f"an active constraint has the multiplier {float(multipliers.min()):.3g}; the hyper-gradient takes "
            "positive ones: where one is 0 it is one-sided, where one is negative y is no lower solution",
            stacklevel=4,
        )
    slope = torch.cat([t.reshape(-1) for t in _partial(multipliers @ active, y)])
    if not slope.requires_grad:
        return J.detach(), pull.new_zeros(n, n)
    rows = [_flat(_partial(entry, y)) for entry in slope]
    return J.detach(), torch.stack(rows).detach()


def _partial(value: Tensor, y: Tensors) -> Tensors:
    found = torch.autograd.grad(value, y, create_graph=True, allow_unused=True)
    return filled(found, y)


def _flat(parts: Tensors) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in parts])


def _minres(product: Callable[[Tensor], Tensor], right: Tensor, rtol: float) -> Tensor:
    def multiply(v: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(np.ascontiguousarray(v)).to(right)).cpu().double().numpy()

    b = right.cpu().double().numpy()
    found, status = minres(
        LinearOperator((len(b), len(b)), matvec=multiply, dtype=float), b, rtol=rtol, maxiter=10 * len(b)
    )
    miss = np.linalg.norm(multiply(found) - b)
    if status or miss > 1e3 * max(rtol, float(torch.finfo(right.dtype).eps)) * max(float(np.linalg.norm(b)), 1e-300):
        warnings.warn(f"the Krylov method ended at a relative residual of {miss / np.linalg.norm(b):.2g}", stacklevel=5)
    return torch.from_numpy(found).to(right)
