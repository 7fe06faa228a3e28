"""The head of a leaf that stands for a number."""

PLACEHOLDER = "<PLACEHOLDER>"
"""Stands for a number that isn't known."""
