"""Which entry of an array of m numbers, and which sign, each of n weights has: five maps, computed from a seed."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int8, Int64, UInt8, UInt32
from torch import Tensor

from paperworks.core.validation import check_choice, check_count
from paperworks.numerics.random import torch_generator

Mapping = Literal["randomfold", "hashednet", "roast", "robe", "random"]
_WORD = 0xFFFFFFFF
_MOST = 2**31 - 1  # entries; products of a hash of 32 bits with more overflow
SIGNS_OF_A_WORD = 32


def mixed(x: Int64[Tensor, "..."], keys: tuple[int, int]) -> Int64[Tensor, "..."]:
    """Return 32 well mixed bits of each number, by two rounds of multiplying and shifting.

    The multipliers are below 2^31, so that no product leaves 63 bits and every device and compiler gets the same.
    """
    high, low = x >> 32, x & _WORD
    low = _round(low ^ ((high + keys[0]) & _WORD))
    return _round((low + keys[1] + high) & _WORD)


def _round(x: Tensor) -> Tensor:
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _WORD
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _WORD
    return x ^ (x >> 15)


def mixed_words(first: int, count: int, keys: tuple[int, int]) -> UInt32[np.ndarray, " count"]:
    """Return the same bits of consecutive numbers below 2^32, in the arithmetic of 32 bits, several times as fast."""
    x = np.arange(first, first + count, dtype=np.uint32)
    for number, key in enumerate(keys):
        x = x + np.uint32(key) if number else x ^ np.uint32(key)
        for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
            x ^= x >> np.uint32(shift)
            x *= np.uint32(factor)
        x ^= x >> np.uint32(15)
    return x


class ShareMap:
    r"""The map h of n weights to m entries, and their signs g, of which nothing is kept but a seed.

    Weights are numbered from 0 to n - 1 through all tensors, each row by row from an offset of its own.

    ``randomfold``
        Weight t is element ``o = t mod m`` of partition ``p = t div m``, and has the entry ``(u(p) + o) mod m`` with a
        random rotation u(p) of each partition: the paper's. Loads differ by one at most, and no two weights of a
        partition share an entry, so for m >= n none do.
    ``hashednet``
        An independent entry for each weight.
    ``roast``
        A random place for each tile of the transposed weight, (inputs, outputs), whose elements follow one another; for
        embeddings, for each ``block[1]`` columns of a row.
    ``robe``
        A random place for each ``block[1]`` weights in turn, circularly.
    ``random``
        Independent entries drawn by torch's generator, tensor by tensor.

    Parameters
    ----------
    n
        Weights in all.
    m
        Entries of the array, below 2^31.
    mapping
        One of the five.
    random_state
        Seed of entries and signs.
    block
        Sides of a tile of ``roast``; the second is the length of blocks of embeddings and of ``robe``. 32 by 32 as in
        the authors' code.

    Raises
    ------
    ValueError
        For counts below 1 or too large, an unknown mapping, or an m that no tile fits in.

    References
    ----------
    arXiv 2310.11611, the section on mapping functions.

    Examples
    --------
    >>> share = ShareMap(10, 4)
    >>> share.load().tolist()  # 10 weights in 4 entries
    [3, 3, 2, 2]
    >>> share.index(0, (2, 2)).unique().numel()  # no collision within a partition
    4
    """

    def __init__(
        self,
        n: int,
        m: int,
        mapping: Mapping = "randomfold",
        random_state: int = 0,
        block: tuple[int, int] = (32, 32),
    ) -> None:
        self.n, self.m = check_count("n", n), check_count("m", m, at_most=_MOST)
        self.mapping = check_choice("mapping", mapping, get_args(Mapping))
        self.random_state = check_count("random_state", random_state, at_least=0)
        if len(block) != 2:
            raise ValueError(f"block is {block!r}; it takes two sides")
        self.block = (check_count("block", block[0]), check_count("block", block[1]))
        self._rotations: dict[tuple[int, int], Tensor] = {}
        words = np.random.SeedSequence(random_state).generate_state(6, np.uint32).tolist()
        self._entry_keys, self._sign_keys, self._tile_keys = (tuple(words[i : i + 2]) for i in (0, 2, 4))

    def __repr__(self) -> str:
        return f"ShareMap(n={self.n}, m={self.m}, mapping={self.mapping!r}, random_state={self.random_state})"

    def index(
        self,
        offset: int,
        shape: Sequence[int],
        *,
        by_rows: bool = False,
        rows: Int64[Tensor, " k"] | None = None,
        device: torch.device | str | None = None,
    ) -> Int64[Tensor, "*shape"]:
        """Return the entry of each weight of a tensor.

        Parameters
        ----------
        offset
            Number of the tensor's first weight.
        shape
            The tensor's sides.
        by_rows
            Whether ``roast`` goes row by row, as it does for embeddings and vectors, instead of by tiles.
        rows
            Which rows alone are wanted.
        device
            Where to compute.

        Returns
        -------
        Tensor
            From 0 to m - 1, in the tensor's shape or, of `rows`, (k, ...).

        Raises
        ------
        ValueError
            For a tensor that doesn't lie within the n weights, or a tile that doesn't fit into m entries.
        """
        shape = self._checked(offset, shape)
        if self.mapping == "roast":
            return self._tiles(offset, shape, by_rows or len(shape) == 1, rows, device)
        if self.mapping == "random":
            drawn = torch.randint(self.m, shape, generator=torch_generator(self.random_state, offset)).to(device)
            return drawn if rows is None else drawn[rows]
        t = self._positions(offset, shape, rows, device)
        if self.mapping == "randomfold":
            partition = torch.div(t, self.m, rounding_mode="floor")
            return (self._uniform(mixed(partition, self._entry_keys), self.m) + t - partition * self.m) % self.m
        if self.mapping == "hashednet":
            return self._uniform(mixed(t, self._entry_keys), self.m)
        z = self.block[1]
        chunk = torch.div(t, z, rounding_mode="floor")
        return (self._uniform(mixed(chunk, self._entry_keys), self.m) + t - chunk * z) % self.m

    def sign(
        self,
        offset: int,
        shape: Sequence[int],
        *,
        rows: Int64[Tensor, " k"] | None = None,
        device: torch.device | str | None = None,
    ) -> Int8[Tensor, "*shape"]:
        """Return the sign of each weight of a tensor.

        Parameters
        ----------
        offset, shape, rows, device
            As in `index`.

        Returns
        -------
        Tensor
            -1 or 1, in the tensor's shape or, of `rows`, (k, ...).
        """
        t = self._positions(offset, self._checked(offset, shape), rows, device)
        word = mixed(t >> 5, self._sign_keys)  # 32 signs of a hash
        return (1 - 2 * ((word >> (t & 31)) & 1)).to(torch.int8)

    def signed_index(
        self,
        offset: int,
        shape: Sequence[int],
        *,
        by_rows: bool = False,
        rows: Int64[Tensor, " k"] | None = None,
        device: torch.device | str | None = None,
    ) -> Int64[Tensor, "*shape"]:
        """Return entries of the array followed by its negative, of 2 m numbers, so that one gather does it all.

        Parameters
        ----------
        offset, shape, by_rows, rows, device
            As in `index`.

        Returns
        -------
        Tensor
            From 0 to 2 m - 1; those from m on stand for a negative sign.
        """
        sign = self.sign(offset, shape, rows=rows, device=device)
        return self.index(offset, shape, by_rows=by_rows, rows=rows, device=device) + self.m * (sign < 0)

    def load(
        self, tensors: Sequence[tuple[int, Sequence[int]]] | None = None, *, by_rows: bool = False
    ) -> Int64[Tensor, " m"]:
        """Return how many weights each entry has.

        Parameters
        ----------
        tensors
            Offset and shape of each; by default all n weights as one vector.
        by_rows
            As in `index`.

        Returns
        -------
        Tensor
            Counts that sum to the number of weights.
        """
        found = torch.zeros(self.m, dtype=torch.int64)
        for offset, shape in [(0, (self.n,))] if tensors is None else tensors:
            found += torch.bincount(self.index(offset, shape, by_rows=by_rows).flatten(), minlength=self.m)
        return found

    def rotation(self, partitions: Int64[Tensor, " k"]) -> Int64[Tensor, " k"]:
        """Return where in the array each partition of ``randomfold`` begins.

        Parameters
        ----------
        partitions
            Numbers of partitions, t div m.

        Returns
        -------
        Tensor
            From 0 to m - 1.
        """
        return self._uniform(mixed(partitions, self._entry_keys), self.m)

    def rotations(self, first: int, last: int) -> Int64[Tensor, " k"]:
        """Return the beginnings of consecutive partitions, kept since they are few: one number for m weights.

        Parameters
        ----------
        first, last
            Numbers of the first and of the last partition.

        Returns
        -------
        Tensor
            From 0 to m - 1, on the CPU.
        """
        if (first, last) not in self._rotations:
            self._rotations[first, last] = self.rotation(torch.arange(first, last + 1))
        return self._rotations[first, last]

    def slices(self, offset: int, count: int) -> list[tuple[int, int, int]]:
        """Return the contiguous slices of the array that a tensor of ``randomfold`` is made of.

        Parameters
        ----------
        offset
            Number of the tensor's first weight.
        count
            Its number of weights.

        Returns
        -------
        list of tuple
            Where each slice begins in the array, where in the tensor, and its length; two for a partition at most.
        """
        first, last = offset // self.m, (offset + count - 1) // self.m
        starts = self.rotations(first, last).tolist()
        found = []
        for partition, start in zip(range(first, last + 1), starts, strict=True):
            low = max(0, partition * self.m - offset)
            high = min(count, (partition + 1) * self.m - offset)
            while low < high:
                entry = (start + offset + low) % self.m
                length = min(high - low, self.m - entry)
                found.append((entry, low, length))
                low += length
        return found

    def sign_bytes(self, first: int, count: int, device: torch.device | None = None) -> UInt8[Tensor, " bytes"]:
        """Return signs as bits, those of 32 weights after one another in four bytes, a set bit for a negative one.

        Parameters
        ----------
        first
            Number of the first weight, divided by 32.
        count
            How many times four bytes.
        device
            Where to compute.

        Returns
        -------
        Tensor
            Eight weights in a byte, the first one's sign its lowest bit.
        """
        if (device is None or device.type == "cpu") and first + count <= _WORD:
            little = mixed_words(first, count, self._sign_keys).astype("<u4", copy=False)
            return torch.from_numpy(little.view(np.uint8))
        words = mixed(torch.arange(first, first + count, device=device), self._sign_keys)
        return (words[:, None] >> torch.arange(0, 32, 8, device=device)).view(-1).to(torch.uint8)

    def _uniform(self, bits: Tensor, m: int) -> Tensor:
        return (bits * m) >> 32

    def _positions(self, offset: int, shape: tuple[int, ...], rows: Tensor | None, device: Any) -> Tensor:
        if rows is None:
            return torch.arange(offset, offset + math.prod(shape), device=device).view(shape)
        size = math.prod(shape[1:])
        columns = torch.arange(size, device=rows.device)
        return (offset + rows[:, None] * size + columns).view(len(rows), *shape[1:])

    def _tiles(self, offset: int, shape: tuple[int, ...], by_rows: bool, rows: Tensor | None, device: Any) -> Tensor:
        """Place each tile at random; of a weight (outputs, inputs), tiles are of its transpose."""
        tall, wide = (1, self.block[1]) if by_rows else self.block
        size = tall * wide
        if self.m <= size:
            raise ValueError(f"m is {self.m}; roast takes more entries than the {size} of a tile {tall} by {wide}")
        outputs, inputs = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, shape[0])
        first = torch.arange(outputs, device=device) if rows is None else rows
        second = torch.arange(inputs, device=first.device)
        # By rows, a tile is a stretch of a row; else its rows are inputs and its columns outputs.
        down, across = (first[:, None], second[None]) if by_rows else (second[None], first[:, None])
        height = outputs if by_rows else inputs
        i, j = torch.div(down, tall, rounding_mode="floor"), torch.div(across, wide, rounding_mode="floor")
        key = mixed(j + offset + height, self._tile_keys) + (mixed(i + offset, self._entry_keys) << 30)
        place = self._uniform(mixed(key, self._tile_keys), self.m - size)
        found = place + (down - i * tall) * wide + across - j * wide
        return found.view(shape if rows is None else (len(first), *shape[1:]))

    def _checked(self, offset: int, shape: Sequence[int]) -> tuple[int, ...]:
        found = tuple(int(side) for side in shape)
        if not found or min(found) < 1:
            raise ValueError(f"shape is {found}; it takes one side or more, each of at least 1")
        if offset < 0 or offset + math.prod(found) > self.n:
            raise ValueError(
                f"offset is {offset}; a tensor of {math.prod(found)} weights takes 0 to n - that, n = {self.n}"
            )
        return found
