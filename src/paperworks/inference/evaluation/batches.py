"""How much is done at once, so that memory stays bounded whatever the number of rounds."""

from collections.abc import Iterator

_ELEMENTS = 4_000_000  # of the largest intermediate array: 32 MB


def rounds_at_once(rounds: int, elements_each: int) -> Iterator[slice]:
    """Cut a number of rounds into slices whose intermediate arrays stay small.

    Examples
    --------
    >>> list(rounds_at_once(3, 3_000_000))
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None)]
    """
    step = max(1, _ELEMENTS // max(1, elements_each))
    for start in range(0, rounds, step):
        yield slice(start, min(start + step, rounds))
