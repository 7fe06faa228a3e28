"""The Price of Differential Privacy under Continual Observation."""
