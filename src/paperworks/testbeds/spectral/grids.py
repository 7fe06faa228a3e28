"""An even grid of a periodic box, and what Fourier series need of it."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from paperworks.core.validation import check_count, check_number

Length = Any  # a number, or a tensor of one for each row of a batch


class PeriodicGrid:
    r"""An even grid of a periodic box in one to three dimensions, with real Fourier transforms of fields on it.

    Fields have the grid as their last axes, and any axes before it. Transforms keep the half of the modes that a real
    field needs (`torch.fft.rfftn`).

    Parameters
    ----------
    points
        Points along each axis: a number for one dimension, or one for each axis.
    length
        Sides of the box: one for all axes, or a sequence of one for each. A side is a number, or a tensor with one
        number for each row of a batch, so that boxes of several sizes are solved at once. Default: 2 pi.
    device
        Where fields are; the CPU by default.

    Attributes
    ----------
    shape, dims
        Points along each axis, and the number of axes.
    derivatives
        For each axis the factors :math:`i k` of modes, 0 for the highest mode of an even number of points, whose
        derivative the grid doesn't see.
    square
        :math:`|k|^2` of each mode.
    kept
        1 for modes below two thirds of the highest along each axis, else 0: products of two such fields have no alias
        among them.

    Raises
    ------
    ValueError
        For fewer than 4 points along an axis, more than three axes, or a side that isn't positive.

    Examples
    --------
    >>> grid = PeriodicGrid(8)
    >>> (x,) = grid.coordinates()
    >>> torch.allclose(grid.real(grid.derivatives[0] * grid.modes(x.sin())), x.cos())
    True
    """

    def __init__(
        self, points: int | Sequence[int], length: Length | Sequence[Length] = 2 * math.pi, *, device: Any = None
    ) -> None:
        axes = list(points) if isinstance(points, Iterable) and not isinstance(points, str) else [points]
        self.shape = tuple(check_count("points", n, at_least=4) for n in axes)
        self.dims = check_count("number of axes", len(axes), at_most=3)
        sides = list(length) if isinstance(length, list | tuple) else [length] * self.dims
        if len(sides) != self.dims:
            raise ValueError(f"length has {len(sides)} sides; it takes one number, or one for each of {self.dims} axes")
        self.device = torch.device("cpu" if device is None else device)
        self.lengths = [_side(side, self.device) for side in sides]
        self.derivatives: list[Tensor] = []
        waves, kept = [], []
        for axis, (n, side) in enumerate(zip(self.shape, self.lengths, strict=True)):
            last = axis == self.dims - 1
            counted = (torch.fft.rfftfreq if last else torch.fft.fftfreq)(n, 1 / n, dtype=torch.float64)
            counted = counted.to(self.device).reshape(*[-1 if a == axis else 1 for a in range(self.dims)])
            wave = 2 * math.pi * counted / self.spread(side)
            waves.append(wave)
            self.derivatives.append(1j * torch.where(counted.abs() * 2 == n, 0, wave))
            kept.append(counted.abs() * 3 < n)
        self.square = torch.stack(torch.broadcast_tensors(*(wave**2 for wave in waves))).sum(0)
        self.kept = torch.stack(torch.broadcast_tensors(*kept)).all(0).double()
        self._axes = tuple(range(-self.dims, 0))

    def coordinates(self) -> tuple[Float[Tensor, "..."], ...]:
        """Return the coordinates of all points, the first point of each axis at 0.

        Returns
        -------
        tuple of Tensor
            For each axis, of the grid's shape, behind the batch's axis where sides differ.
        """
        shares = torch.meshgrid(
            *(torch.arange(n, dtype=torch.float64, device=self.device) / n for n in self.shape), indexing="ij"
        )
        return tuple(share * self.spread(side) for share, side in zip(shares, self.lengths, strict=True))

    def modes(self, field: Float[Tensor, "..."]) -> Complex[Tensor, "..."]:
        """Transform fields to modes.

        Parameters
        ----------
        field
            Real fields, whose last axes are the grid.

        Returns
        -------
        Tensor
            Complex modes, in the order of `torch.fft.rfftn`.
        """
        return torch.fft.rfftn(field, dim=self._axes)

    def real(self, modes: Complex[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Transform modes to fields.

        Parameters
        ----------
        modes
            What `modes` returns.

        Returns
        -------
        Tensor
            Real fields on the grid.
        """
        return torch.fft.irfftn(modes, s=self.shape, dim=self._axes)

    def spread(self, value: Any) -> Float[Tensor, "..."]:
        """Give a number, or one for each row of a batch, an axis of length one for each axis of the grid.

        Parameters
        ----------
        value
            A number or a tensor of them.

        Returns
        -------
        Tensor
            In double precision, to be multiplied with fields or modes.
        """
        tensor = torch.as_tensor(value, dtype=torch.float64, device=self.device)
        return tensor.reshape(*tensor.shape, *[1] * self.dims)

    def check(self, name: str, field: Tensor) -> Tensor:
        """Return a field, or raise TypeError or ValueError where it isn't one on this grid.

        Parameters
        ----------
        name
            The argument, for the message.
        field
            A tensor whose last axes have to be the grid's.

        Returns
        -------
        Tensor
            The field itself.
        """
        if not isinstance(field, Tensor) or not field.is_floating_point():
            got = f"dtype {field.dtype}" if isinstance(field, Tensor) else f"type {type(field).__name__}"
            raise TypeError(f"{name} has {got}; it takes a tensor of real floating-point numbers")
        if tuple(field.shape[-self.dims :]) != self.shape or field.numel() == 0:
            raise ValueError(
                f"{name} has shape {tuple(field.shape)}; it takes (..., {', '.join(map(str, self.shape))})"
            )
        return field

    def __repr__(self) -> str:
        return f"PeriodicGrid({self.shape})"


def _side(side: Length, device: torch.device) -> Tensor:
    if not isinstance(side, Tensor):
        return torch.tensor(check_number("length", side, gt=0), dtype=torch.float64, device=device)
    if not (torch.isfinite(side).all() and (side > 0).all()):
        raise ValueError(f"length is {side}; it takes finite numbers > 0")
    return side.to(device, torch.float64)
