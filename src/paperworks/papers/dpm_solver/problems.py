"""The problems that DPM-Solver's claims are measured on, and the Runge-Kutta methods that they are compared with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paperworks.diffusion import (
    AlgorithmType,
    DPMSolver,
    DPMSolverMethod,
    ModelFn,
    NoiseSchedule,
    NoiseScheduleVP,
)
from paperworks.numerics import odeint
from paperworks.testbeds import GaussianMixture, reference_solution

SCHEDULE = NoiseScheduleVP.linear()
T_END = 1e-3
FORMS: dict[AlgorithmType, str] = {"dpmsolver": "noise", "dpmsolver++": "data"}


def sample(
    mixture: GaussianMixture,
    x: Tensor,
    steps: int,
    order: int,
    form: AlgorithmType,
    method: DPMSolverMethod,
    **options: Any,
) -> Tensor:
    """Sample the mixture's exact model from `x`, uniformly in log signal-to-noise unless told otherwise."""
    options = {"skip_type": "logSNR", "t_start": 1.0, "t_end": T_END, **options}
    return DPMSolver(mixture.model(SCHEDULE), SCHEDULE, form).sample(x, steps, order, method=method, **options).sample


def normal(n: int, seed: int) -> Tensor:
    """Draw noise for `n` samples of 64 numbers."""
    return torch.randn(n, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def per_sample(x: Tensor, truth: Tensor) -> Tensor:
    """Return the root mean square difference of each sample."""
    return (x.double() - truth).square().mean(1).sqrt()


Slope = Callable[[Tensor, float], Tensor]
METHODS = {"midpoint": "midpoint", "Heun 2": "heun", "Heun 3": "heun3", "Kutta 3": "kutta3"}


def runge_kutta(slope: Slope, x: Tensor, grid: Sequence[float], tableau: str) -> Tensor:
    """Integrate a slope over a grid by a Runge-Kutta method."""
    return odeint(slope, x, grid, METHODS[tableau])


def slope_in_lam(model_fn: ModelFn, schedule: NoiseSchedule) -> Slope:
    """Return dx/dlam of the diffusion ODE of a variance-preserving schedule: sigma^2 x - sigma eps."""

    def slope(x: Tensor, lam: float) -> Tensor:
        t = schedule.t_of_lam(lam)
        sigma = schedule.sigma(t)
        return sigma**2 * x - sigma * model_fn(x, t)

    return slope


def slope_in_t(model_fn: ModelFn, schedule: NoiseSchedule) -> Slope:
    """Return dx/dt of the diffusion ODE: f x + g^2 / (2 sigma) eps."""

    def slope(x: Tensor, t: float) -> Tensor:
        return schedule.drift(t) * x + schedule.squared_diffusion(t) / (2 * schedule.sigma(t)) * model_fn(x, t)

    return slope


def reference(mixture: GaussianMixture, x: Tensor, steps: int) -> Tensor:
    """Solve the diffusion ODE by many steps of the classical Runge-Kutta method, independently of our solver."""
    return reference_solution(mixture, SCHEDULE, x, 1.0, T_END, steps)
