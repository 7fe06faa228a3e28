"""The functions of time that an interpolant is made of: the weights of its two ends and the size of its latent.

All are computed in float64 and answer in kind: a number for a number, a tensor for a tensor.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from paperworks.core.validation import check_choice, check_number

Time = float | Tensor
Function = Callable[[Tensor], Tensor]
GammaName = Literal["brownian", "quadratic", "sin2", "sigmoid", "zero"]
PathName = Literal["linear", "trig", "encdec", "one_sided_linear", "one_sided_trig", "one_sided_vp", "mirror"]


def at(function: Function, t: Time) -> Time:
    """Evaluate a function of float64 tensors at `t`, and answer in the kind of `t`."""
    if isinstance(t, Tensor):
        return function(t.double()).to(t.dtype)
    return float(function(torch.tensor(t, dtype=torch.float64)))


def derivative(function: Function) -> Function:
    """Return the derivative of an element-wise function, by forward differentiation."""

    def dot(t: Tensor) -> Tensor:
        return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]

    return dot


def check_time(t: Time) -> Time:
    """Return `t` if all of it lies in [0, 1], else raise ValueError."""
    if isinstance(t, Tensor):
        if t.numel() and not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(f"t spans {t.min().item():g} to {t.max().item():g}; it takes times in [0, 1]")
    else:
        check_number("t", t, ge=0, le=1)
    return t


@dataclass(frozen=True)
class Gamma:
    """The size gamma(t) of the Gaussian latent, with its derivative and their product.

    The derivative of a square root is infinite at the ends, the product ``gamma gamma'`` is not: it's what the
    fields are made of.

    Parameters
    ----------
    value
        gamma(t), a function of float64 tensors.
    dot
        Its derivative; by automatic differentiation where it isn't given.
    times_dot
        ``gamma gamma'``; the product of the two where it isn't given.
    is_zero
        Whether gamma is 0 throughout, so that there is no latent.

    Examples
    --------
    >>> gamma = Gamma.named("brownian")
    >>> torch.tensor([0.0, 1.0]).sign(), gamma.times_dot(torch.tensor([0.0, 1.0]))
    (tensor([0., 1.]), tensor([ 0.5000, -0.5000]))
    >>> Gamma.of_square(lambda t: t * (1 - t)).times_dot(torch.zeros(1))
    tensor([0.5000])
    """

    value: Function
    dot: Function | None = None
    times_dot: Function | None = None
    is_zero: bool = False

    def __post_init__(self) -> None:
        if self.dot is None:
            object.__setattr__(self, "dot", derivative(self.value))
        if self.times_dot is None:
            dot: Function = self.dot  # type: ignore[assignment]
            object.__setattr__(self, "times_dot", lambda t: self.value(t) * dot(t))

    @classmethod
    def of_square(cls, square: Function, square_dot: Function | None = None) -> "Gamma":
        """Make gamma from its square, which keeps ``gamma gamma'`` exact where gamma is 0 with infinite slope.

        Parameters
        ----------
        square
            Maps times to ``gamma^2``.
        square_dot
            Derivative of `square`, by default found by differentiation.

        Returns
        -------
        Gamma
            The size of the latent, with the product of both.
        """
        slope = derivative(square) if square_dot is None else square_dot
        return cls(
            lambda t: square(t).clamp(min=0).sqrt(),
            lambda t: slope(t) / (2 * square(t).clamp(min=0).sqrt()),
            lambda t: slope(t) / 2,
        )

    @classmethod
    def named(cls, name: GammaName, a: float = 1.0, f: float = 10.0) -> "Gamma":
        """Make one of the paper's: ``brownian`` sqrt(a t (1-t)), ``quadratic`` t(1-t), ``sin2``, ``sigmoid``, ``zero``.

        `a` is the variance of the Brownian bridge, `f` the steepness of the sigmoids.

        Parameters
        ----------
        name
            One of the five names above.
        a
            Variance of the Brownian bridge.
        f
            Steepness of the sigmoids.

        Returns
        -------
        Gamma
            The size of the latent, with exact derivatives.

        Raises
        ------
        ValueError
            Where the name is unknown, or `a` or `f` isn't positive.
        """
        check_choice("gamma", name, get_args(GammaName))
        check_number("a", a, gt=0)
        check_number("f", f, gt=0)
        if name == "brownian":
            return cls.of_square(lambda t: a * t * (1 - t), lambda t: a * (1 - 2 * t))
        if name == "quadratic":
            return cls(lambda t: t * (1 - t), lambda t: 1 - 2 * t)
        if name == "sin2":
            return cls(lambda t: torch.sin(math.pi * t) ** 2, lambda t: math.pi * torch.sin(2 * math.pi * t))
        if name == "sigmoid":
            return _sigmoid(f)
        return cls(torch.zeros_like, torch.zeros_like, torch.zeros_like, is_zero=True)


def _sigmoid(f: float) -> Gamma:
    def value(t: Tensor) -> Tensor:
        u, half = f * (t - 0.5), torch.tensor(f / 2, dtype=t.dtype, device=t.device)
        end = torch.sigmoid(1 - half) - torch.sigmoid(-1 - half)
        return torch.sigmoid(u + 1) - torch.sigmoid(u - 1) - end

    def dot(t: Tensor) -> Tensor:
        rise, fall = torch.sigmoid(f * (t - 0.5) + 1), torch.sigmoid(f * (t - 0.5) - 1)
        return f * (rise * (1 - rise) - fall * (1 - fall))

    return Gamma(value, dot)


@dataclass(frozen=True)
class Path:
    """How the two ends are mixed, without the latent: ``alpha(t) x0 + beta(t) x1``, or any function of (t, x0, x1).

    Parameters
    ----------
    alpha, beta
        Weights, functions of float64 tensors, with ``alpha(0) = beta(1) = 1`` and ``alpha(1) = beta(0) = 0``.
    alpha_dot, beta_dot
        Their derivatives; by automatic differentiation where they aren't given.
    one_sided
        The base is a standard Gaussian and plays the part of the latent: x_t = alpha z + beta x1.
    mean
        In place of the weights, ``mean(t, x0, x1)`` with ``mean(0) = x0`` and ``mean(1) = x1``, differentiable in `t`,
        which comes with as many dimensions as the samples; one-sided, ``mean(t, x1)`` beside `alpha`.
    mean_dot
        Its derivative in `t`, a function of the same; by automatic differentiation where it isn't given.

    Raises
    ------
    ValueError
        Where neither weights nor `mean` are given, or the weights have the wrong ends.

    Examples
    --------
    >>> Path(alpha=lambda t: (1 - t) ** 2, beta=lambda t: t**2).alpha_dot(torch.tensor([0.5]))
    tensor([-1.])
    """

    alpha: Function | None = None
    beta: Function | None = None
    alpha_dot: Function | None = None
    beta_dot: Function | None = None
    one_sided: bool = False
    mean: Callable[..., Tensor] | None = None
    mean_dot: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        if self.mean is not None:
            if self.beta is not None or (self.alpha is not None) != self.one_sided:
                raise ValueError("mean comes with no beta, and with alpha where the path is one-sided, and only there")
        elif self.alpha is None or self.beta is None:
            raise ValueError("alpha or beta is missing; a path takes both, or mean")
        for name, ends in (("alpha", (1.0, 0.0)), ("beta", (0.0, 1.0))):
            function = getattr(self, name)
            if function is None:
                continue
            got = tuple(float(at(function, end)) for end in (0.0, 1.0))
            if max(abs(g - e) for g, e in zip(got, ends, strict=True)) > 1e-6:
                raise ValueError(f"{name} goes from {got[0]:g} to {got[1]:g}; it takes {ends[0]:g} to {ends[1]:g}")
            if getattr(self, f"{name}_dot") is None:
                object.__setattr__(self, f"{name}_dot", derivative(function))


def _quarter(weight: Function, slope: Function, gamma: Gamma) -> tuple[Function, Function]:
    """Return sqrt(1 - gamma^2) times a quarter wave of slope pi/2, and the derivative."""

    def value(t: Tensor) -> Tensor:
        return (1 - gamma.value(t) ** 2).sqrt() * weight(math.pi / 2 * t)

    def dot(t: Tensor) -> Tensor:
        rest = (1 - gamma.value(t) ** 2).sqrt()
        half = math.pi / 2 * t
        return -gamma.times_dot(t) / rest * weight(half) + math.pi / 2 * rest * slope(half)  # type: ignore[misc]

    return value, dot


def named_path(name: PathName, gamma: Gamma) -> Path:
    """Make one of the paper's paths; `gamma` matters to ``trig`` alone, whose weights keep the variance."""
    check_choice("path", name, get_args(PathName))
    still = Gamma.named("zero")
    if name == "trig":
        times = torch.linspace(0, 1, 2001, dtype=torch.float64)
        if (peak := float(gamma.value(times).max())) >= 1:
            raise ValueError(f"gamma reaches {peak:g}; path 'trig' takes one below 1")
    else:
        gamma = still

    def falling_sine(x: Tensor) -> Tensor:
        return -torch.sin(x)

    if name in ("trig", "one_sided_trig"):
        alpha, alpha_dot = _quarter(torch.cos, falling_sine, gamma)
        beta, beta_dot = _quarter(torch.sin, torch.cos, gamma)
        return Path(alpha, beta, alpha_dot, beta_dot, one_sided=name == "one_sided_trig")
    if name == "encdec":
        return Path(
            lambda t: torch.cos(math.pi * t) ** 2 * (t < 0.5),
            lambda t: torch.cos(math.pi * t) ** 2 * (t > 0.5),
            lambda t: -math.pi * torch.sin(2 * math.pi * t) * (t < 0.5),
            lambda t: -math.pi * torch.sin(2 * math.pi * t) * (t > 0.5),
        )
    if name == "one_sided_vp":
        return Path(
            lambda t: ((1 - t) * (1 + t)).sqrt(),
            lambda t: t,
            lambda t: -t / ((1 - t) * (1 + t)).sqrt(),
            torch.ones_like,
            one_sided=True,
        )
    return Path(
        lambda t: 1 - t, lambda t: t, lambda t: -torch.ones_like(t), torch.ones_like, one_sided=name != "linear"
    )


def latent_of(path: Path, name: str) -> Gamma:
    """Return alpha of a one-sided path as the size of the latent, with a finite ``alpha alpha'``."""
    if name == "one_sided_vp":
        return Gamma.of_square(lambda t: (1 - t) * (1 + t), lambda t: -2 * t)
    return Gamma(path.alpha, path.alpha_dot)  # type: ignore[arg-type]
