"""Which range hidden weights should be drawn from: from the target's spectrum, then by errors of samples left out."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.utils import check_array, check_consistent_length, check_random_state

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.solvers.random_features.activations import Name, activation_named
from paperworks.solvers.random_features.least_squares import RCOND, decompose

Distribution = Literal["uniform", "normal", "sphere"]
RIDGES = (0.0, *np.geomspace(1e-10, 1e2, 13).tolist())
"""Ridges that are tried where the data are to choose, in units of the mean squared norm of a sample's features."""
_DIRECTIONS, _FREQUENCIES = 32, 96  # of the periodogram of scattered samples
_QUIET = 0.02  # share of the energy that may lie above a target's band
_MOST_TRIED = 7  # ranges, each of which costs about one fit
_FACTORS = np.geomspace(0.25, 4.0, 5)


class ScaleAdvice(NamedTuple):
    """A range of hidden weights, and how it was found.

    Parameters
    ----------
    scale
        Half side of the cube, or what corresponds to it for other distributions.
    alpha
        Ridge that went with it, in units of the mean squared norm of a sample's features.
    error
        Root of the mean squared error of samples left out.
    scales, errors
        All ranges that were tried, and their errors.
    band
        Frequency below which nearly all of the target's energy was found.

    Examples
    --------
    >>> ScaleAdvice(2.0, 0.0, 0.1, np.array([2.0]), np.array([0.1]), 5.0).scale
    2.0
    """

    scale: float
    alpha: float
    error: float
    scales: np.ndarray
    errors: np.ndarray
    band: float


def recommend_scale(
    X: Float[np.ndarray, "samples dim"],
    y: Float[np.ndarray, " samples *outputs"],
    activation: Name = "tanh",
    *,
    n_features: int = 300,
    distribution: Distribution = "uniform",
    alpha: float | Literal["auto"] = 0.0,
    bias_scale: float | Literal["paper"] | None = None,
    direct_links: bool = False,
    scales: Sequence[float] | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> ScaleAdvice:
    """Advise a range of hidden weights for data.

    The band of the target is estimated from a periodogram; the range whose units reach just that far is a first guess.
    Of the ranges from a quarter to four times of it the one with the least error of samples left out is taken, and the
    search goes on beyond an end that was the best.

    Parameters
    ----------
    X
        Points, one row each.
    y
        Values, in one column or several.
    activation
        Name of the activation.
    n_features
        Number of hidden units.
    distribution
        Law of the weights.
    alpha
        Ridge, or "auto" to choose one with each range.
    bias_scale
        Half length of the interval of biases, as the estimators take it.
    direct_links
        Whether the network is also linear in `X`.
    scales
        Ranges to choose from, instead of the search.
    random_state
        Seed of the weights: the same ones, scaled, for all ranges.

    Returns
    -------
    ScaleAdvice
        The range with its error, and those that were tried.

    Raises
    ------
    ValueError
        For an unknown activation or distribution, no ranges to choose from, or data that aren't finite or don't fit.

    Notes
    -----
    arXiv 2008.08427 says that a suitable range exists and depends on the target's spectrum. The errors of samples left
    out come in closed form from one decomposition for each range.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 200)[:, None]
    >>> advice = recommend_scale(x, np.sin(20 * x[:, 0]), n_features=100)
    >>> 2 < advice.scale < 40, advice.error < 1e-4
    (True, True)
    """
    X = check_array(X, dtype=float, input_name="X")
    y = check_array(y, dtype=float, ensure_2d=False, input_name="y")
    check_consistent_length(X, y)
    check_count("n_features", n_features)
    if alpha != "auto":
        check_number("alpha", alpha, ge=0)
    if scales is not None and not len(scales):
        raise ValueError("scales is empty; it takes one range or more")
    rng = check_random_state(random_state)
    targets = y.reshape(len(y), -1)
    size = float(np.abs(targets).max()) or 1.0  # so that squares are numbers in any unit
    targets = targets / size
    band = estimate_band(X, targets - targets.mean(0), rng)
    first = band / activation_named(activation).effective_band() if band > 0 else 1.0
    draw = draw_unit_weights(n_features, X.shape[1], distribution, rng)
    tried: dict[float, tuple[float, float]] = {}

    def attempt(scale: float) -> float:
        if scale not in tried:
            weights = scale * draw[0]
            H = hidden_layer(X, weights, place_biases(draw[1], weights, X, scale, bias_scale), activation, direct_links)
            tried[scale] = _left_out(H, targets, RIDGES if alpha == "auto" else (alpha,))
        return tried[scale][0]

    for scale in [first * factor for factor in _FACTORS] if scales is None else scales:
        attempt(check_number("scales", scale, gt=0))
    best = min(tried, key=attempt)
    step = _FACTORS[1] / _FACTORS[0]
    while scales is None and len(tried) < _MOST_TRIED and best in (min(tried), max(tried)):
        attempt(best / step if best == min(tried) else best * step)
        best = min(tried, key=attempt)
    ordered = np.array(sorted(tried))
    errors = size * np.array([tried[s][0] for s in ordered])
    return ScaleAdvice(float(best), tried[best][1], size * tried[best][0], ordered, errors, band)


def estimate_band(X: np.ndarray, y: np.ndarray, rng: np.random.RandomState) -> float:
    """Return the frequency below which nearly all of the energy of values at scattered points is.

    In each of some random directions the values are correlated with waves up to the frequency at which neighbouring
    samples, on a grid of as many, would still tell them apart. What noise and the scatter of points add evenly to all
    frequencies is taken off.
    """
    n, dim = X.shape
    X = X - X.mean(0)
    unit = float(np.ptp(X, axis=0).max()) or 1.0
    X = X / unit
    spread = np.ptp(X, axis=0)
    radius = float(np.linalg.norm(spread)) or 1.0
    top = math.pi * max(2.0, n ** (1 / dim))
    frequencies = np.linspace(0.5 * math.pi / radius, top, _FREQUENCIES if dim > 1 else 4 * _FREQUENCIES)
    if dim == 1:
        directions = np.ones((1, 1))
    else:
        directions = rng.normal(size=(_DIRECTIONS, dim))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # A window that falls to 0 at the edge, so that the cut there has no spectrum of its own.
    window = np.cos(np.pi / 2 * np.clip(2 * np.abs(X) / np.maximum(spread, 1e-300), 0, 1)).prod(1) ** (2 / dim)
    values = y * window[:, None]
    energy = np.zeros(len(frequencies))
    for direction in directions:
        phases = np.outer(X @ direction, frequencies)
        energy += (np.square(np.cos(phases).T @ values) + np.square(np.sin(phases).T @ values)).sum(1)
    density = energy - np.median(energy) if dim > 1 else energy
    total = np.cumsum(density.clip(0))
    if not total[-1] > 0:
        return 0.0
    return float(frequencies[int((total >= (1 - _QUIET) * total[-1]).argmax())]) / unit


def draw_unit_weights(
    n: int, dim: int, distribution: Distribution, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draw hidden weights and biases for a scale of 1; those of another are multiples."""
    check_choice("distribution", distribution, ("uniform", "normal", "sphere"))
    if distribution == "normal":
        a = rng.normal(scale=1 / math.sqrt(3), size=(dim, n))
    elif distribution == "sphere":
        a = rng.normal(size=(dim, n))
        a /= np.linalg.norm(a, axis=0)
    else:
        a = rng.uniform(-1, 1, (dim, n))
    return a, rng.uniform(-1, 1, n)


def largest(X: np.ndarray) -> float:
    """Return the largest 1-norm of a point from the mean: how far a ridge with weights up to 1 reaches."""
    return float(np.abs(X - X.mean(0)).sum(1).max()) or 1.0


def place_biases(
    draw: np.ndarray,
    weights: np.ndarray,
    X: np.ndarray,
    scale: float,
    bias_scale: float | Literal["paper"] | None,
) -> np.ndarray:
    """Return biases from draws in [-1, 1]: by default so that ridges lie all over the data, wherever these are."""
    if bias_scale is None:
        return X.mean(0) @ weights + scale * largest(X) * draw
    if isinstance(bias_scale, str):
        check_choice("bias_scale", bias_scale, ("paper",))
        return scale * draw
    return check_number("bias_scale", bias_scale, ge=0) * draw


def hidden_layer(
    X: np.ndarray, weights: np.ndarray, biases: np.ndarray, activation: Name, direct_links: bool
) -> np.ndarray:
    """Return the outputs of hidden units, with the inputs and a constant beside them where they are linked directly."""
    H = X @ weights
    H -= biases
    H = activation_named(activation).function(H)
    return np.hstack([H, X, np.ones((len(X), 1))]) if direct_links else H


def _left_out(H: np.ndarray, y: np.ndarray, ridges: Any) -> tuple[float, float]:
    """Return the least error of samples left out, over ridges, and that ridge."""
    parts = decompose(H, RCOND)
    unit = float(np.square(H).sum()) / len(H)
    found = [(float(np.sqrt(np.square(parts.left_out(y, r * unit)).mean())), r) for r in ridges]
    return min(found, key=lambda pair: pair[0] if math.isfinite(pair[0]) else math.inf)
