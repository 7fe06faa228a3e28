"""Checks of arguments whose errors name the argument, what it got and what it takes."""

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def check_choice(name: str, value: T, choices: Collection[T]) -> T:
    """Return `value` if it is one of `choices`, else raise ValueError.

    Parameters
    ----------
    name
        The argument, for the message.
    value
        What it got.
    choices
        What it takes.

    Returns
    -------
    object
        The value.

    Examples
    --------
    >>> check_choice("method", "multi", ["singlestep", "multistep"])
    Traceback (most recent call last):
    ...
    ValueError: method is 'multi'; it takes one of 'singlestep', 'multistep'
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it takes one of {', '.join(repr(c) for c in choices)}")
    return value


def check_number(
    name: str,
    value: Any,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> float:
    """Return `value` as a float if it is a finite number within the bounds given.

    Raises TypeError where it is no real number, ValueError where it is not finite or out of bounds.

    Parameters
    ----------
    name
        The argument, for the message.
    value
        What it got.
    ge, gt, le, lt
        Bounds, those that are given.

    Returns
    -------
    float
        The value.

    Examples
    --------
    >>> check_number("rtol", 0.05, gt=0)
    0.05
    >>> check_number("rtol", -1, gt=0)
    Traceback (most recent call last):
    ...
    ValueError: rtol is -1; it takes a finite number > 0
    """
    bounds = {">=": ge, ">": gt, "<=": le, "<": lt}
    takes = "a finite number " + " and ".join(f"{op} {b:g}" for op, b in bounds.items() if b is not None)
    number = _real(name, value, takes)
    inside = (
        math.isfinite(number)
        and (ge is None or number >= ge)
        and (gt is None or number > gt)
        and (le is None or number <= le)
        and (lt is None or number < lt)
    )
    if not inside:
        raise ValueError(f"{name} is {value!r}; it takes {takes.strip()}")
    return number


def check_count(name: str, value: Any, *, at_least: int = 1, at_most: int | None = None) -> int:
    """Return `value` as an int if it is a whole number within the bounds given.

    Raises TypeError where it is no whole number, ValueError where it is out of bounds.

    Parameters
    ----------
    name
        The argument, for the message.
    value
        What it got.
    at_least, at_most
        Bounds, both included.

    Returns
    -------
    int
        The value.

    Examples
    --------
    >>> check_count("steps", 0)
    Traceback (most recent call last):
    ...
    ValueError: steps is 0; it takes a whole number >= 1
    """
    takes = f"a whole number >= {at_least}" + ("" if at_most is None else f" and <= {at_most}")
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}; it takes {takes}")
    number = value.__index__()
    if number < at_least or (at_most is not None and number > at_most):
        raise ValueError(f"{name} is {value!r}; it takes {takes}")
    return number


def check_finite(name: str, tensor: "torch.Tensor") -> "torch.Tensor":
    """Return `tensor` if it holds neither NaN nor infinity, else raise ValueError saying how many.

    Parameters
    ----------
    name
        The argument, for the message.
    tensor
        What it got.

    Returns
    -------
    Tensor
        The tensor itself.
    """
    import torch

    # One reduction decides the common case; a sum is NaN or infinite if any element is.
    if not torch.isfinite(tensor.sum()) and (bad := int((~torch.isfinite(tensor)).sum())):
        raise ValueError(f"{name} has {bad} NaN or infinite elements of {tensor.numel()}; it takes finite numbers")
    return tensor


def _real(name: str, value: Any, takes: str) -> float:
    if isinstance(value, (bool, str, bytes)):
        raise TypeError(f"{name} is {value!r}; it takes {takes.strip()}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; it takes {takes.strip()}") from None
