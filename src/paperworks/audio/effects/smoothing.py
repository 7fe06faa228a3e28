"""The smoothing of a compressor's gain, with other speeds down and up, and its gradients."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from paperworks.audio.effects.kernels import kernels
from paperworks.core.validation import check_count


def time_coefficient(seconds: Any, sr: float) -> Any:
    """Return the coefficient of a recursion that goes from 10 % to 90 % of a step within a time.

    Parameters
    ----------
    seconds
        The time, a number, an array or a tensor.
    sr
        Samples in a second.

    Returns
    -------
    Any
        ``exp(-ln 9 / (sr seconds))``, of the kind that `seconds` is.

    Examples
    --------
    >>> round(time_coefficient(0.01, 44100), 6)
    0.99503
    """
    exponent = -math.log(9) / (sr * seconds)
    if isinstance(exponent, Tensor):
        return exponent.exp()
    return np.exp(exponent) if isinstance(exponent, np.ndarray) else math.exp(exponent)


def _arrays(gain: Tensor, *rows: Tensor) -> list[np.ndarray]:
    """Return arrays that the recursion takes: the gain's in its own type, the others' in double precision."""
    return [t.detach().cpu().contiguous().numpy() for t in (gain, *(row.double() for row in rows))]


class _Smooth(torch.autograd.Function):
    """The recursion, with the adjoint of the branches that it took."""

    @staticmethod
    def forward(ctx: Any, gain: Tensor, attack: Tensor, release: Tensor, start: Tensor) -> Tensor:
        """Smooth each row."""
        seen, *rows = _arrays(gain, attack, release, start)
        out = np.empty_like(seen)
        kernels().smooth(seen, *rows, out)
        smoothed = torch.from_numpy(out).to(gain.device)
        # Saved in the way in which torch finds out where they are changed in place afterwards.
        ctx.save_for_backward(gain, smoothed, attack, release, start)
        return smoothed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
        """Carry gradients back."""
        (cotangent,) = cotangents
        gain, smoothed, *like = ctx.saved_tensors
        seen, *rows = _arrays(gain, *like)
        d_gain, d_rest = np.empty_like(seen), np.empty((3, len(seen)))
        out, given = (t.detach().cpu().contiguous().numpy() for t in (smoothed, cotangent))
        kernels().adjoint(seen, out, *rows, given, d_gain, d_rest)
        rest = (torch.from_numpy(d).to(t) for d, t in zip(d_rest, like, strict=True))
        return torch.from_numpy(d_gain).to(cotangent.device), *rest


def ballistics(
    gain: Float[Tensor, "*batch n"],
    attack: Tensor | float,
    release: Tensor | float,
    start: Tensor | float = 0.0,
) -> Float[Tensor, "*batch n"]:
    """Smooth a gain by a recursion with one coefficient on the way down and another on the way up.

    ``s[n] = g[n] + a (s[n-1] - g[n])`` with the attack's coefficient where ``g[n] < s[n-1]``. Gradients flow to all
    four arguments, along the branches that were taken. It runs on the processor, compiled where numba is installed.

    Parameters
    ----------
    gain
        What is smoothed, along the last axis, in single or double precision.
    attack, release
        Coefficients from 0 to below 1, such as `time_coefficient` gives: one number, or one for each row.
    start
        The value before the first sample, one number or one for each row; 0 by default.

    Returns
    -------
    Tensor
        The smoothed gain, of the shape, type and device of `gain`.

    Raises
    ------
    ValueError
        For coefficients outside [0, 1).
    TypeError
        For a gain of another type.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; Hawley, Colburn and Mimilakis, arXiv:1905.11928, the compressor's listing.

    Examples
    --------
    >>> ballistics(torch.tensor([-8.0, -8.0, 0.0, 0.0]), 0.5, 0.75).tolist()
    [-4.0, -6.0, -4.5, -3.375]
    """
    if gain.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"gain has type {gain.dtype}; it takes single or double precision")
    batch = gain.shape[:-1]
    rows = []
    for name, value in (("attack", attack), ("release", release), ("start", start)):
        row = torch.as_tensor(value, device=gain.device, dtype=None if isinstance(value, Tensor) else torch.float64)
        if name != "start" and not bool(((row >= 0) & (row < 1)).all()):
            raise ValueError(f"{name} is {value}; it takes coefficients from 0 to below 1")
        rows.append(row.expand(batch).reshape(-1))
    check_count("length of gain", gain.shape[-1])
    smoothed: Tensor = _Smooth.apply(gain.reshape(-1, gain.shape[-1]), *rows)
    return smoothed.view(gain.shape)
