"""Trained diffusion models of real images: trained on first use, in minutes, and kept."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.cache import trained
from paperworks.core.validation import check_choice
from paperworks.diffusion.models import NoiseModel, wrap_model
from paperworks.diffusion.schedules import DiscreteVP, NoiseSchedule
from paperworks.numerics.random import seeded
from paperworks.numerics.training import Progress, silent
from paperworks.testbeds.data import DATASETS, SIZES, Dataset, Images, Size, digits, fashion_mnist
from paperworks.testbeds.networks import Condition, UNet
from paperworks.testbeds.training import fit

_LEAST_LAM, _GREATEST_LAM = -5.2, 6.3  # from the noisiest level of the linear schedule to EDM's least noise
_UNLABELLED = 0.15  # of the training images, so that the network also knows what no class looks like


@dataclass(frozen=True)
class Settings:
    """How a denoiser is made and trained."""

    widths: tuple[int, ...]
    patch: int
    steps: int
    batch_size: int
    decay: float = 0.998


SETTINGS: dict[tuple[Dataset, Size], Settings] = {
    ("fashion-mnist", "desk"): Settings((32, 64, 128), patch=2, steps=500, batch_size=128),
    ("fashion-mnist", "smoke"): Settings((8, 16), patch=4, steps=10, batch_size=16),
    ("digits", "desk"): Settings((32, 64, 64), patch=1, steps=1200, batch_size=128),
    ("digits", "smoke"): Settings((8, 16), patch=2, steps=10, batch_size=16),
}


class Denoiser(nn.Module):
    """A network that knows the noise in an image at any noise level, so under any schedule.

    It takes images at unit total variance, ``alpha^2 + sigma^2 = 1``, and their ``lam = log(alpha / sigma)``.
    Inside, a U-Net predicts the velocity ``alpha eps - sigma x_0``, which is well scaled at every level.

    Parameters
    ----------
    network
        The U-Net that predicts the noise.
    shape
        Channels, height and width of the images.

    Examples
    --------
    >>> from paperworks.diffusion import NoiseScheduleVP
    >>> denoiser = Denoiser(UNet((8, 16)), (1, 28, 28))
    >>> model_fn = denoiser.model(NoiseScheduleVP.linear())
    >>> model_fn(torch.zeros(2, 1, 28, 28), 0.5).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, network: UNet, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.shape = shape

    def forward(
        self, x: Float[Tensor, "batch c h w"], lam: Float[Tensor, " batch"], condition: Condition | None = None
    ) -> Float[Tensor, "batch c h w"]:
        """Return the noise in `x`; the condition is a label for each image, or an embedding of one's own.

        Parameters
        ----------
        x
            Images of total variance 1, (batch, channels, height, width).
        lam
            ``log(alpha / sigma)``, one for each image.
        condition
            A label for each image, or an embedding of one's own; None for no class.

        Returns
        -------
        Tensor
            The noise in units of sigma, shaped as `x`.
        """
        alpha, sigma = unit_levels(lam)
        return sigma * x + alpha * self.network(x, lam, condition)

    def on(self, schedule: NoiseSchedule) -> Callable[..., Tensor]:
        """Return ``network(x, time, condition=None) -> noise`` as if it had been trained under a schedule.

        `time` is what the schedule's networks take, one per image; `wrap_model` makes it a sampler's model, guided if
        wanted. It is computed in the dtype of the network and answers in that of `x`.

        Parameters
        ----------
        schedule
            The noise schedule to act as if trained under.

        Returns
        -------
        callable
            The network under that schedule, a function of images and times.
        """

        def network(x: Tensor, time: Tensor, condition: Condition | None = None) -> Tensor:
            t = (time.double() + 1) / schedule.total if isinstance(schedule, DiscreteVP) else time.double()
            total = torch.hypot(schedule.alpha(t), schedule.sigma(t)).to(x)[:, None, None, None]
            dtype = self.network.first.weight.dtype
            return self((x / total).to(dtype), schedule.lam(t).to(dtype), condition).to(x)

        return network

    def model(
        self,
        schedule: NoiseSchedule,
        condition: Condition | None = None,
        scale: float = 1.0,
    ) -> NoiseModel:
        """Return ``model_fn(x, t) -> noise`` for samplers, with classifier-free guidance where `scale` isn't 1.

        Parameters
        ----------
        schedule
            The noise schedule.
        condition
            A label for each image, or an embedding of one's own.
        scale
            Strength of the guidance; 1 for none.

        Returns
        -------
        NoiseModel
            ``model_fn(x, t)`` at the schedule's own time.
        """
        if condition is None or scale == 1:
            return wrap_model(self.on(schedule), schedule, condition=condition)
        none = torch.full((len(condition),), self.network.classes, device=condition.device)
        if condition.is_floating_point():
            assert self.network.embed_class is not None
            none = self.network.embed_class(none)
        return wrap_model(
            self.on(schedule),
            schedule,
            guidance="classifier-free",
            condition=condition,
            unconditional=none,
            scale=scale,
        )


def unit_levels(lam: Float[Tensor, " batch"]) -> tuple[Float[Tensor, "batch 1 1 1"], Float[Tensor, "batch 1 1 1"]]:
    """Return alpha and sigma of total variance 1, shaped to multiply images."""
    lam = lam[:, None, None, None]
    return torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()


def trained_denoiser(
    dataset: Dataset = "fashion-mnist",
    *,
    conditional: bool = False,
    size: Size = "desk",
    random_state: int = 0,
    root: Path | None = None,
    progress: Progress = silent,
) -> Denoiser:
    """Return a trained denoiser, from the cache or else training it now.

    Of several processes that ask at once one trains, while the others wait. The key of the cache covers the
    settings and all code that trains.

    Parameters
    ----------
    dataset
        ``fashion-mnist`` (28x28, the 60 000 training images) or ``digits`` (8x8, all 1797).
    conditional
        Condition it on the class; without a label it is unconditional.
    size
        ``desk``: minutes on two cores; ``smoke``: a second, to try code and not quality.
    random_state
        Seed of the initial weights and of the training.
    root
        Folder of the cache; by default the user's.
    progress
        Wraps the range of training steps; `Run.progress` is one.

    Returns
    -------
    Denoiser
        Frozen, in evaluation mode.

    Raises
    ------
    DatasetMissing
        Where the images aren't on this machine.

    Examples
    --------
    >>> from paperworks.diffusion import NoiseScheduleVP
    >>> model_fn = trained_denoiser("digits", size="smoke").model(NoiseScheduleVP.linear())
    >>> model_fn(torch.zeros(2, 1, 8, 8), 0.5).shape
    torch.Size([2, 1, 8, 8])
    """
    check_choice("dataset", dataset, DATASETS)
    check_choice("size", size, SIZES)
    settings = SETTINGS[dataset, size]
    images = digits() if dataset == "digits" else fashion_mnist("train" if size == "desk" else "test")
    with seeded(random_state):
        network = UNet(settings.widths, settings.patch, images.classes if conditional else 0)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    train = partial(_train, images=images, settings=settings, random_state=random_state, progress=progress)
    inputs = {"settings": asdict(settings), "size": size, "conditional": conditional, "seed": random_state}
    trained(f"denoiser-{dataset}", network, train, inputs, root)
    return Denoiser(network, images.shape)


def _train(network: UNet, images: Images, settings: Settings, random_state: int, progress: Progress) -> UNet:
    return fit(
        network,
        velocity_loss,
        images,
        steps=settings.steps,
        batch_size=settings.batch_size,
        decay=settings.decay,
        random_state=random_state,
        progress=progress,
    )


def velocity_loss(network: UNet, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean square error of the velocity at noise levels spread evenly over a wide normal distribution."""
    batch = len(images)
    quantiles = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    lam = (2 * torch.special.ndtri(quantiles) - 0.5).clamp(_LEAST_LAM, _GREATEST_LAM)
    alpha, sigma = unit_levels(lam)
    noise = torch.randn(images.shape, generator=generator)
    condition = None
    if network.classes:
        condition = torch.where(torch.rand(batch, generator=generator) < _UNLABELLED, network.classes, labels)
    predicted = network(alpha * images + sigma * noise, lam, condition)
    return functional.mse_loss(predicted, alpha * noise - sigma * images)
