"""The ledger that every private mechanism keeps: charged before the data are looked at, and never given back twice."""

import math
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

Mechanism = TypeVar("Mechanism", bound="PrivateMechanism")


class BudgetExhausted(RuntimeError):
    """No further answer can be given without giving up what the earlier ones guarantee.

    Parameters
    ----------
    message
        What is spent; it depends on nothing secret.
    answers
        Where the budget ended in the midst of many questions: the answers up to there, and NaN for the others.

    Examples
    --------
    >>> from paperworks.inference import SampleSplit
    >>> oracle = SampleSplit(np.zeros(10), m=1)
    >>> oracle.answer(lambda x: x)
    0.0
    >>> oracle.answer(lambda x: x)
    Traceback (most recent call last):
    ...
    paperworks.inference.privacy.ledger.BudgetExhausted: all m = 1 queries are answered
    """

    def __init__(self, message: str, answers: np.ndarray | None = None) -> None:
        super().__init__(message)
        self.answers = answers


class PrivateMechanism:
    """Holds what may be spent of a privacy budget, and spends each part of it once.

    Whatever looks at the data does so within `_charged`, which takes a lock, refuses where nothing is left, and counts
    the whole rest as spent until the answer is complete: an answer that is interrupted ends the mechanism. What is
    refused, and how, depends on what was answered before and on nothing else.

    A mechanism is one object in one process. Copying, pickling and forking are refused, since the copy would have the
    budget anew; `save` and `load` move it.
    """

    _spent: float = 0
    _units: float = math.inf
    _closed: str = ""

    def _open(self, units: float, exhausted: str) -> None:
        """Begin a ledger of so many units; the text is what a refusal says when they are spent."""
        self._units, self._spent, self._exhausted = units, 0, exhausted
        self._closed = "" if units > 0 else exhausted
        self._lock = threading.RLock()
        self._process = os.getpid()

    @contextmanager
    def _charged(self, certain: float = 0) -> Iterator[None]:
        """Look at the data: refused where nothing, or less than `certain`, is left; within, `_spend` counts units."""
        with self._lock:
            self._check_open()
            if self._spent + certain > self._units:
                raise BudgetExhausted(self._exhausted)
            self._closed = "an answer was interrupted after it had looked at the data, so nothing more is given"
            self._spent += certain
            try:
                yield
            except BudgetExhausted:
                self._closed = self._exhausted
                raise
            self._closed = self._exhausted if self._spent >= self._units else ""

    def _spend(self, units: float) -> None:
        self._spent += units

    @property
    def _remaining(self) -> float:
        return max(0, self._units - self._spent)

    def _check_open(self) -> None:
        if self._process != os.getpid():
            raise BudgetExhausted("the budget belongs to the process that made it, of which this one is a fork")
        if self._closed:
            raise BudgetExhausted(self._closed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Move the mechanism with what is left of its budget into a new file, which holds the data as they are.

        From then on this object refuses, as it does where writing fails: a budget may be lost, but not doubled. The
        file can be read by its owner only; keep it as secret as the data, and don't copy it.

        Parameters
        ----------
        path
            A file that doesn't exist yet.

        Raises
        ------
        FileExistsError
            Where it does; then nothing is moved.
        BudgetExhausted
            Where nothing is left to move.
        """
        with self._lock:
            self._check_open()
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                try:
                    _Mover(file).dump(self)
                finally:
                    self._closed = f"the budget was moved to {os.fspath(path)}; load takes it from there"

    @classmethod
    def load(cls: type[Mechanism], path: str | os.PathLike[str]) -> Mechanism:
        """Take a mechanism out of a file that `save` wrote, and delete the file.

        The file is a pickle, which can run code: load only what you saved.

        Parameters
        ----------
        path
            The file that `save` wrote.

        Returns
        -------
        PrivateMechanism
            The mechanism, with the budget that was left.

        Raises
        ------
        TypeError
            Where the file holds another kind of mechanism; then it stays.
        """
        taken = Path(f"{os.fspath(path)}.{os.getpid()}.{threading.get_ident()}")
        os.rename(path, taken)  # of several that load at once, one succeeds
        try:
            found = pickle.loads(taken.read_bytes())
            if not isinstance(found, cls):
                raise TypeError(f"path holds {type(found).__name__}; it takes a file that {cls.__name__}.save wrote")
        except BaseException:
            os.rename(taken, path)
            raise
        taken.unlink()
        return found

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds a privacy budget, which a copy or a pickle would have anew; "
            "save and load move it instead"
        )

    __copy__ = __deepcopy__ = __reduce_ex__ = __reduce__ = _refuse


class _Mover(pickle.Pickler):
    """Pickles mechanisms, and those within them, without their locks."""

    def reducer_override(self, found: Any) -> Any:
        if not isinstance(found, PrivateMechanism):
            return NotImplemented
        state = {name: value for name, value in vars(found).items() if name not in ("_lock", "_process")}
        return _restored, (type(found), state)


def _restored(kind: type[PrivateMechanism], state: dict[str, Any]) -> PrivateMechanism:
    found: PrivateMechanism = kind.__new__(kind)
    vars(found).update(state, _lock=threading.RLock(), _process=os.getpid())
    return found
