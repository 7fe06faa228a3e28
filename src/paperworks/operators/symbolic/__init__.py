"""Forecasts and equations from a trajectory and a guess: trees, tokens, families of equations, and the network."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "data": ["ODEDataset", "add_noise", "generate_dataset"],
        "expressions": ["PLACEHOLDER", "Expr"],
        "families": ["FAMILIES", "ODEFamily"],
        "identification": ["Identification", "identify"],
        "integration": ["BOUND", "integrate_systems", "simulate"],
        "metrics": ["ExpressionScores", "ForecastErrors", "expression_scores", "forecast_errors"],
        "network": ["PROSE", "PROSEConfig", "PROSEOutput", "guesses"],
        "systems": ["System"],
        "tokens": ["SymbolicTokenizer"],
        "training": ["PROSETargets", "guess_of", "prose_loss", "warmup_inverse_sqrt"],
    },
)
