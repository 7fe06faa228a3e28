"""When the penalised objective can be trusted: the proximal error bound, and how values and gradients differ."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.bilevel.hypergradients import penalised
from paperworks.optimization.bilevel.levels import (
    Levels,
    Objective,
    Point,
    Projection,
    Tensors,
    by,
    detached,
    leaves,
    norm,
    smoothness,
    subtract,
)
from paperworks.optimization.bilevel.minimise import minimise


class ErrorBoundResult(NamedTuple):
    """The error bound that probes found."""

    mu: float  # the least of all sigma: the bound has to be uniform
    by_sigma: dict[float, float]


class PenaltyGapResult(NamedTuple):
    """Values and gradients of the penalised objective at sigma, sigma / 2 and extrapolated."""

    value: tuple[float, float]
    gradient: tuple[Any, Any]
    extrapolated_value: float
    extrapolated_gradient: Any


def estimate_error_bound(
    g: Objective,
    f: Objective,
    x: Any,
    y: Any,
    *,
    sigma: float = 0.1,
    rho: float | None = None,
    n_probe: int = 16,
    radius: float = 1.0,
    project_y: Projection | None = None,
    generator: torch.Generator | None = None,
) -> ErrorBoundResult:
    r"""Estimate the constant of the proximal error bound of the perturbed lower level at x.

    The bound says that points are as near to the solutions T of `min sigma f + g` as a proximal step is short:
    :math:`\rho^{-1} \lVert y - \mathrm{prox}_{\rho h}(y)\rVert \ge \mu\, \mathrm{dist}(y, T)`. The penalty is within
    O(sigma / mu), and its gradient within O(sigma / mu^3), where it holds with one mu for *all* sigma down to 0; so it
    is probed at 0, sigma / 100, sigma / 10 and sigma.

    Parameters
    ----------
    g, f
        Lower and upper objective, functions of x and y.
    x
        Upper variables at which the lower level is examined.
    y
        Centre of the probes, in the lower feasible set.
    sigma
        The largest penalty parameter that is probed.
    rho
        Length of the proximal step, by default 1 / (4 L_g) with L_g estimated.
    n_probe
        Probes for each sigma.
    radius
        Standard deviation of the probes around y, before they are projected.
    project_y
        Projection on the lower feasible set.
    generator
        Draws the probes.

    Returns
    -------
    ErrorBoundResult
        `mu`, the least ratio of all, and `by_sigma`, the least for each sigma. Distances are to where minimising from
        the probe leads, at least those to T, so the estimate is no larger than what the probes show.

    Raises
    ------
    ValueError
        If a number is out of range, or y infeasible.

    References
    ----------
    arXiv:2309.01753, the assumption of the proximal error bound.

    Examples
    --------
    >>> f, g = lambda x, y: y.square().sum(), lambda x, y: (y - x).square().sum()
    >>> x, y = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    >>> estimate_error_bound(g, f, x, y, generator=torch.Generator().manual_seed(0)).mu > 1
    True
    """
    check_number("sigma", sigma, gt=0)
    check_number("radius", radius, gt=0)
    check_count("n_probe", n_probe)
    at_x, at_y = Point("x", x), Point("y", y)
    levels, project = Levels(f, g, at_x, at_y), at_y.within(project_y)
    x0, y0 = at_x.start, at_y.start
    if rho is None:
        L = smoothness(lambda at: levels.slope("g", x0, at), y0)
        rho = 1 / (4 * L) if L > 1e-8 else 0.25
    check_number("rho", rho, gt=0)

    def objective(weight: float, anchor: Tensors | None = None) -> Callable[[Tensors], tuple[float, Tensors]]:
        @torch.enable_grad()
        def value_and_gradient(at: Tensors) -> tuple[float, Tensors]:
            at = leaves(at)
            total = levels.value("g", detached(x0), at)
            if weight:
                total = total + weight * levels.value("f", detached(x0), at)
            if anchor is not None:
                off = subtract(at, anchor)
                total = total + torch.stack([(d * d).sum() for d in off]).sum() / (2 * rho)
            return float(total.detach()), by("g", total, at)

        return value_and_gradient

    accuracy = 1e3 * torch.finfo(y0[0].dtype).eps
    least = {weight: float("inf") for weight in (0.0, sigma / 100, sigma / 10, sigma)}
    for _ in range(n_probe):
        probe = project([t + radius * _normal(t, generator) for t in y0])
        for weight in least:
            step = norm(subtract(minimise(objective(weight, probe), probe, project, accuracy).y, probe)) / rho
            end = minimise(objective(weight), probe, project, accuracy, steps=2000)
            distance = norm(subtract(end.y, probe))
            if end.residual > 1e-6:
                warnings.warn(
                    f"a probe was not minimised at sigma {weight:g}: residual {end.residual:.2g}", stacklevel=2
                )
            if distance > 1e3 * accuracy * (1 + norm(probe)):
                least[weight] = min(least[weight], step / distance)
    return ErrorBoundResult(min(least.values()), least)


def penalty_gap(
    f: Objective,
    g: Objective,
    x: Any,
    y: Any,
    *,
    sigma: float = 1e-2,
    project_y: Projection | None = None,
    atol: float = 1e-10,
) -> PenaltyGapResult:
    r"""Compare value and gradient of the penalised objective at sigma and sigma / 2, and extrapolate both to sigma = 0.

    The pairs differ by about as much as the second is off, and Richardson's :math:`2 \nabla\psi_{\sigma/2} -
    \nabla\psi_\sigma` has an error of order sigma squared where the lower solutions move smoothly with sigma.

    Parameters
    ----------
    f, g
        Upper and lower objective, functions of x and y.
    x
        Upper variables where the objective is examined.
    y
        Start of the lower problems, near a solution.
    sigma
        The larger penalty parameter of the two.
    project_y
        Projection on the lower feasible set.
    atol
        Accuracy to which both lower problems are solved, as the norm of a projected gradient.

    Returns
    -------
    PenaltyGapResult
        Pairs of values and of gradients, in the structure of x, and what they extrapolate to.

    Raises
    ------
    ValueError
        If a number is out of range, or y infeasible.

    Examples
    --------
    >>> f, g = lambda x, y: (y - 1).square().sum() / 2, lambda x, y: (y - x**2).square().sum() / 2
    >>> x = torch.tensor([2.0], dtype=torch.float64)
    >>> found = penalty_gap(f, g, x, x**2, sigma=0.01)
    >>> [round(float(v), 2) for v in (*found.gradient, found.extrapolated_gradient)]
    [11.88, 11.94, 12.0]
    """
    check_number("sigma", sigma, gt=0)
    check_number("atol", atol, gt=0)
    at_x, at_y = Point("x", x), Point("y", y)
    levels, project = Levels(f, g, at_x, at_y), at_y.within(project_y)
    first = penalised(levels, at_x.start, at_y.start, project, sigma, atol)
    second = penalised(levels, at_x.start, first.z, project, sigma / 2, atol)
    beyond = [2 * b - a for a, b in zip(first.gradient, second.gradient, strict=True)]
    return PenaltyGapResult(
        (first.value, second.value), (at_x.together(first.gradient), at_x.together(second.gradient)),
        2 * second.value - first.value, at_x.together(beyond),
    )  # fmt: skip


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
