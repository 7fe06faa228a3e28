"""Pruning before training: at random, by magnitude, and by the scores of SNIP, GraSP and SynFlow."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from paperworks.core.validation import check_choice, check_count
from paperworks.numerics.random import seeded, torch_generator
from paperworks.training.pruning.masks import PRUNABLE, best, copied, kept, prunable, weights_of

Method = Literal["random", "mag", "snip", "grasp", "synflow"]
Scores = dict[str, Float[Tensor, "..."]]
_TEMPERATURE = 200  # of GraSP's logits, in its authors' code


@torch.enable_grad()
def prune_at_init(
    model: nn.Module,
    method: Method,
    density: float,
    *,
    data: tuple[Tensor, Tensor] | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    include: tuple[type[nn.Module], ...] = PRUNABLE,
    steps: int = 100,
    random_state: int = 0,
) -> dict[str, Bool[Tensor, "..."]]:
    r"""Return which weights to keep before training, the best of all layers together; the network isn't changed.

    ``random``
        At random.
    ``mag``
        The largest ``|w|``.
    ``snip``
        The largest ``|w dL/dw|`` (arXiv 1810.02340).
    ``grasp``
        The largest ``w (H g)``, with the gradient g and the Hessian H of the loss of outputs / 200 (arXiv 2002.07376):
        what is pruned would hinder the flow of the gradient.
    ``synflow``
        The largest ``|w dR/dw|`` for the sum R of the outputs for inputs of ones, with all parameters replaced by their
        absolute values, pruned in 100 steps on an exponential schedule (arXiv 2006.05467), in evaluation mode and
        float64.

    SNIP and GraSP run the network in the mode that it is in: with batch norm in training mode, by the batch's
    statistics. Weights that the outputs don't depend on have scores of 0. Parametrised layers and the output projection
    of attention, which no mask can hold, are left out.

    Parameters
    ----------
    model
        The network, as it is before training.
    method
        By what weights are scored.
    density
        Share of the weights that stay, above 0; at least one does.
    data
        Inputs and targets for SNIP and GraSP, ten of each class in the papers; to SynFlow only the shape of the
        inputs matters, unless they are integers, such as words, which it takes as they are.
    loss_fn
        ``loss_fn(outputs, targets)`` for SNIP and GraSP.
    include
        Kinds of layers whose weights are pruned.
    steps
        How many steps SynFlow's schedule has.
    random_state
        Seed of ``random``, and of dropout for SNIP and GraSP.

    Returns
    -------
    dict of str to Tensor
        For each layer's name, which of its weights stay: what `apply_masks` and `torch.nn.utils.prune.custom_from_mask`
        take.

    Raises
    ------
    ValueError
        For an unknown method, a density outside (0, 1], data or a loss that the method needs and didn't get, a network
        without such layers or on the meta device, data without an example, or scores that aren't finite or, of
        SynFlow, all 0, as where the flow through a network leaves the range of float64.

    Examples
    --------
    >>> masks = prune_at_init(nn.Sequential(nn.Linear(8, 8)), "mag", 0.25)
    >>> int(masks["0"].sum())
    16
    """
    check_choice("method", method, get_args(Method))
    layers = prunable(model, include)
    count = kept(sum(weight.numel() for _, weight in weights_of(layers)), density)
    check_count("steps", steps)
    if method != "random" and method != "mag" and data is None:
        raise ValueError(f"data is None; {method} takes inputs and targets")
    if method == "random":
        generator = torch_generator(random_state)
        return best({name: torch.rand(w.shape, generator=generator) for name, w in weights_of(layers)}, count)
    if method == "mag":
        return best({name: weight.detach().abs() for name, weight in weights_of(layers)}, count)
    inputs, targets = data  # type: ignore[misc]
    if not len(inputs):
        raise ValueError("data has no example")
    twin = copied(model)  # batch norm of the model takes no notice
    layers = {name: twin.get_submodule(name) for name in layers}
    if method == "synflow":
        floating = inputs.is_floating_point()
        like = torch.ones_like(inputs[:1], dtype=torch.float64) if floating else inputs
        return _synflow(twin.double().eval(), layers, like, density, steps)
    if loss_fn is None:
        raise ValueError(f"loss_fn is None; {method} takes a loss of outputs and targets")
    with seeded(random_state):
        scores = (_snip if method == "snip" else _grasp)(twin, layers, inputs, targets, loss_fn)
    return best(scores, count)


def _snip(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Tensor, targets: Tensor, loss_fn: Callable[..., Tensor]
) -> Scores:
    names, weights = zip(*weights_of(layers), strict=True)
    gradients = torch.autograd.grad(loss_fn(model(inputs), targets), weights, materialize_grads=True)
    return {name: (w * g).detach().abs() for name, w, g in zip(names, weights, gradients, strict=True)}


def _grasp(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Tensor, targets: Tensor, loss_fn: Callable[..., Tensor]
) -> Scores:
    names, weights = zip(*weights_of(layers), strict=True)
    with sdpa_kernel(SDPBackend.MATH):  # attention's other kernels have no second derivative
        loss = loss_fn(model(inputs) / _TEMPERATURE, targets)
    gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    flow = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()  # its gradient is the Hessian times g
    products = torch.autograd.grad(flow, weights, materialize_grads=True)
    return {name: (w * h).detach() for name, w, h in zip(names, weights, products, strict=True)}


def _synflow(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Tensor, density: float, steps: int
) -> dict[str, Bool[Tensor, "..."]]:
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.abs_()
    originals = {name: weight.detach().clone() for name, weight in weights_of(layers)}
    names, weights = zip(*weights_of(layers), strict=True)
    count = sum(w.numel() for w in weights)
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(model(inputs).sum(), weights, materialize_grads=True)
        scores = {name: (w * g).detach() for name, w, g in zip(names, weights, gradients, strict=True)}
        if step == 1 and not any(bool(score.any()) for score in scores.values()):
            raise ValueError("scores are all 0: no flow passes the network, or too little for float64")
        masks = best(scores, kept(count, density ** (step / steps)))
        with torch.no_grad():
            for name, weight in zip(names, weights, strict=True):
                weight.copy_(originals[name] * masks[name])
    return masks
