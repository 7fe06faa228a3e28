"""The problem report: a trace and its feedback, written for a reader of code."""

import copy
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from paperworks.optimization.workflows.graph import TraceGraph, shorten
from paperworks.optimization.workflows.nodes import ParameterNode
from paperworks.optimization.workflows.optimizer import text_of

OBJECTIVE = "Change the values in #Variables so that #Output improves as #Feedback says."
SECTIONS = (
    "instruction", "code", "documentation", "variables", "constraints", "inputs", "others", "outputs", "feedback",
)  # fmt: skip

SYSTEM = """\
You improve a program by changing some of its values. You get a report with these sections; some may be missing.
#Instruction: what is asked of you.
#Code: the steps that ran, one line each, as in `y1 = op(x=a0, y=b0)`.
#Documentation: what the operators in #Code do.
#Variables: the values that you may change, as `(type) name=value`, or `(code) name:` and its source.
#Constraints: what each variable has to obey.
#Inputs: fixed values that enter.
#Others: values computed on the way.
#Outputs: the result.
#Feedback: what is said of the result.
Answer with one JSON object and nothing else:
{"reasoning": "why the feedback came about and what has to change",
 "answer": "the answer to the instruction, where it asks a question",
 "suggestion": {"name of a variable": new value, ...}}
Name in the suggestion only variables that change. Keep their types. Give code as a text with the whole function.
If nothing needs to change, answer with the word TERMINATE alone."""


@dataclass(frozen=True)
class ProblemReport:
    """The sections of a report, each a text.

    Parameters
    ----------
    instruction
        What is asked of the reader.
    code
        The steps that ran.
    documentation
        What the operators do, each once.
    variables
        Values that may change.
    constraints
        What they have to obey.
    inputs
        Fixed values that enter.
    others
        Values on the way.
    outputs
        Result of the workflow.
    feedback
        What is said of the result.
    names
        By the name in the report, the parameters that may change.

    Examples
    --------
    >>> from paperworks.optimization import minimal_subgraph, node, problem_report
    >>> x = node(2, trainable=True, name="speed")
    >>> report = problem_report(minimal_subgraph(x * 3, "should be 12"), [x])
    >>> print(report.code, "|", report.feedback)
    mul0 = mul(x=speed0, y=int0) | should be 12
    """

    instruction: str = OBJECTIVE
    code: str = ""
    documentation: str = ""
    variables: str = ""
    constraints: str = ""
    inputs: str = ""
    others: str = ""
    outputs: str = ""
    feedback: str = ""
    names: dict[str, ParameterNode] = field(default_factory=dict, repr=False, compare=False)

    def text(self, mask: Collection[str] = ()) -> str:
        """Return the sections under their headings.

        Parameters
        ----------
        mask
            Sections that are left out, such as `("code", "others", "documentation")`.

        Returns
        -------
        str
            The report as one text.
        """
        sections = [(name, getattr(self, name)) for name in SECTIONS if name not in mask]
        return "\n\n".join(f"#{name.capitalize()}\n{text}" for name, text in sections if text)

    def masked(self, *names: str) -> "ProblemReport":
        """Return the report with some sections empty.

        Parameters
        ----------
        names
            Sections to empty.

        Returns
        -------
        ProblemReport
            A copy without them.
        """
        twin = copy.copy(self)
        for name in names:
            object.__setattr__(twin, name, "")
        return twin


def problem_report(
    graph: TraceGraph, parameters: Iterable[ParameterNode], *, objective: str = OBJECTIVE, max_chars: int = 2000
) -> ProblemReport:
    """Write the report of a trace with feedback (Cheng et al. 2024, arXiv 2406.16218, section 4).

    Parameters
    ----------
    graph
        The minimal subgraph with the feedback.
    parameters
        What may be changed; other trainable nodes are shown as inputs.
    objective
        What is asked of the reader.
    max_chars
        Most characters of a value; the middle of longer ones is left out. Source is never cut.

    Returns
    -------
    ProblemReport
        The sections, and by name the parameters that stand in them.

    Examples
    --------
    >>> from paperworks.optimization import minimal_subgraph, node, problem_report
    >>> x = node(2, trainable=True, name="count", constraint="even")
    >>> print(problem_report(minimal_subgraph(x + 1, "too low"), [x]).constraints)
    (int) count0: even
    """
    own = {id(p) for p in parameters}
    variables = [i for i in graph.variables if id(graph.nodes[i]) in own]
    fixed = [i for i in graph.variables if id(graph.nodes[i]) not in own]
    docs = {graph.nodes[i].op.description: None for i, p in enumerate(graph.parents) if p}
    return ProblemReport(
        instruction=objective,
        code=graph.code(),
        documentation="\n".join(docs),
        variables="\n".join(_value(graph, i, None) for i in variables),
        constraints="\n".join(_constraint(graph, i) for i in variables if _limits(graph.nodes[i])),
        inputs="\n".join(_value(graph, i, max_chars) for i in sorted([*graph.inputs, *fixed])),
        others="\n".join(_value(graph, i, max_chars) for i in graph.others),
        outputs="\n".join(_value(graph, i, max_chars) for i in dict.fromkeys(graph.outputs)),
        feedback=shorten(text_of(graph), 4 * max_chars),
        names={graph.name(i): graph.nodes[i] for i in variables},
    )


def _value(graph: TraceGraph, position: int, max_chars: int | None) -> str:
    node, value = graph.nodes[position], graph.values[position]
    if getattr(node, "language", ""):
        return f"(code) {graph.name(position)}:\n{value}"
    shown = str(value) if isinstance(value, BaseException) else repr(value) if not isinstance(value, str) else value
    if max_chars is not None:
        shown = shorten(shown, max_chars)
    return f"({type(value).__name__}) {graph.name(position)}={shown}"


def _limits(node: Any) -> str:
    """Say in words what a parameter has to obey."""
    parts = [node.constraint or ""]
    if node.bounds is not None:
        parts.append(f"from {node.bounds[0]} to {node.bounds[1]}")
    if node.choices is not None:
        parts.append(f"one of {node.choices!r}")
    return "; ".join(p for p in parts if p)


def _constraint(graph: TraceGraph, position: int) -> str:
    node = graph.nodes[position]
    kind = "code" if node.language else type(node._data).__name__
    return f"({kind}) {graph.name(position)}: {_limits(node)}"
