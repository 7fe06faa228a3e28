"""Noise levels of the refinement steps: what a network sees at each, is asked for, and how its answer is used."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from paperworks.core.validation import check_count, check_number

Fields = Float[Tensor, "batch channels *grid"]
Levels = Int64[Tensor, " batch"]


class SchedulerOutput(NamedTuple):
    """What a step of a scheduler returns.

    Parameters
    ----------
    prev_sample
        What the network sees at the next level; after the last one, the answer.
    pred_original_sample
        The target as the network predicts it at this level.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class NoiseScheduler(ABC):
    """Levels of noise, in the shape of a scheduler of diffusers.

    Attributes
    ----------
    timesteps
        Levels in the order of sampling.
    """

    timesteps: tuple[int, ...]

    @abstractmethod
    def begin(self, like: Fields, generator: torch.Generator | None = None) -> Fields:
        """Return what the network sees at the first level, of the shape, dtype and device of `like`."""

    @abstractmethod
    def add_noise(self, original: Fields, noise: Fields, timesteps: Levels) -> Fields:
        """Return what the network sees in training of a target at a level."""

    @abstractmethod
    def get_target(self, original: Fields, noise: Fields, timesteps: Levels) -> Fields:
        """Return what the network is asked for in training."""

    @abstractmethod
    def step(
        self, output: Fields, timestep: int, sample: Fields, generator: torch.Generator | None = None
    ) -> SchedulerOutput:
        """Go from one level to the next by the network's output."""

    @property
    def embedding_scale(self) -> float:
        """By what a level is multiplied before a network embeds it: 1000 for the last one, as in the released code."""
        return 1000 / max(1, len(self.timesteps) - 1)


class VarianceScheduler(NoiseScheduler):
    r"""Denoising diffusion with any variances, whose network predicts :math:`v`.

    At level i the network sees :math:`\sqrt{\bar\alpha_i} y + \sqrt{1 - \bar\alpha_i} \epsilon` and is asked for
    :math:`v = \sqrt{\bar\alpha_i} \epsilon - \sqrt{1 - \bar\alpha_i} y`, with
    :math:`\bar\alpha_i = \prod_{j \le i} (1 - \beta_j)`. Sampling goes from the last level to level 0 by the posterior
    of the diffusion.

    Parameters
    ----------
    betas
        Variances :math:`\beta_i` in (0, 1], level 0 first; the last may be 1, where the network sees noise alone.

    Attributes
    ----------
    betas, alphas_cumprod, noise_variances
        :math:`\beta_i`, :math:`\bar\alpha_i` and :math:`1 - \bar\alpha_i` in double precision: differences of rounded
        products would lose the smallest levels.

    Raises
    ------
    ValueError
        For no variances, or one out of (0, 1].

    References
    ----------
    Ho, Jain and Abbeel, arXiv:2006.11239, for the posterior; Salimans and Ho, arXiv:2202.00512, for v.

    Examples
    --------
    >>> VarianceScheduler([0.5, 1.0]).alphas_cumprod.tolist()
    [0.5, 0.0]
    """

    def __init__(self, betas: Sequence[float]) -> None:
        if not len(betas):
            raise ValueError("betas is empty; it takes one variance at least")
        self.betas = np.array([check_number("betas", float(beta), gt=0, le=1) for beta in betas])
        with np.errstate(divide="ignore"):
            logarithms = np.log1p(-self.betas).cumsum()
        self.alphas_cumprod, self.noise_variances = np.exp(logarithms), -np.expm1(logarithms)
        self.timesteps = tuple(reversed(range(len(self.betas))))

    def begin(self, like: Fields, generator: torch.Generator | None = None) -> Fields:
        """Return noise.

        Parameters
        ----------
        like
            A tensor whose shape, dtype and device it gets.
        generator
            torch's generator; the global one by default.

        Returns
        -------
        Tensor
            Standard normal numbers.
        """
        return noise_like(like, generator)

    def add_noise(self, original: Fields, noise: Fields, timesteps: Levels) -> Fields:
        """Return targets with the noise of their levels.

        Parameters
        ----------
        original
            Targets y of the network, (batch, channels, *grid).
        noise
            Standard normal numbers of the same shape.
        timesteps
            A level for each row.

        Returns
        -------
        Tensor
            What the network sees.
        """
        signal, spread = self._roots(timesteps, original, noise)
        return signal * original + spread * noise

    def get_velocity(self, original: Fields, noise: Fields, timesteps: Levels) -> Fields:
        """Return v, which the network is asked for.

        Parameters
        ----------
        original
            Targets y of the network, (batch, channels, *grid).
        noise
            The noise that `add_noise` was given.
        timesteps
            A level for each row.

        Returns
        -------
        Tensor
            The velocity, of the shape of the targets.
        """
        signal, spread = self._roots(timesteps, original, noise)
        return signal * noise - spread * original

    get_target = get_velocity

    def step(
        self, output: Fields, timestep: int, sample: Fields, generator: torch.Generator | None = None
    ) -> SchedulerOutput:
        """Go from a level to the one below it by the network's v; from level 0 to the answer.

        Parameters
        ----------
        output
            The network's v.
        timestep
            The level that the network was evaluated at.
        sample
            What the network saw.
        generator
            torch's generator for the noise of the next level; the global one by default.

        Returns
        -------
        SchedulerOutput
            What the network sees next, and its prediction of the target.
        """
        i = _check_step(self, output, timestep, sample)
        original = math.sqrt(self.alphas_cumprod[i]) * sample - math.sqrt(self.noise_variances[i]) * output
        if i == 0:
            return SchedulerOutput(original, original)
        below, here, beta = self.noise_variances[i - 1], self.noise_variances[i], self.betas[i]
        mean = math.sqrt(self.alphas_cumprod[i - 1]) * beta / here * original
        mean = mean + math.sqrt(1 - beta) * below / here * sample
        noise = noise_like(sample, generator)
        return SchedulerOutput(mean + math.sqrt(below * beta / here) * noise, original)

    def _roots(self, timesteps: Levels, like: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        _check_rows(self, like, noise, timesteps)
        signal, spread = (per_row(np.sqrt(v), timesteps, like) for v in (self.alphas_cumprod, self.noise_variances))
        return signal, spread


class RefinerScheduler(VarianceScheduler):
    r"""The exponential variances of PDE-Refiner, :math:`\beta_i = \sigma_{min}^{(K - i) / K}` for i from 0 to K.

    The last is 1, so that the first evaluation predicts from the state before alone, and each of the K others repairs
    what is left at an exponentially smaller level of noise.

    Parameters
    ----------
    num_refinement_steps
        K, the evaluations after the first; 3 by default, as in the paper's equation of Kuramoto and Sivashinsky. For 0
        there is one level of noise alone.
    min_noise
        :math:`\sigma_{min}`, the variance of the smallest level, whose root is the deviation of what is added; the
        released code calls it a standard deviation all the same. Default 4e-7, the released one.

    Raises
    ------
    ValueError
        For a negative K, or a level outside (0, 1).

    References
    ----------
    Lippe and others, arXiv:2308.05732, section 3 and appendix B; the released implementation's variances.

    Examples
    --------
    >>> RefinerScheduler(3, 1e-6).betas.round(9).tolist()
    [1e-06, 0.0001, 0.01, 1.0]
    """

    def __init__(self, num_refinement_steps: int = 3, min_noise: float = 4e-7) -> None:
        levels = check_count("num_refinement_steps", num_refinement_steps, at_least=0)
        check_number("min_noise", min_noise, gt=0, lt=1)
        super().__init__([min_noise ** ((levels - i) / levels) for i in range(levels + 1)] if levels else [1.0])


class AdditiveScheduler(NoiseScheduler):
    r"""The form in the paper's text: noise is added to the prediction, and the network predicts that noise.

    Level 0 predicts the target from nothing. Level k from 1 to K sees a prediction with noise of standard deviation
    :math:`\sigma_k = \sigma_{min}^{k / K}`, is asked for the noise, and takes it off.

    Parameters
    ----------
    num_refinement_steps
        K, the evaluations after the first; 3 by default.
    min_noise
        :math:`\sigma_{min}`, here a standard deviation. Default 6.3e-4, the root of the other form's.

    Attributes
    ----------
    sigmas
        Standard deviations of the levels; that of level 0 is nan, where there is no noise to speak of.

    Raises
    ------
    ValueError
        For a negative K, or a level outside (0, 1).

    References
    ----------
    Lippe and others, arXiv:2308.05732, section 3.1 and algorithm 1.

    Examples
    --------
    >>> AdditiveScheduler(3, 1e-3).sigmas[1:].round(9).tolist()
    [0.1, 0.01, 0.001]
    """

    def __init__(self, num_refinement_steps: int = 3, min_noise: float = 6.3e-4) -> None:
        levels = check_count("num_refinement_steps", num_refinement_steps, at_least=0)
        check_number("min_noise", min_noise, gt=0, lt=1)
        self.sigmas = np.array([math.nan, *(min_noise ** (k / levels) for k in range(1, levels + 1))])
        self.timesteps = tuple(range(levels + 1))

    def begin(self, like: Fields, generator: torch.Generator | None = None) -> Fields:
        """Return nothing, in the shape of fields.

        Parameters
        ----------
        like
            A tensor whose shape, dtype and device it gets.
        generator
            Not used: level 0 has no noise.

        Returns
        -------
        Tensor
            Zeros of the same shape.
        """
        return torch.zeros_like(like)

    def add_noise(self, original: Fields, noise: Fields, timesteps: Levels) -> Fields:
        """Return targets with the noise of their levels, and zeros at level 0.

        Parameters
        ----------
        original
            Targets y of the network, (batch, channels, *grid).
        noise
            Standard normal numbers of the same shape.
        timesteps
            A level for each row.

        Returns
        -------
        Tensor
            What the network sees.
        """
        _check_rows(self, original, noise, timesteps)
        sigma = per_row(np.nan_to_num(self.sigmas), timesteps, original)
        return torch.where(_at_first(timesteps, original), 0, original + sigma * noise)

    def get_target(self, original: Fields, noise: Fields, timesteps: Levels) -> Fields:
        """Return the noise, and the target itself at level 0.

        Parameters
        ----------
        original
            Targets y of the network, (batch, channels, *grid).
        noise
            The noise that `add_noise` was given.
        timesteps
            A level for each row.

        Returns
        -------
        Tensor
            What the network is asked for.
        """
        _check_rows(self, original, noise, timesteps)
        return torch.where(_at_first(timesteps, original), original, noise)

    def step(
        self, output: Fields, timestep: int, sample: Fields, generator: torch.Generator | None = None
    ) -> SchedulerOutput:
        """Take the predicted noise off and add that of the next level, if there is one.

        Parameters
        ----------
        output
            The network's prediction of the noise; at level 0, of the target.
        timestep
            The level that the network was evaluated at.
        sample
            What the network saw.
        generator
            torch's generator for the noise of the next level; the global one by default.

        Returns
        -------
        SchedulerOutput
            What the network sees next, and its prediction of the target.
        """
        _check_step(self, output, timestep, sample)
        original = output if timestep == 0 else sample - float(self.sigmas[timestep]) * output
        if timestep == self.timesteps[-1]:
            return SchedulerOutput(original, original)
        noise = noise_like(sample, generator)
        return SchedulerOutput(original + float(self.sigmas[timestep + 1]) * noise, original)


def noise_like(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return standard normal numbers of the shape, dtype and device of a tensor."""
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def per_row(values: np.ndarray, timesteps: Levels, like: Tensor) -> Tensor:
    """Return the value of each row's level, rounded to the tensor's precision last, with axes to multiply it by."""
    found = torch.from_numpy(values).to(like.device)[timesteps].to(like.dtype)
    return found.reshape(-1, *[1] * (like.ndim - 1))


def _check_step(scheduler: NoiseScheduler, output: Tensor, timestep: int, sample: Tensor) -> int:
    if output.shape != sample.shape:
        raise ValueError(f"output has shape {tuple(output.shape)}; it takes that of sample, {tuple(sample.shape)}")
    return check_count("timestep", timestep, at_least=0, at_most=len(scheduler.timesteps) - 1)


def _check_rows(scheduler: NoiseScheduler, original: Tensor, noise: Tensor, timesteps: Tensor) -> None:
    if noise.shape != original.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}; it takes that of original, {tuple(original.shape)}")
    if timesteps.shape != original.shape[:1]:
        raise ValueError(f"timesteps has shape {tuple(timesteps.shape)}; it takes ({len(original)},), one for each row")
    last = len(scheduler.timesteps) - 1
    # A negative level would count from the end.
    if not timesteps.is_meta and ((timesteps < 0) | (timesteps > last)).any():
        raise ValueError(f"timesteps is {timesteps.tolist()}; it takes whole numbers from 0 to {last}")


def _at_first(timesteps: Levels, like: Tensor) -> Tensor:
    return (timesteps == 0).reshape(-1, *[1] * (like.ndim - 1))
