"""Lazy package exports (PEP 562), so that importing a field package costs nothing until a name is used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the `__getattr__`, `__dir__` and `__all__` of a package whose names live in its modules.

    Parameters
    ----------
    package
        The package's `__name__`.
    modules
        For each module of the package, the public names it defines.

    Examples
    --------
    >>> __getattr__, __dir__, __all__ = lazy_exports("paperworks.core", {"lazy": ["lazy_exports"]})
    >>> __all__
    ['lazy_exports']
    >>> __getattr__("lazy_exports") is lazy_exports
    True
    """
    home = {name: module for module, names in modules.items() for name in names}

    def getattr_(name: str) -> Any:
        if name in home:
            return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    names = sorted(home)
    return getattr_, lambda: names, names
