"""Uneven clients that send one entry each: the step that theory allows, and how many rounds it saves."""

import torch

from paperworks.optimization import EF21, LogisticClients, TopK

rng = torch.Generator().manual_seed(0)
rows = torch.randn(50, 12, 20, generator=rng, dtype=torch.float64)
rows *= torch.exp(1.5 * torch.randn(50, 1, 1, generator=rng, dtype=torch.float64))  # clients of very different scale
clients = LogisticClients(rows, torch.sign(rows @ torch.randn(20, generator=rng, dtype=torch.float64)))

start = torch.zeros(20, dtype=torch.float64)
old, new = (EF21(clients, TopK(1), step=rule).run(start, 500) for rule in ("quadratic", "arithmetic"))
target = float(old.grad_norm_sq.min())
print(f"Step {old.step:.2g} by the quadratic mean of the constants, {new.step:.2g} by the arithmetic one.")
print(f"Squared gradient {target:.2g} after {old.rounds_to(target):.0f} rounds, and after {new.rounds_to(target):.0f}.")
