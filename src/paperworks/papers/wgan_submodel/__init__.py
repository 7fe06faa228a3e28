"""Uncertainty quantification in a mechanical submodel driven by a Wasserstein-GAN."""
