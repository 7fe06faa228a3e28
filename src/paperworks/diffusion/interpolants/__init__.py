"""Stochastic interpolants between two densities: their fields, losses, samplers, likelihoods and bridges."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bounds": ["best_noise_level", "kl_bound"],
        "bridge": ["GaussianBridge", "gaussian_schrodinger_bridge"],
        "bridge_training": ["BridgeStep", "LearnablePath", "NetworkPath", "SchrodingerBridgeTrainer"],
        "couplings": ["OptimalCoupling"],
        "converters": ["fields_from_noise_model", "noise_model_from_fields", "one_sided_time", "rectified_pairs"],
        "fields": ["Fields"],
        "interpolant": ["Interpolant"],
        "likelihood": ["log_likelihood"],
        "losses": ["denoiser_loss", "score_loss", "v_loss", "velocity_loss", "x0x1_denoiser_loss"],
        "mixture": ["GaussianMixtureInterpolant"],
        "paths": ["Gamma", "Path"],
        "samplers": ["FrozenDenoiserSampler", "ODESampler", "SDESampler"],
    },
)
