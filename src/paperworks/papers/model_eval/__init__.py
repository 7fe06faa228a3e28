"""Model Evaluation, Model Selection, and Algorithm Selection in Machine Learning."""
