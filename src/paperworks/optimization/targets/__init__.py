"""Surrogates in the space of a model's outputs: several cheap updates for each costly gradient."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "linear": ["LinearSSOResult", "SSOClassifier", "SSORegressor", "fit_linear_sso"],
        "optimizer": ["SSO"],
        "surrogates": ["TargetSurrogate", "target_lipschitz"],
    },
)
