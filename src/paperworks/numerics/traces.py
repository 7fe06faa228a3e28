"""Traces of matrices that are known by their products with vectors, the divergence of a vector field among them."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count

Product = Callable[[Float[Tensor, "n k"]], Float[Tensor, "n k"]]


class TraceEstimate(NamedTuple):
    """An estimated trace.

    Parameters
    ----------
    trace
        The estimated trace itself.

    Examples
    --------
    >>> TraceEstimate(3.0, 0.1, 16).standard_error
    0.1
    """

    trace: float
    standard_error: float
    """Standard error of the mean over the probes; NaN for a single one. It is 0 where the estimate is exact."""
    products: int
    """Products with the matrix that it took."""


def hutchinson(
    product: Product,
    n: int,
    n_probes: int,
    generator: torch.Generator,
    *,
    probe: Literal["sign", "normal"] = "sign",
    dtype: torch.dtype = torch.float64,
) -> TraceEstimate:
    """Estimate a trace as the mean of ``v^T A v`` over random probes; it has no bias.

    Parameters
    ----------
    product
        Maps vectors in columns, (n, k), to their products with the matrix.
    n
        Rows of the square matrix.
    n_probes
        Number of probes.
    generator
        Draws them, on the device where the matrix is.
    probe
        ``sign``: random signs, of least variance, ``2 (|A|_F^2 - |diag A|^2)`` for symmetric matrices; ``normal``: of
        variance ``2 |A|_F^2``.
    dtype
        Floating-point type of the probes.

    Returns
    -------
    TraceEstimate
        The trace, its standard error, and the number of products.

    Raises
    ------
    ValueError
        For counts below 1 or another kind of probe.

    References
    ----------
    Hutchinson, A stochastic estimator of the trace of the influence matrix (1990).

    Examples
    --------
    >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> found = hutchinson(lambda v: matrix @ v, 2, 400, torch.Generator().manual_seed(0))
    >>> abs(found.trace - 5) < 3 * found.standard_error
    True
    """
    check_choice("probe", probe, ("sign", "normal"))
    v = _probes(check_count("n", n), check_count("n_probes", n_probes), generator, probe, dtype)
    return _mean((v * product(v)).sum(0), 0.0, n_probes)


def hutch_plus_plus(
    product: Product, n: int, n_products: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float64
) -> TraceEstimate:
    """Estimate a trace with a third of the products spent on the matrix' largest directions, whose part is exact.

    The rest is Hutchinson's, so the estimate has no bias; for a positive semidefinite matrix the relative error falls
    as the inverse of the number of products, where Hutchinson's falls as that of its square root.

    Parameters
    ----------
    product, n, generator, dtype
        As in `hutchinson`.
    n_products
        Products with the matrix, at least 3 and a multiple of 3.

    Returns
    -------
    TraceEstimate
        The trace, the standard error of its random part, and the number of products.

    Raises
    ------
    ValueError
        For a number of products that is no multiple of 3.

    References
    ----------
    Meyer, Musco, Musco and Woodruff, Hutch++: Optimal Stochastic Trace Estimation, arXiv 2010.09649, algorithm 1.

    Examples
    --------
    >>> low_rank = torch.ones(50, 1, dtype=torch.float64)
    >>> found = hutch_plus_plus(lambda v: low_rank @ (low_rank.T @ v), 50, 6, torch.Generator().manual_seed(0))
    >>> round(found.trace, 6)
    50.0
    """
    third, left = divmod(check_count("n_products", n_products, at_least=3), 3)
    if left:
        raise ValueError(f"n_products is {n_products}; it takes a multiple of 3")
    check_count("n", n)
    sketch = _probes(n, min(third, n), generator, "sign", dtype)
    q, _ = torch.linalg.qr(product(sketch))
    exact = float((q * product(q)).sum())
    v = _probes(n, third, generator, "sign", dtype)
    v = v - q @ (q.T @ v)
    return _mean((v * product(v)).sum(0), exact, 2 * min(third, n) + third)


def divergence(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, " batch *shape"],
    probes: Float[Tensor, "probes batch *shape"] | None = None,
) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
    """Return ``f(x)`` and its divergence: exact, or Hutchinson's estimate, the mean over `probes` of v^T J v.

    Parameters
    ----------
    f
        Maps a batch to a batch of the same shape, each row by itself.
    x
        Points at which the divergence is taken.
    probes
        Independent vectors of mean 0 and unit covariance, such as random signs, for an estimate without bias; None for
        one product with each unit vector.

    Returns
    -------
    tuple[Tensor, Tensor]
        ``f(x)`` and, for each row, the trace of its Jacobian; both without a graph.

    Examples
    --------
    >>> divergence(lambda x: x**2, torch.tensor([[1.0, 2.0]]))[1]
    tensor([6.])
    """
    n = x[0].numel()
    vectors = probes
    if vectors is None:
        vectors = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, 1, *x.shape[1:]).expand(n, *x.shape)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = f(leaf)
        if not value.requires_grad:
            return value, torch.zeros_like(x.flatten(1)[:, 0])
        (products,) = torch.autograd.grad(value, leaf, vectors, is_grads_batched=True)
    total = (products * vectors).reshape(len(vectors), len(x), -1).sum(dim=(0, 2))
    return value.detach(), total if probes is None else total / len(probes)


def _probes(n: int, k: int, generator: torch.Generator, probe: str, dtype: torch.dtype) -> Tensor:
    if probe == "normal":
        return torch.randn(n, k, generator=generator, device=generator.device, dtype=dtype)
    return 2 * torch.randint(0, 2, (n, k), generator=generator, device=generator.device).to(dtype) - 1


def _mean(values: Tensor, exact: float, products: int) -> TraceEstimate:
    values = values.double()
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return TraceEstimate(exact + float(values.mean()), error, products)
