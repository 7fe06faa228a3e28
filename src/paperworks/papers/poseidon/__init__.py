"""Poseidon: Efficient Foundation Models for PDEs."""
