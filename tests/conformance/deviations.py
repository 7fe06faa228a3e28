"""The only place where a thing is excused from its kind's contract; one that no longer deviates fails."""

NAN_BY_SCIPY = "NaN goes on into SciPy's statistic, where it comes back as a p-value of NaN"

# (subject, check) -> why
DEVIATIONS: dict[tuple[str, str], str] = {
    ("robustness.change_test", "nan_is_refused_by_name"): NAN_BY_SCIPY,
    ("robustness.ks_test", "nan_is_refused_by_name"): NAN_BY_SCIPY,
    ("robustness.mmd_test", "nan_is_refused_by_name"): "the kernel of NaN is NaN, and so is the statistic",
    ("robustness.ljung_box", "nan_is_refused_by_name"): "the autocorrelation of NaN is NaN, and so is the p-value",
    ("robustness.ljung_box", "other_lengths_are_refused"): "an array of three dimensions is taken for a series",
}
