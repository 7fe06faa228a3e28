"""Variance-reduced Halpern iteration, for cocoercive operators directly and for monotone ones by their resolvent."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from scipy.optimize import OptimizeResult

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.optimization.monotone.operators import FiniteSumOperator
from paperworks.optimization.monotone.residuals import Operator, norm
from paperworks.optimization.monotone.solve import Callback, Iterate, Limits, Oracle, Restarts, Steps, solve
from paperworks.optimization.proximal import Array, Prox

InnerSteps = Callable[[int], int] | Literal["theory", "adaptive"]

GAIN = 40.0
"""Of `sqrt(n) L_F / L`, from which on variance reduction was measured to save passes: at 2.2 it lost, at 175 it won."""


def halpern_vr(
    F: Operator | FiniteSumOperator,
    u0: Array,
    *,
    F_batch: Callable[[Array, Any], Array] | None = None,
    F_batch_diff: Callable[[Array, Array, Any], Array] | None = None,
    n: int | None = None,
    L: float | None = None,
    resolvent: Prox | None = None,
    G: Literal["monotone_lipschitz", "cocoercive"] = "monotone_lipschitz",
    eta: float | None = None,
    batch_size: int | None = None,
    page_batches: Literal["theory-finite", "adaptive"] = "theory-finite",
    variance: float | None = None,
    inner_steps: InnerSteps = "theory",
    inner_order: float = 6.0,
    cohypomonotonicity: float = 0.0,
    restart: Literal["adaptive"] | int | None = None,
    restart_factor: float = 0.25,
    atol: float = 1e-3,
    max_passes: float = 100.0,
    random_state: int | np.random.Generator | None = None,
    callback: Callback | None = None,
) -> OptimizeResult:
    """Find u with 0 in F(u) + G(u), where F is the mean of n components, by fewer evaluations of these.

    The residual `|F(u) + g|`, g in G(u), of the last iterate falls as 1/k; it needs of the order of
    `n + sqrt(n) L D / atol` evaluations of components, where deterministic methods need `n L_F D / atol`
    (arXiv:2310.02987, Algorithm 1 where F is cocoercive, Algorithms 2 and 3 where it is monotone and Lipschitz).

    Parameters
    ----------
    F
        The operator: a `FiniteSumOperator`, which brings its components, `n`, `L` and perhaps a resolvent, or a
        function of a point with `F_batch`, `n` and `L`.
    u0
        The point to start from and to be drawn back to, one vector of NumPy or torch.
    F_batch
        Mean of components: of a point and the numbers, drawn uniformly, of the components.
    F_batch_diff
        Mean of the components at one point less that at another, where that costs less than two means.
    n
        How many components F has.
    L
        Constant in expectation of cocoercivity, `E|F_xi(u) - F_xi(v)|^2 <= L <F(u) - F(v), u - v>`, or of Lipschitz
        continuity, with `L^2 |u - v|^2` on the right.
    resolvent
        Resolvent of G, called with a point and a step; by default that of F, or none.
    G
        What is known of F with G: "cocoercive" for the single loop, "monotone_lipschitz" for the resolvent.
    eta
        Step: 1 / (4 L) by the theory where F is cocoercive (twice to four times that is often faster), or of the
        resolvent, sqrt(n) / L.
    batch_size
        Components drawn at once. The paper draws one for each inner step of the resolvent, which needs the fewest
        evaluations; the default, the least whole number from sqrt(n) on, needs the least time.
    page_batches
        "theory-finite", or "adaptive" for batches by the variance, for sums too long to go through.
    variance
        Bound of `E|F_xi(u) - F(u)|^2`, which "adaptive" batches need.
    inner_steps
        Evaluations that the k-th resolvent may cost, in components: "theory" for `2 n log(k + 3)`; a function of k; or
        "adaptive", until the inner residual is half of the outer one over k + 2.
    inner_order
        Power q in the wanted inner accuracy `|u - J(u)|^2 / (k + 2)^q`; "theory" takes evaluations in proportion.
    cohypomonotonicity
        How far F may fall short of monotone, rho in `<F(u) - F(v), u - v> >= -rho |F(u) - F(v)|^2`.
    restart
        "adaptive" to start again whenever the residual has fallen by `restart_factor`, which makes the rate linear for
        strongly monotone and sharp problems; a number of steps; or None.
    restart_factor
        To what part the residual falls between two restarts.
    atol
        Residual at which to end, confirmed by a whole evaluation of F.
    max_passes
        Evaluations of components at which to give up, over n.
    random_state
        Seed or generator of what is drawn.
    callback
        Called after each step with `x`, `residual`, `nfev`, `npasses` and `nit` so far; it stops by raising
        StopIteration.

    Returns
    -------
    OptimizeResult
        With `x`, `success`, `status` (0 solved, 1 passes ran out, 2 stopped by the callback), `message`, the
        `residual` at `x` (an estimate unless `success`), `residual_history` and `nfev_history` by steps, `nfev`
        (evaluations of components), `npasses` (these over n) and `nit`.

    Raises
    ------
    ValueError
        If an option is out of its range, or F returns another shape or what is not finite.
    TypeError
        If F brings no components and none are given.

    Warns
    -----
    RuntimeWarning
        If the residual grows to ten times its first value: L is too small.
    UserWarning
        If F knows its constants and they promise no gain over deterministic methods.

    Examples
    --------
    >>> from paperworks.optimization import LeastSquaresOperator
    >>> rng = np.random.default_rng(0)
    >>> A = 1 + 0.3 * rng.normal(size=(40_000, 5))
    >>> F = LeastSquaresOperator(A, A @ np.arange(5.0))
    >>> found = halpern_vr(F, np.zeros(5), G="cocoercive", eta=1 / F.L, atol=0.05, random_state=0)
    >>> found.success
    True
    """
    check_choice("G", G, ["monotone_lipschitz", "cocoercive"])
    parts: dict[str, Any] = {"F_batch": F_batch, "F_batch_diff": F_batch_diff, "n": n, "L": L, "resolvent": resolvent}
    oracle = Oracle(F, u0, random_state=random_state, **parts)
    if not oracle.samples:
        raise TypeError("F_batch is missing; it takes the mean of components, since F does not bring them")
    size = check_count("batch_size", math.ceil(math.sqrt(oracle.n)) if batch_size is None else batch_size)
    if size > oracle.n:
        raise ValueError(f"batch_size is {size}; it takes at most n, {oracle.n}")
    limits, restarts = Limits(atol, max_passes, callback), Restarts(restart, restart_factor)
    check_choice("page_batches", page_batches, ["theory-finite", "adaptive"])
    rho = check_number("cohypomonotonicity", cohypomonotonicity, ge=0)
    if isinstance(F, FiniteSumOperator) and (gain := math.sqrt(F.n) * F.L_F / F.L) < GAIN:
        message = f"sqrt(n) L_F / L is {gain:.3g}: below about {GAIN:g} deterministic methods need fewer passes"
        warnings.warn(message, UserWarning, 2)
    if G == "cocoercive":
        step = check_number("eta", 1 / (4 * oracle.L) if eta is None else eta, gt=0, le=1.001 / oracle.L)
        if page_batches == "adaptive":
            bound = check_number("variance", variance, ge=0)
            return solve(lambda u: _adaptive(oracle, u, step, bound, atol), oracle, limits, restarts)
        return solve(lambda u: _cocoercive(oracle, u, step, size), oracle, limits, restarts)
    step = check_number("eta", math.sqrt(oracle.n) / oracle.L if eta is None else eta, gt=0)
    if rho and (step < 2 * rho or rho >= 1 / (2 * oracle.L)):
        message = f"eta is {step:.3g} and cohypomonotonicity {rho:.3g}: convergence takes eta >= 2 rho and rho < 1/(2L)"
        warnings.warn(message, RuntimeWarning, 2)
    order = check_number("inner_order", inner_order, gt=0)
    wanted = _evaluations(oracle, inner_steps, order)
    return solve(lambda u: _monotone(oracle, u, step, size, wanted), oracle, limits, restarts)


def _cocoercive(oracle: Oracle, u0: Array, eta: float, batch_size: int) -> Steps:
    """Algorithm 1: Halpern steps along an estimate of F that whole evaluations renew at random (PAGE)."""
    u, value, root = u0, oracle(u0), math.sqrt(oracle.n)
    for k in range(1, 2**62):
        weight = 2 / (k + 4)
        ahead = weight * u0 + (1 - weight) * u - eta * value
        before, u = u, oracle.resolve(ahead, eta)
        g = (ahead - u) / eta
        if batch_size == oracle.n or oracle.rng.random() < min(1.0, 4 / (min(k, root) + 5)):
            value = oracle(u)
            yield Iterate(u, norm(value + g), g, exact=True)
        else:
            value = value + oracle.difference(u, before, batch_size)
            exact = yield Iterate(u, norm(value + g), g)
            value = value if exact is None else exact


def _adaptive(oracle: Oracle, u0: Array, eta: float, variance: float, atol: float) -> Steps:
    """Algorithm 1 with batches by the variance, for sums too long to go through (arXiv:2203.09436)."""
    u, residual = u0, 1.0
    value = oracle.batch(u0, max(1, math.ceil(8 * variance / max(atol, residual) ** 2)))
    for k in range(1, 2**62):
        weight, chance = 2 / (k + 4), min(1.0, 4 / (k + 5))
        ahead = weight * u0 + (1 - weight) * u - eta * value
        before, u = u, oracle.resolve(ahead, eta)
        g = (ahead - u) / eta
        wanted = chance * max(atol, min(residual, 1.0)) ** 2
        if oracle.rng.random() < chance:
            value = oracle.batch(u, max(1, math.ceil(8 * variance / wanted)))
        else:
            count = math.ceil(8 * (oracle.L * norm(u - before)) ** 2 / wanted)
            value = value + oracle.difference(u, before, max(1, count))
        residual = norm(value + g)
        exact = yield Iterate(u, residual, g)
        value = value if exact is None else exact


def _evaluations(oracle: Oracle, rule: InnerSteps, order: float) -> Callable[[int], int] | None:
    """Return how many evaluations the k-th resolvent may cost; None where its residual decides."""
    if rule == "adaptive":
        return None
    if rule == "theory":
        return lambda k: math.ceil(order / 3 * oracle.n * math.log(k + 3))
    if not callable(rule):
        raise ValueError(f"inner_steps is {rule!r}; it takes 'theory', 'adaptive', or a function of the step")
    return rule


def _monotone(
    oracle: Oracle, u0: Array, eta: float, batch_size: int, evaluations: Callable[[int], int] | None
) -> Steps:
    """Algorithm 2: Halpern steps on the resolvent of `eta (F + G)`, each found by Algorithm 3."""
    u = u0
    for k in range(2**62):
        budget = None if evaluations is None else check_count("inner_steps", evaluations(k))
        resolved = _resolvent(oracle, u, eta, batch_size, budget, k)
        yield Iterate(resolved, norm(u - resolved) / eta)
        weight = 1 / (k + 2)
        u = weight * u0 + (1 - weight) * resolved


def _resolvent(oracle: Oracle, u: Array, eta: float, batch_size: int, budget: int | None, k: int) -> Array:
    """Algorithm 3, VR-FoRB: the resolvent of `eta (F + G)` at u, started there, within a budget of evaluations."""
    p = batch_size / oracle.n
    tau = (math.sqrt(p * (1 - p)) if p < 1 else 1.0) / (2 * (eta * oracle.constant(batch_size) + 1))
    v = w = before = u
    value = eta * oracle(w)  # of eta F at the snapshot; the strongly monotone part v - u is added where it is used
    end = oracle.nfev + budget if budget is not None else math.inf
    while oracle.nfev < end:
        # F(w) + F_xi(v) - F_xi(w before): the reflected term takes the snapshot before, by the same components.
        forward = value + w - u + (v - before)
        if v is not before:
            forward = forward + eta * oracle.difference(v, before, batch_size)
        v = oracle.resolve((1 - p) * v + p * w - tau * forward, tau * eta)
        before = w
        if oracle.rng.random() < p:
            w = v
            value = eta * oracle(w)
            if budget is None:
                shift = norm(w - oracle.resolve(w - tau * (value + w - u), tau * eta)) / tau
                if shift <= 0.5 * norm(u - w) / (k + 2):
                    return w
    return v
