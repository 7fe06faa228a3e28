"""Sources of papers, each read so that it can be read again, or on."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "arxiv": ["ArxivApi"],
        "bibliography": ["Bibliography"],
        "http": ["PoliteClient", "SourceError"],
        "huggingface": ["HuggingFaceDaily"],
        "oai": ["ArxivFile", "ArxivOai"],
        "page": ["SavedPage"],
        "records": ["Records", "record_runs"],
        "snapshot": ["ArxivSnapshot"],
        "source": ["Batch", "Incomplete", "Ingested", "Source", "ingest"],
    },
)
