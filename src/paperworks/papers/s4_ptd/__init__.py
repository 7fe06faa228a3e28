"""Robustifying State-space Models for Long Sequences via Approximate Diagonalization."""
