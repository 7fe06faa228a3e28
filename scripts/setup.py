"""Makes the virtual environment `.venv` from a complete lock, and shows how far it is.

    python scripts/setup.py core|test [FOLDER]

`core` is what Paperworks itself needs, `test` also peers, the site and the linters. What the lock names is installed as
it stands, with nothing resolved; then pip checks that nothing is missing, and brings what only this system's builds ask
for, such as the libraries of a CUDA build of torch. Nothing is done where it was done before from the same files.
"""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {
    "core": "",
    "test": "[dev,peers,cluster,mechanics,imaging,sound,verification,vision,rl,site,meaning,agents,postgres,docs]",
}


def main() -> None:
    """Do what is still to be done."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind not in EXTRAS:
        sys.exit(f"kind is {kind!r}; it takes core or test")
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs before anything could ask for a version
        sys.exit("Paperworks needs Python 3.11 or newer; install it (Debian: apt install python3 python3-venv)")
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else ROOT / ".venv")
    stamp = digest()
    if any((folder / f".ready-{done}-{stamp}").exists() for done in {kind, "test"}):
        return
    started = time.monotonic()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        print(f"Making {folder} ...", flush=True)
        try:
            venv.create(folder, with_pip=True)
        except (subprocess.CalledProcessError, OSError) as error:
            sys.exit(f"Can't make a virtual environment: {error}\nOn Debian or Ubuntu: apt install python3-venv")
    lock = ROOT / "locks" / f"{kind}.txt"
    names = sum(len(locked(ROOT / "locks" / f"{part}.txt")) for part in {"core", kind})
    pip = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    show(f"{names} packages", [*pip, "--no-deps", "-r", str(lock)], names, folder)
    project = f"{ROOT}{EXTRAS[kind]}"
    show("Paperworks", [*pip, "--no-build-isolation", "-c", str(lock), "-e", project], 0, folder)
    for old in folder.glob(".ready-*"):
        old.unlink()
    (folder / f".ready-{kind}-{stamp}").touch()
    print(f"Installed into {folder} in {time.monotonic() - started:.0f} s.", flush=True)


def digest() -> str:
    """Digest what decides the content of the environment."""
    files = [ROOT / "pyproject.toml", *sorted((ROOT / "locks").glob("*.txt"))]
    content = b"".join(path.read_bytes() for path in files)
    return hashlib.sha256(f"{sys.version_info[:2]}".encode() + content).hexdigest()[:16]


def locked(lock: Path) -> list[str]:
    """Return the names of the packages of a lock."""
    return re.findall(r"^([A-Za-z0-9][\w.-]*)==", lock.read_text(encoding="utf-8"), re.MULTILINE)


def show(what: str, command: list[str], total: int, folder: Path) -> None:
    """Run pip, and tell on one line what it is at; all of its output only where it fails."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    output: list[str] = []
    collected: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if found := re.match(r"Collecting ([\w.-]+)", line):
                collected.append(found[1])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    before, started, told = installed(folder), time.monotonic(), ""
    while True:
        code = process.poll()
        new = installed(folder) - before
        if code is not None:
            state = "done" if code == 0 else "failed"
        elif new:
            state = f"installing {min(new, total)} of {total}" if total else "installing"
        elif collected:
            state = f"fetching {len(collected)} of {total} ({collected[-1]})" if total else "checking"
        else:
            state = "starting"
        told = tell(f"{what}: {state}, {time.monotonic() - started:.0f} s", told, code is not None)
        if code is not None:
            break
        time.sleep(0.25)
    reader.join()
    if code:
        sys.exit("".join(output) + f"\npip failed: {' '.join(command)}")


def installed(folder: Path) -> int:
    """Count the packages in the environment, as far as pip, which moves them about meanwhile, lets one look."""
    count = 0
    for packages in (*folder.glob("lib/*/site-packages"), *folder.glob("Lib/site-packages")):
        try:
            count += sum(entry.name.endswith(".dist-info") for entry in os.scandir(packages))
        except OSError:
            continue
    return count


def tell(text: str, told: str, last: bool) -> str:
    """Overwrite the line on a terminal; elsewhere write a new one every ten seconds, and the last."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", end="\n" if last else "", flush=True)
        return text
    moment = str(int(time.monotonic() // 10))
    if last or moment != told:
        print(text, flush=True)
    return moment


if __name__ == "__main__":
    main()
