"""Towards Improved Input Masking for Convolutional Neural Networks."""
