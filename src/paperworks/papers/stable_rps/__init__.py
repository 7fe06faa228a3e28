"""In defense of parameter sharing for model-compression."""
