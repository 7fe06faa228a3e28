"""The hyper-reduced model: few modes of displacement, the material's law at few points, fields rebuilt from there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from joblib import Parallel, delayed
from numpy.typing import ArrayLike

from paperworks.core.validation import check_count, check_number
from paperworks.reduction.hyperreduction.cubature import EmpiricalCubature
from paperworks.reduction.hyperreduction.equilibrium import Equilibrium, MechanicalState
from paperworks.reduction.hyperreduction.gappy import GappyPOD, qdeim_points
from paperworks.reduction.hyperreduction.loads import LoadPath, Loads
from paperworks.reduction.hyperreduction.material import MaterialState
from paperworks.reduction.hyperreduction.problem import MechanicalProblem, Trajectory, check_times, field_of
from paperworks.reduction.inner_products import correlation_matrix
from paperworks.reduction.snapshots import SnapshotPOD

DUALS = ("sigma", "eps_p", "a", "p")
"""The fields that are rebuilt on the whole mesh."""


@dataclass(frozen=True)
class ReducedTrajectory:
    """What a reduced model computed: coefficients of modes, and fields at its points.

    Examples
    --------
    >>> found = ReducedTrajectory(Loads(), np.zeros(1), [], {"p": np.zeros(1)})
    >>> found.residuals["p"]
    array([0.])
    """

    loads: Loads
    """The loads that it answers."""
    times: Float[np.ndarray, " times"]
    """The times, the first of the virgin part."""
    states: Sequence[MechanicalState]
    """The states, whose displacements are coefficients of modes and whose points are those of the model."""
    residuals: dict[str, Float[np.ndarray, " times"]]
    """For each quantity, what reconstruction leaves at the points, relative to the greatest size of the quantity so
    far, in training or online: the E of the paper."""


class HyperReducedModel(Equilibrium):
    r"""A model of few modes whose forces are summed over few points of integration.

    Offline, `fit` compresses displacements by POD in the L2 product, all fields of the material by POD in the Euclidean
    one, and finds points with positive weights that integrate :math:`\sigma_m : \varepsilon(\psi_k)` for all modes of
    stress, weighted by their singular values, and of displacement (`EmpiricalCubature`). Points that tell the modes of
    the fields apart (`qdeim_points`) are added with weight 0. Online, `solve` runs Newton's method for the
    coefficients; the law is evaluated at the points alone, and no operation depends on the size of the mesh.

    Parameters
    ----------
    problem
        The full model, whose mesh, material and supports it shares.
    rtol
        Tolerance of the POD of displacements; 1e-4, the default, is the loosest of the paper's, which go down to 1e-6.
    n_modes
        The most modes of displacement, and of each field; None, the default, sets no limit.
    dual_rtol
        Tolerance of the POD of stress and internal variables; None, the default, takes `rtol`.
    cubature_rtol
        Tolerance of the reduced integration; 1e-3, the default, is the loosest of the paper.
    quantities
        What the error indicator looks at: "p", the default, or other fields or components, such as "sigma_xx".
    hyper_reduction
        Whether points are reduced too, the default; else only the unknowns are, and forces are summed over all points.
    parts
        For each integration point the number of its subdomain: each then has a rule of its own, and correlation
        matrices are summed over them, so that subdomains can be treated by `n_jobs` processes. None, the default, is
        one domain.
    n_jobs
        Processes of joblib for the subdomains; 1 by default. Under `joblib.parallel_config` they can be those of a
        Dask or Ray cluster.
    newton_rtol
        Newton's method ends at this residual, relative to the largest load of all times; 1e-6 by default.
    steps
        The most steps of Newton's method before the step of time is halved; 50 by default, the paper's.

    Attributes
    ----------
    modes_ : np.ndarray
        The modes of displacement as rows.
    points_ : np.ndarray
        Indices of the integration points that it uses, rising.
    weights_ : np.ndarray
        Their weights; 0 at points that serve reconstruction alone.
    duals_ : dict
        For each field or quantity its `SnapshotPOD`.
    gappy_ : dict
        For each field or quantity its `GappyPOD`.

    References
    ----------
    Casenave and Akkari, doi 10.3390/mca24020041, 2019, sections 3 and 4.

    Examples
    --------
    >>> from paperworks.testbeds import heated_plate, hot_spot, plate_with_hole
    >>> mesh = plate_with_hole(6)
    >>> problem, times = heated_plate(mesh, hot_spot(mesh.p, 200.0, (4.0, 0.0), 2.0))
    >>> full = problem.solve(times)
    >>> rom = HyperReducedModel(problem, rtol=1e-3).fit([full])
    >>> fast = rom.reconstruct(rom.solve(problem.loads, times))
    >>> bool(problem.norm(fast.u - full.u).max() < 0.01 * problem.norm(full.u).max())
    True
    """

    def __init__(
        self,
        problem: MechanicalProblem,
        rtol: float = 1e-4,
        n_modes: int | None = None,
        dual_rtol: float | None = None,
        cubature_rtol: float = 1e-3,
        quantities: Sequence[str] = ("p",),
        hyper_reduction: bool = True,
        parts: ArrayLike | None = None,
        n_jobs: int | None = 1,
        newton_rtol: float = 1e-6,
        steps: int = 50,
    ) -> None:
        if not isinstance(problem, MechanicalProblem):
            raise TypeError(f"problem is {type(problem).__name__}; it takes a MechanicalProblem")
        newton_rtol = check_number("newton_rtol", newton_rtol, gt=0, lt=1)
        super().__init__(problem.material, newton_rtol, check_count("steps", steps), problem.n_components)
        self.problem = problem
        self.rtol_modes = check_number("rtol", rtol, gt=0, lt=1)
        self.n_modes = n_modes if n_modes is None else check_count("n_modes", n_modes)
        self.dual_rtol = self.rtol_modes if dual_rtol is None else check_number("dual_rtol", dual_rtol, gt=0, lt=1)
        self.cubature_rtol = check_number("cubature_rtol", cubature_rtol, gt=0, lt=1)
        if isinstance(quantities, str) or not len(quantities):
            raise TypeError(f"quantities is {quantities!r}; it takes one or more names, such as ('p',)")
        self.quantities, self.hyper_reduction, self.n_jobs = tuple(quantities), hyper_reduction, n_jobs
        n = problem.elements.n_points
        self.parts = np.zeros(n, dtype=int) if parts is None else np.asarray(parts)
        if self.parts.shape != (n,):
            raise ValueError(f"parts has shape {self.parts.shape}; it takes one number for each of {n} points")
        tensors, numbers = np.zeros((1, 1, problem.n_components)), np.zeros((1, 1))
        empty = Trajectory(problem.loads, np.zeros(1), numbers, tensors, tensors, tensors, numbers)
        for name in self.quantities:
            if name == "u":
                raise ValueError("quantities has 'u'; it takes fields of the material, such as 'p' or 'sigma_xx'")
            field_of(empty, name)

    def fit(self, trajectories: Sequence[Trajectory]) -> "HyperReducedModel":
        """Build modes, points and reconstructions from solutions of the full model.

        Parameters
        ----------
        trajectories
            Solutions of the problem under training loads.

        Returns
        -------
        HyperReducedModel
            The fitted model.

        Raises
        ------
        ValueError
            Where there is no trajectory, or nothing flows in any.
        """
        if isinstance(trajectories, Trajectory) or not len(trajectories):
            raise ValueError("trajectories is one or none; it takes a sequence of one or more")
        for trajectory in trajectories:
            self.problem.check_trajectory(trajectory)
        snapshots = {name: _rows([t.field(name) for t in trajectories]) for name in ("u", *self._fields())}
        if not snapshots["p"].any():
            raise ValueError("trajectories have no plastic strain at any time; the indicator is undefined then")
        # In L2, as values at the points times roots of weights: a decomposition by the mass matrix would lose what is
        # below the root of rounding, to which creep is sensitive.
        U = self.problem.elements.rooted(snapshots["u"])
        self.pod_ = SnapshotPOD(self.n_modes, self.rtol_modes).fit(U, correlation=self._correlation(U))
        self.duals_ = {}
        for name in self._fields():
            # Stress modes are the integrands of the cubature: what they leave out, it can't integrate.
            rtol = min(self.dual_rtol, self.cubature_rtol) if name == "sigma" else self.dual_rtol
            U = snapshots[name]
            self.duals_[name] = SnapshotPOD(self.n_modes, rtol).fit(U, correlation=self._correlation(U))
        self._cubatures: dict[Any, EmpiricalCubature] = {}
        self._build()
        # The greatest size in training, at all points: it survives changes of the set of points.
        self.sizes_ = {name: float(np.sqrt((snapshots[name] ** 2).mean(1).max())) for name in self.quantities}
        return self

    def enrich(self, state: MechanicalState) -> "HyperReducedModel":
        """Take a state of the full model into all bases, and update points and weights from the present ones.

        Parameters
        ----------
        state
            A state of the full model, as `MechanicalProblem.step` returns it.

        Returns
        -------
        HyperReducedModel
            The same model, enriched; trajectories of before have other coefficients and points.
        """
        self._check_fitted()
        self.problem.check_trajectory(Trajectory.of_states(self.problem.loads, [state]))
        self.pod_.partial_fit(self.problem.elements.rooted(state.u[None]))
        for name, pod in self.duals_.items():
            pod.partial_fit(self.value(state, name).reshape(1, -1))
        self._build()
        return self

    def load_path(self, loads: Loads) -> LoadPath:
        """Return `loads` at the points and modes of this model: the only part of `solve` that sees the mesh.

        Returns
        -------
        LoadPath
            What the steps of this model ask for.
        """
        if not isinstance(loads, Loads):
            raise TypeError(f"loads is {type(loads).__name__}; it takes Loads")
        times, fields = loads.fields(self.problem.elements.n_nodes)
        rows = self.problem.elements.interpolation[self.points_]
        return self.scaled_path(
            loads, times, np.asarray((rows @ fields.T).T), self.problem.unit_forces(loads) @ self.modes_.T
        )

    def initial(self, t: float) -> MechanicalState:
        """Return the virgin part at time `t`.

        Returns
        -------
        MechanicalState
            Coefficients, stress and material, all 0.
        """
        n, c = len(self.points_), self.n_components
        return MechanicalState(float(t), np.zeros(len(self.modes_)), np.zeros((n, c)), MaterialState.virgin(n, c))

    def solve(
        self, loads: Loads, times: ArrayLike, callback: Callable[[MechanicalState], None] | None = None
    ) -> ReducedTrajectory:
        """Follow the part through loads, by the reduced model alone.

        Parameters
        ----------
        loads
            Loads on the same boundaries as the problem's mesh has.
        times
            Rising times; at the first the part is virgin.
        callback
            Called with each state after its step; None, the default, calls nothing.

        Returns
        -------
        ReducedTrajectory
            States and the residuals of reconstruction.

        Raises
        ------
        ValueError
            Where times do not rise.
        ConvergenceError
            Where Newton's method fails even in a sixteenth of a step.
        """
        self._check_fitted()
        at, path = check_times(times), self.load_path(loads)
        states = [self.initial(at[0])]
        for t in at[1:]:
            states.append(self.advance(states[-1], path, t))
            if callback is not None:
                callback(states[-1])
        return ReducedTrajectory(loads, at, states, self.residuals(states))

    def residuals(self, states: Sequence[MechanicalState]) -> dict[str, Float[np.ndarray, " times"]]:
        """Return what reconstruction leaves of each quantity, relative to its greatest size so far.

        Parameters
        ----------
        states
            States of this model, in the order of time.

        Returns
        -------
        dict[str, np.ndarray]
            For each quantity one number a state: the root of mean squares over the points, divided by the greatest
            of the training's and of these states until then.
        """
        found = {}
        for name in self.quantities:
            gappy = self.gappy_[name]
            values = np.stack([self.value(state, name) for state in states])
            greatest = np.maximum(self.sizes_[name], np.maximum.accumulate(gappy.size(values)))
            found[name] = gappy.fit(values)[1] / greatest
        return found

    def residual(self, state: MechanicalState, greatest: dict[str, float]) -> Float[np.ndarray, " quantities"]:
        """Return what reconstruction leaves of each quantity in one state.

        Parameters
        ----------
        state
            A state of this model.
        greatest
            For each quantity the greatest size before, in training or online.

        Returns
        -------
        np.ndarray
            Residuals relative to the greatest size, this state's included, in the order of `quantities`.
        """
        found = []
        for name in self.quantities:
            gappy, values = self.gappy_[name], self.value(state, name)
            found.append(float(gappy.fit(values)[1]) / max(greatest[name], float(gappy.size(values))))
        return np.array(found)

    def value(self, state: MechanicalState, name: str) -> np.ndarray:
        """Return a field or component, by its `name`, of a `state` at its points.

        Returns
        -------
        np.ndarray
            One value or tensor a point.
        """
        return field_of(state if name.startswith("sigma") else state.material, name)

    def reconstruct(self, solution: ReducedTrajectory) -> Trajectory:
        """Return all fields on the whole mesh.

        Parameters
        ----------
        solution
            What `solve` returned.

        Returns
        -------
        Trajectory
            Displacements from the modes, the rest by `GappyPOD`; plastic strain is cut off at 0.
        """
        return Trajectory.of_states(solution.loads, [self.lift(state) for state in solution.states])

    def lift(self, state: MechanicalState) -> MechanicalState:
        """Return a state of the full model that fits a `state` of this one.

        Returns
        -------
        MechanicalState
            All fields on the whole mesh; at the points of this model they are its own.
        """
        fields = {}
        for name in DUALS:
            known = self.value(state, name)
            whole = self.gappy_[name].reconstruct(known).reshape(-1, *known.shape[1:])
            whole[self.points_] = known
            fields[name] = whole
        material = MaterialState(fields["eps_p"], fields["a"], np.maximum(fields["p"], 0))
        return MechanicalState(state.t, state.u @ self.modes_, fields["sigma"], material)

    def restrict(self, state: MechanicalState) -> MechanicalState:
        """Return the `state` of this model that is nearest to one of the full model.

        Returns
        -------
        MechanicalState
            Coefficients by projection, fields at the points of this model.
        """
        q = self.pod_.transform(self.problem.elements.rooted(state.u[None]))[0]
        return MechanicalState(state.t, q, state.sigma[self.points_], state.material.at(self.points_))

    def strain(self, u: np.ndarray) -> np.ndarray:
        """Return the strain that coefficients `u` of the modes make at the points.

        Returns
        -------
        np.ndarray
            One row a point, in Mandel's notation.
        """
        return np.asarray(self._strains @ u).reshape(-1, self.n_components)

    def internal(self, sigma: np.ndarray) -> np.ndarray:
        """Return the forces on the modes that a stress `sigma` at the points makes.

        Returns
        -------
        np.ndarray
            One force a mode.
        """
        return np.asarray(sigma.reshape(-1) @ self._weighted)

    def solve_tangent(self, tangent: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Solve for the coefficients that tangent moduli answer forces with.

        Parameters
        ----------
        tangent
            Moduli at the points.
        r
            The forces on the modes.

        Returns
        -------
        np.ndarray
            Coefficients of the modes.
        """
        k = len(self.modes_)
        moved = (tangent @ self._strains.reshape(-1, self.n_components, k)).reshape(-1, k)
        return np.asarray(np.linalg.solve(self._weighted.T @ moved, r))

    def integrands(self) -> Float[np.ndarray, "rows points"]:
        """Return what the reduced integration is asked to integrate, at all points of the mesh.

        Returns
        -------
        np.ndarray
            The work of each mode of stress, times its singular value, on the strain of each mode of displacement.
        """
        self._check_fitted()
        k = len(self.modes_)
        return self._integrands(
            np.asarray(self.problem.elements.strain @ self.modes_.T).reshape(-1, self.n_components, k)
        )

    def _integrands(self, strains: np.ndarray) -> np.ndarray:
        pod = self.duals_["sigma"]
        stresses = pod.modes_ * pod.singular_values_[: pod.n_modes_, None]
        stresses = stresses.reshape(pod.n_modes_, -1, self.n_components)
        return np.einsum("mgc,gck->mkg", stresses, strains, optimize=True).reshape(-1, len(strains))

    def _check_fitted(self) -> None:
        if not hasattr(self, "modes_"):
            raise ValueError("the model is not fitted; call fit with training trajectories first")

    def _fields(self) -> list[str]:
        return [*DUALS, *(name for name in self.quantities if name not in DUALS)]

    def _correlation(self, U: np.ndarray) -> np.ndarray | None:
        """Return the sum of the subdomains' correlation matrices; None of one domain, whose SVD has all digits."""
        parts = np.unique(self.parts)
        if len(parts) == 1:
            return None
        of_column = np.repeat(self.parts, U.shape[1] // len(self.parts))
        jobs = (delayed(correlation_matrix)(U[:, of_column == part]) for part in parts)
        return np.asarray(sum(Parallel(n_jobs=self.n_jobs)(jobs)))

    def _build(self) -> None:
        """Make everything reduced from the bases."""
        elements, c = self.problem.elements, self.n_components
        self.modes_ = elements.from_rooted(self.pod_.modes_)
        k = len(self.modes_)
        strains = np.asarray(elements.strain @ self.modes_.T).reshape(-1, c, k)
        if self.hyper_reduction:
            self.points_, self.weights_ = self._choose(strains)
        else:
            self.points_, self.weights_ = np.arange(elements.n_points), elements.weights
        self._strains = np.ascontiguousarray(strains[self.points_].reshape(-1, k))
        self._weighted = np.repeat(self.weights_, c)[:, None] * self._strains
        self.gappy_ = {
            name: GappyPOD(pod.modes_, self.points_, pod.modes_.shape[1] // elements.n_points)
            for name, pod in self.duals_.items()
        }

    def _choose(self, strains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points and weights of the subdomains' rules, and with weight 0 what reconstruction asks for."""
        elements, integrands = self.problem.elements, self._integrands(strains)
        weights = np.zeros(elements.n_points)
        parts = [(part, np.flatnonzero(self.parts == part)) for part in np.unique(self.parts)]
        jobs = (
            delayed(_rule)(
                self._cubatures.get(part), self.cubature_rtol, integrands[:, inside], elements.weights[inside]
            )
            for part, inside in parts
        )
        for (part, inside), rule in zip(parts, Parallel(n_jobs=self.n_jobs)(jobs), strict=True):
            self._cubatures[part] = rule
            weights[inside[rule.points_]] = rule.weights_
        chosen = [np.flatnonzero(weights)]
        for dual in self.duals_.values():
            chosen.append(qdeim_points(dual.modes_, dual.modes_.shape[1] // elements.n_points))
        points = np.unique(np.concatenate(chosen))
        return points, weights[points]


def _rows(fields: Sequence[np.ndarray]) -> np.ndarray:
    """Return the fields of all times as rows, but those that are all 0."""
    U = np.concatenate([field.reshape(len(field), -1) for field in fields])
    return U[U.any(1)]


def _rule(before: EmpiricalCubature | None, rtol: float, G: np.ndarray, weights: np.ndarray) -> EmpiricalCubature:
    """Find a subdomain's rule, from the one before where there is one."""
    return EmpiricalCubature(rtol).fit(G, weights) if before is None else before.update(G, weights)
