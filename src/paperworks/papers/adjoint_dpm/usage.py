"""Change the noise a little, so that the samples come out where they are wanted."""

import torch

from paperworks.diffusion import AdjointSampler, NoiseScheduleVP, adversarial_noise
from paperworks.testbeds import bench_mixture_1d

schedule = NoiseScheduleVP.linear()
sampler = AdjointSampler(bench_mixture_1d().model(schedule), schedule, steps=20)
noise = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))

steered = adversarial_noise(sampler, noise, lambda x_0: -(x_0[:, 0] - 1.8).abs(), steps=20, lr=0.05, box=0.5)

before, after = ((x_0 > 1).double().mean() for x_0 in (sampler(noise), steered.sample))
moved = (steered.x_T - noise).abs().mean()
print(f"in the right-hand mode: {before:.0%} of the samples, {after:.0%} after moving the noise by {moved:.2f}")

noise.requires_grad_()  # any loss of the samples has gradients
(gradient,) = torch.autograd.grad(sampler(noise).square().mean(), noise)
print(f"size of the gradient in the noise: {gradient.norm():.4f}, network calls there and back: {sampler.last_nfe}")
