"""Residuals of the equations of heat, of transport, and of Burgers."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Literal

import torch
from torch import Tensor

from paperworks.core.validation import check_choice, check_number
from paperworks.operators.stagger.residuals import Derivatives, Modes, PhysicsResidual, Scheme, Waves

Edge = Literal["periodic", "dirichlet", "neumann"]


class AdvectionDiffusion(PhysicsResidual):
    r"""The residual of :math:`u_t + c \cdot \nabla u = D \Delta u` in a periodic box.

    Parameters
    ----------
    points
        Points along each axis, one to three axes: a number for one dimension.
    dt
        Time of a fine step.
    velocity
        The constant velocity c: one number for all axes, or one for each; 1 by default.
    diffusivity
        The factor D; 0.01 by default.
    length
        Sides of the box; 1 by default.
    scheme, theta
        See `PhysicsResidual`: "exponential" by default, with which the residual of the exact solution is 0.
    derivatives
        "spectral" by default, or "central".

    Raises
    ------
    ValueError
        For a diffusivity below 0, velocities of another number than axes, or what `PhysicsResidual` refuses.

    References
    ----------
    Huang and others, arXiv:2302.10255, the loss on the discretised equation.

    Examples
    --------
    >>> residual = AdvectionDiffusion(16, dt=0.25, velocity=1.0, diffusivity=0.0)
    >>> wave = (2 * torch.pi * torch.arange(16, dtype=torch.float64) / 16).sin()[None]
    >>> bool(residual(wave, wave.roll(4, -1)).abs().max() < 1e-12)  # moved by a quarter of the box
    True
    """

    def __init__(
        self,
        points: int | Sequence[int],
        dt: float,
        velocity: float | Sequence[float] = 1.0,
        diffusivity: float = 0.01,
        length: float | Sequence[float] = 1.0,
        *,
        scheme: Scheme = "exponential",
        theta: float = 0.5,
        derivatives: Derivatives = "spectral",
    ) -> None:
        waves = Waves(points, length, derivatives)
        speeds = list(velocity) if isinstance(velocity, Sequence) else [velocity] * waves.dims
        if len(speeds) != waves.dims:
            raise ValueError(f"velocity has {len(speeds)} parts; it takes one number, or one for each of {waves.dims}")
        symbol = check_number("diffusivity", diffusivity, ge=0) * waves.laplacian + 0j
        for c, ik in zip(speeds, waves.first, strict=True):
            symbol = symbol - check_number("velocity", c) * ik
        super().__init__(waves, dt, symbol, scheme, theta)

    def nonlinear(self, modes: Modes, constants: SimpleNamespace) -> Modes | None:
        """Return None: the equation is linear.

        Parameters
        ----------
        modes
            Modes of fields, (..., channels, *modes).
        constants
            The equation's factors, in the dtype of the modes.

        Returns
        -------
        Tensor or None
            Always None, for a part that is 0.
        """
        return None


class Heat(PhysicsResidual):
    r"""The residual of the equation of heat :math:`u_t = D \Delta u`.

    Parameters
    ----------
    points
        Points along each axis, one to three axes: a number for one dimension. Where the box isn't periodic, points are
        the middles of cells.
    dt
        Time of a fine step.
    diffusivity
        The factor D; 1 by default.
    length
        Sides of the box; 1 by default.
    boundary
        "periodic", "dirichlet" for 0 or "neumann" for no flux at the faces of the box; for all axes, or one for each.
    scheme, theta
        See `PhysicsResidual`: "exponential" by default, with which the residual of the exact solution is 0.
    derivatives
        "spectral" by default, or "central".

    Raises
    ------
    ValueError
        For a diffusivity that isn't positive, an unknown boundary, or what `PhysicsResidual` refuses.

    References
    ----------
    Huang and others, arXiv:2302.10255, the loss on the discretised equation.

    Examples
    --------
    >>> residual = Heat(16, dt=0.1, diffusivity=0.1, boundary="neumann")
    >>> x = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    >>> wave = (torch.pi * x).cos()[None]  # no flux at 0 and 1
    >>> bool(residual(wave, wave * torch.exp(torch.tensor(-0.01 * torch.pi**2))).abs().max() < 1e-7)
    True
    """

    def __init__(
        self,
        points: int | Sequence[int],
        dt: float,
        diffusivity: float = 1.0,
        length: float | Sequence[float] = 1.0,
        *,
        boundary: Edge | Sequence[Edge] = "periodic",
        scheme: Scheme = "exponential",
        theta: float = 0.5,
        derivatives: Derivatives = "spectral",
    ) -> None:
        inner = Waves(points, length, derivatives)
        edges = list(boundary) if isinstance(boundary, list | tuple) else [boundary] * inner.dims
        if len(edges) != inner.dims:
            raise ValueError(f"boundary has {len(edges)} kinds; it takes one, or one for each of {inner.dims} axes")
        self.edges = [check_choice("boundary", edge, ("periodic", "dirichlet", "neumann")) for edge in edges]
        # Mirrored at a face with the sign of the boundary, a field is periodic in a box twice as long.
        times = [1 if edge == "periodic" else 2 for edge in self.edges]
        waves = Waves(
            [n * k for n, k in zip(inner.shape, times, strict=True)],
            [side * k for side, k in zip(inner.sides, times, strict=True)],
            derivatives,
        )
        super().__init__(waves, dt, check_number("diffusivity", diffusivity, gt=0) * waves.laplacian, scheme, theta)
        self.points = inner.shape

    def nonlinear(self, modes: Modes, constants: SimpleNamespace) -> Modes | None:
        """Return None: the equation is linear.

        Parameters
        ----------
        modes
            Modes of fields, (..., channels, *modes).
        constants
            The equation's factors, in the dtype of the modes.

        Returns
        -------
        Tensor or None
            Always None, for a part that is 0.
        """
        return None

    def _extended(self, u: Tensor) -> Tensor:
        for axis, edge in zip(range(-len(self.points), 0), self.edges, strict=True):
            if edge != "periodic":
                mirrored = u.flip(axis)
                u = torch.cat([u, -mirrored if edge == "dirichlet" else mirrored], axis)
        return u

    def _inner(self, u: Tensor) -> Tensor:
        for axis, n in zip(range(-len(self.points), 0), self.points, strict=True):
            u = u.narrow(axis, 0, n)
        return u


class Burgers(PhysicsResidual):
    r"""The residual of Burgers' equation :math:`u_t + u u_x = \nu u_{xx}` on a circle.

    Parameters
    ----------
    points
        Points of the circle.
    dt
        Time of a fine step.
    nu
        Viscosity; 0.01 by default.
    length
        Length of the circle; 1 by default.
    scheme, theta
        See `PhysicsResidual`: "exponential" by default.
    derivatives
        "spectral" by default, where products keep two thirds of the modes, or "central".

    Raises
    ------
    ValueError
        For a viscosity that isn't positive, or what `PhysicsResidual` refuses.

    References
    ----------
    Huang and others, arXiv:2302.10255, the loss on the discretised equation.

    Examples
    --------
    >>> residual = Burgers(64, dt=0.01)
    >>> u0 = (2 * torch.pi * torch.arange(64) / 64).sin()[None]
    >>> float(residual(u0, u0).abs().max()) > 100 * float(residual(u0, residual.solve(u0, 1)[0]).abs().max())
    True
    """

    def __init__(
        self,
        points: int,
        dt: float,
        nu: float = 0.01,
        length: float = 1.0,
        *,
        scheme: Scheme = "exponential",
        theta: float = 0.5,
        derivatives: Derivatives = "spectral",
    ) -> None:
        waves = Waves(points, length, derivatives)
        if waves.dims != 1:
            raise ValueError(f"points has {waves.dims} axes; it takes one")
        super().__init__(waves, dt, check_number("nu", nu, gt=0) * waves.laplacian, scheme, theta)
        self._register(kept=waves.kept, slope=-0.5 * waves.first[0] * waves.kept)

    def nonlinear(self, modes: Modes, constants: SimpleNamespace) -> Modes:
        """Return half the negative derivative of the square.

        Parameters
        ----------
        modes
            Modes of fields, (..., channels, *modes).
        constants
            The equation's factors, in the dtype of the modes.

        Returns
        -------
        Tensor
            Modes of n(u).
        """
        u = self.waves.real(constants.kept * modes)
        return constants.slope * self.waves.modes(u * u)
