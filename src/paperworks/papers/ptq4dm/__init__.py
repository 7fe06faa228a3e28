"""Post-training Quantization on Diffusion Models."""
