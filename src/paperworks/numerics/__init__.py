"""Numerics that several fields need: Runge-Kutta steps, curvature, trace estimators, the training loop, seeds."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "curvature": ["Curvature"],
        "distances": ["energy_distance"],
        "integration": ["Sums", "Tolerance", "adapt", "advance", "follow", "odeint", "runge_kutta_step"],
        "eigenvalues": ["LanczosResult", "extreme_eigenvalues", "lanczos"],
        "plans": ["Step", "fixed_plan", "multistep_weights", "runge_kutta"],
        "random": ["seeded", "torch_generator"],
        "tableaus": ["TABLEAUS", "Tableau"],
        "traces": ["TraceEstimate", "divergence", "hutch_plus_plus", "hutchinson"],
        "training": ["EarlyStopping", "ExponentialAverage", "mlp", "silent", "train", "warmup_cosine"],
    },
)
