"""How far generated histories are from real ones: distances with their floor, fields, spectra, copies."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.stats import wasserstein_distance

from paperworks.core.validation import check_count, check_number


class FieldErrors(NamedTuple):
    """Relative errors of the fields of the mean and of the standard deviation, in the norm over space and time.

    Examples
    --------
    >>> FieldErrors(mean=0.1, std=0.2).std
    0.2
    """

    mean: float
    """Error of the field of the mean."""
    std: float
    """Error of the field of the standard deviation."""


def _rows(name: str, X: Any) -> np.ndarray:
    X = np.asarray(X, dtype=float)
    if X.ndim < 1 or len(X) < 2:
        raise ValueError(f"{name} has shape {X.shape}; it takes two samples or more, along the first axis")
    if not np.isfinite(X).all():
        raise ValueError(f"{name} has {int((~np.isfinite(X)).sum())} values that are NaN or infinite; it takes finite")
    return X


def _pair(generated: Any, real: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = _rows("generated", generated), _rows("real", real)
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"generated has samples of shape {a.shape[1:]} and real {b.shape[1:]}; they take the same")
    return a, b


def _deviation(real: np.ndarray) -> float:
    """Return the deviation of real values, or refuse those that differ by rounding alone."""
    found = float(real.std())
    if not found > 1e-12 * np.abs(real).max():
        raise ValueError("real does not vary; it takes values with a deviation")
    return found


def relative_w1(generated: ArrayLike, real: ArrayLike) -> float:
    r"""Return the Wasserstein distance :math:`W_1` of a quantity's two samples, over the deviation of the real one.

    Parameters
    ----------
    generated
        Values of the quantity, of generated samples.
    real
        Values of real ones; the numbers of samples may differ.

    Returns
    -------
    float
        The distance, without unit; read it beside `sampling_floor`.

    Raises
    ------
    ValueError
        For values that are not finite, or real ones that do not vary.

    Examples
    --------
    >>> relative_w1([1.0, 3.0], [0.0, 2.0])
    1.0
    """
    a, b = _pair(generated, real)
    if a.ndim != 1:
        raise ValueError(f"generated has shape {a.shape}; it takes one number a sample")
    return float(wasserstein_distance(a, b) / _deviation(b))


def sampling_floor(real: ArrayLike, splits: int = 20, random_state: Any = 0) -> float:
    """Return what `relative_w1` finds between two halves of the real values; less than this means nothing.

    Parameters
    ----------
    real
        Values of a quantity, four or more.
    splits
        Over how many random splits the mean is taken; 20 by default.
    random_state
        Seed of the splits; 0 by default.

    Returns
    -------
    float
        The mean distance of two halves, over the deviation of all.

    Examples
    --------
    >>> 0 < sampling_floor(np.random.default_rng(0).normal(size=1500)) < 0.1
    True
    """
    values = _rows("real", real)
    if values.ndim != 1 or len(values) < 4:
        raise ValueError(f"real has shape {values.shape}; it takes four numbers or more")
    deviation = _deviation(values)
    rng, half = np.random.default_rng(random_state), len(values) // 2
    found = []
    for _ in range(check_count("splits", splits)):
        order = rng.permutation(values)
        found.append(wasserstein_distance(order[:half], order[half:]))
    return float(np.mean(found) / deviation)


def sliced_w1(generated: ArrayLike, real: ArrayLike, projections: int = 128, random_state: Any = 0) -> float:
    r"""Return the sliced Wasserstein distance: the mean of :math:`W_1` over projections onto random directions.

    Parameters
    ----------
    generated
        Samples of any shape (n, ...).
    real
        Samples (m, ...) of the same shape but for their number.
    projections
        How many directions of unit length; 128 by default.
    random_state
        Seed of the directions; 0 by default.

    Returns
    -------
    float
        The mean distance, in the unit of the samples.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> sliced_w1(X, X), round(sliced_w1(X[:, :1] + 2, X[:, :1]), 6)
    (0.0, 2.0)
    """
    a, b = (X.reshape(len(X), -1) for X in _pair(generated, real))
    directions = np.random.default_rng(random_state).normal(size=(check_count("projections", projections), a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Between two levels at which one of the samples has a step, both quantile functions are constant.
    levels = np.unique(np.concatenate([np.arange(1, len(x) + 1) / len(x) for x in (a, b)]))
    widths = np.diff(levels, prepend=0)
    pa, pb = (_quantiles(np.sort(x @ directions.T, axis=0), levels - widths / 2) for x in (a, b))
    return float((widths @ np.abs(pa - pb)).mean())


def _quantiles(ordered: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the steps of the empirical distributions, as columns, at levels."""
    return ordered[np.minimum((levels * len(ordered)).astype(int), len(ordered) - 1)]


def field_errors(generated: ArrayLike, real: ArrayLike) -> FieldErrors:
    """Return the relative errors of the fields of mean and standard deviation, in the norm over all nodes and times.

    Parameters
    ----------
    generated
        Histories of any shape (n, ...).
    real
        Histories (m, ...) of the same shape but for their number.

    Returns
    -------
    FieldErrors
        `mean` and `std`, without unit.

    Examples
    --------
    >>> field_errors([[1.5], [3.5]], [[1.0], [3.0]])
    FieldErrors(mean=0.25, std=0.0)
    """
    a, b = _pair(generated, real)

    def error(x: np.ndarray, y: np.ndarray) -> float:
        size = np.linalg.norm(y)
        if not size > 0:
            raise ValueError("real has a field of mean or deviation that is zero; it takes one with a size")
        return float(np.linalg.norm(x - y) / size)

    return FieldErrors(error(a.mean(0), b.mean(0)), error(a.std(0), b.std(0)))


def memorisation_ratio(generated: ArrayLike, train: ArrayLike, test: ArrayLike) -> float:
    """Return how much nearer generated samples are to the training data than new real samples are.

    The median distance from a generated sample to the nearest training sample, over that from a test sample to its
    nearest one. About 1 is right; near 0 the generator copies what it was trained on.

    Parameters
    ----------
    generated
        Samples of any shape (n, ...).
    train
        What the generator was trained on.
    test
        Real samples that it has not seen.

    Returns
    -------
    float
        The ratio, without unit; infinite where test samples are among the training data.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> memorisation_ratio(X[:100], X[:100], X[100:])
    0.0
    """
    a, known = _pair(generated, train)
    b, _ = _pair(test, train)
    tree = cKDTree(known.reshape(len(known), -1))
    near = [float(np.median(tree.query(X.reshape(len(X), -1))[0])) for X in (a, b)]
    return near[0] / near[1] if near[1] > 0 else float("inf")


def boundary_spectrum(X: ArrayLike, dt: float) -> tuple[Float[np.ndarray, " f"], Float[np.ndarray, "... f"]]:
    """Return the mean power spectrum of boundary signals.

    Parameters
    ----------
    X
        Histories (n, ..., n_t), the times along the last axis.
    dt
        Time from one to the next.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        Frequencies, and the mean over the histories of the squared amplitudes, of shape (..., n_f).

    Examples
    --------
    >>> t = np.arange(64) / 64
    >>> f, power = boundary_spectrum(np.sin(2 * np.pi * 5 * t)[None, None].repeat(2, 0), 1 / 64)
    >>> float(f[power[0].argmax()])
    5.0
    """
    X = _rows("X", X)
    check_number("dt", dt, gt=0)
    return np.fft.rfftfreq(X.shape[-1], dt), (np.abs(np.fft.rfft(X, norm="forward")) ** 2).mean(0)


def energy_input(
    force: Float[np.ndarray, "times dofs ..."], motion: Float[np.ndarray, "times dofs ..."]
) -> Float[np.ndarray, "times ..."]:
    """Return the work done at the boundary up to each time, by the trapezium rule.

    Into a zone at rest it can never become negative; where it does, generated histories are not of a wave that came
    from outside.

    Parameters
    ----------
    force
        Reactions at the boundary's degrees of freedom.
    motion
        Displacements of the same degrees of freedom.

    Returns
    -------
    np.ndarray
        The work, 0 at the first time.

    Examples
    --------
    >>> energy_input(np.array([[0.0], [2.0]]), np.array([[0.0], [3.0]]))
    array([0., 3.])
    """
    force, motion = np.asarray(force, dtype=float), np.asarray(motion, dtype=float)
    if force.shape != motion.shape or force.ndim < 2:
        raise ValueError(f"force has shape {force.shape} and motion {motion.shape}; they take (times, dofs, ...) both")
    work = ((force[1:] + force[:-1]) / 2 * np.diff(motion, axis=0)).sum(1)
    return np.concatenate([np.zeros((1, *work.shape[1:])), np.cumsum(work, axis=0)])
