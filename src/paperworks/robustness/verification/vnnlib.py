"""Properties in VNN-LIB 1.0, the files of the verification competition."""

import gzip
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paperworks.core.validation import check_count
from paperworks.robustness.verification.properties import Polytope, Property

_WORD = re.compile(r"[()]|[^\s();]+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_VARIABLE = re.compile(r"([XY])_(0|[1-9]\d{0,8})", re.ASCII)
_IGNORED = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}
_DEEPEST = 64  # parentheses in each other
_LARGEST = 64 << 20  # bytes, unpacked
_MOST_VARIABLES = 1 << 22
_MOST_ATOMS = 20_000_000  # comparisons in all disjuncts together
_MOST_ELEMENTS = 1 << 27  # of boxes and of rows over all outputs


class _Word(NamedTuple):
    text: str
    line: int


@dataclass
class _List:
    items: list[Any]
    line: int


class _Atom(NamedTuple):
    """A comparison: the sum of coefficients times variables is no greater than the bound."""

    inputs: dict[int, float]
    outputs: dict[int, float]
    bound: float
    line: int


def read_vnnlib(path: str | os.PathLike[str], *, max_disjuncts: int = 100_000) -> list[Property]:
    r"""Read what a file in VNN-LIB 1.0 asks: boxes of inputs, and for each the outputs that are unsafe.

    A file declares real variables ``X_i`` and ``Y_j`` and asserts, with ``and``, ``or``, ``<=`` and ``>=``, what a
    counterexample satisfies. That is brought into disjunctive normal form; disjuncts of the same box are one property.
    Nothing in the file is run.

    Parameters
    ----------
    path
        The file, packed with gzip if its name ends in ``.gz``.
    max_disjuncts
        How many disjuncts there may be, 100 000 by default.

    Returns
    -------
    list[Property]
        All are to hold for the file's assertions to be unsatisfiable; `verify` takes the list.

    Raises
    ------
    ValueError
        For what isn't VNN-LIB, naming the line and the word; for inputs without a bound, constraints on inputs that are
        no box or on inputs and outputs at once, no constraint on outputs, boxes that are all empty, and files that are
        too large, too deep or have too many disjuncts.

    Examples
    --------
    >>> import tempfile
    >>> text = '''(declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    ... (assert (>= X_0 -1)) (assert (<= X_0 1.5e0)) ; the box
    ... (assert (or (and (<= Y_0 Y_1)) (and (>= Y_1 3))))'''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "p.vnnlib").write_text(text)
    ...     (prop,) = read_vnnlib(Path(folder, "p.vnnlib"))
    >>> prop.lower, prop.upper, len(prop.unsafe)
    (tensor([-1.], dtype=torch.float64), tensor([1.5000], dtype=torch.float64), 2)

    References
    ----------
    Demarchi et al. (2023), Supporting Standardization of Neural Networks Verification with VNNLIB and CoCoNet.
    """
    path = Path(path)
    most = check_count("max_disjuncts", max_disjuncts)
    try:
        return _Reader(most).read(_text(path))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def write_vnnlib(path: str | os.PathLike[str], property: Property | Sequence[Property]) -> None:
    """Write properties as a file in VNN-LIB 1.0 that `read_vnnlib` reads as the same numbers.

    Parameters
    ----------
    path
        The file, packed with gzip if its name ends in ``.gz``; one that is there is replaced, at once.
    property
        One, or several of the same sizes.

    Raises
    ------
    ValueError
        For properties of different sizes.

    Examples
    --------
    >>> import tempfile
    >>> prop = Property(torch.zeros(2), torch.ones(2), [(torch.tensor([[1.0, -1.0]]), torch.zeros(1))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_vnnlib(Path(folder, "p.vnnlib.gz"), prop)
    ...     (again,) = read_vnnlib(Path(folder, "p.vnnlib.gz"))
    >>> bool((again.unsafe[0][0] == prop.unsafe[0][0]).all())
    True
    """
    properties = [property] if isinstance(property, Property) else list(property)
    if not properties:
        raise ValueError("property is empty; it takes one property or more")
    sizes = {(p.lower.numel(), p.n_outputs) for p in properties}
    if len(sizes) > 1:
        raise ValueError(f"property has several of {sorted(sizes)} inputs and outputs; it takes one size")
    data = ("\n".join(_lines(properties)) + "\n").encode("ascii")
    path = Path(path)
    data = gzip.compress(data, mtime=0) if path.suffix == ".gz" else data
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_bytes(path: Path, largest: int) -> bytes:
    """Return what is in a file, unpacked where its name ends in .gz, if it is no more than so many bytes.

    Raises
    ------
    ValueError
        For a file that is larger, or is damaged.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            data = file.read(largest + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"it is no whole file of gzip ({error})") from None
    if len(data) > largest:
        raise ValueError(f"it has more than {largest} bytes; this is the most that is read")
    return bytes(data)


def _text(path: Path) -> str:
    try:
        return read_bytes(path, _LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no text; it takes UTF-8") from None


def _terms(text: str) -> Iterator[_List]:
    """Yield the lists of the file, one after the other."""
    open_: list[_List] = []
    for line, content in enumerate(text.split("\n"), 1):
        for word in _WORD.findall(content.partition(";")[0]):
            if word == "(":
                if len(open_) == _DEEPEST:
                    raise ValueError(f"line {line}: more than {_DEEPEST} parentheses are open")
                open_.append(_List([], line))
            elif word == ")":
                if not open_:
                    raise ValueError(f"line {line}: ')' closes nothing")
                done = open_.pop()
                if open_:
                    open_[-1].items.append(done)
                else:
                    yield done
            elif open_:
                open_[-1].items.append(_Word(word, line))
            else:
                raise ValueError(f"line {line}: {_shown(_Word(word, line))} stands outside of parentheses")
    if open_:
        raise ValueError(f"line {open_[-1].line}: '(' is not closed")


def _shown(term: Any) -> str:
    """Return a term for a message."""
    if isinstance(term, _Word):
        return repr(term.text if len(term.text) <= 40 else term.text[:40] + "…")
    return "'(" + (_shown(term.items[0]).strip("'") if term.items else "") + " …)'"


def _wrong(term: Any, takes: str) -> ValueError:
    return ValueError(f"line {term.line}: {_shown(term)} is found; {takes}")


_Conjunct = list[_Atom]


class _Reader:
    """Reads one file."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.declared: dict[str, set[int]] = {"X": set(), "Y": set()}

    def read(self, text: str) -> list[Property]:
        always: _Conjunct = []
        choices: list[list[_Conjunct]] = []
        for term in _terms(text):
            match [item.text if isinstance(item, _Word) else None for item in term.items]:
                case ["declare-const", str(name), str(kind)]:
                    self._declare(term, name, kind)
                case ["declare-fun", str(name), None, str(kind)] if not term.items[2].items:
                    self._declare(term, name, kind)
                case ["assert", _]:
                    atoms, more = self._split(term.items[1])
                    always += atoms
                    choices += more
                case [str(head), *_] if head in _IGNORED:
                    pass
                case _:
                    raise _wrong(term, "it takes declare-const of a name and Real, or assert of one term")
        for kind, numbers in self.declared.items():
            if numbers != set(range(len(numbers))) or not numbers:
                raise ValueError(f"variables {kind}_i are declared {len(numbers)} times; they take 0 to the last, all")
        return self._properties(always, self._product(choices))

    def _declare(self, term: _List, name: str, kind: str) -> None:
        match = _VARIABLE.fullmatch(name)
        if match is None or kind != "Real":
            raise _wrong(term.items[1 if match is None else -1], "it takes X_i or Y_j, of Real")
        numbers, number = self.declared[match[1]], int(match[2])
        if number in numbers:
            raise _wrong(term.items[1], "it is declared already")
        if number >= _MOST_VARIABLES:
            raise _wrong(term.items[1], f"it takes numbers below {_MOST_VARIABLES}")
        numbers.add(number)

    def _split(self, term: Any) -> tuple[_Conjunct, list[list[_Conjunct]]]:
        """Return the comparisons that a term asserts, and the disjunctions beside them."""
        head = term.items[0].text if isinstance(term, _List) and term.items and isinstance(term.items[0], _Word) else ""
        match head:
            case "and":
                atoms: _Conjunct = []
                choices: list[list[_Conjunct]] = []
                for item in term.items[1:]:
                    more, others = self._split(item)
                    atoms += more
                    choices += others
                return atoms, choices
            case "or":
                options = [option for item in term.items[1:] for option in self._normal(item)]
                if not options:
                    raise _wrong(term, "it takes one term or more")
                self._check_count(len(options))
                return (options[0], []) if len(options) == 1 else ([], [options])
            case "<=" | ">=" if len(term.items) == 3:
                return [self._compared(term, head)], []
        raise _wrong(term, "it takes and, or, and <= or >= of two terms")

    def _normal(self, term: Any) -> list[_Conjunct]:
        """Return a term in disjunctive normal form."""
        atoms, choices = self._split(term)
        return [atoms + option for option in self._product(choices)]

    def _product(self, choices: list[list[_Conjunct]]) -> list[_Conjunct]:
        found: list[_Conjunct] = [[]]
        for options in choices:
            self._check_count(len(found) * len(options))
            if len(options) * sum(map(len, found)) + len(found) * sum(map(len, options)) > _MOST_ATOMS:
                raise ValueError(f"the assertions have more than {_MOST_ATOMS} comparisons in all disjuncts")
            found = [[*one, *another] for one in found for another in options]
        return found

    def _check_count(self, count: int) -> None:
        if count > self.most:
            raise ValueError(f"the assertions have {count} disjuncts or more; it takes {self.most} at most")

    def _compared(self, term: _List, relation: str) -> _Atom:
        sign = 1.0 if relation == "<=" else -1.0
        total: dict[str, float] = {}
        for item, factor in zip(term.items[1:], (sign, -sign), strict=True):
            for name, number in self._linear(item).items():
                total[name] = total.get(name, 0.0) + factor * number
        bound = -total.pop("", 0.0) + 0.0
        parts: dict[str, dict[int, float]] = {"X": {}, "Y": {}}
        for name, number in total.items():
            if number:
                parts[name[0]][int(name[2:])] = number
        if not all(map(_finite, (bound, *total.values()))):
            raise _wrong(term, "its numbers are too large")
        inputs, outputs = parts["X"], parts["Y"]
        if inputs and outputs:
            raise _wrong(term, "it takes a constraint of inputs or one of outputs, not of both")
        if len(inputs) > 1:
            raise _wrong(term, "it takes bounds of single inputs: a box")
        return _Atom(inputs, outputs, bound, term.line)

    def _linear(self, term: Any) -> dict[str, float]:
        """Return the coefficients of a linear term by variable, and its number by ''."""
        if isinstance(term, _Word):
            if _NUMBER.fullmatch(term.text):
                return {"": float(term.text)}
            match = _VARIABLE.fullmatch(term.text)
            if match is None or int(match[2]) not in self.declared[match[1]]:
                raise _wrong(term, "it takes a number or a variable that is declared")
            return {term.text: 1.0}
        head = term.items[0].text if term.items and isinstance(term.items[0], _Word) else ""
        if head not in ("+", "-", "*") or len(term.items) < 2:
            raise _wrong(term, "it takes a number, a variable, or +, - or * of such")
        parts = [self._linear(item) for item in term.items[1:]]
        if head == "*":
            found = {"": 1.0}
            for part in parts:
                if set(part) - {""} and set(found) - {""}:
                    raise _wrong(term, "it takes linear terms: at most one factor may have variables")
                one, other = (part, found) if set(found) <= {""} else (found, part)
                scale = other.get("", 0.0)
                found = {name: scale * number for name, number in one.items()}
            return found
        found = {}
        for i, part in enumerate(parts):
            sign = -1.0 if head == "-" and (i > 0 or len(parts) == 1) else 1.0
            for name, number in part.items():
                found[name] = found.get(name, 0.0) + sign * number
        return found

    def _properties(self, always: _Conjunct, options: list[_Conjunct]) -> list[Property]:
        count, outputs = len(self.declared["X"]), len(self.declared["Y"])
        base = _Box([-math.inf] * count, [math.inf] * count)
        shared = base.cut(always)
        boxes: dict[bytes, tuple[Tensor, list[Polytope]]] = {}
        elements, ends, never = 0, base.ends(), any(map(_is_false, always))
        for option in options:
            if any(a.inputs for a in option):
                box = _Box(base.lower.copy(), base.upper.copy())
                rows, found = shared + box.cut(option), box.ends()
                elements += 2 * count
            else:
                rows, found = shared + [a for a in option if a.outputs], ends
            elements += len(rows) * outputs
            if elements > _MOST_ELEMENTS:
                raise ValueError(f"the assertions make more than {_MOST_ELEMENTS} numbers of boxes and rows")
            if never or any(map(_is_false, option)) or bool((found[0] > found[1]).any()):
                continue  # nothing satisfies it
            for name, end in zip(("lower", "upper"), found, strict=True):
                if not bool(end.isfinite().all()):
                    raise ValueError(f"X_{int((~end.isfinite()).nonzero()[0])} has no {name} bound; it takes a box")
            if not rows:
                raise ValueError("nothing is asserted of outputs; it takes one constraint in each disjunct or more")
            boxes.setdefault(found.numpy().tobytes(), (found, []))[1].append(_polytope(rows, outputs))
        if not boxes:
            raise ValueError("no input satisfies the assertions; it takes a box that is not empty")
        return [Property(found[0], found[1], unsafe) for found, unsafe in boxes.values()]


@dataclass
class _Box:
    lower: list[float]
    upper: list[float]

    def ends(self) -> Tensor:
        return torch.tensor([self.lower, self.upper], dtype=torch.float64)

    def cut(self, atoms: _Conjunct) -> _Conjunct:
        """Cut the box by the atoms of inputs, and return those of outputs."""
        rows = []
        for atom in atoms:
            for number, factor in atom.inputs.items():
                end = atom.bound / factor + 0.0
                if not _finite(end):
                    raise ValueError(f"line {atom.line}: the bound of X_{number} is no finite number")
                if factor > 0:
                    self.upper[number] = min(self.upper[number], end)
                else:
                    self.lower[number] = max(self.lower[number], end)
            if atom.outputs:
                rows.append(atom)
        return rows


def _is_false(atom: _Atom) -> bool:
    return not atom.inputs and not atom.outputs and atom.bound < 0


def _finite(number: float) -> bool:
    return number - number == 0


def _polytope(rows: _Conjunct, outputs: int) -> Polytope:
    A = torch.zeros(len(rows), outputs, dtype=torch.float64)
    for i, atom in enumerate(rows):
        for number, factor in atom.outputs.items():
            A[i, number] = factor
    return A, torch.tensor([atom.bound for atom in rows], dtype=torch.float64)


def _lines(properties: Sequence[Property]) -> Iterator[str]:
    first = properties[0]
    yield from (f"(declare-const X_{i} Real)" for i in range(first.lower.numel()))
    yield from (f"(declare-const Y_{j} Real)" for j in range(first.n_outputs))
    if len(properties) == 1:
        yield from (f"(assert {bound})" for bound in _bounds(first))
        yield "(assert (or"
        yield from (f"  (and {' '.join(_rows(*polytope))})" for polytope in first.unsafe)
        yield "))"
        return
    yield "(assert (or"
    for one in properties:
        box = " ".join(_bounds(one))
        yield from (f"  (and {box} {' '.join(_rows(*polytope))})" for polytope in one.unsafe)
    yield "))"


def _bounds(property: Property) -> Iterator[str]:
    for i, (low, high) in enumerate(
        zip(property.lower.flatten().tolist(), property.upper.flatten().tolist(), strict=True)
    ):
        yield f"(>= X_{i} {low!r})"
        yield f"(<= X_{i} {high!r})"


def _rows(A: Tensor, b: Tensor) -> Iterator[str]:
    for row, bound in zip(A.tolist(), b.tolist(), strict=True):
        terms = [f"(* {factor!r} Y_{j})" for j, factor in enumerate(row) if factor]
        if sorted(row) == [-1.0, *[0.0] * (len(row) - 2), 1.0] and bound == 0:  # as the competition writes it
            yield f"(<= Y_{row.index(1.0)} Y_{row.index(-1.0)})"
        else:
            yield f"(<= (+ {' '.join(terms or ['0.0'])}) {bound!r})"
