"""Which methods integrate the ODE of a differentiable sampler."""

from typing import Literal

AdjointSolver = Literal["ab", "euler", "heun", "midpoint", "rk4", "dopri5"]
"""The solvers of the ODE: Adams-Bashforth of order four (`ab`), and Runge-Kutta methods."""
