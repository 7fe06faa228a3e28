"""Compressors of vectors: what is sent instead of a vector, what it costs, and how much of it is kept for certain."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.optimization.compression.selection import largest

_VALUE = 32  # bits of a number on the wire


@dataclass(frozen=True)
class Payload:
    """What is sent instead of one vector, or of several of the same length.

    Parameters
    ----------
    values
        The numbers that are sent.
    indices
        Which entries of the flat array they are, or, for signs, packed bits; None where every entry is sent.
    shape
        Shape of what was compressed.
    dtype
        Type of what was compressed.

    Examples
    --------
    >>> from paperworks.optimization import TopK
    >>> payload = TopK(1).compress(torch.tensor([[3.0, -1.0], [2.0, -5.0]]))
    >>> payload.values, payload.indices
    (tensor([ 3., -5.]), tensor([0, 3]))
    """

    values: Shaped[Tensor, "..."]
    indices: Shaped[Tensor, "..."] | None
    shape: tuple[int, ...]
    dtype: torch.dtype


class Compressor(ABC):
    """A map to something cheaper to send, applied to each row of an array or to one vector.

    It is contractive where `E|C(v) - v|^2 <= (1 - alpha) |v|^2` for every vector. What is random in it is drawn from
    the generator that `compress` is given.
    """

    positively_homogeneous: bool = False
    """Whether it is deterministic and `C(t v) = t C(v)` for all t > 0: then EF21 and EF21-W are the same method."""
    sparse: bool = False
    """Whether a payload has the indices of entries and their values."""
    fixed_size: bool = True
    """Whether the payloads of all vectors of one length have one size, as the collectives of a hook need."""

    def compress(self, v: Float[Tensor, "*rows d"], generator: torch.Generator | None = None) -> Payload:
        """Return what is sent instead of a vector, or of each row of an array.

        Parameters
        ----------
        v
            One vector, or several as rows.
        generator
            Draws what is random, torch's global one by default.

        Returns
        -------
        Payload
            The values that are sent and where they belong.

        Raises
        ------
        TypeError
            If `v` is sparse, or not of floating-point numbers.
        ValueError
            If it has no axis, is empty, or an entry is not finite; or the vectors are shorter than what is kept.
        """
        if not isinstance(v, Tensor) or v.layout != torch.strided or not v.is_floating_point():
            what = f"{v.dtype} of layout {v.layout}" if isinstance(v, Tensor) else type(v).__name__
            raise TypeError(f"v is {what}; it takes a dense tensor of floating-point numbers")
        if v.ndim not in (1, 2) or not v.numel():
            raise ValueError(f"v has shape {tuple(v.shape)}; it takes a vector, or rows, that are not empty")
        self._check(v.shape[-1])
        check_finite("v", v)
        return self.encode(v, generator)

    @abstractmethod
    def encode(self, v: Float[Tensor, "*rows d"], generator: torch.Generator | None = None) -> Payload:
        """Do what `compress` does, without looking at what it is given.

        Parameters
        ----------
        v
            One vector, or several as rows, finite.
        generator
            Draws what is random, torch's global one by default.

        Returns
        -------
        Payload
            The values that are sent and where they belong.
        """

    def decompress(self, payload: Payload) -> Float[Tensor, "*rows d"]:
        """Return the vectors that a payload stands for.

        Parameters
        ----------
        payload
            What `compress` returned.

        Returns
        -------
        Tensor
            An array of the shape and type of what was compressed.
        """
        out = torch.zeros(math.prod(payload.shape), dtype=payload.dtype, device=payload.values.device)
        assert payload.indices is not None
        out[payload.indices.long()] = payload.values.to(payload.dtype)
        return out.view(payload.shape)

    @abstractmethod
    def alpha(self, d: int) -> float | None:
        """Return how much of every vector is kept for certain.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        float or None
            The constant of contraction, above 0 and at most 1; None where none holds for every vector.
        """

    @abstractmethod
    def bits(self, d: int) -> int:
        """Return the bits of one message: 32 a number, and enough for an index.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        int
            Bits that one compressed vector takes, at most where it varies.
        """

    def sent_bits(self, payload: Payload) -> int:
        """Return the bits of a payload, all of its rows together.

        Parameters
        ----------
        payload
            What `compress` returned.

        Returns
        -------
        int
            Bits that it takes on the wire.
        """
        return math.prod(payload.shape[:-1]) * self.bits(payload.shape[-1])

    def _check(self, d: int) -> None:  # noqa: B027
        """Raise where vectors are too short, which most compressors take."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not None)
        return f"{type(self).__name__}({settings})"


class _KeepsK(Compressor):
    """What keeps k of the entries as they are."""

    sparse = True

    def __init__(self, k: int | None = None, *, ratio: float | None = None) -> None:
        if (k is None) == (ratio is None):
            raise ValueError(f"k is {k} and ratio is {ratio}; it takes one of them")
        self.k = None if k is None else check_count("k", k)
        self.ratio = None if ratio is None else check_number("ratio", ratio, gt=0, le=1)

    def count(self, d: int) -> int:
        """Return how many entries of a vector are kept.

        Parameters
        ----------
        d
            Length of the vector.

        Returns
        -------
        int
            The number k, or the share of `d`, rounded down, but one at least.
        """
        self._check(check_count("d", d))
        return self.k if self.k is not None else max(1, int(round(self.ratio * d, 6)))  # type: ignore[operator]

    def _check(self, d: int) -> None:
        if self.k is not None and self.k > d:
            raise ValueError(f"k is {self.k}; it takes a whole number up to the {d} entries of a vector")

    def alpha(self, d: int) -> float:
        """Return the share of entries that are kept.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        float
            The constant of contraction, `k / d`.
        """
        return self.count(d) / d

    def bits(self, d: int) -> int:
        """Return 32 bits and those of an index for each entry that is kept.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        int
            Bits that one compressed vector takes.
        """
        return self.count(d) * (_VALUE + _index_bits(d))

    def _chosen(self, v: Float[Tensor, "*rows d"], indices: Int64[Tensor, " chosen"]) -> Payload:
        return Payload(v.reshape(-1)[indices], indices, tuple(v.shape), v.dtype)


class TopK(_KeepsK):
    """Keeps the k entries of greatest magnitude, the lowest index first among equals: contractive with k / d.

    Parameters
    ----------
    k
        How many entries are kept.
    ratio
        In place of `k`, their share of all, one entry at least.

    Raises
    ------
    ValueError
        If both or none are given, or one is out of range.

    Examples
    --------
    >>> top = TopK(2)
    >>> top.decompress(top.compress(torch.tensor([3.0, -1.0, -4.0, 1.0])))
    tensor([ 3.,  0., -4.,  0.])
    >>> top.alpha(4), top.bits(4)
    (0.5, 68)
    """

    positively_homogeneous = True

    def encode(self, v: Float[Tensor, "*rows d"], generator: torch.Generator | None = None) -> Payload:
        """Choose the entries of greatest magnitude; nothing is random.

        Returns
        -------
        Payload
            Values and flat indices, k of each a row.
        """
        return self._chosen(v, largest(v.reshape(-1, v.shape[-1]), self.count(v.shape[-1])))


class RandK(_KeepsK):
    """Keeps k entries drawn at random, not scaled up: contractive in expectation with k / d.

    Parameters
    ----------
    k
        How many entries are kept.
    ratio
        In place of `k`, their share of all, one entry at least.

    Raises
    ------
    ValueError
        If both or none are given, or one is out of range.

    Examples
    --------
    >>> RandK(ratio=0.25).compress(torch.ones(8), torch.Generator().manual_seed(0)).values
    tensor([1., 1.])
    """

    def encode(self, v: Float[Tensor, "*rows d"], generator: torch.Generator | None = None) -> Payload:
        """Draw the entries.

        Returns
        -------
        Payload
            Values and flat indices, k of each a row.
        """
        rows, d = v.reshape(-1, v.shape[-1]).shape
        drawn = torch.rand(rows, d, generator=generator, device=v.device)
        return self._chosen(v, largest(drawn, self.count(d)))


class HardThreshold(Compressor):
    """Keeps the entries whose magnitude reaches a threshold.

    Its error is absolute, up to `d threshold^2`, and no share of a small vector is kept for certain: `alpha` is None,
    and no step size follows.

    Parameters
    ----------
    threshold
        The least magnitude that is sent.

    Raises
    ------
    ValueError
        If the threshold is not positive.

    Examples
    --------
    >>> HardThreshold(2.0).compress(torch.tensor([3.0, -1.0, -4.0])).values
    tensor([ 3., -4.])
    """

    sparse, fixed_size = True, False

    def __init__(self, threshold: float) -> None:
        self.threshold = check_number("threshold", threshold, gt=0)

    def encode(self, v: Float[Tensor, "*rows d"], generator: torch.Generator | None = None) -> Payload:
        """Choose the entries; nothing is random.

        Returns
        -------
        Payload
            Values and flat indices, as many as there are.
        """
        indices = (v.reshape(-1).abs() >= self.threshold).nonzero().squeeze(1)
        return Payload(v.reshape(-1)[indices], indices, tuple(v.shape), v.dtype)

    def alpha(self, d: int) -> None:
        """Return None: near 0 nothing is kept.

        Parameters
        ----------
        d
            Length of the vectors.
        """

    def bits(self, d: int) -> int:
        """Return the bits of a message in which every entry is sent.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        int
            The most bits that one compressed vector takes.
        """
        return d * (_VALUE + _index_bits(d))

    def sent_bits(self, payload: Payload) -> int:
        """Return the bits of the entries that a payload has.

        Returns
        -------
        int
            Bits that it takes on the wire.
        """
        return payload.values.numel() * (_VALUE + _index_bits(payload.shape[-1]))


class ScaledSign(Compressor):
    """Sends the sign of each entry and the mean magnitude: contractive with 1 / d.

    Examples
    --------
    >>> sign = ScaledSign()
    >>> sign.decompress(sign.compress(torch.tensor([3.0, -1.0, -4.0, 0.0])))
    tensor([ 2., -2., -2.,  2.])
    """

    positively_homogeneous = True

    def encode(self, v: Float[Tensor, "*rows d"], generator: torch.Generator | None = None) -> Payload:
        """Take signs and means; nothing is random, and 0 counts as positive.

        Returns
        -------
        Payload
            One value a row, and the signs as packed bits.
        """
        return Payload(v.abs().mean(dim=-1, keepdim=True), _pack(v < 0), tuple(v.shape), v.dtype)

    def decompress(self, payload: Payload) -> Float[Tensor, "*rows d"]:
        """Return the mean magnitude with each entry's sign.

        Returns
        -------
        Tensor
            An array of the shape and type of what was compressed.
        """
        assert payload.indices is not None
        negative = _unpack(payload.indices, payload.shape[-1])
        return torch.where(negative, -payload.values, payload.values)

    def alpha(self, d: int) -> float:
        """Return what is kept of the worst vector, which has one entry.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        float
            The constant of contraction, `1 / d`.
        """
        return 1 / check_count("d", d)

    def bits(self, d: int) -> int:
        """Return one bit an entry and 32 for the scale.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        int
            Bits that one compressed vector takes.
        """
        return check_count("d", d) + _VALUE


class NaturalCompression(Compressor):
    """Sends sign and exponent: magnitudes are rounded to powers of two. Contractive with 8/9, in nine bits an entry.

    Stochastic rounding (Horvath and others, arXiv 1905.10988) is unbiased with relative variance 1/8 and is scaled by
    8/9; rounding to the nearest power errs by a third at most. Magnitudes are those of single precision: smaller ones
    than 2^-126 become 0, larger ones 2^127.

    Parameters
    ----------
    stochastic
        Whether rounding is random; otherwise it is to the nearest power.

    Examples
    --------
    >>> natural = NaturalCompression(stochastic=False)
    >>> natural.decompress(natural.compress(torch.tensor([3.1, -1.2, 0.3, 0.0])))
    tensor([ 4.0000, -1.0000,  0.2500,  0.0000])
    """

    def __init__(self, *, stochastic: bool = True) -> None:
        self.stochastic = bool(stochastic)

    def encode(self, v: Float[Tensor, "*rows d"], generator: torch.Generator | None = None) -> Payload:
        """Round the magnitudes.

        Returns
        -------
        Payload
            Exponents as bytes, and the signs as packed bits.
        """
        wide = v if v.dtype in (torch.float32, torch.float64) else v.float()
        mantissa, exponent = torch.frexp(wide.abs())  # mantissa in [1/2, 1)
        excess = 2 * mantissa - 1  # 0 at a power of two, 1 at the next
        if self.stochastic:
            up = torch.rand(wide.shape, generator=generator, dtype=wide.dtype, device=v.device) < excess
        else:
            up = excess >= 0.5
        code = (exponent - 1 + up + 127).clamp(0, 254)  # as in single precision; 0 stands for 0
        code = torch.where(v == 0, 0, code)
        return Payload(code.to(torch.uint8), _pack(v < 0), tuple(v.shape), v.dtype)

    def decompress(self, payload: Payload) -> Float[Tensor, "*rows d"]:
        """Return signed powers of two, times 8/9 where rounding is random.

        Returns
        -------
        Tensor
            An array of the shape and type of what was compressed.
        """
        assert payload.indices is not None
        wide = payload.dtype if payload.dtype == torch.float64 else torch.float32
        one = torch.full(payload.shape, 8 / 9 if self.stochastic else 1.0, dtype=wide, device=payload.values.device)
        magnitude = torch.ldexp(one, payload.values.to(torch.int32) - 127)
        magnitude = torch.where(payload.values == 0, 0.0, magnitude).clamp(max=torch.finfo(payload.dtype).max)
        magnitude = magnitude.to(payload.dtype)
        return torch.where(_unpack(payload.indices, payload.shape[-1]), -magnitude, magnitude)

    def alpha(self, d: int) -> float:
        """Return what rounding keeps of every vector.

        Parameters
        ----------
        d
            Length of the vectors, on which it doesn't depend.

        Returns
        -------
        float
            The constant of contraction, 8/9.
        """
        return 8 / 9

    def bits(self, d: int) -> int:
        """Return nine bits an entry.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        int
            Bits that one compressed vector takes.
        """
        return 9 * check_count("d", d)


class RankR(Compressor):
    """Sends the best approximation of rank r of the vector as a matrix: contractive with r / its smaller side.

    Parameters
    ----------
    r
        The rank that is kept.
    rows
        Rows of the matrix, about the root of the length by default; the last one is filled up with zeros.

    Raises
    ------
    ValueError
        If the rank is below 1, or above the sides of the matrix.

    Examples
    --------
    >>> v = torch.outer(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0, 3.0])).flatten()
    >>> low = RankR(1, rows=2)
    >>> torch.allclose(low.decompress(low.compress(v)), v, atol=1e-6)
    True
    """

    positively_homogeneous = True

    def __init__(self, r: int = 1, rows: int | None = None) -> None:
        self.r = check_count("r", r)
        self.rows = None if rows is None else check_count("rows", rows)

    def sides(self, d: int) -> tuple[int, int]:
        """Return the shape of the matrix that vectors are seen as.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        tuple[int, int]
            Rows and columns, which hold `d` entries or a few more.
        """
        rows = self.rows or max(1, math.isqrt(check_count("d", d)))
        return rows, -(-d // rows)

    def _check(self, d: int) -> None:
        if self.r > min(self.sides(d)):
            raise ValueError(f"r is {self.r}; it takes a whole number up to the smaller side of {self.sides(d)}")

    def encode(self, v: Float[Tensor, "*rows d"], generator: torch.Generator | None = None) -> Payload:
        """Decompose the matrices; nothing is random.

        Returns
        -------
        Payload
            The left factors, then the right ones, each times the roots of the singular values, in one vector a row.
        """
        d = v.shape[-1]
        m, n = self.sides(d)
        wide = v if v.dtype in (torch.float32, torch.float64) else v.float()
        matrices = torch.nn.functional.pad(wide, (0, m * n - d)).reshape(*v.shape[:-1], m, n)
        left, values, right = torch.linalg.svd(matrices, full_matrices=False)
        root = values[..., : self.r].sqrt()  # on both sides, so that neither leaves the range of half precision
        left, right = left[..., : self.r] * root[..., None, :], right[..., : self.r, :] * root[..., None]
        both = torch.cat([left.flatten(-2), right.flatten(-2)], dim=-1)
        return Payload(both.to(v.dtype), None, tuple(v.shape), v.dtype)

    def decompress(self, payload: Payload) -> Float[Tensor, "*rows d"]:
        """Multiply the factors.

        Returns
        -------
        Tensor
            An array of the shape and type of what was compressed.
        """
        d = payload.shape[-1]
        m, n = self.sides(d)
        left, right = payload.values.split([m * self.r, n * self.r], dim=-1)
        product = left.unflatten(-1, (m, self.r)) @ right.unflatten(-1, (self.r, n))
        return product.flatten(-2)[..., :d].contiguous()

    def alpha(self, d: int) -> float:
        """Return the rank over the smaller side.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        float
            The constant of contraction.
        """
        self._check(d)
        return self.r / min(self.sides(d))

    def bits(self, d: int) -> int:
        """Return 32 bits for each entry of the two factors.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        int
            Bits that one compressed vector takes.
        """
        return self.r * sum(self.sides(d)) * _VALUE


class Identity(Compressor):
    """Sends all as it is, so that EF21 becomes gradient descent.

    Examples
    --------
    >>> Identity().alpha(10), Identity().bits(10)
    (1.0, 320)
    """

    positively_homogeneous = True

    def encode(self, v: Float[Tensor, "*rows d"], generator: torch.Generator | None = None) -> Payload:
        """Copy the vector; nothing is random.

        Returns
        -------
        Payload
            All entries, without indices.
        """
        return Payload(v.clone(), None, tuple(v.shape), v.dtype)

    def decompress(self, payload: Payload) -> Float[Tensor, "*rows d"]:
        """Return the values.

        Returns
        -------
        Tensor
            An array of the shape and type of what was compressed.
        """
        return payload.values

    def alpha(self, d: int) -> float:
        """Return 1: all is kept.

        Parameters
        ----------
        d
            Length of the vectors, on which it doesn't depend.

        Returns
        -------
        float
            The constant of contraction, 1.
        """
        return 1.0

    def bits(self, d: int) -> int:
        """Return 32 bits an entry.

        Parameters
        ----------
        d
            Length of the vectors.

        Returns
        -------
        int
            Bits that one vector takes.
        """
        return check_count("d", d) * _VALUE


def add_payload(
    compressor: Compressor, payload: Payload, out: Float[Tensor, "*rows d"], weight: float | Tensor = 1.0
) -> None:
    """Add the decompressed vectors, times a weight, to an array in place, touching only the entries that were sent."""
    if compressor.sparse:
        assert payload.indices is not None
        out.view(-1).index_add_(0, payload.indices.long(), payload.values.to(out.dtype) * weight)
    else:
        out.add_(compressor.decompress(payload).to(out.dtype) * weight)


def _index_bits(d: int) -> int:
    return math.ceil(math.log2(d)) if d > 1 else 0


def _places(device: torch.device) -> Tensor:
    return torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)


def _pack(bits: Shaped[Tensor, "*rows d"]) -> Shaped[Tensor, "*rows bytes"]:
    """Pack truth values into bytes, row by row."""
    padded = torch.nn.functional.pad(bits, (0, -bits.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (padded * _places(bits.device)).sum(dim=-1, dtype=torch.uint8)


def _unpack(packed: Shaped[Tensor, "*rows bytes"], d: int) -> Shaped[Tensor, "*rows d"]:
    return (packed[..., None] & _places(packed.device)).bool().flatten(-2)[..., :d]
