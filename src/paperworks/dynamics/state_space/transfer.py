"""What a linear system answers to each frequency, and how far systems are from each other."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_finite

System = tuple[Tensor, Tensor, Tensor]


def transfer_function(A: Tensor, B: Tensor, C: Tensor, s: Any) -> Tensor:
    """Return C (s I - A)^-1 B.

    Parameters
    ----------
    A
        The matrix, (n, n), or the eigenvalues of a diagonal one, (n,).
    B, C
        Input and output, (n,) or (n, m) and (n,) or (p, n).
    s
        Complex arguments of any shape; 1j times angular frequencies for the answer to them.

    Returns
    -------
    Tensor
        Values, of the shape of `s` and then (p, m), of which the axes of vectors are left out.

    Raises
    ------
    ValueError
        For shapes that don't fit, or values that are not finite.

    Examples
    --------
    >>> transfer_function(torch.tensor([-1.0]), torch.ones(1), torch.ones(1), 1j)
    tensor(0.5000-0.5000j)
    """
    points, A, B, C = _checked(A, B, C, s)
    inputs, outputs = (B[:, None] if B.ndim == 1 else B), (C[None] if C.ndim == 1 else C)
    flat = points.reshape(-1)
    if A.ndim == 1:
        inner = 1 / (flat[:, None] - A)
        found = torch.einsum("pn,kn,nm->kpm", outputs, inner, inputs)
    else:
        found = torch.cat([outputs @ _solved(A, part, inputs) for part in flat.split(max(1, 2**24 // A.numel()))])
    found = found.reshape(*points.shape, *found.shape[1:])
    if B.ndim == 1:
        found = found[..., 0]
    return found[..., 0] if C.ndim == 1 and B.ndim == 1 else found[..., 0, :] if C.ndim == 1 else found


def _solved(A: Tensor, s: Tensor, B: Tensor) -> Tensor:
    shifted = s[:, None, None] * torch.eye(len(A), dtype=A.dtype) - A
    right = B.expand(len(s), *B.shape)
    if not A.triu(1).any():  # as HiPPO's: a system of thousands of states is solved in a moment
        return torch.linalg.solve_triangular(shifted, right, upper=False)
    return torch.linalg.solve(shifted, right)


def _checked(A: Tensor, B: Tensor, C: Tensor, s: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = check_matrix("A", A, diagonal=True)
    for name, x, axis in (("B", B, 0), ("C", C, -1)):
        if x.ndim not in (1, 2) or x.shape[axis] != n:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it takes ({n},) or a matrix that fits {n} states")
        check_finite(name, x)
    dtype = (
        torch.complex128 if any(x.dtype in (torch.float64, torch.complex128) for x in (A, B, C)) else torch.complex64
    )
    return check_finite("s", torch.as_tensor(s)).to(dtype), A.to(dtype), B.to(dtype), C.to(dtype)


def check_matrix(name: str, A: Any, *, diagonal: bool = False) -> int:
    """Return the size of a finite square matrix, or of a vector of eigenvalues where that may be.

    Parameters
    ----------
    name
        The argument, for the message.
    A
        What it got.
    diagonal
        Whether a vector may stand for a diagonal matrix.

    Returns
    -------
    int
        Rows of the matrix.
    """
    if not isinstance(A, Tensor):
        raise TypeError(f"{name} is a {type(A).__name__}; it takes a tensor")
    square = A.ndim == 2 and A.shape[0] == A.shape[1]
    if not len(A.shape) or not A.numel() or not (square or (diagonal and A.ndim == 1)):
        raise ValueError(
            f"{name} has shape {tuple(A.shape)}; it takes a square matrix" + (" or eigenvalues" * diagonal)
        )
    if not (A.is_floating_point() or A.is_complex()):
        raise TypeError(f"{name} is of {A.dtype}; it takes real or complex numbers")
    check_finite(name, A)
    return len(A)


def resolvent_norm(A: Tensor, s: Any) -> Float[Tensor, "..."]:
    """Return the spectral norm of (s I - A)^-1.

    Parameters
    ----------
    A
        The matrix, (n, n).
    s
        Complex arguments of any shape.

    Returns
    -------
    Tensor
        Norms, of the shape of `s`; infinite at eigenvalues.

    Examples
    --------
    >>> from paperworks.dynamics import hippo_legs
    >>> round(float(resolvent_norm(hippo_legs(8)[0], 0.0)) ** 2, 2)
    2.75
    """
    return 1 / pseudospectrum(A, s)


def pseudospectrum(A: Tensor, grid: Any) -> Float[Tensor, "..."]:
    """Return for each point how small a perturbation makes it an eigenvalue: the least singular value of (s I - A).

    Parameters
    ----------
    A
        The matrix, (n, n).
    grid
        Complex points of any shape.

    Returns
    -------
    Tensor
        Norms of the least perturbations, of the shape of `grid`.

    Examples
    --------
    >>> pseudospectrum(torch.diag(torch.tensor([1.0, 3.0])), torch.tensor([0.0, 3.0]))
    tensor([1., 0.])
    """
    n = check_matrix("A", A)
    dtype = torch.complex128 if A.dtype in (torch.float64, torch.complex128) else torch.complex64
    points = check_finite("grid", torch.as_tensor(grid)).to(dtype)
    eye, least = torch.eye(n, dtype=dtype), []
    for part in points.reshape(-1).split(max(1, 2**22 // n**2)):
        least.append(torch.linalg.svdvals(part[:, None, None] * eye - A.to(dtype))[:, -1])
    return torch.cat(least).reshape(points.shape)


def operator_gap(first: System, second: System, frequencies: Any = None) -> tuple[float, float]:
    """Return the largest difference of two systems on the imaginary axis, which is the norm of their difference.

    Parameters
    ----------
    first, second
        Systems (A, B, C), each with a matrix or with eigenvalues.
    frequencies
        Angular frequencies to look at; by default a grid that is dense round all eigenvalues of both.

    Returns
    -------
    gap : float
        The largest difference, in the spectral norm for several inputs or outputs.
    frequency : float
        Where it is.

    Examples
    --------
    >>> one = torch.ones(1)
    >>> operator_gap((-one, one, one), (-2 * one, one, one))
    (0.5, 0.0)
    """
    if frequencies is None:
        poles = torch.cat(
            [(A if A.ndim == 1 else torch.linalg.eigvals(A)).to(torch.complex128) for A, _, _ in (first, second)]
        )
        width = poles.real.abs().clamp(min=1e-6)
        offsets = torch.tensor([-4.0, -2.0, -1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
        near = (poles.imag[:, None] + width[:, None] * offsets).flatten()
        top = float(poles.abs().max())
        wide = torch.logspace(-3, math.log10(10 * top + 1), 400, dtype=torch.float64)
        w = torch.cat([near, wide, -wide, torch.zeros(1, dtype=torch.float64)]).unique()
    else:
        w = torch.as_tensor(frequencies, dtype=torch.float64).reshape(-1)
    apart = transfer_function(*first, 1j * w) - transfer_function(*second, 1j * w)
    sizes = apart.abs() if apart.ndim == 1 else torch.linalg.matrix_norm(apart.reshape(len(w), *_matrix(apart)), 2)
    place = int(sizes.argmax())
    return float(sizes[place]), float(w[place])


def _matrix(values: Tensor) -> tuple[int, int]:
    return (values.shape[1], values.shape[2]) if values.ndim == 3 else (1, values.shape[1])


def gap_bound(A: Tensor, E: Tensor, s: Any) -> Float[Tensor, "..."]:
    r"""Return a bound of what a perturbation E of A changes in the transfer function, for unit inputs and outputs.

    With rho the norm of (s I - A)^-1 it is ``|E| rho^2 / (1 - |E| rho)``, by the series of Neumann.

    Parameters
    ----------
    A, E
        The matrix and its perturbation, (n, n).
    s
        Complex arguments of any shape.

    Returns
    -------
    Tensor
        Bounds, of the shape of `s`; infinite where the series doesn't converge.

    References
    ----------
    arXiv 2310.01698, Theorem 3, without its constants.

    Examples
    --------
    >>> gap_bound(torch.tensor([[-1.0]]), torch.tensor([[0.5]]), 0.0)
    tensor(1.)
    """
    check_matrix("E", E)
    rho, size = resolvent_norm(A, s), torch.linalg.matrix_norm(E, 2)
    return torch.where(size * rho < 1, size * rho**2 / (1 - size * rho), math.inf)
