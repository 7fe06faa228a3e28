"""Robustness of networks: sound bounds, certificates, attacks, masking and evaluation."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, {})
