"""Random directions that every machine rebuilds from a public identifier, slice by slice."""

import functools
import hashlib
import math
import struct
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number

Noise = Literal["gaussian-lut", "gaussian", "rademacher"]
NOISES: tuple[Noise, ...] = get_args(Noise)
CHUNK = 1 << 16  # entries at once: what is made and added stays in the cache
_BLOCK = 4  # words of 64 bits that Philox makes of one value of its counter


@functools.cache
def quantile_means() -> np.ndarray:
    """Return the normal distribution's means between its 256-quantiles, scaled to unit variance, as float32."""
    normal = NormalDist()
    density = [normal.pdf(normal.inv_cdf(b / 256)) for b in range(128, 256)] + [0.0]
    upper = 256 * -np.diff(density)
    upper /= math.sqrt(float(np.mean(upper**2)))
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)


@functools.cache
def _pairs() -> np.ndarray:
    """Return for each two bytes the two entries that they stand for, each pair as one number of 64 bits."""
    table = quantile_means()
    pairs = np.empty((256, 256, 2), np.float32)
    pairs[..., 0], pairs[..., 1] = table[None, :], table[:, None]  # the first byte is the low one
    return pairs.view(np.uint64).ravel()


@functools.cache
def _signs() -> np.ndarray:
    """Return for each byte eight signs, those of its bits from the lowest on."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    return (1 - 2 * bits).astype(np.float32)


def _lut(words: np.ndarray) -> np.ndarray:
    halves = words.view(np.uint16)
    return _pairs().take(halves, mode="clip").view(np.float32)


def _gaussian(words: np.ndarray) -> np.ndarray:
    """Return two normal numbers for each word (Box and Muller)."""
    uniform = words.view(np.uint32).astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-32
    radius = np.sqrt(-2 * np.log(uniform[::2].astype(np.float32)))
    angle = (2 * np.pi * uniform[1::2]).astype(np.float32)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def _rademacher(words: np.ndarray) -> np.ndarray:
    return _signs().take(words.view(np.uint8), axis=0, mode="clip").ravel()


_LAWS = {"gaussian-lut": (_lut, 8), "gaussian": (_gaussian, 2), "rademacher": (_rademacher, 64)}  # entries a word


class Stream:
    """The entries of one direction, in any order, fastest in their own."""

    def __init__(self, key: bytes, noise: Noise) -> None:
        self.key = np.frombuffer(key, "<u8").astype(np.uint64)
        self.expand, per_word = _LAWS[noise]
        self.block = _BLOCK * per_word
        self._next = -1

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return entries `start` to `stop`, as float32."""
        first, last = start // self.block, -(-stop // self.block)
        if first != self._next:
            # NumPy raises the counter before it makes a block.
            self._bits = np.random.Philox(key=self.key, counter=(first - 1) % 2**256)
        words = self._bits.random_raw(_BLOCK * (last - first)).astype("<u8", copy=False)
        self._next = last
        return self.expand(words)[start - first * self.block : stop - first * self.block]


class SharedDirection:
    """Random directions in the space of the parameters, each named by (run, machine, round, sample).

    The bits are those of Philox 4x64 with ten rounds, whose key is a hash of the name and whose counter is the index
    of the entry, so that any slice is made by itself, in any order, the same on every machine.

    Parameters
    ----------
    run_seed
        Names the run, a whole number of 64 bits.
    noise
        Law of an entry: "gaussian-lut" is one of 256 means between quantiles of the normal distribution, chosen by a
        byte and the same to the last bit on any hardware; "gaussian" is normal, equal only where logarithm, sine and
        cosine are rounded alike; "rademacher" is a sign. All have mean 0 and variance 1.

    Raises
    ------
    ValueError
        For a law that isn't known.

    Examples
    --------
    >>> directions = SharedDirection(run_seed=7)
    >>> z = directions.fill_(torch.empty(1000), machine=2, t=5, k=0)
    >>> torch.equal(directions.fill_(torch.empty(10), machine=2, t=5, k=0, offset=500), z[500:510])
    True
    """

    def __init__(self, run_seed: int = 0, noise: Noise = "gaussian-lut") -> None:
        self.run_seed = check_count("run_seed", run_seed, at_least=0, at_most=2**64 - 1)
        self.noise = check_choice("noise", noise, NOISES)

    @property
    def block(self) -> int:
        """How many entries are made at once: tensors begin at multiples of it."""
        return _BLOCK * _LAWS[self.noise][1]

    @property
    def fourth_moment(self) -> float:
        """Mean of an entry's fourth power, which the noise of an estimate grows with."""
        if self.noise == "gaussian-lut":
            return float(np.mean(quantile_means().astype(np.float64) ** 4))
        return 3.0 if self.noise == "gaussian" else 1.0

    def stream(self, machine: int, t: int, k: int) -> Stream:
        """Return the entries of one direction.

        Parameters
        ----------
        machine
            Identity of the machine that evaluates along it.
        t
            Number of the round.
        k
            Number of the sample in the round.

        Returns
        -------
        Stream
            Its method `read(start, stop)` returns entries as an array of float32.
        """
        name = struct.pack("<QQQQ", self.run_seed, machine, t, k)
        return Stream(hashlib.blake2b(name, digest_size=16, person=b"one-byte").digest(), self.noise)

    @torch.no_grad()
    def fill_(
        self, tensor: Float[Tensor, "..."], machine: int, t: int, k: int, offset: int = 0
    ) -> Float[Tensor, "..."]:
        """Overwrite a tensor with entries of a direction.

        Parameters
        ----------
        tensor
            What is overwritten, of any shape, dtype and device.
        machine, t, k
            Name of the direction, as in `stream`.
        offset
            Index in the direction of the tensor's first entry.

        Returns
        -------
        Tensor
            The tensor itself.
        """
        return self.add_(tensor.zero_(), 1.0, machine, t, k, offset)

    @torch.no_grad()
    def add_(
        self, tensor: Float[Tensor, "..."], alpha: float, machine: int, t: int, k: int, offset: int = 0
    ) -> Float[Tensor, "..."]:
        """Add a multiple of a direction to a tensor.

        Parameters
        ----------
        tensor
            What is added to, of any shape, dtype and device.
        alpha
            By what the direction is multiplied.
        machine, t, k
            Name of the direction, as in `stream`.
        offset
            Index in the direction of the tensor's first entry.

        Returns
        -------
        Tensor
            The tensor itself.
        """
        check_number("alpha", alpha)
        check_count("offset", offset, at_least=0)
        add_direction(tensor, tensor, alpha, self.stream(machine, t, k), offset)
        return tensor


def add_direction(target: Tensor, base: Tensor, alpha: float, stream: Stream, offset: int) -> None:
    """Write `base + alpha z` into `target`, which may be `base`, from chunk to chunk."""
    scale = np.float32(alpha)
    out = target.view(-1) if target.is_contiguous() else torch.empty(target.numel(), dtype=base.dtype).to(base.device)
    flat = base.reshape(-1)
    for start in range(0, len(flat), CHUNK):
        stop = min(start + CHUNK, len(flat))
        z = stream.read(offset + start, offset + stop)
        np.multiply(z, scale, out=z)  # by itself, lest a fused operation rounds otherwise on another machine
        torch.add(flat[start:stop], as_tensor(z, flat), out=out[start:stop])
    if not target.is_contiguous():
        target.copy_(out.view(target.shape))


def as_tensor(array: np.ndarray, like: Tensor) -> Tensor:
    """Return an array as a tensor of the dtype and on the device of another."""
    found: Any = torch.from_numpy(array)
    return found.to(dtype=like.dtype, device=like.device)
