"""Weights of quadrature on sorted points, which turn an integral into a linear observation."""

from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import simpson
from torch import Tensor

from paperworks.core.validation import check_choice, check_finite

Rule = Literal["trapezoid", "left", "right", "simpson"]


def quadrature_weights(
    x: Float[Tensor, "*batch n"] | Float[np.ndarray, "*batch n"], rule: Rule = "trapezoid"
) -> Float[Tensor, "*batch n"] | Float[np.ndarray, "*batch n"]:
    """Return the weights with which values at sorted points add up to their integral.

    Parameters
    ----------
    x
        Points in floating point, strictly increasing along the last axis, evenly spaced or not.
    rule
        "trapezoid", "left" and "right" Riemann sums, or "simpson".

    Returns
    -------
    Tensor or ndarray of shape (..., n)
        One weight for each point, of the kind of `x`.

    Raises
    ------
    TypeError
        For points that aren't floating point numbers.
    ValueError
        For points that aren't finite and strictly increasing, or fewer than two, or an unknown rule.

    Notes
    -----
    arXiv 2302.11002, section 3: the row g of the constraint.

    Examples
    --------
    >>> quadrature_weights(torch.tensor([0.0, 1.0, 3.0]))
    tensor([0.5000, 1.5000, 1.0000])
    """
    check_choice("rule", rule, get_args(Rule))
    if isinstance(x, np.ndarray):
        return np.asarray(quadrature_weights(torch.from_numpy(x.copy()), rule))
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}; it takes floating point numbers")
    if x.ndim < 1 or x.shape[-1] < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; it takes two points or more along the last axis")
    steps = check_finite("x", x).diff(dim=-1)
    if not bool((steps > 0).all()):
        raise ValueError("x is not strictly increasing along its last axis; it takes sorted, different points")
    check_finite("the distance of points in x", steps)
    if rule == "simpson" and x.numel():
        rows = x.detach().double().cpu().reshape(-1, x.shape[-1]).numpy()
        unit = np.eye(x.shape[-1])
        weights = np.stack([simpson(unit, x=row, axis=-1) for row in rows])
        return torch.from_numpy(weights).to(x).reshape(x.shape)
    none = torch.zeros_like(x[..., :1])
    before, after = torch.cat([none, steps], dim=-1), torch.cat([steps, none], dim=-1)
    return {"trapezoid": (before + after) / 2, "left": after, "right": before}[rule]
