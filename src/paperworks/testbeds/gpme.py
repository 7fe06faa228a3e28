"""The generalised porous medium equation and conservation laws with exact solutions, and functions drawn from them."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import erf
from torch import Tensor

from paperworks.core.validation import check_count, check_number


class FunctionBatch(NamedTuple):
    """Functions seen at some points, and asked for at others.

    Parameters
    ----------
    context_x, context_y
        Points (functions, points, 2), of time and place, and values (functions, points).
    target_x, target_y
        Points that are asked for, and the values there.

    Examples
    --------
    >>> batch = PorousMedium().sample_functions(3, side=4)
    >>> batch.context_x.shape, batch.target_y.shape
    (torch.Size([3, 16, 2]), torch.Size([3, 16]))
    """

    context_x: Tensor
    context_y: Tensor
    target_x: Tensor
    target_y: Tensor


class ConservationProblem(ABC):
    """A family of exact solutions u(t, x), with the integral that each has to keep.

    Parameters
    ----------
    parameters
        Range of the parameter that functions are drawn with.
    domain
        First and last place.
    horizon
        Last time that functions are drawn at.
    judged
        Time at which it is judged.
    """

    parameters: tuple[float, float]
    domain: tuple[float, float] = (0.0, 1.0)
    horizon: float = 1.0
    judged: float

    @abstractmethod
    def solution(self, parameter: float, t: Tensor, x: Tensor) -> Tensor:
        """Return u at times and places.

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.
        x
            Places, of the same shape.

        Returns
        -------
        Tensor
            One value for each time and place.
        """

    @abstractmethod
    def flux(self, parameter: float, u: Tensor, u_x: Tensor) -> Tensor:
        """Return F of the law u_t + F(u, u_x)_x = 0.

        Parameters
        ----------
        parameter
            Which solution of the family.
        u, u_x
            Values of the field and its slopes, of one shape.

        Returns
        -------
        Tensor
            One flux for each value.
        """

    @abstractmethod
    def mass(self, parameter: float, t: Tensor) -> Tensor:
        """Return the integral of u over the domain at times.

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.

        Returns
        -------
        Tensor
            One integral for each time.
        """

    def sample_functions(self, count: int, side: int = 10, generator: torch.Generator | None = None) -> FunctionBatch:
        """Draw functions with random parameters, each seen and asked for at side² points.

        Context times are stratified and context places even at random; targets are a grid of sorted random times and
        places.

        Parameters
        ----------
        count
            Number of functions.
        side
            Times, and places at each.
        generator
            What draws, torch's global generator by default.

        Returns
        -------
        FunctionBatch
            Points and values, in float32.
        """
        check_count("count", count)
        check_count("side", side)
        low, high = self.domain

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, dtype=torch.float64)

        least, greatest = self.parameters
        chosen = least + (greatest - least) * uniform(count)
        strata = (torch.arange(side, dtype=torch.float64) + uniform(count, side)) / side * self.horizon
        context_t = strata[:, :, None].expand(count, side, side)
        context_x = low + (high - low) * uniform(count, side, side)
        target_t = (self.horizon * uniform(count, side)).sort(1).values[:, :, None].expand(count, side, side)
        target_x = (low + (high - low) * uniform(count, side)).sort(1).values[:, None, :].expand(count, side, side)
        sets = []
        for t, x in ((context_t, context_x), (target_t, target_x)):
            values = torch.stack([self.solution(float(p), ti, xi) for p, ti, xi in zip(chosen, t, x, strict=True)])
            sets += [torch.stack([t, x], -1).reshape(count, -1, 2).float(), values.reshape(count, -1).float()]
        return FunctionBatch(*sets)


class Heat(ConservationProblem):
    """u_t = k u_xx on [0, 2 pi] with u = exp(-k t) sin x, whose integral is 0.

    Examples
    --------
    >>> Heat().mass(1.0, torch.tensor(0.5))
    tensor(0.)
    """

    parameters, domain, judged = (1.0, 5.0), (0.0, 2 * math.pi), 0.5

    def solution(self, parameter: float, t: Tensor, x: Tensor) -> Tensor:
        """Return exp(-k t) sin x.

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.
        x
            Places, of the same shape.

        Returns
        -------
        Tensor
            One value for each time and place.
        """
        return torch.exp(-parameter * t) * x.sin()

    def flux(self, parameter: float, u: Tensor, u_x: Tensor) -> Tensor:
        """Return -k u_x.

        Parameters
        ----------
        parameter
            Which solution of the family.
        u, u_x
            Values of the field and its slopes, of one shape.

        Returns
        -------
        Tensor
            One flux for each value.
        """
        return -parameter * u_x

    def mass(self, parameter: float, t: Tensor) -> Tensor:
        """Return zeros.

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.

        Returns
        -------
        Tensor
            One integral for each time.
        """
        return torch.zeros_like(t)


class PorousMedium(ConservationProblem):
    """u_t = (u^m u_x)_x on [0, 1] with u = (m max(t - x, 0))^(1/m), a front that moves at speed 1.

    Examples
    --------
    >>> PorousMedium().solution(1.0, torch.tensor(0.5), torch.tensor([0.0, 0.25, 0.75]))
    tensor([0.5000, 0.2500, 0.0000])
    """

    parameters, judged = (1.0, 6.0), 0.5

    def solution(self, parameter: float, t: Tensor, x: Tensor) -> Tensor:
        """Return (m max(t - x, 0))^(1/m).

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.
        x
            Places, of the same shape.

        Returns
        -------
        Tensor
            One value for each time and place.
        """
        return (parameter * (t - x).clamp_min(0)) ** (1 / parameter)

    def flux(self, parameter: float, u: Tensor, u_x: Tensor) -> Tensor:
        """Return -u^m u_x, of what is above 0 in u.

        Parameters
        ----------
        parameter
            Which solution of the family.
        u, u_x
            Values of the field and its slopes, of one shape.

        Returns
        -------
        Tensor
            One flux for each value.
        """
        return -(u.clamp_min(0) ** parameter) * u_x

    def mass(self, parameter: float, t: Tensor) -> Tensor:
        """Return m^(1 + 1/m) / (m + 1) t^(1 + 1/m).

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.

        Returns
        -------
        Tensor
            One integral for each time.
        """
        return parameter ** (1 + 1 / parameter) / (parameter + 1) * t ** (1 + 1 / parameter)


class Stefan(ConservationProblem):
    """u_t = (k(u) u_x)_x with k = 1 where u >= u* and 0 elsewhere, on [0, 1]: a shock of height u* that melts its way.

    Examples
    --------
    >>> round(Stefan().front(0.5, torch.tensor(0.05)).item(), 6)
    0.2773
    """

    parameters, horizon, judged = (0.55, 0.7), 0.1, 0.05

    def constants(self, parameter: float) -> tuple[float, float]:
        """Return the speed alpha of the front at alpha sqrt(t), and c1.

        Parameters
        ----------
        parameter
            Height u* of the shock, between 0 and 1.

        Returns
        -------
        tuple[float, float]
            alpha = 2 z and c1 = (1 - u*) / erf(z), with u* erf(z) z exp(z²) = (1 - u*) / sqrt(pi).
        """
        u = check_number("parameter", parameter, gt=0, lt=1)
        goal = (1 - u) / math.sqrt(math.pi)
        z = brentq(lambda v: u * erf(v) * v * math.exp(v * v) - goal, 1e-12, 10.0, xtol=1e-15, rtol=1e-14)
        return 2 * z, (1 - u) / float(erf(z))

    def front(self, parameter: float, t: Tensor) -> Tensor:
        """Return where the front is.

        Parameters
        ----------
        parameter
            Height of the shock.
        t
            Times, of any shape.

        Returns
        -------
        Tensor of the shape of `t`
            Places of the front.
        """
        return self.constants(parameter)[0] * t.sqrt()

    def solution(self, parameter: float, t: Tensor, x: Tensor) -> Tensor:
        """Return 1 - c1 erf(x / (2 sqrt t)) up to the front, 0 beyond.

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.
        x
            Places, of the same shape.

        Returns
        -------
        Tensor
            One value for each time and place.
        """
        alpha, c1 = self.constants(parameter)
        root = t.clamp_min(torch.finfo(t.dtype).tiny).sqrt()
        return torch.where(x <= alpha * root, 1 - c1 * torch.erf(x / (2 * root)), 0.0)

    def flux(self, parameter: float, u: Tensor, u_x: Tensor) -> Tensor:
        """Return -u_x where u >= u*, 0 elsewhere.

        Parameters
        ----------
        parameter
            Which solution of the family.
        u, u_x
            Values of the field and its slopes, of one shape.

        Returns
        -------
        Tensor
            One flux for each value.
        """
        return -u_x * (u >= parameter)

    def mass(self, parameter: float, t: Tensor) -> Tensor:
        """Return 2 c1 sqrt(t / pi).

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.

        Returns
        -------
        Tensor
            One integral for each time.
        """
        return 2 * self.constants(parameter)[1] * (t / math.pi).sqrt()


class LinearAdvection(ConservationProblem):
    """u_t + a u_x = 0 on [0, 1]: a step that starts at 1/2 and moves to the right at speed a.

    Examples
    --------
    >>> LinearAdvection().mass(1.0, torch.tensor([0.0, 0.25, 2.0]))
    tensor([0.5000, 0.7500, 1.0000])
    """

    parameters, judged = (1.0, 5.0), 0.1

    def solution(self, parameter: float, t: Tensor, x: Tensor) -> Tensor:
        """Return 1 up to 1/2 + a t, 0 beyond.

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.
        x
            Places, of the same shape.

        Returns
        -------
        Tensor
            One value for each time and place.
        """
        return (x - parameter * t <= 0.5).to(x.dtype)

    def flux(self, parameter: float, u: Tensor, u_x: Tensor) -> Tensor:
        """Return a u.

        Parameters
        ----------
        parameter
            Which solution of the family.
        u, u_x
            Values of the field and its slopes, of one shape.

        Returns
        -------
        Tensor
            One flux for each value.
        """
        return parameter * u

    def mass(self, parameter: float, t: Tensor) -> Tensor:
        """Return 1/2 + min(1/2, a t).

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.

        Returns
        -------
        Tensor
            One integral for each time.
        """
        return 0.5 + (parameter * t).clamp_max(0.5)


class BurgersRiemann(ConservationProblem):
    """u_t + (u²/2)_x = 0 on [-1, 1]: a ramp that steepens to a shock at t = 1/a, which moves at speed a / 2.

    Examples
    --------
    >>> BurgersRiemann().solution(2.0, torch.tensor(0.75), torch.tensor([0.0, 0.25, 0.5]))
    tensor([2., 2., 0.])
    """

    parameters, domain, judged = (1.0, 4.0), (-1.0, 1.0), 0.5

    def solution(self, parameter: float, t: Tensor, x: Tensor) -> Tensor:
        """Return the ramp before t = 1/a, the step after.

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.
        x
            Places, of the same shape.

        Returns
        -------
        Tensor
            One value for each time and place.
        """
        a = parameter
        edge = a * t - 1
        ramp = torch.where(x <= edge, a, torch.where(x <= 0, a * x / torch.where(edge == 0, -1.0, edge), 0.0))
        return torch.where(t < 1 / a, ramp, torch.where(x <= edge / 2, a, 0.0)).to(x.dtype)

    def flux(self, parameter: float, u: Tensor, u_x: Tensor) -> Tensor:
        """Return u² / 2.

        Parameters
        ----------
        parameter
            Which solution of the family.
        u, u_x
            Values of the field and its slopes, of one shape.

        Returns
        -------
        Tensor
            One flux for each value.
        """
        return 0.5 * u * u

    def mass(self, parameter: float, t: Tensor) -> Tensor:
        """Return a (1 + a t) / 2, up to the 2 a of a domain that the shock has left.

        Parameters
        ----------
        parameter
            Which solution of the family.
        t
            Times, of any shape.

        Returns
        -------
        Tensor
            One integral for each time.
        """
        return (0.5 * parameter * (1 + parameter * t)).clamp_max(2 * parameter)


PROBLEMS: dict[str, ConservationProblem] = {
    "heat": Heat(),
    "porous medium": PorousMedium(),
    "Stefan": Stefan(),
    "advection": LinearAdvection(),
    "Burgers": BurgersRiemann(),
}


def on_grid(
    problem: ConservationProblem, parameter: float, n: int = 201
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, ""]]:
    """Return places, the exact solution at the time judged, and its integral, in float64.

    Parameters
    ----------
    problem
        The family of solutions.
    parameter
        Which one of them.
    n
        Number of places.

    Returns
    -------
    tuple of Tensor
        Places and values of shape (n,), and the integral.

    Examples
    --------
    >>> x, u, mass = on_grid(PorousMedium(), 1.0)
    >>> x.shape, round(torch.trapezoid(u, x).item(), 4), round(mass.item(), 4)
    (torch.Size([201]), 0.125, 0.125)
    """
    x = torch.linspace(*problem.domain, n, dtype=torch.float64)
    t = torch.tensor(problem.judged, dtype=torch.float64)
    return x, problem.solution(parameter, t.expand(n), x), problem.mass(parameter, t)
