"""Test functions of optimisation with known optima, as functions to be minimised."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class TestFunction:
    """A function to be minimised over a box, with its least value.

    Parameters
    ----------
    function
        Takes points (n, d) and returns n values.
    bounds
        Low and high of each column.
    minimum
        Least value over the box.
    gradient
        Takes points and returns their gradients, None where it is not given.

    Examples
    --------
    >>> import numpy as np
    >>> float(abs(branin()(np.array([[np.pi, 2.275]]))[0] - branin().minimum)) < 1e-8
    True
    """

    __test__ = False  # for pytest, which takes its name for a test's

    function: Callable[[Points], Float[np.ndarray, " n"]]
    bounds: tuple[tuple[float, float], ...]
    minimum: float
    gradient: Callable[[Points], Points] | None = None

    def __call__(self, X: Points) -> Float[np.ndarray, " n"]:
        """Return the values at points `X`.

        Returns
        -------
        Float[np.ndarray, " n"]
            One value for each row.
        """
        return self.function(np.asarray(X, dtype=float))


def branin(fidelity: float = 1.0) -> TestFunction:
    """Return Branin's function of two variables, which has three global minima.

    At a `fidelity` s below 1, the coefficient of the square of the first variable is 0.1 (1 - s) less, which moves
    values and minima as in the augmented function of BoTorch.

    Returns
    -------
    TestFunction
        The function on [-5, 10] x [0, 15]; its `minimum` is that of fidelity 1.

    Examples
    --------
    >>> round(branin().minimum, 6)
    0.397887
    """

    def values(X: Points) -> Float[np.ndarray, " n"]:
        x, y = X.T
        b = 5.1 / (4 * np.pi**2) - 0.1 * (1 - fidelity)
        return (y - b * x**2 + 5 / np.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10

    return TestFunction(values, ((-5.0, 10.0), (0.0, 15.0)), 10 / (8 * np.pi))


def hartmann6() -> TestFunction:
    """Return Hartmann's function of six variables, which has six local minima.

    Returns
    -------
    TestFunction
        The function on the unit cube.

    Examples
    --------
    >>> round(hartmann6().minimum, 5)
    -3.32237
    """
    A = np.array(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
    )
    P = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    weights = np.array([1.0, 1.2, 3.0, 3.2])

    def values(X: Points) -> Float[np.ndarray, " n"]:
        return -np.exp(-(A * (X[:, None] - P) ** 2).sum(axis=2)) @ weights

    return TestFunction(values, ((0.0, 1.0),) * 6, -3.322368011415513)


def rosenbrock(dim: int = 4) -> TestFunction:
    """Return Rosenbrock's curved valley in `dim` variables, with its gradient.

    Returns
    -------
    TestFunction
        The function on [-2, 2]^dim, whose minimum 0 is at (1, ..., 1).

    Examples
    --------
    >>> import numpy as np
    >>> rosenbrock(4)(np.ones((1, 4))).tolist()
    [0.0]
    """
    if dim < 2:
        raise ValueError(f"dim is {dim!r}; it takes a whole number >= 2")

    def values(X: Points) -> Float[np.ndarray, " n"]:
        return (100 * (X[:, 1:] - X[:, :-1] ** 2) ** 2 + (1 - X[:, :-1]) ** 2).sum(axis=1)

    def gradient(X: Points) -> Points:
        found = np.zeros_like(X)
        bend = X[:, 1:] - X[:, :-1] ** 2
        found[:, 1:] += 200 * bend
        found[:, :-1] += -400 * X[:, :-1] * bend - 2 * (1 - X[:, :-1])
        return found

    return TestFunction(values, ((-2.0, 2.0),) * dim, 0.0, gradient)
