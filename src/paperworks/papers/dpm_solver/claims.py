"""What DPM-Solver's paper claims, measured where the exact solution or an exact model is known."""

import itertools
import math
from collections.abc import Iterable, Mapping
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
from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    bootstrap,
    exact,
    greatest,
    least,
    mean,
    measures,
    races,
)
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
    block_means,
    digits,
    digits_mixture,
    frechet_distance,
    pseudo_values,
    trained_denoiser,
)


def label_ticks(axes: Any, calls: Iterable[int]) -> None:
    """Label the numbers of calls on a logarithmic axis, and no others."""
    axes.set_xticks(list(calls), [str(c) for c in calls])
    axes.xaxis.set_minor_locator(NullLocator())


@measures("c1-orders")
def orders(run: Run) -> Measurement:
    """Fit the slope of log error against log evaluations, the worse of the two forms."""
    all_calls = run.at(smoke=(24, 48), desk=(96, 192, 384, 768), full=(96, 192, 384, 768, 1536))
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
        name: exact(max(found, key=lambda s: abs(s - 1)) if name == "first" else min(found))
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
    reference_steps = run.at(smoke=20, desk=400, full=1000)
    ddim_calls = run.at(smoke=(10, 20), desk=(20, 40, 80, 160, 320), full=(20, 40, 80, 160, 320, 640))
    problems = {"mixture": bench_mixture_64d(), "digits": digits_mixture()}
    ours: dict[str, tuple[int, int, AlgorithmType, DPMSolverMethod]] = {
        "multistep 2, data form, 20 calls": (20, 2, "dpmsolver++", "multistep"),
        "paper's fast 3, noise form, 20 calls": (20, 3, "dpmsolver", "singlestep"),
        "paper's fast 3, noise form, 50 calls": (50, 3, "dpmsolver", "singlestep"),
    }
    best = next(iter(ours))
    grids = list(itertools.product(SKIP_TYPES, ddim_calls))
    x = torch.cat([normal(n, seed) for seed in run.seeds])
    errors: dict[tuple[str, str], Tensor] = {}
    for name, mixture in run.progress(problems.items(), label="problems"):
        truth = reference(mixture, x, reference_steps)
        for label, settings in ours.items():
            errors[name, label] = per_sample(sample(mixture, x, *settings), truth)
        for skip_type, calls in grids:
            ddim = sample(mixture, x, calls, 1, "dpmsolver++", "multistep", skip_type=skip_type)
            errors[name, f"DDIM {skip_type} {calls}"] = per_sample(ddim, truth)

    def curves(name: str) -> Tensor:
        return torch.stack([errors[name, f"DDIM {skip_type} {calls}"] for skip_type, calls in grids], dim=1)

    def ddim_needs(target: float, found: Any) -> float:
        """Interpolate DDIM's errors over its calls, one grid after another, for the least number that will do."""
        rows = np.reshape(found, (len(SKIP_TYPES), len(ddim_calls)))
        return min(calls_to_reach(target, dict(zip(ddim_calls, row.tolist(), strict=True))) for row in rows)

    def times_ours(theirs: np.ndarray, own: np.ndarray) -> float:
        return ddim_needs(float(np.median(own)), np.median(theirs, axis=0)) / 20

    rows: list[list[Any]] = []
    for name, (label, (calls, *_)) in itertools.product(problems, ours.items()):
        for kind, average in (("median", np.median), ("mean", np.mean)):
            error = float(average(errors[name, label].numpy()))
            needed = ddim_needs(error, average(curves(name).numpy(), axis=0))
            rows.append([name, label, kind, error, needed, needed / calls])
    figure, axes = run.figure(1, 2)
    for panel, name in zip(axes, problems, strict=True):
        for skip_type in SKIP_TYPES:
            curve = [errors[name, f"DDIM {skip_type} {c}"].median().item() for c in ddim_calls]
            panel.loglog(ddim_calls, curve, ".-", linewidth=1, label=f"DDIM, {skip_type}")
        for label, marker in zip(ours, "o*s", strict=False):
            panel.loglog(ours[label][0], errors[name, label].median().item(), marker, label=label)
        panel.set(xlabel="network calls", ylabel="median error of a sample", title=name)
        label_ticks(panel, (*ddim_calls, 50))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return Measurement(
        {name: bootstrap(times_ours, curves(name), errors[name, best], of="samples") for name in problems},
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
    """Sample a small trained network of digits from the same noise by all, and compare with the digits."""
    denoiser = trained_denoiser(
        "digits", size=run.at(smoke="smoke", desk="desk", full="desk"), root=run.cache_folder, progress=run.progress
    )
    model_fn = denoiser.model(SCHEDULE)
    components = PrincipalComponents.of(digits(), 32)
    real = components(digits()[:])
    n, fewer = run.at(smoke=(16, 16), desk=(512, 128), full=(2000, 2000))
    noise = torch.stack([torch.randn(n, *denoiser.shape, generator=run.torch_rng(seed)) for seed in run.seeds])
    few, some, last = run.at(smoke=(3, 6, 6), desk=(10, 20, 50), full=(10, 20, 50))
    long = run.at(smoke=10, desk=1000, full=1000)
    solvers: dict[str, tuple[int, AlgorithmType, DPMSolverMethod, SkipType]] = {
        "multistep 2, data form": (2, "dpmsolver++", "multistep", "logSNR"),
        "fast 3, noise form": (3, "dpmsolver", "singlestep", "logSNR"),
        "DDIM, time_uniform": (1, "dpmsolver++", "multistep", "time_uniform"),
        "DDIM, time_quadratic": (1, "dpmsolver++", "multistep", "time_quadratic"),
        "DDIM, logSNR": (1, "dpmsolver++", "multistep", "logSNR"),
    }
    ours, fast, *ddim = solvers
    uniform = ddim[0]
    # A thousand calls are made from a part of the noise, and what is compared with them from the same part.
    whole = [(ours, few), *((grid, last) for grid in ddim)]
    plan = [*whole, *itertools.product((fast, uniform), (few, some)), (ours, some), (uniform, long)]
    features: dict[tuple[str, int], Tensor] = {}
    shown: dict[tuple[str, int], Tensor] = {}
    for name, calls in run.progress(dict.fromkeys(plan), label="samplers"):
        order, form, method, grid = solvers[name]
        solver = DPMSolver(model_fn, SCHEDULE, form)
        start = (noise if (name, calls) in whole else noise[:, :fewer]).flatten(0, 1)
        parts = [solver.sample(x, calls, order, grid, method, 1.0, T_END).sample for x in start.split(128)]
        images = torch.cat(parts)
        features[name, calls], shown[name, calls] = components(images), images[:8, 0]
    part = torch.arange(n).repeat(len(noise)) < fewer
    distances = {key: frechet_distance(found[part] if key in whole else found, real) for key, found in features.items()}

    def quotient(one: Tensor, other: Tensor) -> float:
        return frechet_distance(one, real) / frechet_distance(other, real)

    def relative(calls: int, other: tuple[str, int]) -> Estimate:
        return mean(pseudo_values(quotient, features[ours, calls], features[other]), of="groups of a jackknife")

    figure, (axes, gallery) = run.figure(1, 2)
    for name in solvers:
        found = sorted((calls, distance) for (who, calls), distance in distances.items() if who == name)
        axes.semilogx(*zip(*found, strict=True), "o-", label=name)
    axes.set(xlabel="network calls", ylabel="Fréchet distance in 32 components")
    label_ticks(axes, (few, some, last, long))
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
            "ten_to_ddim_50": greatest([relative(few, (grid, last)) for grid in ddim]),
            "twenty_to_ddim_1000": relative(some, (uniform, long)),
        },
        table=Table(
            ["sampler", "calls", "Fréchet distance"], [[*key, distance] for key, distance in sorted(distances.items())]
        ),
        figure=figure,
        remark=f"The first value is the greatest ratio over DDIM's three grids. The table's distances are of "
        f"{int(part.sum())} samples each and contain a bias that falls like one over their number; the values are "
        "without it.",
    )


@measures("c4-runge-kutta")
def runge_kutta_compared(run: Run) -> Measurement:
    """Compare errors with Runge-Kutta methods of the same order, each side on its best grid and by its best rule.

    What is best is chosen on noise of its own.
    """
    n = run.at(smoke=16, desk=1000, full=4000)
    reference_steps = run.at(smoke=20, desk=400, full=1000)
    all_calls = run.at(smoke=(12, 24), desk=(12, 24, 48), full=(12, 24, 48))
    mixture = bench_mixture_64d()
    model_fn = mixture.model(SCHEDULE)
    in_lam, in_t = slope_in_lam(model_fn, SCHEDULE), slope_in_t(model_fn, SCHEDULE)
    tableaus = {2: ("midpoint", "Heun 2"), 3: ("Heun 3", "Kutta 3")}
    points = list(itertools.product(tableaus, all_calls))
    Setting = tuple[str, SkipType, str]

    def solved(x: Tensor, order: int, calls: int, setting: Setting) -> Tensor:
        side, grid, rule = setting
        if side == "DPM-Solver":
            return sample(mixture, x, calls, order, "dpmsolver", "singlestep_fixed", skip_type=grid, solver_type=rule)
        times = time_grid(SCHEDULE, calls // order, 1.0, T_END, grid)
        if side == "RK in t":
            return runge_kutta(in_t, x, times, rule)
        return runge_kutta(in_lam, x, [SCHEDULE.lam(t) for t in times], rule)

    def squares(x: Tensor, truth: Tensor, order: int, calls: int, setting: Setting) -> Tensor:
        return (solved(x, order, calls, setting) - truth).square().mean(1)

    sides = ("DPM-Solver", "RK in lam", "RK in t")
    trial = normal(n, 1000)
    truth = reference(mixture, trial, reference_steps)
    best: dict[tuple[int, int, str], Setting] = {}
    for (order, calls), side in run.progress(list(itertools.product(points, sides)), label="choosing"):
        rules = ("dpmsolver", "taylor") if side == "DPM-Solver" else tableaus[order]
        found = {
            setting: float(squares(trial, truth, order, calls, setting).mean())
            for setting in itertools.product((side,), SKIP_TYPES, rules)
        }
        best[order, calls, side] = min(found, key=found.__getitem__)
    x = torch.cat([normal(n, seed) for seed in run.seeds])
    truth = reference(mixture, x, reference_steps)
    errors: dict[tuple[int, int, Setting], Tensor] = {}
    for order, calls in run.progress(points, label="orders and calls"):
        own: set[Setting] = {("DPM-Solver", "logSNR", "dpmsolver"), ("RK in lam", "logSNR", tableaus[order][0])}
        for setting in own | {best[order, calls, side] for side in sides}:
            errors[order, calls, setting] = squares(x, truth, order, calls, setting)

    def error(order: int, calls: int, side: str) -> float:
        return float(errors[order, calls, best[order, calls, side]].mean().sqrt())

    def to_ours(order: int, calls: int, theirs: Setting, ours: Setting) -> Estimate:
        pair = [block_means(errors[order, calls, setting]) for setting in (theirs, ours)]
        return bootstrap(lambda a, b: math.sqrt(a.mean() / b.mean()), *pair, of=f"blocks of {len(x)} samples")

    own_ratio = {
        (order, calls): to_ours(
            order, calls, ("RK in lam", "logSNR", tableaus[order][0]), ("DPM-Solver", "logSNR", "dpmsolver")
        ).value
        for order, calls in points
    }
    rows = []
    for point in points:
        cells = [(error(*point, side), ", ".join(best[*point, side][1:])) for side in sides]
        rows.append([*point, *itertools.chain(*cells), own_ratio[point]])
    figure, axes = run.figure(1, 2, sharey=True)
    for panel, order in zip(axes, tableaus, strict=True):
        for side in sides:
            panel.loglog(all_calls, [error(order, c, side) for c in all_calls], "o-", label=side)
        panel.set(xlabel="network calls", ylabel="root mean square error", title=f"order {order}, best grid and rule")
        label_ticks(panel, all_calls)
    axes[0].legend()
    smallest = {calls: min(own_ratio[order, calls] for order in tableaus) for calls in (12, 24)}
    return Measurement(
        {
            f"calls_{calls}": least(
                [
                    to_ours(order, calls, best[order, calls, "RK in lam"], best[order, calls, "DPM-Solver"])
                    for order in tableaus
                ]
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
    centre = 0.7
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    noise = (x - SCHEDULE.alpha(1.0) * centre) / SCHEDULE.sigma(1.0)
    truth = SCHEDULE.alpha(T_END) * centre + SCHEDULE.sigma(T_END) * noise
    models = {
        "constant": lambda x, t: noise,
        "fed back": lambda x, t: (x - SCHEDULE.alpha(t) * centre) / SCHEDULE.sigma(t),
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
        exact(max(row[3] for row in rows)),
        table=Table(["form", "method", "order", "largest error over grids", "with the state fed back"], rows),
        remark="The model returns the noise that is exact all along the way. Where it computes it from the state, "
        f"its division by a small sigma amplifies rounding, to {max(row[4] for row in rows):.0e}.",
    )


@measures("c6-adaptive")
def adaptive(run: Run) -> Measurement:
    """Tighten the relative tolerance, and see errors fall and evaluations rise."""
    tolerances = run.at(smoke=(0.1, 0.05), desk=(0.05, 0.01, 1e-3, 1e-4), full=(0.05, 0.01, 1e-3, 1e-4, 1e-5))
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
    each = "; ".join(
        f"{FORMS[form]} form, {name}: {' '.join(f'{r:.2f}' for r in ratios[f'{form}, {name}'])}"
        for form, name in itertools.product(FORMS, settings)
    )
    return Measurement(
        {
            "monotone": exact(monotone),
            "calls_are_true": exact(counted),
            "order_23_to_12": exact(max(itertools.chain(*ratios.values()))),
        },
        table=Table(["form", "absolute tolerance", "solver", "relative tolerance", "calls", "rejected", "error"], rows),
        figure=figure,
        remark="The ratio is the greatest over both forms, both ways to set the absolute tolerance, and all relative "
        f"ones. From the loosest tolerance on: {each}.",
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
