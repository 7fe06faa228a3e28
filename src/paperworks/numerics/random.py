"""Random generators from seeds."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from paperworks.core.validation import check_count


@contextmanager
def seeded(random_state: int) -> Iterator[None]:
    """Seed torch's global generator of the CPU while a network is made, and put it back afterwards.

    Parameters
    ----------
    random_state
        Seed of torch's global generator.

    Returns
    -------
    context manager
        Seeds on entry, and puts back what was there on exit.

    Examples
    --------
    >>> with seeded(0):
    ...     first = torch.nn.Linear(2, 1)
    >>> with seeded(0):
    ...     torch.equal(first.weight, torch.nn.Linear(2, 1).weight)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        yield


def torch_generator(random_state: int, *keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose stream only a seed and keys decide, independent of those of other keys.

    Parameters
    ----------
    random_state
        The seed, 0 or more.
    keys
        What the stream is of, such as the number of an image: 0 or more. Without keys the seed goes to torch as it is.
    device
        Where the generator draws.

    Returns
    -------
    torch.Generator
        A new one.

    Raises
    ------
    ValueError
        For a negative seed or key.

    Examples
    --------
    >>> a, b = (torch.rand(1, generator=torch_generator(0, image)) for image in (0, 1))
    >>> torch.equal(a, b)
    False
    """
    check_count("random_state", random_state, at_least=0)
    if not keys:
        return torch.Generator(device).manual_seed(random_state)
    words = [random_state, *(check_count("keys", key, at_least=0) for key in keys)]
    (state,) = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state) >> 1)
