"""Solvers of linear systems and of differential equations that learn, and that come with a certified bound."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "conjugate_gradients": ["cg"],
        "energy": [
            "DescentConstants",
            "EllipticEnergy",
            "HessianRange",
            "Lagrangian",
            "NetworkSize",
            "PGDResult",
            "RidgeNetwork",
            "SineSeries",
            "TrigSum",
            "barron_bound",
            "iterations_for",
            "linear",
            "minimal_surface",
            "network_size",
            "p4",
            "paper_barron_bound",
            "paper_constants",
            "semilinear",
            "sharp_constants",
            "solve_pgd",
            "width_for",
        ],
        "grids": ["FastPoisson", "laplacian"],
        "systems": ["SolveResult"],
    },
)
