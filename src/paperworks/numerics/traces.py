"""Traces of matrices that are known by their products with vectors, the divergence of a vector field among them."""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number

Product = Callable[[Float[Tensor, "n k"]], Float[Tensor, "n k"]]
TraceMethod = Literal["hutchinson", "hutch++", "xtrace"]


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


def xtrace(
    product: Product, n: int, n_products: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float64
) -> TraceEstimate:
    """Estimate a trace with every probe used both to find large directions and, left out there, to estimate the rest.

    It has no bias, and is exact for matrices of rank below half the products.

    Parameters
    ----------
    product, n, generator, dtype
        As in `hutchinson`.
    n_products
        Products with the matrix: even, at least 4, and at most 2 n.

    Returns
    -------
    TraceEstimate
        The trace, its standard error as of independent probes, which is up to a third too small since they share their
        bases, and the number of products.

    Raises
    ------
    ValueError
        For a number of products that is odd or out of bounds.

    References
    ----------
    Epperly, Tropp and Webber, XTrace: Making the most of every sample in stochastic trace estimation, arXiv 2301.07825,
    section 2.2.

    Examples
    --------
    >>> low_rank = torch.ones(50, 1, dtype=torch.float64)
    >>> found = xtrace(lambda v: low_rank @ (low_rank.T @ v), 50, 6, torch.Generator().manual_seed(0))
    >>> round(found.trace, 6)
    50.0
    """
    half, left = divmod(check_count("n_products", n_products, at_least=4, at_most=2 * check_count("n", n)), 2)
    if left:
        raise ValueError(f"n_products is {n_products}; it takes an even number")
    sketch = _Sketch(product, n, dtype)
    sketch.widen(_probes(n, half, generator, "sign", dtype))
    return sketch.xtrace()


def estimate_trace(
    product: Product,
    n: int,
    generator: torch.Generator,
    *,
    method: TraceMethod = "xtrace",
    rtol: float = 0.05,
    max_products: int = 300,
    dtype: torch.dtype = torch.float64,
) -> TraceEstimate:
    """Estimate a trace until its standard error is small to it, with all products made before used again.

    Parameters
    ----------
    product, n, generator, dtype
        As in `hutchinson`.
    method
        ``hutchinson``, ``hutch++`` or ``xtrace``.
    rtol
        Standard error to the size of the estimate at which it stops. Half as many products again are made between one
        look and the next, beginning with 24, so that few lucky probes end nothing.
    max_products
        Where it stops at the latest; with n or more products to make, the n products with unit vectors are made
        instead, which are exact.

    Returns
    -------
    TraceEstimate
        The trace, its standard error, and the number of products.

    Raises
    ------
    ValueError
        For another method, a tolerance that isn't positive, or fewer than 6 products.

    Examples
    --------
    >>> matrix = torch.diag(1 / torch.arange(1.0, 201.0, dtype=torch.float64) ** 2)
    >>> found = estimate_trace(lambda v: matrix @ v, 200, torch.Generator().manual_seed(0), rtol=0.01)
    >>> abs(found.trace - float(matrix.trace())) < 0.05, found.products < 200
    (True, True)
    """
    check_choice("method", method, get_args(TraceMethod))
    check_number("rtol", rtol, gt=0)
    check_count("max_products", max_products, at_least=6)
    sketch, goal = _Sketch(product, check_count("n", n), dtype), min(24, max_products)
    while goal < n:
        parts = {"hutchinson": (0, 1), "hutch++": (1, 3), "xtrace": (1, 2)}[method]
        width = parts[0] * goal // parts[1]
        if width > sketch.width:
            sketch.widen(_probes(n, width - sketch.width, generator, "sign", dtype))
        if method != "xtrace" and (more := goal - 2 * width - sketch.rest):
            sketch.probe(_probes(n, more, generator, "sign", dtype))
        found = sketch.xtrace() if method == "xtrace" else sketch.hutch_plus_plus()
        if found.standard_error <= rtol * abs(found.trace) or goal == max_products:
            return found
        goal = min(goal + goal // 2, max_products)
    return exact_trace(product, n, device=generator.device, dtype=dtype)


def exact_trace(
    product: Product, n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> TraceEstimate:
    """Return the trace from the products with all unit vectors, 64 at a time.

    Parameters
    ----------
    product
        Maps vectors in columns, (n, k), to their products with the matrix.
    n
        Rows of the square matrix.
    device, dtype
        Place and type of the vectors.

    Returns
    -------
    TraceEstimate
        The trace, with no error, and n products.

    Examples
    --------
    >>> exact_trace(lambda v: 2 * v, 5)
    TraceEstimate(trace=10.0, standard_error=0.0, products=5)
    """
    columns = unit_products(product, n, device=device, dtype=dtype)
    return TraceEstimate(sum(float((unit * v).double().sum()) for unit, v in columns), 0.0, n)


def unit_products(
    product: Product, n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> Iterator[tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]]:
    """Go through all unit vectors and their products, 64 at a time.

    Parameters
    ----------
    product, n, device, dtype
        As in `exact_trace`.

    Yields
    ------
    tuple[Tensor, Tensor]
        Unit vectors in columns, and the columns of the matrix.

    Examples
    --------
    >>> [v.tolist() for _, v in unit_products(lambda v: 2 * v, 2)]
    [[[2.0, 0.0], [0.0, 2.0]]]
    """
    for start in range(0, check_count("n", n), 64):
        unit = torch.zeros(n, min(64, n - start), device=device, dtype=dtype)
        unit[range(start, start + unit.shape[1]), range(unit.shape[1])] = 1
        yield unit, product(unit)


class NormEstimate(NamedTuple):
    """An estimated norm.

    Parameters
    ----------
    norm
        The estimated norm itself.

    Examples
    --------
    >>> NormEstimate(2.0, 0.1, 16).norm
    2.0
    """

    norm: float
    standard_error: float
    """Standard error of the norm; NaN for a single probe, 0 where it is exact."""
    products: int
    """Products with the matrix that it took."""


def frobenius_norm(
    product: Product, n: int, n_probes: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float64
) -> NormEstimate:
    """Estimate a Frobenius norm as the root of the mean of ``|A v|^2`` over random signs.

    Parameters
    ----------
    product, n, n_probes, generator, dtype
        As in `hutchinson`.

    Returns
    -------
    NormEstimate
        The norm, its standard error to first order, and the number of products.

    Examples
    --------
    >>> matrix = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    >>> frobenius_norm(lambda v: matrix @ v, 2, 4, torch.Generator().manual_seed(0)).norm
    5.0
    """
    v = _probes(check_count("n", n), check_count("n_probes", n_probes), generator, "sign", dtype)
    square = _mean(product(v).double().square().sum(0), 0.0, n_probes)
    norm = math.sqrt(square.trace)
    return NormEstimate(norm, square.standard_error / (2 * norm) if norm else 0.0, n_probes)


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


class _Sketch:
    """A basis of a matrix' large directions, and probes, that grow without a product made twice."""

    def __init__(self, product: Product, n: int, dtype: torch.dtype) -> None:
        self.product = product
        empty = torch.empty(n, 0, dtype=dtype)
        self.probes, self.images = empty, empty  # of the sketch, and their products with the matrix
        self.basis, self.small, self.basis_images = empty, torch.empty(0, 0, dtype=dtype), empty
        self.rests, self.rest_images = empty, empty

    @property
    def width(self) -> int:
        return self.probes.shape[1]

    @property
    def rest(self) -> int:
        return self.rests.shape[1]

    def widen(self, probes: Tensor) -> None:
        """Take probes into the sketch: two products each, since a basis of nested spaces keeps its vectors."""
        old = self.width
        self.probes = _beside(self.probes, probes)
        self.images = _beside(self.images, self.product(probes))
        q, _ = torch.linalg.qr(self.images)
        self.basis = _beside(self.basis, _orthonormal(q[:, old:], self.basis)) if old else q
        self.small = self.basis.T @ self.images
        self.basis_images = _beside(self.basis_images, self.product(self.basis[:, old:]))

    def probe(self, probes: Tensor) -> None:
        """Take probes for what the sketch leaves."""
        self.rests = _beside(self.rests, probes)
        self.rest_images = _beside(self.rest_images, self.product(probes))

    def hutch_plus_plus(self) -> TraceEstimate:
        """Return the trace on the basis, and Hutchinson's estimate of what is orthogonal to it."""
        q, z, v, w = self.basis, self.basis_images, self.rests, self.rest_images
        if not self.width:
            return _mean((v * w).sum(0), 0.0, self.rest)
        along = q.to(v).T @ v
        v, w = v - q @ along, w - z @ along
        return _mean((v * w).sum(0), float((q * z).sum()), 2 * self.width + self.rest)

    def xtrace(self) -> TraceEstimate:
        """Return the mean, over probes, of the estimate from a basis of all others and from this one."""
        count, products = self.width, 2 * self.width
        r = self.small.double()
        basis, inner = self.basis.double(), (self.basis.T @ self.basis_images).double()
        whole = float(inner.trace())
        sizes = torch.linalg.svdvals(r)
        if sizes[-1] <= 100 * count * torch.finfo(self.small.dtype).eps * sizes[0]:  # the basis holds the whole range
            return TraceEstimate(whole, 0.0, products)
        left = torch.linalg.inv(r).T
        left = left / left.norm(dim=0)  # column i: what the basis of all probes has more than that without probe i
        probes, images, basis_images = self.probes.double(), self.images.double(), self.basis_images.double()
        u = basis.T @ probes
        u = u - left * (left * u).sum(0)
        values = whole - (left * (inner @ left)).sum(0)
        values += (probes * images).sum(0) - ((basis_images.T @ probes) * u).sum(0)
        values += (u * (inner @ u)).sum(0) - (u * r).sum(0)
        return _mean(values, 0.0, products)


def _beside(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a.to(b), b], dim=1)


def _orthonormal(new: Tensor, known: Tensor) -> Tensor:
    """Return new columns made orthogonal to known ones, and orthonormal."""
    for _ in range(2):
        new = new - known @ (known.T @ new)
    return torch.linalg.qr(new)[0]
