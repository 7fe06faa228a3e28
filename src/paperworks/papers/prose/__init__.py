"""PROSE: Predicting Operators and Symbolic Expressions using Multimodal Transformers."""
