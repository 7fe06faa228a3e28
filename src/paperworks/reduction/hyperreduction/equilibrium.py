"""Steps of a quasi-static equilibrium: Newton's method, which full and reduced models share."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from paperworks.reduction.hyperreduction.loads import LoadPath, Loads
from paperworks.reduction.hyperreduction.material import ConvergenceError, ElastoViscoPlastic, MaterialState

HALVINGS = 4
"""How often a step of time is halved where Newton's method fails."""
SHORTENINGS = 5
"""How often a step of Newton's method is halved where the residual grows."""


class MechanicalState(NamedTuple):
    """A part, or its reduced model, at one time.

    Examples
    --------
    >>> state = MechanicalState(0.0, np.zeros(8), np.zeros((4, 4)), MaterialState.virgin(4, 4))
    >>> state.material.p.max()
    np.float64(0.0)
    """

    t: float
    """The time that it is at."""
    u: Float[np.ndarray, " unknowns"]
    """Displacements at all degrees of freedom; of a reduced model, the coefficients of its modes."""
    sigma: Float[np.ndarray, "points c"]
    """The stress at the integration points, in Mandel's notation."""
    material: MaterialState
    """What the material remembers at the integration points."""


class Equilibrium(ABC):
    """Steps of a model in equilibrium.

    Its unknowns solve: internal forces of the stress equal external forces. A subclass says how unknowns strain its
    points, and how stress at the points acts on the unknowns.

    Parameters
    ----------
    material
        The law at each integration point.
    rtol
        Newton's method ends where the residual is below this share of the loads, mechanical or thermal.
    steps
        The most steps of Newton's method before the step of time is halved.
    n_components
        Components of a tensor: 4 in plane strain, 6 in 3-D.
    """

    def __init__(self, material: ElastoViscoPlastic, rtol: float, steps: int, n_components: int) -> None:
        self.material, self.rtol, self.steps, self.n_components = material, rtol, steps, n_components

    @abstractmethod
    def strain(self, u: np.ndarray) -> np.ndarray:
        """Return the strain that unknowns `u` make at all points.

        Returns
        -------
        np.ndarray
            One row a point, in Mandel's notation.
        """

    @abstractmethod
    def internal(self, sigma: np.ndarray) -> np.ndarray:
        """Return the forces that a stress `sigma` makes, 0 where displacements are given.

        Returns
        -------
        np.ndarray
            One force an unknown.
        """

    @abstractmethod
    def solve_tangent(self, tangent: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Return the displacements that `tangent` moduli at the points answer forces `r` with.

        Returns
        -------
        np.ndarray
            One displacement an unknown.
        """

    def size(self, sigma: np.ndarray) -> float:
        """Return the size of the forces that a stress `sigma` makes, reactions of supports included.

        Returns
        -------
        float
            The Euclidean norm over all unknowns.
        """
        return _norm(self.internal(sigma))

    def advance(self, state: MechanicalState, path: LoadPath, t: float, halvings: int = HALVINGS) -> MechanicalState:
        """Go to a later time; where Newton's method fails, by two steps of half the length, and so on.

        Parameters
        ----------
        state
            Where the step begins.
        path
            The loads, as `load_path` of this model returns them.
        t
            The time at its end.
        halvings
            How often a step may be halved; four times by default.

        Returns
        -------
        MechanicalState
            The state in equilibrium at the end of the step.

        Raises
        ------
        ConvergenceError
            Where it fails even after all halvings.
        """
        try:
            return self._newton(state, path, t)
        except ConvergenceError:
            if halvings == 0:
                raise
        middle = self.advance(state, path, (state.t + t) / 2, halvings - 1)
        return self.advance(middle, path, t, halvings - 1)

    def scaled_path(self, loads: Loads, times: np.ndarray, temperatures: np.ndarray, forces: np.ndarray) -> LoadPath:
        """Return loads at this model's points, with the size of the largest of them.

        It is that of all times: after a cycle no load is left, and the stress that remains is still to be in
        equilibrium.

        Parameters
        ----------
        loads
            The loads, for their tables in time.
        times
            The times of the temperature's fields.
        temperatures
            Temperatures at this model's points, one row a time.
        forces
            The vectors of unit loads on this model's unknowns.

        Returns
        -------
        LoadPath
            What the steps of this model ask for.
        """
        found = [_norm(loads.factors(t) @ forces) for t in loads.knots()]
        for T in temperatures:
            heat = np.zeros((len(T), self.n_components))
            heat[:, :3] = self.material.thermal_stress(T)[:, None]
            found.append(self.size(heat))
        return LoadPath(loads, times, temperatures, forces, max(found))

    def _newton(self, state: MechanicalState, path: LoadPath, t: float) -> MechanicalState:
        T, force, u, dt = path.temperature(t), path.force(t), state.u, t - state.t
        coefficients = self.material.coefficients(T)
        before, du, halved = np.inf, np.zeros_like(u), 0
        for _ in range(self.steps):
            sigma, material, tangent = self.material._step(self.strain(u), T, state.material, dt, coefficients)
            r = force - self.internal(sigma)
            size = _norm(r)
            if size <= self.rtol * path.scale:
                return MechanicalState(t, u, sigma, material)
            if not np.isfinite(size):
                break
            if size > before and halved < SHORTENINGS:
                halved, du = halved + 1, du / 2
                u = u - du
                continue
            before, halved = size, 0
            try:
                du = self.solve_tangent(tangent(), r)
            except (RuntimeError, np.linalg.LinAlgError):  # of SuperLU and of LAPACK: the matrix is singular
                break
            u = u + du
        raise ConvergenceError(f"no equilibrium at t = {t:.6g} within {self.steps} steps of Newton's method")


def _norm(r: np.ndarray) -> float:
    return float(np.sqrt(r @ r))
