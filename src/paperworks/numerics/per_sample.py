"""Gradients and Hessian products of single samples, and factors of the Gauss-Newton matrix."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad, hessian, jacrev, vjp, vmap

from paperworks.numerics.curvature import Loss, check_mode, parameter_names, plainly, selected
from paperworks.numerics.functional import functional_call

Batches = Iterable[tuple[Any, Any]]


def per_sample_gradients(
    module: nn.Module, loss: Loss, batches: Batches, params: Iterable[Tensor | str] | None = None
) -> Float[Tensor, "n p"]:
    """Return the gradient of each sample's loss.

    Parameters
    ----------
    module
        Any module that torch.func can transform, whose samples don't depend on each other.
    loss
        ``loss(outputs, targets)`` of a batch, called with single samples.
    batches
        Pairs of inputs and targets, each with the samples in front; one goes through at once.
    params
        The parameters, as `Curvature` takes them; all that take a gradient by default.

    Returns
    -------
    Tensor
        A row for each sample, in the order of ``module.parameters()``.

    Raises
    ------
    RuntimeError
        Where batch normalisation or dropout is in training mode.

    Examples
    --------
    >>> module, x, y = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> _ = module.weight.data.fill_(2.0)
    >>> per_sample_gradients(module, nn.functional.mse_loss, [(x, y)])  # 2 w x^2
    tensor([[ 4.],
            [36.]])
    """
    return torch.cat(list(_each(_gradient, module, loss, batches, params)))


def per_sample_norms(
    module: nn.Module, loss: Loss, batches: Batches, params: Iterable[Tensor | str] | None = None
) -> Float[Tensor, " n"]:
    """Return the norm of the gradient of each sample's loss, in double precision.

    Where all parameters are those of `nn.Linear` layers that are called once with a row for each sample, no gradient is
    made: its squared norm is the product of those of the layer's input and of the gradient in its output.

    Parameters
    ----------
    module, loss, batches, params
        As in `per_sample_gradients`.

    Returns
    -------
    Tensor
        A norm for each sample.

    Examples
    --------
    >>> module, x, y = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> _ = module.weight.data.fill_(2.0)
    >>> per_sample_norms(module, nn.functional.mse_loss, [(x, y)])
    tensor([ 4., 36.], dtype=torch.float64)
    """
    layers = _linear_layers(module, parameter_names(module, params))
    found = []
    for inputs, targets in batches:
        squares = _linear_norms(module, layers, loss, inputs, targets) if layers else None
        if squares is None:
            (each,) = _each(_gradient, module, loss, [(inputs, targets)], params)
            squares = each.double().square().sum(1)
        found.append(squares.sqrt())
    return torch.cat(found)


def per_sample_products(
    module: nn.Module,
    loss: Loss,
    batches: Batches,
    v: Float[Tensor, " p"],
    params: Iterable[Tensor | str] | None = None,
) -> Float[Tensor, "n p"]:
    """Return the product of each sample's Hessian with one vector.

    Parameters
    ----------
    module, loss, batches, params
        As in `per_sample_gradients`.
    v
        One number for each parameter, in the order of ``module.parameters()``.

    Returns
    -------
    Tensor
        A row for each sample; their mean is the product with the Hessian of the mean loss.

    Raises
    ------
    ValueError
        For a vector of another length.
    RuntimeError
        Where batch normalisation or dropout is in training mode.

    Examples
    --------
    >>> module, x, y = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> per_sample_products(module, nn.functional.mse_loss, [(x, y)], torch.ones(1))  # 2 x^2
    tensor([[ 2.],
            [18.]])
    """
    parameters = selected(module, parameter_names(module, params))
    sizes = [p.numel() for p in parameters.values()]
    if v.shape != (sum(sizes),):
        raise ValueError(f"v has shape {tuple(v.shape)}; it takes ({sum(sizes)},)")
    pieces = zip(parameters.items(), v.split(sizes), strict=True)
    tangent = {name: piece.reshape(p.shape).to(p) for (name, p), piece in pieces}

    def of_sample(outputs: Any, loss: Loss, at: dict[str, Tensor], x: Any, y: Any) -> Tensor:
        def objective(p: dict[str, Tensor]) -> Tensor:
            return loss(outputs(p, x), y[None])

        turn: Any = vjp(grad(objective), at)[1]
        (found,) = turn(tangent)
        return torch.cat([found[name].flatten() for name in at])

    return torch.cat(list(_each(of_sample, module, loss, batches, params)))


def gauss_newton_factors(
    module: nn.Module, loss: Loss, batches: Batches, params: Iterable[Tensor | str] | None = None
) -> Float[Tensor, "n c p"]:
    r"""Return the factors ``G_i`` of the Gauss-Newton matrix, ``mean of G_i^T G_i``.

    They are the Jacobian of a sample's outputs from the left by a square root of the loss' Hessian in the outputs, so
    for ``(f - y)^2 / 2`` of one output the gradient of ``f`` itself.

    Parameters
    ----------
    module, loss, batches, params
        As in `per_sample_gradients`; the loss is convex in the outputs.

    Returns
    -------
    Tensor
        For each sample as many rows as it has outputs. It takes n c p numbers.

    Examples
    --------
    >>> module, x, y = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> gauss_newton_factors(module, lambda f, y: (f - y).square().mean() / 2, [(x, y)]).flatten()
    tensor([1., 3.])
    """
    return torch.cat(list(_each(_factor, module, loss, batches, params)))


def gauss_newton_gram(
    module: nn.Module, loss: Loss, batches: Batches, params: Iterable[Tensor | str] | None = None
) -> Float[Tensor, "nc nc"]:
    """Return the Gram matrix of the rows of `gauss_newton_factors`, one parameter's after the other's, in float64.

    Divided by n, its eigenvalues are those of the Gauss-Newton matrix that are not zero.

    Parameters
    ----------
    module, loss, batches, params
        As in `gauss_newton_factors`; batches are gone through once for each parameter.

    Returns
    -------
    Tensor
        Square, a row for each output of each sample.

    Examples
    --------
    >>> module, x, y = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> gauss_newton_gram(module, lambda f, y: (f - y).square().mean() / 2, [(x, y)])
    tensor([[1., 3.],
            [3., 9.]], dtype=torch.float64)
    """
    total: Any = 0.0
    kept = list(batches)
    for name in parameter_names(module, params):
        rows = gauss_newton_factors(module, loss, kept, [name]).flatten(0, 1).double()
        total = total + rows @ rows.T
    return total


def gauss_newton_trace(
    module: nn.Module, loss: Loss, batches: Batches, params: Iterable[Tensor | str] | None = None
) -> float:
    """Return the exact trace of the Gauss-Newton matrix, the mean of ``|G_i|_F^2`` of `gauss_newton_factors`.

    Parameters
    ----------
    module, loss, batches, params
        As in `gauss_newton_factors`; one batch's factors are held at a time.

    Returns
    -------
    float
        The trace for the mean loss over all samples.

    Examples
    --------
    >>> module, x, y = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> gauss_newton_trace(module, lambda f, y: (f - y).square().mean() / 2, [(x, y)])
    5.0
    """
    squares = [part.double().square().sum((1, 2)) for part in _each(_factor, module, loss, batches, params)]
    return float(torch.cat(squares).mean())


_Sample = Callable[[Any, Loss, dict[str, Tensor], Any, Any], Tensor]


def _each(
    of_sample: _Sample, module: nn.Module, loss: Loss, batches: Batches, params: Iterable[Tensor | str] | None
) -> Iterable[Tensor]:
    """Yield what a function of a single sample gives for all samples of each batch."""
    check_mode(module)
    parameters = selected(module, parameter_names(module, params))
    none = True

    def outputs(p: dict[str, Tensor], x: Any) -> Tensor:
        return functional_call(module, p, (x[None],))

    def one(x: Any, y: Any) -> Tensor:
        return of_sample(outputs, loss, parameters, x, y)

    for inputs, targets in batches:
        none = False
        with plainly(next(iter(parameters.values())).device):
            found = vmap(one)(inputs, targets).detach()
        yield found
    if none:
        raise ValueError("batches holds no samples")


def _gradient(outputs: Any, loss: Loss, parameters: dict[str, Tensor], x: Any, y: Any) -> Tensor:
    found: Any = grad(lambda p: loss(outputs(p, x), y[None]))(parameters)
    return torch.cat([found[name].flatten() for name in parameters])


def _factor(outputs: Any, loss: Loss, parameters: dict[str, Tensor], x: Any, y: Any) -> Tensor:
    out = outputs(parameters, x)
    flat = out.flatten()
    curve: Any = hessian(lambda f: loss(f.reshape(out.shape), y[None]))(flat)
    values, vectors = torch.linalg.eigh(curve.to(torch.promote_types(curve.dtype, torch.float32)))
    root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    jacobian: Any = jacrev(lambda p: outputs(p, x).flatten())(parameters)
    return root @ torch.cat([jacobian[name].flatten(1) for name in parameters], dim=1).to(root)


def _linear_layers(module: nn.Module, names: list[str]) -> list[tuple[nn.Linear, bool, bool]]:
    """Return the linear layers with whether weight and bias are asked for, none where other parameters are."""
    wanted, found = set(names), []
    for prefix, layer in module.named_modules():
        if type(layer) is nn.Linear:
            mine = [f"{prefix}.{kind}" if prefix else kind for kind in ("weight", "bias")]
            weight, bias = (name in wanted for name in mine)
            wanted -= set(mine)
            if weight or bias:
                found.append((layer, weight, bias))
    shared = len(list(module.named_parameters())) < len(list(module.named_parameters(remove_duplicate=False)))
    return [] if wanted or shared else found


def _linear_norms(
    module: nn.Module, layers: list[tuple[nn.Linear, bool, bool]], loss: Loss, inputs: Any, targets: Any
) -> Tensor | None:
    """Return squared norms of gradients from what goes in and out of linear layers, None where these have more axes."""
    check_mode(module)
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer, _, _ in layers}

    def note(layer: nn.Module, args: Any, out: Tensor) -> Tensor:
        probe = torch.zeros_like(out, requires_grad=True)
        seen[layer].append((args[0].detach(), probe))
        return out.detach() + probe if not out.requires_grad else out + probe

    handles = [layer.register_forward_hook(note) for layer, _, _ in layers]
    with plainly(layers[0][0].weight.device), torch.inference_mode(False), torch.enable_grad():
        try:
            out = module(inputs)
        finally:
            for handle in handles:
                handle.remove()
        if any(len(calls) != 1 or calls[0][0].ndim != 2 or len(calls[0][0]) != len(targets) for calls in seen.values()):
            return None
        total = vmap(lambda f, y: loss(f[None], y[None]))(out, targets).sum()
        gradients = torch.autograd.grad(total, [seen[layer][0][1] for layer, _, _ in layers])
    squares = torch.zeros(len(targets), dtype=torch.float64, device=out.device)
    for (layer, weight, bias), gradient in zip(layers, gradients, strict=True):
        size = gradient.double().square().sum(1)
        squares += size * (weight * seen[layer][0][0].double().square().sum(1) + bias)
    return squares
