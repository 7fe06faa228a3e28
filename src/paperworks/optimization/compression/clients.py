"""Clients with data of their own: their functions, gradients and smoothness constants, all clients at once."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paperworks.core.validation import check_count, check_finite, check_number


class Clients(ABC):
    """n functions of d variables, one a client, whose mean is minimised.

    Attributes
    ----------
    n, size
        How many clients, and variables, there are.
    L_i
        Smoothness constant of each client's function.
    L
        Smoothness constant of their mean.
    lower_bound
        A number that the mean is never below.
    owned
        Which variables each client's function depends on, a row a client; None where all do on all.
    """

    n: int
    size: int
    L_i: Float[Tensor, " n"]
    L: float
    lower_bound: float = 0.0
    owned: Bool[Tensor, "n size"] | None = None

    @abstractmethod
    def evaluate(self, x: Float[Tensor, " size"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n size"]]:
        """Return all clients' values and gradients at a point.

        Parameters
        ----------
        x
            The point, one vector.

        Returns
        -------
        tuple[Tensor, Tensor]
            A value, and a gradient as a row, for each client.
        """

    def sample(
        self, x: Float[Tensor, " size"], batch_size: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n size"]:
        """Return unbiased estimates of all clients' gradients, each from some of the client's rows.

        Parameters
        ----------
        x
            The point, one vector.
        batch_size
            Rows of each client, drawn without replacement.
        generator
            Draws the rows, torch's global one by default.

        Returns
        -------
        Tensor
            An estimate of the gradient for each client.
        """
        raise TypeError(f"{type(self).__name__} has no rows to sample from")


class _Rows(Clients):
    """A loss of each row's product with the variables, and a regulariser."""

    def __init__(
        self,
        A: Float[Tensor, "n m d"],
        b: Float[Tensor, "n m"],
        regularization: float,
        owned: Bool[Tensor, "n d"] | None,
    ) -> None:
        if A.ndim != 3 or not A.numel():
            raise ValueError(f"A has shape {tuple(A.shape)}; it takes clients, rows and variables, none of them empty")
        if b.shape != A.shape[:2]:
            raise ValueError(f"b has shape {tuple(b.shape)}; it takes {tuple(A.shape[:2])}, as A does")
        self.A, self.b = check_finite("A", A), check_finite("b", b)
        self.n, self.m, self.size = A.shape
        self.regularization = check_number("regularization", regularization, ge=0)
        if owned is not None:
            if owned.shape != (self.n, self.size):
                raise ValueError(f"owned has shape {tuple(owned.shape)}; it takes {(self.n, self.size)}")
            if bool(A.abs().sum(dim=1)[~owned].any()):
                raise ValueError("owned leaves out variables of rows of A that are not 0; it takes all of each client")
        self.owned = owned

    _curvature: float  # the greatest of the loss of a row

    @cached_property
    def L_i(self) -> Float[Tensor, " n"]:  # type: ignore[override]
        """Smoothness constant of each client's function."""
        squares = torch.linalg.matrix_norm(self.A, 2) ** 2
        return squares * (self._curvature / self.m) + self._penalty_curvature

    @cached_property
    def L(self) -> float:  # type: ignore[override]
        """Smoothness constant of the mean."""
        norm = torch.linalg.matrix_norm(self.A.flatten(0, 1), 2)
        return float(norm) ** 2 * self._curvature / (self.n * self.m) + self._penalty_curvature

    @property
    def _penalty_curvature(self) -> float:
        return 0.0

    def evaluate(self, x: Float[Tensor, " size"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n size"]]:
        """Return all clients' values and gradients at a point.

        Returns
        -------
        tuple[Tensor, Tensor]
            A value, and a gradient as a row, for each client.
        """
        if x.dtype != self.A.dtype:
            raise ValueError(f"x is of {x.dtype}; it takes {self.A.dtype}, as A is")
        values, slopes = self._loss(self.A @ x, self.b)
        penalty, pull = self._penalty(x)
        gradients = torch.baddbmm(pull[:, None], slopes[:, None], self.A, alpha=1 / self.m)[:, 0]
        return values.mean(dim=1) + penalty, gradients

    def sample(
        self, x: Float[Tensor, " size"], batch_size: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n size"]:
        """Return unbiased estimates of all clients' gradients, each from some of the client's rows.

        Returns
        -------
        Tensor
            An estimate of the gradient for each client.
        """
        check_count("batch_size", batch_size, at_most=self.m)
        keys = torch.rand(self.n, self.m, generator=generator, device=self.A.device)
        rows = keys.topk(batch_size, dim=1).indices
        clients = torch.arange(self.n, device=self.A.device)[:, None]
        A, b = self.A[clients, rows], self.b[clients, rows]
        slopes = self._loss(A @ x, b)[1]
        return torch.baddbmm(self._penalty(x)[1][:, None], slopes[:, None], A, alpha=1 / batch_size)[:, 0]

    def _penalty(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the regulariser of each client and its gradients."""
        value, slope = self._regularizer(x)
        if self.owned is None:
            return value.sum(), slope.expand(self.n, -1)
        return self.owned.to(value) @ value, torch.where(self.owned, slope, 0.0)

    @abstractmethod
    def _regularizer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and slopes of the regulariser, variable by variable."""

    @abstractmethod
    def _loss(self, product: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each row and its derivative."""


class LogisticClients(_Rows):
    """Logistic regressions with the nonconvex regulariser `regularization * sum_j x_j^2 / (1 + x_j^2)`.

    `f_i(x) = mean_r log(1 + exp(-b_ir a_ir . x)) + ...`, as in the experiments of arXiv 2402.10774.

    Parameters
    ----------
    A
        Rows of each client, as many for all.
    b
        Labels -1 and 1.
    regularization
        Weight of the regulariser, whose second derivative is between -1/2 and 2.
    owned
        Which variables occur at which client, where features are rare: a client regularises its own alone.

    Raises
    ------
    ValueError
        If shapes don't match, an entry is not finite, or a label is not -1 or 1.

    Examples
    --------
    >>> clients = LogisticClients(torch.ones(2, 1, 1), torch.tensor([[1.0], [-1.0]]), regularization=0.0)
    >>> values, gradients = clients.evaluate(torch.zeros(1))
    >>> gradients
    tensor([[-0.5000],
            [ 0.5000]])
    """

    _curvature = 0.25

    def __init__(
        self,
        A: Float[Tensor, "n m d"],
        b: Float[Tensor, "n m"],
        *,
        regularization: float = 1e-3,
        owned: Bool[Tensor, "n d"] | None = None,
    ) -> None:
        super().__init__(A, b, regularization, owned)
        if not bool((self.b.abs() == 1).all()):
            raise ValueError("b has labels other than -1 and 1; it takes these")

    @property
    def _penalty_curvature(self) -> float:
        return 2 * self.regularization

    def _regularizer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        square, weight = x * x, self.regularization
        return weight * square / (1 + square), 2 * weight * x / (1 + square) ** 2

    def _loss(self, product: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        margin = b * product
        return -torch.nn.functional.logsigmoid(margin), -b * torch.sigmoid(-margin)


class LeastSquaresClients(_Rows):
    """Least squares with a ridge: `f_i(x) = mean_r (a_ir . x - b_ir)^2 / 2 + regularization |x|^2 / 2`.

    Parameters
    ----------
    A
        Rows of each client, as many for all.
    b
        Targets of the rows.
    regularization
        Weight of the ridge.
    owned
        Which variables occur at which client, where features are rare: a client regularises its own alone.

    Raises
    ------
    ValueError
        If shapes don't match, or an entry is not finite.

    Examples
    --------
    >>> clients = LeastSquaresClients(torch.tensor([[[1.0]], [[3.0]]]), torch.zeros(2, 1))
    >>> clients.L_i, round(clients.L, 3)
    (tensor([1., 9.]), 5.0)
    """

    _curvature = 1.0

    def __init__(
        self,
        A: Float[Tensor, "n m d"],
        b: Float[Tensor, "n m"],
        *,
        regularization: float = 0.0,
        owned: Bool[Tensor, "n d"] | None = None,
    ) -> None:
        super().__init__(A, b, regularization, owned)

    @property
    def _penalty_curvature(self) -> float:
        return self.regularization

    def _regularizer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.regularization * x * x / 2, self.regularization * x

    def _loss(self, product: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        error = product - b
        return error * error / 2, error


class FunctionClients(Clients):
    """Any functions that torch can differentiate, one a client.

    Parameters
    ----------
    functions
        Each takes one vector and returns a number.
    size
        Number of variables.
    L_i
        Smoothness constants of the functions; `estimate_smoothness` finds them where no formula does.
    L
        Smoothness constant of the mean; by default the mean of theirs, which it is never above.
    lower_bound
        A number that the mean is never below.

    Raises
    ------
    ValueError
        If there are no functions, or not as many constants.

    Examples
    --------
    >>> clients = FunctionClients([lambda x: x.square().sum(), lambda x: x.sum()], size=2, L_i=[2.0, 1.0])
    >>> clients.evaluate(torch.ones(2))[1]
    tensor([[2., 2.],
            [1., 1.]])
    """

    def __init__(
        self,
        functions: Sequence[Callable[[Tensor], Tensor]],
        size: int,
        L_i: Sequence[float],
        *,
        L: float | None = None,
        lower_bound: float = -math.inf,
    ) -> None:
        if not functions or len(L_i) != len(functions):
            raise ValueError(f"L_i has {len(L_i)} entries for {len(functions)} functions; it takes one for each")
        self.functions, self.n = list(functions), len(functions)
        self.size = check_count("size", size)
        self.L_i = torch.tensor([check_number("L_i", value, ge=0) for value in L_i], dtype=torch.float64)
        self.L = float(self.L_i.mean()) if L is None else check_number("L", L, gt=0)
        self.lower_bound = float(lower_bound)

    def evaluate(self, x: Float[Tensor, " size"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n size"]]:
        """Return all clients' values and gradients at a point.

        Returns
        -------
        tuple[Tensor, Tensor]
            A value, and a gradient as a row, for each client.
        """
        found: list[Any] = [torch.func.grad_and_value(function)(x) for function in self.functions]
        return torch.stack([value for _, value in found]), torch.stack([gradient for gradient, _ in found])
