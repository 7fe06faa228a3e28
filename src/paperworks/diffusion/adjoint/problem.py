"""What is solved: from where to where, by which solvers, and where the way back is put right."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from paperworks.diffusion.adjoint.flow import Flow, Variable
from paperworks.diffusion.adjoint.gradients import adjoint_field
from paperworks.diffusion.adjoint.solvers import AdjointSolver
from paperworks.diffusion.schedules import SkipType, time_grid
from paperworks.numerics.integration import State, Sums, Tolerance, adapt, follow
from paperworks.numerics.plans import Step, fixed_plan

Keep = Literal["nothing", "steps", "cuts"]


class Cuts(NamedTuple):
    """Where the way back is cut: the times from first to last, how many steps lie before each, and shares between."""

    times: list[float]
    indices: list[int]
    shares: list[float]


@dataclass(frozen=True)
class Problem:
    """The ODE from `t_start` to `t_end`, and how it and its adjoint are solved."""

    variable: Variable
    solver: AdjointSolver
    steps: int
    skip_type: SkipType
    t_start: float
    t_end: float
    y_checkpoints: int
    backward_solver: AdjointSolver
    backward_steps: int
    tolerance: Tolerance

    def times(self, steps: int, t_start: float, t_end: float) -> list[float]:
        """Return the grid of times between two."""
        return time_grid(self.variable.schedule, steps, t_start, t_end, self.skip_type)

    def cuts(self) -> Cuts:
        """Cut at the checkpoints, which are nodes of the grid where the solver goes by one."""
        parts = self.y_checkpoints + 1
        last = parts if self.solver == "dopri5" else self.steps
        indices = sorted({round(k * last / parts) for k in range(parts + 1)})
        times = self.times(last, self.t_start, self.t_end)
        shares = [(b - a) / last for a, b in itertools.pairwise(indices)]
        return Cuts([times[i] for i in indices], indices, shares)

    def solve(self, flow: Flow, y: Tensor, keep: Keep) -> tuple[Tensor, list[Tensor], Sequence[Step]]:
        """Solve forwards; return the last state, the states kept after each step or at each cut, and the plan."""

        def field(state: State, s: float, weighs: bool) -> tuple[State, tuple[()]]:
            return (flow.slope(state[0], s),), ()

        cuts = self.cuts()
        kept: list[Tensor] = []
        state: State = (y,)
        if self.solver == "dopri5":
            adapted: list[Step] = []
            for s, end in itertools.pairwise(map(self.variable.of_time, cuts.times)):
                visit = (lambda state: kept.append(state[0])) if keep == "steps" else None
                state, part = adapt(field, state, s, end, self.tolerance, Sums(0), visit)
                adapted += part
                if keep == "cuts":
                    kept.append(state[0])
            return state[0], kept, adapted
        nodes = [self.variable.of_time(t) for t in self.times(self.steps, self.t_start, self.t_end)]
        plan = fixed_plan(self.solver, nodes)
        wanted = {"nothing": (), "steps": range(self.steps + 1), "cuts": cuts.indices}[keep]
        counter = itertools.count(1)
        (y,) = follow(
            field, state, plan, Sums(0), lambda state: kept.append(state[0]) if next(counter) in wanted else None
        )
        return y, kept, plan

    def solve_adjoint(
        self, flow: Flow, states: Sequence[Tensor], a: Tensor, targets: Sequence[Tensor], sums: Sums
    ) -> Tensor:
        """Solve the adjoint ODE backwards from the last cut, with the state put right at each cut."""
        field = adjoint_field(flow, targets)
        cuts = self.cuts()
        for k in reversed(range(len(cuts.shares))):
            later, sooner = cuts.times[k + 1], cuts.times[k]
            state: State = (states[k], a)
            if self.backward_solver == "dopri5":
                s, end = self.variable.of_time(later), self.variable.of_time(sooner)
                state, _ = adapt(field, state, s, end, self.tolerance, sums)
            else:
                steps = max(1, round(self.backward_steps * cuts.shares[k]))
                nodes = [self.variable.of_time(t) for t in self.times(steps, later, sooner)]
                state = follow(field, state, fixed_plan(self.backward_solver, nodes), sums)
            a = state[1]
        return a
