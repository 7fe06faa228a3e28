"""Randomised sharing of parameters: networks whose weights are signed, scaled copies of the entries of one array."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "compress": ["compress_model", "decompress_model"],
        "maps": ["ShareMap"],
        "modules": ["SharedConv2d", "SharedEmbedding", "SharedLinear"],
        "parameter": ["SharedParameter"],
        "report": ["CompressionReport", "SharedTensor", "compression_report"],
        "theory": ["inner_product_variance", "linear_capacity", "sharing_matrix"],
    },
)
