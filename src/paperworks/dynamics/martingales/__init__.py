"""Values of policies in continuous time, by martingale conditions along sampled paths."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "estimators": ["CGTD", "CLSTD", "CTD", "MartingaleLoss"],
        "residuals": [
            "MeshStudy",
            "OrthogonalityResidual",
            "martingale_increments",
            "martingale_loss",
            "mesh_study",
            "mstde_loss",
            "orthogonality_residual",
        ],
        "trajectories": ["Trajectories", "collect"],
        "values": ["LinearValue", "TorchValue"],
    },
)
