"""Iterations and times of learned conjugate directions, on boxes, obstacles and a flow, against what is in use."""

from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, bicgstab, spilu, splu
from scipy.sparse.linalg import cg as scipy_cg

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    difference,
    every,
    exact,
    greatest,
    interleaved,
    mean,
    measures,
    races,
    ratio,
)
from paperworks.papers.dcdm.problems import (
    KINDS,
    RTOL,
    box,
    cg_iterations,
    corner,
    discs,
    iterations,
    network,
    right_hand_sides,
    side,
)
from paperworks.solvers import (
    DCDMNet,
    IncompleteCholesky,
    PoissonDomain,
    RitzDeflation,
    cg,
    dcdm,
    flexible_cg,
)
from paperworks.testbeds import rising_smoke


@measures("c1-few-iterations")
def few_iterations(run: Run) -> Measurement:
    """Solve for four kinds of right-hand side on the grid of the training."""
    net, domain = network(run), box(side(run))
    ours, theirs = [], []
    for seed in run.progress(run.seeds, label="seeds"):
        b = right_hand_sides(domain, run.rng(seed))
        ours.append(iterations(net, domain, b))
        theirs.append(cg_iterations(domain, b))
    figure, axes = run.figure(1, len(KINDS), sharey=True)
    figure.set_size_inches(11, 3)
    b = right_hand_sides(domain, run.rng())
    for axis, kind, column in zip(axes, KINDS, b.T, strict=True):
        for name, found in (
            ("ours", dcdm(domain, column, net, maxiter=2000)),
            ("conjugate gradients", cg(domain.matrix(), column, rtol=RTOL)),
            (
                "network in flexible CG",
                flexible_cg(domain.operator(), column, rtol=RTOL, maxiter=100, M=net.as_linear_operator(domain)),
            ),
        ):
            style = "--" if "network" in name else "-"  # it nearly covers ours
            axis.semilogy(found.residual_norms / found.residual_norms[0], style, label=name)
        axis.axhline(RTOL, color="black", linewidth=0.6)
        axis.set(title=kind, xlabel="iterations")
    axes[0].set_ylabel("residual / first residual")
    axes[-1].legend(fontsize=7)
    return Measurement(
        {
            "iterations": every([int(found.max()) for found in ours]),
            "cg_to_ours": every([float((b / a).min()) for a, b in zip(ours, theirs, strict=True)]),
        },
        table=Table(
            ["right-hand side", "iterations, mean over seeds", "conjugate gradients'"],
            [
                [kind, float(a), float(b)]
                for kind, a, b in zip(KINDS, np.mean(ours, 0), np.mean(theirs, 0), strict=True)
            ],
        ),
        figure=figure,
        remark="One network, trained without any of these right-hand sides; seeds are those of the right-hand sides.",
    )


@measures("c2-larger-grids")
def larger_grids(run: Run) -> Measurement:
    """Use the network on grids of up to four times the side that it was trained at."""
    net, n = network(run), side(run)
    sizes = [n, 2 * n, 3 * n, 4 * n]
    draws = run.at(smoke=1, desk=4, full=4)
    ours: dict[int, list[float]] = {size: [] for size in sizes}
    theirs: dict[int, list[float]] = {size: [] for size in sizes}
    for seed in run.progress(run.seeds, label="seeds"):
        for size in sizes:
            domain = box(size)
            b = right_hand_sides(domain, run.rng(seed), draws)
            ours[size].append(float(iterations(net, domain, b).mean()))
            theirs[size].append(float(cg_iterations(domain, b[:, : len(KINDS)]).mean()))
    figure, axes = run.figure()
    for name, found in (("ours", ours), ("conjugate gradients", theirs)):
        axes.loglog(sizes, [np.mean(found[size]) for size in sizes], "o-", label=name)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="voxels per side", ylabel="mean iterations to 1e-4", title=f"A network trained at {n} per side")
    axes.legend()
    return Measurement(
        mean([b / a for a, b in zip(ours[n], ours[2 * n], strict=True)]),
        table=Table(
            ["voxels per side", "iterations", "conjugate gradients'", "ratio to those at the smallest"],
            [[s, np.mean(ours[s]), np.mean(theirs[s]), np.mean(ours[s]) / np.mean(ours[n])] for s in sizes],
        ),
        figure=figure,
    )


@measures("c3-unseen-domains")
def unseen_domains(run: Run) -> Measurement:
    """Put solids into the box that the network was trained on."""
    net, n = network(run), side(run)
    draws = run.at(smoke=1, desk=4, full=4)
    made = {
        "empty": box,
        "disc": lambda size: discs(size, (0.5, 0.5, 0.2)),
        "corner": corner,
        "three discs": lambda size: discs(size, (0.3, 0.3, 0.1), (0.7, 0.4, 0.12), (0.45, 0.75, 0.1)),
    }
    counts: dict[tuple[str, int], list[float]] = {(name, size): [] for name in made for size in (n, 2 * n)}
    rows = []
    for name, size in run.progress(list(counts), label="domains"):
        domain = made[name](size)
        for seed in run.seeds:
            b = right_hand_sides(domain, run.rng(seed), draws)
            counts[name, size].append(float(iterations(net, domain, b).mean()))
        theirs = float(cg_iterations(domain, b[:, : len(KINDS)]).mean())
        rows.append([name, size, float(np.mean(counts[name, size])), theirs])
    figure, axes = run.figure(1, 3)
    figure.set_size_inches(10, 3.2)
    for axis, name in zip(axes, list(made)[1:], strict=True):
        domain = made[name](2 * n)
        b = right_hand_sides(domain, run.rng())[:, 2]
        x = dcdm(domain, b, net, maxiter=2000).x.reshape(domain.grid)
        most = float(np.abs(x).max())
        shown = np.where(domain.fluid, x, np.nan).T
        image = axis.imshow(shown, origin="lower", cmap="RdBu_r", vmin=-most, vmax=most)
        axis.set(title=f"pressure, {name}", xlabel="voxels", ylabel="voxels")
        axis.grid(False)
        figure.colorbar(image, ax=axis)

    def apart(name: str) -> Any:
        return greatest(
            mean([a / b for a, b in zip(counts[name, size], counts["empty", size], strict=True)]) for size in (n, 2 * n)
        )

    return Measurement(
        {name: apart(name) for name in ("disc", "corner")},
        table=Table(["domain", "voxels per side", "iterations", "conjugate gradients'"], rows),
        figure=figure,
        remark="The network sees residuals alone: it is told of no solid.",
    )


@measures("c4-orthogonalisation")
def orthogonalisation(run: Run) -> Measurement:
    """Make directions conjugate to none, one, two, four or all directions before."""
    net, n = network(run), side(run)
    choices: tuple[Any, ...] = (0, 1, 2, 4, "all")
    draws = run.at(smoke=1, desk=16, full=16)
    counts: dict[Any, list[float]] = {choice: [] for choice in choices}
    larger: dict[Any, list[float]] = {choice: [] for choice in choices}
    for seed in run.progress(run.seeds, label="seeds"):
        for choice in choices:
            for size, found in ((n, counts), (2 * n, larger)):
                domain = box(size)
                b = right_hand_sides(domain, run.rng(seed), draws)
                found[choice].append(float(iterations(net, domain, b, orth=choice).mean()))
    return Measurement(
        {
            "two_to_none": mean([a / b for a, b in zip(counts[2], counts[0], strict=True)]),
            "all_to_two": mean([a / b for a, b in zip(counts["all"], counts[2], strict=True)]),
        },
        table=Table(
            ["directions", f"iterations at {n} per side", f"at {2 * n} per side"],
            [[str(choice), np.mean(counts[choice]), np.mean(larger[choice])] for choice in choices],
        ),
        settings=f"{draws} draws of each of four kinds of right-hand side for each seed",
    )


@measures("c5-wall-clock", exclusive=True)
def wall_clock(run: Run) -> Measurement:
    """Time whole solves at three sizes in two dimensions, and at one in three."""
    net, n = network(run), side(run)
    sizes = [n, 2 * n, 4 * n] if run.scale == "smoke" else [2 * n, 4 * n, 8 * n]
    made: dict[str, int] = {}
    jobs: dict[str, Any] = {}
    for size in sizes:
        jobs |= solves(net, box(size), run, made)
    times = interleaved(run, jobs, run.at(smoke=1, desk=7, full=15))
    spatial = 2 * side(run, 3)
    three = interleaved(run, solves(network(run, 3), box(spatial, 3), run, made, "3-D "), 1)
    shares = [np.array(times.seconds[f"ours {size}"]) / np.array(times.seconds[f"SciPy's CG {size}"]) for size in sizes]
    medians = [float(np.median(share)) for share in shares]
    slope, level = np.polyfit(np.log(sizes), np.log(medians), 1)
    crossing = f"reaches 1 at {np.exp(-level / slope):.3g} per side" if slope < 0 else "never reaches 1"
    parts = ", ".join(f"{share:.2f} at {size}" for share, size in zip(medians, sizes, strict=True))
    figure, axes = run.figure()
    for name in ("ours", "SciPy's CG", "IC(0)-PCG"):
        axes.loglog(sizes, [times.median(f"{name} {size}") for size in sizes], "o-", label=name)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="voxels per side", ylabel="seconds for one solve to 1e-4", title="Time on one thread")
    axes.legend()
    return Measurement(
        ratio(shares[0].tolist(), shares[-1].tolist()),
        table=Table(
            ["solve, voxels per side", "milliseconds", "iterations", "milliseconds an iteration"],
            [
                [name, 1000 * s, made[name], 1000 * s / made[name]]
                for name, s in (times.medians() | three.medians()).items()
            ],
        ),
        figure=figure,
        remark=f"Time / conjugate gradients' is {parts}; a line through these in logarithms {crossing}.",
    )


def solves(net: DCDMNet, domain: PoissonDomain, run: Run, made: dict[str, int], prefix: str = "") -> dict[str, Any]:
    """Return solves of one dipole by all methods, set-up included but for the matrix, that note their iterations."""
    b, matrix, n = right_hand_sides(domain, run.rng())[:, 2], domain.matrix(), domain.grid[0]

    def counted(name: str, precondition: Any) -> None:
        seen: list[int] = []
        scipy_cg(matrix, b, rtol=RTOL, M=precondition(matrix), maxiter=10**5, callback=lambda x: seen.append(1))
        made[name] = len(seen)

    def ours() -> None:
        made[f"{prefix}ours {n}"] = dcdm(domain, b, net, rtol=RTOL, maxiter=2000).iterations

    preconditioners: dict[str, Any] = {"SciPy's CG": lambda A: None, "IC(0)-PCG": IncompleteCholesky}
    with suppress(ImportError):
        import pyamg

        preconditioners["SA-CG"] = lambda A: pyamg.smoothed_aggregation_solver(A).aspreconditioner()
    return {f"{prefix}ours {n}": ours} | {
        (name := f"{prefix}{kind} {n}"): partial(counted, name, make) for kind, make in preconditioners.items()
    }


@measures("c6-exactness")
def exactness(run: Run) -> Measurement:
    """Take the exact inverse as the network, then the identity."""
    domain = box(24)
    lu = splu(domain.matrix().tocsc())
    apart, steps = [], []
    for seed in run.seeds:
        noise, *rest = right_hand_sides(domain, run.rng(seed)).T
        for b in (noise, *rest):
            perfect = dcdm(domain, b, lambda r: torch.from_numpy(lu.solve(r.numpy().ravel())).reshape(r.shape))
            steps.append(perfect.iterations)
        paths: list[list[np.ndarray]] = [[], []]
        dcdm(domain, noise, lambda r: r, rtol=0.0, maxiter=20, callback=paths[0].append)
        cg(domain.matrix(), noise, rtol=0.0, maxiter=20, callback=lambda x, path=paths[1]: path.append(x.copy()))
        apart.append(max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(*paths, strict=True)))
    return Measurement(
        {"oracle_iterations": every(steps, "right-hand sides"), "cg_difference": every(apart)},
        remark="The difference is that for noise; a smooth bump has so ill-conditioned a Krylov space that rounding "
        "alone makes 5e-9 of it in 20 steps.",
    )


@measures("c7-smoke")
def smoke(run: Run) -> Measurement:
    """Solve the pressure equation of each frame of a flow."""
    net, n = network(run), 2 * side(run)
    frames = list(rising_smoke(n, run.at(smoke=8, desk=100, full=100)))
    ours, theirs = [], []
    for frame in run.progress(frames, label="frames"):
        ours.append(int(iterations(net, frame.domain, frame.b[:, None])[0]))
        theirs.append(int(cg_iterations(frame.domain, frame.b[:, None])[0]))
    figure, axes = run.figure(1, 4)
    figure.set_size_inches(13, 3.2)
    for axis, at in zip(axes, (len(frames) // 3, 2 * len(frames) // 3, len(frames) - 1), strict=False):
        frame = frames[at]
        axis.imshow(np.where(frame.domain.fluid, frame.smoke, np.nan).T, origin="lower", cmap="Greys")
        axis.set(title=f"smoke, frame {at}", xlabel="voxels", ylabel="voxels")
        axis.grid(False)
    axes[3].plot(ours, label="ours")
    axes[3].plot(theirs, label="conjugate gradients")
    axes[3].set(xlabel="frame", ylabel="iterations to 1e-4", yscale="log")
    axes[3].legend()
    return Measurement(
        exact(max(ours)),
        table=Table(
            ["solver", "fewest", "mean", "most"],
            [
                [name, min(c), float(np.mean(c)), max(c)]
                for name, c in (("ours", ours), ("conjugate gradients", theirs))
            ],
        ),
        figure=figure,
        remark="Frames come from direct solves, so that they are the same for every solver.",
    )


@measures("c8-incomplete-cholesky")
def incomplete_cholesky(run: Run) -> Measurement:
    """Compare with incomplete Cholesky factors and with deflation as preconditioners."""
    net, domain = network(run), box(3 * side(run))
    matrix = domain.matrix()
    factors = {"IC(0)-PCG": IncompleteCholesky(matrix), "MIC(0)-PCG": IncompleteCholesky(matrix, 0.97)}
    counts: dict[str, list[float]] = {name: [] for name in ("ours", *factors, "deflated PCG", "conjugate gradients")}
    for seed in run.progress(run.seeds, label="seeds"):
        b = right_hand_sides(domain, run.rng(seed))
        counts["ours"].append(float(iterations(net, domain, b).mean()))
        for name, M in factors.items():
            counts[name].append(float(cg_iterations(domain, b, M).mean()))
        deflated = [cg(matrix, column, rtol=RTOL, M=RitzDeflation(matrix, column)).iterations for column in b.T]
        counts["deflated PCG"].append(float(np.mean(deflated)))
        counts["conjugate gradients"].append(float(cg_iterations(domain, b).mean()))

    def to(name: str) -> Any:
        return mean([a / b for a, b in zip(counts["ours"], counts[name], strict=True)])

    return Measurement(
        {"to_ic": to("IC(0)-PCG"), "to_mic": to("MIC(0)-PCG")},
        table=Table(["solver", "mean iterations"], [[name, float(np.mean(found))] for name, found in counts.items()]),
        settings="MIC(0) with 97 % of the dropped fill; deflation by 16 Ritz vectors of a Krylov space of 64",
    )


def against(run: Run, preconditioners: dict[str, Any], solver: Any = scipy_cg) -> dict[str, list[float]]:
    """Return mean iterations at three times the side of the training by seed, ours and of a solver with each."""
    net, domain = network(run), box(3 * side(run))
    matrix = domain.matrix()
    counts: dict[str, list[float]] = {name: [] for name in ("ours", *preconditioners)}
    made = {name: make(matrix) for name, make in preconditioners.items()}
    for seed in run.progress(run.seeds, label="seeds"):
        b = right_hand_sides(domain, run.rng(seed))
        counts["ours"].append(float(iterations(net, domain, b).mean()))
        for name, M in made.items():
            steps: list[int] = []
            for column in b.T:
                seen: list[int] = []
                solver(matrix, column, rtol=RTOL, M=M, maxiter=10**5, callback=lambda x, seen=seen: seen.append(1))
                steps.append(len(seen))
            counts[name].append(float(np.mean(steps)))
    return counts


def as_table(counts: dict[str, list[float]]) -> Table:
    """Return mean iterations by solver."""
    return Table(["solver", "mean iterations"], [[name, float(np.mean(found))] for name, found in counts.items()])


@races("pyamg")
def against_pyamg(run: Run) -> Measurement:
    """Count iterations, then time a new domain for each solve, set-up included."""
    import pyamg

    counts = against(
        run,
        {
            "SA-CG": lambda A: pyamg.smoothed_aggregation_solver(A).aspreconditioner(),
            "RS-CG": lambda A: pyamg.ruge_stuben_solver(A).aspreconditioner(),
        },
    )
    net, size = network(run), 4 * side(run)
    b = right_hand_sides(discs(size, (0.5, 0.5, 0.2)), run.rng())[:, 2]
    places = run.rng()

    def moved() -> PoissonDomain:
        return discs(size, (0.5 + 0.02 * places.uniform(-1, 1), 0.5, 0.18))

    def ours() -> None:
        domain = moved()
        dcdm(domain, b * domain.fluid.ravel(), net, rtol=RTOL, maxiter=2000)

    def theirs(make: Any) -> None:
        domain = moved()
        used = np.flatnonzero(domain.fluid)
        matrix = domain.matrix()[used][:, used]
        scipy_cg(matrix, b[used], rtol=RTOL, M=make(matrix).aspreconditioner())

    times = interleaved(
        run,
        {
            "ours": ours,
            "smoothed aggregation": lambda: theirs(pyamg.smoothed_aggregation_solver),
            "Ruge-Stüben": lambda: theirs(pyamg.ruge_stuben_solver),
        },
        run.at(smoke=1, desk=7, full=15),
    )
    levels = pyamg.smoothed_aggregation_solver(box(size).matrix()).levels
    held = [getattr(level, name) for level in levels for name in ("A", "P", "R") if hasattr(level, name)]
    theirs_bytes = sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for m in held)
    ours_bytes = 4 * (sum(p.numel() for p in net.parameters()) + 3 * net.channels * size**2)
    table = as_table(counts)
    rows = [*table.rows, *[[f"{name}: a new domain at {size}, ms", 1000 * t] for name, t in times.medians().items()]]
    rows += [["ours: weights and three maps, MB", ours_bytes / 1e6], ["SA hierarchy, MB", theirs_bytes / 1e6]]
    return Measurement(
        difference(counts["ours"], counts["SA-CG"]),
        table=Table(["what", "mean iterations, or as said"], rows),
        settings="pyamg's defaults as preconditioners of SciPy's conjugate gradients",
    )


@races("scipy", exclusive=False)
def against_scipy(run: Run) -> Measurement:
    """Count the iterations of SciPy's conjugate gradients, and of BiCGSTAB with its incomplete factors."""

    def incomplete(A: Any) -> LinearOperator:
        return LinearOperator(A.shape, matvec=spilu(A.tocsc(), drop_tol=1e-2, fill_factor=5).solve)

    counts = against(run, {"CG": lambda A: None})
    # Its factors aren't symmetric, so conjugate gradients fail with them.
    factored = against(run, {"BiCGSTAB with spilu, two products each": incomplete}, bicgstab)
    return Measurement(
        ratio(counts["CG"], counts["ours"], "seeds"),
        table=as_table(counts | factored),
        settings="spilu with drop_tol=1e-2, fill_factor=5",
    )


@races("ilupp", exclusive=False)
def against_ilupp(run: Run) -> Measurement:
    """Count the iterations of conjugate gradients with ilupp's incomplete Cholesky factors."""
    import ilupp

    counts = against(run, {"IC(0)": ilupp.IChol0Preconditioner, "ICT": ilupp.ICholTPreconditioner})
    return Measurement(
        ratio(counts["ours"], counts["IC(0)"], "seeds"),
        table=as_table(counts),
        settings="IChol0Preconditioner; ICholTPreconditioner at its defaults",
    )
