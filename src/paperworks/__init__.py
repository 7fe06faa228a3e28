"""Daily papers you can run: methods as components, claims re-measured on your own machine."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    """Look the version up when it is first asked for, as the installed package says it: tags of git decide it."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("paperworks")
    except PackageNotFoundError:  # sources on the path that nobody installed
        found = "0+unknown"
    globals()["__version__"] = found
    return found
