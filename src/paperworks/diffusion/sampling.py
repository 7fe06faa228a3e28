"""What all samplers share: the result, the callback, the noise, and the arithmetic on states.

A sampler takes ``model_fn(x, t)`` that returns the noise in `x`, where `t` is one float for the whole batch (or a
tensor with one time per sample, where a sampler says so), an explicit ``generator`` if it draws anything, and a
``callback`` that is called with a `SamplingStep` after each step: a progress bar is a callback.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_finite

ModelFn = Callable[[Tensor, float | Tensor], Tensor]
"""What a sampler calls: a function of a noisy batch and its time that returns a tensor of the batch's shape."""
_CACHED_ELEMENTS = 1 << 18  # five blocks of this many elements fit the last cache; smaller ones cost more in calls
_SMALL = 2 * _CACHED_ELEMENTS
# To add to a zero takes half the time of torch.mul by a number, which goes through promotion of types.
_ZEROS = {dtype: torch.zeros((), dtype=dtype) for dtype in (torch.float32, torch.float64)}


@dataclass(frozen=True)
class SamplingStep:
    """Where a sampler is after a step; the state `x` is the sampler's own buffer: clone it to keep it.

    Parameters
    ----------
    index, total
        Number of the step, from 0, and of all steps, or None where it isn't known beforehand.
    t, x
        Time after the step, and the state there.
    nfe
        Evaluations of the model so far.
    """

    index: int
    total: int | None
    t: float
    x: Tensor
    nfe: int


Callback = Callable[[SamplingStep], None]


@dataclass(frozen=True)
class SampleResult:
    """What a sampler returns.

    Parameters
    ----------
    sample
        The final state.
    nfe
        Number of evaluations of the model (calls with the whole batch).
    times
        Times of the first state and of that after each step, which are those of `trajectory`.
    trajectory
        The states from the first to the last, where the caller asked for them.
    n_accept, n_reject
        Steps accepted and rejected, for a sampler that chooses its steps; per-sample stepping sums them over samples.
    """

    sample: Tensor
    nfe: int
    times: Sequence[float] = ()
    trajectory: Sequence[Tensor] = field(default=(), repr=False)
    n_accept: int = 0
    n_reject: int = 0


def combine(coefficients: Sequence[float | Tensor], tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """Add up ``c_0 x_0 + c_1 x_1 + …`` without temporaries, and reading memory once; see `blocks`.

    Parameters
    ----------
    coefficients
        One number per tensor, or one tensor that broadcasts over it (per-sample coefficients).
    tensors
        What is added; extra ones are not read.
    out
        Where to write; it may be the first of `tensors`, and no other one. A new tensor by default.

    Examples
    --------
    >>> combine([2.0, -1.0], [torch.ones(2), torch.ones(2)])
    tensor([1., 1.])
    """
    first, tensors = tensors[0], tensors[: len(coefficients)]
    in_place = out is first
    whole = first.numel() <= _SMALL or _recorded(tensors) or any(isinstance(c, Tensor) for c in coefficients)
    if whole or any(tensor.shape != first.shape for tensor in tensors):
        return _add_up(coefficients, tensors, out, in_place)
    out = torch.empty_like(first) if out is None else out
    for to, *parts in blocks(out, *tensors):
        _add_up(coefficients, parts, to, in_place)
    return out


def _add_up(
    coefficients: Sequence[float | Tensor], tensors: Sequence[Tensor], out: Tensor | None, in_place: bool
) -> Tensor:
    first = coefficients[0]
    if isinstance(first, Tensor) or tensors[0].dtype not in _ZEROS:
        out = torch.mul(tensors[0], first, out=out)
    elif out is None or not in_place or first != 1:
        out = torch.add(_ZEROS[tensors[0].dtype], tensors[0], alpha=first, out=out)
    for coefficient, tensor in zip(coefficients[1:], tensors[1:], strict=False):
        if isinstance(coefficient, Tensor):
            out.addcmul_(tensor, coefficient)
        else:
            out.add_(tensor, alpha=coefficient)
    return out


def _recorded(tensors: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def blocks(*tensors: Tensor) -> Iterator[Sequence[Tensor]]:
    """Give out tensors of one shape part by part, each small enough for the cache, where that can be done by views.

    What is done to all parts of one turn before the next reads memory once, however many operations it takes.

    Parameters
    ----------
    tensors
        Of one shape. Where they are small, not contiguous, or on another device than the CPU, or a gradient is
        recorded, the only part is the whole.

    Yields
    ------
    tuple of Tensor
        Views of one part of each.

    Examples
    --------
    >>> x, y = torch.ones(3, 1000, 256), torch.ones(3, 1000, 256)
    >>> [part.shape for part, _ in blocks(x, y)]
    [torch.Size([262144]), torch.Size([262144]), torch.Size([243712])]
    """
    whole = tensors[0].numel() <= _SMALL or _recorded(tensors)
    if whole or not all(t.is_contiguous() and t.device.type == "cpu" for t in tensors):
        yield tensors
    else:
        yield from zip(*(t.view(-1).split(_CACHED_ELEMENTS) for t in tensors), strict=True)


def noise_like(x: Float[Tensor, " batch *shape"], generator: torch.Generator | None) -> Float[Tensor, " batch *shape"]:
    """Draw standard normal noise of the shape, dtype and device of `x`; the generator may live on another device.

    Raises
    ------
    ValueError
        Where `generator` is None: noise is drawn from an explicit source only.
    """
    if generator is None:
        raise ValueError("generator is None; a sampler that draws noise takes a torch.Generator")
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)


def per_sample(value: float | Tensor, x: Float[Tensor, " batch *shape"]) -> float | Tensor:
    """Shape a value with one entry per sample so that it broadcasts over `x`; a plain number stays as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def check_state(name: str, x: Tensor) -> Tensor:
    """Return `x` if it can be the state of a sampler: a floating-point batch without NaN or infinity.

    Raises TypeError where it is no floating-point tensor, ValueError where it has no batch dimension or isn't finite.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} is {got}; it takes a tensor of floating point")
    if x.ndim < 1:
        raise ValueError(f"{name} has no dimension; it takes a batch of samples, (batch, *shape)")
    return check_finite(name, x)


def evaluate(
    model_fn: ModelFn, x: Float[Tensor, " batch *shape"], t: float | Tensor, who: str = "model_fn"
) -> Float[Tensor, " batch *shape"]:
    """Ask a model about a state, and return an answer of its shape that shares no memory with it.

    Parameters
    ----------
    model_fn
        The model.
    x, t
        State and time.
    who
        The argument that the model was given as.

    Returns
    -------
    Tensor
        What the model answered, copied where it is `x` itself, whose buffer a sampler writes to again.

    Raises
    ------
    ValueError
        Where the model answered with another shape.

    Examples
    --------
    >>> x = torch.ones(2)
    >>> evaluate(lambda x, t: x, x, 1.0) is x
    False
    """
    answer = model_fn(x, t)
    if answer.shape != x.shape:
        at = "" if isinstance(t, Tensor) else f" at t={t:g}"
        raise ValueError(f"{who} returned shape {tuple(answer.shape)}{at}; it takes that of x, {tuple(x.shape)}")
    return answer.clone() if answer.data_ptr() == x.data_ptr() else answer


def check_sample(sample: Tensor, who: str = "model_fn", where: str = "") -> Tensor:
    """Return a state, or raise ValueError where it isn't finite, as finite answers never make it.

    Parameters
    ----------
    sample
        The state.
    who
        The argument that answered along the way.
    where
        Words on where that was, such as ``in step 3, ``.

    Returns
    -------
    Tensor
        The state itself.
    """
    # One reduction decides the common case: what isn't finite stays so in every sum that it enters.
    if not math.isfinite(sample.sum().item()) and not bool(torch.isfinite(sample.detach()).all()):
        raise ValueError(f"{where}NaN or infinity came from {who}, or the state overflowed; the sample isn't finite")
    return sample


R = TypeVar("R", bound=SampleResult)


class Sampling:
    """One run of a sampler: it asks the model, checks what comes of it, counts, keeps, calls back and reports.

    Samplers differ in how they plan their steps and in nothing else; see `follow` for those whose steps are known
    beforehand.

    Parameters
    ----------
    model_fn
        The model; None for a sampler that asks it by itself.
    x, t
        First state and its time.
    total
        Number of steps, None where it isn't known beforehand.
    return_trajectory
        Whether to keep all states.
    callback
        Called with a `SamplingStep` after each step.
    who
        The argument that answers along the way, for messages.

    Examples
    --------
    >>> sampling = Sampling(lambda x, t: -x, torch.ones(1), 0.0, total=1)
    >>> sampling.reached(torch.ones(1) + 0.5 * sampling.ask(torch.ones(1), 0.0), 0.5)
    >>> sampling.result()
    SampleResult(sample=tensor([0.5000]), nfe=1, times=(0.0, 0.5), n_accept=0, n_reject=0)
    """

    def __init__(
        self,
        model_fn: ModelFn | None,
        x: Float[Tensor, " batch *shape"],
        t: float,
        total: int | None = None,
        return_trajectory: bool = False,
        callback: Callback | None = None,
        who: str = "model_fn",
    ) -> None:
        self.model_fn, self.who = model_fn, who
        self.total, self.callback = total, callback
        self.x = x
        self.times = [t]
        self.trajectory = [x.clone()] if return_trajectory else None
        self.nfe = 0

    def ask(self, x: Float[Tensor, " batch *shape"], t: float | Tensor) -> Float[Tensor, " batch *shape"]:
        """Evaluate the model; see `evaluate`."""
        assert self.model_fn is not None
        self.nfe += 1
        return evaluate(self.model_fn, x, t, self.who)

    def reached(self, x: Float[Tensor, " batch *shape"], t: float, nfe: int = 0) -> None:
        """Report the state after a step.

        Parameters
        ----------
        x, t
            State, which may be a buffer that is written to again, and time.
        nfe
            Evaluations in this step that weren't asked for by `ask`.

        Raises
        ------
        ValueError
            Where the state isn't finite.
        """
        index = len(self.times) - 1
        if not math.isfinite(x.sum().item()):  # the words of the error take as long as a small step
            check_sample(x, self.who, f"in step {index}, which ends at t={t:g}, ")
        self.nfe += nfe
        self.x = x
        self.times.append(t)
        if self.trajectory is not None:
            self.trajectory.append(x.clone())
        if self.callback is not None:
            self.callback(SamplingStep(index, self.total, t, x, self.nfe))

    def result(self, kind: type[R] = SampleResult, **others: Any) -> R:  # type: ignore[assignment]
        """Return what the sampler returns, with fields of a sampler's own or in place of what was kept."""
        sample = self.x if len(self.times) > 1 else self.x.clone()  # the caller's, where there was no step
        fields = {"sample": sample, "nfe": self.nfe, "times": tuple(self.times), "trajectory": self.trajectory or ()}
        return kind(**{**fields, **others})


class Buffers:
    """Buffers like `x`, given out in turn for ever.

    Examples
    --------
    >>> ring = Buffers(torch.zeros(1), 2)
    >>> first, second, third = (next(ring) for _ in range(3))
    >>> first is third, first is second
    (True, False)
    """

    def __init__(self, x: Tensor, count: int) -> None:
        self.ring = deque(torch.empty_like(x) for _ in range(count))

    def __next__(self) -> Tensor:
        self.ring.rotate(-1)
        return self.ring[-1]
