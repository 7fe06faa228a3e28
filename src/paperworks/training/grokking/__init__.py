"""Delayed generalisation and its cause: logits that grow until the softmax rounds gradients away, and two remedies."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "detectors": [
            "HomogeneityDegree",
            "collapse_margin",
            "homogeneity_degree",
            "nlm_alignment",
            "softmax_collapse",
            "zero_gradient_fraction",
            "zero_loss_fraction",
        ],
        "monitor": ["NumericalStabilityMonitor", "NumericalStabilityRecord", "NumericalStabilityReport"],
        "orthograd": ["OrthoGrad", "orthogonalize_gradients_"],
        "softmax": [
            "LogStableMax",
            "StableMax",
            "StableMaxCrossEntropyLoss",
            "log_stablemax",
            "stablemax",
            "stablemax_cross_entropy",
        ],
        "tasks": ["LabelledExamples", "ModularArithmetic", "SparseParity"],
    },
)
