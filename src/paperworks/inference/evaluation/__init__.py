"""Evaluation of models, selection of hyper-parameters, and comparison of models and algorithms."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "algorithms": [
            "ftest_5x2cv",
            "split_scores",
            "ttest_5x2cv",
            "ttest_kfold",
            "ttest_resampled",
        ],
        "bootstrap": ["BootstrapResult", "bootstrap_score"],
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
            "ProportionZResult",
            "cochrans_q",
            "looney_f_test",
            "mcnemar",
            "proportion_ztest",
        ],
        "paired": ["CombinedFResult", "PairedTResult", "compare_scores"],
        "permutation": ["PermutationResult", "paired_permutation_test", "unpaired_permutation_test"],
        "refits": ["loo_predict", "refit_predictions"],
        "resamples": ["BootstrapOutOfBag"],
        "scoring": ["SampleLoss"],
        "selection": ["NestedCVResult", "nested_cv", "one_standard_error", "repeated_holdout", "three_way_split"],
    },
)
