"""The recursion of a compressor and its adjoint as plain loops, which numba compiles where it is installed.

``s[n] = g[n] + a (s[n-1] - g[n])``, with the attack's coefficient for `a` where ``g[n] < s[n-1]`` and the release's
elsewhere. What is carried from sample to sample is in double precision, whatever the arrays are: coefficients are near
1, so that single precision would lose three digits.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


def smooth(gain: Any, attack: Any, release: Any, start: Any, out: Any) -> None:
    """Write the smoothed gain of each row.

    Both branches are computed, so that neither waits for the comparison. What the attack gives is the larger one
    wherever it holds if its coefficient is the larger one, else the smaller one, and then no comparison is needed.
    """
    for i in range(gain.shape[0]):
        s, a, r = start[i], attack[i], release[i]
        slower = a >= r
        for n in range(gain.shape[1]):
            g = gain[i, n]
            down, up = (1 - a) * g + a * s, (1 - r) * g + r * s
            s = max(down, up) if slower else min(down, up)
            out[i, n] = s


def smooth_adjoint(
    gain: Any, smoothed: Any, attack: Any, release: Any, start: Any, cotangent: Any, d_gain: Any, d_rest: Any
) -> None:
    """Write the gradients by the gain and, in three rows, by attack, release and start."""
    for i in range(gain.shape[0]):
        carried, d_attack, d_release = 0.0, 0.0, 0.0
        for n in range(gain.shape[1] - 1, -1, -1):
            carried += cotangent[i, n]
            g = gain[i, n]
            before = smoothed[i, n - 1] if n else start[i]
            by_coefficient = carried * (before - g)
            a = release[i]
            if g < before:
                a = attack[i]
                d_attack += by_coefficient
            else:
                d_release += by_coefficient
            d_gain[i, n] = (1 - a) * carried
            carried *= a
        d_rest[0, i], d_rest[1, i], d_rest[2, i] = d_attack, d_release, carried


def smooth_rows(gain: Any, attack: Any, release: Any, start: Any, out: Any) -> None:
    """Do what `smooth` does, all rows at once, where nothing compiles it."""
    columns, smoothed, s = np.ascontiguousarray(gain.T), np.empty_like(gain.T, order="C"), start
    for g, into in zip(columns, smoothed, strict=True):
        s = g + np.where(g < s, attack, release) * (s - g)
        into[...] = s
    out[...] = smoothed.T


def smooth_adjoint_rows(
    gain: Any, smoothed: Any, attack: Any, release: Any, start: Any, cotangent: Any, d_gain: Any, d_rest: Any
) -> None:
    """Do what `smooth_adjoint` does, all rows at once, where nothing compiles it."""
    before = np.concatenate([np.asarray(start, smoothed.dtype)[:, None], smoothed[:, :-1]], 1)
    attacks = gain < before
    coefficient = np.where(attacks, attack[:, None], release[:, None])
    carried, arrived = np.zeros(len(gain)), np.empty(gain.shape)
    for n in range(gain.shape[1] - 1, -1, -1):
        arrived[:, n] = carried + cotangent[:, n]
        carried = arrived[:, n] * coefficient[:, n]
    by_coefficient = arrived * (before - gain)
    d_gain[...] = (1 - coefficient) * arrived
    d_rest[0], d_rest[1], d_rest[2] = (by_coefficient * attacks).sum(1), (by_coefficient * ~attacks).sum(1), carried


class Kernels(NamedTuple):
    """The recursion and its adjoint."""

    smooth: Callable[..., None]
    adjoint: Callable[..., None]


@functools.cache
def kernels() -> Kernels:
    """Return the compiled loops for single and double precision, or those over rows where numba isn't installed."""
    try:
        from numba import njit, types
    except ImportError:
        return Kernels(smooth_rows, smooth_adjoint_rows)

    def of(number: Any) -> tuple[Any, Any]:
        seen = types.Array(number, 2, "C", readonly=True)
        row = types.Array(types.float64, 1, "C", readonly=True)
        return (
            types.void(seen, row, row, row, number[:, ::1]),
            types.void(seen, seen, row, row, row, seen, number[:, ::1], types.float64[:, ::1]),
        )

    signatures = zip(*map(of, (types.float32, types.float64)), strict=True)
    # Unwrapped, since checks of types may be wrapped around every function of the package.
    loops: tuple[Callable[..., None], ...] = (smooth, smooth_adjoint)
    return Kernels(
        *(
            njit(list(s), cache=True, fastmath={"contract"})(inspect.unwrap(loop))
            for s, loop in zip(signatures, loops, strict=True)
        )
    )
