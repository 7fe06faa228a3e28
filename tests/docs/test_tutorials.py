"""Tutorials as text: their form, their fields, and that they use public names that exist. `make docs` runs them."""

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
FIELDS = {
    "diffusion": ["plot_sample_in_ten_steps"],
    "robustness": ["plot_certify_a_classifier"],
    "inference": ["plot_compare_classifiers", "plot_share_private_counts"],
    "optimization": ["plot_optimise_costly_function"],
    "training": ["plot_late_generalisation"],
    "solvers": ["plot_solve_with_a_certified_error", "plot_tune_a_simulations_solver"],
    "dynamics": ["plot_how_long_a_spell_lasts"],
    "operators": ["plot_learn_a_solution_operator"],
    "reduction": ["plot_reduce_a_simulation"],
    "audio": ["plot_model_an_effect"],
}
OTHERS = {"paperworks.numerics", "paperworks.testbeds"}
TUTORIALS = [(field, name) for field, names in FIELDS.items() for name in names]


@pytest.fixture
def source(name: str) -> str:
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def test_every_tutorial_is_listed_under_its_field_and_in_the_header() -> None:
    header = (FOLDER / "README.rst").read_text(encoding="utf-8")
    listed = {name for _, name in TUTORIALS}
    assert listed == {path.stem for path in FOLDER.glob("plot_*.py")}
    assert [name for name in listed if f":doc:`{name}`" not in header] == []


@pytest.mark.parametrize(("field", "name"), TUTORIALS)
def test_title_blocks_and_checks(field: str, name: str, source: str) -> None:
    tree = ast.parse(source)
    title, underline, *_ = (ast.get_docstring(tree) or "").splitlines()
    assert title
    assert not title.endswith(".")
    assert len(underline) >= len(title)
    assert set(underline) == {"="}
    assert source.count("\n# %%\n") >= 4
    assert "What it costs, and when not to use it" in source
    assert isinstance(tree.body[-1], (ast.Assert, ast.For)), "the last lines check what the tutorial says"
    assert [line for line in source.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize(("field", "name"), TUTORIALS)
def test_headings_have_lines_as_long_as_they_are(field: str, name: str, source: str) -> None:
    lines = source.splitlines()
    for line, before in zip(lines[1:], lines, strict=False):
        if line.startswith("# --"):
            assert line == "# " + "-" * (len(before) - 2), before


@pytest.mark.parametrize(("field", "name"), TUTORIALS)
def test_public_names_alone_are_imported_and_exist(field: str, name: str, source: str) -> None:
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("paperworks")]
    assert f"paperworks.{field}" in {node.module for node in ours}
    assert {node.module for node in ours} <= OTHERS | {f"paperworks.{field}" for field in FIELDS}
    for node in ours:
        module = importlib.import_module(node.module or "")
        assert [alias.name for alias in node.names if alias.name not in module.__all__] == []


@pytest.mark.parametrize(("field", "name"), TUTORIALS)
def test_references_in_the_text_exist(field: str, name: str, source: str) -> None:
    for target in _references(source):
        module, _, attribute = target.rpartition(".")
        assert attribute in importlib.import_module(module).__all__, target


def _references(source: str) -> list[str]:
    """Return what the text refers to by roles of Sphinx."""
    found = [part.split("`")[0] for part in source.split(":`~")[1:]]
    return [target for target in found if target.startswith("paperworks.")]
