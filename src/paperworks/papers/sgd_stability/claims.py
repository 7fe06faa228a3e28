"""What the paper reports of sharpness at minima where SGD is stable, and how well sharpness can be estimated."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paperworks.evidence import Measurement, Run, Table, bootstrap, exact, interleaved, measures, races
from paperworks.numerics import hutch_plus_plus, hutchinson, mlp, seeded, torch_generator, xtrace
from paperworks.papers.sgd_stability.problems import (
    Found,
    Problem,
    diagonal_network,
    digits_network,
    odd_digits,
    relu_network,
    sparse_regression,
    sphere,
)
from paperworks.testbeds import digits
from paperworks.training import (
    GGNOperator,
    HessianOperator,
    diag_linear_sharpness,
    extreme_eigenvalues,
    hessian_trace,
    per_sample_grad_norms,
    relu2_population_trace,
    stability_certificate,
)

SETTLED = 1e-4
"""Training loss to that at the start, at and below which a run has settled."""
RATES = (0.01, 0.03, 0.06)
EDGE = np.round(0.05 * 1.14 ** np.arange(14), 5)
"""Rates round the edge of stability of diagonal networks, a factor of 1.14 apart."""


def gradient_set(kind: str, rng: np.random.Generator) -> Tensor:
    """Return random gradients: n up to 30, of rank 8 at most, or orthogonal ones of different lengths."""
    n, d = int(rng.integers(2, 31)), int(rng.integers(2, 9))
    if kind == "orthogonal":
        q, _ = np.linalg.qr(rng.normal(size=(8, 8)))
        return torch.from_numpy(q * rng.uniform(0.2, 2, size=(8, 1)))
    if kind == "few samples":
        return torch.from_numpy(rng.normal(size=(int(rng.integers(2, 9)), 40)))
    return torch.from_numpy(rng.normal(size=(n, d)) if kind == "normal" else rng.standard_t(2, size=(n, d)))


def bisected(G: Tensor, batch_size: int) -> float:
    """Return the learning rate at which the largest eigenvalue of the second moments' Kronecker matrix crosses 1."""
    n = len(G)
    _, sizes, axes = np.linalg.svd(G.numpy(), full_matrices=False)
    g = G.numpy() @ axes[sizes > 1e-10 * sizes[0]].T
    H, eye = g.T @ g / n, np.eye(g.shape[1])
    q = (n - batch_size) / (batch_size * (n - 1)) if n > 1 else 0.0
    pairs = (g[:, :, None] * g[:, None, :]).reshape(n, -1)  # g x g, whose outer product is that of gg^T with itself
    first = np.kron(H, eye) + np.kron(eye, H)
    second = q * pairs.T @ pairs / n + (1 - q) * np.kron(H, H)
    one = np.eye(len(first))

    def above(lr: float) -> float:
        return float(np.linalg.eigvalsh(one - lr * first + lr**2 * second)[-1]) - 1

    return float(brentq(above, 1 / (g**2).sum(1).max(), 2.001 / np.linalg.eigvalsh(H)[-1], rtol=1e-13))


@measures("d1-certificates")
def certificates(run: Run) -> Measurement:
    """Hold the exact threshold of random gradient sets against all certificates, and against bisection."""
    count, rng = run.at(smoke=500, desk=500, full=5000), run.rng()
    kinds = ("normal", "heavy-tailed", "orthogonal", "few samples")
    violations, errors, gaps = 0, [], {kind: [] for kind in kinds}  # type: ignore[var-annotated]
    for number in run.progress(range(count), label="gradient sets"):
        kind = kinds[number % len(kinds)]
        G = gradient_set(kind, rng)
        batch_size = 1 if number % 8 < 4 else int(rng.integers(1, len(G) + 1))
        report = stability_certificate(G, 1.0, batch_size)
        most = report.lr_max_exact
        violations += sum(bound < most * (1 - 1e-9) for bound in report.conditions.values())
        violations += report.lr_sufficient > most * (1 + 1e-9)
        errors.append(abs(bisected(G, batch_size) / most - 1))
        if batch_size == 1:
            gaps[kind].append([report.conditions[name] / most for name in ("lambda_max", "trace", "second_moment")])
    rows = [[kind, len(found), *map(float, np.median(found, axis=0))] for kind, found in gaps.items()]
    columns = ["gradients", "sets with single samples", "2 / lambda_max to the threshold", "2 / Tr", "second moment"]
    ratios = np.sort(np.concatenate([np.array(found) for found in gaps.values()]), axis=0)
    figure, axes = run.figure()
    for values, name in zip(ratios.T, ("2 / lambda_max (gradient descent)", "2 / Tr H", "second moment"), strict=True):
        axes.semilogy(np.linspace(0, 1, len(values)), values, label=name)
    axes.axhline(1, color="#666666", linestyle="--", linewidth=1.2, label="exact threshold: nothing may be below")
    axes.set(xlabel="share of gradient sets, sorted, single samples", ylabel="certificate / exact threshold")
    axes.legend()
    return Measurement(
        {"violations": exact(violations), "closed_form": exact(max(errors))},
        table=Table(columns, rows),
        figure=figure,
        remark=f"{count} sets, half of them with batches of other sizes; medians of certificates to the threshold.",
    )


def settled(found: Found) -> np.ndarray:
    """Whether each run's loss has fallen to a ten-thousandth."""
    return found.relative_loss <= SETTLED


def share_of_limit(found: Found, lrs: np.ndarray) -> np.ndarray:
    """Return lr Tr / 2 of each run."""
    return found.trace * lrs / 2


@measures("d2-flatter-minima")
def flatter_minima(run: Run) -> Measurement:
    """Train two-layer ReLU networks by single samples and by gradient descent, at one rate and at the edge."""
    steps, lrs = run.at(smoke=1500, desk=150_000, full=600_000), np.array(RATES)
    down = np.array([0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4])
    problem = sphere(run.seeds, run.at(smoke=10, desk=40, full=40), 8)
    sgd = relu_network(problem, lrs, 30, steps, run.seeds)
    gd = relu_network(problem, down, 30, run.at(smoke=300, desk=20_000, full=100_000), run.seeds, full=True)
    ours, theirs = np.where(settled(sgd), sgd.test, np.inf), np.where(settled(gd), gd.test, np.nan)
    edge = [np.flatnonzero(~np.isnan(row))[-1] if (~np.isnan(row)).any() else 0 for row in theirs]
    at_edge = [float(row[k]) for row, k in zip(gd.test, edge, strict=True)]
    best = [float(np.min(np.where(np.isfinite(row), row, np.inf))) for row in ours]
    ratios = share_of_limit(sgd, lrs)[settled(sgd)]
    rows: list[list[Any]] = []
    figure, (left, right) = run.figure(1, 2)
    for name, found, rates, mark in (("SGD", sgd, lrs, "o-"), ("gradient descent", gd, down, "s-")):
        for k, lr in enumerate(rates):
            kept = settled(found)[:, k]
            middle = [
                float(np.median(v[kept, k])) if kept.any() else math.nan for v in (found.trace, found.norm, found.test)
            ]
            rows.append([name, float(lr), f"{kept.sum()} of {len(kept)}", 2 / float(lr), *middle])
        mine = [row for row in rows if row[0] == name]
        left.loglog(rates, [row[4] for row in mine], mark, label=name)
        right.loglog(rates, [row[6] for row in mine], mark, label=name)
    both = np.array([lrs[0], down[-1]])
    left.loglog(both, 2 / both, "k--", linewidth=1.2, label="2 / rate, the limit of SGD")
    left.set(xlabel="learning rate", ylabel="Tr H where it settles")
    right.set(xlabel="learning rate", ylabel="test error where it settles")
    left.legend()
    return Measurement(
        {
            "trace_to_limit": exact(float(ratios.max(initial=0))),
            "seeds": exact(float(np.mean(ours[:, 2] <= 0.25 * gd.test[:, 0]))),
        },
        table=Table(["by", "rate", "settled", "2 / rate", "Tr H", "path norm", "test error"], rows),
        figure=figure,
        remark="Medians over the seeds that settled; those that diverged count as no gain. At its own largest stable "
        f"rate gradient descent has a median test error of {np.median(at_edge):.3g}, SGD at its best of three "
        f"{np.median(best):.3g}.",
    )


@measures("d3-norms")
def norms(run: Run) -> Measurement:
    """Estimate population Hessians by Monte Carlo, and hold sharpness against norms for random parameters."""
    n, errors, violations, rows = run.at(smoke=20_000, desk=200_000, full=2_000_000), [], 0, []
    for seed in run.progress(run.seeds, label="seeds"):
        rng = run.rng(seed)
        d, width = 6, 10
        a, b = rng.normal(size=width), rng.normal(size=(width, d))
        closed = relu2_population_trace(torch.from_numpy(a), torch.from_numpy(b))
        for kind in ("normal", "sphere"):
            x = rng.normal(size=(n, d))
            if kind == "sphere":
                x *= np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
            hidden = x @ b.T
            squares = (np.maximum(hidden, 0) ** 2).sum(1) + ((hidden > 0) * a**2).sum(1) * (x**2).sum(1)
            errors.append(abs(squares.mean() / closed - 1))
            rows.append([f"two-layer ReLU, {kind} inputs: Tr", float(squares.mean()), closed])
        a, b, x = rng.normal(size=d), rng.normal(size=d), rng.normal(size=(n, d))
        g = np.c_[x * b, x * a]
        values, sharp = np.linalg.eigvalsh(g.T @ g / n), diag_linear_sharpness(torch.from_numpy(a), torch.from_numpy(b))
        measured = (values.sum(), np.linalg.norm(values), values[-1])
        for name, value, exactly in zip(("Tr", "Frobenius norm", "lambda_max"), measured, sharp[:3], strict=True):
            errors.append(abs(value / exactly - 1))
            rows.append([f"diagonal linear: {name}", float(value), exactly])
    rng = run.rng()
    for _ in range(run.at(smoke=200, desk=5000, full=50_000)):
        a, b = (torch.from_numpy(rng.standard_t(2, size=7)) for _ in range(2))
        sharp = diag_linear_sharpness(a, b)
        violations += sum(s < 2 * norm * (1 - 1e-12) for s, norm in zip(sharp[:3], sharp[3:], strict=True))
        w = torch.from_numpy(rng.standard_t(2, size=(7, 5)))
        path = float(a.abs() @ w.norm(dim=1))
        violations += relu2_population_trace(a, w) < math.sqrt(5) * path * (1 - 1e-12)
    return Measurement(
        {"closed_forms": exact(float(max(errors))), "violations": exact(violations)},
        table=Table(["sharpness", "Monte Carlo", "closed form"], rows[:5]),
        remark=f"{n} inputs for each seed; the table is of the first.",
    )


@measures("d4-sparse-recovery")
def sparse_recovery(run: Run) -> Measurement:
    """Recover sparse vectors by diagonal networks, at rates round the edge of stability and at a tenth of them."""
    steps, lrs = run.at(smoke=1500, desk=60_000, full=300_000), np.r_[EDGE / 10, EDGE]
    problem = sparse_regression(run.seeds, 25, 50, 5)
    found = diagonal_network(problem, lrs, 0.5, steps, run.seeds)
    ok = settled(found)
    traces, l1 = share_of_limit(found, lrs)[ok], (found.norm * lrs)[ok]
    rows, gains = [], []
    for number, seed in enumerate(run.seeds):
        stable = np.flatnonzero(ok[number, len(EDGE) :])
        k = int(stable[-1]) if len(stable) else 0
        slow, fast = float(found.test[number, k]), float(found.test[number, len(EDGE) + k])
        gains.append(fast <= 0.5 * slow)
        reached = float(share_of_limit(found, lrs)[number, len(EDGE) + k])
        rows.append([seed, float(EDGE[k]), reached, fast, slow])
    return Measurement(
        {
            "trace_to_limit": exact(float(traces.max(initial=0))),
            "norm_to_limit": exact(float(l1.max(initial=0))),
            "seeds": exact(float(np.mean(gains))),
        },
        table=Table(["seed", "largest stable rate", "rate Tr / 2 there", "squared error there", "at a tenth"], rows),
        remark="Single samples from a = 0.5, b = 0; rates are a factor of 1.14 apart.",
    )


@measures("d5-real-data")
def real_data(run: Run) -> Measurement:
    """Train two-layer networks on digits to interpolation at rising rates, by single samples."""
    lrs, seeds = np.array([0.05, 0.1, 0.2, 0.3]), run.seeds[: run.at(smoke=1, desk=2, full=5)]
    problem: Problem = odd_digits(seeds, run.at(smoke=30, desk=500, full=1000))
    found = relu_network(problem, lrs, 60, run.at(smoke=1500, desk=160_000, full=1_000_000), seeds)
    ok, ratios = settled(found), share_of_limit(found, lrs)
    rows = [
        [
            float(lr),
            f"{ok[:, k].sum()} of {len(seeds)}",
            float(found.relative_loss[:, k].max()),
            float(ratios[:, k].mean()),
        ]
        for k, lr in enumerate(lrs)
    ]
    return Measurement(
        exact(int((ratios[ok] > 1).sum())),
        table=Table(["rate", "settled", "largest loss to that at the start", "rate Tr / 2"], rows),
        remark=f"{len(problem.x[0])} images of odd and even digits, squared error, {int(ok.sum())} of {ok.size} runs "
        "settled; the ratio is to grow towards 1 with the rate.",
    )


def digit_data(count: int | None = None, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return digits as rows, and their classes."""
    data = digits()
    return data[: count or len(data)].flatten(1).to(dtype), data.labels[: count or len(data)]


def at_a_minimum(run: Run) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return a network of 1510 parameters at a minimum, with its data."""
    data, steps = digit_data(run.at(smoke=60, desk=600, full=1797)), run.at(smoke=60, desk=1500, full=5000)
    with seeded(0):
        network = mlp([64, 20, 10], nn.Tanh).double()
    run.trained("sgd-stability-mlp", network, lambda m: digits_network(m, data, cross_entropy, steps),
                steps=steps, n=len(data[0]))  # fmt: skip
    return network.requires_grad_(True), data


@measures("d6-estimators")
def estimators(run: Run) -> Measurement:
    """Estimate the trace of a Hessian many times at equal products, at a minimum and at the start."""
    network, data = at_a_minimum(run)
    with seeded(1):
        fresh = mlp([64, 20, 10], nn.Tanh).double()
    repeats = run.repeats(smoke=8, desk=60, full=200)
    methods: dict[str, Callable[..., Any]] = {"hutchinson": hutchinson, "hutch++": hutch_plus_plus, "xtrace": xtrace}
    errors: dict[tuple[str, str, int], np.ndarray] = {}
    for where, model in (("minimum", network), ("start", fresh)):
        op = HessianOperator(model, cross_entropy, data, ["2"] if run.scale == "smoke" else None)
        dense = op.products(torch.eye(op.n, dtype=torch.float64))
        dense = (dense + dense.T) / 2
        if where == "minimum":
            top = float(torch.linalg.eigvalsh(dense)[-1])
            lambda_error = abs(float(extreme_eigenvalues(op).values) / top - 1)
        for number, (name, estimate) in enumerate(methods.items()):
            for m in (60, 120):
                draws = [
                    estimate(dense.__matmul__, len(dense), m, torch_generator(run.seed, number, m, k)).trace
                    for k in range(repeats)
                ]
                errors[where, name, m] = np.array(draws) / float(dense.trace()) - 1
    rms = {key: float(np.sqrt(np.mean(found**2))) for key, found in errors.items()}
    rows = [[where, m, *(rms[where, name, m] for name in methods)] for where in ("minimum", "start") for m in (60, 120)]

    def against(name: str) -> Any:
        _, m = max((rms["minimum", name, m] / rms["minimum", "hutchinson", m], m) for m in (60, 120))
        return bootstrap(lambda a, b: np.sqrt(np.mean(a**2) / np.mean(b**2)), errors["minimum", name, m],
                         errors["minimum", "hutchinson", m])  # fmt: skip

    return Measurement(
        {"hutchpp": against("hutch++"), "xtrace": against("xtrace"), "lambda_max": exact(lambda_error)},
        table=Table(["at", "products", *methods], rows),
        remark=f"RMS of relative errors over {repeats} draws; the worse of 60 and 120 products is judged.",
    )


def large_network(run: Run) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return a trained network of about 100 000 parameters in single precision, with its data."""
    width, steps = run.at(smoke=12, desk=280, full=280), run.at(smoke=5, desk=150, full=600)
    data = digit_data(run.at(smoke=40, desk=1797, full=1797), torch.float32)
    with seeded(0):
        network = mlp([64, width, width, 10], nn.Tanh)
    run.trained("sgd-stability-large", network, lambda m: digits_network(m, data, cross_entropy, steps),
                width=width, steps=steps)  # fmt: skip
    return network.requires_grad_(True), data


@races("pyhessian")
def against_pyhessian(run: Run) -> Measurement:
    """Take a trace to an RMS error of 2 %: theirs with the probes that its variance asks for, ours by its own stop."""
    from pyhessian import hessian

    network, data = large_network(run)
    op = HessianOperator(network, cross_entropy, data)
    pilot = hutchinson(op.products, op.n, run.at(smoke=8, desk=60, full=200), torch_generator(991), dtype=torch.float32)
    spread = pilot.standard_error * math.sqrt(pilot.products) / abs(pilot.trace)
    probes = max(2, math.ceil((spread / 0.02) ** 2))
    found: dict[str, list[float]] = {"ours": [], "pyhessian": []}

    def ours() -> None:
        estimate = hessian_trace(op, "xtrace", rtol=0.014, max_products=2000, random_state=len(found["ours"]))
        found["ours"].append(estimate.trace)

    def theirs() -> None:
        torch.manual_seed(len(found["pyhessian"]))
        peer = hessian(network, cross_entropy, data=data, cuda=False)
        found["pyhessian"].append(float(np.mean(peer.trace(maxIter=probes, tol=0))))
        network.zero_grad()

    times = interleaved(run, {"ours": ours, "pyhessian": theirs}, run.at(smoke=1, desk=6, full=10))
    middle = float(np.mean(found["ours"]))
    rows = [[name, times.median(name), float(np.std(found[name]) / abs(middle))] for name in found]
    return Measurement(
        times.ratio("ours", "pyhessian"),
        table=Table(["package", "seconds", "spread of its estimates, relative"], rows),
        settings=f"{probes} probes, which its variance asks for, and no stop before; ours is XTrace, whose standard "
        "error is up to a third too small and is asked to be 1.4 %",
    )


@races("curvlinops")
def against_curvlinops(run: Run) -> Measurement:
    """Multiply the same Hessian with the same block of vectors."""
    from curvlinops import HessianLinearOperator

    network, data = large_network(run)
    op = HessianOperator(network, cross_entropy, data)
    peer = HessianLinearOperator(
        network, nn.CrossEntropyLoss(), list(network.parameters()), [data], check_deterministic=False
    )
    v = torch.randn(op.n, 32, generator=run.torch_rng())
    v = v / v.norm(dim=0)
    a, b = op @ v, (peer @ v).detach()
    times = interleaved(run, {"ours": lambda: op @ v, "curvlinops": lambda: peer @ v}, run.at(smoke=1, desk=8, full=20))
    return Measurement(
        {"time": times.ratio("ours", "curvlinops"), "difference": exact(float((a - b).norm() / b.norm()))},
        table=Table(["package", "seconds for 32 products"], [[k, s] for k, s in times.medians().items()]),
        settings="its matrix product with all columns at once, without its check that data are deterministic",
        floor=1.0,
    )


@races("hessian-eigenthings")
def against_eigenthings(run: Run) -> Measurement:
    """Find the largest eigenvalue of the same Hessian."""
    from hessian_eigenthings.algorithms import lanczos
    from hessian_eigenthings.loss_fns import supervised_loss
    from hessian_eigenthings.operators import HessianOperator as Theirs

    network, data = large_network(run)
    op = HessianOperator(network, cross_entropy, data)
    peer = Theirs(model=network, dataloader=[data], loss_fn=supervised_loss(cross_entropy))
    found: dict[str, float] = {}

    def ours() -> None:
        found["ours"] = float(extreme_eigenvalues(op, rtol=1e-4).values)

    def theirs() -> None:
        found["theirs"] = float(lanczos(peer, k=1, max_iter=30, tol=1e-4, which="LA", seed=0).eigenvalues[0])

    times = interleaved(run, {"ours": ours, "hessian-eigenthings": theirs}, run.at(smoke=1, desk=6, full=10))
    return Measurement(
        {
            "time": times.ratio("ours", "hessian-eigenthings"),
            "difference": exact(abs(found["ours"] / found["theirs"] - 1)),
        },
        table=Table(["package", "seconds"], [[k, s] for k, s in times.medians().items()]),
        settings="30 steps of its Lanczos iteration with full reorthogonalisation",
    )


@races("backpack")
def against_backpack(run: Run) -> Measurement:
    """Take norms of all samples' gradients, and the exact trace of the Gauss-Newton matrix."""
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad, DiagGGNExact

    network, data = large_network(run)
    peer, loss = extend(copy.deepcopy(network)), extend(nn.CrossEntropyLoss())  # it leaves hooks in what it extends
    found: dict[str, Any] = {}

    def theirs(extension: Any, read: Callable[[Any], Any]) -> Any:
        peer.zero_grad()
        with backpack(extension):
            loss(peer(data[0]), data[1]).backward()
        return sum(read(p) for p in peer.parameters())

    def norms_theirs() -> None:
        found["theirs"] = theirs(BatchL2Grad(), lambda p: p.batch_l2).sqrt() * len(data[0])

    def norms_ours() -> None:
        found["ours"] = per_sample_grad_norms(network, cross_entropy, data)

    times = interleaved(run, {"ours": norms_ours, "backpack": norms_theirs}, run.at(smoke=1, desk=8, full=20))
    trace = hessian_trace(GGNOperator(network, cross_entropy, data, batch_size=100), "exact").trace
    difference = abs(trace / float(theirs(DiagGGNExact(), lambda p: p.diag_ggn_exact.sum())) - 1)
    norms_apart = float((found["ours"] - found["theirs"]).norm() / found["ours"].norm())
    return Measurement(
        {"time": times.ratio("ours", "backpack"), "difference": exact(max(difference, norms_apart))},
        table=Table(["package", "seconds for all norms"], [[k, s] for k, s in times.medians().items()]),
        settings="BatchL2Grad in one backward pass, and DiagGGNExact for the trace",
    )
