"""DPM-Solver and DPM-Solver++: exponential integrators of the diffusion ODE (arXiv 2206.00927, 2211.01095)."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "correction": ["dynamic_thresholding"],
        "exponential": ["AlgorithmType"],
        "scheduler": ["DPMSolverScheduler"],
        "solver": ["DPMSolver", "DPMSolverMethod"],
    },
)
