"""Follow a diffusion that changes in time; the relaxation parameter of its solver learns along."""

import numpy as np
from scipy import sparse

from paperworks.solvers import AdaptiveSolver, ChebCB, laplacian, ssor_pcg

grid, dt = laplacian((30, 30), 1 / 31), 1e-3
solver = AdaptiveSolver(ssor_pcg, ChebCB(low=0.0, high=10.0, random_state=0))
u, usual = np.random.default_rng(0).random(900), 0
for step in range(600):
    kappa = 5 + 5 * np.sin(step / 20)  # of which the best parameter depends
    A = sparse.eye_array(900) + dt * kappa * grid
    usual += ssor_pcg(A, u, u, omega=1.0).iterations
    u = solver.solve(A, u, u, context=kappa).x + dt

learnt = sum(cost for _, cost in solver.bandit.history_)
late = sum(cost for _, cost in solver.bandit.history_[-200:]) / 200
print(f"iterations of {len(solver.bandit.history_)} steps: learnt {learnt:.0f}, with parameter 1 {usual}")
print(f"of the last 200 steps: {late:.1f} each")
for kappa in (0.1, 5.0, 10.0):
    best = solver.bandit.arms[solver.bandit.probabilities(kappa).argmax()]
    print(f"for a diffusion of {kappa:4.1f}: parameter {best:.2f}")
