"""Modules called with other tensors in place of their own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def functional_call(module: nn.Module, tensors: Mapping[str, Tensor], inputs: tuple[Any, ...]) -> Any:
    """Call a module with other tensors in place of its parameters and buffers, and leave the module as it was.

    As `torch.func.functional_call`, which puts a part that stands in two places back once, and so leaves the given
    tensors in the module; here it gets its own back.

    Parameters
    ----------
    module
        Whose tensors are replaced for this call.
    tensors
        By names of the module's parameters and buffers. One name is enough for a tensor that has several, and it
        stands for all of them.
    inputs
        Positional inputs of the module.

    Returns
    -------
    object
        What the module returns.

    Raises
    ------
    ValueError
        For a name that no parameter or buffer of the module has.

    Examples
    --------
    >>> part = nn.Linear(1, 1, bias=False)
    >>> twice = nn.Sequential(part, part)
    >>> functional_call(twice, {"0.weight": torch.tensor([[3.0]])}, (torch.ones(1, 1),))
    tensor([[9.]])
    >>> bool(part.weight == 3.0)
    False
    """
    names = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    if unknown := [name for name in tensors if name not in names]:
        raise ValueError(f"tensors names {unknown[0]!r}; it takes names of the module's parameters and buffers")
    given = {id(names[name]): tensor for name, tensor in tensors.items()}
    everywhere = {
        f"{prefix}.{name}" if prefix else name: given[id(own)]
        for prefix, part in module.named_modules()  # each part once, which is what torch puts back
        for name, own in (*part._parameters.items(), *part._buffers.items())
        if id(own) in given
    }
    return torch.func.functional_call(module, everywhere, inputs, tie_weights=False)
