"""Inverse problems answered by a database: growth of tumours is simulated once, and each patient is looked up."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "atlas": ["BrainAtlas", "brain_atlas"],
        "autoencoder": ["TumorAutoencoder"],
        "database": ["GrowthRanges", "TumorDatabase"],
        "growth": ["FisherKolmogorov"],
        "overlap": ["best_match_preservation", "dice", "hd95", "topk_overlap"],
        "query": ["QueryResult", "TumorQuery"],
    },
)
