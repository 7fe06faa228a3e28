"""Learned maps between functions, and what makes any model of fields keep to the laws of physics."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "scot": [
            "All2AllDataset",
            "FluidNormalization",
            "GroupedRelativeLoss",
            "ScOT",
            "ScOTConfig",
            "ScalingGains",
            "finetune_param_groups",
            "fourier_resample",
            "relative_lp_error",
            "rollout",
            "scaling_gains",
        ],
    },
)
