"""Classes whose nodes and bundled functions are found together, as the parameters of a torch module are."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paperworks.optimization.workflows.bundles import Bundle, CodeParameter
from paperworks.optimization.workflows.nodes import Node, ParameterNode


class Module:
    """A class whose attributes hold nodes and bundled functions; `parameters` finds all that are trainable.

    Nodes are found in attributes, in lists, tuples and dictionaries of attributes, and in modules among them. A
    trainable method is found on the class; each instance trains source of its own.

    Examples
    --------
    >>> from paperworks.optimization import Module, bundle, node
    >>> class Line(Module):
    ...     def __init__(self):
    ...         self.slope = node(2.0, trainable=True, name="slope")
    ...     def forward(self, x):
    ...         return self.slope * x
    >>> line = Line()
    >>> line(3).data, [p.data for p in line.parameters()]
    (6.0, [2.0])
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "Module":
        instance = super().__new__(cls)
        instance.__dict__["bundles"] = {}
        return instance

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the workflow; a class states it, and calls of the instance come here.

        Returns
        -------
        Any
            The output, as a rule a node.

        Raises
        ------
        NotImplementedError
            Where the class doesn't state it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def named_parameters(self) -> Iterator[tuple[str, ParameterNode]]:
        """Go through all parameters, each once, with the path of attributes that leads there.

        Returns
        -------
        Iterator[tuple[str, ParameterNode]]
            Pairs of a path such as `steps.0.prompt` and a parameter.
        """
        yield from _walk(self, "", set())

    def parameters(self) -> list[ParameterNode]:
        """Return all parameters, each once, also those that are fixed now.

        Returns
        -------
        list[ParameterNode]
            Parameters in the order of attributes.
        """
        return [parameter for _, parameter in self.named_parameters()]

    def state_dict(self) -> dict[str, Any]:
        """Return the values of all parameters.

        Returns
        -------
        dict[str, Any]
            Values by path of attributes.
        """
        return {path: parameter._data for path, parameter in self.named_parameters()}

    def load_state_dict(self, state: dict[str, Any], *, allow_code: bool = False) -> None:
        """Set the values of parameters.

        Parameters
        ----------
        state
            Values by path, as of `state_dict`.
        allow_code
            Whether the source of trainable functions may change: it runs when they are called.

        Raises
        ------
        KeyError
            Where a parameter is missing, or there is none of a name.
        ValueError
            Where source would change and `allow_code` is false, or a value is refused.
        """
        held = dict(self.named_parameters())
        if missing := sorted(held.keys() ^ state.keys()):
            raise KeyError(f"state and parameters differ in {missing}")
        changed = [k for k, p in held.items() if isinstance(p, CodeParameter) and p._data != state[k]]
        if changed and not allow_code:
            raise ValueError(f"state has other code for {changed}, which would run; allow_code=True takes it")
        for path, parameter in held.items():
            if problem := parameter.problem_with(state[path]):
                raise ValueError(f"state has {state[path]!r} for {path}; {problem}")
        for path, parameter in held.items():
            parameter.data = state[path]

    def save(self, path: str | Path) -> None:
        """Write the values of all parameters to a file of JSON, whole or not at all.

        Parameters
        ----------
        path
            Where the file is written.

        Raises
        ------
        TypeError
            Where a value is neither number, text, truth value, None, list, tuple, set or dictionary.
        """
        write_json(path, {name: encode(value) for name, value in self.state_dict().items()})

    def load(self, path: str | Path, *, allow_code: bool = False) -> None:
        """Read the values of all parameters from a file that `save` wrote.

        Parameters
        ----------
        path
            Where the file is.
        allow_code
            Whether the source of trainable functions may change: it runs when they are called.

        Raises
        ------
        ValueError
            Where the file is broken, or holds other code and `allow_code` is false.
        """
        self.load_state_dict({k: decode(v) for k, v in read_json(path).items()}, allow_code=allow_code)


def model(cls: type) -> type:
    """Make a class a `Module` by a decorator.

    Parameters
    ----------
    cls
        A class whose instances hold nodes and bundled functions.

    Returns
    -------
    type
        The class, derived from `Module` as well.

    Raises
    ------
    TypeError
        Where it decorates what is no class.

    Examples
    --------
    >>> from paperworks.optimization import bundle, model
    >>> @model
    ... class Greeter:
    ...     @bundle(trainable=True)
    ...     def greet(self, name):
    ...         return "Hello " + name
    ...     def __call__(self, name):
    ...         return self.greet(name)
    >>> greeter = Greeter()
    >>> greeter("Ada").data, len(greeter.parameters())
    ('Hello Ada', 1)
    """
    if not isinstance(cls, type):
        raise TypeError(f"cls is {cls!r}; model decorates a class")
    if issubclass(cls, Module):
        return cls
    names = {"__module__": cls.__module__, "__doc__": cls.__doc__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls, Module), names)


def encode(value: Any) -> Any:
    """Return a value as JSON can carry it, with tuples and sets marked.

    Raises
    ------
    TypeError
        Where it is of another kind.
    """
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, list):
        return [encode(v) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value) and "__kind__" not in value:
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, dict):
        return {"__kind__": "dict", "items": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, (tuple, set, frozenset)):
        return {"__kind__": type(value).__name__, "items": [encode(v) for v in value]}
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:
        return value.item()
    raise TypeError(f"a value of type {type(value).__name__} can't be saved as JSON: {value!r}")


def decode(value: Any) -> Any:
    """Return the value that `encode` wrote."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if isinstance(value, dict) and "__kind__" in value:
        kinds = {"tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}
        items = [decode(v) for v in value["items"]]
        return kinds[value["__kind__"]](items)
    if isinstance(value, dict):
        return {k: decode(v) for k, v in value.items()}
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON to a file, whole or not at all."""
    path = Path(path)
    text = json.dumps(value, indent=1)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: str | Path) -> dict[str, Any]:
    """Read an object of JSON.

    Raises
    ------
    ValueError
        Where the file holds something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"path {path} holds no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"path {path} holds a {type(value).__name__}; it takes an object of JSON")
    return value


def _walk(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, ParameterNode]]:
    if id(value) in seen:
        return
    if isinstance(value, Node):
        seen.add(id(value))
        if isinstance(value, ParameterNode):
            yield path, value
    elif isinstance(value, Bundle):
        if value.parameter is not None and id(value.parameter) not in seen:
            seen.add(id(value.parameter))
            yield path, value.parameter
    elif isinstance(value, Module):
        seen.add(id(value))
        for name in [n for cls in reversed(type(value).__mro__) for n, a in vars(cls).items() if isinstance(a, Bundle)]:
            if not name.startswith("__"):
                yield from _walk(getattr(value, name), _join(path, name), seen)
        for name, held in vars(value).items():
            if name != "bundles":
                yield from _walk(held, _join(path, name), seen)
    elif isinstance(value, (list, tuple)):
        seen.add(id(value))
        for index, item in enumerate(value):
            yield from _walk(item, _join(path, str(index)), seen)
    elif isinstance(value, dict):
        seen.add(id(value))
        for key, item in value.items():
            yield from _walk(item, _join(path, str(key)), seen)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
