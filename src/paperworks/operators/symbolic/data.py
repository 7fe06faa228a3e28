"""Trajectories of families of equations, with measurement noise."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_finite, check_number
from paperworks.operators.symbolic.families import FAMILIES, ODEFamily
from paperworks.operators.symbolic.integration import simulate
from paperworks.operators.symbolic.systems import System

_ROUNDS = 50  # of new initial conditions in place of those whose trajectories were given up


@dataclass(frozen=True)
class ODEDataset:
    """Trajectories of several families, and their equations.

    Parameters
    ----------
    times
        Times of all trajectories, rising from 0.
    clean
        Solutions, (n, times, d); where a family has fewer components than another, the rest are 0.
    observed
        The same with measurement noise.
    dimensions
        Components of each.
    systems
        Equations of each.
    families
        Name of each one's family.

    Examples
    --------
    >>> data = generate_dataset(["thomas", "lorenz_96_4"], 4, random_state=0, points=16)
    >>> data.observed.shape, data.dimensions.tolist()
    (torch.Size([4, 16, 4]), [3, 3, 3, 3])
    """

    times: Float[Tensor, " times"]
    clean: Float[Tensor, "n times d"]
    observed: Float[Tensor, "n times d"]
    dimensions: Tensor
    systems: tuple[System, ...]
    families: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.systems)

    def with_noise(
        self, noise: float, random_state: int | np.random.Generator, kind: Literal["additive", "multiplicative"]
    ) -> "ODEDataset":
        """Return the same trajectories with other noise.

        Parameters
        ----------
        noise
            Size of the noise relative to the trajectory's.
        random_state
            Seed, or NumPy's generator.
        kind
            As `add_noise` takes it.

        Returns
        -------
        ODEDataset
            The dataset with a new `observed`.
        """
        return replace(self, observed=add_noise(self.clean, noise, random_state, kind))


def add_noise(
    states: Float[Tensor, "n times d"],
    noise: float,
    random_state: int | np.random.Generator,
    kind: Literal["additive", "multiplicative"] = "additive",
) -> Float[Tensor, "n times d"]:
    """Return trajectories with measurement noise (arXiv 2309.16816, the section on the data).

    Parameters
    ----------
    states
        Trajectories; columns that are 0 throughout stay so.
    noise
        Size of the noise relative to the trajectory's; 0.02 in the paper.
    random_state
        Seed, or NumPy's generator.
    kind
        "additive": normal noise of one size all along a trajectory, whose norm is `noise` times the trajectory's;
        "multiplicative": each value is off by a normal share of itself.

    Returns
    -------
    Tensor
        New trajectories of the same type.

    Raises
    ------
    ValueError
        For negative noise, an unknown kind, or states that aren't finite, of floating point and of three dimensions.

    Examples
    --------
    >>> off = add_noise(torch.ones(1, 50, 2), 0.02, random_state=0) - 1
    >>> round((off.norm() / 10).item(), 6)
    0.02
    """
    check_number("noise", noise, ge=0)
    check_choice("kind", kind, ("additive", "multiplicative"))
    if states.ndim != 3 or not states.is_floating_point():
        raise ValueError(
            f"states is {states.dtype} of shape {tuple(states.shape)}; it takes floating point, (n, times, d)"
        )
    check_finite("states", states)
    drawn = torch.from_numpy(np.random.default_rng(random_state).standard_normal(tuple(states.shape))).to(states)
    if kind == "multiplicative":
        return states + noise * states.abs() * drawn
    drawn = drawn * states.any(1, keepdim=True)
    # In units of each trajectory's greatest value, so that no square is lost at either end of the range.
    unit = states.abs().amax((1, 2), keepdim=True)
    scaled, off = states.double() / torch.where(unit > 0, unit, 1.0).double(), drawn.double()
    size = noise * scaled.norm(dim=(1, 2), keepdim=True) / off.norm(dim=(1, 2), keepdim=True).clamp_min(1e-300)
    return states + (size * off).to(states) * unit


def generate_dataset(
    families: Sequence[str | ODEFamily],
    n: int,
    random_state: int | np.random.Generator,
    noise: float = 0.02,
    *,
    kind: Literal["additive", "multiplicative"] = "additive",
    gamma: float = 0.1,
    per_draw: int = 20,
    end: float = 6.0,
    points: int = 192,
    start: tuple[float, float] = (-2.0, 2.0),
    float_precision: int = 2,
    rtol: float = 1e-6,
    atol: float = 1e-6,
) -> ODEDataset:
    """Simulate trajectories of families of equations (arXiv 2309.16816, the section on the data).

    Families take turns; each turn draws coefficients, rounds them to what tokens can say, and simulates several initial
    states. All trajectories of a family are integrated at once.

    Parameters
    ----------
    families
        Names of `FAMILIES`, or families of one's own.
    n
        Number of trajectories.
    random_state
        Seed, or NumPy's generator.
    noise, kind
        Noise of `observed`, as `add_noise` takes it; 2 % and additive in the paper.
    gamma
        Half the width of the coefficients' ranges relative to the nominal values; 0.1 in the paper.
    per_draw
        Initial states for each draw of coefficients; 20 in the paper's training, 4 in its tests.
    end, points
        Last time and number of evenly spaced times, 6 and 192 in the paper.
    start
        Ends of the interval that each component's initial value is drawn from evenly; -2 and 2 in the paper.
    float_precision
        Digits of the coefficients after the first one; those of the tokens, 2, by default.
    rtol, atol
        Tolerances of the integration, 1e-6 each by default.

    Returns
    -------
    ODEDataset
        Trajectories in single precision, integrated in double precision.

    Raises
    ------
    ValueError
        For an unknown family, none at all, or counts that are too small.
    RuntimeError
        Where hardly any trajectory of a family stays below 1e3, so that none can be drawn.

    Examples
    --------
    >>> data = generate_dataset(["thomas", "sprott_b"], 6, random_state=0, per_draw=2)
    >>> data.families
    ('thomas', 'thomas', 'sprott_b', 'sprott_b', 'thomas', 'thomas')
    """
    if not families:
        raise ValueError("families is empty; it takes one or more")
    known = [FAMILIES[check_choice("families", f, FAMILIES)] if isinstance(f, str) else f for f in families]
    check_count("n", n)
    check_count("per_draw", per_draw)
    check_count("points", points, at_least=2)
    low, high = (check_number("start", value) for value in start)
    if low > high:
        raise ValueError(f"start is {start}; it takes the lower end first")
    times = np.linspace(0.0, check_number("end", end, gt=0), points)
    rng = np.random.default_rng(random_state)
    draws = -(-n // per_draw)
    of_draw = [known[i % len(known)] for i in range(draws)]
    coefficients = [family.sample_parameters(rng, gamma, float_precision) for family in of_draw]
    rows = [i for i, _ in itertools.product(range(draws), range(per_draw))][:n]
    widest = max(family.dimension for family in known)
    clean = torch.zeros(n, points, widest, dtype=torch.float64)
    for member in {id(family): family for family in known}.values():
        mine = [k for k, i in enumerate(rows) if of_draw[i] is member]
        if mine:
            values = torch.from_numpy(np.stack([coefficients[rows[k]] for k in mine]))
            clean[mine, :, : member.dimension] = _accepted(member, values, times, rng, start, rtol, atol)
    systems = {i: family.system(coefficients[i]) for i, family in enumerate(of_draw)}
    states = clean.float()
    return ODEDataset(
        torch.from_numpy(times).float(),
        states,
        add_noise(states, noise, rng, kind),
        torch.tensor([of_draw[i].dimension for i in rows]),
        tuple(systems[i] for i in rows),
        tuple(of_draw[i].name for i in rows),
    )


def _accepted(
    family: ODEFamily,
    values: Tensor,
    times: np.ndarray,
    rng: np.random.Generator,
    ends: tuple[float, float],
    rtol: float,
    atol: float,
) -> Float[Tensor, "n times d"]:
    """Return one trajectory for each row of coefficients, from initial states that don't run away."""
    found = torch.full((len(values), len(times), family.dimension), torch.nan, dtype=torch.float64)
    for _ in range(_ROUNDS):
        missing = found[:, 0, 0].isnan().nonzero()[:, 0]
        if not len(missing):
            return found
        start = torch.from_numpy(rng.uniform(*ends, (len(missing), family.dimension)))
        found[missing] = simulate(partial(family.rhs, parameters=values[missing]), start, times, rtol, atol)
    raise RuntimeError(
        f"{family.name}: after {_ROUNDS} draws of initial states, {int(found[:, 0, 0].isnan().sum())} trajectories "
        "still run away; a smaller gamma or end may help"
    )
