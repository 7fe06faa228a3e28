"""Randomized smoothing: certify any classifier under Gaussian noise."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "binomial": ["lower_confidence_bound", "two_sided_p_value"],
        "certify": ["CertificationResult", "Smooth"],
        "curves": ["average_certified_radius", "certified_accuracy_curve", "certified_accuracy_envelope"],
    },
)
