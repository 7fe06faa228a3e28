"""What the paper says of high frequencies and many scales, measured on problems with known solutions."""

import os
import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_bvp

from paperworks.evidence import Measurement, Run, Table, every, exact, greatest, interleaved, measures, races, ratio
from paperworks.papers.gp_hm.problems import CASES, Array, Case, PlaneCase, chebyshev, relative
from paperworks.solvers import Advection, AllenCahn, GPHMSolver, MixtureSpectrum, Poisson, SpectralMixtureKernel

KINDS = ("student", "gauss")
NAMES = {"student": "GP-HM, Student-t bumps", "gauss": "GP-HM, Gaussian bumps"}


def poisson(run: Run, name: str, kernel: str, steps: int, **options: Any) -> dict[str, Any]:
    """Fit one of the Poisson problems; return its errors on the way, its test error, spectrum, and time."""

    def make() -> dict[str, Any]:
        case, way = CASES[name], []
        started = time.perf_counter()
        solver = case.fit(
            kernel=kernel,
            steps=steps,
            callback=lambda step, values: way.append([step.objective, relative(values, case.u(nodes(case)))]),
            **options,
        )
        seconds = time.perf_counter() - started
        spectrum = solver.spectrum_[0]
        return {
            "error": case.error(solver),
            "way": np.array(way),
            "weights": spectrum.weights,
            "frequencies": spectrum.frequencies,
            "lengthscales": spectrum.lengthscales,
            "seconds": seconds,
            "step": solver.selected_.number,
        }

    return run.cached("gp-hm-poisson", make, problem=name, kernel=kernel, steps=steps, **options)


def nodes(case: Case) -> Array:
    """Return the nodes of a problem of one variable."""
    return np.linspace(0, case.length, case.nodes)


def steps_of(run: Run, desk: int = 200) -> int:
    """Return how many outer steps to take."""
    return run.at(smoke=4, desk=desk, full=desk)


@measures("c1-poisson")
def poisson_problems(run: Run) -> Measurement:
    """Solve high-frequency Poisson problems, and solve them by other means than learning."""
    names = run.at(smoke=("P1", "P3"), desk=("P1", "P3"), full=("P1", "P2", "P3", "P4", "P5"))
    rows, found = [], {}
    figure, axes = run.figure()
    for name in run.progress(names, label="problems"):
        case = CASES[name]
        for kernel in KINDS:
            fit = found[name, kernel] = poisson(run, name, kernel, steps_of(run))
            rows.append([name, NAMES[kernel], fit["error"], fit["step"], fit["seconds"]])
            if name in ("P1", "P3"):
                axes.semilogy(fit["way"][:, 1], label=f"{name}, {kernel}", linestyle="-" if name == "P1" else "--")
        rows += [[name, *row] for row in without_learning(run, case)]
    axes.set(xlabel="outer step", ylabel="relative error at the nodes", title="sin(100x) and sin(6x)cos(100x)")
    axes.legend()
    return Measurement(
        {"p1": exact(found["P1", "student"]["error"]), "p3": exact(found["P3", "student"]["error"])},
        table=Table(["problem", "solver", "relative error", "step returned", "seconds"], rows),
        figure=figure,
        remark="Nothing here is random. Collocation in Chebyshev points solves each of these in milliseconds to ten "
        "digits: for a smooth solution on an interval it is the tool, and learning frequencies is not.",
    )


def without_learning(run: Run, case: Case) -> list[list[Any]]:
    """Return rows of Chebyshev collocation on as many nodes, and of SciPy's adaptive collocation."""
    x = np.linspace(0, case.length, 300)
    started = time.perf_counter()
    polynomial = chebyshev(case, case.nodes - 1)
    rows: list[list[Any]] = [
        ["Chebyshev collocation", relative(polynomial(x), case.u(x)), None, time.perf_counter() - started]
    ]
    if run.scale == "smoke":
        return rows
    ends = case.u(np.array([0.0, case.length]))
    started = time.perf_counter()
    found = solve_bvp(
        lambda at, y: np.vstack([y[1], case.bend(at)]),
        lambda left, right: np.array([left[0] - ends[0], right[0] - ends[1]]),
        nodes(case),
        np.zeros((2, case.nodes)),
        tol=1e-6,
        max_nodes=100_000,
    )
    name = f"scipy.integrate.solve_bvp, {found.x.size} nodes"
    return [*rows, [name, relative(found.sol(x)[0], case.u(x)), None, time.perf_counter() - started]]


@measures("c2-frequencies")
def frequencies(run: Run) -> Measurement:
    """Compare the frequencies that are left with the true ones."""
    figure, axes = run.figure(1, 2)
    apart, rows = {}, []
    for name, ax in zip(("P1", "P3"), axes, strict=True):
        for kernel in KINDS:
            fit = poisson(run, name, kernel, steps_of(run))
            spectrum = MixtureSpectrum(*(fit[key] for key in ("weights", "frequencies", "lengthscales")))
            left, true = spectrum.active(), np.array(CASES[name].true_frequencies)
            apart[name, kernel] = float(np.abs(left.frequencies[:, None] - true).min(1).max())
            listed = ", ".join(f"{f:.3f}" for f in left.frequencies[:6])
            rows.append([name, NAMES[kernel], len(left.weights), listed, apart[name, kernel]])
            ax.semilogy(spectrum.frequencies, spectrum.weights, "o" if kernel == "student" else "x", label=kernel)
        for frequency in CASES[name].true_frequencies:
            ax.axvline(frequency, color="black", linewidth=0.8, zorder=0)
        ax.set(xlabel="frequency, cycles per unit", ylabel="weight", title=f"{name}; lines: true frequencies")
        ax.legend()
    return Measurement(
        {"p1": exact(apart["P1", "student"]), "p3": exact(apart["P3", "student"])},
        table=Table(["problem", "solver", "components left", "their frequencies", "largest distance"], rows),
        figure=figure,
    )


@measures("c2b-allen-cahn")
def allen_cahn(run: Run) -> Measurement:
    """Solve the Allen-Cahn equation with sin(100x) and sin(6x)cos(100x) as solutions."""
    rows, errors = [], {}
    for name in run.progress(run.at(smoke=("P3",), desk=("P1", "P3"), full=("P1", "P3")), label="problems"):
        for kernel in run.at(smoke=("student",), desk=KINDS, full=KINDS):
            started = time.perf_counter()
            solver = CASES[name].fit(AllenCahn(), kernel=kernel, steps=run.at(smoke=2, desk=160, full=160))
            errors[name, kernel] = CASES[name].error(solver)
            rows.append([name, NAMES[kernel], errors[name, kernel], time.perf_counter() - started])
    return Measurement(
        exact(errors["P3", "student"]), table=Table(["solution", "solver", "relative error", "seconds"], rows)
    )


@measures("c3-multi-scale")
def multi_scale(run: Run) -> Measurement:
    """Solve the problem on three scales with an extra process, and without."""
    found = {
        share: poisson(run, "P4", "student", steps_of(run, 300), **options)
        for share, options in (("extra", {"extra_gp": 0.5}), ("one", {}))
    }
    figure, axes = run.figure()
    axes.semilogy(found["extra"]["way"][:, 1], label="an extra process from half-way on")
    axes.semilogy(found["one"]["way"][:, 1], label="one process")
    axes.set(xlabel="outer step", ylabel="relative error at the nodes", title="sin x + 0.1 sin 20x + 0.05 sin 100x")
    axes.legend()
    return Measurement(
        exact(found["extra"]["error"]),
        figure=figure,
        table=Table(
            ["processes", "relative error", "seconds"],
            [
                ["two, the later a plain Matérn", found["extra"]["error"], found["extra"]["seconds"]],
                ["one", found["one"]["error"], found["one"]["seconds"]],
            ],
        ),
    )


@measures("c4-single-kernel")
def single_kernel(run: Run) -> Measurement:
    """Solve with one component at frequency 0 and the same optimiser."""
    ours = poisson(run, "P1", "student", steps_of(run))
    plain = {kernel: poisson(run, "P1", kernel, steps_of(run), n_components=1, max_freq=0.0) for kernel in KINDS}
    rows = [[NAMES["student"], ours["error"]]]
    rows += [[{"student": "Matérn-5/2", "gauss": "squared exponential"}[k], fit["error"]] for k, fit in plain.items()]
    return Measurement(
        exact(min(fit["error"] for fit in plain.values()) / ours["error"]),
        table=Table(["kernel", "relative error on sin(100x)"], rows),
    )


def wave(x: Array) -> Array:
    """Return sin(6x)cos(20x)."""
    return np.sin(6 * x) * np.cos(20 * x)


def wave_bend(x: Array) -> Array:
    """Return the second derivative of `wave`."""
    return -436 * wave(x) - 240 * np.cos(6 * x) * np.sin(20 * x)


PRODUCT = PlaneCase(
    Poisson(2),
    lambda x, y: np.sin(20 * x) * np.sin(20 * y),
    lambda x, y: -800 * np.sin(20 * x) * np.sin(20 * y),
    2 * np.pi,
    100,
    7.5,
)
SUM = PlaneCase(
    Poisson(2), lambda x, y: wave(x) + wave(y), lambda x, y: wave_bend(x) + wave_bend(y), 2 * np.pi, 200, 8.0
)


def scales(x: Array) -> Array:
    """Return sin(x) + 0.1 sin(20x) + cos(100x)."""
    return np.sin(x) + 0.1 * np.sin(20 * x) + np.cos(100 * x)


def scales_bend(x: Array) -> Array:
    """Return the second derivative of `scales`."""
    return -np.sin(x) - 40 * np.sin(20 * x) - 1e4 * np.cos(100 * x)


LARGE = {
    "2P1": PlaneCase(
        Poisson(2),
        lambda x, y: np.sin(100 * x) * np.sin(100 * y),
        lambda x, y: -2e4 * np.sin(100 * x) * np.sin(100 * y),
        2 * np.pi,
        400,
        20.0,
    ),
    "2A": PlaneCase(
        AllenCahn(2),
        lambda x, y: scales(x) * scales(y),
        lambda x, y: (
            scales_bend(x) * scales(y)
            + scales(x) * scales_bend(y)
            + (scales(x) * scales(y)) ** 3
            - scales(x) * scales(y)
        ),
        1.0,
        400,
        30.0,
    ),
    "advection": PlaneCase(
        Advection(200.0), lambda x, t: np.sin(x - 200 * t), lambda x, t: np.zeros_like(x), 1.0, 200, 40.0
    ),
}
"""The paper's other problems of two variables."""


@measures("c5-two-dimensions")
def two_dimensions(run: Run) -> Measurement:
    """Solve problems of two variables."""
    small = {"grid_shape": 24} if run.scale == "smoke" else {}
    jobs: dict[tuple[str, str], tuple[PlaneCase, int, dict[str, Any]]] = {
        ("product", kernel): (PRODUCT, run.at(smoke=2, desk=60, full=200), {"kernel": kernel, **small})
        for kernel in KINDS
    }
    start = {"init_log_precisions": (10.0, 0.0)}
    jobs["sum", "student"] = SUM, run.at(smoke=2, desk=30, full=100), {**start, **small}
    if run.scale == "full":
        for name, case in LARGE.items():
            weight = {"boundary_weight": 500.0} if name == "advection" else {}
            jobs |= {(name, kernel): (case, 100, {**start, **weight, "kernel": kernel}) for kernel in KINDS}
    found, rows = {}, []
    figure, axes = run.figure()
    for (name, kernel), (case, steps, options) in run.progress(jobs.items(), label="problems"):
        way: list[tuple[float, float]] = []
        shape = options.get("grid_shape", case.nodes)
        truth = case.u(*np.meshgrid(*[np.linspace(0, case.length, shape)] * 2, indexing="ij"))

        def watch(step: Any, values: Any, way: list = way, truth: Array = truth) -> None:
            way.append((step.seconds, relative(values, truth)))

        solver = case.fit(callback=watch, steps=steps, **options)
        found[name, kernel] = case.error(solver)
        rows.append([name, NAMES[kernel], shape**2, found[name, kernel], solver.selected_.number, way[-1][0]])
        axes.semilogy(*np.transpose(way), label=f"{name}, {kernel}")
    axes.set(xlabel="seconds", ylabel="relative error at the nodes", title="Two variables")
    axes.legend()
    return Measurement(
        {"product": exact(found["product", "student"]), "sum": exact(found["sum", "student"])},
        table=Table(["problem", "solver", "unknowns", "relative error", "step returned", "seconds"], rows),
        figure=figure,
    )


@measures("c6-kronecker")
def kronecker(run: Run) -> Measurement:
    """Compare the objective, second derivatives and predictions with algebra on all 108 nodes at once."""
    solver = GPHMSolver(Poisson(2), [(0, 1), (0, 1.5)], (12, 9), n_components=3, max_freq=2.0, steps=5, jitter=1e-4)
    f, g = (run.rng().standard_normal((12, 9)) for _ in range(2))
    solver.fit(f, g)
    step, U = solver.selected_, solver.solution_.ravel()
    lines = [x[:, 0] if j == 0 else x[0] for j, x in enumerate(solver.grid())]
    points = run.rng(1).uniform(0, 1, (20, 2))

    def covariance(at: Float[np.ndarray, "n 2"], orders: tuple[int, int] = (0, 0)) -> Array:
        with torch.no_grad():
            parts = [
                kernel(torch.as_tensor(at[:, j, None] - lines[j]), order).numpy()
                for j, (kernel, order) in enumerate(zip(solver.kernels_, orders, strict=True))
            ]
        return np.einsum("na,nb->nab", *parts).reshape(len(at), -1)

    def along(j: int, order: int) -> Array:
        with torch.no_grad():
            return solver.kernels_[j](torch.as_tensor(lines[j][:, None] - lines[j]), order).numpy()

    k = [along(j, 0) + step.jitter * np.eye(len(lines[j])) for j in range(2)]
    K = np.kron(*k)
    alpha = np.linalg.solve(K, U)
    bends = {"u_xx": np.kron(along(0, 2), k[1]) @ alpha, "u_yy": np.kron(k[0], along(1, 2)) @ alpha}
    H = bends["u_xx"] + bends["u_yy"] - f.ravel()
    edge = np.ones((12, 9), dtype=bool)
    edge[1:-1, 1:-1] = False
    off = (U.reshape(12, 9) - g)[edge]
    t1, t2 = step.boundary_precision, step.equation_precision
    objective = (
        (np.linalg.slogdet(K)[1] + U @ alpha) / 2
        + 100 * (t1 * off @ off - edge.sum() * np.log(t1))
        + (t2 * H @ H - 108 * np.log(t2)) / 2
    )
    grid = np.stack([x.ravel() for x in solver.grid()], 1)
    # At the nodes a prediction has the kernel itself, without the jitter that is in U.
    dense = {
        "objective": (step.objective, objective),
        "residual": (solver.residual_.ravel(), H),
        "solution at points": (solver.predict(points), covariance(points) @ alpha),
        "u_xx at the nodes": (solver.predict(grid, (2, 0)), covariance(grid, (2, 0)) @ alpha),
        "u_xy at points": (solver.predict(points, (1, 1)), covariance(points, (1, 1)) @ alpha),
    }
    errors = {
        name: float(np.abs(np.subtract(ours, theirs)).max() / np.abs(np.asarray(theirs)).max())
        for name, (ours, theirs) in dense.items()
    }
    return Measurement(
        exact(max(errors.values())), table=Table(["quantity", "largest relative difference"], list(errors.items()))
    )


@measures("c7-speed", exclusive=True)
def speed(run: Run) -> Measurement:
    """Train jointly by Adam with the paper's settings, and time blocks of its steps in turn with ours."""
    case, goal = CASES["P1"], run.at(smoke=0.5, desk=1e-2, full=1e-2)
    truth = case.u(nodes(case))

    def reached(step: Any, values: Any) -> bool:
        return relative(values, truth) <= goal

    limit, block = run.at(smoke=10, desk=2500, full=20_000), run.at(smoke=5, desk=50, full=50)
    joint: dict[str, Any] = {"optimizer": "adam", "jitter": 1e-6}
    way: list[float] = []
    case.fit(
        steps=limit,
        callback=lambda step, values: way.append(relative(values, truth)) or way[-1] <= goal,  # type: ignore[func-returns-value]
        **joint,
    )
    ours: list[GPHMSolver] = []
    times = interleaved(
        run,
        {
            "ours": lambda: ours.append(case.fit(steps=200, callback=reached)),
            "joint": lambda: case.fit(steps=block, **joint),
        },
        run.at(smoke=2, desk=7, full=9),
    )
    spent = [seconds * len(way) / block for seconds in times.seconds["joint"]]
    there = way[-1] <= goal
    figure, axes = run.figure()
    axes.loglog(range(1, len(way) + 1), way, label="joint Adam")
    ourway: list[float] = []
    case.fit(steps=run.at(smoke=5, desk=60, full=200), callback=lambda s, v: ourway.append(relative(v, truth)))
    axes.loglog(range(1, len(ourway) + 1), ourway, label="projected")
    axes.axhline(goal, color="black", linewidth=0.8)
    axes.set(xlabel="step", ylabel="relative error at the nodes", title="sin(100x)")
    axes.legend()
    return Measurement(
        ratio(spent, times.seconds["ours"]),
        figure=figure,
        table=Table(
            ["training", "steps", "error", "seconds"],
            [
                ["projected", len(ours[-1].history_), relative(ours[-1].solution_, truth), times.median("ours")],
                ["joint Adam", len(way), way[-1], float(np.median(spent))],
            ],
        ),
        remark=f"Joint Adam ran once to find its number of steps, and {block} of them were timed in turn with ours."
        + ("" if there else " It had not reached the error when it was stopped, so that the ratio is a lower bound."),
    )


UNCERTAIN = ("P1", "P3", "P4")


@measures("c8-uncertainty")
def uncertainty(run: Run) -> Measurement:
    """Compare errors off the grid with standard deviations."""
    rows, shares = [], []
    figure, axes = run.figure()
    for name in run.progress(run.at(smoke=("P1",), desk=UNCERTAIN, full=UNCERTAIN), label="problems"):
        case = CASES[name]
        x = np.linspace(0, case.length, run.at(smoke=50, desk=997, full=4999))[1:-1]
        for steps in run.at(smoke=(2,), desk=(40, 160), full=(40, 160)):
            solver = case.fit(steps=steps)
            values, deviations = solver.predict(x, return_std=True)
            errors = np.abs(values - case.u(x))
            shares.append(float((errors <= 2 * deviations).mean()))
            size = float(np.sqrt(np.mean(errors**2)))
            rows.append([name, steps, size, float(deviations.mean()), shares[-1]])
        axes.loglog(deviations, errors, ".", markersize=3, label=name)
    ends = np.array(axes.get_xlim())
    axes.loglog(ends, 2 * ends, color="black", linewidth=0.8, label="twice the deviation")
    axes.set(xlabel="standard deviation", ylabel="error", title="Off the grid, after the last step")
    axes.legend()
    return Measurement(
        exact(min(shares)),
        table=Table(["problem", "steps", "root mean square error", "mean deviation", "share within two"], rows),
        figure=figure,
        remark="The least share of all. Deviations are far greater than errors where the solution is one or two waves "
        "and near to them on three scales: they bound, and are no calibrated probabilities.",
    )


@races("gpytorch")
def against_gpytorch(run: Run) -> Measurement:
    """Evaluate the same mixture on a grid: N lags here, all pairs there."""
    import gpytorch

    n, q = run.at(smoke=100, desk=400, full=2000), 30
    ours = SpectralMixtureKernel("gauss", q, max_freq=20.0)
    theirs = gpytorch.kernels.SpectralMixtureKernel(num_mixtures=q).double()
    theirs.initialize(
        mixture_weights=ours.weights.detach(),
        mixture_means=ours.frequencies.detach().reshape(q, 1, 1),
        mixture_scales=(ours.raw_mixture_scales.detach().exp() / (2 * np.pi**2)).sqrt().reshape(q, 1, 1),
    )
    x = torch.linspace(0, 2 * np.pi, n, dtype=torch.float64)
    index = (torch.arange(n)[:, None] - torch.arange(n)).abs()

    def on_lags() -> torch.Tensor:
        with torch.no_grad():
            return ours(x)[index]

    def on_pairs() -> torch.Tensor:
        with torch.no_grad():
            return theirs(x[:, None]).to_dense()

    difference = float((on_lags() - on_pairs()).abs().max())
    times = interleaved(run, {"ours": on_lags, "gpytorch": on_pairs}, run.at(smoke=3, desk=15, full=15))

    def copied() -> torch.Tensor:
        return torch.ones(n, dtype=torch.float64)[index]

    floor = interleaved(run, {"gather": copied}, run.at(smoke=3, desk=9, full=9)).median("gather")
    return Measurement(
        times.ratio("ours", "gpytorch"),
        settings=f"double precision, {n} nodes, {q} components, its dense matrix without a graph",
        floor=floor / times.median("gpytorch"),
        table=Table(
            ["kernel", "seconds", "largest difference"],
            [
                ["ours, N lags", times.median("ours"), difference],
                ["gpytorch, N^2 pairs", times.median("gpytorch"), None],
            ],
        ),
    )


@races("deepxde")
def against_deepxde(run: Run) -> Measurement:
    """Train a network with Fourier features on several scales for as much processor time as ours takes."""
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    import deepxde

    rows, worst = [], []
    for name in ("P1", "P3"):
        case, ratios = CASES[name], []
        started = time.process_time()
        ours = case.error(case.fit(steps=steps_of(run, 100)))
        seconds = time.process_time() - started
        for seed in run.progress(run.seeds, label=f"{name}, seeds"):
            found = [network(deepxde, case, seconds, lr, seed) for lr in run.at(smoke=(1e-3,), desk=LRS, full=LRS)]
            best, steps = min(found)
            ratios.append(ours / best)
            rows.append([name, seed, ours, best, seconds, steps])
        worst.append(every(ratios))
    return Measurement(
        greatest(worst),
        settings="a multi-scale Fourier network in DeepXDE: random features of standard deviations 1, 10, 50 and 100, "
        "two layers of 100 tanh units that they share, exact boundary values by a transform, the source scaled to 1, "
        "single precision, Adam with the best of three rates, each for our processor time of 100 steps",
        table=Table(
            ["problem", "seed", "ours", "network, best rate", "seconds of processor time each", "its steps"], rows
        ),
    )


LRS = (3e-4, 1e-3, 3e-3)


def multi_scale_network(deepxde: Any) -> Any:
    """Return a network that sees the point by random waves of four scales, each through the same layers.

    DeepXDE has it (MsFFN) for other backends than PyTorch only.
    """

    class MultiScale(deepxde.nn.NN):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("waves", torch.randn(4, 1, 50) * torch.tensor([1.0, 10.0, 50.0, 100.0])[:, None, None])
            self.trunk = deepxde.nn.FNN([100, 100, 100], "tanh", "Glorot uniform")
            self.head = torch.nn.Linear(400, 1)
            torch.nn.init.xavier_uniform_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            phases = inputs @ self.waves  # four scales, points, waves
            seen = torch.tanh(self.trunk(torch.cat([phases.cos(), phases.sin()], dim=-1)))
            found = self.head(seen.movedim(0, 1).reshape(len(inputs), -1))
            return self._output_transform(inputs, found)

    return MultiScale()


def network(deepxde: Any, case: Case, seconds: float, lr: float, seed: int) -> tuple[float, int]:
    """Return the error of a multi-scale network trained for some seconds, and its steps."""
    deepxde.config.set_random_seed(seed)
    scale, length = float(np.abs(case.bend(nodes(case))).max()), case.length
    ends = case.u(np.array([0.0, length]))

    def equation(x: Any, y: Any) -> Any:
        bend = deepxde.grad.hessian(y, x)
        return (bend - torch.as_tensor(case.bend(x.detach().numpy()))) / scale

    data = deepxde.data.PDE(deepxde.geometry.Interval(0, length), equation, [], case.nodes, 0)
    net = multi_scale_network(deepxde)
    net.apply_output_transform(
        lambda x, y: ends[0] + (ends[1] - ends[0]) * x / length + x * (length - x) * y * (4 / length**2)
    )
    model = deepxde.Model(data, net)
    model.compile("adam", lr=lr, verbose=0)
    steps, block, started = 0, 20, time.process_time()
    while time.process_time() - started < seconds:
        model.train(iterations=block, display_every=10**9, verbose=0)
        steps += block
    x = np.linspace(0, length, 300)
    return relative(model.predict(x[:, None])[:, 0], case.u(x)), steps
