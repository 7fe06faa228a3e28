"""What a release promises: a changelog by version, deprecations that end, citations and tables that are current."""

import ast
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

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


def told_of(changelog, following):
    """Return the release that the changelog's newest changes are of: the last one until something has changed since."""
    first = re.search(r"^## Unreleased\n+## (\d+\.\d+\.\d+) - ", changelog, re.MULTILINE)
    return Version(first[1]) if first else following


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


def deprecations(source):
    """Return the release that each deprecation in a module's text goes in."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    named = [c for c in calls if getattr(c.func, "id", getattr(c.func, "attr", "")) in ("renamed", "renamed_arguments")]
    return [ast.literal_eval(k.value) for call in named for k in call.keywords if k.arg == "removed"]


class TestDeprecations:
    def test_they_are_found(self):
        assert deprecations("old = renamed(new, 'old', since='0.1.0', removed='0.2.0')") == ["0.2.0"]
        assert deprecations("@d.renamed_arguments({}, removed='0.3.0', since='0')\ndef f(): ...") == ["0.3.0"]

    def test_they_warn_in_the_release_itself_and_go_when_the_next_one_begins(self):
        released = "## Unreleased\n\n## 0.2.0 - 2026-12-31\n\n### Deprecated\n- old.\n"
        assert told_of(released, Version("0.3.dev0")) == Version("0.2.0")
        begun = released.replace("Unreleased\n", "Unreleased\n\n### Added\n- new.\n")
        assert told_of(begun, Version("0.3.dev0")) == Version("0.3.dev0")
        assert told_of("## Unreleased\n\n### Added\n- new.\n", Version("0.1.dev0")) == Version("0.1.dev0")

    def test_none_outlives_its_release(self):
        late, current = {}, told_of(CHANGELOG, coming())
        for path in (ROOT / "src" / "paperworks").rglob("*.py"):
            found = deprecations(path.read_text(encoding="utf-8"))
            if over := [removed for removed in found if Version(removed).release[:2] <= current.release[:2]]:
                late[path.relative_to(ROOT).as_posix()] = over
        assert late == {}, f"these go in {current.base_version} or before: take them out"


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
            names = [f"{a['given-names']} {a['family-names']}" for a in reference["authors"]]  # people, no entities
            assert tuple(names) == tuple(" ".join(name.split()) for name in paper.authors)

    @pytest.mark.parametrize(
        ("name", "given", "family"),
        [
            ("Ann Lee", "Ann", "Lee"),
            ("Laurens van der Maaten", "Laurens", "van der Maaten"),
            ("J. T. Springenberg", "J. T.", "Springenberg"),
            ("Nicolas Le Roux", "Nicolas", "Le Roux"),
            ("Da Long", "Da", "Long"),  # a given name, whatever it looks like
            ("Eric Vanden-Eijnden", "Eric", "Vanden-Eijnden"),
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
            assert {canonicalize_name(r.name) for r in requirements} - {"paperworks"} <= versions.keys()
            assert all(locked[part] == version for part, version in versions.items() if part in locked)
            assert {"katex", "htmx.org"} <= versions.keys()
            assert bill["metadata"]["component"]["version"] == "1.2.3"

    def test_every_part_names_its_licence(self, bills):
        parts = [part for text in bills.values() for part in json.loads(text)["components"]]
        assert {part["name"] for part in parts if "UNKNOWN" in json.dumps(part.get("licenses", "UNKNOWN"))} == set()

    def test_paperworks_is_no_part_of_itself(self, bills):
        for text in bills.values():
            assert "paperworks" not in {part["name"] for part in json.loads(text)["components"]}

    def test_files_of_others_have_their_digests(self, bills):
        carried = [f for p in json.loads(bills["core"])["components"] for f in p.get("components", [])]
        told = {f["name"]: f["hashes"][0]["content"] for f in carried}
        assert {"paperworks/web/static/htmx.min.js", "paperworks/web/static/katex-0.19.1/katex.min.js"} <= told.keys()
        assert sum(name.endswith(".woff2") for name in told) == 20
        for name, digest in told.items():
            assert hashlib.sha256((ROOT / "src" / name).read_bytes()).hexdigest() == digest


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

    @pytest.fixture
    def conform(self, monkeypatch, tmp_path):
        """Run a job whose environment is had at once, and whose pytest ends as it is told to."""

        def run(script, done=()):
            def answer(words, **options):
                if words[2:3] == ["pytest"]:
                    return subprocess.CompletedProcess(words, *script)
                told = "Python 3.11.7" if "-V" in words else '{"numpy": "2.0.0"}'
                return subprocess.CompletedProcess(words, 0, told, "")

            conformance = MATRIX["conformance"]
            monkeypatch.setitem(conformance.__globals__, "subprocess", SimpleNamespace(run=answer, TimeoutExpired=None))
            asked = SimpleNamespace(suites="kinds", minutes=1)
            return conformance("oldest-numpy", "python3", tmp_path / "w.whl", tmp_path, list(done), asked)

        return run

    def test_what_brings_the_tests_down_has_failed(self, conform):
        row = conform((4, "", f"ImportError while loading conftest '{ROOT}/tests/conftest.py'.\nnumpy is too old\n"))
        assert row["outcome"] == "failed"
        assert row["failures"] == ["pytest ended with 4 and no report: numpy is too old"]
        assert "0 passed, 0 skipped, 1 failed" in MATRIX["table"]([{"job": "oldest-numpy", **row}])

    def test_the_same_versions_are_run_once(self, conform):
        first = {"job": "python-3.11", **conform((139, "", ""))}
        assert conform((0, "", ""), [first])["same_as"] == "python-3.11"

    def test_what_contradicts_itself_is_told(self):
        output = (
            "ERROR: Cannot install numpy==2.0.0 and paperworks because these package versions have conflicting "
            "dependencies.\nERROR: ResolutionImpossible: for help visit https://pip.example.org/help\n"
        )
        assert MATRIX["reason_of"](output).startswith("Cannot install numpy==2.0.0 and paperworks")

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
        found = RELEASE["problems"]("98.7.6", ["v98.7.6"])
        assert any("no section `## 98.7.6" in problem for problem in found)
        assert any("fallback-version" in problem for problem in found)
        assert RELEASE["problems"]("0.1.dev5+g1234567") == []
        assert RELEASE["problems"]("0.1.dev5+g1234567", changed=[" M a.py"]) == []

    def test_a_tag_takes_a_clean_checkout(self):
        (found,) = RELEASE["problems"]("0.2.1.dev0+g1234567.d20261231", ["v0.2.0"], [" M docs/matrix.json", "?? new"])
        assert found == "the checkout has changes that aren't committed: docs/matrix.json, new"

    @pytest.mark.parametrize(
        ("version", "tags"), [("0.2", ["v0.2"]), ("0.2.0rc1", ["v0.2.0rc1"]), ("9.9.9", ["v0.2.0"]), ("0.2.0", [])]
    )
    def test_a_tag_is_the_version_of_a_release(self, version, tags):
        (found,) = RELEASE["problems"](version, tags)
        assert found.startswith("it takes the tag of a release, such as v0.2.0")

    def test_the_steps_of_the_page_lead_to_a_release(self, monkeypatch, tmp_path):
        for name in ("CHANGELOG.md", "CITATION.cff", "pyproject.toml"):
            shutil.copy(ROOT / name, tmp_path / name)
        for place in (RELEASE["problems"], RELEASE["CITATION"]["written"]):
            monkeypatch.setitem(place.__globals__, "ROOT", tmp_path)
        changelog = CHANGELOG.replace("## Unreleased\n", "## Unreleased\n\n## 97.0.0 - 2026-12-31\n", 1)
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        project = re.sub('^fallback-version = ".*?"', 'fallback-version = "97.1.dev0"', project, flags=re.MULTILINE)
        (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
        (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
        assert RELEASE["problems"]("97.0.0", ["v97.0.0"]) == ["CITATION.cff is out of date: make citation"]
        (tmp_path / "CITATION.cff").write_text(RELEASE["CITATION"]["written"](), encoding="utf-8")
        assert RELEASE["problems"]("97.0.0", ["v97.0.0"]) == []
        (tmp_path / "CHANGELOG.md").write_text(changelog.replace("Unreleased\n", "Unreleased\n- x\n"), encoding="utf-8")
        assert any("under `## Unreleased`" in problem for problem in RELEASE["problems"]("97.0.0", ["v97.0.0"]))


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

    def test_the_check_of_health_tells_the_site_from_its_absence(self):
        """Run it as the image does, with a proxy in the environment, as podman passes the host's on."""
        words = json.loads(re.search(r"^    CMD (\[.*\])$", self.TEXT, re.MULTILINE)[1])

        class Site(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(self.server.status if self.path == "/health" else 404)
                self.end_headers()

            def log_message(self, *words):
                pass

        with HTTPServer(("127.0.0.1", 0), Site) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            code = words[2].replace("8000", str(server.server_port))
            environment = {**os.environ, "http_proxy": "http://127.0.0.1:9"}
            ended = []
            for server.status in (200, 503):
                ended.append(subprocess.run([sys.executable, "-c", code], env=environment).returncode)
            server.shutdown()
        assert words[:2] == ["python", "-c"]
        assert ended == [0, 1]

    def test_only_versions_of_the_locks_hold_pip(self):
        """An -r in a file of constraints is installed, with all that builds and tests Paperworks."""
        assert "grep -h == locks/core.txt locks/test.txt > /constraints.txt" in self.TEXT
        assert set(re.findall(r"PIP_(?:BUILD_)?CONSTRAINT=(\S+)", self.TEXT)) == {"/constraints.txt"}

    def test_all_that_the_wheel_is_made_of_is_copied(self):
        copied = set(re.findall(r"^!(\S+)", (ROOT / ".containerignore").read_text(encoding="utf-8"), re.MULTILINE))
        assert {"src", "evidence", "locks", "pyproject.toml", "hatch_build.py", "README.md"} <= copied
        assert set(PROJECT["project"]["license-files"][:2]) <= copied
