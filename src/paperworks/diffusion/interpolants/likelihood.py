"""The log-likelihood of samples under the ODE or an SDE sampler, and a lower bound of it."""

import itertools
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count
from paperworks.diffusion.interpolants.fields import Fields
from paperworks.diffusion.interpolants.interpolant import check_level
from paperworks.diffusion.interpolants.samplers import WINDOW, NoiseLevel, Window, grid
from paperworks.diffusion.sampling import check_state, combine, noise_like
from paperworks.numerics.integration import State, Sums, Terms, follow
from paperworks.numerics.plans import fixed_plan
from paperworks.numerics.traces import divergence

Method = Literal["ode", "sde", "sde_bound"]


def log_likelihood(
    fields: Fields,
    x: Float[Tensor, " batch *shape"],
    log_base: Callable[[Tensor], Tensor],
    *,
    method: Method = "ode",
    eps: NoiseLevel = 1.0,
    steps: int = 100,
    window: Window = WINDOW,
    n_paths: int = 32,
    n_probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch"]:
    r"""Return the log-density that a sampler gives to `x` at t = 1.

    ``ode``: ``log rho0(X_0) - integral of div b dt`` along the probability flow, by RK4. ``sde``: the density of the
    Euler-Maruyama chain with `steps` steps, estimated without bias by chains that run backward with the drift
    ``b - eps s`` and carry the ratio of the two transition densities; the logarithm of the mean over `n_paths` of
    them is too low by about half their relative variance, which is nought for exact fields and small steps.
    ``sde_bound``: the mean of their logarithms, a lower bound, tight for the exact score. As the steps get small these
    become ``E[rho0(Y_0) exp(-integral of div(b + eps s) dt)]`` over paths with drift ``b + eps s`` and
    ``E[log rho0(X_0) - integral of (div(b + eps s) + eps |s|^2) dt]`` (arXiv 2303.08797, section 2.5), but need no
    divergence.

    Parameters
    ----------
    fields
        The fields; the SDEs use velocity and score.
    x
        Samples at t = 1, of shape (batch, ...).
    log_base
        Log-density of the base for a batch.
    method, eps
        Which sampler, and the noise level of the SDE, a number or a function of time. Default 1.
    steps, window
        Equal steps and the first and last time.
    n_paths
        Chains per sample for the SDEs. Default 32.
    n_probes
        For ``ode``: that many random sign vectors instead of the exact divergence; unbiased.
    generator
        Source of noise and probes.

    Returns
    -------
    Tensor of shape (batch,)
        One number for each sample, in nats.

    Raises
    ------
    ValueError
        For an unknown method, a noise level that isn't positive, or a missing generator.

    Examples
    --------
    >>> from paperworks.diffusion import Interpolant
    >>> fields = Fields(Interpolant("linear", "zero"), b=lambda x, t: torch.ones_like(x))
    >>> normal = lambda x: -0.5 * x[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)
    >>> log_likelihood(fields, torch.ones(1, 1), normal, window=(0.0, 1.0))
    tensor([-0.9189])
    """
    check_choice("method", method, get_args(Method))
    check_state("x", x)
    if generator is None and (method != "ode" or n_probes is not None):
        raise ValueError("generator is None; the SDEs and random probes take a torch.Generator")
    times = grid(steps, window, "backward")
    if method == "ode":
        return _ode(fields, x, log_base, times, n_probes, generator)
    check_count("n_paths", n_paths)
    weights = _chain(fields, x.repeat_interleave(n_paths, dim=0), log_base, times, eps, generator)
    weights = weights.unflatten(0, (len(x), n_paths))
    if method == "sde_bound":
        return weights.mean(dim=1)
    return torch.logsumexp(weights, dim=1) - math.log(n_paths)


def _ode(
    fields: Fields,
    x: Tensor,
    log_base: Callable[[Tensor], Tensor],
    times: tuple[float, ...],
    n_probes: int | None,
    generator: torch.Generator | None,
) -> Tensor:
    probes = None
    if n_probes is not None:
        shape = (check_count("n_probes", n_probes), *x.shape)
        probes = 2 * torch.randint(0, 2, shape, generator=generator, device=generator.device).to(x) - 1  # type: ignore[union-attr]

    def field(state: State, t: float, weighs: bool) -> tuple[State, Terms]:
        now = min(max(t, 0.0), 1.0)  # rounding may leave the unit interval
        slope, trace = divergence(lambda y: fields.b(y, now), state[0], probes)
        return (slope,), (trace,)

    sums = Sums(1)
    (x,) = follow(field, (x,), fixed_plan("rk4", times), sums)
    total = sums.values[0]
    assert total is not None
    return log_base(x) + total


def _chain(
    fields: Fields,
    x: Tensor,
    log_base: Callable[[Tensor], Tensor],
    times: tuple[float, ...],
    eps: NoiseLevel,
    generator: torch.Generator | None,
) -> Tensor:
    """Run the chain backward and return the log of ``rho0(x_0)`` times forward over backward transition densities."""
    levels = [eps if isinstance(eps, (int, float)) else eps(t) for t in times]
    for level in levels:
        if check_level(level) == 0:
            raise ValueError("eps is 0 somewhere; the density of an SDE takes noise at all times")
    total = torch.zeros_like(x.flatten(1)[:, 0])
    with torch.no_grad():
        drift, score = fields.drift_and_score(x, times[0], levels[0])
        for (t, after), eps_t, eps_after in zip(itertools.pairwise(times), levels, levels[1:], strict=False):
            h = t - after
            noise = noise_like(x, generator)
            spread, spread_back = math.sqrt(2 * eps_after * h), math.sqrt(2 * eps_t * h)
            earlier = combine((1.0, -h, 2 * eps_t * h, spread_back), (x, drift, score, noise))
            drift, score = fields.drift_and_score(earlier, after, eps_after)
            residual = combine((1.0, -1.0, -h), (x, earlier, drift)).div_(spread)
            total += 0.5 * (noise.square() - residual.square()).flatten(1).sum(1)
            total += x[0].numel() * math.log(spread_back / spread)
            x = earlier
        return log_base(x) + total
