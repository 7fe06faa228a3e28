"""Fine-tuning by forward passes alone, on machines that send each other one byte a projected gradient."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "codecs": ["ScalarCodec", "decode", "encode"],
        "directions": ["SharedDirection"],
        "log": ["TrainingLog"],
        "optimizer": ["OneByteSPSA"],
        "peer": ["Peer"],
        "recipe": ["Recipe"],
        "rounds": ["Round"],
        "tcp": ["TCPTransport"],
        "theory": ["spsa_contraction", "spsa_lr"],
        "transports": ["DistributedTransport", "LocalTransport", "ReplicaDivergence", "Transport"],
    },
)
