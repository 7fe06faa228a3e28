"""A semilinear equation, and exponential Runge-Kutta steps that solve its linear part exactly."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_finite, check_number
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
            For a field on another grid or one that is NaN or infinite, a time that isn't positive, batches of several
            sizes, or a count out of bounds.
        TypeError
            For a field that isn't a tensor of real floating-point numbers.
        FloatingPointError
            Where a state is NaN or infinite: the steps are too long.
        """
        grid = self.grid
        grid.check("u0", u0)
        check_finite("u0", u0), check_number("start", start)
        if not isinstance(dt, Tensor):
            check_number("dt", dt, gt=0)
        step = grid.spread(dt) / check_count("substeps", substeps)
        if not (torch.isfinite(step).all() and (step > 0).all()):
            raise ValueError(f"dt is {dt}; it takes finite numbers > 0")
        check_count("n", n, at_least=0)
        advance = self._advance(step, check_choice("order", order, (2, 4)))
        modes = grid.modes(u0.to(grid.device, torch.float64))
        try:
            modes = modes.expand(torch.broadcast_shapes(modes.shape, step.shape, self.symbol.shape))
        except RuntimeError:
            raise ValueError(
                f"u0 has shape {tuple(u0.shape)}; it doesn't go with dt of shape {tuple(torch.as_tensor(dt).shape)} "
                f"and coefficients of shape {tuple(self.symbol.shape)}"
            ) from None
        states = torch.empty(n + 1, *modes.shape[: -grid.dims], *grid.shape, dtype=u0.dtype, device=grid.device)
        states[0] = u0
        for i in progress(range(n), label="time"):
            for j in range(substeps):
                modes = advance(modes, start + (i * substeps + j) * step)
            states[i + 1] = grid.real(modes)
            # A sum of finite numbers may overflow, in half precision most of all; one that doesn't decides quickly.
            if not (torch.isfinite(states[i + 1].sum()) or torch.isfinite(states[i + 1]).all()):
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
            phi1, phi2, whole = phi1 + 0j, phi2 + 0j, whole + 0j

            def second(v: Modes, t: Tensor) -> Modes:
                here = nonlinear(v, t)
                a = (whole * v).addcmul_(phi1, here)
                return a.addcmul(phi2, nonlinear(a, t + step) - here)

            return second
        half, to_half = (z / 2).exp() + 0j, step / 2 * _phi(z / 2)[0] + 0j
        # Complex all of them, as fused multiplications and additions ask for.
        first, middle, last = phi1 - 3 * phi2 + 4 * phi3 + 0j, 2 * phi2 - 4 * phi3 + 0j, 4 * phi3 - phi2 + 0j
        whole = whole + 0j

        def fourth(v: Modes, t: Tensor) -> Modes:
            n_v, halfway = nonlinear(v, t), half * v
            a = halfway.addcmul(to_half, n_v)
            n_a = nonlinear(a, t + step / 2)
            n_b = nonlinear(halfway.addcmul_(to_half, n_a), t + step / 2)
            n_c = nonlinear(a.mul_(half).addcmul_(to_half, 2 * n_b - n_v), t + step)
            new = (whole * v).addcmul_(first, n_v).addcmul_(middle, n_a).addcmul_(middle, n_b)
            return new.addcmul_(last, n_c)

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
