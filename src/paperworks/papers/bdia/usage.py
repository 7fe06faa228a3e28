"""Turn samples back into the noise they came from, exactly."""

import torch

from paperworks.diffusion import BDIASampler, NoiseScheduleVP
from paperworks.testbeds import digits_mixture

schedule = NoiseScheduleVP.linear()
sampler = BDIASampler(digits_mixture().model(schedule), schedule, gamma=1.0)

noise = torch.randn(8, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
images = sampler.sample(noise, steps=40)
back = sampler.invert(*images.pair, steps=40)
print(f"round trip of {images.nfe + back.nfe} evaluations: error {(back.sample - noise).abs().max():.1e}")
