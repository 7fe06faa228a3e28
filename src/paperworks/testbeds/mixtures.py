"""Gaussian mixtures: data whose diffusion model is known in closed form.

If data are drawn from a mixture of isotropic Gaussians, so is the noisy data at every noise level, and the noise
that an ideal network predicts, the score, the denoised mean and the density are all exact. In one dimension the
solution of the diffusion ODE is exact as well: the ODE preserves the order of points, hence their quantiles.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_finite
from paperworks.diffusion.schedules import NoiseSchedule
from paperworks.testbeds.data import digits

PredictionType = Literal["noise", "x_start", "v", "score"]
Level = float | Tensor  # alpha or sigma: one for all samples, or one per sample


class GaussianMixture:
    """A mixture of isotropic Gaussians sum_k w_k N(mu_k, s_k^2 I), seen through any amount of noise.

    All methods take `alpha` and `sigma` and answer for x = alpha x_0 + sigma eps with x_0 drawn from the mixture;
    the defaults (1, 0) mean the mixture itself. Either is one number, or a tensor with one per sample.
    Samples have any shape: `x` is (batch, *shape) with as many elements a sample as the mixture has dimensions.
    They are computed in the dtype and on the device of `x`, and are differentiable, also in the parameters.

    Parameters
    ----------
    weights
        Positive weights of the components; they are normalised to sum to one.
    means
        Means of the components.
    stds
        Standard deviations of the components, or one for all; 0 makes point masses.

    Raises
    ------
    ValueError
        Where shapes disagree, a weight isn't positive, a deviation is negative, or a number isn't finite.

    Examples
    --------
    One Gaussian N(2, 1) seen through noise of the same size: half of the deviation from the mean is noise.

    >>> mixture = GaussianMixture(torch.ones(1), torch.tensor([[2.0]]), torch.ones(1))
    >>> mixture.x0(torch.tensor([[4.0]]), alpha=1.0, sigma=1.0)
    tensor([[3.]])
    """

    def __init__(
        self,
        weights: Float[Tensor, " components"],
        means: Float[Tensor, "components dim"],
        stds: Float[Tensor, " components"] | float,
    ) -> None:
        if means.ndim != 2:
            raise ValueError(f"means has shape {tuple(means.shape)}; it takes (components, dim)")
        n = len(means)
        stds = torch.as_tensor(stds, dtype=means.dtype, device=means.device)
        if weights.shape != (n,) or stds.shape not in {(), (n,)}:
            raise ValueError(
                f"weights has shape {tuple(weights.shape)} and stds {tuple(stds.shape)}; for means of {n} components "
                f"they take ({n},)"
            )
        for name, tensor in (("weights", weights), ("means", means), ("stds", stds)):
            check_finite(name, tensor)
        if not (weights > 0).all():
            raise ValueError(f"weights has a smallest element {weights.min().item():g}; it takes positive numbers")
        if not (stds >= 0).all():
            raise ValueError(f"stds has a smallest element {stds.min().item():g}; it takes numbers >= 0")
        self.weights = weights / weights.sum()
        self.means = means
        self.stds = stds.expand(n)
        self._common_std = bool((self.stds == self.stds[0]).all())

    @property
    def dim(self) -> int:
        """The number of elements of one sample."""
        return self.means.shape[1]

    def to(self, like: torch.dtype | torch.device | str) -> "GaussianMixture":
        """Return the mixture with its parameters in another dtype or on another device.

        Parameters
        ----------
        like
            A dtype or a device.

        Returns
        -------
        GaussianMixture
            A new one.
        """
        return GaussianMixture(self.weights.to(like), self.means.to(like), self.stds.to(like))

    def sample(
        self, n: int, generator: torch.Generator, alpha: Level = 1.0, sigma: Level = 0.0
    ) -> Float[Tensor, "{n} dim"]:
        """Draw `n` samples.

        Parameters
        ----------
        n
            Number of samples.
        generator
            Draws them, on the mixture's device.
        alpha, sigma
            Factor of the signal and standard deviation of noise that is added; by default none.

        Returns
        -------
        Tensor
            Samples in rows, (n, dim), of the mixture's dtype.

        Examples
        --------
        >>> bench_mixture_1d().sample(3, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 1])
        """
        check_count("n", n)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        alpha, sigma = self._levels(alpha, sigma, self.means)
        spread = (alpha**2 * self.stds[k, None] ** 2 + sigma**2).sqrt()
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.means.dtype, device=self.means.device)
        return alpha * self.means[k] + spread * noise

    def eps(
        self, x: Float[Tensor, " batch *shape"], alpha: Level = 1.0, sigma: Level = 0.0
    ) -> Float[Tensor, " batch *shape"]:
        """Return the expected noise in `x`, what an ideal noise-prediction network answers.

        Parameters
        ----------
        x
            States, (batch, *shape), with as many elements a sample as the mixture has dimensions.
        alpha, sigma
            Factor of the signal and standard deviation of the noise: numbers, or one for each row. By default no noise.

        Returns
        -------
        Tensor
            The noise in units of `sigma`, shaped as `x`.
        """
        moments = self._moments(x, alpha, sigma)
        return (-moments.sigma * moments.score).reshape(x.shape)

    def score(
        self, x: Float[Tensor, " batch *shape"], alpha: Level = 1.0, sigma: Level = 0.0
    ) -> Float[Tensor, " batch *shape"]:
        """Return the gradient of the log-density at `x`.

        Parameters
        ----------
        x
            States, (batch, *shape), with as many elements a sample as the mixture has dimensions.
        alpha, sigma
            Factor of the signal and standard deviation of the noise: numbers, or one for each row. By default no noise.

        Returns
        -------
        Tensor
            Shaped as `x`.
        """
        return self._moments(x, alpha, sigma).score.reshape(x.shape)

    def x0(
        self, x: Float[Tensor, " batch *shape"], alpha: Level = 1.0, sigma: Level = 0.0
    ) -> Float[Tensor, " batch *shape"]:
        """Return the expected noiseless sample behind `x`, what an ideal denoiser answers.

        Parameters
        ----------
        x
            States, (batch, *shape), with as many elements a sample as the mixture has dimensions.
        alpha, sigma
            Factor of the signal and standard deviation of the noise: numbers, or one for each row. By default no noise.

        Returns
        -------
        Tensor
            The posterior mean, shaped as `x`.
        """
        return self._moments(x, alpha, sigma).x0.reshape(x.shape)

    def v(
        self, x: Float[Tensor, " batch *shape"], alpha: Level = 1.0, sigma: Level = 0.0
    ) -> Float[Tensor, " batch *shape"]:
        """Return the expected velocity alpha eps - sigma x_0.

        Parameters
        ----------
        x
            States, (batch, *shape), with as many elements a sample as the mixture has dimensions.
        alpha, sigma
            Factor of the signal and standard deviation of the noise: numbers, or one for each row. By default no noise.

        Returns
        -------
        Tensor
            Shaped as `x`.
        """
        moments = self._moments(x, alpha, sigma)
        return (-moments.sigma * (moments.alpha * moments.score + moments.x0)).reshape(x.shape)

    def log_density(
        self, x: Float[Tensor, " batch *shape"], alpha: Level = 1.0, sigma: Level = 0.0
    ) -> Float[Tensor, " batch"]:
        """Return the log-density at `x`.

        Parameters
        ----------
        x
            States, (batch, *shape), with as many elements a sample as the mixture has dimensions.
        alpha, sigma
            Factor of the signal and standard deviation of the noise: numbers, or one for each row. By default no noise.

        Returns
        -------
        Tensor
            One number for each row, in nats.
        """
        rows, alpha, sigma = self._rows(x, alpha, sigma)
        logits, variance = self._logits(rows, alpha, sigma)
        if self._common_std:
            logits = logits - 0.5 * ((rows**2).sum(1, keepdim=True) / variance + self.dim * variance.log())
        return torch.logsumexp(logits, dim=1) - 0.5 * self.dim * math.log(2 * math.pi)

    def model(
        self, schedule: NoiseSchedule, prediction_type: PredictionType = "noise"
    ) -> Callable[[Tensor, Tensor | float], Tensor]:
        """Return the exact model `model_fn(x, t)` under a schedule, `t` being the schedule's own time.

        Parameters
        ----------
        schedule
            Gives alpha and sigma at a time.
        prediction_type
            What the model answers: ``noise``, ``x_start``, ``v`` or ``score``.

        Returns
        -------
        callable
            ``model_fn(x, t)``, with `t` a number or one time for each row.

        Examples
        --------
        >>> from paperworks.diffusion import NoiseScheduleVP
        >>> eps_model = bench_mixture_1d().model(NoiseScheduleVP.linear())
        >>> eps_model(torch.zeros(5, 1, dtype=torch.float64), 0.5).shape
        torch.Size([5, 1])
        """
        check_choice("prediction_type", prediction_type, ("noise", "x_start", "v", "score"))
        answer = {"noise": self.eps, "x_start": self.x0, "v": self.v, "score": self.score}[prediction_type]

        def model_fn(x: Tensor, t: Tensor | float) -> Tensor:
            alpha, sigma = levels_at(schedule, t)
            return answer(x, alpha, sigma)

        return model_fn

    def log_cdf(
        self, x: Float[Tensor, " batch"], alpha: Level = 1.0, sigma: Level = 0.0, upper: bool = False
    ) -> Float[Tensor, " batch"]:
        """Return the log of the distribution function, or of its upper tail, of a one-dimensional mixture.

        Parameters
        ----------
        x
            Points on the line, (batch,).
        alpha, sigma
            Factor of the signal and standard deviation of the noise: numbers, or one for each row. By default no noise.
        upper
            Whether to take the upper tail.

        Returns
        -------
        Tensor
            One number for each point, accurate far out in the tails.
        """
        self._require_line("log_cdf")
        alpha, sigma = self._levels(alpha, sigma, x)
        _, log_tail, _ = self._tail(x, alpha, sigma, -1.0 if upper else 1.0)
        return log_tail

    def transport(
        self, x: Float[Tensor, " batch *shape"], schedule: NoiseSchedule, t_from: float, t_to: float
    ) -> Float[Tensor, " batch *shape"]:
        """Solve the diffusion ODE exactly in one dimension: x_t = F_t^{-1}(F_s(x_s)).

        Each quantile is taken from its smaller tail in logarithms, so points far out lose no accuracy; the inverse is
        found by Newton's method kept inside a bracket, to an error of about 1e-12 in float64 where the density isn't
        vanishingly small.

        Parameters
        ----------
        x
            Points at `t_from`, (batch, 1).
        schedule
            Gives the noise levels of the two times.
        t_from, t_to
            First and last time.

        Returns
        -------
        Tensor
            Points at `t_to`, shaped and typed as `x`.

        Raises
        ------
        ValueError
            Where the mixture isn't one-dimensional or `x` isn't finite.

        Examples
        --------
        >>> from paperworks.diffusion import NoiseScheduleVP
        >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> schedule, mixture = NoiseScheduleVP.linear(), bench_mixture_1d()
        >>> there = mixture.transport(x, schedule, 1.0, 1e-3)
        >>> torch.allclose(mixture.transport(there, schedule, 1e-3, 1.0), x, rtol=0, atol=1e-12)
        True
        """
        self._require_line("transport")
        check_finite("x", x)
        exact = self.to(torch.float64)
        points = x.detach().double().reshape(-1)
        log_below = exact.log_cdf(points, *levels_at(schedule, t_from))
        log_above = exact.log_cdf(points, *levels_at(schedule, t_from), upper=True)
        side = torch.where(log_below <= log_above, 1.0, -1.0).to(points)
        log_tail = torch.minimum(log_below, log_above)
        return exact._tail_quantile(log_tail, side, *levels_at(schedule, t_to)).reshape(x.shape).to(x)

    def _tail_quantile(self, log_tail: Tensor, side: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Find the points whose tail (lower where `side` is 1, upper where it is -1) has the probability given."""
        from scipy.special import ndtri_exp

        alpha, sigma = self._levels(alpha, sigma, log_tail)
        centres = side[:, None] * alpha * self.means.T
        spreads = (alpha**2 * self.stds**2 + sigma**2).sqrt()
        # The quantile of a mixture lies between the least and the greatest of its components' quantiles.
        z = torch.from_numpy(ndtri_exp(log_tail.cpu().numpy())).to(log_tail)
        component = centres + spreads * z[:, None]
        low, high = component.min(dim=1).values, component.max(dim=1).values
        y = (torch.exp(self.weights.log()) * component).sum(dim=1)
        for _ in range(200):
            _, now, slope = self._tail(side * y, alpha, sigma, side)
            excess = now - log_tail
            low, high = torch.where(excess < 0, y, low), torch.where(excess < 0, high, y)
            newton = y - excess / slope
            inside = (newton > low) & (newton < high)
            following = torch.where(inside, newton, 0.5 * (low + high))
            moved = (following - y).abs().max()
            y = following
            if moved <= 4e-16 * (1 + y.abs().max()):
                break
        return side * y

    def _tail(self, x: Tensor, alpha: Tensor, sigma: Tensor, side: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-density, the log of the tail on `side` of x, and the derivative of the latter in side * x."""
        spreads = (alpha**2 * self.stds.to(x) ** 2 + sigma**2).sqrt()
        z = (x[:, None] - alpha * self.means.to(x).T) / spreads
        log_w = self.weights.to(x).log()
        sided = z * side[:, None] if isinstance(side, Tensor) else z * side
        log_tail = torch.logsumexp(log_w + torch.special.log_ndtr(sided), dim=1)
        log_density = torch.logsumexp(log_w - spreads.log() - 0.5 * z**2, dim=1) - 0.5 * math.log(2 * math.pi)
        return log_density, log_tail, torch.exp(log_density - log_tail)

    def _moments(self, x: Tensor, alpha: Level, sigma: Level) -> "_Moments":
        rows, alpha, sigma = self._rows(x, alpha, sigma)
        logits, variance = self._logits(rows, alpha, sigma)
        posterior = torch.softmax(logits, dim=1)
        means, square_stds = self.means.to(rows), self.stds.to(rows)[:, None] ** 2
        if self._common_std:
            return _Moments(rows, alpha, sigma, posterior @ means / variance, 1 / variance, square_stds[0] / variance)
        # One product with [mu, 1, s^2] gives all three sums; dividing the smaller factor by the variance is cheaper.
        columns = torch.cat([means, torch.ones_like(square_stds), square_stds], dim=1)
        sums = posterior @ (columns / variance.T) if len(variance) == 1 else (posterior / variance) @ columns
        return _Moments(rows, alpha, sigma, sums[:, :-2], sums[:, -2:-1], sums[:, -1:])

    def _logits(self, rows: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return log(w_k N(x; alpha mu_k, v_k)) up to a constant, and the v_k.

        The constant is (2 pi)^{-d/2}, and where all v_k are equal also what the components share.
        """
        means, log_w = self.means.to(rows), self.weights.to(rows).log()
        stds = self.stds[:1] if self._common_std else self.stds
        variance = alpha**2 * stds.to(rows) ** 2 + sigma**2
        half_norm = 0.5 * (means**2).sum(1)
        if self._common_std:
            gain = alpha / variance
            return torch.addmm(log_w, gain * rows, means.T) - (gain * alpha) * half_norm, variance
        distance = alpha**2 * half_norm + 0.5 * (rows**2).sum(1, keepdim=True) - alpha * (rows @ means.T)
        return log_w - 0.5 * self.dim * variance.log() - distance / variance, variance

    def _rows(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor, Tensor]:
        rows = x.reshape(len(x), -1)
        if rows.shape[1] != self.dim:
            raise ValueError(f"x has {rows.shape[1]} elements a sample; this mixture takes {self.dim}")
        return rows, *self._levels(alpha, sigma, x)

    def _levels(self, alpha: Level, sigma: Level, like: Tensor) -> tuple[Tensor, Tensor]:
        a, s = (torch.as_tensor(level, dtype=like.dtype, device=like.device) for level in (alpha, sigma))
        return a.reshape(-1, 1), s.reshape(-1, 1)

    def _require_line(self, what: str) -> None:
        if self.dim != 1:
            raise ValueError(f"{what} is for mixtures of one dimension; this one has {self.dim}")


@dataclass(frozen=True)
class _Moments:
    """The posterior sums of one evaluation: m1 = E[mu/v], m0 = E[1/v] and m2 = E[s^2/v], given x."""

    x: Tensor
    alpha: Tensor
    sigma: Tensor
    m1: Tensor
    m0: Tensor
    m2: Tensor

    @property
    def score(self) -> Tensor:
        return self.alpha * self.m1 - self.x * self.m0

    @property
    def x0(self) -> Tensor:
        return self.sigma**2 * self.m1 + self.alpha * self.m2 * self.x


def levels_at(schedule: NoiseSchedule, t: Tensor | float) -> tuple[Level, Level]:
    """Return alpha and sigma of a schedule at time t, computed in float64."""
    if isinstance(t, Tensor):
        return schedule.alpha(t.double()), schedule.sigma(t.double())
    return schedule.alpha(float(t)), schedule.sigma(float(t))


def bench_mixture_1d() -> GaussianMixture:
    """Return the one-dimensional mixture with three modes whose diffusion ODE `transport` solves exactly.

    Returns
    -------
    GaussianMixture
        Weights 0.3, 0.5, 0.2 at -1.5, 0.2, 1.8, in float64.

    Examples
    --------
    >>> bench_mixture_1d().means.flatten().tolist()
    [-1.5, 0.2, 1.8]
    """
    f64 = torch.float64
    return GaussianMixture(
        torch.tensor([0.3, 0.5, 0.2], dtype=f64),
        torch.tensor([[-1.5], [0.2], [1.8]], dtype=f64),
        torch.tensor([0.25, 0.4, 0.3], dtype=f64),
    )


def bench_mixture_64d(n_components: int = 20, std: float = 0.2, mean_scale: float = 1.0) -> GaussianMixture:
    """Return equal weights on narrow Gaussians whose means are standard normal in 64 dimensions (seed 1).

    Parameters
    ----------
    n_components
        Number of Gaussians.
    std
        Their standard deviation.
    mean_scale
        Standard deviation of their means.

    Returns
    -------
    GaussianMixture
        The mixture, in float64.

    Examples
    --------
    >>> bench_mixture_64d().means.shape
    torch.Size([20, 64])
    """
    generator = torch.Generator().manual_seed(1)
    means = mean_scale * torch.randn(n_components, 64, generator=generator, dtype=torch.float64)
    return GaussianMixture(torch.ones(n_components, dtype=torch.float64), means, std)


def digits_mixture(bandwidth: float = 0.1) -> GaussianMixture:
    """Return the kernel-density estimate of scikit-learn's 1797 digits of 8x8 pixels, scaled to [-1, 1].

    Parameters
    ----------
    bandwidth
        Standard deviation of the kernel.

    Returns
    -------
    GaussianMixture
        In float64, of 64 dimensions.

    Examples
    --------
    >>> digits_mixture().means.shape
    torch.Size([1797, 64])
    """
    pixels = digits()[:].double().flatten(1)
    return GaussianMixture(torch.ones(len(pixels), dtype=torch.float64), pixels, bandwidth)
