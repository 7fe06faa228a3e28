"""Old names that go on for one release, and say what to use instead.

A test fails for each that is still there in the release that it was to go in.
"""

import enum
import functools
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


def renamed(new: T, old: str, *, since: str, removed: str) -> T:
    """Make the old name of a function or class, which warns and does what the new one does.

    Parameters
    ----------
    new
        The function or class by its new name.
    old
        The old name.
    since
        The release that it has the new name from.
    removed
        The release that no longer has the old one.

    Returns
    -------
    T
        The function, or a class that makes objects of the new class, that warns (FutureWarning) where it is called. Its
        docstring is the new one's below the warning.

    Raises
    ------
    ValueError
        Where `since` and `removed` are no releases in this order, or of the same minor version.
    TypeError
        For an exception or an enumeration, which `except` and its members know by being the same class: assign it.

    Examples
    --------
    >>> def total(values):
    ...     return sum(values)
    >>> add_up = renamed(total, "add_up", since="0.2.0", removed="0.3.0")
    >>> with warnings.catch_warnings(record=True) as told:
    ...     add_up([1, 2])
    3
    >>> print(told[0].message)
    add_up is deprecated since 0.2.0 and goes in 0.3.0; use total
    """
    message = _message(old, new.__name__, since, removed)
    documentation = f"{message}.\n\n{inspect.cleandoc(new.__doc__ or '')}"
    if isinstance(new, type):
        return _renamed_class(new, old, message, documentation)  # type: ignore[return-value]

    @functools.wraps(new)
    def call(*arguments: Any, **named: Any) -> Any:
        warnings.warn(message, FutureWarning, stacklevel=2)
        return new(*arguments, **named)

    call.__name__ = call.__qualname__ = old
    call.__doc__ = documentation
    return call  # type: ignore[return-value]


def _renamed_class(new: type, old: str, message: str, documentation: str) -> type:
    """Make a class whose objects are the new class's, so that they are compared, pickled and cloned as those are."""
    if issubclass(new, (BaseException, enum.Enum)):
        raise TypeError(f"new is {new.__name__}; it takes no exception or enumeration: let {old} be the same class")

    class Renamed(type(new)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, new) if cls is alias else super().__instancecheck__(instance)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, new) if cls is alias else super().__subclasscheck__(subclass)

    @functools.wraps(new.__init__ if new.__new__ is object.__new__ else new.__new__)
    def make(cls: type, *arguments: Any, **named: Any) -> Any:
        warnings.warn(message, FutureWarning, stacklevel=2)
        if cls is alias:
            return new(*arguments, **named)
        return new.__new__(cls) if new.__new__ is object.__new__ else new.__new__(cls, *arguments, **named)

    body = {"__new__": make, "__doc__": documentation, "__module__": new.__module__}
    alias: type = Renamed(old, (new,), body)
    return alias


def renamed_arguments(names: dict[str, str], *, since: str, removed: str) -> Callable[[T], T]:
    """Let a function take arguments by their old names, too, with a warning.

    Parameters
    ----------
    names
        The new name of each old one.
    since
        The release that they have the new names from.
    removed
        The release that no longer takes the old ones.

    Returns
    -------
    Callable[[T], T]
        The decorator of the function.

    Raises
    ------
    ValueError
        Where `since` and `removed` are no releases in this order, or of the same minor version.
    TypeError
        For a class, whose `__init__` is what takes arguments, and a function that doesn't take the new names; and from
        the function, where an argument is given by both names.

    Examples
    --------
    >>> @renamed_arguments({"n_steps": "steps"}, since="0.2.0", removed="0.3.0")
    ... def walk(steps):
    ...     return steps
    >>> with warnings.catch_warnings(record=True) as told:
    ...     walk(n_steps=3)
    3
    >>> print(told[0].message)
    n_steps of walk is deprecated since 0.2.0 and goes in 0.3.0; use steps
    """

    def decorate(function: T) -> T:
        if isinstance(function, type):
            raise TypeError(f"function is the class {function.__name__}; it takes functions, such as its __init__")
        parameters = inspect.signature(function).parameters
        named_freely = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if lacking := [new for new in names.values() if new not in parameters and not named_freely]:
            raise TypeError(f"names has {lacking[0]!r}, which {function.__name__} doesn't take")
        whose = function.__qualname__.rpartition("<locals>.")[2].removesuffix(".__init__")
        messages = {old: _message(f"{old} of {whose}", new, since, removed) for old, new in names.items()}

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            for old, new in names.items():
                if old in named:
                    if new in named:
                        raise TypeError(f"{whose} got {new} and {old}, its old name; it takes one of them")
                    warnings.warn(messages[old], FutureWarning, stacklevel=2)
                    named[new] = named.pop(old)
            return function(*arguments, **named)

        return call  # type: ignore[return-value]

    return decorate


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a release's version, which order releases.

    Raises
    ------
    ValueError
        Where it is no version of three numbers.

    Examples
    --------
    >>> release("0.10.0") > release("0.9.1")
    True
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"version is {version!r}; it takes a release such as '0.2.0'")
    return tuple(map(int, version.split(".")))


def _message(old: str, new: str, since: str, removed: str) -> str:
    if release(removed)[:2] <= release(since)[:2]:
        raise ValueError(f"removed is {removed!r}; it takes a release after {since}, of another minor version")
    return f"{old} is deprecated since {since} and goes in {removed}; use {new}"
