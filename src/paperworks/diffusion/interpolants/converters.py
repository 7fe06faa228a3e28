"""Score-based diffusion models as one-sided interpolants and back, and rectified pairs."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice
from paperworks.diffusion.interpolants.fields import Fields
from paperworks.diffusion.interpolants.interpolant import Interpolant
from paperworks.diffusion.interpolants.paths import Time, at
from paperworks.diffusion.interpolants.samplers import ODESampler
from paperworks.diffusion.sampling import ModelFn, per_sample
from paperworks.diffusion.schedules import NoiseSchedule

_ONE_SIDED = ("one_sided_linear", "one_sided_trig", "one_sided_vp")


def one_sided_time(interpolant: Interpolant, ratio: Time) -> Time:
    """Return the time t of a one-sided path at which signal over noise, ``beta/alpha``, has the given ratio.

    A diffusion model at the ratio alpha_s/sigma_s and stochastic localisation ``y = tau x1 + W_tau``, whose ratio is
    sqrt(tau), are at that time up to a scale (arXiv 2303.08797, section 5).

    Parameters
    ----------
    interpolant
        A one-sided interpolant.
    ratio
        Signal over noise, at least 0.

    Returns
    -------
    float | Tensor
        The time, of the shape of `ratio`.

    Raises
    ------
    ValueError
        Where the interpolant is none of the named one-sided ones.

    Examples
    --------
    >>> one_sided_time(Interpolant("one_sided_linear"), 3.0)
    0.75
    """
    name = check_choice("interpolant.name", interpolant.name, _ONE_SIDED)

    def time(r: Tensor) -> Tensor:
        if name == "one_sided_linear":
            return r / (1 + r)
        return r / torch.hypot(r, torch.ones_like(r)) if name == "one_sided_vp" else torch.atan(r) * (2 / math.pi)

    return at(time, ratio)


def fields_from_noise_model(model_fn: ModelFn, schedule: NoiseSchedule, interpolant: Interpolant) -> Fields:
    """Return the fields of a one-sided interpolant from a diffusion model that predicts the noise.

    Both see ``x1`` through noise; at the same ratio of signal to noise their states differ by a scale only. Times
    beyond the schedule's range are moved to its ends.

    Parameters
    ----------
    model_fn
        ``model_fn(x, t)``, the noise in x at the schedule's time t (one for each sample, or one number).
    schedule
        The schedule that the model was trained with.
    interpolant
        One of the named one-sided ones.

    Returns
    -------
    Fields
        The fields, each by one evaluation of the model.

    Examples
    --------
    >>> from paperworks.diffusion import NoiseScheduleVP
    >>> schedule = NoiseScheduleVP.linear()
    >>> normal_data = lambda x, t: x * per_sample(schedule.sigma(t), x)
    >>> fields = fields_from_noise_model(normal_data, schedule, Interpolant("one_sided_vp"))
    >>> bool(fields.b(torch.ones(1, 1), torch.tensor([0.5])).abs() < 1e-6)
    True
    """
    check_choice("interpolant.name", interpolant.name, _ONE_SIDED)

    def eta(x: Tensor, t: Tensor) -> Tensor:
        alpha, beta = interpolant.gamma(t.double()), interpolant.beta(t.double())
        least, most = float(schedule.lam(schedule.t_max)), float(schedule.lam(schedule.t_min))
        time = schedule.t_of_lam((beta.log() - alpha.log()).clamp(least, most))  # type: ignore[union-attr]
        scale = torch.hypot(schedule.alpha(time), schedule.sigma(time)) / torch.hypot(alpha, beta)  # type: ignore[arg-type]
        return model_fn(x * per_sample(scale, x), time.to(x.dtype))

    return Fields(interpolant, eta=eta)


def noise_model_from_fields(fields: Fields, schedule: NoiseSchedule) -> ModelFn:
    """Return a noise-predicting diffusion model under a schedule from the fields of a one-sided interpolant.

    Parameters
    ----------
    fields
        Fields of a one-sided interpolant.
    schedule
        Noise schedule of the diffusion model.

    Returns
    -------
    ModelFn
        Maps states and times to the noise.

    Examples
    --------
    >>> from paperworks.diffusion import NoiseScheduleVP
    >>> fields = Fields(Interpolant("one_sided_vp"), s=lambda x, t: -x)
    >>> model_fn = noise_model_from_fields(fields, NoiseScheduleVP.linear())
    >>> model_fn(torch.ones(1, 1), 1.0)
    tensor([[1.0000]])
    """
    interpolant = fields.interpolant
    check_choice("fields.interpolant.name", interpolant.name, _ONE_SIDED)

    def model_fn(x: Tensor, t: float | Tensor) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float64, device=x.device)
        alpha_s, sigma_s = schedule.alpha(times), schedule.sigma(times)
        time = one_sided_time(interpolant, alpha_s / sigma_s)
        scale = torch.hypot(interpolant.gamma(time), interpolant.beta(time)) / torch.hypot(alpha_s, sigma_s)  # type: ignore[arg-type]
        return fields.eta(x * per_sample(scale, x), time)

    return model_fn


def rectified_pairs(
    fields: Fields, x0: Float[Tensor, " batch *shape"], steps: int = 100, *, sampler: ODESampler | None = None
) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch *shape"]]:
    """Return the pairs (x0, X_1(x0)) of the learnt flow, on which the linear path without latent is the straight flow.

    Retrain ``Interpolant("linear", "zero")`` on them (arXiv 2303.08797, section 5.3).

    Parameters
    ----------
    fields, x0, steps
        The learnt fields, samples of the base, and the steps of the ODE from t = 0 to 1.
    sampler
        Which ODE sampler; RK4 by default.

    Returns
    -------
    tuple[Tensor of shape (batch, ...), Tensor of shape (batch, ...)]
        Starts and ends of the flow, each of shape (batch, ...).

    Examples
    --------
    >>> fields = Fields(Interpolant("linear", "zero"), b=lambda x, t: torch.ones_like(x))
    >>> rectified_pairs(fields, torch.zeros(1, 1), steps=4)[1]
    tensor([[1.]])
    """
    with torch.no_grad():
        return x0, (sampler or ODESampler(fields)).sample(x0, steps, window=(0.0, 1.0)).sample
