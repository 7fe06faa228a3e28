"""Daily papers you can run: methods as components, claims re-measured on your own machine."""

from typing import TYPE_CHECKING

from paperworks.core.lazy import lazy_exports

if TYPE_CHECKING:
    __version__: str

_exported, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "papers": ["paper"],
        "evidence": ["load_ipython_extension"],
    },
)


def __getattr__(name: str) -> object:
    """Look up what is exported; and the version when it is first asked for, which tags of git decide, as installed."""
    if name != "__version__":
        return _exported(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("paperworks")
    except PackageNotFoundError:  # sources on the path that nobody installed
        found = "0+unknown"
    globals()["__version__"] = found
    return found
