"""What shows that a softmax rounds gradients away, and that gradients point along the weights."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.numerics import functional_call

Parameters = nn.Module | Mapping[str, Tensor] | Iterable[Tensor]


def collapse_margin(dtype: torch.dtype = torch.float32, classes: int = 2) -> float:
    """Return by how much a logit has to lead all others for a softmax to round to exactly 1: ``log(2 (C - 1) / eps)``.

    With more than two classes it may round before, from the lead for two classes on, by the order of the sum.

    Parameters
    ----------
    dtype
        What the softmax is computed in.
    classes
        How many classes there are; those that don't lead are taken to be equal.

    Returns
    -------
    float
        The lead: 16.6 in single precision with two classes.

    Raises
    ------
    TypeError
        For what is no dtype, or no whole number of classes.
    ValueError
        For a dtype that isn't of floating-point numbers, or fewer than two classes.

    References
    ----------
    arXiv 2501.04697, the condition of softmax collapse.

    Examples
    --------
    >>> round(collapse_margin(), 2), round(collapse_margin(torch.float64), 2)
    (16.64, 36.74)
    """
    classes = check_count("classes", classes, at_least=2)
    return math.log(2 * (classes - 1) / torch.finfo(check_floating("dtype", dtype)).eps)


def softmax_collapse(logits: Float[Tensor, "*batch classes"], dtype: torch.dtype | None = None, dim: int = -1) -> float:
    """Return the share of samples whose softmax is exactly 1 for the largest logit: all other terms are rounded away.

    Where the largest logit is that of the right class, the gradient of its logit is then exactly 0. A StableMax head
    doesn't collapse, whatever this says of its logits.

    Parameters
    ----------
    logits
        Logits of a softmax.
    dtype
        What the softmax is computed in, that of the logits by default.
    dim
        The axis of the classes.

    Returns
    -------
    float
        A share, 0 to 1.

    Raises
    ------
    TypeError
        If logits are no tensor, `dtype` no dtype or `dim` no whole number.
    ValueError
        If logits or `dtype` aren't of floating-point numbers, `dim` is out of range, there are no samples, or logits
        aren't finite in `dtype`.

    References
    ----------
    arXiv 2501.04697, softmax collapse.

    Examples
    --------
    >>> logits = torch.tensor([[0.0, 10.0], [0.0, 20.0]])
    >>> softmax_collapse(logits), softmax_collapse(logits, torch.float16), softmax_collapse(logits, torch.float64)
    (0.5, 1.0, 0.0)
    """
    _, total = _shifted(logits, dtype, dim)
    return float((total == 1).double().mean())


def zero_loss_fraction(
    logits: Float[Tensor, "batch classes"], targets: Int64[Tensor, " batch"], dtype: torch.dtype | None = None
) -> float:
    """Return the share of samples whose cross-entropy is exactly 0.

    Parameters
    ----------
    logits
        Logits of a softmax.
    targets
        The right classes.
    dtype
        What the loss is computed in, that of the logits by default.

    Returns
    -------
    float
        A share, 0 to 1.

    Raises
    ------
    TypeError, ValueError
        As `softmax_collapse`, and for targets that are no tensor, out of range or of another number.

    References
    ----------
    arXiv 2501.04697, softmax collapse.

    Examples
    --------
    >>> zero_loss_fraction(torch.tensor([[0.0, 20.0], [0.0, 20.0]]), torch.tensor([1, 0]))
    0.5
    """
    shifted, total = _shifted(logits, dtype, 1)
    loss = total.log() - _of_targets(shifted, targets)
    return float((loss == 0).double().mean())


def zero_gradient_fraction(
    logits: Float[Tensor, "batch classes"], targets: Int64[Tensor, " batch"], dtype: torch.dtype | None = None
) -> float:
    """Return the share of samples whose cross-entropy has a derivative of exactly 0 by the logit of the right class.

    Parameters
    ----------
    logits, targets, dtype
        As in `zero_loss_fraction`.

    Returns
    -------
    float
        A share, 0 to 1.

    Raises
    ------
    TypeError, ValueError
        As `zero_loss_fraction`.

    References
    ----------
    arXiv 2501.04697, softmax collapse.

    Examples
    --------
    >>> zero_gradient_fraction(torch.tensor([[0.0, 20.0], [0.0, 20.0]]), torch.tensor([1, 0]))
    0.5
    """
    shifted, total = _shifted(logits, dtype, 1)
    probability = _of_targets(shifted, targets).exp() / total
    return float((probability == 1).double().mean())


@torch.no_grad()
def nlm_alignment(params: Parameters, *, per_tensor: bool = False) -> float | dict[str, float]:
    """Return the cosine of ``-grad`` to the weights: 1 where a descent step only makes the weights longer.

    For a network that is homogeneous in its weights (`homogeneity_degree`) such a step scales the logits and changes no
    prediction: naïve loss minimisation. Sums are taken in double precision.

    Parameters
    ----------
    params
        A network, parameters, or parameters by name, with their gradients; those without one are left out.
    per_tensor
        Whether to return the cosine of each tensor.

    Returns
    -------
    float or dict
        The cosine over all parameters together, or those of each tensor by name (or number). NaN where weights or
        gradients are all 0.

    Raises
    ------
    TypeError
        For what isn't a tensor.
    ValueError
        If no parameter has a gradient, or one is on the meta device.

    References
    ----------
    arXiv 2501.04697, naïve loss minimisation.

    Examples
    --------
    >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> w.grad = torch.tensor([-3.0, 0.0])
    >>> nlm_alignment([w])
    0.6
    """
    sums: dict[str, Tensor] = {}
    for name, p in named_tensors(params).items():
        if p.grad is not None:
            w, g = (_real(t).reshape(-1).double() for t in (p, p.grad.to_dense()))
            top = g.abs().amax() if g.numel() else g.sum()
            g = g / torch.where(top > 0, top, 1.0)  # so that squares of tiny gradients don't underflow
            sums[name] = torch.stack([torch.dot(w, g), torch.dot(w, w), torch.dot(g, g), top]).cpu()
    if not sums:
        raise ValueError("params has no gradient; it takes parameters after backward()")
    if per_tensor:
        return {name: _cosine(s) for name, s in sums.items()}
    table = torch.stack(list(sums.values()))
    share = table[:, 3] / table[:, 3].max().clamp(min=torch.finfo(torch.float64).tiny)
    return _cosine(torch.stack([share @ table[:, 0], table[:, 1].sum(), share**2 @ table[:, 2]]))


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def _cosine(sums: Tensor) -> float:
    wg, ww, gg = sums[:3].tolist()
    return -wg / math.sqrt(ww * gg) if ww > 0 and gg > 0 else math.nan


class HomogeneityDegree(NamedTuple):
    """How a network's outputs grow with its weights.

    Parameters
    ----------
    degree
        D of ``f(c w) = c^D f(w)``, from the sizes of outputs.
    residual
        Relative size of what isn't homogeneous in the outputs; to rounding 0 for a homogeneous network.

    Examples
    --------
    >>> HomogeneityDegree(2.0, 0.0).degree
    2.0
    """

    degree: float
    residual: float


@torch.no_grad()
def homogeneity_degree(model: nn.Module, x: Any, factor: float = 1.01) -> HomogeneityDegree:
    """Return the degree D of ``f(c w) = c^D f(w)``, as the slope of ``log |f|`` from c = 1 to `factor`.

    Weights, buffers and gradients of the network stay; put it into evaluation mode first where it draws at random.

    Parameters
    ----------
    model
        The network; all its parameters are scaled, also frozen ones and those that layers share.
    x
        Its input, or a tuple of inputs.
    factor
        What parameters are multiplied with: positive and not 1.

    Returns
    -------
    HomogeneityDegree
        The slope, and the relative size of what doesn't follow it.

    Raises
    ------
    TypeError
        If `model` is no network, or returns no tensor.
    ValueError
        If `factor` isn't positive or rounds to 1, outputs are all 0 or not finite, or the network is on the meta
        device.

    References
    ----------
    arXiv 2501.04697, homogeneous networks.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    >>> round(homogeneity_degree(model, torch.eye(2, dtype=torch.float64)).degree, 6)
    2.0
    """
    if check_number("factor", factor, gt=0) == 1:
        raise ValueError("factor is 1; it takes another positive number")
    weights = named_tensors(check_network(model))
    if any(torch.tensor(factor, dtype=p.dtype) == 1 for p in weights.values()):
        raise ValueError(f"factor is {factor}, which rounds to 1 in the precision of the weights")
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    inputs = x if isinstance(x, tuple) else (x,)

    def outputs(c: float) -> Tensor:
        scaled = {name: p.detach() * c for name, p in weights.items()}
        found = functional_call(model, {**scaled, **buffers}, inputs)
        if not isinstance(found, Tensor):
            raise TypeError(f"model returns a {type(found).__name__}; it takes a network that returns a tensor")
        return _real(found).double()

    first, second = check_finite("the outputs", outputs(1.0)), check_finite("the outputs", outputs(factor))
    size = float(first.norm())
    if not size or not second.any():
        raise ValueError("x gives outputs that are all 0, whose growth has no degree")
    degree = math.log(float(second.norm()) / size) / math.log(factor)
    return HomogeneityDegree(degree, float((second - factor**degree * first).norm()) / size)


def check_network(model: Any) -> nn.Module:
    """Return a network, and refuse what is none."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it takes a network")
    return model


def named_tensors(params: Parameters) -> dict[str, Tensor]:
    """Return parameters by their names, or numbers, and refuse what has no values."""
    if isinstance(params, nn.Module):
        found: dict[str, Any] = dict(params.named_parameters())
    elif isinstance(params, Mapping):
        found = dict(params)
    elif not isinstance(params, Iterable):
        raise TypeError(f"params is a {type(params).__name__}; it takes a network, or parameters")
    else:
        found = {str(number): p for number, p in enumerate([params] if isinstance(params, Tensor) else params)}
    for name, p in found.items():
        if not isinstance(p, Tensor):
            raise TypeError(f"params has a {type(p).__name__} ({name}); it takes tensors")
        if p.is_meta:
            raise ValueError(f"params has {name} on the meta device, which has no values; materialise the module first")
    return found


def check_floating(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return a dtype of floating-point numbers, and refuse others."""
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name} is {dtype!r}; it takes a dtype of torch")
    if not dtype.is_floating_point:
        raise ValueError(f"{name} is {dtype}; it takes a floating-point dtype")
    return dtype


@torch.no_grad()
def _shifted(logits: Tensor, dtype: torch.dtype | None, dim: int) -> tuple[Tensor, Tensor]:
    """Return logits without their largest, and the sum of exponentials, both in a dtype."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits is a {type(logits).__name__}; it takes a tensor")
    check_floating("logits", logits.dtype)
    if logits.is_meta:
        raise ValueError("logits is on the meta device, which has no values")
    if isinstance(dim, bool) or not hasattr(dim, "__index__"):
        raise TypeError(f"dim is {dim!r}; it takes a whole number")
    if not logits.ndim:
        raise ValueError("logits has no axis; it takes one of the classes at least")
    if not -logits.ndim <= dim < logits.ndim:
        raise ValueError(f"dim is {dim}; it takes a whole number from {-logits.ndim} to {logits.ndim - 1}")
    if not logits.numel():
        raise ValueError(f"logits has shape {tuple(logits.shape)}; it takes at least one sample and class")
    z = logits if dtype is None else logits.to(check_floating("dtype", dtype))
    check_finite("logits" if dtype is None else f"logits in {dtype}", z)
    z = z - z.amax(dim, keepdim=True)
    return z, z.exp().sum(dim)


def _of_targets(values: Tensor, targets: Tensor) -> Tensor:
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets is a {type(targets).__name__}; it takes a tensor of classes")
    if targets.is_floating_point() or targets.is_complex() or targets.shape != values.shape[:1]:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)} and {targets.dtype}; it takes {len(values)} classes"
        )
    if bool(((targets < 0) | (targets >= values.shape[1])).any()):
        low, high = int(targets.min()), int(targets.max())
        raise ValueError(f"targets are {low} to {high}; they take 0 to {values.shape[1] - 1}")
    return values.gather(1, targets.long()[:, None])[:, 0]
