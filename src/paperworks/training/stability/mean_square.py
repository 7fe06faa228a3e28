"""Exact mean-square stability of SGD at an interpolating minimum: the radius of its second moments, the threshold."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import lobpcg
from torch import Tensor

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.numerics.eigenvalues import extreme_eigenvalues

_DENSE = 300  # unknowns of a symmetric matrix up to which its map is written out


class Minimum(NamedTuple):
    """Gradients of the outputs at a minimum, in the basis of the Hessian's eigenvectors that are not flat.

    Parameters
    ----------
    factors
        For each of n samples a row for each of c outputs, in r coordinates.
    eigenvalues
        The r positive eigenvalues of the Hessian, rising.
    """

    factors: Float[Tensor, "n c r"]
    eigenvalues: Float[Tensor, " r"]

    @property
    def squares(self) -> Float[Tensor, " n"]:
        """Largest eigenvalue of each sample's own Hessian, ``|g|^2`` where it has one output."""
        if self.factors.shape[1] == 1:
            return self.factors.square().sum((1, 2))
        return torch.linalg.matrix_norm(self.factors, 2).square()

    def noise(self, P: Float[Tensor, "s r r"]) -> Float[Tensor, "s r r"]:
        """Return the mean over samples of ``A_i P A_i`` with ``A_i = G_i^T G_i``, for matrices in a row."""
        n, c, r = self.factors.shape
        flat = self.factors.reshape(n * c, r)
        left = (flat @ P).reshape(-1, n, c, r)
        if c == 1:
            inner = (left[:, :, 0] * flat).sum(-1)  # g^T P g
            return (flat.T * inner[:, None, :]) @ flat / n
        inner = left @ self.factors.transpose(1, 2)
        return flat.T @ (inner @ self.factors).reshape(-1, n * c, r) / n


def minimum(gradients: Float[Tensor, "..."], *, gram: bool = False, outputs: int = 1) -> Minimum:
    """Return gradients in the basis of their Hessian's range, from themselves or from their Gram matrix.

    Parameters
    ----------
    gradients
        As `stability_certificate` takes them.
    gram
        Whether they are a Gram matrix.
    outputs
        Rows of a Gram matrix that belong to one sample.

    Returns
    -------
    Minimum
        In double precision.
    """
    G = torch.as_tensor(gradients).detach()
    if G.is_complex() or G.is_meta:
        raise TypeError(f"gradients are of {G.dtype} on {G.device}; they take real numbers that are there")
    G = check_finite("gradients", G).double().cpu()
    if gram:
        if (
            G.ndim != 2
            or len(G) != G.shape[1]
            or not torch.allclose(G, G.T, rtol=1e-6, atol=1e-9 * float(G.abs().max()))
        ):
            raise ValueError(f"gradients has shape {tuple(G.shape)}; with gram=True it takes a symmetric matrix")
        c = check_count("outputs", outputs)
        if len(G) % c:
            raise ValueError(f"outputs is {c}; it takes a divisor of the Gram matrix' {len(G)} rows")
    elif G.ndim not in (2, 3):
        raise ValueError(f"gradients has shape {tuple(G.shape)}; it takes (n, p) or (n, c, p)")
    else:
        c = 1 if G.ndim == 2 else G.shape[1]
    if not G.numel():
        raise ValueError(f"gradients holds no samples: it has shape {tuple(G.shape)}")
    rows = G if gram else G.reshape(-1, G.shape[-1])
    n = len(rows) // c
    largest = math.sqrt(float(rows.abs().max())) if gram else float(rows.abs().max())
    if largest and not 1e-70 < largest < 1e70:  # of which fourth powers are taken
        raise ValueError(f"gradients are of size {largest:.1e}; they take 1e-70 to 1e70, scaled with the learning rate")
    if gram:
        squares, left = torch.linalg.eigh((rows + rows.T) / 2)
        if squares[0] < -1e-8 * squares[-1].abs():
            raise ValueError(f"gradients has the eigenvalue {float(squares[0]):g}; a Gram matrix has none below 0")
        kept = squares > 1e-12 * squares[-1]
        values, coordinates = squares[kept], left[:, kept] * squares[kept].sqrt()
    else:
        left, sizes, _ = torch.linalg.svd(rows, full_matrices=False)
        order = sizes.argsort()
        kept = order[sizes[order] > 1e-10 * sizes[0]]
        values, coordinates = sizes[kept].square(), left[:, kept] * sizes[kept]
    if not len(values):
        raise ValueError("gradients are all 0; every learning rate is stable there")
    return Minimum(coordinates.reshape(n, c, -1), values / n)


def same_sample(n: int, batch_size: int, replacement: bool) -> float:
    """Return the weight q of the second moment of single samples in that of a batch's mean Hessian.

    Parameters
    ----------
    n
        Samples that there are.
    batch_size
        Samples of a step.
    replacement
        Whether one may come twice.

    Returns
    -------
    float
        1 for single samples, 0 for all samples at once.
    """
    b = check_count("batch_size", batch_size, at_most=None if replacement else n)
    if replacement:
        return 1 / b
    return (n - b) / (b * (n - 1)) if n > 1 else 0.0


def drive(at: Minimum, q: float, P: Float[Tensor, "s r r"]) -> Float[Tensor, "s r r"]:
    """Return ``q E A_i P A_i + (1 - q) H P H``, the expectation of ``A P A`` over batches.

    Parameters
    ----------
    at
        The gradients.
    q
        As `same_sample` gives it.
    P
        Symmetric matrices in a row.

    Returns
    -------
    Tensor
        Matrices as `P`.
    """
    h = at.eigenvalues
    whole = h[:, None] * h * P
    return whole if q == 0 else q * at.noise(P) + (1 - q) * whole


def critical_learning_rate(
    gradients: Float[Tensor, "..."],
    batch_size: int = 1,
    *,
    replacement: bool = False,
    gram: bool = False,
    outputs: int = 1,
) -> float:
    r"""Return the greatest learning rate at which the second moments of SGD stay bounded at an interpolating minimum.

    It is ``2 / lambda_max(C^{-1/2} D C^{-1/2})`` with ``C(P) = (H P + P H) / 2`` and ``D(P) = E A P A`` on the range of
    the Hessian H, A the Hessian of a batch, since the map of second moments is self-adjoint and keeps the cone of
    positive semidefinite matrices.

    Parameters
    ----------
    gradients
        Gradients of the outputs at the minimum, (n, p), or (n, c, p) for c outputs, scaled by the loss' curvature as
        `output_gradients` gives them; or their Gram matrix.
    batch_size
        Samples of a step.
    replacement
        Whether a batch may hold a sample twice.
    gram
        Whether `gradients` is a Gram matrix of all rows.
    outputs
        Rows of a Gram matrix for each sample.

    Returns
    -------
    float
        The threshold, in the unit of 1 / eigenvalue of the Hessian.

    Raises
    ------
    ValueError
        For a batch larger than n without replacement, gradients that are not finite, or all 0.

    References
    ----------
    arXiv 2305.17490, linear stability; Mulayoff and Michaeli, Exact mean square linear stability analysis for SGD
    (2024).

    Examples
    --------
    >>> orthogonal = torch.eye(4, dtype=torch.float64)  # each step moves one coordinate by lr
    >>> round(critical_learning_rate(orthogonal), 6), round(critical_learning_rate(orthogonal, 4), 6)
    (2.0, 8.0)
    """
    at = minimum(gradients, gram=gram, outputs=outputs)
    return threshold(at, same_sample(len(at.factors), batch_size, replacement))


def threshold(at: Minimum, q: float) -> float:
    """Return the threshold of `critical_learning_rate`.

    Parameters
    ----------
    at
        The gradients.
    q
        As `same_sample` gives it.

    Returns
    -------
    float
        The greatest stable learning rate.
    """
    return 2 / float(at.eigenvalues[-1]) if q == 0 else _threshold(at, q)[0]


def _threshold(at: Minimum, q: float) -> tuple[float, Float[Tensor, "r r"]]:
    """Return the threshold for ``q > 0``, and ``C^{1/2} P`` of the second moments P that stay as they are there."""
    h = at.eigenvalues
    scale = (2 / (h[:, None] + h)).sqrt()
    value, P = _largest(lambda P: scale * drive(at, q, scale * P), len(h))
    return 2 / value, P


def mean_square_radius(
    gradients: Float[Tensor, "..."],
    lr: float,
    batch_size: int = 1,
    *,
    replacement: bool = False,
    gram: bool = False,
    outputs: int = 1,
) -> float:
    r"""Return the spectral radius of SGD's map of second moments on the range of the Hessian.

    ``T(P) = P - lr (H P + P H) + lr^2 E A P A`` with A the Hessian of a batch: distances to the minimum shrink in mean
    square by this factor a step where it is below 1, and grow where it is above.

    Parameters
    ----------
    gradients, batch_size, replacement, gram, outputs
        As in `critical_learning_rate`.
    lr
        The learning rate.

    Returns
    -------
    float
        The radius, without unit.

    Raises
    ------
    ValueError
        As `critical_learning_rate`, and for a learning rate that isn't positive.

    References
    ----------
    arXiv 2305.17490, linear stability.

    Examples
    --------
    >>> mean_square_radius(torch.eye(1, dtype=torch.float64), 0.5)  # (1 - lr)^2
    0.25
    """
    check_number("lr", lr, gt=0)
    at = minimum(gradients, gram=gram, outputs=outputs)
    return radius(at, same_sample(len(at.factors), batch_size, replacement), lr)


def radius(at: Minimum, q: float, lr: float) -> float:
    """Return the radius of `mean_square_radius`.

    Parameters
    ----------
    at
        The gradients.
    q
        As `same_sample` gives it.
    lr
        The learning rate.

    Returns
    -------
    float
        The spectral radius.
    """
    h = at.eigenvalues
    if q == 0:
        return float((1 - lr * h).square().max())
    sums = h[:, None] + h
    if not lr * float(h[-1]) < 1e100:
        return math.inf
    r = len(h)
    if _unknowns(r) > _DENSE:
        most, edge = _threshold(at, q)
        if lr <= most:
            # The largest eigenvalue can be one of many near 1, those of flat directions: from them and from what stays
            # at the threshold the least of (I - T) / lr is found, preconditioned by the diagonal of its first part.
            starts = torch.stack([(1 / h).diag(), edge / sums.sqrt()]).reshape(2, -1).T
            diagonal = sums.reshape(-1, 1).numpy()
            found, _ = lobpcg(
                lambda v: (sums * (P := _matrices(v, r)) - lr * drive(at, q, P)).reshape(v.shape[1], -1).T.numpy(),
                (starts / starts.norm(dim=0)).numpy(),
                M=lambda v: v / diagonal,
                largest=False,
                tol=1e-10 * float(h[-1]),
                maxiter=300,
            )
            return 1 - lr * float(found[0])
    return _largest(lambda P: (1 - lr * sums) * P + lr**2 * drive(at, q, P), r)[0]


def _matrices(columns: Float[np.ndarray, "rr k"], r: int) -> Float[Tensor, "k r r"]:
    return torch.from_numpy(np.ascontiguousarray(columns.T)).reshape(-1, r, r)


def _unknowns(r: int) -> int:
    """Return how many numbers a symmetric matrix holds."""
    return r * (r + 1) // 2


def _largest(apply, r: int) -> tuple[float, Float[Tensor, "r r"]]:  # type: ignore[no-untyped-def]
    """Return the largest eigenvalue of a self-adjoint map of symmetric matrices, and its positive eigenmatrix."""
    if (unknowns := _unknowns(r)) <= _DENSE:
        rows, columns = torch.triu_indices(r, r)
        basis = torch.zeros(unknowns, r, r, dtype=torch.float64)
        index, weight = torch.arange(unknowns), torch.where(rows == columns, 1.0, 0.5).double().sqrt()
        basis[index, rows, columns] = weight
        basis[index, columns, rows] = weight
        matrix = apply(basis).reshape(unknowns, -1) @ basis.reshape(unknowns, -1).T
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        return float(values[-1]), (vectors[:, -1] @ basis.reshape(unknowns, -1)).reshape(r, r)
    start = torch.eye(r, dtype=torch.float64).reshape(-1)
    values, vectors = extreme_eigenvalues(
        lambda v: apply(v.reshape(1, r, r)).reshape(-1), r * r, rtol=1e-10, start=start + 1e-3 / r
    )
    return float(values[-1]), vectors[:, -1].reshape(r, r)
