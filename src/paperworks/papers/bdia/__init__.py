"""Exact Diffusion Inversion via Bi-directional Integration Approximation."""
