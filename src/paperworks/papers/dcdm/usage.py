"""Pressure of a flow around an obstacle, by a network trained for a few seconds on an empty box."""

import numpy as np
import torch

from paperworks.solvers import DCDMNet, PoissonDomain, RitzDataset, cg, dcdm, train_dcdm

torch.manual_seed(0)
box = PoissonDomain(np.ones((12, 12), bool))
net = DCDMNet(dim=2)
trained = train_dcdm(net, RitzDataset(box, n_ritz=60, n_samples=1000), box, epochs=4)
print(f"{len(trained.losses)} steps, loss {trained.losses[0]:.2f} -> {trained.validation:.3f}")

# A domain of twice the side, with a solid in it that the network is told nothing of.
x, y = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 24), indexing="ij")
domain = PoissonDomain.from_sdf(np.hypot(x, y + 0.2) - 0.3)
b = (np.exp(-20 * (x**2 + (y - 0.6) ** 2)) * domain.fluid).ravel()
p, info = result = dcdm(domain, b, net)
print(f"info {info}, {result.iterations} iterations, residual {np.linalg.norm(b - domain.operator() @ p):.1e}")
print(f"conjugate gradients: {cg(domain.operator(), b, rtol=1e-4).iterations} iterations")
