"""What the paper proves of flow, minimiser and linear map, and what it shows of networks, measured."""

import importlib.util
import math
import os
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from torch import Tensor, nn

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    every,
    exact,
    greatest,
    interleaved,
    least,
    mean,
    measures,
    races,
)
from paperworks.numerics import mlp, seeded, torch_generator, train
from paperworks.testbeds import digits
from paperworks.training import (
    LayerwiseTrainer,
    NCMetrics,
    NeuralCollapseMeter,
    VicinityUFM,
    central_path,
    nc_metrics,
    near_collapse_spectrum,
    ufm_minimizer,
)

Matrix = np.ndarray


@measures("nc1-flow")
def flow(run: Run) -> Measurement:
    """Follow the flow from random features, and count where a quantity doesn't move as it must."""
    rng, violations, rows = run.rng(), 0, []
    for _ in run.progress(range(run.at(smoke=6, desk=200, full=1000)), label="problems"):
        K, n = int(rng.integers(2, 7)), int(rng.integers(2, 9))
        d = int(rng.integers(K, 2 * K + 3))
        lam_W = float(10 ** rng.uniform(-2, 0))
        lam_H = float(rng.choice([0.0, 10 ** rng.uniform(-2, 0)]))
        t = np.linspace(0, 3, run.at(smoke=20, desk=200, full=200))
        path = central_path(rng.normal(size=(d, K * n)), np.repeat(np.arange(K), n), lam_W, lam_H, t)
        growth = np.exp(2 * lam_H * t)
        steps = [
            np.diff(np.log(path.nc1_trace)),
            np.diff(np.log(growth * path.trace_within)),
            -np.diff(np.log(growth * path.trace_between)),
        ]
        violations += int(sum((step > 1e-7).sum() for step in steps))
        rows.append([K, d, n, lam_W, lam_H, path.nc1_trace[0], path.nc1_trace[-1], float(np.max(steps))])
    return Measurement(
        exact(violations),
        table=Table(
            ["K", "d", "n", "lam_W", "lam_H", "NC1 by traces at 0", "at 3", "largest step of a logarithm, to be < 0"],
            sorted(rows, key=lambda row: -row[-1])[:10],
        ),
        remark=f"{len(rows)} problems, of which the ten with the least strict step are shown.",
    )


@measures("nc2-minimiser")
def minimiser(run: Run) -> Measurement:
    """Compare minimisers with the features that they are tied to, and with the flow."""
    betas, rng = np.logspace(1, 4, 7), run.rng()
    not_lower, slopes, distances = 0, [], []
    for _ in run.progress(range(run.at(smoke=2, desk=30, full=100)), label="problems"):
        K, n = int(rng.integers(2, 6)), int(rng.integers(2, 7))
        d, (lam_W, lam_H) = int(rng.integers(K, 2 * K + 1)), 10 ** rng.uniform(-1.5, 0, 2)
        H0, labels = rng.normal(size=(d, K * n)), np.repeat(np.arange(K), n)
        times = np.append(0, 1 / betas[::-1])
        path = central_path(H0, labels, lam_W, lam_H, times, "DOP853", rtol=1e-13, atol=1e-14)
        apart = []
        for beta, H in zip(betas, path.H[:0:-1], strict=True):
            found = VicinityUFM(lam_W, lam_H, beta, rtol=1e-13).fit(H0, labels).H_
            after, before = (nc_metrics(X.T, labels, which=("nc1_trace",)).nc1_trace for X in (found, H0))
            not_lower += not (after or 0) < (before or 0)
            apart.append(float(np.linalg.norm(found - H)))
        distances.append(apart)
        slopes.append(float(np.polyfit(np.log(betas), np.log(apart), 1)[0]))
    figure, axes = run.figure()
    middle = np.median(distances, axis=0)
    axes.loglog(betas, np.transpose(distances), color="#56B4E9", linewidth=0.8, alpha=0.5)
    axes.loglog(betas, middle, "o-", label=f"median of {len(distances)} problems")
    axes.loglog(
        betas, middle[-1] * (betas / betas[-1]) ** -2, "k--", linewidth=1.2, label="slope -2 of an implicit step"
    )
    axes.set(xlabel="beta, how strongly features are tied", ylabel="distance to the flow at 1 / beta")
    axes.legend()
    return Measurement(
        {"not_lower": exact(not_lower), "slope": every(slopes, of="problems")},
        table=Table(
            ["beta", "median distance to the flow", "largest"],
            [
                [float(b), float(half), float(most)]
                for b, half, most in zip(betas, middle, np.max(distances, axis=0), strict=True)
            ],
        ),
        figure=figure,
        remark=f"{len(slopes)} problems with {len(betas)} values of beta each.",
    )


@measures("nc3-singular-values")
def singular_values(run: Run) -> Measurement:
    """Build the map of deviations as a matrix, and compare its spectrum and that of its blocks with closed forms."""
    cases = [(4, 10, 10, math.sqrt(2), lam_H) for lam_H in (0.05, 0.2, 0.5)] + [
        (3, 4, 3, 0.3, 0.6),
        (2, 5, 6, 1.0, 0.1),
    ]
    beta, rows = 100.0, []
    for K, n, d, lam_W, lam_H in run.progress(cases[: run.at(smoke=1, desk=5, full=5)], label="cases"):
        _, H0 = ufm_minimizer(K, n, d, lam_W, lam_H, random_state=run.seed)
        model = VicinityUFM(lam_W, lam_H, beta).fit(H0, np.repeat(np.arange(K), n))
        F = model.perturbation_operator("large_beta") @ np.eye(d * K * n)
        closed, size = near_collapse_spectrum(K, n, d, lam_W, lam_H, beta), d * n
        found = [
            [np.linalg.svd(F[a : a + size, b : b + size], compute_uv=False) for b in range(0, len(F), size)]
            for a in range(0, len(F), size)
        ]
        cross = np.append(closed.cross, np.zeros(size - 1))
        blocks = max(
            float(np.abs(found[a][b] - (closed.block if a == b else cross)).max()) for a in range(K) for b in range(K)
        )
        eigenvalues = np.linalg.eigvalsh(beta * (np.eye(len(F)) - F))
        whole = float(np.abs(eigenvalues - closed.spectrum).max())
        rows.append([K, d, n, lam_W, lam_H, closed.block[-1], closed.cross, blocks, whole])
    return Measurement(
        {"blocks": exact(max(row[-2] for row in rows)), "spectrum": exact(max(row[-1] for row in rows))},
        table=Table(
            ["K", "d", "n", "lam_W", "lam_H", "least singular value of a class's block", "that between classes",
             "largest difference, blocks", "largest difference, spectrum"],
            rows,
        ),
    )  # fmt: skip


@measures("nc4-linearisation")
def linearisation(run: Run) -> Measurement:
    """Move the given features a little, minimise again, and compare with the linear map."""
    K, n, d, lam_W, lam_H = 4, 10, 10, 0.5, 0.3
    labels, sizes, rng = np.repeat(np.arange(K), n), np.logspace(-3.5, -1.5, 5), run.rng()
    slopes: dict[str, list[float]] = {"general": [], "collapsed": []}
    rows = []
    for _ in run.progress(range(run.at(smoke=1, desk=10, full=30)), label="problems"):
        starts = {
            "general": rng.normal(size=(d, K * n)),
            "collapsed": ufm_minimizer(K, n, d, lam_W, lam_H, random_state=rng)[1],
        }
        direction = rng.normal(size=(d, K * n))
        for name, H0 in starts.items():
            for beta in (1.0, 10.0, 100.0):
                model = VicinityUFM(lam_W, lam_H, beta, rtol=1e-13)
                model.fit(H0, labels)
                before, predicted = model.H_, model.predict_perturbation(direction)
                moved = [model.fit(H0 + size * direction, labels).H_ - before for size in sizes]
                errors = [
                    float(np.linalg.norm(move - size * predicted) / np.linalg.norm(move))
                    for move, size in zip(moved, sizes, strict=True)
                ]
                slopes[name].append(float(np.polyfit(np.log(sizes), np.log(errors), 1)[0]))
                rows.append([name, beta, errors[1], errors[-1], slopes[name][-1]])
    return Measurement(
        {name: every(values, of="problems") for name, values in slopes.items()},
        table=Table(["features", "beta", "relative error at 1e-3", "at 3e-2", "slope"], rows[:12]),
        remark=f"Sizes of deviations are those of an entry, from {sizes[0]:.1e} to {sizes[-1]:.1e}.",
    )


def digit_features() -> tuple[Tensor, Tensor]:
    """Return the pixels of scikit-learn's digits, and their labels."""
    images = digits()
    return images[:].flatten(1), images.labels


@measures("nc5-depth")
def depth(run: Run) -> Measurement:
    """Train networks layer by layer, and measure what each layer puts out."""
    x, y = digit_features()
    epochs, layers = run.at(smoke=2, desk=60, full=60), run.at(smoke=2, desk=6, full=10)
    found: list[list[NCMetrics]] = []
    for seed in run.progress(run.seeds, label="seeds"):
        with seeded(seed):
            blocks = [nn.Sequential(nn.Linear(a, 128), nn.ReLU()) for a in (x.shape[1], *[128] * (layers - 1))]
        found.append(LayerwiseTrainer(blocks, 10, epochs=epochs).fit(x, y, torch_generator(seed)).metrics_)
    values = {
        name: np.array([[getattr(metrics, name) for metrics in row] for row in found])
        for name in ("nc1_trace", "nc1", "nc2")
    }
    figure, axes = run.figure()
    for name, label, mark in (("nc1_trace", "by traces", "o"), ("nc1", "with the pseudo-inverse", "s")):
        axes.semilogy(range(layers + 1), values[name].mean(0), f"{mark}-", label=f"NC1 {label}")
        axes.fill_between(range(layers + 1), values[name].min(0), values[name].max(0), alpha=0.15)
    axes.set(xlabel="layer (0: pixels)", ylabel=f"NC1, mean and range of {len(found)} seeds", xticks=range(layers + 1))
    axes.legend()
    columns = ["layer", "NC1 by traces", "NC1 with the pseudo-inverse", "NC2"]
    return Measurement(
        {name: greatest(mean(change) for change in np.diff(np.log(values[name])).T) for name in ("nc1_trace", "nc1")},
        table=Table(columns, [[i, *(float(v[:, i].mean()) for v in values.values())] for i in range(layers + 1)]),
        figure=figure,
        remark=f"{len(found)} seeds; layers of width 128, {epochs} epochs each, half the squared distance as loss.",
    )


SETTINGS = {"baseline": (1.0, 1.0), "last x2": (2.0, 1.0), "last 0": (0.0, 1.0), "features x2": (1.0, 2.0),
            "features 0": (1.0, 0.0)}  # fmt: skip
"""Weight decay of the last layer and of those before it, over the baseline's."""


def decayed(x: Tensor, y: Tensor, seed: int, setting: tuple[float, float], epochs: int) -> NCMetrics:
    """Train a network with three hidden layers from a seed, and measure the features before its last layer."""
    with seeded(seed):
        hidden, last = mlp([x.shape[1], 128, 128, 128, 128])[:-1], nn.Linear(128, 10, bias=False)
    generator, onehot, batch_size = torch_generator(seed), torch.eye(10)[y], 64
    each, order = -(-len(x) // batch_size), y

    def loss(step: int) -> Tensor:
        nonlocal order
        if step % each == 0:
            order = torch.randperm(len(x), generator=generator)
        rows = order[step % each * batch_size :][:batch_size]
        return (last(hidden(x[rows])) - onehot[rows]).square().sum() / (2 * len(rows))

    groups = [
        {"params": last.parameters(), "weight_decay": 5e-4 * setting[0]},
        {"params": hidden.parameters(), "weight_decay": 5e-4 * setting[1]},
    ]
    optimizer = torch.optim.SGD(groups, 0.05, momentum=0.9)
    train(loss, optimizer, epochs * each, schedule=lambda step: 10.0 ** -(step // each // (epochs / 3)))
    with torch.no_grad():
        return nc_metrics(hidden(x), y, last.weight)


@measures("nc6-weight-decay")
def weight_decay(run: Run) -> Measurement:
    """Train with twice and with no weight decay of the last layer, and of those before it."""
    x, y = digit_features()
    epochs = run.at(smoke=1, desk=120, full=120)
    found: dict[str, list[NCMetrics]] = {name: [] for name in SETTINGS}
    for seed in run.progress(run.seeds, label="seeds"):
        for name, setting in SETTINGS.items():
            found[name].append(decayed(x, y, seed, setting, epochs))

    def values(setting: str, measure: str) -> np.ndarray:
        return np.array([getattr(metrics, measure) for metrics in found[setting]])

    estimates = {}
    for name, measure in {"variability": "nc1_trace", "simplex": "nc2"}.items():
        base, excesses = values("baseline", measure), []
        for factor, direction in (("x2", -1), ("0", 1)):
            last, features = (
                (values(f"{layer} {factor}", measure) - base) / base.mean() for layer in ("last", "features")
            )
            # The features' mean change exceeds the size of the last layer's where it exceeds both it and its negative.
            excesses += [mean(direction * features - last), mean(direction * features + last)]
        estimates[name] = least(excesses)
    measured = ("nc1_trace", "nc2", "nc3", "nc1")
    return Measurement(
        estimates,
        table=Table(
            ["weight decay", "NC1 by traces", "NC2", "NC3", "NC1 with the pseudo-inverse"],
            [[name, *(float(values(name, measure).mean()) for measure in measured)] for name in SETTINGS],
        ),
        remark=f"Means of {len(run.seeds)} seeds; three hidden layers of width 128, {epochs} epochs, rate 0.05 "
        "divided by 10 twice, momentum 0.9, weight decay 5e-4 in the baseline.",
    )


def load_peer() -> types.ModuleType:
    """Load the package from the folder that PAPERWORKS_NEURAL_COLLAPSE names.

    Raises
    ------
    ImportError
        Where the variable isn't set, or the folder holds no such package.
    """
    folder = os.environ.get("PAPERWORKS_NEURAL_COLLAPSE", "")
    path = Path(folder) / "neural_collapse" / "__init__.py"
    if not folder or not path.is_file():
        raise ImportError(
            f"PAPERWORKS_NEURAL_COLLAPSE is {folder!r}; it takes the folder of a checkout of "
            "github.com/rhubarbwu/neural-collapse"
        )
    name = "_paperworks_neural_collapse"
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BATCH = 1000
MEASURED = ("nc1", "nc1_trace", "nc2", "nc3")


def wide_features(run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Return features about class means, labels and a last layer, all random."""
    N, d, K = run.at(smoke=(2000, 32, 10), desk=(50_000, 512, 100), full=(50_000, 512, 100))
    generator = run.torch_rng()
    means, y = torch.randn(K, d, generator=generator), torch.randint(K, (N,), generator=generator)
    return (
        means[y] + 0.5 * torch.randn(N, d, generator=generator),
        y,
        means + 0.5 * torch.randn(K, d, generator=generator),
    )


def metered(x: Tensor, y: Tensor, weight: Tensor) -> NCMetrics:
    """Return the measures of one pass in batches."""
    meter = NeuralCollapseMeter(*weight.shape)
    for rows in zip(x.split(BATCH), y.split(BATCH), strict=True):
        meter.update(*rows)
    return meter.compute(weight)


@races("neural-collapse")
def against_neural_collapse(run: Run) -> Measurement:
    """Measure the same features by both, theirs in two passes with the faster of its two pseudo-inverses."""
    peer = load_peer()
    x, y, weight = wide_features(run)
    K, d = weight.shape

    def theirs(pinv: str) -> dict[str, float]:
        means = peer.accumulate.MeanAccumulator(K, d)
        batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
        for features, labels in batches:
            means.accumulate(features, labels)
        M, centre = means.compute()
        covariance = peer.accumulate.CovarAccumulator(K, d, M=M)
        for features, labels in batches:
            covariance.accumulate(features, labels, M)
        within = covariance.compute()
        return {
            "nc1": peer.measure.covariance_ratio(within, M, centre, pinv),
            "nc1_trace": peer.measure.covariance_ratio(within, M, centre, "quotient"),
            "nc2": peer.measure.simplex_etf_error(M, centre),
            "nc3": peer.measure.self_duality_error(weight, M, centre),
        }

    reference, ours = theirs("pinv"), [nc_metrics(x, y, weight), metered(x, y, weight)]
    apart = max(abs(getattr(found, name) / reference[name] - 1) for found in ours for name in MEASURED)
    jobs: dict[str, Callable[[], Any]] = {
        "ours": partial(nc_metrics, x, y, weight),
        "meter": partial(metered, x, y, weight),
        "pinv": partial(theirs, "pinv"),
        "svd": partial(theirs, "svd"),
        "product": lambda: [rows.T @ rows for rows in x.split(BATCH)],
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=8, full=8))
    medians = times.medians()
    fastest = min(("pinv", "svd"), key=lambda name: medians[name])
    labels = {"ours": "ours, all features at hand", "meter": "ours, one pass", "pinv": "neural-collapse, pinv",
              "svd": "neural-collapse, svd", "product": "the bare products"}  # fmt: skip
    return Measurement(
        {"features": times.ratio("ours", fastest), "meter": times.ratio("meter", fastest), "apart": exact(apart)},
        table=Table(["method", "seconds"], [[labels[name], seconds] for name, seconds in medians.items()]),
        settings=f"single precision, its default, batches of {BATCH}, '{fastest}' for NC1",
        remark="Ours keeps sums in double precision; theirs goes through the data twice, means first.",
        floor=times.ratio("product", fastest).value,
    )


@races("torch")
def against_torch(run: Run) -> Measurement:
    """Take features in batch by batch, and multiply the same batches with themselves and do nothing else."""
    x, y, weight = wide_features(run)
    jobs: dict[str, Callable[[], Any]] = {
        "meter": partial(metered, x, y, weight),
        "product": lambda: sum(rows.T @ rows for rows in x.split(BATCH)),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=15, full=15))
    return Measurement(
        times.ratio("meter", "product"),
        table=Table(["method", "seconds"], [[name, seconds] for name, seconds in times.medians().items()]),
        settings=f"single precision, batches of {BATCH}",
        remark="The meter's time is with its measures. It multiplies by BLAS' rank-k update, which has half the work.",
    )


@races("scipy")
def against_scipy(run: Run) -> Measurement:
    """Minimise from the same start by ours, and by L-BFGS on head and features and on the features alone."""
    K, n, d, lam = run.at(smoke=(3, 5, 4, 0.05), desk=(10, 200, 64, 0.05), full=(10, 200, 64, 0.05))
    labels, H0 = np.repeat(np.arange(K), n), run.rng().normal(size=(d, K * n))
    Y = np.eye(K)[labels].T
    ridge, scale = n * lam, 1 + float(np.abs(H0).max())
    start = cho_solve(cho_factor(H0 @ H0.T + ridge * np.eye(d)), H0 @ Y.T).T
    # Where it hasn't ended by then, on head and features at the least betas, it is only the quicker for it.
    options = {"maxiter": 2000, "maxfun": 4000, "maxcor": 20, "ftol": 1e-17, "gtol": 1e-10 * scale}

    def gradient(W: Matrix, H: Matrix, beta: float) -> tuple[float, Matrix, Matrix]:
        residual, moved = W @ H - Y, H - H0
        loss = np.vdot(residual, residual) + lam * np.vdot(H, H) + beta * np.vdot(moved, moved)
        return loss / 2, residual, lam * H + W.T @ residual + beta * moved

    def reduced(h: Matrix, beta: float) -> tuple[float, Matrix]:
        H = h.reshape(d, -1)
        W = cho_solve(cho_factor(H @ H.T + ridge * np.eye(d)), H @ Y.T).T
        loss, _, slope = gradient(W, H, beta)
        return loss + ridge * np.vdot(W, W) / 2, slope.ravel()

    def joint(wh: Matrix, beta: float) -> tuple[float, Matrix]:
        W, H = wh[: K * d].reshape(K, d), wh[K * d :].reshape(d, -1)
        loss, residual, slope = gradient(W, H, beta)
        return loss + ridge * np.vdot(W, W) / 2, np.concatenate([(residual @ H.T + ridge * W).ravel(), slope.ravel()])

    def by_scipy(loss: Callable[..., Any], x0: Matrix, beta: float) -> float:
        found = minimize(loss, x0, (beta,), "L-BFGS-B", jac=True, options=options)
        return float(np.abs(found.jac).max() / scale)

    def ours(beta: float) -> float:
        return VicinityUFM(lam, lam, beta).fit(H0, labels).grad_norm_ / scale

    rows, ratios = [], {"joint": [], "reduced": []}  # type: ignore[var-annotated]
    both, reached = np.concatenate([start.ravel(), H0.ravel()]), 0.0
    for beta in run.progress((0.01, 0.1, 1.0, 10.0), label="beta"):
        ends: dict[str, float] = {}

        def job(name: str, solve: Callable[[], float], ends: dict[str, float] = ends) -> Callable[[], None]:
            return lambda: ends.update({name: solve()})

        jobs = {
            "ours": job("ours", partial(ours, beta)),
            "reduced": job("reduced", partial(by_scipy, reduced, H0.ravel(), beta)),
        }
        if beta >= 0.1:
            jobs["joint"] = job("joint", partial(by_scipy, joint, both, beta))
        times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=9))
        for name in jobs.keys() - {"ours"}:
            ratios[name].append(times.ratio("ours", name))
        seconds = times.medians()
        reached = max(reached, ends["ours"])
        rows.append(
            [beta, *(part.get(name, math.nan) for name in ("ours", "reduced", "joint") for part in (seconds, ends))]
        )
    return Measurement(
        {name: greatest(found) for name, found in ratios.items()} | {"gradient": exact(reached)},
        table=Table(
            ["beta", *(f"{name}, {what}" for name in ("ours", "L-BFGS on features", "L-BFGS on both")
                       for what in ("seconds", "gradient"))],
            rows,
        ),
        settings="L-BFGS-B with 20 corrections from H0 and its best head, until it stops by itself",
    )  # fmt: skip
