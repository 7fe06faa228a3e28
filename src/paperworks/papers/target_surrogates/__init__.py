"""Target-based Surrogates for Stochastic Optimization."""
