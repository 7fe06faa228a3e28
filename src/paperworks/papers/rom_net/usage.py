"""Ask whether a dictionary of local bases pays for a family of simulations, then build the best one."""

import numpy as np

from paperworks.reduction import LocalReducedBases, ROMNet, calibrate, efficiency_criterion

x, rng = np.linspace(0, 1, 200), np.random.default_rng(0)
inputs = rng.uniform([0.1, -1], [0.9, 1], size=(240, 2))  # place and size of a bump
simulations = 10 ** inputs[:, 1:] * np.exp(-(((x - inputs[:, :1]) / 0.08) ** 2))

table = efficiency_criterion(simulations, inputs, n_clusters=[2, 4, 8], n_modes=[3, 5])
for size in table:
    print(
        f"{size.n_clusters} bases of {size.n_modes} modes: {size.expected_gain:.1f} times less error than one basis"
        f" (accuracy {size.accuracy:.2f}, {size.required_accuracy:.2f} required)"
    )
best = calibrate(table, budget=60, n_simulations=240, simplified_cost=0.01, full_cost=1, full_per_cluster=6)
net = ROMNet(LocalReducedBases(best.n_clusters, best.n_modes, random_state=0)).fit(inputs[:200], simulations[:200])
local, one = net.errors(inputs[200:], simulations[200:]).mean(), net.global_errors(simulations[200:]).mean()
print(f"{best.n_clusters} bases of {best.n_modes} modes: error {local:.4f} on new simulations, one basis {one:.4f}")
