"""Layer masking: hide parts of an image from a convolutional network, with explanations and audits built on it."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "lime": ["ImageExplanation", "LayerMaskLimeImageExplainer"],
        "metrics": [
            "broken_mask",
            "jaccard",
            "linearity",
            "missingness_curves",
            "segment_alignment",
            "shape_bias",
            "top_segments",
        ],
        "model": ["LayerMaskedModel", "neighbor_pad", "register_rule"],
        "removal": ["MaskedImageClassifier", "paint"],
        "segments": [
            "grid_segmenter",
            "grid_segments",
            "keep_segments",
            "quickshift_segmenter",
            "segment_sums",
            "slic_segmenter",
        ],
        "tensor": ["MaskedTensor2d", "UnsupportedLayerError"],
    },
)
