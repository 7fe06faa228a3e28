"""Extreme eigenvalues of the curvature of a batch, from those of all data: spiked random matrices in closed form."""

import math
from typing import Literal, get_args

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics.spectra import Spectrum

Model = Literal["hessian", "ggn"]
Bulk = np.ndarray | Tensor | Spectrum
_STEPS = 2000  # of a fixed point


def effective_batch_size(batch_size: int, n_data: int | None = None) -> float:
    r"""Return ``1 / (1 / B - 1 / N)``, by which the noise of a batch drawn without replacement falls.

    Parameters
    ----------
    batch_size
        Samples in a batch.
    n_data
        Samples of all data; None for so many that a batch is none of them.

    Returns
    -------
    float
        At least `batch_size`; infinite where the batch is all data.

    Raises
    ------
    ValueError
        Unless ``1 <= batch_size <= n_data``.

    Examples
    --------
    >>> effective_batch_size(50, 100), effective_batch_size(50), effective_batch_size(100, 100)
    (100.0, 50.0, inf)
    """
    count = check_count("batch_size", batch_size, at_most=None if n_data is None else check_count("n_data", n_data))
    if n_data is None:
        return float(count)
    return math.inf if count == n_data else count * n_data / (n_data - count)


def batch_outlier(
    lam: float,
    s2: float | None,
    batch_size: int,
    n_data: int | None = None,
    *,
    model: Model = "hessian",
    bulk: Bulk | None = None,
    tau2: float | None = None,
    p_eff: float | None = None,
) -> float:
    r"""Return the eigenvalue of a batch's matrix that belongs to an outlier of the matrix of all data.

    A batch's Hessian is modelled as the full one plus a symmetric random matrix with elements of variance
    ``s2 / (P b)``, ``b`` being `effective_batch_size`. An outlier is moved outwards to ``lam + s2 / (b lam)`` while
    ``lam`` is above the transition ``(s2 / b)^(1/2)``, and is lost in the bulk below, whose edge is then returned. A
    batch's Gauss-Newton matrix is modelled as the covariance of `p_eff` features that have the variance `tau2` but
    along a few spikes: ``lam (1 + g tau2 / (lam - tau2))`` with ``g = p_eff / b`` above ``tau2 (1 + g^(1/2))``.

    Parameters
    ----------
    lam
        The outlier for all data; for a Hessian it may be negative.
    s2
        Noise of the Hessian, P times the variance of its elements over samples, as `estimate_hessian_noise` gives it;
        None for ``ggn``.
    batch_size, n_data
        As in `effective_batch_size`.
    model
        ``hessian``: additive noise (spiked Wigner); ``ggn``: multiplicative noise (spiked Marchenko-Pastur).
    bulk
        Eigenvalues that the full Hessian has besides outliers, or their `Spectrum`; by default all are 0. The outlier
        is then moved by ``s2 / b`` times the mean of ``1 / (lam - eigenvalue)``, away from them; one that lies amid
        them belongs to the end on the side of its sign.
    tau2, p_eff
        Variance and number of the features of ``ggn``, which takes both.

    Returns
    -------
    float
        At least as far out as `lam`; `lam` itself where the batch is all data.

    Raises
    ------
    ValueError
        For a batch larger than the data or below 1, ``lam`` 0 amid the bulk (or negative for ``ggn``), ``s2`` negative,
        or arguments of the other model.

    References
    ----------
    arXiv 2006.09092, the theorems on batch Hessians; Baik, Ben Arous and Péché (2005) for the transition; with a bulk
    of its own: Capitaine, Donati-Martin, Féral and Février (2011), section 3.

    Examples
    --------
    >>> batch_outlier(2.0, 1.0, 1), batch_outlier(0.5, 1.0, 1)  # above and below the transition at 1
    (2.5, 2.0)
    >>> batch_outlier(3.0, None, 100, model="ggn", tau2=1.0, p_eff=100.0)
    4.5
    """
    sign, noise = _side(lam, "lam", s2, batch_size, n_data, model, bulk, tau2, p_eff)
    return sign * noise.outlier(sign * float(lam))


def bulk_edge(
    s2: float | None,
    batch_size: int,
    n_data: int | None = None,
    *,
    side: Literal["upper", "lower"] = "upper",
    model: Model = "hessian",
    bulk: Bulk | None = None,
    tau2: float | None = None,
    p_eff: float | None = None,
) -> float:
    """Return the edge of the bulk of a batch's eigenvalues: what noise alone makes of directions that are flat.

    Parameters
    ----------
    s2, batch_size, n_data, model, bulk, tau2, p_eff
        As in `batch_outlier`.
    side
        ``upper`` or ``lower`` edge.

    Returns
    -------
    float
        For a Hessian ``2 (s2 / b)^(1/2)``, or minus that; for ``ggn`` ``tau2 (1 + g^(1/2))^2``, and from below
        ``tau2 (1 - g^(1/2))^2``, besides zeros where there are fewer samples than features.

    Raises
    ------
    ValueError
        As in `batch_outlier`.

    Examples
    --------
    >>> bulk_edge(1.0, 4), bulk_edge(1.0, 4, side="lower")
    (1.0, -1.0)
    >>> bulk_edge(None, 100, model="ggn", tau2=1.0, p_eff=100.0)
    4.0
    """
    check_choice("side", side, ("upper", "lower"))
    sign = 1 if side == "upper" else -1
    noise = _noise(s2, batch_size, n_data, model, bulk, tau2, p_eff, sign)
    if isinstance(noise, _Multiplicative):
        return noise.edge() if side == "upper" else noise.lower_edge()
    return sign * noise.edge()


def spike_overlap(
    lam: float,
    s2: float | None,
    batch_size: int,
    n_data: int | None = None,
    *,
    model: Model = "hessian",
    bulk: Bulk | None = None,
    tau2: float | None = None,
    p_eff: float | None = None,
) -> float:
    """Return the squared inner product of a batch's outlying eigenvector with that of all data.

    Parameters
    ----------
    lam, s2, batch_size, n_data, model, bulk, tau2, p_eff
        As in `batch_outlier`.

    Returns
    -------
    float
        From 0, at the transition and below, to 1: ``1 - s2 / (b lam^2)`` for a Hessian.

    Raises
    ------
    ValueError
        As in `batch_outlier`.

    Examples
    --------
    >>> spike_overlap(2.0, 1.0, 1), spike_overlap(0.5, 1.0, 1)
    (0.75, 0.0)
    """
    sign, noise = _side(lam, "lam", s2, batch_size, n_data, model, bulk, tau2, p_eff)
    return noise.overlap(sign * float(lam))


def deflate_eigenvalue(
    value: float,
    s2: float | None,
    batch_size: int,
    n_data: int | None = None,
    *,
    model: Model = "hessian",
    bulk: Bulk | None = None,
    tau2: float | None = None,
    p_eff: float | None = None,
) -> float:
    """Return the outlier of all data that belongs to one measured on a batch: the inverse of `batch_outlier`.

    Parameters
    ----------
    value
        Extreme eigenvalue of a batch's matrix.
    s2, batch_size, n_data, model, bulk, tau2, p_eff
        As in `batch_outlier`.

    Returns
    -------
    float
        The outlier without the bias of the batch. What lies inside the bulk tells of no outlier: it gives the
        transition itself, above which none can be.

    Raises
    ------
    ValueError
        As in `batch_outlier`.

    Examples
    --------
    >>> deflate_eigenvalue(2.5, 1.0, 1), deflate_eigenvalue(-2.5, 1.0, 1), deflate_eigenvalue(1.0, 1.0, 1)
    (2.0, -2.0, 1.0)
    """
    sign, noise = _side(value, "value", s2, batch_size, n_data, model, bulk, tau2, p_eff)
    size = sign * float(value)
    return sign * (noise.inverse(size) if size > noise.edge() else noise.transition())


def critical_batch_size(lam: float, s2: float, n_data: int | None = None) -> float:
    r"""Return the batch size at which noise alone has the curvature of an outlier, ``s2 / lam^2`` samples.

    Below it the largest stable rate of SGD grows with the batch, far above it no longer does.

    Parameters
    ----------
    lam
        The outlier for all data.
    s2
        Noise of the Hessian, as in `batch_outlier`.
    n_data
        Samples of all data; None for unlimited ones.

    Returns
    -------
    float
        Where ``batch_outlier`` is twice `lam`; at most `n_data`.

    Raises
    ------
    ValueError
        Unless ``lam`` is positive and ``s2`` is not negative.

    Examples
    --------
    >>> critical_batch_size(2.0, 32.0), round(critical_batch_size(2.0, 32.0, 100), 3)
    (8.0, 7.407)
    """
    curvature = float(check_number("s2", s2, ge=0)) / float(check_number("lam", lam, gt=0))  # of batches of one
    return curvature / (lam if n_data is None else lam + curvature / check_count("n_data", n_data))


def batch_density(
    grid: np.ndarray,
    s2: float,
    batch_size: int,
    n_data: int | None = None,
    *,
    bulk: Bulk | None = None,
    width: float | None = None,
) -> np.ndarray:
    r"""Return the density of a batch Hessian's eigenvalues: the full one's, freely convolved with a semicircle.

    Its Stieltjes transform solves ``m(z) = m_H(z - (s2 / b) m(z))`` with that of the full Hessian.

    Parameters
    ----------
    grid
        Where it is taken.
    s2, batch_size, n_data, bulk
        As in `batch_outlier`.
    width
        Distance from the real axis at which the transform is inverted, which smooths the density; a hundredth of the
        semicircle's radius by default.

    Returns
    -------
    np.ndarray
        As long as `grid`.

    Raises
    ------
    ValueError
        For bad input as in `batch_outlier`, a grid that isn't finite, or no width where there is no noise to smooth by.
    RuntimeError
        Where the fixed point isn't found, for a width that is too small.

    References
    ----------
    Pastur (1972); arXiv 2006.09092, the free addition of bulk and noise.

    Examples
    --------
    >>> round(float(batch_density(np.zeros(1), 1.0, 1)[0]) * np.pi, 2)  # the semicircle's highest point is 1 / pi
    0.99
    """
    noise = _Additive(check_number("s2", s2, ge=0) / effective_batch_size(batch_size, n_data), bulk)
    if width is None:
        width = noise.radius / 100
        if not width:
            raise ValueError(
                f"s2 is {s2:g} and batch_size {batch_size} of {n_data}: no noise to smooth by; give a width"
            )
    z = np.asarray(grid, dtype=float) + 1j * check_number("width", width, gt=0)
    if not np.isfinite(z).all():
        raise ValueError("grid has NaN or infinity; it takes finite numbers")
    m = 1 / z
    for _ in range(_STEPS):
        new = noise.transform(z - noise.variance * m)
        if np.abs(new - m).max(initial=0) <= 1e-10 * np.abs(m).max(initial=0):
            return -new.imag / np.pi
        m = (m + new) / 2  # half steps: whole ones circle about the solution
    raise RuntimeError(f"no density within {_STEPS} steps; take a width above {width:g}")


class _Additive:
    """Noise that is added to eigenvalues of weights, or to their negatives: a Wigner matrix of variance `variance`."""

    def __init__(self, variance: float, bulk: Bulk | None, sign: int = 1) -> None:
        self.variance, self.radius = variance, 2 * math.sqrt(variance)
        self.plain = bulk is None
        if isinstance(bulk, Spectrum):
            self.at = bulk.nodes.double().flatten().cpu().numpy()
            self.weights = bulk.weights.double().flatten().cpu().numpy() / len(bulk.nodes)
        else:
            self.at = np.zeros(1) if bulk is None else torch.as_tensor(bulk).double().flatten().cpu().numpy()
            self.weights = np.full(len(self.at), 1 / max(len(self.at), 1))
        if not len(self.at) or not np.isfinite(self.at).all():
            raise ValueError(f"bulk has {len(self.at)} eigenvalues; it takes one at least, and all finite")
        self.at, self.weights = sign * self.at[self.weights > 0], self.weights[self.weights > 0]
        self.top = float(self.at.max())
        self.root = math.sqrt(variance)
        # Beside a bulk of any scale, sizes are counted from its top in units of the noise.
        self.gaps = (self.top - self.at) / (self.root or 1.0)

    def transform(self, z: np.ndarray) -> np.ndarray:
        return (self.weights / (z[..., None] - self.at)).sum(-1)

    def _mean(self, u: float, power: int) -> float:
        return float((self.weights * (1 / (u + self.gaps)) ** power).sum())

    def _transition(self) -> float:
        heaviest = float(self.weights[self.gaps.argmin()])
        found = brentq(lambda u: self._mean(u, 2) - 1, math.sqrt(heaviest) / 2, 1 + 1e-9, rtol=1e-13)
        return float(found)

    def transition(self) -> float:
        """Return the outlier at which noise gives its vector no overlap any more: v times mean (x - mu)^-2 is 1."""
        if self.plain or not self.variance:
            return self.root if self.plain else self.top
        return self.top + self.root * self._transition()

    def _move(self, u: float) -> float:
        return u + self._mean(u, 1)

    def edge(self) -> float:
        if self.plain or not self.variance:
            return self.radius if self.plain else self.top
        return self.top + self.root * self._move(self._transition())

    def outlier(self, lam: float) -> float:
        if lam <= self.transition():
            return self.edge()
        return lam + self.root * self._mean((lam - self.top) / self.root, 1) if self.variance else lam

    def overlap(self, lam: float) -> float:
        if lam <= self.transition():
            return 0.0
        return 1 - self._mean((lam - self.top) / self.root, 2) if self.variance else 1.0

    def inverse(self, value: float) -> float:
        if self.plain:
            return (value + math.sqrt(value - self.radius) * math.sqrt(value + self.radius)) / 2
        if not self.variance:
            return value
        low, moved = self._transition(), (value - self.top) / self.root
        if self._move(low) >= moved:  # but for rounding the edge
            return self.transition()
        return self.top + self.root * float(brentq(lambda u: self._move(u) - moved, low, moved, rtol=1e-13))


class _Multiplicative:
    """Noise of a sample covariance: features of variance `tau2`, `ratio` times as many as samples."""

    def __init__(self, tau2: float, ratio: float) -> None:
        self.tau2, self.ratio = tau2, ratio

    def transition(self) -> float:
        return self.tau2 * (1 + math.sqrt(self.ratio))

    def edge(self) -> float:
        return self.tau2 * (1 + math.sqrt(self.ratio)) ** 2

    def lower_edge(self) -> float:
        return self.tau2 * (1 - math.sqrt(self.ratio)) ** 2

    def outlier(self, lam: float) -> float:
        if lam <= self.transition():
            return self.edge()
        return lam * (1 + self.ratio * self.tau2 / (lam - self.tau2))

    def overlap(self, lam: float) -> float:
        if lam <= self.transition():
            return 0.0
        above = lam / self.tau2 - 1 if self.tau2 else math.inf
        return (1 - self.ratio / above**2) / (1 + self.ratio / above)

    def inverse(self, value: float) -> float:
        middle = value - self.tau2 * (1 + self.ratio)  # of a quadratic equation for lam - tau2
        least = 2 * math.sqrt(self.ratio) * self.tau2
        return self.tau2 + (middle + math.sqrt(max(middle - least, 0.0)) * math.sqrt(middle + least)) / 2


def _noise(
    s2: float | None,
    batch_size: int,
    n_data: int | None,
    model: Model,
    bulk: Bulk | None,
    tau2: float | None,
    p_eff: float | None,
    sign: int = 1,
) -> _Additive | _Multiplicative:
    check_choice("model", model, get_args(Model))
    effective = effective_batch_size(batch_size, n_data)
    given = {"s2": s2, "bulk": bulk, "tau2": tau2, "p_eff": p_eff}
    wrong = ("tau2", "p_eff") if model == "hessian" else ("s2", "bulk")
    for name in wrong:
        if given[name] is not None:
            raise ValueError(f"{name} is given for the model {model!r}, which doesn't take it")
    if model == "hessian":
        return _Additive(check_number("s2", s2, ge=0) / effective, bulk, sign)
    return _Multiplicative(check_number("tau2", tau2, ge=0), check_number("p_eff", p_eff, gt=0) / effective)


def _side(
    lam: float,
    name: str,
    s2: float | None,
    batch_size: int,
    n_data: int | None,
    model: Model,
    bulk: Bulk | None,
    tau2: float | None,
    p_eff: float | None,
) -> tuple[int, _Additive | _Multiplicative]:
    """Return 1 for an outlier above the bulk and -1 for one below it, with the noise as seen from there."""
    number = check_number(name, lam)
    if model == "ggn":
        check_number(name, number, gt=0)
    noise = _noise(s2, batch_size, n_data, model, bulk, tau2, p_eff)
    if isinstance(noise, _Multiplicative) or number > noise.top:
        return 1, noise
    if number == 0 and noise.at.min() <= 0:
        raise ValueError(f"{name} is 0; it takes an outlier, which is not 0")
    if number > 0 and number >= noise.at.min():
        return 1, noise
    return -1, _noise(s2, batch_size, n_data, model, bulk, tau2, p_eff, -1)
