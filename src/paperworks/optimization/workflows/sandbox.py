"""Code that nobody vouches for: what it may use, how long it may run, and a process of its own to run it in.

A list of what is allowed in the syntax tree stops accidents, not attackers: people have found ways around every such
list in Python. Code of a language model, or of anybody else, is only contained by the process with limits, and then
only as well as the operating system contains a process of the same user; for hostile code use a container or another
machine.
"""

import ast
import builtins
import functools
import json
import math
import operator
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.workflows.errors import StepLimitError, UnsafeCodeError

ALLOWED_BUILTINS = frozenset((
    "abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "callable", "chr", "complex", "dict",
    "divmod", "enumerate", "filter", "float", "format", "frozenset", "hash", "hex", "int", "isinstance",
    "issubclass", "iter", "len", "list", "map", "max", "min", "next", "oct", "ord", "pow", "print", "range", "repr",
    "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "zip", "True", "False", "None",
    "ArithmeticError", "AssertionError", "AttributeError", "Exception", "IndexError", "KeyError", "LookupError",
    "OverflowError", "RuntimeError", "StopIteration", "TypeError", "ValueError", "ZeroDivisionError",
))  # fmt: skip
FORBIDDEN_NAMES = frozenset((
    "eval", "exec", "compile", "open", "input", "__import__", "globals", "locals", "vars", "getattr", "setattr",
    "delattr", "dir", "memoryview", "object", "type", "super", "breakpoint", "exit", "quit", "help", "classmethod",
    "staticmethod", "property",
))  # fmt: skip
FORBIDDEN_ATTRIBUTES = ("gi_", "cr_", "ag_", "f_", "tb_", "co_", "func_", "mro")
FORBIDDEN_NODES = (
    ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.ClassDef, ast.AsyncFunctionDef, ast.AsyncFor,
    ast.AsyncWith, ast.Await, ast.Yield, ast.YieldFrom, ast.With,
    *(kind for name in ("TypeAlias", "TryStar") if (kind := getattr(ast, name, None))),
)  # fmt: skip
TICK = "_paperworks_tick"
MOST_BITS, MOST_ITEMS = 10_000, 1_000_000
GROWING = {ast.Add: "add", ast.Mult: "mul", ast.Pow: "pow", ast.LShift: "lshift"}


@dataclass(frozen=True)
class Sandbox:
    """What trainable code may do: use allowed syntax and built-ins alone, within limits.

    It is no security boundary without a process of its own: see the module's first lines. In a process the function
    gets nothing but its arguments and `math`, and arguments and results travel as JSON.

    Parameters
    ----------
    steps
        In this process: most turns of loops and calls of functions in one call; the next raises an error, as do
        operators that make numbers of more than 10,000 bits or sequences of more than a million items. What runs long
        inside of a built-in (`list(iter(int, 1))`, the width of a format, `math.factorial`) is not counted: accidents
        end, an attack may hang the process or fill its memory. None for no limit.
    seconds
        Most seconds that a call may take in a process of its own, the only limit that holds against such code. None to
        run in this process.
    megabytes
        Most memory of that process, on Unix.

    Examples
    --------
    >>> from paperworks.optimization import Sandbox, bundle
    >>> @bundle(trainable=True, sandbox=Sandbox(steps=1000))
    ... def double(x):
    ...     return 2 * x
    >>> double(4).data
    8
    """

    steps: int | None = 1_000_000
    seconds: float | None = None
    megabytes: int = 512

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_count("steps", self.steps)
        if self.seconds is not None:
            check_number("seconds", self.seconds, gt=0)
        check_count("megabytes", self.megabytes, at_least=16)


def check_safe(source: str) -> None:
    r"""Raise an error where code uses what a sandbox doesn't allow.

    Imports, classes, `global`, decorators, class patterns of `match`, names and attributes that begin with two
    underscores or lead to frames and code objects, `str.format` with a template that isn't a constant, and the names
    `eval`, `exec`, `open`, `getattr` and their like
    are refused. It is a list, and no proof of harmlessness.

    Parameters
    ----------
    source
        Python source that is checked.

    Raises
    ------
    UnsafeCodeError
        Where something is refused, with its line.
    SyntaxError
        Where it isn't Python.

    Examples
    --------
    >>> from paperworks.optimization import check_safe
    >>> check_safe("def f(x):\n    return x + 1")
    >>> check_safe("import os")
    Traceback (most recent call last):
    ...
    paperworks.optimization.workflows.errors.UnsafeCodeError: line 1 uses import, which sandboxed code may not
    """
    for node in ast.walk(ast.parse(source)):
        found = ""
        if isinstance(node, FORBIDDEN_NODES):
            found = type(node).__name__.lower()
        elif isinstance(node, ast.Name) and (node.id in FORBIDDEN_NAMES or node.id.startswith(("__", TICK))):
            found = node.id
        elif isinstance(node, ast.Attribute) and (
            node.attr.startswith(("__", *FORBIDDEN_ATTRIBUTES)) or node.attr in ("format", "format_map")
        ):
            constant = isinstance(node.value, ast.Constant) and "__" not in str(node.value.value)
            found = "" if constant and node.attr == "format" else f".{node.attr}"
        elif isinstance(node, ast.FunctionDef) and (node.decorator_list or getattr(node, "type_params", None)):
            found = "a decorator or a type parameter"
        elif isinstance(node, ast.MatchClass):
            found = "a class pattern"  # it reads attributes by names that are no names in the tree
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found = "a bare except"  # it would swallow the limit of steps
        if not found:  # names that are bound: of functions, arguments, errors, captures and keywords
            bound = [getattr(node, field, None) for field in ("name", "arg", "rest")]
            found = next((b for b in bound if isinstance(b, str) and b.startswith(("__", TICK))), "")
        if found:
            raise UnsafeCodeError(f"line {getattr(node, 'lineno', '?')} uses {found}, which sandboxed code may not")


def safe_builtins() -> dict[str, Any]:
    """Return the built-ins that sandboxed code gets."""
    return {name: getattr(builtins, name) for name in ALLOWED_BUILTINS if hasattr(builtins, name)}


def limited(tree: ast.Module) -> ast.Module:
    """Return a syntax tree in which each turn of a loop and each call of a function takes a step."""

    def tick(where: ast.AST) -> ast.stmt:
        call = ast.Expr(ast.Call(ast.Name(TICK, ast.Load()), [], []))
        return ast.fix_missing_locations(ast.copy_location(call, where))

    class Insert(ast.NodeTransformer):
        def _block(self, node: Any) -> Any:
            self.generic_visit(node)
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            node.body.insert(1 if documented else 0, tick(first))
            return node

        visit_For = visit_While = visit_FunctionDef = _block

        def _comprehension(self, node: Any) -> Any:
            self.generic_visit(node)
            for generator in node.generators:
                call = ast.Call(ast.Name(TICK, ast.Load()), [], [])
                generator.ifs.insert(0, ast.fix_missing_locations(ast.copy_location(call, node)))
            return node

        visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

        def visit_BinOp(self, node: ast.BinOp) -> Any:
            self.generic_visit(node)
            kind = GROWING.get(type(node.op))
            if kind is None:
                return node
            call = ast.Call(ast.Name(f"{TICK}_{kind}", ast.Load()), [node.left, node.right], [])
            return ast.fix_missing_locations(ast.copy_location(call, node))

        def visit_AugAssign(self, node: ast.AugAssign) -> Any:
            self.generic_visit(node)
            kind = GROWING.get(type(node.op))
            if kind is not None and isinstance(node.target, ast.Name):
                given = [ast.Name(node.target.id, ast.Load()), node.value]
                call = ast.Call(ast.Name(f"{TICK}_{kind}_size", ast.Load()), given, [])
                node.value = ast.fix_missing_locations(ast.copy_location(call, node))
            return node

    return Insert().visit(tree)


def _check_size(kind: str, x: Any, y: Any) -> Any:
    """Return y, unless the result of an operation on x and y would be huge."""
    if isinstance(x, int) and isinstance(y, int):
        bits = abs(y) * x.bit_length() if kind == "pow" else y if kind == "lshift" else x.bit_length() + y.bit_length()
        if bits > MOST_BITS:
            raise StepLimitError(f"the code makes a number of more than {MOST_BITS} bits")
    elif hasattr(x, "__len__") or hasattr(y, "__len__"):
        long, other = (x, y) if hasattr(x, "__len__") else (y, x)
        size = len(long) + len(other) if hasattr(other, "__len__") else len(long) * other if kind == "mul" else 0
        if isinstance(long, (str, bytes, list, tuple, bytearray)) and size > MOST_ITEMS:
            raise StepLimitError(f"the code makes a sequence of more than {MOST_ITEMS} items")
    return y


def _limited_pow(x: Any, y: Any, modulus: Any = None) -> Any:
    return pow(x, y, modulus) if modulus is not None else pow(x, _check_size("pow", x, y))


def _limited_range(*ends: Any) -> range:
    made = range(*ends)
    if len(made) > MOST_ITEMS:
        raise StepLimitError(f"the code counts through more than {MOST_ITEMS} numbers")
    return made


def _own_math() -> types.SimpleNamespace:
    """Return the functions of `math`, so that code that sets one changes nobody else's."""
    return types.SimpleNamespace(**{name: found for name, found in vars(math).items() if not name.startswith("_")})


def _size_checks() -> dict[str, Any]:
    """Return what stands for operations that can make huge values."""
    found: dict[str, Any] = {}
    for kind in GROWING.values():
        operation = getattr(operator, kind)

        def checked(x: Any, y: Any, kind: str = kind, operation: Any = operation) -> Any:
            return operation(x, _check_size(kind, x, y))

        found[f"{TICK}_{kind}"] = checked
        found[f"{TICK}_{kind}_size"] = functools.partial(_check_size, kind)
    return found


class Steps:
    """Counts steps, and raises an error beyond the last.

    Parameters
    ----------
    most
        How many there may be.
    """

    def __init__(self, most: int) -> None:
        self.most = self.left = most

    def __call__(self) -> bool:
        self.left -= 1
        if self.left < 0:
            raise StepLimitError(f"the code took more than {self.most} steps")
        return True


def sandboxed(source: str, name: str, filename: str, sandbox: Sandbox, namespace: dict[str, Any]) -> Callable[..., Any]:
    """Return the function of that name from checked code, to run here within a number of steps.

    Parameters
    ----------
    source
        Source of one function.
    name
        The function's name.
    filename
        What stack traces call the source.
    sandbox
        What the code may do.
    namespace
        Globals that the code may use beside the allowed built-ins.

    Returns
    -------
    Callable[..., Any]
        The function, with the count of steps renewed in each call.
    """
    check_safe(source)
    if sandbox.seconds is not None:
        return lambda *args, **kwargs: run_in_process(source, name, args, kwargs, sandbox)
    tree = ast.parse(source, filename)
    allowed = {**safe_builtins(), "range": _limited_range, "pow": _limited_pow}
    space = {**namespace, "__builtins__": allowed, "math": _own_math()}
    if sandbox.steps is None:
        exec(compile(tree, filename, "exec"), space)
        return space[name]
    steps = space[TICK] = Steps(sandbox.steps)
    space |= _size_checks()
    exec(compile(limited(tree), filename, "exec"), space)
    function = space[name]

    def call(*args: Any, **kwargs: Any) -> Any:
        steps.left = steps.most
        return function(*args, **kwargs)

    return call


CHILD = """
import json, math, sys
try:
    import resource
    limit = {megabytes} * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, ({cpu}, {cpu} + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
except (ImportError, ValueError, OSError):
    pass
job = json.load(sys.stdin)
out, sys.stdout = sys.stdout, sys.stderr
import builtins
space = {{"math": math, "__builtins__": {{n: getattr(builtins, n) for n in job["builtins"] if hasattr(builtins, n)}}}}
try:
    exec(compile(job["source"], job["name"], "exec"), space)
    reply = {{"result": space[job["name"]](*job["args"], **job["kwargs"])}}
    text = json.dumps(reply)
except BaseException as error:
    line, tb = None, error.__traceback__
    while tb:
        line = tb.tb_lineno if tb.tb_frame.f_code.co_filename == job["name"] else line
        tb = tb.tb_next
    text = json.dumps({{"kind": type(error).__name__, "error": str(error)[:2000], "line": line}})
out.write(text)
"""


class ProcessError(RuntimeError):
    """Raised for an error in the process of a sandbox; `line` is the line of the source that raised it."""

    line: int | None = None


def run_in_process(source: str, name: str, args: Any, kwargs: dict[str, Any], sandbox: Sandbox) -> Any:
    """Run a function in a Python process of its own with limits of time and memory, and no files to write.

    Parameters
    ----------
    source
        Source of the function, which is checked first.
    name
        The function's name.
    args, kwargs
        Arguments that JSON can carry.
    sandbox
        Limits of the process.

    Returns
    -------
    Any
        What the function returned, as JSON carries it: tuples come back as lists.

    Raises
    ------
    StepLimitError
        Where it takes too long, or the process is ended from outside.
    ProcessError
        Where the function raises an error; an error of a built-in class keeps its class.
    TypeError
        Where an argument or the result can't travel as JSON.
    """
    check_safe(source)
    job = {"source": source, "name": name, "args": list(args), "kwargs": kwargs, "builtins": sorted(ALLOWED_BUILTINS)}
    try:
        text = json.dumps(job)
    except (TypeError, ValueError) as error:
        raise TypeError(f"args of {name} can't travel to its process: {error}") from error
    seconds = sandbox.seconds or 10.0
    script = CHILD.format(megabytes=sandbox.megabytes, cpu=max(1, math.ceil(seconds)))
    command = [sys.executable, "-I", "-S", "-c", script]
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=seconds + 1, env={}, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StepLimitError(f"{name} took more than {seconds:g} s") from error
    try:
        reply = json.loads(done.stdout)
    except ValueError as error:
        raise StepLimitError(f"the process of {name} ended with code {done.returncode} and no result") from error
    if "result" in reply:
        return reply["result"]
    kind = getattr(builtins, str(reply.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = ProcessError
    try:
        raised = kind(reply.get("error"))
    except TypeError:
        raised = ProcessError(f"{reply.get('kind')}: {reply.get('error')}")
    raised.line = reply.get("line")  # type: ignore[attr-defined]
    raise raised
