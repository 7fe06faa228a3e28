"""How a gradient of the solution's end goes back to its start, its condition and its weights."""

from collections import deque
from collections.abc import Sequence

from torch import Tensor

from paperworks.diffusion.adjoint.flow import Flow, Gradients, Linearised
from paperworks.numerics.integration import Field, State, Sums, advance
from paperworks.numerics.plans import ADAMS_ORDER, Step


def transposed(
    flow: Flow,
    plan: Sequence[Step],
    states: Sequence[Tensor],
    adjoint: Tensor,
    targets: Sequence[Tensor],
    sums: Sums,
    one_graph: bool,
) -> Tensor:
    """Pull a gradient back through a plan: exact for the map that the plan computes.

    Parameters
    ----------
    flow
        The ODE.
    plan
        What the solution followed.
    states
        The state at the start of each step.
    adjoint
        Gradient in the last state.
    targets
        Tensors that the model uses and whose gradients are added to `sums`.
    sums
        Where they are added.
    one_graph
        Hold the graph of one evaluation at a time instead of one step's, and make all of a step's evaluations but the
        last once more.
    """
    # What later steps took of this step's first slope, and of the three before it.
    pending: deque[Tensor | None] = deque([None] * ADAMS_ORDER, maxlen=ADAMS_ORDER)
    for step, state in zip(reversed(plan), reversed(states), strict=True):
        rows, places, h = step.tableau.a, step.places, step.h
        stages: list[Tensor] = []
        kept: list[Linearised | None] = []
        slopes: list[State] = []
        for i, (row, place) in enumerate(zip(rows, places, strict=True)):
            (stage,) = advance((state,), [h * a for a in row], slopes)
            if one_graph and i + 1 < len(rows):
                evaluation, slope = None, flow.slope(stage, place)
            else:
                evaluation = flow.linearised(stage, place)
                slope = evaluation.slope
            stages.append(stage)
            kept.append(evaluation)
            slopes.append((slope,))
        cotangents: list[Tensor | None] = [adjoint * b if b else None for b in step.b]
        _add(cotangents, 0, pending.popleft())
        pending.append(None)
        for m, weight in enumerate(step.history):
            _add(pending, m, adjoint * weight)
        before = adjoint
        for i in reversed(range(len(rows))):
            cotangent, evaluation = cotangents[i], kept.pop()
            if cotangent is None:
                continue
            by_stage, by_targets = (evaluation or flow.linearised(stages[i], places[i])).pull(cotangent, targets)
            sums.add(by_targets)
            before = before + by_stage
            for earlier, a in enumerate(rows[i]):
                if a:
                    _add(cotangents, earlier, by_stage * (h * a))
        adjoint = before
    return adjoint


def _add(tensors: "list[Tensor | None] | deque[Tensor | None]", i: int, term: Tensor | None) -> None:
    if term is not None:
        now = tensors[i]
        tensors[i] = term if now is None else now + term


def adjoint_field(flow: Flow, targets: Sequence[Tensor]) -> Field:
    """Return the ODE of the state and of the gradient in it, ``da/ds = -(dF/dy)^T a`` (arXiv 2307.10711, section 4).

    The integrands that go with it, ``-a^T dF/dtheta``, are those of the gradients in `targets`.
    """

    def field(state: State, s: float, weighs: bool) -> tuple[State, Gradients]:
        y, a = state
        evaluation = flow.linearised(y, s)
        by_y, integrands = evaluation.pull(-a, targets if weighs else ())
        return (evaluation.slope, by_y), integrands

    return field
