"""Gaussian processes with a mixture of frequencies that solve differential equations (arXiv 2311.04465)."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "equations": ["Advection", "AllenCahn", "Equation", "Helmholtz", "Linear", "Poisson"],
        "solver": ["GPHMSolver"],
        "spectral": ["MixtureSpectrum", "SpectralMixtureKernel"],
        "training": ["GPHMStep"],
    },
)
