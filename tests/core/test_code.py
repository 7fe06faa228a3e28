"""What a digest covers and what it leaves out, on small packages written for each test."""

import textwrap

import pytest
from torch import nn

from paperworks.core.code import Code, Place, code_digest

PACKAGE = {
    "__init__": "",
    "claims": """
        from paperworks.evidence import measures, races
        from pack import tools
        from pack.lazy import Exported
        import pack.deep.inner as inner

        LIMIT = 3

        @measures("c1")
        def c1(run):
            '''Measure.'''
            return helper(run) + LIMIT

        @measures("c2")
        def c2(run: "Run") -> int:
            return tools.used() + inner.value()

        @races("peer")
        def race(run):
            return Exported().run()

        def helper(run):
            from pack.local import local
            return local()
        """,
    "tools": """
        def used():
            return _private()
        def _private():
            return 1
        def unused():
            return 2
        """,
    "deep/__init__": "",
    "deep/inner": "def value(): return 1\ndef other(): return 2\n",
    "local": "def local(): return 1\n",
    "lazy/__init__": """
        from paperworks.core.lazy import lazy_exports
        __getattr__, __dir__, __all__ = lazy_exports(__name__, {"home": ["Exported"]})
        """,
    "lazy/home": """
        RULES = {}
        def rule(name):
            def add(f):
                RULES[name] = f
                return f
            return add
        @rule("a")
        def a(x): return x
        class Exported:
            def run(self): return RULES["a"](1)
            def rest(self): return 0
        """,
}


@pytest.fixture
def digests(tmp_path):
    """Return the digests of the three tasks, after changes of some text in some modules."""

    def of(**changes):
        root = tmp_path / "pack"
        for name, source in PACKAGE.items():
            text = textwrap.dedent(source)
            for before, after in changes.get(name.replace("/", "_"), {}).items():
                assert before in text
                text = text.replace(before, after)
            path = root / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        code = Code({"pack": root})
        found = {task: code.reach_task("pack.claims", *task) for task in code.tasks("pack.claims")}
        return {id: reach.digest for (_, id), reach in found.items()}

    return of


@pytest.mark.parametrize(
    ("changes", "aged"),
    [
        ({"claims": {"return helper(run) + LIMIT": "return helper(run) - LIMIT"}}, {"c1"}),
        ({"claims": {"LIMIT = 3": "LIMIT = 4"}}, {"c1"}),
        ({"tools": {"return 1": "return 3"}}, {"c2"}),
        ({"tools": {"return 2": "return 3"}}, set()),
        ({"deep_inner": {"return 1": "return 3"}}, {"c2"}),
        ({"deep_inner": {"return 2": "return 3"}}, set()),
        ({"local": {"return 1": "return 3"}}, {"c1"}),
        ({"lazy_home": {"def rest(self): return 0": "def rest(self): return 1"}}, {"peer"}),
        ({"lazy_home": {"def a(x): return x": "def a(x): return -x"}}, {"c1", "c2", "peer"}),  # runs at import
        ({"claims": {"'''Measure.'''": "'''Measure anew.'''"}}, set()),
        ({"claims": {'(run: "Run") -> int:': "(run):  # a comment"}}, set()),
        ({"claims": {"    return helper(run) + LIMIT": "    return (helper(run)\n        + LIMIT)"}}, set()),
    ],
)
def test_only_what_a_task_reaches_ages_it(digests, changes, aged):
    before, after = digests(), digests(**changes)
    assert {id for id in before if before[id] != after[id]} == aged


def test_a_module_used_as_an_object_counts_as_a_whole(digests):
    whole = {"tools.used()": "getattr(tools, 'used')()"}
    before = digests(claims=whole)
    after = digests(claims=whole, tools={"return 2": "return 3"})
    assert {id for id in before if before[id] != after[id]} == {"c2"}


def test_the_files_are_those_that_hold_something_reached(digests, tmp_path):
    digests()
    reach = Code({"pack": tmp_path / "pack"}).reach([Place("pack.tools", "used")])
    assert [path.name for path in reach.files] == ["tools.py"]


def test_a_source_that_does_not_parse_has_no_tasks(tmp_path):
    (tmp_path / "claims.py").write_text("def broken(:")
    assert Code({"claims": tmp_path / "claims"}).tasks("claims") == []


def test_a_function_inside_another_stands_for_the_whole_of_it():
    def inner():
        return 1

    assert code_digest(inner) == code_digest(lambda: 2)
    assert code_digest(inner) != code_digest(digests)


def test_the_class_of_another_package_does_not_bring_that_package_in():
    def train():
        return 1

    assert code_digest(train, nn.Sequential) == code_digest(train, nn.Linear) == code_digest(train)
    assert code_digest(Code) != code_digest(Place)
