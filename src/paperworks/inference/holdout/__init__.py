"""Adaptive data analysis: answers that stay true of the population however the questions were chosen."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attacks": ["FreedmanResult", "freedman_regression", "sign_vote", "sign_vote_accuracy"],
        "bounds": ["BoundMethod", "MaxInformation", "generalization_bound", "max_information", "required_n"],
        "ladder": ["Ladder"],
        "queries": ["EmpiricalAnswers", "NoisyAnswers", "SampleSplit", "StatisticalQueryOracle"],
        "rounds": ["EffectiveRounds", "SparseValidate"],
        "selection": ["ReusableHoldoutSelector", "agreeing_features", "thresholdout_scorer"],
        "sparse": ["SparseVector"],
        "thresholdout": ["ReusableHoldout", "Transcript"],
        "weights": ["PrivateMultiplicativeWeights"],
    },
)
