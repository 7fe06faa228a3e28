"""NeuralStagger: Accelerating Physics-constrained Neural PDE Solver with Spatial-temporal Decomposition."""
