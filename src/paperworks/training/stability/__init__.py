"""Dynamical stability of SGD: curvature of real networks, exact thresholds and certificates, a monitor, norms."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "certificates": ["StabilityReport", "stability_certificate"],
        "mean_square": ["critical_learning_rate", "mean_square_radius"],
        "monitor": ["StabilityMonitor", "StabilityRecord"],
        "norms": [
            "DiagonalSharpness",
            "diag_linear_sharpness",
            "path_norm",
            "path_norm_complexity",
            "relu2_population_trace",
        ],
        "operators": ["EmpiricalFisherOperator", "GGNOperator", "HessianOperator"],
        "sharpness": [
            "EigenResult",
            "extreme_eigenvalues",
            "frobenius_norm",
            "gradient_alignment",
            "hessian_trace",
            "output_gradients",
            "per_sample_grad_norms",
        ],
    },
)
