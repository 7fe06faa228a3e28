"""Neural differential equations whose adaptive solvers take fewer steps: local regularisation, and its baselines."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "brownian": ["BrownianTree"],
        "ode": ["NeuralODE"],
        "regularizers": ["ExponentialDecay", "SolverInfo", "local_regularizer"],
        "sde": ["NeuralSDE"],
        "stochastic": ["local_sde_regularizer", "solve_sde"],
    },
)
