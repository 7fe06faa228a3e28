"""Back-propagation as a special case: gradients that travel along the trace, by the derivative of each operator."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from paperworks.core.validation import check_choice, check_number
from paperworks.optimization.workflows.feedback import read_feedback
from paperworks.optimization.workflows.graph import Propagator, SumPropagator, TraceGraph
from paperworks.optimization.workflows.nodes import ParameterNode
from paperworks.optimization.workflows.optimizer import WorkflowOptimizer


def _power(g: Any, x: Any, y: Any, out: Any) -> list[Any]:
    base = np.asarray(x, dtype=float)
    slope = g * y * np.power(base, np.asarray(y) - 1.0) if np.any(y) else g * 0.0
    positive = np.where(base > 0, base, 1.0)
    return [slope, g * out * np.where(base > 0, np.log(positive), 0.0)]


# From the gradient of the result, the arguments and the result to the gradient of each argument.
DERIVATIVES: dict[str, Any] = {
    "add": lambda g, x, y, out: [g, g],
    "sub": lambda g, x, y, out: [g, -g],
    "mul": lambda g, x, y, out: [g * y, g * x],
    "div": lambda g, x, y, out: [g / y, -g * out / y],
    "pow": _power,
    "neg": lambda g, x, out: [-g],
    "pos": lambda g, x, out: [g],
    "abs": lambda g, x, out: [g * np.sign(x)],
    "exp": lambda g, x, out: [g * out],
    "expm1": lambda g, x, out: [g * (out + 1.0)],
    "log": lambda g, x, out: [g / x],
    "log1p": lambda g, x, out: [g / (1.0 + x)],
    "sqrt": lambda g, x, out: [g / (2.0 * out)],
    "square": lambda g, x, out: [2.0 * g * x],
    "reciprocal": lambda g, x, out: [-g * out * out],
    "sin": lambda g, x, out: [g * np.cos(x)],
    "cos": lambda g, x, out: [-g * np.sin(x)],
    "tan": lambda g, x, out: [g * (1.0 + out * out)],
    "sinh": lambda g, x, out: [g * np.cosh(x)],
    "cosh": lambda g, x, out: [g * np.sinh(x)],
    "tanh": lambda g, x, out: [g * (1.0 - out * out)],
    "arctan": lambda g, x, out: [g / (1.0 + x * x)],
    "maximum": lambda g, x, y, out: [g * (np.asarray(x) >= y), g * (np.asarray(x) < y)],
    "minimum": lambda g, x, y, out: [g * (np.asarray(x) <= y), g * (np.asarray(x) > y)],
}


class AutodiffPropagator(SumPropagator):
    """Passes gradients backward: from the derivative by the output to the derivative by each parameter.

    Arithmetic of numbers and of NumPy arrays is known, with broadcasting; more operators are added by `register`. An
    operator without a derivative, such as a comparison or an unknown bundled function, is an error.

    Examples
    --------
    >>> from paperworks.optimization import AutodiffPropagator, node
    >>> x = node(3.0, trainable=True)
    >>> (x * x / 2.0).backward(1.0, propagator=AutodiffPropagator())
    >>> x.feedback
    [3.0]
    """

    def propagate(self, child: Any, feedback: Any, values: tuple[Any, ...]) -> Sequence[Any]:
        """Return the gradient by each argument of a node.

        Parameters
        ----------
        child
            The node whose gradient is known.
        feedback
            Derivative of the output by the node.
        values
            Values of its arguments when it was computed.

        Returns
        -------
        Sequence[Any]
            One gradient for each argument, of the argument's shape.

        Raises
        ------
        ValueError
            Where the operator's derivative is not known.
        """
        name = child.op.name
        if name in self.rules:
            return self.rules[name](child, feedback, values)
        rule = DERIVATIVES.get(name)
        if rule is None:
            raise ValueError(
                f"operator {name!r} has no derivative here; register one, or bundle with traceable_code=True"
            )
        gradients = rule(feedback, *values, child._data)
        if not any(hasattr(v, "shape") for v in (*values, feedback)):
            return gradients
        return [_shaped(g, v) for g, v in zip(gradients, values, strict=True)]


def _shaped(gradient: Any, value: Any) -> Any:
    """Sum over the axes that broadcasting added."""
    shape = np.shape(value)
    gradient = np.asarray(gradient)
    if gradient.shape == shape:
        return gradient[()]
    gradient = gradient.sum(axis=tuple(range(max(gradient.ndim - len(shape), 0))))
    ones = tuple(i for i, n in enumerate(shape) if n == 1 and gradient.shape[i] != 1)
    gradient = gradient.sum(axis=ones, keepdims=True) if ones else gradient
    return np.broadcast_to(gradient, shape)[()]


def gradients(graph: TraceGraph, propagator: SumPropagator | None = None) -> dict[Any, Any]:
    """Return the derivative of a graph's outputs, weighed by their feedback, by each of its variables."""
    return (propagator or AutodiffPropagator()).run(graph)


class TraceAutodiff(WorkflowOptimizer):
    """Gradient descent along the trace: the case of the paper in which feedback is a gradient.

    Feedback on an output is the derivative of the loss by it, 1.0 where the output is the loss.

    Parameters
    ----------
    parameters
        Numbers or arrays that may be changed.
    lr
        Greatest step size (0.1).
    method
        `sgd`, or `adam` with the usual averages (0.9, 0.999).
    patience
        After how many steps with the same feedback in a row the status becomes `stalled`; None, the default, for never,
        as a gradient by the loss is always 1.

    References
    ----------
    Cheng, Nie, Swaminathan 2024, arXiv 2406.16218, section 3; Kingma and Ba 2015, arXiv 1412.6980.

    Examples
    --------
    >>> from paperworks.optimization import TraceAutodiff, node
    >>> x = node(3.0, trainable=True)
    >>> opt = TraceAutodiff([x], lr=0.25)
    >>> for _ in range(20):
    ...     opt.zero_feedback()
    ...     opt.backward((x - 1.0) * (x - 1.0), 1.0)
    ...     _ = opt.step()
    >>> round(x.data, 4)
    1.0
    """

    def __init__(
        self, parameters: Iterable[Any], lr: float = 0.1, *, method: str = "sgd", patience: int | None = None
    ) -> None:
        super().__init__(parameters, patience=patience)
        self.lr = check_number("lr", lr, gt=0)
        self.method = check_choice("method", method, ("sgd", "adam"))
        self._steps = 0
        self._moments: dict[int, tuple[Any, Any]] = {}
        self._propagator = AutodiffPropagator()

    @property
    def propagator(self) -> Propagator:
        """What carries gradients to the parameters."""
        return self._propagator

    def gradient(self, parameter: ParameterNode) -> Any:
        """Return the gradient that came to a parameter, summed over all backward passes.

        Parameters
        ----------
        parameter
            One of the parameters.

        Returns
        -------
        Any
            A number or an array like the parameter's value, 0 where none came.
        """
        return sum(parameter.feedback[1:], start=parameter.feedback[0]) if parameter.feedback else 0.0

    def step(self) -> dict[str, Any]:
        """Take one step against the gradient.

        Returns
        -------
        dict[str, Any]
            New values by the name of the parameter.

        Raises
        ------
        ValueError
            Where no feedback has come, or a gradient is not finite.
        """
        reached = [p for p in self.parameters if p.feedback and p.trainable]
        if not reached:
            raise ValueError("no feedback has come to any parameter: call backward, on an output that depends on one")
        self._steps += 1
        changed = {}
        found = {p: self.gradient(p) for p in reached}
        for parameter, gradient in found.items():
            if not np.all(np.isfinite(gradient)):
                raise ValueError(f"the gradient of {parameter.name} is {gradient!r}; it has to be finite")
        for parameter, gradient in found.items():
            direction = gradient
            if self.method == "adam":
                place = self.parameters.index(parameter) if len(self.parameters) == 1 else self._place(parameter)
                m, v = self._moments.get(place, (0.0, 0.0))
                m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient * gradient
                self._moments[place] = (m, v)
                scale = np.sqrt(v / (1 - 0.999**self._steps)) + 1e-8
                direction = m / (1 - 0.9**self._steps) / scale
            value = parameter._data - self.lr * direction
            if parameter.bounds is not None:
                value = np.clip(value, *parameter.bounds)
            parameter.data = float(value) if np.ndim(value) == 0 else value
            changed[parameter.name] = parameter._data
        return changed

    def _place(self, parameter: ParameterNode) -> int:
        return next(i for i, p in enumerate(self.parameters) if p is parameter)

    def backward(self, output: Any, feedback: Any = 1.0, *, retain_graph: bool = False) -> None:
        """Send the derivative of the loss by an output backward.

        Parameters
        ----------
        output
            A node with a number or an array.
        feedback
            The derivative of the loss by it, 1.0 where it is the loss.
        retain_graph
            Whether the trace is kept for another backward pass.

        Raises
        ------
        ValueError
            Where the feedback is no number, or an operator has no derivative.
        """
        if not hasattr(feedback, "shape"):
            number = read_feedback(feedback).score
            if number is None:
                raise ValueError(f"feedback is {feedback!r}; gradient descent takes the derivative by the output")
            feedback = number
        super().backward(output, feedback, retain_graph=retain_graph)

    def propose(self, graph: TraceGraph) -> dict[ParameterNode, Any]:
        """Return nothing: `step` uses gradients, not the graph.

        Parameters
        ----------
        graph
            A minimal subgraph, which is not looked at.

        Returns
        -------
        dict[ParameterNode, Any]
            An empty dictionary.
        """
        return {}

    def _memory(self) -> Any:
        moments = [[i, _listed(m), _listed(v)] for i, (m, v) in self._moments.items()]
        return {"steps": self._steps, "moments": moments}

    def _remember(self, memory: Any) -> None:
        self._steps = memory["steps"]
        self._moments = {i: (_arrayed(m), _arrayed(v)) for i, m, v in memory["moments"]}


def _listed(value: Any) -> Any:
    return np.asarray(value).tolist()


def _arrayed(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, list) else value
