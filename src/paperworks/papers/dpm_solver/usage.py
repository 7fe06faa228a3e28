"""Sample a diffusion model in 20 network calls, and see what DDIM makes of the same calls."""

import torch

from paperworks.diffusion import DPMSolver, NoiseScheduleVP, wrap_model
from paperworks.testbeds import digits_mixture

schedule = NoiseScheduleVP.linear()
network = digits_mixture().model(schedule)  # any network(x, t) that predicts noise; here the exact one for digits
solver = DPMSolver(wrap_model(network, schedule), schedule)
noise = torch.randn(8, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

exact = solver.sample(noise, steps=150, order=3, skip_type="logSNR", t_end=1e-3).sample
for name, order in (("DDIM", 1), ("DPM-Solver++(2M)", 2)):
    result = solver.sample(noise, steps=20, order=order, skip_type="logSNR", t_end=1e-3)
    error = (result.sample - exact).square().mean(dim=1).sqrt().median()
    print(f"{name:>17}: error {error:.4f} after {result.nfe} network calls")
