"""What the paper on pseudo numerical methods claims, measured where the exact solution or an exact model is known."""

import itertools
import math
import time
from collections.abc import Sequence
from functools import partial
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
from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    Times,
    bootstrap,
    exact,
    greatest,
    least,
    mean,
    measures,
    races,
    reported_line,
)
from paperworks.testbeds import (
    PrincipalComponents,
    bench_mixture_1d,
    bench_mixture_64d,
    block_means,
    digits,
    digits_mixture,
    frechet_distance,
    load_k_diffusion_sampling,
    pseudo_values,
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
    long = run.at(smoke=100, desk=1000, full=1000)
    steps = run.at(smoke=(50,), desk=(10, 20, 50, 100, 200, 500, 1000), full=(10, 20, 50, 100, 200, 500, 1000, 2000))
    rows, errors = [], {}
    figure, axes = run.figure()
    for method in run.progress(("DDIM", "S-PNDM", "F-PNDM", "PLMS"), label="methods"):
        curve = []
        for n in sorted({*steps, long} if method == "DDIM" else steps):
            started = time.perf_counter()
            result = PNDMSampler(model_fn, LINEAR, method).sample(x, n, t_end=t_end)
            seconds = time.perf_counter() - started
            errors[method, n] = float((result.sample - truth).abs().max())
            curve.append((result.nfe, errors[method, n]))
            rows.append([method, n, result.nfe, errors[method, n], seconds])
        axes.loglog(*zip(*curve, strict=True), "o-", label=method)
    reported_line(axes, errors["DDIM", long], f"DDIM, {long} steps")
    axes.set(xlabel="network calls", ylabel="largest error", title="Distance to the exact solution")
    axes.legend()
    return Measurement(
        exact(errors["F-PNDM", 50] / errors["DDIM", long]),
        table=Table(["method", "steps", "network calls", "largest error", "seconds"], rows),
        figure=figure,
    )


@measures("p2-order")
def order(run: Run) -> Measurement:
    """Take the slope of log error against log step size, between the two finest grids."""
    t_end = 0.05
    model_fn, x, truth = bench(t_end)
    steps = run.at(smoke=(40, 80), desk=(100, 200, 400, 800, 1600), full=(100, 200, 400, 800, 1600))
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
        {name: exact(slope) for name, slope in slopes.items()},
        table=Table(["method", *(f"error at {n} steps" for n in steps), "slope"], rows),
        figure=figure,
    )


VARIANCES = {"linear": "linear", "quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2"}
PROBLEMS = {"mixture": bench_mixture_64d, "digits": digits_mixture}


Case = tuple[str, str, str, int]  # problem, variances, method, steps
Errors = dict[Case, Tensor]  # of each sample, its root mean square over coordinates


def errors_of(run: Run, variances: tuple[str, ...], steps: tuple[int, ...]) -> Errors:
    """Measure the errors of every sample by the three methods on both problems, as the paper runs them.

    That is on 1000 training steps, of which every (1000 // n)-th is visited down to the first. All numbers of steps
    start from one solution at the level they begin at, and are compared with it at the level of the first step.
    """
    errors: Errors = {}
    for problem, kind in itertools.product(PROBLEMS, variances):
        inputs = {
            "problem": problem,
            "variances": kind,
            "steps": list(steps),
            "n": run.at(smoke=8, desk=512 if problem == "digits" else 4096, full=8192),
            "seeds": list(run.seeds),
            "fine": run.at(smoke=10, desk=150, full=300),
        }
        starts, truth = run.cached("diffusion-ode", partial(solution, **inputs), **inputs)
        schedule = discrete(kind)
        model_fn = PROBLEMS[problem]().to(truth.dtype).model(schedule)
        for method, m in run.progress(list(itertools.product(RANKED, steps)), label=f"{problem}, {kind}"):
            sample = PNDMSampler(model_fn, schedule, method, set_alpha_to_one=False).sample(starts[m], m).sample
            errors[problem, kind, method, m] = (sample - truth).double().square().mean(1).sqrt()
    return errors


def discrete(variances: str) -> Any:
    """Return the schedule of 1000 training steps."""
    return NoiseScheduleVP.discrete(betas=training_betas(1000, 1e-4, 2e-2, VARIANCES[variances]))


def solution(
    problem: str, variances: str, steps: Sequence[int], n: int, seeds: Sequence[int], fine: int
) -> tuple[dict[int, Tensor], Tensor]:
    """Follow `n` states of noise per seed along the diffusion ODE; return them where each grid begins, and at the end.

    Its error is 1e-6 of both 150 steps and single precision, against errors of 1e-4 and more that are measured with it.
    """
    mixture, schedule = PROBLEMS[problem](), discrete(variances)
    begins = {m: (training_steps(schedule.total, m, "leading")[0] + 1) / schedule.total for m in steps}
    x = torch.cat([torch.randn(n, mixture.dim, generator=torch.Generator().manual_seed(s)) for s in seeds])
    times = [1.0, *sorted(set(begins.values()), reverse=True), schedule.t_min]
    span = schedule.lam(times[-1]) - schedule.lam(times[0])
    kept = {}
    for t, u in itertools.pairwise(times):
        share = max(1, math.ceil(fine * (schedule.lam(u) - schedule.lam(t)) / span))
        x = kept[u] = reference_solution(mixture, schedule, x, t, u, share) if u < t else x
    return {m: kept[t] for m, t in begins.items()}, x


def rms(errors: Tensor) -> float:
    """Return the root mean square over samples."""
    return float(errors.square().mean().sqrt())


def rms_ratio(one: Tensor, other: Tensor) -> Estimate:
    """Return the ratio of root mean square errors from the same noise.

    Now and then an error takes a sample across to another mode, and such a sample outweighs hundreds of others; the
    interval over samples tells how much that moves the ratio.
    """
    blocks = [block_means(errors.square()) for errors in (one, other)]
    return bootstrap(lambda a, b: math.sqrt(a.mean() / b.mean()), *blocks, of=f"blocks of {len(one)} samples")


def worst_ratios(errors: Errors, least_steps: int) -> dict[str, Estimate]:
    """Return the largest ratios of errors of neighbouring methods, from `least_steps` on."""
    keys = sorted({(problem, kind, m) for problem, kind, _, m in errors if m >= least_steps})

    def worst(better: str, worse: str) -> Estimate:
        return greatest([rms_ratio(errors[p, k, better, m], errors[p, k, worse, m]) for p, k, m in keys])

    return {"f_to_s": worst("F-PNDM", "S-PNDM"), "s_to_ddim": worst("S-PNDM", "DDIM")}


def rows_of(errors: Errors) -> list[list[Any]]:
    """Lay the errors out by problem, schedule and steps: root mean squares, and medians beside them."""
    keys = dict.fromkeys((problem, kind, m) for problem, kind, _, m in errors)
    return [
        [
            *key,
            *(rms(errors[key[0], key[1], method, key[2]]) for method in RANKED),
            *(float(errors[key[0], key[1], method, key[2]].median()) for method in RANKED),
        ]
        for key in keys
    ]


COLUMNS = ["problem", "schedule", "steps", *RANKED, *(f"{method}, median" for method in RANKED)]


@measures("p3-ranking")
def rank(run: Run) -> Measurement:
    """Compare the three methods at equal steps on the mixture in 64 dimensions and on the digits."""
    steps = run.at(smoke=(50,), desk=(10, 20, 50, 100), full=(10, 20, 50, 100))
    errors = errors_of(run, ("linear",), steps)
    factors = {
        problem: rms_ratio(errors[problem, "linear", "DDIM", 50], errors[problem, "linear", "F-PNDM", 50])
        for problem in PROBLEMS
    }
    figure, panels = run.figure(1, 2)
    for axes, problem in zip(panels, PROBLEMS, strict=True):
        draw(axes, errors, problem, "linear", steps, problem)
    panels[0].legend()
    return Measurement(
        {**worst_ratios(errors, 20), "ddim_to_f_50": least(list(factors.values()))},
        table=Table(COLUMNS, rows_of(errors)),
        figure=figure,
        remark=f"At 50 steps DDIM's error is {factors['mixture'].value:.0f} times F-PNDM's on the mixture and "
        f"{factors['digits'].value:.0f} times on the digits. Methods without a word are by root mean square.",
    )


def draw(axes: Any, errors: Errors, problem: str, kind: str, steps: tuple[int, ...], title: str) -> None:
    """Draw the errors of the three methods against steps: root mean squares, and medians dotted."""
    for method in RANKED:
        found = [errors[problem, kind, method, m] for m in steps]
        (line,) = axes.loglog(steps, [rms(e) for e in found], "o-", label=method)
        axes.loglog(steps, [float(e.median()) for e in found], ":", color=line.get_color())
    axes.set(xlabel="steps", ylabel="error (medians dotted)", title=title)
    axes.set_xticks(steps, [str(m) for m in steps])
    axes.minorticks_off()


@measures("p4-schedules")
def schedules(run: Run) -> Measurement:
    """Compare the three methods under three schedules of variances."""
    steps = run.at(smoke=(20,), desk=(20, 50), full=(20, 50, 100))
    errors = errors_of(run, tuple(VARIANCES), steps)
    rows = rows_of(errors)
    figure, panels = run.figure(2, 3)
    for axes, (problem, kind) in zip(panels.flat, itertools.product(PROBLEMS, VARIANCES), strict=True):
        draw(axes, errors, problem, kind, steps, f"{problem}, {kind}")
    panels.flat[0].legend()
    medians = {
        (problem, kind, m): errors[problem, kind, "F-PNDM", m].median() / errors[problem, kind, "S-PNDM", m].median()
        for problem, kind, m in itertools.product(PROBLEMS, VARIANCES, steps)
    }
    # The cosine schedule in continuous time begins with far less signal than the first of its 1000 steps visited here.
    mixture, cosine = bench_mixture_64d(), NoiseScheduleVP.cosine()
    x = torch.randn(run.at(smoke=16, desk=512, full=4096), 64, generator=run.torch_rng(), dtype=torch.float64)
    truth = reference_solution(mixture, cosine, x, cosine.t_max, 1e-3, run.at(smoke=12, desk=300, full=2000))
    model_fn = mixture.model(cosine)
    for m in steps:
        found = [
            (PNDMSampler(model_fn, cosine, method).sample(x, m, t_end=1e-3).sample - truth).square().mean(1).sqrt()
            for method in RANKED
        ]
        rows.append(["mixture", "cosine, continuous", m, *map(rms, found), *(float(e.median()) for e in found)])
    first = rows[-len(steps)]
    return Measurement(
        worst_ratios(errors, 20),
        table=Table(COLUMNS, rows),
        figure=figure,
        remark=f"By the median sample F-PNDM has at most {max(map(float, medians.values())):.2f} times S-PNDM's error. "
        "The rows of the continuous cosine schedule, begun at its noisiest time, are outside the bars: there "
        f"F-PNDM has {first[5] / first[4]:.2f} times S-PNDM's error at {steps[0]} steps.",
    )


@measures("p5-classical-adds-noise")
def classical_adds_noise(run: Run) -> Measurement:
    """Compare Fréchet distances of samples of a trained network, classical against pseudo, and of the other methods."""
    size = run.at(smoke="smoke", desk="desk", full="desk")
    denoiser = trained_denoiser("digits", size=size, root=run.cache_folder, progress=run.progress)
    components = PrincipalComponents.of(digits(), 32)
    real = components(digits()[:])
    schedule = discrete("linear")
    n = run.at(smoke=20, desk=500, full=5000)
    steps = run.at(smoke=(10,), desk=(10, 20, 50), full=(10, 20, 50, 100))
    compared = {m: (*RANKED, "FON") if m <= 20 else ("DDIM", "F-PNDM") for m in steps}
    noise = torch.cat([torch.randn(n, *denoiser.shape, generator=run.torch_rng(seed)) for seed in run.seeds])
    model_fn = denoiser.model(schedule)
    continuous = denoiser.model(LINEAR)

    def images(method: PNDMMethod, m: int) -> tuple[Tensor, int]:
        # An adaptive solver needs the ODE in continuous time.
        sampler = PNDMSampler(*((continuous, LINEAR) if method == "PF" else (model_fn, schedule)), method)
        parts = [sampler.sample(part, m, rtol=1e-2, atol=1e-2) for part in noise.split(250)]
        return torch.cat([part.sample for part in parts]), parts[0].nfe

    jobs = [*((method, m) for m in steps for method in compared[m]), ("PF", 1)]
    found = {job: images(*job) for job in run.progress(jobs, label="sampling")}
    features = {job: components(samples) for job, (samples, _) in found.items()}
    distances = {job: frechet_distance(x, real) for job, x in features.items()}
    rows = [[method, m, found[method, m][1], distances[method, m]] for method, m in jobs[:-1]]
    rows.append(["PF, tolerance 0.01", "", found["PF", 1][1], distances["PF", 1]])

    def quotient(one: Tensor, other: Tensor) -> float:
        return frechet_distance(one, real) / frechet_distance(other, real)

    ratios = {
        m: mean(pseudo_values(quotient, features["FON", m], features["F-PNDM", m]), of="groups of a jackknife")
        for m in steps
        if m <= 20
    }
    figure, panels = run.figure(1, 3)
    for axes, (method, m) in zip(panels, (("DDIM", 10), ("FON", 10), ("F-PNDM", 10)), strict=True):
        shown = found[method, m][0][:20, 0].clamp(-1, 1).unflatten(0, (4, 5)).transpose(1, 2).flatten(2).flatten(0, 1)
        axes.imshow(shown, cmap="gray", vmin=-1, vmax=1)
        axes.set_title(f"{method}, {m} steps: distance {distances[method, m]:.2f}")
        axes.set_axis_off()
    return Measurement(
        least(list(ratios.values())),
        table=Table(["method", "steps", "network calls", "Fréchet distance"], rows),
        figure=figure,
        remark="Classical / pseudo: " + ", ".join(f"{r.value:.2f} at {m} steps" for m, r in ratios.items()) + ". "
        f"The {len(noise)} samples of each method start from the same noise; features are 32 principal components.",
    )


@races("diffusers")
def against_diffusers(run: Run) -> Measurement:
    """Time the steps of a trajectory without the network, and compare samples in float64."""
    import diffusers

    rows, ratios = [], {}
    large = run.at(smoke=(4, 3, 64, 64), desk=(16, 3, 256, 256), full=(16, 3, 256, 256))
    for name, shape in {"small": (1, 3, 8, 8), "medium": (4, 3, 64, 64), "large": large}.items():
        schedulers = {"ours": PNDMScheduler(), "theirs": diffusers.PNDMScheduler()}
        x, noise = (torch.randn(shape, generator=run.torch_rng(seed)) for seed in (0, 1))
        taken: dict[str, list[float]] = {who: [] for who in schedulers}
        rounds = run.repeats(smoke=2, desk=7 if name == "large" else 101, full=101)
        for _ in run.progress(range(rounds), label=f"timing, {name}"):  # in turn: what disturbs one disturbs both
            for who, scheduler in schedulers.items():
                taken[who] += seconds_of_steps(scheduler, noise, x, steps=20)
        times = Times(taken)
        ratios[name] = times.ratio("ours", "theirs")
        shown = "x".join(map(str, shape))
        rows.append([shown, *(1e6 * times.median(who) for who in ("ours", "theirs")), ratios[name].value])
    differences = []
    model_fn = bench_mixture_1d().model(discrete("linear"))
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    budgets = run.at(smoke=(10, 20), desk=(10, 20, 50, 100), full=(10, 20, 50, 100))
    for skip, m in itertools.product((False, True), budgets):
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
        {"small": ratios["small"], "large": ratios["large"], "difference": exact(max(differences))},
        table=Table(["state", "ours, µs a step", "diffusers, µs a step", "ratio"], rows),
        remark=f"At the medium size the ratio is {ratios['medium'].value:.2f}. The difference is over 10 to 100 steps, "
        "with Runge-Kutta steps and without (as latent-diffusion's PLMS sampler, which no package index carries).",
        settings="PNDMScheduler as it comes; for the difference with its table of levels in float64",
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
    n, fine = run.at(smoke=4, desk=64, full=512), run.at(smoke=12, desk=300, full=2000)
    seeds = (1000, *run.seeds)  # the first chooses the grids
    x = torch.cat([torch.randn(n, 64, generator=run.torch_rng(seed), dtype=torch.float64) for seed in seeds])
    rows, ratios = [], []
    for problem in PROBLEMS:
        mixture = PROBLEMS[problem]()
        model_fn = mixture.model(LINEAR)
        truth = reference_solution(mixture, LINEAR, x, 1.0, t_end, fine)

        def denoise(state: Tensor, sigma: Tensor, model_fn: Any = model_fn) -> Tensor:
            t = LINEAR.t_of_lam(-math.log(float(sigma[0])))
            return state - sigma[0] * model_fn(LINEAR.alpha(t) * state, t)

        for calls in run.at(smoke=(20,), desk=(20, 50), full=(20, 50, 100)):
            errors: dict[str, dict[str, Tensor]] = {"PLMS": {}, "sample_lms": {}}
            for grid in run.progress(SKIP_TYPES, label=f"{problem}, {calls} calls"):
                times = time_grid(LINEAR, calls, 1.0, t_end, grid)
                sigmas = torch.tensor([math.exp(-LINEAR.lam(t)) for t in times], dtype=torch.float64)
                lms = theirs.sample_lms(denoise, x / LINEAR.alpha(1.0), sigmas, disable=True) * LINEAR.alpha(t_end)
                plms = PNDMSampler(model_fn, LINEAR, "PLMS").sample(x, calls - 1, t_end=t_end, skip_type=grid).sample
                for who, sample in (("PLMS", plms), ("sample_lms", lms)):
                    errors[who][grid] = (sample - truth).square().mean(1).sqrt()
            grids = {who: min(found, key=lambda g, f=found: rms(f[g][:n])) for who, found in errors.items()}  # type: ignore[misc]
            best = {who: errors[who][grids[who]][n:] for who in errors}
            ratios.append(rms_ratio(best["PLMS"], best["sample_lms"]))
            cells = [(rms(best[who]), grids[who]) for who in errors]
            rows.append([problem, calls, *itertools.chain(*cells), ratios[-1].value])
    return Measurement(
        greatest(ratios),
        table=Table(["problem", "calls", "PLMS", "its grid", "sample_lms", "its grid", "ratio"], rows),
        remark="Root mean square errors; the ratio is the largest.",
        settings="sample_lms of order 4 on the best of four grids, chosen on other noise",
    )
