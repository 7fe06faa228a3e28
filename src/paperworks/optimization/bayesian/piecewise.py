"""Exact expectations of piecewise linear functions of a normal variable, and their logarithms.

h(a, b) = E[max_i (a_i + b_i Z)] - max_i a_i is what expected improvement, its noisy form and the knowledge gradient
come down to (arXiv 1807.02811, Sections 4.1, 4.2 and 5.1).
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
_FAR = -1e4  # z below which 1 / z^2 < 1e-8, and log1p loses all digits


def normal_pdf(z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return the density of the standard normal law."""
    return np.exp(-0.5 * np.minimum(z * z, 1400.0)) * (1 / math.sqrt(2 * math.pi))


def log_h(z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return log(phi(z) + z Phi(z)), accurate for every z.

    Returns
    -------
    Float[np.ndarray, "..."]
        The logarithms, -inf at z = -inf.

    Examples
    --------
    >>> import numpy as np
    >>> [round(float(v), 4) for v in log_h(np.array([0.0, -40.0]))]
    [-0.9189, -808.2986]
    """
    z = np.asarray(z, dtype=float)
    near = np.maximum(z, -1.0)
    first = np.log(normal_pdf(near) + near * special.ndtr(near))
    far = np.clip(z, _FAR, -1.0)
    tail = np.log1p(far * (math.sqrt(math.pi / 2) * special.erfcx(far * (-1 / math.sqrt(2)))))
    farther = np.minimum(z, -1.0)
    with np.errstate(over="ignore"):
        tail = np.where(z < _FAR, -2 * np.log(-farther), tail)
        second = -0.5 * farther * farther - _LOG_ROOT_2PI + tail
    return np.where(z > -1.0, first, second)


class PiecewiseExpectation(NamedTuple):
    """Values of h, their logarithms, and the gradients of the values.

    Parameters
    ----------
    value
        E[max_i (a_i + b_i Z)] - max_i a_i of each row.
    log_value
        Its logarithm, also where the value underflows.
    by_a, by_b
        Gradients of the value, or of its logarithm, by intercepts and slopes; None unless they were asked for.

    Examples
    --------
    >>> piecewise_expectation([0.0, 0.0], [0.0, 1.0]).by_a is None
    True
    """

    value: Float[np.ndarray, " r"]
    log_value: Float[np.ndarray, " r"]
    by_a: Float[np.ndarray, "r m"] | None
    by_b: Float[np.ndarray, "r m"] | None


def piecewise_expectation(
    a: ArrayLike, b: ArrayLike, gradient: Literal["none", "value", "log"] = "none"
) -> PiecewiseExpectation:
    """Return h(a, b) = E[max_i (a_i + b_i Z)] - max_i a_i with Z standard normal, exactly, for many rows at once.

    The upper envelope of the lines is walked from the left: from the line that is greatest at -inf, to whichever
    line of greater slope crosses it first, and so on, all rows in step. With the envelope's slopes b_1 < b_2 < ... and
    its breakpoints c_i, h = sum_i (b_(i+1) - b_i) (phi(c_i) - |c_i| Phi(-|c_i|)).

    Parameters
    ----------
    a
        Intercepts, one row for each expectation, or one row for all.
    b
        Slopes in the same shape.
    gradient
        "value" for gradients of the values, "log" for those of their logarithms, "none" for neither.

    Returns
    -------
    PiecewiseExpectation
        Values with logarithms and, where asked for, gradients.

    Raises
    ------
    ValueError
        Where shapes differ, or a number is not finite.

    References
    ----------
    arXiv 1807.02811, Section 4.2; Frazier, Powell and Dayanik (2009) for the sum over breakpoints.

    Examples
    --------
    >>> round(float(piecewise_expectation([[0.0, 0.0]], [[0.0, 1.0]]).value[0]), 6)  # E[max(0, Z)]
    0.398942
    """
    A, B = np.broadcast_arrays(np.atleast_2d(np.asarray(a, float)), np.atleast_2d(np.asarray(b, float)))
    if A.ndim != 2 or not A.shape[1] or np.shape(a)[-1:] != np.shape(b)[-1:]:
        raise ValueError(f"a has shape {np.shape(a)} and b {np.shape(b)}; they take rows of one length of at least 1")
    if not (np.isfinite(A).all() and np.isfinite(B).all()):
        raise ValueError("a or b has NaN or infinite elements; they take finite numbers")
    rows, count = A.shape
    index = np.arange(rows)
    least = B.min(axis=1)
    here = np.where(least[:, None] == B, A, -np.inf).argmax(axis=1)
    log_value = np.full(rows, -np.inf)
    segments: list[tuple[np.ndarray, ...]] = []  # (rows, lines, where each line begins and ends to be the greatest)
    left = np.full(rows, -np.inf)
    alive = index
    while len(alive):
        i = here[alive]
        order = np.arange(len(alive))
        part_a, part_b = A[alive], B[alive]
        rise = part_b - part_b[order, i][:, None]
        fall = part_a[order, i][:, None] - part_a
        steeper = rise > 0
        with np.errstate(over="ignore"):
            crossing = np.where(steeper, fall / np.where(steeper, rise, 1.0), np.inf)
        first = crossing.min(axis=1)
        nearest = np.where(crossing <= first[:, None], rise, -1.0).argmax(axis=1)  # of those that tie, the steepest
        segments.append((alive, i, left[alive], first))
        goes_on = np.isfinite(first)
        alive, first, nearest, rise = alive[goes_on], first[goes_on], nearest[goes_on], rise[goes_on]
        terms = np.log(rise[np.arange(len(alive)), nearest]) + log_h(-np.abs(first))
        log_value[alive] = np.logaddexp(log_value[alive], terms)
        left[alive], here[alive] = first, nearest
    value = np.exp(log_value)
    if gradient == "none":
        return PiecewiseExpectation(value, log_value, None, None)
    scale = np.where(np.isfinite(log_value), log_value, 0.0) if gradient == "log" else np.zeros(rows)
    return PiecewiseExpectation(value, log_value, *_gradients(segments, scale, count))


def _gradients(
    segments: list[tuple[np.ndarray, ...]], scale: Float[np.ndarray, " r"], count: int
) -> tuple[Float[np.ndarray, "r m"], Float[np.ndarray, "r m"]]:
    """Return P(line i is greatest) - 1[it is at 0] and E[Z 1(line i is greatest)], both over exp(scale)."""
    by_a, by_b = np.zeros((len(scale), count)), np.zeros((len(scale), count))
    for rows, lines, start, end in segments:
        near, far = np.minimum(np.abs(start), np.abs(end)), np.maximum(np.abs(start), np.abs(end))
        first, second = (np.exp(special.log_ndtr(-z) - scale[rows]) for z in (near, far))
        is_top = (start <= 0) & (end > 0)  # the line that is greatest at 0
        by_a[rows, lines] = np.where(is_top, -(first + second), first - second)
        by_b[rows, lines] = _scaled_pdf(start, scale[rows]) - _scaled_pdf(end, scale[rows])
    return by_a, by_b


def _scaled_pdf(z: Float[np.ndarray, " r"], scale: Float[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
    with np.errstate(over="ignore"):
        return np.exp(-0.5 * z * z - _LOG_ROOT_2PI - scale)
