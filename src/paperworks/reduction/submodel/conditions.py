"""Checks of samples, and what they are conditioned on, standardised."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Conditions:
    """Vectors that samples are conditioned on, brought to mean 0 and deviation 1; or none.

    Parameters
    ----------
    mean, scale
        What is subtracted, and what is divided by; None for both where there are no conditions.
    """

    def __init__(self, mean: np.ndarray | None = None, scale: np.ndarray | None = None) -> None:
        self.mean, self.scale = mean, scale

    @classmethod
    def of(cls, condition: Any, n: int) -> "Conditions":
        """Return those of `n` training samples."""
        if condition is None:
            return cls()
        C = finite("condition", condition)
        if C.ndim != 2 or len(C) != n:
            raise ValueError(f"condition has shape {C.shape}; it takes ({n}, k), a row for each sample")
        scale = C.std(0)
        varies = scale > 1e-12 * np.abs(C).max(0)  # by more than rounding
        return cls(C.mean(0), np.where(varies, scale, 1.0))

    @property
    def dim(self) -> int:
        """How long a vector is, 0 where there is none."""
        return 0 if self.mean is None else len(self.mean)

    def __call__(self, condition: Any, n: int, like: Tensor, name: str = "condition") -> tuple[Tensor, ...]:
        """Return the conditions of `n` samples, standardised and of the type of `like`, or nothing."""
        if (condition is None) != (self.mean is None):
            has = "without conditions" if self.mean is None else "with conditions"
            raise ValueError(f"{name} has {'no' if condition is None else 'a'} condition; the model is one {has}")
        if self.mean is None:
            return ()
        if np.ndim(condition) == 1:  # one for all
            condition = np.broadcast_to(condition, (n, len(condition)))
        C = finite(name, condition)
        if C.shape != (n, self.dim):
            raise ValueError(f"{name} has a condition of shape {C.shape}; it takes ({n}, {self.dim})")
        return (torch.as_tensor((C - self.mean) / self.scale).to(like),)


def finite(name: str, X: Any) -> np.ndarray:
    X = np.asarray(X)
    if X.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {X.dtype}; it takes numbers")
    if X.ndim < 2 or not len(X):
        raise ValueError(f"{name} has shape {X.shape}; it takes (n, ...), a row for each sample")
    if not np.isfinite(X).all():
        raise ValueError(f"{name} has {int((~np.isfinite(X)).sum())} values that are NaN or infinite; it takes finite")
    return X.astype(float, copy=False)
