"""A Tutorial on Bayesian Optimization."""
