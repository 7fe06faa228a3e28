"""Accuracy, speed and transfer of operator networks of rooms, and races with other ways to an impulse response."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.audio import (
    AcousticDeepONet,
    CachedReceivers,
    GaussianSource,
    ImpedanceBoundary,
    Room,
    RoomFrame,
    SineMLP,
    box_modes,
    fdtd,
    fit_admittance,
    free_field_3d,
    image_source_1d,
    low_precision_branch,
    make_acoustic_deeponet,
    porous_layer,
    train_deeponet,
    transfer,
)
from paperworks.evidence import (
    AudibleMeasurement,
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    exact,
    greatest,
    interleaved,
    measures,
    races,
)
from paperworks.numerics import seeded
from paperworks.papers.sound_deeponet import image_sources, problems
from paperworks.papers.sound_deeponet.listening import walk
from paperworks.papers.sound_deeponet.problems import Sound, corner, mean_square, predicted, square, trained, tube


def rmse(*squares: Any) -> Any:
    """Return the root of the mean square over sources, / that of a second one."""
    roots = [math.sqrt(s.mean()) for s in squares]
    return roots[0] / roots[1] if len(roots) > 1 else roots[0]


def table_lookups(data: Sound) -> dict[str, Tensor]:
    """Return what fields of the training sources say of the tests: nothing, the nearest, and linear interpolation."""
    from scipy.interpolate import RegularGridInterpolator
    from scipy.spatial import cKDTree

    nearest = cKDTree(data.sources).query(data.tests)[1]
    shape = [len(axis) for axis in data.axes]
    linear = RegularGridInterpolator(data.axes, data.pressure.reshape(*shape, -1).numpy())
    return {
        "zero": torch.zeros_like(data.truth),
        "nearest training source": data.pressure[nearest],
        "linear interpolation of training sources": torch.as_tensor(linear(data.tests), dtype=torch.float32),
    }


@measures("c1-accuracy")
def accuracy(run: Run) -> AudibleMeasurement:
    """Judge the network of a tube and of a square at sources that it has not seen, beside tables of the fields."""
    values, rows, recordings = {}, [], []
    figure, axes = run.figure(2, 3)
    figure.set_size_inches(11, 6.2)
    for row, (name, short, data) in enumerate(
        (("one_dimension", "one", tube(run)), ("two_dimensions", "two", square(run)))
    ):
        model = trained(run, data)
        found = predicted(model, data.frame, data.tests, data.coordinates)
        error, whole = mean_square(found - data.truth), mean_square(data.truth)
        values[name] = bootstrap(rmse, error, of="sources")
        values[f"{short}_relative"] = bootstrap(rmse, error, whole, of="sources")
        megabytes = 4e-6 * sum(p.numel() for p in model.parameters())
        rows.append([name.replace("_", " "), "network", rmse(error), rmse(error, whole), megabytes])
        for how, p in table_lookups(data).items():
            apart = mean_square(p - data.truth)
            size = 0.0 if how == "zero" else 4e-6 * data.pressure.numel()
            rows.append(["", how, rmse(apart), rmse(apart, whole), size])
            if how.startswith("nearest") and short == "two":
                values["to_nearest"] = bootstrap(rmse, error, apart, of="sources")
        _fields(axes[row], data, found)
        if name == "one_dimension":
            recordings = walk(run, model, data)
    return AudibleMeasurement(
        values,
        table=Table(["room", "what answers", "error in Pa", "error / rms of the pressure", "memory in MB"], rows),
        figure=figure,
        remark="Tables of fields grow with sources times receivers; the network's size stays.",
        recordings=recordings,
    )


def _fields(axes: Any, data: Sound, found: Tensor) -> None:
    """Show truth and network over space, and an impulse response."""
    p, q = (x[0].reshape(len(data.points), len(data.times)).numpy() for x in (data.truth, found))
    late = len(data.times) // 2
    if data.frame.room.dim == 1:
        extent = (0, 1e3 * data.times[-1], 0, 2)
        images, labels = (p, q), ("time in ms", "place in m")
        titles = ("Tube: exact", "Tube: network")
    else:
        side = round(math.sqrt(len(data.points)))
        images, labels = (p[:, late].reshape(side, side).T, q[:, late].reshape(side, side).T), ("x in m", "y in m")
        extent = (0, 2, 0, 2)
        titles = (f"Square at {1e3 * data.times[late]:.0f} ms: exact", "Network")
    top = float(np.abs(images[0]).max())
    for ax, image, title in zip(axes, images, titles, strict=False):
        ax.imshow(image, origin="lower", aspect="auto", extent=extent, vmin=-top, vmax=top, cmap="RdBu_r")
        ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
        ax.grid(False)
    at = len(data.points) // 3
    axes[2].plot(1e3 * data.times, p[at], label="exact")
    axes[2].plot(1e3 * data.times, q[at], "--", label="network")
    axes[2].set(xlabel="time in ms", ylabel="pressure in Pa", title="An impulse response")
    axes[2].legend()


@measures("c2-reference-solver")
def reference_solver(run: Run) -> Measurement:
    """Halve the spacing against closed forms; reflect a pulse; watch the energy."""
    cases: dict[str, tuple[Room, float, Callable[..., np.ndarray]]] = {
        "order_1d": (Room((2.0,)), math.inf, lambda s, x, t: image_source_1d(2.0, s, x[:, 0], t)),
        "impedance": (Room((2.0,)), problems.XI, lambda s, x, t: image_source_1d(2.0, s, x[:, 0], t, problems.XI)),
        "order_2d": (Room((2.0, 1.6)), math.inf, lambda s, x, t: box_modes((2.0, 1.6), s, x, t)),
        "order_3d": (Room((2.0, 1.6, 1.6)), math.inf, lambda s, x, t: box_modes((2.0, 1.6, 1.6), s, x, t)),
        "free field": (
            Room((4.0, 4.0, 4.0)),
            math.inf,
            lambda s, x, t: free_field_3d(np.linalg.norm(x - s.position, axis=1), t, s.sigma)[None],
        ),
    }
    spacings = {
        1: run.at(smoke=(0.04, 0.02, 0.01), desk=(0.02, 0.01, 0.005), full=(0.01, 0.005, 0.0025)),
        2: run.at(smoke=(0.1, 0.05), desk=(0.05, 0.025, 0.0125), full=(0.025, 0.0125, 0.00625)),
        3: run.at(smoke=(0.2, 0.1), desk=(0.1, 0.05, 0.025), full=(0.05, 0.025, 0.0125)),
    }
    values, rows = {}, []
    figure, axes = run.figure()
    for name, (room, xi, truth) in cases.items():
        if name == "free field" and run.scale == "smoke":
            continue
        source = GaussianSource([0.45 * side for side in room.size] if name != "free field" else [2.0] * 3)
        errors, hs = [], spacings[room.dim][:2] if name == "free field" else spacings[room.dim]
        places = room.nodes(run.at(smoke=0.4, desk=0.2, full=0.2) if room.dim > 1 else 0.1)
        if name == "free field":
            places = places[np.linalg.norm(places - 2.0, axis=1) < 0.7]
        for h in hs:
            t_max = 0.003 if name == "free field" else 0.006  # before an echo comes back to these places
            solved = fdtd(room, source, t_max, ImpedanceBoundary(xi=xi), h=h, cfl=0.5, receivers=places)
            t = solved.times[:: max(1, len(solved.times) // 16)]
            p = solved.pressure[:, :: max(1, len(solved.times) // 16)]
            errors.append(float(np.sqrt(np.mean((p - truth(source, places, t)) ** 2))))
        order = math.log(errors[-2] / errors[-1], hs[-2] / hs[-1])
        rows.append([name.replace("order_", ""), f"{hs[-1]:g}", errors[-1], order])
        if name.startswith("order"):
            values[name] = exact(order)
        axes.loglog(hs, errors, "o-", label=f"{name.replace('order_', '')} ({order:.2f})")
    axes.set(xlabel="spacing in m", ylabel="root mean square error in Pa")
    axes.legend(title="room (order)")
    values["reflection"] = exact(_reflection_error())
    values |= _energies(run)
    return Measurement(
        values, table=Table(["room", "finest spacing in m", "error in Pa", "order"], rows), figure=figure
    )


def _reflection_error() -> float:
    """Return the greatest relative error of the amplitude that walls of several impedances reflect."""
    worst = 0.0
    for xi in (0.2, 2.0, problems.XI, 50.0):
        wall = ImpedanceBoundary(xi=xi)
        p = fdtd(Room((4.0,)), GaussianSource([2.0]), 3 / 343, wall, h=0.005, receivers=[[1.0]], cfl=0.9).pressure[
            0, :, 0
        ]
        there, back = p[: len(p) // 2], p[len(p) // 2 :]
        peak = back[np.argmax(np.abs(back))] / there.max()
        worst = max(worst, abs(peak / float(wall.reflection([0.0])[0].real) - 1))
    return worst


def _energies(run: Run) -> dict[str, Any]:
    """Return the energy's greatest rise in a step, and its drift between rigid walls, / the energy at the start."""
    rise = drift = 0.0
    h = run.at(smoke=0.25, desk=0.1, full=0.05)
    for room, place in (
        (Room((2.0,)), [0.9]),
        (Room.l_shape((2.0, 2.0), (1.0, 1.0)), [0.6, 0.7]),
        (Room((2.0, 2.0, 2.0), removed=(((0.0, 0.0, 0.0), (1.0, 0.5, 0.5)),)), [1.3, 1.2, 1.1]),
    ):
        for xi in (0.5, problems.XI, math.inf):
            solved = fdtd(room, GaussianSource(place), 0.02, ImpedanceBoundary(xi=xi), h=h, energy=True)
            assert solved.energy is not None
            e = solved.energy[0] / solved.energy[0, 0]
            rise = max(rise, float(np.diff(e).max()))
            if math.isinf(xi):
                drift = max(drift, float(np.abs(e - 1).max()))
    return {"rise": exact(rise), "drift": exact(drift)}


@measures("c3-absorption")
def absorption(run: Run) -> Measurement:
    """Send a pulse against a porous layer, and compare what comes back with the admittance of its fit."""
    f = np.geomspace(20, 2000, 120)
    layer = porous_layer(f)
    wall = fit_admittance(f, layer)
    room, near = Room((20.0,)), 18.8
    solved = fdtd(
        room,
        GaussianSource([near - 1.5]),
        30 / 343,  # before an echo comes from the other end
        {"x1": wall},
        h=run.at(smoke=0.01, desk=0.005, full=0.0025),
        receivers=[[near]],
        cfl=0.9,
    )
    p, t = solved.pressure[0, :, 0], solved.times
    split = 2.7 / 343  # when the pulse is at the wall
    heard = np.geomspace(50, 1000, 80)
    waves = np.exp(2j * np.pi * heard[:, None] * t)
    there, back = (waves @ (p * part) for part in (t < split, t >= split))
    measured = back / there * np.exp(-2j * np.pi * heard * 2.4 / 343)  # 1.2 metres there and back
    wanted = wall.reflection(heard)
    of_layer = (1 - 1.2 * 343 * porous_layer(heard)) / (1 + 1.2 * 343 * porous_layer(heard))
    error = np.abs(measured - wanted) / np.abs(wanted)
    figure, (left, right) = run.figure(1, 2)
    figure.set_size_inches(9, 3.6)
    for ax, part, label in ((left, np.abs, "magnitude"), (right, lambda z: np.unwrap(np.angle(z)), "phase, rad,")):
        ax.semilogx(heard, part(of_layer), label="Miki's model")
        ax.semilogx(heard, part(wanted), "--", label="its rational fit")
        ax.semilogx(heard[::4], part(measured)[::4], "o", markersize=3, label="measured")
        ax.set(xlabel="frequency in Hz", ylabel=f"{label} of the reflection")
    left.legend()
    rows = [[float(heard[i]), float(abs(wanted[i])), float(error[i])] for i in range(0, len(heard), 13)]
    fit = float(np.abs(wall.admittance(f) / layer - 1).max())
    return Measurement(
        exact(float(error.max())),
        table=Table(["frequency in Hz", "magnitude of the reflection", "relative error"], rows),
        figure=figure,
        remark=f"The fit of two real poles and two pairs differs from the model by at most {fit:.1e}, relatively.",
    )


def _queries(run: Run) -> tuple[AcousticDeepONet, CachedReceivers, Tensor, Tensor]:
    """Return the paper's network of a cube, untrained, with a receiver, whose time weights do not change."""
    frame = RoomFrame(Room((2.0, 2.0, 2.0)))
    with seeded(run.seed):
        model = make_acoustic_deeponet(frame, *run.at(smoke=(64, 2), desk=(2048, 5), full=(2048, 5))).eval()
    receiver, times = [[1.3, 0.4, 1.1]], np.linspace(0, 0.05, 200)
    cached = model.cache_receivers_at(receiver, times)
    return model, cached, frame.source_fields([0.7, 0.8, 0.9]), frame.coordinates(receiver, times)


@measures("c4-real-time", exclusive=True)
def real_time(run: Run) -> Measurement:
    """Time a new source's impulse response with stored trunk functions, without, and with a branch of 16 bits."""
    model, cached, u, y = _queries(run)
    quick = low_precision_branch(model)
    stored = CachedReceivers(quick, cached.basis, cached.n_times)
    many = u.repeat(16, *[1] * (u.ndim - 1))
    jobs: dict[str, Callable[[], Tensor]] = {
        "stored": lambda: cached.query(u),
        "not stored": torch.no_grad()(lambda: model(u, y)),
        "stored, bfloat16": lambda: stored.query(u),
        "stored, 16 sources": lambda: cached.query(many),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=15, full=30))
    data = square(run)
    learnt = trained(run, data)
    apart, whole = [], []
    for network, fields, at in ((model, u, y), (learnt, data.frame.source_fields(data.tests), data.coordinates)):
        with torch.no_grad():
            p, q = network(fields, at), low_precision_branch(network)(fields, at)
        apart.append(float((p - q).norm()))
        whole.append(float(p.norm()))
    changes = [a / b for a, b in zip(apart, whole, strict=True)]
    shares = {"stored, 16 sources": 16}
    rows = [[name, 1e3 * times.median(name) / shares.get(name, 1)] for name in jobs]
    return Measurement(
        {"speedup": times.ratio("not stored", "stored"), "change": greatest([exact(c) for c in changes])},
        table=Table(["trunk functions", "ms for a source"], rows),
        remark="The change by bfloat16 is the greater of this network's and that of the trained one of the square.",
    )


@measures("c5-transfer")
def transfer_learning(run: Run) -> Measurement:
    """Train in a room without a corner from scratch and from the square's network, and count steps to one accuracy."""
    start = trained(run, square(run))
    data = corner(run)
    u, y = data.frame.source_fields(data.tests), data.coordinates
    often = run.at(smoke=2, desk=25, full=500)
    steps = run.at(smoke=10, desk=1000, full=40_000)
    shares, rows = [], []
    figure, axes = run.figure()

    def curve(model: AcousticDeepONet, steps: int, seed: int) -> tuple[list[int], list[float]]:
        at, errors = [], []

        def look(step: int, loss: float) -> None:
            if (step + 1) % often == 0:
                with torch.no_grad():
                    at.append(step + 1)
                    errors.append(rmse(mean_square(model(u, y) - data.truth)))

        problems.fitted(run, model, data, steps, seed, look)
        return at, errors

    for seed in run.seeds:
        at, errors = curve(problems.network(run, data.frame, seed), steps, seed)
        goal = errors[-1]
        axes.semilogy(at, errors, label="from scratch" if seed == run.seed else None, color="C0")
        rows.append(["from scratch", steps, goal, steps, 1.0])
        for name, options in list(FROZEN.items())[: 2 if seed == run.seed else 1]:
            model = problems.network(run, data.frame, seed)
            transfer(start, model, **options)
            where, found = curve(model, steps // 2, seed)
            reached = next((s for s, e in zip(where, found, strict=True) if e <= goal), None)
            # What isn't reached takes more than the steps that were taken.
            share = reached / steps if reached else 1.0
            rows.append([name, steps // 2, found[-1], reached or "not reached", share])
            color = f"C{1 + list(FROZEN).index(name)}"
            axes.semilogy(where, found, label=name if seed == run.seed else None, color=color)
            if name == next(iter(FROZEN)):
                shares.append(share)
    axes.set(xlabel="step", ylabel="error for unseen sources in Pa")
    axes.legend()
    return Measurement(
        every(shares),
        table=Table(["start", "steps", "error in Pa", "steps to the error from scratch", "share"], rows),
        figure=figure,
    )


FROZEN: dict[str, dict[str, Any]] = {
    "the paper's layers frozen": {},
    "nothing frozen": {"branch": (), "trunk": (), "gates": False},
}


@measures("c6-off-grid")
def off_grid(run: Run) -> Measurement:
    """Ask between the places and times of the training, and compare with the error at them."""
    values, rows = {}, []
    figure, axes = run.figure()
    for name, data in (("one_dimension", tube(run)), ("two_dimensions", square(run))):
        model = trained(run, data)
        grid = np.unique(data.points[:, 0])
        between = (grid[1:] + grid[:-1]) / 2
        places = np.stack(np.meshgrid(*[between] * data.frame.room.dim, indexing="ij"), -1)
        places = places.reshape(-1, data.frame.room.dim)
        times = (data.times[1:] + data.times[:-1]) / 2
        truth = problems.exact(data.frame, data.tests, places, times)
        found = predicted(model, data.frame, data.tests, data.frame.coordinates(places, times))
        on = mean_square(predicted(model, data.frame, data.tests, data.coordinates) - data.truth)
        off = mean_square(found - truth)
        values[name] = bootstrap(rmse, off, on, of="sources")
        rows.append([name.replace("_", " "), rmse(on), rmse(off), rmse(off, on)])
        axes.loglog(np.sqrt(on), np.sqrt(off), "o", label=name.replace("_", " "))
    ends = np.array(axes.get_xlim())
    axes.loglog(ends, ends, color="black", linewidth=0.6)
    axes.set(xlabel="error on the grid in Pa", ylabel="error between in Pa", title="Each unseen source")
    axes.legend()
    return Measurement(values, table=Table(["room", "on the grid", "between", "ratio"], rows), figure=figure)


@races("torch")
def against_no_store(run: Run) -> Measurement:
    """Answer for a new source by the whole network."""
    model, cached, u, y = _queries(run)
    jobs = {"stored": lambda: cached.query(u), "not stored": torch.no_grad()(lambda: model(u, y))}
    times = interleaved(run, jobs, run.at(smoke=1, desk=15, full=30))
    return Measurement(
        times.ratio("stored", "not stored"),
        table=Table(["trunk functions", "ms"], [[n, 1e3 * s] for n, s in times.medians().items()]),
        settings="one source, one receiver, 200 times, single precision; branch and trunk of 5 layers of 2048",
    )


@races("numpy")
def against_solver(run: Run) -> Measurement:
    """Solve the wave equation anew for a source, in rooms of three sizes."""
    _, cached, u, _ = _queries(run)
    sides = run.at(smoke=(2,), desk=(2, 4, 8), full=(2, 4, 8))
    h = run.at(smoke=0.1, desk=0.04, full=0.04)
    rows, ratios = [], {}
    for side in sides:
        room = Room((float(side),) * 3)
        # Larger rooms take too long: some of their steps stand for all.
        share = {2: 1.0, 4: 0.1, 8: 0.01}[side]

        def solve(room: Room = room, share: float = share) -> Any:
            source = GaussianSource([0.45 * room.extent] * 3)
            return fdtd(room, source, 0.05 * share, h=h, receivers=[[1.3, 0.4, 1.1]], dtype="float32")

        jobs: dict[str, Callable[[], Any]] = {"network": lambda: cached.query(u), "solver": solve}
        times = interleaved(run, jobs, run.at(smoke=1, desk=6 if side == 2 else 2, full=9))
        if side == 2:
            ratios[""] = times.ratio("network", "solver")
        nodes = math.prod(len(axis) for axis in room.axes(h))
        solved = times.median("solver") / share
        rows.append([side, nodes, 1e3 * times.median("network"), 1e3 * solved, times.median("network") / solved])
    return Measurement(
        ratios[""],
        table=Table(["side in m", "nodes", "network, ms", "solver, ms", "ratio"], rows),
        settings="cubes, 0.05 s, spacing 4 cm, leapfrog in single precision at 0.95 of the stable step; 4 and 8 m by a "
        "tenth and a hundredth of the steps. The network is the paper's of a 2 m cube with one stored receiver; "
        "larger rooms have more sensors",
    )


@races("pyroomacoustics")
def against_pyroomacoustics(run: Run) -> Measurement:
    """Compare pressures of a cube with rigid and with absorbing walls, and times of an impulse response."""
    size, place, t_max = (2.0, 2.0, 2.0), [0.8, 0.9, 1.1], 0.02
    ears = np.array([[1.6, 1.5, 0.4], [0.3, 1.7, 1.8], [1.9, 0.2, 1.0]])
    source, room = GaussianSource(place), Room(size)
    coarse = run.at(smoke=0.1, desk=0.05, full=0.05)
    rows, ratios = [], {}
    for name, xi in (("rigid", math.inf), ("absorbing", problems.XI)):
        wall = ImpedanceBoundary(xi=xi)
        ours = fdtd(room, source, t_max, wall, h=coarse, receivers=ears)
        # Half the time step, to the last digit.
        cfl = 343 * ours.dt / coarse * (1 + 1e-9)
        fine = fdtd(room, source, t_max, wall, h=coarse / 2, cfl=cfl, receivers=ears, save_every=2)
        # Modes are exact; where walls absorb, the error of two spacings is extrapolated.
        extrapolated = (4 * fine.pressure - ours.pressure)[0] / 3
        truth = box_modes(size, source, ears, ours.times)[0] if name == "rigid" else extrapolated
        answers = {
            f"solver, {coarse:g} m": ours.pressure[0],
            f"solver, {coarse / 2:g} m": fine.pressure[0],
            "both, extrapolated": extrapolated,
        }
        normal = float(wall.absorption([100.0])[0])
        for kind, absorbed in {"normal": normal, "random": image_sources.random_incidence(xi)}.items():
            if kind == "normal" or absorbed != normal:
                answers[f"pyroomacoustics, {kind} incidence"] = image_sources.pressure(
                    size, place, ears, ours.times, absorbed
                )
        errors = {how: float(np.sqrt(np.mean((p - truth) ** 2))) for how, p in answers.items()}
        theirs = min(e for how, e in errors.items() if how.startswith("pyroomacoustics"))
        ratios[name] = exact(errors[f"solver, {coarse / 2:g} m"] / theirs)
        whole = float(np.sqrt(np.mean(truth**2)))
        rows += [[name, how, e, e / whole] for how, e in errors.items() if e]
    model, cached, u, _ = _queries(run)
    stored = CachedReceivers(low_precision_branch(model), cached.basis, cached.n_times)
    order = image_sources.farthest_order(size, place, ears[:1], 343 * 0.05)
    jobs = {
        "network": lambda: stored.query(u),
        "pyroomacoustics": lambda: image_sources.impulses(size, place, ears[:1], order, 0.0),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=15))
    rows += [["ms for 0.05 s", job, 1e3 * s, ""] for job, s in times.medians().items()]
    return Measurement(
        {**ratios, "time": times.ratio("network", "pyroomacoustics")},
        table=Table(["walls", "what answers", "error in Pa", "error / rms"], rows),
        settings=f"images of all orders that arrive, 16 kHz, no high pass, no loss in air; our solver's spacing "
        f"{coarse / 2:g} m; absorbing walls have impedance {problems.XI}, of which images know the absorption at "
        "normal or at random incidence, whichever is better. The network is the paper's of a 2 m cube, its branch of "
        "16 bits",
    )


@races("deepxde")
def against_deepxde(run: Run) -> Measurement:
    """Train the same plain network on the same fields."""
    import os

    os.environ.setdefault("DDE_BACKEND", "pytorch")
    import deepxde

    data = square(run)
    width, steps = run.at(smoke=32, desk=256, full=2048), run.at(smoke=3, desk=30, full=100)
    u, y = data.frame.source_fields(data.sources), data.coordinates
    points, sensors = min(1000, len(y)), u[0].numel()
    with seeded(run.seed):
        branch, trunk = SineMLP(sensors, width, 2, 100), SineMLP(3, width, 2, 100)
    ours = AcousticDeepONet(branch, trunk, 100, frame=data.frame)
    # Its batches of coordinates fail for other than as many sources; it gets the same ones in all steps.
    fixed = torch.randperm(len(y), generator=run.torch_rng())[:points]
    pairs = (u.flatten(1).numpy() / 2, data.frame.normalised(y[fixed]).numpy())
    true = data.pressure[:, fixed].numpy()
    sides = deepxde.data.TripleCartesianProd(pairs, true, pairs, true)
    shape = [width, width, 100]
    theirs = deepxde.Model(
        sides, deepxde.nn.DeepONetCartesianProd([sensors, *shape], [3, *shape], "sin", "Glorot uniform")
    )
    theirs.compile("adam", lr=1e-3, verbose=0)
    sides.test_x, sides.test_y = (pairs[0][:1], pairs[1][:1]), true[:1, :1]  # tests cost nothing
    jobs = {
        "ours": lambda: train_deeponet(ours, u, y, data.pressure, steps, coordinates=points),
        "deepxde": lambda: theirs.train(iterations=steps, display_every=10**9, verbose=0),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=15))
    return Measurement(
        times.ratio("ours", "deepxde"),
        table=Table(["package", "ms a step"], [[n, 1e3 * s / steps] for n, s in times.medians().items()]),
        settings=f"branch and trunk of two layers of {width} sines, q = 100, {len(u)} sources and {points} coordinates "
        "a step, Adam, PyTorch, single precision",
    )
