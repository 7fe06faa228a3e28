"""Many masks as bits, how many bits each shares with another mask, and a quick bound of that."""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int, UInt

EDGE = 8  # voxels along a block, which is eight words of 4 x 4 x 4 voxels


class PackedMasks:
    """Masks of one shape as bits, in blocks of 8 x 8 x 8 voxels, with their volumes.

    Parameters
    ----------
    words
        For each mask and block eight 64-bit words.
    counts
        For each mask and block the number of voxels.
    """

    def __init__(self, words: UInt[np.ndarray, "n b 8"], counts: UInt[np.ndarray, "n b"]) -> None:
        self.words = words
        self.counts = counts
        self.volumes = counts.sum(1, dtype=np.int64)

    @classmethod
    def of(cls, masks: Bool[np.ndarray, "n x y z"]) -> "PackedMasks":
        """Pack masks.

        Parameters
        ----------
        masks
            The masks, one along the first axis each.
        """
        places = _places(masks.shape[1:])
        bits = np.zeros((len(masks), _blocks(masks.shape[1:]) * EDGE**3), dtype=bool)
        for row, mask in zip(bits, masks, strict=True):
            row[places[np.flatnonzero(mask)]] = True
        words = np.packbits(bits, axis=1).view(np.uint64).reshape(len(masks), -1, 8)
        return cls(words, np.bitwise_count(words).sum(2, dtype=np.uint16))

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.words)

    def take(self, entries: Int[np.ndarray, " k"]) -> "PackedMasks":
        """Return some of the masks.

        Parameters
        ----------
        entries
            Numbers of masks.
        """
        return PackedMasks(self.words[entries], self.counts[entries])

    def joined(self, *others: "PackedMasks") -> "PackedMasks":
        """Return these masks and others after them.

        Parameters
        ----------
        *others
            Masks of the same shape.
        """
        every = (self, *others)
        return PackedMasks(np.concatenate([m.words for m in every]), np.concatenate([m.counts for m in every]))

    def shared(self, other: "PackedMasks", entries: Int[np.ndarray, " k"] | None = None) -> Int[np.ndarray, " k"]:
        """Return how many voxels masks share with another one.

        Only the blocks in which that one has any voxel are looked at.

        Parameters
        ----------
        other
            One mask of the same shape.
        entries
            Numbers of the masks that are asked; None, the default, asks all.
        """
        used = np.flatnonzero(other.counts[0])
        word = other.words[0, used]
        blocks = self.words.shape[1]
        rows = self.words.reshape(-1, 8)  # a block each, which is copied at once
        starts = blocks * (np.arange(len(self)) if entries is None else entries)
        found = np.empty(len(starts), dtype=np.int64)
        size = max(1, 2**15 // max(word.size, 1))  # what fits the cache
        for i in range(0, len(starts), size):
            part = rows.take(starts[i : i + size, None] + used, axis=0)
            np.bitwise_and(part, word, out=part)
            found[i : i + size] = np.bitwise_count(part).reshape(len(part), -1).sum(1, dtype=np.int64)
        return found

    def most_shared(self, other: "PackedMasks") -> Int[np.ndarray, " n"]:
        """Return how many voxels masks can share with another one at most, from the numbers in each block alone.

        Parameters
        ----------
        other
            One mask of the same shape.
        """
        used = np.flatnonzero(other.counts[0])
        return np.minimum(self.counts[:, used], other.counts[0, used]).sum(1, dtype=np.int64)


def _blocks(shape: tuple[int, ...]) -> int:
    """Return how many blocks cover a volume."""
    return math.prod(-(-size // EDGE) for size in shape)


@lru_cache(maxsize=8)
def _places(shape: tuple[int, ...]) -> Int[np.ndarray, " voxels"]:
    """Return for each voxel of a volume the place of its bit: block by block, in each word by word."""
    counts = [-(-size // EDGE) for size in shape]
    place = np.zeros(shape, dtype=np.int64)
    for unit in (EDGE, 4, 1):  # blocks, words in a block, voxels in a word
        for axis, x in enumerate(np.ogrid[tuple(slice(size) for size in shape)]):
            digit, base = (
                (x // EDGE, counts[axis]) if unit == EDGE else ((x % EDGE) // 4, 2) if unit == 4 else (x % 4, 4)
            )
            place = place * base + digit
    return place.ravel()
