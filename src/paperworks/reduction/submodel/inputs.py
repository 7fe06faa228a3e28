"""What drives a march through time: boundary values, forces and an initial state, checked."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Values: TypeAlias = Callable[[float], Any] | ArrayLike


def checked_dofs(name: str, dofs: Any, n: int) -> np.ndarray:
    """Return different numbers of degrees of freedom below `n`, or refuse what they are."""
    found = np.asarray(dofs).ravel()
    if found.size == 0:
        return np.zeros(0, dtype=int)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {found.dtype}; it takes numbers of degrees of freedom")
    if found.min() < 0 or found.max() >= n or len(np.unique(found)) < len(found):
        raise ValueError(
            f"{name} has {len(found)} numbers from {found.min()} to {found.max()}; it takes different ones from 0 "
            f"to {n - 1}"
        )
    return found.astype(int)


class Inputs:
    """Boundary values, forces and initial state of a march, checked, step by step and for some columns."""

    def __init__(self, n: int, fixed: np.ndarray, dirichlet: Any, f: Any, dt: float, steps: int, initial: Any) -> None:
        self.dt, self.steps, self.n = dt, steps, n
        for name, pair in (("dirichlet", dirichlet), ("initial", initial)):
            if pair is not None and not (isinstance(pair, (tuple, list)) and len(pair) == 2):
                raise ValueError(f"{name} is {type(pair).__name__}; it takes a pair, as solve's documentation says")
        dofs, values = ((), None) if dirichlet is None else dirichlet
        given = checked_dofs("dirichlet", dofs, n)
        both = np.intersect1d(given, fixed)
        if len(both):
            raise ValueError(f"dirichlet has {len(both)} degrees of freedom that are fixed; it takes others")
        self.held = np.concatenate([given, fixed])
        self.free = np.setdiff1d(np.arange(self.n), self.held)
        self.extra = len(fixed)
        if not len(self.free):
            raise ValueError("dirichlet holds all degrees of freedom; it takes some that are free")
        self.given = self._series("dirichlet", values, len(given)) if len(given) else None
        self.load = None if f is None else self._series("f", f, self.n)
        self.u0 = None if initial is None else self._column("initial", initial[0])
        self.v0 = None if initial is None else self._column("initial", initial[1])
        parts = [self.given(0) if self.given else None, self.load(0) if self.load else None, self.u0, self.v0]
        widths = {x.shape[1] for x in parts if x is not None and x.ndim == 2}
        if len(widths) > 1:
            raise ValueError(f"dirichlet, f and initial have {sorted(widths)} columns; they take equally many")
        self.flat = not widths
        self.batch = widths.pop() if widths else 1

    def _series(self, name: str, values: Any, rows: int) -> Callable[[int], np.ndarray]:
        """Return a function of the step's number that gives checked values."""
        if not callable(values):
            table = np.asarray(values, dtype=float)
            if table.ndim not in (2, 3) or table.shape[:2] != (self.steps + 1, rows):
                raise ValueError(
                    f"{name} has values of shape {table.shape}; it takes ({self.steps + 1}, {rows}) or one with columns"
                )
            if not np.isfinite(table).all():
                raise ValueError(f"{name} has values that are NaN or infinite; it takes finite ones")
            return lambda step: table[step]

        def at(step: int) -> np.ndarray:
            value = np.array(values(step * self.dt), dtype=float)  # a copy, as the function may fill one array again
            if value.ndim not in (1, 2) or len(value) != rows:
                raise ValueError(
                    f"{name} returns shape {value.shape}; it takes a function to ({rows},) or with columns"
                )
            if not np.isfinite(value).all():
                raise ValueError(f"{name} returns values that are NaN or infinite at step {step}; it takes finite ones")
            return value

        return at

    def _column(self, name: str, x: Any) -> np.ndarray:
        value = np.asarray(x, dtype=float)
        if value.ndim not in (1, 2) or len(value) != self.n or not np.isfinite(value).all():
            raise ValueError(
                f"{name} has shape {value.shape}; it takes finite numbers ({self.n},) or ({self.n}, batch)"
            )
        return value

    def factors(self, stiffness: Any) -> np.ndarray:
        """Return a factor of the stiffness for each column, which also says how many there are."""
        found = np.ones(()) if stiffness is None else np.asarray(stiffness, dtype=float)
        if found.ndim > 1 or not np.isfinite(found).all() or not (found > 0).all():
            raise ValueError("stiffness has to be positive numbers, one or (batch,)")
        if found.ndim == 1:
            if self.flat:
                self.flat, self.batch = False, len(found)
            elif len(found) != self.batch:
                raise ValueError(f"stiffness has {len(found)} factors; it takes {self.batch}, one for each column")
        return np.broadcast_to(found, self.batch)

    def start(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        zero = np.zeros((self.n, len(columns)))
        u, v = (zero.copy() if x is None else self._part(x, columns).copy() for x in (self.u0, self.v0))
        v[self.held[len(self.held) - self.extra :]] = 0  # what is fixed does not move
        return u, v

    def values(self, step: int, columns: np.ndarray) -> np.ndarray:
        found = np.zeros((len(self.held), len(columns)))
        if self.given is not None:
            found[: len(self.held) - self.extra] = self._part(self.given(step), columns)
        return found

    def force(self, step: int, columns: np.ndarray) -> np.ndarray | None:
        return None if self.load is None else self._part(self.load(step), columns)

    def _part(self, x: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.broadcast_to(x[:, None], (len(x), len(columns))) if x.ndim == 1 else x[:, columns]
