"""A linear map between fields of several channels that is one learned multigrid V-cycle."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.operators.multigrid.transfers import (
    CONVOLUTIONS,
    GridConv,
    PaddingMode,
    Prolongation,
    coarser,
    sides_of,
)

Norm = Literal["layer", "group"]
Growth = Literal["constant", "linear"]
Init = Literal["default", "xavier"]
Smoothing = Sequence[tuple[int, int]]
Modes = PaddingMode | Sequence[PaddingMode | Sequence[PaddingMode]]


class MultigridConv(nn.Module):
    r"""A linear map of fields on a grid: a multigrid V-cycle whose stencils are learned, at a cost of O(nodes).

    On each level fields u (with the output's channels) and f (with the input's) are smoothed,
    $u \leftarrow u + S (f - A u)$ with convolutions S and A of width 3 of its own for every smoothing, and both are
    brought to a grid of half the nodes by convolutions of stride 2. From the coarsest grid up, transposed convolutions
    add what was found there. There is no nonlinearity inside; the boundary condition is in the padding.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output.
    levels
        Number of grids; an axis has at least ``2 ** (levels - 1)`` nodes.
    smoothing
        Smoothings of each level on the way down and up, as pairs; the first level begins with one, the last has none
        on the way up. By default one each on the way down, two on the two coarsest levels, none on the way up, as in
        the paper's experiments.
    padding_mode
        How fields go on beyond the grid: "zeros" (Dirichlet), "reflect" (Neumann) or "circular" (periodic); one word,
        one for each axis, or a pair for the two sides of each axis.
    residual_restriction
        Whether the residual f - A u goes to the coarser grid, as in textbooks, instead of f.
    bias
        Whether smoothings add a bias; the map is then affine.
    norm
        What follows each sum on the way up: "layer" (statistics and weights over channels and nodes; needs
        `resolution`), "group" (the same statistics, weights of channels), or nothing. The map is then not linear.
    ndim
        Dimensions of the grid: 1, 2 or 3.
    level_growth
        Whether all levels have the same channels ("constant"), or each as many more as the first has ("linear").
    transfer_padding
        1: coarse grids keep both ends of axes of an odd number of nodes, as for values on the boundary; 0: they leave
        both out, as for values inside of it.
    resolution
        Nodes along each axis, one number or one for each. With it, prolongations of levels with an odd number have
        kernels of width 3 instead of 4, of which any grid with odd numbers uses but 3. Other grids are taken still.
    init
        "default": PyTorch's; "xavier": restrictions drawn by Glorot's law with gain ``1 / out_channels ** 2``.
    boundary_mask
        Whether u and f are kept at zero in the outermost nodes of all grids, which are those of a Dirichlet boundary.

    Raises
    ------
    ValueError
        For numbers and words out of range, smoothings that don't fit the levels, or a layer norm without `resolution`.

    References
    ----------
    He, Liu, Xu, arXiv 2310.19809, the multigrid parameterisation of linear operators and its algorithm.

    Examples
    --------
    >>> layer = MultigridConv(1, 16)
    >>> layer(torch.zeros(8, 1, 33, 64)).shape
    torch.Size([8, 16, 33, 64])
    >>> x, y = torch.randn(2, 1, 1, 32, 32).unbind()
    >>> torch.allclose(layer(x + 2 * y), layer(x) + 2 * layer(y), atol=1e-5)
    True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: int = 5,
        smoothing: Smoothing | None = None,
        padding_mode: Modes = "zeros",
        residual_restriction: bool = False,
        bias: bool = False,
        norm: Norm | None = None,
        ndim: int = 2,
        *,
        level_growth: Growth = "constant",
        transfer_padding: int = 1,
        resolution: int | Sequence[int] | None = None,
        init: Init = "default",
        boundary_mask: bool = False,
    ) -> None:
        super().__init__()
        self.ndim = check_choice("ndim", check_count("ndim", ndim), tuple(CONVOLUTIONS))
        self.in_channels = check_count("in_channels", in_channels)
        self.out_channels = check_count("out_channels", out_channels)
        self.levels = check_count("levels", levels)
        self.smoothing = _smoothing(smoothing, levels)
        self.sides = sides_of(padding_mode, ndim)
        self.transfer_padding = check_choice("transfer_padding", transfer_padding, (0, 1))
        self.boundary_mask = boundary_mask
        self.residual_restriction = residual_restriction
        self.linear = norm is None and not bias
        growth = check_choice("level_growth", level_growth, get_args(Growth))
        check_choice("init", init, get_args(Init))
        if norm is not None:
            check_choice("norm", norm, get_args(Norm))
        if norm == "layer" and resolution is None:
            raise ValueError("norm is 'layer' and resolution is None; a layer norm takes the nodes of its grid")
        if boundary_mask and not transfer_padding:
            raise ValueError("boundary_mask is True and transfer_padding 0, which leaves the boundary out")
        grids = None if resolution is None else self._grids(_axes(resolution, ndim))
        self.tied_to = grids[0] if norm == "layer" and grids else None  # the one grid that layer norms take
        factors = [1 + level if growth == "linear" else 1 for level in range(levels)]
        of_f, of_u = [in_channels * k for k in factors], [out_channels * k for k in factors]
        pad = bool(transfer_padding)

        def smoother(level: int, count: int) -> nn.ModuleList:
            f, u = of_f[level], of_u[level]
            return nn.ModuleList(
                _Smoother(
                    GridConv(f, u, self.sides, bias=bias),
                    None if level == number == 0 else GridConv(u, f, self.sides, bias=bias),
                )
                for number in range(count)
            )

        def up(level: int) -> nn.ModuleList:
            f, u, count = of_f[level], of_u[level], self.smoothing[level][1]
            pairs = [[GridConv(*ends, self.sides, bias=bias) for ends in ((f, u), (u, f))] for _ in range(count)]
            return nn.ModuleList(_Smoother(*pair) for pair in pairs)

        steps = range(levels - 1)
        self.down: Any = nn.ModuleList(smoother(level, count) for level, (count, _) in enumerate(self.smoothing))
        self.up: Any = nn.ModuleList(up(level) for level in steps)
        self.restrict_f: Any = nn.ModuleList(GridConv(of_f[k], of_f[k + 1], self.sides, 2, pad=pad) for k in steps)
        self.restrict_u: Any = nn.ModuleList(GridConv(of_u[k], of_u[k + 1], self.sides, 2, pad=pad) for k in steps)
        self.residual: Any = nn.ModuleList(
            GridConv(of_u[k], of_f[k], self.sides, bias=bias) for k in steps if residual_restriction
        )
        self.prolong: Any = nn.ModuleList(
            Prolongation(of_u[k + 1], of_u[k], self.sides, _taps(grids, k, ndim), pad) for k in steps
        )
        self.norms: Any = nn.ModuleList(
            normalization(norm, of_u[k], None if grids is None else grids[k]) for k in steps if norm
        )
        if init == "xavier":
            for module in (*self.restrict_f, *self.restrict_u):
                nn.init.xavier_uniform_(module.conv.weight, gain=1 / out_channels**2)

    def forward(self, f: Float[Tensor, "batch in_channels *grid"]) -> Float[Tensor, "batch out_channels *grid"]:
        """Map fields to fields on the same grid.

        Parameters
        ----------
        f
            Values of the input's channels at the nodes.

        Returns
        -------
        Tensor
            Values of the output's channels at the same nodes.

        Raises
        ------
        TypeError
            For values that aren't real floating-point numbers.
        ValueError
            For another shape than the layer takes, or fewer nodes than its levels need.
        """
        self._grids(check_fields("f", f, self.in_channels, self.ndim, self.tied_to))
        f = self._masked(f)
        kept: list[tuple[Tensor, Tensor]] = []
        u: Tensor | None = None
        for level, smoothers in enumerate(self.down):
            for smooth in smoothers:
                u = self._masked(smooth(u, f))
            assert u is not None  # the first level begins with a smoothing
            kept.append((u, f))
            if level < self.levels - 1:
                rest = f - self.residual[level](u) if self.residual_restriction else f
                f = self._masked(self.restrict_f[level](rest))
                u = self._masked(self.restrict_u[level](u))
        u = kept.pop()[0]
        for level in reversed(range(self.levels - 1)):
            fine, f = kept.pop()
            u = fine + self._masked(self.prolong[level](u, fine.shape[2:]))
            if self.norms:
                u = self.norms[level](u)
            for smooth in self.up[level]:
                u = self._masked(smooth(u, f))
        return u

    @torch.no_grad()
    def galerkin_(self, spacing: float = 1.0, damping: float = 2 / 3) -> "MultigridConv":
        r"""Set the weights to those of textbook multigrid for $-\Delta u = f$, each channel by itself.

        A is the stencil of 3, 5 or 7 points, S damped Jacobi relaxation, R full weighting, P linear interpolation; u
        is not restricted, so coarse grids begin at zero. With values on a Dirichlet boundary it takes
        `boundary_mask`: without it nodes of the boundary are relaxed as if they were inside, and cycles diverge. All
        grids but the coarsest then have an odd number of nodes along each axis, such as 33: of an even one the coarser
        grid has no node on the second boundary, and cycles are slow.

        Parameters
        ----------
        spacing
            Distance between neighbours on the first grid.
        damping
            Factor of each Jacobi correction, above 0 and below 2; 2/3 and 4/5 are the common ones.

        Returns
        -------
        MultigridConv
            The layer itself.

        Raises
        ------
        ValueError
            For numbers out of range, or a layer that doesn't restrict residuals, isn't linear, or has other channels
            in than out.

        Examples
        --------
        >>> layer = MultigridConv(1, 1, 4, [(1, 1)] * 3 + [(2, 0)], residual_restriction=True, boundary_mask=True)
        >>> layer = layer.double().galerkin_(spacing=1 / 16)
        >>> inside = torch.zeros(1, 1, 17, 17, dtype=torch.float64)
        >>> inside[..., 1:-1, 1:-1] = 1
        >>> u = torch.zeros_like(inside)
        >>> A = layer.residual[0]
        >>> for _ in range(20):  # -Laplace u = 1, 0 on the boundary
        ...     u = u + layer(inside - A(u))
        >>> round(u[0, 0, 8, 8].item(), 4)
        0.0734
        """
        check_number("spacing", spacing, gt=0)
        check_number("damping", damping, gt=0, lt=2)
        if self.in_channels != self.out_channels or not self.linear or not self.residual_restriction:
            raise ValueError(
                f"the layer maps {self.in_channels} to {self.out_channels} channels, linear: {self.linear}, "
                f"residual_restriction: {self.residual_restriction}; textbook multigrid takes as many channels in as "
                "out, neither bias nor norm, and residual_restriction=True"
            )
        d = self.ndim
        line = torch.tensor([-1.0, 2.0, -1.0])
        one = torch.tensor([0.0, 1.0, 0.0])
        laplacian = sum(_outer([line if k == axis else one for k in range(d)]) for axis in range(d))
        delta = _outer([one] * d)
        for level in range(self.levels):
            h2 = (spacing * 2**level) ** 2
            smoothers = [*self.down[level], *(self.up[level] if level < self.levels - 1 else ())]
            for smooth in smoothers:
                _set(smooth.S.conv.weight, delta * (damping * h2 / (2 * d)))
                if smooth.A is not None:
                    _set(smooth.A.conv.weight, laplacian / h2)
            if level < self.levels - 1:
                _set(self.residual[level].conv.weight, laplacian / h2)
                _set(self.restrict_f[level].conv.weight, _outer([torch.tensor([0.25, 0.5, 0.25])] * d))
                _set(self.restrict_u[level].conv.weight, 0 * delta)
                weight = self.prolong[level].conv.weight
                taps = [torch.tensor([0.5, 1.0, 0.5, 0.0][:n]) for n in weight.shape[2:]]
                _set(weight, _outer(taps))
        return self

    def _masked(self, x: Tensor) -> Tensor:
        if not self.boundary_mask:
            return x
        inside = x.new_ones([1, 1, *(n - 2 for n in x.shape[2:])])
        return x * functional.pad(inside, [1, 1] * self.ndim)

    def _grids(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the nodes along each axis on every level, or say why there are too few."""
        needed = 2 ** (self.levels - 1)
        grids = [tuple(shape)]
        for _ in range(self.levels - 1):
            grids.append(coarser(grids[-1], bool(self.transfer_padding)))
        if min(shape) < needed or min(grids[-1]) < 1:
            raise ValueError(f"the grid has {tuple(shape)} nodes; {self.levels} levels take {needed} or more an axis")
        reflects = [n for n, side in zip(grids[-1], self.sides, strict=True) if "reflect" in side]
        if min([2, *reflects]) < 2 or (self.boundary_mask and min(grids[-1]) < 3):
            raise ValueError(
                f"the grid has {tuple(shape)} nodes, {grids[-1]} on the coarsest of {self.levels} levels; that one "
                f"takes {'3' if self.boundary_mask else '2'} or more an axis to reflect or to have a boundary"
            )
        return grids


class _Smoother(nn.Module):
    """u + S (f - A u), or S f where u is zero."""

    def __init__(self, S: GridConv, A: GridConv | None) -> None:
        super().__init__()
        self.S, self.A = S, A

    def forward(self, u: Tensor | None, f: Tensor) -> Tensor:
        return self.S(f) if self.A is None else u + self.S(f - self.A(u))


def normalization(norm: str | None, channels: int, grid: Sequence[int] | None) -> nn.Module:
    """Return the norm of that name over channels and nodes."""
    if norm == "layer":
        assert grid is not None
        return nn.LayerNorm([channels, *grid])
    return nn.GroupNorm(1, channels) if norm == "group" else nn.Identity()


def check_fields(
    name: str, x: Tensor, channels: int, ndim: int, tied_to: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Return the shape of the grid of fields, or say what is wrong with them."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} is of type {kind}; it takes a tensor of real floating-point numbers")
    if x.ndim != 2 + ndim or x.shape[1] != channels:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; it takes (batch, {channels} channels, {ndim} axes of a grid)"
        )
    if tied_to is not None and tuple(x.shape[2:]) != tied_to:
        raise ValueError(f"{name} has a grid of {tuple(x.shape[2:])} nodes; layer norms are made for {tied_to}")
    return tuple(x.shape[2:])


def as_linear_operator(layer: MultigridConv, shape: Sequence[int]) -> LinearOperator:
    """Return a layer as SciPy's operator on vectors, with its adjoint: to study its spectrum, or to precondition with.

    Parameters
    ----------
    layer
        A layer without bias and norm.
    shape
        Nodes along each axis.

    Returns
    -------
    LinearOperator
        From vectors of the input's channels, the nodes of each in C order, to such of the output's; of the dtype of the
        layer's weights.

    Raises
    ------
    TypeError
        For what is no `MultigridConv`.
    ValueError
        For a layer that isn't linear, or a shape that it doesn't take.

    Examples
    --------
    >>> from scipy.sparse.linalg import svds
    >>> operator = as_linear_operator(MultigridConv(1, 2, levels=3).double(), (8, 8))
    >>> operator.shape
    (128, 64)
    >>> bool(svds(operator, k=1, return_singular_vectors=False, rng=0)[0] > 0)
    True
    """
    if not isinstance(layer, MultigridConv):
        raise TypeError(f"layer is a {type(layer).__name__}; it takes a MultigridConv")
    if not layer.linear:
        raise ValueError("layer has a bias or a norm; it takes a linear one")
    grid = _axes(shape, layer.ndim)
    layer._grids(grid)
    weight = next(layer.parameters())
    kind = np.dtype(str(weight.dtype).removeprefix("torch.")) if weight.dtype != torch.bfloat16 else np.dtype("f4")
    rows, columns = (channels * int(np.prod(grid)) for channels in (layer.out_channels, layer.in_channels))

    def fields(x: np.ndarray, channels: int) -> Tensor:
        if np.iscomplexobj(x):
            raise TypeError("x is complex; the layer takes real numbers")
        return torch.as_tensor(np.array(x), dtype=weight.dtype, device=weight.device).reshape(1, channels, *grid)

    def vector(x: Tensor) -> np.ndarray:
        whole = x.float() if x.dtype == torch.bfloat16 else x  # which NumPy lacks
        return whole.detach().reshape(-1).cpu().numpy().astype(kind, copy=False)

    def matvec(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return vector(layer(fields(x, layer.in_channels)))

    def rmatvec(y: np.ndarray) -> np.ndarray:
        with torch.enable_grad():
            at = torch.zeros_like(fields(np.zeros(columns), layer.in_channels), requires_grad=True)
            (found,) = torch.autograd.grad(layer(at), at, fields(y, layer.out_channels))
        return vector(found)

    return LinearOperator((rows, columns), matvec=matvec, rmatvec=rmatvec, dtype=kind)


def _smoothing(smoothing: Smoothing | None, levels: int) -> list[tuple[int, int]]:
    if smoothing is None:
        return [(2 if level >= levels - 2 else 1, 0) for level in range(levels)]
    if len(smoothing) != levels or any(isinstance(pair, str | int) or len(pair) != 2 for pair in smoothing):
        raise ValueError(f"smoothing is {list(smoothing)}; it takes a pair of numbers for each of {levels} levels")
    pairs = [tuple(check_count("smoothing", n, at_least=0) for n in pair) for pair in smoothing]
    if pairs[0][0] < 1 or pairs[-1][1] > 0:
        raise ValueError(
            f"smoothing is {list(smoothing)}; the first level takes one or more on the way down, the last none up"
        )
    return [(pair[0], pair[1]) for pair in pairs]


def _axes(resolution: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    counts = resolution if isinstance(resolution, Iterable) else (resolution,) * ndim
    axes = tuple(check_count("resolution", n) for n in counts)
    if len(axes) != ndim:
        raise ValueError(f"resolution has {len(axes)} entries; it takes a number, or one for each of {ndim} axes")
    return axes


def _taps(grids: list[tuple[int, ...]] | None, level: int, ndim: int) -> list[int]:
    return [4] * ndim if grids is None else [3 if n % 2 else 4 for n in grids[level]]


def _outer(lines: Sequence[Tensor]) -> Tensor:
    result = torch.ones((), dtype=torch.float64)
    for line in lines:
        result = result[..., None] * line.double()
    return result


def _set(weight: Tensor, stencil: Tensor) -> None:
    """Give each channel the stencil, and none a part of another."""
    weight.zero_()
    for channel in range(min(weight.shape[:2])):
        weight[channel, channel] = stencil.to(weight)
