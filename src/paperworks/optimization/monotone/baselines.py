"""Methods that variance-reduced Halpern iteration is compared with."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.monotone.operators import FiniteSumOperator
from paperworks.optimization.monotone.residuals import Operator, norm
from paperworks.optimization.monotone.solve import Callback, Iterate, Limits, Oracle, Steps, solve
from paperworks.optimization.proximal import Array, Prox


def _lipschitz(F: Operator | FiniteSumOperator, L: float | None) -> float | None:
    """Return the constant of the whole operator, which is what deterministic methods take."""
    return F.L_F if L is None and isinstance(F, FiniteSumOperator) else L


def halpern(
    F: Operator | FiniteSumOperator,
    u0: Array,
    *,
    n: int | None = None,
    L: float | None = None,
    resolvent: Prox | None = None,
    eta: float | None = None,
    atol: float = 1e-3,
    max_passes: float = 100.0,
    callback: Callback | None = None,
) -> OptimizeResult:
    """Find a zero of a cocoercive F + G by deterministic Halpern iteration.

    `u_{k+1} = u_0 / (k + 2) + (k + 1) / (k + 2) J(u_k - eta F(u_k))`.

    Parameters
    ----------
    F
        The operator F of the inclusion.
    u0
        The point to start from and to be drawn back to, one vector.
    n
        How many components F has, by which passes are counted.
    L
        Inverse of the constant of cocoercivity of F; by default what F brings.
    resolvent
        Resolvent of G, called with a point and a step; by default that of F, or none.
    eta
        Step: by default 2 / L without G and 1 / L with it, the largest for which a step is nonexpansive (averaged).
    atol, max_passes, callback
        As in `halpern_vr`.

    Returns
    -------
    OptimizeResult
        As that of `halpern_vr`; with G the residual is the natural one, `|u - J(u - eta F(u))| / eta`.

    Examples
    --------
    >>> halpern(lambda u: u, np.ones(2), L=1.0).success
    True
    """
    oracle = Oracle(F, u0, n=n, L=_lipschitz(F, L), resolvent=resolvent)
    widest = (2 if oracle.resolvent is None else 1) / oracle.L
    step = check_number("eta", widest if eta is None else eta, gt=0, le=2.001 / oracle.L)

    def steps(start: Array) -> Steps:
        u = start
        for k in range(2**62):
            value = oracle(u)
            mapped = oracle.resolve(u - step * value, step)
            yield Iterate(u, norm(u - mapped) / step, exact=True)
            u = start / (k + 2) + (k + 1) / (k + 2) * mapped

    return solve(steps, oracle, Limits(atol, max_passes, callback))


def anchored_extragradient(
    F: Operator | FiniteSumOperator,
    u0: Array,
    *,
    n: int | None = None,
    L: float | None = None,
    resolvent: Prox | None = None,
    eta: float | None = None,
    atol: float = 1e-3,
    max_passes: float = 100.0,
    callback: Callback | None = None,
) -> OptimizeResult:
    """Find a zero of a monotone Lipschitz F + G by the extra anchored gradient method (EAG-C, arXiv:2102.07922).

    Parameters
    ----------
    F
        The operator F of the inclusion.
    u0
        The point to start from and to be drawn back to, one vector.
    n
        How many components F has, by which passes are counted.
    L
        Lipschitz constant of F; by default what F brings.
    resolvent
        Resolvent of G, called with a point and a step; by default that of F, or none.
    eta
        Step; the theory's is 1 / (8 L), the default, and up to 1 / L often works.
    atol, max_passes, callback
        As in `halpern_vr`.

    Returns
    -------
    OptimizeResult
        As that of `halpern_vr`.

    Examples
    --------
    >>> turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> anchored_extragradient(lambda u: turn @ u, np.ones(2), L=1.0, atol=0.1).success
    True
    """
    return _extra(F, u0, n, L, resolvent, eta, 1 / 8, Limits(atol, max_passes, callback), lambda k: 1 / (k + 2))


def extragradient(
    F: Operator | FiniteSumOperator,
    u0: Array,
    *,
    n: int | None = None,
    L: float | None = None,
    resolvent: Prox | None = None,
    eta: float | None = None,
    atol: float = 1e-3,
    max_passes: float = 100.0,
    callback: Callback | None = None,
) -> OptimizeResult:
    """Find a zero of a monotone Lipschitz F + G by the extragradient method.

    Parameters
    ----------
    F
        The operator F of the inclusion.
    u0
        The point to start from, one vector.
    n
        How many components F has, by which passes are counted.
    L
        Lipschitz constant of F; by default what F brings.
    resolvent
        Resolvent of G, called with a point and a step; by default that of F, or none.
    eta
        Step below 1 / L; by default 0.9 / L.
    atol, max_passes, callback
        As in `halpern_vr`.

    Returns
    -------
    OptimizeResult
        As that of `halpern_vr`.

    Examples
    --------
    >>> turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> extragradient(lambda u: turn @ u, np.ones(2), L=1.0, max_passes=200).success
    True
    """
    return _extra(F, u0, n, L, resolvent, eta, 0.9, Limits(atol, max_passes, callback), lambda k: 0.0)


def _extra(
    F: Operator | FiniteSumOperator,
    u0: Array,
    n: int | None,
    L: float | None,
    resolvent: Prox | None,
    eta: float | None,
    share: float,
    limits: Limits,
    anchor: Callable[[int], float],
) -> OptimizeResult:
    oracle = Oracle(F, u0, n=n, L=_lipschitz(F, L), resolvent=resolvent)
    step = check_number("eta", share / oracle.L if eta is None else eta, gt=0)

    def steps(start: Array) -> Steps:
        u, value = start, oracle(start)
        for k in range(2**62):
            drawn = u + anchor(k) * (start - u)
            middle = oracle.resolve(drawn - step * value, step)
            ahead = drawn - step * oracle(middle)
            u = oracle.resolve(ahead, step)
            value = oracle(u)
            g = (ahead - u) / step
            yield Iterate(u, norm(value + g), g, exact=True)

    return solve(steps, oracle, limits)


def extragradient_vr(
    F: Operator | FiniteSumOperator,
    u0: Array,
    *,
    F_batch: Callable[[Array, Any], Array] | None = None,
    F_batch_diff: Callable[[Array, Array, Any], Array] | None = None,
    n: int | None = None,
    L: float | None = None,
    resolvent: Prox | None = None,
    eta: float | None = None,
    batch_size: int | None = None,
    atol: float = 1e-3,
    max_passes: float = 100.0,
    random_state: int | np.random.Generator | None = None,
    callback: Callback | None = None,
) -> OptimizeResult:
    """Find a zero of a monotone F + G by variance-reduced extragradient (Alacaoglu and Malitsky, arXiv:2102.08352).

    Parameters
    ----------
    F, u0, F_batch, F_batch_diff, n, L, resolvent
        As in `halpern_vr`, of which this is a baseline.
    eta
        Step; by default the theory's, 0.99 sqrt(p) / L with p the chance of a new snapshot.
    batch_size
        Components drawn at once; p is twice as many over n.
    atol, max_passes, random_state, callback
        As in `halpern_vr`.

    Returns
    -------
    OptimizeResult
        As that of `halpern_vr`.

    Examples
    --------
    >>> from paperworks.optimization import BilinearGame
    >>> game = BilinearGame(np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]]))
    >>> extragradient_vr(game, np.array([1.0, 0, 0, 1.0, 0, 0]), max_passes=2000, random_state=0).success
    True
    """
    parts: dict[str, Any] = {"F_batch": F_batch, "F_batch_diff": F_batch_diff, "n": n, "L": L, "resolvent": resolvent}
    oracle = Oracle(F, u0, random_state=random_state, **parts)
    size = check_count("batch_size", math.ceil(math.sqrt(oracle.n)) if batch_size is None else batch_size)
    if size > oracle.n:
        raise ValueError(f"batch_size is {size}; it takes at most n, {oracle.n}")
    p = min(1.0, 2 * size / oracle.n)
    step = check_number("eta", 0.99 * math.sqrt(p) / oracle.L if eta is None else eta, gt=0)

    def steps(u: Array) -> Steps:
        w, value = u, oracle(u)
        while True:
            drawn = (1 - p) * u + p * w
            middle = oracle.resolve(drawn - step * value, step)
            ahead = drawn - step * (value + oracle.difference(middle, w, size))
            u = oracle.resolve(ahead, step)
            if oracle.rng.random() < p:
                w, value = u, oracle(u)
                g = (ahead - u) / step
                yield Iterate(u, norm(value + g), g, exact=True)

    return solve(steps, oracle, Limits(atol, max_passes, callback))
