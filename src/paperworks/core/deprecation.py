"""Old names that go on for one release, and say what to use instead.

A test fails for each that is still there in the release that it was to go in.
"""

import functools
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
        The function, or a subclass of the class, that warns (FutureWarning) where it is called.

    Raises
    ------
    ValueError
        Where `since` and `removed` are no releases in this order.

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
    if isinstance(new, type):

        def __init__(self: Any, *arguments: Any, **named: Any) -> None:
            warnings.warn(message, FutureWarning, stacklevel=2)
            new.__init__(self, *arguments, **named)  # type: ignore[misc]

        return type(new)(old, (new,), {"__init__": __init__, "__doc__": message, "__module__": new.__module__})

    @functools.wraps(new)
    def call(*arguments: Any, **named: Any) -> Any:
        warnings.warn(message, FutureWarning, stacklevel=2)
        return new(*arguments, **named)

    call.__name__ = call.__qualname__ = old
    call.__doc__ = message
    return call  # type: ignore[return-value]


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
        Where `since` and `removed` are no releases in this order.
    TypeError
        From the function, where an argument is given by both names.

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
        messages = {old: _message(f"{old} of {function.__name__}", new, since, removed) for old, new in names.items()}

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            for old, new in names.items():
                if old in named:
                    if new in named:
                        raise TypeError(f"{function.__name__} got {new} and {old}, its old name; it takes one of them")
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
    if release(removed) <= release(since):
        raise ValueError(f"removed is {removed!r}; it takes a release after {since}, so that one release warns")
    return f"{old} is deprecated since {since} and goes in {removed}; use {new}"
