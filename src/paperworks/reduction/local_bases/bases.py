"""Local reduced bases: simulations are grouped by the angle between them, and each group has its own modes."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.reduction.inner_products import gram_matrix, row_norms
from paperworks.reduction.local_bases.dissimilarity import (
    KINDS,
    projection_errors,
    scaled_trajectories,
    sine_dissimilarity,
    subspace_dissimilarity,
)
from paperworks.reduction.local_bases.kmedoids import KMedoids
from paperworks.reduction.snapshots import SnapshotPOD

CLUSTERINGS = ("kmedoids", "kmeans", "projection")
Snapshots: TypeAlias = Float[np.ndarray, "m n"] | Float[np.ndarray, "m t n"] | Sequence[Float[np.ndarray, "_ n"]]


class LocalReducedBases(BaseEstimator):
    r"""A dictionary of reduced bases, one for each cluster of simulations.

    Simulations are grouped by k-medoids on the sine of the angle between them, which is the relative error of
    projecting one onto the other, so that the widths of the clusters become small; each cluster then has the modes of
    its own snapshots, scaled to norm 1 first, as it is relative errors that count (Daniel et al., arXiv:2103.13683).

    Parameters
    ----------
    n_clusters
        How many clusters K; 8 by default.
    n_modes
        How many modes N each basis has at most; 10 by default.
    dissimilarity
        ``"sine"``, the default, ``"euclidean"``, any kind of `subspace_dissimilarity` for trajectories, which are
        compressed to `trajectory_modes` each first, ``"projection_error"``: how much of each trajectory the other's
        basis loses, the larger of both ways, or a callable of two lists of trajectories that returns a matrix. The
        Euclidean distance of trajectories is that of all their snapshots as one vector; other kinds take a snapshot as
        a trajectory of one.
    clustering
        ``"kmedoids"``, the default; ``"kmeans"``: Euclidean, of the vectors; ``"projection"``: from
        k-medoids on, each simulation joins the cluster whose basis represents it best, again and again (Amsallem and
        Haasdonk's projection errors).
    inner_product
        The matrix M of the inner product, dense or sparse, its diagonal as a vector, or None, the default, for the
        Euclidean one. ``"euclidean"`` and ``"kmeans"`` group without it.
    normalize
        Whether snapshots are scaled to norm 1 before their modes are taken; True by default.
    trajectory_modes
        To how many modes p a trajectory is compressed where subspaces are compared; 1 by default.
    rtol
        The tolerance of `SnapshotPOD` for the modes of a cluster; None, the default, keeps `n_modes`.
    n_init
        How many starts the clustering has; 5 by default.
    min_size
        ``"kmedoids"`` merges smaller clusters into others; 1 by default, which merges none.
    random_state
        The seed of the starts; None, the default, draws one.

    Attributes
    ----------
    labels_ : np.ndarray
        The cluster of each simulation of the fit.
    medoid_indices_ : np.ndarray or None
        The medoids, as simulations of the fit; None of other clusterings.
    bases_ : list of np.ndarray
        For each cluster its modes as rows.
    global_basis_ : np.ndarray
        As many modes of all snapshots, as rows: the basis that the dictionary has to beat.
    inertia_ : float
        The sum of the dissimilarities to the medoids; of other clusterings, of their own criterion.

    References
    ----------
    Daniel, Casenave, Akkari, Ketata and Ryckelynck, "Physics-informed cluster analysis and a priori efficiency
    criterion for the construction of local reduced-order bases", arXiv:2103.13683, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(0, 1, 200)
    >>> centre, size = np.random.default_rng(0).uniform([0.2, -1], [0.8, 1], size=(100, 2)).T[:, :, None]
    >>> U = 10**size * np.exp(-(((x - centre) / 0.1) ** 2))
    >>> local = LocalReducedBases(n_clusters=5, n_modes=3, random_state=0).fit(U)
    >>> one = LocalReducedBases(n_clusters=1, n_modes=3).fit(U)
    >>> errors = local.projection_errors(U)[range(100), local.predict(U)]
    >>> bool(errors.mean() < 0.1 * one.projection_errors(U).mean())
    True
    """

    def __init__(
        self,
        n_clusters: int = 8,
        n_modes: int = 10,
        dissimilarity: str | Callable[..., np.ndarray] = "sine",
        clustering: str = "kmedoids",
        inner_product: Any = None,
        normalize: bool = True,
        trajectory_modes: int = 1,
        rtol: float | None = None,
        n_init: int = 5,
        min_size: int = 1,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_modes = n_modes
        self.dissimilarity = dissimilarity
        self.clustering = clustering
        self.inner_product = inner_product
        self.normalize = normalize
        self.trajectory_modes = trajectory_modes
        self.rtol = rtol
        self.n_init = n_init
        self.min_size = min_size
        self.random_state = random_state

    n_features_in_: int

    def fit(
        self, U: Snapshots, y: object = None, *, labels: Int[np.ndarray, " m"] | None = None
    ) -> "LocalReducedBases":
        """Group simulations, and find each group's modes.

        Parameters
        ----------
        U
            One snapshot each, as rows, or trajectories: an array (m, t, n), or a list of arrays (t, n) whose numbers
            of snapshots may differ.
        y
            Ignored; scikit-learn's interface has it.
        labels
            Clusters from elsewhere, such as of the inputs, in place of a clustering; numbers from 0 without gaps.
            `predict` then takes the basis that represents a simulation best.

        Returns
        -------
        LocalReducedBases
            The fitted dictionary.

        Raises
        ------
        ValueError
            Where a simulation is zero or not finite, or there are more clusters than simulations.
        """
        blocks = self._blocks(U, reset=True)
        k = check_count("n_clusters", self.n_clusters)
        check_count("n_modes", self.n_modes)
        check_count("trajectory_modes", self.trajectory_modes)
        check_choice("clustering", self.clustering, CLUSTERINGS)
        if not callable(self.dissimilarity):
            check_choice("dissimilarity", self.dissimilarity, ("euclidean", "projection_error", *KINDS))
        if self.rtol is not None:
            check_number("rtol", self.rtol, gt=0, lt=1)
        if k > len(blocks):
            raise ValueError(f"n_clusters is {k}; it takes at most the number of simulations, n_samples={len(blocks)}")
        scaled_trajectories(blocks)  # refuses what is zero
        self.medoid_indices_ = self._medoids = self._centres = None
        if labels is not None:
            self.labels_ = self._given(labels, len(blocks))
            self.inertia_ = np.nan
        elif self.clustering == "kmedoids":
            found = KMedoids(
                k, "precomputed", n_init=self.n_init, min_size=self.min_size, random_state=self.random_state
            ).fit(self._between(blocks, None))
            self.labels_, self.inertia_ = found.labels_, found.inertia_
            self.medoid_indices_ = found.medoid_indices_
            self._medoids = [blocks[i] for i in found.medoid_indices_]
        elif self.clustering == "kmeans":
            means = KMeans(k, n_init=self.n_init, random_state=self.random_state).fit(_vectors(blocks))
            self.labels_, self.inertia_, self._centres = means.labels_, float(means.inertia_), means.cluster_centers_
        else:
            self.labels_, self.inertia_ = self._by_projection(blocks, k)
        self._find_bases(blocks)
        return self

    def predict(self, U: Snapshots) -> Int[np.ndarray, " m"]:
        """Return the cluster of simulations: that of the nearest medoid or mean, or of the basis with the least error.

        Parameters
        ----------
        U
            Simulations, as in `fit`.

        Returns
        -------
        np.ndarray
            For each the number of its cluster.
        """
        check_is_fitted(self)
        blocks = self._blocks(U, reset=False)
        if self._medoids is not None:
            return self._between(blocks, self._medoids).argmin(1)
        if self._centres is not None:
            return pairwise_distances(_vectors(blocks), self._centres).argmin(1)
        return projection_errors(blocks, self.bases_, self.inner_product).argmin(1)

    def project(
        self, U: Snapshots, labels: Int[np.ndarray, " m"] | None = None
    ) -> list[Float[np.ndarray, "_ n"]] | Float[np.ndarray, "m n"]:
        """Return the projections of simulations onto the bases of their clusters.

        Parameters
        ----------
        U
            Simulations, as in `fit`.
        labels
            Their clusters; None, the default, takes those of `predict`.

        Returns
        -------
        np.ndarray or list of np.ndarray
            In the shape of `U`: rows for snapshots, a list of arrays for trajectories.
        """
        check_is_fitted(self)
        blocks = self._blocks(U, reset=False)
        chosen = self.predict(U) if labels is None else self._given(labels, len(blocks), len(self.bases_))
        bases = [self.bases_[label] for label in chosen]
        found = [gram_matrix(u, B, self.inner_product) @ B for u, B in zip(blocks, bases, strict=True)]
        return found if _are_trajectories(U) else np.concatenate(found)

    def projection_errors(self, U: Snapshots) -> Float[np.ndarray, "m k"]:
        """Return the relative errors of projecting simulations onto each basis of the dictionary.

        Parameters
        ----------
        U
            Simulations, as in `fit`.

        Returns
        -------
        np.ndarray
            Row i, column j: the error of simulation i on basis j.
        """
        check_is_fitted(self)
        return projection_errors(self._blocks(U, reset=False), self.bases_, self.inner_product)

    def _blocks(self, U: Snapshots, reset: bool) -> list[np.ndarray]:
        """Return simulations as a list of blocks of rows, all finite and of one length."""
        if _are_trajectories(U):
            blocks = [np.asarray(u, dtype=np.float64) for u in U]
            if any(u.ndim != 2 or not len(u) or u.shape[1] != blocks[0].shape[1] for u in blocks):
                raise ValueError("U has trajectories whose snapshots differ in length; it takes arrays (t, n)")
            if not all(np.isfinite(u).all() for u in blocks):
                raise ValueError("U has trajectories with NaN or infinite values; it takes finite snapshots")
            length = blocks[0].shape[1]
            if reset:
                self.n_features_in_ = length
            if length != self.n_features_in_:
                raise ValueError(f"U has snapshots of length {length}; it takes {self.n_features_in_} features")
            return blocks
        rows = validate_data(self, U, dtype=np.float64, reset=reset)
        return list(rows[:, None])

    def _given(self, labels: Any, count: int, k: int | None = None) -> np.ndarray:
        found = np.asarray(labels)
        if found.shape != (count,) or found.dtype.kind not in "iu" or found.min() < 0:
            raise ValueError(
                f"labels have shape {found.shape}, {found.dtype}; it takes {count} numbers of clusters from 0"
            )
        if (k is None and len(np.unique(found)) != found.max() + 1) or (k is not None and found.max() >= k):
            raise ValueError(f"labels go up to {found.max()}; it takes numbers of clusters from 0 without gaps")
        return found

    def _between(self, blocks: list[np.ndarray], others: list[np.ndarray] | None) -> np.ndarray:
        """Return the dissimilarities of simulations."""
        if callable(self.dissimilarity):
            found = np.asarray(self.dissimilarity(blocks, blocks if others is None else others))
            shape = len(blocks), len(blocks if others is None else others)
            if found.shape != shape:
                raise ValueError(f"dissimilarity returned the shape {found.shape}; it takes a matrix of shape {shape}")
            return found
        if self.dissimilarity == "euclidean":
            return pairwise_distances(_vectors(blocks), None if others is None else _vectors(others))
        if self.dissimilarity == "sine" and all(len(u) == 1 for u in (*blocks, *(others or ()))):
            right = None if others is None else _vectors(others)
            return sine_dissimilarity(_vectors(blocks), right, self.inner_product)
        bases = [self._compressed(u) for u in blocks]
        against = bases if others is None else [self._compressed(u) for u in others]
        if self.dissimilarity == "projection_error":
            there = projection_errors(blocks, against, self.inner_product)
            back = there if others is None else projection_errors(others, bases, self.inner_product)
            return np.maximum(there, back.T)
        return subspace_dissimilarity(
            bases, None if others is None else against, self.dissimilarity, self.inner_product
        )

    def _compressed(self, u: np.ndarray) -> np.ndarray:
        return SnapshotPOD(self.trajectory_modes, inner_product=self.inner_product).fit(u).modes_

    def _modes(self, rows: list[np.ndarray]) -> np.ndarray:
        """Return the modes of a set of simulations."""
        found = np.concatenate(rows)
        if self.normalize:
            starts = np.cumsum([0, *(len(u) for u in rows[:-1])])
            counts = [len(u) for u in rows]
            found = found / np.repeat(np.maximum.reduceat(np.abs(found).max(1), starts), counts)[:, None]
            squares = np.add.reduceat(row_norms(found, self.inner_product) ** 2, starts)
            found = found / np.sqrt(np.repeat(squares, counts))[:, None]
        return SnapshotPOD(self.n_modes, self.rtol, self.inner_product).fit(found).modes_

    def _find_bases(self, blocks: list[np.ndarray]) -> None:
        clusters = [
            [blocks[i] for i in np.flatnonzero(self.labels_ == label)] for label in range(self.labels_.max() + 1)
        ]
        self.bases_ = [self._modes(cluster) for cluster in clusters]
        self.global_basis_ = self._modes(blocks)
        few = [len(B) for B, c in zip(self.bases_, clusters, strict=True) if sum(map(len, c)) < self.n_modes]
        if few and self.rtol is None:
            warnings.warn(
                f"{len(few)} of {len(clusters)} clusters have fewer snapshots than n_modes={self.n_modes}; their bases"
                f" have {min(few)} modes or more",
                stacklevel=3,
            )

    def _by_projection(self, blocks: list[np.ndarray], k: int) -> tuple[np.ndarray, float]:
        """Group simulations by the basis that loses least, from k-medoids on, until nothing changes."""
        start = KMedoids(k, "precomputed", n_init=self.n_init, random_state=self.random_state)
        labels = start.fit(self._between(blocks, None)).labels_
        for _ in range(100):
            bases = [self._modes(cluster) for cluster in _by_label(blocks, labels)]
            errors = projection_errors(blocks, bases, self.inner_product)
            found = np.unique(errors.argmin(1), return_inverse=True)[1]
            if np.array_equal(found, labels):
                break
            labels = found
        return labels, float((errors.min(1) ** 2).sum())


def _are_trajectories(U: Any) -> bool:
    """Whether simulations are an array (m, t, n), or a list of arrays (t, n), and no rows."""
    return np.ndim(U[0]) == 2 if isinstance(U, (list, tuple)) and len(U) else getattr(U, "ndim", 0) == 3


def _by_label(blocks: list[np.ndarray], labels: np.ndarray) -> list[list[np.ndarray]]:
    """Return the simulations of each cluster."""
    return [[blocks[i] for i in np.flatnonzero(labels == label)] for label in range(labels.max() + 1)]


def _vectors(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Return each simulation as one vector, its snapshots one after the other."""
    if len({u.shape for u in blocks}) > 1:
        raise ValueError("U has trajectories of different numbers of snapshots; this dissimilarity takes equal ones")
    return np.stack([u.ravel() for u in blocks])
