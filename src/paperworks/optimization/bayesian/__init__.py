"""Bayesian optimisation: Gaussian processes, acquisition functions and the loop around them (arXiv 1807.02811)."""
