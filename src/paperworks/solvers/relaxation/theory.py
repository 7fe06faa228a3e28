"""What is known of relaxation beforehand: spectral radii, the best parameter, and bounds of iterations and regret."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import linalg, sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from paperworks.core.validation import check_count, check_number
from paperworks.solvers.relaxation.splitting import check_omega
from paperworks.solvers.systems import check_matrix


def jacobi_radius(A: Any) -> float:
    """Return the spectral radius of Jacobi's iteration, beta = rho(I - D^-1 A) (arXiv:2310.02246, Section 2).

    Parameters
    ----------
    A
        Symmetric (Hermitian) matrix with a positive diagonal, an array or a sparse matrix.

    Returns
    -------
    float
        The radius, below 1 where Jacobi's iteration converges.

    Raises
    ------
    ValueError
        If the diagonal isn't positive, or something isn't finite.

    Examples
    --------
    >>> from paperworks.solvers import laplacian
    >>> round(jacobi_radius(laplacian((9, 9))), 6), round(math.cos(math.pi / 10), 6)
    (0.951057, 0.951057)
    """
    A = check_matrix(A, entries=True)
    d = A.diagonal().real
    if not (d > 0).all():
        raise ValueError(
            "A has a diagonal that isn't positive; Jacobi's iteration takes the square root of its entries"
        )
    n, root = len(d), 1 / np.sqrt(d)

    def step(v: np.ndarray) -> np.ndarray:
        return v - root * (A @ (root * v))

    # Similar to a symmetric matrix, by the roots of the diagonal.
    if n > 400:
        v0 = np.random.default_rng(0).normal(size=n)
        operator = LinearOperator((n, n), matvec=step, dtype=A.dtype)
        try:
            return float(abs(eigsh(operator, 1, which="LM", v0=v0, return_eigenvectors=False))[0])
        except ArpackNoConvergence:
            pass
    dense = A.toarray() if sparse.issparse(A) else A
    return float(abs(np.linalg.eigvalsh(np.eye(n) - root[:, None] * dense * root)).max())


def optimal_omega(A: Any) -> float:
    """Return the parameter of the fastest asymptotic convergence of SOR, 1 + (beta / (1 + sqrt(1 - beta^2)))^2.

    The formula is Young's, for consistently ordered matrices such as 5-point Laplacians in their natural order
    (arXiv:2310.02246, Section 2). For others, such as 9-point ones, it is a guess.

    Parameters
    ----------
    A
        Symmetric matrix with a positive diagonal, or the radius beta of its Jacobi iteration.

    Returns
    -------
    float
        The parameter, from 1 to 2.

    Raises
    ------
    ValueError
        If the radius isn't below 1.

    Examples
    --------
    >>> round(optimal_omega(0.8), 12)
    1.25
    """
    beta = check_number("beta", A if np.ndim(A) == 0 and not sparse.issparse(A) else jacobi_radius(A), ge=0, lt=1)
    return 1 + (beta / (1 + math.sqrt(1 - beta**2))) ** 2


def sor_radius(
    beta: float, omega: float | Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"] | Float[np.ndarray, ""] | np.float64:
    """Return Young's spectral radius of the iteration C = I - A W^-1 of SOR, for consistently ordered matrices.

    ((omega beta + sqrt(omega^2 beta^2 - 4 (omega - 1))) / 2)^2 up to the best parameter, omega - 1 beyond it
    (arXiv:2310.02246, Section 2).

    Parameters
    ----------
    beta
        Radius of Jacobi's iteration, below 1.
    omega
        One relaxation parameter, or several.

    Returns
    -------
    float or ndarray
        The radius for each parameter.

    Examples
    --------
    >>> float(sor_radius(0.8, 1.0)), float(sor_radius(0.8, 1.5))
    (0.6400000000000001, 0.5)
    """
    check_number("beta", beta, ge=0, lt=1)
    omega = _omegas(omega)
    below = np.maximum((omega * beta) ** 2 - 4 * (omega - 1), 0)
    return np.where(omega < optimal_omega(beta), ((omega * beta + np.sqrt(below)) / 2) ** 2, omega - 1)[()]


def estimate_tau(A: Any, omegas: Sequence[float] | Float[np.ndarray, " n"], counts: Sequence[int]) -> float:
    """Return how far powers of SOR's iteration are from their spectral radius (arXiv:2310.02246, Assumption 2.1).

    The smallest tau with |C^k| <= (rho + tau (1 - rho))^k for each parameter, at k = counts - 1.

    Parameters
    ----------
    A
        Consistently ordered symmetric positive definite matrix, of which dense powers are taken.
    omegas
        Relaxation parameters between 0 and 2.
    counts
        Sweeps that a solve took with each parameter, at least 2.

    Returns
    -------
    float
        The constant, from 0 to 1 where all powers shrink.

    Examples
    --------
    >>> from paperworks.solvers import laplacian, sor
    >>> A, omegas = laplacian((5, 5)), [1.0, 1.3, 1.6]
    >>> counts = [sor(A, np.ones(25), omega=omega).iterations for omega in omegas]
    >>> 0 < estimate_tau(A, omegas, counts) < 1
    True
    """
    A = check_matrix(A, entries=True)
    dense = A.toarray() if sparse.issparse(A) else A
    if len(omegas) != len(counts):
        raise ValueError(f"counts has {len(counts)} entries; it takes one for each of {len(omegas)} omegas")
    beta, lower, found = jacobi_radius(A), np.tril(dense, -1), 0.0
    for omega, count in zip(omegas, counts, strict=True):
        k = check_count("counts", count, at_least=2) - 1
        W = lower + np.diag(np.diag(dense) / check_omega(float(omega)))
        C = np.eye(len(W)) - linalg.solve_triangular(W, dense.T.conj(), lower=True, trans="C").T.conj()
        rho = float(sor_radius(beta, float(omega)))
        growth = float(np.linalg.norm(np.linalg.matrix_power(C, k), 2) ** (1 / k))
        found = max(found, (growth - rho) / (1 - rho))
    return found


def near_asymptotic_bound(
    beta: float, omega: float | Float[np.ndarray, " n"], tau: float, rtol: float = 1e-8
) -> Float[np.ndarray, " n"] | Float[np.ndarray, ""] | np.float64:
    """Return the surrogate U = 1 + log(rtol) / log(rho + tau (1 - rho)) above SOR's sweeps (Lemma 2.1).

    The near-asymptotic bound of arXiv:2310.02246: it falls up to the best parameter and is Lipschitz beyond.

    Parameters
    ----------
    beta
        Radius of Jacobi's iteration, below 1.
    omega
        One relaxation parameter, or several.
    tau
        Distance of the powers from their radius, from 0 to below 1: see `estimate_tau`.
    rtol
        Relative tolerance of the solve.

    Returns
    -------
    float or ndarray
        The bound for each parameter.

    Examples
    --------
    >>> round(float(near_asymptotic_bound(0.8, 1.25, tau=0.2)), 2)
    21.1
    """
    check_number("tau", tau, ge=0, lt=1)
    check_number("rtol", rtol, gt=0, lt=1)
    rho = sor_radius(beta, omega)
    with np.errstate(divide="ignore"):  # a radius of 0 gives the bound 1
        return 1 + math.log(rtol) / np.log(rho + tau * (1 - rho))


def energy_bound(
    A: Any, omega: float | Float[np.ndarray, " n"], rtol: float = 1e-8
) -> Float[np.ndarray, " n"] | Float[np.ndarray, ""] | np.float64:
    """Return Hackbusch's bound of SOR's sweeps by the contraction in the energy norm, looser than the surrogate.

    log(rtol / (2 sqrt(kappa))) over the log of the contraction of Corollary 3.45 (arXiv:2310.02246, Figure 1).

    Parameters
    ----------
    A
        Symmetric positive definite matrix, of which dense eigenvalues are taken.
    omega
        One relaxation parameter, or several.
    rtol
        Relative tolerance of the solve.

    Returns
    -------
    float or ndarray
        The bound for each parameter.

    Examples
    --------
    >>> from paperworks.solvers import laplacian, sor
    >>> A = laplacian((5, 5))
    >>> bool(energy_bound(A, 1.3) > sor(A, np.ones(25), omega=1.3).iterations)
    True
    """
    check_number("rtol", rtol, gt=0, lt=1)
    dense, lower, d = _parts(A)
    omega = _omegas(omega)
    share, gamma = (2 - omega) / (2 * omega), 1 - jacobi_radius(dense)
    product = (lower / d[:, None]) @ (lower.T.conj() / d[:, None])
    radius = float(abs(np.linalg.eigvals(product)).max())
    squared = 1 - 2 * share * gamma / (share**2 + gamma / omega + radius - 0.25)
    return (math.log(rtol / (2 * math.sqrt(_condition(dense)))) / (np.log(squared) / 2))[()]


def pcg_bound(
    A: Any, omega: float | Float[np.ndarray, " n"], rtol: float = 1e-8
) -> Float[np.ndarray, " n"] | Float[np.ndarray, ""] | np.float64:
    """Return Axelsson's bound of the iterations of conjugate gradients with SSOR (arXiv:2310.02246, Section 3).

    With mu = rho(D A^-1) and nu the greatest eigenvalue of (L D^-1 L^T - D/4) A^-1, the condition number is
    (1 + mu (2 - omega)^2 / (4 omega) + nu omega) / (2 - omega) (Axelsson, Theorem 7.17).

    Parameters
    ----------
    A
        Symmetric positive definite matrix, of which dense eigenvalues are taken.
    omega
        One relaxation parameter, or several.
    rtol
        Relative tolerance of the solve.

    Returns
    -------
    float or ndarray
        The bound for each parameter.

    Examples
    --------
    >>> from paperworks.solvers import laplacian, ssor_pcg
    >>> A = laplacian((5, 5))
    >>> bool(pcg_bound(A, 1.3) > ssor_pcg(A, np.ones(25), omega=1.3).iterations)
    True
    """
    check_number("rtol", rtol, gt=0, lt=1)
    dense, lower, d = _parts(A)
    omega, kappa = _omegas(omega), _condition(dense)
    mu = float(linalg.eigh(np.diag(d), dense, eigvals_only=True)[-1])
    nu = float(linalg.eigh((lower / d) @ lower.T.conj() - np.diag(d) / 4, dense, eigvals_only=True)[-1])
    split = (1 + mu * (2 - omega) ** 2 / (4 * omega) + nu * omega) / (2 - omega)
    numerator = math.log(math.sqrt(kappa) / rtol + math.sqrt(kappa / rtol**2 - 1))
    return (1 + numerator / -np.log(1 - 2 / (1 + np.sqrt(split))))[()]


def regret_bound(
    alphas: Sequence[float] | Float[np.ndarray, " rounds"],
    n_arms: int,
    normalizer: float,
    rtol: float = 1e-8,
    *,
    anytime: bool = False,
) -> float:
    """Return how many iterations more than the best fixed parameter Tsallis-INF takes in expectation, at the most.

    2 K sqrt(2 d T) + sum over rounds of -log(rtol) / (d log^2 alpha), with d parameters on a grid (arXiv:2310.02246,
    Theorem 2.2). With K = log(rtol) / log(a), a the greatest alpha, and g the mean of 1 / log^2 alpha, the bound is
    least at d = (T/2 g^2 log^2 a)^(1/3).

    Parameters
    ----------
    alphas
        Contraction of the least favourable parameter, one number between 0 and 1 for the matrix of each round:
        tau + (1 - tau) max(beta^2, greatest omega - 1).
    n_arms
        Number d of parameters.
    normalizer
        Bound K of the iterations of a solve.
    rtol
        Relative tolerance of the solves.
    anytime
        Whether the number of rounds isn't known to the learner: the first term is then 4 K sqrt(d T) + 1.

    Returns
    -------
    float
        The bound of the regret, in iterations of all rounds together.

    Examples
    --------
    >>> round(regret_bound(np.full(10_000, 0.9), n_arms=20, normalizer=200) / 10_000, 1)
    108.3
    """
    check_count("n_arms", n_arms)
    check_number("normalizer", normalizer, gt=0)
    check_number("rtol", rtol, gt=0, lt=1)
    found = np.asarray(alphas, dtype=float)
    if found.ndim != 1 or not len(found) or not ((found > 0) & (found < 1)).all():
        raise ValueError("alphas takes a list of numbers between 0 and 1, one for each round")
    root = normalizer * math.sqrt(n_arms * len(found))
    learning = 4 * root + 1 if anytime else math.sqrt(8) * root
    return learning + float((-math.log(rtol) / (n_arms * np.log(found) ** 2)).sum())


def _omegas(omega: Any) -> np.ndarray:
    found = np.asarray(omega, dtype=float)
    if not ((found > 0) & (found < 2)).all():
        raise ValueError(f"omega is {omega!r}; it takes numbers > 0 and < 2")
    return found


def _parts(A: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    A = check_matrix(A, entries=True)
    dense = A.toarray() if sparse.issparse(A) else A
    return dense, np.tril(dense, -1), np.diag(dense).real


def _condition(dense: np.ndarray) -> float:
    values = np.linalg.eigvalsh(dense)
    if not values[0] > 0:
        raise ValueError(f"A is not positive definite: its least eigenvalue is {values[0]:.3g}")
    return float(values[-1] / values[0])
