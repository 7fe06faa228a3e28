"""Train a refiner on a chaotic equation for a moment, roll it out, and ask it how far to trust it."""

import torch

from paperworks.operators import DilatedResNet, PDERefiner, high_correlation_time
from paperworks.testbeds import kuramoto_sivashinsky, sine_fields

torch.manual_seed(0)
equation = kuramoto_sivashinsky(n=32, length=22.0)
truth = equation.simulate(sine_fields(equation.grid, 16), dt=0.8, n=60, substeps=8)[:, 20:, None].float()

refiner = PDERefiner(DilatedResNet(2, 1, width=16), num_refinement_steps=3, min_noise=4e-7)
optimizer = torch.optim.Adam(refiner.parameters(), lr=3e-3)
for _ in range(60):
    row, time = torch.randint(16, (16,)), torch.randint(40, (16,))
    optimizer.zero_grad()
    refiner.loss(truth[row, time], truth[row, time + 1]).backward()
    optimizer.step()

rollout = refiner.rollout(truth[:4, 0], n=40)  # four network calls a step
print(f"accurate for {high_correlation_time(rollout, truth[:4], dt=0.8):.1f} units of time")
trust = refiner.uncertainty(truth[:4, 0], n=40, dt=0.8, n_samples=8).time
print("its samples agree for", [round(float(t), 1) for t in trust])
