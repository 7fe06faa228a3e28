"""Pseudo Numerical Methods for Diffusion Models on Manifolds."""
