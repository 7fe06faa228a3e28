"""Finite sums of operators: what a solver asks of one, and the problems that users bring."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from paperworks.core.validation import check_choice, check_number
from paperworks.optimization.proximal import Array, Prox, prox_box, prox_product, prox_simplex

Sampling = Literal["importance", "uniform"]


class FiniteSumOperator(ABC):
    """An operator `F = E F_xi`, the mean of components of which each costs a small part of the whole.

    Attributes
    ----------
    n : int
        How many components cost as much as `F` does.
    L : float
        Bound in expectation of what is sampled: of `E|F_xi(u) - F_xi(v)|^2` by `L <F(u) - F(v), u - v>` where F is
        cocoercive, and by `L^2 |u - v|^2` where it is monotone.
    L_F : float
        Lipschitz constant of F itself, at most `L`.
    size : int
        Entries of a point.
    resolvent : Prox, optional
        Resolvent of the constraints that belong to the problem, None where there are none.
    """

    n: int
    L: float
    size: int
    resolvent: Prox | None = None

    @property
    @abstractmethod
    def L_F(self) -> float:
        """Lipschitz constant of the whole operator."""

    @abstractmethod
    def __call__(self, u: Float[np.ndarray, " size"]) -> Float[np.ndarray, " size"]:
        """Return F at a point.

        Parameters
        ----------
        u
            The point, one vector.

        Returns
        -------
        np.ndarray
            The whole operator there.
        """

    @abstractmethod
    def sample(self, count: int, random_state: np.random.Generator) -> Any:
        """Draw which components to evaluate.

        Parameters
        ----------
        count
            How many components, with replacement.
        random_state
            NumPy's generator, which draws.

        Returns
        -------
        Any
            What `batch` takes.
        """

    @abstractmethod
    def batch(self, u: Float[np.ndarray, " size"], index: Any) -> Float[np.ndarray, " size"]:
        """Return the mean of sampled components, each over its probability, so that its expectation is F.

        Parameters
        ----------
        u
            The point, one vector.
        index
            What `sample` drew.

        Returns
        -------
        np.ndarray
            An unbiased estimate of F there.
        """

    def batch_difference(
        self, u: Float[np.ndarray, " size"], v: Float[np.ndarray, " size"], index: Any
    ) -> Float[np.ndarray, " size"]:
        """Return the mean of the same components at `u`, less that at `v`.

        Parameters
        ----------
        u, v
            The two points, each one vector.
        index
            What `sample` drew.

        Returns
        -------
        np.ndarray
            An unbiased estimate of `F(u) - F(v)`.
        """
        return self.batch(u, index) - self.batch(v, index)


class _RowSum(FiniteSumOperator):
    """A mean over samples, each a row and a target."""

    def __init__(self, A: Any, b: Any, ridge: float, sampling: Sampling) -> None:
        self.A, self.b = np.ascontiguousarray(_finite("A", A, 2)), _finite("b", b, 1)
        if len(self.A) != len(self.b):
            raise ValueError(f"A has {len(self.A)} rows and b {len(self.b)} entries; they take as many")
        self.ridge, self.n = check_number("ridge", ridge, ge=0), len(self.A)
        if not self.A.any() and not self.ridge:
            raise ValueError("A has only zeros and ridge is 0, so that all is solved; one of them takes another value")
        self.law = _Law(np.einsum("ij,ij->i", self.A, self.A), sampling)

    @cached_property
    def smoothness(self) -> float:
        """The largest eigenvalue of the mean of `a_i a_i^T`."""
        return float(np.linalg.norm(self.A, 2) ** 2 / self.n)

    def sample(self, count: int, random_state: np.random.Generator) -> Int[np.ndarray, " count"]:
        """Draw samples.

        Parameters
        ----------
        count
            How many samples, with replacement.
        random_state
            NumPy's generator, which draws.

        Returns
        -------
        np.ndarray
            Numbers of what was drawn.
        """
        return self.law.draw(count, random_state)


class LeastSquaresOperator(_RowSum):
    """The gradient of a least-squares loss, `F_i(x) = a_i (a_i . x - b_i) + ridge x`: cocoercive.

    Parameters
    ----------
    A
        A row for each component.
    b
        The values that `A x` should take.
    ridge
        Weight of half the squared norm of `x`.
    sampling
        "importance" draws a row in proportion to its squared norm, which lets L be the mean of these; "uniform" draws
        all alike, and L is the largest.

    Raises
    ------
    ValueError
        If shapes don't match or an entry is not finite.

    Examples
    --------
    >>> F = LeastSquaresOperator(np.eye(2), np.array([1.0, 2.0]))
    >>> F(np.zeros(2))
    array([-0.5, -1. ])
    """

    def __init__(
        self,
        A: Float[np.ndarray, "n d"],
        b: Float[np.ndarray, " n"],
        *,
        ridge: float = 0.0,
        sampling: Sampling = "importance",
    ) -> None:
        super().__init__(A, b, ridge, sampling)
        self.size = self.A.shape[1]
        self.L = self.law.spread / self.n + self.ridge

    @property
    def L_F(self) -> float:
        """Lipschitz constant of F: the largest eigenvalue of the mean of `a_i a_i^T`, and the ridge."""
        return self.smoothness + self.ridge

    def __call__(self, u: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
        """Return F at a point.

        Returns
        -------
        np.ndarray
            The gradient of the mean loss.
        """
        return (self.A @ u - self.b) @ self.A / self.n + self.ridge * u

    def batch(self, u: Float[np.ndarray, " d"], index: Int[np.ndarray, " count"]) -> Float[np.ndarray, " d"]:
        """Return the mean over rows, each over its probability.

        Parameters
        ----------
        u
            The point, one vector.
        index
            What `sample` drew before.

        Returns
        -------
        np.ndarray
            An unbiased estimate of F.
        """
        rows = self.A[index]
        return (self.law.weights(index) / self.n * (rows @ u - self.b[index])) @ rows + self.ridge * u

    def batch_difference(
        self, u: Float[np.ndarray, " d"], v: Float[np.ndarray, " d"], index: Int[np.ndarray, " count"]
    ) -> Float[np.ndarray, " d"]:
        """Return the difference over rows, for which each is read once.

        Parameters
        ----------
        u, v
            The two points, each one vector.
        index
            What `sample` drew before.

        Returns
        -------
        np.ndarray
            An unbiased estimate of `F(u) - F(v)`.
        """
        rows, step = self.A[index], u - v
        return (self.law.weights(index) / self.n * (rows @ step)) @ rows + self.ridge * step


class BilinearGame(FiniteSumOperator):
    """The matrix game `min_x max_y <A x, y>`, `F(x, y) = (A^T y, -A x)`: monotone.

    A component is a row and a column of the matrix; `n = 2 p d / (p + d)` of them have as many entries as the two
    products of the whole. The point is `x` with `y` behind it.

    Parameters
    ----------
    A
        What the player of the columns pays to the player of the rows.
    sampling
        "importance" draws rows and columns in proportion to their squared norms, which makes L the Frobenius norm.
    constraints
        "simplex" for mixed strategies, or None for an unconstrained game.

    Raises
    ------
    ValueError
        If `A` is no matrix, has an entry that is not finite, or only zeros.

    Examples
    --------
    >>> game = BilinearGame(np.array([[0.0, 1.0], [-1.0, 0.0]]))
    >>> game(np.array([1.0, 0.0, 0.0, 1.0]))
    array([-1.,  0., -0.,  1.])
    """

    def __init__(
        self,
        A: Float[np.ndarray, "p d"],
        *,
        sampling: Sampling = "importance",
        constraints: Literal["simplex"] | None = "simplex",
    ) -> None:
        self.A = np.ascontiguousarray(_finite("A", A, 2))
        check_choice("constraints", constraints, ["simplex", None])
        if not self.A.any():
            raise ValueError("A has only zeros; it takes a matrix of a game")
        self.transposed = np.ascontiguousarray(self.A.T)  # a sampled column lies together, as a row does
        p, d = self.A.shape
        self.size, self.n = p + d, max(1, round(2 * p * d / (p + d)))
        self.rows, self.columns = (_Law(np.einsum("ij,ij->i", B, B), sampling) for B in (self.A, self.transposed))
        self.L = float(np.sqrt(max(self.rows.spread, self.columns.spread)))
        if constraints == "simplex":
            self.resolvent = prox_product((d, prox_simplex), (p, prox_simplex))

    @cached_property
    def L_F(self) -> float:
        """Lipschitz constant of F: the largest singular value."""
        return float(np.linalg.norm(self.A, 2))

    def split(self, u: Float[np.ndarray, " size"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " p"]]:
        """Return the two players' parts of a point.

        Parameters
        ----------
        u
            The point, one vector.

        Returns
        -------
        tuple
            The part of who picks columns, `x`, and of who picks rows, `y`.
        """
        return u[: self.A.shape[1]], u[self.A.shape[1] :]

    def __call__(self, u: Float[np.ndarray, " size"]) -> Float[np.ndarray, " size"]:
        """Return F at a point.

        Returns
        -------
        np.ndarray
            What each player's strategies pay.
        """
        x, y = self.split(u)
        return np.concatenate([y @ self.A, -(self.A @ x)])

    def sample(
        self, count: int, random_state: np.random.Generator
    ) -> tuple[Int[np.ndarray, " count"], Int[np.ndarray, " count"]]:
        """Draw rows and columns.

        Parameters
        ----------
        count
            How many of each, with replacement.
        random_state
            NumPy's generator, which draws.

        Returns
        -------
        tuple
            Numbers of what was drawn.
        """
        return self.rows.draw(count, random_state), self.columns.draw(count, random_state)

    def batch(
        self, u: Float[np.ndarray, " size"], index: tuple[Int[np.ndarray, " count"], Int[np.ndarray, " count"]]
    ) -> Float[np.ndarray, " size"]:
        """Return the mean over rows and columns, each over its probability.

        Parameters
        ----------
        u
            The point, one vector.
        index
            What `sample` drew before.

        Returns
        -------
        np.ndarray
            An unbiased estimate of F.
        """
        (x, y), (rows, columns) = self.split(u), index
        by_row, by_column = y[rows] * self.rows.weights(rows), x[columns] * self.columns.weights(columns)
        return np.concatenate([by_row @ self.A[rows], -(by_column @ self.transposed[columns])])

    def batch_difference(
        self,
        u: Float[np.ndarray, " size"],
        v: Float[np.ndarray, " size"],
        index: tuple[Int[np.ndarray, " count"], Int[np.ndarray, " count"]],
    ) -> Float[np.ndarray, " size"]:
        """Return the difference over rows and columns, of which each is read once, since F is linear.

        Parameters
        ----------
        u, v
            The two points, each one vector.
        index
            What `sample` drew before.

        Returns
        -------
        np.ndarray
            An unbiased estimate of `F(u) - F(v)`.
        """
        return self.batch(u - v, index)


class RobustRegressionGame(_RowSum):
    """Regression against an adversary who shifts all targets by a linear trend within a box: monotone.

    `min_w max_delta mean_i [(a_i . (w - delta) - b_i)^2 - price (a_i . delta)^2] / 2 + ridge |w|^2 / 2` with
    `|delta_j| <= budget`; a price above 1 makes it concave in `delta`. The point is `w` with `delta` behind it.

    Parameters
    ----------
    A
        A row for each sample.
    b
        The targets of the samples.
    budget
        How far the adversary may go in each coefficient.
    price
        What a squared shift costs the adversary.
    ridge
        Weight of half the squared norm of `w`.
    sampling
        As in `LeastSquaresOperator`.

    Raises
    ------
    ValueError
        If shapes don't match, an entry is not finite, or the price is not above 1.

    Examples
    --------
    >>> game = RobustRegressionGame(np.eye(2), np.array([1.0, 2.0]), budget=0.1)
    >>> game(np.zeros(4))
    array([-0.5, -1. , -0.5, -1. ])
    """

    def __init__(
        self,
        A: Float[np.ndarray, "n d"],
        b: Float[np.ndarray, " n"],
        *,
        budget: float,
        price: float = 2.0,
        ridge: float = 0.0,
        sampling: Sampling = "importance",
    ) -> None:
        super().__init__(A, b, ridge, sampling)
        self.budget, self.price = check_number("budget", budget, gt=0), check_number("price", price, gt=1)
        d = self.A.shape[1]
        self.size = 2 * d
        # The linear part of F_i is the product of these coefficients with a_i a_i^T, and so is its norm.
        self._coefficients = float(np.linalg.norm([[1.0, -1.0], [1.0, self.price - 1.0]], 2))
        self.L = float(self._coefficients * np.sqrt(self.law.spread / self.n * self.smoothness) + self.ridge)
        self.resolvent = prox_product((d, _free), (d, self._clip))

    @property
    def L_F(self) -> float:
        """Lipschitz constant of F, by those of its factors."""
        return self._coefficients * self.smoothness + self.ridge

    def _clip(self, v: Array, step: float = 1.0) -> Array:
        return prox_box(v, lower=-self.budget, upper=self.budget)

    def __call__(self, u: Float[np.ndarray, " size"]) -> Float[np.ndarray, " size"]:
        """Return F at a point.

        Returns
        -------
        np.ndarray
            The gradient in `w`, and that in `delta` with its sign turned.
        """
        w, delta = np.split(u, 2)
        return self._joined(w, self.A, self.A @ w, self.A @ delta, self.b, 1 / self.n)

    def batch(self, u: Float[np.ndarray, " size"], index: Int[np.ndarray, " count"]) -> Float[np.ndarray, " size"]:
        """Return the mean over samples, each over its probability.

        Parameters
        ----------
        u
            The point, one vector.
        index
            What `sample` drew before.

        Returns
        -------
        np.ndarray
            An unbiased estimate of F.
        """
        (w, delta), rows = np.split(u, 2), self.A[index]
        return self._joined(w, rows, rows @ w, rows @ delta, self.b[index], self.law.weights(index) / self.n)

    def batch_difference(
        self, u: Float[np.ndarray, " size"], v: Float[np.ndarray, " size"], index: Int[np.ndarray, " count"]
    ) -> Float[np.ndarray, " size"]:
        """Return the difference over samples, of which each is read once, since F is affine.

        Parameters
        ----------
        u, v
            The two points, each one vector.
        index
            What `sample` drew before.

        Returns
        -------
        np.ndarray
            An unbiased estimate of `F(u) - F(v)`.
        """
        (w, delta), rows = np.split(u - v, 2), self.A[index]
        return self._joined(w, rows, rows @ w, rows @ delta, 0.0, self.law.weights(index) / self.n)

    def _joined(self, w: Any, rows: Any, fitted: Any, shift: Any, b: Any, weights: Any) -> Float[np.ndarray, " size"]:
        error = fitted - shift - b
        return np.concatenate(
            [(weights * error) @ rows + self.ridge * w, (weights * (error + self.price * shift)) @ rows]
        )


def _finite(name: str, values: Any, ndim: int) -> np.ndarray:
    if hasattr(values, "tocsr") or hasattr(values, "matvec"):
        raise TypeError(f"{name} is {type(values).__name__}; it takes a dense array, of which rows are drawn")
    values = np.asarray(values, dtype=float)
    if values.ndim != ndim or not values.size:
        raise ValueError(f"{name} has shape {values.shape}; it takes {ndim} axes, none of them empty")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has entries that are not finite; it takes finite ones")
    return values


def _free(v: Array, step: float = 1.0) -> Array:
    return v


class _Law:
    """By what probabilities components are drawn whose squared norms are given."""

    def __init__(self, squares: Float[np.ndarray, " n"], sampling: Sampling) -> None:
        check_choice("sampling", sampling, ["importance", "uniform"])
        self.n, total = len(squares), float(squares.sum())
        self.p = squares / total if sampling == "importance" and total > 0 else None
        self.cumulative = None if self.p is None else np.cumsum(self.p)
        # The largest squared norm over its probability: what sampling costs.
        self.spread = float(self.n * squares.max()) if self.p is None else total

    def draw(self, count: int, random_state: np.random.Generator) -> Int[np.ndarray, " count"]:
        if self.cumulative is None:
            return random_state.integers(self.n, size=count)
        return np.searchsorted(self.cumulative, self.cumulative[-1] * random_state.random(count), side="right")

    def weights(self, index: Int[np.ndarray, " count"]) -> Any:
        """Return by what each component is multiplied in an unbiased estimate of the sum of all."""
        return self.n / len(index) if self.p is None else 1 / (len(index) * self.p[index])
