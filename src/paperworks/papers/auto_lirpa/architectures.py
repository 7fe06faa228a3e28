"""Small networks of every kind, each with an input: what the claims bound."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from paperworks.numerics import seeded
from paperworks.papers.auto_lirpa.vit import VisionTransformer


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(x)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Add the input to what is inside."""
        return x + self.inner(x)


class Dense(nn.Module):
    """Every layer sees all before it."""

    def __init__(self, width: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width + i * growth, growth) for i in range(layers))
        self.head = nn.Linear(width + layers * growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate as it goes."""
        for layer in self.layers:
            x = torch.cat([x, layer(x).relu()], -1)
        return self.head(x)


class Recurrent(nn.Module):
    """A cell unrolled over a sequence, and a head on its last state."""

    def __init__(self, cell: nn.Module, width: int) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(width, 3)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Run along axis 1."""
        state = x.new_zeros(len(x), self.width)
        pair = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        for step in x.unbind(1):
            pair = self.cell(step, pair)
        return self.head(pair[0] if isinstance(pair, tuple) else pair)


class Attention(nn.Module):
    """A transformer's block: attention, layer norms, a feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down, self.head = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, feed forward, and average the words."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = self.first(x + self.out(mixed.transpose(1, 2).flatten(2)))
        x = self.second(x + self.down(functional.gelu(self.up(x))))
        return self.head(x.mean(1))


class Gated(nn.Module):
    """A product of two branches, and a quotient."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(width, 5) for _ in range(3))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Gate, and divide by something positive."""
        gated = self.a(x).tanh() * self.b(x).sigmoid()
        return self.head(gated / (1 + self.c(x).square()))


class Bilinear(nn.Module):
    """A second-order pooling by einsum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(width, 3), nn.Linear(width, 3), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Sum outer products over the words."""
        return self.head(torch.einsum("bti,btj->bij", self.a(x), self.b(x)).flatten(1))


@dataclass(frozen=True)
class Architecture:
    """How to make a network, and the shape of one input."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1),
        nn.LeakyReLU(0.1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def _resnet() -> nn.Module:
    def conv() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3))

    block = Residual(nn.Sequential(conv(), nn.ReLU(), conv()))
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        block,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def _max_pool() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1), nn.Flatten(), nn.Linear(12, 3)
    )


def _decoder() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 8), nn.ELU(), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 2, 3, stride=2, output_padding=1),
        nn.GroupNorm(2, 2), nn.Softplus(), nn.Flatten(), nn.Linear(72, 3),
    )  # fmt: skip


def _smooth() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.Mish(), nn.Linear(8, 3)
    )


def _hard() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.Hardswish(), nn.Linear(8, 8), nn.Hardtanh(), nn.Linear(8, 8), nn.ReLU6(), nn.Linear(8, 3)
    )


def _waves() -> nn.Module:
    sine = Lambda(lambda x: torch.sin(3 * x) + torch.cos(x).abs())
    return nn.Sequential(
        nn.Linear(6, 8), sine, nn.Linear(8, 8), Lambda(lambda x: x.square().add(1).log()), nn.Linear(8, 3)
    )


def _probabilities() -> nn.Module:
    sums = Lambda(lambda x: torch.cat([x.softmax(-1), x.log_softmax(-1), x.logsumexp(-1, keepdim=True)], -1))
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 5), sums, nn.Linear(11, 3))


def _signal() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=2, dilation=2), nn.Tanh(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3, groups=2),
        nn.InstanceNorm1d(4), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


ARCHITECTURES = {
    "MLP": Architecture(_mlp, (6,)),
    "CNN with batch norm": Architecture(_cnn, (1, 7, 7)),
    "residual CNN": Architecture(_resnet, (1, 6, 6)),
    "dense concatenation": Architecture(lambda: Dense(6, 4, 3), (6,)),
    "max-pooling CNN": Architecture(_max_pool, (1, 6, 6)),
    "decoder with group norm": Architecture(_decoder, (5,)),
    "SiLU, GELU, Mish": Architecture(_smooth, (6,)),
    "hard activations": Architecture(_hard, (6,)),
    "sines and logarithms": Architecture(_waves, (6,)),
    "softmax and log-sum-exp": Architecture(_probabilities, (6,)),
    "1-d CNN": Architecture(_signal, (2, 12)),
    "LSTM": Architecture(lambda: Recurrent(nn.LSTMCell(3, 4), 4), (2, 3)),
    "GRU": Architecture(lambda: Recurrent(nn.GRUCell(3, 4), 4), (2, 3)),
    "attention block": Architecture(lambda: Attention(6, 2), (4, 6)),
    "product gate": Architecture(lambda: Gated(6), (6,)),
    "second-order pooling": Architecture(lambda: Bilinear(4), (4, 4)),
}


class Masked(nn.Module):
    """Causal attention, with a word that no one may look at, and a choice by sign."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.norm, self.head = nn.Linear(width, 3 * width), nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Attend under a mask of minus infinity, choose, and average."""
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        mask[1:, 1] = False
        scores = (q @ k.mT / x.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        x = self.norm(x + scores.softmax(-1) @ v)
        return self.head(torch.where(x > 0, x, 0.1 * x).mean(1))


def _deep() -> nn.Module:
    layers = [part for _ in range(12) for part in (Residual(nn.Sequential(nn.Linear(10, 10), nn.ReLU())), nn.Tanh())]
    return nn.Sequential(nn.Linear(6, 10), *layers, nn.Linear(10, 3))


FURTHER = {
    "masked attention": Architecture(lambda: Masked(6), (4, 6)),
    "12 residual layers": Architecture(_deep, (6,)),
    "vision transformer": Architecture(lambda: VisionTransformer(8, 2, 4, 3), (1, 4, 4)),
}
"""Kinds that are bounded for soundness alone."""


def build(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """Return a network with random weights and, where it normalises by the batch, random statistics."""
    with seeded(seed):
        module = (ARCHITECTURES | FURTHER)[name].make().to(dtype).eval()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 1.5)
    return module
