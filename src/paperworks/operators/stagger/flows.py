"""Residuals of incompressible flow: for the vorticity in the plane, and for velocities on a staggered grid."""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_finite, check_number
from paperworks.operators.stagger.residuals import Derivatives, Modes, PhysicsResidual, Scheme, Waves

Velocities = Float[Tensor, "..."]  # (..., parts, *grid)
Cells = Float[Tensor, "..."]  # (..., *grid)
Force = Float[Tensor, "parts *grid"]


class NavierStokesVorticity(PhysicsResidual):
    r"""The residual of incompressible flow in a periodic rectangle, for its vorticity.

    :math:`\omega_t + u \cdot \nabla \omega = \nu \Delta \omega + f`, where the velocity comes from the stream function
    of the whole fine field.

    Parameters
    ----------
    points
        Points along both axes, x first: a number for a square.
    dt
        Time of a fine step.
    nu
        Viscosity; 1e-3 by default.
    length
        Sides of the rectangle; 1 by default.
    forcing
        The curl f of the force, of the grid's shape; none by default. The usual benchmark has
        :math:`0.1 (\sin 2 \pi (x + y) + \cos 2 \pi (x + y))`.
    scheme, theta
        See `PhysicsResidual`: "exponential" by default.
    derivatives
        "spectral" by default, where products keep two thirds of the modes, or "central".

    Raises
    ------
    ValueError
        For a viscosity below 0, a forcing on another grid, or what `PhysicsResidual` refuses.

    References
    ----------
    Huang and others, arXiv:2302.10255, two-dimensional flow; Li and others, arXiv:2010.08895, for the forcing.

    Examples
    --------
    >>> residual = NavierStokesVorticity(16, dt=0.1, nu=0.01, length=2 * torch.pi)
    >>> x = torch.arange(16, dtype=torch.float64) * 2 * torch.pi / 16
    >>> vortices = (2 * x.sin()[:, None] * x.sin())[None]  # Taylor and Green's
    >>> round(float((residual.solve(vortices, 10)[-1] / vortices)[0, 1, 1]), 6)  # exp(-0.02)
    0.980199
    """

    def __init__(
        self,
        points: int | Sequence[int],
        dt: float,
        nu: float = 1e-3,
        length: float | Sequence[float] = 1.0,
        *,
        forcing: Float[Tensor, "n m"] | None = None,
        scheme: Scheme = "exponential",
        theta: float = 0.5,
        derivatives: Derivatives = "spectral",
    ) -> None:
        waves = Waves([points, points] if isinstance(points, int) else points, length, derivatives)
        if waves.dims != 2:
            raise ValueError(f"points has {waves.dims} axes; it takes two")
        super().__init__(waves, dt, check_number("nu", nu, ge=0) * waves.laplacian, scheme, theta)
        along_x, along_y = waves.first
        stream = -waves.kept / torch.where(waves.laplacian == 0, -torch.inf, waves.laplacian)
        factors = [along_y * stream, -along_x * stream, along_x * waves.kept, along_y * waves.kept]
        force = (
            torch.zeros(waves.shape, dtype=torch.float64)
            if forcing is None
            else check_finite("forcing", forcing).double().cpu()
        )
        if tuple(force.shape) != waves.shape:
            raise ValueError(f"forcing has shape {tuple(force.shape)}; it takes {waves.shape}")
        factors = [factor.expand(waves.kept.shape) for factor in factors]
        self._register(factors=torch.stack(factors), kept=waves.kept, force=waves.modes(force))

    def nonlinear(self, modes: Modes, constants: SimpleNamespace) -> Modes:
        """Return the advection of vorticity, and the forcing.

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
        u, v, slope_x, slope_y = self.waves.real(constants.factors * modes.unsqueeze(-3)).unbind(-3)
        return constants.force - constants.kept * self.waves.modes(u * slope_x + v * slope_y)


class NavierStokesVelocity(PhysicsResidual):
    r"""The residual of incompressible flow in a periodic box, for velocities on the faces of a staggered grid.

    Part i of the velocity lies on the faces across axis i, :math:`u_i[k]` on the lower face of cell k; pressures lie in
    the middles. Fluxes are Harlow and Welch's, which keep momentum and, without divergence, energy. In
    :math:`u_t = \nu \Delta u + P(-\nabla \cdot (u u) + f)` the projection P takes off the gradient of a pressure that
    solves Poisson's equation on the whole fine grid. The residual is 0 only for a new velocity without divergence.

    Parameters
    ----------
    points
        Cells along each axis, two or three of them.
    dt
        Time of a fine step.
    nu
        Viscosity; 1e-2 by default.
    length
        Sides of the box; 1 by default.
    forcing
        The force f on the faces, (parts, *grid); none by default.
    scheme, theta
        See `PhysicsResidual`: "exponential" by default.

    Raises
    ------
    ValueError
        For a viscosity below 0, a forcing on another grid, or what `PhysicsResidual` refuses.

    References
    ----------
    Huang and others, arXiv:2302.10255, three-dimensional flow; Harlow and Welch (1965) for the grid.

    Examples
    --------
    >>> residual = NavierStokesVelocity((8, 8, 8), dt=0.01)
    >>> u = residual.project(torch.randn(3, 8, 8, 8, dtype=torch.float64))
    >>> bool(residual.divergence(u).abs().max() < 1e-12)
    True
    """

    def __init__(
        self,
        points: Sequence[int],
        dt: float,
        nu: float = 1e-2,
        length: float | Sequence[float] = 1.0,
        *,
        forcing: Force | None = None,
        scheme: Scheme = "exponential",
        theta: float = 0.5,
    ) -> None:
        waves = Waves(points, length, "central")
        if waves.dims < 2:
            raise ValueError(f"points has {waves.dims} axis; it takes two or three")
        self.channels = waves.dims
        super().__init__(waves, dt, check_number("nu", nu, ge=0) * waves.laplacian, scheme, theta)
        shape = waves.laplacian.shape
        outward = torch.stack(
            [((shift - 1) / h).expand(shape) for shift, h in zip(waves.shift, waves.spacing, strict=True)]
        )
        poisson = torch.where(waves.laplacian == 0, 0, 1 / torch.where(waves.laplacian == 0, 1, waves.laplacian))
        wanted = (waves.dims, *waves.shape)
        force = (
            torch.zeros(wanted, dtype=torch.float64)
            if forcing is None
            else check_finite("forcing", forcing).double().cpu()
        )
        if tuple(force.shape) != wanted:
            raise ValueError(f"forcing has shape {tuple(force.shape)}; it takes {wanted}")
        self._register(outward=outward, poisson=poisson, force=waves.modes(force))

    def nonlinear(self, modes: Modes, constants: SimpleNamespace) -> Modes:
        """Return the projected fluxes and force.

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
        flux = self.waves.modes(self._fluxes(self.waves.real(modes)))
        return self._projected(constants.force - flux, constants)

    def project(self, u: Velocities) -> Velocities:
        """Return the part of a velocity that has no divergence.

        Parameters
        ----------
        u
            Velocities on faces, (..., parts, *grid).

        Returns
        -------
        Tensor
            The nearest velocities without divergence, of the same shape.

        Raises
        ------
        ValueError
            For fields on another grid.
        """
        self._check("u", u, 1)
        return self.waves.real(self._projected(self.waves.modes(u), self._like(u)))

    def divergence(self, u: Velocities) -> Cells:
        """Return the net flow out of each cell.

        Parameters
        ----------
        u
            Velocities on faces, (..., parts, *grid).

        Returns
        -------
        Tensor
            (..., *grid), in the middles of cells.

        Raises
        ------
        ValueError
            For fields on another grid.
        """
        self._check("u", u, 1)
        out = torch.zeros_like(u.select(-1 - self.waves.dims, 0))
        for part, (axis, h) in zip(u.unbind(-1 - self.waves.dims), self._axes(), strict=True):
            out = out + (part.roll(-1, axis) - part) / h
        return out

    def pressure(self, u: Velocities) -> Cells:
        """Return the pressure of mean 0 that keeps a velocity free of divergence.

        Parameters
        ----------
        u
            Velocities on faces, (..., parts, *grid).

        Returns
        -------
        Tensor
            (..., *grid), in the middles of cells.

        Raises
        ------
        ValueError
            For fields on another grid.
        """
        self._check("u", u, 1)
        c = self._like(u)
        pull = c.force - self.waves.modes(self._fluxes(u))
        return self.waves.real(c.poisson * (c.outward * pull).sum(-1 - self.waves.dims))

    def _axes(self) -> list[tuple[int, float]]:
        return list(zip(range(-self.waves.dims, 0), self.waves.spacing, strict=True))

    def _projected(self, modes: Modes, c: SimpleNamespace) -> Modes:
        parts = -1 - self.waves.dims
        pressure = c.poisson * (c.outward * modes).sum(parts, keepdim=True)
        return modes + c.outward.conj() * pressure  # the gradient is the negative transpose of the divergence

    def _fluxes(self, u: Tensor) -> Tensor:
        """Return the divergence of the products of velocities, on the faces."""
        parts, axes = u.unbind(-1 - self.waves.dims), self._axes()
        found = []
        for i, (along, _) in enumerate(axes):
            total = torch.zeros_like(parts[i])
            for j, (across, h) in enumerate(axes):
                if i == j:  # in the middles of cells
                    middle = ((parts[i] + parts[i].roll(-1, along)) / 2) ** 2
                    total = total + (middle - middle.roll(1, along)) / h
                else:  # on the edges, where the lower faces of both axes meet
                    edge = (parts[i] + parts[i].roll(1, across)) * (parts[j] + parts[j].roll(1, along)) / 4
                    total = total + (edge.roll(-1, across) - edge) / h
            found.append(total)
        return torch.stack(found, -1 - self.waves.dims)
