"""Training of small networks on images, the same for the same seed and fast enough to do on demand."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from paperworks.numerics.random import torch_generator
from paperworks.numerics.training import ExponentialAverage, Progress, silent, train, warmup_cosine
from paperworks.testbeds.data import Images

Network = TypeVar("Network", bound=nn.Module)
Loss = Callable[[Network, Tensor, Tensor, torch.Generator], Tensor]

_NOT_HIDDEN = ("first", "last", "out", "embed_level", "embed_class")  # layers that Adam trains


def fit(
    network: Network,
    loss: Loss[Network],
    data: Images,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 2e-3,
    matrix_lr: float = 0.02,
    decay: float = 0.999,
    random_state: int = 0,
    progress: Progress = silent,
) -> Network:
    """Train a network and return the moving average of its weights, in evaluation mode.

    Hidden matrices and convolutions are trained by `Muon`, all else by Adam; rates rise over 50 steps and fall to 0
    along a cosine.

    Parameters
    ----------
    network
        Trained in place.
    loss
        Called with the network, images, labels and a generator for whatever it draws.
    data
        What to train on.
    steps, batch_size
        Number of steps, and of images in each.
    lr, matrix_lr
        Greatest rates of Adam and of Muon.
    decay
        How much of the average a step keeps; less in the first steps.
    random_state
        Seed of the generator that draws images and noise.
    progress
        Wraps the range of steps.

    Returns
    -------
    nn.Module
        A frozen copy with the averaged weights.

    Examples
    --------
    >>> from paperworks.testbeds import Classifier, digits
    >>> def loss(network, images, labels, generator):
    ...     return nn.functional.cross_entropy(network(images), labels)
    >>> network = fit(Classifier(side=8, width=8), loss, digits(), steps=2, batch_size=8)
    >>> network.training
    False
    """
    generator = torch_generator(random_state)
    average = ExponentialAverage(network, decay)
    ends = {id(p) for name, p in network.named_parameters() if name.partition(".")[0] in _NOT_HIDDEN}
    weights: list[Tensor] = list(network.parameters())
    matrices = [p for p in weights if p.ndim >= 2 and id(p) not in ends]
    rest = [p for p in weights if p.ndim < 2 or id(p) in ends]

    def of_step(step: int) -> Tensor:
        chosen = torch.randint(len(data), (batch_size,), generator=generator)
        return loss(network, data[chosen], data.labels[chosen], generator)

    train(
        of_step,
        [Muon(matrices, matrix_lr), torch.optim.Adam(rest, lr, betas=(0.9, 0.99))],
        steps,
        schedule=lambda step: min(1, (step + 1) / 50) * warmup_cosine(step, 0, steps),
        callback=lambda step, _: average.update(step),
        progress=progress,
    )
    return average.network


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is replaced by the nearest orthogonal one; it needs a third of Adam's steps.

    A convolution counts as the matrix of its output channels. Source: K. Jordan and others, "Muon: an optimizer for
    hidden layers in neural networks" (2024), whose Newton-Schulz iteration and constants these are.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].mul_(group["momentum"]).add_(weight.grad)
                update = torch.add(weight.grad, momentum, alpha=group["momentum"]).flatten(1)
                rows, columns = update.shape
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                weight.sub_(_orthogonal(update).view_as(weight), alpha=scale)


def _orthogonal(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Push the singular values of a matrix towards 1, which five steps do up to a factor of about 0.7 to 1.2."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x if wide is matrix else x.T


def accuracy(network: nn.Module, images: Float[Tensor, "n 1 side side"], labels: Int64[Tensor, " n"]) -> float:
    """Return the fraction of images that a classifier puts into their class.

    Parameters
    ----------
    network
        Maps images to logits; its mode, training or evaluation, is as it stands.
    images
        (n, 1, side, side).
    labels
        The right class of each.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> network = nn.Flatten()  # the four pixels are the logits of four classes
    >>> accuracy(network, torch.eye(4).reshape(4, 1, 2, 2), torch.tensor([0, 1, 2, 0]))
    0.75
    """
    with torch.no_grad():
        found = torch.cat([network(part).argmax(1) for part in images.split(500)])
    return float((found == labels).double().mean())
