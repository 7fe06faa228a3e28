"""Elliptic energies: preconditioned descent with certified errors, Barron norms, and networks made of solutions."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bounds": [
            "NetworkSize",
            "barron_bound",
            "composition_bound",
            "iterations_for",
            "network_size",
            "paper_barron_bound",
            "width_for",
        ],
        "constants": ["DescentConstants", "paper_constants", "perturbation_bound", "sharp_constants"],
        "descent": ["PGDResult", "solve_pgd"],
        "lagrangians": ["HessianRange", "Lagrangian", "linear", "minimal_surface", "p4", "semilinear"],
        "networks": ["RidgeNetwork"],
        "problems": ["EllipticEnergy"],
        "series": ["SineSeries"],
        "sums": ["TrigSum"],
    },
)
