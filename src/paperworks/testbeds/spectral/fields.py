"""Random fields to start from, and the way between vorticity and velocity."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.testbeds.spectral.grids import PeriodicGrid


def gaussian_fields(
    grid: PeriodicGrid,
    batch_size: int,
    amplitude: Callable[[Tensor], Tensor],
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch *grid"]:
    r"""Draw real Gaussian random fields of a given spectrum.

    Parameters
    ----------
    grid
        Where the fields live.
    batch_size
        Number of fields.
    amplitude
        From the wave numbers :math:`|k|` of modes to the standard deviations of their coefficients in the Fourier
        series, whatever the grid; ``lambda k: s * (k**2 + tau**2) ** (-a / 2)`` for a power of the Laplacian. The mean
        of fields is 0 where it is 0 at 0.
    generator
        torch's generator, on the grid's device; the global one by default.

    Returns
    -------
    Tensor
        (batch_size, *grid), in double precision.

    Raises
    ------
    ValueError
        For fewer than one field, or a spectrum that isn't finite, as a negative power is at 0.

    Examples
    --------
    >>> draws = gaussian_fields(PeriodicGrid(32), 2000, lambda k: (k == 3) / 2, torch.Generator().manual_seed(0))
    >>> round(float(draws.var()), 1)  # two modes, 3 and -3, of variance 1 / 4
    0.5
    """
    check_count("batch_size", batch_size)
    deviations = torch.as_tensor(amplitude(grid.square.sqrt()))
    if deviations.is_complex() or not torch.isfinite(deviations).all():
        raise ValueError(
            "amplitude gives NaN, infinite or complex values at wave numbers; it takes a finite spectrum, 0 too"
        )
    noise = torch.randn(batch_size, *grid.shape, dtype=torch.float64, device=grid.device, generator=generator)
    return grid.real(grid.modes(noise) * deviations * math.sqrt(math.prod(grid.shape)))


def sine_fields(
    grid: PeriodicGrid,
    batch_size: int,
    *,
    terms: int = 10,
    frequencies: Sequence[int] = (1, 2),
    amplitude: float = 0.5,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch *grid"]:
    r"""Draw sums of sine waves, :math:`\sum_j A_j \sin(2 \pi l_j \cdot x / L + \phi_j)`.

    Parameters
    ----------
    grid
        Where the fields live.
    batch_size
        Number of fields.
    terms
        Waves in each sum; 10 in arXiv:2308.05732.
    frequencies
        Whole numbers from which l is drawn for each axis; 1 and 2 in arXiv:2308.05732.
    amplitude
        Amplitudes are uniform between minus this and this; 1/2 in arXiv:2308.05732.
    generator
        torch's generator, on the grid's device; the global one by default.

    Returns
    -------
    Tensor
        (batch_size, *grid), in double precision.

    Raises
    ------
    ValueError
        For a count below 1, an amplitude that isn't positive, or frequencies that aren't whole or that the grid doesn't
        resolve.

    Examples
    --------
    >>> fields = sine_fields(PeriodicGrid(16), 2, generator=torch.Generator().manual_seed(0))
    >>> fields.shape, bool((PeriodicGrid(16).modes(fields)[:, 3:].abs() < 1e-12).all())
    (torch.Size([2, 16]), True)
    """
    check_count("batch_size", batch_size), check_count("terms", terms), check_number("amplitude", amplitude, gt=0)
    options: dict[str, Any] = {"dtype": torch.float64, "device": grid.device, "generator": generator}
    choices = torch.as_tensor(frequencies, dtype=torch.float64, device=grid.device)
    most = min(grid.shape) // 2
    if not len(choices) or (choices != choices.round()).any() or (choices.abs() > most).any():
        raise ValueError(f"frequencies is {frequencies}; it takes whole numbers up to {most}, which the grid resolves")

    def each(values: Tensor) -> Tensor:
        return values.reshape(*values.shape, *[1] * grid.dims)

    heights = amplitude * (2 * torch.rand(batch_size, terms, **options) - 1)
    phase = each(2 * math.pi * torch.rand(batch_size, terms, **options))
    for points, (axis, n) in zip(_shares(grid), enumerate(grid.shape), strict=True):
        drawn = torch.randint(len(choices), (batch_size, terms), device=grid.device, generator=generator)
        shape = [n if a == axis else 1 for a in range(grid.dims)]
        phase = phase + 2 * math.pi * each(choices[drawn]) * points.reshape(shape)
    return (each(heights) * phase.sin()).sum(1)


def vortex_sheets(
    grid: PeriodicGrid,
    batch_size: int,
    *,
    thickness: float = 0.05,
    waves: int = 10,
    amplitude: float = 0.025,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch n m"]:
    r"""Draw the vorticity of two thin sheets of opposite sign that wave at random: shear layers that roll up.

    The velocity along x is :math:`\tanh((d_y - 1/4) / \rho)` below the middle and its mirror above it, in shares of the
    box, where :math:`d_y` is displaced by :math:`\sum_k \alpha_k \sin(2 \pi k x - \beta_k)`.

    Parameters
    ----------
    grid
        A grid of two dimensions.
    batch_size
        Number of fields.
    thickness
        Half the width :math:`\rho` of a sheet, as a share of the box's second side.
    waves
        Number of waves of the displacement.
    amplitude
        Greatest amplitude of the first wave; that of wave k is a k-th of it.
    generator
        torch's generator, on the grid's device; the global one by default.

    Returns
    -------
    Tensor
        (batch_size, *grid), in double precision, of mean 0.

    Raises
    ------
    ValueError
        For a grid that isn't of two dimensions, or a number out of bounds.

    Examples
    --------
    >>> sheets = vortex_sheets(PeriodicGrid((32, 32), 1.0), 2, generator=torch.Generator().manual_seed(0))
    >>> sheets.shape, bool(sheets.mean().abs() < 1e-12)
    (torch.Size([2, 32, 32]), True)
    """
    _plane(grid)
    check_count("batch_size", batch_size), check_count("waves", waves)
    check_number("thickness", thickness, gt=0), check_number("amplitude", amplitude, ge=0)
    options: dict[str, Any] = {"dtype": torch.float64, "device": grid.device, "generator": generator}
    along, across = _shares(grid)
    k = torch.arange(1, waves + 1, dtype=torch.float64, device=grid.device)
    heights = amplitude / k * (2 * torch.rand(batch_size, waves, **options) - 1)
    phases = 2 * math.pi * (k * along[:, None] - torch.rand(batch_size, 1, waves, **options))
    shift = (heights[:, None] * phases.sin()).sum(-1)[..., None]  # (batch, n, 1)
    place = torch.remainder(across + shift, 1)
    # The two tanh are joined by their periodic images, as a sum of steps; far ones have flattened out.
    speed = torch.zeros_like(place)
    for image in (-2, -1, 0, 1, 2):
        speed += torch.tanh((place - 0.25 - image) / thickness) - torch.tanh((place - 0.75 - image) / thickness)
    speed = speed - speed.mean((-2, -1), keepdim=True)
    return vorticity_of(grid, torch.stack([speed, torch.zeros_like(speed)], 1))


def velocity_of(grid: PeriodicGrid, vorticity: Float[Tensor, "*batch n m"]) -> Float[Tensor, "*batch 2 n m"]:
    """Return the velocity of mean 0 and without divergence that a vorticity belongs to.

    Parameters
    ----------
    grid
        A grid of two dimensions.
    vorticity
        Fields on it; their mean, which no periodic velocity has, is left out.

    Returns
    -------
    Tensor
        (..., 2, *grid), parts along the first and the second axis.

    Raises
    ------
    ValueError
        For fields on another grid.

    Examples
    --------
    >>> grid = PeriodicGrid((16, 16))
    >>> x, y = grid.coordinates()
    >>> u, v = velocity_of(grid, 2 * x.sin() * y.sin())
    >>> torch.allclose(u, x.sin() * y.cos()), torch.allclose(v, -x.cos() * y.sin())
    (True, True)
    """
    along_x, along_y = _plane(grid).derivatives
    modes = grid.modes(grid.check("vorticity", vorticity).to(torch.float64)) / torch.where(
        grid.square == 0, torch.inf, grid.square
    )
    return torch.stack([grid.real(along_y * modes), grid.real(-along_x * modes)], -3).to(vorticity.dtype)


def vorticity_of(grid: PeriodicGrid, velocity: Float[Tensor, "*batch 2 n m"]) -> Float[Tensor, "*batch n m"]:
    """Return the vorticity of a velocity: the derivative of its second part by x less that of its first by y.

    Parameters
    ----------
    grid
        A grid of two dimensions.
    velocity
        Fields with two parts, (..., 2, *grid).

    Returns
    -------
    Tensor
        Fields of (..., *grid).

    Raises
    ------
    ValueError
        For fields on another grid.

    Examples
    --------
    >>> grid = PeriodicGrid((16, 16))
    >>> x, y = grid.coordinates()
    >>> torch.allclose(vorticity_of(grid, torch.stack([x.sin() * y.cos(), -x.cos() * y.sin()])), 2 * x.sin() * y.sin())
    True
    """
    along_x, along_y = _plane(grid).derivatives
    if velocity.ndim < 3 or velocity.shape[-3] != 2:
        raise ValueError(f"velocity has shape {tuple(velocity.shape)}; it takes (..., 2, *grid)")
    u, v = grid.modes(grid.check("velocity", velocity).to(torch.float64)).unbind(-3)
    return grid.real(along_x * v - along_y * u).to(velocity.dtype)


def _plane(grid: PeriodicGrid) -> PeriodicGrid:
    if grid.dims != 2:
        raise ValueError(f"grid has {grid.dims} axes; it takes a grid of two")
    return grid


def _shares(grid: PeriodicGrid) -> list[Tensor]:
    """Return the coordinates along each axis as shares of the box, from 0 to below 1."""
    return [torch.arange(n, dtype=torch.float64, device=grid.device) / n for n in grid.shape]
