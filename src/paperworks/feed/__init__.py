"""Daily Papers: papers in time, found by words, by meaning and by what people look at, and sent as a digest."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "entry": ["Entry", "MalformedEntry"],
        "store": ["Added", "FeedStore", "FutureSchema"],
    },
)
