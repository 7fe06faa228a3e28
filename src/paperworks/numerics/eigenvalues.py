"""Eigenvalues of symmetric matrices that are known by their products with vectors."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count

Product = Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]


class LanczosResult(NamedTuple):
    """What a Krylov space knows of a symmetric matrix.

    Examples
    --------
    >>> found = lanczos(lambda v: 2 * v, torch.tensor([1.0, 0.0]), 2)
    >>> found.values, found.weights
    (tensor([2.]), tensor([1.]))
    """

    values: Float[Tensor, " k"]
    """Ritz values, rising: the nodes of a Gauss quadrature of the spectrum as the start sees it."""
    weights: Float[Tensor, " k"]
    """Weights of that quadrature, which sum to one: ``v^T f(A) v = |v|^2 sum of weights f(values)``."""
    vectors: Float[Tensor, "n k"]
    """Ritz vectors, orthonormal."""
    residuals: Float[Tensor, " k"]
    """Norms of ``A v - value v``: there is an eigenvalue within as much of each value."""


def lanczos(product: Product, start: Float[Tensor, " n"], steps: int) -> LanczosResult:
    """Run the Lanczos algorithm with full reorthogonalisation.

    Parameters
    ----------
    product
        Maps a vector to its product with the symmetric matrix.
    start
        The first vector; a random one for estimates of the whole spectrum. Its dtype is computed in.
    steps
        Products to make; fewer where the Krylov space is exhausted before, whose values are then exact.

    Returns
    -------
    LanczosResult
        Ritz values with weights, vectors and residuals.

    Raises
    ------
    ValueError
        For a start that is zero or not finite, more steps than rows, or a product that is not finite.

    References
    ----------
    Golub and Van Loan, Matrix Computations (2013), chapter 10; quadrature: Golub and Meurant (2010), chapter 6.

    Examples
    --------
    >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    >>> lanczos(lambda v: matrix @ v, torch.ones(3, dtype=torch.float64), 3).values.round(decimals=6)
    tensor([1., 2., 5.], dtype=torch.float64)
    """
    check_count("steps", steps, at_most=len(start))
    norm = float(start.norm())
    if not 0 < norm < float("inf"):
        raise ValueError(f"start has norm {norm}; it takes a finite vector that is not zero")
    basis = start.new_empty(len(start), steps)
    basis[:, 0] = start / norm
    alphas: list[float] = []
    betas: list[float] = []
    for k in range(steps):
        w = product(basis[:, k].clone())  # which it may change in place
        alphas.append(float(basis[:, k] @ w))
        if not math.isfinite(alphas[-1]):
            raise ValueError(f"product returned NaN or infinity in step {k}; it takes one that is finite")
        known = basis[:, : k + 1]
        for _ in range(2):  # once leaves what rounding brings back, twice is enough
            w = w - known @ (known.T @ w)
        betas.append(float(w.norm()))
        size = max(abs(a) for a in alphas) + max(betas)
        if betas[-1] <= 10 * torch.finfo(start.dtype).eps * size or k + 1 == steps:
            break
        basis[:, k + 1] = w / betas[-1]
    count = len(alphas)
    inner = torch.tensor(betas[: count - 1], dtype=torch.float64)
    small = torch.diag(torch.tensor(alphas, dtype=torch.float64)) + torch.diag(inner, 1) + torch.diag(inner, -1)
    values, rotation = torch.linalg.eigh(small)
    residuals = betas[-1] * rotation[-1].abs()
    values, weights, residuals = (t.to(start) for t in (values, rotation[0] ** 2, residuals))
    return LanczosResult(values, weights, basis[:, :count] @ rotation.to(start), residuals)


def extreme_eigenvalues(
    product: Product,
    n: int,
    k: int = 1,
    *,
    which: Literal["largest", "smallest", "magnitude", "both"] = "largest",
    rtol: float = 1e-8,
    random_state: int = 0,
    start: Float[Tensor, " n"] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> tuple[Float[Tensor, " k"], Float[Tensor, "n k"]]:
    """Return extreme eigenvalues of a symmetric matrix with their vectors, by ARPACK's restarted Lanczos (SciPy).

    Parameters
    ----------
    product
        Maps a vector to its product with the matrix.
    n
        Rows of the matrix.
    k
        How many, fewer than `n`.
    which
        The algebraically ``largest`` or ``smallest``, the greatest in ``magnitude``, or half from ``both`` ends.
    rtol
        Relative accuracy of the eigenvalues.
    random_state
        Seed of the start.
    start
        The first vector instead of a random one, such as one near the eigenvectors that are sought.
    device, dtype
        Place and type of the vectors that `product` takes.

    Returns
    -------
    tuple[Tensor, Tensor]
        Eigenvalues, rising, and orthonormal eigenvectors in columns.

    Raises
    ------
    ValueError
        Unless ``1 <= k < n``, or for another `which`.
    scipy.sparse.linalg.ArpackNoConvergence
        Where they weren't found in ``10 n`` products.

    Examples
    --------
    >>> matrix = torch.diag(torch.arange(10.0, dtype=torch.float64))
    >>> extreme_eigenvalues(lambda v: matrix @ v, 10, 2)[0].round(decimals=6)
    tensor([8., 9.], dtype=torch.float64)
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    codes = {"largest": "LA", "smallest": "SA", "magnitude": "LM", "both": "BE"}
    check_choice("which", which, codes)
    check_count("k", k, at_most=check_count("n", n, at_least=2) - 1)

    def matvec(v: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(v.ravel()).to(device, dtype)).double().cpu().numpy()

    v0 = np.random.default_rng(random_state).standard_normal(n)
    if start is not None:
        v0 = start.detach().double().cpu().numpy()
    operator = LinearOperator((n, n), matvec=matvec, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k, which=codes[which], v0=v0, tol=rtol)
    except ArpackError:
        if matvec(v0).any():
            raise
        values, vectors = np.zeros(k), np.eye(n, k)  # a matrix that maps a random vector to 0 is 0 itself
    order = np.argsort(values)
    return tuple(torch.from_numpy(a.copy()).to(device, dtype) for a in (values[order], vectors[:, order]))  # type: ignore[return-value]
