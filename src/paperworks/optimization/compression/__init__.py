"""Compressed communication with error feedback: compressors, steps, a simulator, an optimiser and a hook for DDP."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "clients": ["Clients", "FunctionClients", "LeastSquaresClients", "LogisticClients"],
        "compressors": [
            "Compressor",
            "HardThreshold",
            "Identity",
            "NaturalCompression",
            "Payload",
            "RandK",
            "RankR",
            "ScaledSign",
            "TopK",
        ],
        "hook": ["EF21State", "ef21_hook"],
        "optimizer": ["EF21Optimizer"],
        "simulator": ["EF21", "EF21History"],
        "stepsizes": ["clone_counts", "estimate_smoothness", "sgd_constants", "stepsize_ef21", "xi"],
    },
)
