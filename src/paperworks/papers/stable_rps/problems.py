"""Small networks on digits, trained whole, shared, pruned or narrow, and the lottery tickets of one of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paperworks.numerics import mlp, seeded, torch_generator
from paperworks.testbeds import digits
from paperworks.training import apply_masks, compress_model, compression_report, lottery_ticket_rewind, prune_at_init

BATCH = 128
PRUNING = {"random": "random", "magnitude": "mag", "snip": "snip", "grasp": "grasp", "synflow": "synflow"}
METHODS = ("fold", *PRUNING, "narrow")
RATES = {
    10: {"fold": 1.6, "magnitude": 0.2, "snip": 0.2, "grasp": 0.2, "rewinding": 0.2},
    100: {"fold": 3.2, "grasp": 1.6, "narrow": 1.6},
    500: {"fold": 6.4, "synflow": 1.6, "rewinding": 1.6},
}
"""Learning rates by compression and method, where not 0.8: the best of 0.05, 0.2, 0.8, 1.6, 3.2, ... on two other
seeds, each taken as far as the accuracy rose."""
FLAT_RATES = {"fold": 6.4, "snip": 0.8}
"""Those of perceptrons at 200 times, where not 0.2."""


class Split(NamedTuple):
    """Digits to train with and to test on."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def split(seed: int, flat: bool = False) -> Split:
    """Return three quarters of the digits to train with, and the others."""
    data = digits()
    order = torch.randperm(len(data), generator=torch_generator(seed, 1))
    x, y = data[order], data.labels[order]
    x, few = x.flatten(1) if flat else x, len(x) * 3 // 4
    return Split(x[:few], y[:few], x[few:], y[few:])


def convnet(widths: tuple[int, int, int] = (32, 64, 128)) -> nn.Sequential:
    """Return three convolutions with batch norm and a linear layer, of 93 728 weights."""
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(zip((1, *widths), widths, strict=False)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if number < 2 else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def perceptron(widths: tuple[int, int] = (256, 256)) -> nn.Sequential:
    """Return a perceptron without batch norm, of 84 480 weights."""
    return mlp([64, *widths, 10])


def weights_of(model: nn.Module) -> int:
    """Count the weights of linear layers and convolutions."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))


def narrowed(make: Callable[..., nn.Module], widths: tuple[int, ...], size: int) -> nn.Module:
    """Return the widest network of these proportions with no more parameters than `size`, norms included."""

    def made(share: float) -> nn.Module:
        return make(tuple(max(1, round(w * share)) for w in widths))

    with torch.device("meta"):  # to count, no numbers are needed
        low, high = 0.0, 1.0
        for _ in range(12):
            share = (low + high) / 2
            fits = sum(p.numel() for p in made(share).parameters()) <= size
            low, high = (share, high) if fits else (low, share)
    return made(low)


def fit(
    model: nn.Module, data: Split, start: int, stop: int, steps: int, seed: int, state: Any = None, lr: float = 0.05
) -> dict[str, Any]:
    """Train by SGD with momentum 0.9, weight decay 5e-4 and a rate that falls along a cosine; return its state.

    Step `start` to before `stop` of `steps`; each epoch has its own order of the data, from the seed.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    if state is not None:
        optimizer.load_state_dict(state)
    each = len(data.x) // BATCH
    model.train()
    for step in range(start, stop):
        if step == start or step % each == 0:
            order = torch.randperm(len(data.x), generator=torch_generator(seed, 2, step // each))
        rows = order[step % each * BATCH :][:BATCH]
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + np.cos(np.pi * step / steps)) / 2
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(data.x[rows]), data.y[rows]).backward()
        optimizer.step()
    return optimizer.state_dict()


@torch.no_grad()
def accuracy(model: nn.Module, data: Split) -> float:
    """Return the share of test digits that are recognised, in percent; a network that diverged has chance's."""
    found = model.eval()(data.x_test).argmax(1)
    return 100 * float((found == data.y_test).double().mean())


def rate_of(method: str, compression: int) -> float:
    """Return the learning rate of a method for the convolutional network, that of the nearest compression tuned for."""
    nearest = min(RATES, key=lambda known: abs(np.log(known / compression)))
    return RATES[nearest].get(method, 0.8)


def trained_by(method: str, compression: int, seed: int, epochs: int, flat: bool, lr: float) -> dict[str, float]:
    """Train one network compressed by one method; return its accuracy and the parameters that it stores."""
    data, widths = split(seed, flat), (256, 256) if flat else (32, 64, 128)
    make: Any = perceptron if flat else convnet
    with seeded(seed):
        model = make()
        count = weights_of(model)
        others = sum(p.numel() for p in model.parameters()) - count
        stored = count // compression + others
        if method == "fold":
            compress_model(model, compression, random_state=seed)
            stored = compression_report(model).stored + others
        elif method == "narrow":
            model = narrowed(make, widths, stored)
            stored = sum(p.numel() for p in model.parameters())
        elif method in PRUNING:
            few = torch.cat([(data.y == label).nonzero()[:10, 0] for label in range(10)])  # ten of each class
            masks = prune_at_init(
                model.train(), PRUNING[method], 1 / compression, data=(data.x[few], data.y[few]),
                loss_fn=cross_entropy, random_state=seed,
            )  # fmt: skip
            apply_masks(model, masks)
    steps = epochs * (len(data.x) // BATCH)
    fit(model, data, 0, steps, steps, seed, lr=lr)
    return {"accuracy": accuracy(model, data), "stored": stored}


def rewound(compression: int, seed: int, epochs: int, levels: int, lr: float) -> dict[str, float]:
    """Find a lottery ticket from the second epoch on; return the accuracy of the network trained with it."""
    data = split(seed)
    each = len(data.x) // BATCH
    steps = epochs * each
    with seeded(seed):
        model = convnet()
    ticket = lottery_ticket_rewind(
        model,
        lambda model, start, stop, state: fit(model, data, start, stop, steps, seed, state, lr),
        1 / compression,
        steps=steps,
        rewind=min(2, epochs - 1) * each,
        levels=levels,
    )
    return {"accuracy": accuracy(model, data), "density": ticket.densities[-1]}
