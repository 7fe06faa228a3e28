"""The prose of pages and docstrings is spelled in British English; names in code stay as their field writes them."""

import ast
import re
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/methods").glob("*.md")),
    ROOT / "docs/api/index.md",
    ROOT / "docs/tutorials/README.rst",
]
SOURCES = [
    *sorted(path for path in (ROOT / "src").rglob("*.py") if path.parent.parent.name != "papers"),  # titles of papers
    *sorted((ROOT / "docs/tutorials").glob("*.py")),
]
# What has one spelling in British English too, in the sense that these texts have.
BOTH = re.compile(
    r"analog|biased|dialogs?|focus(?:ed|es|ing)|judgments?|licens(?:ed?|es|ing)|math|meters?|overwritable|"
    r"practic(?:ed?|es|ing)|program|routing|special(?:ty|ties)|stor(?:y|ies)|tokenizers?|writable"
)
CODE = re.compile(
    r"^ *(?P<fence>`{3,}).*?^ *(?P=fence)$|``.+?``|(?:\{[\w:]+\}|:[\w:]+:)?`[^`]+`|\]\([^)]*\)|\$[^$]+\$|https?://\S+"
    r"|\b\w+[._]\w[\w.]*|\"[^\"]{1,150}\"|^References\n-+\n.*",  # of which the last are what others called their work
    re.DOTALL | re.MULTILINE,
)
ENDING = re.compile(r"(?!resiz|siz|priz|seiz)\w{3,}iz(?:e|es|ed|ing|ers?|able|ations?)\b")


def american_words():
    text = resources.files("codespell_lib").joinpath("data/dictionary_en-GB_to_en-US.txt").read_text("utf-8")
    right = (line.partition("->")[2].split(",") for line in text.splitlines())
    return {word.strip() for words in right for word in words if word.strip()}


def prose_of_docstring(text):
    """Leave out examples, and the names that head what is said of them."""
    return re.sub(r"^( *)(?:>>>.*|\.\.\..*|.*[^.:;,\n](?=\n\1 +\S))$", "", text, flags=re.MULTILINE)


def prose_of_source(path):
    text = path.read_text(encoding="utf-8")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    if path.name.startswith("plot_"):
        found.append("\n".join(line[2:] for line in text.splitlines() if line.startswith("# ")))
    return map(prose_of_docstring, found)


WORDS = american_words()


def american(text):
    """Return the words of a text that are spelled as in America."""
    words = re.findall(r"[A-Za-z]+", CODE.sub(" ", text))
    lower = {word: word.lower() for word in words}
    return [w for w in words if (lower[w] in WORDS or ENDING.fullmatch(lower[w])) and not BOTH.fullmatch(lower[w])]


def test_an_american_word_is_found_in_prose_alone():
    assert american("The behavior of an optimizer, its color, and what it minimizes") == [
        *("behavior", "optimizer", "color", "minimizes"),
    ]
    assert american("`optimizer`, ``color=0``, :class:`~torch.optim.Optimizer`, {py:func}`minimize`, numpy.size") == []
    assert american("```python\ncolor = 1\n```\nThe size of a prize") == []
    assert american(prose_of_docstring("Step.\n\noptimizer\n    Its color.\n>>> neighbor(1)")) == ["color"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_are_in_british_english(path):
    assert american(path.read_text(encoding="utf-8")) == []


def test_docstrings_are_in_british_english():
    found = [(path.name, word) for path in SOURCES for text in prose_of_source(path) for word in american(text)]
    assert found == []
