"""PFGM++: diffusion with Student-t noise, from the Poisson flow (D = 1) to EDM (D = infinity) (arXiv 2302.04265)."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "field": ["empirical_denoiser", "pfgm_field", "poisson_field"],
        "likelihood": ["ode_log_likelihood"],
        "noise": ["PFGMPPNoise", "aligned_hyperparameters"],
        "sampler": ["sample_heun"],
        "scheduler": ["PFGMPPScheduler"],
        "training": ["DDPMLoss", "EDMLoss", "EDMPrecond"],
    },
)
