"""The races against the packages that quantise networks too."""

import copy
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn

from paperworks.diffusion import (
    CalibrationSet,
    UniformAffineQuantizer,
    UniformTimes,
    quantize_diffusion,
)
from paperworks.evidence import Measurement, Run, Table, Times, interleaved, mean
from paperworks.papers.ptq4dm.problems import Bench, rms, settings


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


def torch_ao(run: Run) -> Measurement:
    """Quantise the same layers statically by FX graph mode, with 8 full bits and its histogram observers, on noise."""
    import torch.ao.quantization as theirs
    from torch.ao.quantization import quantize_fx

    images = run.at(smoke=8, desk=128, full=2000)
    bench = Bench.of(run, images * len(run.seeds), run.at(smoke=4, desk=25, full=250))
    n = run.at(smoke=16, desk=512, full=1024)
    activation = theirs.HistogramObserver.with_args(dtype=torch.quint8, quant_min=0, quant_max=255)
    settings_of_theirs = theirs.QConfigMapping().set_global(
        theirs.QConfig(activation, theirs.default_per_channel_weight_observer)
    )

    def of_theirs(calibration: CalibrationSet) -> nn.Module:
        first, _ = calibration.rows(slice(0, 2))
        whole = Unconditional(bench.network, bench.denoiser.network.first)
        with untyped():  # what a graph is traced with is no tensor
            observed = quantize_fx.prepare_fx(whole, settings_of_theirs, first)
        with torch.no_grad():
            for args, _ in calibration.batches(256):
                observed(*args)
        return Unconditional(quantize_fx.convert_to_reference_fx(observed), whole.first)

    def of_ours(calibration: CalibrationSet) -> nn.Module:
        return quantize_diffusion(bench.network, calibration, settings(run))

    kinds = {"sampler, NDTC": {}, "noise": {"mode": "noise", "times": UniformTimes()}}
    makers = {"PTQ4DM": of_ours, "torch.ao": of_theirs}
    compared = ("PTQ4DM", "sampler, NDTC"), ("torch.ao", "noise")
    beside = run.at(smoke=(), desk=run.seeds[:1], full=run.seeds[:1])  # what isn't compared is measured once
    errors: dict[tuple[str, str], list[float]] = {}
    for seed, noise in run.progress(list(zip(run.seeds, bench.noise.split(images), strict=True)), label="seeds"):
        precise = bench.sample(bench.network, noise)
        for by, kind in itertools.product(makers, kinds):
            if seed in beside or (by, kind) in compared:
                network = makers[by](bench.collect(n, run.torch_rng(seed), **kinds[kind]))
                errors.setdefault((by, kind), []).append(rms(bench.sample(network, noise), precise))
    return Measurement(
        mean([a / b for a, b in zip(*(errors[key] for key in compared), strict=True)], of="paired calibrations"),
        table=Table(
            ["quantised by", "calibrated on", "rms change of the samples"],
            [[*key, statistics.fmean(values)] for key, values in errors.items()],
        ),
        settings="FX graph mode, 8 full bits, histogram observers for activations and one scale a channel for weights, "
        "calibrated on noise as its documentation would have it",
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


def torchao(run: Run) -> Measurement:
    """Quantise the layers that torchao quantises, the linear ones; and all others, written as linear ones, beside."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    images = run.at(smoke=8, desk=128, full=2000)
    bench = Bench.of(run, images * len(run.seeds), run.at(smoke=4, desk=25, full=250))
    n = run.at(smoke=64, desk=1024, full=4096)
    convolutions = tuple(name for name, layer in bench.network.named_modules() if isinstance(layer, nn.Conv2d))
    per_step = settings(run, activations="input", symmetric_a=False, timewise_groups=bench.steps)
    parts: dict[str, tuple[tuple[str, ...], Callable[[nn.Module], nn.Module]]] = {
        "linear layers": (convolutions, copy.deepcopy),
        "all but the first, written as linear layers for torchao": (("first",), as_products),
    }
    linear = next(iter(parts))
    errors: dict[str, list[tuple[float, float]]] = {}
    for seed, noise in run.progress(list(zip(run.seeds, bench.noise.split(images), strict=True)), label="seeds"):
        precise = bench.sample(bench.network, noise)
        # A scale for each step of the sampler, as dynamic ranges are found at each step.
        calibration = bench.collect(n, run.torch_rng(seed), times=UniformTimes())
        for part, (skip, rewritten) in parts.items():
            if seed == run.seed or part == linear:
                ours = quantize_diffusion(bench.network, calibration, replace(per_step, skip=skip))
                theirs = rewritten(bench.network)
                quantize_(theirs, Int8DynamicActivationInt8WeightConfig())
                found = [rms(bench.sample(network, noise), precise) for network in (ours, theirs)]
                errors.setdefault(part, []).append((found[0], found[1]))
    return Measurement(
        mean([a / b for a, b in errors[linear]], of="paired calibrations"),
        table=Table(
            ["quantised", "rms change, ours", "rms change, torchao"],
            [
                [part, *(statistics.fmean(column) for column in zip(*pairs, strict=True))]
                for part, pairs in errors.items()
            ],
        ),
        settings="Int8DynamicActivationInt8WeightConfig, which finds a range for every input as it comes",
    )


def ptq4dm(run: Run) -> Measurement:
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
    whole: list[Times] = []
    for name, tensors in layers.items():
        for kind, x, axis in (("weights", tensors[0], 0), ("activations", tensors[1], None)):
            jobs = {"ours": partial(by_ours, x, axis, True), "theirs": partial(by_theirs, x, axis, True)}
            times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=15))
            whole.append(times)
            losses = loss(by_ours(x, axis, True), x) / loss(by_theirs(x, axis, True), x)
            rows.append([kind, name, 1e3 * times.median("ours"), 1e3 * times.median("theirs"), losses])
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
    sums = {
        who: [sum(parts) for parts in zip(*(times.seconds[who] for times in whole), strict=True)]
        for who in ("ours", "theirs")
    }
    return Measurement(
        Times(sums).ratio("ours", "theirs"),
        table=Table(["searched", "size", "ours, ms", "official, ms", "error, ours / official"], rows),
        remark="The ratio is of the searches that the released script does, over ranges alone.",
        settings="the released quantiser, 8 bits, one scale a channel for weights, ranges alone",
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
