"""What random matrices predict of batch eigenvalues and of the largest stable rates, measured."""

import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    exact,
    greatest,
    interleaved,
    least,
    magnitude,
    mean,
    measures,
    races,
)
from paperworks.numerics import FrozenCurvature, largest_eigenvalue, mlp, seeded, torch_generator
from paperworks.papers.rmt_lr.problems import (
    Data,
    LeastSquares,
    Stack,
    adam,
    breast_cancer,
    extremes,
    flat_digits,
    flat_garments,
    network_at,
    sgd,
    spiked_covariance,
    wigner,
)
from paperworks.training import (
    LanczosLRScheduler,
    NoiseEstimate,
    batch_outlier,
    bulk_edge,
    estimate_hessian_noise,
    lanczos_spectrum,
    scale_learning_rate,
    spike_overlap,
)

DIGITS = (64, 40, 10)
LOSS = 0.27
"""Training loss of the networks whose batch Hessians are measured."""


@measures("r1-outliers")
def outliers(run: Run) -> Measurement:
    """Compare the largest eigenvalues of spiked Wigner matrices and covariances with their closed forms."""
    n, count = run.at(smoke=200, desk=1500, full=3000), run.repeats(smoke=2, desk=160, full=400)
    additive, features = (6.0, 3.0, 1.5, 0.8), (12.0, 6.0, 3.0, 1.2)
    cases: list[tuple[str, int, tuple[float, ...], dict[str, Any]]] = [
        ("hessian", 10 * n // 3, additive, {"s2": float(n)}),
        ("hessian", 2 * n // 15, additive, {"s2": float(n)}),
        ("ggn", 10 * n // 3, features, {"s2": None, "model": "ggn", "tau2": 1.0, "p_eff": float(n)}),
        ("ggn", 2 * n // 3, features, {"s2": None, "model": "ggn", "tau2": 1.0, "p_eff": float(n)}),
    ]
    found: dict[tuple[str, int], list[Any]] = {(kind, b): [] for kind, b, *_ in cases}
    for number in run.progress(range(count), label="matrices"):
        rng = np.random.default_rng([run.seed, number])
        noise = wigner(rng, n)
        for kind, b, spikes, _ in cases:
            if kind == "hessian":
                matrix = noise / np.float32(math.sqrt(b))
                matrix[range(4), range(4)] += spikes
            else:
                matrix = spiked_covariance(rng, n, b, spikes)
            found[kind, b].append(extremes(matrix, 5))
    errors: dict[str, list[Estimate]] = {"outliers": [], "edge": [], "overlap": []}
    rows: list[list[Any]] = []
    for kind, b, spikes, model in cases:
        values = np.array([f.values for f in found[kind, b]])
        overlaps = np.array([f.overlaps for f in found[kind, b]])
        edge = bulk_edge(batch_size=b, **model)
        predicted = [batch_outlier(lam, batch_size=b, **model) for lam in spikes]
        above = sum(value > edge for value in predicted)
        errors["edge"].append(magnitude(mean(values[:, above] / edge - 1, "matrices")))
        for k, (lam, value) in enumerate(zip(spikes, predicted, strict=True)):
            overlap, seen = spike_overlap(lam, batch_size=b, **model), float(overlaps[:, k].mean())
            if k < above:
                errors["outliers"].append(magnitude(mean(values[:, k] / value - 1, "matrices")))
            errors["overlap"].append(magnitude(mean(overlaps[:, k] - overlap, "matrices")))
            where = min(k, above)
            rows.append([kind, b, lam, value, float(values[:, where].mean()), overlap, seen])
    columns = ["model", "batch", "spike", "closed form", "mean of measured", "overlap, closed form", "measured"]
    return Measurement(
        {name: greatest(of) for name, of in errors.items()},
        table=Table(columns, rows),
        remark=f"{count} matrices of {n} rows for each model and batch. A spike below the transition is compared with "
        "the largest eigenvalue that belongs to no spike.",
    )


def checkpoint(run: Run, data: Data, sizes: tuple[int, ...], loss: float, seed: int) -> nn.Sequential:
    """Return a network at a training loss; a smaller one at a higher loss for the smallest scale."""
    if run.scale == "smoke":
        sizes, loss = (sizes[0], 8, sizes[-1]), 1.5 * loss
    return network_at(sizes, data, loss, seed)


@measures("r2-real-network")
def real_network(run: Run) -> Measurement:
    """Measure the largest eigenvalues of random batches' Hessians of two networks, and the noise that they imply."""
    data, repeats = flat_digits(), run.repeats(smoke=2, desk=100, full=400)
    sizes = run.at(smoke=(16, 32), desk=(8, 16, 32, 64, 128, 256, 448), full=(8, 16, 32, 64, 128, 256, 448))
    excess, spreads, rows = [], [], []
    figure, axes = run.figure()
    for seed in run.progress(run.seeds, label="networks"):
        model = checkpoint(run, data, DIGITS, LOSS, seed)
        found = estimate_hessian_noise(model, cross_entropy, data, batch_sizes=sizes, repeats=repeats,
                                       random_state=seed)  # fmt: skip
        excess += [mean(np.array(row.values) / found.lam - 1, "batches") for row in found.table]
        judged = [row for row in found.table if 8 <= row.batch_size <= 64]
        scale = np.array([row.effective * found.lam for row in judged])

        def spread(*values: np.ndarray, scale: np.ndarray = scale, lam: float = found.lam) -> float:
            implied = scale * (np.array([v.mean() for v in values]) - lam)
            return float(np.abs(implied / implied.mean() - 1).max())

        spreads.append(bootstrap(spread, *(row.values for row in judged), of="batches of each size"))
        others = {name: estimate_hessian_noise(model, cross_entropy, data, name).s2
                  for name in ("directional", "frobenius")}  # fmt: skip
        rows += table_of(f"digits, network {seed}", found, others)
        x, y, error = np.array([(1 / r.effective, r.eigenvalue, 2 * r.standard_error) for r in found.table]).T
        axes.errorbar(x, y, error, fmt="o", label=f"digits, network {seed}", color=f"C{seed}")
        axes.plot(np.r_[x, 0], found.lam + found.s2 / found.lam * np.r_[x, 0], color=f"C{seed}", lw=1)
    tumours = breast_cancer()
    second = checkpoint(run, tumours, (30, 20, 2), 0.1, run.seed)
    sizes = run.at(smoke=(16,), desk=(8, 16, 32, 64, 128), full=(8, 16, 32, 64, 128))
    two = estimate_hessian_noise(second, cross_entropy, tumours, batch_sizes=sizes, repeats=repeats)
    rows += table_of("breast cancer", two, {})
    axes.plot([], [], color="k", lw=1, label="closed form, noise fitted")
    axes.set(xlabel="1 / effective batch size (0: all data)",
             ylabel="largest eigenvalue of a batch's Hessian,\nmean with two standard errors")  # fmt: skip
    axes.legend()
    columns = ["network", "batch", "mean of largest eigenvalues", "standard error", "for all data", "implied s2",
               "fitted s2", "directional", "Frobenius"]  # fmt: skip
    return Measurement(
        {"least_excess": least(excess), "noise_spread": greatest(spreads)},
        table=Table(columns, rows),
        figure=figure,
        remark=f"{repeats} batches of each size. The critical batch size of the network on breast cancer is "
        f"{two.critical_batch_size:.3g}.",
    )


def table_of(name: str, found: NoiseEstimate, others: dict[str, float]) -> list[list[Any]]:
    """Return a row for each batch size."""
    more = [others.get(key, math.nan) for key in ("directional", "frobenius")]
    return [[name, row.batch_size, row.eigenvalue, row.standard_error, found.lam, row.implied_s2, found.s2, *more]
            for row in found.table]  # fmt: skip


def stable_until(rates: np.ndarray, grown: np.ndarray) -> float:
    """Return the largest rate of a rising grid up to which nothing has grown, between it and the next."""
    bad = np.flatnonzero(~(grown <= 1))
    first = int(bad[0]) if len(bad) else len(rates)
    if not 0 < first < len(rates):
        raise RuntimeError(f"the rates {rates[0]:.3g} to {rates[-1]:.3g} hold no threshold")
    return math.sqrt(rates[first - 1] * rates[first])


@measures("r3-sgd-rule")
def sgd_rule(run: Run) -> Measurement:
    """Search for the largest stable rate of SGD for least squares and for a network, and compare it with the rule."""
    problem = run.at(smoke=LeastSquares(p=64), desk=LeastSquares(), full=LeastSquares())
    sizes = 2 ** np.arange(run.at(smoke=0, desk=0, full=0), int(math.log2(problem.critical)) + 7)
    rates, repeats = 2.0 ** np.arange(-10, 2, 1 / 16), run.repeats(smoke=2, desk=4, full=20)
    found = np.array([
        [stable_until(rates, problem.growth(rates, int(b), run.at(smoke=60, desk=300, full=1000),
                                            np.random.default_rng([run.seed, number, int(b)]))) for b in sizes]
        for number in run.progress(range(repeats), label="least squares")
    ])  # fmt: skip
    model: dict[str, Any] = {"model": "ggn", "tau2": problem.tau2, "p_eff": float(problem.p)}
    rule = np.array([2 / batch_outlier(problem.ell, None, int(b), **model) for b in sizes])
    below, above = sizes <= problem.critical / 4, sizes >= 4 * problem.critical
    judged = (sizes <= problem.critical / 8) | above

    def slopes(where: np.ndarray) -> list[float]:
        return [float(np.polyfit(np.log(sizes[where]), np.log(row[where]), 1)[0]) for row in found]

    errors = [magnitude(every(rule[k] / found[:, k] - 1, "repetitions")) for k in np.flatnonzero(judged)]
    rows: list[list[Any]] = [
        ["least squares", int(b), float(found[:, k].mean()), problem.threshold(int(b)), float(rule[k]),
         float(rule[k] / found[:, k].mean()), math.nan] for k, b in enumerate(sizes)
    ]  # fmt: skip
    factors, more = network_rates(run)
    figure, axes = run.figure()
    axes.loglog(sizes, found.mean(0), "o", label="largest stable rate, measured")
    axes.loglog(sizes, [problem.threshold(int(b)) for b in sizes], label="exact, for mean squares")
    axes.loglog(sizes, rule, "--", label="the paper's rule")
    axes.axvline(problem.critical, color="0.6", ls=":", label="critical batch size")
    axes.set(xlabel="batch size", ylabel="learning rate of SGD, least squares")
    axes.legend()
    columns = ["problem", "batch", "largest stable rate", "exact, of mean squares", "rule", "rule / largest",
               "rule / largest with a loss of twice the first at most"]  # fmt: skip
    return Measurement(
        {
            "slope_below": every(slopes(below), of="repetitions"),
            "slope_above": every(slopes(above), of="repetitions"),
            "rule_error": greatest(errors),
            "network_factor": greatest(factors),
        },
        table=Table(columns, rows + more),
        figure=figure,
        remark=f"Least squares in {problem.p} features, critical batch size {problem.critical:g}; the rule is that of "
        f"a covariance. Between {problem.critical / 8:g} and {4 * problem.critical:g} samples it is too cautious, by "
        f"up to a factor of {float(np.max(found.mean(0) / rule)):.2f}. Rates are a factor of 1.044 apart.",
    )


def network_rates(run: Run) -> tuple[list[Estimate], list[list[Any]]]:
    """Return by what factor the rule is off for a network, from where it stands, for each batch size."""
    data, steps = flat_digits(), run.at(smoke=10, desk=100, full=300)
    rates = 2.0 ** np.arange(-5, 2.01, run.at(smoke=1, desk=1 / 4, full=1 / 8))
    sizes = run.at(smoke=(16, 64), desk=(4, 8, 16, 32, 64, 128, 256, 512), full=tuple(2 ** np.arange(2, 11)))
    found: dict[int, list[list[float]]] = {int(b): [] for b in sizes}
    for seed in run.progress(run.seeds, label="networks"):
        model = checkpoint(run, data, DIGITS, LOSS, seed)
        noise = estimate_hessian_noise(model, cross_entropy, data, random_state=seed,
                                       repeats=run.at(smoke=2, desk=20, full=100))  # fmt: skip
        for b in found:
            stack, generator = Stack([model] * len(rates)), torch_generator(seed, b)
            ended, highest = followed(stack, rates, data, drawn(data, b, generator), steps)
            rule = 2 / batch_outlier(noise.lam, noise.s2, b, noise.n_data)
            found[b].append([stable_until(rates, ended), stable_until(rates, highest / 2), rule])
    factors, rows = [], []
    for b, measured in found.items():
        end, top, rule = np.array(measured).T
        factors.append(every(np.maximum(rule / end, end / rule), of="networks"))
        rows.append(["digits, network", b, float(end.mean()), math.nan, float(rule.mean()), float((rule / end).mean()),
                     float((rule / top).mean())])  # fmt: skip
    return factors, rows


def followed(
    stack: Stack, rates: np.ndarray, data: Data, batches: Callable[[int], Data], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss on all data after SGD at each rate, and the highest on the way, to that at the start."""
    step, losses = sgd(stack, torch.from_numpy(rates).float()), []
    for _ in range(10):
        with torch.no_grad():
            losses.append(stack.losses(*data).double().numpy())
        stack.train(step, batches, steps // 10)
    with torch.no_grad():
        losses.append(stack.losses(*data).double().numpy())
    relative = np.nan_to_num(np.array(losses) / losses[0], nan=np.inf, posinf=np.inf)
    return relative[-1], relative.max(0)


def drawn(data: Data, batch_size: int, generator: torch.Generator) -> Callable[[int], Data]:
    """Return what draws a batch without replacement for each step."""

    def batch(step: int) -> Data:
        rows = torch.randperm(len(data[1]), generator=generator)[:batch_size]
        return data[0][rows], data[1][rows]

    return batch


@measures("r4-adam-rule")
def adam_rule(run: Run) -> Measurement:
    """Train by Adam at many rates for each batch size, and find the largest rate within 5 % of the best loss."""
    problems = {
        "digits": (flat_digits(), DIGITS),
        "garments": (flat_garments(run.at(smoke=2000, desk=20_000, full=60_000)), (196, 40, 10)),
    }
    sizes = np.array(run.at(smoke=(32, 128), desk=tuple(2 ** np.arange(4, 11)), full=tuple(2 ** np.arange(3, 11))))
    found, rows = {}, []
    figure, axes = run.figure(1, 2)
    for axis, (name, (data, layers)) in zip(axes, problems.items(), strict=True):
        best = best_rates(run, data, layers, sizes)
        found[name] = mean(slopes_until_flat(sizes, best), "networks")
        means = 2 ** np.log2(best).mean(0)
        for b, rate in zip(sizes, means, strict=True):
            rules = [scale_learning_rate(float(means[0]), int(sizes[0]), int(b), rule=rule)
                     for rule in ("adam", "linear")]  # fmt: skip
            rows.append([name, int(b), float(rate), *rules])
        axis.loglog(sizes, best.T, color="0.8", label=["single networks", *[None] * (len(best) - 1)])
        axis.loglog(sizes, means, "o-", label="largest rate near the best loss, mean")
        axis.loglog(sizes, [row[3] for row in rows if row[0] == name], "--", label="rule: root of the batch")
        axis.set(xlabel="batch size", ylabel="learning rate of Adam", title=name)
        axis.legend()
    return Measurement(
        found,
        table=Table(["data", "batch", "largest rate, geometric mean", "by the root rule", "by the linear rule"], rows),
        figure=figure,
        remark=f"{len(best)} networks of one hidden layer for each, rates a factor of 1.41 apart. The slope is over "
        "the octaves up to the first at which a network's rate is that of the largest batch.",
    )


def best_rates(run: Run, data: Data, layers: tuple[int, ...], sizes: np.ndarray) -> np.ndarray:
    """Return the largest rate of Adam within 5 % of the best final loss, for each network and batch size."""
    rates, samples = 2.0 ** np.arange(-10, -1.99, 0.5), run.at(smoke=1000, desk=17_000, full=50_000)
    count = run.repeats(smoke=2, desk=6, full=20)
    with seeded(run.seed):
        networks = [mlp(list(layers), nn.Tanh) for _ in range(count)]
    best = np.zeros((count, len(sizes)))
    for k, b in enumerate(run.progress(sizes.tolist(), label="batch sizes")):
        stack = Stack([network for network in networks for _ in rates])
        draws = [torch_generator(run.seed, b, number) for number in range(count)]

        def batches(step: int, b: int = b, draws: list[torch.Generator] = draws) -> Data:
            rows = torch.stack([torch.randint(len(data[1]), (b,), generator=draw) for draw in draws])
            rows = rows.repeat_interleave(len(rates), dim=0)  # the same for all rates
            return data[0][rows], data[1][rows]

        step = adam(stack, torch.from_numpy(np.tile(rates, count)).float())
        ended = stack.train(step, batches, max(10, samples // b)).reshape(count, len(rates))
        best[:, k] = [rates[np.flatnonzero(row <= 1.05 * row.min())[-1]] for row in ended]
    return best


def slopes_until_flat(sizes: np.ndarray, best: np.ndarray) -> list[float]:
    """Return log-log slopes up to the first batch size at which the rate is that of the largest."""
    slopes = []
    for row in np.log2(best):
        reached = int(np.flatnonzero(row >= row[-1])[0])
        kept = slice(0, max(reached, 1) + 1)
        slopes.append(float(np.polyfit(np.log2(sizes)[kept], row[kept], 1)[0]))
    return slopes


def trained(
    data: Data, sizes: tuple[int, ...], epochs: int, seed: int, make: Callable[[nn.Module], Any]
) -> tuple[float, float]:
    """Return the loss on all data after training, and its processor time; `make` gives an optimiser and a scheduler."""
    with seeded(seed):
        network = mlp(list(sizes), nn.Tanh)
    optimizer, scheduler = make(network)
    generator, started = torch_generator(seed, 7), time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(len(data[1]), generator=generator).split(64):
            x, y = data[0][rows], data[1][rows]
            optimizer.zero_grad()
            cross_entropy(network(x), y).backward()
            if scheduler is not None:
                scheduler.step((x, y))
            optimizer.step()
    seconds = time.process_time() - started
    with torch.no_grad():
        return float(cross_entropy(network(data[0]), data[1])), seconds


@measures("r5-learner")
def learner(run: Run) -> Measurement:
    """Train two networks with rate and momentum learnt, and at seven rates with a momentum of 0.9."""
    grid = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    garments = flat_garments(run.at(smoke=640, desk=6000, full=60_000))
    problems = {
        "digits": (flat_digits(), DIGITS, run.at(smoke=1, desk=10, full=20)),
        "garments": (garments, (196, 64, 10), run.at(smoke=1, desk=8, full=20)),
    }
    diverged, ratios, beaten, overheads, rows = 0, [], [], [], []
    for name, (data, sizes, epochs) in problems.items():
        for seed in run.progress(run.seeds, label=name):

            def learnt(network: nn.Module) -> tuple[Any, Any]:
                optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
                return optimizer, LanczosLRScheduler(optimizer, network, cross_entropy)

            def fixed(lr: float) -> Callable[[nn.Module], tuple[Any, Any]]:
                return lambda network: (torch.optim.SGD(network.parameters(), lr, momentum=0.9), None)

            ours, seconds = trained(data, sizes, epochs, seed, learnt)
            theirs = [trained(data, sizes, epochs, seed, fixed(lr)) for lr in grid]
            losses = np.array([loss if math.isfinite(loss) else math.inf for loss, _ in theirs])
            diverged += not (math.isfinite(ours) and ours < math.log(10))
            ratios.append(ours / float(losses.min()))
            beaten.append(int((losses > ours).sum()))
            overheads.append(seconds / float(np.median([s for _, s in theirs])) - 1)
            rows.append([name, seed, ours, float(losses.min()), grid[int(losses.argmin())], beaten[-1], overheads[-1]])
    columns = [
        "data",
        "network",
        "loss, learnt",
        "best of the grid",
        "at the rate",
        "values beaten",
        "overhead in time",
    ]
    return Measurement(
        {
            "diverged": exact(diverged),
            "loss_to_best": every(ratios, of="trainings"),
            "values_beaten": every(beaten, of="trainings"),
        },
        table=Table(columns, rows),
        remark="Eight Lanczos steps every 20 steps of training, which take "
        f"{100 * float(np.median(overheads)):.0f} % more time than training without (median). The defaults were found "
        "on digits from other starts, garments were looked at afterwards.",
    )


def judged_network(run: Run, width: tuple[int, ...], dtype: torch.dtype) -> tuple[nn.Module, Data]:
    """Return a network after a few steps of training, so that its Hessian has outliers, with its data."""
    x, y = flat_digits()
    x, y = (part[: run.at(smoke=200, desk=1797, full=1797)] for part in (x.to(dtype), y))
    with seeded(0):
        network = mlp([64, *width, 10], nn.Tanh).to(dtype)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(run.at(smoke=20, desk=100, full=100)):
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()
    network.zero_grad()
    return network, (x, y)


def eig_of_old(matrix: torch.Tensor, eigenvectors: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what ``torch.eig`` did, which PyHessian calls and torch 2 no longer has."""
    values, vectors = torch.linalg.eig(matrix)
    return torch.view_as_real(values), vectors.real


@races("pyhessian")
def against_pyhessian(run: Run) -> Measurement:
    """Take spectral densities of a small and a large network, and the largest eigenvalue of the small one."""
    from pyhessian import hessian

    torch.eig = eig_of_old  # type: ignore[assignment]
    ratios, rows = [], []
    cases = (("3010 parameters", (40,), 100, 3), ("100 000 parameters", (280, 280), 30, 1))
    for name, width, nodes, probes in cases[: run.at(smoke=1, desk=2, full=2)]:
        network, data = judged_network(run, width, torch.float32)
        nodes = run.at(smoke=10, desk=nodes, full=nodes)
        found: dict[str, float] = {}

        def ours(network: nn.Module = network, data: Data = data, nodes: int = nodes, probes: int = probes,
                 found: dict[str, float] = found) -> None:  # fmt: skip
            op = FrozenCurvature(network, cross_entropy, [data])
            found["ours"] = lanczos_spectrum(op, nodes, probes).largest

        def theirs(network: nn.Module = network, data: Data = data, nodes: int = nodes, probes: int = probes,
                   found: dict[str, float] = found) -> None:  # fmt: skip
            peer = hessian(network, cross_entropy, data=data, cuda=False)
            values, _ = peer.density(iter=nodes, n_v=probes)
            found["theirs"] = float(np.max(values))
            network.zero_grad()

        times = interleaved(run, {"ours": ours, "pyhessian": theirs}, run.at(smoke=1, desk=8, full=10))
        ratios.append(times.ratio("ours", "pyhessian"))
        rows += [[f"density of {name}, {probes} x {nodes} nodes", job, times.median(job), found[key], math.nan]
                 for job, key in (("ours", "ours"), ("pyhessian", "theirs"))]  # fmt: skip
    products, error, more = top_by_both(run)
    values = {"density_time": ratios[0], "large_time": ratios[-1], "products": products, "eigenvalue": error}
    return Measurement(
        values,
        table=Table(["job", "package", "seconds", "largest eigenvalue", "products"], rows + more),
        settings="its default of 100 nodes for the small network. It calls torch.eig, which torch 2 no longer has: "
        "torch.linalg.eig stands for it here. Its power iteration has the largest of the tolerances at which its error "
        "is at most 1e-6",
    )


def top_by_both(run: Run) -> tuple[Estimate, Estimate, list[list[Any]]]:
    """Return products to the largest eigenvalue, ours to PyHessian's, our error, and rows of a table."""
    module: Any = importlib.import_module("pyhessian.hessian")  # the package's own name for it is a class
    network, data = judged_network(run, (40,), torch.float64)
    op = FrozenCurvature(network, cross_entropy, [data])
    truth = largest_eigenvalue(op.products, op.n, torch_generator(99), rtol=1e-13, steps=300).value
    multiply, made = module.hessian_vector_product, 0

    def counted(*args: Any) -> Any:
        nonlocal made
        made += 1
        return multiply(*args)

    module.hessian_vector_product = counted
    shares, worst, rows = [], 0.0, []
    for number in range(run.repeats(smoke=1, desk=8, full=20)):
        found = largest_eigenvalue(op.products, op.n, torch_generator(run.seed, number))
        for rtol in 10.0 ** -np.arange(6, 12):
            made = 0
            torch.manual_seed(number)
            peer = module.hessian(network, cross_entropy, data=data, cuda=False)
            (value,), _ = peer.eigenvalues(maxIter=5000, tol=float(rtol))
            network.zero_grad()
            if abs(value / truth - 1) <= 1e-6:
                break
        worst = max(worst, abs(found.value / truth - 1))
        shares.append(found.products / made)
        if not number:
            rows = [["largest eigenvalue", "ours", math.nan, found.value, found.products],
                    ["largest eigenvalue", "pyhessian", math.nan, value, made]]  # fmt: skip
    module.hessian_vector_product = multiply
    return every(shares, of="starts"), exact(worst), rows


@races("curvlinops")
def against_curvlinops(run: Run) -> Measurement:
    """Take a spectral density by the same number of nodes and probes."""
    from curvlinops import HessianLinearOperator
    from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

    network, data = judged_network(run, (40,), torch.float32)
    nodes, probes = run.at(smoke=10, desk=100, full=100), 3
    grid = torch.linspace(-1, 10, 1024)

    def ours() -> None:
        op = FrozenCurvature(network, cross_entropy, [data])
        lanczos_spectrum(op, nodes, probes, probe="normal").density(grid, 0.05)

    def theirs() -> None:
        peer = HessianLinearOperator(network, nn.CrossEntropyLoss(), list(network.parameters()), [data],
                                     check_deterministic=False)  # fmt: skip
        lanczos_approximate_spectrum(peer, nodes, num_repeats=probes, boundaries=(-1.0, 10.0))

    times = interleaved(run, {"ours": ours, "curvlinops": theirs}, run.at(smoke=1, desk=8, full=20))
    return Measurement(
        times.ratio("ours", "curvlinops"),
        table=Table(["package", f"seconds for {probes} x {nodes} nodes"], [[k, s] for k, s in times.medians().items()]),
        settings="boundaries given, without its check that data are deterministic; it doesn't reorthogonalise",
    )


@races("hessian-eigenthings")
def against_eigenthings(run: Run) -> Measurement:
    """Take a spectral density by the same number of nodes and probes."""
    from hessian_eigenthings.algorithms import spectral_density
    from hessian_eigenthings.loss_fns import supervised_loss
    from hessian_eigenthings.operators import HessianOperator as Theirs

    network, data = judged_network(run, (40,), torch.float32)
    nodes, probes = run.at(smoke=10, desk=100, full=100), 3
    found: dict[str, float] = {}

    def ours() -> None:
        op = FrozenCurvature(network, cross_entropy, [data])
        found["ours"] = lanczos_spectrum(op, nodes, probes).largest

    def theirs() -> None:
        peer = Theirs(model=network, dataloader=[data], loss_fn=supervised_loss(cross_entropy))
        result = spectral_density(peer, num_runs=probes, lanczos_steps=nodes, num_grid_points=1024, seed=0)
        found["theirs"] = float(result.raw_eigenvalues.nan_to_num(-math.inf).max())

    times = interleaved(run, {"ours": ours, "hessian-eigenthings": theirs}, run.at(smoke=1, desk=8, full=20))
    return Measurement(
        {
            "time": times.ratio("ours", "hessian-eigenthings"),
            "difference": exact(abs(found["ours"] / found["theirs"] - 1)),
        },
        table=Table(["package", f"seconds for {probes} x {nodes} nodes"], [[k, s] for k, s in times.medians().items()]),
        settings="full reorthogonalisation, as ours",
    )
