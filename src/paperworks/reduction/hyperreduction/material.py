"""A law of elasticity with viscous flow and kinematic hardening, integrated at many points at once."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_number

Coefficient: TypeAlias = float | tuple[Sequence[float], Sequence[float]] | Callable[[np.ndarray], np.ndarray]
"""A number, a table (temperatures, values) that is interpolated linearly, or a function of the temperature."""

_NEWTON_STEPS = 60  # the local equation takes fewer than 15; more means that the input is not finite


class ConvergenceError(ArithmeticError):
    """Newton's method found no equilibrium, at a point or of the whole, after all halvings of the step."""


class MaterialState(NamedTuple):
    """What the material remembers, at each point; tensors as in `ElastoViscoPlastic`.

    Examples
    --------
    >>> MaterialState.virgin(3, 4).p
    array([0., 0., 0.])
    """

    eps_p: Float[np.ndarray, "*points c"]
    """The viscoplastic strain."""
    a: Float[np.ndarray, "*points c"]
    """The strain of kinematic hardening; the back stress is 2/3 C a."""
    p: Float[np.ndarray, " *points"]
    """The accumulated viscoplastic strain."""

    @classmethod
    def virgin(cls, n: int, c: int) -> "MaterialState":
        """Return the state of a material that has not flowed yet.

        Parameters
        ----------
        n
            The number of points.
        c
            Components of a tensor: 4 in plane strain, 6 in 3-D.

        Returns
        -------
        MaterialState
            Zeros at all points.
        """
        return cls(np.zeros((n, c)), np.zeros((n, c)), np.zeros(n))

    def at(self, points: np.ndarray) -> "MaterialState":
        """Return the state at some of the `points`.

        Returns
        -------
        MaterialState
            Copies of the rows that were asked for.
        """
        return MaterialState(*(np.ascontiguousarray(field[points]) for field in self))


class ElastoViscoPlastic:
    r"""Norton's flow with constant isotropic and nonlinear kinematic hardening, in small strains.

    .. math::
        \sigma = C(T) : (\varepsilon - \varepsilon_p - \alpha (T - T_\mathrm{ref}) I), \quad
        f = J(s - X) - R_0, \quad \dot p = \langle f / K\rangle^n, \quad
        \dot\varepsilon_p = \tfrac32 \frac{s - X}{J} \dot p, \quad X = \tfrac23 C a, \quad
        \dot a = \dot\varepsilon_p - D a \dot p.

    The step is fully implicit: one scalar equation at each point, solved by Newton's method in
    :math:`y = \dot p^{1/n}`, in which it is concave, and the tangent is that of the discrete step, so that Newton's
    method for the whole part stays quadratic. The tangent is not symmetric where D > 0.

    Symmetric tensors are vectors of their components xx, yy, zz, xy (plane strain) or xx, yy, zz, xy, xz, yz, with the
    shears times :math:`\sqrt2`, so that the product of two tensors is that of the vectors (Mandel's notation). Units
    are the caller's: the defaults, the card of the paper's code, are in MPa, mm, s, t and degrees Celsius.

    Parameters
    ----------
    E
        Young's modulus; here and below a number, a table `(temperatures, values)` or a function of the temperature.
    nu
        Poisson's ratio, within -1 and 1/2.
    alpha
        Secant coefficient of thermal expansion, from `T_ref`.
    K
        Norton's resistance to flow, positive.
    n
        Norton's exponent, at least 1.
    C
        Modulus of kinematic hardening, not negative.
    D
        Recall of kinematic hardening, not negative.
    R0
        Threshold of flow, not negative.
    T_ref
        The temperature at which nothing has expanded.
    density
        Mass by volume, which a rotation acts on.

    Raises
    ------
    TypeError, ValueError
        Where a coefficient is neither number, table nor function, or out of its range; functions are checked where
        they are used.

    References
    ----------
    Casenave and Akkari, doi 10.3390/mca24020041, 2019, section 2.

    Examples
    --------
    >>> law = ElastoViscoPlastic(E=([20.0, 600.0], [200_000.0, 150_000.0]))
    >>> eps = np.array([[1e-3, -3e-4, -3e-4, 0.0]])
    >>> sigma, state, tangent = law.integrate(eps, np.array([20.0]), MaterialState.virgin(1, 4), dt=1e-9)
    >>> sigma.round(1)  # too fast to flow
    array([[200.,   0.,   0.,   0.]])
    >>> sigma, state, tangent = law.integrate(eps, np.array([20.0]), MaterialState.virgin(1, 4), dt=1e6)
    >>> bool(sigma[0, 0] < 190 and state.p[0] > 1e-4)
    True
    """

    def __init__(
        self,
        E: Coefficient = 200_000.0,
        nu: Coefficient = 0.3,
        alpha: Coefficient = 2e-5,
        K: Coefficient = 300.0,
        n: Coefficient = 30.0,
        C: Coefficient = 1e5,
        D: Coefficient = 1000.0,
        R0: Coefficient = 10.0,
        T_ref: float = 20.0,
        density: float = 1e-8,
    ) -> None:
        given = {"E": E, "nu": nu, "alpha": alpha, "K": K, "n": n, "C": C, "D": D, "R0": R0}
        self._coefficients = {name: _Coefficient(name, value) for name, value in given.items()}
        self.T_ref = check_number("T_ref", T_ref)
        self.density = check_number("density", density, ge=0)

    def coefficients(self, T: Float[np.ndarray, " *points"]) -> dict[str, Any]:
        """Return all coefficients at temperatures `T`, by their names.

        Returns
        -------
        dict[str, Any]
            Arrays of the shape of `T`, or scalars where a coefficient depends on no temperature.
        """
        return {name: table(T) for name, table in self._coefficients.items()}

    def integrate(
        self, eps: Float[np.ndarray, "n c"], T: Float[np.ndarray, " n"], state: MaterialState, dt: float
    ) -> tuple[Float[np.ndarray, "n c"], MaterialState, Float[np.ndarray, "n c c"]]:
        """Go one step of time: stress, new state and tangent of the discrete step.

        Parameters
        ----------
        eps
            The strain at the end of the step, in Mandel's notation.
        T
            The temperature at the end of the step.
        state
            The state at its begin, which is not changed.
        dt
            The length of the step, positive.

        Returns
        -------
        tuple[np.ndarray, MaterialState, np.ndarray]
            The stress; the new state; the derivative of the stress by the strain.

        Raises
        ------
        ValueError
            Where shapes differ, temperature or state are not finite, or `dt` is not positive.
        ConvergenceError
            Where a local equation has no solution, as of strains that are not finite.
        """
        shapes = (eps.shape, T.shape, state.eps_p.shape, state.a.shape, state.p.shape)
        if (
            eps.ndim != 2
            or eps.shape[1] not in (4, 6)
            or shapes[1:] != (eps.shape[:1], *(eps.shape,) * 2, eps.shape[:1])
        ):
            raise ValueError(
                f"eps, T and eps_p, a, p of state have shapes {', '.join(map(str, shapes))}; they take (n, 4) or "
                "(n, 6), (n,), twice that of eps, and (n,)"
            )
        if not all(np.isfinite(field).all() for field in (T, *state)):
            raise ValueError("T or state has values that are NaN or infinite; they take finite ones")
        check_number("dt", dt, gt=0)
        sigma, new, tangent = self._step(eps, T, state, dt, self.coefficients(T))
        return sigma, new, tangent()

    def _step(
        self, eps: np.ndarray, T: np.ndarray, state: MaterialState, dt: float, k: dict[str, Any]
    ) -> tuple[np.ndarray, MaterialState, Callable[[], np.ndarray]]:
        """Integrate with coefficients that have been looked up; the tangent is a function, for when it is needed."""
        G = k["E"] / (2 * (1 + k["nu"]))
        bulk = k["E"] / (3 * (1 - 2 * k["nu"]))
        volume = eps[:, 0] + eps[:, 1] + eps[:, 2]
        sigma = eps - state.eps_p  # is of trace `volume`, as flow keeps the volume
        sigma[:, :3] -= (volume / 3)[:, None]
        sigma *= 2 * (G[:, None] if np.ndim(G) else G)  # the trial deviator, until flow is known
        pressure = bulk * (volume - 3 * k["alpha"] * (T - self.T_ref))

        h = (2 / 3) * k["C"]
        overstress = _von_mises(sigma - (h[:, None] if np.ndim(h) else h) * state.a) - k["R0"]
        rows = np.flatnonzero(~(overstress <= 0))  # true of NaN, which then fails to converge
        flow, new = None, state
        if len(rows):
            local = {name: value[rows] if np.ndim(value) else value for name, value in k.items()}
            flow = _Flow(sigma[rows], state.a[rows], G[rows] if np.ndim(G) else G, dt, local)
            sigma[rows] -= flow.relaxation
            new = MaterialState(*(field.copy() for field in state))
            new.eps_p[rows] += flow.step
            new.a[rows] = flow.a
            new.p[rows] += flow.dp
        sigma[:, :3] += pressure[:, None]

        def tangent() -> np.ndarray:
            deviatoric, volumetric = _projections(eps.shape[1])
            shape = (len(eps), 1, 1)
            moduli = np.broadcast_to(2 * G, len(eps)).reshape(shape) * deviatoric
            moduli += np.broadcast_to(bulk, len(eps)).reshape(shape) * volumetric
            if flow is not None:
                moduli[rows] -= flow.softening()
            return moduli

        return sigma, new, tangent

    def thermal_stress(self, T: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return the pressure that temperatures `T` cause where nothing can expand: what loads are measured by.

        Returns
        -------
        np.ndarray
            Three times bulk modulus, expansion and difference of temperature, at each point.
        """
        k = self.coefficients(T)
        return np.asarray(k["E"] / (1 - 2 * k["nu"]) * k["alpha"] * (T - self.T_ref))


class _Flow:
    """The flow at points whose trial stress is beyond the threshold."""

    def __init__(self, trial: np.ndarray, a: np.ndarray, G: Any, dt: float, k: dict[str, Any]) -> None:
        K, n, C, D, R0 = k["K"], k["n"], k["C"], k["D"], k["R0"]
        hardening = (2 / 3) * C
        # J of z = s - h a, for all h: the loop below needs no tensors.
        ss, sa, aa = (1.5 * np.einsum("ij,ij->i", x, y) for x, y in ((trial, trial), (trial, a), (a, a)))
        # |z| is at most |s| + |X|, so no more than this flows; Newton's method is held within.
        most = np.sqrt(ss) + hardening * np.sqrt(aa)
        start = np.maximum(np.sqrt(np.maximum(ss + hardening * (hardening * aa - 2 * sa), 0)) - R0, 0)
        power, stiffness = 1 / n, 3 * G
        limit = np.minimum(most / K, (most / (stiffness * dt)) ** power)
        y = np.minimum(start / K, (start / (stiffness * dt)) ** power)
        enough = 1e-11 * most  # far below what equilibrium asks for, and above what rounding leaves
        for _ in range(_NEWTON_STEPS):
            rate = dt * y ** (n - 1)
            dp = rate * y
            theta = 1 / (1 + D * dp)
            h = hardening * theta
            J = np.sqrt(ss + h * (h * aa - 2 * sa))
            resist = stiffness + C * theta
            g = J - dp * resist - R0 - K * y
            recall = h * D * theta
            slope = n * rate * (recall * ((sa - h * aa) / J + 1.5 * dp) - resist) - K
            if (np.abs(g) <= enough).all():
                break
            y = np.minimum(np.maximum(y - g / slope, 0), limit)
        else:
            raise ConvergenceError("the local equation of flow does not converge; are strain and temperature finite?")
        self.dp, self.normal = dp, (1.5 / J)[:, None] * (trial - h[:, None] * a)
        self.step = dp[:, None] * self.normal
        self.relaxation = 2 * (G[:, None] if np.ndim(G) else G) * self.step
        self.a = (a + self.step) * theta[:, None]
        self._rest = a, G, J, n * rate / slope, recall

    def softening(self) -> np.ndarray:
        """Return what the flow takes off the elastic moduli."""
        (a, G, J, by_slope, recall), normal = self._rest, self.normal
        beta = 3 * G * self.dp / J
        m = recall[:, None] * a
        m -= (2 / 3) * np.einsum("ij,ij->i", normal, m)[:, None] * normal
        # The flow's derivative by the strain; in terms of the slope by y, which stays finite where nothing flows.
        left = (4 * G * G * by_slope)[:, None] * (normal + (1.5 * self.dp / J)[:, None] * m)
        left += (4 / 3 * G * beta)[:, None] * normal
        moduli = (2 * G * beta)[:, None, None] * _projections(normal.shape[1])[0]
        moduli -= left[:, :, None] * normal[:, None, :]
        return moduli


@cache
def _projections(c: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices that take the deviator of a tensor, and the sum of its diagonal times the unit tensor."""
    unit = (np.arange(c) < 3).astype(float)
    return np.eye(c) - np.outer(unit, unit) / 3, np.outer(unit, unit)


def _von_mises(s: np.ndarray) -> np.ndarray:
    """Return J, the equivalent stress of deviators in Mandel's notation."""
    return math.sqrt(1.5) * np.sqrt(np.einsum("ij,ij->i", s, s))


_RANGES: dict[str, dict[str, float]] = {
    "E": {"gt": 0},
    "nu": {"gt": -1, "lt": 0.5},
    "alpha": {},
    "K": {"gt": 0},
    "n": {"ge": 1},
    "C": {"ge": 0},
    "D": {"ge": 0},
    "R0": {"ge": 0},
}


def _rising(at: np.ndarray) -> bool:
    return bool(np.isfinite(at).all() and (np.diff(at) > 0).all())


class _Coefficient:
    """A coefficient as a function of the temperature, in its range."""

    def __init__(self, name: str, value: Coefficient) -> None:
        self.name = name
        self.value: Any = value
        self.constant = not callable(value) and np.ndim(value) == 0 and not isinstance(value, tuple)
        if self.constant:
            self.value = check_number(name, value, **_RANGES[name])
        elif not callable(value):
            at, values = (np.asarray(part, dtype=float) for part in self._pair(value))
            if at.ndim != 1 or at.shape != values.shape or not len(at) or not _rising(at):
                raise ValueError(
                    f"{name} is a table of {at.shape} temperatures and {values.shape} values; it takes as many of "
                    "both, the temperatures rising"
                )
            for entry in values:
                check_number(name, float(entry), **_RANGES[name])
            self.value = (at, values)

    def _pair(self, value: object) -> tuple[object, object]:
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise TypeError(
                f"{self.name} is {value!r}; it takes a number, a table (temperatures, values) or a function"
            )
        return value[0], value[1]

    def __call__(self, T: np.ndarray) -> Any:
        if self.constant:
            return np.float64(self.value)
        if not callable(self.value):
            return np.interp(T, *self.value)
        values = np.asarray(self.value(T), dtype=float)
        if values.shape not in ((), T.shape):
            raise ValueError(
                f"{self.name} is a function that returns shape {values.shape} for temperatures of shape {T.shape}; "
                "it takes one that returns a value for each"
            )
        values = np.broadcast_to(values, T.shape)
        for entry in (values.min(), values.max()) if values.size else ():
            check_number(self.name, float(entry), **_RANGES[self.name])
        return values
