"""MgNO: Efficient Parameterization of Linear Operators via Multigrid."""
