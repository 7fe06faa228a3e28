"""Files that are whole or not there at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """Give a place to write files to that appear in a folder together, in the end and only if nothing failed.

    Parameters
    ----------
    folder
        Where they shall be; it is made where it doesn't exist, and files of the same names are replaced.

    Yields
    ------
    Path
        A folder beside them, which is gone in the end.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole_files(folder) as aside:
    ...     written = (aside / "settings.json").write_text("{}")
    >>> [file.name for file in folder.iterdir()]
    ['settings.json']
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".") as name:
        aside = Path(name)
        yield aside
        files = sorted(aside.iterdir())
        for file in files:
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        for file in files:
            os.replace(file, target / file.name)
