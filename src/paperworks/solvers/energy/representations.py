"""What an iterate is made of – sines, sums of exponentials or values on a grid – with the energy and its gradient."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from paperworks.core.validation import check_count, check_number
from paperworks.solvers.energy.lagrangians import HessianRange
from paperworks.solvers.energy.series import SineSeries, laplace_eigenvalues, of_grid_values, values_on_grid
from paperworks.solvers.energy.sums import TrigSum
from paperworks.solvers.grids import FastPoisson, laplacian

State = TypeVar("State", np.ndarray, TrigSum)


class Space(Generic[State]):
    """A space of iterates, in which a state is an array or a sum."""

    lambda1: float

    def zero(self) -> State:
        """Return the function 0."""
        raise NotImplementedError

    def state(self, u: Any) -> State:
        """Return a given function as a state."""
        raise NotImplementedError

    def function(self, u: State) -> Any:
        """Return a state as what a user gets."""
        raise NotImplementedError

    def gradient(self, u: State) -> tuple[State, HessianRange, float]:
        """Return the derivative of the energy, the range of the Hessian, and a bound of the derivative's error."""
        raise NotImplementedError

    def precondition(self, g: State) -> State:
        """Return (1 - Laplacian)⁻¹ of a derivative."""
        raise NotImplementedError

    def source_norm(self) -> float:
        """Return the norm of the source that `size` of a gradient is compared to."""
        raise NotImplementedError

    def size(self, g: State, d: State) -> float:
        """Return the norm in H¹ of a preconditioned derivative: NaN where it has NaN."""
        raise NotImplementedError

    def moved(self, u: State, d: State, step: float) -> State:
        """Return u - step d."""
        raise NotImplementedError

    def energy(self, u: State) -> float:
        """Return the energy."""
        raise NotImplementedError

    def barron_norm(self, u: State) -> float:
        """Return the bound of the Barron norm."""
        raise NotImplementedError


class SineSpace(Space[np.ndarray]):
    """Sine series with n modes along each axis of the unit cube; products are taken on a finer grid, unaliased."""

    def __init__(self, problem: Any, n_modes: int) -> None:
        self.L, self.dim, self.n = problem.L, problem.dim, check_count("n_modes", n_modes)
        self.f = problem.source(self.n).coefficients
        self.eigenvalues = laplace_eigenvalues(self.n, self.dim)
        self.lambda1 = self.dim * np.pi**2
        # A product of `degree` series of n modes folds back onto the first n from (degree + 1) / 2 (n + 1) points on.
        degree = self.L.degree or 3
        self.m = -(-(degree + 1) * (self.n + 1) // 2)
        nodes = np.arange(self.m + 1) / self.m
        self.x = np.meshgrid(*[nodes] * self.dim, indexing="ij", sparse=True)

    def zero(self) -> np.ndarray:
        return np.zeros((self.n,) * self.dim)

    def state(self, u: Any) -> np.ndarray:
        if not isinstance(u, SineSeries) or u.dim != self.dim:
            raise ValueError(f"start is {u!r}; it takes a SineSeries in {self.dim} dimensions")
        return u.resized(self.n).coefficients.copy()

    def function(self, u: np.ndarray) -> SineSeries:
        return SineSeries(u)

    def _values(self, c: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        u = values_on_grid(c, self.m)
        if not self.L.uses_gradient:
            return u, [np.zeros(1)] * self.dim
        return u, [values_on_grid(self._frequency(axis) * c, self.m, axis) for axis in range(self.dim)]

    def _frequency(self, axis: int) -> np.ndarray:
        return np.pi * np.arange(1, self.n + 1).reshape([-1 if i == axis else 1 for i in range(self.dim)])

    def gradient(self, u: np.ndarray) -> tuple[np.ndarray, HessianRange, float]:
        values, slopes = self._values(u)
        g = self.eigenvalues * u - self.f + of_grid_values(self.L.du(self.x, values, slopes), self.n)
        for axis, flux in enumerate(self.L.dp_rest(self.x, values, slopes)):
            g += self._frequency(axis) * of_grid_values(flux, self.n, axis)  # the divergence of cosines is of sines
        return g, self.L.hessian(self.x, values, slopes), 0.0

    def precondition(self, g: np.ndarray) -> np.ndarray:
        return g / (1 + self.eigenvalues)

    def source_norm(self) -> float:
        return self.size(self.f, self.precondition(self.f))

    def size(self, g: np.ndarray, d: np.ndarray) -> float:
        return float(np.sqrt(max(np.vdot(g, d), 0.0) / 2**self.dim))

    def moved(self, u: np.ndarray, d: np.ndarray, step: float) -> np.ndarray:
        return u - step * d

    def energy(self, u: np.ndarray) -> float:
        rest = self.L.rest(self.x, *self._values(u))
        for _ in range(self.dim):  # the trapezoidal rule, exact for what the grid resolves
            rest = (rest.sum(0) - 0.5 * (rest[0] + rest[-1])) / self.m
        quadratic = (0.5 * self.eigenvalues * u - self.f) * u
        return float(quadratic.sum() / 2**self.dim + rest)

    def barron_norm(self, u: np.ndarray) -> float:
        return float(((1 + np.sqrt(self.eigenvalues)) * np.abs(u)).sum())


class TorusSpace(Space[TrigSum]):
    """Sums of exponentials on the torus, of which the smallest are dropped after each step."""

    def __init__(self, problem: Any, prune: float = 1e-12, most_terms: int | None = None) -> None:
        if not isinstance(problem.f, TrigSum):
            raise ValueError(f"f is {type(problem.f).__name__}; on the torus it takes a TrigSum")
        if problem.L.degree is None:
            raise ValueError("L is no polynomial in u and grad u; on the torus it takes linear, semilinear or p4")
        self.L, self.f, self.lambda1 = problem.L, problem.f, 0.0
        self.tolerance = check_number("prune", prune, ge=0, lt=1)
        self.most_terms = most_terms if most_terms is None else check_count("most_terms", most_terms, at_least=2)

    def zero(self) -> TrigSum:
        return self.state(0.0 * self.f)

    def state(self, u: Any) -> TrigSum:
        if not isinstance(u, TrigSum) or u.dim != self.f.dim:
            raise ValueError(f"start is {u!r}; it takes a TrigSum in {self.f.dim} dimensions")
        found = u.pruned()
        found.slack, found.tolerance = 0.0, self.tolerance
        return found

    def function(self, u: TrigSum) -> TrigSum:
        return u

    def gradient(self, u: TrigSum) -> tuple[TrigSum, HessianRange, float]:
        p = u.grad()
        within = self.L.hessian_within(u.mass, float(np.sqrt(sum(q.mass**2 for q in p))))
        s = self.L.du(None, u, p)
        g, error = s - u.laplacian() - self.f, s.slack
        for axis, flux in enumerate(self.L.dp_rest(None, u, p)):
            g = g - flux.grad()[axis]
            error = np.hypot(error, flux.slack)
        # In the dual of H¹ a divergence is no larger than its field, and that than its largest value.
        return g, within, float(error)

    def precondition(self, g: TrigSum) -> TrigSum:
        return g.precondition()

    def source_norm(self) -> float:
        return self.size(self.f, self.f.precondition())

    def size(self, g: TrigSum, d: TrigSum) -> float:
        return float(np.sqrt(max(g.inner(d), 0.0)))

    def moved(self, u: TrigSum, d: TrigSum, step: float) -> TrigSum:
        new = u - step * d
        new = new.pruned(self.tolerance * new.mass, self.most_terms)
        new.slack, new.tolerance = 0.0, self.tolerance  # an iterate is what was kept
        return new

    def energy(self, u: TrigSum) -> float:
        p = u.grad()
        rest = self.L.rest(None, u, p)
        mean = rest.inner(0.0 * rest + 1.0)
        return 0.5 * sum(q.inner(q) for q in p) + mean - self.f.inner(u)

    def barron_norm(self, u: TrigSum) -> float:
        return u.barron_norm()


class GridSpace(Space[np.ndarray]):
    """Values at the points of a uniform grid that a mask keeps, 0 elsewhere; gradients are forward differences."""

    def __init__(
        self,
        problem: Any,
        mask: np.ndarray,
        spacing: float,
        solve: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.L, self.dim = problem.L, problem.dim
        self.mask = np.asarray(mask, dtype=bool)
        if self.mask.ndim != self.dim or not self.mask.any():
            raise ValueError(
                f"mask has shape {self.mask.shape}; it takes one with a point or more in {self.dim} dimensions"
            )
        self.h = check_number("spacing", spacing, gt=0)
        f = problem.f
        if callable(f) and not isinstance(f, (SineSeries, TrigSum)):
            places = [self.h * np.arange(1, n + 1) for n in self.mask.shape]
            f = np.broadcast_to(f(*np.meshgrid(*places, indexing="ij", sparse=True)), self.mask.shape)
        if not isinstance(f, np.ndarray) or f.shape != self.mask.shape:
            raise ValueError(f"f is {type(f).__name__}; on a grid it takes a function, or values of the mask's shape")
        if np.iscomplexobj(f) or not np.isfinite(f).all():
            raise ValueError("f has complex, NaN or infinite values; it takes finite real ones")
        self.f = np.asarray(f, dtype=float)[self.mask]
        places = [self.h * np.arange(n + 1) for n in self.mask.shape]
        self.x = np.meshgrid(*places, indexing="ij", sparse=True)
        self._inner = (slice(1, None),) * self.dim
        # A box round the domain has a smaller least eigenvalue, so this is a bound.
        self.lambda1 = sum((4 * np.sin(np.pi / (2 * (n + 1))) ** 2 / self.h**2 for n in self.mask.shape), 0.0)
        self.solve = solve or self._solver()

    def _solver(self) -> Callable[[np.ndarray], np.ndarray]:
        if self.mask.all():
            return FastPoisson(self.mask.shape, self.h, shift=1.0).matvec
        kept = np.flatnonzero(self.mask)
        matrix = laplacian(self.mask.shape, self.h)[kept][:, kept] + sparse.eye_array(len(kept))
        return splu(sparse.csc_array(matrix), permc_spec="COLAMD").solve

    def _values(self, u: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return values and forward differences at the points and at those just before them on each axis."""
        padded = np.zeros([n + 2 for n in self.mask.shape])
        padded[(slice(1, -1),) * self.dim][self.mask] = u
        here = padded[(slice(0, -1),) * self.dim]
        ahead = [
            padded[tuple(slice(1, None) if i == axis else slice(0, -1) for i in range(self.dim))]
            for axis in range(self.dim)
        ]
        return here, [(other - here) / self.h for other in ahead]

    def zero(self) -> np.ndarray:
        return np.zeros(len(self.f))

    def state(self, u: Any) -> np.ndarray:
        values = np.asarray(u, dtype=float)
        if values.shape != self.mask.shape or not np.isfinite(values).all():
            raise ValueError(f"start has shape {values.shape}; it takes finite values of the mask's, {self.mask.shape}")
        return values[self.mask]

    def function(self, u: np.ndarray) -> np.ndarray:
        found = np.zeros(self.mask.shape)
        found[self.mask] = u
        return found

    def gradient(self, u: np.ndarray) -> tuple[np.ndarray, HessianRange, float]:
        values, slopes = self._values(u)
        total = np.array(self.L.du(self.x, values, slopes))
        rest = self.L.dp_rest(self.x, values, slopes)
        for axis, slope in enumerate(slopes):
            flux = slope + rest[axis] if rest else slope
            total -= flux / self.h
            behind = tuple(slice(1, None) if i == axis else slice(None) for i in range(self.dim))
            before = tuple(slice(0, -1) if i == axis else slice(None) for i in range(self.dim))
            total[behind] += flux[before] / self.h
        return total[self._inner][self.mask] - self.f, self.L.hessian(self.x, values, slopes), 0.0

    def precondition(self, g: np.ndarray) -> np.ndarray:
        return np.asarray(self.solve(g))

    def source_norm(self) -> float:
        return self.size(self.f, self.precondition(self.f))

    def size(self, g: np.ndarray, d: np.ndarray) -> float:
        return float(np.sqrt(max(np.vdot(g, d), 0.0) * self.h**self.dim))

    def moved(self, u: np.ndarray, d: np.ndarray, step: float) -> np.ndarray:
        return u - step * d

    def energy(self, u: np.ndarray) -> float:
        values, slopes = self._values(u)
        integrand = self.L.rest(self.x, values, slopes) + 0.5 * sum(q**2 for q in slopes)
        return float((integrand.sum() - self.f @ u) * self.h**self.dim)

    def barron_norm(self, u: np.ndarray) -> float:
        return np.nan  # of what is known at points alone


def space_of(problem: Any, representation: str, options: dict[str, Any]) -> "SineSpace | TorusSpace | GridSpace":
    """Return the space that a representation names, with the options that it takes."""
    takes = {
        "sine": {"n_modes"},
        "trig": {"prune", "most_terms"},
        "grid": {"mask", "spacing", "solve"},
    }[representation]
    if strange := sorted(set(options) - takes):
        raise ValueError(
            f"{strange[0]} is given; the representation '{representation}' takes {', '.join(sorted(takes))}"
        )
    needed = {"sine": {"n_modes"}, "grid": {"mask", "spacing"}}.get(representation, set())
    if missing := sorted(needed - set(options)):
        raise ValueError(f"{missing[0]} is missing; the representation '{representation}' takes it")
    return {"sine": SineSpace, "trig": TorusSpace, "grid": GridSpace}[representation](problem, **options)
