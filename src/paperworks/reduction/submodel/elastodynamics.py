"""Linear elastodynamics on a basis of scikit-fem: many right-hand sides march together on one factorisation."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.sparse.linalg import eigsh, splu

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.reduction.submodel.inputs import Inputs, Values, checked_dofs

SCHEMES = ("newmark", "central")
_DENSE = 700  # unknowns up to which a dense inverse is faster than triangular solves
_KEPT = 4  # factorisations that are kept, as each may take megabytes and uncertain moduli ask for thousands


class State(NamedTuple):
    """Displacements, velocities and accelerations at a step, one column for each right-hand side.

    Examples
    --------
    >>> State(0, 0.0, *np.zeros((3, 5, 2))).u.shape
    (5, 2)
    """

    step: int
    """The number of the step, 0 at the beginning."""
    t: float
    """The time of the step."""
    u: Float[np.ndarray, "dofs batch"]
    """Displacements at the degrees of freedom."""
    v: Float[np.ndarray, "dofs batch"]
    """Velocities at the degrees of freedom."""
    a: Float[np.ndarray, "dofs batch"]
    """Accelerations at the degrees of freedom."""


def load_skfem() -> Any:
    """Import scikit-fem, or say what installs it."""
    try:
        import skfem
    except ImportError:
        raise ImportError(
            "elastodynamics is built on scikit-fem; `pip install 'paperworks[mechanics]'` installs it"
        ) from None
    return skfem


class Elastodynamics:
    r"""Waves in a linear elastic body, :math:`\rho\ddot u + c(\dot u) = \operatorname{div}\sigma(u) + f`.

    With :math:`\sigma = \lambda\operatorname{tr}(\varepsilon) I + 2\mu\varepsilon`, plane strain in 2-D; in 1-D a bar
    of modulus :math:`\lambda + 2\mu`. Matrices are fixed, so all samples of loads and boundary values march as columns
    of one right-hand side.

    Parameters
    ----------
    basis
        A basis of scikit-fem with an ElementVector, of all elements of its mesh.
    lam, mu
        Lamé's parameters, a number or one for each element.
    rho
        The density, a number or one for each element.
    damping
        Rayleigh's (a, b): the damping matrix is a M + b K; none by default.
    scheme
        ``"newmark"``, the default: implicit, with :math:`\beta = 1/4, \gamma = 1/2` and the consistent mass.
        ``"central"``: explicit central differences with a lumped mass (each element's diagonal, scaled to its mass),
        stable for steps up to `critical_dt`; 0.9 h / c with the speed of compression waves c is a usual choice.
    hht
        Hilber, Hughes and Taylor's parameter from -1/3 to 0, which damps high frequencies of the implicit scheme; 0,
        the default, damps none.
    fixed
        Degrees of freedom that are held at zero; None, the default, for none.

    Attributes
    ----------
    stiffness, mass : scipy.sparse.csr_array
        The matrices K and M, M with the scheme's mass.

    Raises
    ------
    ImportError
        Where scikit-fem isn't installed.
    TypeError, ValueError
        For another kind of basis, or parameters that are not positive.

    References
    ----------
    Boukraichi et al., arXiv:2110.13680, 2021, the full problem.

    Examples
    --------
    >>> import skfem
    >>> mesh = skfem.MeshLine(np.linspace(0, 1, 11))
    >>> bar = Elastodynamics(skfem.Basis(mesh, skfem.ElementVector(skfem.ElementLineP1())), 1.0, 0.0, 1.0, fixed=[10])
    >>> u = bar.solve(([0], lambda t: np.array([t])), dt=0.01, steps=20)
    >>> u.shape, round(float(u[-1, 0]), 6)
    ((21, 11), 0.2)
    """

    def __init__(
        self,
        basis: Any,
        lam: ArrayLike,
        mu: ArrayLike,
        rho: ArrayLike,
        damping: tuple[float, float] = (0.0, 0.0),
        scheme: str = "newmark",
        hht: float = 0.0,
        fixed: ArrayLike | None = None,
    ) -> None:
        skfem = load_skfem()
        if not isinstance(basis, skfem.CellBasis) or basis.nelems != basis.mesh.nelements:
            raise TypeError(f"basis is {type(basis).__name__}; it takes a skfem.Basis of all of the mesh's elements")
        if not isinstance(basis.elem, skfem.ElementVector):
            raise TypeError(f"basis has the element {type(basis.elem).__name__}; it takes an ElementVector")
        self.basis, self.n_dofs, self.dim = basis, int(basis.N), int(basis.mesh.dim())
        if unused := self.n_dofs - len(np.unique(basis.element_dofs)):
            raise ValueError(
                f"basis has {unused} degrees of freedom of no element, as files of meshes may have nodes of none; "
                "it takes a mesh without, which mesh.remove_unused_nodes() gives"
            )
        self.lam, self.mu, self.rho = (
            self._material(name, value, ge) for name, value, ge in (("lam", lam, 0), ("mu", mu, 0), ("rho", rho, None))
        )
        if not (self.lam + 2 * self.mu > 0).all():
            raise ValueError("lam + 2 mu has elements that are 0; it takes a positive stiffness")
        if np.shape(damping) != (2,):
            raise ValueError(f"damping is {damping!r}; it takes two numbers, of mass and of stiffness")
        self.damping = (check_number("damping", damping[0], ge=0), check_number("damping", damping[1], ge=0))
        self.scheme = check_choice("scheme", scheme, SCHEMES)
        self.hht = check_number("hht", hht, ge=-1 / 3, le=0)
        if self.hht and scheme != "newmark":
            raise ValueError(f"hht is {hht} with the scheme {scheme!r}; it takes 0 there")
        self.fixed = checked_dofs("fixed", [] if fixed is None else fixed, self.n_dofs)
        from skfem.helpers import ddot, div, dot, sym_grad

        unit = [
            skfem.BilinearForm(form).elemental(basis).tolocal()
            for form in (
                lambda u, v, _: div(u) * div(v),
                lambda u, v, _: 2 * ddot(sym_grad(u), sym_grad(v)),
                lambda u, v, _: dot(u, v),
            )
        ]
        self.stiffness = self._assemble(self.lam[:, None, None] * unit[0] + self.mu[:, None, None] * unit[1])
        masses = self.rho[:, None, None] * unit[2]
        if scheme == "central":
            diagonal, total = np.einsum("eii->ei", masses), self.rho * self.dim * basis.dx.sum(1)
            if not np.allclose(masses.sum((1, 2)), total, rtol=1e-6, atol=0):
                raise ValueError(
                    f"basis has the element {type(basis.elem.elem).__name__}, whose functions do not add up to 1, so "
                    "that its mass can't be lumped; the scheme 'newmark' takes it"
                )
            lumped = diagonal * (total / diagonal.sum(1))[:, None]
            self._lumped = np.bincount(basis.element_dofs.T.ravel(), lumped.ravel(), self.n_dofs)
            self.mass = sp.csr_array(sp.diags_array(self._lumped))
        else:
            self.mass = self._assemble(masses)
        self._factors: dict[Any, Any] = {}
        self._frequencies: dict[bytes, float] = {}
        self._gradients: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_factors": {}}  # which are made again where they are needed

    def _material(self, name: str, value: Any, ge: float | None) -> np.ndarray:
        values = np.asarray(value, dtype=float)
        if values.shape not in ((), (self.basis.nelems,)):
            raise ValueError(f"{name} has shape {values.shape}; it takes a number, or ({self.basis.nelems},) elements")
        bad = ~np.isfinite(values) | (values < 0 if ge is not None else values <= 0)
        if bad.any():
            sign = ">= 0" if ge is not None else "> 0"
            raise ValueError(f"{name} is {values[bad].flat[0] if values.ndim else value}; it takes numbers {sign}")
        return np.broadcast_to(values, self.basis.nelems)

    def _assemble(self, local: np.ndarray) -> Any:
        dofs = self.basis.element_dofs.T
        rows, columns = np.repeat(dofs, dofs.shape[1], 1).ravel(), np.tile(dofs, dofs.shape[1]).ravel()
        return sp.csr_array(sp.coo_array((local.ravel(), (rows, columns)), (self.n_dofs,) * 2))

    @property
    def critical_dt(self) -> float:
        r"""The longest stable step of the explicit scheme, from the highest frequency of the free body."""
        return self._critical(np.setdiff1d(np.arange(self.n_dofs), self.fixed), 1.0)

    def _critical(self, free: np.ndarray, factor: float) -> float:
        if self.scheme != "central":
            return float("inf")
        key = free.tobytes()
        if key not in self._frequencies:
            root = sp.diags_array(1 / np.sqrt(self._lumped[free]))
            scaled = root @ self.stiffness[free][:, free] @ root
            if len(free) < 10:
                highest = float(np.linalg.eigvalsh(scaled.toarray())[-1])
            else:
                start = np.random.default_rng(0).normal(size=len(free))
                highest = float(eigsh(scaled, 1, which="LA", tol=1e-5, v0=start, return_eigenvectors=False)[0])
            self._frequencies[key] = float(np.sqrt(highest))
        frequency = self._frequencies[key] * np.sqrt(factor)
        share = self.damping[1] * frequency / 2
        return float(0.9999 * 2 / frequency * (np.sqrt(1 + share**2) - share))

    def solve(
        self,
        dirichlet: tuple[ArrayLike, Values] | None = None,
        f: Values | None = None,
        *,
        dt: float,
        steps: int,
        batch_size: int | None = None,
        stiffness: ArrayLike | None = None,
        initial: tuple[ArrayLike, ArrayLike] | None = None,
        observe: Callable[[State], np.ndarray] | None = None,
    ) -> Float[np.ndarray, "times ..."]:
        r"""March through time.

        Parameters
        ----------
        dirichlet
            Degrees of freedom and their displacements: a function of time that returns (k,) or (k, batch), or an array
            (steps + 1, k) or (steps + 1, k, batch) with the first row at t = 0. None, the default, for none.
        f
            Forces at all degrees of freedom, as a function or an array in the same form; None, the default, for none.
        dt
            The step of time.
        steps
            How many steps are taken.
        batch_size
            Right-hand sides that march at once; None, the default, takes all.
        stiffness
            Factors by which the stiffness is multiplied in each right-hand side, as for uncertain moduli; the implicit
            scheme factorises once for each different one. None, the default, is 1.
        initial
            Displacements and velocities at t = 0, (dofs,) or (dofs, batch); None, the default, is rest.
        observe
            ``observe(state)`` returns what is kept of a step; None, the default, keeps all displacements.

        Returns
        -------
        np.ndarray
            Displacements (steps + 1, dofs) or (steps + 1, dofs, batch), or what `observe` returned, stacked over the
            steps; where a batch is cut, columns are joined along the last axis.

        Raises
        ------
        ValueError
            Where `dt` is above the critical one of the explicit scheme, or shapes don't fit.
        """
        inputs = self._inputs(dirichlet, f, dt, steps, initial)
        factors = inputs.factors(stiffness)
        size = inputs.batch if batch_size is None else check_count("batch_size", batch_size)
        keep = observe if observe is not None else _displacements
        parts, order = [], []
        for factor, columns in self._groups(factors, size):
            parts.append(np.stack([keep(state) for state in self._march(inputs, columns, factor)]))
            order.append(columns)
            if not inputs.flat and parts[-1].shape[1:][-1:] != (len(columns),):
                raise ValueError(
                    f"observe returns shape {parts[-1].shape[1:]}; it takes a function to (..., {len(columns)}), the "
                    "columns last"
                )
        if inputs.flat:
            found = parts[0]
            return found[..., 0] if found.ndim > 1 and found.shape[-1] == 1 else found
        joined = np.concatenate(parts, -1)
        back = np.argsort(np.concatenate(order))
        return joined if np.array_equal(back, np.arange(len(back))) else joined[..., back]

    def march(
        self,
        dirichlet: tuple[ArrayLike, Values] | None = None,
        f: Values | None = None,
        *,
        dt: float,
        steps: int,
        stiffness: ArrayLike | None = None,
        initial: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> Iterator[State]:
        """Go through the states at t = 0, dt, ..., without keeping any.

        Parameters
        ----------
        dirichlet, f, dt, steps, initial
            As in `solve`.
        stiffness
            One factor, or with the explicit scheme one for each right-hand side; None, the default, is 1.

        Yields
        ------
        iterator of State
            `steps` + 1 of them; their arrays are (dofs, batch) and belong to the caller until the next one.
        """
        inputs = self._inputs(dirichlet, f, dt, steps, initial)
        factors = inputs.factors(stiffness)
        if self.scheme == "newmark" and len(np.unique(factors)) > 1:
            raise ValueError(
                f"stiffness has {len(np.unique(factors))} different factors; `solve` takes them one by one"
            )
        factor = factors if self.scheme == "central" else factors[0]
        yield from self._march(inputs, np.arange(inputs.batch), factor)

    def _inputs(self, dirichlet: Any, f: Any, dt: Any, steps: Any, initial: Any) -> Inputs:
        checked = check_number("dt", dt, gt=0), check_count("steps", steps)
        return Inputs(self.n_dofs, self.fixed, dirichlet, f, *checked, initial)

    def _groups(self, factors: np.ndarray, size: int) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield columns that march together, and the factor, or factors, of their stiffness."""
        values = [None] if self.scheme == "central" else np.unique(factors)
        for value in values:
            columns = np.arange(len(factors)) if value is None else np.flatnonzero(factors == value)
            for start in range(0, len(columns), size):
                part = columns[start : start + size]
                yield (factors[part] if value is None else value), part

    def _march(self, inputs: Inputs, columns: np.ndarray, factor: Any) -> Iterator[State]:
        return (self._explicit if self.scheme == "central" else self._implicit)(inputs, columns, factor)

    def _explicit(self, inputs: Inputs, columns: np.ndarray, factor: np.ndarray) -> Iterator[State]:
        dt, (a, b) = inputs.dt, self.damping
        free, held = inputs.free, inputs.held
        critical = self._critical(free, float(factor.max()))
        if dt > critical:
            raise ValueError(
                f"dt is {dt:g}, above the critical {critical:g} of the explicit scheme; take a smaller one"
            )
        u, half = inputs.start(columns)
        u[held] = inputs.values(0, columns)
        one = bool((factor == 1).all())
        K = self.stiffness[free]
        inverse = 1 / self._lumped[free, None]
        acceleration = np.zeros_like(u)
        for step in range(inputs.steps + 1):
            force = -(K @ (u + b * half if b else u))
            if not one:
                force *= factor
            load = inputs.force(step, columns)
            if load is not None:
                force += load[free]
            force *= inverse
            before, half = half, half.copy()
            if step == 0:
                force -= a * half[free]
                half[free] += dt / 2 * force
            else:
                half[free] = ((1 - a * dt / 2) * half[free] + dt * force) / (1 + a * dt / 2)
            if step < inputs.steps:
                moved = inputs.values(step + 1, columns)
                half[held] = (moved - u[held]) / dt
            else:  # what follows the last step is not known: as if the acceleration went on
                half[held] += dt * acceleration[held]
            # Held degrees of freedom have the differences of free ones, as the same nodes have in the whole.
            acceleration = (half - before) / (dt if step else dt / 2)
            velocity = (half + before) / 2 if step else before.copy()
            yield State(step, step * dt, u, velocity, acceleration)
            if step < inputs.steps:
                u = u + dt * half
                u[held] = moved

    def _implicit(self, inputs: Inputs, columns: np.ndarray, factor: float) -> Iterator[State]:
        dt, (a, b), alpha = inputs.dt, self.damping, self.hht
        beta, gamma = (1 - alpha) ** 2 / 4, 0.5 - alpha
        free, held = inputs.free, inputs.held
        K, M = (self.stiffness * factor if factor != 1 else self.stiffness), self.mass

        def inner(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            """Return the free part of C v + K u."""
            force: np.ndarray = K_free @ (u + b * v if b else u)
            return force + a * (M_free @ v) if a else force

        key = (free.tobytes(), dt, factor)
        if key not in self._factors:
            A = M + (1 + alpha) * (gamma * dt * (a * M + b * K) + beta * dt**2 * K)
            rows = sp.csr_array(A[free])
            solved = _factorised(rows[:, free])
            while len(self._factors) >= _KEPT:
                del self._factors[next(iter(self._factors))]
            self._factors[key] = (solved, sp.csr_array(rows[:, held]), sp.csr_array(K[free]), sp.csr_array(M[free]))
        solve, coupling, K_free, M_free = self._factors[key]
        u, v = inputs.start(columns)
        u[held] = inputs.values(0, columns)
        acceleration = np.zeros_like(u)
        load = inputs.force(0, columns)
        residual = -inner(u, v) + (0 if load is None else load[free])
        if np.any(residual):
            acceleration[free] = splu(sp.csc_array(M_free[:, free])).solve(residual)
        old = inner(u, v)
        for step in range(inputs.steps + 1):
            yield State(step, step * dt, u, v, acceleration)
            if step == inputs.steps:
                return
            u = u + dt * v + dt**2 * (0.5 - beta) * acceleration
            v = v + dt * (1 - gamma) * acceleration
            moved = inputs.values(step + 1, columns)
            acceleration = np.zeros_like(u)
            acceleration[held] = (moved - u[held]) / (beta * dt**2)
            rhs = -(1 + alpha) * inner(u, v) - coupling @ acceleration[held]
            if alpha:
                rhs += alpha * old
            following = inputs.force(step + 1, columns)
            for share, force in ((1 + alpha, following), (-alpha, load)):
                if force is not None and share:
                    rhs += share * force[free]
            load = following
            acceleration[free] = solve(rhs)
            u += beta * dt**2 * acceleration
            v += gamma * dt * acceleration
            u[held] = moved
            if alpha:
                old = inner(u, v)

    def forces(self, state: State) -> Float[np.ndarray, "dofs batch"]:
        """Return M a + C v + K u at a `state`: at held degrees of freedom the reactions, without external forces.

        Returns
        -------
        np.ndarray
            Forces, one column for each right-hand side.
        """
        a, b = self.damping
        return np.asarray(self.mass @ (state.a + a * state.v) + self.stiffness @ (state.u + b * state.v))

    def energy(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the elastic energy of displacements `u` and the kinetic one of velocities `v`, together.

        Returns
        -------
        np.ndarray
            One number for each column.
        """
        return np.asarray(((u * (self.stiffness @ u)).sum(0) + (v * (self.mass @ v)).sum(0)) / 2)

    def von_mises(self, u: Float[np.ndarray, "dofs ..."]) -> Float[np.ndarray, "elements ..."]:
        """Return von Mises' equivalent stress of displacements `u` in the elements' middles; the absolute one in 1-D.

        Returns
        -------
        np.ndarray
            One row for each element.
        """
        strain = self._strains @ u.reshape(self.n_dofs, -1)
        eps = strain.reshape(self.dim, self.dim, self.basis.nelems, -1)
        lam, mu = self.lam[:, None], self.mu[:, None]
        trace = np.einsum("iiec->ec", eps)
        if self.dim == 1:
            return np.abs((lam + 2 * mu) * trace).reshape(-1, *u.shape[1:])
        sigma = mu * (eps + eps.transpose(1, 0, 2, 3))
        for i in range(self.dim):
            sigma[i, i] += lam * trace
        across = lam * trace if self.dim == 2 else 0.0  # the normal stress that keeps the strain plane
        pressure = np.einsum("iiec->ec", sigma) + across
        deviator = (sigma**2).sum((0, 1)) + across**2 - pressure**2 / 3
        return np.sqrt(np.maximum(1.5 * deviator, 0)).reshape(-1, *u.shape[1:])

    @property
    def _strains(self) -> Any:
        """The matrix of displacement gradients in the elements' middles, rows (i, j, element)."""
        if self._gradients is None:
            skfem = load_skfem()
            middle = skfem.Basis(self.basis.mesh, self.basis.elem, intorder=1)
            rows, columns, values = [], [], []
            n = self.basis.nelems
            for k, (field, *_) in enumerate(middle.basis):
                grad = np.broadcast_to(field.grad, (self.dim, self.dim, *middle.dx.shape)).mean(-1)
                for i in range(self.dim):
                    for j in range(self.dim):
                        rows.append((i * self.dim + j) * n + np.arange(n))
                        columns.append(self.basis.element_dofs[k])
                        values.append(grad[i, j])
            shape = (self.dim**2 * n, self.n_dofs)
            parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
            self._gradients = sp.csr_array(sp.coo_array(parts, shape))
        return self._gradients


def _displacements(state: State) -> np.ndarray:
    return state.u


def _factorised(A: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return what solves with a matrix: its inverse where it is small, as products of dense matrices are fast."""
    if A.shape[0] <= _DENSE:
        inverse = np.linalg.inv(A.toarray())
        return lambda rhs: inverse @ rhs
    solve: Callable[[np.ndarray], np.ndarray] = splu(sp.csc_array(A)).solve
    return solve
