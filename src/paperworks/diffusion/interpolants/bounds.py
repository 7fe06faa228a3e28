"""What the losses of velocity and score say about the divergence of an SDE sampler."""

import math

from paperworks.core.validation import check_number


def kl_bound(delta_b: float, delta_s: float, eps: float | None = None) -> float:
    r"""Bound KL(target || density of the SDE sampler) by ``delta_b/eps + eps delta_s``.

    Source: arXiv 2303.08797, section 2.4.

    Parameters
    ----------
    delta_b, delta_s
        How far `velocity_loss` and `score_loss` lie above their least values: ``integral of E|error|^2 dt / 2``.
    eps
        The sampler's constant noise level; by default the best one, where the bound is ``2 sqrt(delta_b delta_s)``.
        There is no such bound for the ODE: eps = 0 gives infinity.

    Returns
    -------
    float
        The bound, in nats.

    Raises
    ------
    ValueError
        Where an argument is negative or not finite.

    Examples
    --------
    >>> kl_bound(0.04, 0.01, eps=1.0), kl_bound(0.04, 0.01)
    (0.05, 0.04)
    """
    check_number("delta_b", delta_b, ge=0)
    check_number("delta_s", delta_s, ge=0)
    if eps is None:
        return 2 * math.sqrt(delta_b * delta_s)
    check_number("eps", eps, ge=0)
    if eps == 0:
        return math.inf if delta_b > 0 else 0.0
    return delta_b / eps + eps * delta_s


def best_noise_level(delta_b: float, delta_s: float) -> float:
    """Return the noise level ``sqrt(delta_b/delta_s)`` at which `kl_bound` is least.

    Returns
    -------
    float
        The level eps, in the unit of the SDE.

    Raises
    ------
    ValueError
        Where `delta_b` is negative, `delta_s` isn't positive, or one isn't finite.

    Examples
    --------
    >>> best_noise_level(0.04, 0.01)
    2.0
    """
    return math.sqrt(check_number("delta_b", delta_b, ge=0) / check_number("delta_s", delta_s, gt=0))
