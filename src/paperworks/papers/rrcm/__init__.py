"""Robust Representation Consistency Model via Contrastive Denoising."""
