"""Results that are expensive to make and safe to keep, in folders keyed by what they were made from."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def cache_root() -> Path:
    """Return the folder of all caches: `$PAPERWORKS_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("PAPERWORKS_CACHE"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("paperworks"))


def cached_folder(
    name: str, inputs: Mapping[str, Any], build: Callable[[Path], None], root: Path | None = None
) -> Path:
    """Return the folder that `build` fills, building it only if these inputs were never built before.

    The folder appears whole or not at all, and of several processes that ask at once one builds
    while the others wait.

    Parameters
    ----------
    name
        What the folder holds; the first part of its own name.
    inputs
        Everything the content depends on, as JSON values: settings, seeds, a digest of the source.
    build
        Called with an empty folder to fill.
    root
        Where to keep it; `cache_root()` by default.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     make = lambda folder: (folder / "answer").write_text("42")
    ...     folder = cached_folder("demo", {"seed": 0}, make, root=pathlib.Path(tmp))
    ...     (folder / "answer").read_text()
    '42'
    """
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    root = cache_root() if root is None else root
    folder = root / f"{name}-{key}"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock  # only to build: whoever asks where caches are has no need of it

    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
        try:
            build(partial)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return folder
