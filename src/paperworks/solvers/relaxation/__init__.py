"""Relaxation with a parameter that is learnt: sweeps, conjugate gradients with sweeps, bounds, and bandits."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "adaptive": ["AdaptiveSolver"],
        "bandits": ["BinnedBandit", "TsallisINF"],
        "chebyshev": ["ChebCB"],
        "preconditioned": ["SSORPreconditioner", "ssor_pcg"],
        "splitting": ["Splitting"],
        "stationary": ["sor", "ssor"],
        "theory": [
            "energy_bound",
            "estimate_tau",
            "jacobi_radius",
            "near_asymptotic_bound",
            "optimal_omega",
            "pcg_bound",
            "regret_bound",
            "sor_radius",
        ],
    },
)
