"""Randomised smoothing: certify any classifier under Gaussian noise, and train one that is accurate there."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "binomial": ["lower_confidence_bound", "two_sided_p_value"],
        "certify": ["CertificationResult", "Smooth"],
        "contrast": ["RRCMLoss", "consistency_regularizer", "info_nce"],
        "convnet": ["RRCMConvNet"],
        "curves": ["average_certified_radius", "certified_accuracy_curve", "certified_accuracy_envelope"],
        "encoder": ["NoiseConditionedEncoder"],
        "finetuning": ["RRCMClassifier", "finetune_step", "layerwise_groups"],
        "mixing": ["mix_images"],
        "pretraining": ["pretrain_encoder", "random_views", "update_target"],
        "schedules": ["KarrasGrid", "ScaleSchedule", "TargetEMASchedule"],
        "vit": ["RRCMViT"],
    },
)
