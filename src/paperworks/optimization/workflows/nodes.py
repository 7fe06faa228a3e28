"""Nodes: values that remember what they were computed from, while ordinary Python runs.

What runs is recorded in the nodes themselves and nowhere else, so that a trace is collected with the last reference to
its output. Whether tracing is on, the scope of names and what a bundled function has read are local to the context
(`contextvars`): workflows in threads and in tasks of asyncio don't see each other's.
"""

import copy
import functools
import itertools
import keyword
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from paperworks.optimization.workflows.errors import execution_error
from paperworks.optimization.workflows.graph import GraphPropagator, Propagator, minimal_subgraph

_created = itertools.count()
MUTABLE = (list, dict, set, bytearray)


class NodeRegistry:
    """The names of nodes, and the named nodes that are alive.

    It holds nodes weakly: what nothing else refers to is collected. Results of operators are not registered at all;
    they are reached from outputs.

    Examples
    --------
    >>> from paperworks.optimization import GRAPH, new_graph, node
    >>> with new_graph():
    ...     x = node(1.0, name="x")
    ...     GRAPH.get("x:0") is x, len(GRAPH)
    (True, 1)
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._named: weakref.WeakValueDictionary[str, Node] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def take(self, base: str, named: "Node | None" = None) -> str:
        """Return the next free name of this base, and keep the node under it where one is given.

        Parameters
        ----------
        base
            What comes before the colon.
        named
            The node that gets the name, held weakly.

        Returns
        -------
        str
            A name such as `x:0`.
        """
        with self._lock:
            number = self._counts.get(base, 0)
            self._counts[base] = number + 1
            name = f"{base}:{number}"
            if named is not None:
                self._named[name] = named
        return name

    def get(self, name: str) -> "Node | None":
        """Return the living node of this name.

        Parameters
        ----------
        name
            A name such as `x:0`.

        Returns
        -------
        Node | None
            The node, or None where none of this name is alive.
        """
        return self._named.get(name)

    def clear(self) -> None:
        """Forget all names and begin to number anew."""
        with self._lock:
            self._counts.clear()
            self._named.clear()

    def __len__(self) -> int:
        return len(self._named)


class TraceState:
    """What holds for the operations of one context; a new one replaces it, none is changed."""

    __slots__ = ("plain", "reads", "registry", "scope", "strict", "tracing")

    def __init__(
        self,
        registry: NodeRegistry,
        *,
        tracing: bool = True,
        strict: bool = False,
        scope: str = "",
        reads: "dict[int, Node] | None" = None,
    ) -> None:
        self.registry, self.tracing, self.strict, self.scope, self.reads = registry, tracing, strict, scope, reads
        self.plain = tracing and not strict and reads is None

    def but(self, **changes: Any) -> "TraceState":
        """Return a state that differs in `changes`."""
        held = {name: getattr(self, name) for name in ("tracing", "strict", "scope", "reads")}
        return TraceState(changes.pop("registry", self.registry), **{**held, **changes})


STATE: ContextVar[TraceState] = ContextVar("paperworks_trace", default=TraceState(NodeRegistry()))  # noqa: B039


@contextmanager
def state_with(**changes: Any) -> Iterator[TraceState]:
    """Let the operations of a block run in another state."""
    state = STATE.get().but(**changes)
    token = STATE.set(state)
    try:
        yield state
    finally:
        STATE.reset(token)


class _CurrentRegistry:
    def __getattr__(self, name: str) -> Any:
        return getattr(STATE.get().registry, name)

    def __len__(self) -> int:
        return len(STATE.get().registry)


GRAPH = _CurrentRegistry()
"""The registry of the current context, a `NodeRegistry`."""


@contextmanager
def stop_tracing() -> Iterator[None]:
    """Let operations on nodes run without being recorded, in this context only.

    Returns
    -------
    Iterator[None]
        A context manager; results made inside are nodes without parents.

    Examples
    --------
    >>> from paperworks.optimization import node, stop_tracing
    >>> x = node(2.0)
    >>> with stop_tracing():
    ...     y = x + 1
    >>> y.data, y.parents
    (3.0, ())
    """
    with state_with(tracing=False):
        yield


@contextmanager
def strict_tracing() -> Iterator[None]:
    """Warn where a value leaves the trace unseen, and find values that are changed in place.

    In the block `bool`, `int`, `float`, `len`, `in`, `str` and f-strings of nodes warn, and nodes with mutable values
    keep a fingerprint, which the backward pass compares.

    Returns
    -------
    Iterator[None]
        A context manager.

    Examples
    --------
    >>> import warnings
    >>> from paperworks.optimization import node, strict_tracing
    >>> with strict_tracing(), warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     text = f"{node(1)}"
    >>> len(caught)
    1
    """
    with state_with(strict=True):
        yield


@contextmanager
def new_graph(scope: str = "") -> Iterator[NodeRegistry]:
    """Give the context a registry of its own, with names that count from 0.

    Parameters
    ----------
    scope
        What names begin with, before a slash.

    Returns
    -------
    Iterator[NodeRegistry]
        A context manager that gives the registry.

    Examples
    --------
    >>> from paperworks.optimization import new_graph, node
    >>> with new_graph("worker1"):
    ...     node(3, name="x").name
    'worker1/x:0'
    """
    registry = NodeRegistry()
    with state_with(registry=registry, scope=scope):
        yield registry


class Operator:
    """What computed a node: a name, what it does in words, and how its arguments are called.

    Parameters
    ----------
    name
        Name that stands in pseudo-code.
    function
        Function of the raw values.
    keys
        Names of its arguments.
    description
        What it does, in words; by default taken from `function` when it is asked for.
    """

    __slots__ = ("_description", "function", "keys", "name")

    def __init__(
        self, name: str, function: Callable[..., Any], keys: tuple[str, ...] = ("x",), description: str | None = None
    ) -> None:
        self.name, self.function, self.keys, self._description = name, function, keys, description

    @property
    def description(self) -> str:
        """The name in brackets, then what the operator does."""
        if self._description is None:
            self._description = next(iter((self.function.__doc__ or "").strip().splitlines()), "")
        return f"[{self.name}] {self._description}".rstrip()

    @property
    def info(self) -> dict[str, Any]:
        """What is known of the function: its documentation, and for a bundle its source and signature."""
        return {"doc": self.function.__doc__, "name": self.name}

    def __call__(self, *args: Any) -> "Node":
        return apply(self, tuple([a if isinstance(a, Node) else wrap(a) for a in args]))


class Node:
    """A value in a trace. Operations on it give nodes that remember it; `data` is the value itself.

    Nodes are compared by value with `==`, which is traced and gives a node, and hashed by identity: dictionaries and
    sets of nodes go by identity, and `in` or `index` on lists of nodes must not be used.

    Control flow is not traced: `if x > 0` asks `bool(node)` and the branch that runs is what is recorded. Methods of a
    value that would change it in place (`append`, `update`) leave it alone and give a node with a changed copy.

    Attributes and methods of the value are reached as its own, save those that a node has itself (`name`, `data`,
    `args`, `level`, `info` ...): `getattr("name")` takes these. Copies and pickles of a node hold its value, without
    the trace that led there.

    Parameters
    ----------
    data
        The value, any object.
    name
        What its name begins with; none is given one when it is asked for.
    description
        What it is, in words.

    Examples
    --------
    >>> from paperworks.optimization import node
    >>> x = node([3, 1, 2])
    >>> (x[0] + 1).data, x.append(9).data, x.data
    (4, [3, 1, 2, 9], [3, 1, 2])
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_data",
        "_name",
        "_note",
        "_print",
        "arg_names",
        "args",
        "created",
        "inner",
        "level",
        "op",
    )
    trainable = False

    def __init__(self, data: Any, *, name: str | None = None, description: str | None = None) -> None:
        self._data = data
        self.args: tuple[Node, ...] | None = ()
        self.arg_names: tuple[str, ...] = ()
        self.op: Any = None
        self.inner: Node | None = None
        self.level = 0
        self.created = next(_created)
        self._base, self._name, self._note, self._print = None, None, description, None
        if name is not None:
            self._base = _checked_name(name)
            self._name = _scoped(self._base, self)
        state = STATE.get()
        if state.strict:
            self._print = fingerprint(data)

    @property
    def data(self) -> Any:
        """The value itself; a bundled function that asks for it is seen to read this node."""
        reads = STATE.get().reads
        if reads is not None:
            reads[id(self)] = self
        return self._data

    @property
    def parents(self) -> "tuple[Node, ...]":
        """The nodes that this one was computed from, each once."""
        return tuple(dict.fromkeys(self.args or ()))

    @property
    def named(self) -> bool:
        """Whether somebody gave it a name."""
        return self._base is not None

    @property
    def base(self) -> str:
        """What its name begins with: the given name, that of its operator or of its type."""
        return self._base or (self.op.name if self.op else type(self._data).__name__)

    @property
    def name(self) -> str:
        """Its unique name, as in `x:0`, with the scope before a slash."""
        if self._name is None:
            self._name = _scoped(self.base)
        return self._name

    @property
    def py_name(self) -> str:
        """Its name as an identifier, as in `x0`."""
        return self.name.replace(":", "").replace("/", "_")

    @property
    def description(self) -> str:
        """What it is, in words."""
        if self._note is None:
            return self.op.description if self.op else "[node] A value that was given."
        return self._note

    @property
    def info(self) -> dict[str, Any]:
        """What is known of the function that computed it: documentation, and for bundles source and signature."""
        return self.op.info if self.op else {}

    def backward(self, feedback: Any, *, propagator: Propagator | None = None, retain_graph: bool = False) -> None:
        """Send feedback on this node to all trainable nodes that it was computed from.

        Parameters
        ----------
        feedback
            A number, a sentence, a stack trace: whatever the optimiser reads.
        propagator
            What travels; by default the minimal subgraph itself (`GraphPropagator`).
        retain_graph
            Whether the trace is kept for another backward pass; else what it went through is freed.

        Raises
        ------
        ValueError
            Where the feedback is None, a value was changed in place (known in strict mode), or the trace has a cycle.
        TypeError
            Where the propagator is none.
        RuntimeError
            Where feedback went this way before without `retain_graph`.
        """
        if feedback is None:
            raise ValueError("feedback is None; it takes a number, a text or anything else that the optimiser reads")
        if not isinstance(propagator, (Propagator, type(None))):
            raise TypeError(f"propagator is {propagator!r}; it takes a Propagator, such as GraphPropagator()")
        propagator = propagator or GraphPropagator()
        graph = minimal_subgraph(self, feedback)
        for node in graph.nodes:
            if node._print is not None and node._print != fingerprint(node._data):
                raise ValueError(
                    f"node {node.name} was changed in place since it was traced; let the function return a changed copy"
                )
        for parameter, found in propagator.run(graph).items():
            parameter.feedback.append(found)
        if not retain_graph:
            for node, parents in zip(graph.nodes, graph.parents, strict=True):
                if parents:
                    node.args, node.inner = None, None

    def __copy__(self) -> "Node":
        return Node(self._data, name=self._base, description=self._note)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Node":
        return Node(copy.deepcopy(self._data, memo), name=self._base, description=self._note)

    def __reduce__(self) -> Any:  # a name and a place in the order of creation are of one process
        return functools.partial(Node, name=self._base, description=self._note), (self._data,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}={self._data!r})"


class ParameterNode(Node):
    """A value that an optimiser may change.

    Parameters
    ----------
    data
        The value at the beginning.
    name
        What its name begins with, by default `param`.
    trainable
        Whether optimisers may change it now.
    description
        What it is, in words, for an optimiser that reads.
    constraint
        What it has to obey, in words.
    choices
        The values that it may take, where they are few.
    bounds
        Least and greatest value of a number.

    Attributes
    ----------
    feedback
        What backward passes brought, since it was last cleared.

    Raises
    ------
    ValueError
        Where `bounds` or `choices` can't be met, or the value meets neither.

    Examples
    --------
    >>> from paperworks.optimization import node
    >>> C = node(1.0, trainable=True, name="C", bounds=(1e-3, 1e3))
    >>> C.data = 10.0
    >>> C.data
    10.0
    """

    __slots__ = ("bounds", "choices", "constraint", "feedback", "language", "trainable")

    def __init__(
        self,
        data: Any,
        *,
        name: str | None = None,
        trainable: bool = True,
        description: str | None = None,
        constraint: str | None = None,
        choices: Sequence[Any] | None = None,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(data, name=name or "param", description=description)
        self.trainable, self.constraint = trainable, constraint
        self.choices = None if choices is None else list(choices)
        self.bounds = bounds
        self.feedback: list[Any] = []
        self.language = ""  # "python" where the value is the source of a function
        if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
            raise ValueError(f"bounds is {bounds!r}; it takes (least, greatest) with least < greatest")
        if self.choices is not None and not self.choices:
            raise ValueError("choices is empty; it takes at least one value")
        problem = self.problem_with(data)
        if problem:
            raise ValueError(f"data is {data!r}; {problem}")

    @property
    def data(self) -> Any:
        """The value; a bundled function that asks for it is seen to read this node."""
        reads = STATE.get().reads
        if reads is not None:
            reads[id(self)] = self
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value
        if self._print is not None:
            self._print = fingerprint(value)

    def zero_feedback(self) -> None:
        """Forget the feedback that has come so far."""
        self.feedback.clear()

    def problem_with(self, value: Any) -> str:
        """Say in words why the parameter can't take a value, or nothing where it can.

        Parameters
        ----------
        value
            A value that somebody proposes.

        Returns
        -------
        str
            The reason, empty where there is none.
        """
        if self.choices is not None and not any(value is c or value == c for c in self.choices):
            return f"it takes one of {self.choices!r}"
        if self.bounds is not None:
            low, high = self.bounds
            if not isinstance(value, (int, float)) or not low <= value <= high:
                return f"it takes a number from {low} to {high}"
        return ""

    def __deepcopy__(self, memo: dict[int, Any]) -> "ParameterNode":
        twin = ParameterNode(
            copy.deepcopy(self._data, memo),
            name=self._base,
            trainable=self.trainable,
            description=self._note,
            constraint=self.constraint,
            choices=self.choices,
            bounds=self.bounds,
        )
        twin.language = self.language
        memo[id(self)] = twin
        return twin

    def __copy__(self) -> "ParameterNode":
        return self.__deepcopy__({})

    def __reduce__(self) -> Any:
        held = {n: getattr(self, n) for n in ("trainable", "constraint", "choices", "bounds")}
        return functools.partial(ParameterNode, name=self._base, description=self._note, **held), (self._data,)


class MessageNode(Node):
    """The result of an operator on other nodes.

    Parameters
    ----------
    data
        Result of the operator.
    op
        The operator that computed it.
    args
        The nodes it was computed from, in the order of its arguments.
    keys
        What the operator calls them.

    Examples
    --------
    >>> from paperworks.optimization import node
    >>> y = node(1) + node(2)
    >>> y.data, y.level, y.description
    (3, 1, '[add] Add.')
    """

    __slots__ = ()

    def __init__(self, data: Any, op: Any, args: tuple[Node, ...], keys: tuple[str, ...] | None = None) -> None:
        self._data = data
        self.op = op
        self.args = args
        self.arg_names = op.keys if keys is None else keys
        level = 0
        for arg in args:
            if arg.level > level:
                level = arg.level
        self.level = level + 1
        self.created = next(_created)
        self._base = self._name = self._note = self._print = self.inner = None


class ExceptionNode(MessageNode):
    """What takes the place of a result where an operator failed; its value is the error with the line that raised it.

    Parameters
    ----------
    error
        The exception that was raised.
    op
        The operator that failed.
    args
        The nodes it was given.
    keys
        What the operator calls them.
    text
        What is shown, by default the exception.
    line
        Line of the function's source that failed, counted from 1.
    code
        The parameter that holds the source, where it is trainable.

    Examples
    --------
    >>> from paperworks.optimization import ExecutionError, node
    >>> try:
    ...     node(1) / node(0)
    ... except ExecutionError as error:
    ...     print(error.node.data)
    (ZeroDivisionError) division by zero, in div(1, 0)
    """

    __slots__ = ("code", "error", "line")

    def __init__(
        self,
        error: BaseException,
        op: Any,
        args: tuple[Node, ...],
        keys: tuple[str, ...] | None = None,
        *,
        text: str | None = None,
        line: int | None = None,
        code: ParameterNode | None = None,
    ) -> None:
        if text is None:
            shown = ", ".join(repr(a._data)[:60] for a in args)
            text = f"({type(error).__name__}) {error}, in {op.name}({shown})"
        super().__init__(text, op, args, keys)
        self.error, self.line, self.code = error, line, code


def node(
    data: Any,
    trainable: bool = False,
    name: str | None = None,
    description: str | None = None,
    constraint: str | None = None,
    *,
    choices: Sequence[Any] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Node:
    """Wrap a value, so that what is computed from it is traced.

    A list, tuple, dictionary or set that holds nodes becomes a node computed from them.

    Parameters
    ----------
    data
        Any object; a node is given back as it is.
    trainable
        Whether optimisers may change it.
    name
        What its unique name begins with.
    description
        What it is, in words.
    constraint
        What it has to obey, in words.
    choices
        The values that it may take, where they are few.
    bounds
        Least and greatest value of a number.

    Returns
    -------
    Node
        A `ParameterNode` where it is trainable.

    Raises
    ------
    ValueError
        Where a node that is not trainable is asked to be so, or the value meets neither `bounds` nor `choices`.

    Examples
    --------
    >>> from paperworks.optimization import node
    >>> prompt = node("Answer in one word.", trainable=True, constraint="at most 20 words")
    >>> (prompt + " Why?").data
    'Answer in one word. Why?'
    """
    if isinstance(data, Node):
        if trainable and not data.trainable:
            raise ValueError(f"data is {data!r}, which is not trainable; trainable=True takes a value, not a node")
        return data
    if trainable or constraint is not None or choices is not None or bounds is not None:
        return ParameterNode(
            data,
            name=name,
            trainable=trainable,
            description=description,
            constraint=constraint,
            choices=choices,
            bounds=bounds,
        )
    if isinstance(data, (list, tuple, dict, set, frozenset)) and holds_nodes(data):
        return wrap(data)
    return Node(data, name=name, description=description)


def wrap(data: Any) -> Node:
    """Return a node for any value: itself where it is one, computed from its items where they are nodes."""
    if isinstance(data, Node):
        return data
    if isinstance(data, (list, tuple, set, frozenset)) and holds_nodes(data):
        kind = type(data)
        items = tuple([wrap(item) for item in data])
        op = Operator(kind.__name__, kind, tuple(f"x{i}" for i in range(len(items))), "Collect values.")
        values = [item._data for item in items]
        return emit(kind(*values) if hasattr(data, "_fields") else kind(values), op, items)
    if isinstance(data, dict) and holds_nodes(data):
        keys = [k._data if isinstance(k, Node) else k for k in data]
        items = (*[wrap(v) for v in data.values()], *[k for k in data if isinstance(k, Node)])
        names = tuple(f"x{i}" for i in range(len(items)))
        op = Operator("dict", dict, names, "Collect values under keys.")
        return emit(dict(zip(keys, [v._data for v in items], strict=False)), op, items)
    return Node(data)


def holds_nodes(data: Any, depth: int = 4) -> bool:
    """Whether a container holds nodes, itself or in containers of its own."""
    items = itertools.chain(data.keys(), data.values()) if isinstance(data, dict) else data
    for item in items:
        if isinstance(item, Node):
            return True
        if depth and isinstance(item, (list, tuple, dict, set, frozenset)) and holds_nodes(item, depth - 1):
            return True
    return False


def unwrap(data: Any, depth: int = 4) -> Any:
    """Return a value without nodes in it: their values, read as by `Node.data`."""
    if isinstance(data, Node):
        return data.data
    if depth and isinstance(data, (list, tuple, set, frozenset)) and holds_nodes(data):
        values = [unwrap(item, depth - 1) for item in data]
        return type(data)(*values) if hasattr(data, "_fields") else type(data)(values)
    if depth and isinstance(data, dict) and holds_nodes(data):
        return {unwrap(k): unwrap(v, depth - 1) for k, v in data.items()}
    return data


def emit(data: Any, op: Any, args: tuple[Node, ...], keys: tuple[str, ...] | None = None) -> Node:
    """Return the node of a result, as the state of the context wants it."""
    state = STATE.get()
    if state.plain:
        return MessageNode(data, op, args, keys)
    if state.reads is not None:
        state.reads.update((id(a), a) for a in args if a.args or a.args is None or a.named)
        return Node(data)
    if not state.tracing:
        return Node(data)
    result = MessageNode(data, op, args, keys)
    result._print = fingerprint(data)
    return result


def apply(op: Operator, args: tuple[Node, ...]) -> Node:
    """Run an operator on nodes."""
    try:
        data = op.function(*[a._data for a in args])
    except Exception as error:
        raise_traced(error, op, args)
    return emit(data, op, args)


def raise_traced(error: Exception, op: Any, args: tuple[Node, ...]) -> Any:
    """Raise an error that feedback can be sent back from."""
    raise execution_error(ExceptionNode(error, op, args), error) from error


def fingerprint(data: Any) -> int | None:
    """Return a number that changes with a mutable value, None for what can't change or can't be shown."""
    if not isinstance(data, MUTABLE) and not hasattr(data, "__array__"):
        return None
    try:
        return hash((type(data).__name__, data.tobytes() if hasattr(data, "tobytes") else repr(data)))
    except Exception:
        return None


def leaves_trace(what: str, node: Node) -> None:
    """Note that a bare value is taken from a node, by a way that the trace doesn't see."""
    state = STATE.get()
    if state.strict:
        warnings.warn(
            f"{what} of node {node.name} gives a value that the trace doesn't follow; "
            "use the traced methods, or bundle the function",
            stacklevel=3,
        )
    if state.reads is not None:
        state.reads[id(node)] = node


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; it takes a text")
    base = name.partition(":")[0]
    if not base.isidentifier() or keyword.iskeyword(base):
        base = re.sub(r"\W", "_", base) or "node"
        base = f"_{base}" if base[0].isdigit() or keyword.iskeyword(base) else base
    return base


def _scoped(base: str, named: Node | None = None) -> str:
    state = STATE.get()
    return state.registry.take(f"{state.scope}/{base}" if state.scope else base, named)
