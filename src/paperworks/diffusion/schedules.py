"""Noise schedules of diffusion models, and the time grids that samplers walk on.

Data ``x_0`` and noise mix as ``x_t = alpha(t) x_0 + sigma(t) z``. Everything a sampler needs follows from
``log alpha``, ``log sigma`` and half the log signal-to-noise ratio ``lam = log alpha - log sigma``, which
falls strictly with ``t``. Each function takes a Python float (for coefficients) or a tensor of any shape
(computed in its own dtype: give float64 where it matters) and returns the same kind.
"""

import bisect
import functools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number

Time = TypeVar("Time", float, Float[Tensor, "..."])
SkipType = Literal["logSNR", "time_uniform", "time_quadratic", "karras"]
"""Where steps are placed: evenly in log-SNR, in time or in its square root, or as Karras and others do."""
SKIP_TYPES: tuple[SkipType, ...] = get_args(SkipType)
"""All placements of steps, for a loop over them."""
LEAST_ALPHA = 2.0**-12  # what stands for a signal of 0: small, and still a number to divide by


def _functions_of(value: Any) -> Any:
    """Return the module whose exp, log, sqrt… work on `value`; `math` is tenfold faster on one number."""
    return torch if isinstance(value, Tensor) else math


def _softplus(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.logaddexp(value, torch.zeros_like(value))
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


class NoiseSchedule(ABC):
    """How signal and noise mix over time.

    A subclass says what ``log_alpha``, ``log_sigma``, their inverse ``t_of_lam`` and the SDE's ``drift`` are, and
    between which times it is solved: from `t_max` (noise) to `t_min` (data).
    """

    t_max: float
    t_min: float

    @abstractmethod
    def log_alpha(self, t: Time) -> Time:
        """Log of the factor of the signal.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The logarithm, of the type and shape of `t`.
        """

    @abstractmethod
    def log_sigma(self, t: Time) -> Time:
        """Log of the standard deviation of the noise.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The logarithm, of the type and shape of `t`.
        """

    @abstractmethod
    def t_of_lam(self, lam: Time) -> Time:
        """Time at which half the log signal-to-noise ratio is `lam`: the inverse of :meth:`lam`.

        Returns
        -------
        float | Tensor
            The time, of the type and shape of `lam`.
        """

    @abstractmethod
    def drift(self, t: Time) -> Time:
        """``f(t) = d log alpha / dt`` of the SDE ``dx = f x dt + g dw`` that has this schedule's marginals.

        Returns
        -------
        float | Tensor
            The drift, of the type and shape of `t`.
        """

    @abstractmethod
    def squared_diffusion(self, t: Time) -> Time:
        """``g(t)^2 = d sigma^2/dt - 2 f sigma^2`` of the same SDE.

        Returns
        -------
        float | Tensor
            The square, of the type and shape of `t`.
        """

    def alpha(self, t: Time) -> Time:
        """Factor of the signal.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The factor, of the type and shape of `t`.
        """
        return _functions_of(t).exp(self.log_alpha(t))

    def sigma(self, t: Time) -> Time:
        """Standard deviation of the noise.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The standard deviation, of the type and shape of `t`.
        """
        return _functions_of(t).exp(self.log_sigma(t))

    def lam(self, t: Time) -> Time:
        """Half the log signal-to-noise ratio, ``log(alpha / sigma)``.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The logarithm, of the type and shape of `t`.
        """
        return self.log_alpha(t) - self.log_sigma(t)

    def input_time(self, t: Time) -> Time:
        """What a network of this schedule takes as its time: here `t` itself.

        Returns
        -------
        float | Tensor
            The network's time, of the shape of `t`.
        """
        return t

    def t_end(self, steps: int | None = None) -> float:
        """Time to stop at for that many evaluations where the caller doesn't say: here `t_min`.

        Parameters
        ----------
        steps
            Number of evaluations of the network, None where it isn't known.

        Returns
        -------
        float
            The last time of a sampling.
        """
        return self.t_min


class NoiseScheduleVP(NoiseSchedule):
    """A variance-preserving schedule, ``alpha^2 + sigma^2 = 1``; made by `linear`, `cosine` or `discrete`.

    Examples
    --------
    >>> schedule = NoiseScheduleVP.linear()
    >>> round(schedule.t_of_lam(schedule.lam(0.3)), 12)
    0.3
    >>> round(schedule.alpha(0.3) ** 2 + schedule.sigma(0.3) ** 2, 12)
    1.0
    """

    @staticmethod
    def linear(beta_0: float = 0.1, beta_1: float = 20.0, t_max: float = 1.0) -> "LinearVP":
        """Make the schedule whose ``beta(t)`` runs linearly from `beta_0` at 0 to `beta_1` at 1.

        The defaults are the ones of DDPM and of the VP SDE (arXiv 2011.13456).

        Parameters
        ----------
        beta_0
            The rate ``beta`` at time 0.
        beta_1
            The rate ``beta`` at time 1.
        t_max
            Last time of the schedule.

        Returns
        -------
        LinearVP
            The schedule whose ``beta(t)`` runs linearly from `beta_0` at 0 to `beta_1` at 1.

        Raises
        ------
        ValueError
            Unless ``0 < beta_0 < beta_1`` and ``t_max > 0``.
        """
        check_number("beta_0", beta_0, gt=0)
        check_number("beta_1", beta_1, gt=beta_0)
        return LinearVP(float(beta_0), float(beta_1), check_number("t_max", t_max, gt=0))

    @staticmethod
    def cosine(offset: float = 0.008, t_max: float = 0.9946) -> "CosineVP":
        """Make the cosine schedule of improved DDPM (arXiv 2102.09672); beyond 0.9946 its ``beta`` explodes.

        Parameters
        ----------
        offset
            What keeps ``beta`` from being too small near 0.
        t_max
            Last time, below 1.

        Returns
        -------
        CosineVP
            The cosine schedule of improved DDPM.

        Raises
        ------
        ValueError
            Unless ``offset > 0`` and ``0 < t_max < 1``.
        """
        return CosineVP(check_number("offset", offset, gt=0), check_number("t_max", t_max, gt=0, lt=1))

    @staticmethod
    def discrete(
        betas: Sequence[float] | np.ndarray | Tensor | None = None,
        alphas_cumprod: Sequence[float] | np.ndarray | Tensor | None = None,
        clip_lam: float = -5.1,
    ) -> "DiscreteVP":
        """Make the schedule of a network trained at N discrete steps, linear in ``log alpha`` between them.

        Step ``n = 0 .. N-1`` stands at ``t = (n+1)/N``. The noisy tail whose ``lam`` is below `clip_lam` is dropped
        (the tail of cosine-type arrays has next to no signal) and the rest re-spaced over (0, 1].

        Parameters
        ----------
        betas
            Variances of the forward steps, each between 0 and 1; or else
        alphas_cumprod
            Their products ``prod(1 - beta)``, falling strictly between 1 and 0; a last entry of 0 is clipped away.
        clip_lam
            Least half log signal-to-noise ratio kept.

        Returns
        -------
        DiscreteVP
            The schedule of a network trained at N discrete steps, linear in ``log alpha`` between them.

        Raises
        ------
        TypeError
            Unless exactly one of `betas` and `alphas_cumprod` is given.
        ValueError
            Where the array is not one of at least two numbers in range, is NaN or is not monotone.

        Examples
        --------
        >>> schedule = NoiseScheduleVP.discrete(betas=torch.linspace(1e-4, 2e-2, 1000))
        >>> schedule.t_min, schedule.input_time(1.0)
        (0.001, 999.0)
        """
        if (betas is None) == (alphas_cumprod is None):
            raise TypeError("discrete takes one of betas and alphas_cumprod, and got both or neither")
        if betas is not None:
            b = _vector("betas", betas)
            if not np.all((b > 0) & (b < 1)):
                raise ValueError(f"betas run from {b.min():g} to {b.max():g}; they take numbers between 0 and 1")
            log_alphas = 0.5 * np.cumsum(np.log1p(-b))
        else:
            a = _vector("alphas_cumprod", alphas_cumprod)
            if not (np.all(np.diff(a) < 0) and a[0] < 1 and a[-1] >= 0):
                raise ValueError("alphas_cumprod takes numbers between 0 and 1 that fall strictly; it got others")
            with np.errstate(divide="ignore"):
                log_alphas = 0.5 * np.log(a)
        lams = log_alphas - 0.5 * np.log(-np.expm1(2 * log_alphas))
        kept = log_alphas[lams >= clip_lam]
        if len(kept) < 2:
            raise ValueError(
                f"clip_lam is {clip_lam!r}; it leaves {len(kept)} of {len(lams)} steps and takes 2 or more"
            )
        return DiscreteVP(tuple(kept.tolist()))

    @abstractmethod
    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        """Time at which the log of the signal's factor is `log_alpha`.

        Returns
        -------
        float | Tensor
            The time, of the type and shape of `log_alpha`.
        """

    def log_sigma(self, t: Time) -> Time:
        """Log of the standard deviation of the noise.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The logarithm, of the type and shape of `t`.
        """
        # expm1: 1 - alpha^2 would cancel near t = 0.
        return 0.5 * _functions_of(t).log(-_functions_of(t).expm1(2 * self.log_alpha(t)))

    def t_of_lam(self, lam: Time) -> Time:
        """Time at which half the log signal-to-noise ratio is `lam`: the inverse of :meth:`lam`.

        Returns
        -------
        float | Tensor
            The time, of the type and shape of `lam`.
        """
        return self.t_of_log_alpha(-0.5 * _softplus(-2 * lam))

    def squared_diffusion(self, t: Time) -> Time:
        """``g(t)^2``, which for these schedules is ``beta(t)``.

        Returns
        -------
        float | Tensor
            The rate, of the type and shape of `t`.
        """
        return -2 * self.drift(t)


class _ContinuousVP(NoiseScheduleVP):
    t_min = 1e-4

    def t_end(self, steps: int | None = None) -> float:
        """Time to stop at: 1e-3 for up to 15 evaluations, else 1e-4 (arXiv 2206.00927, appendix D)."""
        return 1e-3 if steps is not None and steps <= 15 else self.t_min


@dataclass(frozen=True)
class LinearVP(_ContinuousVP):
    """The variance-preserving schedule with linear ``beta(t)``; see `NoiseScheduleVP.linear`."""

    beta_0: float
    beta_1: float
    t_max: float

    def log_alpha(self, t: Time) -> Time:
        """Log of the factor of the signal."""
        return -t * (0.25 * (self.beta_1 - self.beta_0) * t + 0.5 * self.beta_0)

    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        """Time at which the log of the signal's factor is `log_alpha`."""
        slope = self.beta_1 - self.beta_0
        s = -4 * slope * log_alpha
        # The usual root of the quadratic, written without the difference that cancels near t = 0.
        return s / ((_functions_of(s).sqrt(self.beta_0**2 + s) + self.beta_0) * slope)

    def drift(self, t: Time) -> Time:
        """``d log alpha / dt = -beta(t) / 2``."""
        return -0.5 * (self.beta_0 + (self.beta_1 - self.beta_0) * t)


@dataclass(frozen=True)
class CosineVP(_ContinuousVP):
    """The cosine schedule; see `NoiseScheduleVP.cosine`."""

    offset: float
    t_max: float

    @property
    def _log_cos_0(self) -> float:
        return math.log(math.cos(0.5 * math.pi * self.offset / (1 + self.offset)))

    def _angle(self, t: Any) -> Any:
        return 0.5 * math.pi / (1 + self.offset) * (t + self.offset)

    def log_alpha(self, t: Time) -> Time:
        """Log of the factor of the signal."""
        f = _functions_of(t)
        return f.log(f.cos(self._angle(t))) - self._log_cos_0

    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        """Time at which the log of the signal's factor is `log_alpha`."""
        f = _functions_of(log_alpha)
        return 2 * (1 + self.offset) / math.pi * f.acos(f.exp(log_alpha + self._log_cos_0)) - self.offset

    def drift(self, t: Time) -> Time:
        """``d log alpha / dt``."""
        return -0.5 * math.pi / (1 + self.offset) * _functions_of(t).tan(self._angle(t))


@dataclass(frozen=True)
class DiscreteVP(NoiseScheduleVP):
    """The schedule of a network trained at discrete steps; see `NoiseScheduleVP.discrete`."""

    log_alphas: tuple[float, ...]
    t_max = 1.0

    def __hash__(self) -> int:
        return hash((len(self.log_alphas), self.log_alphas[0], self.log_alphas[-1]))

    @property
    def total(self) -> int:
        """Number of steps kept."""
        return len(self.log_alphas)

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """Time of the first step, ``1/N``."""
        return 1 / self.total

    def input_time(self, t: Time) -> Time:
        """Index of the step as the network was trained with it, ``N t - 1``: a fraction between steps."""
        return self.total * t - 1

    def log_alpha(self, t: Time) -> Time:
        """Log of the factor of the signal: linear between the steps and beyond them."""
        position = self.total * t - 1
        index = _floor(position, self.total - 2)
        left, slope = self._piece(index, t)
        return left + slope * (position - index)

    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        """Time at which the log of the signal's factor is `log_alpha`."""
        # The array falls, so it is searched with both sides negated.
        if isinstance(log_alpha, Tensor):
            rising = -self._table.to(log_alpha.device, log_alpha.dtype)
            index: Any = torch.searchsorted(rising, -log_alpha.contiguous(), right=True) - 1
            index = index.clamp(0, self.total - 2)
        else:
            index = bisect.bisect_right(self.log_alphas, -log_alpha, key=operator.neg) - 1
            index = min(max(index, 0), self.total - 2)
        left, slope = self._piece(index, log_alpha)
        return (index + (log_alpha - left) / slope + 1) / self.total

    def drift(self, t: Time) -> Time:
        """``d log alpha / dt``, constant between the steps."""
        return self._piece(_floor(self.total * t - 1, self.total - 2), t)[1] * self.total

    @functools.cached_property
    def _table(self) -> Tensor:
        return torch.tensor(self.log_alphas, dtype=torch.float64)

    def _piece(self, index: Any, like: Any) -> tuple[Any, Any]:
        """Left value and slope per step of the linear pieces at `index`, of the kind of `like`."""
        if isinstance(like, Tensor):
            table = self._table.to(like.device, like.dtype)
            return table[index], table[index + 1] - table[index]
        return self.log_alphas[index], self.log_alphas[index + 1] - self.log_alphas[index]


def _floor(position: Any, last: int) -> Any:
    if isinstance(position, Tensor):
        return position.floor().long().clamp(0, last)
    return min(max(math.floor(position), 0), last)


@dataclass(frozen=True)
class EDMSchedule(NoiseSchedule):
    """The variance-exploding schedule of EDM (arXiv 2206.00364): ``alpha = 1`` and ``sigma = t``.

    Parameters
    ----------
    sigma_min, sigma_max
        Least and greatest noise level; the defaults are EDM's.
    rho
        Exponent of the grid ``skip_type="karras"``.

    Examples
    --------
    >>> EDMSchedule().sigma(3.0), EDMSchedule().alpha(3.0)
    (3.0, 1.0)
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_number("sigma_min", self.sigma_min, gt=0)
        check_number("sigma_max", self.sigma_max, gt=self.sigma_min)
        check_number("rho", self.rho, gt=0)

    @property
    def t_max(self) -> float:  # type: ignore[override]
        """Greatest noise level."""
        return self.sigma_max

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """Least noise level."""
        return self.sigma_min

    def log_alpha(self, t: Time) -> Time:
        """Log of the factor of the signal, 0.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            Zero, of the type and shape of `t`.
        """
        return 0.0 * t

    def log_sigma(self, t: Time) -> Time:
        """Log of the standard deviation of the noise.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The logarithm, of the type and shape of `t`.
        """
        return _functions_of(t).log(t)

    def sigma(self, t: Time) -> Time:
        """Standard deviation of the noise, which is the time.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            The standard deviation, of the type and shape of `t`.
        """
        return t

    def t_of_lam(self, lam: Time) -> Time:
        """Time at which half the log signal-to-noise ratio is `lam`.

        Returns
        -------
        float | Tensor
            The time, of the type and shape of `lam`.
        """
        return _functions_of(lam).exp(-lam)

    def drift(self, t: Time) -> Time:
        """``d log alpha / dt``, 0.

        Parameters
        ----------
        t
            Time, one for all samples or one for each.

        Returns
        -------
        float | Tensor
            Zero, of the type and shape of `t`.
        """
        return 0.0 * t

    def squared_diffusion(self, t: Time) -> Time:
        """``g(t)^2 = 2 t``.

        Returns
        -------
        float | Tensor
            The square, of the type and shape of `t`.
        """
        return 2.0 * t


@dataclass(frozen=True)
class FlowSchedule(NoiseSchedule):
    """The straight mixture of flow matching, ``x_t = (1 - t) x_0 + t z``; the network gets ``total t``.

    Close to 1 the factor of the signal stops at 2^-12, so that pure noise is a level like the others.

    Parameters
    ----------
    total
        Steps of the training.

    Examples
    --------
    >>> schedule = FlowSchedule()
    >>> round(schedule.alpha(0.25), 6), schedule.sigma(0.25), schedule.input_time(0.25)
    (0.75, 0.25, 250.0)
    """

    total: int = 1000
    t_max = 1.0

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """Least noise level, ``1/total``."""
        return 1 / self.total

    def input_time(self, t: Time) -> Time:
        """Return ``total t``, what the network was trained with."""
        return self.total * t

    def log_alpha(self, t: Time) -> Time:
        """Log of the factor of the signal, ``1 - t``."""
        left = (1 - t).clamp(min=LEAST_ALPHA) if isinstance(t, Tensor) else max(1 - t, LEAST_ALPHA)
        return _functions_of(t).log(left)

    def log_sigma(self, t: Time) -> Time:
        """Log of the standard deviation of the noise, `t`."""
        return _functions_of(t).log(t)

    def sigma(self, t: Time) -> Time:
        """Standard deviation of the noise, which is the time."""
        return t

    def t_of_lam(self, lam: Time) -> Time:
        """Time at which half the log signal-to-noise ratio is `lam`."""
        return 1 / (1 + _functions_of(lam).exp(lam))

    def drift(self, t: Time) -> Time:
        """``d log alpha / dt = -1 / (1 - t)``."""
        return -1 / (1 - t)

    def squared_diffusion(self, t: Time) -> Time:
        """``g(t)^2 = 2 t / (1 - t)``."""
        return 2 * t / (1 - t)


def time_grid(
    schedule: NoiseSchedule, steps: int, t_start: float, t_end: float, skip_type: SkipType = "time_uniform"
) -> list[float]:
    """Place `steps` + 1 times from `t_start` to `t_end`, in either direction.

    Parameters
    ----------
    schedule
        Gives ``lam`` for the grids that need it.
    steps
        Number of intervals.
    t_start, t_end
        First and last time, kept exactly.
    skip_type
        ``logSNR``: uniform in ``lam``; ``time_uniform``: uniform in ``t``; ``time_quadratic``: uniform in ``sqrt(t)``;
        ``karras``: uniform in ``(sigma/alpha)^(1/rho)``, rho the schedule's where it has one, else 7
        (arXiv 2206.00364, equation 5).

    Returns
    -------
    list[float]
        The times in order, `steps` + 1 of them.

    Raises
    ------
    ValueError
        Where a time is not positive, the two are equal, or `skip_type` is unknown.

    Examples
    --------
    >>> time_grid(NoiseScheduleVP.linear(), 4, 1.0, 0.5, "time_uniform")
    [1.0, 0.875, 0.75, 0.625, 0.5]
    """
    check_count("steps", steps)
    check_choice("skip_type", skip_type, SKIP_TYPES)
    check_number("t_start", t_start, gt=0)
    check_number("t_end", t_end, gt=0)
    if t_start == t_end:
        raise ValueError(f"t_start and t_end are both {t_start!r}; they take two different times")
    if skip_type == "time_uniform":
        inner = np.linspace(t_start, t_end, steps + 1)
    elif skip_type == "time_quadratic":
        inner = np.linspace(math.sqrt(t_start), math.sqrt(t_end), steps + 1) ** 2
    else:
        lam_start, lam_end = schedule.lam(float(t_start)), schedule.lam(float(t_end))
        if skip_type == "logSNR":
            lams = np.linspace(lam_start, lam_end, steps + 1)
        else:
            rho = getattr(schedule, "rho", 7.0)
            lams = -rho * np.log(np.linspace(math.exp(-lam_start / rho), math.exp(-lam_end / rho), steps + 1))
        inner = schedule.t_of_lam(torch.from_numpy(lams)).numpy()
    return [float(t_start), *inner[1:-1].tolist(), float(t_end)]


def _vector(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"{name} has shape {array.shape}; it takes one row of at least two finite numbers")
    return array
