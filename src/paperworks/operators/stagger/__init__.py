"""Neural solvers without labels that split fields into interleaved coarse pieces, in space and in time."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "analysis": ["recommend_factor", "stagger_information_loss"],
        "equations": ["AdvectionDiffusion", "Burgers", "Heat"],
        "flows": ["NavierStokesVelocity", "NavierStokesVorticity"],
        "model": ["NeuralStagger"],
        "pool": ["StatePool", "late_growth"],
        "residuals": ["PhysicsResidual"],
        "splitting": ["stagger_merge", "stagger_split"],
        "training": ["physics_loss", "physics_train"],
    },
)
