"""The races against the packages that sample with DPM-Solver too."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.diffusion import (
    DPMSolver,
    DPMSolverScheduler,
    EDMSchedule,
    NoiseScheduleVP,
    SkipType,
)
from paperworks.evidence import Estimate, Measurement, Run, Table, Times, bootstrap, greatest, interleaved
from paperworks.papers.dpm_solver.problems import normal, per_sample
from paperworks.testbeds import bench_mixture_64d, load_k_diffusion_sampling

BETAS = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)


def steps_of(scheduler: Any, model_fn: Callable[[Tensor, Any], Tensor], x: Tensor) -> Tensor:
    """Take the steps of a scheduler as a pipeline does, after `set_timesteps`."""
    for step in scheduler.timesteps:
        x = scheduler.step(model_fn(x, step), step, x).prev_sample
    return x


def diffusers(run: Run) -> Measurement:
    """Time a step without its network, and compare errors at equal calls with each side at its best settings."""
    import diffusers as theirs

    theirs.utils.logging.set_verbosity_error()
    betas = BETAS.numpy()
    schedule = NoiseScheduleVP.discrete(betas=BETAS)
    rows: list[list[Any]] = []
    overhead = {}
    rounds = {
        "small": run.repeats(smoke=2, desk=101, full=501),
        "medium": run.repeats(smoke=1, desk=51, full=501),
        "large": run.repeats(smoke=1, desk=9, full=51),
    }
    shapes = {
        "small": (1, 3, 8, 8),
        "medium": (4, 3, 64, 64),
        "large": run.at(smoke=(4, 3, 64, 64), desk=LARGE, full=LARGE),
    }
    for name, shape in shapes.items():
        schedulers = {
            "diffusers": theirs.DPMSolverMultistepScheduler(trained_betas=betas),
            "ours": DPMSolverScheduler(trained_betas=BETAS),
        }
        times = times_of_steps(run, schedulers, shape, rounds[name])
        overhead[name] = times.ratio("ours", "diffusers")
        shown = "x".join(str(n) for n in shape)
        micro = {who: 1e6 * seconds for who, seconds in times.medians().items()}
        for what, who in (("scheduler", "ours"), ("solver", "solver")):
            row = [micro["diffusers"], micro[who], micro[who] / micro["diffusers"]]
            rows.append([f"microseconds a step at {shown}, our {what}", *row])
    mixture = bench_mixture_64d()
    n = run.at(smoke=4, desk=128, full=512)
    trial = normal(n, 1000)
    start = torch.cat([trial, *(normal(n, seed) for seed in run.seeds)])
    solver = DPMSolver(mixture.model(schedule), schedule, "dpmsolver")
    truth = solver.sample(start, run.at(smoke=30, desk=1500, full=3000), 3, "logSNR", "singlestep_fixed").sample

    def noise_at(x: Tensor, step: Any) -> Tensor:
        return solver.model_fn(x, (float(step) + 1) / len(BETAS))

    ratios: list[Estimate] = []
    budgets = run.at(smoke=(10,), desk=(10, 20, 50), full=(10, 20, 50))
    for dtype, calls in run.progress(list(itertools.product((torch.float32, torch.float64), budgets))):
        errors = {}
        for who, label, scheduler in settings_of_both(theirs, betas):
            scheduler.set_timesteps(calls)
            errors[who, label] = per_sample(steps_of(scheduler, noise_at, start.to(dtype)), truth)
        what = f"median error at {calls} calls, {str(dtype).removeprefix('torch.')}"
        ratios.append(best_compared(errors, n, "diffusers", what, rows))
    return Measurement(
        {"small": overhead["small"], "large": overhead["large"], "error": greatest(ratios)},
        table=Table(["what", "diffusers", "ours", "ratio"], rows),
        remark="Times are of the schedulers, step for step. The error is the largest ratio over the numbers of calls "
        "and both precisions, each side at the best of its orders, rules, grids and methods, chosen on other noise.",
        settings="DPMSolverMultistepScheduler as it comes for the times; for the error the best of all orders, rules, "
        "grids and methods that it and DPMSolverSinglestepScheduler offer, on the same model and noise",
    )


LARGE = (16, 3, 256, 256)


def times_of_steps(run: Run, schedulers: dict[str, Any], shape: tuple[int, ...], rounds: int, steps: int = 20) -> Times:
    """Time every step of the schedulers, and of our solver per step, with a network that answers at once.

    They take turns, and each step is timed by itself: a short job is less likely to be interrupted than a long one.
    """
    x, noise = (torch.randn(shape, generator=run.torch_rng(seed)) for seed in (0, 1))
    solver = DPMSolver(functools.partial(returned, noise), NoiseScheduleVP.discrete(betas=BETAS))
    seconds: dict[str, list[float]] = {**{who: [] for who in schedulers}, "solver": []}
    for _ in run.progress(range(rounds), label=f"timing, {shape}"):
        for who, scheduler in schedulers.items():
            scheduler.set_timesteps(steps)
            state = x
            for step in scheduler.timesteps:
                started = time.perf_counter()
                state = scheduler.step(noise, step, state).prev_sample
                seconds[who].append(time.perf_counter() - started)
        started = time.perf_counter()
        solver.sample(x, steps)
        seconds["solver"].append((time.perf_counter() - started) / steps)
    return Times(seconds)


def best_compared(
    errors: dict[tuple[str, str], Tensor], n: int, them: str, what: str, rows: list[list[Any]]
) -> Estimate:
    """Return our best setting's median error / theirs, and add a row; the first `n` samples choose the settings."""

    def best(side: str) -> tuple[str, Tensor]:
        found = {label: error for (who, label), error in errors.items() if who == side}
        trials = {label: error[:n].median().item() for label, error in found.items()}
        label = min((label for label in found if trials[label] == trials[label]), key=trials.__getitem__)  # no NaN
        return label, found[label][n:]

    (own, ours), (other, theirs) = best("ours"), best(them)
    ratio = bootstrap(lambda a, b: float(np.median(a) / np.median(b)), ours, theirs, of="samples")
    rows.append([f"{what}: {other} / {own}", float(theirs.median()), float(ours.median()), ratio.value])
    return ratio


def returned(noise: Tensor, x: Tensor, t: Any) -> Tensor:
    """Return the same noise whatever the state, as a model that costs nothing."""
    return noise


def settings_of_both(theirs: Any, betas: np.ndarray) -> Iterator[tuple[str, str, Any]]:
    """Yield a scheduler of either side for every order, rule, grid and method that it offers."""
    flags = {"time_uniform": {}, "logSNR": {"use_lu_lambdas": True}, "karras": {"use_karras_sigmas": True}}
    for order, rule, grid, method in itertools.product(
        (2, 3), ("midpoint", "heun"), flags, ("multistep", "singlestep")
    ):
        label = f"{method} {order} {rule} {grid}"
        common = {"trained_betas": betas, "solver_order": order, "solver_type": rule, "final_sigmas_type": "sigma_min"}
        yield "ours", label, DPMSolverScheduler(**common, method=method, skip_type=grid)
        if method == "multistep":
            yield "diffusers", label, theirs.DPMSolverMultistepScheduler(**common, **flags[grid])
        elif grid != "logSNR":  # theirs has none for single steps
            yield "diffusers", label, theirs.DPMSolverSinglestepScheduler(**common, **flags[grid])


def k_diffusion(run: Run) -> Measurement:
    """Compare errors at equal calls on the variance-exploding schedule, adaptive solvers, and the time of a step."""
    theirs = load_k_diffusion_sampling()
    schedule, mixture = EDMSchedule(), bench_mixture_64d()
    low, high = schedule.sigma_min, schedule.sigma_max
    model_fn = mixture.model(schedule)
    n = run.at(smoke=8, desk=256, full=1024)
    start = high * torch.cat([normal(n, seed) for seed in (1000, *run.seeds)])
    fine = run.at(smoke=60, desk=3000, full=3000)
    truth = DPMSolver(model_fn, schedule, "dpmsolver").sample(start, fine, 3, "logSNR", "singlestep_fixed").sample
    grids: dict[SkipType, Any] = {"logSNR": theirs.get_sigmas_exponential, "karras": theirs.get_sigmas_karras}
    data, noise_form = DPMSolver(model_fn, schedule), DPMSolver(model_fn, schedule, "dpmsolver")

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return mixture.x0(x, 1.0, sigma)

    def multistep_3(x: Tensor, sigmas: Tensor) -> Tensor:
        return theirs.sample_dpmpp_3m_sde(denoiser, x, sigmas, eta=0.0, noise_sampler=lambda a, b: 0.0, disable=True)

    rows: list[list[Any]] = []
    ratios: list[Estimate] = []
    budgets = run.at(smoke=(12,), desk=(12, 20, 50), full=(12, 20, 50))
    for calls, dtype in run.progress(list(itertools.product(budgets, (torch.float32, torch.float64)))):
        x = start.to(dtype)
        results = {
            ("ours", "fast"): noise_form.sample(x, calls, 3, "logSNR", "singlestep").sample,
            ("theirs", "fast"): theirs.sample_dpm_fast(denoiser, x, low, high, calls, disable=True),
        }
        for grid, place in grids.items():
            sigmas = place(calls + 1, low, high)[:-1].to(dtype)  # without the 0 at the end
            results["theirs", f"2M {grid}"] = theirs.sample_dpmpp_2m(denoiser, x, sigmas, disable=True)
            results["theirs", f"3M {grid}"] = multistep_3(x, sigmas)
            results["ours", f"2M {grid}"] = data.sample(x, calls, 2, grid).sample
            results["ours", f"3M {grid}"] = data.sample(x, calls, 3, grid).sample
            results["ours", f"3M {grid}, half derivative"] = data.sample(x, calls, 3, grid, legacy_3m=True).sample
        errors = {key: per_sample(result, truth) for key, result in results.items()}
        name = f"median error at {calls} calls, {str(dtype).removeprefix('torch.')}"
        fast = [errors[who, "fast"].median().item() for who in ("theirs", "ours")]
        rows.append([f"{name}, fast", *fast, fast[1] / fast[0]])
        ratios.append(best_compared(errors, n, "theirs", name, rows))
    rows += adaptive_rows(theirs, denoiser, noise_form, start[n:], truth[n:], run.at(smoke=1, desk=16, full=64))
    steps, x = 20, torch.randn(1, 3, 8, 8, generator=run.torch_rng())
    sigmas = theirs.get_sigmas_karras(steps + 1, low, high)[:-1]
    constant = functools.partial(returned, torch.randn(1, 3, 8, 8, generator=run.torch_rng(1)))
    times = interleaved(
        run,
        {
            "theirs": functools.partial(theirs.sample_dpmpp_2m, constant, x, sigmas, disable=True),
            "ours": functools.partial(DPMSolver(constant, schedule).sample, x, steps, 2, "karras"),
        },
        run.at(smoke=3, desk=201, full=1001),
    )
    overhead = times.ratio("ours", "theirs")
    micro = [1e6 * times.median(who) / steps for who in ("theirs", "ours")]
    rows.append(["microseconds a step of 2M, 1x3x8x8", *micro, overhead.value])
    return Measurement(
        {"error": greatest(ratios), "overhead": overhead},
        table=Table(["what", "k-diffusion", "ours", "ratio"], rows),
        remark="The error is the largest ratio over the numbers of calls in both precisions, each side at the best of "
        "its solvers and grids, chosen on other noise.",
        settings="the best of sample_dpm_fast, sample_dpmpp_2m and sample_dpmpp_3m_sde without noise, on exponential "
        "and Karras grids; sample_dpmpp_2m for the time",
    )


def adaptive_rows(
    theirs: Any, denoiser: Any, solver: DPMSolver, start: Tensor, truth: Tensor, singles: int
) -> list[list[Any]]:
    """Compare adaptive solvers sample by sample, where they agree: in a batch theirs goes by the mean error."""
    low, high = EDMSchedule().sigma_min, EDMSchedule().sigma_max
    rows: list[list[Any]] = []
    for order, rtol in itertools.product((2, 3), (0.05, 0.01)):
        calls: dict[str, list[float]] = {"theirs": [], "ours": []}
        errors: dict[str, list[float]] = {"theirs": [], "ours": []}
        for i in range(singles):
            x, exact = start[i : i + 1], truth[i : i + 1]
            tolerances = {"rtol": rtol, "atol": 0.0078}
            sample, info = theirs.sample_dpm_adaptive(
                denoiser, x, low, high, order=order, disable=True, return_info=True, **tolerances
            )
            ours = solver.sample(x, order=order, method="adaptive", **tolerances)
            calls["theirs"].append(info["nfe"])
            calls["ours"].append(ours.nfe)
            errors["theirs"].append(per_sample(sample, exact).item())
            errors["ours"].append(per_sample(ours.sample, exact).item())
        for what, found, average in (("mean calls", calls, np.mean), ("median error", errors, np.median)):
            pair = [float(average(found[who])) for who in ("theirs", "ours")]
            rows.append([f"adaptive {order - 1}{order}, rtol {rtol:g}: {what}", *pair, pair[1] / pair[0]])
    return rows
