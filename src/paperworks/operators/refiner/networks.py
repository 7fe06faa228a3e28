"""Networks for fields on periodic grids, told the refinement level and physical parameters."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_count, check_number

_CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Fields = Float[Tensor, "batch channels *grid"]
Returned = Float[Tensor, "batch returned *grid"]
Condition = Float[Tensor, "batch parameters"]
Rescaling = Sequence[tuple[float, float]]


class _Embedding(nn.Module):
    """A vector for each row from its refinement level and its physical parameters: a sum of small networks."""

    def __init__(self, width: int, conditions: Rescaling) -> None:
        super().__init__()
        self.width, self.conditions = width, tuple(_rescaling(pair) for pair in conditions)
        self.level, *parameters = (
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * width))
            for _ in range(1 + len(self.conditions))
        )
        self.parameters_ = nn.ModuleList(parameters)

    def forward(self, x: Tensor, cond: Tensor | None, step: Tensor | None) -> Tensor:
        count = len(self.conditions)
        if (cond is None) != (count == 0) or (cond is not None and cond.shape != (len(x), count)):
            got = None if cond is None else tuple(cond.shape)
            raise ValueError(f"cond has shape {got}; it takes {(len(x), count) if count else None}")
        _check_step(x, step)
        embedded = self.level(self._waves(x.new_zeros(len(x)) if step is None else step.to(x.dtype)))
        for i, ((centre, factor), network) in enumerate(zip(self.conditions, self.parameters_, strict=True)):
            assert cond is not None
            embedded = embedded + network(self._waves((cond[:, i] - centre) * factor))
        return embedded

    def _waves(self, values: Float[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        half = self.width // 2
        rates = torch.exp(-math.log(1e4) / half * torch.arange(half, dtype=values.dtype, device=values.device))
        angles = values[:, None] * rates
        return functional.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, self.width - 2 * half))


class _Block(nn.Module):
    """Two convolutions with an embedding added between them, and a way past them."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dims: int, *, dilation: int = 1, norm: bool) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(1, inputs) if norm else nn.Identity()
        self.norm_2 = nn.GroupNorm(1, outputs) if norm else nn.Identity()
        self.conv_1 = _periodic(inputs, outputs, dims, dilation)
        self.conv_2 = _zeroed(_periodic(outputs, outputs, dims, dilation))
        self.embed = nn.Linear(embedding, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else _CONVOLUTIONS[dims - 1](inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_1(functional.gelu(self.norm_1(x)))
        h = h + self.embed(embedding).reshape(*h.shape[:2], *[1] * (h.ndim - 2))
        return self.shortcut(x) + self.conv_2(functional.gelu(self.norm_2(h)))


class DilatedResNet(nn.Module):
    """A small residual network of periodic convolutions with gaps, which see far on one resolution.

    Parameters
    ----------
    in_channels, out_channels
        Channels of what it sees and returns. For `PDERefiner` the first is twice the second.
    width
        Channels inside. Default 32.
    dilations
        Gaps of the convolutions, one number for each block of two. Default: 1, 2, 4, 8.
    conditions
        For each physical parameter that rows have, what is subtracted from it and what it is then multiplied by; none
        by default.
    dims
        Number of dimensions of the grid: 1, 2 or 3.

    Raises
    ------
    ValueError
        For counts out of bounds.

    References
    ----------
    Stachenfeld and others, arXiv:2112.15275, for dilated residual networks as neural solvers.

    Examples
    --------
    >>> network = DilatedResNet(2, 1, width=8, conditions=[(0.5, 100.0)])
    >>> network(torch.zeros(3, 2, 48), torch.full((3, 1), 0.6), torch.tensor([0.0, 500.0, 1000.0])).shape
    torch.Size([3, 1, 48])
    """

    grid_dimensions = 1  # unless it is made with another number

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        *,
        dilations: Sequence[int] = (1, 2, 4, 8),
        conditions: Rescaling = (),
        dims: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels, self.grid_dimensions = check_count("in_channels", in_channels), _dims(dims)
        check_count("out_channels", out_channels)
        self.embedding = _Embedding(check_count("width", width, at_least=2), conditions)
        self.first = _periodic(in_channels, width, dims)
        self.blocks = nn.ModuleList(
            _Block(width, width, 4 * width, dims, dilation=check_count("dilations", gap), norm=False)
            for gap in dilations
        )
        self.last = _zeroed(_periodic(width, out_channels, dims))

    def forward(
        self, x: Fields, cond: Condition | None = None, step: Float[Tensor, " batch"] | None = None
    ) -> Returned:
        """Return fields on the same grid.

        Parameters
        ----------
        x
            (batch, in_channels, *grid).
        cond
            Physical parameters, one column for each of `conditions`; None where there are none.
        step
            A number for each row, from 0 to 1000, such as its refinement level; None for 0.

        Returns
        -------
        Tensor
            (batch, out_channels, *grid).
        """
        _check(x, self.in_channels, self.grid_dimensions)
        embedding = self.embedding(x, cond, step)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.last(functional.gelu(h))


class PeriodicUNet(nn.Module):
    """The U-Net of the paper, with periodic convolutions throughout.

    Parameters
    ----------
    in_channels, out_channels
        Channels of what it sees and returns. For `PDERefiner` the first is twice the second.
    width
        Channels of the finest resolution; 64 by default, the paper's.
    multipliers
        Factors by which channels grow from one resolution to the next; (1, 2, 2, 4) by default, the paper's.
    blocks
        Residual blocks of each resolution; 2 by default, the paper's.
    conditions
        For each physical parameter that rows have, what is subtracted from it and what it is then multiplied by; the
        paper's are ``[(0.15, 100), (0.2, 100)]`` for the step in time and the spacing of the grid.
    dims
        Number of dimensions of the grid: 1, 2 or 3.

    Raises
    ------
    ValueError
        For counts out of bounds.

    References
    ----------
    Lippe and others, arXiv:2308.05732, appendix on the equation of Kuramoto and Sivashinsky.

    Examples
    --------
    >>> network = PeriodicUNet(2, 1, width=8)
    >>> network(torch.zeros(3, 2, 32), step=torch.full((3,), 1000.0)).shape
    torch.Size([3, 1, 32])
    """

    grid_dimensions = 1  # unless it is made with another number

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        *,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        blocks: int = 2,
        conditions: Rescaling = (),
        dims: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels, self.grid_dimensions = check_count("in_channels", in_channels), _dims(dims)
        check_count("out_channels", out_channels), check_count("blocks", blocks)
        self.embedding = _Embedding(check_count("width", width, at_least=2), conditions)
        widths = list(
            itertools.accumulate((check_count("multipliers", m) for m in multipliers), int.__mul__, initial=width)
        )

        def block(inputs: int, outputs: int) -> _Block:
            return _Block(inputs, outputs, 4 * width, dims, norm=True)

        self.first = _periodic(in_channels, width, dims)
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        self.down: Any = nn.ModuleList()
        self.up: Any = nn.ModuleList()
        for narrow, wide in itertools.pairwise(widths):
            self.down.append(nn.ModuleList(block(narrow if i == 0 else wide, wide) for i in range(blocks)))
            # A resolution's way up takes in what it had on the way down, its entry included.
            self.up.append(
                nn.ModuleList([*(block(2 * wide, wide) for _ in range(blocks)), block(wide + narrow, narrow)])
            )
        for middle in widths[1:-1]:
            self.shrink.append(_periodic(middle, middle, dims, stride=2))
            self.grow.append(_TRANSPOSED[dims - 1](middle, middle, 4, stride=2, padding=3))
        self.middle = nn.ModuleList(block(widths[-1], widths[-1]) for _ in range(2))
        self.norm = nn.GroupNorm(math.gcd(8, width), width)
        self.last = _zeroed(_periodic(width, out_channels, dims))

    def forward(
        self, x: Fields, cond: Condition | None = None, step: Float[Tensor, " batch"] | None = None
    ) -> Returned:
        """Return fields on the same grid.

        Parameters
        ----------
        x
            (batch, in_channels, *grid), whose sides the number of resolutions can halve.
        cond
            Physical parameters, one column for each of `conditions`; None where there are none.
        step
            A number for each row, from 0 to 1000, such as its refinement level; None for 0.

        Returns
        -------
        Tensor
            (batch, out_channels, *grid).
        """
        _check(x, self.in_channels, self.grid_dimensions, multiple=2 ** len(self.shrink))
        embedding = self.embedding(x, cond, step)
        h = self.first(x)
        passed: list[Tensor] = [h]
        for i, blocks in enumerate(self.down):
            for block in blocks:
                h = block(h, embedding)
                passed.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h)
                passed.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for i, blocks in reversed(list(enumerate(self.up))):
            for block in blocks:
                h = block(torch.cat([h, passed.pop()], dim=1), embedding)
            if i > 0:
                h = self.grow[i - 1](functional.pad(h, [1] * (2 * self.grid_dimensions), mode="circular"))
        return self.last(functional.gelu(self.norm(h)))


def channel_conditioned(network: nn.Module) -> nn.Module:
    """Return a backbone that tells any network its refinement level and parameters as channels that are constant.

    Parameters
    ----------
    network
        Called with (batch, channels, *grid): its input channels are those of the fields, one for the level, and one for
        each physical parameter.

    Returns
    -------
    nn.Module
        Called with ``(x, cond, step)``, as `Stepper` does; the level is divided by 1000.

    References
    ----------
    Li and others, arXiv:2010.08895: a Fourier neural operator is such a network.

    Examples
    --------
    >>> backbone = channel_conditioned(nn.Conv1d(3, 1, 1))
    >>> backbone(torch.zeros(4, 2, 16), None, torch.zeros(4)).shape
    torch.Size([4, 1, 16])
    """
    return _ChannelConditioned(network)


class _ChannelConditioned(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, cond: Tensor | None = None, step: Tensor | None = None) -> Tensor:
        _check_step(x, step)
        if cond is not None and (cond.ndim != 2 or len(cond) != len(x)):
            raise ValueError(f"cond has shape {tuple(cond.shape)}; it takes ({len(x)}, parameters)")
        told = [x.new_zeros(len(x), 1) if step is None else step.to(x.dtype)[:, None] / 1000]
        if cond is not None:
            told.append(cond.to(x.dtype))
        columns = torch.cat(told, dim=1)
        constants = columns.reshape(*columns.shape, *[1] * (x.ndim - 2)).expand(*columns.shape, *x.shape[2:])
        return self.network(torch.cat([x, constants], dim=1))


class _Wrapped(nn.Module):
    """A convolution of kernel 3 that goes round the box; joining the ends on is faster than `padding_mode`."""

    def __init__(self, convolution: Any, dims: int, reach: int) -> None:
        super().__init__()
        self.convolution, self.dims, self.reach = convolution, dims, reach

    def forward(self, x: Tensor) -> Tensor:
        for axis in range(-self.dims, 0):
            n, reach = x.shape[axis], self.reach
            if reach > n:  # a gap may reach round a small box more than once
                x = x.index_select(axis, torch.arange(-reach, n + reach, device=x.device) % n)
            else:
                x = torch.cat([x.narrow(axis, n - reach, reach), x, x.narrow(axis, 0, reach)], dim=axis)
        return self.convolution(x)


def _periodic(inputs: int, outputs: int, dims: int, dilation: int = 1, stride: int = 1) -> Any:
    kind = _CONVOLUTIONS[dims - 1]
    return _Wrapped(kind(inputs, outputs, 3, stride, dilation=dilation), dims, dilation)


def _zeroed(layer: Any) -> Any:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def _rescaling(pair: Any) -> tuple[float, float]:
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise ValueError(f"conditions has {pair!r}; it takes pairs (what is subtracted, what it is multiplied by)")
    return check_number("conditions", pair[0]), check_number("conditions", pair[1])


def _check_step(x: Tensor, step: Tensor | None) -> None:
    if step is not None and step.shape != (len(x),):
        raise ValueError(f"step has shape {tuple(step.shape)}; it takes ({len(x)},), a number for each row")


def _dims(dims: int) -> int:
    return check_count("dims", dims, at_most=3)


def _check(x: Tensor, channels: int, dims: int, multiple: int = 1) -> None:
    if x.ndim != 2 + dims or x.shape[1] != channels or any(n % multiple or n == 0 for n in x.shape[2:]):
        sides = " whose sides are multiples of " + str(multiple) if multiple > 1 else ""
        raise ValueError(
            f"x has shape {tuple(x.shape)}; it takes (batch, {channels}, *grid), a grid of {dims} axes{sides}"
        )
