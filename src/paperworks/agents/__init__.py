"""Paperworks for agents: a server of the Model Context Protocol that finds, shows and measures papers.

Importing it costs little: torch is imported by the processes that measure, and by nothing here.
"""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "server": ["create_server"],
        "transports": ["serve_http", "serve_stdio"],
    },
)
