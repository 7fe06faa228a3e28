"""The Daily Papers site."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__, {"app": ["create_app"], "settings": ["Settings", "settings_from_environment"]}
)
