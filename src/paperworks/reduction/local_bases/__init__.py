"""Dictionaries of local reduced bases: which simulations belong together, and whether a dictionary pays."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "dissimilarity": ["projection_errors", "sine_dissimilarity", "subspace_dissimilarity"],
        "kmedoids": ["KMedoids", "Medoids", "fasterpam"],
        "widths": ["kolmogorov_width"],
        "bases": ["LocalReducedBases"],
        "dictionary": ["ROMNet"],
        "efficiency": ["Efficiency", "calibrate", "efficiency_criterion"],
    },
)
