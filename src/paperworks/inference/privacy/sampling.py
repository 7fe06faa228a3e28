"""Exact draws from the discrete Laplace and Gaussian laws and from given weights, at any scale, many at once.

A draw compares uniform random bits with probabilities. Each comparison is decided in floating point where the bits are
further from the probability than any rounding error, and else, about once in 10^7 times, with more bits and more
digits until it is decided. So every draw has exactly the law that is asked for, given bits that are random.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np

Words = Callable[[int], np.ndarray]
"""Gives as many random words of 64 bits as are asked for."""

LARGEST_SCALE = 2.0**50
"""In steps of the grid: with it all sums of noise fit in 64 bits."""
_MARGIN = 2.0**-40  # above the rounding errors of all probabilities here
_PICK, _ACCEPT = 32, 31  # bits of a word that choose a block, and that accept a value; the last one is the sign
_CHUNK = 2**15  # draws at once, whose arrays stay in the cache
_CELLS = 12  # bits that look up most draws from a table


@dataclass(frozen=True)
class Law:
    """A law on the whole numbers, ``exp(-|x| / scale)`` or ``exp(-x^2 / (2 scale^2))`` up to a factor.

    Parameters
    ----------
    kind
        ``laplace`` or ``gaussian``.
    scale
        Scale of the Laplace, or standard deviation parameter of the Gaussian law.

    References
    ----------
    Canonne, Kamath and Steinke, arXiv 2004.00010, definitions 1 and 23.

    Examples
    --------
    >>> Law("gaussian", 2.0).exponent(4)
    Fraction(2, 1)
    """

    kind: Literal["laplace", "gaussian"]
    scale: float

    def exponent(self, x: int) -> Fraction:
        """Return the exact exponent at x, the negative logarithm of its weight."""
        ratio = Fraction(x) / Fraction(self.scale)
        return ratio if self.kind == "laplace" else ratio**2 / 2

    @property
    def block(self) -> int:
        """How many neighbouring values are drawn as one: a power of two, at most an eighth of the scale."""
        return 2 ** max(0, math.frexp(self.scale)[1] - 4)

    def of_block(self, v: np.ndarray) -> np.ndarray:
        """Return the exponent of the first value of block v."""
        ratio = v * (self.block / self.scale)
        return ratio if self.kind == "laplace" else ratio**2 / 2

    def within(self, v: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Return how far the exponent rises from the first to value r of block v."""
        ratio = r / self.scale
        return ratio if self.kind == "laplace" else ratio * (v * (self.block / self.scale) + ratio / 2)


def draw(law: Law, count: int, words: Words) -> np.ndarray:
    """Return independent draws of a law, as 64-bit integers.

    The size of a draw is one of a block of neighbouring values, chosen by the weight of its first value, and a value
    within it, accepted by the ratio of its weight to that; a sign is added, and a negative zero rejected.

    Parameters
    ----------
    law
        Its scale is at most `LARGEST_SCALE`.
    count
        How many draws.
    words
        Source of the random bits.

    Returns
    -------
    numpy.ndarray
        Shape (count,).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> draw(Law("laplace", 3.0), 5, lambda n: rng.integers(0, 2**64, n, dtype=np.uint64)).shape
    (5,)
    """
    block, parts, have = law.block, [np.empty(0, dtype=np.int64)], 0
    while have < count:
        n = min(_CHUNK, int(1.1 * (count - have)) + 8)
        heads = words(n)
        v = _blocks(law, heads, words)
        negative = (heads & np.uint64(1)).astype(bool)
        if block > 1:
            r = _whole_numbers(block, n, words)
            accepted = _accepted(law, v, r, heads, words)
            size = v * block + r
            kept = accepted & ~(negative & (size == 0))
        else:
            size, kept = v, ~(negative & (v == 0))
        parts.append(np.where(negative, -size, size)[kept])
        have += len(parts[-1])
    return np.concatenate(parts)[:count]


def choose(rate: float, gaps: np.ndarray, words: Words) -> np.ndarray:
    """Return for each row an index drawn with weights ``exp(-rate gaps)``.

    Parameters
    ----------
    rate
        At least 0.
    gaps
        Shape (rows, n): whole numbers from 0, one 0 in each row.
    words
        Source of the random bits.

    Returns
    -------
    numpy.ndarray
        Shape (rows,).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> choose(50.0, np.array([[2, 0, 1]]), lambda n: rng.integers(0, 2**64, n, dtype=np.uint64))
    array([1])
    """
    heads = words(len(gaps)) >> np.uint64(64 - 53)
    with np.errstate(under="ignore"):
        cumulative = _running_sums(np.exp(-rate * gaps.astype(float)))
    u, total = heads.astype(float) * 2.0**-53, cumulative[:, -1]
    margin = max(_MARGIN, math.sqrt(gaps.shape[1]) * 2.0**-51)
    found, above = ((cumulative <= ((u + shift) * total)[:, None]).sum(axis=1) for shift in (-margin, margin))
    for i in np.flatnonzero(found != above):
        exponents = [Fraction(rate) * int(gap) for gap in gaps[i]]
        found[i] = _index(lambda digits, e=exponents: iter(e), int(heads[i]), 53, words)  # type: ignore[misc]
    return found


def _running_sums(weights: np.ndarray) -> np.ndarray:
    """Return running sums along rows (rows, n), each of which is rounded about sqrt(4 n) times rather than n."""
    rows, n = weights.shape
    size = math.isqrt(n - 1) + 1
    padded = np.concatenate([weights, np.zeros((rows, -n % size))], axis=1).reshape(rows, -(-n // size), size)
    sums = np.cumsum(padded, axis=2)
    sums[:, 1:] += np.cumsum(sums[:, :-1, -1], axis=1)[:, :, None]
    return sums.reshape(rows, -(-n // size) * size)[:, :n]


def _blocks(law: Law, heads: np.ndarray, words: Words) -> np.ndarray:
    """Return the block of each draw: by its first bits where these decide, else by search, else exactly."""
    cumulative, cells = _table(law)
    v = cells[(heads >> np.uint64(64 - _CELLS)).astype(np.int64)]
    open_ = np.flatnonzero(v < 0)
    if len(open_):
        bits = heads[open_] >> np.uint64(64 - _PICK)
        u = bits.astype(float) * 2.0**-_PICK
        low = np.searchsorted(cumulative, u - _MARGIN, side="right")
        high = np.searchsorted(cumulative, u + (2.0**-_PICK + _MARGIN), side="right")
        for i in np.flatnonzero(low != high):

            def exponents(digits: int) -> Iterator[Fraction]:
                block = 0
                while (exponent := law.exponent(block * law.block)) < 2.5 * digits:  # e^-2.5 is below a digit
                    yield exponent
                    block += 1

            low[i] = _index(exponents, int(bits[i]), _PICK, words)
        v[open_] = low
    return v


@lru_cache(maxsize=64)
def _table(law: Law) -> tuple[np.ndarray, np.ndarray]:
    """Return the cumulative probabilities of blocks, and the block of each cell of the unit interval that is in one."""
    reach = 46 if law.kind == "laplace" else 10  # scales; the weight beyond is below 2^-64
    blocks = np.arange(int(reach * law.scale / law.block) + 2)
    with np.errstate(over="ignore", under="ignore"):
        cumulative = np.cumsum(np.exp(-law.of_block(blocks)))
    cumulative /= cumulative[-1]
    edges = np.arange(2**_CELLS + 1) / 2**_CELLS
    low = np.searchsorted(cumulative, edges[:-1] - _MARGIN, side="right")
    high = np.searchsorted(cumulative, edges[1:] + _MARGIN, side="right")
    return cumulative, np.where(low == high, low, -1)


def _accepted(law: Law, v: np.ndarray, r: np.ndarray, heads: np.ndarray, words: Words) -> np.ndarray:
    bits = heads >> np.uint64(64 - _PICK - _ACCEPT) & np.uint64(2**_ACCEPT - 1)
    short = np.exp(-law.within(v, r)) - bits.astype(float) * 2.0**-_ACCEPT
    accepted = short > 2.0**-_ACCEPT
    for i in np.flatnonzero(np.abs(short - 2.0 ** -(_ACCEPT + 1)) < 2.0 ** -(_ACCEPT + 1) + _MARGIN):
        first = int(v[i]) * law.block
        rise = law.exponent(first + int(r[i])) - law.exponent(first)
        accepted[i] = _below(rise, int(bits[i]), _ACCEPT, words)
    return accepted


def _whole_numbers(below: int, count: int, words: Words) -> np.ndarray:
    """Return uniform whole numbers from 0, below a power of two."""
    if below <= 2**32:
        return (words((count + 1) // 2).view(np.uint32)[:count] & np.uint32(below - 1)).astype(np.int64)
    return (words(count) & np.uint64(below - 1)).astype(np.int64)


def _below(exponent: Fraction, head: int, bits: int, words: Words) -> bool:
    """Say whether a uniform number that begins with these bits is below exp(-exponent)."""
    for digits, low, high in _refined(head, bits, words):
        with localcontext() as context:
            context.prec = digits
            probability, slack = _weight(exponent), Decimal(10) ** (8 - digits)
            if Decimal(high) < probability - slack:
                return True
            if Decimal(low) > probability + slack:
                return False
    raise AssertionError  # the loop above has no end


def _index(exponents: Callable[[int], Iterator[Fraction]], head: int, bits: int, words: Words) -> int:
    """Return the index, of weight exp(-exponent), in which a uniform number that begins with these bits falls."""
    for digits, low, high in _refined(head, bits, words):
        with localcontext() as context:
            context.prec = digits
            weights = [_weight(exponent) for exponent in exponents(digits)]
            total = sum(weights, Decimal(0))
            slack = total * Decimal(10) ** (8 - digits)
            at_least, at_most, cumulative = 0, 0, Decimal(0)
            for weight in weights:
                cumulative += weight
                at_least += cumulative <= low * total - slack
                at_most += cumulative <= high * total + slack
            if at_least == at_most:
                return at_least
    raise AssertionError


def _refined(head: int, bits: int, words: Words) -> Iterator[tuple[int, Decimal, Decimal]]:
    """Yield a precision in digits, and bounds of the uniform number that has these first bits, again and again."""
    digits = 50
    while True:
        with localcontext() as context:
            context.prec = digits + 10
            unit = Decimal(2) ** -bits
            bounds = head * unit, (head + 1) * unit
        yield digits, *bounds
        head, bits, digits = head << 64 | int(words(1)[0]), bits + 64, digits + 20


def _weight(exponent: Fraction) -> Decimal:
    return (-Decimal(exponent.numerator) / Decimal(exponent.denominator)).exp()
