"""Training of models of effects: one cycle of the rate, a test of rates, and what a trained model is worth."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.audio.effects.checkpoints import Checkpoint
from paperworks.audio.effects.datasets import EffectDataset, Example
from paperworks.audio.effects.losses import SignalTrainLoss
from paperworks.audio.effects.metrics import error_to_signal, mean_absolute_error
from paperworks.audio.effects.model import Processed, SignalTrain
from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics.random import torch_generator
from paperworks.numerics.training import Progress, silent, train

_EVERY = 100  # steps from one checkpoint to the next


def one_cycle(step: int, steps: int) -> tuple[float, float]:
    """Return the share of the greatest rate, and Adam's first coefficient, at a step of one cycle.

    The rate rises from 1/15 to 1 along a cosine over 30 % of the steps and falls to 1/1500; the coefficient goes from
    0.95 to 0.85 and back.

    Parameters
    ----------
    step
        The step, from 0 on.
    steps
        Number of steps of the whole training.

    Returns
    -------
    tuple
        Share of the greatest rate, and the coefficient.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; the cycle: Smith, arXiv:1803.09820.

    Examples
    --------
    >>> [round(v, 4) for v in one_cycle(0, 101)], one_cycle(30, 101)
    ([0.0667, 0.95], (1.0, 0.85))
    """
    top = 0.3 * max(steps - 1, 1)
    rising = step < top
    part = step / top if rising else (step - top) / max(steps - 1 - top, 1e-9)
    lift = (1 - math.cos(math.pi * min(part, 1.0))) / 2
    if rising:
        return 1 / 15 + (1 - 1 / 15) * lift, 0.95 - 0.1 * lift
    return 1 + (1 / 1500 - 1) * lift, 0.85 + 0.1 * lift


def _moved(batch: Example, model: nn.Module) -> Example:
    """Return a batch in the type and on the device of a model."""
    own = next(itertools.chain(model.parameters(), model.buffers()), batch.x)
    return Example(*(t.to(own) for t in batch))


def _check_rates(model: nn.Module, data: EffectDataset) -> None:
    """Raise ValueError where a model is made for another rate than that of an effect."""
    made = getattr(model, "sr", None)
    if made is not None and made != data.effect.sr:
        raise ValueError(f"data has {data.effect.sr:g} samples a second; the model is made for {made:g}")


def _loss_of(model: nn.Module, batch: Example, loss: nn.Module, precision: str) -> Tensor:
    """Return the loss of a batch, of any model that maps chunks and knobs to sound."""
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        found = model(batch.x, batch.knobs, return_aux=True) if isinstance(model, SignalTrain) else None
        if found is None:
            y, magnitude = model(batch.x, batch.knobs), None
        else:
            y, magnitude = found
    kind = torch.promote_types(batch.y.dtype, torch.float32)
    return loss(y.to(kind), batch.y.to(kind), None if magnitude is None else magnitude.to(kind))


def _adam(model: nn.Module, lr: float, clip_frontend: float) -> torch.optim.Optimizer:
    """Return Adam, which bounds the L1 norm of the front end's gradient before each step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, check_number("lr", lr, gt=0), fused=True)
    front = [p for p in model.front.parameters() if p.requires_grad] if isinstance(model, SignalTrain) else []
    if front and clip_frontend < math.inf:

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(front, clip_frontend, norm_type=1)

        optimizer.register_step_pre_hook(clip)
    return optimizer


def fit(
    model: nn.Module,
    data: EffectDataset,
    steps: int,
    *,
    batch_size: int = 200,
    lr: float = 1e-4,
    loss: nn.Module | None = None,
    schedule: Literal["one-cycle", "constant"] = "one-cycle",
    precision: Literal["float32", "bfloat16"] = "float32",
    clip_frontend: float = 1.0,
    random_state: int = 0,
    checkpoint: str | Path | None = None,
    callback: Callable[[int, float], bool | None] | None = None,
    progress: Progress = silent,
) -> Float[np.ndarray, " steps"]:
    """Train a model on examples of an effect by Adam.

    Parameters
    ----------
    model
        Trained in place: a `SignalTrain`, or any module called with chunks and knobs.
    data
        Examples, of which each step draws some at random.
    steps
        Number of steps; a million in the paper.
    batch_size
        Examples of a step; 200 by default, the paper's.
    lr
        Greatest rate; 1e-4 by default, the paper's. `lr_finder` proposes one.
    loss
        Called with processed sound, target and magnitudes; `SignalTrainLoss` by default.
    schedule
        "one-cycle", the paper's, or "constant".
    precision
        "float32", or "bfloat16" for products of matrices in half the bits.
    clip_frontend
        Greatest L1 norm of the gradient of a trainable front end; 1 by default, the paper's.
    random_state
        Seed of the draws.
    checkpoint
        File that is written every 100 steps and at the end. Where it is there already, the same training goes on from
        it as if it had not been interrupted. None by default.
    callback
        Called with each step and its loss; where it returns True training ends.
    progress
        Wraps the range of steps.

    Returns
    -------
    ndarray
        The loss of each step.

    Raises
    ------
    ValueError
        For counts and choices out of range, a model made for another rate than the data's, and a checkpoint that is
        broken or of another training.
    FloatingPointError
        Where the loss becomes NaN or infinite.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584, training.

    Examples
    --------
    >>> from paperworks.audio import Compressor4C, SynthAudioDataset
    >>> model = SignalTrain(4, chunk=512, ft=64, hop=24, rank=16)
    >>> data = SynthAudioDataset(Compressor4C(8000), chunk=512, out=128)
    >>> len(fit(model, data, 3, batch_size=4))
    3
    """
    _check_rates(model, data)
    check_choice("schedule", schedule, ("one-cycle", "constant"))
    check_choice("precision", precision, ("float32", "bfloat16"))
    criterion = SignalTrainLoss() if loss is None else loss
    optimizer = _adam(model, lr, clip_frontend)
    generator = torch_generator(random_state)
    check_count("batch_size", batch_size)

    def of_step(step: int) -> Tensor:
        chosen = torch.randint(len(data), (batch_size,), generator=generator).tolist()
        return _loss_of(model, _moved(data.batch(chosen), model), criterion, precision)

    def share(step: int) -> float:
        found, beta = one_cycle(step, steps)
        for group in optimizer.param_groups:  # Adam's momentum is called so
            group["betas"] = (beta, group["betas"][1])
        return found

    kept = Checkpoint(checkpoint, model, optimizer, generator, steps=steps, batch_size=batch_size, seed=random_state)
    first = kept.read()
    if first == check_count("steps", steps):
        return np.array(kept.losses)

    def after(step: int, value: float) -> bool | None:
        stop = callback is not None and callback(first + step, value)
        kept.losses.append(value)
        if stop or (first + step + 1) % _EVERY == 0 or first + step + 1 == steps:
            kept.write()
        return stop

    model.train()
    try:
        train(
            lambda step: of_step(first + step),
            optimizer,
            steps - first,
            schedule=(lambda step: share(first + step)) if schedule == "one-cycle" else None,
            callback=after,
            progress=progress,
            label="training",
        )
    finally:
        model.eval()
    return np.array(kept.losses)


class LRTest(NamedTuple):
    """Losses at rising rates.

    Parameters
    ----------
    rates
        The rate of each step.
    losses
        The loss before each step, smoothed.
    suggested
        A tenth of the rate with the least loss.

    Examples
    --------
    >>> LRTest(np.array([0.1, 1.0]), np.array([2.0, 1.0]), 0.1).suggested
    0.1
    """

    rates: Float[np.ndarray, " steps"]
    losses: Float[np.ndarray, " steps"]
    suggested: float


def lr_finder(
    model: nn.Module,
    data: EffectDataset,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    *,
    batch_size: int = 200,
    loss: nn.Module | None = None,
    random_state: int = 0,
) -> LRTest:
    """Train a copy of a model with a rate that rises from step to step, until the loss is four times its least.

    Parameters
    ----------
    model
        Left as it is.
    data
        Examples, of which each step draws some at random.
    low, high
        Rates of the first and the last step; 1e-6 and 1 by default.
    steps
        Number of steps; 100 by default.
    batch_size
        Examples of a step; 200 by default, the paper's.
    loss
        Called with processed sound, target and magnitudes; `SignalTrainLoss` by default.
    random_state
        Seed of the draws.

    Returns
    -------
    LRTest
        Rates, smoothed losses, and the rate that they suggest.

    Raises
    ------
    ValueError
        For rates that aren't positive and in order, counts out of range, and a model made for another rate of samples.

    References
    ----------
    Smith, arXiv:1506.01186, the range test.

    Examples
    --------
    >>> from paperworks.audio import Compressor4C, SynthAudioDataset
    >>> _ = torch.manual_seed(0)  # of the model's first weights
    >>> model = SignalTrain(4, chunk=512, ft=64, hop=24, rank=16)
    >>> data = SynthAudioDataset(Compressor4C(8000), chunk=512, out=128)
    >>> float(lr_finder(model, data, 1e-5, 1e-4, steps=4, batch_size=4).rates[0])
    1e-05
    """
    check_number("high", high, gt=check_number("low", low, gt=0))
    check_count("steps", steps, at_least=2)
    check_count("batch_size", batch_size)
    _check_rates(model, data)
    trial = copy.deepcopy(model)
    rates = np.geomspace(low, high, steps)
    smoothed: list[float] = []
    average = 0.0

    def watch(step: int, value: float) -> bool:
        nonlocal average
        average = 0.9 * average + 0.1 * value
        smoothed.append(average / (1 - 0.9 ** (step + 1)))
        return smoothed[-1] > 4 * min(smoothed)

    criterion = SignalTrainLoss() if loss is None else loss
    generator = torch_generator(random_state)

    def of_step(step: int) -> Tensor:
        chosen = torch.randint(len(data), (batch_size,), generator=generator).tolist()
        return _loss_of(trial, _moved(data.batch(chosen), trial), criterion, "float32")

    optimizer = _adam(trial, 1.0, 1.0)
    try:
        train(of_step, optimizer, steps, schedule=lambda step: float(rates[step]), callback=watch)
    except FloatingPointError:  # which ends the test as well
        if len(smoothed) < 2:
            raise
    tried = rates[: len(smoothed)]
    return LRTest(tried, np.array(smoothed), float(tried[int(np.argmin(smoothed))]) / 10)


class Evaluation(NamedTuple):
    """What a model's output is worth, beside the input and the best that a constant gain does.

    Parameters
    ----------
    mae, esr
        Mean absolute error, and error-to-signal ratio in decibels, of the model.
    dry_mae, dry_esr
        The same of the input itself.
    gain_mae
        The mean absolute error of the input times the one number that makes it least.
    errors
        The mean absolute error of each example.

    Examples
    --------
    >>> Evaluation(0.02, -15.0, 0.07, -3.0, 0.06, np.array([0.01, 0.03])).mae
    0.02
    """

    mae: float
    esr: float
    dry_mae: float
    dry_esr: float
    gain_mae: float
    errors: Float[np.ndarray, " n"]


@torch.no_grad()
def processed(model: nn.Module, x: Tensor, knobs: Tensor, batch_size: int = 256) -> Tensor:
    """Return what a model makes of chunks, a batch at a time."""
    parts = []
    for a, b in zip(x.split(batch_size), knobs.split(batch_size), strict=True):
        found = model(a, b)
        parts.append(found.y if isinstance(found, Processed) else found)
    return torch.cat(parts)


def evaluate(model: nn.Module, data: EffectDataset | Example, indices: Sequence[int] | None = None) -> Evaluation:
    """Compare a model with its target, with the input, and with the best constant gain.

    Parameters
    ----------
    model
        Called with chunks and knobs.
    data
        Examples to judge by, of other seeds than those of training.
    indices
        Numbers of the examples of a data set; its first 256 by default.

    Returns
    -------
    Evaluation
        Errors of the model, of the input and of the best gain.

    Raises
    ------
    ValueError
        For a model made for another rate than the data's, and one whose output isn't finite.

    Examples
    --------
    >>> from paperworks.audio import Compressor4C, SynthAudioDataset
    >>> model = SignalTrain(4, chunk=512, ft=64, hop=24, rank=16)
    >>> data = SynthAudioDataset(Compressor4C(8000), chunk=512, out=128, random_state=1)
    >>> found = evaluate(model, data, range(8))
    >>> bool(found.gain_mae <= found.dry_mae)
    True
    """
    if isinstance(data, EffectDataset):
        _check_rates(model, data)
        chosen = range(min(256, len(data))) if indices is None else indices
        data = data.batch(list(chosen))
    data = _moved(data, model)
    y_hat = processed(model, data.x, data.knobs)
    dry = data.x[:, -data.y.shape[1] :]
    return Evaluation(
        mean_absolute_error(y_hat, data.y),
        error_to_signal(y_hat, data.y),
        mean_absolute_error(dry, data.y),
        error_to_signal(dry, data.y),
        mean_absolute_error(best_gain(dry, data.y) * dry, data.y),
        (y_hat - data.y).abs().double().mean(-1).cpu().numpy(),
    )


def best_gain(x: Tensor, y: Tensor) -> float:
    """Return the number that makes the mean absolute difference of its product with `x` and `y` least.

    It is the median of the ratios, weighted by the sizes of `x`.

    Parameters
    ----------
    x
        What is multiplied, any shape.
    y
        What it is compared with, of the same shape.

    Returns
    -------
    float
        The gain; 0 where `x` is silent.

    Examples
    --------
    >>> best_gain(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 9.0]))
    0.5
    """
    a, b = x.detach().double().flatten(), y.detach().double().flatten()
    a, b = a[a != 0], b[a != 0]
    if not a.numel():
        return 0.0
    ratios, order = (b / a).sort()
    share = a.abs()[order].cumsum(0)
    return float(ratios[torch.searchsorted(share, share[-1] / 2)])
