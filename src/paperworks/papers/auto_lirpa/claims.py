"""What the paper claims of its bounds, and of training on them."""

import copy
import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    Times,
    difference,
    every,
    exact,
    interleaved,
    mean,
    measures,
    races,
    ratio,
)
from paperworks.numerics import seeded
from paperworks.papers.auto_lirpa.architectures import ARCHITECTURES, FURTHER, build
from paperworks.papers.auto_lirpa.fuzz import DTYPES, REGIONS, cases, tried
from paperworks.papers.auto_lirpa.memory import peak_bytes
from paperworks.papers.auto_lirpa.networks import natural_networks
from paperworks.papers.auto_lirpa.points import attacked, extreme_point
from paperworks.papers.auto_lirpa.race import against_official
from paperworks.papers.auto_lirpa.search_race import against_their_bounds
from paperworks.papers.auto_lirpa.training import (
    Data,
    Loss,
    digits_in,
    errors,
    losses_over_weights,
    perceptron,
    train,
    train_over_weights,
)
from paperworks.papers.auto_lirpa.verification import decided
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
    **{f"L inf, {eps:g}": PerturbationLpNorm(eps) for eps in (1e-3, 0.01, 0.03, 0.1, 1.0)},
    **{f"L2, {eps:g}": PerturbationLpNorm(eps, 2) for eps in (0.01, 0.1, 1.0)},
    "L1": PerturbationLpNorm(0.15, 1),
    "L0": PerturbationL0Norm(1),
}
METHODS = ("IBP", "CROWN-IBP", "forward+backward", "CROWN", "alpha-CROWN")
PRECISIONS = (torch.float32, torch.float64)


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
    # Every output is pushed down and up, all at once: each copy of a sample has an objective of its own.
    sides = 2 * outputs[0].shape[2]
    objective = torch.arange(sides).repeat_interleave(len(x))
    rows, sign = torch.arange(len(objective)), (1 - 2 * (objective % 2)).to(x.dtype)
    copies = x.repeat(sides, *(1,) * (x.ndim - 1))
    worst = attacked(lambda z: sign * module(z)[rows, objective // 2], ptb, copies, steps)
    with torch.no_grad():
        outputs.append(module(worst).unflatten(0, (sides, len(x))))
    return torch.cat(outputs)


@measures("l1-sound")
def sound(run: Run) -> Measurement:
    """Count outputs beyond bounds, over architectures, sets and methods."""
    kinds_of_networks = [*ARCHITECTURES, *FURTHER, *(f"trained {name}" for name in natural_networks())]
    names = run.at(smoke=["masked attention", "trained perceptron"], desk=kinds_of_networks, full=kinds_of_networks)
    violations: dict[str, list[int]] = {_name(dtype): [0] * len(run.seeds) for dtype in PRECISIONS}
    worst = {(name, kind): 0.0 for name in names for kind in violations}
    checked, without = 0, 0
    cases = [(name, dtype, number) for name in names for dtype in PRECISIONS for number in range(len(run.seeds))]
    cases = cases[:: run.at(smoke=3, desk=1, full=1)]  # of smoke's two networks each in another precision
    for name, dtype, number in run.progress(cases, label="networks"):
        for found, beyond in distances_beyond(run, name, dtype, run.seeds[number]):
            checked += found
            without += beyond is None
            if beyond is not None:
                violations[_name(dtype)][number] += int((~(beyond <= 0)).sum())  # what is no number is beyond
                worst[name, _name(dtype)] = max(worst[name, _name(dtype)], float(beyond.max()))
    rows = [[name, *(worst[name, kind] for kind in violations)] for name in names]
    return Measurement(
        {kind: every(counts) for kind, counts in violations.items()},
        table=Table(["architecture", "furthest beyond a bound, float32", "float64"], rows),
        remark=f"{checked:,} points of {len(names)} networks, each held against bounds of {len(METHODS)} methods; "
        f"{without} bounds were refused, as an operator's input might have left its domain or its bounds overflown.",
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def distances_beyond(run: Run, name: str, dtype: torch.dtype, seed: int) -> Iterator[tuple[int, Tensor | None]]:
    """Yield for each set and method the number of new points, and how far each is beyond; None where none is given."""
    points, steps = run.at(smoke=20, desk=500, full=5000), run.at(smoke=5, desk=20, full=50)
    module, x = network_of(run, name, dtype, seed)
    bounded = BoundedModule(module, x, {"steps": 2, "sound": True, "optimize_intermediate": False})
    for kind in run.at(smoke=("L2, 0.1", "L0"), desk=tuple(SETS), full=tuple(SETS)):
        ptb = SETS[kind]
        outputs = outputs_reached(module, ptb, x, points, steps, run.torch_rng(seed))
        found = outputs[..., 0].numel()
        for method in METHODS:
            try:
                lower, upper = bounded.compute_bounds(BoundedTensor(x, ptb), method)
            except ValueError:  # the set is so large that a reciprocal may leave its domain: no bound is given
                yield found, None
            else:
                yield found, torch.maximum(lower - outputs, outputs - upper) / (1 + outputs.abs())
            found = 0


def network_of(run: Run, name: str, dtype: torch.dtype, seed: int) -> tuple[nn.Module, Tensor]:
    """Return a network, of random or of trained weights, and two inputs."""
    kind = name.removeprefix("trained ")
    if kind != name:
        module, (x, _) = natural_network(run, kind, seed)
        return copy.deepcopy(module).to(dtype).requires_grad_(False), x[:2].to(dtype)
    module = build(name, dtype, seed).requires_grad_(False)
    shape = (ARCHITECTURES | FURTHER)[name].shape
    return module, torch.rand(2, *shape, generator=run.torch_rng(seed), dtype=dtype)


@measures("l6-rules")
def every_rule(run: Run) -> Measurement:
    """Fuzz the rule of every operator in every type, over huge, tiny, denormal and tied numbers."""
    batch, points = run.at(smoke=2, desk=8, full=8), run.at(smoke=4, desk=64, full=256)
    every_nth = run.at(smoke=293, desk=1, full=1)  # odd, so that every type and region gets its turn
    beyond: list[int] = []
    rows: dict[str, list[int]] = {}
    for seed in run.seeds[: run.at(smoke=1, desk=1, full=3)]:
        beyond.append(0)
        chosen = list(itertools.product(cases(), DTYPES, REGIONS))[::every_nth]
        for (name, number, case), dtype, region in run.progress(chosen, label="operators"):
            found = tried(case, dtype, region, batch, points, 1000 * seed + number)
            row = rows.setdefault(name, [0, 0, 0])
            for i, count in enumerate((found.points, found.beyond, found.refused)):
                row[i] += count
            beyond[-1] += found.beyond + found.unnamed
    checked = sum(row[0] for row in rows.values())
    return Measurement(
        {"beyond": every(beyond)},
        table=Table(
            ["operator", "points held against bounds", "beyond", "refused"],
            [[name, *row] for name, row in rows.items()],
        ),
        remark=f"{checked:,} points in {len(DTYPES)} types; bounds are finite, or refused with the operator's name.",
    )


@measures("l2-tightness")
def tightness(run: Run) -> Measurement:
    """Train networks naturally, and compare the mean widths of bounds of their logits."""
    methods = ("IBP", "CROWN-IBP", "forward", "forward+backward", "CROWN", "alpha-CROWN")
    few = run.at(smoke=2, desk=16, full=100)
    names = list(natural_networks())[: run.at(smoke=1, desk=4, full=4)]
    widths: dict[str, list[list[float]]] = {name: [] for name in names}  # by seed and method, to the range reached
    worse = [0] * len(run.seeds)
    cases = [(number, name) for number in range(len(run.seeds)) for name in names]
    for number, name in run.progress(cases, label="networks"):
        seed = run.seeds[number]
        model, (x, _) = natural_network(run, name, seed)
        x, ball = x[:few], PerturbationLpNorm(0.02)
        reached = outputs_reached(model, ball, x, run.at(smoke=20, desk=500, full=5000), 10, run.torch_rng(seed))
        spread = float((reached.amax(0) - reached.amin(0)).mean())
        costly = {"optimize_intermediate": True, "optimize_decided": True, "seconds": math.inf}
        bounded = BoundedModule(model, x, {"steps": run.at(smoke=2, desk=20, full=100), **costly})
        found = {method: bounded.compute_bounds(BoundedTensor(x, ball), method) for method in methods}
        widths[name].append([float((upper - lower).mean()) / spread for lower, upper in found.values()])
        (low, high), (alpha_low, alpha_high) = found["CROWN"], found["alpha-CROWN"]
        worse[number] += int((alpha_low < low).sum() + (alpha_high > high).sum())

    def ratios(ours: str, theirs: str) -> list[float]:
        """Return the mean over networks of the ratio of widths, by seed."""
        a, b = methods.index(ours), methods.index(theirs)
        return [sum(w[n][a] / w[n][b] for w in widths.values()) / len(names) for n in range(len(run.seeds))]

    rows = [
        [name, *(sum(column) / len(column) for column in zip(*found, strict=True))] for name, found in widths.items()
    ]
    return Measurement(
        {
            "crown_to_crown_ibp": mean(ratios("CROWN", "CROWN-IBP")),
            "crown_ibp_to_ibp": mean(ratios("CROWN-IBP", "IBP")),
            "alpha_worse": every(worse),
        },
        table=Table(["network", *(f"{method}, width to range reached" for method in methods)], rows),
    )


def natural_network(run: Run, name: str, seed: int) -> tuple[nn.Module, Data]:
    """Return a network trained naturally on digits, and the test data."""
    epochs = run.at(smoke=1, desk=15, full=50)
    data, test = digits_in(run.torch_rng(seed))
    with seeded(seed):
        model = natural_networks()[name]()

    few = run.at(smoke=256, desk=None, full=None)

    def fit(network: nn.Module) -> None:
        train(network, (data[0][:few], data[1][:few]), "natural", 0.0, epochs, run.torch_rng(seed))

    return run.trained("natural-digits", model, fit, kind=name, seed=seed, epochs=epochs), test


def trainings(run: Run, copies: int) -> list[int]:
    """Return seeds of independent trainings: those of the run, and at desk scale `copies` - 1 more for each."""
    return [seed + 1000 * copy for copy in range(run.at(smoke=1, desk=copies, full=copies)) for seed in run.seeds]


CHECKS = ("IBP", "CROWN-IBP", "CROWN")


@measures("l3-certified-training")
def certified_training(run: Run) -> Measurement:
    """Train on digits naturally and on mixed linear bounds, once on intervals as well, and verify."""
    seeds = trainings(run, 2)
    kinds: dict[Loss, list[int]] = {"natural": seeds, "IBP": seeds[:1], "CROWN-IBP": seeds}
    cases = [(kind, seed) for kind, few in kinds.items() for seed in few]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for kind, seed in run.progress(cases, label="trainings"):
        found[kind].append(certified_errors(run, kind, seed))
    columns = ("clean", "attack", *CHECKS)
    rows = [[kind, len(all_), *(sum(e[c] for e in all_) / len(all_) for c in columns)] for kind, all_ in found.items()]
    ours, natural = found["CROWN-IBP"], found["natural"]
    return Measurement(
        {
            "clean": mean([e["clean"] for e in ours], of="trainings"),
            "verified": mean([e["CROWN-IBP"] for e in ours], of="trainings"),
            "below_natural": difference(
                [e["CROWN-IBP"] for e in natural], [e["CROWN-IBP"] for e in ours], of="paired trainings"
            ),
        },
        table=Table(
            ["training", "trainings", "clean error, %", "attack error, %", *(f"verified by {c}, %" for c in CHECKS)],
            rows,
        ),
    )


def certified_errors(run: Run, kind: Loss, seed: int) -> dict[str, float]:
    """Return the errors in percent of a perceptron trained on digits."""
    epochs, eps = run.at(smoke=1, desk=60, full=200), 0.1
    few = run.at(smoke=256, desk=None, full=None)

    def make() -> dict[str, float]:
        (x, y), test = digits_in(run.torch_rng(seed))
        with seeded(seed):
            model = perceptron(64, 128, 128, 10)
        train(model, (x[:few], y[:few]), kind, eps, epochs, run.torch_rng(seed))
        return errors(model, test, eps, CHECKS, attack=20)

    return run.cached("certified-digits", make, kind=kind, seed=seed, epochs=epochs, eps=eps)


@measures("l4-loss-fusion", exclusive=True)
def loss_fusion(run: Run) -> Measurement:
    """Time training steps by margins and by the fused loss for growing numbers of classes."""
    repeats = run.at(smoke=1, desk=9, full=15)
    classes = run.at(smoke=(5, 10), desk=(10, 50, 200, 1000), full=(10, 50, 200, 1000))
    at = run.at(smoke=10, desk=200, full=200)  # where times are compared
    times: dict[int, Times] = {}
    memory, looser = {}, [0] * len(run.seeds)
    for k in classes:
        model, x, y = of_classes(k, run.seed)
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
            for number, seed in enumerate(run.seeds):
                looser[number] += looser_cases(*of_classes(k, seed), k)
    seconds = {k: times[k].medians() for k in classes}
    rows = [
        [k, *(1e3 * seconds[k].get(job, float("nan")) for job in ("margins", "fused", "IBP")), memory[k] / 1e6]
        for k in classes
    ]
    return Measurement(
        {
            "speed_up": times[at].ratio("margins", "fused"),
            "time_to_ibp": times[at].ratio("fused", "IBP"),
            "memory_growth": exact(memory[classes[-1]] / memory[classes[0]]),  # of shapes alone
            "looser_cases": every(looser),
        },
        table=Table(["classes", "margins, ms a step", "fused, ms", "intervals, ms", "fused, peak MB"], rows),
    )


def of_classes(classes: int, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return an untrained perceptron, inputs and labels."""
    with seeded(seed):
        model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, classes))
        return model, torch.randn(64, 128), torch.randint(classes, (64,))


def looser_cases(model: nn.Module, x: Tensor, y: Tensor, classes: int) -> int:
    """Count samples whose fused bound is above that from margins, with the same intermediate bounds."""
    model, x, y, count = copy.deepcopy(model).double(), x[:16].double(), y[:16], 0
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
    natural, ours = [], []
    for seed in run.progress(trainings(run, 3), label="trainings"):
        natural.append(flatness(run, 0.0, 100 + seed))  # the radius was chosen on seed 0
        ours.append(flatness(run, RADIUS, 100 + seed))
    names = {"clean": "loss", "moved": "loss after adversarial moves", "certified": "certified loss"}
    rows = [
        [
            kind,
            *(statistics.median(e[name] for e in found) for name in names),
            statistics.fmean(e["accuracy"] for e in found),
        ]
        for kind, found in (("natural", natural), ("certified", ours))
    ]
    losses = [[e["certified"] for e in found] for found in (natural, ours)]
    return Measurement(
        {
            "certified_loss": ratio(*losses, of="paired trainings"),
            "accuracy": difference(
                *([e["accuracy"] for e in found] for found in (ours, natural)), of="paired trainings"
            ),
        },
        table=Table(["training", *(f"{name}, median" for name in names.values()), "test accuracy, %, mean"], rows),
    )


RADIUS = 0.005  # of the balls of weights


def flatness(run: Run, ball: float, seed: int) -> dict[str, float]:
    """Return losses over balls of weights, and the accuracy in percent, after training on few digits over a ball."""
    epochs = run.at(smoke=2, desk=100, full=300)

    def make() -> dict[str, float]:
        (x, y), (x_test, y_test) = digits_in(run.torch_rng(seed))
        few = len(x) // 8  # a tenth of all
        with seeded(seed):
            model = perceptron(64, 64, 64, 10)
        train_over_weights(model, (x[:few], y[:few]), ball, epochs, run.torch_rng(seed))
        # What it wasn't trained on is all to test on.
        rest = torch.cat([x[few:], x_test]), torch.cat([y[few:], y_test])
        losses = losses_over_weights(model, (x[:few], y[:few]), RADIUS)
        return {**losses, "accuracy": 100 - errors(model, rest, 0.0, ())["clean"]}

    return run.cached("flat-digits", make, ball=ball, radius=RADIUS, seed=seed, epochs=epochs)


@races("auto-lirpa")
def against_auto_lirpa(run: Run) -> Measurement:
    """Wrap the same networks, bound the same margins, and compare times, values and memory."""
    return against_official(run)


@measures("l7-verify")
def verification(run: Run) -> Measurement:
    """Verify test images of two small networks, at radii where CROWN proves half of other, training images."""
    return decided(run)


@races("auto-lirpa-search")
def against_auto_lirpa_in_a_search(run: Run) -> Measurement:
    """Decide the same instances by the same search, once with our bounds and once with theirs."""
    return against_their_bounds(run)
