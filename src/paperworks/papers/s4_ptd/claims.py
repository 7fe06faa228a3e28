"""What the paper says of diagonal state-space models: identities, spikes, and what noise at the spikes does."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.linalg import solve_continuous_lyapunov
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paperworks.dynamics import (
    S4D,
    S4DPLR,
    S4PTD,
    S5,
    S5PTD,
    dplr_legs,
    gap_bound,
    hippo_legs,
    operator_gap,
    perturb_then_diagonalize,
    resolvent_norm,
    spike_frequencies,
    transfer_function,
)
from paperworks.evidence import Measurement, Run, Table, exact, greatest, interleaved, mean, measures, races
from paperworks.numerics import seeded
from paperworks.testbeds import digits, fashion_mnist


def diagonal(n: int, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the diagonal model of HiPPO-LegS without the part of rank one: half of the input in its basis."""
    parts = dplr_legs(n)
    V = parts.V
    return parts.eigenvalues, V.mH @ B.to(V.dtype) / 2, C.to(V.dtype) @ V


def unit(n: int) -> Tensor:
    """Return the input vector of HiPPO-LegS, of length 1."""
    _, B = hippo_legs(n)
    return B / B.norm()


@measures("c1-transfer-functions")
def transfer_functions(run: Run) -> Measurement:
    """Compare the difference of both models with its closed form."""
    worst, rows = 0.0, []
    generator = run.torch_rng()
    for n in (16, 64, 256):
        A, B = hippo_legs(n)
        s = 1j * n**2 / 3 * torch.randn(50, dtype=torch.float64, generator=generator)
        C = torch.randn(n, dtype=torch.float64, generator=generator)
        parts = dplr_legs(n)
        eigenvalues, half_b, c = diagonal(n, B, C)
        p = parts.V.mH @ parts.P.to(parts.V.dtype)
        normal = transfer_function(eigenvalues, 2 * half_b, c, s)
        g = transfer_function(eigenvalues, p, p.conj(), s)
        apart = transfer_function(A, B, C, s) - normal / 2
        error = float(((normal * (1 - g) / (2 * (1 + g)) - apart).abs() / apart.abs()).max())
        worst = max(worst, error)
        rows.append([n, error, float(g.abs().max())])
    return Measurement(exact(worst), table=Table(["states", "largest relative error", "largest |g|"], rows))


def output_gap(n: int, C: Tensor) -> float:
    """Return the L2 norm of the difference of both models' outputs for the input exp(-t).

    The input is a state that decays, so that the difference is the free output of one real system, by Lyapunov's
    equation.
    """
    A, B = (x.numpy() for x in hippo_legs(n))
    P = B / math.sqrt(2)
    normal = A + np.outer(P, P)
    size = 2 * n + 1
    M = np.zeros((size, size))
    M[:n, :n], M[n : 2 * n, n : 2 * n], M[-1, -1] = A, normal, -1
    M[:n, -1], M[n : 2 * n, -1] = B, B / 2
    out = np.concatenate([C.numpy(), -C.numpy(), [0.0]])
    energy = solve_continuous_lyapunov(M.T, -np.outer(out, out))
    return math.sqrt(energy[-1, -1])


@measures("c2-input-wise")
def input_wise(run: Run) -> Measurement:
    """Follow the gap of the outputs for one smooth input as states become more."""
    sizes = run.at(smoke=(8, 16, 32), desk=(8, 16, 32, 64, 128, 256, 512), full=(8, 16, 32, 64, 128, 256, 512))
    first, second = [], []
    for n in run.progress(sizes, label="states"):
        e0 = torch.zeros(n, dtype=torch.float64)
        e0[0] = 1
        first.append(output_gap(n, e0))
        second.append(output_gap(n, unit(n)))
    slopes = [float(np.polyfit(np.log(sizes), np.log(gaps), 1)[0]) for gaps in (first, second)]
    constants = [2 * n * gap for n, gap in zip(sizes, first, strict=True)]
    figure, axes = run.figure()
    axes.loglog(sizes, first, "o-", label="first state")
    axes.loglog(sizes, second, "o-", label="output like the input")
    axes.set(xlabel="states", ylabel="gap of outputs, L2", title="One smooth input: the diagonal model converges")
    axes.legend()
    return Measurement(
        {
            "slope_first": exact(slopes[0]),
            "slope_second": exact(slopes[1]),
            "constant": exact(max(constants, key=lambda c: abs(c - 1))),
        },
        table=Table(["states", "gap, first state", "gap, second", "2 n times the first"],
                    [list(row) for row in zip(sizes, first, second, constants, strict=True)]),
        figure=figure,
    )  # fmt: skip


@measures("c3-spikes")
def spikes(run: Run) -> Measurement:
    """Look at the gap of both models at the last spike."""
    sizes = run.at(
        smoke=(64, 128), desk=(8, 16, 32, 64, 128, 256, 512, 1024), full=(8, 16, 32, 64, 128, 256, 512, 1024)
    )
    rows = []
    for n in run.progress(sizes, label="states"):
        (A, _), u = hippo_legs(n), unit(n)
        s = 1j * spike_frequencies(n, 1)
        gap = float((transfer_function(A, u, u, s) - transfer_function(*diagonal(n, u, u), s)).abs())
        rows.append([n, float(s.imag) * math.pi / n**2, gap])
    return Measurement(
        exact(max(abs(gap - 0.405) for n, _, gap in rows if n >= 64)),
        table=Table(["states", "last spike / (n^2 / pi)", "gap there"], rows),
    )


@measures("c4-ptd")
def ptd(run: Run) -> Measurement:
    """Perturb and diagonalise, and look at all frequencies."""
    n = run.at(smoke=12, desk=64, full=64)
    (A, _), u = hippo_legs(n), unit(n)
    rows, found = [], {}
    for method in ("optimized", "random", "normal"):
        result = perturb_then_diagonalize(A, method=method, random_state=run.seed)
        system = result.eigenvalues, torch.linalg.solve(result.V, u.to(result.V.dtype)), u.to(result.V.dtype) @ result.V
        if method == "normal":
            system = diagonal(n, u, u)
        gap, frequency = operator_gap((A, u, u), system)
        found[method] = result, gap, system
        right = float(result.eigenvalues.real.max())
        rows.append([method if method != "normal" else "S4D", result.cond, result.rel_norm, right, gap, frequency])
    result, gap, system = found["optimized"]
    # The bound holds for |E| times the resolvent below 1: at high frequencies, and everywhere for a part of E.
    w = torch.logspace(-1, math.log10(2 * n**2), run.at(smoke=20, desk=200, full=2000), dtype=torch.float64)
    rho = resolvent_norm(A, 1j * w)
    violations, checked = 0, 0
    for share in (1.0, 0.1, 0.01, 0.001):
        E = share * result.E
        bounds = gap_bound(A, E, 1j * w)
        apart = (transfer_function(A + E, u, u, 1j * w) - transfer_function(A, u, u, 1j * w)).abs()
        violations += int((apart > bounds * (1 + 1e-9)).sum())
        checked += int(torch.isfinite(bounds).sum())
    figure, axes = run.figure()
    for name, (_, _, other) in found.items():
        apart = (transfer_function(A, u, u, 1j * w) - transfer_function(*other, 1j * w)).abs()
        axes.loglog(w, apart, label={"optimized": "S4-PTD", "random": "random perturbation", "normal": "S4D"}[name])
    axes.set(xlabel="angular frequency", ylabel="distance to S4", title=f"Transfer functions, {n} states")
    axes.legend()
    return Measurement(
        {
            "condition": exact(result.cond),
            "perturbation": exact(result.rel_norm),
            "real_part": exact(float(result.eigenvalues.real.max())),
            "gap": exact(gap),
            "violations": exact(violations),
        },
        table=Table(["perturbation", "condition", "|E| / |A|", "largest real part", "gap", "at frequency"], rows),
        figure=figure,
        remark=f"The bound says something at {checked} of {4 * len(w)} points; the norm of the resolvent is up to "
        f"{float(rho.max()):.2f} there. S4D's gap is {found['normal'][1] / gap:.0f} times as large.",
    )


LAYERS: dict[str, Callable[..., nn.Module]] = {"S4": S4DPLR, "S4D": S4D, "S4-PTD": S4PTD}
WIDTH = 64


def untrained(n: int, dt: float, length: int) -> dict[str, float]:
    """Return errors of single systems with unit inputs and outputs against S4 for a sine, root-mean-square."""
    u = unit(n)
    last, second = spike_frequencies(n, 2).sort(descending=True).values.tolist()
    steps = torch.arange(length, dtype=torch.float64)
    A, _ = hippo_legs(n)
    perturbed = perturb_then_diagonalize(A)
    V = perturbed.V
    systems = {
        "S4D": diagonal(n, u, u),
        "S4-PTD": (perturbed.eigenvalues, torch.linalg.solve(V, u.to(V.dtype)), u.to(V.dtype) @ V),
    }
    step = torch.linalg.matrix_exp(dt * A)
    state = torch.linalg.solve(A, (step - torch.eye(n, dtype=A.dtype)) @ u)
    kernels = {"S4": torch.empty(length, dtype=torch.float64)}
    for k in range(length):
        kernels["S4"][k] = u @ state
        state = step @ state
    for name, (eigenvalues, b, c) in systems.items():
        powers = (eigenvalues[:, None] * dt * steps).exp()
        kernels[name] = ((c * b * ((eigenvalues * dt).exp() - 1) / eigenvalues) @ powers).real
    errors = {}
    for place, frequency in (("at the last spike", last), ("halfway to the next", (last + second) / 2)):
        wave = torch.cos(frequency * dt * steps)
        outputs = {name: causal(kernel, wave) for name, kernel in kernels.items()}
        for name in systems:
            errors[f"{name} {place}"] = float((outputs[name] - outputs["S4"]).square().mean().sqrt())
    return errors


def causal(kernel: Tensor, u: Tensor) -> Tensor:
    """Convolve from the first step on."""
    size = 2 * len(u)
    return torch.fft.irfft(torch.fft.rfft(kernel, n=size) * torch.fft.rfft(u, n=size), n=size)[: len(u)]


class Block(nn.Module):
    """A layer with its norm before and a way round it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(WIDTH), layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.norm(x))


class Sequences(nn.Module):
    """Two blocks between a first and a last linear map; the mean over time is classified."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, WIDTH, 1)
        self.blocks = nn.Sequential(Block(layer()), Block(layer()))
        self.last = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x)).mean(-1))


def trained(layer: Callable[[], nn.Module], x: Tensor, y: Tensor, seed: int, epochs: int) -> Sequences:
    """Train on sequences, (n, 1, L), systems ten times as slowly and without decay as all else."""
    with seeded(seed):
        network = Sequences(layer)
        systems = [p for p in network.parameters() if hasattr(p, "_optim")]
        others = [p for p in network.parameters() if not hasattr(p, "_optim")]
        groups: list[dict[str, Any]] = [{"params": systems, "lr": 1e-3, "weight_decay": 0.0}, {"params": others}]
        optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.05)
        batches = [rows for _ in range(epochs) for rows in torch.randperm(len(x)).split(64)]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
        for rows in batches:
            optimizer.zero_grad()
            cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def points(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the accuracy in points."""
    return 100 * float((torch.cat([network(part) for part in x.split(256)]).argmax(1) == y).double().mean())


def sequences(run: Run, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training and test sequences of pixels, with unit mean square, and their classes."""
    if name == "digits":
        images, labels = digits()[:].flatten(2), digits().labels
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        cut = run.at(smoke=100, desk=1297, full=1297)
        train, test = order[:cut], order[1297 : run.at(smoke=1361, desk=1797, full=1797)]
        x, y, x_test, y_test = images[train], labels[train], images[test], labels[test]
    else:
        n, m = run.at(smoke=64, desk=3000, full=60_000), run.at(smoke=64, desk=2000, full=10_000)
        parts = []
        for split, count in (("train", n), ("test", m)):
            data = fashion_mnist(split)
            small = nn.functional.avg_pool2d(data[:count], run.at(smoke=2, desk=2, full=1))
            parts += [small.flatten(2), data.labels[:count]]
        x, y, x_test, y_test = parts
    size = x.square().mean().sqrt()
    return x / size, y, x_test / size, y_test


@measures("c5-fourier-noise")
def fourier_noise(run: Run) -> Measurement:
    """Add a sine at the last spike that the step lets through, to single systems and to networks' inputs."""
    settings = {"digits": (16, 0.03, run.at(smoke=1, desk=15, full=30)),
                "Fashion-MNIST": (32, 0.009, run.at(smoke=1, desk=12, full=20))}  # fmt: skip
    spike, ratio = [], []
    single: list[list[Any]] = []
    for name, (n, dt, _) in settings.items():
        errors = untrained(n, dt, 64 if name == "digits" else 196)
        single.append([name, n, dt, *errors.values()])
        spike.append(errors["S4D at the last spike"] / errors["S4D halfway to the next"])
        ratio.append(errors["S4-PTD at the last spike"] / errors["S4D at the last spike"])
    falls: dict[str, list[tuple[float, float]]] = {name: [] for name in settings}
    clean: dict[str, list[float]] = {name: [] for name in settings}
    rows: list[list[Any]] = []
    for name, (n, dt, epochs) in settings.items():
        x, y, x_test, y_test = sequences(run, name)
        for seed in run.progress(run.seeds, label=name):
            found = {}
            for kind, layer in LAYERS.items():
                make = lambda layer=layer, n=n, dt=dt: layer(WIDTH, n, dt_min=dt, dt_max=1.001 * dt)  # noqa: E731
                network = trained(make, x, y, seed, epochs)
                step = float(network.get_parameter("blocks.0.layer.log_dt").exp().median())
                tops = [w for w in spike_frequencies(n).tolist() if w * step < math.pi]
                last, second = tops[0], tops[1]
                phases = 2 * math.pi * torch.rand(len(x_test), 1, 1, generator=run.torch_rng(seed))
                found[kind] = [points(network, x_test, y_test)]
                for w in (last, (last + second) / 2):
                    wave = 0.1 * math.sqrt(2) * torch.cos(w * step * torch.arange(x.shape[-1]) + phases)
                    found[kind].append(points(network, x_test + wave, y_test))
                rows.append([name, kind, seed, *found[kind]])
            falls[name].append((found["S4D"][0] - found["S4D"][1], found["S4-PTD"][0] - found["S4-PTD"][1]))
            clean[name].append(
                max(values[0] for values in found.values()) - min(values[0] for values in found.values())
            )
    shares = [ours / theirs for pairs in falls.values() for theirs, ours in pairs if theirs >= 3]
    return Measurement(
        {
            "own_spike": exact(min(spike)),
            "untrained": exact(max(ratio)),
            "fall": mean(shares, "trainings in which S4D falls by 3 points") if len(shares) > 1 else exact(math.nan),
            "clean_difference": greatest(mean(values) for values in clean.values()),
        },
        table=Table(
            ["data", "layer", "seed", "accuracy", "with noise at the spike", "with noise between spikes"],
            rows + [["errors of single systems:", *row[:1], "", *row[3:6]] for row in single],
        ),
        settings=f"two layers of {WIDTH} features; 0.1 of the inputs' root-mean-square at one frequency, random phases",
        remark=f"S4D falls by 3 points or more in {len(shares)} of {len(rows) // 3} trainings; falls, S4D and S4-PTD: "
        + "; ".join(f"{a:.1f} and {b:.1f}" for pairs in falls.values() for a, b in pairs)
        + ".",
    )


@measures("c6-long-range")
def long_range(run: Run) -> Measurement:
    """Train S5 and S5-PTD on flattened garments, step for step alike."""
    x, y, x_test, y_test = sequences(run, "Fashion-MNIST")
    found: dict[str, list[float]] = {"S5": [], "S5-PTD": []}
    for seed in run.progress(run.seeds, label="seeds"):
        for name, layer in (("S5", S5), ("S5-PTD", S5PTD)):

            def make(layer: Any = layer) -> nn.Module:
                return nn.Sequential(layer(WIDTH, 32, transposed=True), nn.GELU())

            network = trained(make, x, y, seed, run.at(smoke=1, desk=12, full=20))
            found[name].append(points(network, x_test, y_test))
    return Measurement(
        mean([ours - theirs for ours, theirs in zip(found["S5-PTD"], found["S5"], strict=True)]),
        table=Table(["layer", "mean accuracy"], [[name, float(np.mean(values))] for name, values in found.items()]),
    )


@races("s5-pytorch")
def against_s5(run: Run) -> Measurement:
    """Time a layer forward and back with the same system in both, and compare outputs."""
    from s5 import S5 as Theirs

    b, length, width, states = run.at(smoke=(1, 64, 8, 8), desk=(8, 1024, 64, 64), full=(8, 1024, 64, 64))
    with seeded(run.seed):
        ours, theirs, u = S5(width, states), Theirs(width, states), torch.randn(b, length, width)
    factor, B, C = (part.detach() for part in (ours.log_decay, ours.B, ours.C))
    eigenvalues = torch.complex(-factor.exp(), ours.frequency.detach())
    B, C = torch.view_as_complex(B), torch.view_as_complex(C)[:, 0]
    sequence = theirs.seq
    with torch.no_grad():  # all states, where ours has one of each pair
        sequence.Lambda.copy_(torch.cat([eigenvalues, eigenvalues.conj()]))
        sequence.B.copy_(torch.view_as_real(torch.cat([B, B.conj()])))
        sequence.C.copy_(torch.cat([C, C.conj()], 1))
        sequence.D.copy_(ours.D)
        sequence.log_step.copy_(ours.log_dt.repeat(2))
        apart = float((ours(u) - theirs(u)).abs().max() / theirs(u).abs().max())

    def both(layer: nn.Module) -> Callable[[], None]:
        def run_it() -> None:
            layer.zero_grad()
            layer(u).square().mean().backward()

        return run_it

    times = interleaved(run, {"ours": both(ours), "s5-pytorch": both(theirs)}, run.at(smoke=1, desk=9, full=15))
    return Measurement(
        {"time": times.ratio("ours", "s5-pytorch"), "difference": exact(apart)},
        table=Table(["layer", "seconds"], [[name, seconds] for name, seconds in times.medians().items()]),
    )
