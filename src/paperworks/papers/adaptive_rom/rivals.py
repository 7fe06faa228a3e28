"""The same problems on other packages: DEIM by pymor, the full model by felupe, assembly by scikit-fem's forms."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.reduction import (
    ConvergenceError,
    Equilibrium,
    HyperReducedModel,
    LoadPath,
    Loads,
    MaterialState,
    MechanicalProblem,
    MechanicalState,
    Trajectory,
)

SQRT2 = float(np.sqrt(2))


def force_iterates(problem: MechanicalProblem, trajectory: Trajectory) -> Float[np.ndarray, "snapshots dofs"]:
    """Return internal forces during Newton's method: in equilibrium they are the loads, which say nothing."""
    path, found = problem.load_path(trajectory.loads), []
    for k, t in enumerate(trajectory.times[1:]):
        state, T = trajectory.state(k), path.temperature(t)
        u = state.u
        for _ in range(3):
            strain = problem.strain(u)
            sigma, _, tangent = problem.material.integrate(strain, T, state.material, float(t) - state.t)
            found.append(problem.internal(sigma))
            u = u + problem.solve_tangent(tangent, path.force(t) - found[-1])
    return np.array(found)


class InterpolatedForces(Equilibrium):
    """The modes of a reduced model with internal forces by DEIM instead of a rule with weights.

    Parameters
    ----------
    rom
        The fitted model whose modes it shares.
    dofs
        The degrees of freedom at which forces are interpolated.
    collateral
        The basis of forces, one row a vector.
    """

    def __init__(self, rom: HyperReducedModel, dofs: np.ndarray, collateral: Float[np.ndarray, "m dofs"]) -> None:
        super().__init__(rom.material, rom.rtol, rom.steps, rom.n_components)
        self.rom, elements = rom, rom.problem.elements
        touched = np.asarray(np.isin(elements.dofs, dofs).any(axis=1))
        self.n_elements = int(touched.sum())
        self.points = np.flatnonzero(touched[elements.element_of_point])
        rows = (self.points[:, None] * self.n_components + np.arange(self.n_components)).ravel()
        self._strains = np.asarray(elements.strain[rows] @ rom.modes_.T)
        # Forces at the chosen unknowns, interpolated, on the modes.
        gather = elements.strain[rows][:, dofs].toarray() * np.repeat(elements.weights[self.points], 4)[:, None]
        self._left = rom.modes_ @ collateral.T @ np.linalg.solve(collateral[:, dofs].T, gather.T)

    def load_path(self, loads: Loads) -> LoadPath:
        """Return loads at the points and modes."""
        elements = self.rom.problem.elements
        times, fields = loads.fields(elements.n_nodes)
        temperatures = np.asarray((elements.interpolation[self.points] @ fields.T).T)
        forces = self.rom.problem.unit_forces(loads) @ self.rom.modes_.T
        return self.scaled_path(loads, times, temperatures, forces)

    def strain(self, u: np.ndarray) -> np.ndarray:
        """Return the strain at the points of the touched elements."""
        return np.asarray(self._strains @ u).reshape(-1, self.n_components)

    def internal(self, sigma: np.ndarray) -> np.ndarray:
        """Return the interpolated forces on the modes."""
        return np.asarray(self._left @ sigma.reshape(-1))

    def stiffness(self, tangent: np.ndarray) -> np.ndarray:
        """Return the stiffness of the modes, which interpolation makes unsymmetric."""
        k = self._strains.shape[1]
        moved = (tangent @ self._strains.reshape(-1, self.n_components, k)).reshape(-1, k)
        return np.asarray(self._left @ moved)

    def solve_tangent(self, tangent: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Solve with the stiffness of the modes."""
        return np.asarray(np.linalg.solve(self.stiffness(tangent), r))

    def displacements(self, loads: Loads, times: np.ndarray) -> np.ndarray:
        """Follow loads, and return displacements at all times; of times after a failure they are 0."""
        path, n = self.load_path(loads), len(self.points)
        state = MechanicalState(
            float(times[0]),
            np.zeros(len(self.rom.modes_)),
            np.zeros((n, self.n_components)),
            MaterialState.virgin(n, self.n_components),
        )
        found = np.zeros((len(times), self.rom.modes_.shape[1]))
        for k, t in enumerate(times[1:], start=1):
            try:
                state = self.advance(state, path, float(t))
            except ConvergenceError:
                break
            found[k] = state.u @ self.rom.modes_
        return found


def deim_model(rom: HyperReducedModel, forces: np.ndarray, n_elements: int) -> InterpolatedForces:
    """Return pymor's DEIM with as many interpolation points as touch no more elements than `n_elements`."""
    from pymor.algorithms.ei import deim
    from pymor.core.logger import set_log_levels
    from pymor.vectorarrays.numpy import NumpyVectorSpace

    set_log_levels({"pymor": "ERROR"})
    vectors = NumpyVectorSpace.from_numpy(np.ascontiguousarray(forces.T))
    dofs, basis, _ = deim(vectors, modes=min(len(forces), n_elements), rtol=1e-10)
    collateral = basis.to_numpy().T
    elements = rom.problem.elements
    m = len(dofs)
    while m > 1 and np.isin(elements.dofs, dofs[:m]).any(1).sum() > n_elements:
        m -= 1
    return InterpolatedForces(rom, np.asarray(dofs[:m]), collateral[:m])


def felupe_solver(problem: MechanicalProblem, times: np.ndarray) -> Callable[[], np.ndarray]:
    """Return a function that solves the problem by felupe with the same law, and returns displacements at the end."""
    import felupe

    mesh = problem.elements.basis.mesh
    cells = mesh.t[[0, 3, 2, 1]].T.copy()  # counter-clockwise, as felupe takes them
    region = felupe.RegionQuad(felupe.Mesh(mesh.p.T.copy(), cells, cell_type="quad"))
    nodal = problem.elements.basis.nodal_dofs
    q = region.h.shape[1]
    # felupe's points of integration are numbered by itself; ours are found by their places.
    places = np.einsum("cai,aq->cqi", mesh.p.T[cells], region.h[..., 0])
    ours = problem.elements.points.reshape(-1, q, 2)
    order = np.argmin(((places[:, :, None] - ours[:, None]) ** 2).sum(-1), axis=2)
    at = (np.arange(len(order))[:, None] * q + order).ravel()

    def vectors(x: np.ndarray) -> np.ndarray:
        """Return tensors (3, 3, q, cells) as rows of Mandel's notation, cell by cell."""
        flat = np.stack([x[0, 0], x[1, 1], x[2, 2], SQRT2 * x[0, 1]], axis=-1)
        return np.ascontiguousarray(flat.swapaxes(0, 1)).reshape(-1, 4)

    def tensors(v: np.ndarray) -> np.ndarray:
        x = np.zeros((3, 3, len(v)))
        x[0, 0], x[1, 1], x[2, 2] = v[:, 0], v[:, 1], v[:, 2]
        x[0, 1] = x[1, 0] = v[:, 3] / SQRT2
        return x.reshape(3, 3, -1, q).swapaxes(2, 3)

    index = np.array([[0, 3, -1], [3, 1, -1], [-1, -1, 2]])
    scale = np.where(index == 3, 1 / SQRT2, np.where(index < 0, 0, 1.0))
    both = scale[:, :, None, None] * scale

    def law(dstrain: Any, strain: Any, stress: Any, states: Any, T: Any, dt: float, tangent: bool, **_: Any) -> Any:
        state = MaterialState(vectors(states[0]), vectors(states[1]), states[2][0].T.ravel())
        sigma, new, moduli = problem.material.integrate(vectors(strain + dstrain), T, state, dt)
        kept = [tensors(new.eps_p), tensors(new.a), new.p.reshape(-1, q).T[None]]
        C = None
        if tangent:
            C = moduli[:, index[:, :, None, None], index].transpose(1, 2, 3, 4, 0) * both[..., None]
            C = C.reshape(3, 3, 3, 3, -1, q).swapaxes(4, 5)
        return C, tensors(sigma), kept

    def solve() -> np.ndarray:
        field = felupe.FieldContainer([felupe.FieldPlaneStrain(region, dim=2)])
        material = felupe.MaterialStrain(law, statevars=((3, 3), (3, 3), (1,)), symmetry=False, T=None, dt=None)
        body = felupe.SolidBody(material, field)
        nodes = np.arange(mesh.p.shape[1])
        load = felupe.PointLoad(field, nodes)
        fixed = np.setdiff1d(np.arange(problem.elements.n_dofs), problem.elements.free)
        held = {
            axis: felupe.Boundary(field[0], mask=np.isin(nodal[k], fixed), skip=tuple(int(j != k) for j in range(2)))
            for k, axis in enumerate("xy")
        }
        dof0, dof1 = felupe.dof.partition(field, held)
        for before, t in pairwise(times):
            material.kwargs.update(T=problem.path.temperature(t)[at], dt=float(t - before))
            load.update(problem.path.force(t)[nodal].T)
            felupe.newtonraphson(
                items=[body, load], x0=field, dof0=dof0, dof1=dof1, tol=problem.rtol, verbose=False, maxiter=20
            )
        u = np.zeros(problem.elements.n_dofs)
        u[nodal.T] = field[0].values
        return u

    return solve


def form_solver(
    problem: MechanicalProblem, sigma: np.ndarray, tangent: np.ndarray, force: np.ndarray
) -> Callable[[], np.ndarray]:
    """Return a function that assembles by scikit-fem's forms and solves for a step of Newton's method."""
    import skfem
    from skfem.helpers import grad

    elements = problem.elements
    basis, shape = elements.basis, elements.basis.dx.shape
    C = np.moveaxis(tangent.reshape(*shape, 4, 4), (2, 3), (0, 1)).copy()
    s = np.moveaxis(sigma.reshape(*shape, 4), 2, 0).copy()
    rows = (0, 1, 3)

    def strain(u: Any) -> list[Any]:
        g = grad(u)
        return [g[0, 0], g[1, 1], (g[0, 1] + g[1, 0]) / SQRT2]

    @skfem.BilinearForm
    def stiffness(u: Any, v: Any, w: Any) -> Any:
        eu, ev = strain(u), strain(v)
        return sum(C[i, j] * ev[a] * eu[b] for a, i in enumerate(rows) for b, j in enumerate(rows))

    @skfem.LinearForm
    def internal(v: Any, w: Any) -> Any:
        return sum(s[i] * e for i, e in zip(rows, strain(v), strict=True))

    def solve() -> np.ndarray:
        r = force - internal.assemble(basis)
        return np.asarray(skfem.solve(*skfem.condense(stiffness.assemble(basis), r, I=elements.free)))

    return solve
