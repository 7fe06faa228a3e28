"""Daily papers you can run: methods as components, claims re-measured on your own machine."""

from paperworks.core.lazy import lazy_exports

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "papers": ["paper"],
        "evidence": ["load_ipython_extension"],
    },
)
