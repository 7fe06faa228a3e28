"""Preserving Statistical Validity in Adaptive Data Analysis."""
