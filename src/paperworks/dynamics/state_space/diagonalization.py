"""Perturb, then diagonalise: eigenvectors of a nearby matrix that floating point can work with."""

import functools
import math
import warnings
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.dynamics.state_space.matrices import dplr_legs, hippo_legs
from paperworks.dynamics.state_space.transfer import check_matrix

Method = Literal["optimized", "random", "normal", "none"]
_STABLE = -1e-3


class PTDResult(NamedTuple):
    """A perturbation and the eigenvalues and eigenvectors of the perturbed matrix.

    Parameters
    ----------
    E
        The perturbation: ``A + E = V diag(eigenvalues) V^-1``.
    eigenvalues
        In order of their imaginary parts; conjugate ones are exactly so for a real matrix.
    V
        Eigenvectors of length 1, as columns.
    cond
        Condition number of V in the spectral norm.
    rel_norm
        Spectral norm of E / that of A.

    Examples
    --------
    >>> found = perturb_then_diagonalize(hippo_legs(4)[0], method="random")
    >>> found.V.shape, found.rel_norm < 1.1e-3
    (torch.Size([4, 4]), True)
    """

    E: Float[Tensor, "n n"]
    eigenvalues: Complex[Tensor, " n"]
    V: Complex[Tensor, "n n"]
    cond: float
    rel_norm: float


def perturb_then_diagonalize(
    A: Float[Tensor, "n n"],
    *,
    gamma: float = 10.0,
    method: Method = "optimized",
    steps: int = 400,
    stability_margin: float | None = 0.5,
    sigma: float = 1.0,
    size: float = 1e-3,
    random_state: int = 0,
) -> PTDResult:
    r"""Find a small perturbation that makes a matrix diagonalisable, and diagonalise.

    ``optimized`` minimises ``log cond(V) + gamma |E| / |A|`` over E by Adam, with a penalty on eigenvalues to the right
    of minus `stability_margin`. The paper names no optimiser; this one's settings are ours.

    Parameters
    ----------
    A
        Any real square matrix.
    gamma
        Weight of the perturbation's size; 10 gives a condition near 13 for 64 states of HiPPO-LegS.
    method
        ``optimized``; ``random``, a Gaussian matrix of relative norm `size`; ``normal``, the part of rank one of
        HiPPO-LegS, which gives the matrix of S4D; ``none``, which beyond 12 states is hopeless.
    steps
        Steps of Adam.
    stability_margin
        How far left of 0 eigenvalues are to be, half for state matrices of HiPPO's scale; None for other matrices.
    sigma
        Weight of the penalty; ten times as much is tried, up to three times, where a state matrix isn't stable.
    size
        Norm of the random perturbation, and of the first one of Adam, relative to that of A.
    random_state
        Seed of the random matrix.

    Returns
    -------
    PTDResult
        The perturbation, eigenvalues, eigenvectors, and their condition.

    Raises
    ------
    ValueError
        For a matrix that isn't square and finite, or unknown methods.

    References
    ----------
    arXiv 2310.01698, section 4.

    Examples
    --------
    >>> A, _ = hippo_legs(16)
    >>> found = perturb_then_diagonalize(A)
    >>> found.cond < 10, found.rel_norm < 0.1, bool(found.eigenvalues.real.max() < -0.5)
    (True, True, True)
    """
    n = check_matrix("A", A)
    if A.is_complex():
        raise TypeError(f"A is of {A.dtype}; it takes a real matrix")
    check_choice("method", method, get_args(Method))
    check_number("gamma", gamma, ge=0)
    check_number("sigma", sigma, ge=0)
    check_number("size", size, gt=0)
    check_count("steps", steps)
    if stability_margin is not None:
        check_number("stability_margin", stability_margin, ge=0)
    A = A.detach().double()
    norm = float(torch.linalg.matrix_norm(A, 2)) or 1.0
    if method == "none":
        if n > 12:
            raise ValueError(
                f"method is 'none' for {n} states; it takes 12 at most, since floating point can't do more"
            )
        E = torch.zeros_like(A)
    elif method == "normal":
        legs, _ = hippo_legs(n)
        if not torch.allclose(A, legs):
            raise ValueError("method is 'normal', and A is not the matrix of HiPPO-LegS; it takes that one alone")
        P = dplr_legs(n).P
        E = torch.outer(P, P)
    else:
        noise = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(random_state))
        E = noise * (size * norm / float(torch.linalg.matrix_norm(noise, 2)))
        if method == "optimized":
            for attempt in range(4):
                found = _optimised(A, E, norm, gamma, steps, stability_margin, sigma * 10**attempt)
                if found is not None:
                    E = found
                    break
    return _diagonalised(A, E, norm, stability_margin is not None)


def _optimised(
    A: Tensor, start: Tensor, norm: float, gamma: float, steps: int, margin: float | None, sigma: float
) -> Tensor | None:
    """Return the best iterate, of the stable ones where that is asked for; None where there is none."""
    E = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([E], lr=1e-3 * norm / math.sqrt(len(A)))
    best, least = None, math.inf
    for _ in range(steps):
        optimizer.zero_grad()
        eigenvalues, V = torch.linalg.eig(A + E)
        sizes = torch.linalg.svdvals(V)
        loss = (sizes[0] / sizes[-1]).log() + gamma * torch.linalg.matrix_norm(E, 2) / norm
        right = float(eigenvalues.detach().real.max())
        if margin is not None:
            loss = loss + sigma * (eigenvalues.real + margin).relu().sum()
        if loss.item() < least and (margin is None or right < _STABLE):
            best, least = E.detach().clone(), loss.item()
        loss.backward()
        if E.grad is None or not torch.isfinite(E.grad).all():
            break
        optimizer.step()
    return best


def _diagonalised(A: Tensor, E: Tensor, norm: float, state_matrix: bool) -> PTDResult:
    eigenvalues, V = torch.linalg.eig(A + E)
    order = sorted(
        range(len(A)), key=lambda i: (round(float(eigenvalues[i].imag) / norm, 9), float(eigenvalues[i].real))
    )
    eigenvalues, V = eigenvalues[order], V[:, order]
    if state_matrix and float(eigenvalues.real.max()) > _STABLE:
        warnings.warn(
            f"A + E has an eigenvalue with real part {float(eigenvalues.real.max()):.3g}; it is moved to {_STABLE:g}",
            UserWarning,
            stacklevel=3,
        )
        eigenvalues = torch.complex(eigenvalues.real.clamp(max=_STABLE), eigenvalues.imag)
    V = V / torch.linalg.vector_norm(V, dim=0)
    sizes = torch.linalg.svdvals(V)
    rel_norm = float(torch.linalg.matrix_norm(E, 2)) / norm
    return PTDResult(E, eigenvalues, V, float(sizes[0] / sizes[-1]), rel_norm)


@functools.lru_cache(maxsize=32)
def ptd_legs(n: int, method: Method = "optimized", random_state: int = 0) -> PTDResult:
    """Return the perturbed HiPPO-LegS matrix of a size, which is found once in a process.

    Parameters
    ----------
    n
        How many states.
    method
        As in `perturb_then_diagonalize`.
    random_state
        Seed of the first perturbation.

    Returns
    -------
    PTDResult
        Not to be changed: everyone has the same one.
    """
    return perturb_then_diagonalize(hippo_legs(n)[0], method=method, random_state=random_state)


def half(eigenvalues: Complex[Tensor, " n"]) -> tuple[Tensor, Float[Tensor, " m"]]:
    """Choose one of each pair of conjugate eigenvalues, and all real ones.

    Parameters
    ----------
    eigenvalues
        Of a real matrix.

    Returns
    -------
    chosen : Tensor
        Their places.
    weights : Tensor
        2 for pairs, 1 for real ones: twice the real part of one is the sum of both.

    Raises
    ------
    ValueError
        Where they aren't those of a real matrix.
    """
    size = float(eigenvalues.abs().max())
    real = eigenvalues.imag.abs() <= 1e-8 * size
    chosen = (real | (eigenvalues.imag > 0)).nonzero()[:, 0]
    weights = torch.where(real[chosen], 1.0, 2.0).double()
    if int(weights.sum()) != len(eigenvalues):
        raise ValueError("eigenvalues don't come in conjugate pairs; it takes those of a real matrix")
    return chosen, weights
