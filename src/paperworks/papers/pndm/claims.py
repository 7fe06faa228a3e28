"""What the paper on pseudo numerical methods claims, measured where the exact solution or an exact model is known."""

import itertools
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.diffusion import (
    SKIP_TYPES,
    NoiseScheduleVP,
    PNDMMethod,
    PNDMSampler,
    PNDMScheduler,
    time_grid,
    training_betas,
    training_steps,
)
from paperworks.evidence import Measurement, Run, Table, measures, races, reported_line
from paperworks.testbeds import (
    GaussianMixture,
    PrincipalComponents,
    bench_mixture_1d,
    bench_mixture_64d,
    digits_mixture,
    fashion_mnist,
    frechet_distance,
    load_k_diffusion_sampling,
    reference_solution,
    trained_denoiser,
)

LINEAR = NoiseScheduleVP.linear()
RANKED: tuple[PNDMMethod, ...] = ("DDIM", "S-PNDM", "F-PNDM")


def bench(t_end: float) -> tuple[Any, Tensor, Tensor]:
    """Return the exact model of the one-dimensional mixture, states at time 1, and the exact solution at `t_end`."""
    mixture = bench_mixture_1d()
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    return mixture.model(LINEAR), x, mixture.transport(x, LINEAR, 1.0, t_end)


@measures("p1-twenty-fold")
def twenty_fold(run: Run) -> Measurement:
    """Divide the largest error of 50 steps of F-PNDM by that of 1000 steps of DDIM."""
    t_end = 1e-3
    model_fn, x, truth = bench(t_end)
    steps = run.at(smoke=(50,), desk=(10, 20, 50, 100, 200, 500, 1000), full=(10, 20, 50, 100, 200, 500, 1000, 2000))
    rows, errors = [], {}
    figure, axes = run.figure()
    for method in run.progress(("DDIM", "S-PNDM", "F-PNDM", "PLMS"), label="methods"):
        curve = []
        for n in sorted({*steps, 1000} if method == "DDIM" else steps):
            started = time.perf_counter()
            result = PNDMSampler(model_fn, LINEAR, method).sample(x, n, t_end=t_end)
            seconds = time.perf_counter() - started
            errors[method, n] = float((result.sample - truth).abs().max())
            curve.append((result.nfe, errors[method, n]))
            rows.append([method, n, result.nfe, errors[method, n], seconds])
        axes.loglog(*zip(*curve, strict=True), "o-", label=method)
    reported_line(axes, errors["DDIM", 1000], "DDIM, 1000 steps")
    axes.set(xlabel="network calls", ylabel="largest error", title="Distance to the exact solution")
    axes.legend()
    return Measurement(
        errors["F-PNDM", 50] / errors["DDIM", 1000],
        table=Table(["method", "steps", "network calls", "largest error", "seconds"], rows),
        figure=figure,
    )


@measures("p2-order")
def order(run: Run) -> Measurement:
    """Take the slope of log error against log step size, between the two finest grids."""
    t_end = 0.05
    model_fn, x, truth = bench(t_end)
    steps = run.at(smoke=(200, 400), desk=(100, 200, 400, 800, 1600), full=(100, 200, 400, 800, 1600))
    samplers: dict[str, tuple[PNDMMethod, dict[str, Any]]] = {
        "ddim": ("DDIM", {}),
        "s_pndm": ("S-PNDM", {}),
        "f_pndm": ("F-PNDM", {}),
        "pseudo_rk": ("PRK", {}),
        "classical": ("FON", {}),
        "rho_time": ("F-PNDM", {"time": "rho"}),
    }
    slopes, rows = {}, []
    figure, axes = run.figure()
    for name, (method, options) in run.progress(samplers.items(), label="methods"):
        sampler = PNDMSampler(model_fn, LINEAR, method, **options)
        errors = [float((sampler.sample(x, n, t_end=t_end).sample - truth).abs().max()) for n in steps]
        slopes[name] = math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])
        label = f"{method}{' in rho' if options else ''}"
        rows.append([label, *errors, slopes[name]])
        axes.loglog(steps, errors, "o-", label=f"{label}, slope {slopes[name]:.2f}")
    axes.set(xlabel="steps", ylabel="largest error", title="Convergence")
    axes.legend(fontsize=8)
    return Measurement(
        slopes, table=Table(["method", *(f"error at {n} steps" for n in steps), "slope"], rows), figure=figure
    )


VARIANCES = {"linear": "linear", "quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2"}
PROBLEMS = {"mixture": bench_mixture_64d, "digits": digits_mixture}


def errors_of(run: Run, problem: str, variances: str, steps: tuple[int, ...]) -> dict[tuple[str, int], list[float]]:
    """Measure root mean square errors of the three methods, one per seed, as the paper runs them.

    That is on 1000 training steps, of which every (1000 // n)-th is visited down to the first. All numbers of steps
    start from one solution at the level they begin at, and are compared with it at the level of the first step.
    """
    mixture = PROBLEMS[problem]()
    schedule = NoiseScheduleVP.discrete(betas=training_betas(1000, 1e-4, 2e-2, VARIANCES[variances]))
    # Now and then an error takes a sample across to another mode, and such a sample outweighs hundreds of others: the
    # mean square over few samples would be chance.
    n = run.at(smoke=8, desk=1536 if problem == "digits" else 4096, full=8192)
    starts, truth = solution(run, mixture, schedule, steps, n, name=f"{problem}, {variances}")
    model_fn = mixture.to(truth.dtype).model(schedule)
    errors: dict[tuple[str, int], list[float]] = {}
    for method, m in run.progress(list(itertools.product(RANKED, steps)), label=f"{problem}, {variances}"):
        sample = PNDMSampler(model_fn, schedule, method, set_alpha_to_one=False).sample(starts[m], m).sample
        errors[method, m] = (sample - truth).square().reshape(len(run.seeds), -1).mean(1).sqrt().tolist()
    return errors


def solution(
    run: Run, mixture: GaussianMixture, schedule: Any, steps: tuple[int, ...], n: int, name: str
) -> tuple[dict[int, Tensor], Tensor]:
    """Follow `n` states of noise per seed along the diffusion ODE; return them where each grid begins, and at the end.

    The digits need half a minute, so the solution is kept; two claims use it. Its error is 1e-6 of both 150 steps and
    single precision, against errors of 1e-4 and more that are measured with it.
    """
    fine = run.at(smoke=40, desk=150, full=300)
    begins = {m: (training_steps(schedule.total, m, "leading")[0] + 1) / schedule.total for m in steps}

    def build(folder: Path) -> None:
        x = torch.cat([torch.randn(n, mixture.dim, generator=run.torch_rng(s)) for s in run.seeds])
        times = [1.0, *sorted(set(begins.values()), reverse=True), schedule.t_min]
        span = schedule.lam(times[-1]) - schedule.lam(times[0])
        kept = {}
        for t, u in itertools.pairwise(times):
            share = max(1, math.ceil(fine * (schedule.lam(u) - schedule.lam(t)) / span))
            x = kept[u] = reference_solution(mixture, schedule, x, t, u, share) if u < t else x
        torch.save({"starts": {m: kept[t] for m, t in begins.items()}, "truth": x}, folder / "solution.pt")

    levels = [schedule.lam(t) for t in (1.0, *begins.values(), schedule.t_min)]
    folder = run.cache("diffusion-ode", build, problem=name, steps=fine, n=n, seeds=list(run.seeds), levels=levels)
    kept = torch.load(folder / "solution.pt", weights_only=True)
    return kept["starts"], kept["truth"]


def ranking(
    run: Run, variances: tuple[str, ...], steps: tuple[int, ...]
) -> tuple[dict[tuple[str, str, str, int], list[float]], list[list[Any]]]:
    """Measure the errors on both problems for some schedules, and lay them out in rows."""
    errors = {
        (problem, kind, method, m): found
        for problem, kind in itertools.product(PROBLEMS, variances)
        for (method, m), found in errors_of(run, problem, kind, steps).items()
    }
    rows = [
        [problem, kind, m, *(pooled(errors[problem, kind, method, m]) for method in RANKED)]
        for problem, kind, m in itertools.product(PROBLEMS, variances, steps)
    ]
    return errors, rows


def pooled(per_seed: list[float]) -> float:
    """Return the root mean square over all seeds, of equally many samples each."""
    return math.sqrt(math.fsum(e**2 for e in per_seed) / len(per_seed))


def worst_ratios(errors: dict[tuple[str, str, str, int], list[float]], least: int) -> dict[str, float]:
    """Return the largest ratios of errors of neighbouring methods, from `least` steps on."""
    keys = sorted({(problem, kind, m) for problem, kind, _, m in errors if m >= least})

    def worst(better: str, worse: str) -> float:
        return max(pooled(errors[p, k, better, m]) / pooled(errors[p, k, worse, m]) for p, k, m in keys)

    return {"f_to_s": worst("F-PNDM", "S-PNDM"), "s_to_ddim": worst("S-PNDM", "DDIM")}


COLUMNS = ["problem", "schedule", "steps", *RANKED]


@measures("p3-ranking")
def rank(run: Run) -> Measurement:
    """Compare the three methods at equal steps on the mixture in 64 dimensions and on the digits."""
    steps = run.at(smoke=(20, 50), desk=(10, 20, 50, 100), full=(10, 20, 50, 100))
    errors, rows = ranking(run, ("linear",), steps)
    factors = {
        problem: pooled(errors[problem, "linear", "DDIM", 50]) / pooled(errors[problem, "linear", "F-PNDM", 50])
        for problem in PROBLEMS
    }
    figure, panels = run.figure(1, 2)
    for axes, problem in zip(panels, PROBLEMS, strict=True):
        for method in RANKED:
            axes.loglog(steps, [pooled(errors[problem, "linear", method, m]) for m in steps], "o-", label=method)
        axes.set(xlabel="steps", ylabel="root mean square error", title=problem)
        axes.set_xticks(steps, [str(m) for m in steps])
        axes.minorticks_off()
    panels[0].legend()
    return Measurement(
        {**worst_ratios(errors, 20), "ddim_to_f_50": min(factors.values())},
        table=Table(COLUMNS, rows),
        figure=figure,
        remark=f"At 50 steps DDIM's error is {factors['mixture']:.0f} times F-PNDM's on the mixture and "
        f"{factors['digits']:.0f} times on the digits.",
    )


@measures("p4-schedules")
def schedules(run: Run) -> Measurement:
    """Compare the three methods under three schedules of variances."""
    steps = run.at(smoke=(20,), desk=(20, 50), full=(20, 50, 100))
    errors, rows = ranking(run, tuple(VARIANCES), steps)
    figure, panels = run.figure(2, 3)
    for axes, (problem, kind) in zip(panels.flat, itertools.product(PROBLEMS, VARIANCES), strict=True):
        for method in RANKED:
            axes.loglog(steps, [pooled(errors[problem, kind, method, m]) for m in steps], "o-", label=method)
        axes.set(xlabel="steps", ylabel="root mean square error", title=f"{problem}, {kind}")
        axes.set_xticks(steps, [str(m) for m in steps])
        axes.minorticks_off()
    panels.flat[0].legend()
    # The cosine schedule in continuous time begins with far less signal than the first of its 1000 steps visited here.
    mixture, cosine = bench_mixture_64d(), NoiseScheduleVP.cosine()
    x = torch.randn(run.at(smoke=16, desk=512, full=4096), 64, generator=run.torch_rng(), dtype=torch.float64)
    truth = reference_solution(mixture, cosine, x, cosine.t_max, 1e-3, run.at(smoke=40, desk=1000, full=2000))
    model_fn = mixture.model(cosine)
    for m in steps:
        samples = (PNDMSampler(model_fn, cosine, method).sample(x, m, t_end=1e-3).sample for method in RANKED)
        rows.append(["mixture", "cosine, continuous", m, *(float((s - truth).square().mean().sqrt()) for s in samples)])
    return Measurement(
        worst_ratios(errors, 20),
        table=Table(COLUMNS, rows),
        figure=figure,
        remark="The rows of the continuous cosine schedule, begun at its noisiest time, are outside the bars: there "
        f"F-PNDM has {rows[-len(steps)][-1] / rows[-len(steps)][-2]:.2f} times S-PNDM's error at {steps[0]} steps.",
    )


@measures("p5-classical-adds-noise")
def classical_adds_noise(run: Run) -> Measurement:
    """Compare Fréchet distances of samples of a trained network, classical against pseudo, and of the other methods."""
    size = run.at(smoke="smoke", desk="desk", full="desk")
    denoiser = trained_denoiser("fashion-mnist", size=size, root=run.cache_folder, progress=run.progress)
    test = fashion_mnist("test")
    components = PrincipalComponents.of(fashion_mnist("train") if run.scale != "smoke" else test)
    real = components(test[:])
    schedule = NoiseScheduleVP.discrete(betas=training_betas(1000, 1e-4, 2e-2, "linear"))
    n = run.at(smoke=20, desk=500, full=10_000)
    steps = run.at(smoke=(10,), desk=(10, 20, 50), full=(10, 20, 50, 100))
    compared = {m: (*RANKED, "FON") if m <= 20 else ("DDIM", "F-PNDM") for m in steps}
    noise = torch.randn(n, *denoiser.shape, generator=run.torch_rng())
    model_fn = denoiser.model(schedule)

    def distance(method: PNDMMethod, m: int) -> tuple[float, int, Tensor]:
        sampler = PNDMSampler(model_fn, schedule, method)
        parts = [sampler.sample(part, m, rtol=1e-2, atol=1e-2) for part in noise.split(250)]
        samples = torch.cat([part.sample for part in parts])
        return frechet_distance(components(samples), real), parts[0].nfe, samples

    jobs = [(method, m) for m in steps for method in compared[m]]
    found = {job: distance(*job) for job in run.progress([*jobs, ("PF", 1)], label="sampling")}
    pf = found.pop(("PF", 1))
    rows = [[method, m, nfe, value] for (method, m), (value, nfe, _) in found.items()]
    rows.append(["PF, tolerance 0.01", "", pf[1], pf[0]])
    ratios = {m: found["FON", m][0] / found["F-PNDM", m][0] for m in steps if m <= 20}
    figure, panels = run.figure(1, 3)
    for axes, (method, m) in zip(panels, (("DDIM", 10), ("FON", 10), ("F-PNDM", 10)), strict=True):
        shown = found[method, m][2][:20, 0].clamp(-1, 1).unflatten(0, (4, 5)).transpose(1, 2).flatten(2).flatten(0, 1)
        axes.imshow(shown, cmap="gray", vmin=-1, vmax=1)
        axes.set_title(f"{method}, {m} steps: distance {found[method, m][0]:.1f}")
        axes.set_axis_off()
    return Measurement(
        min(ratios.values()),
        table=Table(["method", "steps", "network calls", "Fréchet distance"], rows),
        figure=figure,
        remark="Classical / pseudo: " + ", ".join(f"{r:.2f} at {m} steps" for m, r in ratios.items()) + ". "
        f"The {n} samples of each method start from the same noise; features are 64 principal components.",
    )


@races("diffusers")
def against_diffusers(run: Run) -> Measurement:
    """Time the steps of a trajectory without the network, and compare samples in float64."""
    import diffusers

    rows, ratios = [], {}
    for name, shape in {"small": (1, 3, 8, 8), "medium": (4, 3, 64, 64), "large": (16, 3, 256, 256)}.items():
        schedulers = {"ours": PNDMScheduler(), "theirs": diffusers.PNDMScheduler()}
        x, noise = (torch.randn(shape, generator=run.torch_rng(seed)) for seed in (0, 1))
        taken: dict[str, list[float]] = {who: [] for who in schedulers}
        repeats = run.at(smoke=2, desk=7 if name == "large" else 101, full=101)
        for _ in run.progress(range(repeats), label=f"timing, {name}"):  # in turn: what disturbs one disturbs both
            for who, scheduler in schedulers.items():
                taken[who] += seconds_of_steps(scheduler, noise, x, steps=20)
        seconds = {who: statistics.median(found) for who, found in taken.items()}
        ratios[name] = seconds["ours"] / seconds["theirs"]
        shown = "x".join(map(str, shape))
        rows.append([shown, *(1e6 * seconds[who] for who in ("ours", "theirs")), ratios[name]])
    differences = []
    model_fn = bench_mixture_1d().model(NoiseScheduleVP.discrete(betas=training_betas(1000, 1e-4, 2e-2, "linear")))
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    for skip, m in itertools.product((False, True), (10, 20, 50, 100)):
        theirs = diffusers.PNDMScheduler(skip_prk_steps=skip)
        # Its table is in float32, which alone makes a difference of 1e-6; the method is what is compared.
        theirs.alphas_cumprod = torch.from_numpy(np.cumprod(1 - training_betas(1000, 1e-4, 2e-2, "linear")))
        theirs.final_alpha_cumprod = theirs.alphas_cumprod[0]
        samples = [
            trajectory(s, x, m, lambda x, t: model_fn(x, (int(t) + 1) / 1000))
            for s in (PNDMScheduler(skip_prk_steps=skip), theirs)
        ]
        differences.append(float((samples[0] - samples[1]).abs().max()))
    return Measurement(
        {"small": ratios["small"], "large": ratios["large"], "difference": max(differences)},
        table=Table(["state", "ours, µs a step", "diffusers, µs a step", "ratio"], rows),
        remark=f"At the medium size the ratio is {ratios['medium']:.2f}. The difference is over 10 to 100 steps, with "
        "Runge-Kutta steps and without (as latent-diffusion's PLMS sampler, which no package index carries).",
    )


def trajectory(scheduler: Any, x: Tensor, steps: int, model_fn: Any) -> Tensor:
    """Take all steps of a scheduler as a pipeline does."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(model_fn(x, t), t, x).prev_sample
    return x


def seconds_of_steps(scheduler: Any, noise: Tensor, x: Tensor, steps: int) -> list[float]:
    """Time each step of a trajectory whose network answers at once and always the same."""
    scheduler.set_timesteps(steps)
    seconds = []
    for t in scheduler.timesteps:
        started = time.perf_counter()
        x = scheduler.step(noise, t, x).prev_sample
        seconds.append(time.perf_counter() - started)
    return seconds


@races("k-diffusion")
def against_k_diffusion(run: Run) -> Measurement:
    """Compare the errors of PLMS and `sample_lms` at equal calls, each on the best of the four grids for it."""
    theirs = load_k_diffusion_sampling()
    t_end = 1e-3
    n, fine = run.at(smoke=4, desk=64, full=512), run.at(smoke=40, desk=500, full=2000)
    errors: dict[tuple[str, int, str, str], float] = {}
    for problem, calls in itertools.product(PROBLEMS, run.at(smoke=(20,), desk=(20, 50), full=(20, 50, 100))):
        mixture = PROBLEMS[problem]()
        model_fn = mixture.model(LINEAR)
        x = torch.randn(n, 64, generator=run.torch_rng(), dtype=torch.float64)
        truth = reference_solution(mixture, LINEAR, x, 1.0, t_end, fine)

        def denoise(state: Tensor, sigma: Tensor, model_fn: Any = model_fn) -> Tensor:
            t = LINEAR.t_of_lam(-math.log(float(sigma[0])))
            return state - sigma[0] * model_fn(LINEAR.alpha(t) * state, t)

        for grid in run.progress(SKIP_TYPES, label=f"{problem}, {calls} calls"):
            times = time_grid(LINEAR, calls, 1.0, t_end, grid)
            sigmas = torch.tensor([math.exp(-LINEAR.lam(t)) for t in times], dtype=torch.float64)
            samples = {
                "sample_lms": theirs.sample_lms(denoise, x / LINEAR.alpha(1.0), sigmas, disable=True)
                * LINEAR.alpha(t_end),
                "PLMS": PNDMSampler(model_fn, LINEAR, "PLMS").sample(x, calls - 1, t_end=t_end, skip_type=grid).sample,
            }
            for who, sample in samples.items():
                errors[problem, calls, who, grid] = float((sample - truth).square().mean().sqrt())
    rows, ratios = [], []
    for problem, calls in sorted({key[:2] for key in errors}):
        best = {who: min((errors[problem, calls, who, g], g) for g in SKIP_TYPES) for who in ("PLMS", "sample_lms")}
        ratios.append(best["PLMS"][0] / best["sample_lms"][0])
        rows.append([problem, calls, *best["PLMS"], *best["sample_lms"], ratios[-1]])
    return Measurement(
        max(ratios),
        table=Table(["problem", "calls", "PLMS", "its grid", "sample_lms", "its grid", "ratio"], rows),
        remark="Root mean square errors; the ratio is the largest.",
    )
