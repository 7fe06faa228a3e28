"""Training with PFGM++'s noise: EDM's preconditioning and loss, and DDPM's, with only the noise exchanged."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_number
from paperworks.diffusion.poisson_flow.field import empirical_denoiser
from paperworks.diffusion.poisson_flow.noise import PFGMPPNoise
from paperworks.diffusion.sampling import per_sample
from paperworks.diffusion.schedules import NoiseSchedule

Levels = Literal["edm", "ve"]


class EDMPrecond(nn.Module):
    """A raw network as EDM's denoiser: ``D(x; sigma) = c_skip x + c_out F(c_in x; log(sigma)/4)``.

    The scalings keep input, output and gradient at unit size for data of standard deviation `sigma_data`
    (arXiv 2206.00364, table 1); they are the same for every D.

    Parameters
    ----------
    net
        Called as ``net(x, noise_level, *conditions)`` with one noise level per sample.
    sigma_data
        Standard deviation of the data; EDM's 0.5 by default.

    Examples
    --------
    >>> denoiser = EDMPrecond(lambda x, level: 0 * x)
    >>> denoiser(torch.ones(2, 3), 0.5)[0, 0]
    tensor(0.5000)
    """

    def __init__(self, net: Callable[..., Tensor], sigma_data: float = 0.5) -> None:
        super().__init__()
        self.net = net
        self.sigma_data = check_number("sigma_data", sigma_data, gt=0)

    def forward(
        self, x: Float[Tensor, " batch *shape"], sigma: float | Float[Tensor, "..."], *conditions: Any
    ) -> Float[Tensor, " batch *shape"]:
        """Return the denoised `x` at noise level `sigma`, one for all or one per sample.

        Parameters
        ----------
        x
            Noisy samples, of shape (batch, ...).
        sigma
            Noise level, one for all or one for each sample.

        Returns
        -------
        Tensor of shape (batch, ...)
            Denoised samples, of shape (batch, ...).
        """
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).reshape(-1).expand(len(x))
        total = (level.square() + self.sigma_data**2).sqrt()
        c_skip = per_sample(self.sigma_data**2 / total.square(), x)
        c_out = per_sample(level * self.sigma_data / total, x)
        c_in = per_sample(1 / total, x)
        return c_skip * x + c_out * self.net(c_in * x, (level.log() / 4).to(x.dtype), *conditions)


class EDMLoss:
    """The denoising loss of EDM under PFGM++'s noise: ``lambda(sigma) |D(y + noise; sigma) - y|^2``.

    Parameters
    ----------
    D
        Additional dimensions; infinity is EDM's own loss.
    sigma_data
        Standard deviation of the data.
    p_mean, p_std
        Mean and standard deviation of log sigma, for the levels ``edm``; the paper's are EDM's -1.2 and 1.2.
    levels
        ``edm``: log sigma normal, lambda ``(sigma^2 + sigma_data^2)/(sigma sigma_data)^2``; ``ve``: log sigma uniform
        between log 0.02 and log 100, lambda ``1/sigma^2``.
    stable_target
        Replace each target by the posterior mean over the batch itself, or over `reference` where it is given: less
        variance for some bias (arXiv 2302.00670).

    Examples
    --------
    >>> loss = EDMLoss(D=128)
    >>> float(loss(lambda x, sigma: 0 * x, torch.ones(4, 8), torch.Generator().manual_seed(0))) > 0
    True
    """

    def __init__(
        self,
        D: float = math.inf,
        sigma_data: float = 0.5,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        levels: Levels = "edm",
        stable_target: bool = False,
    ) -> None:
        PFGMPPNoise(D, 1)
        self.D = float(D)
        self.sigma_data = check_number("sigma_data", sigma_data, gt=0)
        self.p_mean = check_number("p_mean", p_mean)
        self.p_std = check_number("p_std", p_std, gt=0)
        self.levels = check_choice("levels", levels, get_args(Levels))
        self.stable_target = stable_target

    def __call__(
        self,
        denoiser: Callable[..., Tensor],
        y: Float[Tensor, " batch *shape"],
        generator: torch.Generator,
        *conditions: Any,
        reference: Float[Tensor, " n *shape"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean loss on data `y`; the denoiser is called as ``denoiser(x, sigma, *conditions)``."""
        sigma, weight = self._levels(len(y), y, generator)
        noise = PFGMPPNoise(self.D, y[0].numel())
        x = y + noise.sample(y.shape, sigma, generator, dtype=y.dtype).to(y.device)
        target = y
        if self.stable_target:
            pool = y if reference is None else torch.cat([y, reference])
            target = empirical_denoiser(pool, self.D)(x, sigma)
        error = denoiser(x, sigma, *conditions) - target
        return (per_sample(weight, y) * error.square()).mean()

    def _levels(self, n: int, like: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.levels == "edm":
            draw = torch.randn(n, generator=generator, dtype=like.dtype, device=generator.device)
            sigma = (self.p_mean + self.p_std * draw).exp().to(like.device)
            return sigma, (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()
        draw = torch.rand(n, generator=generator, dtype=like.dtype, device=generator.device)
        sigma = (math.log(0.02) + draw * math.log(100 / 0.02)).exp().to(like.device)
        return sigma, 1 / sigma.square()


class DDPMLoss:
    """The noise-prediction loss of DDPM under PFGM++'s noise: ``x = alpha (y + (sigma/alpha) z/sqrt(g))``.

    The network keeps its schedule, its samplers and its meaning, the noise in x; only the prior that sampling
    starts from is then the noise's own (`PFGMPPNoise.sample`) in place of a Gaussian.

    Parameters
    ----------
    schedule
        Noise schedule of the network.
    D
        Additional dimensions; infinity is DDPM's own loss.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> loss = DDPMLoss(NoiseScheduleVP.linear(), D=64)
    >>> float(loss(lambda x, t: 0 * x, torch.ones(4, 8), torch.Generator().manual_seed(0))) > 0
    True
    """

    def __init__(self, schedule: NoiseSchedule, D: float = math.inf) -> None:
        PFGMPPNoise(D, 1)
        self.schedule = schedule
        self.D = float(D)

    def __call__(
        self,
        network: Callable[..., Tensor],
        y: Float[Tensor, " batch *shape"],
        generator: torch.Generator,
        *conditions: Any,
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the noise; the network is called with the schedule's `input_time`."""
        u = torch.rand(len(y), generator=generator, dtype=torch.float64, device=generator.device).to(y.device)
        t = self.schedule.t_min + u * (self.schedule.t_max - self.schedule.t_min)
        alpha, sigma = per_sample(self.schedule.alpha(t), y), per_sample(self.schedule.sigma(t), y)
        noise = PFGMPPNoise(self.D, y[0].numel()).sample(y.shape, 1.0, generator, dtype=y.dtype).to(y.device)
        prediction = network(alpha * y + sigma * noise, self.schedule.input_time(t).to(y.dtype), *conditions)
        return (prediction - noise).square().mean()
