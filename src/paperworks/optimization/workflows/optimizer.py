"""What all optimisers of workflows share: parameters, feedback, steps, a status, and a state that can be kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from paperworks.core.validation import check_count
from paperworks.optimization.workflows.bundles import CodeParameter
from paperworks.optimization.workflows.feedback import Feedback, read_feedback
from paperworks.optimization.workflows.graph import GraphPropagator, Propagator, TraceGraph
from paperworks.optimization.workflows.modules import decode, encode
from paperworks.optimization.workflows.nodes import Node, ParameterNode

RUNNING, STALLED, TERMINATED, SOLVED = "running", "stalled", "terminated", "solved"


class WorkflowOptimizer(ABC):
    """Base of optimisers that read a trace and feedback and propose new values.

    The loop is that of torch: `out = workflow(x); opt.zero_feedback(); opt.backward(out, feedback); opt.step()`.

    Parameters
    ----------
    parameters
        Parameters that may be changed.
    patience
        After how many steps with the same feedback in a row the status becomes `stalled`; None for never.

    Attributes
    ----------
    status
        `running`, or why `step` changes nothing any more: `stalled`, `terminated` or `solved`.
    llm_calls, prompt_chars
        Questions to language models, and their characters.
    log
        A dictionary for each step that asked a language model: prompt, answer, suggestion.

    Raises
    ------
    TypeError
        Where a parameter is none.
    ValueError
        Where there are no parameters, or one comes twice.
    """

    def __init__(self, parameters: Iterable[Any], *, patience: int | None = 20) -> None:
        found = list(parameters)
        for parameter in found:
            if not isinstance(parameter, ParameterNode):
                raise TypeError(f"parameters has {parameter!r}; it takes nodes made with trainable=True")
        if not found or len({id(p) for p in found}) < len(found):
            raise ValueError(f"parameters has {len(found)} entries; it takes one or more, each once")
        self.parameters: list[ParameterNode] = found
        self.patience = None if patience is None else check_count("patience", patience)
        self.status = RUNNING
        self.llm_calls = 0
        self.prompt_chars = 0
        self.log: list[dict[str, Any]] = []
        self._last, self._same = "", 0

    @property
    def propagator(self) -> Propagator:
        """What travels along the trace to this optimiser."""
        return GraphPropagator()

    def zero_feedback(self) -> None:
        """Forget the feedback that came to the parameters."""
        for parameter in self.parameters:
            parameter.zero_feedback()

    def backward(self, output: Any, feedback: Any, *, retain_graph: bool = False) -> None:
        """Send feedback on an output to the parameters; several outputs of one step may get some.

        Parameters
        ----------
        output
            A node, also that of an `ExecutionError`.
        feedback
            A number, a text, or both as a `Feedback`.
        retain_graph
            Whether the trace is kept for another backward pass.

        Raises
        ------
        TypeError
            Where the output is no node.
        ValueError
            Where the feedback is None.
        """
        if not isinstance(output, Node):
            raise TypeError(f"output is {output!r}; feedback is given on a node")
        output.backward(feedback, propagator=self.propagator, retain_graph=retain_graph)

    def graph(self) -> TraceGraph:
        """Return the union of the subgraphs that came to the parameters.

        Returns
        -------
        TraceGraph
            Nodes and feedback of all backward passes since `zero_feedback`.

        Raises
        ------
        ValueError
            Where no feedback has come: before `backward`, or where the output depends on none of the parameters.
        """
        graphs = {id(g): g for p in self.parameters for g in p.feedback if isinstance(g, TraceGraph)}
        if not graphs:
            raise ValueError("no feedback has come to any parameter: call backward, on an output that depends on one")
        return TraceGraph.union(graphs.values())

    def variables(self, graph: TraceGraph) -> list[ParameterNode]:
        """Return the parameters of this optimiser that the output depends on.

        Parameters
        ----------
        graph
            What `graph` returned.

        Returns
        -------
        list[ParameterNode]
            Trainable parameters in the graph.
        """
        inside = {id(graph.nodes[i]) for i in graph.variables}
        return [p for p in self.parameters if id(p) in inside and p.trainable]

    def step(self) -> dict[str, Any]:
        """Change the parameters by what the feedback says.

        Where it fails (a language model that doesn't answer), nothing is changed and the feedback is kept, so that the
        step can be done again.

        Returns
        -------
        dict[str, Any]
            New values by the name of the parameter; empty where nothing changes.

        Raises
        ------
        ValueError
            Where no feedback has come.
        """
        if self.status != RUNNING:
            return {}
        graph = self.graph()
        spoken = "\n".join(str(f) for f in graph.feedback)
        proposed = self.propose(graph)
        self._same = self._same + 1 if spoken == self._last else 0
        self._last = spoken
        if self.patience is not None and self._same >= self.patience and self.status == RUNNING:
            self.status = STALLED
        changed = {}
        for parameter, value in proposed.items():
            parameter.data = value
            changed[parameter.name] = value
        return changed

    @abstractmethod
    def propose(self, graph: TraceGraph) -> dict[ParameterNode, Any]:
        """Return new values for some of the parameters, checked and of the right types.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.

        Returns
        -------
        dict[ParameterNode, Any]
            New values, empty where nothing is to be changed.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on later: values, status, counts and memory, as JSON can carry them.

        Returns
        -------
        dict[str, Any]
            State with the parameters by position.
        """
        return {
            "values": [encode(p._data) for p in self.parameters],
            "status": self.status,
            "llm_calls": self.llm_calls,
            "prompt_chars": self.prompt_chars,
            "last": self._last,
            "same": self._same,
            "log": self.log,
            "memory": encode(self._memory()),
        }

    def load_state_dict(self, state: dict[str, Any], *, allow_code: bool = False) -> None:
        """Go on from a state that `state_dict` returned.

        Parameters
        ----------
        state
            What `state_dict` returned.
        allow_code
            Whether the source of trainable functions may change: it runs when they are called.

        Raises
        ------
        ValueError
            Where it belongs to other parameters, or holds other code and `allow_code` is false.
        """
        try:
            values, memory, log = [decode(v) for v in state["values"]], decode(state["memory"]), list(state["log"])
            status, counts = state["status"], [int(state[n]) for n in ("llm_calls", "prompt_chars", "same")]
            last = str(state["last"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"state is none of an optimiser of workflows: {type(error).__name__} {error}") from error
        if status not in (RUNNING, STALLED, TERMINATED, SOLVED):
            raise ValueError(f"state has the status {status!r}; it takes one of an optimiser of workflows")
        if len(values) != len(self.parameters):
            raise ValueError(f"state has {len(values)} values for {len(self.parameters)} parameters")
        for parameter, value in zip(self.parameters, values, strict=True):
            if isinstance(parameter, CodeParameter) and value != parameter._data and not allow_code:
                raise ValueError(
                    f"state has other code for {parameter.name}, which would run; allow_code=True takes it"
                )
            if problem := parameter.problem_with(value):
                raise ValueError(f"state has {value!r} for {parameter.name}; {problem}")
        try:  # the memory first: what can't be taken leaves the parameters as they are
            self._remember(memory)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"state is of another kind of optimiser than {type(self).__name__}") from error
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data = value
        self.status, self._last, self.log = status, last, log
        self.llm_calls, self.prompt_chars, self._same = counts

    def _memory(self) -> Any:
        """Return what this kind of optimiser keeps between steps."""
        return {}

    def _remember(self, memory: Any) -> None:  # noqa: B027  # most keep nothing
        """Take what `_memory` returned."""


def score_of(graph: TraceGraph) -> float | None:
    """Return the mean score of all outputs, None where one has none."""
    scores = [read_feedback(f).score for f in graph.feedback]
    if not scores or any(s is None for s in scores):
        return None
    return sum(s for s in scores if s is not None) / len(scores)


def text_of(graph: TraceGraph) -> str:
    """Return what is said of all outputs, with their values where there are several."""
    spoken = [
        str(Feedback(*f)) if isinstance(f, tuple) and len(f) == 2 else str(getattr(f, "_data", f))
        for f in graph.feedback
    ]
    if len(spoken) == 1:
        return spoken[0]
    return "\n".join(f"{graph.name(i)}: {text}" for i, text in zip(graph.outputs, spoken, strict=True))
