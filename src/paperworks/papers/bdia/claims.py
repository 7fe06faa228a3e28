"""What BDIA's paper claims, measured where the exact solution is known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.diffusion import BDIASampler, EDICTSampler, EDMSchedule, NoiseScheduleVP, ddim_invert, time_grid
from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    bootstrap,
    exact,
    greatest,
    interleaved,
    least,
    mean,
    measures,
    proportion,
    races,
)
from paperworks.testbeds import (
    PrincipalComponents,
    bench_mixture_1d,
    bench_mixture_64d,
    digits,
    digits_mixture,
    frechet_distance,
    pseudo_values,
    reference_solution,
    trained_classifier,
    trained_denoiser,
)

SCHEDULE = NoiseScheduleVP.linear()
T_END = 0.02


def median(values: Any) -> float:
    """Return the median of an array."""
    return float(np.median(values))


def bench(steps: int, gamma: float, dtype: torch.dtype = torch.float64) -> tuple[BDIASampler, Tensor]:
    """Return a sampler on the exact model of the one-dimensional mixture, and the noise to start from."""
    model_fn = bench_mixture_1d().model(SCHEDULE)
    return BDIASampler(model_fn, SCHEDULE, gamma), torch.linspace(-2.5, 2.5, 41, dtype=dtype)[:, None]


def worst(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference."""
    return float((a - b).abs().max())


@measures("b1-exact-inversion")
def exact_inversion(run: Run) -> Measurement:
    """Sample, invert from the stored pair, and compare with the noise started from; DDIM inversion beside it."""
    all_steps = run.at(smoke=(10, 20), desk=(10, 50, 100, 200, 400, 800), full=(10, 50, 100, 200, 400, 800))

    def round_trip(steps: int, gamma: float, dtype: torch.dtype) -> float:
        sampler, noise = bench(steps, gamma, dtype)
        there = sampler.sample(noise, steps, t_end=T_END)
        return worst(sampler.invert(*there.pair, steps, t_end=T_END).sample, noise)

    def drift(steps: int) -> float:
        sampler, noise = bench(steps, 0.0)
        there = sampler.sample(noise, steps, t_end=T_END).sample
        return worst(ddim_invert(sampler.model_fn, SCHEDULE, there, steps, t_end=T_END).sample, noise)

    rows = [
        [n, round_trip(n, 1.0, torch.float64), round_trip(n, 1.0, torch.float32), drift(n)]
        for n in run.progress(all_steps, label="steps")
    ]
    figure, axes = run.figure()
    steps, double, single, ddim = zip(*rows, strict=True)
    axes.loglog(steps, ddim, "o-", label="DDIM inversion")
    axes.loglog(steps, single, "s-", label="BDIA, float32")
    axes.loglog(steps, double, "^-", label="BDIA, float64")
    axes.set(xlabel="steps each way", ylabel="largest round-trip error", title="Sampling and back again")
    axes.legend()
    return Measurement(
        {
            "float64": exact(max(double)),
            "float32": exact(max(single)),
            "gamma_09": exact(round_trip(20, 0.9, torch.float64)),
            "gamma_05": exact(round_trip(20, 0.5, torch.float64)),
        },
        table=Table(["steps", "BDIA float64", "BDIA float32", "DDIM inversion"], rows),
        figure=figure,
    )


@measures("b2-cost", exclusive=True)
def cost(run: Run) -> Measurement:
    """Count network calls, and time the samplers with a model that costs nothing."""
    steps, repeats = 50, run.at(smoke=3, desk=31, full=101)
    noise = torch.randn(16, 3, 64, 64, generator=run.torch_rng())
    output = torch.randn(16, 3, 64, 64, generator=run.torch_rng(1))

    def model_fn(x: Tensor, t: Any) -> Tensor:
        return output

    ours = BDIASampler(model_fn, SCHEDULE)
    ddim = BDIASampler(model_fn, SCHEDULE, gamma=0.0)
    edict = EDICTSampler(model_fn, SCHEDULE)
    times = interleaved(
        run,
        {
            "BDIA": lambda: ours.sample(noise, steps),
            "DDIM": lambda: ddim_steps(model_fn, noise, steps),
            "EDICT": lambda: edict.sample(noise, steps),
        },
        repeats,
    )
    calls = {name: sampler.sample(noise, steps).nfe / steps for name, sampler in (("BDIA", ours), ("EDICT", edict))}
    calls["DDIM"] = ddim.sample(noise, steps).nfe / steps
    return Measurement(
        {
            "calls_per_step": exact(calls["BDIA"]),
            "edict_calls_per_step": exact(calls["EDICT"]),
            "time_to_ddim": times.ratio("BDIA", "DDIM"),
        },
        table=Table(
            ["sampler", "calls a step", "microseconds a step without the network"],
            [[name, calls[name], 1e6 * seconds / steps] for name, seconds in times.medians().items()],
        ),
    )


def ddim_steps(model_fn: Callable[[Tensor, Any], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Run plain DDIM, the cheapest there is: one fused update a step."""
    return ddim_invert(model_fn, SCHEDULE, noise, steps).sample


@measures("b3-better-than-ddim")
def better_than_ddim(run: Run) -> Measurement:
    """Compare errors with DDIM's at equal steps: on exact models, and by Fréchet distance on a trained network."""
    line, wide, digits_kde = bench_mixture_1d(), bench_mixture_64d(), digits_mixture()
    noise = bench(1, 1.0)[1]
    n = run.at(smoke=8, desk=64, full=512)
    start = torch.cat([torch.randn(n, 64, generator=run.torch_rng(s), dtype=torch.float64) for s in run.seeds])
    solve = run.at(smoke=20, desk=400, full=1000)
    truths = {
        "line": line.transport(noise, SCHEDULE, 1.0, T_END),
        "wide": reference_solution(wide, SCHEDULE, start, 1.0, T_END, solve),
        "digits": reference_solution(digits_kde, SCHEDULE, start, 1.0, T_END, solve),
    }
    denoiser = trained_denoiser("digits", size=run.at(smoke="smoke", desk="desk", full="desk"), progress=run.progress)
    pixels = run.at(smoke=32, desk=250, full=2000)
    prior = torch.cat([torch.randn(pixels, *denoiser.shape, generator=run.torch_rng(1000 + s)) for s in run.seeds])
    components = PrincipalComponents.of(digits(), 32)
    real = components(digits()[:])
    all_steps = run.at(smoke=(10,), desk=(10, 20, 40), full=(10, 20, 40, 100))

    def found_at(steps: int, gamma: float) -> dict[str, Tensor]:
        """Return the errors of single samples, and features of what the network samples."""

        def sample(model_fn: Callable[..., Tensor], x: Tensor) -> Tensor:
            return BDIASampler(model_fn, SCHEDULE, gamma).sample(x, steps, t_end=T_END).sample

        with torch.no_grad():
            images = torch.cat([sample(denoiser.model(SCHEDULE), part) for part in prior.split(250)])
        return {
            "line": (sample(line.model(SCHEDULE), noise) - truths["line"]).abs(),
            "wide": (sample(wide.model(SCHEDULE), start) - truths["wide"]).square().mean(1).sqrt(),
            "digits": (sample(digits_kde.model(SCHEDULE), start) - truths["digits"]).square().mean(1).sqrt(),
            "network": components(images),
        }

    def rms(errors: Any) -> float:
        return math.sqrt((errors**2).mean())

    def quotient(one: Tensor, other: Tensor) -> float:
        return frechet_distance(one, real) / frechet_distance(other, real)

    table: list[list[Any]] = []
    ratios: dict[tuple[int, str], Estimate] = {}
    for steps in run.progress(all_steps, label="steps"):
        ddim, half, ours = (found_at(steps, gamma) for gamma in (0.0, 0.5, 1.0))
        for name, found in (("DDIM", ddim), ("BDIA, gamma 0.5", half), ("BDIA, gamma 1", ours)):
            distance = frechet_distance(found["network"], real)
            row = [float(found["line"].max()), rms(found["wide"]), float(found["digits"].median()), distance]
            table.append([steps, name, *row])
        apart = {
            "line": exact(float(ours["line"].max() / ddim["line"].max())),
            "wide": bootstrap(lambda a, b: rms(a) / rms(b), ours["wide"], ddim["wide"], of="samples"),
            "digits": bootstrap(lambda a, b: median(a) / median(b), ours["digits"], ddim["digits"], of="samples"),
            "network": mean(pseudo_values(quotient, ours["network"], ddim["network"]), of="groups of a jackknife"),
        }
        ends = (f"{e.value:.3g} ({', '.join(f'{end:.3g}' for end in e.interval(0.95))})" for e in apart.values())
        table.append([steps, "gamma 1 / DDIM, 95 % interval", *ends])
        ratios.update({(steps, name): ratio for name, ratio in apart.items()})
    columns = [
        "steps",
        "sampler",
        "mixture on a line, largest",
        "mixture in 64-D, rms",
        "digits density, median",
        "network, Fréchet",
    ]
    return Measurement(
        greatest([ratio for (_, name), ratio in ratios.items() if name != "network"]),
        table=Table(columns, table),
        remark="On the mixture on a line, where the answer is exact, the greatest ratio is "
        f"{max(ratio.value for (_, name), ratio in ratios.items() if name == 'line'):.2f}.",
    )


@measures("b4-error-law")
def error_law(run: Run) -> Measurement:
    """Compare errors with the law of the two-step method, and measure the order at gamma 1."""
    steps = run.at(smoke=100, desk=800, full=3200)
    truth = bench_mixture_1d().transport(bench(1, 1.0)[1], SCHEDULE, 1.0, T_END)

    def error(n: int, gamma: float) -> float:
        sampler, noise = bench(n, gamma)
        return worst(sampler.sample(noise, n, t_end=T_END).sample, truth)

    ddim = error(steps, 0.0)
    rows = []
    for gamma in run.progress((0.25, 0.5, 0.75, 0.9), label="gamma"):
        law = (1 - gamma) / (1 + gamma)
        ratio = error(steps, gamma) / ddim
        rows.append([gamma, ratio, law, abs(ratio / law - 1)])
    order = float(torch.tensor(error(steps // 2, 1.0) / error(steps, 1.0)).log2())
    figure, axes = run.figure()
    curve = torch.linspace(0, 1, 101)
    axes.plot(curve, (1 - curve) / (1 + curve), color="#666666", linestyle="--", label="(1 - γ)/(1 + γ)")
    axes.plot([row[0] for row in rows], [row[1] for row in rows], "o", label=f"measured, {steps} steps")
    axes.set(xlabel="γ", ylabel="error relative to DDIM", title="What γ does to the error")
    axes.legend()
    return Measurement(
        {"deviation": exact(max(row[3] for row in rows)), "order": exact(order)},
        table=Table(["gamma", "error / DDIM's", "law", "relative deviation"], rows),
        figure=figure,
    )


@measures("b5-edm")
def edm(run: Run) -> Measurement:
    """Sample the mixture with EDM's Heun method and the correction, from sigma 80 to 0."""
    schedule, mixture = EDMSchedule(), bench_mixture_1d()
    noise = 80 * torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    truth = mixture.transport(noise, schedule, 80.0, 1e-9)
    gammas = (0.0, 0.1, 0.2, 0.5, 1.0)
    rows = []
    for n in run.progress(run.at(smoke=(10,), desk=(6, 10, 18, 36, 72, 144), full=(6, 10, 18, 36, 72, 144))):
        errors = [
            float((sampler.sample(noise, n, skip_type="karras").sample - truth).abs().mean())
            for sampler in (BDIASampler(mixture.model(schedule), schedule, g, "edm") for g in gammas)
        ]
        rows.append([n, *errors])
    figure, axes = run.figure()
    for column, gamma in enumerate(gammas, start=1):
        axes.loglog([row[0] for row in rows], [row[column] for row in rows], "o-", label=f"γ = {gamma:g}")
    axes.set(xlabel="sampling steps", ylabel="mean absolute error", title="BDIA on EDM's Heun method")
    axes.legend()
    return Measurement(
        exact(max(error / row[1] for row in rows if row[0] >= 10 for error in row[2:])),
        table=Table(["steps", *(f"gamma {g:g}" for g in gammas)], rows),
        figure=figure,
        remark="At 6 steps, outside the claim, gamma 1 can be worse than none.",
    )


@measures("b6-editing")
def editing(run: Run) -> Measurement:
    """Turn digits into another class: invert with their own label, sample with the target's; EDICT does the same."""
    size = run.at(smoke="smoke", desk="desk", full="desk")
    denoiser = trained_denoiser("digits", conditional=True, size=size, progress=run.progress)
    judge = trained_classifier("digits", size=size, progress=run.progress)
    held_out = slice(-run.at(smoke=16, desk=297, full=297), None)
    images, labels = digits()[held_out], digits().labels[held_out]
    steps = run.at(smoke=8, desk=50, full=100)
    grid = time_grid(SCHEDULE, steps, SCHEDULE.t_max, T_END)

    def edits(seed: int, strength: float, guidance: float) -> list[tuple[Tensor, float, int]]:
        """Return which images are taken for the target, the distance to the source and calls, of BDIA and of EDICT."""
        shift = torch.randint(1, 10, labels.shape, generator=run.torch_rng(seed))
        targets = (labels + shift) % 10
        deep = round(strength * steps)
        t_start = grid[-deep - 1]
        source, target = (
            denoiser.model(SCHEDULE, condition, scale) for condition, scale in ((labels, 1.0), (targets, guidance))
        )
        with torch.no_grad():
            ours = BDIASampler(source, SCHEDULE).edit(images, target, steps, strength=strength, t_end=T_END)
            there = EDICTSampler(source, SCHEDULE).invert(images, deep, t_start=t_start, t_end=T_END)
            pair = (there.trajectory[0], there.trajectory[1])
            theirs = EDICTSampler(target, SCHEDULE).sample(pair, deep, t_start=t_start, t_end=T_END)
            return [
                (
                    judge(sample.clamp(-1, 1)).argmax(1) == targets,
                    float((sample - images).square().mean().sqrt()),
                    calls,
                )
                for sample, calls in ((ours.sample, ours.nfe), (theirs.sample, there.nfe + theirs.nfe))
            ]

    rows: list[list[Any]] = []
    gains, calls = [], []
    for strength, guidance in EDITS:
        found = [edits(seed, strength, guidance) for seed in run.progress(run.seeds, label="seeds")]
        ours, theirs = (torch.cat([pair[k][0] for pair in found]) for k in (0, 1))
        for k, (name, hits) in enumerate((("BDIA", ours), ("EDICT", theirs))):
            distance = sum(pair[k][1] for pair in found) / len(found)
            rows.append([strength, guidance, name, 100 * float(hits.double().mean()), distance, found[0][k][2]])
        gains.append(points_gained(ours, theirs))
        calls.append(found[0][0][2] / found[0][1][2])
    return Measurement(
        {"accuracy_over_edict": least(gains), "calls_to_edict": exact(max(calls))},
        table=Table(
            [
                "share of the steps",
                "guidance",
                "editor",
                "accuracy on the target class, points",
                "rms distance to the source",
                "network calls",
            ],
            rows,
        ),
    )


EDITS = ((0.8, 1.0), (0.5, 3.0))  # share of the steps gone back, guidance: such that neither editor always succeeds


def points_gained(ours: Tensor, theirs: Tensor) -> Estimate:
    """Return the difference of two accuracies on the same images in points, from those that only one gets right."""
    gained, lost = (proportion(int((a & ~b).sum()), len(a), of="edits") for a, b in ((ours, theirs), (theirs, ours)))

    def interval(level: float) -> tuple[float, float]:
        (low, high), (least_lost, most_lost) = (share.interval((1 + level) / 2) for share in (gained, lost))
        return 100 * (low - most_lost), 100 * (high - least_lost)

    return Estimate(100 * (gained.value - lost.value), gained.method, interval)


@races("diffusers", exclusive=False)
def against_diffusers(run: Run) -> Measurement:
    """Sample and invert by diffusers' DDIM and its inverse, and by ours, with the same model, steps and calls."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    schedule = NoiseScheduleVP.discrete(betas=betas)
    model_fn = bench_mixture_1d().model(schedule)
    noise = bench(1, 1.0)[1]
    options = {"num_train_timesteps": 1000, "clip_sample": False, "timestep_spacing": "leading"}

    def theirs(steps: int) -> float:
        z = noise
        for kind in (DDIMScheduler, DDIMInverseScheduler):
            scheduler = kind(**options)
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                z = scheduler.step(model_fn(z, (max(t.item(), 0) + 1) / 1000), t, z).prev_sample
        return worst(z, noise)

    def ours(steps: int) -> float:
        sampler = BDIASampler(model_fn, schedule)
        return worst(sampler.invert(*sampler.sample(noise, steps).pair, steps).sample, noise)

    rows = [[n, ours(n), theirs(n)] for n in run.at(smoke=(20,), desk=(20, 50, 100), full=(20, 50, 100, 500))]
    return Measurement(
        exact(min(row[2] / row[1] for row in rows)),
        table=Table(["steps each way", "ours", "diffusers DDIM + DDIMInverse"], rows),
        settings="DDIMScheduler and DDIMInverseScheduler without clipping, leading time steps",
    )


@races("k-diffusion", exclusive=False)
def against_k_diffusion(run: Run) -> Measurement:
    """Sample the mixture by k-diffusion's Heun and by BDIA-EDM on the same Karras grid with the same calls."""
    from paperworks.testbeds import load_k_diffusion_sampling

    sampling = load_k_diffusion_sampling()
    schedule, mixture = EDMSchedule(), bench_mixture_1d()
    noise = 80 * bench(1, 1.0)[1]
    truth = mixture.transport(noise, schedule, 80.0, 1e-9)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return mixture.x0(x, 1.0, sigma)

    rows = []
    for n in run.at(smoke=(18,), desk=(10, 18, 36, 72), full=(10, 18, 36, 72, 144)):
        sigmas = sampling.get_sigmas_karras(n, 0.002, 80.0).double()
        heun = sampling.sample_heun(denoise, noise, sigmas, disable=True)
        ours = BDIASampler(mixture.model(schedule), schedule, 1.0, "edm").sample(noise, n, skip_type="karras")
        rows.append([n, ours.nfe, float((ours.sample - truth).abs().mean()), float((heun - truth).abs().mean())])
    return Measurement(
        exact(max(row[2] / row[3] for row in rows)),
        table=Table(["steps", "calls", "BDIA-EDM, gamma 1", "k-diffusion sample_heun"], rows),
        settings="sample_heun without churn on the same Karras grid of rho 7",
    )


@races("edict")
def against_edict(run: Run) -> Measurement:
    """Time a round trip by both with the same small convolutional network; EDICT has no package, so it is ours."""
    torch.manual_seed(run.seed)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(32, 3, 3, padding=1)
    )
    noise = torch.randn(4, 3, 32, 32, generator=run.torch_rng())
    steps = run.at(smoke=10, desk=50, full=50)

    def model_fn(x: Tensor, t: Any) -> Tensor:
        with torch.no_grad():
            return network(x)

    bdia, edict = BDIASampler(model_fn, SCHEDULE), EDICTSampler(model_fn, SCHEDULE)
    times = interleaved(
        run,
        {
            "BDIA": lambda: bdia.invert(*bdia.sample(noise, steps).pair, steps),
            "EDICT": lambda: edict.invert(edict.sample(noise, steps).trajectory[-2:], steps),
        },
        run.at(smoke=2, desk=15, full=51),
    )
    return Measurement(
        times.ratio("BDIA", "EDICT"),
        table=Table(["sampler", "seconds a round trip"], [[name, value] for name, value in times.medians().items()]),
        settings="EDICT as published, p = 0.93, with the same network; it has no package, so it is our implementation",
    )
