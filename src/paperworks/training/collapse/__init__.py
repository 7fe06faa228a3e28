"""Neural collapse: how to measure it, and the perturbed model of unconstrained features that predicts it."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "flow": ["CentralPath", "central_path"],
        "layers": ["FeatureRecorder", "LayerwiseTrainer", "layer_metrics"],
        "meter": ["NeuralCollapseMeter"],
        "metrics": ["NCMetrics", "nc_metrics"],
        "spectrum": ["NearCollapseSpectrum", "near_collapse_spectrum"],
        "unconstrained": ["optimal_head", "reduced_loss_grad", "ufm_minimizer", "ufm_optimal_value"],
        "vicinity": ["VicinityUFM"],
    },
)
