"""Quantise a trained diffusion network to 8 bits without training."""

import torch

from paperworks.diffusion import BDIASampler, NoiseScheduleVP, collect_calibration, quantize_diffusion, wrap_model
from paperworks.testbeds import UNet

schedule = NoiseScheduleVP.linear()
network = UNet(widths=(8, 16))  # stands for a trained network, called as network(x, t)

generator = torch.Generator().manual_seed(0)
calibration = collect_calibration(network, schedule, (1, 28, 28), n=64, steps=10, generator=generator)
quantized = quantize_diffusion(network, calibration)

noise = torch.randn(4, 1, 28, 28, generator=generator)
with torch.no_grad():
    images = BDIASampler(wrap_model(quantized, schedule), schedule, gamma=0.0).sample(noise, steps=10).sample
print(f"{sum(p.numel() for p in network.parameters()) * 4} bytes became {quantized.size_bytes()}; {len(images)} images")
