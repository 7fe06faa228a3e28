"""Likelihood for data on a low-dimensional set: perturb, fit a generator, sample without noise (arXiv 2105.04046)."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "distances": ["sliced_wasserstein1", "wasserstein1"],
        "estimator": ["GaussianPerturbation", "SingularDistributionEstimator"],
        "linear": ["PPCA", "intrinsic_dimension", "ppca_mle", "singularity_slope"],
        "marginal": ["log_marginal"],
        "rates": ["SieveRates", "composite_smoothness", "sieve_rates"],
    },
)
