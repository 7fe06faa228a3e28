"""Projections and proximal operators of simple sets and functions, of NumPy arrays and torch tensors.

Each takes the point and a step: `prox(v, step)` is the resolvent of `step` times the subdifferential, which for the
indicator of a set is the projection on it whatever the step. Options are bound by `functools.partial`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_number

Array = Any
"""A NumPy array or a torch tensor."""

Prox = Callable[[Array, float], Array]
"""A proximal operator: of a point and a step."""


def namespace(v: Array) -> Any:
    """Return the library of an array, torch or NumPy.

    Parameters
    ----------
    v
        A NumPy array, or a torch tensor.

    Returns
    -------
    module
        The module `torch` or `numpy`.
    """
    if isinstance(v, np.ndarray):
        return np
    import torch

    if isinstance(v, torch.Tensor):
        return torch
    raise TypeError(f"v is {type(v).__name__}; it takes a NumPy array or a torch tensor")


def prox_simplex(v: Array, step: float = 1.0, *, radius: float = 1.0) -> Array:
    """Project on the simplex of nonnegative entries that add up to `radius`, along the last axis.

    The shift that makes the positive entries add up is the largest of those of the k greatest entries, over k.

    Parameters
    ----------
    v
        The points, any number of axes before the last.
    step
        Without effect, as for all projections.
    radius
        The sum of the entries.

    Returns
    -------
    array
        The nearest points of the simplex, of the type of `v`.

    Raises
    ------
    ValueError
        If an entry is not finite, or the radius not positive.

    Examples
    --------
    >>> prox_simplex(np.array([0.5, 1.0, -2.0]))
    array([0.25, 0.75, 0.  ])
    """
    check_number("radius", radius, gt=0)
    xp, size = namespace(v), v.shape[-1]
    _check_points("v", v)
    if size == 0:
        raise ValueError("v has no entries; a simplex takes one or more")
    v = v - xp.amax(v, -1)[..., None]  # so that what counts loses no digits to a common shift
    among = v[v > -radius] if v.ndim == 1 else v  # no other entry comes out positive, and sorting is what costs
    if xp is np:
        greatest = np.sort(among, -1)[..., ::-1]
        ranks = np.arange(1, among.shape[-1] + 1, dtype=v.dtype)
    else:
        greatest = xp.sort(among, -1, descending=True).values
        ranks = xp.arange(1, among.shape[-1] + 1, dtype=v.dtype, device=v.device)
    shift = xp.amax((xp.cumsum(greatest, -1) - radius) / ranks, -1)[..., None]
    return (v - shift).clip(0, None)


def prox_box(v: Array, step: float = 1.0, *, lower: Any = 0.0, upper: Any = None) -> Array:
    """Project on the box between `lower` and `upper`; by default on the nonnegative orthant.

    Parameters
    ----------
    v
        The points, of any shape that bounds spread to.
    step
        Without effect, as for all projections.
    lower, upper
        Numbers or arrays; None for no bound on that side.

    Returns
    -------
    array
        The nearest points of the box, of the type of `v`.

    Raises
    ------
    ValueError
        If a lower bound is above its upper one.

    Examples
    --------
    >>> prox_box(np.array([-1.0, 0.5, 3.0]), upper=1.0)
    array([0. , 0.5, 1. ])
    """
    xp = namespace(v)
    if lower is not None and upper is not None and bool(np.any(np.asarray(lower) > np.asarray(upper))):
        raise ValueError(f"lower is {lower!r}, above upper {upper!r}; it takes bounds that leave a box")
    if xp is np:
        return v if lower is None and upper is None else np.clip(v, lower, upper)
    for bound, within in ((lower, xp.maximum), (upper, xp.minimum)):
        if bound is not None:
            v = within(v, xp.as_tensor(bound, dtype=v.dtype, device=v.device))
    return v


def prox_l1(v: Array, step: float = 1.0, *, weight: Any = 1.0) -> Array:
    """Take the proximal operator of `weight` times the sum of absolute values: soft thresholding.

    Parameters
    ----------
    v
        The points, of any shape that the weight spreads to.
    step
        By what the weight is multiplied.
    weight
        A nonnegative number, or an array of them.

    Returns
    -------
    array
        Each entry moved towards 0 by `step * weight`, and not beyond.

    Examples
    --------
    >>> prox_l1(np.array([-3.0, 0.5, 2.0]), 0.5, weight=2.0)
    array([-2.,  0.,  1.])
    """
    xp, by = namespace(v), step * weight
    if not bool((np.asarray(weight) >= 0).all()):
        raise ValueError(f"weight is {weight!r}; it takes numbers >= 0")
    return v - (v.clip(-by, by) if np.ndim(by) == 0 else xp.maximum(xp.minimum(v, by), -by))


def prox_ball(v: Array, step: float = 1.0, *, radius: float = 1.0, center: Any = 0.0) -> Array:
    """Project on the Euclidean ball, along the last axis.

    Parameters
    ----------
    v
        The points, any number of axes before the last.
    step
        Without effect, as for all projections.
    radius
        Radius of the ball; 0 leaves its centre.
    center
        Centre of the ball, the origin by default.

    Returns
    -------
    array
        The nearest points of the ball, of the type of `v`.

    Examples
    --------
    >>> prox_ball(np.array([3.0, 4.0]))
    array([0.6, 0.8])
    """
    check_number("radius", radius, ge=0)
    xp = namespace(v)
    _check_points("v", v)
    away = v - center
    scale = xp.amax(abs(away), -1)[..., None]  # squares of huge and tiny entries leave the range
    scale = xp.where(scale > 0, scale, xp.ones_like(scale))
    norm = scale * xp.sqrt(((away / scale) ** 2).sum(-1))[..., None]
    return xp.where(norm > radius, center + away * (radius / xp.where(norm > 0, norm, xp.ones_like(norm))), v)


def prox_affine(A: Float[np.ndarray, "m d"], b: Float[np.ndarray, " m"]) -> Prox:
    """Return the projection on the solutions of `A x = b`, in the sense of least squares where there are none.

    Parameters
    ----------
    A
        The matrix, of any rank; it is decomposed once.
    b
        The right-hand side of the equations.

    Returns
    -------
    Prox
        The projection, along the last axis.

    Raises
    ------
    ValueError
        If shapes don't match, or an entry is not finite.

    Examples
    --------
    >>> prox_affine(np.ones((1, 2)), np.array([1.0]))(np.array([2.0, 0.0]))
    array([ 1.5, -0.5])
    """
    A, b = np.asarray(A, dtype=float), np.asarray(b, dtype=float)
    if A.ndim != 2 or b.shape != A.shape[:1]:
        raise ValueError(f"A has shape {A.shape} and b {b.shape}; they take (m, d) and (m,)")
    _check_points("A", A)
    _check_points("b", b)
    inverse = np.linalg.pinv(A)
    particular, onto = inverse @ b, np.eye(A.shape[1]) - inverse @ A

    def project(v: Array, step: float = 1.0) -> Array:
        if namespace(v) is np:
            return v @ onto + particular
        import torch

        like = {"dtype": v.dtype, "device": v.device}
        return v @ torch.as_tensor(onto, **like) + torch.as_tensor(particular, **like)

    return project


def prox_product(*parts: tuple[int, Prox]) -> Prox:
    """Return the proximal operator of a sum over blocks of a vector, each with its own.

    Parameters
    ----------
    parts
        For each block its size and its proximal operator, in order of the entries.

    Returns
    -------
    Prox
        The operator of the whole vector, along the last axis.

    Raises
    ------
    ValueError
        If there is no block or a size is not positive; later, if a vector has another size than the blocks together.

    Examples
    --------
    >>> prox_product((2, prox_simplex), (1, prox_box))(np.array([2.0, 0.0, -1.0]))
    array([1., 0., 0.])
    """
    sizes = [size for size, _ in parts]
    if not parts or min(sizes) < 1:
        raise ValueError(f"parts have the sizes {sizes}; they take one or more, each >= 1")
    ends = np.cumsum(sizes).tolist()

    def together(v: Array, step: float = 1.0) -> Array:
        xp = namespace(v)
        if v.shape[-1] != ends[-1]:
            raise ValueError(f"v has {v.shape[-1]} entries; it takes {ends[-1]}, those of all blocks")
        blocks: Sequence[Array] = [
            prox(v[..., end - size : end], step) for (size, prox), end in zip(parts, ends, strict=True)
        ]
        return xp.concatenate(blocks, -1)

    return together


def _check_points(name: str, v: Array) -> None:
    if not bool(namespace(v).isfinite(v).all()):
        raise ValueError(f"{name} has entries that are not finite; it takes finite ones")
