"""Sub-Gaussian mean estimators."""
