"""PFGM++: Unlocking the Potential of Physics-Inspired Generative Models."""
