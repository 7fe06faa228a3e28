"""Tensors and parameters that carry the set they range over."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.robustness.bounds.perturbations import Perturbation


def _check(ptb: Any) -> Perturbation | None:
    if ptb is not None and not isinstance(ptb, Perturbation):
        raise TypeError(f"ptb is {type(ptb).__name__}; it takes a Perturbation")
    return ptb


class BoundedTensor(Tensor):
    """An input with the set it ranges over; `ptb=None` makes it an ordinary constant.

    Operations on it give plain tensors: the set is read by `BoundedModule.compute_bounds` alone.

    Parameters
    ----------
    x
        The clean input, of shape (batch, ...).
    ptb
        The set it ranges over, None for a constant.

    Examples
    --------
    >>> from paperworks.robustness import PerturbationLpNorm
    >>> BoundedTensor(torch.zeros(2, 3), PerturbationLpNorm(0.1)).ptb
    PerturbationLpNorm(eps=0.1, norm=inf)
    """

    ptb: Perturbation | None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, x: Float[Tensor, " batch *shape"], ptb: Perturbation | None = None) -> "BoundedTensor":
        """Wrap `x`, sharing its memory and its place in the autograd graph."""
        tensor = x.as_subclass(cls)
        tensor.ptb = _check(ptb)
        return tensor


class BoundedParameter(nn.Parameter):
    """A weight with the set it ranges over.

    Parameters
    ----------
    data
        Values of the weight, of any shape.
    ptb
        The set it ranges over, None for a constant.
    requires_grad
        Whether gradients are recorded.

    Examples
    --------
    >>> from paperworks.robustness import PerturbationLpNorm
    >>> layer = torch.nn.Linear(3, 2)
    >>> layer.weight = BoundedParameter(layer.weight, PerturbationLpNorm(0.1, norm=2))
    >>> isinstance(layer.weight, torch.nn.Parameter)
    True
    """

    ptb: Perturbation | None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, data: Tensor, ptb: Perturbation | None = None, requires_grad: bool = True) -> "BoundedParameter":
        """Wrap the data of a weight."""
        parameter: BoundedParameter = torch.Tensor._make_subclass(cls, data.detach(), requires_grad)
        parameter.ptb = _check(ptb)
        return parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> "BoundedParameter":
        copied = type(self)(self.data.clone(memory_format=torch.preserve_format), self.ptb, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (self.data, self.ptb, self.requires_grad)
