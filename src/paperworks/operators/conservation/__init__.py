"""Conservation laws as linear observations of an uncertain field, with the update that makes them hold."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "conditioning": ["Conditioned", "condition_linear", "moment_match", "second_difference_update"],
        "inequality": ["project_inequality", "truncate_monotone"],
        "likelihood": ["constrained_log_likelihood", "gaussian_log_likelihood"],
        "metrics": ["ShockLocation", "conservation_error", "shock_location"],
        "neural_process": ["AttentiveNeuralProcess", "ProbConservANP"],
        "quadrature": ["quadrature_weights"],
        "regressor": ["ConservingRegressor"],
        "soft": ["law_residual"],
        "update": ["ConservativeUpdate"],
    },
)
