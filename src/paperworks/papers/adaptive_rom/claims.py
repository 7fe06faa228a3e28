"""The claims, on a perforated plate under cyclic load: a plain reduced model, its indicator, enrichment and cost."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import lsq_linear, nnls

from paperworks.evidence import Measurement, Run, Table, exact, interleaved, measures, median, races
from paperworks.papers.adaptive_rom.rivals import deim_model, felupe_solver, force_iterates, form_solver
from paperworks.reduction import (
    AdaptiveROM,
    EmpiricalCubature,
    GappyErrorIndicator,
    HyperReducedModel,
    MaterialState,
    MechanicalProblem,
    MechanicalState,
    Trajectory,
    calibration_pairs,
)
from paperworks.testbeds import heated_plate, hot_spot, plate_with_hole

TRAINING = ((100.0, (4.0, 0.0)), (300.0, (7.0, 7.0)))
"""Amplitude and centre of the hot spots of the training fields; all are 2 wide, on a plate of 10 with a hole of 4."""
NEW = ((100.0, (0.0, 6.0)), (225.0, (6.0, 0.0)), (350.0, (6.0, 6.0)), (475.0, (9.0, 3.0)), (600.0, (3.0, 9.0)))
"""Those of the new fields: amplitudes evenly from 100 to 600, elsewhere."""
TOLERANCE = 0.05


class Plate(NamedTuple):
    """The plate with the full solutions for all fields, the training's first."""

    problem: MechanicalProblem
    times: Float[np.ndarray, " times"]
    solutions: list[Trajectory]

    @property
    def training(self) -> list[Trajectory]:
        """The solutions that models are built from."""
        return self.solutions[: len(TRAINING)]

    def error(self, found: np.ndarray, truth: np.ndarray) -> Float[np.ndarray, " times"]:
        """Return the L2 error at each time, relative to the greatest size."""
        return np.asarray(self.problem.norm(found - truth) / self.problem.norm(truth).max())


def mesh_of(run: Run) -> Any:
    """Return the mesh of the run's scale: 16 quadrilaterals, 576, or a 3-D plate of tetrahedra with 50 000 unknowns."""
    return plate_with_hole(
        run.at(smoke=4, desk=24, full=28),
        thickness=run.at(smoke=0.0, desk=0.0, full=7.0),
        simplices=run.scale == "full",
    )


def plate(run: Run) -> Plate:
    """Return the plate and its full solutions, which are kept, as all claims need them."""
    mesh = mesh_of(run)
    cycles, steps = run.at(smoke=1, desk=4, full=10), run.at(smoke=6, desk=40, full=100)
    spots = (*TRAINING, *NEW[: run.at(smoke=2, desk=5, full=5)])
    cases = [heated_plate(mesh, hot_spot(mesh.p, *spot, 2.0), cycles, steps) for spot in spots]
    problem, times = cases[0]

    def solve() -> list[tuple[np.ndarray, ...]]:
        found: list[tuple[np.ndarray, ...]] = []
        for case, _ in run.progress(cases, label="full solutions"):
            solution = problem.with_loads(case.loads).solve(times)
            found.append((solution.u, solution.sigma, solution.eps_p, solution.a, solution.p))
        return found

    fields = run.cached("adaptive-rom-plate", solve, scale=run.scale, spots=spots)
    solutions = [Trajectory(case.loads, times, *found) for (case, _), found in zip(cases, fields, strict=True)]
    return Plate(problem, times, solutions)


class Tried(NamedTuple):
    """A reduced model on one field: errors at all times, and the residuals of the plastic strain."""

    p: Float[np.ndarray, " times"]
    u: Float[np.ndarray, " times"]
    residual: Float[np.ndarray, " times"]

    @property
    def correlation(self) -> float:
        """The correlation of the logarithms of residual and error, where neither is 0."""
        logs = self.logs()
        return float(np.corrcoef(logs)[0, 1])

    def logs(self) -> Float[np.ndarray, "2 times"]:
        """Return the decimal logarithms of residual and error, where neither is 0."""
        seen = (self.residual > 0) & (self.p > 0)
        return np.log10([self.residual[seen], self.p[seen]])


def tried(case: Plate, rom: HyperReducedModel, solution: Trajectory) -> Tried:
    """Follow one field by a reduced model, and compare with the full solution."""
    found = rom.solve(solution.loads, case.times)
    rebuilt = rom.reconstruct(found)
    return Tried(case.error(rebuilt.p, solution.p), case.error(rebuilt.u, solution.u), found.residuals["p"])


def name_of(number: int) -> str:
    """Return what a field is called in tables."""
    amplitude, centre = (*TRAINING, *NEW)[number]
    return f"{'training' if number < len(TRAINING) else 'new'}, {amplitude:g} K at ({centre[0]:g}, {centre[1]:g})"


@measures("d1-plain-rom-fails")
def plain_rom_fails(run: Run) -> Measurement:
    """Follow training fields and new ones without enrichment."""
    case = plate(run)
    rom = HyperReducedModel(case.problem).fit(case.training)
    found = [tried(case, rom, solution) for solution in run.progress(case.solutions, label="fields")]
    worst = [100 * float(one.p.max()) for one in found]
    figure, axes = run.figure()
    for number, one in enumerate(found):
        axes.semilogy(case.times[1:], 100 * one.p[1:], "--" if number < len(TRAINING) else "-", label=name_of(number))
    axes.set(xlabel="time, s", ylabel="error of the plastic strain, %", title="A reduced model without enrichment")
    axes.legend(fontsize=7)
    count = len(TRAINING)
    return Measurement(
        {
            "training": exact(max(worst[:count])),
            "least_new": exact(min(worst[count:])),
            "largest_new": exact(max(worst[count:])),
        },
        table=Table(
            ["field", "error of p, %", "error of u, %"],
            [[name_of(k), worst[k], 100 * float(one.u.max())] for k, one in enumerate(found)],
        ),
        figure=figure,
        remark=f"{len(rom.modes_)} modes and {len(rom.points_)} of {case.problem.elements.n_points} points.",
    )


@measures("d2-indicator")
def indicator(run: Run) -> Measurement:
    """Correlate residual and error in each trajectory, of two models on all seven fields."""
    case = plate(run)
    rtols = (1e-3, 1e-4)
    figure, axes = run.figure()
    found: dict[float, list[Tried]] = {}
    for rtol in run.progress(rtols, label="models"):
        rom = HyperReducedModel(case.problem, rtol=rtol).fit(case.training)
        found[rtol] = [tried(case, rom, solution) for solution in case.solutions]
        for number, one in enumerate(found[rtol]):
            axes.loglog(
                *(10 ** one.logs()),
                ".",
                color=f"C{number}",
                alpha=1.0 if rtol == rtols[-1] else 0.35,
                label=name_of(number) if rtol == rtols[-1] else None,
            )
    axes.set(
        xlabel="misfit of the reconstruction, E", ylabel="error of the plastic strain, e", title="Misfit and error"
    )
    axes.legend(fontsize=7)
    rom = HyperReducedModel(case.problem).fit(case.training)
    calibrated = GappyErrorIndicator().calibrate(*calibration_pairs(rom, case.training))
    new = np.concatenate([one.logs() for one in found[rtols[-1]][len(TRAINING) :]], axis=1)
    pooled = {f"all fields, POD to {rtol:g}": np.concatenate([o.logs() for o in found[rtol]], 1) for rtol in rtols}
    pooled["new fields, POD to 0.0001"] = new
    rows = [
        [f"{name_of(k)}, POD to {rtol:g}", one.correlation, float(np.median(one.p[1:] / one.residual[1:]))]
        for rtol in rtols
        for k, one in enumerate(found[rtol])
    ]
    rows += [[f"pooled: {name}", float(np.corrcoef(x)[0, 1]), None] for name, x in pooled.items()]
    rows.append(["calibration, training fields alone", float(calibrated.correlation_[0]), None])
    return Measurement(
        median([one.correlation for rtol in rtols for one in found[rtol]], "trajectories"),
        table=Table(["trajectory and model", "correlation of logarithms", "median of e / E"], rows),
        figure=figure,
        remark=f"Calibration: slope {calibrated.slope_[0]:.2f}, scatter {calibrated.scatter_[0]:.2f} decades. Within a "
        "trajectory both grow with time, which is part of the correlation; pooled values and e / E show what is left.",
    )


@measures("d3-enrichment")
def enrichment(run: Run) -> Measurement:
    """Follow the new fields with enrichment, decided by the upper bound and by the mean of the indicator."""
    case = plate(run)
    rom = HyperReducedModel(case.problem).fit(case.training)
    calibrated = GappyErrorIndicator().calibrate(*calibration_pairs(rom, case.training))
    figure, axes = run.figure()
    worst, final, steps, rows = [], [], [], []
    for number in run.progress(range(len(TRAINING), len(case.solutions)), label="fields"):
        truth = case.solutions[number]
        plain = tried(case, rom, truth)
        problem = case.problem.with_loads(truth.loads)
        by_bound, by_mean = (
            AdaptiveROM(rom, problem, calibrated, TOLERANCE, upper=upper).solve(case.times) for upper in (True, False)
        )
        errors = case.error(by_bound.trajectory.p, truth.p)
        worst.append(float(errors.max()) / TOLERANCE)
        final.append(float(errors[-1]) / TOLERANCE)
        steps.append(by_bound.n_hf_steps)
        rows.append(
            [
                name_of(number),
                100 * float(plain.p.max()),
                100 * float(errors.max()),
                by_bound.n_hf_steps,
                100 * float(case.error(by_mean.trajectory.p, truth.p).max()),
                by_mean.n_hf_steps,
                100 * float(plain.u.max()),
                100 * float(case.error(by_bound.trajectory.u, truth.u).max()),
            ]
        )
        (line,) = axes.semilogy(case.times[1:], 100 * errors[1:], label=name_of(number))
        axes.semilogy(case.times[1:], 100 * plain.p[1:], ":", color=line.get_color())
        at = list(by_bound.enrichments)
        axes.semilogy(case.times[at], 100 * errors[at], "o", color=line.get_color())
    axes.axhline(100 * TOLERANCE, color="black", linewidth=0.8)
    axes.set(
        xlabel="time, s", ylabel="error of the plastic strain, %", title="With enrichment (o), and without (dotted)"
    )
    axes.legend(fontsize=7)
    return Measurement(
        {
            "error_to_tolerance": exact(max(worst)),
            "full_steps": exact(max(steps)),
            "fields_within": exact(sum(value <= 1.2 for value in final)),
        },
        table=Table(
            [
                "field",
                "error of p without, %",
                "with, %",
                "full steps",
                "with, by the mean, %",
                "full steps by the mean",
                "error of u without, %",
                "with, %",
            ],
            rows,
        ),
        figure=figure,
        remark=f"Full steps of {len(case.times) - 1}. The bound decides: with {len(TRAINING)} training fields it is "
        "Student's for a new trajectory.",
    )


class Sized(NamedTuple):
    """A mesh's problem with its reduced model, ready to take steps."""

    full: Callable[[], Any]
    reduced: Callable[[], Any]
    rom: HyperReducedModel
    error: float


def sized(n: int, steps: int, modes: int) -> Sized:
    """Return both models of a mesh of n x n elements, the reduced one made from a few steps of two fields."""
    mesh = plate_with_hole(n)
    first, times = heated_plate(mesh, hot_spot(mesh.p, *TRAINING[0], 2.0))
    other, _ = heated_plate(mesh, hot_spot(mesh.p, *TRAINING[1], 2.0))
    second, times = first.with_loads(other.loads), times[: steps + 1]
    solutions = [first.solve(times), second.solve(times)]
    rom = HyperReducedModel(first, n_modes=modes).fit(solutions)
    path = rom.load_path(second.loads)

    def reduced() -> list[MechanicalState]:
        states = [rom.initial(times[0])]
        for t in times[1:]:
            states.append(rom.advance(states[-1], path, t))
        return states

    found = Trajectory.of_states(second.loads, [rom.lift(state) for state in reduced()])
    error = first.norm(found.p - solutions[1].p).max() / first.norm(solutions[1].p).max()
    return Sized(lambda: second.solve(times), reduced, rom, float(error))


@measures("d4-complexity")
def complexity(run: Run) -> Measurement:
    """Time steps of the reduced model for three meshes, and of the full one, in turn."""
    sizes = run.at(smoke=(2, 4, 6), desk=(24, 48, 96), full=(24, 48, 96))
    steps = 6
    cases = {n: sized(n, steps, modes=5) for n in run.progress(sizes, label="meshes")}
    jobs = {f"reduced, {n}": case.reduced for n, case in cases.items()}
    times = interleaved(run, jobs, run.at(smoke=2, desk=15, full=31))
    pairs = {
        n: interleaved(run, {"full": cases[n].full, "reduced": cases[n].reduced}, run.at(smoke=2, desk=6, full=9))
        for n in (sizes[0], sizes[-1])
    }
    rows = [
        [
            f"{n} x {n}",
            case.rom.problem.elements.n_dofs,
            len(case.rom.modes_),
            len(case.rom.points_),
            1000 * times.median(f"reduced, {n}") / steps,
            1000 * pairs[n].median("full") / steps if n in pairs else None,
            100 * case.error,
        ]
        for n, case in cases.items()
    ]
    return Measurement(
        {
            "time_ratio": times.ratio(f"reduced, {sizes[-1]}", f"reduced, {sizes[0]}"),
            "speed_up_24": pairs[sizes[0]].ratio("full", "reduced"),
            "speed_up_96": pairs[sizes[-1]].ratio("full", "reduced"),
        },
        table=Table(
            ["elements", "unknowns", "modes", "points", "reduced, ms a step", "full, ms a step", "error of p, %"], rows
        ),
        remark="Steps alone are timed; to bring the loads of a case to modes and points costs one pass over the mesh.",
    )


@measures("d5-exactness")
def exactness(run: Run) -> Measurement:
    """Keep all modes and points, and compare with the full model; look at the rule of the reduced one."""
    case = plate(run)
    strict = case.problem.with_loads(case.problem.loads)
    strict.rtol = 1e-11
    truth = strict.solve(case.times)
    rows, errors = [], {}
    for kept in run.progress((1e-8, 1e-12), label="tolerances"):
        whole = HyperReducedModel(strict, rtol=kept, hyper_reduction=False, newton_rtol=1e-11).fit([truth])
        found = whole.reconstruct(whole.solve(truth.loads, case.times))
        errors = {name: float(case.error(found.field(name), truth.field(name)).max()) for name in ("u", "p", "sigma")}
        rows.append([kept, len(whole.modes_), *errors.values()])

    rtol, weights = 1e-3, case.problem.elements.weights
    rom = HyperReducedModel(case.problem, cubature_rtol=rtol).fit(case.training)
    G = rom.integrands()
    b = G @ weights
    residual = float(np.linalg.norm(G[:, rom.points_] @ rom.weights_ - b) / np.linalg.norm(b))
    volume = abs(float(rom.weights_.sum() / weights.sum()) - 1)
    return Measurement(
        {
            "difference": exact(max(errors.values())),
            "residual_to_tolerance": exact(residual / rtol),
            "volume_to_tolerance": exact(volume / rtol),
            "negative_weights": exact(int((rom.weights_ < 0).sum())),
        },
        table=Table(["tolerance of the POD", "modes", "difference of u", "of p", "of the stress"], rows),
        remark="The last row has all modes, and counts. Creep with exponent 30 multiplies what modes leave out by "
        f"hundreds. The rule has {int((rom.weights_ > 0).sum())} points of {len(weights)} "
        f"for {len(G)} integrands.",
    )


def matching_pursuit(
    G: Float[np.ndarray, "m points"], w: Float[np.ndarray, " points"], rtol: float, solve: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Choose points one after the other, and solve for all weights anew each time."""
    b, points = G @ w, np.zeros(0, dtype=int)
    r, x = b, np.zeros(0)
    while np.linalg.norm(r) > rtol * np.linalg.norm(b):
        promise = G.T @ r
        promise[points] = -np.inf
        points = np.append(points, np.argmax(promise))
        x = solve(G[:, points], b)
        points, x = points[x > 0], x[x > 0]
        r = b - G[:, points] @ x
    return points, x


def with_volume(G: Float[np.ndarray, "m points"], w: Float[np.ndarray, " points"]) -> Float[np.ndarray, "m1 points"]:
    """Return the integrands and a row of ones, as large as all others, so that both sides solve one problem."""
    return np.vstack([G, np.full(len(w), np.linalg.norm(G @ w) / w.sum())])


def bounded(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Solve for weights as Mordicus does."""
    return np.asarray(lsq_linear(A, b, bounds=(0, np.inf), method="bvls").x)


@races("scipy")
def against_scipy(run: Run) -> Measurement:
    """Choose the points of the reduced model, ours and with SciPy's solvers anew for each point."""
    case = plate(run)
    w = case.problem.elements.weights
    G = with_volume(HyperReducedModel(case.problem).fit(case.training).integrands(), w)
    rtol = 1e-3
    jobs = {
        "ours": lambda: EmpiricalCubature(rtol, volume=False).fit(G, w),
        "lsq_linear": lambda: matching_pursuit(G, w, rtol, bounded),
        "nnls": lambda: matching_pursuit(G, w, rtol, lambda A, b: nnls(A, b)[0]),
    }
    times = interleaved(run, jobs, run.at(smoke=2, desk=6, full=9))
    mine = len(jobs["ours"]().points_)
    theirs = {name: len(jobs[name]()[0]) for name in ("lsq_linear", "nnls")}
    return Measurement(
        {"time": times.ratio("ours", "lsq_linear"), "points": exact(mine / theirs["lsq_linear"])},
        table=Table(
            ["solver", "points", "seconds"],
            [["ours", mine, times.median("ours")]] + [[name, theirs[name], times.median(name)] for name in theirs],
        ),
        remark=f"{G.shape[0]} integrands at {G.shape[1]} points, to {rtol:g}.",
    )


@races("mordicus")
def against_mordicus(run: Run) -> Measurement:
    """Count the points of Mordicus' own pursuit at the same tolerance."""
    from Mordicus.Modules.Safran.BasicAlgorithms import NNOMPA

    case = plate(run)
    w = case.problem.elements.weights
    G = with_volume(HyperReducedModel(case.problem).fit(case.training).integrands(), w)
    b = G @ w
    points, _ = NNOMPA.NNOMPA(w, G, b, np.linalg.norm(b), 1e-3, [])
    return Measurement(exact(len(EmpiricalCubature(1e-3, volume=False).fit(G, w).points_) / len(points)))


@races("pymor")
def against_pymor(run: Run) -> Measurement:
    """Follow all fields by DEIM of the internal forces, with as many elements touched as our points lie in."""
    case = plate(run)
    problem, elements = case.problem, case.problem.elements
    rom = HyperReducedModel(problem).fit(case.training)
    ours_touched = len(np.unique(elements.element_of_point[rom.points_]))  # where the law is evaluated
    forces = np.concatenate([force_iterates(problem, solution) for solution in case.training])
    deim = deim_model(rom, forces, ours_touched)
    rows, errors = [], []
    for number, solution in enumerate(run.progress(case.solutions, label="fields")):
        ours = float(tried(case, rom, solution).u.max())
        theirs = float(case.error(deim.displacements(solution.loads, case.times), solution.u).max())
        rows.append([name_of(number), 100 * ours, 100 * theirs])
        errors.append((ours, theirs))
    n, c = elements.n_points, rom.n_components
    elastic = problem.material.integrate(
        np.zeros((n, c)), np.full(n, problem.material.T_ref), MaterialState.virgin(n, c), 1.0
    )[2]
    theirs_stiff = deim.stiffness(elastic[deim.points])
    skew = float(np.linalg.norm(theirs_stiff - theirs_stiff.T) / np.linalg.norm(theirs_stiff + theirs_stiff.T))
    count = len(TRAINING)
    return Measurement(
        exact(max(ours for ours, _ in errors[:count]) / max(theirs for _, theirs in errors[:count])),
        table=Table(["field", "error of u, ours, %", "error of u, DEIM, %"], rows),
        remark=f"{ours_touched} elements touched by ours, {deim.n_elements} by DEIM, whose model has an elastic "
        f"stiffness that differs from its transpose by {100 * skew:.2g} %; ours is symmetric. Where Newton's method "
        "fails by DEIM, displacements count as 0 from there on.",
    )


@races("felupe")
def against_felupe(run: Run) -> Measurement:
    """Solve the same full problem by felupe, with our law as its material."""
    mesh = mesh_of(run)
    problem, times = heated_plate(mesh, hot_spot(mesh.p, *TRAINING[1], 2.0))
    times = times[: run.at(smoke=3, desk=11, full=11)]
    theirs = felupe_solver(problem, times)
    jobs = {"ours": lambda: problem.solve(times), "felupe": theirs}
    spent = interleaved(run, jobs, run.at(smoke=2, desk=6, full=9))
    mine, other = problem.solve(times).u[-1], theirs()
    return Measurement(
        spent.ratio("ours", "felupe"),
        table=Table(["package", "seconds"], [[name, seconds] for name, seconds in spent.medians().items()]),
        remark=f"{len(times) - 1} steps, {problem.elements.n_dofs} unknowns; displacements differ by "
        f"{problem.norm(mine - other) / problem.norm(mine):.1e}.",
    )


@races("scikit-fem")
def against_scikit_fem(run: Run) -> Measurement:
    """Assemble and solve one step of Newton's method, ours and by scikit-fem's forms."""
    mesh = mesh_of(run)
    problem, times = heated_plate(mesh, hot_spot(mesh.p, *TRAINING[1], 2.0))
    state = problem.solve(times[:3]).state(2)
    strain, T = problem.strain(state.u), problem.path.temperature(times[3])
    sigma, _, tangent = problem.material.integrate(strain, T, state.material, float(times[3] - times[2]))
    force = problem.path.force(times[3])
    theirs = form_solver(problem, sigma, tangent, force)
    jobs = {"ours": lambda: problem.solve_tangent(tangent, force - problem.internal(sigma)), "scikit-fem": theirs}
    spent = interleaved(run, jobs, run.at(smoke=3, desk=15, full=15))
    mine, other = jobs["ours"](), theirs()
    return Measurement(
        spent.ratio("ours", "scikit-fem"),
        table=Table(["package", "seconds"], [[name, seconds] for name, seconds in spent.medians().items()]),
        remark=f"Both take moduli and stress as given; their solutions differ by "
        f"{np.linalg.norm(mine - other) / np.linalg.norm(mine):.1e}.",
    )
