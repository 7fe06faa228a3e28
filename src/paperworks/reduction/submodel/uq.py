"""Monte Carlo inside a submodel: sampled boundary histories in, statistics of quantities with their errors out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline
from scipy.stats import binom, gaussian_kde, norm

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics import silent
from paperworks.reduction.submodel.elastodynamics import Elastodynamics, State
from paperworks.reduction.submodel.submodel import Submodel

OVER_TIME = ("max", "last", "sum", "first", "history")
SUPPORTS = ("boundary", "field")


class Quantity(NamedTuple):
    """A quantity of interest: a number of each state and right-hand side, and what is made of it over time.

    Examples
    --------
    >>> Quantity.displacement(3, "last").over_time
    'last'
    """

    at_step: Callable[[State], Float[np.ndarray, " batch"]]
    """Gives one number for each column of a state."""
    over_time: str = "max"
    """What is made of it: max, last, sum, history, or first, the first time above the threshold (else the last)."""
    threshold: float = 0.0
    """What ``"first"`` waits for."""

    @classmethod
    def displacement(cls, dof: int, over_time: str = "max") -> "Quantity":
        """Return the absolute displacement at a degree of freedom `dof`, over time as `over_time` says.

        Returns
        -------
        Quantity
            The displacement at a probe.
        """
        return cls(partial(_displacement, dof), over_time)

    @classmethod
    def arrival(cls, dof: int, threshold: float) -> "Quantity":
        """Return the first time at which the displacement at `dof` is larger than `threshold`.

        Returns
        -------
        Quantity
            The time of arrival at a probe.
        """
        return cls(partial(_displacement, dof), "first", threshold)

    @classmethod
    def von_mises(cls, model: Elastodynamics) -> "Quantity":
        """Return the largest equivalent stress of von Mises in a `model`, over elements and time.

        Returns
        -------
        Quantity
            The largest stress.
        """
        return cls(partial(_largest_stress, model))

    @classmethod
    def energy(cls, model: Elastodynamics) -> "Quantity":
        """Return the largest energy in a `model` over time, elastic and kinetic together.

        Returns
        -------
        Quantity
            The largest energy.
        """
        return cls(partial(_energy, model))


# Functions with names, as a quantity has to go to other processes.
def _displacement(dof: int, state: State) -> np.ndarray:
    return np.abs(state.u[dof])


def _largest_stress(model: Elastodynamics, state: State) -> np.ndarray:
    return np.asarray(model.von_mises(state.u).max(0))


def _energy(model: Elastodynamics, state: State) -> np.ndarray:
    return model.energy(state.u, state.v)


def evaluate_quantities(
    states: Iterable[State], qoi: Mapping[str, Quantity], submodel: Submodel | None = None
) -> dict[str, np.ndarray]:
    """Follow states and return quantities of interest, without keeping the fields.

    Parameters
    ----------
    states
        As `Elastodynamics.march` yields them.
    qoi
        Quantities by name.
    submodel
        A zone to which states of the whole are restricted first; None, the default, takes them as they are.

    Returns
    -------
    dict[str, np.ndarray]
        For each quantity one number a column, of a history (batch, times).

    Examples
    --------
    >>> still = State(0, 0.0, *(np.zeros((2, 3)),) * 3)
    >>> evaluate_quantities([still], {"tip": Quantity.displacement(1)})
    {'tip': array([0., 0., 0.])}
    """
    found: dict[str, Any] = {}
    for state in states:
        if submodel is not None:
            state = State(state.step, state.t, *(submodel.restrict(x.T).T for x in state[2:]))
        for name, quantity in qoi.items():
            check_choice("over_time", quantity.over_time, OVER_TIME)
            value = np.asarray(quantity.at_step(state))
            before = found.get(name)
            if quantity.over_time == "history":
                found.setdefault(name, []).append(value)
            elif quantity.over_time == "first":
                since = np.where(value > quantity.threshold, state.t, np.inf)
                found[name] = since if before is None else np.minimum(before, since)
            elif before is None or quantity.over_time == "last":
                found[name] = value.copy()
            else:
                found[name] = np.maximum(before, value) if quantity.over_time == "max" else before + value
    for name, quantity in qoi.items():
        if quantity.over_time == "history":
            found[name] = np.stack(found[name], -1)
        elif quantity.over_time == "first":
            found[name] = np.minimum(found[name], state.t)
    return found


def interpolate_histories(
    histories: Float[np.ndarray, "*batch stored"], times: ArrayLike, at: ArrayLike
) -> Float[np.ndarray, "*batch steps"]:
    """Return histories at other times by cubic splines, exact at the stored times, from rest at t = 0.

    Parameters
    ----------
    histories
        Values at the stored times, along the last axis.
    times
        The stored times, rising; where the first is after 0, a zero at t = 0 is added.
    at
        Where values are asked for, from 0 to the last stored time.

    Returns
    -------
    np.ndarray
        Values at the times asked for.

    Raises
    ------
    ValueError
        For times that do not rise, or lie outside the stored ones.

    Examples
    --------
    >>> interpolate_histories(np.array([1.0, 4.0, 9.0]), [1, 2, 3], [1.5, 2.0]).round(12)
    array([2.25, 4.  ])
    """
    histories = np.asarray(histories)
    stored, asked = np.asarray(times, dtype=float), np.asarray(at, dtype=float)
    if stored.ndim != 1 or len(stored) < 2 or not (np.diff(stored) > 0).all() or stored[0] < 0:
        raise ValueError(f"times has shape {stored.shape}; it takes two or more rising numbers from 0 on")
    if histories.shape[-1] != len(stored):
        raise ValueError(f"histories has {histories.shape[-1]} values for {len(stored)} times; it takes as many")
    slack = 1e-9 * stored[-1]
    if asked.size and not (asked.min() >= 0 and asked.max() <= stored[-1] + slack):
        raise ValueError(f"at goes from {asked.min():g} to {asked.max():g}; it takes times from 0 to {stored[-1]:g}")
    if stored[0] > 0:
        stored = np.concatenate([[0.0], stored])
        histories = np.concatenate([np.zeros((*histories.shape[:-1], 1)), histories], -1)
    if len(stored) == len(asked) and np.abs(stored - asked).max() <= slack:
        return histories
    # Splines are linear in the values: one matrix for all histories.
    return np.asarray(histories @ CubicSpline(stored, np.eye(len(stored)))(asked).T)


@dataclass(frozen=True)
class UQResult:
    """Quantities of all samples, and their statistics with Monte Carlo errors.

    Examples
    --------
    >>> result = UQResult({"peak": np.arange(1.0, 100.0)})
    >>> result.mean["peak"], [float(x) for x in result.quantile(0.5)["peak"]]
    (50.0, [50.0, 40.0, 60.0])
    """

    samples: Mapping[str, np.ndarray]
    """For each quantity the values of all samples, of a history (n, times)."""

    @property
    def mean(self) -> dict[str, Any]:
        """The mean of each quantity."""
        return {name: _plain(x.mean(0)) for name, x in self.samples.items()}

    @property
    def std(self) -> dict[str, Any]:
        """The standard deviation of each quantity, without bias in its square."""
        return {name: _plain(x.std(0, ddof=1)) for name, x in self.samples.items()}

    def standard_error(self, of: str = "mean") -> dict[str, Any]:
        """Return the Monte Carlo error, one deviation, of the statistic that `of` names, ``"mean"`` or ``"std"``.

        Returns
        -------
        dict[str, Any]
            The error of each quantity's statistic.
        """
        check_choice("of", of, ("mean", "std"))
        found = {}
        for name, x in self.samples.items():
            s, n = x.std(0, ddof=1), len(x)
            if of == "mean":
                error = s / np.sqrt(n)
            else:
                fourth = ((x - x.mean(0)) ** 4).mean(0)
                with np.errstate(invalid="ignore", divide="ignore"):
                    error = np.where(s > 0, np.sqrt(np.maximum(fourth - s**4, 0) / n) / (2 * s), 0.0)
            found[name] = _plain(error)
        return found

    def ci(self, alpha: float = 0.05, of: str = "mean") -> dict[str, tuple[Any, Any]]:
        """Return intervals of the mean, or the standard deviation, by the normal law of many samples.

        Parameters
        ----------
        alpha
            One minus the coverage; 0.05 by default.
        of
            ``"mean"``, the default, or ``"std"``.

        Returns
        -------
        dict[str, tuple]
            Lower and upper end for each quantity.
        """
        reach = norm.isf(check_number("alpha", alpha, gt=0, lt=1) / 2)
        error, centre = self.standard_error(of), self.mean if of == "mean" else self.std
        return {name: (_plain(centre[name] - reach * e), _plain(centre[name] + reach * e)) for name, e in error.items()}

    def quantile(self, q: float, alpha: float = 0.05) -> dict[str, tuple[Any, Any, Any]]:
        """Return a quantile of each quantity with its interval by order statistics, right for every law.

        Parameters
        ----------
        q
            The share of samples below, from 0 to 1.
        alpha
            One minus the coverage of the interval; 0.05 by default.

        Returns
        -------
        dict[str, tuple]
            The quantile, and the lower and upper end; an end is infinite where there are too few samples for one.
        """
        check_number("q", q, gt=0, lt=1)
        check_number("alpha", alpha, gt=0, lt=1)
        found = {}
        for name, x in self.samples.items():
            n, ordered = len(x), np.sort(x, 0)
            below, above = int(binom.ppf(alpha / 2, n, q)), int(binom.ppf(1 - alpha / 2, n, q)) + 1
            low = ordered[below - 1] if below >= 1 else np.full(x.shape[1:], -np.inf)
            high = ordered[above - 1] if above <= n else np.full(x.shape[1:], np.inf)
            found[name] = (_plain(np.quantile(x, q, axis=0)), _plain(low), _plain(high))
        return found

    def kde(self, name: str) -> gaussian_kde:
        """Return a kernel density of the quantity called `name`, which is one number a sample.

        Returns
        -------
        gaussian_kde
            SciPy's density, called with values of the quantity.
        """
        x = self.samples[check_choice("name", name, self.samples)]
        if x.ndim != 1:
            raise ValueError(f"name is {name!r}, a history; it takes a quantity of one number a sample")
        return gaussian_kde(x)


class SubmodelUQ:
    """Statistics of quantities inside a submodel whose boundary histories are drawn.

    Parameters
    ----------
    submodel
        The zone, from `extract_submodel`.
    sampler
        What draws histories (n, C, n_b, n_t): a trained `WGANGP`, `PCAGaussian` or anything with
        ``sample(n, generator=..., condition=...)``.
    qoi
        Quantities of interest by name.
    model
        The zone's equations, as `Submodel.model` makes them.
    dt
        The step of time: that of the full model, with another one the wave would bring frequencies of its own.
    times
        The times at which histories are stored, of which the last is where the march ends.
    support
        ``"boundary"``, the default: the sampler draws histories at the cut. ``"field"``: it draws displacements of the
        whole zone (n, C, nodes, n_t), of which the trace at the cut is taken.
    ramp
        Steps over which histories that do not begin at rest rise smoothly; 5 by default.
    rtol
        Histories whose displacements at t = 0 are above this share of their largest are not at rest; 1e-9 by default.
    stiffness
        ``stiffness(condition)`` gives a factor of the stiffness for each row of the conditions, where the sampler is
        conditioned on the material; None, the default, is 1.

    Examples
    --------
    >>> import skfem
    >>> from paperworks.reduction import BootstrapSampler, extract_submodel
    >>> mesh = skfem.MeshLine(np.linspace(0, 1, 11))
    >>> basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementLineP1()))
    >>> zone = extract_submodel(basis, [6, 7])
    >>> model = zone.model(Elastodynamics(basis, 1.0, 0.0, 1.0))
    >>> pulled = BootstrapSampler().fit(np.ones((3, 1, 2, 1)) * np.linspace(0, 1, 21))
    >>> uq = SubmodelUQ(zone, pulled, {"middle": Quantity.displacement(1)}, model, 0.05, np.linspace(0, 1, 21))
    >>> round(uq.run(4).mean["middle"], 1)
    1.1
    """

    def __init__(
        self,
        submodel: Submodel,
        sampler: Any,
        qoi: Mapping[str, Quantity],
        model: Elastodynamics,
        dt: float,
        times: ArrayLike,
        support: str = "boundary",
        ramp: int = 5,
        rtol: float = 1e-9,
        stiffness: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if not callable(getattr(sampler, "sample", None)):
            raise TypeError(f"sampler is {type(sampler).__name__}; it takes one with a method sample")
        if not qoi:
            raise ValueError("qoi is empty; it takes a quantity or more")
        if wrong := [name for name, quantity in qoi.items() if not isinstance(quantity, Quantity)]:
            raise TypeError(f"qoi has {wrong[0]!r} of type {type(qoi[wrong[0]]).__name__}; it takes a Quantity")
        if model.n_dofs != len(submodel.dof_map):
            raise ValueError(
                f"model has {model.n_dofs} degrees of freedom and submodel {len(submodel.dof_map)}; they take the same"
            )
        self.submodel, self.sampler, self.qoi, self.model = submodel, sampler, dict(qoi), model
        self.dt, self.times = check_number("dt", dt, gt=0), np.asarray(times, dtype=float)
        if self.times.ndim != 1 or len(self.times) < 2 or not (np.diff(self.times) > 0).all():
            raise ValueError(f"times has shape {self.times.shape}; it takes two or more rising numbers from 0 on")
        self.steps = round(float(self.times[-1]) / dt)
        if abs(self.steps * dt - self.times[-1]) > 1e-6 * dt * max(1, self.steps) or self.steps < 1:
            raise ValueError(f"times ends at {self.times[-1]:g}; it takes a multiple of dt, {dt:g}")
        self.support = check_choice("support", support, SUPPORTS)
        self.ramp, self.rtol = check_count("ramp", ramp), check_number("rtol", rtol, ge=0)
        self.stiffness = stiffness

    def boundary_values(self, histories: Float[np.ndarray, "n c nodes stored"]) -> Float[np.ndarray, "times dofs n"]:
        """Return what drives the submodel: histories at all steps, from rest, as columns.

        Parameters
        ----------
        histories
            What the sampler drew.

        Returns
        -------
        np.ndarray
            Displacements at the cut for `Elastodynamics.solve`.

        Raises
        ------
        ValueError
            Where histories do not match the boundary's degrees of freedom or the times.
        """
        if self.support == "field":
            histories = self.submodel.trace(histories)
        wanted = (*self.submodel.boundary_dofs.shape, len(self.times))
        if histories.ndim != 4 or histories.shape[1:] != wanted:
            raise ValueError(
                f"histories has shape {histories.shape}; the boundary's degrees of freedom and times take (n, "
                f"{', '.join(map(str, wanted))})"
            )
        if not np.isfinite(histories).all():
            raise ValueError("histories has values that are NaN or infinite; it takes finite ones")
        at = np.minimum(np.arange(self.steps + 1) * self.dt, self.times[-1])
        found = interpolate_histories(histories.reshape(len(histories), -1, len(self.times)), self.times, at)
        moving = np.abs(found[..., 0]).max(1) > self.rtol * np.abs(found).max((1, 2))
        if moving.any():
            s = np.minimum(np.arange(self.steps + 1) / self.ramp, 1)
            found = np.where(moving[:, None, None], found * (s**3 * (10 - 15 * s + 6 * s**2)), found)
        return np.ascontiguousarray(found.transpose(2, 1, 0))

    def run(
        self,
        n: int,
        generator: torch.Generator | None = None,
        batch_size: int = 256,
        condition: Any = None,
        progress: Any = silent,
    ) -> UQResult:
        """Draw samples, solve the submodel for all of them, and keep the quantities alone.

        Parameters
        ----------
        n
            How many samples are drawn.
        generator
            Draws the histories; None, the default, takes torch's global one.
        batch_size
            Samples that march at once; 256 by default.
        condition
            Conditions (n, k) for a conditional sampler, such as drawn material parameters; None, the default, for none.
        progress
            Wraps the loop over batches, as `Run.progress` does; silent by default.

        Returns
        -------
        UQResult
            The quantities of all samples.
        """
        check_count("n", n, at_least=2)
        more = {} if condition is None else {"condition": np.asarray(condition)}
        if condition is not None and len(more["condition"]) != n:
            raise ValueError(f"condition has {len(more['condition'])} rows for {n} samples; it takes one for each")
        histories = np.asarray(self.sampler.sample(n, generator=generator, **more))
        if len(histories) != n:
            raise ValueError(f"sampler draws {len(histories)} samples where {n} are asked for; it takes as many")
        factors = None
        if self.stiffness is not None:
            if condition is None:
                raise ValueError("condition is None; stiffness takes conditions")
            factors = np.asarray(self.stiffness(more["condition"]), dtype=float)
            if factors.shape != (n,):
                raise ValueError(f"stiffness returns shape {factors.shape}; it takes ({n},), a factor for each sample")
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.qoi}
        order = []
        for columns, factor in progress(list(self._batches(n, batch_size, factors)), label="batches"):
            values = self.boundary_values(histories[columns])
            drive = (self.submodel.boundary_dofs.ravel(), values)
            states = self.model.march(drive, dt=self.dt, steps=self.steps, stiffness=factor)
            for name, value in evaluate_quantities(states, self.qoi).items():
                parts[name].append(value)
            order.append(columns)
        back = np.argsort(np.concatenate(order))
        return UQResult({name: np.concatenate(part)[back] for name, part in parts.items()})

    def _batches(self, n: int, size: int, factors: np.ndarray | None) -> Iterable[tuple[np.ndarray, Any]]:
        """Yield samples that march at once: with the implicit scheme those of one stiffness."""
        check_count("batch_size", size)
        whole = factors is None or self.model.scheme == "central"
        groups = [np.arange(n)]
        if factors is not None and not whole:
            groups = [np.flatnonzero(factors == value) for value in np.unique(factors)]
        for group in groups:
            for start in range(0, len(group), size):
                part = group[start : start + size]
                yield part, None if factors is None else (factors[part] if whole else float(factors[part[0]]))


def _plain(x: Any) -> Any:
    """Return a number as Python's, arrays as they are."""
    return float(x) if np.ndim(x) == 0 else x
