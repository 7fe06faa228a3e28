"""Residuals of one step of a discretised equation on a fine grid: the losses that need no labels."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number

Fields = Float[Tensor, "..."]  # (..., channels, *grid)
States = Float[Tensor, "..."]  # (..., times, channels, *grid)
Modes = Complex[Tensor, "..."]
Scheme = Literal["exponential", "theta"]
Derivatives = Literal["spectral", "central"]


class Waves:
    r"""Factors by which derivatives multiply the Fourier modes of a periodic grid.

    Parameters
    ----------
    points
        Points along each axis: a number for one dimension, or one for each.
    length
        Sides of the box: one number for all axes, or one for each.
    derivatives
        "spectral" for :math:`i k` and :math:`-k^2`, or "central" for those of central differences,
        :math:`i \sin(k h) / h` and :math:`-(2 \sin(k h / 2) / h)^2`.

    Attributes
    ----------
    shape, sides, spacing
        Points, sides and spacings of the axes.
    first
        For each axis the factor of its first derivative.
    laplacian
        The factor of the Laplacian.
    kept
        1 for modes below two thirds of the highest, whose products have no alias among them, else 0; with central
        differences 1 for all, as is their use.
    shift
        For each axis the factor of a shift by one point, :math:`e^{i k h}`.
    """

    def __init__(
        self, points: int | Sequence[int], length: float | Sequence[float] = 1.0, derivatives: Derivatives = "spectral"
    ) -> None:
        axes = list(points) if isinstance(points, Iterable) else [points]
        self.shape = tuple(check_count("points", n, at_least=4) for n in axes)
        self.dims = check_count("number of axes", len(axes), at_most=3)
        sides = list(length) if isinstance(length, list | tuple) else [length] * self.dims
        if len(sides) != self.dims:
            raise ValueError(f"length has {len(sides)} sides; it takes one number, or one for each of {self.dims} axes")
        self.sides = tuple(check_number("length", side, gt=0) for side in sides)
        self.spacing = tuple(side / n for side, n in zip(self.sides, self.shape, strict=True))
        central = check_choice("derivatives", derivatives, ("spectral", "central")) == "central"
        self.first: list[Tensor] = []
        self.shift: list[Tensor] = []
        second, kept = [], []
        for axis, (n, h) in enumerate(zip(self.shape, self.spacing, strict=True)):
            count = (torch.fft.rfftfreq if axis == self.dims - 1 else torch.fft.fftfreq)(n, 1 / n, dtype=torch.float64)
            count = count.reshape(*[-1 if a == axis else 1 for a in range(self.dims)])
            phase = 2 * math.pi * count / n
            wave = phase.sin() / h if central else phase / h
            self.first.append(1j * torch.where(count.abs() * 2 == n, 0, wave))
            self.shift.append(torch.polar(torch.ones_like(phase), phase))
            second.append(-((2 * (phase / 2).sin() / h) ** 2) if central else -((phase / h) ** 2))
            kept.append(torch.full_like(count, 1) if central else (count.abs() * 3 < n).double())
        self.laplacian = torch.stack(torch.broadcast_tensors(*second)).sum(0)
        self.kept = torch.stack(torch.broadcast_tensors(*kept)).prod(0)

    def modes(self, fields: Float[Tensor, "..."]) -> Modes:
        """Transform fields, whose last axes are the grid, to modes."""
        return torch.fft.rfftn(fields, dim=tuple(range(-self.dims, 0)))

    def real(self, modes: Modes) -> Float[Tensor, "..."]:
        """Transform modes to fields."""
        return torch.fft.irfftn(modes, s=self.shape, dim=tuple(range(-self.dims, 0)))


class PhysicsResidual(ABC):
    r"""The residual of one step of :math:`u_t = L u + n(u)` on a fine grid, for training without labels.

    With :math:`E = e^{L \Delta t}` the default is the trapezoid of the integrating factor,

    .. math:: R = u^1 - E u^0 - \tfrac{\Delta t}{2} (E\, n(u^0) + n(u^1)),

    and "theta" is :math:`R = u^1 - u^0 - \Delta t [\theta N(u^1) + (1 - \theta) N(u^0)]`, where :math:`N(u) = L u +
    n(u)`. Neither is divided by the step, so that the loss has one size for all steps. The first damps waves of the
    grid's size however stiff L is; the second maps them to nearly their negative, and weighs them most.

    Parameters
    ----------
    waves
        The grid and the factors of its derivatives.
    dt
        Time of a fine step.
    symbol
        Factors by which L multiplies modes.
    scheme
        "exponential" for the integrating factor, or "theta".
    theta
        Share of the new state of "theta": 1/2 by default, Crank and Nicolson's; 1 is the implicit Euler step.

    Attributes
    ----------
    channels
        Channels of the fields.
    points
        Points of the grid along each axis.
    dt
        Time of a fine step.

    Raises
    ------
    ValueError
        For a step that isn't positive, an unknown scheme, or a share outside [0, 1].

    References
    ----------
    Huang and others, arXiv:2302.10255, the loss on the discretised equation; Cox and Matthews (2002) for integrating
    factors, which this library takes instead of the paper's theta scheme.
    """

    channels = 1

    def __init__(
        self, waves: Waves, dt: float, symbol: Tensor, scheme: Scheme = "exponential", theta: float = 0.5
    ) -> None:
        self.waves, self.dt = waves, check_number("dt", dt, gt=0)
        self.points = waves.shape
        share = check_number("theta", theta, ge=0, le=1)
        if check_choice("scheme", scheme, ("exponential", "theta")) == "exponential":
            new, old = torch.ones_like(symbol), (self.dt * symbol).exp()
            new_n, old_n, first_n = torch.full_like(old, 0.5), old / 2, old
        else:
            new, old = 1 - share * self.dt * symbol, 1 + (1 - share) * self.dt * symbol
            new_n, old_n = torch.full_like(old, share), torch.full_like(old, 1 - share)
            first_n = torch.ones_like(old)
        # Of modes: R = new u1 - old u0 - new_n n(u1) - old_n n(u0).
        self._constants = {"new": new, "old": old, "new_n": self.dt * new_n, "old_n": self.dt * old_n}
        self._constants["first_n"] = self.dt * first_n  # of Euler's step, damped as the linear part damps
        self._cast: dict[Any, SimpleNamespace] = {}

    @abstractmethod
    def nonlinear(self, modes: Modes, constants: SimpleNamespace) -> Modes | None:
        """Return n(u) of modes, or None for an equation that is linear.

        Parameters
        ----------
        modes
            Modes of fields, (..., channels, *modes).
        constants
            What the equation registered, in the dtype and on the device of the modes.

        Returns
        -------
        Tensor or None
            Modes of n(u).
        """

    def __call__(self, u0: Fields, u1: Fields) -> Fields:
        """Return the residual of a step.

        Parameters
        ----------
        u0, u1
            States before and after a fine step, (..., channels, *grid).

        Returns
        -------
        Tensor
            Of the same shape; 0 where the step solves the discretised equation.

        Raises
        ------
        ValueError
            For fields of two shapes, or on another grid.
        TypeError
            For fields that aren't of single or double precision.
        """
        if u0.shape != u1.shape:
            raise ValueError(f"u1 has shape {tuple(u1.shape)}; it takes {tuple(u0.shape)}, as u0 has")
        axis = -1 - len(self.points)
        return self.along(torch.stack([u0, u1], axis - 1)).squeeze(axis - 1)

    def along(self, states: States) -> States:
        """Return the residuals of all steps of a sequence, each state's n(u) computed once.

        Parameters
        ----------
        states
            Consecutive states, (..., times, channels, *grid).

        Returns
        -------
        Tensor
            (..., times - 1, channels, *grid).

        Raises
        ------
        ValueError
            For states on another grid, or fewer than two of them.
        """
        self._check("states", states, 2)
        axis = -2 - len(self.points)
        modes, c = self.waves.modes(self._extended(states)), self._like(states)
        count = modes.shape[axis]
        if count < 2:
            raise ValueError(f"states has {count} time; it takes two or more")
        found = c.new * modes.narrow(axis, 1, count - 1) - c.old * modes.narrow(axis, 0, count - 1)
        n = self.nonlinear(modes, c)
        if n is not None:
            n = n.expand_as(modes)
            found = found - c.new_n * n.narrow(axis, 1, count - 1) - c.old_n * n.narrow(axis, 0, count - 1)
        return self._inner(self.waves.real(found))

    def solve(self, u0: Fields, steps: int, corrections: int = 1) -> States:
        """Step forward by Euler's step and corrections towards the residual's root: a numerical solver, with gradients.

        Parameters
        ----------
        u0
            States at the start, (..., channels, *grid).
        steps
            Number of fine steps.
        corrections
            Evaluations of n(u) in each step after the first one. With 1, the default, steps are of second order; more
            come nearer to the residual's root, where the step is short enough for them to converge.

        Returns
        -------
        Tensor
            The states after `u0`, (..., steps, channels, *grid).

        Raises
        ------
        ValueError
            For a field on another grid, or a count below 1.
        FloatingPointError
            Where the last state is NaN or infinite: the step is too long.

        Examples
        --------
        >>> from paperworks.operators import Heat
        >>> x = torch.arange(16) / 16
        >>> wave = (2 * torch.pi * x).sin()[None]
        >>> heat = Heat(16, dt=0.01, diffusivity=0.1)
        >>> round(float(heat.solve(wave, 10)[-1].max()), 4)  # exp(-0.1 (2 pi)^2 0.1)
        0.6738
        """
        self._check("u0", u0, 1)
        check_count("corrections", corrections)
        modes, c = self.waves.modes(self._extended(u0)), self._like(u0)
        states = []
        for _ in range(check_count("steps", steps)):
            before = self.nonlinear(modes, c)
            old = c.old * modes
            if before is None:
                modes = old / c.new
            else:
                guess = (old + c.first_n * before) / c.new
                for _ in range(corrections):
                    again = self.nonlinear(guess, c)
                    guess = (old + c.old_n * before + c.new_n * again) / c.new
                modes = guess
            states.append(self._inner(self.waves.real(modes)))
        if not torch.isfinite(states[-1]).all():
            raise FloatingPointError(f"state {steps} is NaN or infinite; lower dt ({self.dt:g})")
        return torch.stack(states, -2 - len(self.points))

    def _register(self, **constants: Tensor) -> None:
        self._constants |= constants

    def _like(self, u: Tensor) -> SimpleNamespace:
        """Return the constants in the dtype and on the device of fields."""
        key = (u.dtype, u.device)
        if key not in self._cast:
            with torch.inference_mode(False):  # they are kept, for calls that need gradients too
                self._cast[key] = SimpleNamespace(
                    **{
                        name: value.to(u.device, u.dtype.to_complex() if value.is_complex() else u.dtype)
                        for name, value in self._constants.items()
                    }
                )
        return self._cast[key]

    def _check(self, name: str, u: Tensor, leading: int) -> None:
        dims = len(self.points)
        shape = tuple(u.shape)
        if u.ndim < dims + leading or shape[-dims:] != self.points or shape[-dims - 1] != self.channels:
            grid = ", ".join(map(str, self.points))
            times = "times, " if leading == 2 else ""
            raise ValueError(f"{name} has shape {shape}; it takes (..., {times}{self.channels}, {grid})")
        if u.dtype not in (torch.float32, torch.float64):  # others have no Fourier transform on processors
            raise TypeError(f"{name} is {u.dtype}; it takes torch.float32 or torch.float64")

    def _extended(self, u: Tensor) -> Tensor:
        return u

    def _inner(self, u: Tensor) -> Tensor:
        return u
