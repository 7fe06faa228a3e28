"""On Penalty Methods for Nonconvex Bilevel Optimization and First-Order Stochastic Approximation."""
