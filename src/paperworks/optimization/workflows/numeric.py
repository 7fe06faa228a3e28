"""Optimisers of numbers that read words: by direction, and by solving the trace for the target that is stated."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.workflows.autodiff import AutodiffPropagator, gradients
from paperworks.optimization.workflows.feedback import direction_in, hints_in, target_in
from paperworks.optimization.workflows.graph import TraceGraph
from paperworks.optimization.workflows.nodes import ParameterNode
from paperworks.optimization.workflows.optimizer import SOLVED, STALLED, WorkflowOptimizer, text_of


class FiniteFeedbackOptimizer(WorkflowOptimizer):
    """Changes numbers by words such as "higher" and "too large": steps that grow, then bisection or the secant.

    Feedback may name variables ("k0: too low, k1: too high"); what it says of the output alone ("higher") is brought to
    the variables by the sign of the local derivative along the trace, where that is known. `gradient: 2.5` counts as
    the direction against it with a size, which makes the secant possible. "correct" ends the search.

    Parameters
    ----------
    parameters
        Numbers that may be changed.
    scale
        First step, as a share of the value's size, or of the bounds where there are some (0.5).
    patience
        After how many steps with the same feedback in a row the status becomes `stalled`; None for never.

    Examples
    --------
    >>> from paperworks.optimization import FiniteFeedbackOptimizer, node
    >>> x = node(1.0, trainable=True, name="x")
    >>> opt = FiniteFeedbackOptimizer([x], patience=None)
    >>> for _ in range(30):
    ...     opt.zero_feedback()
    ...     opt.backward(x * 2, "higher" if 2 * x.data < 10 else "lower")
    ...     _ = opt.step()
    >>> round(x.data, 3)
    5.0
    """

    def __init__(self, parameters: Iterable[Any], *, scale: float = 0.5, patience: int | None = 50) -> None:
        super().__init__(parameters, patience=patience)
        self.scale = check_number("scale", scale, gt=0)
        for p in self.parameters:
            if isinstance(p._data, bool) or not isinstance(p._data, (int, float)):
                raise TypeError(f"parameters has {p!r}; it takes numbers")
        # For each parameter: [value, hint] below and above the sought value, and the present size of steps.
        self._brackets: list[dict[str, Any]] = [{"low": None, "high": None, "size": None} for _ in self.parameters]

    def propose(self, graph: TraceGraph) -> dict[ParameterNode, Any]:
        """Return numbers moved as the feedback says.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.

        Returns
        -------
        dict[ParameterNode, Any]
            New numbers, empty where the words give no direction.
        """
        said = text_of(graph)
        variables = self.variables(graph)
        names = {name: p for p in variables for name in (p.name, p.py_name, p.base)}
        hints: dict[int, float] = {}
        for name, hint in hints_in(said, list(names)).items():
            hints[id(names[name])] = hint
        if not hints:
            overall = direction_in(said)
            if overall is None:
                return {}
            signs = _signs(graph)
            hints = {id(p): overall * signs.get(id(p), 1.0) for p in variables}
        if all(hint == 0.0 for hint in hints.values()):
            self.status = SOLVED
            return {}
        found: dict[ParameterNode, Any] = {}
        for place, parameter in enumerate(self.parameters):
            hint = hints.get(id(parameter), 0.0)
            if hint:
                found[parameter] = self._moved(place, parameter, hint)
        if all(found[p] == p._data for p in found):
            self.status = STALLED
        return found

    def _moved(self, place: int, parameter: ParameterNode, hint: float) -> Any:
        bracket, x = self._brackets[place], float(parameter._data)
        bracket["low" if hint > 0 else "high"] = [x, hint]
        low, high = bracket["low"], bracket["high"]
        if low and high and low[0] >= high[0]:  # the other variables have changed what is right
            bracket["high" if hint > 0 else "low"] = None
            low, high = bracket["low"], bracket["high"]
            bracket["size"] = (bracket["size"] or 1.0) / 2
        if low and high:
            middle = (low[0] + high[0]) / 2
            if {abs(low[1]), abs(high[1])} != {1.0}:  # sizes are known: the secant, kept off the ends
                secant = low[0] + (high[0] - low[0]) * low[1] / (low[1] - high[1])
                margin = 0.05 * (high[0] - low[0])
                middle = min(max(secant, low[0] + margin), high[0] - margin)
            new = middle
        else:
            if bracket["size"] is None:
                span = parameter.bounds[1] - parameter.bounds[0] if parameter.bounds else max(abs(x), 1.0)
                bracket["size"] = self.scale * (span / 2 if parameter.bounds else span)
            new = x + math.copysign(bracket["size"], hint)
            bracket["size"] *= 2
        if parameter.bounds is not None:
            new = min(max(new, parameter.bounds[0]), parameter.bounds[1])
        if isinstance(parameter._data, int):
            rounded = round(new)
            return rounded if rounded != parameter._data else int(x + math.copysign(1, hint))
        if parameter.choices is not None:
            return min(parameter.choices, key=lambda c: abs(c - new))
        return new

    def _memory(self) -> Any:
        return self._brackets

    def _remember(self, memory: Any) -> None:
        self._brackets = [dict(b) for b in memory]


def _signs(graph: TraceGraph) -> dict[int, float]:
    """Return the sign of the local derivative by each variable, nothing where an operator has none."""
    try:
        found = gradients(_weighed(graph, [1.0] * len(graph.outputs)))
        return {id(p): math.copysign(1.0, g) for p, g in found.items() if g and math.isfinite(g)}
    except (ValueError, TypeError, ArithmeticError):
        return {}


def _weighed(graph: TraceGraph, weights: list[float]) -> TraceGraph:
    twin = TraceGraph(graph.nodes, graph.parents, graph.outputs, weights)
    twin.values = graph.values
    return twin


class _Replay:
    """A trace as a function of its variables, computed without another run of the workflow.

    Parameters
    ----------
    graph
        Trace whose operators all have derivatives.
    variables
        Positions of the numbers that vary.
    """

    def __init__(self, graph: TraceGraph, variables: list[int]) -> None:
        self.graph, self.variables = graph, variables
        self.rules = AutodiffPropagator()
        self.places = [i for i, parents in enumerate(graph.parents) if parents]

    def __call__(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the outputs and their derivatives, one row for each output."""
        graph, values = self.graph, list(self.graph.values)
        for i, x in zip(self.variables, theta.tolist(), strict=True):
            values[i] = x
        for i in self.places:
            values[i] = graph.nodes[i].op.function(*[values[p] for p in graph.parents[i]])
        rows = []
        for output in graph.outputs:
            held = [0.0] * len(values)
            held[output] = 1.0
            for i in reversed(self.places):
                if held[i]:
                    given = tuple([values[p] for p in graph.parents[i]])
                    passed = self.rules.propagate(_At(graph.nodes[i].op, values[i]), held[i], given)
                    for p, g in zip(graph.parents[i], passed, strict=True):
                        held[p] += g
            rows.append([held[i] for i in self.variables])
        return np.array([values[o] for o in graph.outputs], dtype=float), np.array(rows, dtype=float)


class _At:
    __slots__ = ("_data", "op")

    def __init__(self, op: Any, data: Any) -> None:
        self.op, self._data = op, data


class SymbolicInverse(WorkflowOptimizer):
    """Solves the trace for the target that the feedback states, as in "the output should be 3.5".

    The trace of known arithmetic is a formula: it is replayed and differentiated, and the parameters are moved by
    damped least-squares steps (Levenberg-Marquardt) until all outputs are at their targets, from several starts where
    one gets stuck. The workflow itself does not run meanwhile. Where it takes another branch for the new values, the
    next step solves the new trace. This is what the trace is worth, without a language model.

    Parameters
    ----------
    parameters
        Numbers that may be changed.
    rtol
        Relative error of an output at which it counts as on target (1e-10).
    steps
        Most steps from each start (100).
    starts
        How many starts are tried: the present values, then random ones around them (20).
    random_state
        Seed of the random starts.
    patience
        After how many steps with the same feedback in a row the status becomes `stalled`; None for never.

    Examples
    --------
    >>> from paperworks.optimization import SymbolicInverse, node
    >>> x = node(2.0, trainable=True, name="length")
    >>> opt = SymbolicInverse([x])
    >>> opt.backward(x * x + 1.0, "The output should be 10.")
    >>> round(opt.step()["length:0"], 6)
    3.0
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        *,
        rtol: float = 1e-10,
        steps: int = 100,
        starts: int = 20,
        random_state: int = 0,
        patience: int | None = 20,
    ) -> None:
        super().__init__(parameters, patience=patience)
        self.rtol = check_number("rtol", rtol, gt=0)
        self.steps, self.starts = check_count("steps", steps), check_count("starts", starts)
        self._rng = np.random.default_rng(random_state)

    def propose(self, graph: TraceGraph) -> dict[ParameterNode, Any]:
        """Return the values at which the trace meets its targets, or comes closest.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.

        Returns
        -------
        dict[ParameterNode, Any]
            New numbers; empty where all outputs are on target already.

        Raises
        ------
        ValueError
            Where an operator on the way has no derivative, or feedback states no target.
        """
        texts = [str(f) for f in graph.feedback]
        targets = [target_in(text) for text in texts]
        if all(direction_in(text) == 0.0 and target is None for text, target in zip(texts, targets, strict=True)):
            self.status = SOLVED
            return {}
        if any(t is None for t in targets):
            raise ValueError(f"feedback is {texts!r}; the inverse takes a target, as in 'the output should be 3.5'")
        chosen = self.variables(graph)
        for p in chosen:
            if isinstance(p._data, bool) or not isinstance(p._data, (int, float)):
                raise ValueError(f"parameter {p!r} is no number, which the inverse takes")
        variables = [i for i in graph.variables if any(graph.nodes[i] is p for p in chosen)]
        goal = np.array(targets, dtype=float)
        replay = _Replay(graph, variables)
        start = np.array([float(graph.values[i]) for i in variables])
        theta, error = self._solve(replay, start, goal, [graph.nodes[i].bounds for i in variables])
        if np.array_equal(theta, start):
            self.status = SOLVED if error <= self._enough(goal) else STALLED
            return {}
        return {graph.nodes[i]: float(x) for i, x in zip(variables, theta, strict=True)}

    def _enough(self, goal: np.ndarray) -> float:
        return self.rtol * max(float(np.abs(goal).max()), 1e-300) * math.sqrt(len(goal))

    def _solve(
        self, replay: _Replay, start: np.ndarray, goal: np.ndarray, bounds: list[Any]
    ) -> tuple[np.ndarray, float]:
        low = np.array([b[0] if b else -np.inf for b in bounds])
        high = np.array([b[1] if b else np.inf for b in bounds])
        best, least = start, _misfit(replay, start, goal)[0]
        with np.errstate(all="ignore"):
            for number in range(self.starts):
                scale = np.maximum(np.abs(start), 1.0) * (0.5 + number / 4)
                begin = start if number == 0 else start + scale * self._rng.standard_normal(len(start))
                theta, error = self._descend(replay, np.clip(begin, low, high), goal, low, high)
                if error < least:
                    best, least = theta, error
                if least <= self._enough(goal):
                    break
        return best, least

    def _descend(
        self, replay: _Replay, theta: np.ndarray, goal: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, float]:
        error, residual, slopes = _misfit(replay, theta, goal)
        damping = 1e-3
        for _ in range(self.steps):
            if error <= self._enough(goal) or not math.isfinite(error):
                break
            # In the space of outputs, which are fewer than variables: the step of least length.
            normal = slopes @ slopes.T
            matrix = normal + damping * max(float(np.trace(normal)), 1e-300) * np.eye(len(goal))
            try:
                change = slopes.T @ np.linalg.solve(matrix, residual)
            except np.linalg.LinAlgError:
                break
            tried = np.clip(theta - change, low, high)
            found = _misfit(replay, tried, goal)
            if found[0] < error:
                theta, (error, residual, slopes) = tried, found
                damping = max(damping / 10, 1e-15)
            else:
                damping = damping * 10
                if damping > 1e12:
                    break
        return theta, error


def _misfit(replay: _Replay, theta: np.ndarray, goal: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    try:
        outputs, slopes = replay(theta)
    except (ArithmeticError, TypeError):
        return math.inf, np.zeros(len(goal)), np.zeros((len(goal), len(theta)))
    residual = outputs - goal
    error = float(np.linalg.norm(residual))
    if not math.isfinite(error) or not np.all(np.isfinite(slopes)):
        return math.inf, np.zeros(len(goal)), np.zeros((len(goal), len(theta)))
    return error, residual, slopes
