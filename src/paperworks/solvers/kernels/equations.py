"""Differential equations with constant coefficients and a nonlinear term in the solution itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.solvers.kernels.spectral import MAX_ORDER

MultiIndex = tuple[int, ...]


@dataclass(frozen=True)
class Equation:
    r"""An equation $\sum_m c_m \partial^m u + \phi(u) = f$ on a box.

    Parameters
    ----------
    coefficients
        Constants by multi-index, the order of the derivative by each variable: {(2, 0): 1.0, (0, 2): 1.0} is the
        Laplacian of two variables. Orders go up to 4 in one variable.
    nonlinear
        The function phi of a tensor of values of the solution, none by default.
    slope
        The derivative of phi, of such a tensor too; it takes one where there is a nonlinear term.

    Raises
    ------
    TypeError
        Where coefficients are no mapping, or the nonlinear term or its slope can't be called.
    ValueError
        Where multi-indices differ in length or are out of range, where there are none, where all constants are 0, or
        where only one of the nonlinear term and its slope is given.

    Examples
    --------
    >>> from paperworks.solvers import Equation
    >>> pendulum = Equation({(2,): 1.0}, nonlinear=lambda u: u.sin(), slope=lambda u: u.cos())
    >>> pendulum.ndim, pendulum.is_linear
    (1, False)
    """

    coefficients: Mapping[MultiIndex, float]
    nonlinear: Callable[[Float[Tensor, "*grid"]], Float[Tensor, "*grid"]] | None = None
    slope: Callable[[Float[Tensor, "*grid"]], Float[Tensor, "*grid"]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.coefficients, Mapping):
            raise TypeError(f"coefficients is {self.coefficients!r}; it takes a mapping of constants by multi-index")
        object.__setattr__(self, "coefficients", dict(self.coefficients))
        if not self.coefficients:
            raise ValueError("coefficients is empty; it takes a constant for at least one multi-index")
        lengths = {len(index) if isinstance(index, tuple) else 0 for index in self.coefficients}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(
                f"coefficients has the keys {list(self.coefficients)}; it takes tuples with one order for each variable"
            )
        for index, constant in self.coefficients.items():
            for order in index:
                check_count("an order of coefficients", order, at_least=0, at_most=MAX_ORDER)
            check_number(f"coefficients[{index}]", constant)
        if not any(self.coefficients.values()):
            raise ValueError("coefficients are all 0; it takes one that isn't")
        if (self.nonlinear is None) != (self.slope is None):
            raise ValueError("nonlinear and slope belong together; it takes both or none")
        for name, function in (("nonlinear", self.nonlinear), ("slope", self.slope)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} is {function!r}; it takes a function of a tensor")

    @property
    def ndim(self) -> int:
        """How many variables there are."""
        return len(next(iter(self.coefficients)))

    @property
    def is_linear(self) -> bool:
        """Whether there is no nonlinear term."""
        return self.nonlinear is None

    @property
    def max_order(self) -> int:
        """The highest derivative by one variable."""
        return max(max(index) for index in self.coefficients)


class Linear(Equation):
    r"""The linear equation $\sum_m c_m \partial^m u = f$.

    Parameters
    ----------
    coefficients
        Constants by multi-index, as of `Equation`.

    Examples
    --------
    >>> heat = Linear({(0, 1): 1.0, (2, 0): -0.1})  # u_t - 0.1 u_xx
    >>> heat.ndim, heat.max_order
    (2, 2)
    """

    def __init__(self, coefficients: Mapping[MultiIndex, float]) -> None:
        super().__init__(coefficients)


class Poisson(Equation):
    r"""The Poisson equation, $\Delta u = f$.

    Parameters
    ----------
    ndim
        How many variables there are.

    Examples
    --------
    >>> Poisson(2).coefficients
    {(2, 0): 1.0, (0, 2): 1.0}
    """

    def __init__(self, ndim: int = 1) -> None:
        super().__init__(_laplacian(ndim))


class Helmholtz(Equation):
    r"""The Helmholtz equation, $\Delta u + \kappa^2 u = f$.

    Parameters
    ----------
    wavenumber
        The constant kappa, in radians per unit of length.
    ndim
        How many variables there are.

    Examples
    --------
    >>> Helmholtz(3.0).coefficients
    {(2,): 1.0, (0,): 9.0}
    """

    def __init__(self, wavenumber: float, ndim: int = 1) -> None:
        square = check_number("wavenumber", wavenumber) ** 2
        super().__init__({**_laplacian(ndim), (0,) * ndim: square})


class AllenCahn(Equation):
    r"""The steady Allen-Cahn equation, $\Delta u + u (u^2 - 1) = f$.

    Parameters
    ----------
    ndim
        How many variables there are.

    Examples
    --------
    >>> import torch
    >>> AllenCahn().nonlinear(torch.tensor(2.0)).item()
    6.0
    """

    def __init__(self, ndim: int = 1) -> None:
        super().__init__(_laplacian(ndim), _cubic, _cubic_slope)


class Advection(Equation):
    r"""The advection equation, $u_t + \sum_j \beta_j \partial_j u = f$, with time as the last variable.

    Parameters
    ----------
    *velocity
        The constants beta, one for each variable of space; the paper takes one of 200.

    Examples
    --------
    >>> Advection(200.0).coefficients
    {(0, 1): 1.0, (1, 0): 200.0}
    """

    def __init__(self, *velocity: float) -> None:
        n = check_count("the number of velocities", len(velocity)) + 1
        space = {_unit(n, j, 1): check_number("velocity", beta) for j, beta in enumerate(velocity)}
        super().__init__({_unit(n, n - 1, 1): 1.0, **space})


def _laplacian(ndim: int) -> dict[MultiIndex, float]:
    n = check_count("ndim", ndim)
    return {_unit(n, j, 2): 1.0 for j in range(n)}


def _unit(n: int, j: int, order: int) -> MultiIndex:
    return tuple(order if i == j else 0 for i in range(n))


def _cubic(u: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
    return u * (u * u - 1)


def _cubic_slope(u: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
    return 3 * u * u - 1
