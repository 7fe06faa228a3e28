"""What the wheel and the source distribution hold."""

import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import paperworks.diffusion

build = runpy.run_path(str(Path(__file__).parent / "conftest.py"))["build"]
ROOT = Path(__file__).parents[2]
HOOK = runpy.run_path(str(ROOT / "hatch_build.py"))
JUNK = re.compile(
    r"(^|/)(__pycache__|\.git|\.venv|_build|dist|\.\w+_cache|\.hypothesis)(/|$)|\.pyc$|\.egg-info|\.lock$"
)
MOST = 6_000_000


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size <= MOST


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [name for name in names if JUNK.search(name)] == []
    assert {name.partition("/")[0] for name in names} == {"paperworks", names[-1].partition("/")[0]}
    package = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src" / "paperworks").rglob("*") if p.is_file()}
    package = {name for name in package if not JUNK.search(name)}
    stubs = HOOK["stubs"](ROOT / "src").keys()
    shipped = {f"{HOOK['PLACE']}/{name}" for name, _ in HOOK["shipped"](ROOT / "evidence")}
    assert {name for name in names if name.startswith("paperworks/")} == package | stubs | shipped
    assert "paperworks/py.typed" in names


def test_the_source_distribution_gives_the_same_wheel(place, source, wheel):
    again = build(source, place / "again", "wheel")
    assert again.name == wheel.name
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_the_source_distribution_holds_all_that_is_tracked_and_no_junk(sdist):
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert [name for name in names if JUNK.search(name)] == []
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and (ROOT / ".git").exists():
        tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
        assert tracked - set(names) <= {".gitattributes", ".gitignore"}


def test_the_metadata(wheel):
    found = metadata_of(wheel)
    assert found["Name"] == "paperworks"
    assert found["License-Expression"] == "Apache-2.0 AND 0BSD AND MIT"
    assert found["Requires-Python"] == ">=3.11"
    classifiers = found.get_all("Classifier")
    assert {c.rpartition(" ")[2] for c in classifiers if re.search(r"Python :: 3\.", c)} == {
        "3.11",
        "3.12",
        "3.13",
        "3.14",
    }
    assert "Typing :: Typed" in classifiers
    assert found.get_payload().startswith("# Paperworks")


def test_the_version_comes_from_git(tmp_path):
    def run(*words, env=None):
        done = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True, env=env)
        return done.stdout.strip()

    git = ("git", "-c", "user.name=n", "-c", "user.email=e@example.org")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    version = (sys.executable, "-m", "hatchling", "version")
    fallback = tomllib.loads(project)["tool"]["hatch"]["version"]["fallback-version"]
    assert run(*version) == fallback  # no git, as in an archive of the sources
    told = {**os.environ, "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_PAPERWORKS": "1.2.3"}  # as Containerfile says it
    assert run(*version, env=told) == "1.2.3"
    run(*git, "init", "-q")
    run(*git, "add", ".")
    run(*git, "commit", "-qm", "first")
    assert re.fullmatch(r"0\.1\.dev1\+g\w+", run(*version))  # no tag, as in a shallow clone
    run(*git, "tag", "v7.8.9")
    assert run(*version) == "7.8.9"
    run(*git, "commit", "-qm", "second", "--allow-empty")
    assert re.fullmatch(r"7\.8\.10\.dev1\+g\w+", run(*version))


def test_every_vendored_file_has_a_licence(wheel):
    entries = {}
    for block in (ROOT / "NOTICE").read_text(encoding="utf-8").split("\n\n"):
        if block.startswith("work: "):
            fields = dict(line.split(": ", 1) for line in block.strip().splitlines())
            entries[fields["work"]] = fields
    package = ROOT / "src" / "paperworks"
    for fields in entries.values():
        assert (package / fields["licence"]).is_file()
        assert all(any(package.glob(pattern)) for pattern in fields["files"].split(", "))
    patterns = [pattern for fields in entries.values() for pattern in fields["files"].split(", ")]
    told = {path for pattern in patterns for path in package.glob(pattern)}
    static = {path for path in (package / "web" / "static").rglob("*") if path.is_file() and "LICENSE" not in path.name}
    own = {"favicon.ico", "icon.svg", "page.js", "share.png", "style.css", "theme.js"}
    assert {path.name for path in static - told} == own
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    files = metadata_of(wheel).get_all("License-File")
    assert {"LICENSE", "NOTICE"} < set(files)
    assert all(any(name.endswith(f".dist-info/licenses/{file}") for name in names) for file in files)
    assert {f"src/paperworks/{fields['licence']}" for fields in entries.values()} < set(files)


def drawn(path):
    """Return the commands of a path and its places, wherever they are relative to."""
    commands, places, here, begun = [], [], (0.0, 0.0), (0.0, 0.0)
    for letter, arguments in re.findall(r"([MLQCzlqc])([^MLQCzlqc]*)", path):
        numbers = [float(number) for number in arguments.split()]
        size = {"m": 2, "l": 2, "q": 4, "c": 6, "z": 1}[letter.lower()]
        for start in range(0, len(numbers), size):
            commands.append(letter.upper())
            base = here if letter.islower() else (0.0, 0.0)
            places += [number + base[n % 2] for n, number in enumerate(numbers[start : start + size])]
            here = (places[-2], places[-1])
        begun = here if letter == "M" else begun
        if letter == "z":
            commands.append("Z")
            here = begun
    return commands, places


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("path", sorted((ROOT / "evidence").glob("*/*.svg"))[::6], ids=lambda path: path.name)
def test_figures_are_drawn_in_the_same_places(path):
    texts = (path.read_bytes(), HOOK["rounded"](path.read_bytes()))
    before, after = ([e for e in ElementTree.fromstring(t).iter() if not is_metadata(e)] for t in texts)
    for a, b in zip(before, after, strict=True):
        assert (a.tag, (a.text or "").strip(), a.attrib.keys()) == (b.tag, (b.text or "").strip(), b.attrib.keys())
        for name, text in a.attrib.items():
            if name == "d":
                (commands, places), (same, close) = drawn(text), drawn(b.attrib[name])
                assert same == commands
                assert close == pytest.approx(places, abs=0.005001)
            elif name in ("x", "y", "points", "transform"):
                assert numbers(b.attrib[name]) == pytest.approx(numbers(text), abs=0.005001)
            else:
                assert b.attrib[name] == text


def is_metadata(element):
    return any(name in element.tag for name in ("metadata", "rdf", "creativecommons", "purl.org"))


def test_paths_go_by_steps_and_factors_of_scale_are_kept():
    figure = (
        b'<g transform="translate(1.23456 7) scale(0.015625)"><path d="M 1.004 2 \nL 3.006 2.5 \nL 4 4 \nz\n"/></g>'
    )
    rounded = b'<g transform="translate(1.23 7) scale(0.015625)"><path d="M1 2l2.01 0.5 0.99 1.5z"/></g>'
    assert HOOK["rounded"](figure) == rounded
    assert HOOK["rounded"](b'<path d="M 0 0 A 1 1 0 0 0 2 2"/>') == b'<path d="M 0 0 A 1 1 0 0 0 2 2"/>'


def test_of_superseded_measurements_the_day_stays():
    history = (ROOT / "evidence" / "dpm-solver" / "history.jsonl").read_bytes()
    before, after = ([json.loads(line) for line in text.splitlines()] for text in (history, HOOK["shortened"](history)))
    assert [e["provenance"]["date"] for e in before] == [e["provenance"]["date"] for e in after]
    newest = {(e["kind"], e["id"], e["scale"]): e for e in before if e["outcome"] == "measured"}
    assert sorted(e["id"] for e in after if "values" in e) == sorted(e["id"] for e in newest.values())
    assert all(e in after for e in newest.values())


def test_every_lazy_export_has_its_type():
    stub = HOOK["stubs"](ROOT / "src")["paperworks/diffusion/__init__.pyi"].decode()
    assert sorted(re.findall(r" as (\w+)$", stub, re.MULTILINE)) == paperworks.diffusion.__all__
