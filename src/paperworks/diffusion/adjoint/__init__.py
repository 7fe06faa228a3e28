"""Differentiable samplers: gradients of a loss of the sample in constant memory, and what they are good for."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "flow": ["AdjointVariable"],
        "function": ["AdjointMode"],
        "solvers": ["AdjointSolver"],
        "sampler": ["AdjointOptions", "AdjointSampler", "odeint_dpm"],
        "tasks": ["AdversarialResult", "ConditioningResult", "adversarial_noise", "optimize_conditioning"],
    },
)
