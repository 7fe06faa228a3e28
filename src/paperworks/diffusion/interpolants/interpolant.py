"""The interpolant: a process x_t = I(t, x0, x1) + gamma(t) z between samples of two densities."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.diffusion.interpolants.paths import (
    Gamma,
    GammaName,
    Path,
    PathName,
    Time,
    at,
    check_time,
    latent_of,
    named_path,
)
from paperworks.diffusion.sampling import noise_like, per_sample

_NO_GAMMA = "a one-sided path has its Gaussian base for a latent; gamma is left out"


class Interpolant:
    r"""A stochastic interpolant ``x_t = I(t, x0, x1) + gamma(t) z`` with z ~ N(0, 1), from x0 at t = 0 to x1 at t = 1.

    Two-sided: ``I = alpha x0 + beta x1`` between any two densities. One-sided: the base is N(0, 1) and is the latent,
    ``x_t = alpha z + beta x1``. Mirror: both ends have the law of x1, ``x_t = x1 + gamma z``.
    Source: arXiv 2303.08797, sections 2.1, 3 and 4.

    Parameters
    ----------
    path
        ``linear`` (1-t, t), ``trig`` (quarter waves that keep the variance), ``encdec`` (pure noise at t = 1/2),
        ``one_sided_linear``, ``one_sided_trig``, ``one_sided_vp`` (sqrt(1-t^2), t), ``mirror``, or a `Path`.
    gamma
        ``brownian`` sqrt(a t(1-t)), ``quadratic`` t(1-t), ``sin2``, ``sigmoid``, ``zero``, or a `Gamma`. By default
        ``sin2`` for ``encdec``, none for one-sided paths and ``brownian`` for the others.
    a, f
        Variance of the Brownian bridge (default 1) and steepness of the sigmoids (default 10).
    gaussian_base
        Whether the base density is N(0, 1), which one-sided paths require.

    Raises
    ------
    ValueError
        Where a name is unknown, a one-sided path is given a gamma or a base that isn't Gaussian, gamma isn't 0 at
        both ends, or ``trig`` a gamma that reaches 1.

    Examples
    --------
    >>> interpolant = Interpolant("linear", gamma="brownian")
    >>> interpolant.alpha(0.25), interpolant.beta(0.25), interpolant.gamma_times_dot(0.0)
    (0.75, 0.25, 0.5)
    >>> x0, x1, t = torch.zeros(4, 2), torch.ones(4, 2), torch.tensor([0.0, 0.5, 0.9, 1.0])
    >>> x_t, z = interpolant.sample(x0, x1, t, generator=torch.Generator().manual_seed(0))
    >>> bool((x_t[0] == 0).all() and (x_t[-1] == 1).all())
    True
    """

    def __init__(
        self,
        path: PathName | Path = "linear",
        gamma: GammaName | Gamma | None = None,
        *,
        a: float = 1.0,
        f: float = 10.0,
        gaussian_base: bool | None = None,
    ) -> None:
        self._made_of: tuple[Any, Any, dict[str, Any]] = (path, gamma, {"a": a, "f": f, "gaussian_base": gaussian_base})
        name = path if isinstance(path, str) else ""
        if (isinstance(path, Path) and path.one_sided) or name.startswith("one_sided"):
            if gamma is not None:
                raise ValueError(f"gamma is {gamma!r}; {_NO_GAMMA}")
            if gaussian_base is False:
                raise ValueError("gaussian_base is False; a one-sided path takes a Gaussian base")
        if gamma is None:
            gamma = "sin2" if name == "encdec" else "brownian"
        latent = gamma if isinstance(gamma, Gamma) else Gamma.named(gamma, a, f)
        self.name = name or "custom"
        self.mirror = name == "mirror"
        self.path = path if isinstance(path, Path) else named_path(path, latent)
        self.one_sided = self.path.one_sided and not self.mirror
        if self.one_sided:
            latent = latent_of(self.path, name)
        else:
            ends = [float(at(latent.value, end)) for end in (0.0, 1.0)]
            if max(map(abs, ends)) > 1e-6:
                raise ValueError(f"gamma is {ends[0]:g} and {ends[1]:g} at the ends; it takes one that is 0 there")
        self._latent = latent

    def __reduce__(self) -> tuple[Any, ...]:
        path, gamma, options = self._made_of  # functions of time made from names can't be pickled, names can
        return functools.partial(Interpolant, **options), (path, gamma)

    def __repr__(self) -> str:
        return f"Interpolant({self.name!r})"

    @property
    def linear(self) -> bool:
        """Whether x_t is a weighted sum of x0, x1 and z."""
        return self.path.mean is None

    @property
    def has_latent(self) -> bool:
        """Whether there is any Gaussian latent, so that there is a score."""
        return not self._latent.is_zero

    def alpha(self, t: Time) -> Time:
        """Return the weight of x0 (one-sided: of the Gaussian base; mirror: 0).

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The weight, of the type and shape of `t`.
        """
        return self._weight("alpha", t)

    def beta(self, t: Time) -> Time:
        """Return the weight of x1.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The weight, of the type and shape of `t`.
        """
        return self._weight("beta", t)

    def alpha_dot(self, t: Time) -> Time:
        """Return the derivative of `alpha`.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The derivative, of the type and shape of `t`.
        """
        return self._weight("alpha_dot", t)

    def beta_dot(self, t: Time) -> Time:
        """Return the derivative of `beta`.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The derivative, of the type and shape of `t`.
        """
        return self._weight("beta_dot", t)

    def gamma(self, t: Time) -> Time:
        """Return the size of the latent; one-sided, where the latent is the base, this is `alpha`.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The size, of the type and shape of `t`.
        """
        return at(self._latent.value, check_time(t))

    def gamma_dot(self, t: Time) -> Time:
        """Return the derivative of `gamma`, which is infinite at the ends of a Brownian bridge.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The derivative, of the type and shape of `t`.
        """
        return at(self._latent.dot, check_time(t))  # type: ignore[arg-type]

    def gamma_times_dot(self, t: Time) -> Time:
        """Return ``gamma gamma'``, finite everywhere.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The product, of the type and shape of `t`.
        """
        return at(self._latent.times_dot, check_time(t))  # type: ignore[arg-type]

    def mean(
        self, x0: Float[Tensor, " batch *shape"], x1: Float[Tensor, " batch *shape"], t: Time
    ) -> Float[Tensor, " batch *shape"]:
        """Return I(t, x0, x1), the interpolant without its latent.

        Parameters
        ----------
        x0
            Samples of the first end, of shape (batch, ...).
        x1
            Samples of the other end, of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, ...)
            The interpolant without its latent, of the shape of `x1`.
        """
        self._check_pair(x0, x1, t)
        if self.path.mean is not None:
            return self._custom(self.path.mean, x0, x1)(self._column(t, x1))
        return self._mix(x0, x1, self._mean_weights(t, dot=False))

    def dI(
        self, x0: Float[Tensor, " batch *shape"], x1: Float[Tensor, " batch *shape"], t: Time
    ) -> Float[Tensor, " batch *shape"]:
        """Return the partial derivative of I(t, x0, x1) in time, without the latent's part.

        Parameters
        ----------
        x0
            Samples of the first end, of shape (batch, ...).
        x1
            Samples of the other end, of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, ...)
            The derivative, of the shape of `x1`.
        """
        self._check_pair(x0, x1, t)
        if self.path.mean is not None:
            column = self._column(t, x1)
            if self.path.mean_dot is not None:
                return self._custom(self.path.mean_dot, x0, x1)(column)
            mean = self._custom(self.path.mean, x0, x1)
            return torch.func.jvp(mean, (column,), (torch.ones_like(column),))[1]
        return self._mix(x0, x1, self._mean_weights(t, dot=True))

    def sample(
        self,
        x0: Float[Tensor, " batch *shape"],
        x1: Float[Tensor, " batch *shape"],
        t: Time,
        z: Float[Tensor, " batch *shape"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch *shape"]]:
        """Return x_t and the latent z behind it.

        Parameters
        ----------
        x0, x1
            Pairs of the two ends, independent or coupled. One-sided, x0 is the latent; mirror, x0 isn't read.
        t
            One time, or one for each pair.
        z
            The latent; drawn from `generator` where it isn't given.
        generator
            What draws the latents, torch's global generator where None.

        Returns
        -------
        tuple[Tensor of shape (batch, ...), Tensor of shape (batch, ...)]
            The interpolant and the latent, each of shape (batch, ...).

        Raises
        ------
        ValueError
            Where shapes differ, a time lies outside [0, 1], or z is to be drawn without a generator.
        """
        self._check_pair(x0, x1, t)
        z = self.latent(x0, z, generator)
        return self.mean(x0, x1, t) + per_sample(self.gamma(t), x1) * z, z

    def latent(self, x0: Tensor, z: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return the latent of pairs: x0 of a one-sided path, else the given z, else one that is drawn.

        Parameters
        ----------
        x0
            Samples of the first end, of shape (batch, ...).
        z
            The latents, None to have them drawn.
        generator
            What draws the latents, torch's global generator where None.

        Returns
        -------
        Tensor
            The latents, of the shape of `x0`.
        """
        if self.one_sided:
            if z is not None and z is not x0:
                raise ValueError("z is given; the latent of a one-sided path is x0")
            return x0
        if z is None:
            z = noise_like(x0, generator) if self.has_latent else torch.zeros_like(x0)
        elif z.shape != x0.shape:
            raise ValueError(f"z has shape {tuple(z.shape)}; it takes that of x0, {tuple(x0.shape)}")
        return z

    def _weight(self, which: str, t: Time) -> Time:
        check_time(t)
        if self.mirror:
            return at(torch.ones_like if which == "beta" else torch.zeros_like, t)
        function = getattr(self.path, which)
        if function is None:
            raise ValueError(f"this path is no weighted sum; it has no {which}")
        return at(function, t)

    def _mean_weights(self, t: Time, dot: bool) -> tuple[Time | None, Time | None]:
        """Return the weights of x0 and x1 in I, None for one that isn't part of it."""
        second = self.beta_dot(t) if dot else self.beta(t)
        if self.one_sided or self.mirror:
            return None, second
        return (self.alpha_dot(t) if dot else self.alpha(t)), second

    def _mix(self, x0: Tensor, x1: Tensor, weights: tuple[Time | None, Time | None]) -> Tensor:
        first, second = weights
        mixed = per_sample(second, x1) * x1  # type: ignore[arg-type]
        return mixed if first is None else mixed + per_sample(first, x0) * x0

    def _custom(self, function: Callable[..., Tensor], x0: Tensor, x1: Tensor) -> Callable[[Tensor], Tensor]:
        if self.one_sided:
            return lambda t: function(t, x1)
        return lambda t: function(t, x0, x1)

    def _column(self, t: Time, x: Tensor) -> Tensor:
        return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x)).reshape(-1, *[1] * (x.ndim - 1))

    def _check_pair(self, x0: Tensor, x1: Tensor, t: Time) -> None:
        if x0.shape != x1.shape:
            raise ValueError(f"x0 has shape {tuple(x0.shape)} and x1 {tuple(x1.shape)}; they take the same")
        if isinstance(t, Tensor) and t.ndim and t.shape != x0.shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}; it takes one time for each of {len(x0)} pairs")
        check_time(t)


def check_level(eps: float) -> float:
    """Return a noise level if it is a finite number >= 0, else raise ValueError."""
    return check_number("eps", eps, ge=0)
