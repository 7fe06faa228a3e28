"""Training and checking of small classifiers, naturally or on bounds."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from paperworks.numerics import train as minimise
from paperworks.papers.auto_lirpa.points import attacked
from paperworks.robustness import (
    BoundedModule,
    BoundedParameter,
    BoundedTensor,
    CrossEntropyWrapper,
    PerturbationLpNorm,
    SmoothedScheduler,
    margin_spec,
)
from paperworks.testbeds import digits

Loss = Literal["natural", "IBP", "CROWN-IBP"]
Data = tuple[Tensor, Tensor]


def digits_in(generator: torch.Generator, parts: int = 5) -> tuple[Data, Data]:
    """Return images in [0, 1] and labels of the digits, shuffled: to train on, and one part to test on."""
    data = digits()
    order = torch.randperm(len(data), generator=generator)
    x, y = (data[:] + 1) / 2, data.labels
    test = len(data) // parts
    return (x[order[test:]], y[order[test:]]), (x[order[:test]], y[order[:test]])


def perceptron(*widths: int) -> nn.Sequential:
    """Return a perceptron with ReLU, after flattening."""
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batches(data: Data, size: int, generator: torch.Generator) -> Iterator[Data]:
    """Yield batches in random order."""
    for part in torch.randperm(len(data[0]), generator=generator).split(size):
        yield data[0][part], data[1][part]


def train(
    model: nn.Module,
    data: Data,
    loss: Loss,
    eps: float,
    epochs: int,
    generator: torch.Generator,
    lr: float = 1e-3,
    batch: int = 64,
    progress: Callable[..., Any] = lambda items, **_: items,
) -> nn.Module:
    """Train in place on the cross-entropy, or on its fused upper bound over balls that grow to `eps`.

    With CROWN-IBP, linear bounds and intervals are mixed by the schedule's kappa; the rate falls to a tenth for the
    last quarter.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    steps = epochs * -(-len(data[0]) // batch)
    fused = BoundedModule(CrossEntropyWrapper(model), (data[0][:2], data[1][:2]))
    radius = SmoothedScheduler(eps, steps // 20, steps // 2) if loss != "natural" else None
    stream = itertools.chain.from_iterable(batches(data, batch, generator) for _ in range(epochs))
    minimise(
        lambda step: _loss(fused, *next(stream), loss, radius),
        optimizer,
        steps,
        schedule=lambda step: 0.1 if step >= 3 * steps // 4 else 1.0,
        clip=8.0,
        callback=None if radius is None else (lambda *_: radius.step()),
        progress=progress,
        label=f"{loss} training",
    )
    return model


def _loss(fused: BoundedModule, x: Tensor, y: Tensor, loss: Loss, radius: SmoothedScheduler | None) -> Tensor:
    if radius is None or radius.eps == 0:
        return fused(x, y).mean()
    ball = BoundedTensor(x, PerturbationLpNorm(radius.eps, x_L=torch.tensor(0.0), x_U=torch.tensor(1.0)))
    kappa = radius.kappa if loss == "CROWN-IBP" else 0.0
    total = torch.zeros(())
    for method, share in (("CROWN-IBP", kappa), ("IBP", 1 - kappa)):
        if share > 0:
            _, upper = fused.compute_bounds((ball, y), method, bound_lower=False)
            total = total + share * upper.mean()
    return total


@torch.no_grad()
def errors(model: nn.Module, data: Data, eps: float, methods: tuple[str, ...], attack: int = 0) -> dict[str, float]:
    """Return errors in percent: clean, verified by each method, and under an attack of so many steps."""
    x, y = data
    ball = PerturbationLpNorm(eps, x_L=torch.tensor(0.0), x_U=torch.tensor(1.0))
    bounded = BoundedModule(model, x[:2])
    classes = model(x[:1]).shape[1]
    found = {"clean": float((model(x).argmax(1) != y).double().mean() * 100)}
    for method in methods:
        lower, _ = bounded.compute_bounds(BoundedTensor(x, ball), method, C=margin_spec(y, classes), bound_upper=False)
        found[method] = float((lower <= 0).any(1).double().mean() * 100)
    if attack:
        with torch.enable_grad():
            worst = attacked(lambda z: -functional.cross_entropy(model(z), y, reduction="none"), ball, x, attack)
        found["attack"] = float((model(worst).argmax(1) != y).double().mean() * 100)
    return found


def perturb_weights(model: nn.Sequential, radius: float) -> None:
    """Let every weight matrix range over an L2 ball of this radius; radius 0 fixes them."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            weight = layer.weight
            if not isinstance(weight, BoundedParameter):
                layer.weight = weight = BoundedParameter(weight)
            weight.ptb = PerturbationLpNorm(radius, 2) if radius else None


def train_over_weights(
    model: nn.Sequential,
    data: Data,
    radius: float,
    epochs: int,
    generator: torch.Generator,
    progress: Callable[..., Any] = lambda items, **_: items,
) -> None:
    """Train on the cross-entropy, or (`radius` > 0) on its upper bound over balls of weights that grow to `radius`."""
    perturb_weights(model, 0.0)  # the optimiser is to have the parameters that can be perturbed
    fused = BoundedModule(CrossEntropyWrapper(model), (data[0][:2], data[1][:2]))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    stream = itertools.chain.from_iterable(batches(data, 32, generator) for _ in range(epochs))
    an_epoch = -(-len(data[0]) // 32)

    def of_step(step: int) -> Tensor:
        now = radius * min(1.0, 2 * (step // an_epoch) / epochs)
        if step % an_epoch == 0:
            perturb_weights(model, now)
        x, y = next(stream)
        losses = fused.compute_bounds((x, y), "CROWN-IBP", bound_lower=False)[1] if now else fused(x, y)
        return losses.mean()

    minimise(of_step, optimizer, epochs * an_epoch, progress=progress)
    perturb_weights(model, 0.0)


def losses_over_weights(model: nn.Sequential, data: Data, radius: float, steps: int = 10) -> dict[str, float]:
    """Return the mean loss, the one after gradient steps of all weights inside their balls, and the certified one."""
    x, y = data
    clean = {n: p.detach().as_subclass(Tensor) for n, p in model.named_parameters() if p.ndim == 2}
    moved = dict(clean)
    for _ in range(steps):
        leaves = {n: w.clone().requires_grad_() for n, w in moved.items()}
        loss = functional.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
        for (n, w), g in zip(leaves.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True):
            step = w.detach() - clean[n] + radius * g / g.norm().clamp(min=1e-12)
            moved[n] = clean[n] + step * (radius / step.norm().clamp(min=radius))
    fused = BoundedModule(CrossEntropyWrapper(model), (x, y))
    with torch.no_grad():
        after = functional.cross_entropy(torch.func.functional_call(model, moved, (x,)), y)
        before = fused(x, y).mean()
        perturb_weights(model, radius)
        _, upper = fused.compute_bounds((x, y), "CROWN-IBP", bound_lower=False)
        perturb_weights(model, 0.0)
    return {"clean": float(before), "moved": float(after), "certified": float(upper.mean())}
