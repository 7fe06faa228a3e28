"""Covariance functions with gradients by hand: with respect to their parameters, and to points.

A kernel takes a vector `theta` of raw parameters, most of them logarithms. It answers for pairs of points by a matrix
and a function that *pulls* weights back: given W it returns the gradient of sum(W * K), so no array is ever larger
than the matrix itself.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.spatial.distance import cdist

from paperworks.core.validation import check_choice, check_count, check_number

Points = Float[np.ndarray, "_ _"]  # one a row
Vector = Float[np.ndarray, " _"]
Matrix = Float[np.ndarray, "..."]
PullTheta = Callable[[Matrix], Vector]
PullX = Callable[..., list[Points]]


class Parameter(NamedTuple):
    """A parameter of a kernel: what it is called, where a search begins, and its bounds; raw or as a logarithm."""

    name: str
    start: float
    low: float
    high: float
    log: bool = True


class Kernel(ABC):
    """A covariance function of pairs of points.

    `parameters` says what `theta` consists of for points of so many columns; `at` gives the matrix between two sets
    of points and a function from weights to gradients by the first points; `bind` does as much for one set of points
    and many `theta`; `diagonal` gives variances and their gradient.

    Subclasses are added by ``+`` and multiplied by ``*``.
    """

    @abstractmethod
    def parameters(self, dim: int) -> list[Parameter]:
        """Return what `theta` consists of where points have `dim` columns.

        Returns
        -------
        list[Parameter]
            One record for each entry of `theta`.
        """

    @abstractmethod
    def at(self, theta: Vector, X: Points, Z: Points) -> tuple[Matrix, PullX]:
        """Return the matrix k(X, Z), and what turns weights of its entries into a gradient by X.

        Parameters
        ----------
        theta
            Raw parameters of the kernel.
        X, Z
            Two sets of points, one a row.

        Returns
        -------
        tuple[Matrix, PullX]
            The matrix, and a function of one or more weight matrices that returns as many gradients.
        """

    @abstractmethod
    def bind(self, X: Points) -> Callable[[Vector], tuple[Matrix, PullTheta]]:
        """Return a function of `theta` that gives k(X, X) and what turns weights into a gradient by `theta`.

        Returns
        -------
        Callable[[Vector], tuple[Matrix, PullTheta]]
            What depends on `X` alone is computed once, here.
        """

    @abstractmethod
    def diagonal(self, theta: Vector, X: Points) -> tuple[Vector, Points | None]:
        """Return k(x, x) of each row of `X`, and its gradient where it isn't constant; `theta` are raw parameters.

        Returns
        -------
        tuple[Vector, Points | None]
            The variances, and their gradients or None.
        """

    def size(self, dim: int) -> int:
        """Return how many entries `theta` has where points have `dim` columns.

        Returns
        -------
        int
            Number of raw parameters.
        """
        return len(self.parameters(dim))

    def __add__(self, other: "Kernel") -> "SumKernel":
        return SumKernel(self, other)

    def __mul__(self, other: "Kernel") -> "ProductKernel":
        return ProductKernel(self, other)

    def __repr__(self) -> str:
        options = ", ".join(f"{name.rstrip('_')}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class StationaryKernel(Kernel):
    """A covariance that depends on the scaled distance alone: amplitude * g(sum_j (x_j - x'_j)^2 / lengthscale_j^2).

    Subclasses say what g is.

    Parameters
    ----------
    ard
        Whether each column has a lengthscale of its own, or all share one.
    columns
        Columns of the points that it looks at, all by default.
    amplitude
        Whether it has a variance of its own; a factor of a product needs none.
    """

    def __init__(self, ard: bool = True, columns: Sequence[int] | None = None, amplitude: bool = True) -> None:
        self.ard, self.amplitude = bool(ard), bool(amplitude)
        self.columns = None if columns is None else tuple(int(column) for column in columns)

    @abstractmethod
    def profile(self, s: Matrix, order: int = 0) -> list[Matrix]:
        """Return g and its derivatives up to `order` at squared scaled distances `s`.

        Returns
        -------
        list[Matrix]
            `order` + 1 arrays in the shape of `s`.
        """

    @property
    @abstractmethod
    def smoothness(self) -> float:
        """Order of the process's differentiability in mean square is the largest whole number below this."""

    def _columns(self, dim: int) -> list[int]:
        return list(range(dim) if self.columns is None else self.columns)

    def _of(self, X: Points) -> Points:
        return X if self.columns is None else X[:, list(self.columns)]

    def parameters(self, dim: int) -> list[Parameter]:
        count = len(self._columns(dim)) if self.ard else 1
        found = [Parameter("lengthscale", 0.5, 5e-3, 1e3)] * count
        return found + [Parameter("amplitude", 1.0, 1e-4, 1e4)] * self.amplitude

    def _split(self, theta: Vector) -> tuple[Vector, float]:
        values = np.exp(theta)
        return (values[:-1], float(values[-1])) if self.amplitude else (values, 1.0)

    def at(self, theta: Vector, X: Points, Z: Points) -> tuple[Matrix, PullX]:
        lengths, amplitude = self._split(theta)
        x, z = self._of(X) / lengths, self._of(Z) / lengths
        s = cdist(x, z, "sqeuclidean")
        K = amplitude * self.profile(s)[0]

        def pull(*weights: Matrix) -> list[Points]:
            slope = (2 * amplitude) * self.profile(s, 1)[1]
            found = []
            for W in weights:
                G = W * slope
                gradient = (G.sum(axis=1)[:, None] * x - G @ z) / lengths
                found.append(_spread(gradient, self.columns, X.shape[1]))
            return found

        return K, pull

    def bind(self, X: Points) -> Callable[[Vector], tuple[Matrix, PullTheta]]:
        x = self._of(X)
        n, d = x.shape
        squares = np.ascontiguousarray(((x[:, None] - x[None]) ** 2).reshape(n * n, d).T)
        if not self.ard:
            squares = squares.sum(axis=0, keepdims=True)

        def evaluate(theta: Vector) -> tuple[Matrix, PullTheta]:
            lengths, amplitude = self._split(theta)
            g, slope = (v.reshape(n, n) for v in self.profile(lengths**-2 @ squares, 1))
            K = amplitude * g

            def pull(W: Matrix) -> Vector:
                by_length = (-2 * amplitude * lengths**-2) * (squares @ (W * slope).ravel())
                return np.append(by_length, np.vdot(W, K)) if self.amplitude else by_length

            return K, pull

        return evaluate

    def diagonal(self, theta: Vector, X: Points) -> tuple[Vector, Points | None]:
        return np.full(len(X), self._split(theta)[1]), None


class RBFKernel(StationaryKernel):
    """The power-exponential covariance, amplitude * exp(-sum_j alpha_j (x_j - x'_j)^2) with alpha = 1 / (2 l^2).

    Parameters
    ----------
    ard
        Whether each column has a lengthscale of its own, or all share one.
    columns
        Columns of the points that it looks at, all by default.
    amplitude
        Whether it has a variance of its own; a factor of a product needs none.

    References
    ----------
    arXiv 1807.02811, Section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> K, _ = RBFKernel().at(np.zeros(2), np.zeros((1, 1)), np.ones((1, 1)))
    >>> round(float(K[0, 0]), 4)
    0.6065
    """

    smoothness = math.inf

    def profile(self, s: Matrix, order: int = 0) -> list[Matrix]:
        g = np.exp(-0.5 * s)
        return [(-0.5) ** k * g for k in range(order + 1)]


class MaternKernel(StationaryKernel):
    """The Matern covariance, 2^(1 - nu) / Gamma(nu) * z^nu K_nu(z) of z = sqrt(2 nu) times the scaled distance.

    Parameters
    ----------
    nu
        Smoothness, any positive number; 0.5, 1.5 and 2.5 have closed forms.
    ard
        Whether each column has a lengthscale of its own, or all share one.
    columns
        Columns of the points that it looks at, all by default.
    amplitude
        Whether it has a variance of its own; a factor of a product needs none.

    Raises
    ------
    ValueError
        Where `nu` isn't positive.

    References
    ----------
    arXiv 1807.02811, Section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> K, _ = MaternKernel(2.5).at(np.zeros(2), np.zeros((1, 1)), np.ones((1, 1)))
    >>> round(float(K[0, 0]), 4)
    0.524
    """

    def __init__(
        self, nu: float = 2.5, ard: bool = True, columns: Sequence[int] | None = None, amplitude: bool = True
    ) -> None:
        super().__init__(ard, columns, amplitude)
        self.nu = check_number("nu", nu, gt=0)

    @property
    def smoothness(self) -> float:
        return self.nu

    def profile(self, s: Matrix, order: int = 0) -> list[Matrix]:
        if self.nu == 2.5:
            t = np.sqrt(5 * s)
            e = np.exp(-t)
            found = [(1 + t + (5 / 3) * s) * e]
            if order >= 1:
                found.append((-5 / 6) * (1 + t) * e)
            if order >= 2:
                found.append((25 / 12) * e)
            if order >= 3:  # times fourth powers of distances wherever it is used: its pole at 0 doesn't count
                found.append((-125 / 24) * e / np.maximum(t, 1e-100))
            return found
        if self.nu == 1.5:
            t = np.sqrt(3 * s)
            e = np.exp(-t)
            found = [(1 + t) * e]
            if order >= 1:
                found.append(-1.5 * e)
            if order >= 2:
                found.append(2.25 * e / np.maximum(t, 1e-100))
            if order >= 3:
                found.append(-3.375 * e * (1 + t) / np.maximum(t, 1e-100) ** 3)
            return found
        if self.nu == 0.5 and order <= 1:
            t = np.sqrt(s)
            e = np.exp(-t)
            return [e, -0.5 * e / np.maximum(t, 1e-100)][: order + 1]
        return [self._derivative(s, k) for k in range(order + 1)]

    def _derivative(self, s: Matrix, k: int) -> Matrix:
        """Return the k-th derivative by d/dz (z^nu K_nu) = -z^nu K_(nu - 1) and dz/ds = nu / z."""
        nu, z = self.nu, np.sqrt(2 * self.nu * s)
        least = 1e-5 if nu > k else 1e-100 if nu - k == 0 else 1e-30
        factor = (-nu) ** k * 2 ** (1 - nu) / special.gamma(nu)
        far = np.maximum(z, least)
        with np.errstate(over="ignore", invalid="ignore"):
            found = np.where(z > 700, 0.0, far ** (nu - k) * special.kv(abs(nu - k), np.minimum(far, 705.0)))
        if nu > k:
            found = np.where(z <= least, 2 ** (nu - k - 1) * special.gamma(nu - k), found)
        return factor * found


def _spread(gradient: Points, columns: tuple[int, ...] | None, dim: int) -> Points:
    if columns is None:
        return gradient
    full = np.zeros((len(gradient), dim))
    full[:, list(columns)] = gradient
    return full


class _Pair(Kernel):
    """Two kernels joined."""

    def __init__(self, left: Kernel, right: Kernel) -> None:
        self.left, self.right = left, right

    def parameters(self, dim: int) -> list[Parameter]:
        return self.left.parameters(dim) + self.right.parameters(dim)

    def _thetas(self, theta: Vector, dim: int) -> tuple[Vector, Vector]:
        cut = self.left.size(dim)
        return theta[:cut], theta[cut:]

    @abstractmethod
    def _join(self, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix | float, Matrix | float]:
        """Return the joined matrix, and by what weights of it are multiplied for the left and the right one."""

    def at(self, theta: Vector, X: Points, Z: Points) -> tuple[Matrix, PullX]:
        first, second = self._thetas(theta, X.shape[1])
        (A, pull_a), (B, pull_b) = self.left.at(first, X, Z), self.right.at(second, X, Z)
        K, by_a, by_b = self._join(A, B)

        def pull(*weights: Matrix) -> list[Points]:
            lefts, rights = pull_a(*(W * by_a for W in weights)), pull_b(*(W * by_b for W in weights))
            return [a + b for a, b in zip(lefts, rights, strict=True)]

        return K, pull

    def bind(self, X: Points) -> Callable[[Vector], tuple[Matrix, PullTheta]]:
        left, right = self.left.bind(X), self.right.bind(X)

        def evaluate(theta: Vector) -> tuple[Matrix, PullTheta]:
            first, second = self._thetas(theta, X.shape[1])
            (A, pull_a), (B, pull_b) = left(first), right(second)
            K, by_a, by_b = self._join(A, B)
            return K, lambda W: np.concatenate([pull_a(W * by_a), pull_b(W * by_b)])

        return evaluate

    def diagonal(self, theta: Vector, X: Points) -> tuple[Vector, Points | None]:
        first, second = self._thetas(theta, X.shape[1])
        (a, da), (b, db) = self.left.diagonal(first, X), self.right.diagonal(second, X)
        k, by_a, by_b = self._join(a, b)
        parts = [
            g * (w[:, None] if isinstance(w, np.ndarray) else w) for g, w in ((da, by_a), (db, by_b)) if g is not None
        ]
        return k, sum(parts[1:], parts[0]) if parts else None


class SumKernel(_Pair):
    """The sum of two kernels: a process that is the sum of two independent ones.

    Parameters
    ----------
    left, right
        The two kernels, each with columns and parameters of its own.

    Examples
    --------
    >>> SumKernel(RBFKernel(), MaternKernel()).size(3)
    8
    """

    def _join(self, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix | float, Matrix | float]:
        return a + b, 1.0, 1.0


class ProductKernel(_Pair):
    """The product of two kernels, such as one of points and one of fidelities.

    Parameters
    ----------
    left, right
        The two kernels, each with columns and parameters of its own.

    Examples
    --------
    >>> ProductKernel(RBFKernel(columns=[0]), RBFKernel(columns=[1], amplitude=False)).size(2)
    3
    """

    def _join(self, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix | float, Matrix | float]:
        return a * b, b, a


class _Levels(Kernel):
    """A kernel of one column alone that isn't moved by a search: a fidelity or the number of a task."""

    column: int

    def diagonal(self, theta: Vector, X: Points) -> tuple[Vector, Points | None]:
        return np.array([self.at(theta, x[None], x[None])[0][0, 0] for x in X]), None


class CoregionalizationKernel(_Levels):
    """Covariances of tasks, B = w w^T + diag(kappa), for a product with a kernel of points.

    Parameters
    ----------
    n_tasks
        Number of tasks; the column holds 0 to n_tasks - 1.
    column
        Column of the points with the number of the task; the last by default.
    rank
        Columns of w.

    References
    ----------
    arXiv 1807.02811, Section 5.5: the intrinsic coregionalisation B (x) k.

    Examples
    --------
    >>> CoregionalizationKernel(2).size(3)
    4
    """

    def __init__(self, n_tasks: int, column: int = -1, rank: int = 1) -> None:
        self.n_tasks, self.column, self.rank = check_count("n_tasks", n_tasks), int(column), check_count("rank", rank)

    def parameters(self, dim: int) -> list[Parameter]:
        loads = [
            Parameter("loading", 0.9 / (1 + i % self.rank), -10.0, 10.0, False) for i in range(self.n_tasks * self.rank)
        ]
        return loads + [Parameter("task_variance", 0.2, 1e-4, 1e2)] * self.n_tasks

    def covariance(self, theta: Vector) -> Float[np.ndarray, "t t"]:
        """Return B of raw parameters `theta`.

        Returns
        -------
        Float[np.ndarray, "t t"]
            Covariances of the tasks.
        """
        cut = self.n_tasks * self.rank
        w = theta[:cut].reshape(self.n_tasks, self.rank)
        return w @ w.T + np.diag(np.exp(theta[cut:]))

    def _tasks(self, X: Points) -> np.ndarray:
        tasks = np.rint(X[:, self.column]).astype(int)
        if len(tasks) and not 0 <= tasks.min() <= tasks.max() < self.n_tasks:
            raise ValueError(f"X has tasks {tasks.min()} to {tasks.max()}; it takes 0 to {self.n_tasks - 1}")
        return tasks

    def at(self, theta: Vector, X: Points, Z: Points) -> tuple[Matrix, PullX]:
        K = self.covariance(theta)[np.ix_(self._tasks(X), self._tasks(Z))]
        return K, lambda *weights: [np.zeros(X.shape) for _ in weights]

    def diagonal(self, theta: Vector, X: Points) -> tuple[Vector, Points | None]:
        return self.covariance(theta).diagonal()[self._tasks(X)], None

    def bind(self, X: Points) -> Callable[[Vector], tuple[Matrix, PullTheta]]:
        tasks = self._tasks(X)
        members = np.eye(self.n_tasks)[tasks]

        def evaluate(theta: Vector) -> tuple[Matrix, PullTheta]:
            cut = self.n_tasks * self.rank
            w = theta[:cut].reshape(self.n_tasks, self.rank)

            def pull(W: Matrix) -> Vector:
                B_bar = members.T @ W @ members
                return np.concatenate([((B_bar + B_bar.T) @ w).ravel(), B_bar.diagonal() * np.exp(theta[cut:])])

            return self.covariance(theta)[np.ix_(tasks, tasks)], pull

        return evaluate


class FidelityKernel(_Levels):
    """Covariances of levels s of fidelity in [0, 1], where 1 is the truth, to be joined with kernels of points.

    "truncated" is (1 - s)(1 - s')(1 + s s')^p, the error of a truncation, which is 0 at s = 1 (a linear-truncated
    kernel is k1 + truncated * k2); "decay" is w + b^a / (s + s' + b)^a, the error of a training stopped early;
    "bias" is 1 where s = s' < 1 and else 0, so that k0 + bias * k is f(x, s) = f(x, 1) + delta_s(x).

    Parameters
    ----------
    kind
        "truncated", "decay" or "bias".
    column
        Column of the points with the fidelity; the last by default.

    References
    ----------
    arXiv 1807.02811, Section 5.3; Wu et al., arXiv 1903.04703, for the first two.

    Examples
    --------
    >>> import numpy as np
    >>> K, _ = FidelityKernel("bias").at(np.zeros(0), np.array([[0.5], [1.0]]), np.array([[0.5], [1.0]]))
    >>> K
    array([[1., 0.],
           [0., 0.]])
    """

    def __init__(self, kind: str = "truncated", column: int = -1) -> None:
        self.kind = check_choice("kind", kind, ("truncated", "decay", "bias"))
        self.column = int(column)

    def parameters(self, dim: int) -> list[Parameter]:
        return {
            "truncated": [Parameter("power", 1.0, 0.05, 10.0)],
            "decay": [
                Parameter("offset", 1.0, 1e-3, 1e2),
                Parameter("power", 1.0, 0.05, 10.0),
                Parameter("decay", 1.0, 0.05, 10.0),
            ],
            "bias": [],
        }[self.kind]

    def _value(self, theta: Vector, s: Matrix, t: Matrix) -> tuple[Matrix, list[Matrix]]:
        """Return the covariances and their derivatives by `theta`."""
        if self.kind == "bias":
            return ((s == t) & (s < 1)).astype(float), []
        if self.kind == "truncated":
            power = math.exp(theta[0])
            K = (1 - s) * (1 - t) * (1 + s * t) ** power
            return K, [K * power * np.log1p(s * t)]
        offset, power, b = np.exp(theta)
        ratio = b / (s + t + b)
        K = ratio**power
        return offset + K, [np.full_like(K, offset), K * power * np.log(ratio), K * power * (1 - ratio)]

    def at(self, theta: Vector, X: Points, Z: Points) -> tuple[Matrix, PullX]:
        s, t = np.broadcast_arrays(X[:, self.column][:, None], Z[:, self.column][None])
        return self._value(theta, s, t)[0], lambda *weights: [np.zeros(X.shape) for _ in weights]

    def diagonal(self, theta: Vector, X: Points) -> tuple[Vector, Points | None]:
        s = X[:, self.column]
        return self._value(theta, s, s)[0], None

    def bind(self, X: Points) -> Callable[[Vector], tuple[Matrix, PullTheta]]:
        s, t = np.broadcast_arrays(X[:, self.column][:, None], X[:, self.column][None])

        def evaluate(theta: Vector) -> tuple[Matrix, PullTheta]:
            K, slopes = self._value(theta, s, t)
            return K, lambda W: np.array([np.vdot(W, slope) for slope in slopes])

        return evaluate


NAMES = {"matern52": 2.5, "matern32": 1.5, "matern12": 0.5}


def kernel_of(kernel: "str | Kernel", ard: bool = True) -> Kernel:
    """Return a kernel by its name, or the kernel itself."""
    if isinstance(kernel, Kernel):
        return kernel
    check_choice("kernel", kernel, (*NAMES, "rbf"))
    return RBFKernel(ard) if kernel == "rbf" else MaternKernel(NAMES[kernel], ard)
