"""Stochastic Interpolants: A Unifying Framework for Flows and Diffusions."""
