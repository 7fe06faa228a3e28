"""Peers that can't be imported the ordinary way."""

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

_ALIAS = "_paperworks_k_diffusion"
_UNUSED_BY_SAMPLERS = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


@functools.cache
def load_k_diffusion_sampling() -> types.ModuleType:
    """Load the module `k_diffusion.sampling` without the rest of its package.

    The package imports its whole model zoo (torchvision, CLIP, Weights & Biases) at once; its samplers
    need none of it. They are loaded under a private name, so `import k_diffusion` elsewhere is unaffected.

    Raises
    ------
    ImportError
        Where k-diffusion, or something its samplers do use (torchsde, torchdiffeq), isn't installed.

    Examples
    --------
    >>> sampling = load_k_diffusion_sampling()  # doctest: +SKIP
    >>> sampling.sample_lms(model, x, sigmas, disable=True)  # doctest: +SKIP
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("k-diffusion is not installed; `pip install --no-deps k-diffusion` suffices for its samplers")
    package = types.ModuleType(_ALIAS)
    package.__path__ = list(spec.submodule_search_locations)  # a package whose __init__ is not run
    sys.modules[_ALIAS] = package
    try:
        with _standing_in(_UNUSED_BY_SAMPLERS):
            return importlib.import_module(f"{_ALIAS}.sampling")
    except BaseException:
        for name in [n for n in sys.modules if n.partition(".")[0] == _ALIAS]:
            del sys.modules[name]
        raise


@contextmanager
def _standing_in(names: tuple[str, ...]) -> Iterator[None]:
    """Let `import` find empty modules for `names`, each an attribute of the one before, unless they are loaded."""
    added = [name for name in names if name not in sys.modules]
    for name in added:
        sys.modules[name] = types.ModuleType(name)
        parent, _, child = name.rpartition(".")
        if parent in added:
            setattr(sys.modules[parent], child, sys.modules[name])
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
