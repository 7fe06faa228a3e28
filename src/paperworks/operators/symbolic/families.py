"""Families of ordinary differential equations, each written once for trees and for tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.operators.symbolic.expressions import Expr, wrapped
from paperworks.operators.symbolic.systems import System

Field = Callable[[Sequence[Any], Mapping[str, Any]], Sequence[Any]]


@dataclass(frozen=True)
class ODEFamily:
    """Equations ``u' = f(u)`` that differ in their coefficients (arXiv 2309.16816, the appendix on the data).

    Parameters
    ----------
    name
        What the family is called.
    dimension
        Components of the state.
    nominal
        Coefficients by name, at the middle of their ranges.
    field
        ``field(u, p)`` returns the slopes of the components `u` with coefficients `p`, written with operators and with
        the methods `sin`, `cos` and `square`, which trees and tensors share.

    Examples
    --------
    >>> family = FAMILIES["thomas"]
    >>> print(family.system())
    u_0' = (sin(u_1) - (0.17 * u_0)), u_1' = (sin(u_2) - (0.17 * u_1)), u_2' = (sin(u_0) - (0.17 * u_2))
    >>> family.rhs(torch.zeros(1, 3), torch.tensor([[0.17]]))
    tensor([[0., 0., 0.]])
    """

    name: str
    dimension: int
    nominal: Mapping[str, float]
    field: Field

    def sample_parameters(
        self, random_state: int | np.random.Generator, gamma: float = 0.1, float_precision: int = 2
    ) -> Float[np.ndarray, " k"]:
        """Draw coefficients evenly around the nominal ones, and round them to what tokens can say.

        Parameters
        ----------
        random_state
            Seed, or NumPy's generator.
        gamma
            Half the width of the ranges relative to the nominal values; 0.1 in the paper's training.
        float_precision
            Digits kept after the first one; those of the tokens, 2, by default.

        Returns
        -------
        ndarray
            One number for each name of `nominal`.

        Raises
        ------
        ValueError
            For a negative width or precision.
        """
        check_number("gamma", gamma, ge=0)
        check_count("float_precision", float_precision, at_least=0)
        middle = np.array([*self.nominal.values()])
        drawn = middle + gamma * np.abs(middle) * np.random.default_rng(random_state).uniform(-1, 1, middle.shape)
        return np.array([float(f"{value:.{float_precision}e}") for value in drawn])

    def rhs(self, u: Float[Tensor, "n d"], parameters: Float[Tensor, "rows k"]) -> Float[Tensor, "n d"]:
        """Return the slopes at states.

        Parameters
        ----------
        u
            States in rows.
        parameters
            Coefficients of each state, or one row for all.

        Returns
        -------
        Tensor
            Slopes in rows.

        Raises
        ------
        ValueError
            For states or coefficients of another number.
        TypeError
            For states that aren't of floating point.
        """
        if u.ndim != 2 or u.shape[1] != self.dimension:
            raise ValueError(f"u has shape {tuple(u.shape)}; {self.name} takes rows of {self.dimension} components")
        if not u.is_floating_point():
            raise TypeError(f"u is {u.dtype}; it takes a tensor of floating point")
        if parameters.shape not in ((len(u), len(self.nominal)), (1, len(self.nominal))):
            raise ValueError(
                f"parameters has shape {tuple(parameters.shape)}; {self.name} takes {len(self.nominal)} in each of "
                f"{len(u)} rows, or one row"
            )
        slopes = self.field(u.unbind(1), dict(zip(self.nominal, parameters.to(u).unbind(1), strict=True)))
        return torch.stack([torch.as_tensor(slope).to(u).expand(len(u)) for slope in slopes], 1)

    def system(self, parameters: Sequence[float] | Float[np.ndarray, " k"] | None = None) -> System:
        """Return the equations as trees.

        Parameters
        ----------
        parameters
            Coefficients in the order of `nominal`, which they are by default.

        Returns
        -------
        System
            One tree for each component.

        Raises
        ------
        ValueError
            For another number of coefficients.
        """
        values = [*self.nominal.values()] if parameters is None else [float(p) for p in parameters]
        if len(values) != len(self.nominal):
            raise ValueError(f"parameters has {len(values)} numbers; {self.name} takes {len(self.nominal)}")
        u = [Expr.variable(i) for i in range(self.dimension)]
        given = dict(zip(self.nominal, map(wrapped, values), strict=True))
        return System(tuple(map(wrapped, self.field(u, given))))


def _thomas(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    return [u[(i + 1) % 3].sin() - p["b"] * u[i] for i in range(3)]


def _lorenz(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    x, y, z = u
    return p["sigma"] * (y - x), x * (p["rho"] - z) - y, x * y - p["beta"] * z


def _aizawa(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    # Reduced as in the authors' code: the term with a fifth coefficient is left out.
    x, y, z = u
    a, b, c, d, f = (p[name] for name in "abcdf")
    return (
        (z - b) * x - d * y,
        d * x + (z - b) * y,
        c + a * z - z * z.square() / 3 - x.square() + f * z * (x * x.square()),
    )


def _chen_lee(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    x, y, z = u
    return p["a"] * x - y * z, p["b"] * y + x * z, p["d"] * z + x * y / 3


def _dadras(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    x, y, z = u
    a, b, c, d, e = (p[name] for name in "abcde")
    return 0.5 * y - a * x + b * y * z, c * y - 0.5 * x * z + 0.5 * z, d * x * y - e * z


def _rossler(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    x, y, z = u
    return -y - z, x + p["a"] * y, p["b"] + z * (x - p["c"])


def _halvorsen(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    turned = [(u[i], u[(i + 1) % 3], u[(i + 2) % 3]) for i in range(3)]
    return [p["a"] * x - y - z - y.square() / 4 for x, y, z in turned]


def _rabinovich_fabrikant(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    x, y, z = u
    # The coefficient of z is -2 alpha, one number, as in the authors' code.
    return (
        y * (z - 1 + x.square()) + p["gamma"] * x,
        x * (3 * z + 1 - x.square()) + p["gamma"] * y,
        p["minus_2_alpha"] * z - 2 * x * y * z,
    )


def _sprott_b(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    x, y, z = u
    return p["a"] * y * z, x - p["b"] * y, p["c"] - x * y


def _sprott_linz_f(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    x, y, z = u
    return y + z, -x + p["a"] * y, x.square() - z


def _four_wing(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    x, y, z = u
    return p["a"] * x + y * z, p["b"] * x + p["c"] * y - x * z, -z - x * y


def _lorenz_96(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    d = len(u)
    return [(u[(i + 1) % d] - u[i - 2]) * u[i - 1] - u[i] + p["F"] for i in range(d)]


def _duffing(u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    time, x, v = u
    forced = p["gamma"] * (p["omega"] * time).cos()
    return 1, v, p["delta"] * v + p["alpha"] * x + p["beta"] * (x * x.square()) + forced


def _double_pendulum(factor: int, u: Sequence[Any], p: Mapping[str, Any]) -> Sequence[Any]:
    # Two rods. The authors' code has a factor of 1 for the last speed squared, physics 2.
    a, b, v, w = u
    g = p["g"]
    apart = a - b
    under = 3 - (2 * apart).cos()
    last = w.square() * apart.cos()
    first = -3 * g * a.sin() - g * (a - 2 * b).sin()
    first = first - 2 * apart.sin() * (w.square() + v.square() * apart.cos())
    second = 2 * apart.sin() * (2 * v.square() + 2 * g * a.cos() + last)
    if factor == 1:
        second = apart.sin() * (4 * v.square() + 4 * g * a.cos() + last)
    return v, w, first / under, second / under


def _families() -> dict[str, ODEFamily]:
    rows: list[tuple[str, int, dict[str, float], Field]] = [
        ("thomas", 3, {"b": 0.17}, _thomas),
        ("lorenz", 3, {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3}, _lorenz),
        ("aizawa", 3, {"a": 0.95, "b": 0.7, "c": 0.6, "d": 3.5, "f": 0.1}, _aizawa),
        ("chen_lee", 3, {"a": 5.0, "b": -10.0, "d": -0.38}, _chen_lee),
        ("dadras", 3, {"a": 1.25, "b": 1.15, "c": 0.75, "d": 0.8, "e": 4.0}, _dadras),
        ("rossler", 3, {"a": 0.1, "b": 0.1, "c": 14.0}, _rossler),
        ("halvorsen", 3, {"a": -0.35}, _halvorsen),
        ("rabinovich_fabrikant", 3, {"minus_2_alpha": -1.96, "gamma": 0.1}, _rabinovich_fabrikant),
        ("sprott_b", 3, {"a": 0.4, "b": 1.2, "c": 1.0}, _sprott_b),
        ("sprott_linz_f", 3, {"a": 0.5}, _sprott_linz_f),
        ("four_wing", 3, {"a": 0.2, "b": 0.01, "c": -0.4}, _four_wing),
        ("lorenz_96_4", 4, {"F": 8.0}, _lorenz_96),
        ("lorenz_96_5", 5, {"F": 8.0}, _lorenz_96),
        ("duffing", 3, {"delta": -0.02, "alpha": -1.0, "beta": -5.0, "gamma": 8.0, "omega": 0.5}, _duffing),
        ("double_pendulum", 4, {"g": 9.81}, partial(_double_pendulum, 1)),
        ("double_pendulum_physical", 4, {"g": 9.81}, partial(_double_pendulum, 2)),
    ]
    return {row[0]: ODEFamily(*row) for row in rows}


FAMILIES: dict[str, ODEFamily] = _families()
"""The 15 families of the paper by name, and the double pendulum as physics has it, with a factor of 2 in the last
equation that the authors' code lacks."""
