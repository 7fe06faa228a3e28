"""What a release promises: a changelog by version, deprecations that end, citations and tables that are current."""

import ast
import json
import re
import runpy
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import jsonschema
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from paperworks.core.deprecation import release
from paperworks.papers import load_all

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITATION, MATRIX, RELEASE, SBOM = (
    runpy.run_path(str(ROOT / "scripts" / f"{name}.py")) for name in ("citation", "matrix", "release", "sbom")
)
CFF_SCHEMA = Path(metadata.distribution("cffconvert").locate_file("cffconvert/schemas/1.2.0/schema.json"))
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def releases():
    return re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)


def coming():
    """Return the release that is being worked on, as pyproject.toml says it where there are no tags."""
    return Version(PROJECT["tool"]["hatch"]["version"]["fallback-version"])


class TestChangelog:
    def test_sections_are_versions_with_what_is_coming_first(self):
        titles = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
        assert titles[0] in ("Unreleased", f"{releases()[0] if releases() else ''} - {titles[0].rpartition(' ')[2]}")
        assert titles[1:] == [title for title in titles[1:] if re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", title)]
        assert releases() == sorted(releases(), key=release, reverse=True)

    def test_what_changed_stands_under_its_kind(self):
        assert set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)) <= KINDS
        assert re.findall(r"^#{4,} ", CHANGELOG, re.MULTILINE) == []

    def test_the_version_without_tags_goes_on_from_the_newest(self):
        assert coming().is_devrelease
        assert all(coming() > Version(version) for version in releases())

    def test_the_installed_version_is_none_of_the_past(self):
        assert not releases() or Version(metadata.version("paperworks")) >= Version(releases()[0])


def deprecations(source):
    """Return the release that each deprecation in a module's text goes in."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    named = [c for c in calls if getattr(c.func, "id", getattr(c.func, "attr", "")) in ("renamed", "renamed_arguments")]
    return [ast.literal_eval(k.value) for call in named for k in call.keywords if k.arg == "removed"]


class TestDeprecations:
    def test_they_are_found(self):
        assert deprecations("old = renamed(new, 'old', since='0.1.0', removed='0.2.0')") == ["0.2.0"]
        assert deprecations("@d.renamed_arguments({}, removed='0.3.0', since='0')\ndef f(): ...") == ["0.3.0"]

    def test_none_outlives_its_release(self):
        late = {}
        for path in (ROOT / "src" / "paperworks").rglob("*.py"):
            found = deprecations(path.read_text(encoding="utf-8"))
            if over := [removed for removed in found if Version(removed).release[:2] <= coming().release[:2]]:
                late[path.relative_to(ROOT).as_posix()] = over
        assert late == {}, f"these go in {coming().base_version} or before: take them out"


class TestCitation:
    def test_it_is_current(self):
        assert CITATION["CITATION"].read_text(encoding="utf-8") == CITATION["written"](), "make citation writes it"

    def test_it_is_valid_and_cites_the_authors_of_every_paper(self):
        found = yaml.load(CITATION["CITATION"].read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        schema = json.loads(CFF_SCHEMA.read_text(encoding="utf-8"))
        typed = {**found, "references": [{**r, "year": int(r["year"])} for r in found["references"]]}
        jsonschema.validate(typed, schema)
        ours = [paper for paper in load_all() if not paper.origin]
        assert len(found["references"]) == len(ours) == 51
        for paper, reference in zip(ours, found["references"], strict=True):
            assert reference["title"] == paper.title
            names = (a.get("name") or f"{a['given-names']} {a['family-names']}" for a in reference["authors"])
            assert tuple(names) == tuple(" ".join(name.split()) for name in paper.authors)

    @pytest.mark.parametrize(
        ("name", "given", "family"),
        [
            ("Ann Lee", "Ann", "Lee"),
            ("Laurens van der Maaten", "Laurens", "van der Maaten"),
            ("J. T. Springenberg", "J. T.", "Springenberg"),
        ],
    )
    def test_names_are_parted(self, name, given, family):
        assert yaml.safe_load(CITATION["person"](name)) == [{"given-names": given, "family-names": family}]

    def test_a_single_name_is_kept_whole(self):
        assert yaml.safe_load(CITATION["person"]("DeepMind")) == [{"name": "DeepMind"}]


@pytest.fixture(scope="module")
def bills(tmp_path_factory):
    written = SBOM["write"](tmp_path_factory.mktemp("bills"), "1.2.3")
    return {path.name.split("-")[2].partition(".")[0]: path.read_text(encoding="utf-8") for path in written}


class TestBillsOfMaterials:
    def test_there_is_one_for_the_core_and_for_each_extra_of_users(self, bills):
        assert bills.keys() == {"core", *PROJECT["project"]["optional-dependencies"]} - {"dev", "peers"}

    def test_they_are_valid(self, bills):
        validator = JsonStrictValidator(SchemaVersion.V1_6)
        assert [name for name, text in bills.items() if validator.validate_str(text) is not None] == []

    def test_they_hold_what_is_asked_for_in_the_versions_of_the_locks(self, bills):
        locked = SBOM["locked"]()
        for name, requirements in SBOM["project"]().items():
            bill = json.loads(bills[name])
            versions = {part["name"]: part["version"] for part in bill["components"]}
            assert {canonicalize_name(r.name) for r in requirements} <= versions.keys()
            assert all(locked[part] == version for part, version in versions.items() if part in locked)
            assert {"katex", "htmx.org"} <= versions.keys()
            assert bill["metadata"]["component"]["version"] == "1.2.3"

    def test_every_part_of_the_core_and_the_site_names_its_licence(self, bills):
        for name in ("core", "site"):
            assert [p["name"] for p in json.loads(bills[name])["components"] if not p.get("licenses")] == []


class TestMatrix:
    ROWS = json.loads(MATRIX["RESULTS"].read_text(encoding="utf-8"))

    def test_the_table_of_the_page_is_current(self):
        page = MATRIX["PAGE"].read_text(encoding="utf-8")
        assert MATRIX["written"](page, self.ROWS) == page

    def test_there_is_a_job_for_every_python_and_for_both_ends_of_every_library(self):
        jobs = MATRIX["jobs"]()
        told = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r"Python :: 3\.", c)]
        assert [job for job in jobs if job.startswith("python-")] == [f"python-{version}" for version in told]
        assert len(jobs) == len(set(jobs)) == len(told) + 2 * len(MATRIX["LIBRARIES"])
        assert {row["job"] for row in self.ROWS} <= set(jobs)

    def test_what_was_measured_as_oldest_is_what_is_asked_for(self):
        for row in self.ROWS:
            age, _, name = row["job"].partition("-")
            if age == "oldest" and row["outcome"] != "not run":
                assert Version(row["versions"][name]) == Version(MATRIX["lower_bounds"]()[name])

    def test_what_cannot_be_had_is_not_run_and_says_why(self, monkeypatch, tmp_path):
        monkeypatch.setitem(MATRIX["measure"].__globals__, "interpreter", lambda version: None)
        row = MATRIX["measure"]("python-3.14", tmp_path / "none.whl", [], None)
        assert (row["outcome"], row["reason"]) == ("not run", "there is no Python 3.14 on this machine")
        assert "| not run |" in MATRIX["table"]([row])

    def test_a_report_is_counted(self, tmp_path):
        (tmp_path / "report.xml").write_text(
            '<testsuite><testcase classname="a" name="b"/><testcase classname="a" name="c"><failure/></testcase>'
            '<testcase classname="a" name="d"><skipped/></testcase></testsuite>'
        )
        found = MATRIX["summary"](tmp_path / "report.xml")
        assert found == {"outcome": "failed", "tests": 3, "skipped": 1, "failures": ["a::c"]}


class TestRelease:
    def test_what_builds_the_wheel_is_locked(self):
        locked = SBOM["locked"]()
        for text in PROJECT["build-system"]["requires"]:
            requirement = Requirement(text)
            assert requirement.specifier.contains(locked[requirement.name])

    def test_a_version_that_nothing_says_anything_of_is_no_release(self):
        assert any("no section `## 98.7.6" in problem for problem in RELEASE["problems"]("98.7.6"))
        assert any("fallback-version" in problem for problem in RELEASE["problems"]("98.7.6"))
        assert RELEASE["problems"]("0.1.dev5+g1234567") == []


class TestContainer:
    TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")

    @pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not here")
    def test_the_linter_finds_nothing(self):
        run = subprocess.run(["hadolint", "Containerfile"], cwd=ROOT, capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (0, "")

    def test_it_runs_without_rights_from_plain_images(self):
        assert set(re.findall(r"^FROM (\S+)", self.TEXT, re.MULTILINE)) == {"python:3.12-slim"}
        assert re.findall(r"^USER (\S+)", self.TEXT, re.MULTILINE) == ["10001"]
        assert "HEALTHCHECK" in self.TEXT
        assert "/health" in self.TEXT

    def test_all_that_the_wheel_is_made_of_is_copied(self):
        copied = set(re.findall(r"^!(\S+)", (ROOT / ".containerignore").read_text(encoding="utf-8"), re.MULTILINE))
        assert {"src", "evidence", "locks", "pyproject.toml", "hatch_build.py", "README.md"} <= copied
        assert set(PROJECT["project"]["license-files"][:2]) <= copied
