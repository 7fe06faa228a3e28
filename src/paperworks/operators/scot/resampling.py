"""Fields brought to another grid by their Fourier modes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count


def fourier_resample(x: Float[Tensor, "*batch height width"], size: tuple[int, int]) -> Float[Tensor, "*batch h w"]:
    """Return periodic fields on another grid, with the modes that both grids have.

    Modes -n/2 to n/2 - 1 are kept, n the smaller number of points along an axis, and those that the new grid has beyond
    are zero. A field of modes below n/2 comes back from a round trip as it was. Odd numbers of points are taken too.

    Parameters
    ----------
    x
        Real fields, the grid in the last two axes.
    size
        Height and width of the new grid.

    Returns
    -------
    Tensor
        The fields at the points of the new grid, of the type of `x`.

    Raises
    ------
    ValueError
        For a size that isn't two numbers of 1 or more, for fields without a grid, and for what isn't real floating
        point.

    Examples
    --------
    >>> angles = torch.arange(8) * torch.pi / 4
    >>> fine = fourier_resample(torch.cos(angles).expand(8, 8), (8, 16))
    >>> bool((fine[0] - torch.cos(torch.arange(16) * torch.pi / 8)).abs().max() < 1e-6)
    True
    """
    if x.ndim < 2 or not x.shape[-2] * x.shape[-1]:
        raise ValueError(f"x has shape {tuple(x.shape)}; it takes (..., height, width)")
    if not x.is_floating_point():
        raise ValueError(f"x has the type {x.dtype}; it takes real floating-point fields")
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"size is {size!r}; it takes height and width")
    height, width = (check_count("size", points) for points in size)
    if not len(x.flatten(0, -2)):
        return x.new_zeros(*x.shape[:-2], height, width)
    spectrum = torch.fft.fft2(x if x.dtype == torch.float64 else x.float(), norm="forward")
    spectrum = _with_modes(_with_modes(spectrum, height, -2), width, -1)
    return torch.fft.ifft2(spectrum, norm="forward").real.to(x.dtype)


def _with_modes(spectrum: Tensor, points: int, dim: int) -> Tensor:
    have = spectrum.shape[dim]
    if points == have:
        return spectrum
    kept = min(points, have)
    positive, negative = spectrum.narrow(dim, 0, (kept + 1) // 2), spectrum.narrow(dim, have - kept // 2, kept // 2)
    shape = list(spectrum.shape)
    shape[dim] = points - kept
    return torch.cat([positive, spectrum.new_zeros(shape), negative], dim)
