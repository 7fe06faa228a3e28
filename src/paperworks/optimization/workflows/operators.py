"""The operators of Python on nodes: each gives a node that remembers its operands."""

import copy
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

from paperworks.optimization.workflows.nodes import (
    MUTABLE,
    STATE,
    MessageNode,
    Node,
    Operator,
    apply,
    emit,
    leaves_trace,
    raise_traced,
    wrap,
)

BINARY: dict[str, tuple[Callable[..., Any], str]] = {
    "add": (operator.add, "Add."),
    "sub": (operator.sub, "Subtract."),
    "mul": (operator.mul, "Multiply."),
    "matmul": (operator.matmul, "Multiply matrices."),
    "div": (operator.truediv, "Divide."),
    "floordiv": (operator.floordiv, "Divide and round down."),
    "mod": (operator.mod, "Take the remainder."),
    "divmod": (divmod, "Divide and round down, with the remainder."),
    "pow": (operator.pow, "Raise to a power."),
    "lshift": (operator.lshift, "Shift bits to the left."),
    "rshift": (operator.rshift, "Shift bits to the right."),
    "and": (operator.and_, "Combine bits by and."),
    "or": (operator.or_, "Combine bits by or."),
    "xor": (operator.xor, "Combine bits by exclusive or."),
    "lt": (operator.lt, "Whether x is less than y."),
    "le": (operator.le, "Whether x is at most y."),
    "gt": (operator.gt, "Whether x is greater than y."),
    "ge": (operator.ge, "Whether x is at least y."),
    "eq": (operator.eq, "Whether x equals y."),
    "ne": (operator.ne, "Whether x differs from y."),
}
DUNDERS = {"div": "truediv"}
UNARY: dict[str, tuple[Callable[..., Any], str]] = {
    "neg": (operator.neg, "Change the sign."),
    "pos": (operator.pos, "Keep the sign."),
    "abs": (abs, "Take the absolute value."),
    "invert": (operator.invert, "Invert bits."),
    "floor": (math.floor, "Round down."),
    "ceil": (math.ceil, "Round up."),
    "trunc": (math.trunc, "Cut off the decimals."),
}
# NumPy's names of what has a name here already.
UFUNCS = {
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "power": "pow",
    "negative": "neg",
    "positive": "pos",
    "absolute": "abs",
    "fabs": "abs",
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
}
# Methods that change what they are called on: here they give a changed copy.
IN_PLACE = {
    list: {"append", "extend", "insert", "remove", "sort", "reverse", "clear"},
    dict: {"update", "clear"},
    set: {"add", "remove", "discard", "update", "clear", "difference_update", "intersection_update"},
    bytearray: {"append", "extend", "insert", "remove", "reverse", "clear"},
}

GETITEM = Operator("getitem", operator.getitem, ("x", "index"), "Take an item.")
LENGTH = Operator("len", len, ("x",), "Count the items.")
CONTAINS = Operator("contains", operator.contains, ("x", "item"), "Whether an item is in x.")


def _binary(name: str, function: Callable[..., Any], description: str) -> None:
    op = Operator(name, function, ("x", "y"), description)
    get_state = STATE.get

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, Node):
            other = wrap(other)
        try:
            data = function(self._data, other._data)
        except Exception as error:
            raise_traced(error, op, (self, other))
        if get_state().plain:
            return MessageNode(data, op, (self, other))
        return emit(data, op, (self, other))

    def reflected(self: Any, other: Any) -> Any:
        return method(wrap(other), self)

    dunder = DUNDERS.get(name, name)
    setattr(Node, f"__{dunder}__", method)
    if name not in ("lt", "le", "gt", "ge", "eq", "ne"):  # Python turns comparisons round by itself
        setattr(Node, f"__r{dunder}__", reflected)


def _unary(name: str, function: Callable[..., Any], description: str) -> None:
    op = Operator(name, function, ("x",), description)
    setattr(Node, f"__{name}__", lambda self: apply(op, (self,)))


for _name, (_function, _description) in BINARY.items():
    _binary(_name, _function, _description)
for _name, (_function, _description) in UNARY.items():
    _unary(_name, _function, _description)


def _round(self: Any, digits: Any = None) -> Any:
    args = (self,) if digits is None else (self, wrap(digits))
    return apply(Operator("round", round, ("x", "digits")[: len(args)], "Round."), args)


def _iterate(self: Any) -> Iterator[Any]:
    data = self._data
    if isinstance(data, (list, tuple, str, bytes)) or hasattr(data, "__array__"):
        for index in range(len(data)):
            yield self[index]
        return
    items = list(data)
    listed: Any = emit(items, Operator("list", list, ("x",), "List the items."), (self,))
    for index in range(len(items)):
        yield listed[index]


def _attribute(self: Any, name: str) -> Any:
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    try:
        found = getattr(self._data, name)
    except AttributeError as error:
        op = Operator("getattr", getattr, ("x", "name"), f"Take the attribute {name}.")
        raise_traced(error, op, (self,))
    if callable(found):
        return Method(self, name)
    return emit(found, Operator(name, operator.attrgetter(name), ("x",), f"Take the attribute {name}."), (self,))


def _called(self: Any, *args: Any, **kwargs: Any) -> Any:
    function = self._data
    if not callable(function):
        raise TypeError(f"node {self.name} holds a {type(function).__name__}, which can't be called")
    return _call("call", function, (self,), args, kwargs, f"Call {getattr(function, '__name__', 'a function')}.")


class Method:
    """A method of a node's value; to call it is one operation."""

    __slots__ = ("name", "owner")

    def __init__(self, owner: Node, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        data, name = self.owner._data, self.name
        description = f"Call the method {name} of x."
        kind = next((k for k in MUTABLE if isinstance(data, k)), None)
        if kind is None:
            return _call(name, getattr(data, name), (self.owner,), args, kwargs, description)
        twin = copy.copy(data)
        method = getattr(twin, name)
        if name not in IN_PLACE[kind]:  # one like `pop` gives its result, and changes a copy only
            return _call(name, method, (self.owner,), args, kwargs, description)

        def changed(*given: Any, **named: Any) -> Any:
            method(*given, **named)
            return twin

        return _call(name, changed, (self.owner,), args, kwargs, f"Copy x and call {name} on the copy.")


def _call(
    name: str, function: Callable[..., Any], first: tuple[Any, ...], args: Any, kwargs: Any, description: str
) -> Any:
    positional, named = [wrap(a) for a in args], {k: wrap(v) for k, v in kwargs.items()}
    nodes = (*first, *positional, *named.values())
    keys = ("x", *(f"x{i}" for i in range(1, len(nodes))))[: len(nodes) - len(named)] + tuple(named)
    op = Operator(name, function, keys, description)
    try:
        data = function(*[a._data for a in positional], **{k: v._data for k, v in named.items()})
    except Exception as error:
        raise_traced(error, op, nodes)
    return emit(data, op, nodes)


def _ufunc(self: Any, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    if method != "__call__" or kwargs.get("out") is not None:
        return NotImplemented
    name = UFUNCS.get(ufunc.__name__, ufunc.__name__)
    keys = ("x", "y", "z")[: len(inputs)]
    function = (lambda *values: ufunc(*values, **kwargs)) if kwargs else ufunc
    return apply(Operator(name, function, keys, f"NumPy's {ufunc.__name__}."), tuple([wrap(i) for i in inputs]))


def _array_function(self: Any, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    if kwargs.get("out") is not None:
        return NotImplemented
    return _call(function.__name__, function, (), args, kwargs, f"NumPy's {function.__name__}.")


def _untraced(what: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def method(self: Any) -> Any:
        leaves_trace(what, self)
        return function(self._data)

    return method


def _formatted(self: Any, spec: str) -> str:
    leaves_trace("an f-string", self)
    return format(self._data, spec)


def _within(self: Any, item: Any) -> bool:
    leaves_trace("in", self)
    return (item._data if isinstance(item, Node) else item) in self._data


def _set_in_place(self: Any, index: Any, value: Any) -> None:
    raise TypeError(f"items of node {self.name} are not set in place; set_item(index, value) gives a changed copy")


def _equal(self: Any, other: Any) -> Any:
    """Return whether the values are equal, as a node; the same as `==`.

    Parameters
    ----------
    other
        A node or a value.

    Returns
    -------
    Any
        Node of the truth value.
    """
    return self == other


def _differs(self: Any, other: Any) -> Any:
    """Return whether the values differ, as a node; the same as `!=`.

    Parameters
    ----------
    other
        A node or a value.

    Returns
    -------
    Any
        Node of the truth value.
    """
    return self != other


def _getattr(self: Any, name: str) -> Any:
    """Return an attribute or a method of the value, also one that the node has itself, such as `name`.

    Parameters
    ----------
    name
        Name of the attribute.

    Returns
    -------
    Any
        Node of the attribute, or the traced method.
    """
    return _attribute(self, name)


def _length(self: Any) -> Any:
    """Return how many items the value has, as a node; `len` itself leaves the trace.

    Returns
    -------
    Any
        Node of the number of items.
    """
    return apply(LENGTH, (self,))


def _contains(self: Any, item: Any) -> Any:
    """Return whether an item is in the value, as a node; `in` itself leaves the trace.

    Parameters
    ----------
    item
        A node or a value.

    Returns
    -------
    Any
        Node of the truth value.
    """
    return apply(CONTAINS, (self, wrap(item)))


def _set_item(self: Any, index: Any, value: Any) -> Any:
    """Return a copy of the value in which one item is another.

    Parameters
    ----------
    index
        Place or key of the item, a node or a value.
    value
        The new item, a node or a value.

    Returns
    -------
    Any
        Node of the changed copy.
    """

    def changed(data: Any, where: Any, item: Any) -> Any:
        twin = copy.copy(data)
        twin[where] = item
        return twin

    op = Operator("set_item", changed, ("x", "index", "value"), "Copy x and set an item of the copy.")
    return apply(op, (self, wrap(index), wrap(value)))


_ADDED: dict[str, Any] = {
    "__round__": _round,
    "__getitem__": lambda self, index: apply(GETITEM, (self, wrap(index))),
    "__setitem__": _set_in_place,
    "__iter__": _iterate,
    "__getattr__": _attribute,
    "__call__": _called,
    "__array_ufunc__": _ufunc,
    "__array_function__": _array_function,
    "__hash__": object.__hash__,
    "__bool__": _untraced("bool", bool),
    "__int__": _untraced("int", int),
    "__float__": _untraced("float", float),
    "__complex__": _untraced("complex", complex),
    "__index__": _untraced("an index", operator.index),
    "__len__": _untraced("len", len),
    "__str__": _untraced("str", str),
    "__format__": _formatted,
    "__contains__": _within,
    "getattr": _getattr,
    "eq": _equal,
    "neq": _differs,
    "len": _length,
    "contains": _contains,
    "set_item": _set_item,
}
for _name, _function in _ADDED.items():
    setattr(Node, _name, _function)
