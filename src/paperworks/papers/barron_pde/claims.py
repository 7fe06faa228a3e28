"""What the paper says of descent on elliptic energies, and the widths of networks that follow."""

import itertools
import math
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import newton_krylov

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    exact,
    interleaved,
    mean,
    measures,
    races,
    ratio,
)
from paperworks.papers.barron_pde.problems import cubic, on_torus, quasilinear
from paperworks.solvers import (
    EllipticEnergy,
    FastPoisson,
    PGDResult,
    RidgeNetwork,
    SineSeries,
    barron_bound,
    laplacian,
    network_size,
    paper_barron_bound,
    paper_constants,
    semilinear,
    sharp_constants,
    solve_pgd,
    width_for,
)

_NOISE = 1e-12  # of the first gap: below it the gap is rounding


def errors_of(problem: EllipticEnergy, u: SineSeries, **options: Any) -> tuple[PGDResult, np.ndarray]:
    """Solve, and return the errors of the iterates in the norm of the gradient, relative to the solution's."""
    found = [1.0]
    size = seminorm(u)
    result = solve_pgd(problem, callback=lambda v: found.append(seminorm(v - u) / size), rtol=0.0, **options)
    return result, np.array(found)


def seminorm(u: SineSeries) -> float:
    """Return the norm of the gradient in L²."""
    return float(np.sqrt((u.eigenvalues * u.coefficients**2).sum() / 2**u.dim))


def gap_ratios(result: PGDResult, least: float) -> np.ndarray:
    """Return by which factor each step reduced the energy's gap, as long as that is more than rounding."""
    gaps = result.history["energy"] - least
    known = gaps[1:] > _NOISE * gaps[0]
    return (gaps[1:] / gaps[:-1])[: int(known.argmin()) if not known.all() else len(known)]


def least_energy(problem: EllipticEnergy, u: SineSeries, n: int) -> float:
    """Return the energy of the solution."""
    return float(solve_pgd(problem, n_modes=n, start=u, track=("energy",), maxiter=0).history["energy"][0])


def steps_to(errors: np.ndarray, goal: float) -> int:
    """Return the first iterate whose error is at most the goal's."""
    if not (errors <= goal).any():
        raise ValueError(f"errors end at {errors[-1]:.3g}; {goal:g} is never reached")
    return int((errors <= goal).argmax())


@measures("c1-linear-convergence")
def linear_convergence(run: Run) -> Measurement:
    """Descend on the cubic problem with both step sizes, and hold each step against the proven rate."""
    problem, u = cubic()
    n = run.at(smoke=15, desk=63, full=255)
    sharp, errors = errors_of(problem, u, n_modes=n, maxiter=14, track=("energy", "certified"))
    _optimal, faster = errors_of(problem, u, n_modes=n, step="optimal", maxiter=14)
    ratios = gap_ratios(sharp, least_energy(problem, u, n))
    figure, axes = run.figure()
    axes.semilogy(errors, "o-", label="error, step 1 / smoothness")
    axes.semilogy(faster, "s-", label="error, optimal step")
    axes.semilogy(sharp.history["certified"] / seminorm(u), "k--", label="certified bound of the first")
    axes.set(xlabel="step", ylabel="error in the norm of the gradient, relative", ylim=(1e-13, 10))
    axes.legend()
    return Measurement(
        {
            "ratio_to_bound": exact(float(ratios.max() / sharp.constants.rate)),
            "steps": exact(steps_to(errors, 1e-6)),
            "optimal_steps": exact(steps_to(faster, 1e-6)),
        },
        table=Table(
            ["step", "error", "gap / gap before", "proven", "error with the optimal step"],
            [
                [
                    t,
                    float(errors[t]),
                    float(ratios[t - 1]) if 0 < t <= len(ratios) else None,
                    sharp.constants.rate,
                    float(faster[t]),
                ]
                for t in range(len(errors))
            ],
        ),
        figure=figure,
        remark=f"The Hessian was within {sharp.hessian.c_low:.3g} to {sharp.hessian.c_high:.3g}, declared up to"
        f" {problem.c_bounds[1]:g}.",
    )


@measures("c2-paper-step")
def paper_step(run: Run) -> Measurement:
    """Descend with the paper's step size, and count steps that break its rate."""
    problem, u = cubic()
    n, goal = run.at(smoke=(9, 1e-2), desk=(63, 1e-6), full=(63, 1e-6))
    constants = paper_constants(1.0, problem.c_bounds[1])
    slow, errors = errors_of(
        problem, u, n_modes=n, step="paper", maxiter=run.at(smoke=3500, desk=12000, full=12000), track=("energy",)
    )
    _, ours = errors_of(problem, u, n_modes=n, maxiter=20, track=())
    ratios = gap_ratios(slow, least_energy(problem, u, n))
    return Measurement(
        {
            "violations": exact(int((ratios > constants.rate).sum())),
            "steps_to_ours": exact(steps_to(errors, goal) / steps_to(ours, goal)),
        },
        table=Table(
            ["step size", "value", f"steps to {goal:g}", "proven rate", "worst measured"],
            [
                ["the paper's", constants.step, steps_to(errors, goal), constants.rate, float(ratios.max())],
                ["1 / smoothness", slow.constants.step, steps_to(ours, goal), slow.constants.rate, None],
            ],
        ),
    )


@measures("c2b-quasilinear")
def quasilinear_convergence(run: Run) -> Measurement:
    """Descend where the nonlinearity is in the gradient."""
    problem, u = quasilinear(1)
    n = run.at(smoke=31, desk=127, full=511)
    x = np.linspace(0, 1, 4001)[:, None]
    truth, largest, in_h1 = u(x), [1.0], [u.h1_norm]

    def look(v: SineSeries) -> None:
        largest.append(float(np.abs(v(x) - truth).max()))
        in_h1.append((v - u).h1_norm)

    result = solve_pgd(problem, n_modes=n, step="optimal", rtol=0.0, maxiter=60, callback=look)
    errors, known = np.array(largest), np.array(in_h1)
    known = known[known > _NOISE * known[0]]
    return Measurement(
        {"steps": exact(steps_to(errors, 1e-9)), "factor": exact(float((known[1:] / known[:-1]).max()))},
        table=Table(["step", "greatest error"], [[t, float(errors[t])] for t in range(0, len(errors), 5)]),
        remark=f"Proven factor {result.constants.optimal_factor:.4f} where the Hessian is at most"
        f" {problem.p_bounds[1]:.4g}, as at the solution; on the way it reached {result.hessian.p_high:.4g}.",
    )


@measures("c3-barron-norm")
def barron_norm(run: Run) -> Measurement:
    """Follow the norms of the iterates under the bound of each step, and that under the paper's closed form."""
    steps = run.at(smoke=4, desk=8, full=12)
    n = run.at(smoke=15, desk=63, full=127)
    flat, u = cubic()
    problems: dict[str, tuple[EllipticEnergy, dict[str, Any]]] = {
        "cubic, 2 dimensions": (flat, {"n_modes": n}),
        "quasilinear, 1 dimension": (quasilinear(1)[0], {"n_modes": n}),
        "quasilinear, 2 dimensions": (quasilinear(2)[0], {"n_modes": n}),
        **{
            f"torus, {dim} dimensions": (on_torus(dim), {"representation": "trig"})
            for dim in run.at(smoke=(2,), desk=(2, 10, 50), full=(2, 10, 50))
        },
    }
    violations, rows = 0, []
    for name, (problem, options) in problems.items():
        lambda1 = 0.0 if "representation" in options else problem.dim * math.pi**2
        sharp = sharp_constants(problem.c_bounds, problem.p_bounds, lambda1)
        paper = paper_constants(problem.p_bounds[0], max(problem.c_bounds[1], problem.p_bounds[1]))
        for step in (sharp.step, paper.step):
            result = solve_pgd(problem, step=step, maxiter=steps, rtol=0.0, track=("barron",), **options)
            with np.errstate(divide="ignore"):
                norms = np.log10(result.history["barron"])
            bounds = barron_bound(problem, steps, step)
            violations += int((norms > bounds + 1e-9).sum())
            closed = paper_barron_bound(problem, steps) if step == paper.step else np.full(steps + 1, np.inf)
            violations += int((bounds > closed + 1e-9).sum())
            rows.append(
                [name, step, float(norms[-1]), float(bounds[-1]), float(closed[-1]) if step == paper.step else None]
            )
    final = solve_pgd(flat, n_modes=n, step="optimal", rtol=1e-13, maxiter=40).u.barron_norm()
    return Measurement(
        {"violations": exact(violations), "final": exact(final)},
        table=Table(["problem", "step size", "log10 of the norm", "log10 of its bound", "log10 of the paper's"], rows),
        remark=f"After {steps} steps. The norm of the solution is {u.barron_norm():.6f}.",
    )


@measures("c4-independence")
def independence(run: Run) -> Measurement:
    """Count the steps to 1e-8 on meshes, and in dimensions."""
    problem, u = cubic()
    meshes = run.at(smoke=(15, 31), desk=(15, 31, 63, 127), full=(15, 31, 63, 127, 255))
    on_meshes = [steps_to(errors_of(problem, u, n_modes=n, maxiter=20)[1], 1e-8) for n in meshes]
    dims = run.at(smoke=(2, 4), desk=(2, 4, 10, 20, 50), full=(2, 4, 10, 20, 50, 100))
    in_dims = [solve_pgd(on_torus(d), representation="trig", rtol=1e-8, step="optimal").iterations for d in dims]
    return Measurement(
        exact(max(max(counts) - min(counts) for counts in (on_meshes, in_dims))),
        table=Table(
            ["modes or dimensions", "steps to 1e-8"],
            [
                *([f"{n} modes", c] for n, c in zip(meshes, on_meshes, strict=True)),
                *([f"{d} dimensions", c] for d, c in zip(dims, in_dims, strict=True)),
            ],
        ),
        remark="In modes by the error; in dimensions by the gradient relative to the source, with the optimal step.",
    )


@measures("c5-width")
def width(run: Run) -> Measurement:
    """Draw networks of the cubic problem's solution, and hold their errors against the bounds and the exact mean."""
    u = cubic()[1].to_trig()
    widths = [2**k for k in run.at(smoke=range(4, 8), desk=range(4, 13), full=range(4, 15))]
    draws = run.effort * run.at(smoke=30, desk=200, full=400)
    points, weights = np.polynomial.legendre.leggauss(20)
    x = np.stack([np.ravel(g) for g in np.meshgrid(*[(points + 1) / 2] * 2, indexing="ij")], axis=1)
    area = torch.from_numpy(np.outer(weights, weights).ravel() / 4)
    truth, places = torch.from_numpy(u(x)), torch.from_numpy(x)
    errors = {kind: np.zeros((draws, len(widths))) for kind in ("cos", "sigmoid")}
    generator = np.random.default_rng(run.seed)
    with torch.no_grad():
        for draw in run.progress(range(draws)):
            for (kind, found), (i, k) in itertools.product(errors.items(), enumerate(widths)):
                network = RidgeNetwork.of(u, kind, k, generator)
                found[draw, i] = float(area @ (network(places) - truth).square())
    omega = 2 * np.pi / u.period * u.frequencies
    units = np.cos(x @ omega.T + np.angle(u.coefficients))
    squares = area.numpy() @ units**2
    spread = u.mass * float(np.abs(u.coefficients) @ squares) - float(area @ truth.square())
    bounds = {"cos": u.mass**2, "sigmoid": u.dim * u.barron_norm() ** 2}  # (2 C)², the cube's radius in C
    violations = sum(int((found.mean(0) > bounds[kind] / np.array(widths)).sum()) for kind, found in errors.items())
    figure, axes = run.figure()
    for kind, found in errors.items():
        (line,) = axes.loglog(widths, found.mean(0), "o-", label=f"{kind}, mean of {draws} draws")
        axes.loglog(widths, bounds[kind] / np.array(widths), "--", color=line.get_color(), label=f"{kind}, bound")
    axes.set(xlabel="hidden units", ylabel="squared error in L²")
    axes.legend()
    return Measurement(
        {
            "violations": exact(violations),
            "to_expectation": mean((errors["cos"] * np.array(widths) / spread).mean(1), of="draws"),
            "slope": bootstrap(partial(_slope, widths), errors["cos"], of="draws"),
        },
        table=Table(
            ["hidden units", "cosines", "expected", "bound", "sigmoids", "their bound"],
            [
                [
                    k,
                    float(errors["cos"][:, i].mean()),
                    spread / k,
                    bounds["cos"] / k,
                    float(errors["sigmoid"][:, i].mean()),
                    bounds["sigmoid"] / k,
                ]
                for i, k in enumerate(widths)
            ],
        ),
        figure=figure,
    )


def _slope(widths: list[int], errors: np.ndarray) -> float:
    return float(np.polyfit(np.log(widths), np.log(np.asarray(errors).mean(0)), 1)[0])


@measures("c6-dimension")
def dimension(run: Run) -> Measurement:
    """Solve in up to 50 dimensions, and size the networks by bounds before and after."""
    eps, rows = 1e-2, []
    widths: dict[str, dict[int, int]] = {"cos": {}, "sigmoid": {}}
    for dim in run.at(smoke=(2, 10), desk=(2, 4, 10, 20, 50), full=(2, 4, 10, 20, 50, 100)):
        problem = on_torus(dim)
        result = solve_pgd(problem, representation="trig", step="optimal", rtol=1e-6)
        for kind, found in widths.items():
            found[dim] = width_for(eps, result.u, kind)
        sizes = [network_size(problem, eps, bound=bound) for bound in ("sharp", "paper")]
        rows.append(
            [dim, result.u.terms, result.u.barron_norm(), widths["cos"][dim], widths["sigmoid"][dim]]
            + [size.log10_width for size in sizes]
        )
    low, high = min(widths["cos"]), max(widths["cos"])
    growth = {kind: found[high] / found[low] for kind, found in widths.items()}
    return Measurement(
        {"cosines": exact(growth["cos"]), "sigmoids": exact(growth["sigmoid"])},
        table=Table(
            [
                "dimensions",
                "terms",
                "Barron norm",
                "cosines",
                "sigmoids",
                "log10 of sigmoids by our bound",
                "by the paper's",
            ],
            rows,
        ),
        remark=f"For an error of {eps:g}; the widths in numbers are of the computed solution's own norm. Those of"
        f" sigmoids grow like the dimension to the power {math.log(growth['sigmoid']) / math.log(high / low):.2f}.",
    )


@races("deepxde")
def against_deepxde(run: Run) -> Measurement:
    """Race a physics-informed network of DeepXDE, which gets two minutes to an error of 1e-2."""
    import os

    os.environ.setdefault("DDE_BACKEND", "pytorch")
    import deepxde

    problem, u = cubic()
    budget = run.at(smoke=2.0, desk=120.0, full=600.0)
    rng = np.random.default_rng(run.seed)
    places = rng.random((2000, 2))
    source, truth = problem.source(9), u(places)

    def residual(x: Any, y: Any) -> Any:
        laplace = sum(deepxde.grad.hessian(y, x, i=i, j=i) for i in range(2))
        return -laplace + y**3 - _sines(source, x)

    def at_boundary(x: Any, y: Any) -> Any:  # holds exactly, so that nothing is spent on it
        return y * x[:, :1] * (1 - x[:, :1]) * x[:, 1:] * (1 - x[:, 1:]) * 16

    deepxde.config.set_random_seed(run.seed)
    geometry = deepxde.geometry.Rectangle([0, 0], [1, 1])
    data = deepxde.data.PDE(geometry, residual, [], num_domain=1000, train_distribution="Hammersley")
    net = deepxde.nn.FNN([2, 50, 50, 50, 1], "tanh", "Glorot uniform")
    net.apply_output_transform(at_boundary)
    model = deepxde.Model(data, net)
    model.compile("adam", lr=3e-3, decay=("step", 1000, 0.7), verbose=0)
    taken, error = 0.0, 1.0
    while error > 1e-2 and taken < budget:
        started = time.perf_counter()
        model.train(iterations=100, display_every=10**9, verbose=0)
        taken += time.perf_counter() - started
        error = float(np.linalg.norm(model.predict(places).ravel() - truth) / np.linalg.norm(truth))
    n = 15
    result = solve_pgd(problem, n_modes=n, step="optimal", rtol=1e-6)
    ours = interleaved(
        run,
        {"ours": lambda: solve_pgd(problem, n_modes=n, step="optimal", rtol=1e-6, track=())},
        run.at(smoke=3, desk=15, full=15),
    )
    return Measurement(
        ratio(ours.seconds["ours"], [taken] * len(ours.seconds["ours"]), of="rounds of ours"),
        table=Table(
            ["what", "seconds", "relative error"],
            [
                [f"ours, {n} modes along each axis", ours.median("ours"), seminorm(result.u - u) / seminorm(u)],
                ["DeepXDE, 1000 points, Adam", taken, error],
            ],
        ),
        remark="The network has the boundary values built in and trains on residuals; its errors are in L², checked"
        " every 100 iterations and not timed.",
    )


def _sines(series: SineSeries, x: torch.Tensor) -> torch.Tensor:
    k = torch.pi * torch.arange(1, series.n_modes + 1, dtype=x.dtype)
    c = torch.tensor(series.coefficients, dtype=x.dtype)
    return ((torch.sin(x[:, :1] * k) @ c) * torch.sin(x[:, 1:] * k)).sum(1, keepdim=True)


@races("scipy")
def against_scipy(run: Run) -> Measurement:
    """Race SciPy's Newton-Krylov on central differences, preconditioned by a fast Poisson solver."""
    u = cubic()[1]
    problem = EllipticEnergy.with_solution(semilinear(), u, c_bounds=(0.0, 3 * u.mass**2))  # as tight as is known
    n = run.at(smoke=31, desk=255, full=511)
    h = 1 / (n + 1)
    nodes = np.arange(1, n + 1) * h
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1)
    truth, source = u(grid).ravel(), problem.source(9)(grid).ravel()
    matrix, inverse = laplacian((n, n), h), FastPoisson((n, n), h)
    found: dict[str, np.ndarray] = {}
    enough = 1e-4 * float(np.abs(source).max())  # a smaller residual takes longer and leaves the error as it is

    def newton() -> None:
        found["newton"] = newton_krylov(
            lambda v: matrix @ v + v**3 - source, np.zeros(n * n), inner_M=inverse, method="bicgstab", f_tol=enough
        )

    def descent() -> None:
        found["ours"] = solve_pgd(problem, n_modes=n, step="optimal", rtol=1e-6, track=()).u(grid).ravel()

    def solve_alone() -> None:
        solve_pgd(problem, n_modes=n, step="optimal", rtol=1e-6, track=())

    newton()
    descent()
    times = interleaved(run, {"ours": solve_alone, "newton": newton}, run.at(smoke=3, desk=9, full=9))
    errors = {name: float(np.linalg.norm(v - truth) / np.linalg.norm(truth)) for name, v in found.items()}
    return Measurement(
        {
            "time": ratio(times.seconds["ours"], times.seconds["newton"]),
            "error": exact(errors["ours"] / errors["newton"]),
            "agreement": exact(float(np.abs(found["ours"] - found["newton"]).max())),
        },
        table=Table(
            ["what", "seconds", "relative error"],
            [
                [f"ours, {n} modes along each axis", times.median("ours"), errors["ours"]],
                [f"newton_krylov, {n} x {n} points", times.median("newton"), errors["newton"]],
            ],
        ),
        remark="The error of the differences is that of the grid, so they stop at a residual of 1e-4 of the source's;"
        " ours at 1e-6. BiCGSTAB was the fastest of SciPy's inner methods.",
    )
