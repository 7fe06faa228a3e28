"""Search of the feed, by words and by meaning."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "fused": ["Found", "fuse", "search"],
        "meaning": ["MeaningIndex", "SentenceModel"],
        "normal": ["plain"],
        "query": ["BadQuery", "Clause", "Query", "parse_query"],
        "words": ["search_words"],
    },
)
