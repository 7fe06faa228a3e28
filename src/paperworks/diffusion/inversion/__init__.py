"""Exact inversion of samplers: BDIA, with EDICT and DDIM inversion to compare it with."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "ddim": ["ddim_invert"],
        "edict": ["EDICTSampler"],
        "pipeline": ["BDIAImages", "BDIAPipeline"],
        "scheduler": ["BDIADDIMInverseScheduler", "BDIADDIMScheduler"],
        "sampler": ["BDIAResult", "BDIASampler", "roundtrip_error_bound"],
    },
)
