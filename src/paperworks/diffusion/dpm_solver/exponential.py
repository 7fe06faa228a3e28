"""The exponential integrator behind every variant: one update, written for one step or for a whole grid at once.

With half the log signal-to-noise ratio ``lam`` as time the diffusion ODE is solved exactly but for an integral of the
network ``m`` against an exponential. Over a step ``h`` of ``lam`` from s to t, and with a polynomial in place of
``m``, that integral is

    x_t = ratio x_s + gain h (phi_1(z) m + phi_2(z) D_1 + phi_3(z) D_2),    D_k = h^k d^k m / d lam^k at s,

where for a noise network ratio = alpha_t/alpha_s, gain = -sigma_t and z = h, for a data network
ratio = sigma_t/sigma_s, gain = alpha_t and z = -h (arXiv 2206.00927, equation 3.7; 2211.01095, equation 9).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.diffusion.schedules import NoiseSchedule

AlgorithmType = Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"]
"""What is integrated: the predicted noise or (`++`) the predicted data, of the ODE or (`sde-`) of the SDE."""
SolverType = Literal["dpmsolver", "taylor"]

# For |z| < 1 what follows z^18/21! is below the rounding of float64.
_POWERS = torch.arange(19)
_INVERSE_FACTORIALS = torch.tensor([1 / math.factorial(k + 3) for k in range(19)], dtype=torch.float64)


@dataclass(frozen=True)
class Level:
    """Noise levels on a grid, as float64 tensors of one shape."""

    log_alpha: Float[Tensor, "..."]
    log_sigma: Float[Tensor, "..."]

    @classmethod
    def at_time(cls, schedule: NoiseSchedule, t: Float[Tensor, "..."]) -> "Level":
        """Return the levels of a schedule at the times `t`."""
        return cls(schedule.log_alpha(t), schedule.log_sigma(t))

    @property
    def lam(self) -> Tensor:
        """Half the log signal-to-noise ratio."""
        return self.log_alpha - self.log_sigma

    def __getitem__(self, index: int | slice) -> "Level":
        return Level(self.log_alpha[index], self.log_sigma[index])


@dataclass(frozen=True)
class Form:
    """Which network the integral is taken of, and whether the solved equation is the ODE or the reverse SDE."""

    data: bool
    sde: bool

    @classmethod
    def of(cls, algorithm_type: AlgorithmType) -> "Form":
        """Return the form behind the name of an algorithm."""
        return cls(data=algorithm_type.endswith("++"), sde=algorithm_type.startswith("sde"))

    def update(
        self,
        s: Level,
        t: Level,
        offsets: Sequence[float | Tensor] = (),
        rule: Literal["taylor", "midpoint", "outer", "legacy"] = "taylor",
    ) -> list[Tensor]:
        """Return the coefficients of one update from `s` to `t`.

        Parameters
        ----------
        s, t
            Levels that the update leaves and reaches.
        offsets
            Where the network is known besides at s: none, one or two positions in ``lam``, measured from s in
            units of the step (positive inside the step, negative before it). Their number is the order less one.
        rule
            How values become ``D_1`` and ``D_2``: ``taylor`` differentiates the polynomial through all of them;
            ``midpoint`` puts phi_1/2 for phi_2 (second order); ``outer`` takes ``D_1`` of the last offset and drops
            ``D_2`` (third order if that is 2/3); ``legacy`` halves ``D_2``, as several third-order multistep
            implementations do, and so loses an order.

        Returns
        -------
        list
            Coefficients of x_s, of the value at s, and of the values at the offsets.
        """
        h = t.lam - s.lam
        z = h if not self.data else -h
        ratio = torch.exp(t.log_sigma - s.log_sigma if self.data else t.log_alpha - s.log_alpha)
        gain = torch.exp(t.log_alpha) if self.data else -torch.exp(t.log_sigma)
        if self.sde:  # the score drives twice as hard, and half of it answers the noise
            gain = 2 * gain
            if self.data:
                z, ratio = 2 * z, ratio * torch.exp(-h)
        phi_1, phi_2, phi_3 = phi_functions(z)
        if rule == "midpoint":
            phi_2 = 0.5 * phi_1
        if rule == "legacy":
            phi_3 = 0.5 * phi_3
        first, second = _derivatives(offsets[-1:] if rule == "outer" else offsets)
        weights = [
            gain * h * (phi_1 * (j == 0) + phi_2 * d_1 + phi_3 * d_2)
            for j, (d_1, d_2) in enumerate(zip(first, second, strict=True))
        ]
        if rule == "outer":
            weights.insert(1, torch.zeros_like(h))
        return [ratio, *weights]

    def noise(self, s: Level, t: Level) -> Tensor:
        """Return the factor of the normal noise that the SDE adds in a step."""
        h = t.lam - s.lam
        growth = -torch.expm1(-2 * h) if self.data else torch.expm1(2 * h)
        return torch.exp(t.log_sigma) * growth.sqrt()


def _derivatives(offsets: Sequence[float | Tensor]) -> tuple[list[float | Tensor], list[float | Tensor]]:
    """Weights of the values at 0 and at the offsets in the first and second derivative at 0 of their polynomial."""
    if len(offsets) == 0:
        return [0.0], [0.0]
    if len(offsets) == 1:
        (a,) = offsets
        return [-1 / a, 1 / a], [0.0, 0.0]
    a, b = offsets
    first = [-(a + b) / (a * b), b / (a * (b - a)), -a / (b * (b - a))]
    second = [2 / (a * b), -2 / (a * (b - a)), 2 / (b * (b - a))]
    return first, second


def phi_functions(z: Float[Tensor, "..."]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``phi_1 = (e^z - 1)/z``, ``phi_2 = (phi_1 - 1)/z`` and ``phi_3 = (phi_2 - 1/2)/z``, accurate near 0.

    Examples
    --------
    >>> [round(float(phi), 6) for phi in phi_functions(torch.zeros((), dtype=torch.float64))]
    [1.0, 0.5, 0.166667]
    """
    small = z.abs() < 1
    inner = torch.where(small, z, 0.0)
    # phi_3 = 1/3! + z/4! + z^2/5! + …, and the lower ones follow without cancellation.
    series_3 = inner[..., None] ** _POWERS.to(z.device) @ _INVERSE_FACTORIALS.to(z)
    series_2 = inner * series_3 + 0.5
    outer = torch.where(small, 1.0, z)
    direct_1 = torch.expm1(outer) / outer
    direct_2 = (direct_1 - 1) / outer
    return (
        torch.where(small, inner * series_2 + 1, direct_1),
        torch.where(small, series_2, direct_2),
        torch.where(small, series_3, (direct_2 - 0.5) / outer),
    )
