"""Results that are expensive to make and safe to keep, keyed by what they were made from and the code that did."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from paperworks.core.code import code_digest

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def cache_root() -> Path:
    """Return the folder of all caches: `$PAPERWORKS_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("PAPERWORKS_CACHE"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("paperworks"))


def cached_folder(name: str, inputs: Mapping[str, Any], build: Callable[[Path], Any], root: Path | None = None) -> Path:
    """Return the folder that `build` fills, building it only if this code never built it from these inputs.

    The folder appears whole or not at all, and of several processes that ask at once one builds
    while the others wait.

    Parameters
    ----------
    name
        What the folder holds; the first part of its own name.
    inputs
        Everything the content depends on besides the code, as JSON values: settings, seeds.
    build
        Called with an empty folder to fill. All code that it can reach is part of the key.
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
    return _folder(name, inputs, build, root, code_digest(build))


def cached(name: str, make: Callable[[], T], inputs: Mapping[str, Any], root: Path | None = None) -> T:
    """Return what `make` returns, making it only if this code never made it from these inputs.

    Parameters
    ----------
    name, inputs, root
        As in `cached_folder`.
    make
        Returns tensors, NumPy arrays, numbers, texts, and lists, tuples and dictionaries of them. All code that it
        can reach is part of the key.

    Returns
    -------
    object
        What `make` returned, equal to it but for the identity of its parts.

    Examples
    --------
    >>> import pathlib, tempfile, torch
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     cached("demo", lambda: {"x": torch.ones(2)}, {"n": 2}, root=pathlib.Path(tmp))
    {'x': tensor([1., 1.])}
    """
    import torch

    def build(folder: Path) -> None:
        torch.save(_tensors(make()), folder / "content.pt")

    folder = _folder(name, inputs, build, root, code_digest(make))
    return _arrays(torch.load(folder / "content.pt", weights_only=True))


def trained(
    name: str,
    network: "torch.nn.Module",
    train: "Callable[[torch.nn.Module], Any]",
    inputs: Mapping[str, Any],
    root: Path | None = None,
) -> "torch.nn.Module":
    """Return a network with the weights of its training, training it only if this code never did from these inputs.

    Parameters
    ----------
    name, inputs, root
        As in `cached_folder`.
    network
        The network before its training; it gets the weights.
    train
        Trains the network that it is given in place, or returns another of the same shape whose weights are wanted,
        such as an average. All code that it, and the network's class, can reach is part of the key.

    Returns
    -------
    torch.nn.Module
        `network` in evaluation mode, its parameters frozen.

    Examples
    --------
    >>> import pathlib, tempfile, torch
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     def train(network):
    ...         torch.nn.init.zeros_(network.weight)
    ...     trained("demo", torch.nn.Linear(1, 1), train, {}, pathlib.Path(tmp)).weight
    Parameter containing:
    tensor([[0.]])
    """
    import torch

    def build(folder: Path) -> None:
        result = train(network)
        torch.save((network if result is None else result).state_dict(), folder / "weights.pt")

    folder = _folder(name, inputs, build, root, code_digest(train, type(network)))
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return network.eval().requires_grad_(False)


def _folder(name: str, inputs: Mapping[str, Any], build: Callable[[Path], Any], root: Path | None, code: str) -> Path:
    key = hashlib.sha256(json.dumps({**inputs, " code": code}, sort_keys=True).encode()).hexdigest()[:16]
    root = cache_root() if root is None else root
    folder = root / f"{name}-{key}"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with _waiting_lock(Path(f"{folder}.lock")):
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


def _waiting_lock(path: Path) -> AbstractContextManager[Any]:
    """Take a lock that another process may hold as long as it trains, and tell meanwhile that this one is alive."""
    # Only to build: whoever asks where caches are has no need of them.
    from filelock import FileLock, Timeout

    from paperworks.core.processes import tell_alive

    lock = FileLock(path)
    while True:
        try:
            return lock.acquire(timeout=1)
        except Timeout:
            tell_alive()


_ARRAY = "numpy array"


def _tensors(value: Any) -> Any:
    """Write NumPy arrays as marked tensors, which can be loaded without unpickling what anybody wrote."""
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_tensors(item) for item in value)
    return value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return value[_ARRAY].numpy() if value.keys() == {_ARRAY} else {k: _arrays(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_arrays(item) for item in value)
    return value
