"""One step of an embedded pair, with what it tells of itself: its error, how stiff the problem is, what is inside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.numerics.pairs import EmbeddedPair

Func = Callable[[Tensor, Tensor], Tensor]
Control = Literal["batch", "sample"]
EstimateKind = Literal["error_estimate", "stiffness_estimate", "mixed"]
ESTIMATES: tuple[EstimateKind, ...] = ("error_estimate", "stiffness_estimate", "mixed")
"""What can be estimated of a step: its error, the stiffness that it met, or both."""

_MIXED = 0.1  # weight of the stiffness in the mixed estimate


class _Weights(NamedTuple):
    """A pair's weights as tensors."""

    rows: tuple[Tensor, ...]
    b: Tensor
    error: Tensor
    apart: Tensor  # of the slopes in the difference between the step's end and its last stage
    c: np.ndarray


@lru_cache(maxsize=64)
def _weights(pair: EmbeddedPair, dtype: torch.dtype, device: torch.device) -> _Weights:
    def tensor(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    apart = [b - a for b, a in zip(pair.b, (*pair.a[-1], 0.0), strict=True)]
    assert pair.error is not None
    with torch.inference_mode(False):
        return _Weights(
            tuple(map(tensor, pair.a)), tensor(pair.b), tensor(pair.error), tensor(apart), np.array((*pair.c[1:], 1.0))
        )


class _Slopes:
    """The slopes of a step: rows of one buffer, or where a graph is asked for tensors of their own."""

    def __init__(self, first: Tensor, count: int) -> None:
        self.shape = first.shape
        self.buffer = None if torch.is_grad_enabled() else first.new_empty((count, first.numel()))  # no copies to sum
        self.kept: list[Tensor] = []
        self.append(first)

    def append(self, slope: Tensor) -> None:
        # Copies, as some functions return the same memory each time.
        if self.buffer is not None:
            row = self.buffer[len(self.kept)]
            slope = row.copy_(slope.reshape(-1)).view(self.shape)
        elif not slope.requires_grad:
            slope = slope.clone()
        self.kept.append(slope)

    def sum(self, weights: Tensor) -> Tensor:
        """Add up the first slopes, as many as there are weights."""
        if self.buffer is not None:
            return torch.mv(self.buffer[: len(weights)].T, weights).view(self.shape)
        return torch.tensordot(weights, torch.stack(self.kept[: len(weights)]), 1)

    def moved(self, u: Tensor, length: "float | Tensor", weights: Tensor, count: int) -> Tensor:
        """Return the state plus the length times the first slopes, as many as counted, with their weights."""
        if isinstance(length, Tensor):
            return torch.addcmul(u, length, self.sum(weights))
        if self.buffer is not None:
            return torch.addmv(u.reshape(-1), self.buffer[:count].T, weights, alpha=length).view(self.shape)
        return torch.add(u, self.sum(weights), alpha=length)


@dataclass(frozen=True)
class Trial:
    """A step as it was tried.

    Parameters
    ----------
    start, end
        The state where it begins and ends.
    length
        How far it goes: a number, or one for each sample in a shape that goes with the state.
    slopes
        Its slopes, that at the end last.
    pair
        The method with its weights.

    Examples
    --------
    >>> from paperworks.numerics import PAIRS
    >>> u = torch.ones(1, 1, dtype=torch.float64)
    >>> trial = take_step(lambda t, u: u, u, u, 0.0, 0.1, PAIRS["tsit5"])
    >>> round(trial.end.item(), 6), trial.error_estimate(1e-6, 0.0, "batch").shape
    (1.105171, torch.Size([1]))
    """

    start: Tensor
    end: Tensor
    length: "float | Tensor"
    slopes: _Slopes
    pair: EmbeddedPair

    @property
    def last(self) -> Tensor:
        """The slope at the step's end, the first of the next step."""
        return self.slopes.kept[-1]

    def squares(self, atol: "float | Tensor", rtol: "float | Tensor") -> Float[Tensor, " batch"]:
        """Return for each sample the mean square of its error in units of the tolerances.

        Parameters
        ----------
        atol, rtol
            Absolute and relative tolerance: numbers, or one for each sample in a shape that goes with the state.

        Returns
        -------
        Tensor
            Mean squares without unit, one for each sample.
        """
        error = self.slopes.sum(_weights(self.pair, self.start.dtype, self.start.device).error) * self.length
        scale = torch.maximum(self.start.abs(), self.end.abs()) * rtol + atol
        return (error / scale).reshape(len(error), -1).square().mean(1)

    def error_estimate(
        self, atol: "float | Tensor", rtol: "float | Tensor", control: Control
    ) -> Float[Tensor, " groups"]:
        """Return E, the root mean square of the error in units of the tolerances, over the batch or of each sample.

        Parameters
        ----------
        atol, rtol
            Absolute and relative tolerance: numbers, or one for each sample in a shape that goes with the state.
        control
            ``batch`` for one value, ``sample`` for one of each sample.

        Returns
        -------
        Tensor
            One value, or one for each sample; 1 is what the tolerances allow.
        """
        return _root(_grouped(self.squares(atol, rtol), control))

    def stiffness_estimate(self, control: Control) -> Float[Tensor, " groups"]:
        """Return how fast the slope changes with the state at the step's end, in units of the stability's size.

        Parameters
        ----------
        control
            ``batch`` for one value, ``sample`` for one of each sample.

        Returns
        -------
        Tensor
            One value, or one for each sample: ``|lambda| / stability`` for ``f = lambda u``, 0 where nothing moves.
            Where the stages are as near as rounding can tell apart, it goes to 0.
        """
        apart = _weights(self.pair, self.start.dtype, self.start.device).apart
        turned = self.slopes.kept[-1] - self.slopes.kept[-2]
        moved = self.slopes.sum(apart) * self.length
        over, under, state = (_norm(x, control) for x in (turned, moved, self.end.detach()))
        limits = torch.finfo(under.dtype)
        under = under + limits.eps * state
        return torch.where(under <= limits.tiny, 0.0, over / under.clamp_min(limits.tiny)) / self.pair.stability

    def estimate(
        self, kind: EstimateKind, atol: "float | Tensor", rtol: "float | Tensor", control: Control
    ) -> Float[Tensor, " groups"]:
        """Return what a regulariser penalises: ``h E``, the stiffness, or the first plus 0.1 of the second.

        Parameters
        ----------
        kind
            ``error_estimate``, ``stiffness_estimate`` or ``mixed``.
        atol, rtol, control
            As `error_estimate` takes them.

        Returns
        -------
        Tensor
            One value, or one for each sample.
        """
        if kind == "stiffness_estimate":
            return self.stiffness_estimate(control)
        error = self.error_estimate(atol, rtol, control)
        error = error * (abs(self.length) if isinstance(self.length, float) else self.length.reshape(-1).abs())
        return error if kind == "error_estimate" else error + _MIXED * self.stiffness_estimate(control)

    def inside(self, share: "float | Tensor", samples: np.ndarray | None = None) -> Tensor:
        """Return the state at a share of the step, by the pair's dense output.

        Parameters
        ----------
        share
            From 0 at the start to 1 at the end: a number, or several.
        samples
            Number of the sample that each of several shares is of.

        Returns
        -------
        Tensor
            The states there, of all samples for a number, else one for each share.
        """
        dense = self.start.new_tensor(self.pair.dense)
        powers = torch.arange(1, dense.shape[1] + 1, device=self.start.device)
        if samples is None:
            return self.start + self.length * self.slopes.sum(dense @ share ** powers.to(dense))
        chosen = torch.as_tensor(samples, device=self.start.device)
        weights = (dense[..., None] * torch.as_tensor(share).to(dense) ** powers[:, None]).sum(1)  # (slopes, shares)
        slopes = torch.stack([k[chosen] for k in self.slopes.kept])
        moved = (slopes * weights.reshape(*weights.shape, *[1] * (self.start.ndim - 1))).sum(0)
        length = self.length[chosen] if isinstance(self.length, Tensor) else self.length
        return self.start[chosen] + length * moved


def take_step(
    func: Func,
    u: Float[Tensor, "batch ..."],
    slope: Float[Tensor, "batch ..."],
    t: "float | np.ndarray",
    h: "float | np.ndarray",
    pair: EmbeddedPair,
) -> Trial:
    """Try one step of a pair.

    Parameters
    ----------
    func
        ``func(t, u)``, the slope; `t` is a tensor without dimension, or (batch,) where each sample has its time.
    u, slope
        The state and its slope where the step begins.
    t, h
        Where it begins and how far it goes, of either sign: numbers, or arrays with one for each sample.
    pair
        The method with its weights.

    Returns
    -------
    Trial
        The step, with what it estimates of itself.

    Examples
    --------
    >>> from paperworks.numerics import PAIRS
    >>> u = torch.ones(2, 1, dtype=torch.float64)
    >>> take_step(lambda t, u: -u, u, -u, 0.0, 0.5, PAIRS["bosh3"]).end.ravel().round(decimals=3)
    tensor([0.6040, 0.6040], dtype=torch.float64)
    """
    weights = _weights(pair, u.dtype, u.device)
    places = torch.as_tensor(np.add.outer(weights.c, np.zeros_like(h)) * h + t).to(u).unbind()
    length: float | Tensor
    length = column(torch.as_tensor(h).to(u), u) if isinstance(h, np.ndarray) else float(h)
    slopes = _Slopes(slope, len(pair.b) + 1)
    for i in range(1, len(weights.rows)):
        slopes.append(func(places[i - 1], slopes.moved(u, length, weights.rows[i], i)))
    end = slopes.moved(u, length, weights.b, len(pair.b))
    slopes.append(func(places[-1], end))
    return Trial(u, end, length, slopes, pair)


def column(values: Tensor, like: Tensor) -> Tensor:
    """Return one value for each sample in a shape that goes with the states.

    Parameters
    ----------
    values
        One for each sample, (batch,).
    like
        States of the samples, (batch, ...).

    Returns
    -------
    Tensor
        The values, (batch, 1, ...).

    Examples
    --------
    >>> column(torch.ones(3), torch.ones(3, 2, 2)).shape
    torch.Size([3, 1, 1])
    """
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _grouped(squares: Tensor, control: Control) -> Tensor:
    return squares.mean(0, keepdim=True) if control == "batch" else squares


def _norm(x: Tensor, control: Control) -> Tensor:
    """Return root mean squares, of numbers of any size."""
    rows = x.reshape(len(x), -1)
    size = rows.detach().abs()
    size = size.amax().reshape(1, 1) if control == "batch" else size.amax(1, keepdim=True)
    size = size.clamp_min(torch.finfo(x.dtype).tiny)
    return size[:, 0] * _root(_grouped((rows / size).square().mean(1), control))


def _root(squares: Tensor) -> Tensor:
    """Return square roots whose gradient at 0 is 0."""
    tiny = torch.finfo(squares.dtype).tiny
    return torch.where(squares <= tiny, 0.0, squares.clamp_min(tiny).sqrt())  # NaN stays NaN


def first_step(
    func: Func,
    u: Float[Tensor, "batch ..."],
    slope: Float[Tensor, "batch ..."],
    t: "float | np.ndarray",
    t_end: float,
    pair: EmbeddedPair,
    atol: "float | Tensor",
    rtol: "float | Tensor",
    control: Control = "batch",
) -> np.ndarray:
    """Guess the length of a first step from how fast the slope changes; it takes one evaluation.

    Parameters
    ----------
    func, u, slope, t, pair
        As `take_step` takes them.
    t_end
        Where the solution is to end.
    atol, rtol, control
        As `Trial.error_estimate` takes them.

    Returns
    -------
    ndarray
        One signed length, or one for each sample.

    References
    ----------
    Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I (1993), section II.4.

    Examples
    --------
    >>> from paperworks.numerics import PAIRS
    >>> u = torch.ones(1, 1, dtype=torch.float64)
    >>> first_step(lambda t, u: -u, u, -u, 0.0, 1.0, PAIRS["tsit5"], 1e-6, 1e-6).round(3)
    array([0.029])
    """
    with torch.no_grad():
        scale = u.abs() * rtol + atol
        d0, d1 = _sizes(u / scale, control), _sizes(slope / scale, control)
        span = np.broadcast_to(t_end - np.asarray(t, float), d0.shape)
        usable = (d0 > 1e-5) & (d1 > 1e-5) & np.isfinite(d0 + d1)
        trial = np.where(usable, 0.01 * d0 / np.where(usable, d1, 1.0), 1e-6)
        trial = np.minimum(np.where(np.isfinite(trial), trial, 1e-6), np.abs(span))
        signed = np.copysign(trial, span)
        if control == "batch":
            place, there = u.new_tensor(float(np.max(t + signed))), torch.add(u, slope, alpha=float(signed[0]))
        else:
            place = torch.as_tensor(t + signed).to(u)
            there = torch.addcmul(u, column(torch.as_tensor(signed).to(u), u), slope)
        turned = func(place, there) - slope
        d2 = _sizes(turned / scale, control) / np.maximum(trial, 1e-300)
        greatest = np.maximum(d1, d2)
        good = np.where(
            greatest > 1e-15,
            (0.01 / np.maximum(greatest, 1e-15)) ** (1 / (pair.error_order + 1)),
            np.maximum(1e-6, 1e-3 * trial),
        )
        guess = np.minimum(np.minimum(100 * trial, good), np.abs(span))
        return np.copysign(np.where(np.isfinite(guess) & (guess > 0), guess, trial), span)


def _sizes(x: Tensor, control: Control) -> np.ndarray:
    squares = x.reshape(len(x), -1).square().mean(1)
    return _root(_grouped(squares, control)).double().cpu().numpy()
