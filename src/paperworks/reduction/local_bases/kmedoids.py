"""k-medoids: the members of a set that stand for it best, by swaps of medoids that look at all swaps at once."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.metrics import pairwise_distances
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks.core.validation import check_count
from paperworks.reduction.local_bases.dissimilarity import sine_dissimilarity

BLOCK = 64  # candidates that are looked at together


class Medoids(NamedTuple):
    """What `fasterpam` found.

    Attributes
    ----------
    medoids : np.ndarray
        The medoids, as numbers of points.
    labels : np.ndarray
        For each point the place of its nearest medoid in `medoids`.
    inertia : float
        The sum of the dissimilarities to them.
    n_swaps, n_iter : int
        How many swaps were made, and how many passes over the candidates.

    Examples
    --------
    >>> import numpy as np
    >>> fasterpam(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0])).inertia
    1.0
    """

    medoids: Int[np.ndarray, " k"]
    labels: Int[np.ndarray, " m"]
    inertia: float
    n_swaps: int
    n_iter: int


def fasterpam(D: Float[np.ndarray, "m m"], medoids: Int[np.ndarray, " k"], steps: int = 100) -> Medoids:
    r"""Improve medoids by swaps until none helps: partitioning around medoids, eagerly.

    For each candidate the change of :math:`\sum_i \min_k D_{i k}` by a swap with each of the k medoids takes one pass
    over the points (Schubert and Rousseeuw, arXiv:2008.05171, FasterPAM). Here 64 candidates are looked at together,
    and the best swap among them is made at once.

    Parameters
    ----------
    D
        Dissimilarities, row i and column j between points i and j. It need be no metric.
    medoids
        The points to begin with, k different ones.
    steps
        The most passes over all candidates; 100 by default, which is hardly ever reached.

    Returns
    -------
    Medoids
        What was found.

    Raises
    ------
    ValueError
        Where medoids repeat, or are no points, or dissimilarities are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([0.0, 0.1, 0.2, 5.0, 5.1])
    >>> found = fasterpam(np.abs(x[:, None] - x), np.array([0, 1]))
    >>> sorted(found.medoids.tolist()), round(found.inertia, 6)
    ([1, 3], 0.3)
    """
    check_count("steps", steps, at_least=0)
    D = np.asarray(D)
    D = D if D.dtype == np.float32 else D.astype(np.float64, copy=False)
    m = len(D)
    chosen = np.array(medoids)
    if (
        chosen.ndim != 1
        or chosen.dtype.kind not in "iu"
        or D.shape != (m, m)
        or not 0 < len(chosen) <= m
        or len(set(chosen.tolist())) < len(chosen)
    ):
        raise ValueError(f"medoids are {chosen.tolist()} of {D.shape}; it takes different points of a square matrix")
    if chosen.min() < 0 or chosen.max() >= m:
        raise ValueError(f"medoids are {chosen.tolist()}; it takes points from 0 to {m - 1}")
    chosen = chosen.astype(int)
    if not np.isfinite(D).all():
        raise ValueError("D has dissimilarities that are not finite; it takes finite numbers")
    k, swaps, since = len(chosen), 0, 0
    columns = np.ascontiguousarray(D.T)  # what each candidate is apart from all points
    blocks = [slice(start, min(start + BLOCK, m)) for start in range(0, m, BLOCK)]
    nearest, first, second, member, removal = _nearest(columns, chosen)
    passes = 0
    while passes < steps and since < len(blocks):
        passes += 1
        for block in blocks:
            if since >= len(blocks):
                break
            since += 1
            near = np.maximum(columns[block], first)
            change = np.minimum(np.subtract(near, second, out=near), 0, out=near) @ member + removal
            gain = np.minimum(columns[block] - first, 0).sum(1)
            change += gain[:, None]
            best = int(change.argmin())
            if change.flat[best] < -1e-12 * max(abs(first.sum()), 1e-300):
                chosen[best % k] = block.start + best // k
                nearest, first, second, member, removal = _nearest(columns, chosen)
                swaps, since = swaps + 1, 0
    return Medoids(chosen, nearest, float(first.sum()), swaps, passes)


def _nearest(columns: np.ndarray, medoids: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return each point's nearest medoid, how far it and the second are, membership, and what removal costs."""
    d = columns[medoids]
    nearest = d.argmin(0)
    points = np.arange(d.shape[1])
    first = d[nearest, points]
    rest = d.copy()
    rest[nearest, points] = np.inf
    second = rest.min(0) if len(d) > 1 else np.full(d.shape[1], columns.max())
    member = np.zeros((d.shape[1], len(d)))
    member[points, nearest] = 1
    return nearest, first, second, member, (second - first) @ member


def build(D: Float[np.ndarray, "m m"], k: int) -> Int[np.ndarray, " k"]:
    """Choose medoids greedily: each the point that lowers the sum of dissimilarities most (PAM's BUILD).

    Parameters
    ----------
    D
        Dissimilarities of points.
    k
        How many medoids.
    """
    found = [int(D.sum(0).argmin())]
    first = D[:, found[0]].copy()
    for _ in range(k - 1):
        gain = np.maximum(first[:, None] - D, 0).sum(0)
        gain[found] = -1
        found.append(int(gain.argmax()))
        first = np.minimum(first, D[:, found[-1]])
    return np.array(found)


class KMedoids(ClusterMixin, BaseEstimator):
    r"""k-medoids clustering, which minimises :math:`\sum_i \delta(u_i, \mathrm{medoid})`, for any dissimilarity.

    Parameters
    ----------
    n_clusters
        How many clusters; 8 by default.
    metric
        ``"precomputed"`` takes a matrix of dissimilarities to `fit`; ``"sine"`` is `sine_dissimilarity`; a callable
        takes two sets of rows and returns their matrix; others, ``"euclidean"`` by default, are those of
        scikit-learn's `pairwise_distances`.
    n_init
        How many starts, the best is kept: the first from PAM's BUILD, others from random points; 5 by default.
    max_iter
        The most passes over all candidates of a start; 100 by default.
    min_size
        Clusters of fewer members are merged into the nearest other medoid's, the smallest first; 1 by default, which
        merges none.
    random_state
        The seed of the random starts; None, the default, draws one.

    Attributes
    ----------
    medoid_indices_ : np.ndarray
        The medoids, as points of the data.
    labels_ : np.ndarray
        The cluster of each point.
    inertia_ : float
        The sum of the dissimilarities to the medoids.
    n_iter_ : int
        How many passes the best start took.

    References
    ----------
    Schubert and Rousseeuw, "Fast and eager k-medoids clustering", arXiv:2008.05171.

    Examples
    --------
    >>> import numpy as np
    >>> KMedoids(2).fit(np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])).labels_.tolist()
    [0, 0, 0, 1, 1]
    """

    def __init__(
        self,
        n_clusters: int = 8,
        metric: Any = "euclidean",
        n_init: int = 5,
        max_iter: int = 100,
        min_size: int = 1,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.metric = metric
        self.n_init = n_init
        self.max_iter = max_iter
        self.min_size = min_size
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> "KMedoids":
        """Find medoids.

        Parameters
        ----------
        X
            Points as rows, or with ``"precomputed"`` the square, symmetric matrix of dissimilarities.
        y
            Ignored; scikit-learn's interface has it.

        Returns
        -------
        KMedoids
            The fitted model.

        Raises
        ------
        ValueError
            Where there are more clusters than points, or the matrix is not symmetric or negative.
        """
        X = validate_data(self, X, dtype=np.float64)
        k = check_count("n_clusters", self.n_clusters)
        for name in ("n_init", "max_iter", "min_size"):
            check_count(name, getattr(self, name))
        if k > len(X):
            raise ValueError(f"n_clusters is {k}; it takes at most the number of samples, n_samples={len(X)}")
        D = self._between(X, None)
        if self.metric == "precomputed" or callable(self.metric):
            check_dissimilarities(D)
        rng = check_random_state(self.random_state)
        starts = [build(D, k), *(rng.permutation(len(D))[:k] for _ in range(self.n_init - 1))]
        best = min((fasterpam(D, start, self.max_iter) for start in starts), key=lambda found: found.inertia)
        medoids = _merged(D, best.medoids, self.min_size)
        # The most central cluster is number 0, whatever the order of the points.
        self.medoid_indices_ = medoids[np.argsort(D[:, medoids].sum(0), kind="stable")]
        self.labels_ = D[:, self.medoid_indices_].argmin(1)
        self.n_iter_ = best.n_iter
        self.inertia_ = float(D[np.arange(len(D)), self.medoid_indices_[self.labels_]].sum())
        self._medoids = None if self.metric == "precomputed" else X[self.medoid_indices_]
        return self

    def predict(self, X: Any) -> Int[np.ndarray, " m"]:
        """Return the cluster of the nearest medoid.

        Parameters
        ----------
        X
            Points as rows, or with ``"precomputed"`` their dissimilarities to the points of the fit, (m, fitted).

        Returns
        -------
        np.ndarray
            For each point the number of its cluster.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        D = X[:, self.medoid_indices_] if self._medoids is None else self._between(X, self._medoids)
        return D.argmin(1)

    def _between(self, X: np.ndarray, Y: np.ndarray | None) -> np.ndarray:
        if self.metric == "precomputed":
            return X
        if callable(self.metric):
            found, shape = np.asarray(self.metric(X, X if Y is None else Y)), (len(X), len(X if Y is None else Y))
            if found.shape != shape:
                raise ValueError(f"metric returned the shape {found.shape}; it takes a matrix of shape {shape}")
            return found
        if self.metric == "sine":
            return sine_dissimilarity(X, Y)
        return pairwise_distances(X, Y, metric=self.metric)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.metric == "precomputed"
        return tags


def check_dissimilarities(D: np.ndarray) -> None:
    """Refuse what is no matrix of dissimilarities: square, symmetric, finite, not negative.

    Parameters
    ----------
    D
        The matrix.
    """
    if D.ndim != 2 or D.shape[0] != D.shape[1]:
        raise ValueError(f"the dissimilarities have shape {D.shape}; it takes a square matrix")
    if not np.isfinite(D).all() or D.min() < 0:
        raise ValueError("the dissimilarities have values that are negative or not finite; it takes values >= 0")
    if np.abs(D - D.T).max() > 1e-8 * D.max():
        raise ValueError("the dissimilarities are not symmetric; symmetrise them first, by the mean or the maximum")


def _merged(D: np.ndarray, medoids: np.ndarray, min_size: int) -> np.ndarray:
    """Drop the medoid of the smallest cluster until none is too small."""
    while len(medoids) > 1:
        sizes = np.bincount(D[:, medoids].argmin(1), minlength=len(medoids))
        if sizes.min() >= min_size:
            break
        medoids = np.delete(medoids, sizes.argmin())
    return medoids
