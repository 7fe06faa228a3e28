"""Solvers of linear systems and of differential equations that learn, and that come with a certified bound."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "conjugate": [
            "DCDMNet",
            "DCDMSolver",
            "DCDMTraining",
            "IncompleteCholesky",
            "PoissonDomain",
            "RitzDataset",
            "RitzDeflation",
            "dcdm",
            "dcdm_loss",
            "flexible_cg",
            "train_dcdm",
        ],
        "conjugate_gradients": ["cg"],
        "grids": ["FastPoisson", "laplacian"],
        "systems": ["SolveResult"],
    },
)
