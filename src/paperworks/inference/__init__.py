"""Conclusions that hold: model comparison, reusable holdouts, private counts, importance sampling, invariance."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, {})
