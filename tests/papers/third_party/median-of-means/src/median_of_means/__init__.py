"""Sub-Gaussian mean estimators."""

from median_of_means.method import MedianOfMeans

__all__ = ["MedianOfMeans"]
