"""What goes wrong in a traced workflow."""

from functools import cache
from typing import Any


class ExecutionError(Exception):
    """Raised where a traced operation fails; it carries the node from which feedback can be sent backward.

    It is also of the class of the exception that stands behind it, as far as that can be, so that `except KeyError`
    goes on to work when a workflow is traced.

    Parameters
    ----------
    node
        The `ExceptionNode` that takes the place of the result.
    """

    def __init__(self, node: Any) -> None:
        self.node = node
        BaseException.__init__(self, node._data)

    def __str__(self) -> str:
        return str(self.node._data)

    def __reduce__(self) -> Any:  # of a class that is made where it is raised
        kind = next(c for c in type(self).__mro__ if not issubclass(c, ExecutionError))
        return _restored, (kind, self.node)


class TraceMissingInputsError(Exception):
    """Raised where a bundled function reads nodes that it was not given as arguments."""


class LLMError(RuntimeError):
    """Raised where a language model gave no answer that can be used, after all tries.

    Parameters
    ----------
    message
        What was asked, and what came back instead.
    status
        HTTP status of the last reply, or None where none came.
    attempts
        How often it was tried.
    """

    def __init__(self, message: str, *, status: int | None = None, attempts: int = 1) -> None:
        super().__init__(message)
        self.status, self.attempts = status, attempts


class UnsafeCodeError(ValueError):
    """Raised where code uses what the sandbox doesn't allow."""


class StepLimitError(RuntimeError):
    """Raised where sandboxed code runs for more steps, seconds or bytes than it may."""


@cache
def _class_for(kind: type[BaseException]) -> type[ExecutionError]:
    if issubclass(kind, (ExecutionError, StopIteration, StopAsyncIteration)) or not issubclass(kind, Exception):
        return ExecutionError
    try:
        return type(f"Traced{kind.__name__}", (ExecutionError, kind), {"__module__": __name__})
    except TypeError:  # layouts that don't go together
        return ExecutionError


def execution_error(node: Any, error: BaseException) -> ExecutionError:
    """Return an `ExecutionError` for `node` that is also of the class of `error`."""
    try:
        return _class_for(type(error))(node)  # type: ignore[arg-type]
    except TypeError:
        return ExecutionError(node)


def _restored(kind: type[BaseException], node: Any) -> ExecutionError:
    return _class_for(kind)(node)  # type: ignore[arg-type]
