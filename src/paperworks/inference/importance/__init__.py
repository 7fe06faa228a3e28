"""Adaptive importance sampling with control variates: many expectations, and Sobol' indices, from one sample."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "adaptation": ["AdaptationStep"],
        "adaptive": ["ExpectationsResult", "multiple_expectations"],
        "components": ["GaussianComponents", "fit_cross_entropy"],
        "coefficients": ["optimal_alpha", "optimal_beta"],
        "estimator": ["ISCVEstimate", "ISCVEstimator"],
        "given": ["sobol_from_samples"],
        "sobol": ["SobolResult", "sobol_indices"],
    },
)
