"""Learned maps between functions, and what makes any model of fields keep to the laws of physics."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "conservation": ["AttentiveNeuralProcess", "Conditioned", "ConservativeUpdate", "ConservingRegressor", "ProbConservANP", "ShockLocation", "condition_linear", "conservation_error", "constrained_log_likelihood", "gaussian_log_likelihood", "law_residual", "moment_match", "project_inequality", "quadrature_weights", "second_difference_update", "shock_location", "truncate_monotone"],
        "multigrid": ["DifferenceH1Loss", "FieldNormalizer", "MgNO", "MultigridConv", "RelativeH1Loss", "RelativeL2Loss", "as_linear_operator"],
        "refiner": ["AdditiveScheduler", "DenoisingStepper", "DilatedResNet", "ErrorCorrection", "OneStepMSE", "PDERefiner", "PeriodicUNet", "PushForward", "RefinerScheduler", "RolloutDiverged", "Stepper", "VarianceScheduler", "channel_conditioned", "correlation", "high_correlation_time", "pairwise_correlation", "sobolev_error", "spectral_error", "squared_error", "time_above"],
        "scot": ["All2AllDataset", "FluidNormalization", "GroupedRelativeLoss", "ScOT", "ScOTConfig", "ScalingGains", "finetune_param_groups", "fourier_resample", "relative_lp_error", "rollout", "scaling_gains"],
        "stagger": ["AdvectionDiffusion", "Burgers", "Heat", "NavierStokesVelocity", "NavierStokesVorticity", "NeuralStagger", "PhysicsResidual", "StatePool", "late_growth", "physics_loss", "physics_train", "recommend_factor", "stagger_information_loss", "stagger_merge", "stagger_split"],
        "symbolic": ["Expr", "ExpressionScores", "FAMILIES", "ForecastErrors", "Identification", "ODEDataset", "ODEFamily", "PLACEHOLDER", "PROSE", "PROSEConfig", "PROSEOutput", "PROSETargets", "SymbolicTokenizer", "System", "add_noise", "expression_scores", "forecast_errors", "generate_dataset", "guess_of", "guesses", "identify", "integrate_systems", "prose_loss", "simulate", "warmup_inverse_sqrt"],
    },
)
