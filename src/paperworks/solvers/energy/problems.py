"""The minimisation of an elliptic energy, and problems whose solution is known."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from paperworks.core.validation import check_count
from paperworks.solvers.energy.constants import check_bounds
from paperworks.solvers.energy.lagrangians import Lagrangian, as_lagrangian
from paperworks.solvers.energy.series import SineSeries
from paperworks.solvers.energy.sums import TrigSum

Source = SineSeries | TrigSum | np.ndarray | Callable[..., Any]


class EllipticEnergy:
    """The problem to minimise the integral of L(x, u, grad u) - f u over functions that are 0 at the boundary.

    Its solution fulfils -div(dL/dp) + dL/du = f. On the torus, a function has no boundary.

    Parameters
    ----------
    L
        Integrand: a `Lagrangian` such as `semilinear`, or a function of tensors x (points, dim), u (points,) and grad u
        (points, dim), in float64, that returns one number for each point.
    f
        Source: a `SineSeries` on the unit cube, a `TrigSum` on the torus, a function of d arrays of coordinates, or an
        array of values on a grid.
    dim
        Number of dimensions.
    c_bounds, p_bounds
        Bounds of the second derivative of L by u, and of the eigenvalues of its Hessian by the gradient, on the range
        that the solution and the iterates reach. Default: what the integrand has everywhere, if it is bounded.

    Raises
    ------
    ValueError
        For bounds that aren't positive and in order or are needed and missing, or a source of other dimensions.

    Notes
    -----
    arXiv 2210.12101, with the assumption that the Hessian is between diag(0, lambda) and diag(Lambda, Lambda).

    Examples
    --------
    >>> u = SineSeries(np.array([[1.0]]))
    >>> problem = EllipticEnergy.with_solution(semilinear(), u, c_bounds=(0.0, 3.0))
    >>> problem.dim, problem.f.n_modes
    (2, 3)
    """

    def __init__(
        self,
        L: Lagrangian | Callable[[Tensor, Tensor, Tensor], Tensor],
        f: Source,
        dim: int,
        c_bounds: tuple[float, float] | None = None,
        p_bounds: tuple[float, float] | None = None,
    ) -> None:
        self.L, self.dim = as_lagrangian(L), check_count("dim", dim)
        if isinstance(f, (SineSeries, TrigSum)) and f.dim != dim:
            raise ValueError(f"f has {f.dim} dimensions; it takes {dim}")
        if isinstance(f, np.ndarray) and (f.ndim != dim or np.iscomplexobj(f) or not np.isfinite(f).all()):
            raise ValueError(f"f has shape {f.shape}; it takes finite real values on a grid of {dim} dimensions")
        self.f = f
        self.c_bounds, self.p_bounds = check_bounds(*self._bounds(c_bounds, p_bounds))

    @classmethod
    def with_solution(
        cls,
        L: Lagrangian | Callable[[Tensor, Tensor, Tensor], Tensor],
        u: SineSeries | TrigSum,
        c_bounds: tuple[float, float] | None = None,
        p_bounds: tuple[float, float] | None = None,
    ) -> "EllipticEnergy":
        """Make the problem whose solution is a given function.

        Parameters
        ----------
        L
            Integrand, as in the constructor: a polynomial, which in sines doesn't mix the axes. Others have a source
            of infinitely many terms; give it to the constructor as a function.
        u
            The solution that it is to have.
        c_bounds, p_bounds
            Bounds of the Hessian of the integrand, as in the constructor.

        Returns
        -------
        EllipticEnergy
            The problem, with an exact source.

        Raises
        ------
        ValueError
            For an integrand whose source has infinitely many terms, or bounds as in the constructor.
        """
        from paperworks.solvers.energy.representations import SineSpace, TorusSpace

        if isinstance(u, TrigSum):
            zero: SineSeries | TrigSum = 0.0 * u
            problem = cls(L, zero, u.dim, c_bounds, p_bounds)
            source: SineSeries | TrigSum = TorusSpace(problem).gradient(u)[0]
        else:
            L = as_lagrangian(L)
            if L.degree is None or L.mixes_axes:
                raise ValueError(
                    "L is no polynomial, or mixes the axes, so that its source has infinitely many modes; give the"
                    " source to the constructor as a function"
                )
            wide = u.resized(L.degree * u.n_modes)
            problem = cls(L, 0.0 * wide, u.dim, c_bounds, p_bounds)
            source = SineSeries(SineSpace(problem, wide.n_modes).gradient(wide.coefficients)[0])
        problem.f = source
        return problem

    def source(self, n_modes: int) -> SineSeries:
        """Return the source as a sine series.

        Parameters
        ----------
        n_modes
            Number of modes along each axis.

        Returns
        -------
        SineSeries
            The source, interpolated where it is a function.

        Raises
        ------
        ValueError
            For a source on the torus, or one with modes beyond.
        """
        if isinstance(self.f, SineSeries):
            return self.f.resized(n_modes)
        if not callable(self.f) or isinstance(self.f, TrigSum):
            raise ValueError(f"f is {type(self.f).__name__}; in sines it takes a SineSeries or a function")
        found = SineSeries.interpolating(self.f, self.dim, n_modes)
        outer = (
            np.abs(found.coefficients).sum() - np.abs(found.coefficients[(slice(0, n_modes // 2),) * self.dim]).sum()
        )
        if outer > 1e-3 * found.mass:
            warnings.warn(
                f"f has {outer / found.mass:.1%} of its coefficients in the upper half of {n_modes} modes, as where it"
                " isn't 0 at the boundary; Barron norms are of the truncated series and grow with n_modes",
                RuntimeWarning,
                stacklevel=3,
            )
        return found

    def _bounds(self, c_bounds: Any, p_bounds: Any) -> tuple[Any, Any]:
        if c_bounds is None or p_bounds is None:
            try:
                known = self.L.hessian_within(np.inf, np.inf)
            except ValueError:
                known = None
            if c_bounds is None:
                c_bounds = (known.c_low, known.c_high) if known else (np.nan, np.nan)
            if p_bounds is None:
                p_bounds = (known.p_low, known.p_high) if known else (np.nan, np.nan)
        for name, bounds in (("c_bounds", c_bounds), ("p_bounds", p_bounds)):
            if not np.isfinite(bounds).all():
                raise ValueError(
                    f"{name} is missing and L has none everywhere; it takes two numbers that hold on the range of the"
                    " solution, such as those of hessian_within"
                )
        return c_bounds, p_bounds
