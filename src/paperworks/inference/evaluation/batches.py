"""How much is done at once, so that memory stays bounded whatever the number of rounds."""

from collections.abc import Iterator

import numpy as np

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


def weighted_products(weights: np.ndarray, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Return ``X' diag(w) Y`` for each row w of weights, shape (rounds, columns of X, columns of Y), by one product.

    Examples
    --------
    >>> weighted_products(np.array([[1.0, 2.0]]), np.array([[1.0], [3.0]]), np.array([[1.0], [1.0]]))
    array([[[7.]]])
    """
    total = np.zeros((len(weights), X.shape[1] * Y.shape[1]))
    for rows in rounds_at_once(len(X), total.shape[1]):
        total += weights[:, rows] @ (X[rows, :, None] * Y[rows, None, :]).reshape(-1, total.shape[1])
    return total.reshape(len(weights), X.shape[1], Y.shape[1])


def weighted_grams(weights: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return ``X' diag(w) X`` for each row w of weights; what is symmetric is computed once.

    Examples
    --------
    >>> weighted_grams(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [3.0, 1.0]]))
    array([[[19.,  6.],
            [ 6.,  2.]]])
    """
    i, j = np.triu_indices(X.shape[1])
    total = np.zeros((len(weights), len(i)))
    for rows in rounds_at_once(len(X), len(i)):
        columns = np.ascontiguousarray(X[rows].T)  # whose rows are gathered far faster than columns
        total += weights[:, rows] @ (columns[i] * columns[j]).T
    grams = np.empty((len(weights), X.shape[1], X.shape[1]))
    grams[:, i, j] = grams[:, j, i] = total
    return grams
