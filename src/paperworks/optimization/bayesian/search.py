"""The search for the point, or batch of points, at which an acquisition function is greatest."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import qmc

from paperworks.core.validation import check_count
from paperworks.optimization.bayesian.acquisition import Acquisition
from paperworks.optimization.bayesian.ascent import maximise_rows

Points = Float[np.ndarray, "_ _"]  # one a row


@runtime_checkable
class Snaps(Protocol):
    """A grid that some columns lie on, such as those of integers and categories."""

    continuous: np.ndarray

    def snap(self, U: Points) -> Points:
        """Return the nearest points that are allowed."""
        ...

    def neighbours(self, u: Float[np.ndarray, " d"]) -> Points:
        """Return the points next to one, along columns that are not continuous."""
        ...


def box_of(bounds: ArrayLike) -> Float[np.ndarray, "d 2"]:
    """Return bounds as an array, or raise ValueError."""
    box = np.asarray(bounds, dtype=float)
    if box.ndim != 2 or box.shape[1] != 2 or not np.isfinite(box).all() or not (box[:, 0] < box[:, 1]).all():
        raise ValueError(f"bounds is {bounds!r}; it takes a finite (low, high) with low < high for each column")
    return box


def sobol(n: int, dim: int, random_state: int | np.random.Generator | None) -> Points:
    """Return `n` points of a scrambled Sobol sequence in the unit cube."""
    rng = np.random.default_rng(random_state)
    if dim > qmc.Sobol.MAXDIM:
        return rng.random((n, dim))
    return qmc.Sobol(dim, rng=rng).random(1 << max(n - 1, 1).bit_length())[:n]


def optimize_acquisition(
    acq: Acquisition,
    bounds: ArrayLike,
    n_raw: int = 512,
    n_starts: int = 8,
    *,
    candidates: ArrayLike | None = None,
    snaps: Snaps | None = None,
    steps: int = 60,
    random_state: int | np.random.Generator | None = 0,
) -> tuple[Float[np.ndarray, "..."], float]:
    """Find the point, or batch of points, of the greatest value of an acquisition function.

    The function is evaluated at scrambled Sobol points and given candidates in one batch; from the best of them that
    lie apart, L-BFGS runs side by side, all starts in one evaluation.

    Parameters
    ----------
    acq
        The acquisition function.
    bounds
        Low and high of each column.
    n_raw
        Points, or batches, that are tried at first.
    n_starts
        How many of them are refined.
    candidates
        Further points (m, d), or batches (m, q, d), that are tried too.
    snaps
        What brings points to where columns are not continuous.
    steps
        Most steps of L-BFGS.
    random_state
        Seed or generator of the points.

    Returns
    -------
    tuple[Float[np.ndarray, "..."], float]
        The best point (d,), or batch (q, d), and the value there.

    Raises
    ------
    ValueError
        Where bounds are reversed, or counts below 1.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess, LogEI
    >>> model = GaussianProcess(noise=0.0).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> x, value = optimize_acquisition(LogEI(model, best=1.0), [(0, 1)])
    >>> bool(0.4 < x[0] < 0.9)
    True
    """
    box = box_of(bounds)
    n_raw, n_starts = check_count("n_raw", n_raw), check_count("n_starts", n_starts)
    d, rows = len(box), acq.n_decisions
    low, high = box.T
    raw = low + (high - low) * sobol(n_raw, rows * d, random_state).reshape(n_raw, rows, d)
    if candidates is not None:
        extra = np.asarray(candidates, dtype=float).reshape(-1, rows, d)
        raw = np.concatenate([np.clip(extra, low, high), raw])
    if snaps is not None:
        raw = snaps.snap(raw.reshape(-1, d)).reshape(raw.shape)
    raw = acq.complete(raw)
    q = raw.shape[1]

    def values_at(X: Float[np.ndarray, "m q d"]) -> Float[np.ndarray, " m"]:
        return np.nan_to_num(acq(X[:, 0] if q == 1 else X), nan=-1e30, neginf=-1e30, posinf=1e30)

    value = values_at(raw)
    chosen = _apart(raw.reshape(len(raw), -1) / np.tile(high - low, q), value, n_starts)
    flat_low, flat_high = np.tile(low, q), np.tile(high, q)
    free = np.ones(d) if snaps is None else snaps.continuous.astype(float)

    def objective(X: Points, which: np.ndarray) -> tuple[Float[np.ndarray, " m"], Points]:
        batch = X.reshape(-1, q, d)
        if acq.has_gradient:
            values, gradient = acq(batch[:, 0] if q == 1 else batch, gradient=True)
            return np.nan_to_num(values, nan=-1e30, neginf=-1e30), gradient.reshape(len(X), -1)
        h = 1e-4 * (flat_high - flat_low)
        shifts = np.concatenate([np.zeros((1, q * d)), np.diag(h), -np.diag(h)])
        values = values_at((X[:, None] + shifts).reshape(-1, q, d)).reshape(len(X), -1)
        return values[:, 0], (values[:, 1 : q * d + 1] - values[:, q * d + 1 :]) / (2 * h)

    starts = raw[chosen].reshape(len(chosen), -1)
    X, found = starts, value[chosen]
    if free.any():
        X, found = maximise_rows(objective, starts, flat_low, flat_high, steps=steps, free=np.tile(free, q))
    best = int(np.argmax(found))
    x, top = X[best].reshape(q, d), float(found[best])
    if snaps is not None and not snaps.continuous.all():
        x, top = _among_neighbours(x, top, snaps, values_at, rows)
    x = x[:rows]
    return (x[0] if acq.q == 1 or rows == 1 else x), top


def _apart(X: Points, value: Float[np.ndarray, " m"], n: int) -> np.ndarray:
    """Return the numbers of the best points that are not next to a better one, filled up by the best of the rest."""
    order = np.argsort(-value, kind="stable")[: 16 * n]
    left = order
    found: list[int] = []
    least = 0.05 * np.sqrt(X.shape[1])
    while len(left) and len(found) < n:
        found.append(int(left[0]))
        left = left[np.linalg.norm(X[left] - X[left[0]], axis=1) > least]
    rest = [int(i) for i in order if i not in found]
    return np.array((found + rest)[:n])


def _among_neighbours(x, top, snaps, values_at, rows):  # type: ignore[no-untyped-def]
    """Move the columns that are not continuous to better neighbours while there are any."""
    for _ in range(50):
        tries = []
        for i in range(rows):
            for near in snaps.neighbours(x[i]):
                batch = x.copy()
                batch[i] = near
                tries.append(batch)
        if not tries:
            break
        values = values_at(np.array(tries))
        best = int(np.argmax(values))
        if values[best] <= top:
            break
        x, top = tries[best], float(values[best])
    return x, top
