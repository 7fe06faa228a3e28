"""Functions as operators: what a bundled function computes is one node, and its source can be what is trained."""

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, overload

from paperworks.optimization.workflows.errors import (
    ExecutionError,
    StepLimitError,
    TraceMissingInputsError,
    execution_error,
)
from paperworks.optimization.workflows.nodes import (
    MUTABLE,
    STATE,
    ExceptionNode,
    MessageNode,
    Node,
    ParameterNode,
    TraceState,
    emit,
    state_with,
    unwrap,
    wrap,
)
from paperworks.optimization.workflows.sandbox import Sandbox, sandboxed

CODE_CONSTRAINT = "The code must keep the line with def, with its name and arguments, and the docstring:\n{head}"


def source_of(function: Callable[..., Any]) -> str | None:
    """Return the source of a function from its def on, without decorators; None where none is known."""
    try:
        text = textwrap.dedent(inspect.getsource(function))
        definition = next(
            n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
        )
    except (OSError, TypeError, SyntaxError, StopIteration):
        return None
    return "\n".join(text.splitlines()[definition.lineno - 1 : definition.end_lineno])


def function_in(source: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """Return the one function that a source defines.

    Raises
    ------
    ValueError
        Where it isn't Python, or not one function.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the code is not Python: {error}") from error
    functions = [n for n in body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    if len(functions) != 1 or len(body) != 1:
        raise ValueError(f"the code has {len(body)} statements with {len(functions)} functions; it takes one function")
    if functions[0].decorator_list:
        raise ValueError("the code decorates its function; it takes the function alone")
    return functions[0]


def head_of(definition: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the line with def: the name and the arguments."""
    prefix = "async def" if isinstance(definition, ast.AsyncFunctionDef) else "def"
    return f"{prefix} {definition.name}({ast.unparse(definition.args)}):"


class CodeParameter(ParameterNode):
    r"""The source of a trainable function. New source is checked when it is set, and compiled when the function runs.

    To set it is to let it run: give it code of others only in a sandbox (`bundle(sandbox=...)`), and see what that
    can't do in `Sandbox`.

    Parameters
    ----------
    source
        Source of one function.
    name
        What its name begins with.

    Raises
    ------
    ValueError
        Where the source is no single function, or new source has another name or other arguments.

    Examples
    --------
    >>> from paperworks.optimization import bundle
    >>> @bundle(trainable=True)
    ... def double(x):
    ...     return 2 + x
    >>> double.parameter.data = "def double(x):\n    return 2 * x"
    >>> double(4).data
    8
    >>> double.parameter.problem_with("def triple(x):\n    return 3 * x")
    'it takes a function that begins with: def double(x):'
    """

    __slots__ = ("head",)

    def __init__(self, source: str, name: str) -> None:
        self.head = head_of(function_in(source))
        super().__init__(
            source,
            name=f"__code_{name}",
            description=f"[code] The source of {name}.",
            constraint=CODE_CONSTRAINT.format(head=self.head),
        )
        self.language = "python"

    @property
    def data(self) -> Any:
        """The source; a bundled function that asks for it is seen to read it."""
        return ParameterNode.data.fget(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: Any) -> None:
        problem = self.problem_with(value)
        if problem:
            raise ValueError(f"data of {self.name} is {value!r}; {problem}")
        ParameterNode.data.fset(self, value)  # type: ignore[attr-defined]

    def problem_with(self, value: Any) -> str:
        """Say in words why the function can't have this source, or nothing where it can.

        Parameters
        ----------
        value
            Source that somebody proposes.

        Returns
        -------
        str
            The reason, empty where there is none.
        """
        if not isinstance(value, str):
            return "it takes Python source as a text"
        try:
            head = head_of(function_in(value))
        except ValueError as error:
            return str(error)
        return "" if head == self.head else f"it takes a function that begins with: {self.head}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "CodeParameter":
        twin = memo[id(self)] = _code_parameter(*self.__reduce__()[1])
        return twin

    def __reduce__(self) -> Any:
        return _code_parameter, (self._data, self._base, self.trainable, self._note, self.constraint)


def _code_parameter(source: str, base: str, trainable: bool, note: str | None, constraint: str | None) -> CodeParameter:
    made = CodeParameter(source, base.removeprefix("__code_"))
    made.trainable, made._note, made.constraint = trainable, note, constraint
    return made


class Bundle:
    """A function that is one operator of the trace; `bundle` makes it.

    Parameters
    ----------
    function
        The function that is bundled.
    description
        What it does, in words; by default its docstring.
    trainable
        Whether its source is a parameter.
    traceable_code
        Whether nodes are passed in as they are, so that the inside is traced too.
    catch_execution_error
        Whether an error becomes an `ExceptionNode` in an `ExecutionError`; else it is raised as it is.
    allow_external_dependencies
        Whether the function may read nodes that it isn't given; they become parents.
    sandbox
        What trainable code may do, or None for everything.
    source
        Source of the function, where Python can't find it.
    copy_inputs
        Whether mutable values are copied before the function gets them.

    Examples
    --------
    >>> from paperworks.optimization import bundle
    >>> @bundle
    ... def shout(text):
    ...     "Write in capitals."
    ...     return text.upper()
    >>> shout("hi").description
    '[shout] Write in capitals.'
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        description: str | None = None,
        trainable: bool = False,
        traceable_code: bool = False,
        catch_execution_error: bool = True,
        allow_external_dependencies: bool = False,
        sandbox: Sandbox | None = None,
        source: str | None = None,
        copy_inputs: bool = True,
    ) -> None:
        if not callable(function):
            raise TypeError(f"function is {function!r}; bundle takes a function, and goes under @classmethod")
        self.function, self._inner = function, inspect.unwrap(function)
        self.name = getattr(function, "__name__", type(function).__name__).strip("<>")
        self.__name__, self.__doc__, self.__wrapped__ = self.name, function.__doc__, function
        self.__module__ = function.__module__
        self._note = description
        self.traceable_code, self.catch, self.external = (
            traceable_code,
            catch_execution_error,
            allow_external_dependencies,
        )
        self.sandbox, self.copy_inputs = sandbox, copy_inputs
        self._given_source = source
        self._source: str | None = None
        self.is_async = inspect.iscoroutinefunction(function)
        self._keys, self._rest, self.is_method = _names_of(function)
        self.parameter: CodeParameter | None = None
        self._compiled: dict[str, Callable[..., Any]] = {}  # the last one
        self._owner: Any = None
        if trainable:
            text = source if source is not None else source_of(self._inner)
            if text is None:
                raise ValueError(
                    f"the source of {self.name} is not known, as in some interactive sessions; bundle takes source=..."
                )
            self.parameter = CodeParameter(textwrap.dedent(text).strip("\n"), self.name)
        elif sandbox is not None:
            raise ValueError("sandbox is for trainable code; bundle takes it with trainable=True")

    @property
    def source(self) -> str | None:
        """The source that runs now, None where it is not known."""
        if self.parameter is not None:
            return self.parameter._data
        if self._source is None:
            self._source = self._given_source or source_of(self._inner)
        return self._source

    @property
    def description(self) -> str:
        """The name in brackets, then what the function does."""
        note = self._note if self._note is not None else inspect.cleandoc(self.__doc__ or "")
        return note if note.startswith("[") else f"[{self.name}] {note}".rstrip()

    @property
    def info(self) -> dict[str, Any]:
        """Name, documentation, source and signature of the function."""
        try:
            signature = str(inspect.signature(self._inner))
        except (TypeError, ValueError):
            signature = "(...)"
        return {"name": self.name, "doc": self.__doc__, "source": self.source, "signature": signature}

    @property
    def keys(self) -> tuple[str, ...]:
        """What its positional arguments are called."""
        return self._keys

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        own = getattr(instance, "bundles", None) if self.parameter is not None else None
        if not isinstance(own, dict):
            return self._bound_to(instance)
        found = own.get(self.name)  # a Module: each instance trains code of its own
        if found is None or found.function is not self.function:
            found = own[self.name] = self._bound_to(instance)
            found.parameter, found._compiled = copy.deepcopy(self.parameter), {}
        return found

    def _bound_to(self, instance: Any) -> "Bundle":
        bound = object.__new__(Bundle)
        bound.__dict__.update(self.__dict__)
        bound._owner = instance
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state = STATE.get()
        if state.reads is not None:  # inside of another bundle it is an ordinary function
            return self._ordinary(state, args, kwargs)
        nodes, keys, call_args, call_kwargs = self._prepare(args, kwargs)
        reads: dict[int, Node] | None = None if self.traceable_code else {}
        inside = state.but(reads=reads, scope=f"{state.scope}/{self.name}" if state.scope else self.name)
        if self.is_async:
            return self._await(inside, nodes, keys, call_args, call_kwargs)
        token = STATE.set(inside)
        try:
            result = self._run(call_args, call_kwargs)
        except Exception as error:
            STATE.reset(token)
            token = None  # type: ignore[assignment]
            self._failed(error, nodes, keys, reads)
            raise
        finally:
            if token is not None:
                STATE.reset(token)
        return self._finish(result, nodes, keys, reads)

    async def _await(self, inside: TraceState, nodes: Any, keys: Any, args: Any, kwargs: Any) -> Any:
        token = STATE.set(inside)
        try:
            result = await self._run(args, kwargs)
        except Exception as error:
            STATE.reset(token)
            token = None  # type: ignore[assignment]
            self._failed(error, nodes, keys, inside.reads)
            raise
        finally:
            if token is not None:
                STATE.reset(token)
        return self._finish(result, nodes, keys, inside.reads)

    def _ordinary(self, state: TraceState, args: Any, kwargs: Any) -> Any:
        if self.parameter is not None and state.reads is not None:
            state.reads[id(self.parameter)] = self.parameter
        args, kwargs = tuple([unwrap(a) for a in args]), {k: unwrap(v) for k, v in kwargs.items()}
        return self._run(args, kwargs)

    def _prepare(self, args: Any, kwargs: Any) -> Any:
        """Return the nodes of all arguments, their names, and what the function itself is called with."""
        nodes = [a if isinstance(a, Node) else wrap(a) for a in args]
        keys: tuple[str, ...] = self._keys[: len(nodes)]
        if len(nodes) > len(keys):
            keys += tuple([f"{self._rest}_{i}" for i in range(len(nodes) - len(keys))])
        named = {}
        if kwargs:
            named = {k: wrap(v) for k, v in kwargs.items()}
            keys += tuple(named)
        if self.traceable_code:
            call_args, call_kwargs = nodes, named
        else:
            copied = self.copy_inputs
            call_args = [_given(n._data) if copied else n._data for n in nodes]
            call_kwargs = {k: _given(n._data) if copied else n._data for k, n in named.items()}
        every = (*nodes, *named.values())
        if self.parameter is not None:
            every, keys = (self.parameter, *every), ("__code", *keys)
        return every, keys, call_args, call_kwargs

    def _run(self, args: Any, kwargs: Any) -> Any:
        function = self.function if self.parameter is None else self._code()
        if self._owner is not None:
            return function(self._owner, *args, **kwargs)
        return function(*args, **kwargs)

    def _code(self) -> Callable[..., Any]:
        """Return the function that the present source defines, compiled once for each source."""
        parameter = self.parameter
        assert parameter is not None
        text = parameter._data
        found = self._compiled.get(text)
        if found is None:
            found = self._compile(text)
            self._compiled.clear()
            self._compiled[text] = found
        return found

    def _filename(self) -> str:
        return f"<code of {self.name}>"

    def _compile(self, text: str) -> Callable[..., Any]:
        inner = self._inner
        space = dict(getattr(inner, "__globals__", {}))
        for name, cell in zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=True):
            try:
                space[name] = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        if self.sandbox is not None:
            return sandboxed(text, self.name, self._filename(), self.sandbox, space)
        exec(compile(text, self._filename(), "exec"), space)  # the caller's own choice: bundle(trainable=True)
        return space[self.name]

    def _outside(self, nodes: Any, keys: Any, reads: "dict[int, Node] | None") -> Any:
        """Return the arguments with the nodes that were read beside them."""
        if not reads:
            return nodes, keys
        passed = {id(n) for n in nodes}
        more = [n for i, n in reads.items() if i not in passed]
        known = {id(d) for d in getattr(self._inner, "__defaults__", None) or ()}
        foreign = [n for n in more if not isinstance(n, CodeParameter) and id(n) not in known and not self._owns(n)]
        if foreign and not self.external:
            names = ", ".join(n.name for n in foreign)
            raise TraceMissingInputsError(
                f"{self.name} reads {names} without being given it; pass it as an argument, or bundle with "
                "allow_external_dependencies=True"
            )
        return (*nodes, *more), (*keys, *[n.py_name for n in more])

    def _owns(self, node: Node) -> bool:
        held = getattr(self._owner, "parameters", None)
        if held is None:
            return False
        return any(node is p for p in held()) or any(node is v for v in vars(self._owner).values())

    def _finish(self, result: Any, nodes: Any, keys: Any, reads: "dict[int, Node] | None") -> Node:
        if self.traceable_code:
            inner = wrap(result)
            made = emit(inner._data, self, nodes, keys)
            if isinstance(made, MessageNode):
                made.inner = inner
            return made
        if isinstance(result, (Node, list, tuple, dict, set, frozenset)):
            with state_with(reads=reads):
                result = unwrap(result)
        nodes, keys = self._outside(nodes, keys, reads)
        return emit(result, self, nodes, keys)

    def _failed(self, error: Exception, nodes: Any, keys: Any, reads: "dict[int, Node] | None") -> None:
        """Raise the error of the function as one that feedback can be sent back from."""
        if not self.catch or isinstance(error, TraceMissingInputsError):
            return
        if isinstance(error, ExecutionError) and self.traceable_code:
            return
        line, inside = self._failing_line(error)
        if not inside and not isinstance(error, (ValueError, SyntaxError, StepLimitError)):
            return  # it was called with the wrong arguments
        nodes, keys = self._outside(nodes, keys, reads)
        raised = ExceptionNode(
            error, self, nodes, keys, text=self._annotated(error, line), line=line, code=self.parameter
        )
        raise execution_error(raised, error) from error

    def _failing_line(self, error: Exception) -> tuple[int | None, bool]:
        """Return the line of the source that failed, counted from 1, and whether the function was entered at all."""
        if hasattr(error, "line"):  # it comes from another process
            return error.line, True
        code = getattr(self._inner, "__code__", None)
        if code is None:
            return None, True
        own = self._filename() if self.parameter is not None else code.co_filename
        line, entered, frame = None, False, error.__traceback__
        while frame is not None:
            here = frame.tb_frame.f_code
            if here.co_filename == own and (self.parameter is not None or here.co_name == self._inner.__name__):
                line, entered = frame.tb_lineno, True
            frame = frame.tb_next
        if line is not None and self.parameter is None:
            line += 1 - _first_line(self._inner)
        return line, entered

    def _annotated(self, error: Exception, line: int | None) -> str:
        text = f"({type(error).__name__}) {error}"
        source = self.source
        if source is None:
            return text
        lines = source.splitlines()
        if line is not None and 1 <= line <= len(lines):
            lines[line - 1] += f"  <--- {text}"
        return f"{text}\n\n" + "\n".join(lines)

    def __repr__(self) -> str:
        return f"bundle({self.name})"


@overload
def bundle(function: Callable[..., Any], /) -> Bundle: ...
@overload
def bundle(
    *,
    description: str | None = ...,
    trainable: bool = ...,
    traceable_code: bool = ...,
    catch_execution_error: bool = ...,
    allow_external_dependencies: bool = ...,
    sandbox: Sandbox | bool | None = ...,
    source: str | None = ...,
    copy_inputs: bool = ...,
) -> Callable[[Callable[..., Any]], Bundle]: ...
def bundle(
    function: Callable[..., Any] | None = None,
    /,
    *,
    description: str | None = None,
    trainable: bool = False,
    traceable_code: bool = False,
    catch_execution_error: bool = True,
    allow_external_dependencies: bool = False,
    sandbox: Sandbox | bool | None = None,
    source: str | None = None,
    copy_inputs: bool = True,
) -> Any:
    """Make a function one operator of the trace; use it as a decorator, with or without arguments.

    The function gets raw values and returns one, and the result is a node computed from its arguments. Mutable values
    (lists, dictionaries, sets, arrays) are copied first, so that it can change them without a change of the trace.
    Recursion, variable arguments, methods and `async def` work.

    With `trainable=True` the source is itself a parameter, which an optimiser may rewrite. **That runs code that
    somebody else wrote**: optimisers that ask a language model refuse code unless they are told `allow_code=True`, and
    `sandbox` limits what the code may do, without being a security boundary (see `Sandbox`).

    Parameters
    ----------
    function
        The function itself, where the decorator has no arguments.
    description
        What it does, in words; by default its docstring.
    trainable
        Whether its source is a parameter, `function.parameter`.
    traceable_code
        Whether nodes are passed in as they are, so that the inside is traced as a graph of its own.
    catch_execution_error
        Whether an error becomes an `ExceptionNode` in an `ExecutionError`; else it is raised as it is.
    allow_external_dependencies
        Whether the function may read nodes that it isn't given; they become parents.
    sandbox
        What trainable code may do: True for the defaults of `Sandbox`, None for everything.
    source
        Source of the function, where Python can't find it, as in some interactive sessions.
    copy_inputs
        Whether mutable values are copied before the function gets them.

    Returns
    -------
    Any
        The `Bundle`, or a decorator that makes it.

    Raises
    ------
    ValueError
        Where the source of a trainable function is not known, or a sandbox is given for what isn't trainable.
    TypeError
        Where it decorates what is no function.

    Examples
    --------
    >>> from paperworks.optimization import ExecutionError, bundle, node
    >>> @bundle
    ... def mean(values):
    ...     "Average values."
    ...     return sum(values) / len(values)
    >>> mean(node([1, 2, 6])).data
    3.0
    >>> try:
    ...     mean(node([]))
    ... except ExecutionError as error:
    ...     print(error.node.data.splitlines()[-1])
        return sum(values) / len(values)  <--- (ZeroDivisionError) division by zero
    """
    options: dict[str, Any] = {
        "description": description,
        "trainable": trainable,
        "traceable_code": traceable_code,
        "catch_execution_error": catch_execution_error,
        "allow_external_dependencies": allow_external_dependencies,
        "sandbox": Sandbox() if sandbox is True else sandbox or None,
        "source": source,
        "copy_inputs": copy_inputs,
    }
    if function is None:
        return lambda found: Bundle(found, **options)
    return Bundle(function, **options)


def _given(value: Any) -> Any:
    if isinstance(value, (int, float, str, bytes, bool, type(None))):
        return value
    if isinstance(value, MUTABLE) or hasattr(value, "__array__") or isinstance(value, tuple):
        return copy.deepcopy(value)
    return value


def _first_line(function: Callable[..., Any]) -> int:
    """Return the line of a function's def: its code begins at its first decorator."""
    code = function.__code__
    try:
        lines, start = inspect.getsourcelines(function)
    except (OSError, TypeError):
        return code.co_firstlineno
    skipped = next((i for i, text in enumerate(lines) if text.lstrip().startswith(("def ", "async def "))), 0)
    return start + skipped


def _names_of(function: Callable[..., Any]) -> tuple[tuple[str, ...], str, bool]:
    """Return the names of positional arguments, that of the variable ones, and whether the first is an instance."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return (), "x", False
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "x")
    method = bool(names) and names[0] == "self"
    return tuple(names[1:] if method else names), rest, method
