"""Which methods integrate the ODE of a differentiable sampler."""

from typing import Literal

AdjointSolver = Literal["ab", "euler", "heun", "midpoint", "rk4", "dopri5"]
