"""What the paper claims of its bounds, and of training on them."""

import copy
import importlib
import os
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from paperworks.evidence import Measurement, Run, Table, interleaved, measures, races
from paperworks.papers.auto_lirpa.architectures import ARCHITECTURES, Residual, build
from paperworks.papers.auto_lirpa.points import attacked, extreme_point
from paperworks.papers.auto_lirpa.training import (
    Loss,
    digits_in,
    errors,
    losses_over_weights,
    perceptron,
    train,
    train_over_weights,
)
from paperworks.robustness import (
    BoundedModule,
    BoundedTensor,
    CrossEntropyWrapper,
    Perturbation,
    PerturbationL0Norm,
    PerturbationLpNorm,
    margin_spec,
    robust_cross_entropy,
)

SETS: dict[str, Perturbation] = {
    "L inf": PerturbationLpNorm(0.03),
    "L2": PerturbationLpNorm(0.1, 2),
    "L1": PerturbationLpNorm(0.15, 1),
    "L0": PerturbationL0Norm(1),
}
METHODS = ("IBP", "CROWN-IBP", "forward+backward", "CROWN", "alpha-CROWN")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}


def outputs_reached(module: nn.Module, ptb: Perturbation, x: Tensor, points: int, steps: int, generator: Any) -> Tensor:
    """Return outputs (points, batch, out) at random and extreme points of each set, and at those that attacks find."""
    copies = x.repeat(points, *(1,) * (x.ndim - 1))

    def directions() -> Tensor:
        return torch.randn(copies.shape, generator=generator, dtype=x.dtype)

    found = extreme_point(ptb, copies, directions())
    if isinstance(ptb, PerturbationLpNorm):  # convex: half of the points lie between two extreme ones
        share = torch.rand(len(copies), generator=generator, dtype=x.dtype).clamp(min=0.5)
        share = (2 * share - 1).reshape(-1, *(1,) * (x.ndim - 1))
        found = found + share * (extreme_point(ptb, copies, directions()) - found)
    with torch.no_grad():
        outputs = [module(found).unflatten(0, (points, len(x)))]
    for i in range(outputs[0].shape[2]):
        for sign in (1, -1):
            worst = attacked(lambda z, i=i, s=sign: s * module(z)[:, i], ptb, x, steps)  # type: ignore[misc]
            with torch.no_grad():
                outputs.append(module(worst)[None])
    return torch.cat(outputs)


@measures("l1-sound")
def sound(run: Run) -> Measurement:
    """Count outputs beyond bounds, over architectures, sets and methods."""
    points = run.at(smoke=20, desk=4000, full=40_000)
    names = list(ARCHITECTURES)[:: run.at(smoke=9, desk=1, full=1)]
    violations, checked, without, rows = {"float32": 0, "float64": 0}, 0, 0, []
    for name in run.progress(names, label="architectures"):
        worst = dict.fromkeys(violations, 0.0)
        for dtype, tolerance in TOLERANCE.items():
            key = str(dtype).removeprefix("torch.")
            module = build(name, dtype, run.seed).requires_grad_(False)
            x = torch.rand(2, *ARCHITECTURES[name].shape, generator=run.torch_rng(), dtype=dtype)
            bounded = BoundedModule(module, x, {"steps": 2})
            for ptb in SETS.values():
                outputs = outputs_reached(module, ptb, x, points, run.at(smoke=5, desk=50, full=50), run.torch_rng())
                checked += outputs[..., 0].numel()
                scale = 1 + outputs.abs()
                for method in METHODS:
                    try:
                        lower, upper = bounded.compute_bounds(BoundedTensor(x, ptb), method)
                    except ValueError:  # the set is so large that a reciprocal may leave its domain: no bound is given
                        without += 1
                        continue
                    beyond = torch.maximum(lower - outputs, outputs - upper) / scale
                    violations[key] += int((beyond > tolerance).sum())
                    worst[key] = max(worst[key], float(beyond.max()))
        rows.append([name, worst["float32"], worst["float64"]])
    return Measurement(
        violations,
        table=Table(["architecture", "furthest beyond a bound, float32", "float64"], rows),
        remark=f"{checked:,} points of {len(names)} architectures, each held against bounds of {len(METHODS)} methods; "
        f"{without} bounds were refused, as a reciprocal might have left its domain.",
    )


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


@measures("l2-tightness")
def tightness(run: Run) -> Measurement:
    """Train networks naturally, and compare the mean widths of bounds of their logits."""
    methods = ("IBP", "CROWN-IBP", "forward", "forward+backward", "CROWN", "alpha-CROWN")
    few = run.at(smoke=2, desk=16, full=100)
    ratios, rows, worse = {}, [], 0
    networks = list(natural_networks().items())[: run.at(smoke=1, desk=4, full=4)]
    for name, make in run.progress(networks, label="networks"):
        torch.manual_seed(run.seed)
        data, (x, _) = digits_in(run.torch_rng())
        model = train(make(), data, "natural", 0.0, run.at(smoke=1, desk=15, full=50), run.torch_rng()).eval()
        model.requires_grad_(False)
        x, ball = x[:few], PerturbationLpNorm(0.02)
        reached = outputs_reached(model, ball, x, run.at(smoke=20, desk=500, full=5000), 10, run.torch_rng())
        spread = float((reached.amax(0) - reached.amin(0)).mean())
        bounded = BoundedModule(model, x, {"steps": run.at(smoke=2, desk=20, full=100)})
        found = {method: bounded.compute_bounds(BoundedTensor(x, ball), method) for method in methods}
        widths = {method: float((upper - lower).mean()) for method, (lower, upper) in found.items()}
        (low, high), (alpha_low, alpha_high) = found["CROWN"], found["alpha-CROWN"]
        worse += int((alpha_low < low).sum() + (alpha_high > high).sum())
        ratios[name] = (widths["CROWN"] / widths["CROWN-IBP"], widths["CROWN-IBP"] / widths["IBP"])
        rows.append([name, *(widths[method] / spread for method in methods)])
    crown, crown_ibp = zip(*ratios.values(), strict=True)
    return Measurement(
        {
            "crown_to_crown_ibp": sum(crown) / len(crown),
            "crown_ibp_to_ibp": sum(crown_ibp) / len(crown_ibp),
            "alpha_worse": worse,
        },
        table=Table(["network", *(f"{method}, width to range reached" for method in methods)], rows),
    )


@measures("l3-certified-training")
def certified_training(run: Run) -> Measurement:
    """Train on digits naturally, on intervals and on mixed linear bounds, and verify."""
    epochs, eps = run.at(smoke=1, desk=60, full=200), 0.1
    kinds: tuple[Loss, ...] = ("natural", "IBP", "CROWN-IBP")
    checks = ("IBP", "CROWN-IBP", "CROWN")
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for seed in run.seeds:
        for kind in kinds:
            torch.manual_seed(seed)
            data, test = digits_in(run.torch_rng(seed))
            model = train(
                perceptron(64, 128, 128, 10), data, kind, eps, epochs, run.torch_rng(seed), progress=run.progress
            )
            found[kind].append(errors(model, test, eps, checks, attack=20))
    columns = ("clean", "attack", *checks)
    rows = [[kind, *(sum(e[c] for e in all_) / len(all_) for c in columns)] for kind, all_ in found.items()]
    return Measurement.over_seeds(
        {
            "clean": [e["clean"] for e in found["CROWN-IBP"]],
            "verified": [e["CROWN-IBP"] for e in found["CROWN-IBP"]],
            "below_natural": [
                n["CROWN-IBP"] - e["CROWN-IBP"] for n, e in zip(found["natural"], found["CROWN-IBP"], strict=True)
            ],
        },
        table=Table(
            ["training", *(f"{c} error, %" if i < 2 else f"verified by {c}, %" for i, c in enumerate(columns))], rows
        ),
    )


class _Live(TorchDispatchMode):
    """Keeps the greatest number of bytes that tensors made under it take at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.live = {k: v for k, v in self.live.items() if not v[0].expired()}
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out


def peak_bytes(job: Callable[[], Any]) -> int:
    """Return the greatest number of bytes that a job's tensors take at one time."""
    with _Live() as live:
        job()
    return live.peak


@measures("l4-loss-fusion", exclusive=True)
def loss_fusion(run: Run) -> Measurement:
    """Time training steps by margins and by the fused loss for growing numbers of classes."""
    repeats = run.at(smoke=1, desk=7, full=15)
    classes = run.at(smoke=(10, 20), desk=(10, 50, 200, 1000), full=(10, 50, 200, 1000))
    at = run.at(smoke=20, desk=200, full=200)  # where times are compared
    times: dict[int, dict[str, float]] = {}
    memory, looser = {}, 0
    for k in classes:
        torch.manual_seed(run.seed)
        model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, k))
        x, y = torch.randn(64, 128), torch.randint(k, (64,))
        ball = BoundedTensor(x, PerturbationLpNorm(0.01))
        plain, fused = BoundedModule(model, x), BoundedModule(CrossEntropyWrapper(model), (x, y))
        C = margin_spec(y, k) if k <= at else None

        def by_margins(C: Tensor | None = C, ball: Any = ball, plain: Any = plain) -> None:
            lower, _ = plain.compute_bounds(ball, "CROWN-IBP", C=C, bound_upper=False)
            robust_cross_entropy(lower).mean().backward()

        def by_fusion(method: Any = "CROWN-IBP", ball: Any = ball, y: Tensor = y, fused: Any = fused) -> None:
            fused.compute_bounds((ball, y), method, bound_lower=False)[1].mean().backward()

        jobs: dict[str, Callable[[], Any]] = {"fused": by_fusion, "IBP": lambda f=by_fusion: f("IBP")}  # type: ignore[misc]
        if C is not None:
            jobs["margins"] = by_margins
        times[k] = interleaved(run, jobs, repeats)
        memory[k] = peak_bytes(by_fusion)
        if k <= at:
            looser += looser_cases(model, x[:16], y[:16], k)
    rows = [
        [k, *(1e3 * times[k].get(job, float("nan")) for job in ("margins", "fused", "IBP")), memory[k] / 1e6]
        for k in classes
    ]
    return Measurement(
        {
            "speed_up": times[at]["margins"] / times[at]["fused"],
            "time_to_ibp": times[at]["fused"] / times[at]["IBP"],
            "memory_growth": memory[classes[-1]] / memory[classes[0]],
            "looser_cases": looser,
        },
        table=Table(["classes", "margins, ms a step", "fused, ms", "intervals, ms", "fused, peak MB"], rows),
    )


def looser_cases(model: nn.Module, x: Tensor, y: Tensor, classes: int) -> int:
    """Count samples whose fused bound is above that from margins, with the same intermediate bounds."""
    model, x, count = copy.deepcopy(model).double(), x.double(), 0
    opts = {"intersect": False}
    plain, fused = BoundedModule(model, x, opts), BoundedModule(CrossEntropyWrapper(model), (x, y), opts)
    for eps in (0.003, 0.01, 0.03, 0.1):
        ball = BoundedTensor(x, PerturbationLpNorm(eps))
        with torch.no_grad():
            lower, _ = plain.compute_bounds(ball, "CROWN", C=margin_spec(y, classes), bound_upper=False)
            _, loss = fused.compute_bounds((ball, y), "CROWN", bound_lower=False)
        count += int((loss > robust_cross_entropy(lower) + 1e-9).sum())
    return count


@measures("l5-weight-perturbation")
def weight_perturbation(run: Run) -> Measurement:
    """Train on few digits naturally and on bounds over balls of weights, and compare both on such balls."""
    epochs, radius = run.at(smoke=2, desk=100, full=300), 0.005
    ratios, gains, rows = [], [], []
    for seed in run.seeds:
        (x, y), test = digits_in(run.torch_rng(seed))
        few = (x[: len(x) // 8], y[: len(x) // 8])  # a tenth of all
        losses, accuracy = {}, {}
        for kind, ball in (("natural", 0.0), ("certified", radius)):
            torch.manual_seed(seed)
            model = perceptron(64, 64, 64, 10)
            train_over_weights(model, few, ball, epochs, run.torch_rng(seed), run.progress)
            losses[kind] = losses_over_weights(model, few, radius)
            accuracy[kind] = 100 - errors(model, test, 0.0, ())["clean"]
            rows.append([seed, kind, *losses[kind].values(), accuracy[kind]])
        ratios.append(losses["natural"]["certified"] / losses["certified"]["certified"])
        gains.append(accuracy["certified"] - accuracy["natural"])
    columns = ["seed", "training", "loss", "loss after adversarial moves", "certified loss", "test accuracy, %"]
    return Measurement.over_seeds({"certified_loss": ratios, "accuracy": gains}, table=Table(columns, rows))


def official() -> types.ModuleType:
    """Import auto_LiRPA as installed, or from the folder that $PAPERWORKS_AUTO_LIRPA names."""
    folder = os.environ.get("PAPERWORKS_AUTO_LIRPA")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("auto_LiRPA")


@races("auto-lirpa")
def against_auto_lirpa(run: Run) -> Measurement:
    """Wrap the same perceptron and CNN, bound the same margins, and compare times and values."""
    theirs = official()
    few, repeats = run.at(smoke=4, desk=64, full=360), run.at(smoke=1, desk=7, full=15)
    inputs, labels = digits_in(run.torch_rng())[1]
    x, y = inputs[:few], labels[:few]
    C, rows = margin_spec(y, 10), []
    worst: dict[str, list[float]] = {"difference": [], "crown_time": [], "wrap_time": []}
    for name in ("perceptron", "residual CNN"):
        torch.manual_seed(run.seed)
        model = natural_networks()[name]().eval()

        ours, peer = BoundedModule(model, x, {"intersect": False}), theirs.BoundedModule(model, x)

        def our_bound(method: Any, wrapped: BoundedModule = ours) -> Tensor:
            return wrapped.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.02)), method, C=C, bound_upper=False)[0]

        def their_bound(method: str, wrapped: Any = peer) -> Tensor:
            ball = theirs.BoundedTensor(x, theirs.PerturbationLpNorm(norm=torch.inf, eps=0.02))
            return wrapped.compute_bounds(x=(ball,), method=method, C=C, bound_upper=False)[0]

        with torch.no_grad():
            apart = max(
                float((our_bound(method) - their_bound(method)).abs().max()) for method in ("CROWN-IBP", "CROWN")
            )
            jobs: dict[str, Callable[[], Any]] = {
                "ours": partial(our_bound, "CROWN"),
                "theirs": partial(their_bound, "CROWN"),
                "our wrapping": partial(BoundedModule, model, x),
                "their wrapping": partial(theirs.BoundedModule, model, x),
            }
            seconds = interleaved(run, jobs, repeats)
        worst["difference"].append(apart)
        worst["crown_time"].append(seconds["ours"] / seconds["theirs"])
        worst["wrap_time"].append(seconds["our wrapping"] / seconds["their wrapping"])
        rows.append([name, apart, *(1e3 * seconds[job] for job in jobs)])
    return Measurement(
        {key: max(values) for key, values in worst.items()},
        table=Table(["network", "largest difference", "CROWN, ms", "theirs", "wrapping, ms", "theirs"], rows),
        remark=f"auto_LiRPA {getattr(theirs, '__version__', 'of unknown version')}; the worse of two networks counts.",
    )
