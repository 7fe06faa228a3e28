"""Invariant prediction: which of the stable variables a predictor for unseen environments should use."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "classes": ["EquivalenceClass", "core", "equivalent", "stable_equivalence_classes"],
        "discrete": ["DiscreteSCM", "DiscreteWorstCase", "full_set_counterexample"],
        "graph": ["CausalGraph"],
        "minimax": ["MinimaxInvariantRegressor", "SubsetRisk"],
        "mutable": ["GraphComponents", "parse_mutable"],
        "predictor": ["StablePredictor"],
        "regression": ["SmoothRegressor"],
        "worst_case": ["WorstCase", "WorstCaseRisk"],
    },
)
