"""Networks that step fields forward in time, refined by denoising so that rollouts stay accurate for longer."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "baselines": ["ErrorCorrection", "OneStepMSE", "PushForward"],
        "errors": ["sobolev_error", "squared_error"],
        "metrics": ["correlation", "high_correlation_time", "pairwise_correlation", "spectral_error", "time_above"],
        "model": ["DenoisingStepper", "PDERefiner"],
        "networks": ["DilatedResNet", "PeriodicUNet", "channel_conditioned"],
        "schedulers": ["AdditiveScheduler", "RefinerScheduler", "VarianceScheduler"],
        "steppers": ["RolloutDiverged", "Stepper"],
    },
)
