"""Exploring Quality and Generalizability in Parameterized Neural Audio Effects."""
