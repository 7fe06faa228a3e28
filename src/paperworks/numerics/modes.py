"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Put modules into evaluation mode, and each part of them back into its own mode afterwards.

    Parameters
    ----------
    *models
        Modules; anything else is left as it is.

    Yields
    ------
    None
        Parts that were in evaluation mode before, such as frozen batch normalisation, are so afterwards.

    Examples
    --------
    >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with evaluating(model):
    ...     model.training
    False
    >>> [part.training for part in model.modules()]
    [True, True, False]
    """
    parts = [part for model in models if isinstance(model, nn.Module) for part in model.modules() if part.training]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part in parts:
            part.training = True
