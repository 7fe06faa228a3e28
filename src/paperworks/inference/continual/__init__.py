"""Differential privacy under continual observation: running sums, the largest of them, and which one it is."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attacks": [
            "AdaptivePrivacyGame",
            "GameResult",
            "marginals_from_maxsum",
            "marginals_from_sumselect",
            "tracing_scores",
        ],
        "automatic": ["ConstantAnswer", "auto_mechanism", "lower_bound_rate"],
        "counters": ["FactorizationCounter", "TreeCounter"],
        "mechanism": ["ContinualMechanism"],
        "recompute": ["RecomputeMaxSum", "RecomputeSumSelect"],
        "trees": ["TreeMaxSum", "TreeSumSelect"],
    },
)
