"""The log-likelihood of data under PFGM++, by following its ODE up to the prior."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice
from paperworks.diffusion.poisson_flow.noise import PFGMPPNoise
from paperworks.diffusion.poisson_flow.sampler import edm_grid
from paperworks.diffusion.sampling import ModelFn, check_state
from paperworks.numerics.integration import State, Sums, Terms, follow
from paperworks.numerics.plans import fixed_plan
from paperworks.numerics.traces import divergence

Trace = Literal["exact", "hutchinson"]


def ode_log_likelihood(
    model_fn: ModelFn,
    x: Float[Tensor, " batch *shape"],
    D: float = math.inf,
    *,
    steps: int = 64,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    trace: Trace = "exact",
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch"]:
    """Return ``log p(x)`` at `sigma_min`: the prior's at the end of the ODE plus the divergence along the way.

    ``log p(x_0) = log p_T(x_T) + integral of div(dx/dsigma)`` from `sigma_min` to `sigma_max`, with Student-t prior
    p_T, by the classical Runge-Kutta method.

    Parameters
    ----------
    model_fn
        ``model_fn(x, sigma)``, the noise in `x`, differentiable.
    x
        Data of shape (batch, ...).
    D
        Additional dimensions of the model.
    steps
        Steps of the ODE, four evaluations each; the error falls with their fourth power.
    sigma_min, sigma_max, rho
        EDM's grid, here without the step to 0.
    trace
        ``exact``: one backward pass for each dimension, batched; ``hutchinson``: one in all with a random sign vector
        from `generator`, unbiased.
    generator
        Source of the signs.

    Returns
    -------
    Tensor of shape (batch,)
        One number for each sample, in nats.

    Raises
    ------
    ValueError
        For an unknown `trace`, or ``hutchinson`` without `generator`.

    Examples
    --------
    >>> model_fn = lambda x, sigma: x * sigma / (1 + sigma**2)  # of N(0, 1) data
    >>> value = ode_log_likelihood(model_fn, torch.zeros(1, 1, dtype=torch.float64))
    >>> bool(abs(value.item() + 0.5 * math.log(2 * math.pi)) < 1e-3)
    True
    """
    check_choice("trace", trace, ("exact", "hutchinson"))
    check_state("x", x)
    if trace == "hutchinson" and generator is None:
        raise ValueError("generator is None; trace 'hutchinson' takes a torch.Generator")
    n = x[0].numel()
    probes = None
    if trace == "hutchinson":
        signs = torch.randint(0, 2, x.shape, generator=generator, device=generator.device)  # type: ignore[union-attr]
        probes = (2 * signs - 1).to(x)[None]
    times = edm_grid(steps + 1, sigma_min, sigma_max, rho)[-2::-1]

    def field(state: State, sigma: float, weighs: bool) -> tuple[State, Terms]:
        slope, trace_here = divergence(lambda y: model_fn(y, sigma), state[0], probes)
        return (slope,), (trace_here.double(),)

    sums = Sums(1)
    (state,) = follow(field, (x,), fixed_plan("rk4", times), sums)
    total = sums.values[0]
    assert total is not None
    prior = PFGMPPNoise(D, n).log_prob(state, sigma_max).double()
    return (prior + total).to(x.dtype)
