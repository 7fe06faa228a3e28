"""What is to be maximised where points have columns that a user doesn't choose in the end.

A fidelity, a source of information, a task or an environment is a column of the points. What counts is a weighted sum
over values of these columns, sum_r weight_r f(x with its columns set to values_r): one value for a fidelity or a task,
all environments with their probabilities for a random one (arXiv 1807.02811, Sections 5.3 to 5.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class TargetMean:
    """The weighted sum over values of some columns that is to be maximised over the others.

    Parameters
    ----------
    columns
        Columns that are set.
    values
        One row for each set of values, or one number for each where one column is set.
    weights
        Weight of each row, such as its probability; equal shares by default.

    Raises
    ------
    ValueError
        Where shapes don't fit.

    Examples
    --------
    >>> import numpy as np
    >>> target = TargetMean([-1], [0.0, 1.0], [0.25, 0.75])
    >>> target.expand(np.array([[5.0, 9.0]])).tolist()
    [[[5.0, 0.0], [5.0, 1.0]]]
    """

    columns: Sequence[int]
    values: ArrayLike
    weights: ArrayLike | None = None
    table: Float[np.ndarray, "r c"] = field(init=False, repr=False)
    shares: Float[np.ndarray, " r"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = np.asarray(self.values, dtype=float)
        table = table.reshape(len(table), -1) if table.ndim else table.reshape(1, 1)
        if table.shape[1] != len(self.columns):
            raise ValueError(f"values has rows of {table.shape[1]}; it takes one number for each of {self.columns!r}")
        shares = np.full(len(table), 1 / len(table)) if self.weights is None else np.asarray(self.weights, float)
        if shares.shape != (len(table),) or not np.isfinite(shares).all():
            raise ValueError(f"weights has shape {shares.shape}; it takes {len(table)} finite numbers")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "shares", shares)

    def expand(self, X: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m r d"]:
        """Return each row of `X` with its columns set to each row of values.

        Returns
        -------
        Float[np.ndarray, "m r d"]
            As many copies of each point as there are rows of values.
        """
        full = np.repeat(np.asarray(X, dtype=float)[:, None], len(self.table), axis=1)
        full[:, :, list(self.columns)] = self.table
        return full

    def free(self, dim: int) -> Float[np.ndarray, " d"]:
        """Return 1 for each of `dim` columns that stays as it is, and 0 for one that is set.

        Returns
        -------
        Float[np.ndarray, " d"]
            A mask of ones and zeros.
        """
        mask = np.ones(dim)
        mask[list(self.columns)] = 0.0
        return mask
