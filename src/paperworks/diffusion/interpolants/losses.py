"""Least-squares losses whose minimisers are the fields of an interpolant."""

from collections.abc import Callable
from typing import TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_finite, check_number
from paperworks.diffusion.interpolants.interpolant import Interpolant
from paperworks.diffusion.sampling import per_sample

Weight = Callable[[Tensor], Tensor]
Scalar = Float[Tensor, ""]


class LossOptions(TypedDict, total=False):
    """The keywords that all losses take; `velocity_loss` explains them."""

    t: Tensor | None
    z: Tensor | None
    antithetic: bool | None
    weight: Weight | None
    mse: bool
    t_min: float


def velocity_loss(
    interpolant: Interpolant,
    f: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, " batch *shape"],
    x1: Float[Tensor, " batch *shape"],
    generator: torch.Generator | None = None,
    **options: Unpack[LossOptions],
) -> Scalar:
    """Return ``E[|f|^2/2 - (dI/dt + gamma' z) . f]``, least for the velocity b.

    Source of this and the other losses: arXiv 2303.08797, section 2.2.

    Parameters
    ----------
    interpolant
        The interpolant to learn the velocity of.
    f
        ``f(x, t)`` with one time per sample.
    x0, x1
        Pairs of samples.
    generator
        Source of what is drawn: times and latents that aren't given.
    t, z
        Times and latents; by default uniform in ``[t_min, 1 - t_min]`` and normal.
    antithetic
        Take every latent with both signs, in one batch of twice the size: the variance then stays bounded at the
        ends, where gamma' isn't. By default for interpolants with a latent beside their base; one-sided it takes
        pairs that are independent.
    weight
        ``weight(t)`` of each sample; for times drawn otherwise, one over their density.
    mse
        Add the constant that makes it a mean squared error; the gradient is the same.
    t_min
        How near to the ends times are drawn. Default 1e-4.

    Returns
    -------
    Tensor
        Mean over the batch of the sum over a sample's elements.

    Raises
    ------
    ValueError
        Where shapes differ, a time is outside [0, 1] or where the loss is infinite, or something is to be drawn
        without a generator.

    Examples
    --------
    >>> x0, x1, t = torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([0.2, 0.6])
    >>> velocity_loss(Interpolant("linear", "zero"), lambda x, t: torch.ones_like(x), x0, x1, t=t, mse=True)
    tensor(0.)
    """

    def target(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        moved = interpolant.dI(x0, x1, t)
        if not interpolant.has_latent:
            return moved, moved
        shift = _factor(interpolant.gamma_dot(t), x1) * z  # type: ignore[arg-type]
        return moved + shift, moved - shift

    return _loss(interpolant, f, x0, x1, generator, target, **options)


def score_loss(
    interpolant: Interpolant,
    f: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, " batch *shape"],
    x1: Float[Tensor, " batch *shape"],
    generator: torch.Generator | None = None,
    **options: Unpack[LossOptions],
) -> Scalar:
    """Return ``E[|f|^2/2 + z . f / gamma]``, least for the score; arguments as in `velocity_loss`.

    Raises ValueError also where gamma is zero.

    Parameters
    ----------
    interpolant
        The interpolant to learn the score of.
    f
        Maps states and times to the score.
    x0
        Samples of the first end, of shape (batch, ...).
    x1
        Samples of the other end, of shape (batch, ...).
    generator
        What draws the noise; its device is drawn on.

    Returns
    -------
    Tensor
        The mean loss, one differentiable number.

    Examples
    --------
    >>> x, t = torch.zeros(1, 1), torch.tensor([0.5])
    >>> score_loss(Interpolant("linear"), lambda x, t: -x / 0.25, x, x, t=t, z=torch.ones(1, 1), mse=True)
    tensor(0.)
    """
    _require_latent(interpolant)

    def target(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        up = z * _factor(1 / interpolant.gamma(t), x1)  # type: ignore[arg-type]
        return -up, up

    return _loss(interpolant, f, x0, x1, generator, target, **options)


def denoiser_loss(
    interpolant: Interpolant,
    f: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, " batch *shape"],
    x1: Float[Tensor, " batch *shape"],
    generator: torch.Generator | None = None,
    **options: Unpack[LossOptions],
) -> Scalar:
    """Return ``E[|f|^2/2 - z . f]``, least for the denoiser eta = E[z]; arguments as in `velocity_loss`.

    Raises ValueError also where gamma is zero.

    Parameters
    ----------
    interpolant
        The interpolant to learn the denoiser of.
    f
        Maps states and times to the denoiser.
    x0
        Samples of the first end, of shape (batch, ...).
    x1
        Samples of the other end, of shape (batch, ...).
    generator
        What draws the noise; its device is drawn on.

    Returns
    -------
    Tensor
        The mean loss, one differentiable number.

    Examples
    --------
    >>> x, t = torch.zeros(1, 1), torch.tensor([0.5])
    >>> denoiser_loss(Interpolant("linear"), lambda x, t: x / 0.5, x, x, t=t, z=torch.ones(1, 1), mse=True)
    tensor(0.)
    """
    _require_latent(interpolant)

    def target(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return z, -z

    return _loss(interpolant, f, x0, x1, generator, target, **options)


def v_loss(
    interpolant: Interpolant,
    f: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, " batch *shape"],
    x1: Float[Tensor, " batch *shape"],
    generator: torch.Generator | None = None,
    **options: Unpack[LossOptions],
) -> Scalar:
    """Return ``E[|f|^2/2 - dI/dt . f]``, least for v = E[dI/dt]; arguments as in `velocity_loss`.

    One-sided, I is the part of x1 alone, so that v and b differ there too.

    Parameters
    ----------
    interpolant
        The interpolant to learn the velocity of.
    f
        Maps states and times to the velocity.
    x0
        Samples of the first end, of shape (batch, ...).
    x1
        Samples of the other end, of shape (batch, ...).
    generator
        What draws the noise; its device is drawn on.

    Returns
    -------
    Tensor
        The mean loss, one differentiable number.

    Examples
    --------
    >>> x0, x1, t = torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([0.2, 0.6])
    >>> v_loss(Interpolant("linear"), lambda x, t: torch.ones_like(x), x0, x1, t=t, z=x1, mse=True)
    tensor(0.)
    """

    def target(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        moved = interpolant.dI(x0, x1, t)
        return moved, moved

    return _loss(interpolant, f, x0, x1, generator, target, **options)


def x0x1_denoiser_loss(
    interpolant: Interpolant,
    f: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x0: Float[Tensor, " batch *shape"],
    x1: Float[Tensor, " batch *shape"],
    generator: torch.Generator | None = None,
    **options: Unpack[LossOptions],
) -> Scalar:
    """Return the loss of ``f(x, t) -> (E[x0], E[x1])``, the denoisers of both ends; arguments as in `velocity_loss`.

    Not for one-sided and mirror paths, whose x0 is the latent or nothing: `denoiser_loss` is enough there.

    Parameters
    ----------
    interpolant
        The interpolant to learn both denoisers of.
    f
        Maps states and times to the means of x0 and x1.
    x0
        Samples of the first end, of shape (batch, ...).
    x1
        Samples of the other end, of shape (batch, ...).
    generator
        What draws the noise; its device is drawn on.

    Returns
    -------
    Tensor
        The mean loss, one differentiable number.

    Examples
    --------
    >>> x0, x1, t = torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([0.2, 0.6])
    >>> x0x1_denoiser_loss(Interpolant("linear"), lambda x, t: (0 * x, 0 * x + 1), x0, x1, t=t, z=x1, mse=True)
    tensor(0.)
    """
    if interpolant.one_sided or interpolant.mirror:
        raise ValueError(f"interpolant is {interpolant!r}; x0x1_denoiser_loss takes a two-sided one")

    def target(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([x0, x1], dim=1) if x0.ndim > 1 else torch.stack([x0, x1], dim=1)
        return both, both

    def both(x: Tensor, t: Tensor) -> Tensor:
        answer = f(x, t)
        return torch.cat(answer, dim=1) if x.ndim > 1 else torch.stack(answer, dim=1)

    return _loss(interpolant, both, x0, x1, generator, target, **options)


def draw_times(x: Tensor, generator: torch.Generator | None, t_min: float) -> Tensor:
    """Draw one time per sample, uniform in [t_min, 1 - t_min]."""
    if generator is None:
        raise ValueError("generator is None; times and latents that aren't given are drawn from a torch.Generator")
    check_number("t_min", t_min, ge=0, lt=0.5)
    u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
    return u * (1 - 2 * t_min) + t_min


def _loss(
    interpolant: Interpolant,
    f: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    x1: Tensor,
    generator: torch.Generator | None,
    target: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    t: Tensor | None = None,
    z: Tensor | None = None,
    antithetic: bool | None = None,
    weight: Weight | None = None,
    mse: bool = False,
    t_min: float = 1e-4,
) -> Tensor:
    """Return the loss whose target for both signs of the latent is `target(z, t)`."""
    if antithetic is None:
        antithetic = interpolant.has_latent and not interpolant.one_sided
    if t is None:
        t = draw_times(x1, generator, t_min)
    z = interpolant.latent(x0, z, generator)
    mean = interpolant.mean(x0, x1, t)
    shift = per_sample(interpolant.gamma(t), x1) * z
    up, down = target(z, t)
    if antithetic:
        x, t, aim = torch.cat([mean + shift, mean - shift]), torch.cat([t, t]), torch.cat([up, down])
    else:
        x, aim = mean + shift, up
    answer = f(x, t)
    if answer.shape != aim.shape:
        raise ValueError(f"f answers with shape {tuple(answer.shape)}; it takes {tuple(aim.shape)}")
    terms = 0.5 * (answer - aim) ** 2 if mse else (0.5 * answer - aim) * answer
    each = terms.flatten(1).sum(1) if terms.ndim > 1 else terms
    return (each if weight is None else each * weight(t)).mean()


def _factor(value: Tensor, like: Tensor) -> Tensor:
    """Shape a factor of the target; it is infinite where a time is at an end where gamma is 0."""
    check_finite("the target's factor at t", value)
    return per_sample(value, like)  # type: ignore[return-value]


def _require_latent(interpolant: Interpolant) -> None:
    if not interpolant.has_latent:
        raise ValueError("gamma is zero: this interpolant has no latent, hence neither score nor denoiser")
