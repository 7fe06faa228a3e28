"""Solvers of linear systems and of differential equations that learn, and that come with a certified bound."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "conjugate_gradients": ["cg"],
        "grids": ["FastPoisson", "laplacian"],
        "random_features": [
            "BandlimitedRandomFeaturesClassifier",
            "BandlimitedRandomFeaturesRegressor",
            "BudgetCertificate",
            "BudgetCurve",
            "RandomFeaturesTransformer",
            "RidgeletSampler",
            "ScaleAdvice",
            "SpectralBound",
            "SpectrumShare",
            "admissibility_constant",
            "budget_curve",
            "coefficient_tail",
            "dual_certificate",
            "inverse_ridgelet",
            "minimal_budget",
            "recommend_scale",
            "ridgelet_transform",
            "spectral_lower_bound",
            "spectrum_share",
        ],
        "systems": ["SolveResult"],
    },
)
