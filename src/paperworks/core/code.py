"""What a piece of code can reach, found without running it, and a digest of it.

A digest covers a definition, the definitions that it names, whatever those name in turn, and the statements that run
when the modules are imported that hold them. Comments, white space, docstrings and the annotations of arguments don't
count; nor does code outside the packages that are searched. What the analysis can't follow (a module used as an
object, a name made at run time) counts as the whole of the module that it stands in.
"""

import ast
import functools
import hashlib
import inspect
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# Decorators that leave nothing behind elsewhere: what they decorate counts only where it is named.
_HARMLESS = {
    "abstractmethod", "cache", "cached_property", "classmethod", "contextmanager", "dataclass", "final", "jaxtyped",
    "lru_cache", "measures", "no_grad", "overload", "override", "property", "races", "runtime_checkable",
    "staticmethod", "total_ordering", "wraps",
}  # fmt: skip
_TIES = {"measures": "claim", "races": "peer"}
_IGNORED = {"type_comment", "type_params", "kind", "ctx"}
_EVERYTHING = "*"
_PARSING = threading.Lock()  # parsing in several threads at once fails on some versions of Python
PACKAGE = Path(__file__).parents[1]


class Place(NamedTuple):
    """A definition of a module; the name `*` stands for the whole module."""

    module: str
    name: str


@dataclass(frozen=True)
class _Unit:
    """One statement of a module: its digest, the names it uses, and what it imports for itself."""

    digest: str
    names: frozenset[str]
    imports: Mapping[str, Place]


@dataclass
class _Module:
    """A module taken apart: definitions by name, statements that act when it is imported, names that it imports."""

    path: Path
    definitions: dict[str, list[_Unit]] = field(default_factory=dict)
    effects: list[_Unit] = field(default_factory=list)
    imports: dict[str, Place] = field(default_factory=dict)
    lazy: dict[str, str] = field(default_factory=dict)
    ties: dict[tuple[str, str], _Unit] = field(default_factory=dict)
    units: list[_Unit] = field(default_factory=list)


class Code:
    """The source of some packages, by the name of each.

    Examples
    --------
    >>> code = Code({"paperworks": PACKAGE})
    >>> reached = code.reach([Place("paperworks.core.lazy", "lazy_exports")])
    >>> [path.name for path in reached.files]
    ['lazy.py']
    """

    def __init__(self, packages: Mapping[str, Path]) -> None:
        self.packages = dict(packages)
        self._modules: dict[str, _Module | None] = {}

    def reach(self, places: Iterable[Place]) -> "Reach":
        """Return what can be reached from some places."""
        return _Search(self).from_places(places)

    def reach_task(self, module: str, kind: str, id: str) -> "Reach | None":
        """Return what the function can reach that `module` ties to a claim or peer, None where it ties none."""
        found = self._module(module)
        unit = found.ties.get((kind, id)) if found else None
        return None if unit is None else _Search(self).from_unit(module, unit)

    def tasks(self, module: str) -> list[tuple[str, str]]:
        """List the claims and peers that `module` ties functions to, each as (kind, id)."""
        found = self._module(module)
        return list(found.ties) if found else []

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            path = self._path(name)
            self._modules[name] = _take_apart(name, path) if path else None
        return self._modules[name]

    def _path(self, name: str) -> Path | None:
        top, *rest = name.split(".")
        if top not in self.packages:
            return None
        base = self.packages[top].joinpath(*rest)
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file():
                return path
        return None


@dataclass(frozen=True)
class Reach:
    """What a piece of code can reach: the digest of it, and the files that it stands in."""

    digest: str
    files: tuple[Path, ...]


class _Search:
    def __init__(self, code: Code) -> None:
        self.code = code
        self.found: dict[str, set[str]] = {}  # digests by module
        self.done: set[Place] = set()
        self.imported: set[str] = set()
        self.todo: list[tuple[str, _Unit]] = []

    def from_places(self, places: Iterable[Place]) -> Reach:
        for place in places:
            self._symbol(place)
        return self._finish()

    def from_unit(self, module: str, unit: _Unit) -> Reach:
        self._import(module)
        self.todo.append((module, unit))
        return self._finish()

    def _finish(self) -> Reach:
        while self.todo:
            module, unit = self.todo.pop()
            if unit.digest in self.found.setdefault(module, set()):
                continue
            self.found[module].add(unit.digest)
            for name in sorted(unit.names):
                self._name(module, unit, name)
            for place in unit.imports.values():
                self._import_of(place)
        lines = sorted(f"{module} {digest}" for module, digests in self.found.items() for digest in digests)
        modules = (self.code._module(name) for name in sorted(self.found))
        files = tuple(module.path for module in modules if module)
        return Reach(hashlib.sha256("\n".join(lines).encode()).hexdigest(), files)

    def _import(self, name: str) -> None:
        """Count what runs when a module is imported: its packages' and its own statements, and its imports'."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            whole = ".".join(parts[:end])
            if whole in self.imported or (module := self.code._module(whole)) is None:
                continue
            self.imported.add(whole)
            self.todo += [(whole, unit) for unit in module.effects]
            for place in module.imports.values():
                self._import_of(place)

    def _import_of(self, place: Place) -> None:
        """Count what runs for an import, a lazily exported name included."""
        self._import(place.module)
        if place.name == _EVERYTHING:
            return
        module = self.code._module(place.module)
        if module is None:
            return
        if place.name in module.lazy:
            self._import(module.lazy[place.name])
        elif place.name not in module.definitions and self.code._path(f"{place.module}.{place.name}"):
            self._import(f"{place.module}.{place.name}")

    def _name(self, module: str, unit: _Unit, dotted: str) -> None:
        first, *rest = dotted.split(".")
        here = self.code._module(module)
        assert here is not None
        if first in unit.imports:
            self._imported_name(unit.imports[first], rest)
        elif first in here.definitions:
            self._symbol(Place(module, first))
        elif first in here.imports:
            self._imported_name(here.imports[first], rest)

    def _imported_name(self, place: Place, rest: list[str]) -> None:
        """Follow `place.rest` through packages and modules to a definition."""
        if place.name != _EVERYTHING:
            if not self._is_module(place):
                self._symbol(place)
                return
            place = Place(f"{place.module}.{place.name}", _EVERYTHING)
        while rest:
            place = Place(place.module, rest[0])
            rest = rest[1:]
            if not self._is_module(place):
                break
            place = Place(f"{place.module}.{place.name}", _EVERYTHING)
        self._symbol(place)

    def _is_module(self, place: Place) -> bool:
        module = self.code._module(place.module)
        if module and (place.name in module.definitions or place.name in module.imports or place.name in module.lazy):
            return False
        return self.code._path(f"{place.module}.{place.name}") is not None

    def _symbol(self, place: Place) -> None:
        if place in self.done:
            return
        self.done.add(place)
        module = self.code._module(place.module)
        if module is None:
            return
        self._import(place.module)
        if place.name in module.definitions:
            self.todo += [(place.module, unit) for unit in module.definitions[place.name]]
        elif place.name in module.lazy:
            self._symbol(Place(module.lazy[place.name], place.name))
        elif place.name in module.imports:
            self._imported_name(module.imports[place.name], [])
        elif not place.name.startswith("__"):  # the whole module, or a name made at run time
            self.todo += [(place.module, unit) for unit in module.units]
            for name in module.imports:
                self._imported_name(module.imports[name], [])


def _take_apart(name: str, path: Path) -> _Module:
    module = _Module(path)
    try:
        with _PARSING:
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return module
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            module.imports |= _imports(statement, package)
            continue
        if _is_type_checking(statement) or _is_docstring(statement):
            continue
        if exports := _lazy_exports(statement):
            module.lazy |= {export: f"{name}.{home}" for home, names in exports.items() for export in names}
            continue
        unit = _unit(statement, package)
        module.units.append(unit)
        ties = list(_ties(statement))
        for tie in ties:
            module.ties[tie] = unit
        names = _bound(statement)
        for bound in names:
            module.definitions.setdefault(bound, []).append(unit)
        if not ties and (not names or _acts(statement)):
            module.effects.append(unit)
    return module


def _unit(statement: ast.stmt, package: str) -> _Unit:
    lines: list[str] = []
    names: set[str] = set()
    imports: dict[str, Place] = {}
    _write(statement, lines, names, imports, package)
    return _Unit(hashlib.sha256("\n".join(lines).encode()).hexdigest(), frozenset(names), imports)


def _write(node: ast.AST, lines: list[str], names: set[str], imports: dict[str, Place], package: str) -> None:
    """Write a node in a way that is the same for every version of Python, and collect names and imports."""
    lines.append(type(node).__name__)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        imports |= _imports(node, package)
    if isinstance(node, ast.Name):
        names.add(node.id)
    elif isinstance(node, ast.Attribute) and (dotted := _dotted(node)):
        names.add(dotted)
        lines.append(dotted)
        return
    skipped = _IGNORED
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        skipped = _IGNORED | {"returns"}
    elif isinstance(node, ast.arg):
        skipped = _IGNORED | {"annotation"}
    for name in node._fields:
        value: Any = getattr(node, name, None)
        if name in skipped or value is None or value == []:
            continue
        lines.append(name)
        if name == "body" and isinstance(value, list):
            value = [v for v in value if not _is_docstring(v)]
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                _write(item, lines, names, imports, package)
            else:
                lines.append(f"{type(item).__name__} {item!r}")
    lines.append(".")


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _imports(statement: ast.Import | ast.ImportFrom, package: str) -> dict[str, Place]:
    if isinstance(statement, ast.Import):
        return {
            alias.asname or alias.name.partition(".")[0]: Place(
                alias.name if alias.asname else alias.name.partition(".")[0], _EVERYTHING
            )
            for alias in statement.names
        }
    base = statement.module or ""
    if statement.level:
        parts = package.split(".")
        base = ".".join([*parts[: len(parts) - statement.level + 1], *filter(None, [statement.module])])
    return {alias.asname or alias.name: Place(base, alias.name) for alias in statement.names}


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        targets = [statement.target]
    found = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    if isinstance(statement, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
        found += [name for child in _blocks(statement) for name in _bound(child)]
    return found


def _blocks(statement: ast.stmt) -> Iterator[ast.stmt]:
    for name in ("body", "orelse", "finalbody"):
        yield from getattr(statement, name, [])
    for handler in getattr(statement, "handlers", []):
        yield from handler.body


def _acts(statement: ast.stmt) -> bool:
    """Tell whether importing a statement that binds names does more than that."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return any(_called(decorator) not in _HARMLESS for decorator in statement.decorator_list)
    if isinstance(statement, ast.Assign):
        return any(not isinstance(target, (ast.Name, ast.Tuple)) for target in statement.targets)
    return not isinstance(statement, ast.AnnAssign)


def _called(decorator: ast.expr) -> str:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _ties(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Give what `@measures("id")` and `@races("id")` in a statement tie functions to."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and (kind := _TIES.get(_called(node))) and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield kind, first.value


def _lazy_exports(statement: ast.stmt) -> dict[str, list[str]]:
    """Return the literal table of a package's lazy exports."""
    value = getattr(statement, "value", None)
    if not (isinstance(value, ast.Call) and _called(value) == "lazy_exports" and len(value.args) == 2):
        return {}
    try:
        return dict(ast.literal_eval(value.args[1]))
    except ValueError:
        return {}


def _is_type_checking(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and _called(statement.test) == "TYPE_CHECKING"


def _is_docstring(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def code_digest(*objects: Any) -> str:
    """Digest what functions and classes can reach; what a cache of their results is keyed by.

    A function inside another one stands for the whole of it, and an object for its class. Code in this package is
    followed, and code in the packages that the functions themselves stand in. A class of another package, such as a
    layer of torch, brings its package in no more than naming it would.

    Examples
    --------
    >>> code_digest(code_digest) == code_digest(code_digest)
    True
    """
    packages, places = {"paperworks": PACKAGE}, []
    for given in objects:
        item = given
        while isinstance(item, functools.partial):
            item = item.func
        item = inspect.unwrap(item) if hasattr(item, "__qualname__") else type(item)
        places.append(Place(item.__module__, item.__qualname__.partition(".")[0]))
        if not inspect.isclass(given) and (root := _package_of(item.__module__)) is not None:
            packages.setdefault(item.__module__.partition(".")[0], root)
    return _code(tuple(sorted(packages.items()))).reach(places).digest


def _package_of(module: str) -> Path | None:
    """Return where the top-level package or module lies that a module stands in, None where it has no source."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file:
        return None
    path = Path(file)
    path = path.parent if path.name == "__init__.py" else path.with_suffix("")
    return path.parents[module.count(".") - 1] if "." in module else path


@functools.lru_cache(maxsize=16)
def _code(packages: tuple[tuple[str, Path], ...]) -> Code:
    return Code(dict(packages))  # read once in a process, like the code that runs in it
