"""A Novel Bifurcation Method for Observation Perturbation Attacks on Reinforcement Learning Agents."""
