"""Trainings of small networks on algorithmic tasks and images, with what was seen on the way."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from paperworks.numerics import mlp, seeded, torch_generator
from paperworks.testbeds import fashion_mnist
from paperworks.training import NumericalStabilityMonitor, OrthoGrad, nlm_alignment

Data = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
EPS = 1e-25
"""Adam's epsilon: the usual 1e-8 would stop learning by itself once gradients are smaller."""


class Seen(NamedTuple):
    """What was seen after an epoch."""

    epoch: int
    loss: float
    train: float
    test: float
    collapse: float
    alignment: float
    """Cosine of the step to all weights, before a projection."""
    across: float
    """Largest absolute cosine of a tensor's gradient to its weights, as the optimiser gets it."""
    margin: float


class PairNetwork(nn.Module):
    """Two hidden layers without biases for pairs of numbers.

    Its first layer is linear in two one-hot vectors of p, which it doesn't make: it gathers their columns.
    """

    def __init__(self, p: int, width: int = 200) -> None:
        super().__init__()
        self.first = nn.Linear(2 * p, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, p, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        columns = self.first.weight.t()
        p = len(columns) // 2
        hidden = functional.embedding(pairs[:, 0], columns[:p]) + functional.embedding(pairs[:, 1], columns[p:])
        return self.out(functional.relu(self.second(functional.relu(hidden))))


class PairTransformer(nn.Module):
    """One layer of a transformer on two tokens; the class is read at the second."""

    def __init__(self, p: int, width: int = 128, heads: int = 4, hidden: int = 2048) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(p, width), nn.Parameter(torch.randn(2, width) / math.sqrt(width))
        self.layer = nn.TransformerEncoderLayer(width, heads, hidden, batch_first=True)
        self.out = nn.Linear(width, p)

    def forward(self, pairs: Tensor) -> Tensor:
        return self.out(self.layer(self.tokens(pairs) + self.places)[:, -1])


def softmax_loss(dtype: torch.dtype) -> Loss:
    """Return the cross-entropy with a softmax in a precision; the mean is taken in that of the logits.

    Losses of samples are added in half precision without their number, which would underflow gradients; Adam, whose
    epsilon is next to nothing, takes the same steps.
    """

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        z = logits.to(dtype)
        z = z - z.amax(1, keepdim=True).detach()
        losses = z.exp().sum(1).log() - z.gather(1, y[:, None])[:, 0]
        return losses.to(logits.dtype).sum() if dtype.itemsize == 2 else losses.mean()

    return loss


def adamw(params: Iterable[Tensor], lr: float = 0.01, weight_decay: float = 0.0, beta: float = 0.99) -> Any:
    """Return the optimiser of the paper's code."""
    return torch.optim.AdamW(
        params, lr, betas=(0.9, beta), eps=EPS, weight_decay=weight_decay, foreach=True
    )  # fmt: skip


def with_grokfast(optimizer: torch.optim.Optimizer, decay: float = 0.98, gain: float = 2.0) -> torch.optim.Optimizer:
    """Add Grokfast-EMA (arXiv 2405.20233): to each gradient `gain` times the moving average of those before."""
    averages: dict[Tensor, Tensor] = {}

    def amplify(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            average = averages.setdefault(p, p.grad.clone())
            average.lerp_(p.grad, 1 - decay)
            p.grad.add_(average, alpha=gain)

    optimizer.register_step_pre_hook(amplify)
    return optimizer


def fit(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    train: Data,
    test: Data,
    epochs: int,
    every: int,
    *,
    precision: torch.dtype | None = None,
    until: Callable[[Seen], bool] = lambda seen: False,
) -> list[Seen]:
    """Train on all samples at once and look each `every` epochs; stop where `until` says so.

    What is seen of training samples and gradients is from before the step, the test accuracy from after it.
    """
    monitor = NumericalStabilityMonitor(network, every, dtype=precision)
    base = optimizer.base_optimizer if isinstance(optimizer, OrthoGrad) else optimizer
    found: list[Seen] = []
    across = [math.nan]

    def look(*_: Any) -> None:  # at the gradients as they reach the optimiser
        if not monitor.steps % every:
            cosines = nlm_alignment(network, per_tensor=True)
            across[0] = max((abs(c) for c in cosines.values() if not math.isnan(c)), default=math.nan)

    handle = base.register_step_pre_hook(look)
    for epoch in range(1, epochs + 1):
        optimizer.zero_grad()
        logits = network(train[0])
        value = loss(logits, train[1])
        value.backward()
        seen = monitor.update(logits.detach(), train[1])
        optimizer.step()
        if seen is not None:
            found.append(Seen(epoch, value.item(), seen.accuracy, accuracy(network, test), seen.collapse,
                              seen.alignment, across[0], seen.margin))  # fmt: skip
            if until(found[-1]):
                break
    handle.remove()
    return found


def accuracy(network: nn.Module, data: Data) -> float:
    """Return the share of samples that a network classifies right, in evaluation mode."""
    training = network.training
    network.eval()
    with torch.no_grad():
        right = (network(data[0]).argmax(1) == data[1]).double().mean()
    network.train(training)
    return float(right)


def pair_network(p: int, seed: int, width: int = 200) -> PairNetwork:
    """Return the paper's network with weights of a seed."""
    with seeded(seed):
        return PairNetwork(p, width)


METHODS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "⊥Grad": lambda network: OrthoGrad(adamw(network.parameters())),
    "nothing": lambda network: adamw(network.parameters()),
    "weight decay 1": lambda network: adamw(network.parameters(), weight_decay=1.0),
    "Grokfast-EMA": lambda network: with_grokfast(adamw(network.parameters())),
}
"""Optimisers that are held against each other, by what they have beside AdamW at the paper's settings."""


def fitted_at(found: list[Seen]) -> float:
    """Return the first epoch at which all training samples were right, infinite where there was none."""
    return reached_at(found, lambda seen: seen.train == 1)


def reached_at(found: list[Seen], reached: Callable[[Seen], bool]) -> float:
    """Return the first epoch at which something was so, infinite where it never was."""
    return next((float(seen.epoch) for seen in found if reached(seen)), math.inf)


def sparse_network(bits: int, seed: int, width: int = 200) -> nn.Module:
    """Return a network with biases for rows of bits."""
    with seeded(seed):
        return mlp([bits, width, width, 2])


class Multiplied(nn.Module):
    """A network whose logits are multiplied, with weights larger than usual from the start."""

    def __init__(self, network: nn.Module, logits: float, weights: float = 1.0) -> None:
        super().__init__()
        self.network, self.factor = network, logits
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.network(x)


def image_network(seed: int, logits: float, weights: float, width: int = 200) -> nn.Module:
    """Return the paper's network for images of 28x28 pixels."""
    with seeded(seed):
        return Multiplied(mlp([784, width, width, 10]), logits, weights)


def garments(n: int, n_test: int, seed: int) -> tuple[Data, Data]:
    """Return a few training images as rows, drawn by a seed, and the first test images."""
    train, test = fashion_mnist("train"), fashion_mnist("test")
    chosen = torch.randperm(len(train), generator=torch_generator(seed))[:n]
    rows = slice(0, n_test)
    return (train[chosen].flatten(1), train.labels[chosen]), (test[rows].flatten(1), test.labels[rows])
