"""The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent."""
