"""Lazy package exports (PEP 562), so that importing a field package costs nothing until a name is used."""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
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
            try:
                return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
            except ModuleNotFoundError as error:
                if extra := _extra_with(error.name or ""):
                    error.msg += f", which {name} needs; `pip install 'paperworks[{extra}]'` brings it"
                raise
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    names = sorted(home)
    return getattr_, lambda: names, names


def _extra_with(module: str) -> str:
    """Return the extra of Paperworks that brings a module, empty where none does."""
    try:
        requirements = metadata.requires("paperworks") or []
    except metadata.PackageNotFoundError:
        return ""
    found = (re.match(rf"{re.escape(module)}\b.*extra == ['\"]([a-z]+)", line) for line in requirements)
    return next((match[1] for match in found if match), "")
