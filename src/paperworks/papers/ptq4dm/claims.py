"""What PTQ4DM's paper claims, measured on a trained denoiser of digits."""

import copy
import importlib.util
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn

from paperworks.diffusion import (
    NDTC,
    BDIASampler,
    CalibrationSet,
    FixedTime,
    NoiseScheduleVP,
    QuantConfig,
    UniformAffineQuantizer,
    UniformTimes,
    collect_calibration,
    quantize_diffusion,
)
from paperworks.evidence import Measurement, Run, Table, interleaved, measures, races
from paperworks.testbeds import Denoiser, PrincipalComponents, UNet, digits, frechet_distance, trained_denoiser

SCHEDULE = NoiseScheduleVP.linear()
T_END = 0.02


def ddim(model_fn: Callable[[Tensor, Any], Tensor], x: Tensor, steps: int, keep: bool = False) -> Any:
    """Run DDIM from noise, deterministic."""
    sampler = BDIASampler(model_fn, SCHEDULE, gamma=0.0)
    return sampler.sample(x, steps, t_end=T_END, return_trajectory=keep)


def rms(a: Tensor, b: Tensor) -> float:
    """Return the root mean square difference."""
    return float((a - b).square().mean().sqrt())


def settings(run: Run, n_bits_w: int = 8, n_bits_a: int = 8, **options: Any) -> QuantConfig:
    """Return the paper's settings but for what is given."""
    return QuantConfig(n_bits_w, n_bits_a, candidates=run.at(smoke=5, desk=100, full=100), **options)


def geometric_mean(values: Iterable[float]) -> float:
    """Return the mean of ratios that treats x and 1/x alike."""
    return math.exp(statistics.fmean(map(math.log, values)))


@dataclass(frozen=True)
class Bench:
    """A trained denoiser in full precision, and what it makes of some noise."""

    denoiser: Denoiser
    steps: int
    noise: Tensor

    @classmethod
    def of(cls, run: Run, images: int, steps: int) -> "Bench":
        """Train the denoiser, or load it, and draw the noise that all samples start from."""
        denoiser = trained_denoiser(
            "digits", size=run.at(smoke="smoke", desk="desk", full="desk"), progress=run.progress
        )
        return cls(denoiser, steps, torch.randn(images, 1, 8, 8, generator=run.torch_rng(10_000)))

    @property
    def network(self) -> nn.Module:
        """The U-Net that is quantised."""
        return self.denoiser.network

    def denoiser_of(self, network: nn.Module) -> Denoiser:
        """Return the denoiser with a network that stands in for its U-Net."""
        denoiser = copy.deepcopy(self.denoiser)
        denoiser.add_module("network", network)
        return denoiser

    def model(self, network: nn.Module) -> Callable[[Tensor, Any], Tensor]:
        """Return a sampler's model made of such a network."""
        return self.denoiser_of(network).model(SCHEDULE)

    @torch.no_grad()
    def sample(self, network: nn.Module) -> Tensor:
        """Return the finished samples."""
        return ddim(self.model(network), self.noise, self.steps).sample

    def collect(self, n: int, generator: torch.Generator, **options: Any) -> CalibrationSet:
        """Build a calibration set with the sampler that is used."""
        model_fn = self.model(self.network)
        return collect_calibration(
            self.network, SCHEDULE, (1, 8, 8), n, generator=generator, model_fn=model_fn, images=digits()[:],
            sampler=lambda model, x: ddim(model, x, self.steps), **options,
        )  # fmt: skip

    @torch.no_grad()
    def states(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network in full precision is called with on the way: inputs and their times, by call."""
        calls: list[tuple[Tensor, Tensor]] = []
        handle = self.network.register_forward_pre_hook(lambda module, args: calls.append((args[0], args[1])))
        try:
            ddim(self.model(self.network), noise, self.steps)
        finally:
            handle.remove()
        return torch.stack([x for x, _ in calls]), torch.stack([t for _, t in calls])

    @torch.no_grad()
    def noise_error(self, network: nn.Module, states: tuple[Tensor, Tensor]) -> float:
        """Return the mean square change of the predicted noise over the trajectories of full precision."""
        exact, changed = self.denoiser, self.denoiser_of(network)
        errors = [(changed(x, lam) - exact(x, lam)).square().mean() for x, lam in zip(*states, strict=True)]
        return float(torch.stack(errors).mean())


@measures("q1-eight-bit")
def eight_bit(run: Run) -> Measurement:
    """Sample from the same noise in full precision and with 8 bits, with the settings of the released script."""
    bench = Bench.of(run, run.at(smoke=40, desk=500, full=5000), run.at(smoke=4, desk=50, full=250))
    n = run.at(smoke=32, desk=1024, full=1024)
    components = PrincipalComponents.of(digits(), 32)
    real = components(digits()[:])
    exact = bench.sample(bench.network)
    full_precision = frechet_distance(components(exact), real)

    def quantized(calibration: CalibrationSet, config: QuantConfig) -> tuple[Tensor, float, float]:
        images = bench.sample(quantize_diffusion(bench.network, calibration, config))
        return images, rms(images, exact), frechet_distance(components(images), real)

    calibrations = {
        seed: bench.collect(n, run.torch_rng(seed)) for seed in run.progress(run.seeds, label="calibrating")
    }
    ours = [quantized(calibration, settings(run)) for calibration in calibrations.values()]
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
    found = {"W8A8": ours[0]}
    for kind in run.progress(list(others)[: run.at(smoke=2, desk=None, full=None)], label="settings"):
        found[kind] = quantized(calibrations[run.seed], others[kind])
    rows = [[kind, change, distance, distance / full_precision] for kind, (_, change, distance) in found.items()]
    figure, axes = run.figure(1, 3)
    shown = {"float32": exact, "W8A8": ours[0][0], "W4A8": found["W4A8"][0]}
    for ax, (title, images) in zip(axes, shown.items(), strict=True):
        ax.imshow(images[:36].reshape(6, 6, 8, 8).transpose(1, 2).reshape(48, 48), cmap="gray", vmin=-1, vmax=1)
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(visible=False)
    return Measurement.over_seeds(
        {"rms": [change for _, change, _ in ours], "frechet_ratio": [d / full_precision for *_, d in ours]},
        table=Table(
            ["network", "rms change of the samples", "Fréchet distance to digits", "/ full precision's"],
            [["float32", 0.0, full_precision, 1.0], *rows],
        ),
        figure=figure,
    )


@measures("q2-calibration-source")
def calibration_source(run: Run) -> Measurement:
    """Calibrate on each source with the paper's scales and with min-max ones, at 8 bits."""
    bench = Bench.of(run, run.at(smoke=16, desk=200, full=2000), run.at(smoke=4, desk=25, full=250))
    n = run.at(smoke=16, desk=512, full=1024)
    states = bench.states(bench.noise)
    exact = bench.sample(bench.network)
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
    errors: dict[tuple[str, str], tuple[float, float]] = {}
    used = list(sources)[: run.at(smoke=3, desk=None, full=None)]
    for source in run.progress(used, label="sources"):
        calibration = bench.collect(n, run.torch_rng(), **sources[source])
        for scales, config in configs.items():
            network = quantize_diffusion(bench.network, calibration, config)
            errors[source, scales] = rms(bench.sample(network), exact), bench.noise_error(network, states)
    ours = errors["sampler, NDTC", "mse"]
    return Measurement(
        {
            "first_time": errors["sampler, t = 1", "mse"][0] / ours[0],
            "last_time": errors["sampler, t = T", "mse"][1] / ours[1],
        },
        table=Table(
            ["calibrated on", *(f"{what}, {scales}" for scales in configs for what in ("rms of samples", "noise MSE"))],
            [[source, *errors[source, "mse"], *errors[source, "min-max"]] for source in used],
        ),
    )


@measures("q3-skewed-times")
def skewed_times(run: Run) -> Measurement:
    """Draw the times of one run's states by every law, and compare the predicted noise of the calibrated networks."""
    bench = Bench.of(run, run.at(smoke=8, desk=128, full=1000), run.at(smoke=4, desk=25, full=250))
    n = run.at(smoke=16, desk=512, full=1024)
    means = run.at(
        smoke=(0.4, 0.8), desk=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), full=tuple(k / 10 for k in range(1, 10))
    )
    laws = {**{f"NDTC({mean:g})": NDTC(mean, 0.4) for mean in means}, "uniform": UniformTimes()}
    states = bench.states(bench.noise)
    errors: dict[str, list[float]] = {law: [] for law in laws}
    for seed in run.progress(run.seeds, label="seeds"):
        # One run of the sampler serves all laws: each draws the call at which a trajectory's state is kept.
        x, lam = bench.states(torch.randn(n, 1, 8, 8, generator=run.torch_rng(seed)))
        for name, law in laws.items():
            call = bench.steps - 1 - law.draw(n, bench.steps, run.torch_rng(1000 + seed))
            calibration = CalibrationSet(x[call, torch.arange(n)], lam[call, torch.arange(n)])
            errors[name].append(
                bench.noise_error(quantize_diffusion(bench.network, calibration, settings(run)), states)
            )
    average = {name: geometric_mean(values) for name, values in errors.items()}
    best = min(means, key=lambda mean: average[f"NDTC({mean:g})"])
    ratios = [ours / uniform for ours, uniform in zip(errors["NDTC(0.4)"], errors["uniform"], strict=True)]
    figure, axes = run.figure()
    for k in range(len(run.seeds)):
        axes.plot(means, [errors[f"NDTC({mean:g})"][k] for mean in means], "o", color="#bbbbbb", markersize=4)
    axes.plot(means, [average[f"NDTC({mean:g})"] for mean in means], "o-", label="normal, deviation 0.4 T")
    axes.axhline(average["uniform"], color="#666666", linestyle="--", label="uniform")
    axes.set(xlabel="mean of the times / T", ylabel="MSE of the predicted noise", title="When the states are taken")
    axes.set_yscale("log")
    axes.legend()
    return Measurement(
        {"best_mean": best, "to_uniform": geometric_mean(ratios)},
        per_seed={"to_uniform": ratios},
        table=Table(
            ["times", "MSE of the predicted noise", "least", "greatest"],
            [[name, average[name], min(values), max(values)] for name, values in errors.items()],
        ),
        figure=figure,
    )


@measures("q4-metric")
def metric(run: Run) -> Measurement:
    """Search the scales by each metric at 8 and 6 bits; the ratios are the larger ones of the two."""
    bench = Bench.of(run, run.at(smoke=8, desk=128, full=1000), run.at(smoke=4, desk=25, full=250))
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
    exact = bench.sample(bench.network)
    errors: dict[tuple[str, int], list[tuple[float, float]]] = {(name, bits): [] for name in options for bits in (8, 6)}
    for seed in run.progress(run.seeds, label="seeds"):
        calibration = bench.collect(n, run.torch_rng(seed))
        for name, bits in errors:
            network = quantize_diffusion(bench.network, calibration, settings(run, bits, bits, **options[name]))
            errors[name, bits].append((bench.noise_error(network, states), rms(bench.sample(network), exact)))
    average = {key: [geometric_mean(column) for column in zip(*found, strict=True)] for key, found in errors.items()}
    return Measurement(
        {
            "mse_to_cosine": max(average["mse", bits][0] / average["cosine", bits][0] for bits in (8, 6)),
            "cosine_to_l1": max(average["cosine", bits][0] / average["l1", bits][0] for bits in (8, 6)),
        },
        table=Table(
            ["metric", *(f"{what}, W{b}A{b}" for b in (8, 6) for what in ("noise MSE", "rms of samples"))],
            [[name, *average[name, 8], *average[name, 6]] for name in options],
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
        mean = change("posterior mean", (x - added / sigma_t * noise) / ratio)
        variance = torch.full((1,), math.log(added * sigma_s**2 / sigma_t**2))
        deviation = torch.exp(0.5 * change("log variance", variance))
        x = change("state", mean + deviation * torch.randn(x.shape, generator=generator))
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

    exact = ancestral(model_fn, bench.noise, bench.steps, run.torch_rng(), keep)
    errors = {}
    for rounded in run.progress(seen, label="operations"):
        quantizer = UniformAffineQuantizer(8).fit(torch.stack(seen[rounded]), "mse", symmetric=False)

        def change(name: str, value: Tensor, only: str = rounded, quantize: Any = quantizer) -> Tensor:
            return quantize(value) if name == only else value

        errors[rounded] = rms(ancestral(model_fn, bench.noise, bench.steps, run.torch_rng(), change), exact)
    return Measurement(
        errors["state"] / errors["network's output, the mean"],
        table=Table(["rounded to 8 bits", "rms change of the samples"], [list(row) for row in errors.items()]),
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
        seconds = interleaved(
            run,
            {
                "float32": partial(network, x, lam),
                "float32, channels last": partial(last_layout, swapped, lam),
                "int8": partial(integer, x, lam),
            },
            run.at(smoke=2, desk=11, full=31),
        )
        fastest = min(seconds["float32"], seconds["float32, channels last"])
        apart = rms(integer(x, lam), quantized(x, lam)) / float(quantized(x, lam).std())
        rows.append([" ".join(map(str, width)), *(1e3 * v for v in seconds.values()), fastest / seconds["int8"], apart])
    has_vnni = torch.cpu._is_vnni_supported()
    return Measurement(
        {"size": size, "speed": rows[-1][-2]},
        table=Table(
            ["widths", "float32, ms", "channels last, ms", "int8, ms", "float32 / int8", "change to simulated"], rows
        ),
        remark=f"On a processor {'with' if has_vnni else 'without'} VNNI, on {torch.get_num_threads()} thread(s).",
    )


class Unconditional(nn.Module):
    """A network of states and times alone, as graphs are traced through it; `first` tells the denoiser its dtype."""

    def __init__(self, network: nn.Module, first: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.first = first

    def forward(self, x: Tensor, lam: Tensor, condition: None = None) -> Tensor:
        """Return the network's output."""
        return self.network(x, lam)


@contextmanager
def untyped() -> Iterator[None]:
    """Switch the checks of types at run time off, where they are on."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@races("torch-ao", exclusive=False)
def against_torch_ao(run: Run) -> Measurement:
    """Quantise the same layers statically by FX graph mode, with 8 full bits and its histogram observers, on noise."""
    import torch.ao.quantization as theirs
    from torch.ao.quantization import quantize_fx

    bench = Bench.of(run, run.at(smoke=8, desk=500, full=5000), run.at(smoke=4, desk=25, full=250))
    n = run.at(smoke=16, desk=512, full=1024)
    exact = bench.sample(bench.network)
    ours, on_noise = bench.collect(n, run.torch_rng()), bench.collect(
        n, run.torch_rng(), mode="noise", times=UniformTimes()
    )  # fmt: skip
    activation = theirs.HistogramObserver.with_args(dtype=torch.quint8, quant_min=0, quant_max=255)
    settings_of_theirs = theirs.QConfigMapping().set_global(
        theirs.QConfig(activation, theirs.default_per_channel_weight_observer)
    )

    @torch.no_grad()
    def static(calibration: CalibrationSet) -> float:
        first, _ = calibration.rows(slice(0, 2))
        whole = Unconditional(bench.network, bench.denoiser.network.first)
        with untyped():  # what a graph is traced with is no tensor
            observed = quantize_fx.prepare_fx(whole, settings_of_theirs, first)
        for args, _ in calibration.batches(256):
            observed(*args)
        return rms(bench.sample(Unconditional(quantize_fx.convert_to_reference_fx(observed), whole.first)), exact)

    def of_ours(calibration: CalibrationSet, **options: Any) -> float:
        return rms(bench.sample(quantize_diffusion(bench.network, calibration, settings(run, **options))), exact)

    rows: list[list[Any]] = [
        ["PTQ4DM", "sampler, NDTC", of_ours(ours)],
        ["PTQ4DM", "noise", of_ours(on_noise)],
        ["torch.ao", "noise", static(on_noise)],
        ["torch.ao", "sampler, NDTC", static(ours)],
    ]
    return Measurement(
        rows[0][2] / rows[2][2], table=Table(["quantised by", "calibrated on", "rms change of the samples"], rows)
    )


class ConvolutionAsProduct(nn.Module):
    """A convolution written as a linear layer of patches, which is what torchao quantises."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.geometry = (
            convolution.kernel_size, convolution.dilation, convolution.padding, convolution.stride
        )  # fmt: skip
        self.linear = nn.Linear(convolution.weight[0].numel(), convolution.out_channels)
        self.linear.load_state_dict({"weight": convolution.weight.flatten(1), "bias": convolution.bias})

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution's output."""
        patches = nn.functional.unfold(x, *self.geometry).transpose(1, 2)  # type: ignore[arg-type]
        out = self.linear(patches.flatten(0, 1)).unflatten(0, patches.shape[:2]).transpose(1, 2)
        stride = self.geometry[3][0]
        return out.unflatten(2, (-(-x.shape[2] // stride), -1))


def as_products(network: nn.Module) -> nn.Module:
    """Return a copy whose convolutions are products, but for the first, which tells the denoiser its dtype."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and name != "first":
                setattr(parent, name, ConvolutionAsProduct(child))
    return network


@races("torchao", exclusive=False)
def against_torchao(run: Run) -> Measurement:
    """Quantise the layers that torchao quantises, the linear ones; and all others, written as linear ones, beside."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    bench = Bench.of(run, run.at(smoke=8, desk=500, full=5000), run.at(smoke=4, desk=25, full=250))
    exact = bench.sample(bench.network)
    # A scale for each step of the sampler, as dynamic ranges are found at each step.
    calibration = bench.collect(run.at(smoke=64, desk=1024, full=4096), run.torch_rng(), times=UniformTimes())
    convolutions = tuple(name for name, layer in bench.network.named_modules() if isinstance(layer, nn.Conv2d))
    per_step = settings(run, activations="input", symmetric_a=False, timewise_groups=bench.steps)
    linear = replace(per_step, skip=convolutions)
    products = replace(per_step, skip=("first",))

    def ours(config: QuantConfig) -> float:
        return rms(bench.sample(quantize_diffusion(bench.network, calibration, config)), exact)

    def theirs(network: nn.Module) -> float:
        quantize_(network, Int8DynamicActivationInt8WeightConfig())
        return rms(bench.sample(network), exact)

    rows: list[list[Any]] = [
        ["linear layers", ours(linear), theirs(copy.deepcopy(bench.network))],
        ["all but the first, written as linear layers for torchao", ours(products), theirs(as_products(bench.network))],
    ]
    return Measurement(
        rows[0][1] / rows[0][2], table=Table(["quantised", "rms change, ours", "rms change, torchao"], rows)
    )


@races("ptq4dm")
def against_ptq4dm(run: Run) -> Measurement:
    """Search the scales of weights, one per channel, and of activations by both, as the released script does."""
    official = load_official()
    bits = run.at(smoke=2, desk=8, full=8)
    generator = run.torch_rng()
    batch = run.at(smoke=2, desk=256, full=256)
    layers = {
        f"{channels} channels, {side} x {side}": (
            torch.randn(channels, channels, 3, 3, generator=generator),
            torch.randn(batch, channels, side, side, generator=generator),
        )
        for channels, side in run.at(smoke=[(8, 4)], desk=[(32, 8), (64, 4)], full=[(128, 32), (256, 16)])
    }

    def by_ours(x: Tensor, axis: int | None, symmetric: bool) -> UniformAffineQuantizer:
        return UniformAffineQuantizer(bits, axis).fit(x, "mse", symmetric=symmetric)

    def by_theirs(x: Tensor, axis: int | None, symmetric: bool) -> Any:
        quantizer = official.UniformAffineQuantizer(bits, symmetric, channel_wise=axis is not None)
        quantizer.set_inited(False)
        quantizer(x)
        return quantizer

    def loss(quantizer: Any, x: Tensor) -> float:
        return float((quantizer(x) - x).abs().pow(2.4).mean())

    rows: list[list[Any]] = []
    total = [0.0, 0.0]
    for name, tensors in layers.items():
        for kind, x, axis in (("weights", tensors[0], 0), ("activations", tensors[1], None)):
            jobs = {"ours": partial(by_ours, x, axis, True), "theirs": partial(by_theirs, x, axis, True)}
            seconds = interleaved(run, jobs, run.at(smoke=1, desk=5, full=5))
            total = [total[0] + seconds["ours"], total[1] + seconds["theirs"]]
            losses = loss(by_ours(x, axis, True), x) / loss(by_theirs(x, axis, True), x)
            rows.append([kind, name, 1e3 * seconds["ours"], 1e3 * seconds["theirs"], losses])
    x = torch.randn(run.at(smoke=64, desk=8192, full=100_000), generator=generator)
    started = time.perf_counter()
    theirs = by_theirs(x, None, False)
    middle = time.perf_counter()
    ours = by_ours(x, None, False)
    ended = time.perf_counter()
    rows.append(
        [
            "zero points too",
            f"{len(x)} numbers",
            1e3 * (ended - middle),
            1e3 * (middle - started),
            loss(ours, x) / loss(theirs, x),
        ]
    )
    return Measurement(
        total[0] / total[1],
        table=Table(["searched", "size", "ours, ms", "official, ms", "error, ours / official"], rows),
        remark="The ratio is of the searches that the released script does, over ranges alone.",
    )


def load_official() -> Any:
    """Load the released quantiser from the folder that PAPERWORKS_PTQ4DM names.

    Raises
    ------
    ImportError
        Where the variable isn't set, or the folder holds no such file.
    """
    folder = os.environ.get("PAPERWORKS_PTQ4DM", "")
    found = sorted(Path(folder).rglob("quant/quant_layer.py")) if folder else []
    if not found:
        raise ImportError(
            f"PAPERWORKS_PTQ4DM is {folder!r}; it takes the folder of a checkout of github.com/42Shawn/PTQ4DM"
        )
    spec = importlib.util.spec_from_file_location("_paperworks_ptq4dm", found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
