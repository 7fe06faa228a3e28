"""Bilevel problems by penalties: first-order methods, explicit hyper-gradients, and when the penalty can be trusted."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "diagnostics": ["estimate_error_bound", "penalty_gap"],
        "hypergradients": ["hypergradient"],
        "optimizer": ["PenaltyBilevelOptimizer"],
        "solve": ["BilevelResult", "penalty_bilevel"],
    },
)
