"""The probability-flow ODE of a diffusion model, its variables, and the pull-back of one evaluation.

Along any variable ``s`` the ODE reads ``dy/ds = linear y + gain eps(scale y, t)`` with numbers `linear`, `gain` and
`scale` that depend on ``s`` alone, so only the network needs automatic differentiation.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from paperworks.diffusion.schedules import NoiseSchedule

AdjointVariable = Literal["rho", "t"]
"""What is integrated in: `rho`, noise over signal, or the time `t`."""
Gradients = Sequence[Tensor | None]


class Place(NamedTuple):
    """The numbers of the ODE at one place: the time, and the coefficients named in the module's docstring."""

    t: float
    scale: float
    linear: float
    gain: float


class Variable(ABC):
    """What the ODE is integrated in, and the state that goes with it."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    @abstractmethod
    def of_time(self, t: float) -> float:
        """Value of the variable at a time."""

    @abstractmethod
    def place(self, s: float) -> Place:
        """Numbers of the ODE where the variable is `s`."""


class Rho(Variable):
    """``rho = sigma / alpha`` with the state ``y = x / alpha``, in which ``dy/drho = eps(alpha y, t)``.

    The paper's own pair, ``alpha_T y`` and ``alpha_T rho - sigma_T``, is the same up to constants, which no explicit
    solver notices.
    """

    def of_time(self, t: float) -> float:
        """Return rho at a time."""
        return math.exp(-self.schedule.lam(t))

    def place(self, s: float) -> Place:
        """Return the numbers of the ODE at rho."""
        t = self.schedule.t_of_lam(-math.log(s))
        return Place(t, self.schedule.alpha(t), 0.0, 1.0)


class Time(Variable):
    """The time itself with the state x: ``dx/dt = f x + g^2 / (2 sigma) eps(x, t)``, without a change of variables."""

    def of_time(self, t: float) -> float:
        """Return the time."""
        return t

    def place(self, s: float) -> Place:
        """Return the numbers of the ODE at a time."""
        return Place(s, 1.0, self.schedule.drift(s), 0.5 * self.schedule.squared_diffusion(s) / self.schedule.sigma(s))


VARIABLES: dict[str, type[Variable]] = {"rho": Rho, "t": Time}


class Flow:
    """The right-hand side of the ODE for a model under one condition; counts its evaluations in `nfe`."""

    def __init__(self, model_fn: Callable[..., Any], variable: Variable, condition: Any) -> None:
        self.model_fn = model_fn
        self.variable = variable
        self.condition = condition
        self.nfe = 0
        self.known: Tensor | None = None  # what the model answers where the solution starts, if it was asked before

    def noise(self, x: Tensor, t: float) -> Tensor:
        """Evaluate the model."""
        if self.known is not None:
            noise, self.known = self.known, None
            return noise
        self.nfe += 1
        if self.condition is None:
            noise = self.model_fn(x, t)
        elif isinstance(self.condition, Tensor):
            noise = self.model_fn(x, t, self.condition)
        else:
            noise = self.model_fn(x, t, **self.condition)
        if not isinstance(noise, Tensor) or noise.shape != x.shape:
            got = f"shape {tuple(noise.shape)}" if isinstance(noise, Tensor) else f"a {type(noise).__name__}"
            raise ValueError(f"model_fn returned {got}; it takes that of x, {tuple(x.shape)}")
        return noise.to(x.dtype)

    def slope(self, y: Tensor, s: float) -> Tensor:
        """Return dy/ds."""
        place = self.variable.place(s)
        return _slope(place, y, self.noise(_scaled(y, place.scale), place.t))

    def linearised(self, y: Tensor, s: float) -> "Linearised":
        """Evaluate dy/ds and keep the graph of the evaluation, to pull back through it once."""
        place = self.variable.place(s)
        with torch.enable_grad():
            x = _scaled(y, place.scale).detach().requires_grad_()
            noise = self.noise(x, place.t)
        return Linearised(place, x, noise, _slope(place, y, noise.detach()))


class Linearised(NamedTuple):
    """One evaluation with its graph."""

    place: Place
    x: Tensor
    noise: Tensor
    slope: Tensor

    def pull(self, cotangent: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Gradients]:
        """Return the products of a cotangent of dy/ds with its Jacobians in y and in each of `targets`.

        The graph is used up.
        """
        place = self.place
        if not self.noise.requires_grad:  # the model depends on nothing that is differentiated
            return cotangent * place.linear, [None] * len(targets)
        by_x, *others = torch.autograd.grad(
            self.noise, (self.x, *targets), _scaled(cotangent, place.gain), allow_unused=True
        )
        if by_x is None:
            return cotangent * place.linear, others
        by_y = by_x * place.scale
        return (by_y.add_(cotangent, alpha=place.linear) if place.linear else by_y), others


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor


def _slope(place: Place, y: Tensor, noise: Tensor) -> Tensor:
    if place.linear:
        return torch.add(y * place.linear, noise, alpha=place.gain)
    return _scaled(noise, place.gain)
