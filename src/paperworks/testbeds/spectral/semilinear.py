"""A semilinear equation, and exponential Runge-Kutta steps that solve its linear part exactly."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count
from paperworks.numerics.training import Progress, silent
from paperworks.testbeds.spectral.grids import PeriodicGrid

Modes = Complex[Tensor, "..."]


@dataclass(frozen=True)
class SemilinearEquation:
    r"""An equation :math:`\hat u_t = \lambda \hat u + N(\hat u, t)` for the Fourier modes of a periodic field.

    Parameters
    ----------
    grid
        Where fields live.
    symbol
        :math:`\lambda` of each mode, real or complex: the linear part, however stiff.
    nonlinear
        :math:`N(\hat u, t)`, from modes to modes; where it multiplies fields it multiplies by ``grid.kept`` afterwards.
        None for a linear equation, whose steps are exact.

    References
    ----------
    Cox and Matthews (2002) for the steps; Kassam and Trefethen (2005) for their coefficients as means over a circle.

    Examples
    --------
    >>> grid = PeriodicGrid(16)
    >>> decay = SemilinearEquation(grid, -grid.square)  # heat
    >>> (x,) = grid.coordinates()
    >>> states = decay.simulate(x.sin(), dt=0.5, n=2)
    >>> torch.allclose(states[-1], math.exp(-1) * x.sin())
    True
    """

    grid: PeriodicGrid
    symbol: Tensor
    nonlinear: Callable[[Modes, float | Tensor], Modes] | None = None

    @torch.no_grad()
    def simulate(
        self,
        u0: Float[Tensor, "..."],
        dt: float | Float[Tensor, " batch"],
        n: int,
        substeps: int = 1,
        *,
        order: Literal[2, 4] = 4,
        start: float = 0.0,
        progress: Progress = silent,
    ) -> Float[Tensor, "..."]:
        """Solve the equation and return the states at even times, the start first.

        Parameters
        ----------
        u0
            Fields at the start, (..., *grid).
        dt
            Time from one returned state to the next: a number, or one for each row of a batch.
        n
            Number of states after the start; 0 for the start alone.
        substeps
            Steps of the solver from one state to the next.
        order
            4 for ETDRK4, with four evaluations a step, or 2 for ETDRK2, with two.
        start
            The time of `u0`, where forcing depends on time.
        progress
            Wraps the range of states.

        Returns
        -------
        Tensor
            (..., n + 1, *grid), computed in double precision, of the dtype and on the device of `u0`.

        Raises
        ------
        ValueError
            For a field on another grid, a time that isn't positive, or a count out of bounds.
        FloatingPointError
            Where a state is NaN or infinite: the steps are too long.
        """
        grid = self.grid
        grid.check("u0", u0)
        step = grid.spread(dt) / check_count("substeps", substeps)
        if not (torch.isfinite(step).all() and (step > 0).all()):
            raise ValueError(f"dt is {dt}; it takes finite numbers > 0")
        check_count("n", n, at_least=0)
        advance = self._advance(step, check_choice("order", order, (2, 4)))
        modes = grid.modes(u0.to(grid.device, torch.float64))
        modes = modes.expand(torch.broadcast_shapes(modes.shape, (step * self.symbol).shape))
        states = torch.empty(n + 1, *modes.shape[: -grid.dims], *grid.shape, dtype=u0.dtype, device=grid.device)
        states[0] = u0
        for i in progress(range(n), label="time"):
            for j in range(substeps):
                modes = advance(modes, start + (i * substeps + j) * step)
            states[i + 1] = grid.real(modes)
            if not torch.isfinite(states[i + 1].sum()):
                raise FloatingPointError(f"state {i + 1} of {n} is NaN or infinite; raise substeps ({substeps})")
        return states.movedim(0, -grid.dims - 1).to(u0.device)

    def _advance(self, step: Tensor, order: int) -> Callable[[Modes, Tensor], Modes]:
        """Return the step of a length, with its coefficients."""
        z = step * self.symbol
        whole, nonlinear = z.exp(), self.nonlinear
        if nonlinear is None:
            return lambda v, t: whole * v
        phi1, phi2, phi3 = (step * phi for phi in _phi(z))
        if order == 2:

            def second(v: Modes, t: Tensor) -> Modes:
                here = nonlinear(v, t)
                a = whole * v + phi1 * here
                return a + phi2 * (nonlinear(a, t + step) - here)

            return second
        half, to_half = (z / 2).exp(), step / 2 * _phi(z / 2)[0]
        first, middle, last = phi1 - 3 * phi2 + 4 * phi3, 2 * phi2 - 4 * phi3, 4 * phi3 - phi2

        def fourth(v: Modes, t: Tensor) -> Modes:
            n_v, halfway = nonlinear(v, t), half * v
            a = halfway + to_half * n_v
            n_a = nonlinear(a, t + step / 2)
            n_b = nonlinear(halfway + to_half * n_a, t + step / 2)
            n_c = nonlinear(half * a + to_half * (2 * n_b - n_v), t + step)
            return whole * v + first * n_v + middle * (n_a + n_b) + last * n_c

        return fourth


def _phi(z: Tensor, points: int = 32) -> list[Tensor]:
    r"""Return :math:`\varphi_j(z) = \int_0^1 e^{(1-s)z} s^{j-1} / (j-1)! ds` for j from 1 to 3.

    Their formulas cancel near 0, so each is the mean of its values on a unit circle around z, where none does; the
    mean of an analytic function over a circle is its value at the centre, and 32 points make it exact to rounding.
    """
    angles = 2 * math.pi * (torch.arange(points, dtype=torch.float64, device=z.device) + 0.5) / points
    sums = [torch.zeros_like(z, dtype=torch.complex128) for _ in range(3)]
    for corner in torch.polar(torch.ones_like(angles), angles):  # a loop: all at once would take 32 times the memory
        at = z + corner
        phi = at.exp()
        for j in range(3):
            phi = (phi - 1 / math.factorial(j)) / at
            sums[j] += phi / points
    return sums if z.is_complex() else [total.real for total in sums]
