"""Puts the committed evidence into the wheel, in what an installed Paperworks shows of it, and types of lazy exports.

Every verdict, value and page is the same as in a checkout. Of measurements that a newer one has taken the place of, the
day is left, which is what counts of them; places in figures are rounded to a hundredth of a point; the results
pages, which the site and the commands make anew, stay behind. Names that packages export lazily are told to type
checkers by stubs, which are made from the tables of exports.
"""

import ast
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = "paperworks/_evidence"
_KINDS = (".jsonl", ".svg", ".wav", ".json")
_PLACES = re.compile(r'(?<= )(x|y|points)="([^"]*)"')
_MOVES = re.compile(r"(?:translate|rotate)\([^)]*\)")
_PATHS = re.compile(r'(?<= )d="([MLQCz\d\s.-]*)"')
_COMMANDS = re.compile(r"([MLQCz])([^MLQCz]*)")
_LONG = re.compile(r"-?\d+\.\d{3,}")
_UNSEEN = re.compile(r"\s*<metadata>.*?</metadata>|\s*<!--.*?-->|(?<=\n) +(?=<)", re.DOTALL)


class ShippingHook(BuildHookInterface):
    """Writes what is shipped and isn't in the sources to a folder, from which the wheel takes it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to a wheel; an editable one finds the checkout's."""
        if version == "editable":
            return
        self.folder = Path(tempfile.mkdtemp(prefix="paperworks-shipped-"))
        made = {f"{PLACE}/{name}": content for name, content in shipped(Path(self.root) / "evidence")}
        for name, content in {**made, **stubs(Path(self.root) / "src")}.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            build_data["force_include"][str(path)] = name

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the folder."""
        if version != "editable":
            shutil.rmtree(self.folder)


def shipped(evidence: Path) -> Iterator[tuple[str, bytes]]:
    """Give the name and content of each file of the evidence that goes into the wheel."""
    for path in sorted(evidence.rglob("*")):
        if path.suffix in _KINDS and path.is_file():
            content = path.read_bytes()
            if path.suffix == ".jsonl":
                content = shortened(content)
            elif path.suffix == ".svg":
                content = rounded(content)
            yield path.relative_to(evidence).as_posix(), content


def shortened(history: bytes) -> bytes:
    """Leave of a history what is shown: of each claim and scale the newest measurement and the newest failure.

    Of the others stay the lines, with what they are of, when they were made and how they ended.
    """
    lines = history.decode().splitlines()
    entries = [json.loads(line) for line in lines]
    newest = {(e["kind"], e["id"], e["scale"], e["outcome"] == "measured"): n for n, e in enumerate(entries)}
    shown = set(newest.values())
    return "".join(f"{line if n in shown else _stub(entries[n])}\n" for n, line in enumerate(lines)).encode()


def _stub(entry: dict[str, Any]) -> str:
    kept = {name: entry[name] for name in ("schema", "kind", "id", "scale", "seeds", "outcome")}
    origin = entry["provenance"]
    bare = {"date": origin["date"], "revision": "", "digest": "", "versions": {}, "machine": {}, "engine": ""}
    return json.dumps({**kept, "provenance": {**bare, "threads": origin["threads"]}}, sort_keys=True)


def rounded(figure: bytes) -> bytes:
    """Write the places of an SVG in hundredths of a point, and its paths by their steps; leave out what isn't drawn.

    Factors of scale, which multiply, are left as they are.
    """
    text = _UNSEEN.sub("", figure.decode())
    text = _PLACES.sub(lambda m: f'{m[1]}="{_LONG.sub(lambda n: _points(_hundredths(n[0])), m[2])}"', text)
    text = _MOVES.sub(lambda m: _LONG.sub(lambda n: _points(_hundredths(n[0])), m[0]), text)
    return _PATHS.sub(lambda m: f'd="{_by_steps(m[1])}"', text).encode()


def _by_steps(path: str) -> str:
    """Write a path of matplotlib, which has absolute places, with each place relative to the last one that is drawn."""
    found, command, here, begun = [], "", (0, 0), (0, 0)
    for letter, arguments in _COMMANDS.findall(path):
        places = [_hundredths(number) for number in arguments.split()]
        if letter == "z":
            found.append("z")
            command, here = "z", begun
            continue
        if letter == "M":
            begun = (places[0], places[1])
            found.append("M" + " ".join(map(_points, places)))
        else:
            steps = " ".join(_points(place - here[n % 2]) for n, place in enumerate(places))
            found.append((" " if letter == command else letter.lower()) + steps)
        command, here = letter, (places[-2], places[-1])
    return "".join(found)


def _hundredths(number: str) -> int:
    return round(100 * float(number))


def _points(hundredths: int) -> str:
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".")


def stubs(sources: Path) -> dict[str, bytes]:
    """Return the stub of each package that exports lazily, by its name in the wheel."""
    found = {}
    for path in sorted(sources.rglob("__init__.py")):
        package = ".".join(path.relative_to(sources).parts[:-1])
        lines = []
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "lazy_exports":
                for module, names in ast.literal_eval(value.args[1]).items():
                    lines += [f"from {package}.{module} import {name} as {name}" for name in names]
        if lines and package == "paperworks":
            lines.append("__version__: str")
        if lines:
            name = path.with_suffix(".pyi").relative_to(sources).as_posix()
            found[name] = "\n".join([*lines, "", "__all__: list[str]", ""]).encode()
    return found
