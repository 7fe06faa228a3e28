"""What the paper reports of sharing parameters: continuity, stability, and accuracy against pruning."""

import copy
import importlib
import math
import os
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune

from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    difference,
    every,
    exact,
    interleaved,
    least,
    measures,
    races,
)
from paperworks.numerics import mlp, seeded
from paperworks.papers.stable_rps.problems import (
    FLAT_RATES,
    METHODS,
    PRUNING,
    Split,
    accuracy,
    convnet,
    fit,
    rate_of,
    rewound,
    split,
    trained_by,
    weights_of,
)
from paperworks.training import (
    SharedParameter,
    ShareMap,
    compress_model,
    compression_report,
    decompress_model,
    inner_product_variance,
)

STDS = (4e-4, 4e-3, 4e-2, 0.4, 4.0)


def in_double(data: Split) -> Split:
    """Return the same digits in float64."""
    return Split(data.x.double(), data.y, data.x_test.double(), data.y_test)


def distance(ours: nn.Module, theirs: nn.Module) -> float:
    """Return the largest difference of two networks' parameters."""
    pairs = zip(sorted(ours.named_parameters()), sorted(theirs.named_parameters()), strict=True)
    return max(float((a - b).abs().max()) for (_, a), (_, b) in pairs)


@measures("rps1-pareto-continuity")
def pareto_continuity(run: Run) -> Measurement:
    """Train networks without compression beside dense ones, by each map."""
    steps, gaps, slots, rows = run.at(smoke=3, desk=50, full=50), [], [], []
    for seed in run.progress(run.seeds, label="seeds"):
        worst = []
        for name, make in (("perceptron", lambda: mlp([64, 256, 256, 10])), ("convolutions", convnet)):
            data = in_double(split(seed, name == "perceptron"))
            with seeded(seed):
                dense = make().double()
            begun = copy.deepcopy(dense)
            fit(dense, data, 0, steps, steps, seed)
            for mapping in ("randomfold", "roast") if seed == run.seed else ("randomfold",):
                shared = compress_model(
                    copy.deepcopy(begun), 1, mapping=mapping, init_from_dense=True, random_state=seed
                )
                at_start = distance(decompress_model(shared), begun)
                fit(shared, data, 0, steps, steps, seed)
                rows.append([name, mapping, seed, at_start, distance(decompress_model(shared), dense)])
                if mapping == "randomfold":
                    worst.append(rows[-1][-1])
        gaps.append(max(worst))
        n = weights_of(convnet())
        slots.append(float((ShareMap(n, n, "hashednet", seed).load() > 0).double().mean()))
    return Measurement(
        {"difference": every(gaps), "hashed_slots": every(slots)},
        table=Table(["network", "map", "seed", "largest difference at the start", "after training"], rows),
        remark=f"{steps} steps of SGD with momentum and weight decay in float64; hashing is expected to use 63.2 % of "
        "the slots, 1 - 1/e.",
    )


@measures("rps2-stability")
def stability(run: Run) -> Measurement:
    """Train a perceptron at tenfold compression from arrays of five scales, with and without the scaler."""
    epochs = run.at(smoke=1, desk=15, full=60)
    apart, spreads, fails, rows = [], [], [], []
    for seed in run.progress(run.seeds, label="seeds"):
        data = in_double(split(seed, flat=True))
        steps = epochs * (len(data.x) // 128)
        for scaler in ("v1", "none"):
            ends, found = [], []
            for std in STDS:
                with seeded(seed):
                    model = compress_model(
                        mlp([64, 256, 256, 10]).double(), 10, init_std=std, scaler=scaler, random_state=seed
                    )
                fit(model, data, 0, steps, steps, seed, lr=0.1)
                ends.append(decompress_model(model))
                found.append(accuracy(model, data))
                rows.append([seed, "yes" if scaler == "v1" else "no", std, found[-1]])
            if scaler == "v1":
                apart.append(max(distance(end, ends[0]) for end in ends))
                spreads.append(max(found) - min(found))
            else:
                fails.append(found[0] < 20 and found[1] < 20)  # chance is 10 %
    return Measurement(
        {"trajectory": every(apart), "accuracy_spread": every(spreads), "unscaled_fails": every(fails)},
        table=Table(["seed", "scaler", "standard deviation of the array", "test accuracy, %"], rows),
        remark="The trajectories are compared at their ends; without scaler networks at the two least scales count.",
    )


def accuracies(run: Run, compressions: tuple[int, ...], methods: tuple[str, ...], flat: bool = False) -> dict[Any, Any]:
    """Return accuracies, one a seed, and stored numbers by method and compression; what was trained before is kept."""
    epochs, found = run.at(smoke=1, desk=15, full=60), {}  # type: ignore[var-annotated]
    jobs = [(m, c, seed) for c in compressions for m in methods for seed in run.seeds]
    for method, compression, seed in run.progress(jobs, label="networks"):
        lr = FLAT_RATES.get(method, 0.2) if flat else rate_of(method, compression)
        make = partial(trained_by, method, compression, seed, epochs, flat, lr)
        inputs = {"method": method, "compression": compression, "seed": seed, "epochs": epochs, "flat": flat, "lr": lr}
        result = run.cached("shared-digits", make, **inputs)
        kept = found.setdefault((method, compression), {"accuracy": [], "stored": result["stored"]})
        kept["accuracy"].append(result["accuracy"])
    return found


def over(found: dict[Any, Any], method: str, compressions: tuple[int, ...]) -> Estimate:
    """Return by how many points sharing is above a method, at the compression where that is least."""
    return least(difference(found["fold", c]["accuracy"], found[method, c]["accuracy"]) for c in compressions)


@measures("rps3-beats-pruning")
def beats_pruning(run: Run) -> Measurement:
    """Train a convolutional network shared, pruned by five scores and narrowed, and perceptrons without a bar."""
    compressions = run.at(smoke=(500,), desk=(10, 100, 500), full=(3, 10, 30, 100, 200, 500))
    high = tuple(c for c in compressions if c >= 100)
    found = accuracies(run, compressions, METHODS)
    flat = accuracies(run, run.at(smoke=(), desk=(200,), full=(10, 100, 200)), METHODS, flat=True)
    rows = [
        [network, method, c, of[method, c]["stored"], float(np.mean(values)), float(min(values)), float(max(values))]
        for network, of in (("convolutions", found), ("perceptron", flat))
        for method, c in of
        for values in [of[method, c]["accuracy"]]
    ]
    best = np.max([found[method, 500]["accuracy"] for method in PRUNING], axis=0)  # seed by seed
    figure, axes = run.figure()
    for method in METHODS:
        means = [np.mean(found[method, c]["accuracy"]) for c in compressions]
        axes.plot(compressions, means, marker="o", label=method, lw=2.5 if method == "fold" else 1.2)
    axes.set(xscale="log", xlabel="weights for each that is stored", ylabel="test accuracy, %")
    axes.legend()
    return Measurement(
        {
            **{method: over(found, method, high) for method in ("random", "magnitude", "snip", "grasp")},
            "best_at_500": difference(found["fold", 500]["accuracy"], best),
            "narrow": over(found, "narrow", compressions),
        },
        unit="points",
        table=Table(["network", "by", "compression", "parameters stored", "accuracy, %", "least", "greatest"], rows),
        figure=figure,
        remark="Stored are weights, biases and norms; the narrow network is whole, of as many parameters in all. The "
        "rate of each method and compression is the best on other seeds; sharing takes larger ones than the others.",
    )


def heavy_tailed(kind: str, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return two vectors that are large in the same places, in a random order: power laws, sparse, or normal."""
    if kind == "sparse":
        size = np.where(np.arange(n) < n // 16, 1.0, 0.0)
    else:
        size = np.ones(n) if kind == "normal" else np.arange(1, n + 1.0) ** -float(kind.split()[-1])
    size = rng.permutation(size)
    x, y = (size * rng.normal(size=n) for _ in range(2))
    return torch.from_numpy(x), torch.from_numpy(x + 0.5 * y)


def simulated(x: Tensor, y: Tensor, m: int, kind: str, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Return estimates of an inner product from m numbers, by random maps."""
    n = len(x)
    if kind == "pruning":
        z = (x * y).numpy()
        return np.array([z[rng.permutation(n)[:m]].sum() for _ in range(trials)]) * n / m
    found, mapping = np.empty(trials), {"hashing": "hashednet", "randomfold": "randomfold"}[kind]
    for trial, seed in enumerate(rng.integers(2**31, size=trials)):
        share = ShareMap(n, m, mapping, int(seed))
        index, sign = share.index(0, (n,)), share.sign(0, (n,)).double()
        a, b = (torch.bincount(index, v * sign, minlength=m) for v in (x, y))
        found[trial] = float(a @ b)
    return found


@measures("rps4-inner-products")
def inner_products(run: Run) -> Measurement:
    """Hold the variance formulas against random maps, and against one another for many vectors."""
    trials, n, m = run.repeats(smoke=200, desk=5000, full=50_000), 256, 32
    rng, rows, away = run.rng(), [], []
    kinds = ("power law 0.5", "power law 1", "sparse", "normal")
    for kind in run.progress(kinds, label="vectors"):
        x, y = heavy_tailed(kind, n, rng)
        formulas = {}
        for method in ("randomfold", "hashing", "pruning"):
            formulas[method] = inner_product_variance(x, y, m, method)
            squares = (simulated(x, y, m, method, trials, rng) - float(x @ y)) ** 2
            error = squares.std() / math.sqrt(trials)
            away.append(abs(squares.mean() - formulas[method]) / error)
            rows.append([kind, method, formulas[method], float(squares.mean()), float(away[-1])])
    above, ratios = 0, {kind: [] for kind in kinds}  # type: ignore[var-annotated]
    for number in range(run.at(smoke=200, desk=5000, full=50_000)):
        kind, size = kinds[number % len(kinds)], int(rng.integers(2, n))
        x, y = heavy_tailed(kind, n, rng)
        fold, hashing = (inner_product_variance(x, y, size, k) for k in ("randomfold", "hashing"))
        above += fold > hashing * (1 + 1e-12)
        ratios[kind].append(inner_product_variance(x, y, m, "randomfold") / inner_product_variance(x, y, m, "pruning"))
    worst = max(max(ratios[kind]) for kind in kinds if kind not in ("normal", "power law 0.5"))
    apart = [heavy_tailed("power law 1", n, rng) for _ in range(200)]
    mixed = np.median([
        inner_product_variance(x, y[torch.from_numpy(rng.permutation(n))], m, "randomfold")
        / inner_product_variance(x, y[torch.from_numpy(rng.permutation(n))], m, "pruning")
        for x, y in apart
    ])  # fmt: skip
    spread = ", ".join(f"{kind} {np.median(of):.2g} ({min(of):.2g} to {max(of):.2g})" for kind, of in ratios.items())
    return Measurement(
        {
            "standard_errors": exact(float(max(away))),
            "fold_above_hash": exact(int(above)),
            "fold_to_pruning": exact(float(worst)),
        },
        table=Table(["vectors", "map", "variance by the formula", "simulated", "standard errors apart"], rows),
        remark=f"{n} weights in {m} numbers. Variance of folding to that of pruning at random, median and range: "
        f"{spread}; with vectors that are large in different places {mixed:.2g}. The bar is of sparse and power law 1.",
    )


@measures("rps5-lottery-tickets")
def lottery_tickets(run: Run) -> Measurement:
    """Rewind to lottery tickets in ten levels, and train the same network shared."""
    compressions = run.at(smoke=(10, 500), desk=(10, 100, 500), full=(3, 10, 30, 100, 200, 500))
    epochs, levels = run.at(smoke=1, desk=15, full=60), run.at(smoke=2, desk=10, full=10)
    found, tickets = accuracies(run, compressions, ("fold",)), {}
    for compression in compressions:
        of = []
        for seed in run.progress(run.seeds, label=f"tickets at {compression}x"):
            lr = rate_of("rewinding", compression)
            make = partial(rewound, compression, seed, epochs, levels, lr)
            inputs = {"compression": compression, "seed": seed, "epochs": epochs, "levels": levels, "lr": lr}
            of.append(run.cached("rewound-digits", make, **inputs)["accuracy"])
        tickets[compression] = of
    shared = {c: found["fold", c]["accuracy"] for c in compressions}
    rows = [[c, float(np.mean(tickets[c])), float(np.mean(shared[c]))] for c in compressions]
    crossed = next((c for c, theirs, ours in rows if ours >= theirs), None)
    top = max(compressions)
    return Measurement(
        {
            "rewinding_at_10": difference(tickets[10], shared[10]),
            "sharing_at_highest": difference(shared[top], tickets[top]),
        },
        unit="points",
        table=Table(["compression", "lottery tickets, accuracy %", "shared"], rows),
        remark=f"{levels} levels from the second epoch on; at {top} times a ticket has less than a weight a unit. "
        f"Sharing is as good or better from {crossed} times on.",
    )


@races("torch")
def against_torch(run: Run) -> Measurement:
    """Compare with dense layers, with recovering by a gather, and with the bytes of torch's masks."""
    side, repeats = run.at(smoke=64, desk=1024, full=2048), run.at(smoke=2, desk=15, full=30)
    with seeded(run.seed):
        dense = nn.Sequential(*(nn.Linear(side, side) for _ in range(10)))
        shared, x = compress_model(copy.deepcopy(dense), 10), torch.randn(256, side)
    store = shared[0].store
    index = [store.share.index(piece.offset, piece.shape) for piece in store.pieces]
    signs = [store.share.sign(piece.offset, piece.shape).float() * piece.scale for piece in store.pieces]

    def gather() -> None:
        for of, sign in zip(index, signs, strict=True):
            store.values.index_select(0, of.view(-1)).mul_(sign.view(-1))

    def plain() -> None:
        for of, sign in zip(index, signs, strict=True):
            store.values[of] * sign

    def ours() -> None:
        for number in range(len(index)):
            store.weight(number)

    jobs: dict[str, Callable[[], Any]] = {
        "dense forward": lambda: dense(x),
        "shared forward": lambda: shared(x),
        "recovering": ours,
        "index_select": gather,
        "values[index] * signs": plain,
    }
    with torch.no_grad():
        times = interleaved(run, jobs, repeats)
    masked = copy.deepcopy(dense)
    for layer in masked:
        prune.random_unstructured(layer, "weight", 0.9)
    bytes_of = {
        "shared": held(shared),
        "masks of torch.nn.utils.prune": held(masked),
        "dense": held(dense),
    }
    report = compression_report(shared)
    rows = [[job, 1e3 * times.median(job), ""] for job in jobs]
    rows += [[name, "", size / 2**20] for name, size in bytes_of.items()]
    biases, plainly = 4 * report.other, times.ratio("recovering", "values[index] * signs").value
    return Measurement(
        {
            "forward": times.ratio("shared forward", "dense forward"),
            "gather": times.ratio("recovering", "index_select"),
            "memory": exact((bytes_of["shared"] - biases) / (4 * report.stored)),
        },
        table=Table(["what", "ms", "MiB between calls"], rows),
        settings="ten square layers, 256 rows, one thread, a tenth of the weights; the gather has its index and signs "
        "ready and is the faster of two",
        remark=f"{report.weights} weights; the largest takes {report.peak_bytes / 2**20:.3g} MiB while its "
        f"layer computes. Recovering takes {plainly:.2f} of the time of values[index] * signs.",
    )


def held(model: nn.Module) -> int:
    """Return the bytes of all that a network holds, each storage once, with what its layers keep beside parameters."""
    found: dict[int, int] = {}
    for part in model.modules():
        rotations = part.share._rotations if isinstance(part, SharedParameter) else {}
        for value in [*part._parameters.values(), *part._buffers.values(), *vars(part).values(), rotations]:
            tensors = value.values() if isinstance(value, dict) else [value]
            for tensor in tensors:
                if isinstance(tensor, Tensor):
                    found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


@races("torch-pruning")
def against_torch_pruning(run: Run) -> Measurement:
    """Train networks of as many stored parameters, one whose channels torch-pruning removed and one shared."""
    import torch_pruning

    epochs, rows, gaps = run.at(smoke=1, desk=15, full=60), [], {10: [], 100: []}  # type: ignore[var-annotated]
    seeds = run.seeds
    for compression in gaps:
        found = accuracies(run, (compression,), ("fold",))["fold", compression]
        for seed, ours in zip(seeds, found["accuracy"], strict=True):
            data = split(seed)
            with seeded(seed):
                model = convnet()
            whole = sum(p.numel() for p in model.parameters())
            limit = found["stored"]
            for ratio in np.linspace(0.5, 0.99, 200):
                small = copy.deepcopy(model)
                pruner = torch_pruning.pruner.MagnitudePruner(
                    small, data.x[:2], torch_pruning.importance.GroupMagnitudeImportance(), pruning_ratio=float(ratio),
                    ignored_layers=[small[-1]],
                )  # fmt: skip
                pruner.step()
                if sum(p.numel() for p in small.parameters()) <= limit:
                    break
            steps = epochs * (len(data.x) // 128)
            fit(small, data, 0, steps, steps, seed, lr=rate_of("narrow", compression))
            theirs = accuracy(small, data)
            gaps[compression].append([ours, theirs])
            rows.append([compression, seed, whole, limit, sum(p.numel() for p in small.parameters()), ours, theirs])
    return Measurement(
        {f"at_{c}": difference(*zip(*pairs, strict=True)) for c, pairs in gaps.items()},
        unit="points",
        table=Table(["compression", "seed", "parameters", "stored", "theirs", "accuracy, %", "theirs, %"], rows),
        settings="whole channels by magnitude before training, of the least ratio that is no larger, the same training",
    )


def official() -> types.ModuleType:
    """Import FakeRoast from the folder that $PAPERWORKS_FAKE_ROAST names; mmh3 is for another hash, unused here."""
    folder = os.environ.get("PAPERWORKS_FAKE_ROAST")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    with mock.patch.dict(sys.modules, {"mmh3": sys.modules.get("mmh3", types.ModuleType("mmh3"))}):
        return importlib.import_module("FakeRoastUtil_v2")


@races("fake-roast")
def against_fake_roast(run: Run) -> Measurement:
    """Compress the same network by FakeRoast, and compare bytes, times of a step, and accuracies."""
    theirs, side = official(), run.at(smoke=64, desk=512, full=1024)
    with seeded(run.seed):
        dense = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(4)))
        ours, x = compress_model(copy.deepcopy(dense), 10), torch.randn(128, side)
        args = {"mapper": "pareto", "hasher": "uhash", "block_k": 16, "block_n": 16, "block": 8, "seed": 1}
        peer = theirs.ModelRoasterGradScaler(copy.deepcopy(dense), True, 0.1, mapper_args=args).process()
    scaler = theirs.RoastGradScaler()

    def step(model: nn.Module, scale: Callable[[], Any]) -> None:
        model.zero_grad()
        cross_entropy(model(x), torch.zeros(len(x), dtype=torch.int64)).backward()
        scale()

    jobs = {"ours": lambda: step(ours, lambda: None), "theirs": lambda: step(peer, lambda: scaler.scale_step(peer))}
    fresh, sizes = compress_model(copy.deepcopy(dense), 10), {}
    for name, model in (("ours", fresh), ("theirs", peer)):
        sizes[name] = held(model)
    times = interleaved(run, jobs, run.at(smoke=2, desk=10, full=20))
    rows = [[name, sizes[name] / 2**20, 1e3 * times.median(name)] for name in jobs]
    return Measurement(
        {"bytes": exact(sizes["ours"] / sizes["theirs"]), "time": times.ratio("ours", "theirs")},
        table=Table(["package", "MiB of parameters and indices", "ms for forward and backward"], rows),
        settings="its map pareto with its universal hash, global array, scaler v1",
    )
