"""Rollouts, spectra and uncertainty of refiners and of networks trained on one step, and the solver of their data."""

import importlib
import math
import os
import sys
import types
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    exact,
    greatest,
    interleaved,
    measures,
    races,
    statistic,
)
from paperworks.numerics import seeded, torch_generator
from paperworks.operators import (
    AdditiveScheduler,
    PDERefiner,
    PeriodicUNet,
    RefinerScheduler,
    correlation,
    high_correlation_time,
    squared_error,
    time_above,
)
from paperworks.papers.pde_refiner.problems import (
    MIN_NOISE,
    NARROW,
    STEP,
    WIDE,
    judged,
    mode_errors,
    rollout,
    solver,
)
from paperworks.testbeds import kuramoto_sivashinsky, sine_fields

NAMES = {"mse": "squared error of a step", "refiner": "PDE-Refiner"}


def tests(run: Run) -> tuple[int, int]:
    """Return how many trajectories are judged, and how many steps they have."""
    return run.repeats(smoke=6, desk=64, full=128), run.at(smoke=12, desk=140, full=160)


@measures("c1-longer-rollouts")
def longer_rollouts(run: Run) -> Measurement:
    """Roll out both networks from unseen states, and compare the times of high correlation trajectory by trajectory."""
    data = judged(run, WIDE, *tests(run))
    truth = data.states
    times, curves, errors = {}, {}, {}
    rows = []
    for kind in ("mse", "refiner"):
        model = solver(run, WIDE, kind)
        rolled = rollout(model, data, run.seed)
        curves[kind] = correlation(rolled, truth).nan_to_num(0)
        times[kind] = high_correlation_time(rolled, truth, STEP, per_trajectory=True).double().numpy()
        errors[kind], _ = mode_errors(model, data, run.seed)
        levels = [float(time_above(curves[kind].mean(0), STEP, level)) for level in (0.95, 0.9, 0.8)]
        rows.append([NAMES[kind], *levels, float(times[kind].mean())])
    apart = times["refiner"] - times["mse"]
    deviation = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    mode = min(20, errors["mse"].shape[1] - 1)
    rows.append(["standard error of the difference", None, None, None, deviation])
    figure, (left, right) = run.figure(1, 2)
    figure.set_size_inches(10, 3.6)
    for kind, name in NAMES.items():
        left.plot(STEP * np.arange(truth.shape[1]), curves[kind].mean(0), label=name)
    left.axhline(0.8, color="black", linewidth=0.6)
    left.set(xlabel="time", ylabel="correlation with the truth", title="Mean over trajectories")
    left.legend()
    right.scatter(times["mse"], times["refiner"], s=8)
    most = max(times["mse"].max(), times["refiner"].max())
    right.plot([0, most], [0, most], color="black", linewidth=0.6)
    right.set(xlabel=f"time, {NAMES['mse']}", ylabel="time, PDE-Refiner", title="Each trajectory")
    return Measurement(
        {
            "time": statistic(
                float(apart.mean()) / (deviation or math.inf), f"paired t over {len(apart)} trajectories"
            ),
            "mode_20": bootstrap(
                lambda a, b: a.mean() / b.mean(),
                errors["refiner"][:, mode].tolist(),
                errors["mse"][:, mode].tolist(),
                of="trajectories",
            ),
        },
        table=Table(
            ["trained as", "time above 0.95", "above 0.9", "above 0.8", "mean of the trajectories' times above 0.8"],
            rows,
        ),
        figure=figure,
        remark=f"PDE-Refiner's mean time differs by {apart.mean() / times['mse'].mean():+.1%}. A step takes it "
        "four evaluations of the network, the other one.",
    )


def small_modes(amplitude: Float[Tensor, "n modes"]) -> list[int]:
    """Return the waves below a thousandth of the largest, of those that the data have at all.

    Mode 0 isn't one: the mean is 0 in all data, and what a network makes of it is no small scale.
    """
    mean = amplitude.mean(0)
    found = (1 + (mean[1:] < 1e-3 * mean.max()).nonzero()[:, 0]).tolist()
    return found or [len(mean) - 1]


@measures("c2-all-frequencies")
def all_frequencies(run: Run) -> Measurement:
    """Compare errors of one step mode by mode, on a short circle where amplitudes fall off fast."""
    data = judged(run, NARROW, *tests(run))
    errors: dict[str, Tensor] = {}
    times = {}
    for kind in ("mse", "refiner"):
        model = solver(run, NARROW, kind)
        errors[kind], amplitude = mode_errors(model, data, run.seed)
        times[kind] = float(high_correlation_time(rollout(model, data, run.seed), data.states, STEP))
    small = small_modes(amplitude)
    size = amplitude.mean(0)
    figure, axes = run.figure()
    for kind, name in NAMES.items():
        axes.semilogy(range(1, len(size)), (errors[kind].mean(0) / size)[1:], "o-", label=name)
    axes.semilogy(range(1, len(size)), (size / size.max())[1:], color="grey", label="amplitude / the largest")
    axes.axvline(small[0] - 0.5, color="black", linewidth=0.6)
    axes.set(xlabel="waves on the circle", ylabel="relative error of one step", title=f"Length {NARROW:g}")
    axes.legend()
    return Measurement(
        greatest(
            bootstrap(
                lambda a, b: a.mean() / b.mean(),
                errors["refiner"][:, mode].tolist(),
                errors["mse"][:, mode].tolist(),
                of="trajectories",
            )
            for mode in small
        ),
        table=Table(
            ["mode", "amplitude / largest", *(f"relative error, {name}" for name in NAMES.values())],
            [
                [mode, float(size[mode] / size.max()), *(float(errors[k][:, mode].mean() / size[mode]) for k in NAMES)]
                for mode in range(1, len(size))
            ],
        ),
        figure=figure,
        remark=f"On this circle, whose modes are smooth, PDE-Refiner stays above a correlation of 0.8 for "
        f"{times['refiner']:.1f}, the other for {times['mse']:.1f} units of time.",
    )


@measures("c3-schedule")
def schedule(run: Run) -> Measurement:
    """Compare the variances with 50 digits, and sample with a network that knows the truth."""
    worst = 0.0
    for levels in (0, 1, 2, 3, 4, 8):
        for smallest in ("2e-7", "4e-7", "1e-3"):
            ours = RefinerScheduler(levels, float(smallest))
            with localcontext() as context:
                context.prec = 50
                log = Decimal(smallest).ln()
                betas = [(log * (levels - i) / levels).exp() for i in range(levels + 1)] if levels else [Decimal(1)]
                product = Decimal(1)
                for i, beta in enumerate(betas):
                    product *= 1 - beta
                    for found, true in (
                        (ours.betas[i], beta),
                        (ours.alphas_cumprod[i], product),
                        (ours.noise_variances[i], 1 - product),
                    ):
                        worst = max(worst, abs(float(Decimal(float(found)) - true)))
    apart = 0.0
    for parameterization in ("v", "eps"):
        for levels in (0, 1, 3, 8):
            apart = max(apart, oracle_error(PDERefiner(Oracle(), levels, None, parameterization)))
    return Measurement(
        {"schedule": exact(worst), "sampler": exact(apart)},
        remark="The sampler works in single precision, with K of 0, 1, 3 and 8 in both forms.",
    )


class Oracle:
    """A network that knows the target: it returns what a perfect one would."""

    target: Tensor
    model: PDERefiner

    def __call__(self, x: Tensor, cond: Tensor | None, step: Tensor) -> Tensor:
        """Return the answer that leads to the target."""
        scheduler, seen = self.model.scheduler, x[:, :1].double()
        level = round(float(step[0]) / scheduler.embedding_scale)
        if isinstance(scheduler, AdditiveScheduler):
            answer = self.target if level == 0 else (seen - self.target) / scheduler.sigmas[level]
        else:
            assert isinstance(scheduler, RefinerScheduler)
            signal, spread = scheduler.alphas_cumprod[level], scheduler.noise_variances[level]
            answer = (math.sqrt(signal) * seen - self.target) / math.sqrt(spread)
        return answer.to(x.dtype)


def oracle_error(model: PDERefiner) -> float:
    """Return how far a step with a perfect network ends from the truth, in units of the target."""
    oracle: Any = model.backbone
    oracle.model, oracle.target = model, torch.randn(4, 1, 64, generator=torch_generator(0)).double()
    before = torch.randn(4, 1, 64, generator=torch_generator(1))
    found = model.step(before, generator=torch_generator(2))
    return float((model.to_target(before, found).double() - oracle.target).abs().max())


@measures("c4-uncertainty")
def uncertainty(run: Run) -> Measurement:
    """Predict from the agreement of samples how long each rollout is accurate."""
    samples = run.at(smoke=4, desk=16, full=32)
    data = judged(run, WIDE, run.repeats(smoke=6, desk=32, full=128), tests(run)[1])
    model = solver(run, WIDE, "refiner")
    assert isinstance(model, PDERefiner)
    n = data.states.shape[1] - 1
    true = high_correlation_time(rollout(model, data, run.seed), data.states, STEP, per_trajectory=True)
    generator = torch_generator(5, run.seed)
    agreement = model.uncertainty(data.states[:, 0], n, STEP, data.cond, n_samples=samples, generator=generator)
    predicted, known = agreement.time.double().numpy(), true.double().numpy()
    figure, axes = run.figure()
    axes.scatter(predicted, known, s=12)
    most = max(predicted.max(), known.max())
    axes.plot([0, most], [0, most], color="black", linewidth=0.6)
    axes.set(
        xlabel=f"time until {samples} samples disagree",
        ylabel="time until the rollout is wrong",
        title="Each trajectory",
    )
    return Measurement(
        bootstrap(lambda a, b: np.corrcoef(a, b)[0, 1] ** 2, predicted, known, of="trajectories"),
        table=Table(
            ["", "mean", "standard deviation"],
            [
                ["predicted time", predicted.mean(), predicted.std()],
                ["true time", known.mean(), known.std()],
            ],
        ),
        figure=figure,
        settings=f"{samples} samples of {len(known)} trajectories",
    )


@measures("c5-reference-solver")
def reference_solver(run: Run) -> Measurement:
    """Compare exponential steps with an implicit solver of the same modes."""
    n, end = run.at(smoke=(48, 4), desk=(256, 20), full=(256, 20))
    length = run.at(smoke=22.0, desk=64.0, full=64.0)
    equation = kuramoto_sivashinsky(n, length)
    u0 = reference_start(equation)
    truth = implicit(equation, u0, end)
    steps = [16, 32, 64, 128]
    errors = [float((equation.simulate(u0, end, 1, k * end)[-1] - truth).abs().max()) for k in steps]
    # The implicit solver's own tolerance shows below 1e-8, so orders come from steps against far finer ones.
    fine = equation.simulate(u0, end, 1, 512 * end)[-1]
    own = [float((equation.simulate(u0, end, 1, k * end)[-1] - fine).abs().max()) for k in steps]
    order = math.log(own[1] / own[3]) / math.log(steps[3] / steps[1])
    return Measurement(
        {"error": exact(errors[2]), "order": exact(order)},
        table=Table(
            ["step", "error against Radau", "error against steps of 1/512"],
            [[f"1/{k}", a, b] for k, a, b in zip(steps, errors, own, strict=True)],
        ),
    )


def reference_start(equation: Any) -> Float[Tensor, " n"]:
    """Return the start of the comparison, cos(2 pi x / L) (1 + sin(2 pi x / L))."""
    (x,) = equation.grid.coordinates()
    angle = 2 * math.pi * x / equation.grid.lengths[0]
    return angle.cos() * (1 + angle.sin())


def implicit(equation: Any, u0: Float[Tensor, " n"], end: float) -> Float[Tensor, " n"]:
    """Solve by SciPy's Radau to a tolerance of 1e-9."""
    ik, kept, symbol = (t.numpy() for t in (equation.grid.derivatives[0], equation.grid.kept, equation.symbol))
    n = len(u0)

    def slope(t: float, u: np.ndarray) -> np.ndarray:
        modes = np.fft.rfft(u)
        return np.fft.irfft(symbol * modes - ik / 2 * kept * np.fft.rfft(np.fft.irfft(kept * modes, n) ** 2), n)

    return torch.from_numpy(solve_ivp(slope, (0, end), u0.numpy(), method="Radau", rtol=1e-9, atol=1e-9).y[:, -1])


@measures("c6-noise-level")
def noise_level(run: Run) -> Measurement:
    """Train refiners with smallest levels that are far too large, right, and far smaller."""
    data = judged(run, NARROW, *tests(run))
    baseline, amplitude = mode_errors(solver(run, NARROW, "mse"), data, run.seed)
    levels = run.at(smoke=(1e-2, MIN_NOISE), desk=(1e-2, MIN_NOISE, 1e-8), full=(1e-2, 1e-3, 1e-4, MIN_NOISE, 1e-8))
    errors = {level: mode_errors(solver(run, NARROW, "refiner", level), data, run.seed)[0] for level in levels}
    small, size = small_modes(amplitude), amplitude.mean(0)

    def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
        """Return the geometric mean over small modes of the ratio of errors."""
        return float(np.exp(np.log(ours.mean(0) / theirs.mean(0)).mean()))

    apart = {level: relative(found[:, small].numpy(), baseline[:, small].numpy()) for level, found in errors.items()}
    best = min(apart, key=lambda level: apart[level])
    figure, axes = run.figure()
    axes.semilogy(range(1, len(size)), (baseline.mean(0) / size)[1:], "k--", label=NAMES["mse"])
    for level, found in errors.items():
        axes.semilogy(range(1, len(size)), (found.mean(0) / size)[1:], "o-", label=f"smallest variance {level:g}")
    axes.set(xlabel="waves on the circle", ylabel="relative error of one step", title=f"Length {NARROW:g}")
    axes.legend()
    return Measurement(
        {
            "largest_to_baseline": bootstrap(
                relative, errors[1e-2][:, small].numpy(), baseline[:, small].numpy(), of="trajectories"
            ),
            "best_to_largest": bootstrap(
                relative, errors[best][:, small].numpy(), errors[1e-2][:, small].numpy(), of="trajectories"
            ),
        },
        table=Table(["smallest variance", "error at small modes / the baseline's"], [[k, v] for k, v in apart.items()]),
        figure=figure,
        settings=f"geometric means over modes {small[0]} to {small[-1]}",
    )


@measures("c7-data-efficiency")
def data_efficiency(run: Run) -> Measurement:
    """Train both on an eighth of the trajectories, with as many steps."""
    few, all_ = run.at(smoke=(4, 8), desk=(64, 512), full=(256, 2048))
    data = judged(run, WIDE, *tests(run))
    curves: dict[tuple[str, int], np.ndarray] = {}
    for kind in ("mse", "refiner"):
        for count in (few, all_):
            found = rollout(solver(run, WIDE, kind, count=count), data, run.seed)
            curves[kind, count] = correlation(found, data.states).nan_to_num(0).numpy()

    def time(curve: np.ndarray) -> float:
        return float(time_above(torch.from_numpy(curve.mean(0)), STEP))

    def gain(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
        return time(a) / time(b) - time(c) / time(d)

    order = [(kind, count) for kind in ("refiner", "mse") for count in (few, all_)]
    return Measurement(
        bootstrap(gain, *(curves[key] for key in order), of="trajectories"),
        table=Table(
            ["trained as", f"time above 0.8, {few} trajectories", f"{all_} trajectories", "ratio"],
            [
                [NAMES[k], time(curves[k, few]), time(curves[k, all_]), time(curves[k, few]) / time(curves[k, all_])]
                for k in NAMES
            ],
        ),
    )


@races("diffusers", exclusive=False)
def against_diffusers(run: Run) -> Measurement:
    """Denoise with its scheduler of the same variances, put into double precision, from the same noise."""
    from diffusers import DDPMScheduler

    worst, plain = 0.0, 0.0
    for levels in (1, 3, 8):
        ours = RefinerScheduler(levels, MIN_NOISE)
        for precise in (True, False):
            theirs = DDPMScheduler(
                num_train_timesteps=levels + 1,
                trained_betas=ours.betas.tolist(),
                prediction_type="v_prediction",
                clip_sample=False,
            )
            if precise:
                theirs.betas = torch.from_numpy(ours.betas)
                theirs.alphas = 1 - theirs.betas
                theirs.alphas_cumprod = torch.from_numpy(ours.alphas_cumprod)
            generator = run.torch_rng()
            x, v = torch.randn(2, 8, 1, 64, dtype=torch.float64, generator=generator)
            for t in ours.timesteps:
                mine = ours.step(v, t, x, run.torch_rng()).prev_sample
                other = theirs.step(v, t, x, generator=run.torch_rng()).prev_sample
                apart = float((mine - other).abs().max())
                worst, plain = (max(worst, apart), plain) if precise else (worst, max(plain, apart))
    return Measurement(
        exact(worst),
        remark=f"As it comes, with variances in single precision, its largest difference is {plain:.1e}.",
    )


@races("pdearena")
def against_pdearena(run: Run) -> Measurement:
    """Time a training step of the refiner's U-Net, with circular padding on both sides."""
    theirs_unet = load_pdearena()
    n, batch = run.at(smoke=(32, 2), desk=(64, 8), full=(256, 128))
    with seeded(0):
        refiner = PDERefiner(PeriodicUNet(2, 1, conditions=[(0.15, 100), (0.2, 100)]))
        theirs: Any = theirs_unet(
            n_input_scalar_components=1,
            n_input_vector_components=0,
            n_output_scalar_components=1,
            n_output_vector_components=0,
            time_history=2,
            time_future=1,
            hidden_channels=64,
            activation="gelu",
            norm=True,
            param_conditioning="scalar_2",
        )
    for module in theirs.modules():
        if isinstance(module, torch.nn.Conv1d):  # as their configuration asks for, without patching torch
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [module.kernel_size[0] // 2] * 2  # which torch derives once
    u, noise = torch.randn(2, batch, 1, n, generator=run.torch_rng())
    cond = torch.tensor([[0.2, 0.25]]).expand(batch, 2).contiguous()
    scheduler = RefinerScheduler()
    levels = torch.arange(batch) % 4

    def step_of(model: torch.nn.Module, loss: Any) -> Any:
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()

        return step

    def their_loss() -> Tensor:
        seen = torch.stack([scheduler.add_noise(u, noise, levels), u], dim=1)
        found = theirs(seen, levels * (1000 / 3), cond)[:, 0]
        return squared_error(found, scheduler.get_velocity(u, noise, levels))

    jobs = {"ours": step_of(refiner, lambda: refiner.loss(u, noise, cond)), "pdearena": step_of(theirs, their_loss)}
    times = interleaved(run, jobs, run.at(smoke=1, desk=7, full=21))
    networks: list[torch.nn.Module] = [refiner, theirs]
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    return Measurement(
        times.ratio("ours", "pdearena"),
        table=Table(
            ["U-Net", "milliseconds a training step", "parameters"],
            [[name, 1000 * s, count] for (name, s), count in zip(times.medians().items(), counts, strict=True)],
        ),
        settings=f"{n} points, batches of {batch}",
    )


def load_pdearena() -> Any:
    """Load the one-dimensional U-Net from the checkout that PAPERWORKS_PDEARENA names, without Lightning.

    Raises
    ------
    ImportError
        Where the variable isn't set, or the folder holds no such package.
    """
    folder = os.environ.get("PAPERWORKS_PDEARENA", "")
    root = Path(folder) / "pdearena"
    if not (root / "modules" / "conditioned" / "oned_unet.py").is_file():
        raise ImportError(
            f"PAPERWORKS_PDEARENA is {folder!r}; it takes the folder of a checkout of github.com/pdearena/pdearena"
        )
    for name in ("pdearena", "pdearena.modules", "pdearena.modules.conditioned"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]  # a package whose __init__ is not run
        sys.modules[name] = package
    return importlib.import_module("pdearena.modules.conditioned.oned_unet").Unet


@races("exponax")
def against_exponax(run: Run) -> Measurement:
    """Generate trajectories with both at the same steps, and compare the states after one unit of time."""
    import exponax
    import jax

    n, batch, steps = run.at(smoke=(64, 4, 16), desk=(256, 256, 64), full=(256, 256, 640))
    before = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    jax.config.update("jax_enable_x64", True)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        if cores:  # JAX's threads know of no limit but the cores that a process may use
            os.sched_setaffinity(0, sorted(cores)[: torch.get_num_threads()])
        equation = kuramoto_sivashinsky(n, WIDE)
        u0 = equation.simulate(sine_fields(equation.grid, batch, generator=run.torch_rng()), 20.0, 1, 200)[:, -1]
        stepper = exponax.stepper.KuramotoSivashinskyConservative(1, WIDE, n, 1 / 16, order=4)
        theirs = jax.jit(jax.vmap(exponax.repeat(stepper, steps)))
        one = jax.vmap(exponax.repeat(stepper, 16))
        start = jax.numpy.asarray(u0.numpy()[:, None])
        found = torch.from_numpy(np.array(one(start)))[:, 0]
        apart = float((equation.simulate(u0, 1.0, 1, 16)[:, -1] - found).abs().max())
        jobs = {
            "ours": lambda: equation.simulate(u0, steps / 16, 1, steps),
            "exponax": lambda: theirs(start).block_until_ready(),
        }
        times = interleaved(run, jobs, run.at(smoke=1, desk=7, full=15))
    finally:
        jax.config.update("jax_enable_x64", before)
        if cores:
            os.sched_setaffinity(0, cores)
    return Measurement(
        {"time": times.ratio("ours", "exponax"), "difference": exact(apart)},
        table=Table(
            ["package", "seconds", "steps of a trajectory a second"],
            [[name, s, batch * steps / s] for name, s in times.medians().items()],
        ),
        settings=f"{batch} trajectories of {n} points, double precision, {steps} steps of order 4; compiled before",
    )


@races("scipy")
def against_scipy(run: Run) -> Measurement:
    """Generate a batch of trajectories of 20 units of time with errors below 1e-8, and one by SciPy's Radau."""
    n, batch, end = run.at(smoke=(48, 8, 2), desk=(256, 256, 20), full=(256, 256, 20))
    equation = kuramoto_sivashinsky(n, WIDE)
    u0 = sine_fields(equation.grid, batch, generator=run.torch_rng())
    jobs = {
        "ours, the whole batch": lambda: equation.simulate(u0, end, 1, 64 * end),
        "Radau, one": lambda: implicit(equation, u0[0], end),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=6, full=9))
    ours = [s / batch for s in times.seconds["ours, the whole batch"]]
    alone = times.seconds["Radau, one"]
    return Measurement(
        bootstrap(lambda a, b: np.median(a / b), ours, alone, of="paired rounds"),
        table=Table(
            ["solver", "seconds per trajectory"],
            [["ours, in a batch", float(np.median(ours))], ["Radau", float(np.median(alone))]],
        ),
        settings=f"{n} points, {end} units of time, steps of 1/64 in batches of {batch} / tolerance 1e-9 alone",
    )
