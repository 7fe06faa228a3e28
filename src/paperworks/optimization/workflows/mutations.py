"""Small changes of values, by their type: numbers, choices, lists, lines of text, and the syntax tree of code."""

import ast
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from paperworks.optimization.workflows.nodes import ParameterNode

ARITHMETIC: tuple[type[ast.operator], ...] = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
COMPARISONS: tuple[type[ast.cmpop], ...] = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


def mutate_number(value: float, rng: np.random.Generator, scale: float, bounds: Any) -> float | int:
    """Return a number times a log-normal factor, now and then with another sign; steps of the span within bounds."""
    whole = isinstance(value, int)
    if bounds is not None and not (whole and bounds[1] - bounds[0] < 4):
        new = value + scale * (bounds[1] - bounds[0]) * rng.standard_normal()
        new = min(max(new, bounds[0]), bounds[1])
    elif value == 0:
        new = scale * rng.standard_normal() * (3 if whole else 1)
    else:
        new = value * math.exp(scale * rng.standard_normal())
        new = -new if rng.random() < 0.1 else new
    if not whole:
        return float(new)
    rounded = round(new)
    if rounded == value:
        rounded = value + (1 if rng.random() < 0.5 else -1)
    return int(min(max(rounded, bounds[0]), bounds[1])) if bounds is not None else int(rounded)


def mutate_items(items: list[Any], rng: np.random.Generator, change: Callable[[Any], Any]) -> list[Any]:
    """Return a list with an item changed, dropped, doubled or swapped with its neighbour."""
    items = list(items)
    if not items:
        return items
    place = int(rng.integers(len(items)))
    kind = rng.choice(["change", "drop", "double", "swap"]) if len(items) > 1 else rng.choice(["change", "double"])
    if kind == "change":
        items[place] = change(items[place])
    elif kind == "drop":
        del items[place]
    elif kind == "double":
        items.insert(place, copy.deepcopy(items[place]))
    else:
        other = (place + 1) % len(items)
        items[place], items[other] = items[other], items[place]
    return items


def mutate(parameter: ParameterNode, rng: np.random.Generator, scale: float, value: Any = None) -> Any:
    """Return a changed value for a parameter other than code: another choice, or a small change by its type."""
    value = parameter._data if value is None else value
    if parameter.choices is not None:
        others = [c for c in parameter.choices if c != value]
        return others[int(rng.integers(len(others)))] if others else value
    return _mutate_value(value, rng, scale, parameter.bounds)


def _mutate_value(value: Any, rng: np.random.Generator, scale: float, bounds: Any = None) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return mutate_number(value, rng, scale, bounds)
    if hasattr(value, "__array__") and getattr(value, "dtype", None) is not None and value.dtype.kind == "f":
        return value + scale * (np.abs(value) + 0.1) * rng.standard_normal(value.shape)
    if isinstance(value, str):
        separator = "\n" if "\n" in value else " "
        return separator.join(mutate_items(value.split(separator), rng, lambda line: line))
    if isinstance(value, (list, tuple)):
        return type(value)(mutate_items(list(value), rng, lambda v: _mutate_value(v, rng, scale)))
    if isinstance(value, dict) and value:
        key = list(value)[int(rng.integers(len(value)))]
        return {**value, key: _mutate_value(value[key], rng, scale)}
    return value


class CodeEdit(NamedTuple):
    """A small change of a function.

    Parameters
    ----------
    line
        Line of the change in the source before.
    kind
        What was changed: an operator, a constant, a name and so on.
    source
        The changed source.
    """

    line: int
    kind: str
    source: str


def code_mutations(source: str, rng: np.random.Generator, scale: float = 0.5) -> list[CodeEdit]:
    """Return all small changes of a function: another operator, constant, comparison, index, name; a statement less,
    or twice.

    Parameters
    ----------
    source
        Source of one function.
    rng
        Draws the factors of constants.
    scale
        Spread of the logarithm of those factors.

    Returns
    -------
    list[CodeEdit]
        Changes, each source once.
    """
    tree = ast.parse(source)
    function = next(n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    names = _names(function)
    found: dict[str, CodeEdit] = {}
    for line, kind, undo in _edits(function, names, rng, scale):
        try:
            text = ast.unparse(ast.fix_missing_locations(tree))
        except (ValueError, AttributeError, TypeError):
            text = ""
        undo()
        if text:
            found.setdefault(text, CodeEdit(line, kind, text))
    found.pop(ast.unparse(tree), None)
    return list(found.values())


def _names(function: Any) -> list[str]:
    a = function.args
    found = dict.fromkeys(arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs))
    found |= dict.fromkeys(n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return list(found)


Edit = tuple[int, str, Callable[[], None]]


def _swap(owner: Any, name: str, value: Any, line: int, kind: str) -> Edit:
    old = getattr(owner, name)
    setattr(owner, name, value)
    return line, kind, lambda: setattr(owner, name, old)


def _edits(function: Any, names: list[str], rng: np.random.Generator, scale: float) -> Iterator[Edit]:
    """Yield edits of the tree one by one; each is undone before the next is asked for."""
    body = [n for statement in function.body for n in ast.walk(statement)]
    for node in body:
        line = getattr(node, "lineno", function.lineno)
        if isinstance(node, (ast.BinOp, ast.AugAssign)):
            for kind in ARITHMETIC:
                if not isinstance(node.op, kind):
                    yield _swap(node, "op", kind(), line, "operator")
        if isinstance(node, ast.BinOp):
            left, right = node.left, node.right
            node.left, node.right = right, left
            yield line, "order", _restore(node, left=left, right=right)
        elif isinstance(node, ast.Compare):
            for other in COMPARISONS:
                if not isinstance(node.ops[0], other):
                    yield _swap(node, "ops", [other(), *node.ops[1:]], line, "comparison")
            if isinstance(node.ops[0], (ast.In, ast.NotIn)):
                yield _swap(
                    node, "ops", [ast.NotIn() if isinstance(node.ops[0], ast.In) else ast.In()], line, "comparison"
                )
        elif isinstance(node, ast.BoolOp):
            yield _swap(node, "op", ast.And() if isinstance(node.op, ast.Or) else ast.Or(), line, "comparison")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield _swap(node, "op", ast.UAdd(), line, "comparison")
        elif isinstance(node, ast.Constant):
            for value in _constants(node.value, rng, scale):
                yield _swap(node, "value", value, line, "constant")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
            for name in names:
                if name != node.id:
                    yield _swap(node, "id", name, line, "name")
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
            for kind in (ast.Add, ast.Sub):
                yield _swap(node, "slice", ast.BinOp(node.slice, kind(), ast.Constant(1)), line, "index")
        elif isinstance(node, ast.Slice):
            for end in ("lower", "upper"):
                bound = getattr(node, end)
                if bound is not None:
                    yield _swap(node, end, None, line, "index")
                    for kind in (ast.Add, ast.Sub):
                        yield _swap(node, end, ast.BinOp(bound, kind(), ast.Constant(1)), line, "index")
        elif isinstance(node, ast.Call):
            for i, argument in enumerate(node.args):
                for kind in (ast.Add, ast.Sub):
                    changed = ast.BinOp(argument, kind(), ast.Constant(1))
                    yield _swap(node, "args", [*node.args[:i], changed, *node.args[i + 1 :]], line, "argument")
    for block in [function, *body]:
        for field in ("body", "orelse"):
            statements = getattr(block, field, None)
            if isinstance(statements, list) and statements and isinstance(statements[0], ast.stmt):
                yield from _statements(block, field, statements)


def _restore(node: Any, **values: Any) -> Callable[[], None]:
    def undo() -> None:
        for name, value in values.items():
            setattr(node, name, value)

    return undo


def _constants(value: Any, rng: np.random.Generator, scale: float) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return list(dict.fromkeys([value + 1, value - 1, -value, 2 * value, 0, 1]))
    if isinstance(value, float):
        return [value * math.exp(scale * rng.standard_normal()), -value, value + rng.standard_normal(), 0.0, 1.0]
    return []


def _statements(block: Any, field: str, statements: list[Any]) -> Iterator[Edit]:
    for i, statement in enumerate(statements):
        documents = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if documents:
            continue
        rest = [*statements[:i], *statements[i + 1 :]]
        yield _swap(block, field, rest or [ast.Pass()], statement.lineno, "statement")
        yield _swap(
            block, field, [*statements[: i + 1], statement, *statements[i + 1 :]], statement.lineno, "statement"
        )
        if i + 1 < len(statements):
            swapped = [*statements[:i], statements[i + 1], statement, *statements[i + 2 :]]
            yield _swap(block, field, swapped, statement.lineno, "statement")
