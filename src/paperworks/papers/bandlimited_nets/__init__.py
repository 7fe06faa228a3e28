"""How Powerful are Shallow Neural Networks with Bandlimited Random Weights."""
