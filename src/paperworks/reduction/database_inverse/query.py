"""The query: which simulated tumour looks most like the patient's, by a loop over the whole database."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.decomposition import PCA

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.reduction.database_inverse.autoencoder import TumorAutoencoder
from paperworks.reduction.database_inverse.database import TumorDatabase
from paperworks.reduction.database_inverse.overlap import best_first, hd95
from paperworks.reduction.database_inverse.packed import PackedMasks

METRICS = ("dice", "l2", "hd95", "bernoulli", "legacy")
REPRESENTATIONS = ("full", "downsample", "pca", "autoencoder", "vae")
REGIONS = ("FLAIR", "T1Gd")  # the whole tumour, and its core
# Metrics that look at the masks alone, of the voxels that two share and have in all; larger is better.
BY_BITS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "dice": lambda shared, total: 2 * shared / np.maximum(total, 1),
    "l2": lambda shared, total: -np.sqrt(total - 2.0 * shared),
}
CHUNK = 64  # entries whose regions are taken at once, so that a database larger than the memory can be
SIGMA = 0.05  # width of the likelihood around a threshold


@dataclass(frozen=True, eq=False)
class QueryResult:
    """The entries that look most like a patient, the best first.

    Attributes
    ----------
    indices : np.ndarray
        Entries of the database.
    scores : np.ndarray
        Their scores: of ``"dice"`` the sum of both regions' coefficients, up to 2; of ``"l2"`` and ``"hd95"`` the sum
        of both distances, smaller is better; of the likelihoods the logarithm. Of codes that are not scored again,
        minus the distance of the codes.
    params : np.ndarray
        Parameters of these entries, a structured array.
    seconds : float
        How long the query took.
    scored : int
        How many entries were scored in full.

    Examples
    --------
    >>> import numpy as np
    >>> params = np.array([(0.01, 0.1, 100.0, 0.5, 0.5, 0.5)], dtype=[(n, float) for n in ("Dw", "rho", "T", *"xyz")])
    >>> QueryResult(np.array([3]), np.array([1.7]), params, 0.01, 1).estimate()["rho_T"]
    (10.0, 0.0)
    """

    indices: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]
    params: np.ndarray
    seconds: float
    scored: int

    def estimate(self) -> dict[str, tuple[float, float]]:
        """Return what one image identifies, from the best match, and its spread over all that were found.

        Time and rates are not identifiable apart: an image tells Dw T in cm², rho T and the place of the start.

        Returns
        -------
        dict
            For ``"Dw_T"`` and ``"rho_T"`` the best match's value and the standard deviation of the logarithm; for
            ``"x"``, ``"y"`` and ``"z"`` the value and the standard deviation, in shares of the edges.
        """
        p = self.params
        products = {"Dw_T": p["Dw"] * p["T"], "rho_T": p["rho"] * p["T"]}
        found = {name: (float(v[0]), float(np.std(np.log(v)))) for name, v in products.items()}
        return found | {name: (float(p[name][0]), float(p[name].std())) for name in "xyz"}


class TumorQuery:
    r"""Nearest neighbours of a patient's two regions among simulated tumours, like scikit-learn's `NearestNeighbors`.

    Each concentration becomes two regions, where it is at least a threshold: the whole tumour, which FLAIR shows, and
    the core, which T1Gd shows. The best entry is that with the largest sum of both Dice coefficients. Regions are kept
    as bits, the loop looks only at the blocks of 8³ voxels in which the patient's has any, and an entry is skipped
    where the numbers of voxels in each block alone, :math:`2\sum_b\min(|A_b|,|B_b|)/(|A|+|B|)`, can't reach the best so
    far.

    Parameters
    ----------
    database
        The simulated tumours to look among.
    metric
        ``"dice"``, the default; ``"l2"``: the root of the number of voxels that differ; ``"hd95"``: the 95th percentile
        of distances of surfaces in mm; ``"bernoulli"``: the likelihood of the masks given the concentrations, with
        :math:`\alpha = \frac12 + \frac12\,\mathrm{sign}(c-\tau)\,(1 - e^{-(c-\tau)^2/\sigma^2})` and width 0.05;
        ``"legacy"``: the sum of :math:`\alpha\,y` with width 1, which rewards tumours that are too large.
    thresholds
        Where the whole tumour and the core begin; (0.2, 0.6) by default, the paper's.
    representation
        What is compared: ``"full"``, the default, the masks; ``"downsample"``: every `factor`-th voxel; ``"pca"``,
        ``"autoencoder"`` or ``"vae"``: codes of the masks, by their distance. A code is learned in `fit`.
    factor
        Every how many voxels ``"downsample"`` takes one; 2 by default.
    rerank
        How many of the best of another representation are scored again by the masks; 0, the default, scores none.
    prune
        Whether entries are skipped that the bound excludes; True by default. The answer is the same.
    normalize
        Whether concentrations are divided by their largest first; True by default, as in the paper's thesis. Without it
        slow tumours have no core.
    encoders
        A trained `TumorAutoencoder` for each region, for ``"autoencoder"`` and ``"vae"``; None, the default, trains
        them in `fit` with their defaults.

    References
    ----------
    Ezhov et al., "A for-loop is all you need", arXiv:2205.04550.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.reduction import FisherKolmogorov
    >>> brain = FisherKolmogorov(np.ones((12, 12, 12)), np.zeros((12, 12, 12)), 6.0)
    >>> database = TumorDatabase.generate(brain, 8, random_state=0)
    >>> query = TumorQuery(database).fit()
    >>> patient = database.fields[5] / database.fields[5].max()
    >>> found = query.query(patient >= 0.2, patient >= 0.6, k=3)
    >>> int(found.indices[0]), float(found.scores[0])
    (5, 2.0)
    """

    def __init__(
        self,
        database: TumorDatabase,
        metric: str = "dice",
        thresholds: tuple[float, float] = (0.2, 0.6),
        representation: str = "full",
        factor: int = 2,
        rerank: int = 0,
        prune: bool = True,
        normalize: bool = True,
        encoders: tuple[TumorAutoencoder, TumorAutoencoder] | None = None,
    ) -> None:
        if not isinstance(database, TumorDatabase):
            raise TypeError(f"database is {type(database).__name__}; it takes a TumorDatabase")
        self.database = database
        self.metric = check_choice("metric", metric, METRICS)
        self.representation = check_choice("representation", representation, REPRESENTATIONS)
        if np.shape(thresholds) != (2,):
            raise ValueError(f"thresholds are {thresholds}; it takes two, of the whole tumour and of the core")
        low, high = (check_number("thresholds", value, gt=0, lt=1) for value in thresholds)
        if low >= high:
            raise ValueError(f"thresholds are {thresholds}; it takes that of the whole tumour below that of the core")
        self.thresholds = (low, high)
        self.factor = check_count("factor", factor)
        self.rerank = check_count("rerank", rerank, at_least=0)
        self.prune, self.normalize = bool(prune), bool(normalize)
        self.encoders = encoders
        self._fitted = 0
        self._codes: list[np.ndarray] = []

    def fit(self) -> "TumorQuery":
        """Take the regions of all entries, and their codes where codes are compared.

        Returns
        -------
        TumorQuery
            Itself, ready for queries.
        """
        self._masks, self._small = self._packed(self.database.fields)
        if self.representation not in ("full", "downsample"):
            self._learn()
        self._fitted = len(self.database)
        return self

    def update(self, database: TumorDatabase) -> "TumorQuery":
        """Add the entries of another database, without looking at the earlier ones again; codes are not learned anew.

        Parameters
        ----------
        database
            Simulations in the same atlas.

        Returns
        -------
        TumorQuery
            Itself, with all entries.
        """
        self._ready()
        joined = self.database.add(database)
        masks, small = self._packed(database.fields)
        self.database = joined
        self._masks = [old.joined(new) for old, new in zip(self._masks, masks, strict=True)]
        self._small = [old.joined(new) for old, new in zip(self._small, small, strict=True)]
        if self.representation not in ("full", "downsample"):
            codes = [self._encode(i, region) for i, region in enumerate(self._regions(database.fields))]
            self._codes = [np.concatenate([old, new]) for old, new in zip(self._codes, codes, strict=True)]
        self._fitted = len(self.database)
        return self

    def query(self, flair: Shaped[np.ndarray, "x y z"], t1gd: Shaped[np.ndarray, "x y z"], k: int = 15) -> QueryResult:
        """Return the entries that look most like a patient.

        Parameters
        ----------
        flair
            The whole tumour, as a mask in the atlas.
        t1gd
            The core, as a mask in the atlas; one that reaches out of the whole tumour warns.
        k
            How many entries; 15 by default, the paper's.

        Returns
        -------
        QueryResult
            The best k, ties by the lower number.

        Raises
        ------
        ValueError
            For masks of another shape, other values than 0 and 1, or two that are empty.
        """
        self._ready()
        masks = self._patient(flair, t1gd)
        k = min(check_count("k", k), len(self.database))
        started = time.perf_counter()
        if self.representation == "full":
            indices, scores, scored = self._exact(masks, k, self._masks, self.database.fields, 1)
        elif self.representation == "downsample":
            picked = self._picked()
            small, fields = [mask[picked] for mask in masks], self.database.fields
            fields = fields if self.metric in BY_BITS else fields[_rows_of(picked)]
            indices, scores, scored = self._exact(small, max(k, self.rerank), self._small, fields, self.factor)
            indices, scores, scored = self._again(masks, indices, scores, k, scored if not self.rerank else 0)
        else:
            apart = sum(
                np.linalg.norm(codes - self._encode(i, mask[None])[0], axis=1)
                for i, (codes, mask) in enumerate(zip(self._codes, masks, strict=True))
            )
            indices = best_first(np.asarray(apart), max(k, self.rerank), larger=False)
            indices, scores, scored = self._again(masks, indices, -np.asarray(apart)[indices], k, 0)
        seconds = time.perf_counter() - started
        return QueryResult(indices, scores, self.database.params[indices], seconds, scored)

    kneighbors = query

    def _exact(
        self, masks: list[np.ndarray], k: int, packed: list[PackedMasks], fields: Any, factor: int
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the best entries by the metric, their scores, and how many were scored."""
        if self.metric in BY_BITS:
            asked = [PackedMasks.of(mask[None]) for mask in masks]
            found, best, scored = _by_bits(BY_BITS[self.metric], asked, k, packed, self.prune)
            return found, best if self.metric == "dice" else np.abs(best), scored
        scores: Any
        if self.metric == "hd95":
            spacing = self.database.spacing_mm * factor
            scores = np.array([self._surfaces(field, masks, spacing) for field in fields])
        else:
            scores = np.array([self._likelihood(field, masks) for field in fields])
        found = best_first(np.asarray(scores), k, larger=self.metric in ("bernoulli", "legacy"))
        return found, np.asarray(scores)[found], len(packed[0])

    def _again(
        self, masks: list[np.ndarray], indices: np.ndarray, scores: np.ndarray, k: int, scored: int
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Score the best of a cheap ranking by the masks."""
        if not self.rerank:
            return indices[:k], scores[:k], scored
        indices = np.sort(indices)
        packed = [p.take(indices) for p in self._masks]
        fields = None if self.metric in BY_BITS else self.database.fields[indices]
        order, scores, scored = self._exact(masks, k, packed, fields, 1)
        return indices[order], scores, scored

    def _packed(self, fields: np.ndarray) -> tuple[list[PackedMasks], list[PackedMasks]]:
        """Return the bits of both regions, whole and, where that is asked, down-sampled, a few entries at a time."""
        picked = _rows_of(self._picked()) if self.representation == "downsample" else None
        parts: list[list[PackedMasks]] = []
        for start in range(0, len(fields), CHUNK):
            regions = self._regions(fields[start : start + CHUNK])
            small = [] if picked is None else [region[picked] for region in regions]
            parts.append([PackedMasks.of(region) for region in (*regions, *small)])
        found = [first.joined(*rest) for first, *rest in zip(*parts, strict=True)]
        return found[: len(REGIONS)], found[len(REGIONS) :]

    def _regions(self, fields: np.ndarray) -> list[np.ndarray]:
        """Return the masks of both regions; where there is no tumour at all they are empty."""
        fields = np.asarray(fields)
        largest = fields.max((1, 2, 3), keepdims=True)
        if not np.isfinite(largest).all():
            raise ValueError("database has concentrations that are not finite; it takes finite ones")
        level = largest if self.normalize else np.ones_like(largest)
        return [(fields >= threshold * level) & (largest > 0) for threshold in self.thresholds]

    def _picked(self) -> tuple[np.ndarray, ...]:
        """Return the voxels that nearest interpolation to a coarser grid of the same ends takes."""
        axes = [
            np.floor(np.linspace(0, n - 1, max(n // self.factor, 1)) + 0.5).astype(int) for n in self.database.shape
        ]
        return np.ix_(*axes)

    def _learn(self) -> None:
        regions = self._regions(self.database.fields)
        if self.representation == "pca":
            size = min(64, len(self.database))
            self._maps: list[Any] = [PCA(size, random_state=0).fit(_rows(region)) for region in regions]
        else:
            if self.encoders is None:
                variational = self.representation == "vae"
                self.encoders = tuple(  # type: ignore[assignment]
                    TumorAutoencoder(self.database.shape, variational=variational).fit(region) for region in regions
                )
            self._maps = list(self.encoders or ())
            shapes = [getattr(net, "shape", None) for net in self._maps if isinstance(net, TumorAutoencoder)]
            if shapes != [self.database.shape] * len(REGIONS) or len(self._maps) != len(REGIONS):
                raise ValueError(
                    f"encoders are {len(self._maps)} of shapes {shapes}; it takes two TumorAutoencoder of the"
                    f" database's, {self.database.shape}"
                )
        self._codes = [self._encode(i, region) for i, region in enumerate(regions)]

    def _encode(self, region: int, masks: np.ndarray) -> np.ndarray:
        found = self._maps[region]
        return found.codes(masks) if isinstance(found, TumorAutoencoder) else found.transform(_rows(masks))

    def _surfaces(self, field: np.ndarray, masks: list[np.ndarray], spacing: float) -> float:
        regions = self._regions(np.asarray(field)[None])
        return sum(hd95(region[0], mask, spacing) for region, mask in zip(regions, masks, strict=True))

    def _likelihood(self, field: np.ndarray, masks: list[np.ndarray]) -> float:
        c = np.asarray(field, dtype=np.float64)
        c = c / c.max() if self.normalize and c.max() > 0 else c
        width = SIGMA if self.metric == "bernoulli" else 1.0
        total = 0.0
        for threshold, mask in zip(self.thresholds, masks, strict=True):
            alpha = 0.5 - 0.5 * np.sign(c - threshold) * np.expm1(-(((c - threshold) / width) ** 2))
            if self.metric == "legacy":
                total += float(alpha[mask].sum())
            else:
                alpha = np.clip(alpha, 1e-14, 1 - 1e-14)
                total += float(np.log(alpha[mask]).sum() + np.log1p(-alpha[~mask]).sum())
        return total

    def _patient(self, flair: np.ndarray, t1gd: np.ndarray) -> list[np.ndarray]:
        masks = []
        for name, mask in (("flair", np.asarray(flair)), ("t1gd", np.asarray(t1gd))):
            if mask.shape != self.database.shape:
                raise ValueError(f"{name} has shape {mask.shape}; it takes the atlas's, {self.database.shape}")
            if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
                raise ValueError(f"{name} has values other than 0 and 1; it takes a mask")
            masks.append(mask.astype(bool))
        if not any(mask.any() for mask in masks):
            raise ValueError("flair and t1gd are both empty; it takes a tumour")
        if (masks[1] & ~masks[0]).any():
            warnings.warn("t1gd reaches out of flair, which is the whole tumour; were they swapped?", stacklevel=3)
        return masks

    def _ready(self) -> None:
        if not self._fitted:
            raise ValueError("TumorQuery is not fitted; call fit first")


def _rows_of(picked: tuple[np.ndarray, ...]) -> Any:
    """Return the index that takes voxels of each entry."""
    return (slice(None), *picked)


def _rows(masks: np.ndarray) -> np.ndarray:
    return masks.reshape(len(masks), -1).astype(np.float32)


def _by_bits(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    masks: list[PackedMasks],
    k: int,
    packed: list[PackedMasks],
    prune: bool,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the best entries by the sum of both regions' scores, these scores, and how many were scored."""
    n = len(packed[0])
    regions = [(p, mask, p.volumes + mask.volumes) for p, mask in zip(packed, masks, strict=True)]
    if not prune:
        scores = np.asarray(sum(score(p.shared(mask), total) for p, mask, total in regions))
        found = best_first(scores, k, larger=True)
        return found, scores[found], n
    bounds = np.asarray(sum(score(p.most_shared(mask), total) for p, mask, total in regions))
    order = np.argsort(-bounds, kind="stable")
    scores, done, block = np.empty(n), 0, max(k, 16)  # in this order
    while done < n:
        part = order[done : done + block]
        if done >= k and bounds[part[0]] < np.partition(scores[:done], done - k)[done - k]:
            break
        scores[done : done + len(part)] = sum(score(p.shared(mask, part), total[part]) for p, mask, total in regions)
        done += len(part)
    by_number = np.argsort(order[:done])
    found = by_number[best_first(scores[by_number], k, larger=True)]
    return order[found], scores[found], done
