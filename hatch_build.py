"""Puts the committed evidence into the wheel, in what an installed Paperworks shows of it.

Every verdict, value and page is the same as in a checkout. Of measurements that a newer one has taken the place of, the
day is left, which is what counts of them; coordinates of figures are rounded to a hundredth of a point; the results
pages, which the site and the commands make anew, stay behind.
"""

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
_LENGTHS = re.compile(r'(?<= )(d|x|y|points)="([^"]*)"')
_MOVES = re.compile(r"(?:translate|rotate)\([^)]*\)")
_LONG = re.compile(r"-?\d+\.\d{3,}")


class EvidenceHook(BuildHookInterface):
    """Writes the evidence as it is shipped to a folder, from which the wheel takes it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to a wheel; an editable one finds the checkout's."""
        if version == "editable":
            return
        self.folder = Path(tempfile.mkdtemp(prefix="paperworks-evidence-"))
        for name, content in shipped(Path(self.root) / "evidence"):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            build_data["force_include"][str(path)] = f"{PLACE}/{name}"

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
    """Round the places of an SVG to a hundredth of a point; factors of scale, which multiply, are left as they are."""
    text = _LENGTHS.sub(lambda m: f'{m[1]}="{_LONG.sub(_short, m[2])}"', figure.decode())
    return _MOVES.sub(lambda m: _LONG.sub(_short, m[0]), text).encode()


def _short(match: re.Match[str]) -> str:
    number = f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if number in ("-0", "") else number
