"""Perturbation Analysis of Neural Collapse."""
