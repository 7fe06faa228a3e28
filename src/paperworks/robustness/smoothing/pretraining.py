"""Pretraining of an encoder without labels: random views, the target's moving average, and the loop around the loss."""

import copy
import math
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_count, check_number
from paperworks.numerics.random import torch_generator
from paperworks.numerics.training import ExponentialAverage, Progress, silent, train, warmup_cosine
from paperworks.robustness.smoothing.contrast import RRCMLoss
from paperworks.robustness.smoothing.encoder import NoiseConditionedEncoder
from paperworks.robustness.smoothing.schedules import TargetEMASchedule

E = TypeVar("E", bound=NoiseConditionedEncoder)


@runtime_checkable
class ImageSet(Protocol):
    """A tensor of images, or whatever makes some of its images a tensor when it is indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Int64[Tensor, " batch"], /) -> Float[Tensor, "batch channels height width"]: ...


def random_views(
    x: Float[Tensor, "batch channels height width"],
    scale: tuple[float, float] = (0.4, 1.0),
    *,
    flip: bool = True,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """Return a random crop of each image, resized to all of it, and mirrored half of the time.

    Parameters
    ----------
    x
        Images of shape (batch, channels, height, width).
    scale
        Least and greatest share of an image's area that is kept. Default 0.4 to 1, of the paper. The ratio of width to
        height varies between 3/4 and 4/3 as far as it fits.
    flip
        Whether images are mirrored.
    generator
        Source of the crops, on the device of `x`.

    Returns
    -------
    Tensor of shape (batch, channels, height, width)
        Views of the shape of the images.

    Raises
    ------
    ValueError
        Unless ``0 < scale[0] <= scale[1] <= 1``.

    Examples
    --------
    >>> random_views(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """
    check_number("scale[0]", scale[0], gt=0, le=1)
    check_number("scale[1]", scale[1], ge=scale[0], le=1)
    batch = len(x)
    share, ratio, *place, side = torch.rand(5, batch, generator=generator, device=x.device, dtype=x.dtype)
    area = scale[0] + (scale[1] - scale[0]) * share
    stretch = ((2 * ratio - 1) * math.log(4 / 3) / 2).exp()  # the square root of the ratio
    sizes = (area.sqrt() * torch.stack([stretch, 1 / stretch])).clamp(max=1)
    centres = (2 * torch.stack(place) - 1) * (1 - sizes)
    mirror = torch.where((side < 0.5) & flip, -1.0, 1.0).to(x)
    zero = torch.zeros_like(mirror)
    rows = [mirror * sizes[0], zero, centres[0], zero, sizes[1], centres[1]]
    grid = functional.affine_grid(torch.stack(rows, 1).view(batch, 2, 3), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, decay: float) -> None:
    """Move a network's weights towards another's, and copy its buffers, such as means of batch normalisation.

    Parameters
    ----------
    target, online
        The moving average, and the network it follows.
    decay
        How much of itself the average keeps: 0 copies.

    Raises
    ------
    ValueError
        For a decay outside 0 to 1.

    Examples
    --------
    >>> target, online = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> update_target(target, online, decay=0.0)
    >>> bool(target.weight == online.weight)
    True
    """
    check_number("decay", decay, ge=0, le=1)
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - decay)
    for mine, theirs in zip(target.buffers(), online.buffers(), strict=True):
        mine.copy_(theirs)


def pretrain_encoder(
    encoder: E,
    images: ImageSet,
    loss: RRCMLoss,
    *,
    batch_size: int = 2048,
    lr: float = 1e-4,
    weight_decay: float = 0.0,
    warmup: int = 10_000,
    clip: float = 2.0,
    target_decay: TargetEMASchedule | None = None,
    decay: float = 0.9999,
    scale: tuple[float, float] = (0.4, 1.0),
    random_state: int = 0,
    progress: Progress = silent,
) -> E:
    """Pretrain an encoder without labels, for as many steps as the loss is scheduled.

    Parameters
    ----------
    encoder
        Trained in place.
    images
        With pixels from -1 to 1.
    loss
        The loss, whose `scales.total` is the number of steps.
    batch_size
        Images in a step, drawn without regard to epochs.
    lr, weight_decay, warmup
        AdamW's rate, which rises evenly over the first steps and falls to 0 along a cosine, and its decay of weights.
        Defaults of CIFAR-10; ImageNet: 2e-4, 0.03 and 15 000.
    clip
        Greatest norm of the gradient, after the warm-up.
    target_decay
        How slowly the target follows; that of the paper by default.
    decay
        Decay of the moving average that is returned; less in the first steps.
    scale
        As `scale` of `random_views`.
    random_state
        Seed of images, views, noise and noise levels.
    progress
        Wraps the range of steps.

    Returns
    -------
    NoiseConditionedEncoder
        The moving average of the encoder, in evaluation mode and ready to be fine-tuned.

    Raises
    ------
    ValueError
        For a batch of one, rates below 0, or more images in a batch than there are.

    Examples
    --------
    >>> from paperworks.robustness import RRCMConvNet, ScaleSchedule
    >>> encoder = RRCMConvNet(image_size=8, patch_size=2, widths=(8,))
    >>> images = torch.rand(16, 1, 8, 8)
    >>> pretrain_encoder(encoder, images, RRCMLoss(ScaleSchedule(3)), batch_size=4, warmup=1).training
    False
    """
    check_count("batch_size", batch_size, at_least=2, at_most=len(images))
    check_count("warmup", warmup, at_least=0)
    check_number("clip", clip, gt=0)
    steps = loss.scales.total
    target_decay = TargetEMASchedule(steps) if target_decay is None else target_decay
    device = next(encoder.parameters()).device
    generator = torch_generator(random_state, device=device)
    encoder.train()
    target = copy.deepcopy(encoder).requires_grad_(False)
    average = ExponentialAverage(encoder, decay)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr, weight_decay=weight_decay)

    def of_step(step: int) -> Tensor:
        x = images[torch.randint(len(images), (batch_size,), generator=generator, device=device)]
        original, aug1, aug2 = (random_views(x, scale, generator=generator) for _ in range(3))
        return loss(encoder, target, original, aug1, aug2, step, generator)["loss"]

    def follow(step: int, _: float) -> None:
        update_target(target, encoder, target_decay(step))
        average.update(step)

    train(
        of_step,
        optimizer,
        steps,
        schedule=lambda step: warmup_cosine(step, warmup, steps),
        clip=lambda step: clip if step >= warmup else math.inf,
        callback=follow,
        progress=progress,
        label="pretraining",
    )
    return average.network.requires_grad_(True)
