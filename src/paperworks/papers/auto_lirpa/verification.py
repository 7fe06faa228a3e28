"""Deciding robustness: how many instances a search decides where plain bounds prove half."""

import statistics

import torch
from torch import Tensor, nn

from paperworks.evidence import Measurement, Run, Table, every, proportion
from paperworks.numerics import seeded
from paperworks.papers.auto_lirpa.training import Data, digits_in, perceptron, train
from paperworks.robustness import (
    BoundedModule,
    BoundedTensor,
    PerturbationLpNorm,
    Verdict,
    margin_spec,
    robustness_property,
    verify_robustness,
)
from paperworks.testbeds import fashion_mnist


def decided(run: Run) -> Measurement:
    """Verify test images of two small networks, at radii where CROWN proves half of other, training images."""
    few, seconds = run.at(smoke=3, desk=100, full=500), run.at(smoke=2.0, desk=10.0, full=60.0)
    names = run.at(smoke=["perceptron, digits"], desk=list(NETWORKS), full=list(NETWORKS))
    rows, answers, beyond = [], [], []
    for name in names:
        model, (train_x, train_y), (x, y) = classifier(run, name)
        eps = radius_of_half(model, *right(model, train_x, train_y, run.at(smoke=20, desk=200, full=500)))
        x, y = right(model, x, y, few)
        by_bounds = proved(model, x, y, eps)
        found = verify_robustness(model, x, y, eps, seconds, progress=run.progress)
        beyond += [
            reached(model, x[i], int(y[i]), eps, run.at(smoke=100, desk=2500, full=2500), run.torch_rng(i))
            for i, verdict in enumerate(found)
            if verdict.answer == "holds"
        ]
        beyond += [
            int(not valid(model, x[i], int(y[i]), eps, v)) for i, v in enumerate(found) if v.answer == "violated"
        ]
        answers += [v.answer for v in found]
        share = {a: sum(v.answer == a for v in found) for a in ("holds", "violated", "unknown")}
        spent = [v.seconds for v in found]
        branches = max(v.branches for v in found)
        rows.append([name, eps, by_bounds, *share.values(), branches, statistics.median(spent), max(spent)])
    total = sum(a != "unknown" for a in answers)
    return Measurement(
        {
            "decided": proportion(total, len(answers), of="instances"),
            "wrong": every(beyond, of="verdicts"),
        },
        table=Table(
            [
                "network",
                "radius",
                "proved by CROWN",
                "hold",
                "violated",
                "unknown",
                "most branches",
                "median s",
                "most s",
            ],
            rows,
        ),
        remark=f"{len(answers)} images that the networks classify rightly; each image that holds was attacked at "
        f"{4 * run.at(smoke=100, desk=2500, full=2500):,} points.",
    )


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 4, stride=3), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


NETWORKS = {
    "perceptron, digits": lambda: perceptron(64, 64, 64, 10),
    "CNN, Fashion-MNIST": _convolutional,
}


def classifier(run: Run, name: str) -> tuple[nn.Module, Data, Data]:
    """Return a network trained naturally, what it was trained on, and the test data."""
    seed, epochs = run.seed, run.at(smoke=1, desk=3, full=10)
    if name.endswith("digits"):
        data, test = digits_in(run.torch_rng(seed))
        epochs *= 5
    else:
        few = run.at(smoke=512, desk=20_000, full=60_000)
        pair = (fashion_mnist(split) for split in ("train", "test"))
        data, test = (((images[:few] + 1) / 2, images.labels[:few]) for images in pair)
    with seeded(seed):
        model = NETWORKS[name]()

    def fit(network: nn.Module) -> None:
        train(network, data, "natural", 0.0, epochs, run.torch_rng(seed), progress=run.progress)

    return run.trained("verified", model, fit, kind=name, seed=seed, epochs=epochs), data, test


def right(model: nn.Module, x: Tensor, y: Tensor, few: int) -> Data:
    """Return the first images that are classified rightly."""
    with torch.no_grad():
        kept = (model(x[: 3 * few]).argmax(1) == y[: 3 * few]).nonzero().flatten()[:few]
    return x[kept], y[kept]


def proved(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> int:
    """Return of how many images CROWN proves the class."""
    count = 0
    for images, labels in zip(x.split(50), y.split(50), strict=True):
        ball = PerturbationLpNorm(eps, x_L=torch.zeros_like(images), x_U=torch.ones_like(images))
        bounded = BoundedModule(model, images)
        margins, _ = bounded.compute_bounds(BoundedTensor(images, ball), C=margin_spec(labels, 10), bound_upper=False)
        count += int((margins > 0).all(1).sum())
    return count


def radius_of_half(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return a radius where CROWN proves half of some images, by bisection."""
    low, high = 0.0, 0.3
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if 2 * proved(model, x, y, middle) > len(x) else (low, middle)
    return (low + high) / 2


def reached(model: nn.Module, x: Tensor, label: int, eps: float, starts: int, generator: torch.Generator) -> int:
    """Return how many of four times `starts` attacked points violate a property that is said to hold."""
    prop = robustness_property(x, eps, label, 10, clip=(0, 1))
    low, high = prop.lower.to(x), prop.upper.to(x)
    share = torch.rand((starts, *x.shape), generator=generator)
    points = torch.where(torch.arange(starts).view(-1, *(1,) * x.ndim) % 2 == 0, share, share.round())
    points = (low + points * (high - low)).clamp(low, high)
    count = 0
    for step in range(4):
        points.requires_grad_()
        margin = prop.margin(model(points))
        count += int((margin <= 0).sum())
        if step < 3:
            (gradient,) = torch.autograd.grad(margin.sum(), points)
            points = (points.detach() - eps / 2 * gradient.sign()).clamp(low, high)
    return count


def valid(model: nn.Module, x: Tensor, label: int, eps: float, verdict: Verdict) -> bool:
    """Return whether a counterexample lies in the ball, and is classified otherwise or tied in single precision too."""
    prop = robustness_property(x, eps, label, 10, clip=(0, 1))
    assert verdict.counterexample is not None
    point = verdict.counterexample[None]
    with torch.no_grad():
        return bool(prop.holds_input(point)) and float(prop.margin(model(point.float()))) <= 1e-5
