"""Monotone inclusions of finite sums: variance-reduced Halpern iteration, what it is compared with, and problems."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "baselines": ["anchored_extragradient", "extragradient", "extragradient_vr", "halpern"],
        "variance_reduced": ["halpern_vr"],
        "operators": ["BilinearGame", "FiniteSumOperator", "LeastSquaresOperator", "RobustRegressionGame"],
        "residuals": ["expected_cocoercivity", "game_gap", "natural_residual", "operator_residual"],
    },
)
