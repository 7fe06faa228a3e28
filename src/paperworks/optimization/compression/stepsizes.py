"""Step sizes that theory allows for gradient descent with error feedback, and the constants that they are made of."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from scipy.optimize import minimize_scalar
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number

Rule = Literal["arithmetic", "quadratic", "cloned"]
Numbers = Sequence[float] | Shaped[np.ndarray, " n"] | Shaped[Tensor, " n"]

FLOOR = 1e-12  # of the greatest constant, for clients whose gradient never changes


class Contraction(NamedTuple):
    """How the squared distance G of shifts from gradients goes on: `G' <= (1 - theta) G + beta L_AM^2 |dx|^2`."""

    theta: float
    beta: float

    @property
    def xi(self) -> float:
        return math.sqrt(self.beta / self.theta)


def xi(alpha: float | None) -> float:
    """Return what compression multiplies the mean smoothness constant by in the step size.

    `xi = sqrt(1 - alpha) / (1 - sqrt(1 - alpha)) = (1 + sqrt(1 - alpha)) / alpha - 1`, of arXiv 2402.10774.

    Parameters
    ----------
    alpha
        Constant of contraction of the compressor, above 0 and at most 1.

    Returns
    -------
    float
        0 where nothing is lost, about `2 / alpha` where little is kept.

    Raises
    ------
    TypeError
        If `alpha` is None, as for a compressor that has none.
    ValueError
        If `alpha` is out of range.

    Examples
    --------
    >>> xi(1.0), xi(0.75)
    (0.0, 1.0)
    """
    kept = _contractive(alpha)
    return (1 + math.sqrt(1 - kept)) / kept - 1


def contraction(
    alpha: float | None, participation: float | Numbers | None = None, sgd: float | None = None
) -> Contraction:
    """Return theta and beta for clients that always take part, or only sometimes, with exact or sampled gradients."""
    kept = _contractive(alpha)
    theta = kept / (1 + math.sqrt(1 - kept))  # 1 - sqrt(1 - alpha), without cancellation
    found = Contraction(theta, (1 - kept) / theta)
    if sgd is not None:
        found = Contraction(*sgd_constants(kept)[2:])
    return found if participation is None else _partial(found, participation)


def _partial(base: Contraction, participation: float | Numbers) -> Contraction:
    p = probabilities(participation)
    least = float(p.min())
    if least == 1:
        return base
    most = least * base.theta / (1 - least)

    def at(rho: float) -> Contraction:
        beta = float((p * base.beta + (1 - p) * (1 + 1 / rho)).max())
        return Contraction(least * base.theta - (1 - least) * rho, beta)

    best = minimize_scalar(lambda share: at(share * most).xi, bounds=(1e-9, 1 - 1e-9), method="bounded",
                           options={"xatol": 1e-10})  # fmt: skip
    return at(float(best.x) * most)


def probabilities(participation: float | Numbers) -> Float[np.ndarray, " n"]:
    """Return with what probability clients take part, as an array of one or more."""
    p = np.atleast_1d(_array(participation))
    if not p.size or not ((p > 0) & (p <= 1)).all():
        raise ValueError(f"participation is {participation!r}; it takes probabilities above 0, up to 1")
    return p


def sgd_constants(alpha: float) -> tuple[float, float, float, float]:
    """Return the constants of EF21-W with sampled gradients that allow the largest step.

    With s and nu above 0, `theta = 1 - (1 - alpha) (1 + s) (1 + nu)` and `beta = (1 - alpha) (1 + s) (1 + 1 / nu)`: by
    Young's inequality, and since the noise of an unbiased estimate is uncorrelated with all else. They are chosen on a
    grid, where a small s allows larger steps and multiplies the noise by `1 + 1 / s`; it is kept above a hundredth of
    what is possible.

    Parameters
    ----------
    alpha
        Constant of contraction of the compressor, above 0 and at most 1.

    Returns
    -------
    tuple[float, float, float, float]
        The numbers s, nu, theta and beta.

    Examples
    --------
    >>> s, nu, theta, beta = sgd_constants(0.02)
    >>> bool((beta / theta) ** 0.5 >= xi(0.02))
    True
    """
    lost = 1 - _contractive(alpha)
    if lost == 0:
        return 1.0, 1.0, 1.0, 0.0
    shares = np.linspace(0.01, 0.99, 197)
    s = (shares * (1 / lost - 1))[:, None]  # theta > 0 asks for (1 + s) (1 + nu) < 1 / lost
    nu = shares * ((1 / lost) / (1 + s) - 1)
    theta, beta = 1 - lost * (1 + s) * (1 + nu), lost * (1 + s) * (1 + 1 / nu)
    i, j = np.unravel_index(np.argmin(beta / theta), theta.shape)
    return float(s[i, 0]), float(nu[i, j]), float(theta[i, j]), float(beta[i, j])


def stepsize_ef21(
    L: float | None,
    L_i: Numbers,
    alpha: float | None,
    rule: Rule = "arithmetic",
    *,
    participation: float | Numbers | None = None,
    sgd: float | None = None,
    mu: float | None = None,
    owned: Bool[Tensor, "n d"] | None = None,
) -> float:
    """Return the largest step that theory allows for EF21 and EF21-W.

    `1 / (L + M xi(alpha))`, where M is the quadratic mean of the clients' constants in the older analysis, their
    arithmetic mean in that of arXiv 2402.10774, which is never greater and up to `sqrt(n)` times less, and `sqrt(2)`
    times the arithmetic one if clients are cloned. Plain EF21 may use the arithmetic rule as it is.

    Parameters
    ----------
    L
        Smoothness constant of the mean of all clients' functions, or None for the mean of their constants, which is
        never less.
    L_i
        Smoothness constants of the clients, all positive.
    alpha
        Constant of contraction of the compressor, above 0 and at most 1.
    rule
        "arithmetic", "quadratic" or "cloned".
    participation
        Probability that a client takes part in a round, or one for each client; all do by default.
    sgd
        Where clients sample their gradients, by what factor of at least 1 noise enlarges the mean constant: 1 for a
        bounded variance. None, for exact gradients, is also what works in practice.
    mu
        Constant of Polyak and Łojasiewicz, for a step with linear convergence.
    owned
        Which features occur at which client, a row for each client, where features are rare: then M is multiplied by
        `sqrt(c / n)` for the quadratic rule, with c the most clients that share a feature, and is the greatest sum
        over a feature's clients of `L_i / n` for the arithmetic one.

    Returns
    -------
    float
        The step size.

    Raises
    ------
    TypeError
        If `alpha` is None: the compressor keeps nothing for certain, and no step is safe.
    ValueError
        If a constant is not positive, `alpha` or a probability is out of range, or options don't go together.

    Examples
    --------
    >>> old = stepsize_ef21(25.75, [1, 1, 1, 100], alpha=0.01, rule="quadratic")
    >>> round(stepsize_ef21(25.75, [1, 1, 1, 100], alpha=0.01) / old, 2)
    1.94
    """
    check_choice("rule", rule, ("arithmetic", "quadratic", "cloned"))
    constants = _positive(L_i)
    arithmetic = float(constants.mean())
    L = arithmetic if L is None else check_number("L", L, gt=0)
    if participation is not None and np.size(participation) not in (1, len(constants)):
        raise ValueError(f"participation has {np.size(participation)} entries; it takes 1 or {len(constants)}")
    found = contraction(alpha, participation, sgd)
    mean = {
        "arithmetic": arithmetic,
        "quadratic": math.sqrt(float((constants**2).mean())),
        "cloned": math.sqrt(2) * arithmetic,
    }[rule]
    if owned is not None:
        if rule == "cloned":
            raise ValueError("rule is 'cloned', which shares features more; owned goes with the other two rules")
        mean *= math.sqrt(overlap(constants, owned, rule))
    if sgd is not None:
        mean *= check_number("sgd", sgd, ge=1)
    if mu is None:
        return 1 / (L + mean * found.xi)
    return min(1 / (L + math.sqrt(2) * mean * found.xi), found.theta / (2 * check_number("mu", mu, gt=0)))


def overlap(L_i: Shaped[np.ndarray, " n"], owned: Bool[Tensor, "n d"], rule: str) -> float:
    """Return the square of what rare features multiply the mean constant by.

    With weights w of sum 1 and W the greatest sum of them over the clients of one feature, `|sum_i w_i e_i|^2 <=
    W sum_i w_i |e_i|^2` for errors within each client's features; equal weights have `W = c / n`. Weights `L_i / sum L`
    gain W a second time, where the change of gradients is bounded feature by feature.
    """
    if owned.shape[0] != len(L_i):
        raise ValueError(f"owned has {owned.shape[0]} rows; it takes one for each of {len(L_i)} clients")
    mask = owned.cpu().numpy()
    if rule == "quadratic":
        return float(mask.sum(axis=0).max()) / len(L_i)
    return float((L_i @ mask).max() / L_i.sum()) ** 2


def smoothness_weights(L_i: Numbers) -> Float[Tensor, " n"]:
    """Return `L_i / sum L`, where clients with constant functions count a little, since weights divide."""
    constants = torch.as_tensor(_array(L_i))
    if not bool(torch.isfinite(constants).all()) or bool((constants < 0).any()) or not bool(constants.any()):
        raise ValueError("L_i has entries that are negative or infinite, or all 0; it takes finite numbers >= 0")
    constants = constants.clamp(min=FLOOR * float(constants.max()))
    return constants / constants.sum()


def clone_counts(L_i: Numbers) -> Int64[Tensor, " n"]:
    """Return how often each client is cloned so that all clones have like constants: `ceil(L_i / mean L)`.

    Parameters
    ----------
    L_i
        Smoothness constants of the clients, all positive.

    Returns
    -------
    Tensor
        Clones of each client, less than `2 n` in all.

    Examples
    --------
    >>> clone_counts([1, 1, 1, 100])
    tensor([1, 1, 1, 4])
    """
    constants = _positive(L_i)
    return torch.from_numpy(np.ceil(constants / constants.mean() - 1e-12).astype(np.int64))


def estimate_smoothness(
    loss: Callable[[Tensor], Tensor],
    points: Iterable[Float[Tensor, " d"]],
    *,
    steps: int = 30,
    safety: float = 1.5,
    generator: torch.Generator | None = None,
) -> float:
    """Estimate a smoothness constant by power iteration with products of the Hessian, along a trajectory.

    Parameters
    ----------
    loss
        A function of one vector that torch can differentiate twice.
    points
        Where the Hessian is looked at.
    steps
        Products at each point.
    safety
        By what the greatest curvature that was found is multiplied, since other points may have a greater one.
    generator
        Draws the first direction, torch's global one by default.

    Returns
    -------
    float
        The greatest magnitude of an eigenvalue that was found, times `safety`.

    Raises
    ------
    ValueError
        If there are no points, or a product is not finite.

    Examples
    --------
    >>> round(estimate_smoothness(lambda x: 2 * x.square().sum(), [torch.ones(3)], safety=1.0), 4)
    4.0
    """
    check_count("steps", steps)
    check_number("safety", safety, ge=1)
    greatest, direction = -1.0, None
    gradient: Any = torch.func.grad(loss)
    for point in points:
        if direction is None:
            direction = torch.randn(point.shape, generator=generator, dtype=point.dtype, device=point.device)
        for _ in range(steps):
            direction = direction / direction.norm().clamp(min=torch.finfo(direction.dtype).tiny)
            product = torch.func.jvp(gradient, (point.detach(),), (direction,))[1]
            curvature = float(product.norm())
            if not math.isfinite(curvature):
                raise ValueError(f"loss has a curvature of {curvature} at a point; it takes a finite one")
            if curvature == 0:
                break
            direction = product
        greatest = max(greatest, curvature)
    if direction is None:
        raise ValueError("points is empty; it takes one or more")
    return safety * greatest


def _contractive(alpha: float | None) -> float:
    if alpha is None:
        raise TypeError("alpha is None: the compressor keeps no share of every vector, and no step size is safe for it")
    return check_number("alpha", alpha, gt=0, le=1)


def _array(numbers: float | Numbers) -> Float[np.ndarray, "..."]:
    """Return numbers as an array, wherever a tensor of them is."""
    return np.asarray(numbers.detach().cpu() if isinstance(numbers, Tensor) else numbers, dtype=float)


def _positive(L_i: Numbers) -> Float[np.ndarray, " n"]:
    constants = _array(L_i)
    if constants.ndim != 1 or not constants.size:
        raise ValueError(f"L_i has shape {constants.shape}; it takes a number for each client")
    if not np.isfinite(constants).all() or not (constants > 0).all():
        raise ValueError(f"L_i has {constants.min()} as its least entry; it takes positive, finite numbers")
    return constants
