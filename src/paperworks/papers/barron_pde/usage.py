"""Solve a nonlinear elliptic equation with a certified error, and make a network of the solution."""

import numpy as np
import torch

from paperworks.solvers import EllipticEnergy, SineSeries, network_size, semilinear, solve_pgd, width_for

exact = SineSeries(np.diag([1.0, 0.0, 0.1]))  # sin(pi x) sin(pi y) + sin(3 pi x) sin(3 pi y) / 10
problem = EllipticEnergy.with_solution(semilinear(), exact, c_bounds=(0.0, 5.0))  # -Δu + u³ = f
result = solve_pgd(problem, n_modes=31)
print(
    f"{result.iterations} steps; error in H1 {(result.u - exact).h1_norm:.1e}, certified {result.certified_error:.1e}"
)
print(f"Barron norm {result.u.barron_norm():.3f}: {width_for(0.1, result.u)} sigmoids are enough for an error of 0.1")
before = network_size(problem, 0.1)
print(f"before solving, {before.iterations} steps of the bound make that 10^{before.log10_width:.0f}")

x = torch.rand(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
truth = torch.from_numpy(exact(x.numpy()))
network = exact.to_network("sigmoid", width=300, random_state=0)
drawn = (network(x) - truth).square().mean().sqrt()
fitted = (network.refit(x, truth)(x) - truth).square().mean().sqrt()
print(f"300 sigmoids: error {drawn:.3f} as drawn, {fitted:.3f} with outer weights fitted")
