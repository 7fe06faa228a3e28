"""Search by mutation: small typed changes of what the trace says matters, the best kept."""

import ast
from collections.abc import Iterable
from typing import Any

import numpy as np

from paperworks.core.validation import check_choice, check_number
from paperworks.optimization.workflows.bundles import function_in
from paperworks.optimization.workflows.graph import TraceGraph
from paperworks.optimization.workflows.mutations import CodeEdit, code_mutations, mutate
from paperworks.optimization.workflows.nodes import ExceptionNode, ParameterNode
from paperworks.optimization.workflows.optimizer import SOLVED, STALLED, WorkflowOptimizer, score_of


class ScoredOptimizer(WorkflowOptimizer):
    """Base of optimisers that go by a score and keep the best values.

    Parameters
    ----------
    parameters
        Parameters that may be changed.
    objective
        `max` where a higher score is better, `min` where a lower one is.
    goal
        Score at which the status becomes `solved`, or None.
    random_state
        Seed of what is drawn.
    patience
        After how many steps without a better score the status becomes `stalled`; None for never.

    Attributes
    ----------
    best_score
        The best score so far.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        *,
        objective: str = "max",
        goal: float | None = None,
        random_state: int = 0,
        patience: int | None = 200,
    ) -> None:
        super().__init__(parameters, patience=None)
        self.objective = check_choice("objective", objective, ("max", "min"))
        self.goal = goal
        self.best_score: float | None = None
        self._rng = np.random.default_rng(random_state)
        self._without_gain = 0
        self._most = patience
        self._best: list[Any] = [p._data for p in self.parameters]

    def better(self, score: float, than: float | None) -> bool:
        """Return whether a score is better than another.

        Parameters
        ----------
        score
            A new score.
        than
            The score to beat, None where there is none yet.

        Returns
        -------
        bool
            Whether it is better.
        """
        return than is None or (score > than if self.objective == "max" else score < than)

    def restore_best(self) -> None:
        """Set all parameters to the best values so far."""
        for parameter, value in zip(self.parameters, self._best, strict=True):
            parameter.data = value

    def judge(self, graph: TraceGraph) -> tuple[bool, float]:
        """Take the score of the present values, and keep them where they are the best.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.

        Returns
        -------
        tuple[bool, float]
            Whether they are the best, and their score; an error without a score counts as worst.

        Raises
        ------
        ValueError
            Where the feedback has no score.
        """
        score = score_of(graph)
        if score is None:
            if not any(isinstance(graph.nodes[i], ExceptionNode) for i in graph.outputs):
                raise ValueError(f"feedback is {[str(f) for f in graph.feedback]!r}; it takes a score, as a number")
            score = -np.inf if self.objective == "max" else np.inf
        gained = self.better(score, self.best_score)
        if gained:
            self.best_score, self._best, self._without_gain = score, [p._data for p in self.parameters], 0
            if self.goal is not None and not self.better(self.goal, score):
                self.status = SOLVED
        else:
            self._without_gain += 1
            if self._most is not None and self._without_gain >= self._most:
                self.status = STALLED
        return gained, float(score)

    def _memory(self) -> Any:
        return {
            "best": self._best,
            "score": self.best_score,
            "without": self._without_gain,
            "rng": _as_text(self._rng.bit_generator.state),
        }

    def _remember(self, memory: Any) -> None:
        self._best, self.best_score, self._without_gain = memory["best"], memory["score"], memory["without"]
        self._rng.bit_generator.state = _as_state(memory["rng"])


def _as_text(state: Any) -> Any:
    """Return the state of a generator with its great numbers as texts."""
    return {
        k: _as_text(v) if isinstance(v, dict) else f"int:{v}" if isinstance(v, int) else v for k, v in state.items()
    }


def _as_state(state: Any) -> Any:
    return {
        k: _as_state(v) if isinstance(v, dict) else int(v[4:]) if str(v).startswith("int:") else v
        for k, v in state.items()
    }


class SearchOptimizer(ScoredOptimizer):
    """Tries small changes of one variable at a time and keeps what scores better.

    Only variables that the trace links to the output are changed: numbers by log-normal factors, values with choices by
    another one, lists and lines of text by edits, code by one change of its syntax tree (each kind of change as likely,
    however many there are). Where the output is an error, changes at the line that failed are tried first, then at
    lines that compute what it uses. No change is tried twice.

    The code that it makes is made from the caller's own. A change can still make a loop endless or delete the wrong
    thing: bundle with `sandbox`.

    Parameters
    ----------
    parameters
        Parameters that may be changed.
    scale
        Spread of the logarithm of factors of numbers, or of steps as a share of bounds (0.3).
    use_error_line
        Whether the line that failed guides changes of code.
    focus
        Chance of a change by the line that failed, where one is known (0.9); else anywhere.
    explore
        Chance of a change of earlier best values instead of the best ones (0), against better values that lead nowhere.
    options
        Those of `ScoredOptimizer`: objective, goal, random_state, patience.

    Examples
    --------
    >>> from paperworks.optimization import SearchOptimizer, node
    >>> x = node(1.0, trainable=True, name="x")
    >>> opt = SearchOptimizer([x], random_state=0)
    >>> for _ in range(200):
    ...     opt.zero_feedback()
    ...     out = (x - 3.0) * (x - 3.0)
    ...     opt.backward(out, -out.data)
    ...     _ = opt.step()
    >>> opt.restore_best()
    >>> abs(x.data - 3) < 0.05
    True
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        *,
        scale: float = 0.3,
        use_error_line: bool = True,
        focus: float = 0.9,
        explore: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(parameters, **options)
        self.scale = check_number("scale", scale, gt=0)
        self.focus = check_number("focus", focus, ge=0, le=1)
        self.explore = check_number("explore", explore, ge=0, le=1)
        self.use_error_line = use_error_line
        # Values that were the best, and for each the line that failed by the parameter's place.
        self._archive: list[tuple[list[Any], dict[int, int]]] = []
        self._tried: set[str] = set()
        self._ready: dict[str, list[CodeEdit]] = {}

    def propose(self, graph: TraceGraph) -> dict[ParameterNode, Any]:
        """Return the best values so far with one change.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.

        Returns
        -------
        dict[ParameterNode, Any]
            New values for all parameters that differ from the present ones.
        """
        gained, _ = self.judge(graph)
        if gained:
            self._archive.append((self._best, self._failing(graph)))
        if self.status == SOLVED:
            return {}
        present = [p._data for p in self.parameters]
        self._tried.add(_key(present))
        variables = self.variables(graph)
        places = [i for i, p in enumerate(self.parameters) if any(p is v for v in variables)]
        new = self._changed(places)
        if new is None:
            self.status = STALLED
            new = self._best
        return {p: v for p, v, old in zip(self.parameters, new, present, strict=True) if v is not old}

    def _failing(self, graph: TraceGraph) -> dict[int, int]:
        lines: dict[int, int] = {}
        for node in (graph.nodes[i] for i in graph.outputs):
            if isinstance(node, ExceptionNode) and node.code is not None and node.line is not None:
                lines |= {i: node.line for i, p in enumerate(self.parameters) if p is node.code}
        return lines

    def _changed(self, places: list[int]) -> list[Any] | None:
        """Return values that were the best with a change that was not tried, or None where none is found."""
        left = list(places)
        for _ in range(50):
            if not left:
                return None
            best, lines = self._archive[-1]
            if len(self._archive) > 1 and self._rng.random() < self.explore:
                best, lines = self._archive[int(self._rng.integers(len(self._archive) - 1))]
            lines = lines if self.use_error_line else {}
            guided = [i for i in left if i in lines]
            chosen = guided if guided and self._rng.random() < self.focus else left
            place = chosen[int(self._rng.integers(len(chosen)))]
            parameter = self.parameters[place]
            if parameter.language:
                changed = self._code(place, best, lines.get(place))
                if changed is None:
                    left = [i for i in left if i != place] if len(self._archive) == 1 else left
                    continue
            else:
                changed = mutate(parameter, self._rng, self.scale, best[place])
            new = [*best[:place], changed, *best[place + 1 :]]
            if _key(new) not in self._tried:
                self._tried.add(_key(new))
                return new
        return None

    def _code(self, place: int, best: list[Any], line: int | None) -> str | None:
        """Return a change of source that was not tried, at the failing line first."""
        key = _key([place, *best])
        if key not in self._ready:
            self._ready[key] = code_mutations(best[place], self._rng, self.scale)
        left = self._ready[key]
        while left:
            picked = left.pop(self._pick(left, best[place], line))
            if not self.parameters[place].problem_with(picked.source):
                return picked.source
        return None

    def _pick(self, left: list[CodeEdit], source: str, line: int | None) -> int:
        here = list(range(len(left)))
        if line is not None and self._rng.random() < self.focus:
            behind = lines_behind(source, line)
            near = sorted({edit.line for edit in left} & behind.keys())
            if near:
                weights = np.array([2.0 ** -behind[n] for n in near])
                chosen = near[int(self._rng.choice(len(near), p=weights / weights.sum()))]
                here = [i for i in here if left[i].line == chosen]
        kinds = sorted({left[i].kind for i in here})
        kind = kinds[int(self._rng.integers(len(kinds)))]
        here = [i for i in here if left[i].kind == kind]
        return here[int(self._rng.integers(len(here)))]

    def _memory(self) -> Any:
        return {**super()._memory(), "archive": self._archive, "tried": sorted(self._tried)}

    def _remember(self, memory: Any) -> None:
        super()._remember(memory)
        self._archive = list(memory["archive"])
        self._tried, self._ready = set(memory["tried"]), {}


def lines_behind(source: str, line: int) -> dict[int, int]:
    """Return the lines that a line depends on, with how many steps behind: those that set its names, and its
    conditions.

    This is the backward slice of the line (Weiser 1984, *Program slicing*), without regard to the order of lines.
    """
    function = function_in(source)
    uses: dict[int, set[str]] = {}
    sets: dict[str, set[int]] = {}
    governs: dict[int, set[int]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                sets.setdefault(node.id, set()).add(node.lineno)
            else:
                uses.setdefault(node.lineno, set()).add(node.id)
        elif isinstance(node, (ast.If, ast.While, ast.For)):
            for inner in range(node.lineno + 1, (node.end_lineno or node.lineno) + 1):
                governs.setdefault(inner, set()).add(node.lineno)
    found, reached = {line: 0}, [line]
    for at in reached:
        names = uses.get(at, set())
        for other in sorted(governs.get(at, set()).union(*(sets.get(n, set()) for n in names))):
            if other not in found:
                found[other] = found[at] + 1
                reached.append(other)
    return found


def _key(values: list[Any]) -> str:
    return repr(values)
