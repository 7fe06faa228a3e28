"""Robustness of image models on images made for them, whose labels pretrained models vouch for."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "evaluator": ["FMREvaluator", "FMRReport", "rank_agreement"],
        "generators": [
            "AutoencoderGenerator",
            "ImageGenerator",
            "LinearGenerator",
            "PixelGenerator",
            "StyleGenerator",
        ],
        "measures": ["diversity", "ssim"],
        "oracle": ["Oracle", "ZeroShotClassifier"],
        "search": ["OracleConstrainedPerturber", "PerturbedBatch"],
        "sparse": ["learn_sparse_mask"],
        "training": ["FMRAugmenter", "FoundationModelRobustness"],
        "vq": ["VQVAE", "VQGenerator"],
    },
)
