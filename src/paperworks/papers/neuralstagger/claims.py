"""What is exact, what it costs, how accurate it is, what limits it, and what it is good for."""

import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    exact,
    interleaved,
    least,
    measures,
    races,
    ratio,
)
from paperworks.numerics import seeded, torch_generator
from paperworks.operators import (
    AdvectionDiffusion,
    Burgers,
    NavierStokesVorticity,
    NeuralStagger,
    StatePool,
    physics_loss,
    physics_train,
    recommend_factor,
    stagger_information_loss,
    stagger_merge,
    stagger_split,
)
from paperworks.papers.neuralstagger.problems import (
    BOTH,
    DT,
    FULL,
    HORIZON,
    INTERLEAVED,
    NU,
    POINTS,
    SPACE,
    ConvNet,
    Factors,
    relative,
    seconds,
    starts,
    trained,
    truth,
    warm,
)
from paperworks.testbeds import PeriodicGrid, gaussian_fields


@measures("c1-exact-decomposition")
def exact_decomposition(run: Run) -> Measurement:
    """Split and merge, take the loss by hand, and compare coarse modes with the full one."""
    apart = losses = coarse = 0.0
    cases: list[tuple[tuple[int, ...], Any]] = [
        ((4,), Burgers(32, 0.01)),
        ((2, 4), NavierStokesVorticity(16, 0.01)),
        ((2, 1, 2), AdvectionDiffusion((8, 8, 8), 0.01)),
    ]
    for factors, loss in cases:
        u = torch.randn(2, 3, 1, *loss.points, dtype=torch.float64, generator=run.torch_rng())
        merged = stagger_merge(stagger_split(u.flatten(0, 1), factors), factors)
        apart = max(apart, float((merged - u.flatten(0, 1)).abs().max()))
        with seeded(run.seed):
            model = NeuralStagger(lambda n=len(factors): ConvNet(1, n, 4, (1, 1)).double(), factors, 3, zero_init=False)
        with torch.no_grad():
            predicted = model(u)
            states = [u[:, -1], *predicted.unbind(1)]
            vanilla = torch.stack([loss(a, b).square().mean() for a, b in itertools.pairwise(states)]).mean()
            losses = max(losses, abs(float(physics_loss(loss, u, predicted) / vanilla) - 1))
            start = lambda u0, n: u[:, 1 : 1 + n]  # noqa: B023, E731
            full = model.rollout(u[:, 0], 6, start)
            pieces = stagger_split(full.flatten(0, 1), factors).unflatten(0, full.shape[:2])
            coarse = max(coarse, float((model.rollout(u[:, 0], 6, mode="coarse-time") - full[:, ::3]).abs().max()))
            for piece in range(model.pieces):
                alone = model.rollout(u[:, 0], 6, start, "coarse-space", piece)
                rare = model.rollout(u[:, 0], 6, mode="coarsest", piece=piece)
                coarse = max(coarse, float((alone - pieces[:, :, piece]).abs().max()))
                coarse = max(coarse, float((rare - pieces[:, ::3, piece]).abs().max()))
    return Measurement(
        {"split_merge": exact(apart), "loss": exact(losses), "coarse": exact(coarse)},
        settings="one, two and three dimensions, three interleaved sequences",
    )


@measures("c2-speed-up", exclusive=True)
def speed_up(run: Run) -> Measurement:
    """Time the full net, one sub-solver and all of them on grids of three sizes."""
    sides = run.at(smoke=(32,), desk=(128, 256, 512), full=(128, 256, 512, 1024))
    repeats = run.at(smoke=2, desk=7, full=15)
    rows: list[list[Any]] = []
    shares: dict[int, Estimate] = {}
    for side in sides:
        times = interleaved(run, _latencies(run, side), repeats)
        full = times.seconds["full"]
        for s in (2, 4):
            piece = times.seconds[f"one piece, {s} x {s}"]
            gain = s * s * 4
            share = ratio([4 * t for t in full], [gain * t for t in piece])
            if s == 2 and side >= min(256, max(sides)):
                shares[side] = share
            every_piece = times.median(f"all pieces, {s} x {s}") / 4 / times.median("full")
            median = times.median(f"one piece, {s} x {s}")
            spent = [1e3 * times.median("full"), 1e3 * median]
            rows.append([side, f"{s} x {s}, 4 in time", *spent, gain * share.value, share.value, every_piece])
    figure, axes = run.figure()
    for s in (2, 4):
        found = [row for row in rows if row[1].startswith(f"{s} x")]
        axes.plot([row[0] for row in found], [row[4] for row in found], "o-", label=f"{s} x {s}, measured")
        axes.axhline(4 * s * s, color="black", linewidth=0.6, linestyle="--")
    axes.set(xlabel="points per side", ylabel="full net / one sub-solver", title="Latency per simulated time")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.legend()
    return Measurement(
        least(shares.values()),
        table=Table(
            [
                "points per side",
                "factors",
                "full net, ms a call",
                "one sub-solver, ms",
                "speed-up",
                "/ product of factors",
                "work of all pieces / full net's",
            ],
            rows,
        ),
        figure=figure,
        settings="five convolutions of 16 channels, one field, one thread; sub-solvers return all four fine steps of a "
        "call, the full net one; the product of the factors is dashed",
    )


def _latencies(run: Run, side: int) -> dict[str, Callable[[], Any]]:
    """Return jobs: one step of the full net; four at once of a sub-solver, and of all of them one after the other."""
    u = torch.randn(1, 1, 1, side, side, generator=run.torch_rng())
    jobs: dict[str, Callable[[], Any]] = {}
    for s in (1, 2, 4):
        with seeded(0):
            ahead = 1 if s == 1 else 4
            net = partial(ConvNet, ahead, 2, 16)
            model = NeuralStagger(net, (s, s), ahead, temporal="bundle", grouped=False)
        pieces = stagger_split(u[:, 0], (s, s))[:, None].contiguous()
        one = pieces[:, :, :1].contiguous()
        jobs["full" if s == 1 else f"one piece, {s} x {s}"] = partial(_quiet, model, one, [0])
        if s > 1:
            jobs[f"all pieces, {s} x {s}"] = partial(_quiet, model, pieces)
    return jobs


@torch.no_grad()
def _quiet(model: NeuralStagger, pieces: Tensor, chosen: list[int] | None = None) -> None:
    model.advance(pieces, chosen)


@measures("c3-accuracy")
def accuracy(run: Run) -> Measurement:
    """Train three solvers for equal time and roll them out from states that none of them saw."""
    count = run.at(smoke=2, desk=64, full=256)
    u0 = starts(count, torch_generator(1000 + run.seed))
    true = truth(u0)
    errors: dict[Factors, list[float]] = {}
    curves: dict[Factors, list[float]] = {}
    rows: list[list[Any]] = []
    for factors in (FULL, SPACE, INTERLEAVED, BOTH):
        errors[factors] = []
        for seed in run.seeds[:1] if factors == INTERLEAVED else run.seeds:  # interleaved: reported alone
            rolled = trained(run, factors, seed).rollout(u0, HORIZON, warm)
            curves[factors] = [float(relative(rolled[:, k], true[:, k]).mean()) for k in range(HORIZON + 1)]
            errors[factors].append(curves[factors][-1])
            rows.append([factors.name, seed, *(curves[factors][k] for k in (4, 8, 20))])
    still = [float(relative(u0, true[:, k]).mean()) for k in range(HORIZON + 1)]
    rows.append(["no change", "", *(still[k] for k in (4, 8, 20))])
    figure, (left, right) = run.figure(1, 2)
    figure.set_size_inches(10, 3.6)
    for factors, curve in curves.items():
        left.semilogy(range(1, HORIZON + 1), curve[1:], label=factors.name)
    left.semilogy(range(1, HORIZON + 1), still[1:], "k--", label="no change")
    left.set(xlabel="fine steps", ylabel="relative error", title="Means over states")
    left.legend()
    x = np.arange(POINTS) / POINTS
    right.plot(x, true[0, -1, 0], "k", label="truth")
    right.plot(x, rolled[0, -1, 0], label=BOTH.name)
    right.plot(x, u0[0, 0], color="grey", linewidth=0.8, label="start")
    right.set(xlabel="x", ylabel="u", title="A state after 20 steps")
    right.legend()
    effect = [a / b for a, b in zip(errors[BOTH], errors[SPACE], strict=True)]
    apart = np.mean(errors[BOTH]) / np.mean(errors[FULL])
    return Measurement(
        {
            "space_2": every(errors[SPACE]),
            "space_2_time_4": every(errors[BOTH]),
            "full": every(errors[FULL]),
            "time_factor_effect": every(effect),
        },
        table=Table(["solver", "seed", "error after 4 steps", "8 steps", "20 steps"], rows),
        figure=figure,
        settings=f"{seconds(run):g} s of processor time each, judged on {count} fresh states",
        remark=f"With factors 2 and 4 the error is {apart:.1f} times the full net's. Judged is the variant that "
        "predicts four steps at once; four interleaved sequences, which a numerical solver starts, are one seed's.",
    )


@measures("c4-smallest-scale")
def smallest_scale(run: Run) -> Measurement:
    """Train linear sub-solvers of a linear equation, and compare them with the least possible error."""
    n, factor, time_step = 64, 4, 0.05
    grid = PeriodicGrid(n, 1.0)
    loss = AdvectionDiffusion(n, time_step, 0.5, 0.005)
    power, gain = _spectrum(n), _propagator(n, time_step, 0.5, 0.005)
    steps = run.at(smoke=4, desk=1500, full=20_000)

    def fields(count: int, generator: torch.Generator | None) -> Tensor:
        return gaussian_fields(grid, count, _amplitude, generator)[:, None, None]

    def error_of(s: int, seed: int) -> tuple[float, float]:
        """Train sub-solvers, and return their error on fresh fields and its standard error."""
        with seeded(seed):
            model = NeuralStagger(lambda: _Linear(n // s), (s,))
        states = StatePool(fields, 256, generator=torch_generator(seed, 1))
        physics_train(model, loss, states, steps, batch_size=256, lr=5e-3, progress=run.progress, label=f"factor {s}")
        test = fields(run.at(smoke=64, desk=8192, full=65_536), torch_generator(seed, 2))
        with torch.no_grad():
            after = loss.solve(test, 1)[:, 0]
            wrong, size = (values.flatten(1).square().sum(1) for values in (model(test) - after, after))
        error = float((wrong.sum() / size.sum()).sqrt())
        # The delta method for the root of a ratio of means.
        return error, float((wrong - error**2 * size).std() / len(test) ** 0.5 / size.mean() / (2 * error))

    ratios, above = [], []
    rows: list[list[Any]] = []
    for s in (2, factor, 8):
        for seed in run.seeds if s == factor else run.seeds[:1]:
            least_error = stagger_information_loss(power, gain, s)
            error, spread = error_of(s, seed)
            rows.append([s, seed, least_error, error, spread])
            if s == factor:
                ratios.append(error / least_error)
                above.append((error - least_error) / spread)
    factors = [2, 4, 8, 16, 32]
    figure, axes = run.figure()
    axes.semilogy(factors, [stagger_information_loss(power, gain, s) for s in factors], "o-", label="least possible")
    axes.semilogy([row[0] for row in rows], [row[3] for row in rows], "x", ms=9, label="trained without labels")
    axes.set(xlabel="factor", ylabel="relative error of a step", title="What a piece can't know")
    axes.set_xscale("log", base=2)
    axes.legend()
    return Measurement(
        {"above": every(above), "ratio": every(ratios)},
        table=Table(["factor", "seed", "least possible error", "error on fresh fields", "its standard error"], rows),
        figure=figure,
        settings=f"{steps} steps; one periodic convolution over the whole of each piece",
        remark=f"For errors of 5 % the closed form recommends factor {recommend_factor(power, gain, 0.05)}.",
    )


class _Linear(nn.Module):
    """Any linear map of a piece that commutes with its shifts: one periodic convolution over the whole of it."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, points, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "batch 1 n"]) -> Float[Tensor, "batch 1 n"]:
        return nn.functional.conv1d(torch.cat([x, x[..., :-1]], -1), self.weight)


def _amplitude(k: Tensor) -> Tensor:
    return (k > 0) / ((k / (2 * torch.pi)) ** 2 + 9)


def _spectrum(n: int) -> Float[np.ndarray, " n"]:
    k = torch.from_numpy(2 * np.pi * np.abs(np.fft.fftfreq(n, 1 / n)))
    return (_amplitude(k) ** 2).numpy()


def _propagator(n: int, time_step: float, velocity: float, diffusivity: float) -> Any:
    k = 2 * np.pi * np.fft.fftfreq(n, 1 / n)
    moved = np.where(np.abs(k) == np.pi * n, 0, k)
    return np.exp(-(1j * velocity * moved + diffusivity * k**2) * time_step)


@measures("c5-control")
def control(run: Run) -> Measurement:
    """Choose the amplitudes of the two longest waves so that a random field is come nearest to."""
    count, steps = run.at(smoke=(3, 3), desk=(32, 100), full=(256, 400))
    model = trained(run, BOTH, run.seed)
    target = starts(count, torch_generator(3000 + run.seed))
    x = 2 * torch.pi * torch.arange(POINTS) / POINTS
    waves = torch.stack([x.sin(), x.cos(), (2 * x).sin(), (2 * x).cos()])
    scheme = Burgers(POINTS, DT / 4, NU)  # a step that is stable for the amplitudes that are tried
    solvers: dict[str, Callable[[Tensor], Tensor]] = {
        "numerical": lambda u0: scheme.solve(u0, 4 * HORIZON)[:, -1],
        "staggered": lambda u0: model.rollout(u0, HORIZON, mode="coarse-time")[:, -1],
    }
    errors, ends, rows = {}, {}, []
    for name, end in solvers.items():
        started = time.process_time()
        amplitudes = torch.zeros(count, 1, len(waves), requires_grad=True)
        optimizer = torch.optim.Adam([amplitudes], 0.1)
        for _ in run.progress(range(steps), label=f"control, {name}"):
            optimizer.zero_grad()
            misfit = (end(amplitudes @ waves) - target).square().mean((1, 2)).sum()
            (misfit + 1e-3 * amplitudes.square().sum()).backward()
            optimizer.step()
        spent = time.process_time() - started
        ends[name] = truth((amplitudes @ waves).detach())[:, -1]
        errors[name] = relative(ends[name], target)
        rows.append([name, float(errors[name].mean()), spent])
    figure, axes = run.figure()
    place = np.arange(POINTS) / POINTS
    axes.plot(place, target[0, 0], "k", label="target")
    for name, end_state in ends.items():
        axes.plot(place, end_state[0, 0], label=f"controlled through the {name} solver")
    axes.set(xlabel="x", ylabel="u after 20 steps", title="What the chosen start becomes")
    axes.legend()
    return Measurement(
        bootstrap(
            lambda a, b: a.mean() / b.mean() - 1,
            errors["staggered"].numpy(),
            errors["numerical"].numpy(),
            of="targets",
        ),
        table=Table(["solver", "error at the target, judged by the finer solver", "seconds of processor time"], rows),
        figure=figure,
        settings=f"{count} targets, {steps} steps of Adam on four amplitudes, whose squares are punished by 1e-3",
    )


@races("neuraloperator")
def against_neuraloperator(run: Run) -> Measurement:
    """Time a Fourier neural operator on the full grid and on a piece; train one by the same residual."""
    from neuralop.models import FNO

    side = run.at(smoke=32, desk=128, full=256)
    modes, width = run.at(smoke=((8, 8), 8), desk=((16, 16), 32), full=((16, 16), 32))
    with seeded(0):
        networks = [NeuralStagger(lambda: FNO(modes, 1, 1, width), (s, s)) for s in (1, 2)]
    u = torch.randn(1, 1, 1, side, side, generator=run.torch_rng())
    seen = [u[:, :, None], stagger_split(u[:, 0], 2)[:, None, :1].contiguous()]
    jobs = {
        name: partial(_quiet, model, x, [0]) for name, model, x in zip(("full", "piece"), networks, seen, strict=True)
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=21))
    rows: list[list[Any]] = [[f"FNO, full grid of {side} x {side}", 1e3 * times.median("full"), ""]]
    rows += [[f"one piece, {k} in time", 1e3 * times.median("piece") / k, ""] for k in (1, 4)]
    u0 = starts(run.at(smoke=2, desk=64, full=256), torch_generator(1000 + run.seed))
    true = truth(u0)[:, -1]

    def fno(heads: int) -> nn.Module:
        operator: nn.Module = FNO((24,), 1, heads, 24)
        return operator

    for factors, backbone, name in ((FULL, fno, "fno"), (BOTH, fno, "fno"), (BOTH, ConvNet, "conv")):
        found = trained(run, factors, run.seed, backbone, name).rollout(u0, HORIZON, warm)[:, -1]
        rows.append([f"Burgers: {name}, {factors.name}", "", float(relative(found, true).mean())])
    return Measurement(
        times.ratio("piece", "full"),
        table=Table(["network", "ms per fine step", "error after 20 steps"], rows),
        settings=f"{width} channels, {modes[0]} modes along each axis, four layers; Burgers: 24 channels, all trained "
        f"by the residual of the fine grid for {seconds(run):g} s of processor time",
    )


@races("phiflow")
def against_phiflow(run: Run) -> Measurement:
    """Time phiflow's fastest solver of the vorticity, compiled, and sub-solvers over the same time on the same grid."""
    from phi.torch import flow

    side, nu = run.at(smoke=32, desk=128, full=256), 1e-3
    grid = PeriodicGrid([side, side], 1.0)
    start = gaussian_fields(grid, 1, lambda k: (k > 0) / (k**2 + 49) ** 2, run.torch_rng())
    start = 2 * start / start.std()
    true = NavierStokesVorticity(side, DT / 4, nu).solve(start, 80)[-1, 0]
    box = flow.Box(x=1, y=1)
    vorticity = flow.CenteredGrid(
        flow.math.tensor(start[0].float(), flow.spatial("x,y")), flow.extrapolation.PERIODIC, bounds=box
    )

    def advance(w: Any, dt: float) -> Any:
        stream = w.with_values(flow.math.fourier_poisson(-w.values, 1 / side))
        slope = flow.field.spatial_gradient(stream)
        velocity = flow.field.stack([slope.vector["y"], -slope.vector["x"]], flow.channel(vector="x,y"))
        moved = flow.advect.semi_lagrangian(w, velocity, dt)
        return flow.diffuse.fourier(moved, nu * side**2, dt)  # which counts lengths in cells

    ours = _latencies(run, side)
    names = {"one sub-solver, of 2 x 2": "one piece, 2 x 2", "all sub-solvers, one by one": "all pieces, 2 x 2"}
    jobs = {name: ours[job] for name, job in names.items()}
    errors: dict[str, float | str] = dict.fromkeys(names, "")
    for k in (1, 4):
        name = "phiflow" if k == 1 else f"phiflow, {k} fine steps at once"
        step = flow.math.jit_compile(partial(advance, dt=k * DT))
        jobs[name] = torch.no_grad()(partial(step, vorticity))
        end = vorticity
        for _ in range(20 // k):
            end = step(end)
        errors[name] = float((end.values.native("x,y") - true).norm() / true.norm())
    times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=21))
    best = "phiflow, 4 fine steps at once"
    rows = [[name, 1e3 * times.median(name) / (1 if name == "phiflow" else 4), errors[name]] for name in jobs]
    return Measurement(
        {"parallel": times.ratio("one sub-solver, of 2 x 2", best), "whole": times.ratio(next(reversed(names)), best)},
        table=Table(["solver", "ms per fine step", "error after 20 fine steps"], rows),
        settings=f"{side} per side, one field, one thread; phiflow: semi-Lagrangian advection, Fourier transforms for "
        "Poisson's equation and diffusion, torch, traced. The networks are those of the speed-up, of which only the "
        "time is taken: no flow is learnt",
    )


@races("deepxde")
def against_deepxde(run: Run) -> Measurement:
    """Train physics-informed networks for each new state until an error is ours, and time both."""
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    import deepxde

    model = trained(run, BOTH, run.seed)
    count, longest = run.at(smoke=(1, 0.01), desk=(3, 20.0), full=(10, 600.0))
    u0 = starts(count, torch_generator(4000 + run.seed))
    true = truth(u0)[:, -1]
    ours_s, theirs_s, rows = [], [], []
    for i in run.progress(range(count), label="states"):
        spent = []
        for _ in range(5):
            started = time.process_time()
            found = model.rollout(u0[i : i + 1], HORIZON, mode="coarse-time")[:, -1]
            spent.append(time.process_time() - started)
        error = float(relative(found, true[i : i + 1]))
        ours_s.append(float(np.median(spent)))
        tries = []
        for rate in (1e-3, 3e-3, 1e-2):  # L-BFGS after Adam came no nearer in the same time
            their_error, trained_s = _informed(deepxde, u0[i, 0], true[i, 0], error, longest, rate, run.seed)
            tries.append(trained_s)
            rows.append([i, rate, error, ours_s[-1], their_error, trained_s])
        theirs_s.append(min(tries))
    return Measurement(
        every([a / b for a, b in zip(ours_s, theirs_s, strict=True)], "states"),
        table=Table(["state", "its rate", "our error", "our seconds", "network's error", "its seconds"], rows),
        settings=f"three layers of 64 tanh units, periodic features, exact start, Adam at the best of three rates for "
        f"each state, processor time, at most {longest:g} s: where that ends the training the ratio is less than it "
        "says",
    )


def _informed(
    deepxde: Any, start: Tensor, true: Tensor, error: float, longest: float, rate: float, seed: int
) -> tuple[float, float]:
    """Train until the error at the end is no larger, and return it and the seconds of training."""
    deepxde.config.set_random_seed(seed)
    end, k = HORIZON * DT, torch.arange(1, POINTS // 2)
    modes = torch.fft.rfft(start, norm="forward")[1 : POINTS // 2]

    def initial(x: Tensor) -> Tensor:
        angle = 2 * torch.pi * k.to(x) * x
        return 2 * (modes.real.to(x) * angle.cos() - modes.imag.to(x) * angle.sin()).sum(1, keepdim=True)

    def features(x: Tensor) -> Tensor:
        angles = 2 * torch.pi * x[:, :1] * torch.arange(1, 5).to(x)
        return torch.cat([angles.sin(), angles.cos(), x[:, 1:] / end], 1)

    def equation(x: Tensor, u: Tensor) -> Tensor:
        slope = deepxde.grad.jacobian(u, x, i=0, j=0)
        change = deepxde.grad.jacobian(u, x, i=0, j=1)
        return change + u * slope - NU * deepxde.grad.hessian(u, x, i=0, j=0)

    domain = deepxde.geometry.GeometryXTime(deepxde.geometry.Interval(0, 1), deepxde.geometry.TimeDomain(0, end))
    data = deepxde.data.TimePDE(domain, equation, [], num_domain=500)
    net = deepxde.nn.FNN([9, 64, 64, 64, 1], "tanh", "Glorot uniform")
    net.apply_feature_transform(features)
    net.apply_output_transform(lambda x, y: initial(x[:, :1]) + x[:, 1:] / end * y)
    model = deepxde.Model(data, net)
    model.compile("adam", lr=rate, verbose=0)
    points = np.stack([np.arange(POINTS) / POINTS, np.full(POINTS, end)], 1).astype(np.float32)
    spent, found = 0.0, float("inf")
    while found > error and spent < longest:
        started = time.process_time()
        model.train(iterations=25, display_every=10**9, verbose=0)
        spent += time.process_time() - started
        predicted = torch.from_numpy(model.predict(points)[:, 0])
        found = float((predicted - true).norm() / true.norm())
    return found, spent
