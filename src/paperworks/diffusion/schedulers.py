"""What the drop-in schedulers of this package share, so that a diffusers pipeline takes them for its own.

A pipeline needs `config`, `timesteps`, `order`, `init_noise_sigma`, `set_timesteps`, `scale_model_input`, `step` and,
to start from an image, `add_noise` and `set_begin_index`. That is all there is here: diffusers is not imported.
"""

import inspect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.models import PredictionType
from paperworks.diffusion.sampling import check_sample, per_sample
from paperworks.diffusion.schedules import DiscreteVP, NoiseScheduleVP

# What the configurations of diffusers call a prediction, and what this package does.
PREDICTION_TYPES: dict[str, PredictionType] = {"epsilon": "noise", "sample": "x_start", "v_prediction": "v"}
AnyScheduler = TypeVar("AnyScheduler", bound="DropInScheduler")  # runtime type checkers refuse Self in methods
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


class SchedulerOutput(NamedTuple):
    """What `step` returns."""

    prev_sample: Tensor


class SchedulerConfig(dict[str, Any]):
    """The settings of a scheduler, read as items or as attributes.

    Examples
    --------
    >>> SchedulerConfig(solver_order=2).solver_order
    2
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the scheduler's config has no {name!r}") from None


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


class DropInScheduler:
    """Base of the drop-in schedulers: configuration, and where in the trajectory it is."""

    order = 1  # evaluations per step
    init_noise_sigma = 1.0
    timesteps: Tensor

    def _keep_config(self, arguments: Mapping[str, Any]) -> SchedulerConfig:
        """Keep the arguments of `__init__` as `config`."""
        names = [n for n in inspect.signature(type(self).__init__).parameters if n != "self"]
        self.config = SchedulerConfig({n: arguments[n] for n in names})
        self.num_inference_steps: int | None = None
        self.begin_index: int | None = None
        self.step_index: int | None = None
        return self.config

    @classmethod
    def from_config(cls: type[AnyScheduler], config: Mapping[str, Any], **changes: Any) -> AnyScheduler:
        """Make a scheduler from the configuration of another one; settings that it doesn't have are left out.

        Parameters
        ----------
        config
            Settings by their names, as ``scheduler.config`` holds them.

        Returns
        -------
        AnyScheduler
            A scheduler with these settings and the `changes`.

        Examples
        --------
        >>> from paperworks.diffusion import DPMSolverScheduler
        >>> DPMSolverScheduler.from_config({"beta_schedule": "scaled_linear", "clip_sample": True}).config.beta_schedule
        'scaled_linear'
        """
        known = inspect.signature(cls.__init__).parameters.keys() - {"self"}
        return cls(**{name: value for name, value in {**config, **changes}.items() if name in known})

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

    def _output(self, following: Tensor, last: bool, return_dict: bool) -> SchedulerOutput | tuple[Tensor]:
        """Return what `step` does, after the last step a finite sample only: one check for the whole trajectory."""
        if last:
            check_sample(following, "model_output")
        return SchedulerOutput(following) if return_dict else (following,)

    def _start(self, timestep: Any) -> int:
        """Return the entry of `timesteps` at which a trajectory starts."""
        if self.num_inference_steps is None:
            raise RuntimeError("step was called before set_timesteps, which it takes first")
        if self.begin_index is not None:
            return check_count("begin_index", self.begin_index, at_least=0, at_most=len(self.timesteps) - 1)
        return int((self.timesteps.cpu() - float(timestep)).abs().argmin())


class Scheduler(DropInScheduler):
    """Base of those of variance-preserving networks trained at discrete steps."""

    def _configure(self, arguments: Mapping[str, Any]) -> None:
        """Keep the arguments of `__init__` as `config` and make the noise schedule that they describe."""
        config = self._keep_config(arguments)
        check_choice("prediction_type", config.prediction_type, tuple(PREDICTION_TYPES))
        betas = config.trained_betas
        if betas is None:
            betas = training_betas(config.num_train_timesteps, config.beta_start, config.beta_end, config.beta_schedule)
        self.schedule: DiscreteVP = NoiseScheduleVP.discrete(betas=betas)
        self.timesteps = torch.arange(self.schedule.total - 1, -1, -1)

    @property
    def alphas_cumprod(self) -> Tensor:
        """Squared factors of the signal at the steps of the training."""
        return torch.exp(2 * torch.tensor(self.schedule.log_alphas, dtype=torch.float64)).float()

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
            Where a step lies outside the training's, or the shapes differ.
        """
        check_alike("noise", noise, "original_samples", original_samples)
        steps = torch.as_tensor(timesteps).reshape(-1).double()
        if not bool(((steps >= 0) & (steps <= self.schedule.total - 1)).all()):
            raise ValueError(f"timesteps is {timesteps!r}; it takes steps from 0 to {self.schedule.total - 1}")
        t = (steps + 1) / self.schedule.total
        alpha, sigma = (
            per_sample(level, original_samples) for level in (self.schedule.alpha(t), self.schedule.sigma(t))
        )
        return alpha * original_samples + sigma * noise

    def __len__(self) -> int:
        return self.schedule.total


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
