"""Where a public name is defined, with its signature and docstring, read from the sources and without importing them.

To import a field costs seconds and hundreds of megabytes, which a server that shows methods has no other use for.
"""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DEEP = 8  # packages that a name is handed on through, and bases that a signature is looked for in
_Defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Member:
    """A public method or property of a class: its signature, and the first line of its docstring."""

    name: str
    signature: str
    says: str


@dataclass(frozen=True)
class Definition:
    """A public class or function as its source has it.

    `module` is where it is defined, `line` the line there; `members` are those that a class itself defines.
    """

    name: str
    kind: str
    module: str
    line: int
    signature: str
    docstring: str
    members: tuple[Member, ...] = ()


def definition_of(dotted: str) -> Definition | None:
    """Find the definition of a name such as ``paperworks.diffusion.DPMSolver``; None where no source has it.

    Examples
    --------
    >>> found = definition_of("paperworks.core.lazy.lazy_exports")
    >>> found.kind, found.module
    ('function', 'paperworks.core.lazy')
    >>> found.signature.startswith("lazy_exports(package: str, modules:")
    True
    """
    package, _, name = dotted.rpartition(".")
    found = _find(package, name)
    if found is None:
        return None
    module, node = found
    is_class = isinstance(node, ast.ClassDef)
    return Definition(
        name=name,
        kind="class" if is_class else "function",
        module=module,
        line=node.lineno,
        signature=_signature(module, node),
        docstring=ast.get_docstring(node) or "",
        members=tuple(_members(node)) if isinstance(node, ast.ClassDef) else (),
    )


def exports_of(package: str) -> list[str]:
    """List the names that a package hands on by `lazy_exports`; none where it has no such call.

    Examples
    --------
    >>> "NoiseScheduleVP" in exports_of("paperworks.diffusion"), exports_of("json")
    (True, [])
    """
    path = _source(package)
    body = ast.parse(path.read_bytes()).body if path else []
    return [name for statement in _statements(body) for names in _lazy(statement).values() for name in names]


def _find(module: str, name: str) -> tuple[str, _Defined] | None:
    """Follow a name from a package that exports it to the module that defines it."""
    for _ in range(_DEEP):
        path = _source(module)
        if path is None:
            return None
        tree = ast.parse(path.read_bytes())
        defined = [s for s in _statements(tree.body) if isinstance(s, _Defined) and s.name == name]
        if defined:
            return module, defined[-1]  # the last of overloads is the one that runs
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for statement in _statements(tree.body):
            if place := _handed_on(statement, package, name):
                module, name = place
                break
        else:
            return None
    return None


def _source(module: str) -> Path | None:
    """Return the file of a module, found without importing any of the packages that hold it."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest and spec.origin and spec.origin.endswith(".py"):
        return Path(spec.origin)
    for location in spec.submodule_search_locations or ():
        base = Path(location, *rest)
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file():
                return path
    return None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Give the statements of a module, those under a condition or in a `try` included."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try)):
            yield from _statements([*statement.body, *statement.orelse])


def _handed_on(statement: ast.stmt, package: str, name: str) -> tuple[str, str] | None:
    """Return the module that a statement takes a name from, with the name that it has there."""
    if isinstance(statement, ast.ImportFrom):
        base = package.rsplit(".", statement.level - 1)[0] if statement.level else ""
        module = ".".join(filter(None, [base, statement.module or ""]))
        return next(((module, alias.name) for alias in statement.names if name in (alias.asname, alias.name)), None)
    return next(((f"{package}.{module}", name) for module, names in _lazy(statement).items() if name in names), None)


def _lazy(statement: ast.stmt) -> dict[str, list[str]]:
    """Return the names that a statement hands on by `lazy_exports`, by the modules that have them."""
    value = getattr(statement, "value", None)
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "lazy_exports" and len(value.args) == 2:
        return dict(ast.literal_eval(value.args[1]))
    return {}


def _signature(module: str, node: _Defined) -> str:
    if not isinstance(node, ast.ClassDef):
        return _call(node.name, node)
    return next(_takes(module, node, node.name), f"{node.name}(...)")


def _takes(module: str, node: ast.ClassDef, name: str, deep: int = _DEEP) -> Iterator[str]:
    """Write what making an object takes, as the first class among this one and its bases says it."""
    if (init := _method(node, "__init__")) is not None:
        yield _call(name, init, bound=True)
    elif fields := _fields(module, node):
        yield f"{name}({', '.join(fields)})"
    elif deep:
        for base in node.bases:
            found = _find(module, base.id) if isinstance(base, ast.Name) else None
            if found is not None and isinstance(found[1], ast.ClassDef):
                yield from _takes(found[0], found[1], name, deep - 1)


def _fields(module: str, node: ast.ClassDef) -> list[str]:
    """Return the fields that a dataclass or a named tuple takes, those of its bases first."""
    named = any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases)
    if not named and not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return []
    found: dict[str, str] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and (of_base := _find(module, base.id)) and isinstance(of_base[1], ast.ClassDef):
            found |= {field.partition(":")[0]: field for field in _fields(of_base[0], of_base[1])}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation):
            default = "" if statement.value is None else ast.unparse(statement.value)
            if "init=False" not in default:
                text = f"{ast.unparse(statement.target)}: {ast.unparse(statement.annotation)}"
                found[ast.unparse(statement.target)] = text + (f" = {default}" if default else "")
    return list(found.values())


def _members(node: ast.ClassDef) -> Iterator[Member]:
    for statement in node.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = statement.name
            if name.startswith("_") and name != "__call__":
                continue
            decorators = {ast.unparse(decorator) for decorator in statement.decorator_list}
            if any(decorator.endswith((".setter", ".deleter", "overload")) for decorator in decorators):
                continue
            is_property = any("property" in decorator for decorator in decorators)
            says = (ast.get_docstring(statement) or "").partition("\n")[0]
            bound = "staticmethod" not in decorators
            yield Member(name, name if is_property else _call(name, statement, bound=bound), says)


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    found = [s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == name]
    return found[-1] if found else None


def _call(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef, *, bound: bool = False) -> str:
    """Write a function as it is called: without `self`, and without what `__init__` returns."""
    arguments = ast.parse(ast.unparse(node)).body[0].args  # type: ignore[attr-defined] # a copy to cut from
    if bound and (first := arguments.posonlyargs or arguments.args):
        del first[0]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return f"{name}({ast.unparse(arguments)}){returns}"
