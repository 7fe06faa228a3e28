"""The distributions, and environments that hold them with what they declare and nothing else."""

import os
import runpy
import subprocess
import sys
import sysconfig
import tarfile
import venv
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(project, out, kind):
    """Build a wheel or a source distribution with what is installed, and return it."""
    out.mkdir(exist_ok=True)
    code = f"import hatchling.build, sys; print(hatchling.build.build_{kind}(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, out], cwd=project, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out / run.stdout.split()[-1]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("release")


@pytest.fixture(scope="session")
def wheel(place):
    return build(ROOT, place / "wheel", "wheel")


@pytest.fixture(scope="session")
def sdist(place):
    return build(ROOT, place / "sdist", "sdist")


@pytest.fixture(scope="session")
def source(place, sdist):
    """Return the folder of the sources as they were taken out of the source distribution."""
    with tarfile.open(sdist) as archive:
        # Python 3.11.2, Debian's, has no filters yet; the archive is our own.
        archive.extractall(place / "source", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (folder,) = (place / "source").iterdir()
    return folder


SBOM = runpy.run_path(str(ROOT / "scripts" / "sbom.py"))
required, closure = SBOM["required"], SBOM["closure"]


class Environment:
    """A virtual environment with links to some distributions of this one."""

    def __init__(self, folder):
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        self.site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        self.home = folder / "home"
        self.home.mkdir()
        here = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PAPERWORKS_"))}
        self.environment = {**here, "HOME": str(self.home), "XDG_DATA_HOME": str(self.home / "data")}
        self.environment |= {"XDG_CACHE_HOME": str(self.home / "cache"), "COLUMNS": "200", "MPLBACKEND": "agg"}

    def link(self, distributions):
        for distribution in distributions:
            for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
                if not (self.site / name).exists():
                    (self.site / name).symlink_to(Path(distribution.locate_file(name)))

    def pip(self, *arguments):
        command = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", *arguments]
        return subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True)

    def run(self, *arguments, command="paperworks"):
        """Run a command of the environment, outside the checkout."""
        words = [self.python.parent / command, *arguments]
        return subprocess.run(words, env=self.environment, cwd=self.home, capture_output=True, text=True)


@pytest.fixture(scope="session")
def core(place, wheel):
    """Return an environment with Paperworks' wheel and what its core asks for."""
    environment = Environment(place / "core")
    installed = environment.pip("install", "--no-index", "--no-deps", "--quiet", wheel)
    assert installed.returncode == 0, installed.stderr
    (ours,) = metadata.distributions(name="paperworks", path=[str(environment.site)])
    environment.ours = ours
    environment.brought = closure(required(ours))
    environment.link(environment.brought.values())
    environment.listed = environment.run("list")  # takes the digests of all claims, for every test that shows verdicts
    return environment


@pytest.fixture(scope="session")
def site(place, core):
    """Return an environment with what the extra `site` brings, on top of the core's."""
    environment = Environment(place / "site")
    brought = closure(required(core.ours, "site"))
    environment.link(d for name, d in brought.items() if name not in core.brought)
    (environment.site / "core.pth").write_text(f"{core.site}\n")
    environment.environment["XDG_CACHE_HOME"] = core.environment["XDG_CACHE_HOME"]  # digests are taken once
    return environment
