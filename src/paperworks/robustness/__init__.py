"""Robustness of networks: sound bounds, certificates, attacks, masking and evaluation."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "masking": [
            "LayerMaskLimeImageExplainer",
            "LayerMaskedModel",
            "MaskedImageClassifier",
            "MaskedTensor2d",
            "UnsupportedLayerError",
            "broken_mask",
            "grid_segmenter",
            "grid_segments",
            "jaccard",
            "keep_segments",
            "linearity",
            "missingness_curves",
            "neighbor_pad",
            "paint",
            "quickshift_segmenter",
            "register_rule",
            "segment_alignment",
            "shape_bias",
            "slic_segmenter",
            "top_segments",
        ],
    },
)
