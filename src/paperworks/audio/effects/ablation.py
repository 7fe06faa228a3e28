"""Trains a base and variants of it that differ in one switch each, and compares their errors."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import process_time
from typing import Any, NamedTuple

from paperworks.audio.effects.base import Effect
from paperworks.audio.effects.datasets import SynthAudioDataset
from paperworks.audio.effects.losses import SignalTrainLoss
from paperworks.audio.effects.model import SignalTrain
from paperworks.audio.effects.training import Evaluation, evaluate, fit
from paperworks.core.validation import check_count
from paperworks.numerics.random import seeded
from paperworks.numerics.training import Progress, silent

Options = Mapping[str, Any]
_PARTS: dict[str, Callable[..., Any]] = {
    "model": SignalTrain,
    "data": SynthAudioDataset,
    "loss": SignalTrainLoss,
    "fit": fit,
}


class Ablation(NamedTuple):
    """A variant, trained from one seed.

    Parameters
    ----------
    name
        Name of the variant; "base" for the base.
    seed
        Seed of weights, draws and examples.
    found
        Errors on the judged examples.
    seconds
        Processor time of the training.

    Examples
    --------
    >>> import numpy as np
    >>> found = Evaluation(0.02, -15.0, 0.07, -3.0, 0.06, np.array([0.01, 0.03]))
    >>> Ablation("base", 0, found, 1.5).name
    'base'
    """

    name: str
    seed: int
    found: Evaluation
    seconds: float


def ablate(
    effect: Effect,
    base: Options,
    switches: Mapping[str, Options],
    steps: int,
    seeds: Sequence[int] = (0,),
    *,
    judged: int = 256,
    progress: Progress = silent,
) -> Iterator[Ablation]:
    """Train a base, and variants that differ from it in their own options, from the same seeds.

    All are judged on the same examples, which none was trained on; a variant with another effect or rate has its own.

    Parameters
    ----------
    effect
        What is learned.
    base
        Options of the base. A key names a part and its parameter: "model.rank" (`SignalTrain`), "data.signals"
        (`SynthAudioDataset`), "loss.data" (`SignalTrainLoss`) or "fit.lr" (`fit`); "data.effect" is the effect.
    switches
        For each variant, by its name, the options in which it differs.
    steps
        Steps of each training, unless "fit.steps" says otherwise.
    seeds
        Seeds, each of which trains all variants; 0 alone by default.
    judged
        Number of examples that decide; 256 by default.
    progress
        Wraps what is gone through.

    Yields
    ------
    Ablation
        Iterator of a result for each seed and variant, the base first.

    Raises
    ------
    ValueError
        For options that no part has, and a variant named "base".

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584, whose experiments are such.

    Examples
    --------
    >>> from paperworks.audio import Compressor4C
    >>> base = {"model.chunk": 512, "model.ft": 64, "model.hop": 24, "model.rank": 16, "fit.batch_size": 4}
    >>> rows = ablate(Compressor4C(8000), base, {"film": {"model.knob_mode": "film"}}, steps=2, judged=8)
    >>> [row.name for row in rows]
    ['base', 'film']
    """
    if "base" in switches:
        raise ValueError("switches has 'base'; that is the name of the base itself")
    variants = {"base": dict(base)} | {name: {**base, **own} for name, own in switches.items()}
    for name, options in variants.items():
        for key in options:
            part, _, parameter = key.partition(".")
            if part not in _PARTS or parameter not in inspect.signature(_PARTS[part]).parameters:
                raise ValueError(f"{key!r} of {name!r} is no option; it takes one of a part of {sorted(_PARTS)}")
    check_count("steps", steps)
    jobs = [(seed, name) for seed in seeds for name in variants]
    for seed, name in progress(jobs, label="variants"):
        own = {part: _of(variants[name], part) for part in _PARTS}
        learned = own["data"].pop("effect", effect)
        with seeded(seed):
            model = SignalTrain(**{"n_knobs": len(learned.knobs), **own["model"]})
        sizes = {"chunk": model.chunk, "out": model.out_chunk}
        data = SynthAudioDataset(learned, **{**sizes, "random_state": 2 * seed, **own["data"]})
        began = process_time()
        fit(
            model,
            data,
            **{"steps": steps, "random_state": seed, "loss": SignalTrainLoss(**own["loss"]), **own["fit"]},
        )
        seconds = process_time() - began
        # Odd seeds are none of training's; what a variant restricts in its data is not restricted here.
        usual = {k: v for k, v in _of(base, "data").items() if k not in ("effect", "random_state", "size")}
        test = SynthAudioDataset(learned, **{**sizes, **usual, "size": judged, "random_state": 2 * seed + 1})
        yield Ablation(name, seed, evaluate(model, test, range(judged)), seconds)


def _of(options: Options, part: str) -> dict[str, Any]:
    return {key.partition(".")[2]: value for key, value in options.items() if key.startswith(f"{part}.")}
