"""The compressor that is learned, models of the scales, and their trainings, which claims share."""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.audio import (
    AudioFileDataset,
    Compressor4C,
    EffectDataset,
    GreyBoxCompressor,
    MicroTCN,
    SignalTrain,
    SignalTrainLoss,
    SynthAudioDataset,
    fit,
    write_sound,
)
from paperworks.evidence import Run
from paperworks.numerics import seeded
from paperworks.testbeds import rendered_instrument

MIX = ("sine", "noisy sine", "pluck", "box")
"""The kinds of signals of the general model: the first four of the paper's mix for compressors."""
PLUCKS = ("pluck",)


def options(run: Run) -> dict[str, Any]:
    """Return the sizes of the model: reduced to a quarter of the rate, or the original's."""
    return run.at(
        smoke={"chunk": 512, "ft": 64, "hop": 24, "rank": 16},
        desk={"chunk": 2048, "ft": 256, "hop": 96},
        full={"chunk": 8192, "ft": 1024, "hop": 384},
    )


def compressor(run: Run) -> Compressor4C:
    """Return the compressor at the scale's rate."""
    return Compressor4C(run.at(smoke=11025, desk=11025, full=44100))


def model_of(run: Run, seed: int, **changes: Any) -> SignalTrain:
    """Return an untrained model."""
    with seeded(seed):
        return SignalTrain(n_knobs=4, **{**options(run), **changes})


def batch_size(run: Run) -> int:
    """Return the chunks of a step."""
    return run.at(smoke=8, desk=64, full=200)


def rate(run: Run) -> float:
    """Return the greatest rate: at desk scale the best of 1e-3, 3e-3 and 6e-3, on seeds and examples of its own."""
    return run.at(smoke=3e-3, desk=6e-3, full=1e-4)


def examples(run: Run, signals: Sequence[Any], seed: int, *, test: bool = False) -> EffectDataset:
    """Return examples of the compressor; tests and trainings of all seeds draw from other streams."""
    size = options(run)["chunk"]
    return SynthAudioDataset(
        compressor(run), size, size // 4, signals, random_state=2 * seed + test, size=200_000 if not test else 4096
    )


def instrument(run: Run, name: Any, seed: int, *, test: bool = False) -> EffectDataset:
    """Return examples of rendered sound of one instrument, other melodies for tests."""
    sr, size = int(compressor(run).sr), options(run)["chunk"]
    with TemporaryDirectory() as folder:
        sound = rendered_instrument(name, run.at(smoke=2.0, desk=20.0, full=300.0), sr, 2 * seed + test)
        write_sound(Path(folder) / f"{name}.wav", sound, sr)
        return AudioFileDataset(
            folder, compressor(run), size, size // 4, stream=False, random_state=2 * seed + test, size=200_000
        )


class Mixture(EffectDataset):
    """Examples of several data sets, each as often."""

    def __init__(self, parts: Sequence[EffectDataset]) -> None:
        first = parts[0]
        super().__init__(first.effect, first.chunk, first.out, first.size, flip=False, random_state=first.random_state)
        self.parts = parts

    def _made(self, rngs: Sequence[np.random.Generator]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        drawn = [
            self.parts[int(random_state.integers(len(self.parts)))][int(random_state.integers(self.size))]
            for random_state in rngs
        ]
        x, knobs, y = (torch.stack(column).numpy() for column in zip(*drawn, strict=True))
        return x, knobs, np.pad(y, ((0, 0), (self.chunk - self.out, 0)))  # of which the last are taken


def trained(run: Run, name: str, data: EffectDataset, steps: int, seed: int, **changes: Any) -> SignalTrain:
    """Return a model trained on a data set from a seed, once for all claims that ask for it."""
    model = model_of(run, seed, **changes)

    def train(model: torch.nn.Module) -> None:
        fit(model, data, steps, batch_size=batch_size(run), lr=rate(run), random_state=seed, progress=run.progress)

    found = run.trained(f"signaltrain-{name}", model, train, steps=steps, seed=seed, scale=run.scale, **changes)
    assert isinstance(found, SignalTrain)
    return found


def baseline(run: Run, kind: str, data: EffectDataset, steps: int, seed: int) -> torch.nn.Module:
    """Return a micro-TCN or a grey box, trained on the same examples."""
    sizes = options(run)
    model: torch.nn.Module
    with seeded(seed):
        if kind == "grey box":
            model = GreyBoxCompressor(compressor(run).sr, 4, sizes["chunk"])
        else:
            # Dilations that look back as far as a chunk of the scale is long.
            model = MicroTCN(4, sizes["chunk"], growth=run.at(smoke=3, desk=5, full=10))
    # The grey box is exact at its settings, which the absolute error finds to more digits.
    lr, loss = (5e-2, SignalTrainLoss(data="mae")) if kind == "grey box" else (3e-3, None)

    def train(model: torch.nn.Module) -> None:
        fit(model, data, steps, batch_size=batch_size(run), lr=lr, loss=loss, random_state=seed, progress=run.progress)

    name = f"signaltrain-{kind.replace(' ', '-')}"
    return run.trained(name, model, train, steps=steps, seed=seed, scale=run.scale)


def errors(y_hat: Tensor, y: Tensor) -> Float[Tensor, " n"]:
    """Return the mean absolute error of each example."""
    return (y_hat - y).abs().double().mean(-1)


def decibels(part: Tensor, whole: Tensor) -> float:
    """Return a ratio of energies in decibels."""
    return 10 * math.log10(float(part.square().sum() / whole.square().sum()))
