"""Networks with random hidden weights from a band: estimators, lower bounds, ridgelets and the choice of the band."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bounds": [
            "SpectralBound",
            "SpectrumShare",
            "coefficient_tail",
            "minimal_budget",
            "spectral_lower_bound",
            "spectrum_share",
        ],
        "estimators": [
            "BandlimitedRandomFeaturesClassifier",
            "BandlimitedRandomFeaturesRegressor",
            "RandomFeaturesTransformer",
        ],
        "least_squares": ["BudgetCertificate", "BudgetCurve", "budget_curve", "dual_certificate", "width_curve"],
        "ridgelets": ["RidgeletSampler", "admissibility_constant", "inverse_ridgelet", "ridgelet_transform"],
        "scales": ["ScaleAdvice", "recommend_scale"],
    },
)
