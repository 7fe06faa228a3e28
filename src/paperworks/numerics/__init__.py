"""Numerics that several fields need: Runge-Kutta steps, curvature, spectra, traces, the training loop, seeds."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "curvature": ["Curvature"],
        "distances": ["energy_distance"],
        "frozen": ["FrozenCurvature"],
        "functional": ["functional_call"],
        "integration": ["Sums", "Tolerance", "adapt", "advance", "follow", "odeint", "runge_kutta_step"],
        "eigenvalues": ["LanczosResult", "extreme_eigenvalues", "lanczos"],
        "plans": ["Step", "fixed_plan", "multistep_weights", "runge_kutta"],
        "random": ["seeded", "torch_generator"],
        "solving": ["Solution", "TakenStep", "checked_slope", "check_state", "solve_ode"],
        "spectra": ["Spectrum", "TopEigenvalue", "lanczos_quadrature", "largest_eigenvalue"],
        "stepping": ["ESTIMATES", "Trial", "column", "first_step", "take_step"],
        "tableaus": ["TABLEAUS", "Tableau"],
        "pairs": ["PAIRS", "EmbeddedPair"],
        "per_sample": [
            "gauss_newton_factors",
            "gauss_newton_gram",
            "gauss_newton_trace",
            "per_sample_gradients",
            "per_sample_norms",
            "per_sample_products",
        ],
        "traces": [
            "NormEstimate",
            "TraceEstimate",
            "divergence",
            "estimate_trace",
            "exact_trace",
            "frobenius_norm",
            "hutch_plus_plus",
            "hutchinson",
            "xtrace",
        ],
        "training": ["EarlyStopping", "ExponentialAverage", "mlp", "silent", "train", "warmup_cosine"],
    },
)
