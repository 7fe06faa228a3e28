"""Networks to train on digits, and those that are raced on: of the sizes that verifiers are compared on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from paperworks.numerics import seeded
from paperworks.papers.auto_lirpa.architectures import Residual
from paperworks.papers.auto_lirpa.training import perceptron


def natural_networks() -> dict[str, Callable[[], nn.Module]]:
    """Return networks for the digits."""

    def convolutional() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip

    def residual() -> nn.Module:
        block = Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1)))
        first = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        return nn.Sequential(first, nn.ReLU(), block, nn.ReLU(), nn.Flatten(), nn.Linear(96, 10))

    def smooth() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 10)
        )

    return {
        "perceptron": lambda: perceptron(64, 128, 128, 10),
        "CNN with batch norm": convolutional,
        "residual CNN": residual,
        "tanh and GELU": smooth,
    }


class Block(nn.Module):
    """Two convolutions beside one of size 1, or beside nothing, each normalised by the batch."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *_normalised(channels, out, 3, stride), nn.ReLU(), *_normalised(out, out, 3, 1)
        )  # fmt: skip
        beside = stride != 1 or channels != out
        self.short = nn.Sequential(*_normalised(channels, out, 1, stride)) if beside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Add both."""
        return (self.inner(x) + self.short(x)).relu()


def _normalised(channels: int, out: int, kernel: int, stride: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    yield nn.BatchNorm2d(out)


def _two_convolutions(width: int) -> nn.Module:
    convolutions = nn.Conv2d(1, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(98 * width, 100), nn.ReLU(), nn.Linear(100, 10))


def _four_convolutions(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for channels, out, kernel, stride in ((3, 1, 3, 1), (1, 1, 4, 2), (1, 2, 3, 1), (2, 2, 4, 2)):
        channels = channels * width if layers else channels  # of the image
        layers += [nn.Conv2d(channels, out * width, kernel, stride, 1), nn.ReLU()]
    wide = 16 * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * width, wide), nn.ReLU(), nn.Linear(wide, 10))


def _residual(width: int, blocks: tuple[tuple[int, int, int], ...]) -> nn.Module:
    stem = *_normalised(3, width, 3, 2), nn.ReLU()
    parts = [Block(width * channels, width * out, stride) for channels, out, stride in blocks]
    head = nn.LazyLinear(100), nn.ReLU(), nn.Linear(100, 10)
    return nn.Sequential(*stem, *parts, nn.Flatten(), *head)


@dataclass(frozen=True)
class Raced:
    """A network of a width, its usual one, and the shape of an input."""

    make: Callable[[int], nn.Module]
    width: int
    shape: tuple[int, ...]

    def untrained(self, seed: int, narrower: int) -> tuple[nn.Module, Tensor]:
        """Return the network before training, with the statistics of a batch of noise, and an input."""
        with seeded(seed):
            model = self.make(self.width // narrower)
            with torch.no_grad():
                model.train()(torch.rand(64, *self.shape))
            return model.eval(), torch.rand(1, *self.shape)


RACED = {
    "mlp": Raced(lambda width: nn.Sequential(nn.Flatten(), perceptron(784, *[width] * 4, 10)), 256, (1, 28, 28)),
    "mnist_2conv": Raced(_two_convolutions, 16, (1, 28, 28)),
    "cifar_4conv": Raced(_four_convolutions, 32, (3, 32, 32)),
    "resnet2b": Raced(partial(_residual, blocks=((1, 2, 2), (2, 2, 2))), 8, (3, 32, 32)),
    "resnet4b": Raced(partial(_residual, blocks=((1, 2, 2), (2, 2, 1), (2, 2, 2), (2, 2, 1))), 16, (3, 32, 32)),
}
"""A perceptron of four layers of 256, convolutional networks, and the residual ones of the VNN-COMP benchmark."""
