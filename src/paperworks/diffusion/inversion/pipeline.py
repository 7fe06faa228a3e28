"""Exact inversion and editing of real images with a pipeline of diffusers.

A pipeline hands one state from step to step, and BDIA needs two. So the pipeline runs with a scheduler that carries
the other one and knows where to begin (`_Leg`): all that the pipeline does beside (encoding prompts, guidance, control
networks, adapters) stays its own, and is the same in both directions.
"""

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.diffusion.inversion.sampler import BDIAResult, check_pair, last_part, warn_of_amplification, way_back
from paperworks.diffusion.inversion.scheduler import BDIADDIMScheduler
from paperworks.diffusion.sampling import check_state
from paperworks.diffusion.scheduler_config import OF_THE_NETWORK, SchedulerOutput
from paperworks.diffusion.schedulers import Generator

_OWN = ("latents", "num_inference_steps", "timesteps", "sigmas", "return_dict", "batch_size")


@dataclass(frozen=True)
class BDIAImages(BDIAResult):
    """What a pipeline made by BDIA, with its images.

    Parameters
    ----------
    images
        The images, in the pipeline's own form.

    Examples
    --------
    >>> states = torch.zeros(1, 2), torch.ones(1, 2)
    >>> BDIAImages(states[0], nfe=9, pair=states, images=["an image"]).images
    ['an image']
    """

    images: Any = field(default=None, repr=False)


class _Leg(BDIADDIMScheduler):
    """One direction of a round trip: visits times that were chosen before, from the pair that the other one left.

    It keeps the states in double precision. The network sees them rounded, and so the same numbers in both directions:
    what is lost on a round trip is the rounding of a few sums in double precision, whatever the network's own is.
    """

    def lead(
        self, times: tuple[float, ...], state: Tensor, older: Tensor | None = None, *, toward_data: bool = True
    ) -> "_Leg":
        """Say which times to visit, and from which state; `older` came before where the state is second of a pair."""
        self.toward_data = toward_data  # type: ignore[misc]
        self.chosen, self.older, self.state = times, older, state
        return self

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None) -> None:
        """Place the chosen times, however many are asked for."""
        self._visit(list(self.chosen), device)
        if self.older is not None:
            self.previous_sample, self.step_index = self.older, 1
            self.timesteps = self.timesteps[1:]

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generator = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Step on from the state, whose rounding the sample is, or from the sample where something has changed it."""
        if not torch.equal(self.state.to(sample.dtype), sample):
            self.state = wide(sample)
        self.state = super().step(model_output, timestep, self.state)[0]
        following = self.state.to(sample.dtype)
        return SchedulerOutput(following) if return_dict else (following,)

    def result(self, sample_dtype: torch.dtype, kind: Any = BDIAResult, **others: Any) -> Any:
        """Return the last state, rounded, with the pair that starts the way back."""
        if self.previous_sample is None or self.step_index != self.num_inference_steps:
            raise RuntimeError(f"the pipeline was interrupted before the last of {self.num_inference_steps} steps")
        pair = (self.state, self.previous_sample)
        return kind(self.state.to(sample_dtype), len(self.timesteps), self.chosen, pair=pair, **others)


def wide(x: Tensor) -> Tensor:
    """Return a tensor in double precision, or in single precision where the device has no other."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


class BDIAPipeline:
    """A diffusers pipeline whose sampling can be undone exactly: to edit real images (arXiv 2307.10829, section 4).

    It works with the pipelines from text to images whose network predicts noise (or the data, or v) and that take
    `latents`, and with those without a condition, whose `unet` it then runs itself. The pipeline is not changed; its
    scheduler says how the network was trained, and all its settings count where it is a `BDIADDIMScheduler`.

    Parameters
    ----------
    pipeline
        The pipeline of diffusers.
    gamma
        Share of the correction, above 0 and at most 1; see `BDIASampler`. By default that of the pipeline's
        `BDIADDIMScheduler`, or 1 where it has another scheduler.

    Raises
    ------
    TypeError
        Where the pipeline takes no `latents` and has no `unet` to run without a condition.
    ValueError
        Where its scheduler is not of a network that was trained to take noise off, or gamma is out of range.

    Examples
    --------
    >>> import diffusers
    >>> unet = diffusers.UNet2DModel(
    ...     sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4,
    ...     layers_per_block=1, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ... )
    >>> pipeline = diffusers.DDPMPipeline(unet.eval(), diffusers.DDPMScheduler())
    >>> image = torch.rand(1, 1, 8, 8) * 2 - 1
    >>> bdia = BDIAPipeline(pipeline)
    >>> noise = bdia.invert(image, steps=10)
    >>> bool((bdia.resume(noise).sample - image).abs().max() < 1e-5)
    True

    From text, an edit is ``BDIAPipeline(pipeline).edit(image, {"prompt": "a dog"}, prompt="a cat").images``.
    """

    def __init__(self, pipeline: Any, gamma: float | None = None) -> None:
        accepted = inspect.signature(type(pipeline).__call__).parameters
        self._takes_latents = "latents" in accepted
        self._accepted = frozenset(accepted)
        if not self._takes_latents and (not hasattr(pipeline, "unet") or {"prompt", "image"} & self._accepted):
            raise TypeError(
                f"pipeline is {type(pipeline).__name__}, which takes no latents and has no unet to run without a "
                "condition; it takes one from text to images, or one without a condition"
            )
        self.pipeline = pipeline
        self._config = _network_config(pipeline.scheduler)
        if gamma is not None:
            self._config["gamma"] = gamma
        self.gamma: float = check_number("gamma", self._config.get("gamma", 1.0), gt=0, le=1)
        self._new_leg()  # tells at once what the scheduler can't do

    @torch.no_grad()
    def encode(self, image: Any, generator: Generator = None) -> Tensor:
        """Return the state at the end of sampling that an image is.

        Parameters
        ----------
        image
            What the pipeline's `image_processor` takes: images, arrays, or a tensor with numbers from 0 to 1 and shape
            (batch, channels, height, width). A tensor with as many channels as the network's is such a state itself,
            as is every tensor for a pipeline that samples pixels.
        generator
            Draws from the distribution of the encoder; its mode is taken by default.

        Returns
        -------
        Tensor
            The state, of shape (batch, channels, height, width).

        Raises
        ------
        TypeError
            Where the image is none that the pipeline takes.
        ValueError
            Where a state has other channels than the network's, NaN or infinity.
        """
        vae = getattr(self.pipeline, "vae", None)
        network = self._network()
        if isinstance(image, Tensor) and (vae is None or image.shape[1] == network.config.in_channels):
            channels = network.config.in_channels
            if image.ndim < 3 or image.shape[1] != channels:
                raise ValueError(f"image has shape {tuple(image.shape)}; it takes (batch, {channels}, ...)")
            return check_state("image", image).to(network.device, network.dtype)
        if vae is None or not hasattr(self.pipeline, "image_processor"):
            raise TypeError(f"image is {type(image).__name__}; a pipeline without an encoder takes a tensor of states")
        pixels = self.pipeline.image_processor.preprocess(image).to(vae.device, vae.dtype)
        encoded = vae.encode(pixels)
        if hasattr(encoded, "latent_dist"):
            found = encoded.latent_dist
            latents = found.mode() if generator is None else found.sample(generator)
        else:
            latents = encoded.latents
        c = vae.config
        shift, scale = c.get("shift_factor") or 0.0, c.get("scaling_factor") or 1.0
        if c.get("latents_mean") is not None and c.get("latents_std") is not None:
            shift, std = (torch.tensor(c[n]).view(1, -1, 1, 1).to(latents) for n in ("latents_mean", "latents_std"))
            scale = scale / std
        return check_state("image", ((latents - shift) * scale).to(network.dtype))

    def invert(
        self, image: Any, steps: int = 50, *, strength: float = 1.0, generator: Generator = None, **inputs: Any
    ) -> BDIAResult:
        """Go from images to the noise that they come from.

        Parameters
        ----------
        image
            The images, see `encode`.
        steps
            Steps of the whole grid.
        strength
            Share of the grid to go back through, in (0, 1]; the noisiest rest is skipped.
        generator
            Draws the state from the encoder's distribution, see `encode`.
        inputs
            What the pipeline takes beside: `prompt` or `prompt_embeds`, `guidance_scale` and so on.

        Returns
        -------
        BDIAResult
            The noise, with the pair in double precision and the times that `resume` starts from, as does
            `BDIASampler.resume`.

        Raises
        ------
        ValueError
            Where an input is one that is set here, such as `num_inference_steps`.
        RuntimeError
            Where a callback interrupts the pipeline, whose state then belongs to no end of the way.

        Warns
        -----
        RuntimeWarning
            Where rounding is expected to grow above 1e-3 (`roundtrip_error_bound`).
        """
        check_count("steps", steps, at_least=2)
        check_number("strength", strength, gt=0, le=1)
        x = self.encode(image, generator)
        leg = self._new_leg()
        times = last_part(tuple(leg.grid(steps)), strength)
        warn_of_amplification(self.gamma, len(times) - 1, torch.float64)
        leg.lead(times[::-1], wide(x), toward_data=False)
        self._run(leg, x, {**inputs, "output_type": "latent"})
        return leg.result(x.dtype)

    def resume(self, noise: BDIAResult, **inputs: Any) -> BDIAImages:
        """Sample from what `invert` returned: with the same inputs the images return, with others they are edited.

        Parameters
        ----------
        noise
            What `invert` returned.
        inputs
            What the pipeline takes beside.

        Returns
        -------
        BDIAImages
            The images, with the final state and the pair that inverts it.

        Raises
        ------
        ValueError
            Where the noise is not of `invert`, the states of the pair differ in shape, or an input is one that is
            set here.
        RuntimeError
            Where a callback interrupts the pipeline.
        """
        times = way_back("noise", noise)
        older, newer = check_pair("noise", noise.pair)
        leg = self._new_leg().lead(times, wide(newer), wide(older))
        images = self._run(leg, newer.to(self._network().dtype), inputs)
        return leg.result(noise.sample.dtype, BDIAImages, images=images)

    def edit(
        self,
        image: Any,
        target: Mapping[str, Any],
        steps: int = 50,
        *,
        strength: float = 1.0,
        generator: Generator = None,
        **inputs: Any,
    ) -> BDIAImages:
        """Invert images under one condition and sample again under another.

        Parameters
        ----------
        image
            The images, see `encode`.
        target
            Inputs of the way back that differ: ``{"prompt": "a dog"}``.
        steps, strength, generator
            As in `invert`; a low strength keeps more of the images.
        inputs
            Inputs of both ways: the `prompt` that describes the images, `guidance_scale` and so on.

        Returns
        -------
        BDIAImages
            The edited images, with the final state and the pair that inverts it.
        """
        one_way = {"output_type"} & inputs.keys()
        there = self.invert(
            image, steps, strength=strength, generator=generator,
            **{name: value for name, value in inputs.items() if name not in one_way},
        )  # fmt: skip
        back = self.resume(there, **{**inputs, **target})
        return dataclasses.replace(back, nfe=there.nfe + back.nfe)

    def _network(self) -> Any:
        return next(found for name in ("unet", "transformer") if (found := getattr(self.pipeline, name, None)))

    def _new_leg(self) -> _Leg:
        return _Leg.from_config(self._config)

    def _run(self, leg: _Leg, x: Tensor, inputs: dict[str, Any]) -> Any:
        """Run the pipeline with a scheduler from a state, and return its images."""
        if wrong := [name for name in _OWN if name in inputs]:
            raise ValueError(f"inputs have {', '.join(wrong)}; these follow from the image and from steps")
        if not self._takes_latents:
            if more := inputs.keys() - {"output_type"}:
                raise TypeError(f"inputs have {', '.join(sorted(more))}; without a condition output_type is all")
            return self._run_network(leg, x, **inputs)
        pipeline = copy.copy(self.pipeline)
        pipeline.scheduler = leg
        defaults: dict[str, Any] = {}
        if isinstance(inputs.get("prompt"), str) and len(x) > 1:
            defaults["num_images_per_prompt"] = len(x)
        if (factor := getattr(pipeline, "vae_scale_factor", None)) and {"height", "width"} <= self._accepted:
            defaults |= {"height": x.shape[-2] * factor, "width": x.shape[-1] * factor}
        return pipeline(latents=x, num_inference_steps=len(leg.chosen) - 1, **{**defaults, **inputs})[0]

    @torch.no_grad()
    def _run_network(self, leg: _Leg, x: Tensor, output_type: str = "pil") -> Any:
        """Sample without a condition, from a state, as the pipelines do that take none."""
        unet = self.pipeline.unet
        leg.set_timesteps(device=x.device)
        for t in self.pipeline.progress_bar(leg.timesteps):
            x = leg.step(unet(x, t).sample, t, x)[0]
        if output_type == "latent":
            return x
        images = (x / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        arrays = images.cpu().permute(0, 2, 3, 1).float().numpy()
        return self.pipeline.numpy_to_pil(arrays) if output_type == "pil" else arrays


def _network_config(scheduler: Any) -> dict[str, Any]:
    """Return what a pipeline's scheduler says of its network; all that it says where it is BDIA's own."""
    config = scheduler.config
    if isinstance(scheduler, BDIADDIMScheduler):
        return dict(config)
    if "beta_schedule" not in config:
        raise ValueError(
            f"the scheduler of pipeline is {type(scheduler).__name__}, whose noise is not of the variance-preserving "
            "kind; BDIA-DDIM takes a network trained with beta_start, beta_end and beta_schedule, as for DDPM"
        )
    return {name: config[name] for name in OF_THE_NETWORK if name in config}
