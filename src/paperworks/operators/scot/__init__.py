"""The scalable operator transformer: a U of windowed attention conditioned on the lead time, and its training."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "config": ["ScOTConfig"],
        "data": ["All2AllDataset", "FluidNormalization"],
        "finetuning": ["GroupedRelativeLoss", "finetune_param_groups"],
        "metrics": ["ScalingGains", "relative_lp_error", "scaling_gains"],
        "network": ["ScOT"],
        "norms": ["ConditionalLayerNorm"],
        "resampling": ["fourier_resample"],
        "rolling": ["rollout"],
    },
)
