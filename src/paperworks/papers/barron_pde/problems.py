"""The problems on which the claims are measured."""

import numpy as np

from paperworks.solvers import EllipticEnergy, SineSeries, TrigSum, p4, semilinear

WIDE = 6.75  # 3 · 1.5²: the solution and the iterates of the cubic problem stay below 1.5


def cubic() -> tuple[EllipticEnergy, SineSeries]:
    """Make -Δu + u³ = f in two dimensions with a solution of two modes."""
    coefficients = np.zeros((3, 3))
    coefficients[0, 0], coefficients[2, 1] = 1.0, 0.2
    u = SineSeries(coefficients)
    return EllipticEnergy.with_solution(semilinear(), u, c_bounds=(0.0, WIDE)), u


def quasilinear(dim: int) -> tuple[EllipticEnergy, SineSeries]:
    """Make -div((1 + 0.1 |grad u|²) grad u) = f with the lowest mode as its solution."""
    u = SineSeries(np.ones((1,) * dim))
    return EllipticEnergy.with_solution(p4(0.1), u, p_bounds=(1.0, 1 + 0.3 * np.pi**2)), u


def on_torus(dim: int) -> EllipticEnergy:
    """Make -Δu + u + u³ = f with four cosines of a size about 1/4 each, in any even dimension.

    The first two vectors are the sum and the difference of the others, so that the same terms meet in cubes in every
    dimension.
    """
    odd = np.arange(dim) % 2 == 0
    frequencies = np.stack([np.ones(dim), np.where(odd, 1, -1), odd, ~odd]).astype(int)
    squares = 4 * np.pi**2 * (frequencies**2).sum(1)
    return EllipticEnergy(
        semilinear(c=1.0),
        TrigSum.cosines(frequencies, (1 + squares) / 4, [0.0, 1.0, 2.0, 3.0]),
        dim,
        c_bounds=(1.0, 1 + 3 * 1.05**2),
    )
