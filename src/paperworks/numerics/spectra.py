"""Spectral densities and moments of symmetric matrices that are known by their products, by Lanczos quadrature."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics.traces import Product

_LEAST_PRODUCTS, _MARGIN = 10, 0.01


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of a matrix as Lanczos runs from random vectors see them: nodes with weights.

    Parameters
    ----------
    nodes
        Ritz values of each run, rising.
    weights
        Share of the spectrum that each node stands for; they sum to one in each run.
    n
        Rows of the matrix.

    Examples
    --------
    >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    >>> found = lanczos_quadrature(matrix.__matmul__, 3, 3, 1, torch.Generator().manual_seed(0))
    >>> found.nodes.round(decimals=6), round(found.moment(2), 6)  # (1 + 4 + 9) / 3
    (tensor([[1., 2., 3.]], dtype=torch.float64), 4.666667)
    """

    nodes: Float[Tensor, "probes k"]
    weights: Float[Tensor, "probes k"]
    n: int

    @property
    def largest(self) -> float:
        """The largest Ritz value, a lower bound of the largest eigenvalue."""
        return float(self.nodes.max())

    @property
    def smallest(self) -> float:
        """The smallest Ritz value, an upper bound of the smallest eigenvalue."""
        return float(self.nodes.min())

    def mean(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Return the mean of a function over the eigenvalues; times `n` it is the trace of the matrix function.

        Parameters
        ----------
        function
            Maps a tensor of eigenvalues to one of values.

        Returns
        -------
        tuple[float, float]
            The mean, and its standard error over the runs: NaN for a single one.
        """
        each = (self.weights * function(self.nodes)).sum(1)
        error = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan
        return float(each.mean()), error

    def moment(self, order: int) -> float:
        """Return the mean of a power of the eigenvalues, in each run exact for its start up to ``2 k - 1``.

        Parameters
        ----------
        order
            The power, 0 or more.

        Returns
        -------
        float
            ``Tr A^order / n`` but for the chance of the starts, of which `mean` gives the standard error.
        """
        check_count("order", order, at_least=0)
        return self.mean(lambda x: x**order)[0]

    def density(
        self, grid: Float[Tensor, "*shape"] | Float[np.ndarray, "*shape"], width: float | None = None
    ) -> Float[Tensor, "*shape"]:
        """Return the density of the eigenvalues, smoothed by a normal distribution.

        Parameters
        ----------
        grid
            Where it is taken.
        width
            Standard deviation of what smooths it; a hundredth of the nodes' range by default, as PyHessian's plots.

        Returns
        -------
        Tensor
            Shaped as `grid`; its integral over all numbers is one.

        Raises
        ------
        ValueError
            For a width that isn't positive.
        """
        if width is None:
            size = max(abs(self.largest), abs(self.smallest))
            width = max((self.largest - self.smallest) / 100, 1e-3 * size) or 1e-12
        check_number("width", width, gt=0)
        at = torch.as_tensor(grid, dtype=torch.float64, device=self.nodes.device)
        x = (at[..., None] - self.nodes.flatten()) / width
        share = self.weights.flatten() / (len(self.nodes) * width * math.sqrt(2 * math.pi))
        return torch.exp(-(x**2) / 2) @ share

    def stieltjes(self, z: Complex[Tensor, " m"]) -> Complex[Tensor, " m"]:
        """Return the mean of ``1 / (z - eigenvalue)``.

        Parameters
        ----------
        z
            Points off the spectrum, complex or real.

        Returns
        -------
        Tensor
            As long as `z`.
        """
        return (self.weights.flatten() / (z[:, None] - self.nodes.flatten())).sum(1) / len(self.nodes)

    def shift(self, amount: float) -> "Spectrum":
        """Return the spectrum with a number added to all eigenvalues, as a weight decay does.

        Parameters
        ----------
        amount
            What is added.

        Returns
        -------
        Spectrum
            With other nodes and the same weights.
        """
        return replace(self, nodes=self.nodes + check_number("amount", amount))

    def absolute(self) -> "Spectrum":
        """Return the spectrum of the matrix' absolute value, ``(A A)^(1/2)``.

        Returns
        -------
        Spectrum
            Its even moments are as exact as the matrix' own, odd ones as exact as the quadrature is for ``|x|``.
        """
        nodes, order = self.nodes.abs().sort(dim=1)
        return replace(self, nodes=nodes, weights=self.weights.gather(1, order))


def lanczos_quadrature(
    product: Product,
    n: int,
    steps: int,
    n_probes: int,
    generator: torch.Generator,
    *,
    probe: Literal["sign", "normal"] = "sign",
    dtype: torch.dtype = torch.float64,
) -> Spectrum:
    """Estimate the spectrum of a symmetric matrix by Lanczos runs from random vectors, all of them at once.

    Each run is reorthogonalised in full, twice a step. One that exhausts its Krylov space is exact and stops.

    Parameters
    ----------
    product
        Maps vectors in columns, (n, n_probes), to their products with the matrix.
    n
        Rows of the matrix.
    steps
        Products of each run, at most `n`. The runs hold ``steps * n_probes`` vectors.
    n_probes
        Number of runs.
    generator
        Draws the starts, on the device where the matrix is.
    probe
        ``sign``: random signs; ``normal``: normal numbers. Both are divided by their norm.
    dtype
        Real floating-point type that the vectors are kept in; nodes and weights are in double precision.

    Returns
    -------
    Spectrum
        ``n_probes`` rows of nodes and weights.

    Raises
    ------
    ValueError
        For counts out of bounds, another kind of probe or type, or a product that is not finite or not shaped as the
        vectors that it was given.

    References
    ----------
    Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature (2017); Golub and Meurant
    (2010), chapter 6.

    Examples
    --------
    >>> matrix = torch.diag(torch.arange(1.0, 101.0, dtype=torch.float64))
    >>> found = lanczos_quadrature(matrix.__matmul__, 100, 30, 4, torch.Generator().manual_seed(0))
    >>> round(found.moment(1), 6)  # signs give the mean of a diagonal matrix without error
    50.5
    """
    check_choice("probe", probe, ("sign", "normal"))
    _check_dtype(dtype)
    check_count("steps", steps, at_most=check_count("n", n))
    size, device = (check_count("n_probes", n_probes), n), generator.device
    if probe == "sign":
        start = 2 * torch.randint(0, 2, size, generator=generator, device=device).to(dtype) - 1
    else:
        start = torch.randn(*size, generator=generator, device=device, dtype=dtype)
    runs = _Runs(start, steps)
    while runs.advance(product):
        pass
    values, first, _ = runs.ritz()
    return Spectrum(values, first**2, n)


class TopEigenvalue(NamedTuple):
    """The largest eigenvalue of a matrix.

    Examples
    --------
    >>> largest_eigenvalue(lambda v: 2 * v, 5, torch.Generator().manual_seed(0)).products
    1
    """

    value: float
    """The largest Ritz value."""
    vector: Float[Tensor, " n"]
    """Its vector, of norm one."""
    residual: float
    """Norm of ``A v - value v``: there is an eigenvalue within as much of the value."""
    products: int
    """Products with the matrix that it took."""
    spectrum: Spectrum
    """All Ritz values with the weights that the start gives them."""


def largest_eigenvalue(
    product: Product,
    n: int,
    generator: torch.Generator,
    *,
    rtol: float = 1e-6,
    steps: int = 100,
    start: Float[Tensor, " n"] | None = None,
    dtype: torch.dtype = torch.float64,
) -> TopEigenvalue:
    """Return the algebraically largest eigenvalue by Lanczos steps that end as soon as it is accurate.

    The error of a Ritz value is about the square of its residual over the gap to the next, which is what it stops by,
    with a margin for a start that hardly sees the largest eigenvalue. `extreme_eigenvalues` restarts instead, for
    several eigenvalues or where ``steps`` vectors are too many to hold.

    Parameters
    ----------
    product, n, generator, dtype
        As in `lanczos_quadrature`.
    rtol
        Relative error at which it stops; 0 for exactly `steps`.
    steps
        Most products that are made.
    start
        The first vector; normal numbers by default.

    Returns
    -------
    TopEigenvalue
        Value, vector, residual and the number of products.

    Raises
    ------
    ValueError
        As `lanczos_quadrature`, and for a start that is zero or not finite.

    Examples
    --------
    >>> matrix = torch.diag(torch.tensor([1.0] * 98 + [3.0, 10.0], dtype=torch.float64))
    >>> found = largest_eigenvalue(matrix.__matmul__, 100, torch.Generator().manual_seed(0))
    >>> round(found.value, 6), found.products
    (10.0, 3)
    """
    check_number("rtol", rtol, ge=0)
    check_count("steps", steps)
    check_count("n", n)
    _check_dtype(dtype)
    if start is None:
        start = torch.randn(n, generator=generator, device=generator.device, dtype=dtype)
    elif start.shape != (n,):
        raise ValueError(f"start has shape {tuple(start.shape)}; it takes ({n},)")
    runs = _Runs(start[None].to(dtype), min(steps, n))
    while runs.advance(product) and not (rtol and runs.accurate(rtol)):
        pass
    values, first, rotation = runs.ritz()
    vector = runs.basis[0, : runs.count].T @ rotation[0, :, -1].to(runs.basis)
    residual = float(runs.betas[-1][0] * rotation[0, -1, -1].abs())
    spectrum = Spectrum(values, first**2, n)
    return TopEigenvalue(float(values[0, -1]), vector / vector.norm(), residual, runs.count, spectrum)


class _Runs:
    """Several Lanczos runs that go on side by side."""

    def __init__(self, start: Float[Tensor, "m n"], steps: int) -> None:
        norms = _norms(start).to(start)[:, None]
        if not (torch.isfinite(norms).all() and (norms > 0).all()):
            raise ValueError("start is zero or not finite; it takes a finite vector that is not zero")
        self.steps, self.count = steps, 0
        self.basis = start.new_zeros(len(start), steps, start.shape[1])
        self.basis[:, 0] = start / norms
        self.alphas: list[Tensor] = []
        self.betas: list[Tensor] = []
        self.scale = torch.zeros_like(norms[:, 0], dtype=torch.float64)
        self.live = torch.ones_like(norms[:, 0], dtype=torch.bool)

    def advance(self, product: Product) -> bool:
        """Make a product in each run, and return whether there is more to make."""
        k, v = self.count, self.basis[:, self.count]
        w = product(v.T.clone())
        if w.shape != v.T.shape:
            raise ValueError(f"product returned shape {tuple(w.shape)} for vectors in columns, {tuple(v.T.shape)}")
        w = w.T.to(v)
        alpha = (v * w).sum(1).double()
        if not torch.isfinite(alpha).all():
            raise ValueError(f"product returned NaN or infinity in step {k}; it takes one that is finite")
        known = self.basis[:, : k + 1]
        for _ in range(2):  # once leaves what rounding brings back, twice is enough
            w = w - (known.transpose(1, 2) @ (known @ w[:, :, None]))[:, :, 0]
        beta = _norms(w)
        self.scale = torch.maximum(self.scale, alpha.abs() + beta)
        # What is over goes on as zeros, with a node of no weight amid the others.
        self.alphas.append(torch.where(self.live, alpha, self.alphas[0] if k else alpha))
        self.live = self.live & (beta > 10 * torch.finfo(v.dtype).eps * self.scale)
        self.betas.append(torch.where(self.live, beta, 0.0))
        self.count += 1
        if self.count == self.steps or not self.live.any():
            return False
        safe = torch.where(self.live, beta, 1.0).to(v)
        self.basis[:, k + 1] = torch.where(self.live[:, None], w / safe[:, None], 0.0)
        return True

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return Ritz values, the first components of their vectors, and the vectors in the bases."""
        inner = torch.stack(self.betas[:-1], dim=1) if self.count > 1 else self.betas[0].new_zeros(len(self.live), 0)
        small = torch.diag_embed(torch.stack(self.alphas, dim=1))
        small = small + torch.diag_embed(inner, 1) + torch.diag_embed(inner, -1)
        values, rotation = torch.linalg.eigh(small)
        return values, rotation[:, 0], rotation

    def accurate(self, rtol: float) -> bool:
        """Whether the largest Ritz value of the only run has an error far below a share of the largest size.

        A run that has found the second eigenvalue alone looks accurate too, until rounding or a small component of its
        start brings the first; so it makes ten products at least, and a hundredth of the error is asked for.
        """
        if self.count < _LEAST_PRODUCTS:
            return False
        values, _, rotation = self.ritz()
        residual = float(self.betas[-1][0] * rotation[0, -1, -1].abs())
        gap = float(values[0, -1] - values[0, -2])
        error = residual * (residual / gap) if gap > residual else residual
        return error <= _MARGIN * rtol * float(values.abs().max())


def _norms(rows: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """Return norms in double precision, also of rows whose squares overflow or underflow in their own type."""
    norms, kind = rows.norm(dim=1).double(), torch.finfo(rows.dtype)
    if ((norms > math.sqrt(kind.tiny) / kind.eps) & (norms < math.inf)).all():
        return norms
    sizes = rows.abs().amax(dim=1).double()
    safe = torch.where(sizes > 0, sizes, 1.0)
    return sizes * (rows.double() / safe[:, None]).norm(dim=1)


def _check_dtype(dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; it takes a real floating-point type")
