r"""How far computed numbers can be from exact ones, by the standard model of floating point.

An operation gives the exact result times :math:`1 + \delta` with :math:`|\delta| \le u`, so a sum of n products is off
by at most :math:`n u / (1 - n u)` times the sum of their sizes, in whatever order it is taken (Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1). A node's *margin* is such a bound for all that bounding it adds up, and
for the module's own evaluation of it once more: every linear bound gives way by ``<|coefficients|, margin>``, and every
interval by the margin, so that both hold for the function itself and for what the module computes.
"""

import functools
import math

import torch
from torch import Tensor

_OWN = 4  # roundings that every rule may do besides its sums: slopes, middles, radii, the last cast


_NO_BOUND = 1e30  # of sums so long that the model says nothing


def unit(dtype: torch.dtype) -> float:
    """Return the unit roundoff of a type: half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def quantum(dtype: torch.dtype) -> float:
    """Return the least positive number of a type, below which results are lost."""
    info = torch.finfo(dtype)
    return info.tiny * info.eps


def least(dtype: torch.dtype) -> float:
    """Return what an operator may lose where its result is too small: kernels may take such numbers for 0."""
    return quantum(dtype) if dtype == torch.float16 else torch.finfo(dtype).tiny


def gap(terms: int, computed: torch.dtype, own: torch.dtype) -> float:
    """Return the error of sums of `terms`, to the sum of sizes: of ours twice over, and of the module's own type."""
    n = (2 * terms + _OWN) * unit(computed)
    return (n / (1 - n) if n < 1 else _NO_BOUND) + _OWN * unit(own)


@functools.cache
def split(n: int, whole: int | None = None) -> int:
    """Return the length of the parts in which a sum of n products is taken: near the root of n, and a divisor of it.

    Where the products are some of `whole` ones, it is the longest of parts with no more roundings than those of all; a
    divisor if there is one.
    """
    if whole is not None and n < whole:
        most, divisors = depth(whole), (d for d in range(n, 0, -1) if n % d == 0)
        return next((d for d in divisors if d + n // d <= most), math.isqrt(max(0, n - 1)) + 1)
    if n <= _WHOLE:
        return n
    root = math.isqrt(n)
    return next((d for d in range(root, n) if n % d == 0), n) if n < 1 << 24 else n


_WHOLE = 256


def depth(n: int) -> int:
    """Return how many roundings a product of a sum of n can pass, as `perturbations.row_dot` takes them."""
    part = split(n)
    return part + n // part


def double(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return ends in double precision, infinities as numbers so large that nothing else comes near."""
    return _finite(lower), _finite(upper)


def _finite(t: Tensor) -> Tensor:
    if t.dtype == torch.float64:
        return t
    return torch.nan_to_num(t.double(), nan=math.nan, posinf=1e300, neginf=-1e300)


def outward(lower: Tensor | None, upper: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Return ends in a type, each moved away from the other where its cast moved it inward."""

    def cast(end: Tensor | None, away: float) -> Tensor | None:
        if end is None or end.dtype == dtype:
            return end
        found = end.to(dtype)
        inward = (found.to(end.dtype) > end) if away < 0 else (found.to(end.dtype) < end)
        moved = torch.nextafter(found.detach(), torch.full_like(found, away))
        return torch.where(inward, found + (moved - found.detach()), found)

    return cast(lower, -math.inf), cast(upper, math.inf)
