"""Cholesky factors that tolerate rounding, grow by rows, and can be differentiated through."""

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack

JITTER = tuple(10.0**power for power in range(-10, -3))
"""What is added to a diagonal, relative to the prior variance, one after the other until a factor exists."""


class NotPositiveDefinite(np.linalg.LinAlgError):
    """A covariance matrix that even the largest jitter doesn't make positive definite."""


def cholesky(K: Float[np.ndarray, "n n"], scale: float, jitter: tuple[float, ...] = JITTER) -> Float[np.ndarray, "n n"]:
    """Return the lower factor of `K`; a little of `scale` is added to the diagonal where rounding asks for it."""
    floor = (4 * np.finfo(float).eps * len(K) * scale) ** 0.5
    for extra in (0.0, *jitter):
        A = K if not extra else K + extra * scale * np.eye(len(K))
        L, info = lapack.dpotrf(A, lower=1, clean=1)
        if info == 0 and (len(L) == 0 or L.diagonal().min() > floor):
            return L
    raise NotPositiveDefinite(
        f"K is not positive definite with {jitter[-1]:g} of its scale on the diagonal; points are repeated or the "
        "kernel is wrong: give a noise variance"
    )


def solve(L: Float[np.ndarray, "n n"], B: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    """Return (L L^T)^-1 B."""
    if B.size == 0:
        return B.copy()
    return lapack.dpotrs(L, B, lower=1)[0].reshape(B.shape)


def half_solve(L: Float[np.ndarray, "n n"], B: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    """Return L^-1 B."""
    if B.size == 0:
        return B.copy()
    return lapack.dtrtrs(L, B, lower=1)[0].reshape(B.shape)


def append(
    L: Float[np.ndarray, "n n"], B: Float[np.ndarray, "n m"], C: Float[np.ndarray, "m m"], scale: float
) -> Float[np.ndarray, "k k"]:
    """Return the factor of [[K, B], [B^T, C]] from that of K in O(n^2 m)."""
    n, m = B.shape
    grown = np.zeros((n + m, n + m))
    half = half_solve(L, B)
    grown[:n, :n], grown[n:, :n] = L, half.T
    grown[n:, n:] = cholesky(C - half.T @ half, scale)
    return grown


def batch_cholesky(S: Float[np.ndarray, "b q q"]) -> Float[np.ndarray, "b q q"]:
    """Return lower factors of many small covariance matrices, each with as little jitter as all of them need."""
    scale = np.maximum(np.trace(S, axis1=1, axis2=2) / S.shape[1], 1e-300)[:, None, None]
    for extra in (1e-12, *JITTER, 1e-3, 1e-2):
        try:
            return np.linalg.cholesky(S + extra * scale * np.eye(S.shape[1]))
        except np.linalg.LinAlgError:
            continue
    # Where nearly nothing is left to learn, rounding is as large as the covariances: they are brought back to be some.
    w, Q = np.linalg.eigh(0.5 * (S + np.swapaxes(S, 1, 2)))
    floor = np.maximum(1e-6 * np.abs(w).max(axis=1, keepdims=True), 1e-200)
    return np.linalg.cholesky((Q * np.maximum(w, floor)[:, None]) @ np.swapaxes(Q, 1, 2))


def pull_cholesky(L: Float[np.ndarray, "b q q"], L_bar: Float[np.ndarray, "b q q"]) -> Float[np.ndarray, "b q q"]:
    """Return the symmetric gradient with respect to S of a function whose gradient with respect to L is `L_bar`."""
    lower = np.tril(np.swapaxes(L, 1, 2) @ np.tril(L_bar))
    diagonal = np.einsum("bii->bi", lower)
    diagonal *= 0.5
    right = np.linalg.solve(np.swapaxes(L, 1, 2), lower)  # L^-T P
    S_bar = np.swapaxes(np.linalg.solve(np.swapaxes(L, 1, 2), np.swapaxes(right, 1, 2)), 1, 2)  # ... L^-1
    return 0.5 * (S_bar + np.swapaxes(S_bar, 1, 2))
