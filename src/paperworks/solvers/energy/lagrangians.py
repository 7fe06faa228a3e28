"""Integrands L(x, u, grad u) of elliptic energies, with the derivatives that a descent needs.

The derivatives of polynomial ones are written with + and * alone, so that they are evaluated on arrays of values, on
sums of exponentials and on bounds of norms alike.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number

Values = Float[np.ndarray, "*points"]


class HessianRange(NamedTuple):
    """Least and greatest second derivatives of an integrand.

    Parameters
    ----------
    c_low, c_high
        Least and greatest second derivative by u.
    p_low, p_high
        Least and greatest eigenvalue of the Hessian by the gradient.

    Examples
    --------
    >>> HessianRange(0.0, 1.0, 1.0, 1.0).merged(HessianRange(0.5, 2.0, 1.0, 1.0))
    HessianRange(c_low=0.0, c_high=2.0, p_low=1.0, p_high=1.0)
    """

    c_low: float
    c_high: float
    p_low: float
    p_high: float

    def merged(self, other: "HessianRange") -> "HessianRange":
        """Return the range that holds both.

        Parameters
        ----------
        other
            Another range of derivatives.

        Returns
        -------
        HessianRange
            From the least to the greatest of both.
        """
        return HessianRange(
            min(self.c_low, other.c_low),
            max(self.c_high, other.c_high),
            min(self.p_low, other.p_low),
            max(self.p_high, other.p_high),
        )


class Lagrangian(ABC):
    """An integrand L(x, u, p), p = grad u, convex in (u, p), whose Hessian doesn't mix u and p.

    Parameters
    ----------
    degree
        Degree of its derivatives as polynomials in (u, p); None where they are none.

    Examples
    --------
    >>> semilinear(c=0.0, gamma=1.0).du(None, 2.0, [0.0])
    8.0
    """

    degree: int | None
    uses_gradient: bool = True  # beyond |p|² / 2
    mixes_axes: bool = False  # a product of two entries of p, each to an odd power, is no product of sines and cosines

    @abstractmethod
    def rest(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        """Return the integrand at points, less |p|² / 2.

        Parameters
        ----------
        x
            Coordinates, one array for each dimension; not looked at by integrands that don't depend on them.
        u
            Values of the function.
        p
            Its derivative along each axis.

        Returns
        -------
        Any
            What remains of the integrand, of the kind of `u`.
        """

    @abstractmethod
    def du(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        """Return its derivative by u.

        Parameters
        ----------
        x
            Coordinates, one array for each dimension; not looked at by integrands that don't depend on them.
        u
            Values of the function.
        p
            Its derivative along each axis.

        Returns
        -------
        Any
            The derivative, of the kind of `u`.
        """

    @abstractmethod
    def dp_rest(self, x: Any, u: Any, p: Sequence[Any]) -> list[Any]:
        """Return its derivative by the gradient, less the gradient itself: what it has beyond |p|²/2.

        Parameters
        ----------
        x
            Coordinates, one array for each dimension; not looked at by integrands that don't depend on them.
        u
            Values of the function.
        p
            Its derivative along each axis.

        Returns
        -------
        list
            One entry for each axis, or none where nothing remains.
        """

    @abstractmethod
    def hessian(self, x: Any, u: Values, p: Sequence[np.ndarray]) -> HessianRange:
        """Return the range of second derivatives over points.

        Parameters
        ----------
        x
            Coordinates, one array for each dimension; not looked at by integrands that don't depend on them.
        u
            Values of the function.
        p
            Its derivative along each axis.

        Returns
        -------
        HessianRange
            Least and greatest ones over the points.
        """

    def hessian_within(self, u: float, p: float) -> HessianRange:
        """Return the range of second derivatives over all |u| and |grad u| up to given ones, which bounds are made of.

        Parameters
        ----------
        u
            Greatest absolute value of the function.
        p
            Greatest length of its gradient.

        Returns
        -------
        HessianRange
            Bounds of the second derivatives.
        """
        raise ValueError(f"{type(self).__name__} has no bounds of its Hessian over a range; it takes those declared")

    @property
    def mass(self) -> float:
        """Sum of the absolute coefficients of its derivatives as polynomials, infinity where they are none."""
        return math.inf


class _Semilinear(Lagrangian):
    def __init__(self, c: float, gamma: float) -> None:
        self.c, self.gamma = check_number("c", c, ge=0), check_number("gamma", gamma, ge=0)
        self.degree = 3 if gamma else 1

    uses_gradient = False

    def rest(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        square = u * u
        return 0.5 * self.c * square + 0.25 * self.gamma * (square * square) if self.gamma else 0.5 * self.c * square

    def du(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        if not self.gamma:
            return self.c * u
        cube = self.gamma * (u * u * u)
        return self.c * u + cube if self.c else cube

    def dp_rest(self, x: Any, u: Any, p: Sequence[Any]) -> list[Any]:
        return []

    def hessian(self, x: Any, u: Values, p: Sequence[np.ndarray]) -> HessianRange:
        squares = u**2
        return HessianRange(
            self.c + 3 * self.gamma * float(squares.min()), self.c + 3 * self.gamma * float(squares.max()), 1.0, 1.0
        )

    def hessian_within(self, u: float, p: float) -> HessianRange:
        return HessianRange(self.c, self.c + (3 * self.gamma * u**2 if self.gamma else 0.0), 1.0, 1.0)

    @property
    def mass(self) -> float:
        return 1 + self.c + self.gamma


class _Linear(Lagrangian):
    degree = 1

    def __init__(self, A: np.ndarray | None, c: float) -> None:
        self.c = check_number("c", c, ge=0)
        self.A = None if A is None else np.asarray(A, dtype=float)
        if self.A is not None and (
            self.A.ndim != 2 or self.A.shape[0] != self.A.shape[1] or not np.allclose(self.A, self.A.T)
        ):
            raise ValueError(f"A has shape {self.A.shape}; it takes a symmetric matrix")
        self.eigenvalues = np.ones(1) if self.A is None else np.linalg.eigvalsh(self.A)
        if not self.eigenvalues[0] > 0:
            raise ValueError(f"A has the eigenvalue {self.eigenvalues[0]:g}; it takes a positive definite matrix")

    def _rest(self, p: Sequence[Any]) -> np.ndarray:
        if self.A is not None and len(self.A) != len(p):
            raise ValueError(f"A has shape {self.A.shape}; it takes one row for each of {len(p)} dimensions")
        return np.zeros((len(p), len(p))) if self.A is None else self.A - np.eye(len(p))

    @property
    def uses_gradient(self) -> bool:  # type: ignore[override]
        return self.A is not None

    @property
    def mixes_axes(self) -> bool:  # type: ignore[override]
        return self.A is not None and bool((np.diag(np.diag(self.A)) != self.A).any())

    def rest(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        products = zip(self.dp_rest(x, u, p), p, strict=False)
        return sum((0.5 * (a * b) for a, b in products), 0.5 * self.c * (u * u))

    def du(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        return self.c * u

    def dp_rest(self, x: Any, u: Any, p: Sequence[Any]) -> list[Any]:
        rest = self._rest(p)
        return [sum(float(a) * q for a, q in zip(row, p, strict=True)) for row in rest] if rest.any() else []

    def hessian(self, x: Any, u: Values, p: Sequence[np.ndarray]) -> HessianRange:
        return self.hessian_within(0.0, 0.0)

    def hessian_within(self, u: float, p: float) -> HessianRange:
        return HessianRange(self.c, self.c, float(self.eigenvalues[0]), float(self.eigenvalues[-1]))

    @property
    def mass(self) -> float:
        return self.c + (1.0 if self.A is None else float(np.abs(self.A).sum()))


class _P4(Lagrangian):
    degree = 3

    def __init__(self, eps: float) -> None:
        self.eps = check_number("eps", eps, ge=0)

    def rest(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        square = sum((q * q for q in p[1:]), p[0] * p[0])
        return 0.25 * self.eps * (square * square)

    def du(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        return 0.0 * u

    def dp_rest(self, x: Any, u: Any, p: Sequence[Any]) -> list[Any]:
        square = sum((q * q for q in p[1:]), p[0] * p[0])
        return [self.eps * (square * q) for q in p]

    def hessian(self, x: Any, u: Values, p: Sequence[np.ndarray]) -> HessianRange:
        squares = np.sum([q**2 for q in p], axis=0)
        # Along the gradient it is 1 + 3 eps |p|²; across it, where there is an across, 1 + eps |p|².
        across = 3 if len(p) == 1 else 1
        return HessianRange(
            0.0, 0.0, 1 + across * self.eps * float(squares.min()), 1 + 3 * self.eps * float(squares.max())
        )

    def hessian_within(self, u: float, p: float) -> HessianRange:
        return HessianRange(0.0, 0.0, 1.0, 1 + 3 * self.eps * p**2)

    @property
    def mass(self) -> float:
        return 1 + self.eps


class _MinimalSurface(Lagrangian):
    degree = None

    def rest(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        square = np.sum([q**2 for q in p], axis=0)
        return np.sqrt(1 + square) - 0.5 * square

    def du(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        return 0.0 * u

    def dp_rest(self, x: Any, u: Any, p: Sequence[Any]) -> list[Any]:
        factor = 1 / np.sqrt(1 + np.sum([q**2 for q in p], axis=0)) - 1
        return [factor * q for q in p]

    def hessian(self, x: Any, u: Values, p: Sequence[np.ndarray]) -> HessianRange:
        squares = np.sum([q**2 for q in p], axis=0)
        across = 1.5 if len(p) == 1 else 0.5
        return HessianRange(0.0, 0.0, float((1 + squares.max()) ** -1.5), float((1 + squares.min()) ** -across))

    def hessian_within(self, u: float, p: float) -> HessianRange:
        return HessianRange(0.0, 0.0, (1 + p**2) ** -1.5, 1.0)


class _Differentiated(Lagrangian):
    """An integrand given as a function of tensors, whose derivatives torch takes."""

    degree = None

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def _tensors(self, x: Any, u: Any, p: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
        gradient = torch.from_numpy(np.stack([np.ravel(q) for q in p], axis=1))
        places = torch.from_numpy(np.stack([np.ravel(np.broadcast_to(v, np.shape(u))) for v in x], axis=1))
        return places, torch.from_numpy(np.ravel(u).copy()), gradient

    def _evaluated(self, x: Tensor, u: Tensor, p: Tensor) -> Tensor:
        values = self.function(x, u, p)
        if values.shape != u.shape:
            raise ValueError(f"L returns shape {tuple(values.shape)} for {len(u)} points; it takes one number for each")
        return values

    def rest(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        values = self._evaluated(*self._tensors(x, u, p)).detach().numpy().reshape(np.shape(u))
        return values - 0.5 * np.sum([q**2 for q in p], axis=0)

    def _gradients(self, x: Any, u: Any, p: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        places, values, slopes = self._tensors(x, u, p)
        with torch.enable_grad():
            values.requires_grad_()
            slopes.requires_grad_()
            total = self._evaluated(places, values, slopes).sum()
            found = torch.autograd.grad(total, (values, slopes), allow_unused=True, materialize_grads=True)
        return found[0].numpy(), found[1].numpy()

    def du(self, x: Any, u: Any, p: Sequence[Any]) -> Any:
        return self._gradients(x, u, p)[0].reshape(np.shape(u))

    def dp_rest(self, x: Any, u: Any, p: Sequence[Any]) -> list[Any]:
        found = self._gradients(x, u, p)[1]
        return [found[:, i].reshape(np.shape(u)) - q for i, q in enumerate(p)]

    def hessian(self, x: Any, u: Values, p: Sequence[np.ndarray]) -> HessianRange:
        places, values, slopes = self._tensors(x, u, p)

        def at_point(z: Tensor, place: Tensor) -> Tensor:
            return self.function(place[None], z[:1], z[None, 1:])[0]

        both = torch.cat([values[:, None], slopes], dim=1)
        second = torch.func.vmap(torch.func.hessian(at_point))(both, places)
        mixed = float(second[:, 0, 1:].abs().max())
        if mixed > 1e-10 * float(second.abs().max()):
            raise ValueError(f"L has mixed second derivatives by u and its gradient, up to {mixed:.3g}; it takes none")
        across = torch.linalg.eigvalsh(second[:, 1:, 1:])
        along = second[:, 0, 0]
        return HessianRange(float(along.min()), float(along.max()), float(across.min()), float(across.max()))


def linear(A: Float[np.ndarray, "dim dim"] | None = None, c: float = 0.0) -> Lagrangian:
    """Make ½ pᵀAp + ½ c u²: the energy of a linear equation, -div(A grad u) + c u = f.

    Parameters
    ----------
    A
        Symmetric positive definite matrix. Default: the identity.
    c
        Coefficient of u², at least 0.

    Returns
    -------
    Lagrangian
        The integrand with its derivatives.

    Examples
    --------
    >>> linear(c=2.0).du(None, 3.0, [0.0])
    6.0
    """
    return _Linear(A, c)


def semilinear(c: float = 0.0, gamma: float = 1.0) -> Lagrangian:
    """Make ½ |p|² + ½ c u² + ¼ gamma u⁴: the energy of -Δu + c u + gamma u³ = f.

    Parameters
    ----------
    c
        Coefficient of u², at least 0.
    gamma
        Coefficient of u⁴, at least 0.

    Returns
    -------
    Lagrangian
        The integrand with its derivatives.

    Examples
    --------
    >>> semilinear(gamma=1.0).hessian_within(u=1.5, p=0.0).c_high
    6.75
    """
    return _Semilinear(c, gamma)


def p4(eps: float) -> Lagrangian:
    """Make ½ |p|² + ¼ eps |p|⁴: a quasilinear energy, of -div((1 + eps |grad u|²) grad u) = f.

    Parameters
    ----------
    eps
        Coefficient of the fourth power, at least 0.

    Returns
    -------
    Lagrangian
        The integrand with its derivatives.

    Examples
    --------
    >>> p4(0.1).hessian_within(u=0.0, p=1.0).p_high
    1.3
    """
    return _P4(eps)


def minimal_surface() -> Lagrangian:
    """Make sqrt(1 + |p|²), the area of a graph.

    Returns
    -------
    Lagrangian
        The integrand, which is no polynomial.

    Examples
    --------
    >>> minimal_surface().hessian_within(u=0.0, p=0.0).p_low
    1.0
    """
    return _MinimalSurface()


def as_lagrangian(L: "Lagrangian | Callable[[Tensor, Tensor, Tensor], Tensor]") -> Lagrangian:
    """Return an integrand as it is, or that of a function of tensors."""
    if isinstance(L, Lagrangian):
        return L
    if not callable(L):
        raise TypeError(f"L is {type(L).__name__}; it takes a Lagrangian or a function of x, u and grad u")
    return _Differentiated(L)
