"""What callers hand in: real numbers only, and data that nobody changes afterwards."""

from typing import Any

import numpy as np


def as_numbers(name: str, values: Any) -> np.ndarray:
    """Return real numbers as an array of truth values, whole numbers or floats.

    Anything else is refused rather than cast: of a complex number the real part, of a masked one what is below the
    mask, of a date its day would go on unseen. The message tells no values.

    Examples
    --------
    >>> as_numbers("x", [1, 2.5])
    array([1. , 2.5])
    >>> as_numbers("x", [1j])
    Traceback (most recent call last):
    ...
    TypeError: x has type complex128; it takes real numbers
    """
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has masked values; it takes real numbers")
    try:
        found = np.asarray(values)
        if found.dtype.kind == "O":  # such as fractions, and whole numbers beyond 64 bits
            found = found.astype(float)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is a {type(values).__name__} of other things; it takes real numbers") from None
    if found.dtype.kind not in "biuf":
        raise TypeError(f"{name} has type {found.dtype}; it takes real numbers")
    return found


def kept(data: Any) -> np.ndarray:
    """Return data as an array of one's own that can't be written to, neither by the caller nor by a query.

    Examples
    --------
    >>> kept([1, 2]).flags.writeable
    False
    """
    array = np.array(data)
    array.setflags(write=False)
    return array
