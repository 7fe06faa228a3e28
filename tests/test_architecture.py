"""Holds the house to its plan: the table of rooms, no circles, and papers that import public names only."""

import ast
import importlib
import runpy
from pathlib import Path

import grimp
import pytest

import paperworks.papers

ROOMS = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "rooms.py"))
PAPERS = Path(paperworks.papers.__file__).parent
LOCKS = Path(__file__).parents[1] / "locks"


def test_the_table_of_rooms_is_current():
    text = ROOMS["ARCHITECTURE"].read_text(encoding="utf-8")
    assert ROOMS["BEGIN"] in text
    assert ROOMS["written"](text) == text, "python scripts/rooms.py writes it"


def circles(imports):
    """Return the sets of modules that import each other around a circle (Tarjan's strongly connected components)."""
    order, low, path, found = {}, {}, [], []

    def visit(module):
        order[module] = low[module] = len(order)
        path.append(module)
        for other in imports[module]:
            if other not in order:
                visit(other)
            if other in path:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            where = path.index(module)
            component, path[where:] = path[where:], []
            if len(component) > 1:
                found.append(sorted(component))

    for module in imports:
        if module not in order:
            visit(module)
    return found


def test_circles_are_found():
    assert circles({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}) == [["b", "c"]]
    assert circles({"a": ["b"], "b": ["c"], "c": []}) == []


def test_no_module_imports_itself_around_a_circle():
    graph = grimp.build_graph("paperworks", cache_dir=None)
    imports = {m: sorted(graph.find_modules_directly_imported_by(m)) for m in sorted(graph.modules)}
    # The application imports the modules of its commands, which register with it, once one is asked for.
    imports["paperworks.cli.app"] = [m for m in imports["paperworks.cli.app"] if not m.startswith("paperworks.cli.")]
    assert circles(imports) == []


@pytest.mark.parametrize("path", sorted(PAPERS.glob("*/*.py")), ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_papers_import_exported_names_only(path):
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wrong += [alias.name for alias in node.names if alias.name.startswith("paperworks.")]
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("paperworks."):
            continue
        if f"{node.module}.".startswith(f"paperworks.papers.{path.parent.name}."):
            continue
        exported = importlib.import_module(node.module).__all__ if node.module.count(".") == 1 else ()
        wrong += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in exported]
    assert wrong == []


def test_the_lock_of_the_tests_names_what_is_installed_without_its_dependencies():
    apart, lock = ((LOCKS / name).read_text(encoding="utf-8").splitlines() for name in ("no-deps.txt", "test.txt"))
    assert {line for line in apart if "==" in line} <= set(lock)
