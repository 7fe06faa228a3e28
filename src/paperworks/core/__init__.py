"""Numerics and habits that all fields share; knows nothing of any field."""
