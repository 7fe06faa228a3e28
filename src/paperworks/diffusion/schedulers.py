"""What the drop-in schedulers of this package share, so that a diffusers pipeline takes them for its own.

A pipeline needs `config`, `timesteps`, `order`, `init_noise_sigma`, `set_timesteps`, `scale_model_input`, `step` and,
to start from an image, `add_noise` and `set_begin_index`. That is all there is here, beside the configurations of
`scheduler_config`; diffusers is not imported.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.models import PredictionType
from paperworks.diffusion.sampling import check_sample, per_sample
from paperworks.diffusion.scheduler_config import Configured, SchedulerOutput
from paperworks.diffusion.schedules import LEAST_ALPHA, DiscreteVP, FlowSchedule, NoiseScheduleVP

# What the configurations of diffusers call a prediction, and what this package does.
PREDICTION_TYPES: dict[str, PredictionType] = {
    "epsilon": "noise", "sample": "x_start", "v_prediction": "v", "flow_prediction": "flow",
}  # fmt: skip
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
Generator = torch.Generator | Sequence[torch.Generator] | None


def training_betas(num_train_timesteps: int, beta_start: float, beta_end: float, beta_schedule: str) -> np.ndarray:
    """Return the variances of the forward steps by the name of their schedule, in float64.

    ``linear`` (DDPM), ``scaled_linear`` (linear in the square root, latent diffusion) or ``squaredcos_cap_v2``
    (improved DDPM, at most 0.999).

    Parameters
    ----------
    num_train_timesteps
        Number of forward steps.
    beta_start, beta_end
        First and last variance, which ``squaredcos_cap_v2`` doesn't read.
    beta_schedule
        One of the three names.

    Returns
    -------
    ndarray
        The variances, of shape (num_train_timesteps,).

    Examples
    --------
    >>> training_betas(3, 0.1, 0.3, "linear").round(3).tolist()
    [0.1, 0.2, 0.3]
    """
    n = check_count("num_train_timesteps", num_train_timesteps, at_least=2)
    check_choice("beta_schedule", beta_schedule, BETA_SCHEDULES)
    if beta_schedule == "squaredcos_cap_v2":
        signal = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - signal[1:] / signal[:-1], 0.999)
    check_number("beta_start", beta_start, gt=0, lt=1)
    check_number("beta_end", beta_end, gt=0, lt=1)
    if beta_schedule == "scaled_linear":
        return np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), n) ** 2
    return np.linspace(beta_start, beta_end, n)


def zero_terminal_levels(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Shift and scale the factors of the signal so that the last step has none (arXiv 2305.08891, algorithm 1).

    Parameters
    ----------
    alphas_cumprod
        Squared factors of the signal at the steps of the training.

    Returns
    -------
    ndarray
        Squared factors with the same first entry, and 0 for the last.

    Examples
    --------
    >>> zero_terminal_levels(np.array([0.81, 0.25, 0.01])).round(4).tolist()
    [0.81, 0.2025, 0.0]
    """
    alphas = np.sqrt(alphas_cumprod)
    return ((alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))) ** 2


def draw_noise(x: Tensor, generator: Generator) -> Tensor:
    """Draw normal noise like `x` as pipelines do: from one generator, one for each sample, or torch's global one.

    Parameters
    ----------
    x
        Gives shape, dtype and device.
    generator
        One or several, which may live on another device, or None.

    Returns
    -------
    Tensor
        The noise.

    Raises
    ------
    ValueError
        Where there are several, and not one for each sample.

    Examples
    --------
    >>> both = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    >>> draw_noise(torch.zeros(2, 3), both)[1].equal(torch.randn(3, generator=torch.Generator().manual_seed(1)))
    True
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)
    if len(generator) == 1:
        return draw_noise(x, generator[0])
    if len(generator) != len(x):
        raise ValueError(f"generator has {len(generator)} entries; it takes one for each of {len(x)} samples")
    return torch.cat([draw_noise(row, own) for row, own in zip(x.split(1), generator, strict=True)])


class DropInScheduler(Configured):
    """Base of the drop-in schedulers: where in the trajectory it is, and what it takes and gives."""

    order = 1  # evaluations per step
    init_noise_sigma = 1.0
    timesteps: Tensor

    def _keep_config(self, arguments: Mapping[str, Any]) -> Any:
        self.num_inference_steps: int | None = None
        self.begin_index: int | None = None
        self.step_index: int | None = None
        return super()._keep_config(arguments)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return what the network takes: here the sample itself.

        Parameters
        ----------
        sample
            The state, of shape (batch, ...).
        timestep
            The entry of `timesteps` at hand, which is not needed.

        Returns
        -------
        Tensor
            The sample itself, unchanged.
        """
        return sample

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say at which entry of `timesteps` the trajectory starts, as a pipeline does that starts from an image.

        Parameters
        ----------
        begin_index
            Number of the entry of `timesteps`, from 0.
        """
        self.begin_index = check_count("begin_index", begin_index, at_least=0)

    def _take(self, model_output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Check what `step` gets, without a learned variance, and return both in at least single precision."""
        if model_output.shape != sample.shape and str(self.config.get("variance_type")).startswith("learned"):
            model_output = model_output[:, : sample.shape[1]]
        if not sample.is_floating_point():
            raise TypeError(f"sample is {sample.dtype}; it takes a tensor of floating point")
        check_alike("model_output", model_output, "sample", sample)
        dtype = torch.float64 if sample.dtype == torch.float64 else torch.float32
        return as_type(model_output, dtype), as_type(sample, dtype)

    def _output(self, following: Tensor, sample: Tensor, last: bool, return_dict: bool) -> Any:
        """Return what `step` does, after the last step a finite sample only: one check for the whole trajectory."""
        following = as_type(following, sample.dtype)
        if last:
            self._forget()
            check_sample(following, "model_output")
        return SchedulerOutput(following) if return_dict else (following,)

    def _forget(self) -> None:
        """Let go of what was kept for the next steps, as large as some states, where there is none."""

    def _start(self, timestep: Any) -> int:
        """Return the entry of `timesteps` at which a trajectory starts."""
        if self.num_inference_steps is None:
            raise RuntimeError("step was called before set_timesteps, which it takes first")
        if self.begin_index is not None:
            return check_count("begin_index", self.begin_index, at_least=0, at_most=len(self.timesteps) - 1)
        if isinstance(timestep, Tensor) and timestep.numel() != 1:
            raise ValueError(f"timestep has shape {tuple(timestep.shape)}; it takes one entry of timesteps")
        distances = (self.timesteps.cpu() - float(timestep)).abs()
        if isinstance(timestep, Tensor) and timestep.dtype == self.timesteps.dtype:
            # Where a step is visited more than once, an entry of `timesteps` itself tells which of them it is.
            offset = timestep.data_ptr() - self.timesteps.data_ptr()
            index, inside = divmod(offset, self.timesteps.element_size())
            if not inside and 0 <= index < len(distances) and distances[index] == 0:
                return index
        return int(distances.argmin())


class Scheduler(DropInScheduler):
    """Base of those of variance-preserving networks trained at discrete steps."""

    def _configure(self, arguments: Mapping[str, Any], clip_lam: float = -math.inf) -> None:
        """Keep the arguments of `__init__` as `config` and make the noise schedule that they describe."""
        config = self._keep_config(arguments)
        check_choice("prediction_type", config.prediction_type, tuple(PREDICTION_TYPES))
        betas = config.trained_betas
        if betas is None:
            betas = training_betas(config.num_train_timesteps, config.beta_start, config.beta_end, config.beta_schedule)
        self._vp = _discrete(np.asarray(betas, dtype=np.float64), config.get("rescale_betas_zero_snr", False), clip_lam)
        self.schedule: DiscreteVP | FlowSchedule = self._vp
        self.timesteps = torch.arange(self._vp.total - 1, -1, -1)

    def _time(self, step: Any) -> Any:
        """Return the schedule's time of a step of the training, which may be a tensor."""
        total = self._vp.total
        return (step + 1) / total if self.schedule is self._vp else step / total

    @property
    def betas(self) -> Tensor:
        """Variances of the steps of the training."""
        levels = np.exp(2 * np.asarray(self._vp.log_alphas))
        return torch.from_numpy(1 - levels / np.concatenate([[1.0], levels[:-1]])).float()

    @property
    def alphas_cumprod(self) -> Tensor:
        """Squared factors of the signal at the steps of the training."""
        return torch.exp(2 * torch.tensor(self._vp.log_alphas, dtype=torch.float64)).float()

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the samples with the noise of the given steps, one for all or one per sample.

        Parameters
        ----------
        original_samples
            Clean samples, of shape (batch, ...).
        noise
            Standard normal noise, of shape (batch, ...).
        timesteps
            Timesteps of the noise, one for all or one for each sample.

        Returns
        -------
        Tensor
            Noisy samples, of shape (batch, ...).

        Raises
        ------
        ValueError
            Where a step lies outside the training's, there is neither one nor one per sample, or the shapes differ.
        """
        check_alike("noise", noise, "original_samples", original_samples)
        steps, t_max = torch.as_tensor(timesteps).reshape(-1).double(), self.schedule.t_max
        if len(steps) not in (1, len(original_samples)):
            raise ValueError(
                f"timesteps has {len(steps)} entries; it takes one, or one for each of {len(original_samples)} samples"
            )
        t = self._time(steps)
        if not bool(((steps >= 0) & (t <= t_max + 1e-6)).all()):
            raise ValueError(
                f"timesteps is {timesteps!r}; it takes steps from 0 to {self.schedule.input_time(t_max):g}"
            )
        alpha, sigma = (
            per_sample(level, original_samples) for level in (self.schedule.alpha(t), self.schedule.sigma(t))
        )
        return alpha * original_samples + sigma * noise

    def __len__(self) -> int:
        return self._vp.total


def _discrete(betas: np.ndarray, rescale: bool, clip_lam: float) -> DiscreteVP:
    """Make the schedule of a network's training, whose last step may leave no signal."""
    if not rescale and not (betas.ndim == 1 and len(betas) > 2 and betas[-1] == 1):
        return NoiseScheduleVP.discrete(betas=betas, clip_lam=clip_lam)
    NoiseScheduleVP.discrete(betas=betas if rescale else betas[:-1])
    levels = np.cumprod(1 - betas)
    levels = zero_terminal_levels(levels) if rescale else levels
    levels[-1] = min(LEAST_ALPHA**2, levels[-2] / 16)
    return NoiseScheduleVP.discrete(alphas_cumprod=levels, clip_lam=-math.inf)  # that step is what was asked for


def as_type(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor of that type; unlike ``tensor.to(dtype)`` at once where it is of it already."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError where two tensors differ in shape: broadcasting would hide a mistake."""
    if tensor.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it takes that of {other_name}, {tuple(other.shape)}")


def custom_timesteps(timesteps: Sequence[float] | Tensor, total: int) -> list[float]:
    """Check the steps that a caller wants to visit, and return them as floats.

    Raises
    ------
    ValueError
        Unless they fall strictly and lie within the training's.
    """
    steps = [float(step) for step in timesteps]
    falls = all(a > b for a, b in itertools.pairwise(steps))
    if not steps or not falls or steps[0] > total - 1 or steps[-1] < 0:
        raise ValueError(
            f"timesteps is {timesteps!r}; it takes steps that fall strictly, from {total - 1} to 0 at most"
        )
    return steps
