"""Locally Regularized Neural Differential Equations."""
