"""The pages of the guide: their code runs, their commands parse, and they name every method by a name that exists."""

import functools
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest
import typer

from paperworks.cli import app as cli
from paperworks.papers import FIELDS, load_all

ROOT = Path(__file__).parents[2]
METHODS = ROOT / "docs" / "methods"
GUIDE = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(METHODS.glob("*.md")),
]
COMMANDED = [*GUIDE, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REFERENCE = re.compile(r"\{py:(class|func)\}`~?(paperworks\.[\w.]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PAPERS = [paper for paper in load_all() if not paper.origin]


def fences(path, language):
    return [body for found, _, body in FENCE.findall(path.read_text(encoding="utf-8")) if found == language]


def named(paths):
    """Give each page a name of its own."""
    return {"argvalues": paths, "ids": [path.relative_to(ROOT).as_posix() for path in paths]}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=f"{path.stem}-{number}")
        for path in GUIDE
        for number, code in enumerate(fences(path, "python"), 1)
    ],
)
def test_code_runs(code):
    exec(compile(code, "guide", "exec"), {"__name__": "guide"})


def commands(path):
    """Return the variables and the arguments of each call of `paperworks` on a page."""
    found = []
    for body in fences(path, "console"):
        for line in body.replace("\\\n", " ").splitlines():
            if not line.startswith("$ "):
                continue
            words = shlex.split(line[2:], comments=True)
            variables = list(itertools.takewhile(re.compile(r"[A-Z_]+=").match, words))
            if words[len(variables) :][:1] == ["paperworks"]:
                found.append((dict(word.split("=", 1) for word in variables), words[len(variables) + 1 :]))
    return found


@pytest.fixture
def root(monkeypatch):
    """Return the command line, whose commands are made once and not for each call."""
    cli._register()
    monkeypatch.setattr(cli, "_built", built)
    return typer.main.get_command(cli.app)


built = functools.cache(cli._built)


def parse(command, words):
    """Parse arguments as a call would, and run nothing."""
    context = command.make_context(command.name, list(words))
    if hasattr(command, "resolve_command"):
        _, sub, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        parse(sub, rest)


@pytest.mark.parametrize("path", **named(COMMANDED))
def test_commands_parse(path, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variables, words in commands(path):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for word in words:
            if word.endswith(".bib"):  # has to be there
                Path(word).touch()
        parse(root, words)


def test_a_command_that_is_none_does_not_parse(root):
    with pytest.raises(Exception, match="No such option: --fields"):
        parse(root, ["list", "--fields"])
    with pytest.raises(Exception, match="No such command 'lists'"):
        parse(root, ["lists"])


@pytest.mark.parametrize("path", **named(GUIDE))
def test_references_lead_to_public_names_of_their_kind(path):
    for kind, full in REFERENCE.findall(path.read_text(encoding="utf-8")):
        package, _, name = full.rpartition(".")
        assert name in importlib.import_module(package).__all__, full  # which imports none of them
        assert (name != name.lower()) == (kind == "class"), full


def test_each_field_has_a_page():
    assert {path.stem for path in METHODS.glob("*.md")} == {*FIELDS, "index"}
    listed = fences(METHODS / "index.md", "{toctree}")[0].split()
    assert [name for name in listed if not name.startswith(":")] == list(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_the_page_of_a_field_names_its_papers_and_all_their_methods(field):
    text = (METHODS / f"{field}.md").read_text(encoding="utf-8")
    of_field = [paper for paper in PAPERS if paper.field == field]
    there = {full for _, full in REFERENCE.findall(text)}
    assert {method for paper in of_field for method in paper.methods} <= there
    assert set(re.findall(r"\{paper\}`([\w-]+)`", text)) == {paper.slug for paper in of_field}
    assert [(kind, rest.strip()) for kind, rest, _ in FENCE.findall(text) if kind == "{methods}"] == [
        ("{methods}", field)
    ]


@pytest.mark.parametrize("path", **named(COMMANDED))
def test_links_within_the_repository_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for link in LINK.findall(FENCE.sub("", text)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.is_file(), link
        if anchor:
            there = target.read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", there), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert f"({anchor})=" in there or anchor in slugs, link


@pytest.mark.parametrize("path", **named(GUIDE))
def test_a_page_has_one_title_and_headings_in_order(path):
    levels = [len(marks) for marks in re.findall(r"^(#+) ", FENCE.sub("", path.read_text("utf-8")), re.MULTILINE)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
