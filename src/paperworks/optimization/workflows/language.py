"""Optimisers that ask a language model: with the trace (OptoPrime), without (OPRO), edge by edge (TextGrad)."""

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

from paperworks.core.validation import check_choice, check_count
from paperworks.optimization.workflows.answers import AnswerError, coerce, parse_answer
from paperworks.optimization.workflows.bundles import CodeParameter
from paperworks.optimization.workflows.feedback import read_feedback
from paperworks.optimization.workflows.graph import TraceGraph
from paperworks.optimization.workflows.llm import Messages
from paperworks.optimization.workflows.modules import encode
from paperworks.optimization.workflows.nodes import ParameterNode
from paperworks.optimization.workflows.optimizer import TERMINATED, WorkflowOptimizer, score_of
from paperworks.optimization.workflows.report import OBJECTIVE, SECTIONS, SYSTEM, ProblemReport, problem_report

LLM = Callable[[Messages], str]


class LanguageOptimizer(WorkflowOptimizer):
    """Base of optimisers that ask a language model.

    A model that fails raises its error from `step`, with nothing changed and the feedback kept: the step can be done
    again. An answer that can't be read, or a value that a parameter can't take, is left out with a warning, or an error
    where `strict` is true.

    **Source that a model writes runs in this process** when its function is called, and can do whatever the process
    may. So parameters with source are refused unless `allow_code` is true. Bundle such functions with `sandbox`, and
    read in `Sandbox` how little a list of allowed syntax guarantees.

    Parameters
    ----------
    parameters
        Parameters that may be changed.
    llm
        From messages to a text: a `LanguageModel` or any function.
    objective
        What the model is asked to do.
    max_chars
        Most characters of a value in a prompt (2,000).
    allow_code
        Whether the source of functions may be rewritten by the model.
    strict
        Whether an answer that can't be used is an error.
    patience
        After how many steps with the same feedback in a row the status becomes `stalled`; None for never.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        llm: LLM,
        *,
        objective: str = OBJECTIVE,
        max_chars: int = 2000,
        allow_code: bool = False,
        strict: bool = False,
        patience: int | None = 20,
    ) -> None:
        super().__init__(parameters, patience=patience)
        if not callable(llm):
            raise TypeError(f"llm is {llm!r}; it takes a function from messages to a text")
        code = [p.name for p in self.parameters if isinstance(p, CodeParameter)]
        if code and not allow_code:
            raise ValueError(
                f"parameters has source of functions ({', '.join(code)}), and what a language model writes there would "
                "run here; allow_code=True takes that risk"
            )
        self.llm, self.objective, self.allow_code, self.strict = llm, objective, allow_code, strict
        self.max_chars = check_count("max_chars", max_chars, at_least=20)

    def ask(self, system: str, user: str) -> str:
        """Ask the model, and count it.

        Parameters
        ----------
        system
            What it is told of its task.
        user
            The question itself, as text.

        Returns
        -------
        str
            What the model answered.
        """
        self.llm_calls += 1
        self.prompt_chars += len(system) + len(user)
        answer = self.llm([{"role": "system", "content": system}, {"role": "user", "content": user}])
        self.log.append({"system": system, "user": user, "answer": answer})
        return answer

    def read(self, answer: str, names: dict[str, ParameterNode]) -> dict[ParameterNode, Any]:
        """Return the usable part of an answer, and note where the model ends the search.

        Parameters
        ----------
        answer
            What the model wrote.
        names
            Parameters by the names that stood in the prompt.

        Returns
        -------
        dict[ParameterNode, Any]
            New values, of the parameters' types.

        Raises
        ------
        ValueError
            Where `strict` is true and something can't be used.
        """
        try:
            parsed = parse_answer(answer, list(names))
        except AnswerError as error:
            self._unusable(str(error), error)
            return {}
        if parsed.terminate:
            self.status = TERMINATED
            return {}
        found: dict[ParameterNode, Any] = {}
        for name, value in parsed.suggestion.items():
            parameter = names.get(name)  # compared with None: the truth of a node is that of its value
            if parameter is None:
                parameter = next((p for p in names.values() if name in (p.name, p.base)), None)
            if parameter is None:
                self._unusable(f"the answer changes {name!r}, which is no variable", None)
                continue
            try:
                found[parameter] = self._checked(value, parameter)
            except ValueError as error:
                self._unusable(f"the answer is left out for {name}: {error}", error)
        if self.log:
            self.log[-1]["suggestion"] = {p.name: encode(v) for p, v in found.items() if _plain(v)}
        return found

    def _checked(self, value: Any, parameter: ParameterNode) -> Any:
        made = coerce(value, parameter)
        if parameter.language and not self.allow_code:
            raise ValueError("source is refused without allow_code=True")
        return made

    def _unusable(self, message: str, cause: Exception | None) -> None:
        if self.strict:
            raise ValueError(message) from cause
        warnings.warn(message, RuntimeWarning, stacklevel=5)

    def propose(self, graph: TraceGraph) -> dict[ParameterNode, Any]:
        """Return what the model suggests.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.

        Returns
        -------
        dict[ParameterNode, Any]
            New values, empty where the answer holds none.
        """
        return self.suggest(graph, problem_report(
            graph, self.parameters, objective=self.objective, max_chars=self.max_chars
        ))  # fmt: skip

    @abstractmethod
    def suggest(self, graph: TraceGraph, report: ProblemReport) -> dict[ParameterNode, Any]:
        """Return new values for a report.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.
        report
            The same in words.

        Returns
        -------
        dict[ParameterNode, Any]
            New values, of the parameters' types.
        """


class OptoPrime(LanguageOptimizer):
    """Shows a language model the trace as a program with its values and the feedback, and takes its suggestion.

    Parameters
    ----------
    parameters
        Parameters that may be changed.
    llm
        From messages to a text: a `LanguageModel` or any function.
    memory
        How many past values with their feedback are shown (none; the paper's variant with memory has 10).
    mask
        Sections of the report that are left out; `("code", "documentation", "others")` leaves what an optimiser
        without the trace sees.
    options
        Those of `LanguageOptimizer`: objective, max_chars, allow_code, strict, patience.

    References
    ----------
    Cheng, Nie, Swaminathan 2024, arXiv 2406.16218, section 4.

    Examples
    --------
    >>> from paperworks.optimization import OptoPrime, ScriptedLLM, node
    >>> x = node(2, trainable=True, name="width")
    >>> opt = OptoPrime([x], ScriptedLLM(['{"reasoning": "3 x 4 is 12", "suggestion": {"width0": 4}}', "TERMINATE"]))
    >>> for _ in range(2):
    ...     opt.zero_feedback()
    ...     opt.backward(x * 3, "the output should be 12")
    ...     _ = opt.step()
    >>> x.data, opt.status, opt.llm_calls
    (4, 'terminated', 2)
    """

    def __init__(
        self, parameters: Iterable[Any], llm: LLM, *, memory: int = 0, mask: Collection[str] = (), **options: Any
    ) -> None:
        super().__init__(parameters, llm, **options)
        self.memory_size = check_count("memory", memory, at_least=0)
        self.mask = tuple(check_choice("mask", name, SECTIONS) for name in mask)
        self._past: list[dict[str, str]] = []

    def suggest(self, graph: TraceGraph, report: ProblemReport) -> dict[ParameterNode, Any]:
        """Return what the model suggests for the report.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.
        report
            The same in words.

        Returns
        -------
        dict[ParameterNode, Any]
            New values, of the parameters' types.
        """
        found = self.read(self.ask(SYSTEM, self.prompt(report)), report.names)
        self._keep(report)
        return found

    def prompt(self, report: ProblemReport) -> str:
        """Return the question for a report.

        Parameters
        ----------
        report
            Sections of the problem.

        Returns
        -------
        str
            The report without masked sections, after what was tried before.
        """
        past = self._past[-self.memory_size :] if self.memory_size else []
        hints = [f"Tried before:\n{p['variables']}\nFeedback: {p['feedback']}" for p in past]
        return "\n\n".join([*hints, report.text(self.mask), "Your answer:"])

    def _keep(self, report: ProblemReport) -> None:
        if self.memory_size:
            self._past = [*self._past, {"variables": report.variables, "feedback": report.feedback}][
                -self.memory_size :
            ]

    def _memory(self) -> Any:
        return self._past

    def _remember(self, memory: Any) -> None:
        self._past = list(memory)


class OptoPrimeMulti(OptoPrime):
    """OptoPrime with several answers to each report, of which one is chosen.

    Parameters
    ----------
    parameters
        Parameters that may be changed.
    llm
        From messages to a text; asked as often as there are candidates, so it has to answer by chance.
    candidates
        How many answers are asked for (3).
    selector
        From the list of candidates, each a dictionary from parameter to value, to the index of the best; by default
        the one that was suggested most often.
    options
        Those of `OptoPrime`.

    Examples
    --------
    >>> from paperworks.optimization import OptoPrimeMulti, ScriptedLLM, node
    >>> x = node(2, trainable=True, name="height")
    >>> answers = ['{"suggestion": {"height0": 5}}', '{"suggestion": {"height0": 4}}', '{"suggestion": {"height0": 4}}']
    >>> opt = OptoPrimeMulti([x], ScriptedLLM(answers))
    >>> opt.backward(x * 3, "should be 12")
    >>> opt.step()
    {'height:0': 4}
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        llm: LLM,
        *,
        candidates: int = 3,
        selector: Callable[[list[dict[ParameterNode, Any]]], int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(parameters, llm, **options)
        self.candidates, self.selector = check_count("candidates", candidates), selector

    def suggest(self, graph: TraceGraph, report: ProblemReport) -> dict[ParameterNode, Any]:
        """Return the chosen one of several suggestions.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.
        report
            The same in words.

        Returns
        -------
        dict[ParameterNode, Any]
            New values, of the parameters' types.

        Raises
        ------
        ValueError
            Where the selector returns no index of a candidate.
        """
        prompt = self.prompt(report)
        answers = [self.ask(SYSTEM, prompt) for _ in range(self.candidates)]
        found, ended = [], 0
        for answer in answers:
            before = self.status
            values = self.read(answer, report.names)
            ended += self.status == TERMINATED
            self.status = before
            if values:
                found.append(values)
        if 2 * ended > self.candidates:
            self.status = TERMINATED
            return {}
        self._keep(report)
        if not found:
            return {}
        chosen = self.selector(found) if self.selector else _most_common(found)
        if not isinstance(chosen, int) or not 0 <= chosen < len(found):
            raise ValueError(f"selector returned {chosen!r} for {len(found)} candidates; it returns an index")
        return found[chosen]


def _most_common(found: list[dict[ParameterNode, Any]]) -> int:
    shown = [repr(sorted((p.name, repr(v)) for p, v in values.items())) for values in found]
    return shown.index(Counter(shown).most_common(1)[0][0])


OPRO_SYSTEM = """\
You look for better values of some variables. You see values that were tried with the feedback on each.
Answer with one JSON object and nothing else: {"suggestion": {"name of a variable": new value, ...}}.
Keep the types. If no better values are possible, answer with the word TERMINATE alone."""


class OPRO(LanguageOptimizer):
    """Shows a language model all values that were tried with their feedback, and nothing of the trace.

    Parameters
    ----------
    parameters
        Parameters that may be changed.
    llm
        From messages to a text.
    memory
        Most pairs of values and feedback that are shown (20); those with the best scores where scores are said.
    options
        Those of `LanguageOptimizer`.

    References
    ----------
    Yang et al. 2024, *Large language models as optimizers*, arXiv 2309.03409, as Cheng et al. use it for comparison.

    Examples
    --------
    >>> from paperworks.optimization import OPRO, ScriptedLLM, node
    >>> x = node(2, trainable=True, name="depth")
    >>> opt = OPRO([x], ScriptedLLM(['{"suggestion": {"depth0": 3}}']))
    >>> opt.backward(x * 3, "too low")
    >>> opt.step()
    {'depth:0': 3}
    """

    def __init__(self, parameters: Iterable[Any], llm: LLM, *, memory: int = 20, **options: Any) -> None:
        super().__init__(parameters, llm, **options)
        self.memory_size = check_count("memory", memory)
        self._past: list[list[Any]] = []

    def suggest(self, graph: TraceGraph, report: ProblemReport) -> dict[ParameterNode, Any]:
        """Return what the model suggests after all that was tried.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.
        report
            The same in words.

        Returns
        -------
        dict[ParameterNode, Any]
            New values, of the parameters' types.
        """
        past = [*self._past, [report.variables, report.feedback, score_of(graph)]]
        shown = past[-self.memory_size :]
        if all(p[2] is not None for p in past):
            shown = sorted(past, key=lambda p: p[2])[-self.memory_size :]
        tried = [f"Values:\n{variables}\nFeedback: {said}" for variables, said, _ in shown]
        parts = [report.instruction, *tried]
        if report.constraints:
            parts.append(f"Constraints:\n{report.constraints}")
        found = self.read(self.ask(OPRO_SYSTEM, "\n\n".join([*parts, "Your answer:"])), report.names)
        self._past = past
        return found

    def _memory(self) -> Any:
        return self._past

    def _remember(self, memory: Any) -> None:
        self._past = [list(p) for p in memory]


CRITIC_SYSTEM = """\
You give feedback on one input of a step of a program, given feedback on the step's result. Say in a few sentences how
the input should change for the result to improve. Don't propose a whole new value."""
REWRITE_SYSTEM = """\
You improve one variable of a program by the criticism it received. Answer with one JSON object and nothing else:
{"suggestion": {"name of the variable": new value}}. Keep its type. If nothing needs to change, answer TERMINATE."""


class TextGrad(LanguageOptimizer):
    """Passes criticism backward through each step by a language model, and rewrites each variable by what arrives.

    For every edge of the trace on the way to a variable the model is asked what the feedback on the result means for
    that input; criticism that meets is joined, and one more question rewrites each variable. A step costs as many
    questions as there are edges and variables.

    Parameters
    ----------
    parameters
        Parameters that may be changed.
    llm
        From messages to a text.
    options
        Those of `LanguageOptimizer`.

    References
    ----------
    Yuksekgonul et al. 2024, *TextGrad: automatic "differentiation" via text*, arXiv 2406.07496.

    Examples
    --------
    >>> from paperworks.optimization import ScriptedLLM, TextGrad, node
    >>> x = node("hi", trainable=True, name="greeting")
    >>> opt = TextGrad([x], ScriptedLLM(["be polite", '{"suggestion": {"greeting0": "good day"}}']))
    >>> opt.backward(x + "!", "rude")
    >>> opt.step()["greeting:0"], opt.llm_calls
    ('good day', 2)
    """

    def suggest(self, graph: TraceGraph, report: ProblemReport) -> dict[ParameterNode, Any]:
        """Return the rewritten values.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.
        report
            The same in words.

        Returns
        -------
        dict[ParameterNode, Any]
            New values, of the parameters' types.
        """
        criticism = self.criticise(graph, {id(p) for p in report.names.values()})
        found: dict[ParameterNode, Any] = {}
        ended = 0
        for name, parameter in report.names.items():
            lines = criticism.get(parameter)
            if not lines:
                continue
            kind = "code" if parameter.language else type(parameter._data).__name__
            limits = f"\nConstraint: {parameter.constraint}" if parameter.constraint else ""
            shown = "\n".join(f"- {line}" for line in lines)
            user = f"{self.objective}\n\nVariable: ({kind}) {name}={parameter._data}{limits}\n\nCriticism:\n{shown}"
            before = self.status
            found |= self.read(self.ask(REWRITE_SYSTEM, user), {name: parameter})
            ended += self.status == TERMINATED
            self.status = before
        if ended and ended == len(report.names):
            self.status = TERMINATED
        return found

    def criticise(self, graph: TraceGraph, wanted: set[int]) -> dict[ParameterNode, list[str]]:
        """Return the criticism that arrives at each variable.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.
        wanted
            Identities of the variables that are asked for.

        Returns
        -------
        dict[ParameterNode, list[str]]
            Different criticisms by variable.
        """
        live = [id(node) in wanted for node in graph.nodes]
        for i, parents in enumerate(graph.parents):
            live[i] = live[i] or any(live[p] for p in parents)
        held: list[dict[str, None]] = [{} for _ in graph.nodes]
        for i, said in zip(graph.outputs, graph.feedback, strict=True):
            spoken = read_feedback(said)
            held[i][str(spoken)] = None
        for i in range(len(graph) - 1, -1, -1):
            if not held[i]:
                continue
            node, parents = graph.nodes[i], graph.parents[i]
            for key, p in dict(zip(node.arg_names, parents, strict=False)).items():
                if live[p]:
                    held[p][self._criticism(graph, i, p, key, list(held[i]))] = None
        return {graph.nodes[i]: list(held[i]) for i in graph.variables if held[i]}

    def _criticism(self, graph: TraceGraph, i: int, p: int, key: str, said: list[str]) -> str:
        node = graph.nodes[i]
        shown = {
            "Step": f"{graph.name(i)} = {node.op.name}(...): {node.op.description}",
            "Other inputs": "; ".join(
                f"{k}={str(graph.values[q])[: self.max_chars]}"
                for k, q in zip(node.arg_names, graph.parents[i], strict=False)
                if k != key
            ),
            "Result": str(graph.values[i])[: self.max_chars],
            "Feedback on the result": "\n".join(said),
            f"Input to criticise, {key}": str(graph.values[p])[: self.max_chars],
        }
        return self.ask(CRITIC_SYSTEM, "\n".join(f"{k}: {v}" for k, v in shown.items() if v)).strip()


def _plain(value: Any) -> bool:
    try:
        encode(value)
    except TypeError:
        return False
    return True
