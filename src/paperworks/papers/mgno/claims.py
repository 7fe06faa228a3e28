"""What multigrid layers cost and are, and how well networks of them learn, beside Fourier neural operators."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    every,
    exact,
    interleaved,
    mean,
    measures,
    races,
)
from paperworks.numerics import seeded
from paperworks.operators import MultigridConv, RelativeH1Loss
from paperworks.papers.mgno.learning import (
    BATCH,
    EQUAL,
    OURS,
    THEIRS,
    Problem,
    best_rates,
    errors,
    fourier,
    mgno,
    parameters,
)
from paperworks.papers.mgno.problems import cycled, darcy, flow, levels_of, matrix_cycle, poisson_cycle, waves
from paperworks.testbeds import darcy_images

RATES = (2e-3, 4e-3, 6e-3, 1e-2, 2e-2, 4e-2)  # the learning rates that every network chooses from
FAST = RATES[1:]  # without the slowest one, which no network chooses in the seconds there are at desk scale


@measures("c1-linear-cost", exclusive=True)
def linear_cost(run: Run) -> Measurement:
    """Time the network on grids of four sizes."""
    sides = run.at(smoke=(16, 20), desk=(33, 65, 129, 257), full=(33, 65, 129, 257, 513))
    with seeded(0):
        network = mgno()()
    fields = {side: torch.randn(BATCH, 1, side, side, generator=run.torch_rng()) for side in sides}

    # A small grid is computed so often that all jobs are as long, and no pause of the machine weighs more on it.
    often = {side: max(1, round((sides[-1] / side) ** 2)) for side in sides}

    @torch.no_grad()
    def apply(side: int) -> None:
        for _ in range(often[side]):
            network(fields[side])

    jobs = {str(side): lambda side=side: apply(side) for side in sides}
    times = interleaved(run, jobs, run.at(smoke=2, desk=8, full=15))
    nodes = [side**2 for side in sides]
    rounds = np.array([np.array(times.seconds[str(side)]) / often[side] for side in sides])
    counts = [parameters(mgno(resolution=side)()) for side in sides]
    figure, axes = run.figure()
    axes.loglog(nodes, np.median(rounds, 1), "o-", label="measured")
    axes.loglog(nodes, np.median(rounds, 1)[-1] * np.array(nodes) / nodes[-1], "k--", label="linear")
    axes.set(xlabel="nodes of the grid", ylabel="seconds for eight fields", title="Time of a network of four layers")
    axes.legend()
    return Measurement(
        {
            "exponent": mean(np.polyfit(np.log(nodes), np.log(rounds), 1)[0].tolist(), "rounds"),
            "parameter_spread": exact(max(counts) - min(counts)),
        },
        table=Table(
            ["nodes per side", "seconds", "parameters"],
            [[side, float(np.median(row)), count] for side, row, count in zip(sides, rounds, counts, strict=True)],
        ),
        figure=figure,
    )


@measures("c2-is-multigrid")
def is_multigrid(run: Run) -> Measurement:
    """Solve Poisson's equation with the weights of multigrid, and with matrices."""
    sides = run.at(smoke=(17, 33), desk=(33, 65, 129, 257), full=(33, 65, 129, 257, 513))
    factors: dict[tuple[float, int], list[float]] = {}
    apart, rows, histories = 0.0, [], {}
    for side in run.progress(sides, label="grids"):
        for damping in (2 / 3, 0.8):
            layer = poisson_cycle(side, damping)
            for seed in run.seeds:
                f = torch.randn(side - 2, side - 2, generator=run.torch_rng(seed), dtype=torch.float64)
                padded = nn.functional.pad(f, (1, 1, 1, 1))[None, None]
                _, norms = cycled(layer, padded, 10)
                factors.setdefault((damping, side), []).append(norms[-1] / norms[-2])
            histories[damping, side] = norms
            by_matrix = matrix_cycle(levels_of(side), damping)(f.numpy().ravel()).reshape(f.shape)
            ours = layer(padded)[0, 0, 1:-1, 1:-1].numpy()
            apart = max(apart, float(np.abs(ours - by_matrix).max() / np.abs(by_matrix).max()))
        rows.append([side, *(float(np.mean(factors[damping, side])) for damping in (2 / 3, 0.8))])
    figure, axes = run.figure()
    for side in sides:
        norms = histories[2 / 3, side]
        axes.semilogy(np.array(norms) / norms[0], "o-", ms=3, label=f"{side} per side")
    axes.semilogy([0.1 * (4 / 9) ** k for k in range(11)], "k--", label="4/9 a cycle")
    axes.set(xlabel="cycles", ylabel="residual / first residual", title="An untrained layer as a solver")
    axes.legend()
    first = [row[1] for row in rows]
    return Measurement(
        {
            "reduction": every([max(factors[2 / 3, side][k] for side in sides) for k in range(len(run.seeds))]),
            "spread": exact(max(first) / min(first) - 1),
            "reduction_08": every([max(factors[0.8, side][k] for side in sides) for k in range(len(run.seeds))]),
            "difference": exact(apart),
        },
        table=Table(["nodes per side", "factor, damping 2/3", "damping 0.8"], rows),
        figure=figure,
        remark="Factors of the tenth cycle; theory's bound for two grids is (1 - damping / 2)^2, 0.444 and 0.36.",
    )


@measures("c3-linearity")
def linearity(run: Run) -> Measurement:
    """Check linearity and shifts of layers with random weights."""
    linear, shifts = [], []
    for seed in run.seeds:
        with seeded(seed):
            layer = MultigridConv(3, 8, 4, padding_mode="circular")
            x, y = torch.randn(2, 4, 3, 32, 32).unbind()
        with torch.no_grad():
            whole = layer(0.7 * x - 1.3 * y)
            linear.append(float((whole - 0.7 * layer(x) + 1.3 * layer(y)).norm() / whole.norm()))
            moved = layer(x).roll((8, 16), (2, 3))
            shifts.append(float((layer(x.roll((8, 16), (2, 3))) - moved).norm() / moved.norm()))
    return Measurement({"linearity": every(linear), "shifts": every(shifts)})


def judged(run: Run, problem: Problem, rates: dict[str, float], seconds: float) -> dict[str, list[nn.Module]]:
    """Train each network from every seed for equal processor time, at its rate."""
    steps = problem.steps(run, seconds)
    return {
        name: [problem.trained(run, name, seed, rates[name], steps[name]) for seed in run.seeds]
        for name in problem.networks
    }


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def rates_of(run: Run) -> tuple[float, ...]:
    return run.at(smoke=RATES[:2], desk=FAST, full=RATES)


def tuning_seconds(run: Run) -> float:
    return run.at(smoke=0.0, desk=4.0, full=3600.0)


def training_seconds(run: Run) -> float:
    return run.at(smoke=0.0, desk=16.0, full=14_400.0)


@measures("c4-darcy", exclusive=True)
def learns_darcy(run: Run) -> Measurement:
    """Train on Darcy flow at the best rate of each, judge on the test split and on photographs."""
    problem, seconds = darcy(run), training_seconds(run)
    rates, rows = best_rates(run, problem, rates_of(run), tuning_seconds(run))
    networks, steps = judged(run, problem, rates, seconds), problem.steps(run, seconds)
    found = {name: [errors(network, problem.test) for network in made] for name, made in networks.items()}
    images = darcy_images(problem.test.inputs.shape[-1])
    for name, made in networks.items():
        l2, h1 = np.mean(found[name], 0)
        outside = float(np.mean([errors(network, images)[0] for network in made]))
        rows.append([f"{name}, {parameters(made[0])} parameters", f"{rates[name]:g}, test", steps[name], l2, h1])
        rows.append([name, "photographs", steps[name], outside, ""])
    l2 = {name: [pair[0] for pair in pairs] for name, pairs in found.items()}
    return Measurement(
        {
            "equal_time": mean(ratios(l2[OURS], l2[THEIRS])),
            "equal_parameters": mean(ratios(l2[OURS], l2[EQUAL])),
            "parameters": exact(parameters(networks[OURS][0]) / parameters(networks[THEIRS][0])),
        },
        table=Table(["network", "rate and split", "steps", "relative error in L2", "in H1"], rows),
        figure=fields_figure(run, problem, {name: networks[name][0] for name in (OURS, THEIRS)}),
        settings=f"{seconds:g} s of processor time each, batches of {BATCH}, {problem.test.inputs.shape[-1]} per side",
    )


@torch.no_grad()
def fields_figure(run: Run, problem: Problem, networks: dict[str, nn.Module]) -> Any:
    """Show a test sample and what each network makes of it."""
    x, y = problem.test.inputs[:1], problem.test.outputs[:1]
    shown: dict[str, Tensor] = {"input": x, "solution": y}
    shown |= {f"error of {name}": network(x) - y for name, network in networks.items()}
    figure, axes = run.figure(1, len(shown))
    figure.set_size_inches(3.2 * len(shown), 3)
    most = max(float(v.abs().max()) for name, v in shown.items() if name.startswith("error"))
    for axis, (name, values) in zip(axes, shown.items(), strict=True):
        scale = {"vmin": -most, "vmax": most, "cmap": "RdBu_r"} if name.startswith("error") else {}
        image = axis.imshow(values[0, 0].numpy().T, origin="lower", **scale)
        axis.set(title=name, xlabel="node", ylabel="node")
        axis.grid(False)
        figure.colorbar(image, ax=axis, shrink=0.8)
    return figure


@measures("c5-overfitting", exclusive=True)
def overfits(run: Run) -> Measurement:
    """Train on few samples for equal steps, at the rates that the whole training split chose."""
    whole, problem = darcy(run), darcy(run, 64)
    rates, _ = best_rates(run, whole, rates_of(run), tuning_seconds(run))
    steps = run.at(smoke=2, desk=150, full=4000)
    gaps: dict[str, list[float]] = {OURS: [], THEIRS: []}
    rows = []
    for name, gap in gaps.items():
        sides = []
        for seed in range(run.repeats(smoke=1, desk=6, full=3)):
            network = problem.trained(run, name, seed, rates[name], steps)
            sides.append((errors(network, problem.train)[0], errors(network, problem.test)[0]))
            gap.append(sides[-1][1] / sides[-1][0])
        rows.append([name, *np.mean(sides, 0).tolist(), float(np.mean(gap))])
    return Measurement(
        mean(ratios(gaps[OURS], gaps[THEIRS])),
        table=Table(["network", "training error", "test error", "test / training"], rows),
        settings=f"{steps} steps of {BATCH} samples, {len(problem.train.inputs)} samples",
    )


@measures("c6-flow", exclusive=True)
def learns_flow(run: Run) -> Measurement:
    """Train on the next frame of a flow, and on waves, at the best rate of each."""
    seconds = training_seconds(run)
    rows: list[list[Any]] = []
    found = {}
    problem = flow(run)
    for case in (problem, waves(run)):
        seeds = (1000, 1001) if case is problem else (1000,)  # of waves nothing is judged
        rates, tried = best_rates(run, case, rates_of(run), tuning_seconds(run), seeds)
        if case is problem:
            networks = judged(run, case, rates, seconds)
            found = {name: [errors(network, case.test)[0] for network in made] for name, made in networks.items()}
            rows.append([f"{case.name}: no change", "", "", errors(nn.Identity(), case.test)[0], ""])
        rows += [[f"{case.name}: {row[0]}", *row[1:]] for row in tried]
    for name, values in found.items():
        rows.append([f"flow: {name}", f"{name}, test", problem.steps(run, seconds)[name], float(np.mean(values)), ""])
    return Measurement(
        mean(ratios(found[OURS], found[THEIRS])),
        table=Table(["problem and network", "rate and split", "steps", "relative error in L2", ""], rows),
        figure=fields_figure(run, problem, {name: made[0] for name, made in networks.items()}),
        settings=f"{seconds:g} s of processor time each; waves: {tuning_seconds(run):g} s, validation alone",
    )


def step_of(network: nn.Module, x: Tensor, y: Tensor) -> Any:
    """Return a function that takes a training step's gradient."""
    loss = RelativeH1Loss(reduction="mean")

    def step() -> None:
        network.zero_grad()
        loss(network(x), y).backward()

    return step


def kept_megabytes(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return what a step keeps for its gradient, without the weights, in MiB: nearly all of its peak memory."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor, storage.nbytes()  # held, so that no other storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        RelativeH1Loss(reduction="mean")(network(x), y)
    return sum(size for _, size in kept.values()) / 2**20


@races("neuraloperator")
def against_neuraloperator(run: Run) -> Measurement:
    """Time a gradient of each, and weigh what it keeps."""
    from neuralop.models import UNO

    side = run.at(smoke=17, desk=65, full=211)
    with seeded(0):
        networks: dict[str, nn.Module] = {
            "ours": mgno(resolution=side, levels=4 if run.scale == "smoke" else 5)(),
            "FNO": fourier(20),
            "UNO": UNO(
                1, 1, 16, lifting_channels=32, projection_channels=32, uno_out_channels=[16] * 4,
                uno_n_modes=[[10, 10]] * 4, uno_scalings=[[1, 1], [0.5, 0.5], [1, 1], [2, 2]],
                channel_mlp_skip="linear",
            ),
        }  # fmt: skip
        x, y = torch.randn(2, BATCH, 1, side, side).unbind()
    jobs = {name: step_of(network, x, y) for name, network in networks.items()}
    times = interleaved(run, jobs, run.at(smoke=1, desk=8, full=15))
    kept = {name: kept_megabytes(network, x, y) for name, network in networks.items()}
    counts = {name: parameters(network) for name, network in networks.items()}
    return Measurement(
        {
            "step_time": times.ratio("ours", "FNO"),
            "memory": exact(kept["ours"] / kept["FNO"]),
            "parameters": exact(counts["ours"] / counts["FNO"]),
        },
        table=Table(
            ["network", "seconds a step", "MiB kept for the gradient", "real parameters"],
            [[name, times.median(name), kept[name], counts[name]] for name in networks],
        ),
        settings="FNO: 20 channels, 4 layers, 10 modes along each axis; UNO: 16 channels, one halving",
    )


@races("pyamg")
def against_pyamg(run: Run) -> Measurement:
    """Give pyamg the same levels, and compare the iterates of ten cycles."""
    from pyamg import MultilevelSolver
    from pyamg.relaxation.smoothing import change_smoothers

    side = run.at(smoke=17, desk=129, full=513)
    levels = []
    for A, P in levels_of(side):
        level = MultilevelSolver.Level()
        level.A = A.tocsr()
        if P is not None:
            level.P, level.R = P.tocsr(), (P.T / 4).tocsr()
        levels.append(level)
    solver = MultilevelSolver(levels, coarse_solver="pinv")
    jacobi = ("jacobi", {"omega": 2 / 3, "withrho": False})
    change_smoothers(solver, jacobi, jacobi)
    layer, apart = poisson_cycle(side, 2 / 3), []
    for seed in run.seeds:
        f = torch.randn(side - 2, side - 2, generator=run.torch_rng(seed), dtype=torch.float64)
        b, padded = f.numpy().ravel(), nn.functional.pad(f, (1, 1, 1, 1))[None, None]
        u = cycled(layer, padded, 10)[0][0, 0, 1:-1, 1:-1].numpy().ravel()
        theirs = solver.solve(b, tol=1e-300, maxiter=10)
        apart.append(float(np.abs(u - theirs).max() / np.abs(theirs).max()))
    times = interleaved(
        run,
        {"ours": lambda: cycled(layer, padded, 10), "pyamg": lambda: solver.solve(b, tol=1e-300, maxiter=10)},
        run.at(smoke=1, desk=7, full=15),
    )
    return Measurement(
        every(apart),
        table=Table(["solver", "seconds for ten cycles"], [list(item) for item in times.medians().items()]),
        settings="V(1, 1)-cycles, Jacobi relaxation with damping 2/3, the same matrices and interpolations",
    )


@races("torch-harmonics")
def against_local(run: Run) -> Measurement:
    """Time a gradient of ours and of neuraloperator's local operator, which needs torch_harmonics."""
    from neuralop.models import LocalNO

    side = run.at(smoke=17, desk=65, full=211)
    with seeded(0):
        networks = {
            "ours": mgno(resolution=side, levels=4 if run.scale == "smoke" else 5)(),
            "LocalNO": LocalNO((20, 18), 1, 1, 16, default_in_shape=(side, side)),
        }
        x, y = torch.randn(2, BATCH, 1, side, side).unbind()
    times = interleaved(
        run, {k: step_of(network, x, y) for k, network in networks.items()}, run.at(smoke=1, desk=8, full=15)
    )
    return Measurement(
        times.ratio("ours", "LocalNO"),
        table=Table(
            ["network", "seconds a step", "real parameters"],
            [[name, times.median(name), parameters(network)] for name, network in networks.items()],
        ),
    )
