"""Learned maps between functions, and what makes any model of fields keep to the laws of physics."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "conservation": [
            "AttentiveNeuralProcess",
            "Conditioned",
            "ConservativeUpdate",
            "ConservingRegressor",
            "ProbConservANP",
            "ShockLocation",
            "condition_linear",
            "conservation_error",
            "constrained_log_likelihood",
            "gaussian_log_likelihood",
            "law_residual",
            "moment_match",
            "project_inequality",
            "quadrature_weights",
            "second_difference_update",
            "shock_location",
            "truncate_monotone",
        ],
    },
)
