"""Explicit solvers as plans: which evaluations each step makes, and with which weights it adds them up.

Runge-Kutta and Adams-Bashforth methods are one kind of step here. It makes the stages of a tableau, and adds to them
the first slopes of earlier steps. A plan is what the solution follows forwards, and its transpose backwards.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from paperworks.core.validation import check_choice
from paperworks.numerics.tableaus import TABLEAUS, Tableau

ADAMS_ORDER = 4


def multistep_weights(places: Sequence[float], target: float) -> tuple[float, ...]:
    """Return the Adams-Bashforth weights of slopes at `places`, the newest first, for a step to `target`.

    They are the means over the step of the Lagrange polynomials of the places, so they sum to one.

    Parameters
    ----------
    places
        Where the slopes were evaluated; the step begins at the first.
    target
        Where the step ends.

    Returns
    -------
    tuple of float
        One weight for each place, of slopes times the length of the step.

    Examples
    --------
    >>> multistep_weights([0.0, -1.0], 1.0)
    (1.5, -0.5)
    """
    if target == places[0]:  # a step of no length
        return (1.0, *[0.0] * (len(places) - 1))
    nodes = (np.asarray(places) - places[0]) / (target - places[0])
    powers = np.arange(len(nodes))
    return tuple(np.linalg.solve(nodes ** powers[:, None], 1 / (powers + 1)).tolist())


@dataclass(frozen=True)
class Step:
    """One step from `s` by `h`.

    Parameters
    ----------
    s, h
        Where it begins and how far it goes, of either sign.
    tableau
        Stages and weights of the step.
    b
        Weights of their slopes in the step, `h` included.
    history
        Weights of the first slopes of the steps before, the last step's first.
    carried
        Sum of the weights that later steps give to this step's first slope.

    Examples
    --------
    >>> runge_kutta(TABLEAUS["midpoint"], 1.0, -0.5).places
    (1.0, 0.75)
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
    """Return the step of a Runge-Kutta method from `s` by `h`.

    Parameters
    ----------
    tableau
        Stages and weights of the method.
    s, h
        Where the step begins, and its length, of either sign.

    Returns
    -------
    Step
        With the length taken into the weights.

    Examples
    --------
    >>> runge_kutta(TABLEAUS["heun"], 0.0, 0.5).b
    (0.25, 0.25)
    """
    return Step(s, h, tableau, tuple(h * b for b in tableau.b))


def fixed_plan(method: str, nodes: Sequence[float]) -> tuple[Step, ...]:
    """Plan the steps of a method between nodes.

    Parameters
    ----------
    method
        One of `TABLEAUS`, or ``ab``: the Adams-Bashforth method of order four with the weights of the very nodes
        (constant-step weights are only of first order on an uneven grid); its first three steps are RK4's.
    nodes
        Where the steps begin and end, strictly rising or falling.

    Returns
    -------
    tuple of Step
        One for each pair of neighbouring nodes.

    Raises
    ------
    ValueError
        For an unknown method.

    Examples
    --------
    >>> [len(step.b) for step in fixed_plan("ab", [1.0, 0.5, 0.3, 0.2, 0.1])]
    [4, 4, 4, 1]
    """
    check_choice("method", method, ("ab", *TABLEAUS))
    tableau = TABLEAUS["rk4" if method == "ab" else method]
    steps = []
    for j, (s, target) in enumerate(itertools.pairwise(nodes)):
        h = target - s
        if method == "ab" and j + 1 >= ADAMS_ORDER:
            now, *before = multistep_weights([nodes[j - m] for m in range(ADAMS_ORDER)], target)
            steps.append(Step(s, h, TABLEAUS["euler"], (h * now,), tuple(h * w for w in before)))
        else:
            steps.append(runge_kutta(tableau, s, h))
    carried = [0.0] * len(steps)
    for j, step in enumerate(steps):
        for m, weight in enumerate(step.history, start=1):
            carried[j - m] += weight
    return tuple(replace(step, carried=c) if c else step for step, c in zip(steps, carried, strict=True))
