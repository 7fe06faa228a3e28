"""Which Invariance Should We Transfer? A Causal Minimax Learning Approach."""
