"""Efficient estimation of multiple expectations with the same sample."""
