"""Attacks on the observations of reinforcement-learning agents, training against them, and whether they are seen."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attack": ["Attack", "AttackResult"],
        "auto_step": ["ACG", "APGD"],
        "battery": ["BatteryDispatchEnv", "charge", "kpis"],
        "bifurcation": ["BifurcationLayer"],
        "episodes": ["Attacker", "ObservationAttackWrapper", "Rollout", "rollout"],
        "gradient": ["FGSM", "PGD"],
        "losses": [
            "AttackLoss",
            "CrossEntropyLoss",
            "DifferenceLogitsLoss",
            "DifferenceLogitsRatioLoss",
            "DivergenceLoss",
            "GroupDifferenceLogitsLoss",
            "SquaredErrorLoss",
        ],
        "minimum": ["FMN", "DynamicDistortion"],
        "policies": ["Policy", "from_module", "from_sb3"],
        "schedules": [
            "AdversaryTargets",
            "EveryStep",
            "RandomSchedule",
            "Schedule",
            "ToggleSchedule",
            "ValueThreshold",
        ],
        "stealth": [
            "FeatureTestResult",
            "TwoSampleResult",
            "change_test",
            "daily_samples",
            "detection_rate",
            "holm",
            "ks_test",
            "ljung_box",
            "mmd_test",
            "zscore_outliers",
        ],
        "training": ["AdversaryEnv", "AdversaryObservations", "adversarial_training", "train_atla"],
    },
)
