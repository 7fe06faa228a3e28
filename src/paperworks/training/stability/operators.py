"""The Hessian, the generalised Gauss-Newton matrix and the empirical Fisher of a network on a data set."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from paperworks.core.validation import check_count
from paperworks.numerics.curvature import Curvature, Kind, Loss, Reduction

Data = tuple[Any, Any] | Iterable[tuple[Any, Any]]


def batches_of(data: Data, batch_size: int | None = None) -> Any:
    """Return data as batches: a pair of inputs and targets split into them, anything else as it is.

    Parameters
    ----------
    data
        A pair of tensors with the samples in front, or an iterable of such pairs, such as a `DataLoader`. An iterator,
        which can be read once only, is kept as a list.
    batch_size
        Rows that go through at once where `data` is a pair; None for all.

    Returns
    -------
    Iterable[tuple]
        Pairs of inputs and targets.
    """
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        inputs: Any = data[0]
        targets: Any = data[1]
        if len(inputs) != len(targets):
            raise ValueError(f"data has {len(inputs)} inputs and {len(targets)} targets; it takes as many of both")
        size = max(len(inputs), 1) if batch_size is None else check_count("batch_size", batch_size)
        return list(zip(inputs.split(size), targets.split(size), strict=True))
    if isinstance(data, (tuple, list)) and any(isinstance(part, (Tensor, np.ndarray)) for part in data):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise TypeError(f"data is made of {kinds}; it takes a pair of tensors, or batches of pairs")
    return list(data) if isinstance(data, Iterator) else data


class _Operator(Curvature):
    """What the three matrices share: how they are made."""

    matrix: ClassVar[Kind]

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        data: Data,
        params: Iterable[Tensor | str] | None = None,
        *,
        batch_size: int | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        batches = batches_of(data, batch_size)
        super().__init__(model, loss_fn, batches, self.matrix, params=params, reduction=reduction)


class HessianOperator(_Operator):
    """The Hessian of a network's loss in its parameters, known by its products.

    SciPy takes it by ``aslinearoperator``, and ``operator @ v`` multiplies tensors. The kinks of ReLU networks are not
    seen by its products; `GGNOperator` has none.

    Parameters
    ----------
    model
        The network, in evaluation mode if it has batch normalisation or dropout.
    loss_fn
        ``loss_fn(outputs, targets)`` of a batch. Scales matter: without the factor 1/2 a squared error has twice the
        Hessian.
    data
        A pair of inputs and targets, or batches of them.
    params
        Parameters, their names or those of layers, for a block of the matrix; all that take a gradient by default.
    batch_size
        Rows that go through at once where `data` is a pair; all by default.
    reduction
        Whether `loss_fn` is the ``mean`` or the ``sum`` over a batch, and so the matrix over all samples.

    Raises
    ------
    ValueError
        For parameters that are none of the model's.
    RuntimeError
        From products, where batch normalisation or dropout is in training mode, or a product is NaN.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> operator = HessianOperator(nn.Linear(1, 1, bias=False), nn.functional.mse_loss, (x, y))
    >>> operator @ torch.ones(1), operator.shape
    (tensor([10.]), (1, 1))
    """

    matrix = "hessian"


class GGNOperator(_Operator):
    """The generalised Gauss-Newton matrix, the Hessian without the curvature of the outputs; see `HessianOperator`.

    It is positive semidefinite, and the Hessian itself where all samples are interpolated.

    Parameters
    ----------
    model, loss_fn, data, params, batch_size, reduction
        As in `HessianOperator`.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> GGNOperator(nn.Linear(1, 1, bias=False), nn.functional.mse_loss, (x, y)) @ torch.ones(1)
    tensor([10.])
    """

    matrix = "gauss_newton"


class EmpiricalFisherOperator(_Operator):
    """The mean of ``g g^T`` over the gradients of single samples; see `HessianOperator`.

    It is not the Gauss-Newton matrix: residuals weigh it, so that it vanishes where all samples are interpolated.

    Parameters
    ----------
    model, loss_fn, data, params, batch_size, reduction
        As in `HessianOperator`.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(0.5)
    >>> EmpiricalFisherOperator(model, nn.functional.mse_loss, (x, y)) @ torch.ones(1)  # mean of x^4
    tensor([41.])
    """

    matrix = "empirical_fisher"
