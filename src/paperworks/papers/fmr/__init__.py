"""Foundation Model-oriented Robustness: Robust Image Model Evaluation with Pretrained Models."""
