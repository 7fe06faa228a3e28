"""The Daily Papers site."""
