"""Solvers of linear systems and of differential equations."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "kernels": [
            "Advection",
            "AllenCahn",
            "Equation",
            "GPHMSolver",
            "GPHMStep",
            "Helmholtz",
            "Linear",
            "MixtureSpectrum",
            "Poisson",
            "SpectralMixtureKernel",
        ],
    },
)
