"""The full model of a part that creeps: finite elements, loads, supports, and what its solution holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.core.validation import check_count, check_number
from paperworks.reduction.hyperreduction.elements import SQRT2, FiniteElements, as_basis
from paperworks.reduction.hyperreduction.equilibrium import Equilibrium, MechanicalState
from paperworks.reduction.hyperreduction.loads import LoadPath, Loads
from paperworks.reduction.hyperreduction.material import ElastoViscoPlastic, MaterialState

FIELDS = ("u", "sigma", "eps_p", "a", "p")


@dataclass(frozen=True)
class Trajectory:
    """What a part did under loads: all fields at all times; tensors in Mandel's notation at the integration points.

    Examples
    --------
    >>> still = Trajectory(Loads(), np.zeros(1), np.zeros((1, 8)), *(np.zeros((1, 3, 4)),) * 3, np.zeros((1, 3)))
    >>> still.field("sigma_xy").shape
    (1, 3)
    """

    loads: Loads
    """The loads that it answers."""
    times: Float[np.ndarray, " times"]
    """The times, the first of the virgin part."""
    u: Float[np.ndarray, "times dofs"]
    """Displacements at the degrees of freedom."""
    sigma: Float[np.ndarray, "times points c"]
    """The stress at the integration points."""
    eps_p: Float[np.ndarray, "times points c"]
    """The viscoplastic strain."""
    a: Float[np.ndarray, "times points c"]
    """The strain of kinematic hardening."""
    p: Float[np.ndarray, "times points"]
    """The accumulated viscoplastic strain."""

    @classmethod
    def of_states(cls, loads: Loads, states: Sequence[MechanicalState]) -> "Trajectory":
        """Return the trajectory of some `states` under `loads`.

        Returns
        -------
        Trajectory
            All fields, stacked over the times.
        """
        stack = [np.stack([getattr(s, name) for s in states]) for name in ("t", "u", "sigma")]
        stack += [np.stack([getattr(s.material, name) for s in states]) for name in ("eps_p", "a", "p")]
        return cls(loads, *stack)

    def field(self, name: str) -> np.ndarray:
        """Return a field by its `name`, or one component of a tensor, such as "sigma_xx".

        Returns
        -------
        np.ndarray
            The field at all times; shears of a component without the root of 2.

        Raises
        ------
        ValueError
            Where there is no field of the name.
        """
        return field_of(self, name)

    def state(self, k: int) -> MechanicalState:
        """Return the state at the time of index `k`, from which a model can go on.

        Returns
        -------
        MechanicalState
            Time, displacements, stress and material.
        """
        material = MaterialState(self.eps_p[k], self.a[k], self.p[k])
        return MechanicalState(float(self.times[k]), self.u[k], self.sigma[k], material)


def field_of(holder: Any, name: str) -> np.ndarray:
    """Return a field of a trajectory or state by its name, or a component of one."""
    if name in FIELDS:
        return np.asarray(getattr(holder, name))
    base, _, component = name.rpartition("_")
    names = ("xx", "yy", "zz", "xy", "xz", "yz")
    if base in ("sigma", "eps_p", "a") and component in names:
        tensor, k = getattr(holder, base), names.index(component)
        if k < tensor.shape[-1]:
            return np.asarray(tensor[..., k] / (1 if k < 3 else SQRT2))
    raise ValueError(f"name is {name!r}; it takes one of {', '.join(FIELDS)}, or a component such as 'sigma_xx'")


class MechanicalProblem(Equilibrium):
    r"""The full model: find u(t) with :math:`\int \sigma(\varepsilon(u)) : \varepsilon(v) = F(v)` for all v.

    Small strains, quasi-static, plane strain in 2-D. Newton's method with the consistent tangent and a direct solver;
    where it fails the step is halved, up to four times. At the first time the part is virgin, stress-free and has not
    moved.

    Parameters
    ----------
    mesh
        A mesh of scikit-fem or meshio, the name of a file that meshio reads (Gmsh, VTK, ...), or a basis of
        scikit-fem's vector elements, which also sets order and quadrature.
    material
        The law at each integration point.
    loads
        What acts on it.
    fixed
        For each boundary that is held, by its name in the mesh, the components: "x", "xy", "z", ...
    rtol
        Newton's method ends at this residual, relative to the largest load of all times, mechanical or thermal; 1e-6,
        the default, is the strictest that the paper uses.
    steps
        The most steps of Newton's method before the step of time is halved; 20 by default.

    Attributes
    ----------
    elements : FiniteElements
        Matrices of the mesh: strain, weights, free unknowns.
    newton_steps : int
        Linear systems that were solved since the problem was made.

    Raises
    ------
    ImportError
        Where scikit-fem isn't installed.
    TypeError, ValueError
        Where a mesh has no such boundary, or loads and mesh do not fit.

    References
    ----------
    Casenave and Akkari, doi 10.3390/mca24020041, 2019, section 2.

    Examples
    --------
    >>> import skfem
    >>> bar = skfem.MeshQuad().with_defaults()
    >>> loads = Loads(pressure={"right": ([0, 1], [0, -100.0])})
    >>> problem = MechanicalProblem(bar, ElastoViscoPlastic(), loads, {"left": "x", "bottom": "y"})
    >>> problem.solve([0, 0.5, 1]).sigma[:, 0, 0].round(6)
    array([  0.,  50., 100.])
    """

    def __init__(
        self,
        mesh: Any,
        material: ElastoViscoPlastic,
        loads: Loads,
        fixed: Mapping[str, str],
        rtol: float = 1e-6,
        steps: int = 20,
    ) -> None:
        if not isinstance(material, ElastoViscoPlastic):
            raise TypeError(f"material is {type(material).__name__}; it takes an ElastoViscoPlastic")
        self.elements = FiniteElements(as_basis(mesh), fixed)
        n_components = len(self.elements.components)
        super().__init__(material, check_number("rtol", rtol, gt=0, lt=1), check_count("steps", steps), n_components)
        self.newton_steps = 0
        self._unit_forces: dict[Any, np.ndarray] = {}
        self.loads = loads
        self.path = self.load_path(loads)

    def with_loads(self, loads: Loads) -> "MechanicalProblem":
        """Return the same part under other `loads`; mesh and matrices are shared.

        Returns
        -------
        MechanicalProblem
            A problem that counts its own steps.
        """
        other = object.__new__(MechanicalProblem)
        other.__dict__.update(self.__dict__)
        other.newton_steps, other.loads, other.path = 0, loads, self.load_path(loads)
        return other

    def load_path(self, loads: Loads) -> LoadPath:
        """Return `loads` at the integration points and degrees of freedom of this part.

        Returns
        -------
        LoadPath
            What the steps of this model ask for.
        """
        if not isinstance(loads, Loads):
            raise TypeError(f"loads is {type(loads).__name__}; it takes Loads")
        times, fields = loads.fields(self.elements.n_nodes)
        temperatures = np.asarray((self.elements.interpolation @ fields.T).T)
        return self.scaled_path(loads, times, temperatures, self.unit_forces(loads))

    def unit_forces(self, loads: Loads) -> Float[np.ndarray, "loads dofs"]:
        """Return the vectors of the unit loads that `Loads.factors` multiplies.

        Parameters
        ----------
        loads
            The loads that name boundaries and axis.

        Returns
        -------
        np.ndarray
            One row a pressure, and one for the rotation; 0 where displacements are given.
        """
        keys: list[Any] = list(loads.pressure)
        if loads.speed is not None:
            keys.append(tuple(None if x is None else tuple(x) for x in (loads.centre, loads.axis)))
        for key in keys:
            if key not in self._unit_forces:
                vector = (
                    self.elements.pressure(key)
                    if isinstance(key, str)
                    else self.elements.rotation(loads.centre, loads.axis, self.material.density)
                )
                self._unit_forces[key] = self._only_free(vector)
        return np.array([self._unit_forces[key] for key in keys]).reshape(len(keys), self.elements.n_dofs)

    def initial(self, t: float) -> MechanicalState:
        """Return the virgin part at time `t`.

        Returns
        -------
        MechanicalState
            No displacement, no stress, no flow.
        """
        n, c = self.elements.n_points, self.n_components
        return MechanicalState(float(t), np.zeros(self.elements.n_dofs), np.zeros((n, c)), MaterialState.virgin(n, c))

    def step(self, state: MechanicalState, t: float) -> MechanicalState:
        """Go from a state to equilibrium at a later time.

        Parameters
        ----------
        state
            Where the step begins, as `initial`, `Trajectory.state` or an earlier step return it.
        t
            The time at its end.

        Returns
        -------
        MechanicalState
            The state in equilibrium with the loads at `t`.

        Raises
        ------
        ConvergenceError
            Where Newton's method fails even in a sixteenth of the step.
        """
        check_number("t", t, gt=state.t)
        return self.advance(state, self.path, float(t))

    def solve(self, times: ArrayLike, callback: Callable[[MechanicalState], None] | None = None) -> Trajectory:
        """Follow the part through the loads.

        Parameters
        ----------
        times
            Rising times; at the first the part is virgin.
        callback
            Called with each state after its step; None, the default, calls nothing.

        Returns
        -------
        Trajectory
            All fields at the times.

        Raises
        ------
        ValueError
            Where times do not rise.
        ConvergenceError
            As in `step`.
        """
        at = check_times(times)
        states = [self.initial(at[0])]
        for t in at[1:]:
            states.append(self.step(states[-1], t))
            if callback is not None:
                callback(states[-1])
        return Trajectory.of_states(self.loads, states)

    def norm(self, values: np.ndarray) -> np.ndarray | np.float64:
        """Return the L2 norm of a field at the integration points, or at the degrees of freedom, for each time.

        Parameters
        ----------
        values
            A field as `Trajectory.field` returns it: (..., points), (..., points, c) or (..., dofs).

        Returns
        -------
        np.ndarray
            The norm over the part, without the axes of points and components.
        """
        n, shape = self.elements.n_points, np.shape(values)
        if not shape or (shape[-1] not in (n, self.elements.n_dofs) and (shape[-2:-1] != (n,))):
            raise ValueError(
                f"values has shape {shape}; it takes a last axis of {n} points or {self.elements.n_dofs} unknowns, or "
                "the components of a tensor after that of the points"
            )
        if values.shape[-1] == n:
            return np.asarray(np.sqrt(values**2 @ self.elements.weights))
        if values.ndim > 1 and values.shape[-2] == n:
            return np.asarray(np.sqrt((values**2).sum(-1) @ self.elements.weights))
        at_points = np.asarray((self.elements.values @ values.reshape(-1, values.shape[-1]).T).T)
        return self.norm(at_points.reshape(*values.shape[:-1], n, self.elements.dim))

    def check_trajectory(self, trajectory: Trajectory) -> None:
        """Refuse a trajectory whose fields do not fit this part.

        Parameters
        ----------
        trajectory
            A solution of this problem, under any loads.

        Raises
        ------
        TypeError, ValueError
            Where it is none, or of another mesh, or its fields have different numbers of times.
        """
        if not isinstance(trajectory, Trajectory):
            raise TypeError(f"trajectory is {type(trajectory).__name__}; it takes a Trajectory")
        n, tensor = self.elements.n_points, (self.elements.n_points, self.n_components)
        wanted = {"u": (self.elements.n_dofs,), "sigma": tensor, "eps_p": tensor, "a": tensor, "p": (n,)}
        for name, shape in wanted.items():
            field = trajectory.field(name)
            if field.shape != (len(trajectory.times), *shape):
                raise ValueError(
                    f"trajectory has {name} of shape {field.shape}; a solution of this part has "
                    f"{(len(trajectory.times), *shape)}"
                )
            if not np.isfinite(field).all():
                raise ValueError(f"trajectory has {name} with values that are NaN or infinite; it takes finite ones")

    def write(self, trajectory: Trajectory, path: str | Path) -> list[Path]:
        """Write a trajectory for ParaView: one file a time, in the format of the name's suffix.

        Displacements and temperatures at the nodes; stress, its equivalent and the accumulated plastic strain as means
        over each element.

        Parameters
        ----------
        trajectory
            A solution of this problem, or a reconstruction of its reduced model.
        path
            The files' name, such as ``creep.vtu`` or ``creep.vtk``; a number of the time is put before the suffix.

        Returns
        -------
        list[Path]
            The files, in the order of times.
        """
        from skfem.io.meshio import to_meshio

        self.check_trajectory(trajectory)
        elements, stem = self.elements, Path(path)
        weights = elements.weights.reshape(-1, elements.blocks.shape[1])
        shares = (weights / weights.sum(1, keepdims=True)).ravel()
        times, fields = trajectory.loads.fields(elements.n_nodes)
        scale = np.where(np.arange(len(elements.components)) < 3, 1, 1 / SQRT2)
        written = []
        for k, t in enumerate(trajectory.times):
            mesh = to_meshio(elements.basis.mesh)
            mesh.points = np.pad(mesh.points, ((0, 0), (0, 3 - mesh.points.shape[1])))
            moved = trajectory.u[k][elements.basis.nodal_dofs[: elements.dim]].T
            i, j, share = trajectory.loads.between(times, float(t))
            mesh.point_data["displacement"] = np.pad(moved, ((0, 0), (0, 3 - elements.dim)))
            mesh.point_data["temperature"] = (1 - share) * fields[i] + share * fields[j]
            sigma = trajectory.sigma[k]
            deviator = sigma - np.pad(sigma[:, :3].mean(1, keepdims=True).repeat(3, 1), ((0, 0), (0, len(scale) - 3)))
            data = {f"sigma_{name}": (sigma * scale)[:, m] for m, name in enumerate(elements.components)}
            data |= {"von_mises": np.sqrt(1.5 * (deviator**2).sum(1)), "p": trajectory.p[k]}
            for name, values in data.items():
                mesh.cell_data[name] = [(shares * values).reshape(weights.shape).sum(1)]
            written.append(stem.with_name(f"{stem.stem}-{k:04d}{stem.suffix}"))
            mesh.write(written[-1])
        return written

    def strain(self, u: np.ndarray) -> np.ndarray:
        """Return the strain that displacements `u` make at the integration points.

        Returns
        -------
        np.ndarray
            One row a point, in Mandel's notation.
        """
        return np.asarray(self.elements.strain @ u).reshape(self.elements.n_points, -1)

    def internal(self, sigma: np.ndarray) -> np.ndarray:
        """Return the forces that a stress `sigma` makes at the free degrees of freedom.

        Returns
        -------
        np.ndarray
            Forces; 0 where displacements are given.
        """
        return self._only_free(self.elements.internal(sigma))

    def size(self, sigma: np.ndarray) -> float:
        """Return the size of the forces that a stress `sigma` makes, reactions of supports included.

        Returns
        -------
        float
            The Euclidean norm over all degrees of freedom.
        """
        return float(np.linalg.norm(self.elements.internal(sigma)))

    def solve_tangent(self, tangent: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Solve for the displacements that tangent moduli answer a force with.

        Parameters
        ----------
        tangent
            Moduli at the integration points.
        r
            The force at the degrees of freedom.

        Returns
        -------
        np.ndarray
            Displacements; 0 where they are given.
        """
        self.newton_steps += 1
        return self.elements.solve(tangent, r)

    def _only_free(self, force: np.ndarray) -> np.ndarray:
        found = np.zeros_like(force)
        found[self.elements.free] = force[self.elements.free]
        return found


def check_times(times: ArrayLike) -> np.ndarray:
    """Return times as an array, or refuse what isn't two or more rising numbers."""
    at = np.asarray(times, dtype=float)
    if at.ndim != 1 or len(at) < 2 or not np.isfinite(at).all() or not (np.diff(at) > 0).all():
        raise ValueError(f"times has shape {at.shape}; it takes two or more finite numbers that rise")
    return at
