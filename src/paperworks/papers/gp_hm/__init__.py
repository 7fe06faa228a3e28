"""Solving High Frequency and Multi-Scale PDEs with Gaussian Processes."""
