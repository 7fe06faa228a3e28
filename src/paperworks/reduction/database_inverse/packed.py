"""Many masks as bits, and how many bits each shares with another mask."""

import numpy as np
from jaxtyping import Bool, Int


class PackedMasks:
    """Masks of one shape, 64 voxels to a word, with their volumes.

    Parameters
    ----------
    words
        One row of 64-bit words for each mask.
    volumes
        The number of voxels in each.
    """

    def __init__(self, words: np.ndarray, volumes: Int[np.ndarray, " n"]) -> None:
        self.words = words
        self.volumes = volumes

    @classmethod
    def of(cls, masks: Bool[np.ndarray, "..."]) -> "PackedMasks":
        """Pack masks.

        Parameters
        ----------
        masks
            The masks, one along the first axis each.
        """
        flat = masks.reshape(len(masks), -1)
        return cls(_pack(flat), np.count_nonzero(flat, axis=1))

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.words)

    def take(self, entries: Int[np.ndarray, " k"]) -> "PackedMasks":
        """Return some of the masks; their words are gathered when they are looked at.

        Parameters
        ----------
        entries
            Numbers of masks.
        """
        return _Taken(self, entries)

    def joined(self, other: "PackedMasks") -> "PackedMasks":
        """Return these masks and others after them.

        Parameters
        ----------
        other
            Masks of the same shape.
        """
        return PackedMasks(np.concatenate([self.words, other.words]), np.concatenate([self.volumes, other.volumes]))

    def shared(self, mask: Bool[np.ndarray, "..."]) -> Int[np.ndarray, " n"]:
        """Return how many voxels each mask shares with another one.

        Only the words in which that one has any voxel are looked at.

        Parameters
        ----------
        mask
            A mask of the same shape.
        """
        word = _pack(mask.reshape(1, -1))[0]
        used = np.flatnonzero(word)
        if not len(used):
            return np.zeros(len(self), dtype=np.int64)
        span = slice(int(used[0]), int(used[-1]) + 1)
        return self._count(span, word[span])

    def _count(self, span: slice, word: np.ndarray) -> np.ndarray:
        found = np.empty(len(self.words), dtype=np.int64)
        rows = max(1, 2**15 // len(word))  # what fits the cache
        both, ones = np.empty((rows, len(word)), dtype=np.uint64), np.empty((rows, len(word)), dtype=np.uint8)
        for start in range(0, len(found), rows):
            block = self.words[start : start + rows, span]
            m = len(block)
            np.bitwise_and(block, word, out=both[:m])
            np.bitwise_count(both[:m], out=ones[:m])
            found[start : start + m] = ones[:m].sum(1, dtype=np.int64)
        return found


class _Taken(PackedMasks):
    """Some masks of others, whose words are copied only within the span that is looked at."""

    def __init__(self, whole: PackedMasks, entries: np.ndarray) -> None:
        self.whole, self.entries = whole, entries
        self.volumes = whole.volumes[entries]

    def __len__(self) -> int:
        return len(self.entries)

    def take(self, entries: np.ndarray) -> PackedMasks:
        return self.whole.take(self.entries[entries])

    def _count(self, span: slice, word: np.ndarray) -> np.ndarray:
        block = self.whole.words[self.entries, span]
        return np.bitwise_count(block & word).sum(1, dtype=np.int64)


def _pack(flat: np.ndarray) -> np.ndarray:
    """Pack rows of booleans into words; the last is filled up with zeros."""
    padded = np.zeros((len(flat), -(-flat.shape[1] // 64) * 64), dtype=bool)
    padded[:, : flat.shape[1]] = flat
    return np.packbits(padded, axis=1).view(np.uint64)
