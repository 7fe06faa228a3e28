"""The sampler of PFGM++: EDM's Heun method, started from Student-t noise."""

import itertools
import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.diffusion.sampling import (
    Callback,
    ModelFn,
    SampleResult,
    Sampling,
    check_state,
    noise_like,
)
from paperworks.diffusion.schedules import EDMSchedule, time_grid


def edm_grid(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> list[float]:
    """Return EDM's noise levels of `steps` sampling steps, the last one to 0 (arXiv 2206.00364, equation 5).

    Examples
    --------
    >>> edm_grid(2), len(edm_grid(18))
    ([80.0, 0.002, 0.0], 19)
    """
    check_count("steps", steps, at_least=2)
    schedule = EDMSchedule(sigma_min, sigma_max, rho)
    return [*time_grid(schedule, steps - 1, sigma_max, sigma_min, "karras"), 0.0]


@torch.no_grad()
def sample_heun(
    model_fn: ModelFn,
    x: Float[Tensor, " batch *shape"],
    steps: int = 18,
    *,
    D: float = math.inf,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    step_noise: float = 0.0,
    generator: torch.Generator | None = None,
    return_trajectory: bool = False,
    callback: Callback | None = None,
) -> SampleResult:
    """Sample by Heun's method on EDM's grid: ``dx/dsigma`` is the noise that the model predicts, for every D.

    Parameters
    ----------
    model_fn
        ``model_fn(x, sigma)``, the noise ``(x - D(x; sigma))/sigma``; wrap a denoiser with
        ``wrap_model(denoiser, EDMSchedule(), "x_start")``.
    x
        Noise of scale `sigma_max`: ``PFGMPPNoise(D, n).sample(shape, sigma_max, generator)``.
    steps
        Sampling steps, ``2 steps - 1`` evaluations; 18 is the paper's for 32 x 32 images, 40 for 64 x 64.
    D
        Additional dimensions that `x` was drawn with.
    sigma_min, sigma_max, rho
        EDM's grid, the last step going on from `sigma_min` to 0.
    s_churn, s_min, s_max, s_noise
        EDM's stochastic churn, in EDM's notation; its fresh Gaussian noise fits D = infinity only.
    step_noise
        Add this multiple of sigma as Gaussian noise before each step: the probe of robustness of the paper.
    generator
        Source of that noise.
    return_trajectory
        Keep the states.
    callback
        Called after each step.

    Returns
    -------
    SampleResult
        Samples in ``sample``, with the count of evaluations.

    Raises
    ------
    ValueError
        Where a number is out of range, noise is asked for without `generator`, or the model returned another shape,
        NaN or infinity.

    Notes
    -----
    Source: arXiv 2302.04265, algorithm 2 of arXiv 2206.00364. The state is kept in float64, the model sees `x`'s type.

    Examples
    --------
    >>> from paperworks.diffusion.poisson_flow import PFGMPPNoise
    >>> prior = PFGMPPNoise(128, 4).sample((2, 4), 80.0, torch.Generator().manual_seed(0))
    >>> sample_heun(lambda x, sigma: x / sigma, prior, steps=18).nfe  # all data at 0
    35
    """
    check_state("x", x)
    times = edm_grid(steps, sigma_min, sigma_max, rho)
    check_number("s_churn", s_churn, ge=0)
    check_number("s_noise", s_noise, ge=0)
    check_number("step_noise", step_noise, ge=0)
    if s_churn > 0 and math.inf > D:
        warnings.warn(f"s_churn adds Gaussian noise, which is not that of D = {D:g}", RuntimeWarning, stacklevel=2)
    sampling = Sampling(model_fn, x, times[0], steps, return_trajectory, callback)

    def slope(state: Tensor, sigma: float) -> Tensor:
        return sampling.ask(state.to(x.dtype), sigma).double()

    state = x.double()
    growth = min(s_churn / steps, math.sqrt(2) - 1)
    for sigma, following in itertools.pairwise(times):
        if step_noise > 0:
            state = torch.add(state, noise_like(state, generator), alpha=step_noise * sigma)
        if growth > 0 and s_min <= sigma <= s_max:
            raised = sigma * (1 + growth)
            spread = s_noise * math.sqrt(raised**2 - sigma**2)
            state = torch.add(state, noise_like(state, generator), alpha=spread)
            sigma = raised
        h = following - sigma
        first = slope(state, sigma)
        if following == 0:
            state = torch.add(state, first, alpha=h)
        else:
            second = slope(torch.add(state, first, alpha=h), following)
            state = torch.add(state, first.add_(second), alpha=0.5 * h)
        sampling.reached(state.to(x.dtype), following)
    return sampling.result()
