"""Learned maps between functions, and what makes any model of fields keep to the laws of physics."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "refiner": [
            "AdditiveScheduler",
            "DenoisingStepper",
            "DilatedResNet",
            "ErrorCorrection",
            "OneStepMSE",
            "PDERefiner",
            "PeriodicUNet",
            "PushForward",
            "RefinerScheduler",
            "RolloutDiverged",
            "Stepper",
            "VarianceScheduler",
            "channel_conditioned",
            "correlation",
            "high_correlation_time",
            "pairwise_correlation",
            "sobolev_error",
            "spectral_error",
            "squared_error",
            "time_above",
        ],
    },
)
