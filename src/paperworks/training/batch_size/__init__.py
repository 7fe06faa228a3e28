"""Learning rates as a function of the batch size: curvature of batches, its noise, and the rates that follow."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "noise": ["BatchEigenvalues", "NoiseEstimate", "estimate_hessian_noise", "implied_noise"],
        "outliers": [
            "batch_density",
            "batch_outlier",
            "bulk_edge",
            "critical_batch_size",
            "deflate_eigenvalue",
            "effective_batch_size",
            "spike_overlap",
        ],
        "rates": ["max_learning_rate", "scale_damping", "scale_learning_rate"],
        "scheduler": ["LanczosLRScheduler", "LearnedRate"],
        "spectrum": ["lanczos_spectrum"],
    },
)
