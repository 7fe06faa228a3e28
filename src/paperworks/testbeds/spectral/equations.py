"""Equations of physics as a linear symbol and a nonlinear function of Fourier modes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.testbeds.spectral.grids import Length, PeriodicGrid
from paperworks.testbeds.spectral.semilinear import Modes, SemilinearEquation

Field = Float[Tensor, "..."]
Forcing = Field | Callable[[float | Tensor], Field] | None
Coefficient = float | Tensor  # or one for each row of a batch


def kuramoto_sivashinsky(n: int, length: Length = 64.0, nu: Coefficient = 1.0) -> SemilinearEquation:
    r"""Return the Kuramoto-Sivashinsky equation :math:`u_t + u u_x + u_{xx} + \nu u_{xxxx} = 0`, which is chaotic.

    Parameters
    ----------
    n
        Points of the grid.
    length
        Length of the circle, or one for each row of a batch: the longer, the more positive Lyapunov exponents.
    nu
        Weight of the fourth derivative, or one for each row of a batch.

    Returns
    -------
    SemilinearEquation
        In one dimension; the mean of u is conserved.

    Raises
    ------
    ValueError
        For a coefficient that isn't positive.

    Examples
    --------
    >>> equation = kuramoto_sivashinsky(64, 22.0)
    >>> (x,) = equation.grid.coordinates()
    >>> equation.simulate((x * 2 * torch.pi / 22).cos(), dt=0.5, n=4, substeps=4).shape
    torch.Size([5, 64])
    """
    grid = PeriodicGrid(n, length)
    symbol = grid.square - grid.spread(_positive("nu", nu)) * grid.square**2
    return SemilinearEquation(grid, symbol, _advected(grid))


def burgers(n: int, nu: Coefficient = 0.01, length: Length = 1.0, forcing: Forcing = None) -> SemilinearEquation:
    r"""Return Burgers' equation :math:`u_t + u u_x = \nu u_{xx} + f` in one dimension.

    Parameters
    ----------
    n
        Points of the grid.
    nu
        Viscosity, or one for each row of a batch.
    length
        Length of the circle, or one for each row of a batch.
    forcing
        A field f, or a function of time that returns one; none by default.

    Returns
    -------
    SemilinearEquation
        In one dimension.

    Raises
    ------
    ValueError
        For a viscosity that isn't positive.

    Examples
    --------
    >>> equation = burgers(64, 0.05)
    >>> (x,) = equation.grid.coordinates()
    >>> states = equation.simulate((2 * torch.pi * x).sin(), dt=0.5, n=1, substeps=50)
    >>> bool(states[-1].abs().max() < states[0].abs().max())
    True
    """
    grid = PeriodicGrid(n, length)
    symbol = -grid.spread(_positive("nu", nu)) * grid.square
    return SemilinearEquation(grid, symbol, _forced(grid, _advected(grid), forcing))


def korteweg_de_vries(n: int, length: Length = 40.0) -> SemilinearEquation:
    r"""Return the Korteweg-de Vries equation :math:`u_t + 6 u u_x + u_{xxx} = 0`, whose solitons keep their shape.

    Parameters
    ----------
    n
        Points of the grid.
    length
        Length of the circle, or one for each row of a batch.

    Returns
    -------
    SemilinearEquation
        In one dimension; mean and mean square of u are conserved.

    Examples
    --------
    >>> equation = korteweg_de_vries(64)
    >>> (x,) = equation.grid.coordinates()
    >>> states = equation.simulate(1 / (2 * torch.cosh((x - 20) / 2) ** 2), dt=1.0, n=2, substeps=100)
    >>> int(x[states[-1].argmax()]), int(x[states[0].argmax()])  # speed one
    (21, 20)
    """
    grid = PeriodicGrid(n, length)
    return SemilinearEquation(grid, -(grid.derivatives[0] ** 3), _advected(grid, 6.0))


def allen_cahn(
    points: int | Sequence[int], epsilon: Coefficient = 0.05, length: Length | Sequence[Length] = 1.0
) -> SemilinearEquation:
    r"""Return the Allen-Cahn equation :math:`u_t = \epsilon^2 \Delta u + u - u^3`, whose phases are -1 and 1.

    Parameters
    ----------
    points
        Points along each axis.
    epsilon
        Width of the layers between the phases, or one for each row of a batch.
    length
        Sides of the box.

    Returns
    -------
    SemilinearEquation
        In one to three dimensions. A cube of a field has aliases that two thirds of the modes don't take off; layers
        wider than four spacings have none of size.

    Raises
    ------
    ValueError
        For a width that isn't positive.

    Examples
    --------
    >>> equation = allen_cahn((16, 16), 0.1)
    >>> states = equation.simulate(torch.full((16, 16), 0.1), dt=5.0, n=1, substeps=50)
    >>> bool((states[-1] > 0.99).all())
    True
    """
    grid = PeriodicGrid(points, length)
    symbol = 1 - grid.spread(_positive("epsilon", epsilon)) ** 2 * grid.square

    def nonlinear(modes: Modes, time: float | Tensor) -> Modes:
        return -grid.kept * grid.modes(grid.real(grid.kept * modes) ** 3)

    return SemilinearEquation(grid, symbol, nonlinear)


def heat(
    points: int | Sequence[int],
    diffusivity: Coefficient = 1.0,
    length: Length | Sequence[Length] = 1.0,
    forcing: Forcing = None,
) -> SemilinearEquation:
    r"""Return the heat equation :math:`u_t = D \Delta u + f`.

    Parameters
    ----------
    points
        Points along each axis.
    diffusivity
        The factor D, or one for each row of a batch.
    length
        Sides of the box.
    forcing
        A field f, or a function of time that returns one; none by default, where steps are exact.

    Returns
    -------
    SemilinearEquation
        In one to three dimensions.

    Raises
    ------
    ValueError
        For a diffusivity that isn't positive.

    Examples
    --------
    >>> equation = heat(16, 0.1)
    >>> (x,) = equation.grid.coordinates()
    >>> round(float(equation.simulate((2 * torch.pi * x).cos(), dt=0.25, n=1)[-1, 0]), 6)  # exp(-0.1 pi^2)
    0.372708
    """
    return advection_diffusion(points, 0.0, diffusivity, length, forcing)


def advection_diffusion(
    points: int | Sequence[int],
    velocity: float | Sequence[Coefficient] = 1.0,
    diffusivity: Coefficient = 0.01,
    length: Length | Sequence[Length] = 1.0,
    forcing: Forcing = None,
) -> SemilinearEquation:
    r"""Return the equation of advection and diffusion :math:`u_t + c \cdot \nabla u = D \Delta u + f`.

    Parameters
    ----------
    points
        Points along each axis.
    velocity
        The constant velocity c: one for all axes, or one for each, each a number or one for each row of a batch.
    diffusivity
        The factor D, or one for each row of a batch; 0 for advection alone.
    length
        Sides of the box.
    forcing
        A field f, or a function of time that returns one; none by default, where steps are exact.

    Returns
    -------
    SemilinearEquation
        In one to three dimensions.

    Raises
    ------
    ValueError
        For a diffusivity below 0, or velocities that aren't finite or of another number than axes.

    Examples
    --------
    >>> equation = advection_diffusion(16, 0.5, 0.0)
    >>> (x,) = equation.grid.coordinates()
    >>> states = equation.simulate((2 * torch.pi * x).sin(), dt=1.0, n=1)
    >>> torch.allclose(states[-1], -states[0])  # half a turn
    True
    """
    grid = PeriodicGrid(points, length)
    speeds = list(velocity) if isinstance(velocity, Sequence) else [velocity] * grid.dims
    if len(speeds) != grid.dims:
        raise ValueError(f"velocity has {len(speeds)} parts; it takes one number, or one for each of {grid.dims} axes")
    symbol = -grid.spread(_positive("diffusivity", diffusivity, zero=True)) * grid.square
    if not all(torch.isfinite(torch.as_tensor(c)).all() for c in speeds):
        raise ValueError(f"velocity is {velocity}; it takes finite numbers")
    if any(torch.as_tensor(c).any() for c in speeds):
        symbol = symbol - sum(grid.spread(c) * ik for c, ik in zip(speeds, grid.derivatives, strict=True))
    return SemilinearEquation(grid, symbol, None if forcing is None else _forced(grid, None, forcing))


def navier_stokes(
    points: int | Sequence[int],
    nu: Coefficient = 1e-3,
    length: Length | Sequence[Length] = 1.0,
    *,
    forcing: Forcing = None,
    drag: Coefficient = 0.0,
) -> SemilinearEquation:
    r"""Return the equation of incompressible flow in a periodic rectangle for its vorticity.

    :math:`\omega_t + u \cdot \nabla \omega = \nu \Delta \omega - \mu \omega + f` with :math:`\omega = \partial_x v -
    \partial_y u`. `velocity_of` gives the velocity, whose mean is 0.

    Parameters
    ----------
    points
        Points along both axes, x first: a number for a square.
    nu
        Viscosity, or one for each row of a batch.
    length
        Sides of the rectangle.
    forcing
        The curl f of the force, a field or a function of time that returns one; none by default.
    drag
        The factor :math:`\mu` of linear friction, or one for each row of a batch.

    Returns
    -------
    SemilinearEquation
        In two dimensions, of the vorticity.

    Raises
    ------
    ValueError
        For a viscosity or a drag below 0, or another number of axes than two.

    Examples
    --------
    >>> equation = navier_stokes(16, 0.01, 2 * torch.pi)
    >>> x, y = equation.grid.coordinates()
    >>> states = equation.simulate(2 * x.sin() * y.sin(), dt=1.0, n=1, substeps=10)  # Taylor and Green's vortices
    >>> round(float((states[-1] / states[0])[1, 1]), 6)  # exp(-0.02)
    0.980199
    """
    grid = PeriodicGrid(points if isinstance(points, Sequence) else [points, points], length)
    if grid.dims != 2:
        raise ValueError(f"points has {grid.dims} axes; it takes two")
    symbol = -grid.spread(_positive("nu", nu, zero=True)) * grid.square
    symbol = symbol - grid.spread(_positive("drag", drag, zero=True))
    along_x, along_y = grid.derivatives
    stream = grid.kept / torch.where(grid.square == 0, torch.inf, grid.square)
    to_u, to_v, to_x, to_y = along_y * stream, -along_x * stream, along_x * grid.kept, along_y * grid.kept

    def nonlinear(modes: Modes, time: float | Tensor) -> Modes:
        u, v, slope_x, slope_y = grid.real(torch.stack([to_u * modes, to_v * modes, to_x * modes, to_y * modes]))
        return -grid.kept * grid.modes(u * slope_x + v * slope_y)

    return SemilinearEquation(grid, symbol, _forced(grid, nonlinear, forcing))


def _advected(grid: PeriodicGrid, factor: float = 1.0) -> Callable[[Modes, Any], Modes]:
    """Return -factor u u_x of modes, as half the derivative of the square."""
    weight, kept = -factor / 2 * grid.derivatives[0] * grid.kept, grid.kept
    return lambda modes, time: weight * grid.modes(grid.real(kept * modes).square_())


def _forced(
    grid: PeriodicGrid, nonlinear: Callable[[Modes, Any], Modes] | None, forcing: Forcing
) -> Callable[[Modes, Any], Modes] | None:
    if forcing is None:
        return nonlinear
    if callable(forcing):
        force_at = lambda time: grid.modes(grid.check("forcing", forcing(time)).to(torch.float64))  # noqa: E731
    else:
        force = grid.modes(grid.check("forcing", forcing).to(grid.device, torch.float64))
        force_at = lambda time: force  # noqa: E731

    def with_forcing(modes: Modes, time: float | Tensor) -> Modes:
        force = force_at(time)
        return force.expand_as(modes) if nonlinear is None else nonlinear(modes, time) + force

    return with_forcing


def _positive(name: str, value: Coefficient, *, zero: bool = False) -> Coefficient:
    if not isinstance(value, Tensor):
        return check_number(name, value, **({"ge": 0} if zero else {"gt": 0}))
    if not (torch.isfinite(value).all() and (value >= 0 if zero else value > 0).all()):
        raise ValueError(f"{name} is {value}; it takes finite numbers {'>=' if zero else '>'} 0")
    return value
