"""Train two interleaved solvers of the heat equation by its residual alone, and ask how coarse pieces may be."""

import numpy as np
import torch

from paperworks.operators import DilatedResNet, Heat, NeuralStagger, StatePool, physics_train, recommend_factor
from paperworks.testbeds import PeriodicGrid, sine_fields

torch.manual_seed(0)
grid, heat = PeriodicGrid(32, 1.0), Heat(32, dt=0.02, diffusivity=0.05)
model = NeuralStagger(lambda: DilatedResNet(1, 1, width=12, dilations=(1, 2)), factors=(2,))
pool = StatePool(lambda count, generator: sine_fields(grid, count)[:, None, None].float(), size=32)
losses = physics_train(model, heat, pool, steps=50, batch_size=32, lr=5e-3)  # no solution is ever seen
print(f"the residual fell from {losses[0]:.1e} to {losses[-1]:.1e}")

u0 = sine_fields(grid, 8)[:, None].float()
end, truth = model.rollout(u0, 5)[:, -1].detach(), heat.solve(u0, 5)[:, -1]
print(f"error after 5 steps: {float((end - truth).norm() / truth.norm()):.3f}, of doing nothing "
      f"{float((u0 - truth).norm() / truth.norm()):.3f}")  # fmt: skip
print("one piece alone:", tuple(model.rollout(u0, 5, mode="coarse-space").shape), "of the full", tuple(end.shape))

k = np.fft.fftfreq(32, 1 / 32)
factor = recommend_factor((np.abs(k) < 4) * 1.0, np.exp(-0.05 * 0.02 * (2 * np.pi * k) ** 2))
print(f"fields of waves below 4 may be split into {factor} pieces")
