"""Norms of parameters that the sharpness of simple networks is: path norm, l1 norm."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_finite, check_number


def path_norm(model: nn.Module) -> float:
    r"""Return the path norm of a two-layer ReLU network, the sum over neurons of ``|a_j|_1 |b_j|_2``.

    Parameters
    ----------
    model
        `nn.Sequential` of a linear layer, a ReLU and a linear layer. A hidden bias counts as the weight of an input
        that is 1; the bias of the outputs is on no path.

    Returns
    -------
    float
        The norm. Where inputs are normal or uniform on the sphere of radius root d, SGD with rate lr settles only where
        it is at most ``2 / (lr root d)``.

    Raises
    ------
    TypeError
        For another model.

    References
    ----------
    arXiv 2305.17490, the section on two-layer ReLU networks.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    >>> model[0].weight.data, model[2].weight.data = torch.tensor([[3.0, 4.0]]), torch.tensor([[-2.0]])
    >>> path_norm(model)
    10.0
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    layers = list(model.children())
    kinds: tuple[type, ...] = (nn.Linear, nn.ReLU, nn.Linear)
    if not isinstance(model, nn.Sequential) or tuple(map(type, layers)) != kinds:
        found = ", ".join(type(layer).__name__ for layer in layers) or type(model).__name__
        raise TypeError(f"model is made of {found}; it takes nn.Sequential of Linear, ReLU and Linear")
    hidden: Any = layers[0]
    outer: Any = layers[2]
    if hidden.weight.is_meta or outer.weight.is_meta:
        raise ValueError("model is on the meta device, where weights have no values; load or initialise it first")
    with torch.no_grad():
        squares = hidden.weight.double().square().sum(1)
        if hidden.bias is not None:
            squares = squares + hidden.bias.double().square()
        return float(outer.weight.double().abs().sum(0) @ squares.sqrt())


def path_norm_complexity(norm: float, inputs: Float[Tensor, "n d"]) -> float:
    r"""Return a bound of the empirical Rademacher complexity of two-layer ReLU networks of a path norm.

    ``2 norm max_i |x_i| / root n``: a diagnostic whose constant is not tight.

    Parameters
    ----------
    norm
        The path norm.
    inputs
        The inputs of the sample, in rows.

    Returns
    -------
    float
        The bound, in the unit of the network's output.

    Raises
    ------
    ValueError
        For a negative norm, or no inputs.

    Examples
    --------
    >>> path_norm_complexity(3.0, torch.eye(4))
    3.0
    """
    check_number("norm", norm, ge=0)
    if check_finite("inputs", inputs).ndim != 2 or not inputs.numel():
        raise ValueError(f"inputs has shape {tuple(inputs.shape)}; it takes (n, d) with entries")
    return 2 * norm * float(inputs.double().norm(dim=1).max()) / math.sqrt(len(inputs))


def relu2_population_trace(a: Float[Tensor, " m"], b: Float[Tensor, "m d"]) -> float:
    r"""Return the expected trace of the Hessian of a two-layer ReLU network at an interpolating minimum.

    ``sum of (|b_j|^2 + d a_j^2) / 2`` for inputs that are normal or uniform on the sphere of radius root d; it is at
    least root d times the path norm, with equality where ``|b_j| = root d |a_j|``.

    Parameters
    ----------
    a
        Outer weights, one for each neuron.
    b
        Hidden weights, a row for each neuron.

    Returns
    -------
    float
        The trace, of the loss ``(f - y)^2 / 2``.

    Raises
    ------
    ValueError
        For weights that aren't finite, or as many neurons in one as not in the other.

    Examples
    --------
    >>> relu2_population_trace(torch.tensor([1.0]), torch.tensor([[1.0, 1.0]]))
    2.0
    """
    check_finite("a", a)
    if check_finite("b", b).ndim != 2 or a.shape != b.shape[:1]:
        raise ValueError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; they take (m,) and (m, d)")
    return float(b.double().square().sum() + b.shape[1] * a.double().square().sum()) / 2


class DiagonalSharpness(NamedTuple):
    """Sharpness of a diagonal linear network, and the norms of its linear map that are half as large at least.

    Parameters
    ----------
    trace, frobenius, lambda_max
        Trace, Frobenius norm and largest eigenvalue of the Hessian.
    l1, l2, linf
        Norms of the linear map ``a * b``, each at most half of the sharpness measure above it.

    Examples
    --------
    >>> found = diag_linear_sharpness(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
    >>> found.trace, found.l1
    (6.0, 1.0)
    """

    trace: float
    frobenius: float
    lambda_max: float
    l1: float
    l2: float
    linf: float


def diag_linear_sharpness(a: Float[Tensor, " d"], b: Float[Tensor, " d"]) -> DiagonalSharpness:
    r"""Return the sharpness of ``f(x) = sum of a_j b_j x_j`` at an interpolating minimum.

    Inputs have unit covariance. The eigenvalues of its Hessian are ``a_j^2 + b_j^2`` and 0.

    Parameters
    ----------
    a, b
        The two layers.

    Returns
    -------
    DiagonalSharpness
        Trace, Frobenius norm and largest eigenvalue, and the norms of the linear map.

    Raises
    ------
    ValueError
        For weights that aren't finite, or of different lengths.

    References
    ----------
    arXiv 2305.17490, the section on diagonal linear networks.

    Examples
    --------
    >>> diag_linear_sharpness(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])).lambda_max
    4.0
    """
    check_finite("a", a)
    if check_finite("b", b).shape != a.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; both take (d,), with entries")
    values = a.double().square() + b.double().square()
    beta = (a.double() * b.double()).abs()
    measures = (values.sum(), values.norm(), values.max(), beta.sum(), beta.norm(), beta.max())
    return DiagonalSharpness(*(float(x) for x in measures))
