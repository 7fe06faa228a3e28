"""A likelihood approach to nonparametric estimation of a singular distribution using deep generative models."""
