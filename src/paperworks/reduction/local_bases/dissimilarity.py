r"""How far simulations are apart: the angle between their lines or subspaces, which is the error of a projection."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_choice
from paperworks.reduction.inner_products import InnerProduct, check_inner_product, gram_matrix, real_rows, row_norms

NEAR = 0.99  # a cosine above which the square root of 1 - c² has lost digits
Angles = Float[np.ndarray, "pairs p"]

# From the principal angles of pairs of subspaces, in ascending order.
KINDS: dict[str, Callable[[Angles], np.ndarray]] = {
    "sine": lambda t: np.sin(t[:, -1]),
    "chordal": lambda t: np.sqrt((np.sin(t) ** 2).sum(1)),
    "grassmann": lambda t: np.sqrt((t**2).sum(1)),
    "schubert": lambda t: np.sqrt((t**2).sum(1)),
    "fubini_study": lambda t: np.arcsin(np.sqrt(-np.expm1(_log_cosines(t)))),
    "binet_cauchy": lambda t: np.sqrt(-np.expm1(_log_cosines(t))),
    "martin": lambda t: np.sqrt(-_log_cosines(t)),
    "procrustes": lambda t: 2 * np.sqrt((np.sin(t / 2) ** 2).sum(1)),
    "asimov": lambda t: t[:, -1],
    "spectral": lambda t: 2 * np.sin(t[:, -1] / 2),
}


def _log_cosines(angles: np.ndarray) -> np.ndarray:
    """Return the logarithm of the product of the squared cosines, exact for small angles."""
    sines = np.minimum(np.sin(angles) ** 2, 1 - np.finfo(float).tiny ** 0.5)
    squares = np.where(angles < 1, np.log1p(-np.minimum(sines, 0.9)), 2 * np.log(np.maximum(np.cos(angles), 1e-150)))
    return squares.sum(1)


def unit_rows(U: Float[np.ndarray, "m n"], inner_product: InnerProduct = None) -> Float[np.ndarray, "m n"]:
    """Return vectors of norm 1; one that is zero, or not finite, raises ValueError.

    Parameters
    ----------
    U
        Vectors as rows.
    inner_product
        As in `gram_matrix`; None, the default, is Euclidean.
    """
    U = real_rows("U", U).astype(np.float64, copy=False)
    check_inner_product(inner_product, U.shape[1])
    if not np.isfinite(U).all():
        raise ValueError("U has values that are not finite; it takes finite snapshots")
    size = np.abs(U).max(1, initial=0.0)
    if not (size > 0).all():
        raise ValueError(f"U has a zero snapshot, number {int(size.argmin())}; a zero vector has no direction")
    U = U / size[:, None]  # first, so that squares neither overflow nor vanish
    return U / row_norms(U, inner_product)[:, None]


def sine_dissimilarity(
    U: Float[np.ndarray, "m n"], V: Float[np.ndarray, "l n"] | None = None, inner_product: InnerProduct = None
) -> Float[np.ndarray, "m l"]:
    r"""Return the sines of the angles between vectors, which are relative errors of projection.

    .. math:: \delta(u, v) = \sqrt{1 - \frac{\langle u, v\rangle^2}{\|u\|^2\|v\|^2}} = \frac{\|u - P_v u\|}{\|u\|}

    It is a metric of lines, the same for any scale and sign of the vectors (Daniel et al., arXiv:2103.13683). Where
    vectors are nearly parallel it is taken from the difference of the unit vectors, so that small angles keep their
    digits.

    Parameters
    ----------
    U
        Snapshots as rows.
    V
        Snapshots as rows; None, the default, takes `U` again, and the diagonal is exactly zero.
    inner_product
        The matrix M of the inner product, dense or sparse, its diagonal as a vector, or None, the default, for the
        Euclidean one.

    Returns
    -------
    np.ndarray
        Values in [0, 1].

    Raises
    ------
    ValueError
        Where a snapshot is zero or not finite, or lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> sine_dissimilarity(np.array([[1.0, 0.0], [-7.0, 0.0], [3.0, 4.0]])).round(2)
    array([[0. , 0. , 0.8],
           [0. , 0. , 0.8],
           [0.8, 0.8, 0. ]])
    """
    left = unit_rows(U, inner_product)
    right = left if V is None else unit_rows(V, inner_product)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"V has snapshots of length {right.shape[1]}; it takes those of U, {left.shape[1]}")
    cosines = gram_matrix(left, right, inner_product)
    sines = np.sqrt(np.maximum(1 - cosines**2, 0))
    for i in np.flatnonzero((np.abs(cosines) > NEAR).any(1)):
        near = np.flatnonzero(np.abs(cosines[i]) > NEAR)
        apart = row_norms(left[i] - np.sign(cosines[i, near, None]) * right[near], inner_product)
        sines[i, near] = apart * np.sqrt(1 - apart**2 / 4)
    if V is None:
        sines = np.triu(sines, 1)
        sines += sines.T
    return sines


def subspace_dissimilarity(
    bases: Sequence[Float[np.ndarray, "_ n"]],
    others: Sequence[Float[np.ndarray, "_ n"]] | None = None,
    kind: str = "chordal",
    inner_product: InnerProduct = None,
) -> Float[np.ndarray, "m l"]:
    r"""Return how far subspaces are apart, from the principal angles :math:`\theta_1 \le \dots \le \theta_p`.

    The angles' cosines are the singular values of :math:`B_i M B_j^T`; where one is near 1, the sines are taken from
    the singular values of what projection leaves (Björck and Golub), so that close subspaces keep their digits.

    Parameters
    ----------
    bases
        For each trajectory an orthonormal basis as rows, such as the `modes_` of `SnapshotPOD`. Their numbers of rows
        may differ; the angles are then those of the smaller one.
    others
        Bases of the other side; None, the default, takes `bases` again.
    kind
        ``"sine"``: :math:`\sin\theta_p`, the gap. ``"chordal"``, the default: :math:`(\sum\sin^2\theta)^{1/2}`.
        ``"grassmann"``: :math:`(\sum\theta^2)^{1/2}`. ``"schubert"``: that, with a right angle for each row that one
        basis has more than the other. ``"fubini_study"``: :math:`\arccos\prod\cos\theta`. ``"binet_cauchy"``:
        :math:`(1-\prod\cos^2\theta)^{1/2}`. ``"martin"``: :math:`(-\log\prod\cos^2\theta)^{1/2}`, large but finite for
        orthogonal ones. ``"procrustes"``: :math:`2(\sum\sin^2(\theta/2))^{1/2}`. ``"asimov"``: :math:`\theta_p`.
        ``"spectral"``: :math:`2\sin(\theta_p/2)`.
    inner_product
        As in `sine_dissimilarity`; None, the default, is Euclidean.

    Returns
    -------
    np.ndarray
        Row i, column j: how far basis i is from basis j.

    Raises
    ------
    ValueError
        Where a basis is not orthonormal, or lengths differ, or the kind is not known.

    Examples
    --------
    >>> import numpy as np
    >>> x, y, z = np.eye(3)
    >>> plane, tilted = np.array([x, y]), np.array([x, (y + z) / np.sqrt(2)])
    >>> float(subspace_dissimilarity([plane, tilted], kind="asimov")[0, 1].round(6))
    0.785398
    """
    check_choice("kind", kind, KINDS)
    left = _checked("bases", bases, inner_product)
    right = left if others is None else _checked("others", others, inner_product)
    if left[0].shape[1] != right[0].shape[1]:
        raise ValueError(f"others have length {right[0].shape[1]}; it takes that of bases, {left[0].shape[1]}")
    found = np.zeros((len(left), len(right)))
    left_sizes, right_sizes = (np.array([len(B) for B in side]) for side in (left, right))
    for p in np.unique(left_sizes):
        for q in np.unique(right_sizes):
            rows, columns = np.flatnonzero(left_sizes == p), np.flatnonzero(right_sizes == q)
            A, B = np.stack([left[i] for i in rows]), np.stack([right[j] for j in columns])
            values = KINDS[kind](_angles(A, B, inner_product))
            if kind == "schubert":
                values = np.sqrt(values**2 + abs(p - q) * (np.pi / 2) ** 2)
            found[np.ix_(rows, columns)] = values.reshape(len(rows), len(columns))
    if others is None:
        found = np.triu(found, 1)
        found += found.T
    return found


def _checked(name: str, bases: Sequence[np.ndarray], inner_product: InnerProduct) -> list[np.ndarray]:
    """Return bases as arrays, all orthonormal and of one length."""
    if not len(bases):
        raise ValueError(f"{name} is empty; it takes at least one basis")
    found = [np.asarray(B, dtype=np.float64) for B in bases]
    for i, B in enumerate(found):
        if B.ndim != 2 or B.shape[1] != found[0].shape[-1] or not 0 < len(B) <= B.shape[1]:
            raise ValueError(
                f"{name} has number {i} of shape {B.shape}; it takes (p, {found[0].shape[-1]}), modes as rows"
            )
        if not np.isfinite(B).all():
            raise ValueError(f"{name} has number {i} with values that are not finite; it takes finite modes")
        error = np.abs(gram_matrix(B, inner_product=inner_product) - np.eye(len(B))).max()
        if not error < 1e-6:
            raise ValueError(
                f"{name} has number {i} whose rows are {error:.2g} from orthonormal in the inner product; it takes"
                " orthonormal modes as rows"
            )
    return found


def _angles(A: np.ndarray, B: np.ndarray, inner_product: InnerProduct) -> Angles:
    """Return the principal angles of all pairs of two stacks of bases, in ascending order."""
    (m, p, n), (count, q, _) = A.shape, B.shape
    G = gram_matrix(A.reshape(m * p, n), B.reshape(count * q, n), inner_product)
    G = G.reshape(m, p, count, q).swapaxes(1, 2)
    cosines = np.linalg.svd(G, compute_uv=False)
    angles = np.arccos(np.clip(cosines, 0, 1))
    for i in np.flatnonzero((cosines[..., 0] > NEAR).any(1)):
        near = np.flatnonzero(cosines[i, :, 0] > NEAR)
        inner = G[i, near]
        # What the larger space leaves of the smaller one's basis.
        left = A[i] - inner @ B[near] if p <= q else B[near] - inner.swapaxes(1, 2) @ A[i]
        squares = np.stack([gram_matrix(block, inner_product=inner_product) for block in left])
        sines = np.sqrt(np.clip(np.linalg.eigvalsh(squares)[:, : min(p, q)], 0, 1))
        angles[i, near] = np.where(cosines[i, near] > NEAR, np.arcsin(sines), angles[i, near])
    return angles.reshape(m * count, min(p, q))


def projection_errors(
    trajectories: Sequence[Float[np.ndarray, "_ n"]],
    bases: Sequence[Float[np.ndarray, "_ n"]],
    inner_product: InnerProduct = None,
) -> Float[np.ndarray, "m k"]:
    r"""Return the relative errors of projecting trajectories onto bases, :math:`\|U_i - P_{B_j}U_i\|/\|U_i\|`.

    The error of a trajectory is that of all its snapshots together, the root of the sums of squares. Where it is below
    1e-4, where a difference of squares has lost digits, it is taken from the residual itself.

    Parameters
    ----------
    trajectories
        For each simulation its snapshots as rows; a vector is one snapshot.
    bases
        Orthonormal bases as rows.
    inner_product
        As in `sine_dissimilarity`; None, the default, is Euclidean.

    Returns
    -------
    np.ndarray
        Row i, column j: the error of trajectory i on basis j, in [0, 1].

    Raises
    ------
    ValueError
        Where a trajectory is zero or not finite, or a basis is not orthonormal, or lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> projection_errors([np.array([[3.0, 4.0]])], [np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])])
    array([[0.8, 0.6]])
    """
    blocks, rows, starts = scaled_trajectories(trajectories)
    bases = _checked("bases", bases, inner_product)
    if bases[0].shape[1] != rows.shape[1]:
        raise ValueError(f"bases have length {bases[0].shape[1]}; it takes that of the snapshots, {rows.shape[1]}")
    total = np.add.reduceat(row_norms(rows, inner_product) ** 2, starts)
    found = np.empty((len(blocks), len(bases)))
    for j, B in enumerate(bases):
        coefficients = gram_matrix(rows, B, inner_product)
        kept = np.add.reduceat((coefficients**2).sum(1), starts)
        found[:, j] = np.sqrt(np.maximum(total - kept, 0) / total)
        for i in np.flatnonzero(found[:, j] < 1e-4):
            part = slice(starts[i], starts[i] + len(blocks[i]))
            left = rows[part] - coefficients[part] @ B
            found[i, j] = np.sqrt((row_norms(left, inner_product) ** 2).sum() / total[i])
    return np.minimum(found, 1)


def scaled_trajectories(
    trajectories: Sequence[Float[np.ndarray, "_ n"]],
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return trajectories as blocks of rows, all rows with each block scaled to size 1, and where blocks start.

    Parameters
    ----------
    trajectories
        For each simulation its snapshots as rows; one that is zero, or not finite, raises ValueError.
    """
    blocks = [real_rows("trajectories", np.atleast_2d(U)).astype(np.float64, copy=False) for U in trajectories]
    if not blocks or any(not len(U) or U.shape[1] != blocks[0].shape[1] for U in blocks):
        shapes = sorted({U.shape for U in blocks})[:3]
        raise ValueError(f"trajectories have shapes {shapes}; it takes at least one, (t, n), all of one length n")
    rows, starts = np.concatenate(blocks), np.cumsum([0, *(len(U) for U in blocks[:-1])])
    if not np.isfinite(rows).all():
        raise ValueError("trajectories have values that are not finite; it takes finite snapshots")
    scale = np.maximum.reduceat(np.abs(rows).max(1, initial=0.0), starts)
    if not (scale > 0).all():
        raise ValueError(f"trajectories have one that is zero, number {int(scale.argmin())}; it has no relative error")
    return blocks, rows / np.repeat(scale, [len(U) for U in blocks])[:, None], starts
