"""A Deep Conjugate Direction Method for Iteratively Solving Linear Systems."""
