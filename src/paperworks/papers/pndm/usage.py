"""Sample with one network call a step, and see how much closer to the exact solution that is than DDIM."""

import torch

from paperworks.diffusion import NoiseScheduleVP, PNDMSampler
from paperworks.testbeds import bench_mixture_1d

schedule = NoiseScheduleVP.linear()
mixture = bench_mixture_1d()  # data whose model and solution are known; any `model_fn(x, t) -> noise` does
noise = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
exact = mixture.transport(noise, schedule, 1.0, 1e-3)

for method, steps in (("DDIM", 50), ("S-PNDM", 50), ("F-PNDM", 50), ("DDIM", 1000)):
    result = PNDMSampler(mixture.model(schedule), schedule, method).sample(noise, steps, t_end=1e-3)
    error = (result.sample - exact).abs().max().item()
    print(f"{method:6} {steps:4} steps, {result.nfe:4} network calls: largest error {error:.4f}")
