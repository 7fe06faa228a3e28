"""Reduced-order models: what an expensive simulation leaves behind, used so that the next one is cheap."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "database_inverse": [
            "BrainAtlas",
            "FisherKolmogorov",
            "GrowthRanges",
            "QueryResult",
            "TumorAutoencoder",
            "TumorDatabase",
            "TumorQuery",
            "best_match_preservation",
            "brain_atlas",
            "dice",
            "hd95",
            "topk_overlap",
        ],
        "hyperreduction.adaptive": ["AdaptiveROM", "AdaptiveTrajectory"],
        "hyperreduction.cubature": ["EmpiricalCubature", "UpdatableNNLS"],
        "hyperreduction.equilibrium": ["Equilibrium", "MechanicalState"],
        "hyperreduction.gappy": ["GappyPOD", "qdeim_points"],
        "hyperreduction.indicator": ["GappyErrorIndicator", "calibration_pairs"],
        "hyperreduction.loads": ["LoadPath", "Loads"],
        "hyperreduction.material": ["ConvergenceError", "ElastoViscoPlastic", "MaterialState"],
        "hyperreduction.model": ["HyperReducedModel", "ReducedTrajectory"],
        "hyperreduction.problem": ["MechanicalProblem", "Trajectory"],
        "inner_products": ["correlation_matrix", "gram_matrix", "orthonormal_rows", "row_norms"],
        "local_bases": [
            "Efficiency",
            "KMedoids",
            "LocalReducedBases",
            "Medoids",
            "ROMNet",
            "calibrate",
            "efficiency_criterion",
            "fasterpam",
            "kolmogorov_width",
            "projection_errors",
            "sine_dissimilarity",
            "subspace_dissimilarity",
        ],
        "snapshots": ["SnapshotPOD"],
    },
)
