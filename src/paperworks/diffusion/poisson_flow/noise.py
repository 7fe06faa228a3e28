"""The noise of PFGM++: a multivariate Student-t with D degrees of freedom."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.diffusion.sampling import per_sample


def aligned_hyperparameters(sigma_min: float, sigma_max: float, D: float) -> tuple[float, float]:
    """Return (r_min, r_max), the augmented radii that a diffusion's noise levels become: ``r = sigma sqrt(D)``.

    Source: arXiv 2302.04265, section 4.

    Parameters
    ----------
    sigma_min
        Least noise level of the diffusion.
    sigma_max
        Greatest noise level of the diffusion.
    D
        Additional dimensions of the space, finite.

    Returns
    -------
    tuple[float, float]
        The least and the greatest radius.

    Examples
    --------
    >>> aligned_hyperparameters(0.002, 80, D=2500)
    (0.1, 4000.0)
    """
    check_number("sigma_min", sigma_min, gt=0)
    check_number("sigma_max", sigma_max, gt=sigma_min)
    check_number("D", D, gt=0)
    return sigma_min * math.sqrt(D), sigma_max * math.sqrt(D)


class PFGMPPNoise:
    """Noise for data of `n_dims` dimensions embedded with `D` more of which only the norm matters.

    The perturbation kernel of the paper, proportional to ``(|x - y|^2 + r^2)^(-(n_dims + D)/2)`` with
    ``r = sigma sqrt(D)``, is the Student-t of scale sigma and D degrees of freedom, ``x = y + sigma z / sqrt(g)`` with
    z standard normal and one ``g ~ Gamma(D/2, rate D/2)`` a sample. So all D share the same z, and at D = infinity
    the noise is bit by bit the Gaussian one.

    Parameters
    ----------
    D
        Number of additional dimensions, any positive number; ``math.inf`` for diffusion. The paper's best are 128 and
        2048 for images; D well below `n_dims` bears errors best. For D <= 2 the variance is infinite.
    n_dims
        Number of elements of one sample.
    max_radius_quantile
        Shorten the noise of those samples whose norm is beyond this quantile to the quantile; 1, the default, leaves
        all of it. It changes the prior, so use it on both sides or not at all.

    Raises
    ------
    ValueError
        Where `D` is not positive, `n_dims` is less than 1, or the quantile is outside (0, 1].

    Examples
    --------
    >>> noise = PFGMPPNoise(D=128, n_dims=64)
    >>> noise.sample((16, 1, 8, 8), sigma=80.0, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([16, 1, 8, 8])
    """

    def __init__(self, D: float, n_dims: int, max_radius_quantile: float = 1.0) -> None:
        if math.inf != D:
            check_number("D", D, gt=0)
        check_number("n_dims", n_dims, ge=1)
        self.D = float(D)
        self.n_dims = int(n_dims)
        self.max_radius_quantile = check_number("max_radius_quantile", max_radius_quantile, gt=0, le=1)

    def sample(
        self,
        shape: tuple[int, ...] | torch.Size,
        sigma: float | Float[Tensor, " batch"] = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, " batch *shape"]:
        """Draw noise of scale `sigma`, one for all or one per sample, on the device of `generator`.

        Parameters
        ----------
        shape
            (batch, *sample), a sample having `n_dims` elements.
        sigma
            Noise level; ``sigma_max`` makes the prior that a sampler starts from.
        generator
            Source of the noise.
        dtype
            Type of the result; half precision is drawn in float32 and rounded.

        Returns
        -------
        Tensor of shape (batch, ...)
            Noise of the shape asked for.

        Raises
        ------
        ValueError
            Where the shape doesn't fit, or `generator` is None: noise is drawn from an explicit source only.
        """
        if generator is None:
            raise ValueError("generator is None; noise takes a torch.Generator")
        if len(shape) < 2 or math.prod(shape[1:]) != self.n_dims:
            raise ValueError(f"shape is {tuple(shape)}; it takes (batch, *sample) with {self.n_dims} elements a sample")
        wide = torch.promote_types(dtype, torch.float32)  # half precision has no room for what is large in between
        z = torch.randn(shape, generator=generator, dtype=wide, device=generator.device)
        if math.inf > self.D:
            # Tiny D draws norms beyond any float; what is left has a norm whose square can still be told.
            stretch = self._stretch(shape[0], generator).clamp_(max=1e-3 * torch.finfo(wide).max ** 0.5)
            if self.max_radius_quantile < 1:
                stretch = torch.minimum(stretch, self._longest() / z.flatten(1).double().norm(dim=1))
            z.mul_(per_sample(stretch, z))
        z = z.mul_(per_sample(sigma, z)) if isinstance(sigma, Tensor) or sigma != 1 else z
        largest = torch.finfo(dtype).max
        return z if wide == dtype else z.clamp_(-largest, largest).to(dtype)

    def add_noise(
        self,
        x0: Float[Tensor, " batch *shape"],
        noise: Float[Tensor, " batch *shape"],
        sigma: float | Float[Tensor, " batch"],
    ) -> Float[Tensor, " batch *shape"]:
        """Return ``x0 + sigma noise`` for noise of scale 1.

        Parameters
        ----------
        x0
            Samples of the first end, of shape (batch, ...).
        noise
            Noise of scale 1, of shape (batch, ...).
        sigma
            Noise level, one for all or one for each sample.

        Returns
        -------
        Tensor of shape (batch, ...)
            Noisy samples, of the shape of `x0`.
        """
        return x0 + per_sample(sigma, x0) * noise

    def radius(self, sigma: float) -> float:
        """Return the norm r of the additional coordinates that belongs to a noise level.

        Parameters
        ----------
        sigma
            Noise level, above 0.

        Returns
        -------
        float
            The norm, ``sigma sqrt(D)``.
        """
        return sigma * math.sqrt(self.D)

    def log_prob(
        self, x: Float[Tensor, " batch *shape"], sigma: float | Float[Tensor, " batch"] = 1.0
    ) -> Float[Tensor, " batch"]:
        """Return the log-density of noise of scale `sigma` at `x`, computed in float64.

        Returns
        -------
        Tensor of shape (batch,)
            One number for each sample, in nats.

        Examples
        --------
        >>> cauchy = PFGMPPNoise(D=1, n_dims=1)
        >>> round(float(cauchy.log_prob(torch.zeros(1, 1)).exp() * math.pi), 6)
        1.0
        """
        rows = x.reshape(len(x), -1).double()
        if rows.shape[1] != self.n_dims:
            raise ValueError(f"x has {rows.shape[1]} elements a sample; it takes {self.n_dims}")
        sigma = torch.as_tensor(sigma, dtype=torch.float64, device=x.device)
        square = rows.square().sum(1) / sigma.square()
        n, d = self.n_dims, self.D
        log_volume = 0.5 * n * torch.log(math.pi * sigma.square())
        if d == math.inf:
            return (-0.5 * (square + n * math.log(2)) - log_volume).to(x.dtype)
        from scipy.special import betaln

        # lgamma((n + D)/2) - lgamma(D/2) cancels for large D; the beta function doesn't.
        log_ratio = math.lgamma(0.5 * n) - float(betaln(0.5 * n, 0.5 * d)) - 0.5 * n * math.log(d)
        return (log_ratio - log_volume - 0.5 * (n + d) * torch.log1p(square / d)).to(x.dtype)

    def _stretch(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``1/sqrt(g)`` in float64, through log g, which for small D lies far below any float."""
        a = 0.5 * self.D
        shape = torch.full((n,), a + (a < 1), dtype=torch.float64, device=generator.device)
        log_g = torch._standard_gamma(shape, generator=generator).log() - math.log(a)
        if a < 1:  # Gamma(a) = Gamma(a + 1) U^(1/a)
            u = torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
            log_g += torch.log1p(-u) / a
        return torch.exp(-0.5 * log_g)

    def _longest(self) -> float:
        """Return the quantile of the norm of noise of scale 1: |z|^2 / g is D times a beta-prime variable."""
        from scipy.special import betaincinv

        share = float(betaincinv(0.5 * self.n_dims, 0.5 * self.D, self.max_radius_quantile))
        return math.sqrt(self.D * share / (1 - share))
