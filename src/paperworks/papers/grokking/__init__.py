"""Grokking at the Edge of Numerical Stability."""
