"""The increments that BDIA combines, for each base sampler: how to begin, to step, and to undo a step."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from paperworks.diffusion.inversion.ddim import ddim_coefficients
from paperworks.diffusion.sampling import combine
from paperworks.diffusion.schedules import NoiseSchedule

Ask = Callable[[Tensor, float], Tensor]
"""From a state and its time to the noise in it."""


class Stepper:
    """One direction of travel: how to begin, to step and, where it can be, to undo a step."""

    def __init__(self, ask: Ask, schedule: NoiseSchedule, gamma: float) -> None:
        self.noise = ask
        self.schedule = schedule
        self.gamma = gamma

    def first(self, z: Tensor, t: float, t_next: float) -> Tensor:
        """Step from the only state there is."""
        raise NotImplementedError

    def increments(self, z: Tensor, t_before: float, t: float, t_next: float) -> tuple[Tensor, Tensor]:
        """Return the increments from `z` forward to `t_next` and back to `t_before`."""
        raise NotImplementedError

    def step(
        self, older: Tensor, z: Tensor, t_before: float, t: float, t_next: float, out: Tensor | None = None
    ) -> Tensor:
        """Step on from `z`, which came from `older`; `out` may be `older`."""
        forward, back = self.increments(z, t_before, t, t_next)
        return combine((self.gamma, 1 - self.gamma, 1.0, -self.gamma), (older, z, forward, back), out=out)

    def undo(
        self, newer: Tensor, z: Tensor, t_before: float, t: float, t_next: float, out: Tensor | None = None
    ) -> Tensor:
        """Find what `step` had as `older` when it made `newer` from `z`; `out` may be `newer`."""
        forward, back = self.increments(z, t_before, t, t_next)
        g = self.gamma
        return combine((1 / g, -(1 - g) / g, -1 / g, 1.0), (newer, z, forward, back), out=out)


class DDIMStepper(Stepper):
    """Both increments are of the form ``a z + b eps``, so the whole step is one combination of three tensors."""

    def first(self, z: Tensor, t: float, t_next: float) -> Tensor:
        return combine(ddim_coefficients(self.schedule, t, t_next), (z, self.noise(z, t)))

    def step(
        self, older: Tensor, z: Tensor, t_before: float, t: float, t_next: float, out: Tensor | None = None
    ) -> Tensor:
        a, b = self._coefficients(t_before, t, t_next)
        return combine((self.gamma, a, b), (older, z, self.noise(z, t)), out=out)

    def undo(
        self, newer: Tensor, z: Tensor, t_before: float, t: float, t_next: float, out: Tensor | None = None
    ) -> Tensor:
        a, b = self._coefficients(t_before, t, t_next)
        g = self.gamma
        return combine((1 / g, -a / g, -b / g), (newer, z, self.noise(z, t)), out=out)

    def _coefficients(self, t_before: float, t: float, t_next: float) -> tuple[float, float]:
        a_next, b_next = ddim_coefficients(self.schedule, t, t_next)
        a_before, b_before = ddim_coefficients(self.schedule, t, t_before)
        return a_next - self.gamma * a_before, b_next - self.gamma * b_before


class HeunStepper(Stepper):
    """Heun's method both ways from the same state, in EDM's time: ``dz/dt`` is the noise."""

    def first(self, z: Tensor, t: float, t_next: float) -> Tensor:
        return z + self._heun(z, self._slope(z, t), t, t_next)

    def increments(self, z: Tensor, t_before: float, t: float, t_next: float) -> tuple[Tensor, Tensor]:
        slope = self._slope(z, t)
        return self._heun(z, slope, t, t_next), self._heun(z, slope, t, t_before)

    def _slope(self, z: Tensor, t: float) -> Tensor:
        # At t = 0 only inversion asks: the slope there is that of the least noise the schedule knows.
        return self.noise(z, t or self.schedule.t_min)

    def _heun(self, z: Tensor, slope: Tensor, t: float, t_to: float) -> Tensor:
        h = t_to - t
        if t_to == 0:
            return h * slope
        return combine((h / 2, h / 2), (slope, self.noise(torch.add(z, slope, alpha=h), t_to)))


class StoredHeunStepper(HeunStepper):
    """Heun's method forward; backward the trapezium of this slope and the stored one of the step before."""

    before: Tensor

    def first(self, z: Tensor, t: float, t_next: float) -> Tensor:
        self.before = self._slope(z, t)
        return z + self._heun(z, self.before, t, t_next)

    def increments(self, z: Tensor, t_before: float, t: float, t_next: float) -> tuple[Tensor, Tensor]:
        slope = self._slope(z, t)
        h = t_before - t
        back = combine((h / 2, h / 2), (slope, self.before))
        self.before = slope
        return self._heun(z, slope, t, t_next), back


class MultistepStepper(Stepper):
    """DPM-Solver++(2M) forward; backward the second-order increment through the same two denoised states."""

    before: tuple[Tensor, float]

    def first(self, z: Tensor, t: float, t_next: float) -> Tensor:
        x0 = self._x0(z, t)
        self.before = (x0, self.schedule.lam(t))
        return combine(self._ratio_and_gain(t, t_next), (z, x0))

    def increments(self, z: Tensor, t_before: float, t: float, t_next: float) -> tuple[Tensor, Tensor]:
        x0, lam = self._x0(z, t), self.schedule.lam(t)
        x0_before, lam_before = self.before
        self.before = (x0, lam)
        # The line through both denoised states, evaluated at the middle of the interval in lam.
        slope = combine((1 / (lam - lam_before), -1 / (lam - lam_before)), (x0, x0_before))
        forward, back = (
            combine((ratio - 1, gain, gain * (self.schedule.lam(t_to) - lam) / 2), (z, x0, slope))
            for t_to in (t_next, t_before)
            for ratio, gain in [self._ratio_and_gain(t, t_to)]
        )
        return forward, back

    def _x0(self, z: Tensor, t: float) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return combine((1 / alpha, -sigma / alpha), (z, self.noise(z, t)))

    def _ratio_and_gain(self, t: float, t_to: float) -> tuple[float, float]:
        ratio = math.exp(self.schedule.log_sigma(t_to) - self.schedule.log_sigma(t))
        return ratio, -self.schedule.alpha(t_to) * math.expm1(self.schedule.lam(t) - self.schedule.lam(t_to))
