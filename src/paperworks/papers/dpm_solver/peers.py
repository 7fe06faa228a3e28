"""The races against the packages that sample with DPM-Solver too."""

import functools
import itertools
import math
import statistics
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
from paperworks.evidence import Measurement, Run, Table, interleaved
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
    betas, steps = BETAS.numpy(), 20
    schedule = NoiseScheduleVP.discrete(betas=BETAS)
    rows: list[list[Any]] = []
    overhead = {}
    shapes = {"small": (1, 3, 8, 8), "medium": (4, 3, 64, 64), "large": (16, 3, 256, 256)}
    for name, shape in shapes.items():
        x, noise = (torch.randn(shape, generator=run.torch_rng(seed)) for seed in (0, 1))
        solver = DPMSolver(functools.partial(returned, noise), schedule)
        schedulers = {
            "diffusers": theirs.DPMSolverMultistepScheduler(trained_betas=betas),
            "ours": DPMSolverScheduler(trained_betas=BETAS),
        }
        seconds: dict[str, list[float]] = {"diffusers": [], "ours": [], "solver": []}
        repeats = run.at(smoke=2, desk=101, full=501) if name != "large" else run.at(smoke=1, desk=9, full=51)
        # In turn, so that whatever slows the machine down for a while slows all of them; and step by step, for a short
        # job is less likely to be interrupted than a long one.
        for _ in run.progress(range(repeats), label=f"timing, {name}"):
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
        times = {who: 1e6 * statistics.median(found) for who, found in seconds.items()}
        overhead[name] = times["ours"] / times["diffusers"]
        shown = "x".join(str(n) for n in shape)
        for what, who in (("scheduler", "ours"), ("solver", "solver")):
            row = [times["diffusers"], times[who], times[who] / times["diffusers"]]
            rows.append([f"microseconds a step at {shown}, our {what}", *row])
    mixture = bench_mixture_64d()
    start = torch.cat([normal(run.at(smoke=4, desk=128, full=512), seed) for seed in run.seeds])
    solver = DPMSolver(mixture.model(schedule), schedule, "dpmsolver")
    truth = solver.sample(start, run.at(smoke=300, desk=1500, full=3000), 3, "logSNR", "singlestep_fixed").sample

    def noise_at(x: Tensor, step: Any) -> Tensor:
        return solver.model_fn(x, (float(step) + 1) / len(BETAS))

    worst = 0.0
    budgets = run.at(smoke=(10,), desk=(10, 20, 50), full=(10, 20, 50))
    for dtype, calls in run.progress(list(itertools.product((torch.float32, torch.float64), budgets))):
        best = {"ours": (math.inf, ""), "diffusers": (math.inf, "")}
        for who, label, scheduler in settings_of_both(theirs, betas):
            scheduler.set_timesteps(calls)
            error = per_sample(steps_of(scheduler, noise_at, start.to(dtype)), truth).median().item()
            if error < best[who][0]:  # false for NaN
                best[who] = (error, label)
        ratio = best["ours"][0] / best["diffusers"][0]
        worst = max(worst, ratio)
        what = f"median error at {calls} calls, {str(dtype).removeprefix('torch.')}"
        rows.append(
            [f"{what}: {best['diffusers'][1]} / {best['ours'][1]}", best["diffusers"][0], best["ours"][0], ratio]
        )
    return Measurement(
        {"small": overhead["small"], "large": overhead["large"], "error": worst},
        table=Table(["what", "diffusers", "ours", "ratio"], rows),
        remark="Times are of the schedulers, step for step. The error is the largest ratio over the numbers of calls "
        "and both precisions, each side at the best of its orders, rules, grids and methods.",
    )


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
    start = high * normal(run.at(smoke=8, desk=256, full=1024), run.seed)
    truth = DPMSolver(model_fn, schedule, "dpmsolver").sample(start, 3000, 3, "logSNR", "singlestep_fixed").sample
    grids: dict[SkipType, Any] = {"logSNR": theirs.get_sigmas_exponential, "karras": theirs.get_sigmas_karras}
    data, noise_form = DPMSolver(model_fn, schedule), DPMSolver(model_fn, schedule, "dpmsolver")

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return mixture.x0(x, 1.0, sigma)

    def multistep_3(x: Tensor, sigmas: Tensor) -> Tensor:
        return theirs.sample_dpmpp_3m_sde(denoiser, x, sigmas, eta=0.0, noise_sampler=lambda a, b: 0.0, disable=True)

    rows: list[list[Any]] = []
    worst = 0.0
    for calls, dtype in run.progress(list(itertools.product((12, 20, 50), (torch.float32, torch.float64)))):
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
        errors = {key: per_sample(result, truth).median().item() for key, result in results.items()}
        best = {
            who: min((e, label) for (side, label), e in errors.items() if side == who) for who in ("ours", "theirs")
        }
        ratio = best["ours"][0] / best["theirs"][0]
        worst = max(worst, ratio)
        name = f"median error at {calls} calls, {str(dtype).removeprefix('torch.')}"
        rows.append([f"{name}, fast", errors["theirs", "fast"], errors["ours", "fast"]])
        rows.append([f"{name}, {best['theirs'][1]} / {best['ours'][1]}", best["theirs"][0], best["ours"][0]])
    # Theirs steps a batch by its mean error, ours by its worst sample; on single samples the two agree.
    singles = range(run.at(smoke=1, desk=16, full=64))
    for order, rtol in itertools.product((2, 3), (0.05, 0.01)):
        calls_of: dict[str, list[int]] = {"theirs": [], "ours": []}
        errors_of: dict[str, list[float]] = {"theirs": [], "ours": []}
        for i in singles:
            x, exact = start[i : i + 1], truth[i : i + 1]
            tolerances = {"rtol": rtol, "atol": 0.0078}
            sample, info = theirs.sample_dpm_adaptive(
                denoiser, x, low, high, order=order, disable=True, return_info=True, **tolerances
            )
            ours = noise_form.sample(x, order=order, method="adaptive", **tolerances)
            calls_of["theirs"].append(info["nfe"])
            calls_of["ours"].append(ours.nfe)
            errors_of["theirs"].append(per_sample(sample, exact).item())
            errors_of["ours"].append(per_sample(ours.sample, exact).item())
        name = f"adaptive {order - 1}{order}, rtol {rtol:g}"
        rows.append([f"{name}: mean calls", *(float(np.mean(calls_of[who])) for who in ("theirs", "ours"))])
        rows.append([f"{name}: median error", *(float(np.median(errors_of[who])) for who in ("theirs", "ours"))])
    steps, x = 20, torch.randn(1, 3, 8, 8, generator=run.torch_rng())
    sigmas = theirs.get_sigmas_karras(steps + 1, low, high)[:-1]
    constant = functools.partial(returned, torch.randn(1, 3, 8, 8, generator=run.torch_rng(1)))
    seconds = interleaved(
        run,
        {
            "theirs": functools.partial(theirs.sample_dpmpp_2m, constant, x, sigmas, disable=True),
            "ours": functools.partial(DPMSolver(constant, schedule).sample, x, steps, 2, "karras"),
        },
        run.at(smoke=3, desk=201, full=1001),
    )
    rows.append(["microseconds a step of 2M, 1x3x8x8", *(1e6 * seconds[who] / steps for who in ("theirs", "ours"))])
    return Measurement(
        {"error": worst, "overhead": seconds["ours"] / seconds["theirs"]},
        table=Table(["what", "k-diffusion", "ours", "ratio"], [[*row, row[2] / row[1]] for row in rows]),
        remark="The error is the largest ratio over the numbers of calls in both precisions, each side at the best of "
        "its solvers and grids.",
    )
