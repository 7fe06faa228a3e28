"""Solvers of linear systems and of differential equations that learn, and that come with a certified bound."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "conjugate_gradients": ["cg"],
        "grids": ["FastPoisson", "laplacian"],
        "relaxation": [
            "AdaptiveSolver",
            "BinnedBandit",
            "ChebCB",
            "SSORPreconditioner",
            "Splitting",
            "TsallisINF",
            "energy_bound",
            "estimate_tau",
            "jacobi_radius",
            "near_asymptotic_bound",
            "optimal_omega",
            "pcg_bound",
            "regret_bound",
            "sor",
            "sor_radius",
            "ssor",
            "ssor_pcg",
        ],
        "systems": ["SolveResult"],
    },
)
