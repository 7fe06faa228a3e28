"""Evaluation of models, selection of hyper-parameters, and comparison of models and algorithms."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "algorithms": [
            "CombinedFResult",
            "PairedTResult",
            "ftest_5x2cv",
            "split_scores",
            "ttest_5x2cv",
            "ttest_kfold",
            "ttest_resampled",
        ],
        "bootstrap": ["BootstrapOutOfBag", "BootstrapResult", "bootstrap_score"],
        "comparison": [
            "ComparisonResult",
            "FriedmanResult",
            "compare_algorithms",
            "compare_models",
            "friedman_nemenyi",
        ],
        "corrections": ["adjust_pvalues"],
        "decomposition": ["BiasVarianceResult", "bias_variance"],
        "intervals": ["Interval", "accuracy_interval", "bootstrap_test_set", "loss_interval"],
        "models": [
            "CochransQResult",
            "LooneyFResult",
            "McNemarResult",
            "PermutationResult",
            "ProportionZResult",
            "cochrans_q",
            "looney_f_test",
            "mcnemar",
            "paired_permutation_test",
            "proportion_ztest",
        ],
        "refits": ["loo_predict", "refit_predictions"],
        "selection": ["NestedCVResult", "nested_cv", "one_standard_error", "repeated_holdout", "three_way_split"],
    },
)
