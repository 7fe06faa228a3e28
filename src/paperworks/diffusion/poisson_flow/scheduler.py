"""PFGM++ as a scheduler of the shape that diffusers pipelines use."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.poisson_flow.noise import PFGMPPNoise
from paperworks.diffusion.poisson_flow.sampler import edm_grid
from paperworks.diffusion.sampling import combine, per_sample
from paperworks.diffusion.scheduler_config import OF_OTHER_SOLVERS, SchedulerOutput, scheduler_mixin
from paperworks.diffusion.schedulers import DropInScheduler, Generator, check_alike

Prediction = Literal["sample", "epsilon", "v_prediction", "raw"]
__getattr__ = scheduler_mixin


class PFGMPPScheduler(DropInScheduler):
    """EDM's Heun method for PFGM++ models, one evaluation of the network at a time.

    The prior of a finite D is not a scaled normal: begin with `sample_prior` in place of ``randn * init_noise_sigma``,
    as a pipeline's ``latents``. A trajectory that begins otherwise is refused; ``set_begin_index`` says that the state
    is one's own.

    Parameters
    ----------
    D
        Additional dimensions of the model; infinity is EDM.
    sigma_min, sigma_max, rho
        Noise levels and exponent of EDM's grid.
    sigma_data
        Standard deviation of the data, for ``v``.
    prediction_type
        ``sample``: the network is a denoiser of the sample itself, as `EDMPrecond` makes it, and gets sigma;
        ``epsilon``: it predicts the noise of scale 1, and gets sigma; ``raw``: it is EDM's raw network F, gets the
        scaled sample and ``log(sigma)/4``; ``v_prediction``: the same, and it answers -F.

    Raises
    ------
    ValueError
        Where a number is out of range or the prediction type unknown.

    Examples
    --------
    >>> scheduler = PFGMPPScheduler(D=128)
    >>> scheduler.set_timesteps(18)
    >>> x = scheduler.sample_prior((2, 3, 8, 8), torch.Generator().manual_seed(0))
    >>> for t in scheduler.timesteps:
    ...     x = scheduler.step(torch.zeros_like(x), t, scheduler.scale_model_input(x, t)).prev_sample
    >>> bool(x.abs().max() < 1e-6), len(scheduler.timesteps)
    (True, 35)
    """

    order = 2
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"sigma_schedule": ("karras",)}
    ignored: ClassVar[frozenset[str]] = OF_OTHER_SOLVERS | {"num_train_timesteps"}

    def __init__(
        self,
        D: float = math.inf,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        sigma_data: float = 0.5,
        prediction_type: Prediction = "sample",
    ) -> None:
        check_choice("prediction_type", prediction_type, get_args(Prediction))
        PFGMPPNoise(D, 1)
        edm_grid(2, sigma_min, sigma_max, rho)
        check_number("sigma_data", sigma_data, gt=0)
        self._keep_config(locals())
        self.init_noise_sigma = sigma_max
        self._preconditioned = prediction_type in ("raw", "v_prediction")
        self._has_prior = math.isinf(D)

    @classmethod
    def _translated(cls, config: Mapping[str, Any], origin: Mapping[str, Any]) -> Mapping[str, Any]:
        # Schedulers of EDM call their raw network's answer epsilon, and have this setting.
        raw = "sigma_schedule" in origin and config.get("prediction_type", "epsilon") == "epsilon"
        return {**config, "prediction_type": "raw"} if raw else config

    def sample_prior(
        self, shape: tuple[int, ...] | torch.Size, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, " batch *shape"]:
        """Draw what sampling begins with.

        Parameters
        ----------
        shape
            Shape of the noise, (batch, ...).
        generator
            What draws the noise; its device is drawn on.
        dtype
            Type of the numbers.

        Returns
        -------
        Tensor of shape (batch, ...)
            Noise of the greatest level, of that shape.
        """
        self._has_prior = True
        return PFGMPPNoise(self.config.D, math.prod(shape[1:])).sample(shape, self.config.sigma_max, generator, dtype)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Place the steps, at least 2, and start anew; `timesteps` has an entry for each of the 2n - 1 evaluations.

        Parameters
        ----------
        num_inference_steps
            How many steps the sampler takes.
        device
            Device of the timesteps, by default the CPU.
        """
        c = self.config
        n = check_count("num_inference_steps", num_inference_steps, at_least=2)
        self._sigmas = edm_grid(n, c.sigma_min, c.sigma_max, c.rho)
        seen = [self._sigmas[0], *(s for sigma in self._sigmas[1:-1] for s in (sigma, sigma))]
        times = [0.25 * math.log(s) for s in seen] if self._preconditioned else seen
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self.num_inference_steps = n
        self.step_index = self.begin_index = None

    def scale_model_input(
        self, sample: Float[Tensor, " batch *shape"], timestep: Any = None
    ) -> Float[Tensor, " batch *shape"]:
        """Return what the network takes: the sample, for ``v`` scaled to unit size.

        Parameters
        ----------
        sample
            The state, of shape (batch, ...).
        timestep
            The entry of `timesteps` at hand.

        Returns
        -------
        Tensor of shape (batch, ...)
            The network's input, of the shape of `sample`.
        """
        if not self._preconditioned:
            return sample
        sigma = self._sigmas[(self._index(timestep) + 1) // 2]
        return sample / math.hypot(sigma, self.config.sigma_data)

    def add_noise(
        self,
        original_samples: Float[Tensor, " batch *shape"],
        noise: Float[Tensor, " batch *shape"],
        timesteps: Float[Tensor, "..."],
    ) -> Float[Tensor, " batch *shape"]:
        """Return the samples with noise of scale 1 (`PFGMPPNoise.sample`) at the noise levels of `timesteps`.

        Parameters
        ----------
        original_samples
            Clean samples, of shape (batch, ...).
        noise
            Noise of scale 1, of shape (batch, ...).
        timesteps
            Timesteps of the noise, one for all or one for each sample.

        Returns
        -------
        Tensor of shape (batch, ...)
            Noisy samples, of shape (batch, ...).
        """
        check_alike("noise", noise, "original_samples", original_samples)
        times = timesteps.double().reshape(-1)
        sigma = (4 * times).exp() if self._preconditioned else times
        return original_samples + per_sample(sigma, original_samples) * noise

    def step(
        self,
        model_output: Float[Tensor, " batch *shape"],
        timestep: float | Tensor,
        sample: Float[Tensor, " batch *shape"],
        generator: Generator = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Return the sample at which the network is to be evaluated next, at last the result.

        Parameters
        ----------
        model_output
            What the network made of the (scaled) sample.
        timestep
            The entry of `timesteps` that it got.
        sample
            What the call before returned, not scaled; it is not changed.
        generator
            Not used: pipelines pass one to every scheduler.
        return_dict
            Whether to return an object with `prev_sample`, or a tuple.

        Returns
        -------
        SchedulerOutput | tuple[Tensor]
            The next state, in a `SchedulerOutput` or a tuple of one.

        Raises
        ------
        TypeError
            Where `sample` is no tensor of floating point.
        RuntimeError
            Before `set_timesteps`, or after the last step.
        ValueError
            Where the shapes differ, or D is finite and the first state wasn't drawn by `sample_prior`.
        """
        output, x = self._take(model_output, sample)
        index = self._index(timestep)
        if index == 0 and self.begin_index is None and not self._has_prior:
            raise ValueError(
                f"sample is no draw of sample_prior, which D = {self.config.D:g} takes in place of normal noise: give "
                "it to the pipeline as its latents (set_begin_index(0) says that another first state is meant)"
            )
        if index == len(self.timesteps):
            raise RuntimeError(f"step was called after the last of {index} evaluations; set_timesteps starts anew")
        i = (index + 1) // 2
        slope = self._slope(output, x, self._sigmas[i])
        if index % 2 == 0:  # a step begins
            h = self._sigmas[i + 1] - self._sigmas[i]
            self._base, self._first = x, slope
            following = torch.add(x, slope, alpha=h)
        else:
            h = self._sigmas[i] - self._sigmas[i - 1]
            following = combine((1.0, 0.5 * h, 0.5 * h), (self._base, self._first, slope))
        self.step_index = index + 1
        return self._output(following, sample, self.step_index == len(self.timesteps), return_dict)

    def _forget(self) -> None:
        del self._base, self._first

    def _index(self, timestep: float | Tensor) -> int:
        if self.step_index is not None:
            return self.step_index
        index = self._start(timestep)
        return index + index % 2  # a trajectory begins where a step does

    def _slope(self, output: Tensor, x: Tensor, sigma: float) -> Tensor:
        kind = self.config.prediction_type
        if kind == "epsilon":
            return output
        if self._preconditioned:
            data, total = self.config.sigma_data, sigma**2 + self.config.sigma_data**2
            sign = 1 if kind == "raw" else -1
            output = combine((data**2 / total, sign * sigma * data / math.sqrt(total)), (x, output))
        return (x - output) / sigma
