"""How well regions agree, and how well a fast ranking keeps the one of a slow one."""

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.ndimage import binary_erosion, distance_transform_edt

from paperworks.core.validation import check_number


def dice(A: Shaped[np.ndarray, "..."], B: Shaped[np.ndarray, "..."]) -> float:
    r"""Return the Dice coefficient :math:`2|A\cap B|/(|A|+|B|)`; 0 where both are empty, as an absence earns nothing.

    Parameters
    ----------
    A, B
        Regions of one shape, as masks of booleans or of 0 and 1.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> dice(np.array([True, True, False]), np.array([True, False, False])).__round__(3)
    0.667
    """
    A, B = _masks(A, B)
    total = int(A.sum()) + int(B.sum())
    return 2 * int((A & B).sum()) / total if total else 0.0


def hd95(A: Shaped[np.ndarray, "..."], B: Shaped[np.ndarray, "..."], spacing_mm: float = 1.0) -> float:
    """Return the 95th percentile of the distances between the surfaces of two regions, both ways (Hausdorff).

    Parameters
    ----------
    A, B
        Regions of one shape, as masks of booleans or of 0 and 1.
    spacing_mm
        Edge of a voxel in mm; 1 by default.

    Returns
    -------
    float
        In mm; 0 where both are empty, infinite where one is.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.zeros((9, 9), dtype=bool)
    >>> A[2, 2] = True
    >>> hd95(A, np.roll(A, 3, axis=0), spacing_mm=2.0)
    6.0
    """
    A, B = _masks(A, B)
    check_number("spacing_mm", spacing_mm, gt=0)
    if not (A.any() and B.any()):
        return 0.0 if A.any() == B.any() else float("inf")
    surfaces = [mask & ~binary_erosion(mask) for mask in (A, B)]
    from_a, from_b = (distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces)
    return float(np.percentile(np.concatenate([from_b[surfaces[0]], from_a[surfaces[1]]]), 95))


def best_match_preservation(fast: Int[np.ndarray, "q k"], exact: Int[np.ndarray, "q k"]) -> float:
    """Return the share of queries whose best match is the same in a fast ranking as in the exact one.

    Parameters
    ----------
    fast, exact
        For each query the entries that were found, the best first.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> best_match_preservation(np.array([[3, 1], [2, 0]]), np.array([[3, 0], [0, 2]]))
    0.5
    """
    fast, exact = _rankings(fast, exact)
    return float((fast[:, 0] == exact[:, 0]).mean())


def topk_overlap(fast: Int[np.ndarray, "q k"], exact: Int[np.ndarray, "q k"]) -> float:
    """Return the mean share of the k best entries of the exact ranking that the fast one has among its k best.

    Parameters
    ----------
    fast, exact
        For each query the entries that were found, the best first.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> topk_overlap(np.array([[3, 1], [2, 0]]), np.array([[3, 0], [0, 2]]))
    0.75
    """
    fast, exact = _rankings(fast, exact)
    return float(np.mean([len(np.intersect1d(f, e)) / len(e) for f, e in zip(fast, exact, strict=True)]))


def best_first(scores: Float[np.ndarray, " n"], k: int, *, larger: bool) -> Int[np.ndarray, " k"]:
    """Return the k best entries, ties by the lower number.

    Parameters
    ----------
    scores
        One for each entry.
    k
        How many.
    larger
        Whether a larger score is better.
    """
    return np.argsort(-scores if larger else scores, kind="stable")[:k]


def _masks(A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    A, B = np.asarray(A), np.asarray(B)
    if A.shape != B.shape:
        raise ValueError(f"B has shape {B.shape}; it takes that of A, {A.shape}")
    for name, mask in (("A", A), ("B", B)):
        if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
            raise ValueError(f"{name} has values other than 0 and 1; it takes a mask")
    return A.astype(bool), B.astype(bool)


def _rankings(fast: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fast, exact = np.asarray(fast), np.asarray(exact)
    if fast.ndim != 2 or fast.shape != exact.shape or not fast.size:
        raise ValueError(f"fast and exact have shapes {fast.shape} and {exact.shape}; it takes two of (queries, k)")
    return fast, exact
