"""Uncertainty in a zone of a large transient model: random histories at its boundary, and the small model inside."""
