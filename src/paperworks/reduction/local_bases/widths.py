"""Normalised Kolmogorov widths: how well the best space of a dimension represents the worst of a set of vectors."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import qr

from paperworks.core.validation import check_choice, check_count
from paperworks.reduction.inner_products import InnerProduct, gram_matrix, orthonormal_rows
from paperworks.reduction.local_bases.dissimilarity import unit_rows

KINDS = ("greedy", "l2", "pod")


def kolmogorov_width(
    U: Float[np.ndarray, "m n"],
    n_modes: int | Sequence[int] | Int[np.ndarray, " k"],
    kind: str = "greedy",
    inner_product: InnerProduct = None,
) -> Float[np.ndarray, "..."] | float:
    r"""Return the normalised Kolmogorov width of snapshots, or a bound of it.

    .. math:: d_N(C) = \inf_{\dim V = N}\ \sup_{u\in C} \|u - P_V u\| / \|u\|

    Parameters
    ----------
    U
        Snapshots as rows.
    n_modes
        The dimension N of the space, or several.
    kind
        ``"greedy"``, the default: of the space of N snapshots chosen one after the other, each the worst represented so
        far, an upper bound. ``"pod"``: of the first N modes of the normalised snapshots, an upper bound. ``"l2"``: the
        width in the mean of squares, :math:`(\sum_{i>N}\sigma_i^2/m)^{1/2}`, exact, a lower bound of the others.
    inner_product
        As in `sine_dissimilarity`; None, the default, is Euclidean.

    Returns
    -------
    float or np.ndarray
        The width, or one for each dimension; zero where the space holds all snapshots.

    Raises
    ------
    ValueError
        Where a snapshot is zero, or a dimension is negative.

    References
    ----------
    Daniel et al., arXiv:2103.13683; the intra-cluster width.

    Examples
    --------
    >>> import numpy as np
    >>> kolmogorov_width(np.eye(3), [1, 2, 3], "l2").round(3)
    array([0.816, 0.577, 0.   ])
    """
    check_choice("kind", kind, KINDS)
    sizes = [check_count("n_modes", size, at_least=0) for size in np.atleast_1d(n_modes).tolist()]
    rows = unit_rows(U, inner_product)
    if not len(rows):
        raise ValueError("U has no snapshot; it takes at least one")
    Q = orthonormal_rows(rows, inner_product)
    coordinates = gram_matrix(rows, Q, inner_product)
    if kind == "greedy":
        squares = qr(coordinates.T, mode="r", pivoting=True)[0].T ** 2
    else:
        _, sigma, modes = np.linalg.svd(coordinates, full_matrices=False)
        squares = (coordinates @ modes.T) ** 2 if kind == "pod" else sigma[None] ** 2 / len(rows)
    left = np.cumsum(squares[:, ::-1], axis=1)[:, ::-1]  # of the directions from each on
    widths = np.sqrt(left.max(0) if kind != "l2" else left[0])
    found = np.array([widths[size] if size < len(widths) else 0.0 for size in sizes])
    return found if np.ndim(n_modes) else float(found[0])
