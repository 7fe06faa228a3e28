"""Sample with Student-t noise of D = 128: only the prior and the training noise differ from EDM."""

import torch

from paperworks.diffusion import EDMSchedule, PFGMPPNoise, empirical_denoiser, sample_heun, wrap_model
from paperworks.testbeds import digits

images = digits()[:]
denoiser = empirical_denoiser(images, D=128)  # or EDMPrecond(network), trained with EDMLoss(D=128)
model_fn = wrap_model(denoiser, EDMSchedule(), "x_start")

noise = PFGMPPNoise(D=128, n_dims=64)
prior = noise.sample((16, 1, 8, 8), sigma=80.0, generator=torch.Generator().manual_seed(0))
result = sample_heun(model_fn, prior, steps=18, D=128)
print(
    f"{len(result.sample)} digits in {result.nfe} evaluations, pixels in "
    f"[{result.sample.min():.2f}, {result.sample.max():.2f}]"
)
