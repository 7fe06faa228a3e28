"""What PTQ4DM's paper claims, measured on trained denoisers of digits."""

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.diffusion import (
    NDTC,
    CalibrationSet,
    FixedTime,
    UniformAffineQuantizer,
    UniformTimes,
    quantize_diffusion,
)
from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    exact,
    greatest,
    interleaved,
    least,
    mean,
    measures,
    races,
)
from paperworks.papers.ptq4dm import peers
from paperworks.papers.ptq4dm.problems import SCHEDULE, T_END, Bench, geometric_mean, rms, settings
from paperworks.testbeds import (
    PrincipalComponents,
    UNet,
    digits,
    frechet_distance,
    pseudo_values,
)


@measures("q1-eight-bit")
def eight_bit(run: Run) -> Measurement:
    """Sample from the same noise in full precision and with 8 bits, with the settings of the released script."""
    images = run.at(smoke=40, desk=160, full=2000)
    bench = Bench.of(run, images * len(run.seeds), run.at(smoke=4, desk=50, full=250))
    n = run.at(smoke=32, desk=1024, full=1024)
    components = PrincipalComponents.of(digits(), 32)
    real = components(digits()[:])
    precise = bench.sample(bench.network).split(images)
    full_precision = frechet_distance(components(precise[0]), real)
    calibrations = [bench.collect(n, run.torch_rng(seed)) for seed in run.progress(run.seeds, label="calibrating")]
    found = [  # of each seed, by its own calibration from its own noise
        bench.sample(quantize_diffusion(bench.network, calibration, settings(run)), noise)
        for calibration, noise in zip(calibrations, bench.noise.split(images), strict=True)
    ]
    others = {
        "W4A8": settings(run, 4, 8, symmetric_a=False),
        "W8A8, zero points searched too": settings(run, symmetric_a=False),
        "W8A8, average of batches": settings(run, ranges="ema"),
        "W8A8, min-max": settings(run, scale_method="minmax", symmetric_a=False),
        "W8A8 with attention": settings(run, quantize_attention=True),
        "W8A8 at inputs": settings(run, activations="input", symmetric_a=False),
        "W8A8, groups of times": settings(run, timewise_groups=min(4, bench.steps // 2)),
        "W6A6": settings(run, 6, 6, symmetric_a=False),
    }
    beside = {"W8A8": found[0]}
    for kind in run.progress(list(others)[: run.at(smoke=1, desk=None, full=None)], label="settings"):
        network = quantize_diffusion(bench.network, calibrations[0], others[kind])
        beside[kind] = bench.sample(network, bench.noise[:images])
    rows = []
    for kind, sample in beside.items():
        distance = frechet_distance(components(sample), real)
        rows.append([kind, rms(sample, precise[0]), distance, distance / full_precision])
    figure, axes = run.figure(1, 3)
    shown = {"float32": precise[0], "W8A8": found[0], "W4A8": beside["W4A8"]}
    for ax, (title, pictures) in zip(axes, shown.items(), strict=True):
        ax.imshow(pictures[:36].reshape(6, 6, 8, 8).transpose(1, 2).reshape(48, 48), cmap="gray", vmin=-1, vmax=1)
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(visible=False)

    def quotient(one: Tensor, other: Tensor) -> float:
        return frechet_distance(one, real) / frechet_distance(other, real)

    features = [components(torch.cat(list(samples))) for samples in (found, precise)]
    return Measurement(
        {
            "rms": mean([rms(*pair) for pair in zip(found, precise, strict=True)], of="calibrations"),
            "frechet_ratio": mean(pseudo_values(quotient, *features), of="groups of a jackknife"),
        },
        table=Table(
            ["network", "rms change of the samples", "Fréchet distance to digits", "/ full precision's"],
            [["float32", 0.0, full_precision, 1.0], *rows],
        ),
        figure=figure,
    )


@measures("q2-calibration-source")
def calibration_source(run: Run) -> Measurement:
    """Calibrate on each source with the paper's scales and with min-max ones, at 8 bits."""
    bench = Bench.ddpm(run, run.at(smoke=16, desk=64, full=2000), run.at(smoke=4, desk=25, full=250))
    n = run.at(smoke=16, desk=512, full=1024)
    states = bench.states(bench.noise)
    precise = bench.sample(bench.network)
    sources: dict[str, dict[str, Any]] = {
        "sampler, NDTC": {},
        "sampler, t = 1": {"times": FixedTime(0.0)},
        "sampler, t = T": {"times": FixedTime(1.0)},
        "sampler, t = T/2": {"times": FixedTime(0.5)},
        "sampler, uniform times": {"times": UniformTimes()},
        "sampler, NDTC paired as released": {"legacy_pairing": True},
        "noise, uniform times": {"mode": "noise", "times": UniformTimes()},
        "images, uniform times": {"mode": "raw", "times": UniformTimes()},
        "diffused images, uniform times": {"mode": "raw_forward", "times": UniformTimes()},
    }
    configs = {"mse": settings(run), "min-max": settings(run, scale_method="minmax", symmetric_a=False)}
    used = list(sources)[: run.at(smoke=3, desk=None, full=None)]
    ours, first, last = used[:3]
    errors: dict[tuple[str, str, int], tuple[float, float]] = {}
    for source, seed in run.progress(list(itertools.product(used, run.seeds)), label="sources"):
        if seed != run.seed and source not in (ours, first, last):
            continue  # what has no bar is calibrated once
        calibration = bench.collect(n, run.torch_rng(seed), **sources[source])
        for scales, config in configs.items():
            if seed == run.seed or scales == "mse":
                network = quantize_diffusion(bench.network, calibration, config)
                errors[source, scales, seed] = rms(bench.sample(network), precise), bench.noise_error(network, states)

    def relative(source: str, which: int) -> list[float]:
        return [errors[source, "mse", seed][which] / errors[ours, "mse", seed][which] for seed in run.seeds]

    return Measurement(
        {
            "first_time": mean(relative(first, 0), of="calibrations"),
            "last_time": mean(relative(last, 1), of="calibrations"),
        },
        table=Table(
            ["calibrated on", *(f"{what}, {scales}" for scales in configs for what in ("rms of samples", "noise MSE"))],
            [[source, *errors[source, "mse", run.seed], *errors[source, "min-max", run.seed]] for source in used],
        ),
    )


@measures("q3-skewed-times")
def skewed_times(run: Run) -> Measurement:
    """Draw the times of one run's states by every law, and compare the predicted noise of the calibrated networks."""
    bench = Bench.ddpm(run, run.at(smoke=8, desk=48, full=1000), run.at(smoke=4, desk=25, full=250))
    n = run.at(smoke=16, desk=512, full=1024)
    means = run.at(
        smoke=(0.4, 0.8), desk=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), full=tuple(k / 10 for k in range(1, 10))
    )
    laws = {**{f"NDTC({m:g})": NDTC(m, 0.4) for m in means}, "uniform": UniformTimes()}
    states = bench.states(bench.noise)
    errors: dict[str, list[float]] = {law: [] for law in laws}
    for seed in run.progress(run.seeds, label="seeds"):
        # One run of the sampler serves all laws: each draws the call at which a trajectory's state is kept.
        x, time = bench.states(torch.randn(n, 1, 8, 8, generator=run.torch_rng(seed)))
        for name, law in laws.items():
            call = bench.steps - 1 - law.draw(n, bench.steps, run.torch_rng(1000 + seed))
            calibration = CalibrationSet(x[call, torch.arange(n)], time[call, torch.arange(n)])
            errors[name].append(
                bench.noise_error(quantize_diffusion(bench.network, calibration, settings(run)), states)
            )
    average = {name: geometric_mean(values) for name, values in errors.items()}
    best = [min(means, key=lambda m, k=k: errors[f"NDTC({m:g})"][k]) for k in range(len(run.seeds))]  # type: ignore[misc]
    ratios = [ours / uniform for ours, uniform in zip(errors["NDTC(0.4)"], errors["uniform"], strict=True)]
    figure, axes = run.figure()
    for k in range(len(run.seeds)):
        axes.plot(means, [errors[f"NDTC({m:g})"][k] for m in means], "o", color="#bbbbbb", markersize=4)
    axes.plot(means, [average[f"NDTC({m:g})"] for m in means], "o-", label="normal, deviation 0.4 T")
    axes.axhline(average["uniform"], color="#666666", linestyle="--", label="uniform")
    axes.set(xlabel="mean of the times / T", ylabel="MSE of the predicted noise", title="When the states are taken")
    axes.set_yscale("log")
    axes.legend()
    return Measurement(
        {"best_mean": every(best), "to_uniform": mean(ratios, of="paired calibrations")},
        table=Table(
            ["times", "MSE of the predicted noise", "least", "greatest"],
            [[name, average[name], min(values), max(values)] for name, values in errors.items()],
        ),
        figure=figure,
    )


@measures("q4-metric")
def metric(run: Run) -> Measurement:
    """Search the scales by each metric at 8 and 6 bits; the ratios are the larger ones of the two."""
    bench = Bench.ddpm(run, run.at(smoke=8, desk=48, full=1000), run.at(smoke=4, desk=25, full=250))
    n = run.at(smoke=16, desk=256, full=1024)
    options: dict[str, dict[str, Any]] = {
        "mse": {"metric_p": 2.0},
        "mean |q - x|^2.4": {},
        "cosine": {"scale_method": "cosine"},
        "l1": {"scale_method": "l1"},
        "kl": {"scale_method": "kl"},
        "min-max": {"scale_method": "minmax"},
    }
    states = bench.states(bench.noise)
    precise = bench.sample(bench.network)
    widths = run.at(smoke=(8,), desk=(8, 6), full=(8, 6))
    errors: dict[tuple[str, int], list[tuple[float, float]]] = {(name, bits): [] for name in options for bits in widths}
    for seed in run.progress(run.seeds, label="seeds"):
        calibration = bench.collect(n, run.torch_rng(seed))
        for name, bits in errors:
            network = quantize_diffusion(bench.network, calibration, settings(run, bits, bits, **options[name]))
            errors[name, bits].append((bench.noise_error(network, states), rms(bench.sample(network), precise)))
    average = {key: [geometric_mean(column) for column in zip(*found, strict=True)] for key, found in errors.items()}

    def ratio(one: str, other: str, bits: int) -> Estimate:
        pairs = zip(errors[one, bits], errors[other, bits], strict=True)
        return mean([a / b for (a, _), (b, _) in pairs], of="paired calibrations")

    return Measurement(
        {
            f"{one}_to_{other}": greatest([ratio(one, other, bits) for bits in widths])
            for one, other in (("mse", "cosine"), ("cosine", "l1"))
        },
        table=Table(
            ["metric", *(f"{what}, W{b}A{b}" for b in widths for what in ("noise MSE", "rms of samples"))],
            [[name, *itertools.chain(*(average[name, b] for b in widths))] for name in options],
        ),
    )


def ancestral(
    model_fn: Callable[[Tensor, Any], Tensor],
    x: Tensor,
    steps: int,
    generator: torch.Generator,
    change: Callable[[str, Tensor], Tensor],
) -> Tensor:
    """Run ancestral sampling, every quantity on the way passed through `change`."""
    grid = torch.linspace(SCHEDULE.t_max, T_END, steps + 1, dtype=torch.float64).tolist()
    for t, s in itertools.pairwise(grid):
        sigma_t, sigma_s = SCHEDULE.sigma(t), SCHEDULE.sigma(s)
        ratio = SCHEDULE.alpha(t) / SCHEDULE.alpha(s)
        added = sigma_t**2 - ratio**2 * sigma_s**2
        noise = change("network's output, the mean", model_fn(x, t))
        centre = change("posterior mean", (x - added / sigma_t * noise) / ratio)
        variance = torch.full((1,), math.log(added * sigma_s**2 / sigma_t**2))
        deviation = torch.exp(0.5 * change("log variance", variance))
        x = change("state", centre + deviation * torch.randn(x.shape, generator=generator))
    return x


@measures("q5-operations")
@torch.no_grad()
def operations(run: Run) -> Measurement:
    """Round one quantity of ancestral sampling to 8 bits at every step; the noise and all else stay as they are."""
    bench = Bench.of(run, run.at(smoke=8, desk=500, full=5000), run.at(smoke=4, desk=50, full=250))
    model_fn = bench.model(bench.network)
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str, value: Tensor) -> Tensor:
        seen.setdefault(name, []).append(value)
        return value

    precise = ancestral(model_fn, bench.noise, bench.steps, run.torch_rng(), keep)
    squares = {}  # of each image
    for rounded in run.progress(seen, label="operations"):
        quantizer = UniformAffineQuantizer(8).fit(torch.stack(seen[rounded]), "mse", symmetric=False)

        def change(name: str, value: Tensor, only: str = rounded, quantize: Any = quantizer) -> Tensor:
            return quantize(value) if name == only else value

        sample = ancestral(model_fn, bench.noise, bench.steps, run.torch_rng(), change)
        squares[rounded] = (sample - precise).square().flatten(1).mean(1)
    return Measurement(
        bootstrap(
            lambda a, b: math.sqrt(a.mean() / b.mean()),
            squares["state"],
            squares["network's output, the mean"],
            of="images",
        ),
        table=Table(
            ["rounded to 8 bits", "rms change of the samples"],
            [[name, float(values.mean().sqrt())] for name, values in squares.items()],
        ),
    )


@measures("q6-size-speed", exclusive=True)
@torch.no_grad()
def size_speed(run: Run) -> Measurement:
    """Weigh the denoiser's network, and time U-Nets with integer kernels against the faster layout of float32."""
    bench = Bench.of(run, 2, run.at(smoke=4, desk=10, full=10))
    small = quantize_diffusion(bench.network, bench.collect(8, run.torch_rng()), settings(run))
    size = sum(t.numel() * t.element_size() for t in bench.network.state_dict().values()) / small.size_bytes()
    side = run.at(smoke=8, desk=32, full=64)
    widths: list[tuple[int, ...]] = run.at(
        smoke=[(64, 64)],
        desk=[(64, 128, 256), (128, 256, 512)],
        full=[(64, 128, 256), (128, 256, 512), (192, 384, 576, 768)],
    )
    rows: list[list[Any]] = []
    for width in widths:
        torch.manual_seed(run.seed)
        network = UNet(width, patch=1, channels=3).eval()
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)  # else it returns 0
        last_layout = copy.deepcopy(network).to(memory_format=torch.channels_last)
        x = torch.randn(16, 3, side, side, generator=run.torch_rng())
        lam = torch.linspace(-5, 5, 16)
        config = settings(run, scale_method="minmax", activations="input", symmetric_a=False)
        quantized = quantize_diffusion(network, CalibrationSet(x, lam), config)
        integer = quantized.to_int8()
        swapped = x.contiguous(memory_format=torch.channels_last)
        times = interleaved(
            run,
            {
                "float32": partial(network, x, lam),
                "float32, channels last": partial(last_layout, swapped, lam),
                "int8": partial(integer, x, lam),
            },
            run.at(smoke=2, desk=11, full=31),
        )
        speed = least([times.ratio(layout, "int8") for layout in ("float32", "float32, channels last")])
        apart = rms(integer(x, lam), quantized(x, lam)) / float(quantized(x, lam).std())
        rows.append([" ".join(map(str, width)), *(1e3 * v for v in times.medians().values()), speed.value, apart])
    has_vnni = torch.cpu._is_vnni_supported()
    return Measurement(
        {"size": exact(size), "speed": speed},
        table=Table(
            ["widths", "float32, ms", "channels last, ms", "int8, ms", "float32 / int8", "change to simulated"], rows
        ),
        remark=f"On a processor {'with' if has_vnni else 'without'} VNNI, on {torch.get_num_threads()} thread(s).",
    )


@races("torch-ao", exclusive=False)
def against_torch_ao(run: Run) -> Measurement:
    """Quantise the same layers statically by FX graph mode, with 8 full bits and its histogram observers, on noise."""
    return peers.torch_ao(run)


@races("torchao", exclusive=False)
def against_torchao(run: Run) -> Measurement:
    """Quantise the layers that torchao quantises, the linear ones; and all others, written as linear ones, beside."""
    return peers.torchao(run)


@races("ptq4dm")
def against_ptq4dm(run: Run) -> Measurement:
    """Search the scales of weights, one per channel, and of activations by both, as the released script does."""
    return peers.ptq4dm(run)
