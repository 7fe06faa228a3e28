"""PDE-Refiner: Achieving Accurate Long Rollouts with Neural PDE Solvers."""
