"""Inner products of sets of vectors: their matrices, norms, and orthonormal bases of what they span."""

from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.sparse import issparse, sparray, spmatrix

InnerProduct: TypeAlias = np.ndarray | spmatrix | sparray | None


def gram_matrix(
    U: Float[np.ndarray, "m n"], V: Float[np.ndarray, "l n"] | None = None, inner_product: InnerProduct = None
) -> Float[np.ndarray, "m l"]:
    r"""Return the inner products :math:`\langle u_i, v_j\rangle_M = u_i^T M v_j` of two sets of vectors.

    Parameters
    ----------
    U
        Vectors as rows.
    V
        Vectors as rows; None, the default, takes `U` again.
    inner_product
        The matrix M, dense or sparse, symmetric and positive definite; its diagonal as a vector, such as weights of
        a quadrature; or None, the default, for the Euclidean one.

    Returns
    -------
    np.ndarray
        Row i, column j: the product of vector i of `U` and vector j of `V`.

    Raises
    ------
    ValueError
        Where vectors are not finite, or so large that their products are not, or the lengths of vectors and the size of
        the matrix differ.

    Examples
    --------
    >>> import numpy as np
    >>> gram_matrix(np.eye(2), inner_product=np.array([0.5, 2.0]))
    array([[0.5, 0. ],
           [0. , 2. ]])
    """
    U = real_rows("U", U)
    other = U if V is None else real_rows("V", V)
    if other.shape[1] != U.shape[1]:
        raise ValueError(f"V has vectors of length {other.shape[1]}; it takes those of U, {U.shape[1]}")
    check_inner_product(inner_product, U.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        found = _times(U, inner_product) @ other.T
    if not np.isfinite(found).all():
        raise ValueError("U or V has values that are not finite, or too large to multiply; it takes finite vectors")
    return found


def row_norms(U: Float[np.ndarray, "m n"], inner_product: InnerProduct = None) -> Float[np.ndarray, " m"]:
    r"""Return the norms :math:`\sqrt{\langle u_i, u_i\rangle_M}` of vectors.

    Parameters
    ----------
    U
        Vectors as rows.
    inner_product
        As in `gram_matrix`; None, the default, is Euclidean.

    Returns
    -------
    np.ndarray
        One norm for each row.

    Raises
    ------
    ValueError
        Where vectors are not finite, or one has a negative square, so that the matrix is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> row_norms(np.array([[3.0, 4.0]]), np.array([1.0, 0.25]))
    array([3.60555128])
    """
    U = real_rows("U", U)
    _check_shape(inner_product, U.shape[1])
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", _times(U, inner_product), U)
    safe = np.finfo(U.dtype).tiny / np.finfo(U.dtype).eps
    return np.sqrt(squares) if ((squares > safe) & (squares < np.inf)).all() else _scaled_norms(U, inner_product)


def _scaled_norms(U: np.ndarray, M: InnerProduct) -> np.ndarray:
    """Return norms of rows whose squares may overflow, vanish or be negative, each scaled by its largest value."""
    if not np.isfinite(U).all():
        raise ValueError("U has values that are not finite; it takes finite vectors")
    size = np.abs(U).max(1, initial=0.0)
    unit = U / np.where(size > 0, size, 1)[:, None]
    products = _times(unit, M)
    squares = np.einsum("ij,ij->i", products, unit)
    rounding = np.sqrt(np.finfo(U.dtype).eps) * np.einsum("ij,ij->i", np.abs(products), np.abs(unit))
    if (squares < -rounding).any():
        raise ValueError(
            f"inner_product gives a vector the square {squares.min():.3g} of its norm; it takes a positive matrix"
        )
    return size * np.sqrt(np.maximum(squares, 0))


def correlation_matrix(U: Float[np.ndarray, "m n"], inner_product: InnerProduct = None) -> Float[np.ndarray, "m m"]:
    r"""Return the correlation matrix of snapshots, :math:`C_{ij} = \langle u_i, u_j\rangle_M`, exactly symmetric.

    It is additive: of a domain that is cut into parts, whose inner products add up, it is the sum of the parts'
    matrices. Each part then finds its own piece of the modes from the sum (see `SnapshotPOD.fit`).

    Parameters
    ----------
    U
        Snapshots as rows.
    inner_product
        As in `gram_matrix`; None, the default, is Euclidean.

    Returns
    -------
    np.ndarray
        The symmetric matrix of the products of all pairs.

    Examples
    --------
    >>> import numpy as np
    >>> correlation_matrix(np.array([[3.0, 4.0], [1.0, 0.0]]))
    array([[25.,  3.],
           [ 3.,  1.]])
    """
    C = gram_matrix(U, inner_product=inner_product)
    return (C + C.T) / 2


def orthonormal_rows(U: Float[np.ndarray, "m n"], inner_product: InnerProduct = None) -> Float[np.ndarray, "r n"]:
    """Return an orthonormal basis of the span of the rows, in an inner product.

    The rows are scaled to unit norm, and their correlation matrix is diagonalised, which finds the directions down to
    the root of the rounding; these are taken out of the rows, and what is left is treated again, until nothing is left
    that rounding can tell from zero.

    Parameters
    ----------
    U
        Vectors as rows; they may depend on each other, and be zero.
    inner_product
        As in `gram_matrix`; None, the default, is Euclidean.

    Returns
    -------
    np.ndarray
        The basis as rows, r of them, the strongest directions first.

    Examples
    --------
    >>> import numpy as np
    >>> abs(orthonormal_rows(np.array([[2.0, 0.0, 0.0], [4.0, 0.0, 0.0]])))
    array([[1., 0., 0.]])
    """
    U = real_rows("U", U)
    check_inner_product(inner_product, U.shape[1])
    norms = row_norms(U, inner_product)
    rest = U[norms > 0] / norms[norms > 0, None]
    basis = rest[:0]
    rounding = 10 * np.sqrt(U.shape[1]) * np.finfo(U.dtype).eps
    while len(rest) and len(basis) < U.shape[1]:
        Q = _strong(_strong(rest, inner_product), inner_product)
        for _ in range(2):
            Q = Q - _times(Q, inner_product) @ basis.T @ basis
            Q = _strong(Q, inner_product)
        basis = np.concatenate([basis, Q])
        for _ in range(2):
            rest = rest - _times(rest, inner_product) @ basis.T @ basis
        rest = rest[row_norms(rest, inner_product) > rounding]
    return basis[: U.shape[1]]


def _strong(rows: np.ndarray, M: InnerProduct) -> np.ndarray:
    """Return orthonormal directions of rows, the strongest first, as far as their correlation matrix shows them."""
    values, vectors = positive_eigen("inner_product", correlation_matrix(rows, M))
    keep = values > values[0] * len(rows) * np.finfo(rows.dtype).eps * 100
    return (vectors[:, keep] / np.sqrt(values[keep])).T @ rows


def positive_eigen(name: str, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues, the largest first, and eigenvectors of a correlation matrix; refuse negative ones.

    Parameters
    ----------
    name
        The argument that makes it positive, for the message.
    C
        The matrix, symmetric.
    """
    values, vectors = np.linalg.eigh(C)
    if values[0] < -np.sqrt(np.finfo(C.dtype).eps) * abs(values).max():
        raise ValueError(
            f"{name} leads to eigenvalues from {values[0]:.3g} to {values[-1]:.3g} of the correlation of the snapshots;"
            " it takes a positive matrix"
        )
    return values[::-1], vectors[:, ::-1]


def real_rows(name: str, U: Any) -> np.ndarray:
    """Return vectors as rows of real numbers, in single precision where they are, else in double.

    Parameters
    ----------
    name
        The argument, for the message.
    U
        What it got.
    """
    found = np.asarray(U)
    if found.ndim != 2 or found.dtype.kind not in "fiub":
        raise ValueError(f"{name} is {found.dtype} of shape {found.shape}; it takes real vectors as rows, (m, n)")
    return found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)


def check_inner_product(inner_product: InnerProduct, n: int) -> None:
    """Refuse what is no symmetric, positive diagonal matrix of size `n`, nor its diagonal.

    Parameters
    ----------
    inner_product
        The matrix, its diagonal, or None.
    n
        The length of the vectors.
    """
    _check_shape(inner_product, n)
    if inner_product is None:
        return
    given: Any = inner_product
    matrix = given.tocsr() if issparse(given) else np.asarray(given)
    diagonal = matrix if matrix.ndim == 1 else matrix.diagonal()
    if not np.isfinite(matrix.data if issparse(matrix) else matrix).all() or not (diagonal > 0).all():
        raise ValueError("inner_product has a diagonal that is not positive or not finite; it takes a positive matrix")
    if matrix.ndim == 2:
        skew = abs(matrix - matrix.T).max()
        if skew > 1e-10 * abs(diagonal).max():
            raise ValueError(f"inner_product differs from its transpose by {skew:.3g}; it takes a symmetric matrix")


def _check_shape(inner_product: InnerProduct, n: int) -> None:
    """Refuse an inner product of another size, or of no real numbers."""
    matrix: Any = inner_product if issparse(inner_product) else np.asarray(inner_product)
    if inner_product is not None and (matrix.shape not in ((n,), (n, n)) or matrix.dtype.kind not in "fiub"):
        raise ValueError(
            f"inner_product has shape {matrix.shape} and type {matrix.dtype}; it takes real numbers, ({n},) or"
            f" ({n}, {n}) for vectors of length {n}"
        )


def _times(U: np.ndarray, M: InnerProduct) -> np.ndarray:
    """Return the rows times the matrix, in the precision of the rows."""
    if M is None:
        return U
    return np.asarray(M @ U.T if issparse(M) or np.ndim(M) == 2 else (U * M).T, dtype=U.dtype).T
