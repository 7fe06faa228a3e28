"""Sweeps over a sparse matrix in CSR as plain loops, which numba compiles where it is installed.

Rows have their indices in order; `middle` points to each row's diagonal entry, so that what stands before it is the
strictly lower part and what follows the upper one. `scale` is omega / diagonal. Each loop reads the matrix once an
iteration: the residual of one sweep and the solve of the next share a pass.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


def find_diagonal(indptr: Any, indices: Any, middle: Any) -> None:
    """Write where each row's diagonal entry stands, or -1 where it has none."""
    for i in range(middle.size):
        middle[i] = -1
        for k in range(indptr[i], indptr[i + 1]):
            if indices[k] >= i:
                if indices[k] == i:
                    middle[i] = k
                break


def sor_steps(
    indptr: Any,
    indices: Any,
    data: Any,
    middle: Any,
    scale: Any,
    omega: float,
    limit: float,
    norms: Any,
    x: Any,
    r: Any,
) -> int:
    """Sweep forward until the residual's norm is at most `limit` or `norms` is full; return the number of sweeps."""
    n = x.size
    delta = np.empty(n)
    for i in range(n):
        s = r[i]
        for k in range(indptr[i], middle[i]):
            s -= data[k] * delta[indices[k]]
        delta[i] = s * scale[i]
    for step in range(norms.size):
        total = 0.0
        for i in range(n):
            x[i] += delta[i]
            # What is left of the residual: (D/omega - D - U) delta; entries before i are the next sweep's already.
            s = (1 / omega - 1) * data[middle[i]] * delta[i]
            for k in range(middle[i] + 1, indptr[i + 1]):
                s -= data[k] * delta[indices[k]]
            r[i] = s
            total += s * s
            for k in range(indptr[i], middle[i]):
                s -= data[k] * delta[indices[k]]
            delta[i] = s * scale[i]
        norms[step] = np.sqrt(total)
        if not norms[step] > limit or np.isinf(total):
            return step + 1
    return int(norms.size)


def ssor_steps(
    indptr: Any,
    indices: Any,
    data: Any,
    middle: Any,
    scale: Any,
    omega: float,
    limit: float,
    norms: Any,
    x: Any,
    r: Any,
) -> int:
    """Sweep forward and back until the residual's norm is at most `limit` or `norms` is full; return how often."""
    n = x.size
    first = np.empty(n)  # of the forward sweep
    change = np.empty(n)  # of both
    for i in range(n):
        s = r[i]
        for k in range(indptr[i], middle[i]):
            s -= data[k] * first[indices[k]]
        first[i] = s * scale[i]
    for step in range(norms.size):
        for i in range(n - 1, -1, -1):
            s = (2 / omega - 1) * data[middle[i]] * first[i]
            for k in range(middle[i] + 1, indptr[i + 1]):
                s -= data[k] * change[indices[k]]
            change[i] = s * scale[i]
            x[i] += change[i]
        total = 0.0
        for i in range(n):
            # What is left of the residual: (L + (1 - 1/omega) D) (first - change).
            change[i] = first[i] - change[i]
            s = (1 - 1 / omega) * data[middle[i]] * change[i]
            solved = 0.0
            for k in range(indptr[i], middle[i]):
                j = indices[k]
                s += data[k] * change[j]
                solved += data[k] * first[j]
            r[i] = s
            total += s * s
            first[i] = (s - solved) * scale[i]
        norms[step] = np.sqrt(total)
        if not norms[step] > limit or np.isinf(total):
            return step + 1
    return int(norms.size)


def pcg_steps(
    indptr: Any,
    indices: Any,
    data: Any,
    middle: Any,
    scale: Any,
    omega: float,
    limit: float,
    norms: Any,
    x: Any,
    r: Any,
    split: Any,
    p: Any,
) -> int:
    """Iterate by conjugate gradients on W^-1 A W^-T, W = D/omega + L, with the inner scaling K = (2/omega - 1) D.

    `split` is W^-1 r, and `p` the split direction. A negative return is the number of the iteration, less 1, whose
    direction has no positive curvature.
    """
    n = x.size
    t, y, image = np.empty(n), np.empty(n), np.empty(n)
    rho = 0.0
    for i in range(n):
        rho += (2 / omega - 1) * data[middle[i]] * split[i] * split[i]
    for step in range(norms.size):
        for i in range(n - 1, -1, -1):
            s = p[i]
            for k in range(middle[i] + 1, indptr[i + 1]):
                s -= data[k] * t[indices[k]]
            t[i] = s * scale[i]
        curvature = 0.0
        for i in range(n):
            # One pass over L serves both the solve and the image A t.
            d = data[middle[i]]
            s = p[i] - (2 / omega - 1) * d * t[i]
            a = p[i] + (1 - 1 / omega) * d * t[i]
            for k in range(indptr[i], middle[i]):
                j = indices[k]
                s -= data[k] * y[j]
                a += data[k] * t[j]
            y[i] = s * scale[i]
            image[i] = a
            curvature += t[i] * a
        if not curvature > 0:
            return -(step + 1)
        alpha = rho / curvature
        before, rho, total = rho, 0.0, 0.0
        for i in range(n):
            x[i] += alpha * t[i]
            r[i] -= alpha * image[i]
            split[i] -= alpha * (t[i] + y[i])
            total += r[i] * r[i]
            rho += (2 / omega - 1) * data[middle[i]] * split[i] * split[i]
        beta = rho / before
        for i in range(n):
            p[i] = (2 / omega - 1) * data[middle[i]] * split[i] + beta * p[i]
        norms[step] = np.sqrt(total)
        if not norms[step] > limit or np.isinf(total):
            return step + 1
    return int(norms.size)


def sweep_lower(indptr: Any, indices: Any, data: Any, middle: Any, scale: Any, v: Any) -> None:
    """Solve (D/omega + L) u = v in place."""
    for i in range(v.size):
        s = v[i]
        for k in range(indptr[i], middle[i]):
            s -= data[k] * v[indices[k]]
        v[i] = s * scale[i]


def sweep_upper(indptr: Any, indices: Any, data: Any, middle: Any, scale: Any, v: Any) -> None:
    """Solve (D/omega + U) u = v in place."""
    for i in range(v.size - 1, -1, -1):
        s = v[i]
        for k in range(middle[i] + 1, indptr[i + 1]):
            s -= data[k] * v[indices[k]]
        v[i] = s * scale[i]


class Kernels(NamedTuple):
    """The loops above, compiled."""

    find_diagonal: Callable[..., None]
    sor_steps: Callable[..., int]
    ssor_steps: Callable[..., int]
    pcg_steps: Callable[..., int]
    sweep_lower: Callable[..., None]
    sweep_upper: Callable[..., None]


@functools.cache
def compiled() -> Kernels | None:
    """Return the loops compiled for double precision and 32-bit indices, or None where numba isn't installed."""
    try:
        from numba import njit, types
    except ImportError:
        return None
    integers = types.Array(types.int32, 1, "C", readonly=True)
    numbers = types.Array(types.float64, 1, "C", readonly=True)
    changed, real = types.float64[::1], types.float64
    matrix = (integers, integers, numbers, integers, numbers)
    steps = (*matrix, real, real, changed, changed, changed)
    signatures = [
        types.void(integers, integers, types.int32[::1]),
        types.int64(*steps),
        types.int64(*steps),
        types.int64(*steps, changed, changed),
        types.void(*matrix, changed),
        types.void(*matrix, changed),
    ]
    loops: tuple[Callable[..., Any], ...] = (find_diagonal, sor_steps, ssor_steps, pcg_steps, sweep_lower, sweep_upper)
    # Unwrapped, since checks of types may be wrapped around every function of the package.
    return Kernels(*(njit(s, cache=True)(inspect.unwrap(loop)) for s, loop in zip(signatures, loops, strict=True)))
