"""Post-training quantisation of diffusion networks: quantisers, calibration sets, reconstruction, integer kernels."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "calibration": ["CalibrationSet", "collect_calibration"],
        "config": ["QuantConfig"],
        "integer": ["Int8Model"],
        "model": ["QuantModel", "quantize_diffusion"],
        "quantizer": ["UniformAffineQuantizer"],
        "reconstruction": ["reconstruct"],
        "times": ["NDTC", "FixedTime", "UniformTimes"],
    },
)
