"""Variance Reduced Halpern Iteration for Finite-Sum Monotone Inclusions."""
