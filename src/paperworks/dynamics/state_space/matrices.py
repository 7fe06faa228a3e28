"""The HiPPO-LegS system: its matrix, its normal part, and where its diagonal model has spikes."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from paperworks.core.validation import check_count


def hippo_legs(n: int) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """Return the matrices A and B of HiPPO-LegS, which remembers the past by Legendre polynomials.

    Parameters
    ----------
    n
        How many states.

    Returns
    -------
    A, B : Tensor
        In double precision; the eigenvalues of A are -1 to -n.

    References
    ----------
    arXiv 2310.01698, section 2.

    Examples
    --------
    >>> A, B = hippo_legs(2)
    >>> [[round(a, 4) for a in row] for row in A.tolist()], B.round(decimals=4).tolist()
    ([[-1.0, -0.0], [-1.7321, -2.0]], [1.0, 1.7321])
    """
    i = torch.arange(check_count("n", n), dtype=torch.float64)
    B = (2 * i + 1).sqrt()
    return -torch.outer(B, B).tril(-1) - torch.diag(i + 1), B


class DPLR(NamedTuple):
    """HiPPO-LegS as a normal matrix less one of rank one, in the basis of the normal one's eigenvectors.

    Parameters
    ----------
    eigenvalues
        Eigenvalues of the normal part; all real parts are -1/2, and they are in order of the imaginary ones.
    V
        Its eigenvectors, a unitary matrix.
    P
        The vector of rank one: ``A = V (diag(eigenvalues) - V^* P P^T V) V^*``.
    B
        The input vector, which is the root of 2 times P.

    Examples
    --------
    >>> DPLR(*dplr_legs(2)).P.square().round(decimals=6).tolist()
    [0.5, 1.5]
    """

    eigenvalues: Complex[Tensor, " n"]
    V: Complex[Tensor, "n n"]
    P: Float[Tensor, " n"]
    B: Float[Tensor, " n"]


def dplr_legs(n: int) -> DPLR:
    """Split HiPPO-LegS into a normal part and one of rank one.

    Parameters
    ----------
    n
        How many states.

    Returns
    -------
    DPLR
        Eigenvalues and eigenvectors of the normal part, and the vectors.

    Examples
    --------
    >>> dplr_legs(4).eigenvalues.real.tolist()
    [-0.5, -0.5, -0.5, -0.5]
    """
    A, B = hippo_legs(n)
    P = B / math.sqrt(2)
    skew = A + torch.outer(P, P) + 0.5 * torch.eye(n, dtype=A.dtype)
    w, V = torch.linalg.eigh(-1j * skew)  # for real parts that are exactly alike
    return DPLR(torch.complex(torch.full_like(w, -0.5), w), V, P, B)


def spike_frequencies(n: int, k: int | None = None) -> Float[Tensor, " k"]:
    """Return the frequencies at which the diagonal model without the part of rank one answers most.

    Parameters
    ----------
    n
        How many states.
    k
        How many, the tallest spikes first; half of the states where it isn't given.

    Returns
    -------
    Tensor
        Angular frequencies > 0 in continuous time; the first is near n^2 / pi.

    Examples
    --------
    >>> bool(abs(spike_frequencies(64)[0] / (64**2 / 3.14159) - 1) < 0.01)
    True
    """
    most = check_count("n", n, at_least=2) // 2
    count = most if k is None else check_count("k", k, at_most=most)
    parts = dplr_legs(n)
    heights = (parts.V.mH @ parts.P.to(parts.V.dtype)).abs()
    heights[parts.eigenvalues.imag <= 0] = -1
    return parts.eigenvalues.imag[heights.argsort(descending=True)[:count]]
