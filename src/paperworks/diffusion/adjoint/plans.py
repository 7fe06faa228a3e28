"""Explicit solvers as plans: which evaluations each step makes, and with which weights it adds them up.

Runge-Kutta and Adams-Bashforth methods are one kind of step here. It makes the stages of a tableau, and adds to them
the first slopes of earlier steps. A plan is what the solution follows forwards, and its transpose backwards.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from paperworks.diffusion.pndm import multistep_weights

FixedSolver = Literal["ab", "euler", "heun", "midpoint", "rk4"]
AdjointSolver = Literal["ab", "euler", "heun", "midpoint", "rk4", "dopri5"]
ADAMS_ORDER = 4


@dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit Runge-Kutta method: stages at ``c``, built by the rows of `a`, summed by `b`."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    @property
    def c(self) -> tuple[float, ...]:
        """Where the stages are in the step, from 0 to 1."""
        return tuple(sum(row) for row in self.a)


EULER = Tableau(((),), (1.0,))
MIDPOINT = Tableau(((), (1 / 2,)), (0.0, 1.0))
HEUN = Tableau(((), (1.0,)), (1 / 2, 1 / 2))
RK4 = Tableau(((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
DOPRI5 = Tableau(
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Order five less order four; the seventh slope is the first of the next step.
DOPRI5_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
TABLEAUS = {"euler": EULER, "midpoint": MIDPOINT, "heun": HEUN, "rk4": RK4, "ab": RK4}


@dataclass(frozen=True)
class Step:
    """One step from `s` by `h`.

    Parameters
    ----------
    s, h
        Where it begins and how far it goes, of either sign.
    tableau
        Its stages.
    b
        Weights of their slopes in the step, `h` included.
    history
        Weights of the first slopes of the steps before, the last step's first.
    carried
        Sum of the weights that later steps give to this step's first slope.
    """

    s: float
    h: float
    tableau: Tableau
    b: tuple[float, ...]
    history: tuple[float, ...] = ()
    carried: float = 0.0

    @property
    def places(self) -> tuple[float, ...]:
        """Where the stages are."""
        return tuple(self.s + c * self.h for c in self.tableau.c)

    @property
    def weights(self) -> tuple[float, ...]:
        """Total weights of the stages' slopes in the whole solution, for integrals that need nothing else."""
        return (self.b[0] + self.carried, *self.b[1:])


def runge_kutta(tableau: Tableau, s: float, h: float) -> Step:
    """Make a step of a Runge-Kutta method."""
    return Step(s, h, tableau, tuple(h * b for b in tableau.b))


def fixed_plan(solver: FixedSolver, nodes: Sequence[float]) -> tuple[Step, ...]:
    """Plan the steps of a solver between the nodes, which rise or fall strictly.

    ``ab`` is the Adams-Bashforth method of order four with the weights of the very nodes (constant-step weights are
    only of first order on an uneven grid); its first three steps are RK4's.

    Examples
    --------
    >>> [len(step.b) for step in fixed_plan("ab", [1.0, 0.5, 0.3, 0.2, 0.1])]
    [4, 4, 4, 1]
    """
    steps = []
    for j, (s, target) in enumerate(itertools.pairwise(nodes)):
        h = target - s
        if solver == "ab" and j + 1 >= ADAMS_ORDER:
            now, *before = multistep_weights([nodes[j - m] for m in range(ADAMS_ORDER)], target)
            steps.append(Step(s, h, EULER, (h * now,), tuple(h * w for w in before)))
        else:
            steps.append(runge_kutta(TABLEAUS[solver], s, h))
    carried = [0.0] * len(steps)
    for j, step in enumerate(steps):
        for m, weight in enumerate(step.history, start=1):
            carried[j - m] += weight
    return tuple(
        step if not c else Step(step.s, step.h, step.tableau, step.b, step.history, c)
        for step, c in zip(steps, carried, strict=True)
    )
