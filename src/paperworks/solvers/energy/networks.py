"""Two-layer networks drawn from a sum of cosines, unit by unit, with errors that the Barron norm bounds."""

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number

Kind = Literal["cos", "sigmoid", "relu"]


class RidgeNetwork(nn.Module):
    """A two-layer network: the sum of outer weights times an activation of ridges, and an affine function.

    Parameters
    ----------
    inner
        Directions of the ridges, one row for each hidden unit.
    shift
        Offsets of the ridges.
    outer
        Weights of the hidden units.
    kind
        Activation: "cos", "sigmoid" – the step function, or a logistic one of finite `slope` – or "relu".
    affine
        Weights and constant of the affine part; zeros by default.
    slope
        Slope of the sigmoids; infinite by default.

    Raises
    ------
    ValueError
        For shapes that don't fit or an unknown kind.

    Examples
    --------
    >>> from paperworks.solvers import TrigSum
    >>> u = TrigSum.cosines([[1, 0]], [1.0])
    >>> network = RidgeNetwork.of(u, "cos", width=4, random_state=0)
    >>> network(torch.zeros(2, 2, dtype=torch.float64))
    tensor([1., 1.], dtype=torch.float64)
    """

    inner: Tensor
    shift: Tensor
    outer: Tensor
    linear: Tensor
    constant: Tensor

    def __init__(
        self,
        inner: Float[Tensor, "width dim"],
        shift: Float[Tensor, " width"],
        outer: Float[Tensor, " width"],
        kind: Kind,
        affine: tuple[Float[Tensor, " dim"], float] | None = None,
        slope: float = math.inf,
    ) -> None:
        super().__init__()
        self.kind = check_choice("kind", kind, get_args(Kind))
        if inner.ndim != 2 or shift.shape != inner.shape[:1] or outer.shape != inner.shape[:1]:
            raise ValueError(
                f"inner has shape {tuple(inner.shape)}, shift {tuple(shift.shape)} and outer {tuple(outer.shape)}; they"
                " take (width, dim), (width,) and (width,)"
            )
        self.slope = slope if slope == math.inf else check_number("slope", slope, gt=0)
        weights, constant = (torch.zeros_like(inner[0]), 0.0) if affine is None else affine
        for name, value in (("inner", inner), ("shift", shift), ("outer", outer), ("linear", weights)):
            self.register_parameter(name, nn.Parameter(value))
        self.register_parameter("constant", nn.Parameter(inner.new_tensor(constant)))

    @classmethod
    def of(
        cls,
        u: Any,
        kind: Kind = "cos",
        width: int = 100,
        random_state: int | np.random.Generator | None = None,
        slope: float = math.inf,
    ) -> "RidgeNetwork":
        """Draw a network that is, in the mean over draws, a given function on the unit cube.

        A cosine is drawn in proportion to |c|. Its profile g along its direction is g(z0) plus the integral of g'(t)
        times a step at t, or, for relu, an affine part plus that of g''(t) times a hinge at t; the place t is drawn in
        proportion to |g'| or |g''|, exactly.

        Parameters
        ----------
        u
            The function to approximate, a `TrigSum`.
        kind
            Activation of the hidden units.
        width
            Number of hidden units.
        random_state
            Seed, or NumPy's generator.
        slope
            Slope of the sigmoids. A finite one adds an error that doesn't fall with the width.

        Returns
        -------
        RidgeNetwork
            The network, in float64.

        Raises
        ------
        ValueError
            For a width below 1 or an unknown kind.

        Notes
        -----
        Barron (1993): the mean squared error is at most ``mass² / width`` for cosines and ``(2 C)² / width`` for
        sigmoids, with C the Barron norm times the radius sqrt(dim) / 2 of the cube.
        """
        check_count("width", width)
        check_choice("kind", kind, get_args(Kind))
        rng = np.random.default_rng(random_state)
        omega = 2 * np.pi / u.period * u.frequencies.astype(float)
        sizes, phases = np.abs(u.coefficients), np.angle(u.coefficients)
        if kind == "cos":
            drawn = _drawn(sizes, width, rng)
            outer = np.full(width, sizes.sum() / width)
            return cls(*_tensors(omega[drawn], phases[drawn], outer), kind)
        lengths = np.linalg.norm(omega, axis=1)
        still = lengths == 0
        constant = float((sizes[still] * np.cos(phases[still])).sum())
        omega, sizes, phases, lengths = omega[~still], sizes[~still], phases[~still], lengths[~still]
        unit = omega / lengths[:, None]
        # Along its direction z = unit·x, from the cube's first corner to its last, a cosine goes through these angles.
        first = phases + np.minimum(omega, 0).sum(1)
        last = phases + np.maximum(omega, 0).sum(1)
        # |g'| / length is |sin|; |g''| / length² is |cos|, the same a quarter turn on.
        turn = 0.0 if kind == "sigmoid" else np.pi / 2
        begin, end = _area(first + turn), _area(last + turn)
        masses = sizes * (end - begin) * (1.0 if kind == "sigmoid" else lengths)
        drawn = _drawn(masses, width, rng)
        angle = _angle(begin[drawn] + rng.random(width) * (end - begin)[drawn]) - turn
        sign = -np.sign(np.sin(angle) if kind == "sigmoid" else np.cos(angle))
        # A step at unit·x = t, with t where the cosine's angle is the one drawn.
        shift = -(angle - phases[drawn]) / lengths[drawn]
        outer = sign * masses.sum() / width
        start = sizes * np.cos(first)
        linear = np.zeros(u.dim)
        if kind == "relu":
            slopes = -sizes * lengths * np.sin(first)
            corner = np.minimum(unit, 0).sum(1)
            linear, start = slopes @ unit, start - slopes * corner
        affine = (torch.from_numpy(linear), constant + float(start.sum()))
        return cls(*_tensors(unit[drawn], shift, outer), kind, affine, slope)

    def hidden(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch width"]:
        """Return the activations of the hidden units.

        Parameters
        ----------
        x
            Points of the unit cube, one row each.

        Returns
        -------
        Tensor of shape (batch, width)
            One column for each hidden unit.
        """
        ridges = x @ self.inner.T + self.shift
        if self.kind == "cos":
            return ridges.cos()
        if self.kind == "relu":
            return ridges.relu()
        return (ridges >= 0).to(x.dtype) if self.slope == math.inf else (self.slope * ridges).sigmoid()

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """Return the network's values.

        Parameters
        ----------
        x
            Points of the unit cube, one row each.

        Returns
        -------
        Tensor of shape (batch,)
            One value for each point.
        """
        return self.hidden(x) @ self.outer + x @ self.linear + self.constant

    @torch.no_grad()
    def refit(self, x: Float[Tensor, "batch dim"], y: Float[Tensor, " batch"]) -> "RidgeNetwork":
        """Fit the outer weights to values by least squares, which is never worse on these points.

        Parameters
        ----------
        x
            Points, one row each.
        y
            Values wanted at the points.

        Returns
        -------
        RidgeNetwork
            The network itself, fitted.

        Raises
        ------
        ValueError
            For values of another number than points, or ones that aren't finite.
        """
        if y.shape != x.shape[:1]:
            raise ValueError(f"y has shape {tuple(y.shape)}; it takes one value for each of {len(x)} points")
        if not (x.isfinite().all() and y.isfinite().all()):
            raise ValueError("x or y has NaN or infinite elements; they take finite ones")
        before = (self(x) - y).square().sum()
        wanted = (y - x @ self.linear - self.constant).double()
        kept = self.outer.clone()
        # Hidden units may be dependent, for which LAPACK alone has a driver.
        hidden = self.hidden(x).double().cpu()
        self.outer.copy_(torch.linalg.lstsq(hidden, wanted.cpu()[:, None], driver="gelsd").solution[:, 0])
        if (self(x) - y).square().sum() > before:  # by rounding
            self.outer.copy_(kept)
        return self


def _tensors(inner: np.ndarray, shift: np.ndarray, outer: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    return torch.from_numpy(inner), torch.from_numpy(shift), torch.from_numpy(outer)


def _drawn(masses: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    total = masses.sum()
    if not total > 0:
        raise ValueError("u has no terms that vary; a network of it has no hidden units to draw")
    return np.asarray(rng.choice(len(masses), size=count, p=masses / total))


def _area(angle: np.ndarray) -> np.ndarray:
    """Return the integral of |sin| from 0 to an angle."""
    halves = np.floor(angle / np.pi)
    return 2 * halves + 1 - np.cos(angle - halves * np.pi)


def _angle(area: np.ndarray) -> np.ndarray:
    """Return the angle of an area, the inverse of `_area`."""
    halves = np.floor(area / 2)
    return halves * np.pi + np.arccos(np.clip(1 - (area - 2 * halves), -1, 1))
