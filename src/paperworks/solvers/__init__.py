"""Solvers of linear systems and of differential equations that learn, and that come with a certified bound."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "conjugate_gradients": ["cg"],
        "grids": ["FastPoisson", "laplacian"],
        "systems": ["SolveResult"],
    },
)
