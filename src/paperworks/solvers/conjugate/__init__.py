"""Conjugate directions that a network proposes, for Poisson's equation on voxels, and what they are held against."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "directions": ["DCDMSolver", "dcdm"],
        "domains": ["PoissonDomain"],
        "flexible": ["flexible_cg"],
        "networks": ["DCDMNet"],
        "preconditioners": ["IncompleteCholesky", "RitzDeflation"],
        "training": ["DCDMTraining", "RitzDataset", "dcdm_loss", "train_dcdm"],
    },
)
