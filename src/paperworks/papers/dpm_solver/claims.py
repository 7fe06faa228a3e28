"""What DPM-Solver's paper claims, measured where the exact solution or an exact model is known."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

import numpy as np
import torch
from matplotlib.ticker import NullLocator
from torch import Tensor

from paperworks.diffusion import (
    SKIP_TYPES,
    AlgorithmType,
    DPMSolver,
    DPMSolverMethod,
    ModelFn,
    SkipType,
    time_grid,
)
from paperworks.evidence import Measurement, Run, Table, measures, races
from paperworks.papers.dpm_solver import peers
from paperworks.papers.dpm_solver.problems import (
    FORMS,
    SCHEDULE,
    T_END,
    normal,
    per_sample,
    reference,
    runge_kutta,
    sample,
    slope_in_lam,
    slope_in_t,
)
from paperworks.testbeds import (
    PrincipalComponents,
    bench_mixture_1d,
    bench_mixture_64d,
    digits_mixture,
    fashion_mnist,
    frechet_distance,
    trained_denoiser,
)


def label_ticks(axes: Any, calls: Iterable[int]) -> None:
    """Label the numbers of calls on a logarithmic axis, and no others."""
    axes.set_xticks(list(calls), [str(c) for c in calls])
    axes.xaxis.set_minor_locator(NullLocator())


@measures("c1-orders")
def orders(run: Run) -> Measurement:
    """Fit the slope of log error against log evaluations, the worse of the two forms."""
    all_calls = run.at(smoke=(96, 192), desk=(96, 192, 384, 768), full=(96, 192, 384, 768, 1536))
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    mixture = bench_mixture_1d()
    truth = mixture.transport(x, SCHEDULE, 1.0, T_END)
    solvers: dict[str, tuple[int, DPMSolverMethod, dict[str, Any]]] = {
        "first": (1, "singlestep_fixed", {}),
        "second": (2, "singlestep_fixed", {}),
        "third": (3, "singlestep_fixed", {}),
        "multistep_2": (2, "multistep", {}),
        "multistep_3": (3, "multistep", {}),
        "multistep_3, half derivative": (3, "multistep", {"legacy_3m": True}),
    }
    rows: list[list[Any]] = []
    slopes: dict[str, list[float]] = {name: [] for name in solvers}
    figure, axes = run.figure()
    for name, (order, method, options) in run.progress(solvers.items(), label="solvers"):
        for form in FORMS:
            errors = [
                float((sample(mixture, x, n, order, form, method, **options) - truth).abs().max()) for n in all_calls
            ]
            # The third-order multistep solver reaches its slope late: its first steps are of lower order.
            last = slice(-2, None) if order == 3 and method == "multistep" else slice(None)
            slope = -np.polyfit(np.log(all_calls[last]), np.log(errors[last]), 1)[0]
            slopes[name].append(float(slope))
            rows.append([name, FORMS[form], *errors, float(slope)])
            if form == "dpmsolver":
                axes.loglog(all_calls, errors, "o-", label=f"{name.replace('_', ' ')} ({slope:.2f})")
    axes.set(xlabel="network calls", ylabel="largest error", title="Convergence of the noise form (slope)")
    label_ticks(axes, all_calls)
    axes.legend(fontsize=8, loc="lower left")
    value = {
        name: max(found, key=lambda s: abs(s - 1)) if name == "first" else min(found)
        for name, found in slopes.items()
        if "," not in name
    }
    return Measurement(
        value,
        table=Table(["solver", "form", *(f"error at {n}" for n in all_calls), "slope"], rows),
        figure=figure,
        remark="With half the second derivative, as many implementations have it, the third-order multistep solver "
        f"has order {min(slopes['multistep_3, half derivative']):.2f}.",
    )


@measures("c2-speed-up")
def speed_up(run: Run) -> Measurement:
    """Count the evaluations with which DDIM, on its best grid, is as accurate as 20 of ours."""
    n = run.at(smoke=8, desk=64, full=256)
    reference_steps = run.at(smoke=100, desk=1000, full=2000)
    ddim_calls = run.at(smoke=(20, 80), desk=(20, 40, 80, 160, 320), full=(20, 40, 80, 160, 320, 640))
    problems = {"mixture": bench_mixture_64d(), "digits": digits_mixture()}
    ours: dict[str, tuple[int, int, AlgorithmType, DPMSolverMethod]] = {
        "multistep 2, data form, 20 calls": (20, 2, "dpmsolver++", "multistep"),
        "paper's fast 3, noise form, 20 calls": (20, 3, "dpmsolver", "singlestep"),
        "paper's fast 3, noise form, 50 calls": (50, 3, "dpmsolver", "singlestep"),
    }
    errors: dict[tuple[str, str], list[Tensor]] = {}
    for name, seed in run.progress(list(itertools.product(problems, run.seeds)), label="problems"):
        mixture, x = problems[name], normal(n, seed)
        truth = reference(mixture, x, reference_steps)
        for label, settings in ours.items():
            errors.setdefault((name, label), []).append(per_sample(sample(mixture, x, *settings), truth))
        for skip_type, calls in itertools.product(SKIP_TYPES, ddim_calls):
            ddim = sample(mixture, x, calls, 1, "dpmsolver++", "multistep", skip_type=skip_type)
            errors.setdefault((name, f"DDIM {skip_type} {calls}"), []).append(per_sample(ddim, truth))

    averages: dict[str, Callable[[Tensor], Tensor]] = {"median": torch.median, "mean": torch.mean}

    def ddim_needs(name: str, average: Callable[[Tensor], Tensor], target: float, runs: slice) -> float:
        found = []
        for skip_type in SKIP_TYPES:
            curve = [average(torch.cat(errors[name, f"DDIM {skip_type} {c}"][runs])).item() for c in ddim_calls]
            found.append(calls_to_reach(target, dict(zip(ddim_calls, curve, strict=True))))
        return min(found)

    rows: list[list[Any]] = []
    per_seed: dict[str, list[float]] = {name: [] for name in problems}
    best = next(iter(ours))
    for name in problems:
        for i in range(len(run.seeds)):
            target = errors[name, best][i].median().item()
            per_seed[name].append(ddim_needs(name, torch.median, target, slice(i, i + 1)) / 20)
        for label, (calls, *_) in ours.items():
            for kind, average in averages.items():
                error = average(torch.cat(errors[name, label])).item()
                needed = ddim_needs(name, average, error, slice(None))
                rows.append([name, label, kind, error, needed, needed / calls])
    figure, axes = run.figure(1, 2)
    for panel, name in zip(axes, problems, strict=True):
        for skip_type in SKIP_TYPES:
            curve = [torch.cat(errors[name, f"DDIM {skip_type} {c}"]).median().item() for c in ddim_calls]
            panel.loglog(ddim_calls, curve, ".-", linewidth=1, label=f"DDIM, {skip_type}")
        for label, marker in zip(ours, "o*s", strict=False):
            panel.loglog(ours[label][0], torch.cat(errors[name, label]).median().item(), marker, label=label)
        panel.set(xlabel="network calls", ylabel="median error of a sample", title=name)
        label_ticks(panel, (*ddim_calls, 50))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return Measurement.over_seeds(
        per_seed,
        table=Table(["problem", "sampler", "error by", "error", "calls DDIM needs", "times ours"], rows),
        figure=figure,
        remark="The value is by the median sample: by the mean, a few samples that end in another mode decide.",
    )


def calls_to_reach(target: float, errors: Mapping[int, float]) -> float:
    """Interpolate log error over log calls, and return where it first falls to the target (the last calls if never)."""
    for (low, above), (high, below) in itertools.pairwise(errors.items()):
        if above <= target:
            return low
        if below <= target:
            part = math.log(above / target) / math.log(above / below)
            return low * (high / low) ** part
    return max(errors)


@measures("c3-ten-steps")
def ten_steps(run: Run) -> Measurement:
    """Sample a small trained network of Fashion-MNIST from the same noise by all, and compare with the test images."""
    denoiser = trained_denoiser(
        "fashion-mnist",
        size=run.at(smoke="smoke", desk="desk", full="desk"),
        root=run.cache_folder,
        progress=run.progress,
    )
    model_fn = denoiser.model(SCHEDULE)
    components = PrincipalComponents.of(fashion_mnist(run.at(smoke="test", desk="train", full="train")), 64)
    real = components(fashion_mnist("test")[:])
    noise = torch.randn(run.at(smoke=16, desk=128, full=5000), *denoiser.shape, generator=run.torch_rng())
    budgets = run.at(smoke=(5, 10), desk=(10, 20, 50), full=(10, 20, 50))
    long = run.at(smoke=20, desk=1000, full=1000)
    few, some = budgets[:2]
    solvers: dict[str, tuple[int, AlgorithmType, DPMSolverMethod, SkipType]] = {
        "multistep 2, data form": (2, "dpmsolver++", "multistep", "logSNR"),
        "fast 3, noise form": (3, "dpmsolver", "singlestep", "logSNR"),
        **{
            f"DDIM, {grid}": (1, "dpmsolver++", "multistep", grid)
            for grid in ("time_uniform", "time_quadratic", "logSNR")
        },
    }
    ours, *_, uniform, quadratic, log_snr = solvers
    last = budgets[-1]
    plan = [
        *((name, calls) for name in solvers for calls in budgets if name not in (quadratic, log_snr)),
        *((name, last) for name in (quadratic, log_snr)),
        (uniform, long),
    ]
    distances: dict[tuple[str, int], float] = {}
    shown: dict[tuple[str, int], Tensor] = {}
    for name, calls in run.progress(plan, label="samplers"):
        order, form, method, grid = solvers[name]
        parts = [
            DPMSolver(model_fn, SCHEDULE, form).sample(part, calls, order, grid, method, 1.0, T_END).sample
            for part in noise.split(128)
        ]
        images = torch.cat(parts)
        distances[name, calls] = frechet_distance(components(images), real)
        shown[name, calls] = images[:8, 0]
    figure, (axes, gallery) = run.figure(1, 2)
    for name in solvers:
        found = [(calls, distance) for (n, calls), distance in distances.items() if n == name]
        axes.semilogx(*zip(*found, strict=True), "o-", label=name)
    axes.set(xlabel="network calls", ylabel="Fréchet distance in 64 components")
    label_ticks(axes, (*budgets, long))
    axes.legend(fontsize=8)
    rows = [(ours, few), (uniform, few), (uniform, last), (uniform, long)]
    gallery.imshow(torch.cat([torch.cat(list(shown[row]), dim=1) for row in rows]), cmap="gray_r", vmin=-1, vmax=1)
    side = denoiser.shape[-1]
    gallery.set_yticks([side * (i + 0.5) for i in range(len(rows))], [f"{n.split(',')[0]}, {c}" for n, c in rows])
    gallery.set(xticks=[], title="from the same noise")
    gallery.grid(visible=False)
    gallery.tick_params(length=0)
    return Measurement(
        {
            "ten_to_ddim_50": distances[ours, few]
            / min(distances[name, last] for name in (uniform, quadratic, log_snr)),
            "twenty_to_ddim_1000": distances[ours, some] / distances[uniform, long],
        },
        table=Table(
            ["sampler", "calls", "Fréchet distance"], [[*key, distance] for key, distance in sorted(distances.items())]
        ),
        figure=figure,
        remark=f"DDIM with {last} calls is taken on its best grid.",
    )


@measures("c4-runge-kutta")
def runge_kutta_compared(run: Run) -> Measurement:
    """Compare errors with Runge-Kutta methods of the same order, each side on its best grid and by its best rule."""
    n = run.at(smoke=16, desk=1000, full=4000)
    reference_steps = run.at(smoke=100, desk=500, full=1000)
    all_calls = (12, 24, 48)
    mixture = bench_mixture_64d()
    model_fn = mixture.model(SCHEDULE)
    in_lam, in_t = slope_in_lam(model_fn, SCHEDULE), slope_in_t(model_fn, SCHEDULE)
    tableaus = {2: ("midpoint", "Heun 2"), 3: ("Heun 3", "Kutta 3")}
    squares: dict[tuple[int, int], dict[tuple[str, str, str], list[float]]] = {}
    for seed in run.progress(run.seeds, label="seeds"):
        x = normal(n, seed)
        truth = reference(mixture, x, reference_steps)
        for order, calls, grid in itertools.product(tableaus, all_calls, SKIP_TYPES):
            found = squares.setdefault((order, calls), {})
            times = time_grid(SCHEDULE, calls // order, 1.0, T_END, grid)
            results = {
                ("DPM-Solver", grid, rule): sample(
                    mixture, x, calls, order, "dpmsolver", "singlestep_fixed", skip_type=grid, solver_type=rule
                )
                for rule in ("dpmsolver", "taylor")
            }
            for tableau in tableaus[order]:
                lams = [SCHEDULE.lam(t) for t in times]
                results["RK in lam", grid, tableau] = runge_kutta(in_lam, x, lams, tableau)
                results["RK in t", grid, tableau] = runge_kutta(in_t, x, times, tableau)
            for key, result in results.items():
                found.setdefault(key, []).append(float((result - truth).square().mean()))
    # Squares are averaged over seeds: a few samples that end in another mode make the seeds' own ratios jump.
    errors = {point: {key: math.sqrt(np.mean(s)) for key, s in found.items()} for point, found in squares.items()}

    def best(point: tuple[int, int], side: str) -> tuple[float, str]:
        return min((error, f"{grid}, {rule}") for (name, grid, rule), error in errors[point].items() if name == side)

    sides = ("DPM-Solver", "RK in lam", "RK in t")
    own = {
        point: found["RK in lam", "logSNR", tableaus[point[0]][0]] / found["DPM-Solver", "logSNR", "dpmsolver"]
        for point, found in errors.items()
    }
    rows = [[*point, *itertools.chain(*(best(point, side) for side in sides)), own[point]] for point in sorted(errors)]
    figure, axes = run.figure(1, 2, sharey=True)
    for panel, order in zip(axes, tableaus, strict=True):
        for side in sides:
            panel.loglog(all_calls, [best((order, c), side)[0] for c in all_calls], "o-", label=side)
        panel.set(xlabel="network calls", ylabel="root mean square error", title=f"order {order}, best grid and rule")
        label_ticks(panel, all_calls)
    axes[0].legend()
    smallest = {calls: min(own[order, calls] for order in tableaus) for calls in (12, 24)}
    return Measurement(
        {
            f"calls_{calls}": min(
                best((order, calls), "RK in lam")[0] / best((order, calls), "DPM-Solver")[0] for order in tableaus
            )
            for calls in (12, 24)
        },
        table=Table(
            [
                "order",
                "calls",
                *itertools.chain(*((side, "setting") for side in sides)),
                "RK in lam / ours, uniform lam",
            ],
            rows,
        ),
        figure=figure,
        remark="The smaller ratio of orders 2 and 3. With both sides uniform in lam and by the paper's own rule it is "
        f"{smallest[12]:.2f} at 12 calls and {smallest[24]:.2f} at 24.",
    )


@measures("c5-exact-linear-part")
def exact_linear_part(run: Run) -> Measurement:
    """Take as few steps as each method can on data of one point, whose noise is the same all along the way."""
    mean = 0.7
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    noise = (x - SCHEDULE.alpha(1.0) * mean) / SCHEDULE.sigma(1.0)
    truth = SCHEDULE.alpha(T_END) * mean + SCHEDULE.sigma(T_END) * noise
    models = {
        "constant": lambda x, t: noise,
        "fed back": lambda x, t: (x - SCHEDULE.alpha(t) * mean) / SCHEDULE.sigma(t),
    }

    def error(model_fn: ModelFn, form: AlgorithmType, method: DPMSolverMethod, order: int) -> float:
        solver = DPMSolver(model_fn, SCHEDULE, form)
        samples = (
            solver.sample(x, order, order, grid, method, 1.0, T_END, solver_type=rule).sample
            for grid, rule in itertools.product(SKIP_TYPES, ("dpmsolver", "taylor"))
        )
        return max(float((result - truth).abs().max()) for result in samples)

    rows = []
    for form, method in itertools.product(FORMS, get_args(DPMSolverMethod)):
        for order in (2, 3) if method == "adaptive" else (1, 2, 3):
            errors = [error(model_fn, form, method, order) for model_fn in models.values()]
            rows.append([FORMS[form], method, order, *errors])
    return Measurement(
        max(row[3] for row in rows),
        table=Table(["form", "method", "order", "largest error over grids", "with the state fed back"], rows),
        remark="The model returns the noise that is exact all along the way. Where it computes it from the state, "
        f"its division by a small sigma amplifies rounding, to {max(row[4] for row in rows):.0e}.",
    )


@measures("c6-adaptive")
def adaptive(run: Run) -> Measurement:
    """Tighten the relative tolerance, and see errors fall and evaluations rise."""
    tolerances = run.at(smoke=(0.05, 0.01), desk=(0.05, 0.01, 1e-3, 1e-4), full=(0.05, 0.01, 1e-3, 1e-4, 1e-5))
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    mixture = bench_mixture_1d()
    truth = mixture.transport(x, SCHEDULE, 1.0, T_END)
    rows: list[list[Any]] = []
    figure, axes = run.figure()
    monotone = counted = True
    ratios: dict[str, list[float]] = {}
    # Only the relative tolerance decides, or else the paper's absolute one at its own ratio to the relative one.
    settings = {"relative only": lambda rtol: 1e-8, "paper's ratio": lambda rtol: 0.0078 * rtol / 0.05}
    for form, (name, atol) in run.progress(list(itertools.product(FORMS, settings.items())), label="forms"):
        calls: dict[int, list[int]] = {2: [], 3: []}
        for order in (2, 3):
            errors = []
            for rtol in tolerances:
                model_fn = CountedModel(mixture.model(SCHEDULE))
                result = DPMSolver(model_fn, SCHEDULE, form).sample(
                    x, order=order, method="adaptive", t_end=T_END, rtol=rtol, atol=atol(rtol)
                )
                counted &= result.nfe == model_fn.calls
                errors.append(float((result.sample - truth).abs().max()))
                calls[order].append(result.nfe)
                rows.append([FORMS[form], name, f"{order - 1}{order}", rtol, result.nfe, result.n_reject, errors[-1]])
            monotone &= all(a > b for a, b in itertools.pairwise(errors))
            if name == "relative only":
                axes.loglog(calls[order], errors, "o-", label=f"DPM-Solver-{order - 1}{order}, {FORMS[form]} form")
        ratios[f"{form}, {name}"] = [b / a for a, b in zip(calls[2], calls[3], strict=True)]
    axes.set(xlabel="network calls", ylabel="largest error", title="Adaptive steps, relative tolerance alone")
    label_ticks(axes, (100, 200, 500, 1000, 2000))
    axes.legend(fontsize=8)
    others = "; ".join(
        f"{FORMS[form]} form, {name}: {' '.join(f'{r:.2f}' for r in ratios[f'{form}, {name}'])}"
        for form, name in itertools.product(FORMS, settings)
    )
    return Measurement(
        {
            "monotone": monotone,
            "calls_are_true": counted,
            "order_23_to_12": max(ratios["dpmsolver++, relative only"]),
        },
        table=Table(["form", "absolute tolerance", "solver", "relative tolerance", "calls", "rejected", "error"], rows),
        figure=figure,
        remark="The ratio is the greatest over the relative tolerances, in the default form, where they alone decide. "
        f"Ratios of calls of DPM-Solver-23 to -12 from the loosest tolerance on: {others}.",
    )


class CountedModel:
    """A model that counts its calls."""

    def __init__(self, model_fn: ModelFn) -> None:
        self.model_fn = model_fn
        self.calls = 0

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the noise in `x`."""
        self.calls += 1
        return self.model_fn(x, t)


@races("diffusers")
def against_diffusers(run: Run) -> Measurement:
    """Time a step without its network, and compare errors at equal calls with each side at its best settings."""
    return peers.diffusers(run)


@races("k-diffusion")
def against_k_diffusion(run: Run) -> Measurement:
    """Compare errors at equal calls on the variance-exploding schedule, adaptive solvers, and the time of a step."""
    return peers.k_diffusion(run)
