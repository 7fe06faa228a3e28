"""The perturbed maximum likelihood estimator as a scikit-learn estimator."""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.manifold import Isomap
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.likelihood.linear import intrinsic_dimension
from paperworks.diffusion.likelihood.marginal import (
    Latent,
    log_marginal,
    log_weights,
    to_latent,
)
from paperworks.diffusion.likelihood.rates import sieve_rates
from paperworks.numerics import energy_distance, mlp, seeded, train, warmup_cosine

LIKELIHOODS = ("elbo", "iwae", "dreg", "quadrature")
_START_STEPS = 500
_LEAST_SHARE = 0.5  # of the perturbation that the learnt noise level has to keep


class GaussianPerturbation(nn.Module):
    """Adds normal noise to its input while training, and nothing afterwards: a step for any training loop.

    Parameters
    ----------
    sigma
        Standard deviation of the noise.

    Examples
    --------
    >>> layer = GaussianPerturbation(0.1)
    >>> torch.equal(layer.eval()(torch.zeros(2)), torch.zeros(2)), bool((layer.train()(torch.zeros(2)) != 0).all())
    (True, True)
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = check_number("sigma", sigma, ge=0)

    def forward(self, x: Float[Tensor, "*shape"], generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
        """Return `x` with fresh noise while training, else `x`.

        Parameters
        ----------
        x
            Data of any shape.
        generator
            What draws the noise; its device is drawn on.

        Returns
        -------
        Tensor of shape (...)
            Data of the shape of `x`.
        """
        if not self.training or self.sigma == 0:
            return x
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return torch.add(x, noise, alpha=self.sigma)


class SingularDistributionEstimator(BaseEstimator):
    """Estimates a distribution on a low-dimensional set: perturb the data, fit a generator, sample it without noise.

    Maximises the likelihood of ``x + noise`` under ``f(Z) + sigma N(0, I)`` over networks f and sigma within bounds
    (the sieve); the estimate is the law of ``f(Z)`` alone (arXiv 2105.04046). Data are centred and scaled by one
    number, their root mean square deviation per coordinate; all sizes of noise are in units of it.

    Parameters
    ----------
    latent_dim
        Dimension of Z; at least the intrinsic one.
    decoder
        ``mlp``, or a module from (m, latent_dim) to (m, dim), a copy of which is trained in place of one.
    likelihood
        ``elbo`` (a VAE), ``iwae`` or ``dreg`` (importance-weighted with `K` draws, the latter with doubly
        reparameterised gradients, for large `K`), or ``quadrature`` (exact, for `latent_dim` up to 2).
    K
        Draws a sample for the importance-weighted likelihoods.
    perturbation
        Standard deviation of the noise added; ``auto``: the theory's best, see `sieve_rates`; ``grid``: the best of
        `grid` by the energy distance of samples to held-out data (never by likelihood, which can't be compared
        between perturbations); ``anneal``: falling over the training from four times the theory's best to it.
    sigma
        ``learn``, or the standard deviation that the data's own noise is taken to have; the perturbation's is added.
    sigma_min, sigma_max
        Bounds of the learnt one. It also stays above half the perturbation.
    latent
        Law of Z: ``normal`` or ``uniform``.
    beta, t
        Smoothness and dimension for ``auto`` and ``anneal``; `t` is estimated from the data by default.
    grid
        Perturbations that ``grid`` tries.
    hidden
        Widths of the hidden layers of encoder and decoder.
    max_iter, lr, batch_size
        Steps of Adam, its largest rate (cosine to 0), samples a step.
    init
        What the decoder starts from: ``random`` weights, or an ``embedding``, fitted to an Isomap of at most 400 of the
        data without noise, whose coordinates are brought to the law of Z by their ranks. That starts a likelihood of
        many local maxima near the greatest one, where the data lie on one connected piece.
    resample
        Fresh noise at every step; else drawn once, as the theory has it.
    random_state
        Seed of everything random.

    Attributes
    ----------
    decoder_, encoder_
        The trained modules, on scaled data.
    sigma_, perturbation_
        Noise level of the model and of the perturbation, on scaled data.
    mean_, scale_
        Mean and scale of the data.
    history_
        Loss at every step.
    path_
        For ``grid``: the energy distance on held-out data of each perturbation.

    Raises
    ------
    ValueError
        At `fit`, where a parameter is out of range or the data are not finite.

    Examples
    --------
    >>> angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 200)
    >>> circle = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> estimator = SingularDistributionEstimator(latent_dim=1, max_iter=20, random_state=0).fit(circle)
    >>> estimator.sample(5).shape
    (5, 2)
    """

    def __init__(
        self,
        latent_dim: int = 1,
        decoder: str | nn.Module = "mlp",
        likelihood: str = "iwae",
        K: int = 8,
        perturbation: str | float = "auto",
        sigma: str | float = "learn",
        sigma_min: float = 1e-3,
        sigma_max: float | None = None,
        latent: Latent = "normal",
        beta: float = 1.0,
        t: float | None = None,
        grid: Sequence[float] = (0.0, 0.05, 0.1, 0.2, 0.4),
        hidden: Sequence[int] = (64, 64),
        max_iter: int = 1500,
        lr: float = 2e-3,
        batch_size: int = 100,
        resample: bool = True,
        init: str = "random",
        random_state: int | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.decoder = decoder
        self.likelihood = likelihood
        self.K = K
        self.perturbation = perturbation
        self.sigma = sigma
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.latent = latent
        self.beta = beta
        self.t = t
        self.grid = grid
        self.hidden = hidden
        self.max_iter = max_iter
        self.lr = lr
        self.batch_size = batch_size
        self.resample = resample
        self.init = init
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> "SingularDistributionEstimator":
        """Fit the generator to data of shape (n, dim); `y` is ignored.

        Parameters
        ----------
        X
            Data in rows, of shape (n, dim).
        y
            Ignored; it is scikit-learn's convention.

        Returns
        -------
        SingularDistributionEstimator
            The fitted estimator itself.
        """
        X = validate_data(self, X, dtype=np.float32, ensure_min_samples=2)
        self._check(X)
        # In the order of their values, so that the order they came in has no part in the batches drawn.
        data = torch.from_numpy(np.ascontiguousarray(X[np.lexsort(X.T)]))
        self.mean_ = data.mean(0)
        centred = data - self.mean_
        self.scale_ = float(centred.double().square().mean().sqrt()) or 1.0
        scaled = centred / self.scale_
        if self.perturbation == "grid":
            self.perturbation_ = self._choose(scaled)
        elif isinstance(self.perturbation, str):
            self.perturbation_ = self._theory(scaled)
        else:
            self.perturbation_ = float(self.perturbation)
        self._train(scaled, self.perturbation_)
        return self

    def sample(self, n: int, random_state: int | None = None) -> np.ndarray:
        """Draw from the estimate, ``f(Z)`` without noise, in the units of the data.

        Parameters
        ----------
        n
            How many samples to draw.
        random_state
            Seed of the draws; None takes a fresh one.

        Returns
        -------
        ndarray
            Samples in rows, of shape (n, dim).
        """
        return self._draw(n, random_state, noisy=False)

    def sample_noisy(self, n: int, random_state: int | None = None) -> np.ndarray:
        """Draw from the model of the perturbed data, ``f(Z) + sigma N(0, I)``; not from the estimate.

        Parameters
        ----------
        n
            How many samples to draw.
        random_state
            Seed of the draws; None takes a fresh one.

        Returns
        -------
        ndarray
            Samples in rows, of shape (n, dim).
        """
        return self._draw(n, random_state, noisy=True)

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the log-likelihood of each sample under the model of the perturbed data.

        Exact for ``quadrature``, else estimated from 1000 draws. It can't be compared between perturbations.

        Parameters
        ----------
        X
            Data in rows, of shape (n, dim).

        Returns
        -------
        ndarray
            One number for each sample, in nats.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        scaled = ((torch.from_numpy(np.ascontiguousarray(X)) - self.mean_) / self.scale_).double()
        # In double precision, where rounding doesn't show how many rows a matrix product had.
        decoder, encoder = (copy.deepcopy(network).double() for network in (self.decoder_, self.encoder_))
        exact = self.likelihood == "quadrature"
        with torch.no_grad():
            found = [
                log_marginal(
                    part,
                    decoder,
                    self.sigma_,
                    "quadrature" if exact else "importance",
                    latent_dim=self.latent_dim,
                    encoder=encoder,
                    latent=self.latent,
                    generator=torch.Generator().manual_seed(0),  # the same draws for every row, whatever its batch
                )
                for part in scaled.split(256)
            ]
        return torch.cat(found).numpy() - X.shape[1] * math.log(self.scale_)

    def score(self, X: Any, y: None = None) -> float:
        """Return the mean of `score_samples`.

        Parameters
        ----------
        X
            Data in rows, of shape (n, dim).
        y
            Ignored; it is scikit-learn's convention.

        Returns
        -------
        float
            The mean log-likelihood, in nats.
        """
        return float(self.score_samples(X).mean())

    def _check(self, X: np.ndarray) -> None:
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        check_choice("latent", self.latent, ("normal", "uniform"))
        check_choice("init", self.init, ("random", "embedding"))
        check_count("latent_dim", self.latent_dim, at_most=X.shape[1])
        check_count("K", self.K)
        check_count("max_iter", self.max_iter)
        check_count("batch_size", self.batch_size)
        check_number("lr", self.lr, gt=0)
        check_number("beta", self.beta, gt=0)
        check_number("sigma_min", self.sigma_min, gt=0)
        if self.sigma_max is not None:
            check_number("sigma_max", self.sigma_max, ge=self.sigma_min)
        if self.likelihood == "quadrature" and self.latent_dim > 2:
            raise ValueError(f"latent_dim is {self.latent_dim}; likelihood 'quadrature' takes 1 or 2")
        if isinstance(self.perturbation, str):
            check_choice("perturbation", self.perturbation, ("auto", "grid", "anneal"))
        else:
            check_number("perturbation", self.perturbation, ge=0)
        if isinstance(self.sigma, str):
            check_choice("sigma", self.sigma, ("learn",))
        else:
            check_number("sigma", self.sigma, ge=0)
        if isinstance(self.decoder, str):
            check_choice("decoder", self.decoder, ("mlp",))

    def _theory(self, scaled: Tensor) -> float:
        dimension = intrinsic_dimension(scaled) if self.t is None and len(scaled) >= 10 else self.t or 1.0
        return sieve_rates(len(scaled), self.beta, max(dimension, 1e-2)).perturbation

    def _choose(self, scaled: Tensor) -> float:
        """Fit on four fifths with each perturbation of the grid, and compare samples with the rest."""
        if len(scaled) < 10 or not len(self.grid):
            raise ValueError(f"perturbation 'grid' takes at least 10 samples and one noise level; got {len(scaled)}")
        order = torch.randperm(len(scaled), generator=self._generator(1))
        cut = len(scaled) * 4 // 5
        kept, held_out = scaled[order[:cut]], scaled[order[cut:]]
        self.path_ = {}
        for level in self.grid:
            self._train(kept, check_number("grid", level, ge=0))
            drawn = self._decode(max(1000, len(held_out)), self._generator(2))
            self.path_[float(level)] = energy_distance(drawn, held_out)
        return min(self.path_, key=self.path_.__getitem__)

    def _generator(self, stream: int) -> torch.Generator:
        seed = np.random.SeedSequence(self.random_state).generate_state(4)[stream]
        return torch.Generator().manual_seed(int(seed))

    def _train(self, data: Tensor, perturbation: float) -> None:
        n, dim = data.shape
        generator = self._generator(0)
        with seeded(int(torch.randint(2**31, (1,), generator=generator))):
            # The caller's module stays as it is, and every fit starts from it.
            decoder = copy.deepcopy(self.decoder)
            if isinstance(decoder, str):
                decoder = mlp((self.latent_dim, *self.hidden, dim))
            encoder = _Encoder(dim, self.hidden, self.latent_dim)
        if self.init == "embedding":
            self._start_at_embedding(decoder, data, generator)
        noise_level = self._noise_level(perturbation)
        modules = nn.ModuleList([decoder, encoder, noise_level])
        optimizer = torch.optim.Adam(modules.parameters(), lr=self.lr)
        start = 4 * perturbation if self.perturbation == "anneal" else perturbation
        if not self.resample:
            data = torch.add(data, torch.randn(data.shape, generator=generator), alpha=perturbation)

        def of_step(step: int) -> Tensor:
            batch = data[torch.randint(n, (min(self.batch_size, n),), generator=generator)]
            if self.resample and perturbation > 0:
                now = perturbation + (start - perturbation) * (1 - step / self.max_iter)
                batch = torch.add(batch, torch.randn(batch.shape, generator=generator), alpha=now)
            return -self._objective(batch, decoder, encoder, noise_level(), generator).mean()

        falling = partial(warmup_cosine, warmup=0, steps=self.max_iter)
        self.history_ = train(of_step, optimizer, self.max_iter, schedule=falling, clip=5.0)
        self.decoder_, self.encoder_ = decoder.eval(), encoder.eval()
        self.sigma_ = noise_level().item()

    def _start_at_embedding(self, decoder: nn.Module, data: Tensor, generator: torch.Generator) -> None:
        """Fit a decoder to the data as a function of their coordinates on the set where they lie."""
        some = data[torch.randperm(len(data), generator=generator)[:400]]
        isomap = Isomap(n_neighbors=min(10, len(some) - 1), n_components=self.latent_dim)
        coordinates = torch.from_numpy(isomap.fit_transform(some.numpy()))
        ranks = (coordinates.argsort(0).argsort(0) + 0.5) / len(some)
        at = (ranks if self.latent == "uniform" else torch.special.ndtri(ranks)).float()
        optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
        falling = partial(warmup_cosine, warmup=0, steps=_START_STEPS)
        train(lambda step: (decoder(at) - some).square().mean(), optimizer, _START_STEPS, schedule=falling)

    def _objective(
        self, batch: Tensor, decoder: nn.Module, encoder: nn.Module, sigma: Tensor, generator: torch.Generator
    ) -> Tensor:
        if self.likelihood == "quadrature":
            return log_marginal(batch, decoder, sigma, "quadrature", latent_dim=self.latent_dim, latent=self.latent)
        weights = log_weights(
            batch, decoder, encoder, sigma, self.K, self.latent, generator, doubly=self.likelihood == "dreg"
        )
        if self.likelihood == "elbo":
            return weights.mean(0)
        if self.likelihood == "iwae":
            return torch.logsumexp(weights, dim=0) - math.log(self.K)
        # The hook on the draws weighs the encoder's gradient once more.
        return (torch.softmax(weights.detach(), dim=0) * weights).sum(0)

    def _noise_level(self, perturbation: float) -> "_NoiseLevel":
        if not isinstance(self.sigma, str):
            level = math.hypot(self.sigma, perturbation)
            return _NoiseLevel(max(level, self.sigma_min), None, learn=False)
        return _NoiseLevel(max(self.sigma_min, _LEAST_SHARE * perturbation), self.sigma_max, learn=True)

    def _draw(self, n: int, random_state: int | None, noisy: bool) -> np.ndarray:
        check_is_fitted(self)
        check_count("n", n, at_least=0)
        generator = self._generator(3) if random_state is None else torch.Generator().manual_seed(random_state)
        drawn = self._decode(n, generator)
        if noisy:
            drawn = torch.add(drawn, torch.randn(drawn.shape, generator=generator), alpha=self.sigma_)
        return (drawn * self.scale_ + self.mean_).numpy()

    @torch.no_grad()
    def _decode(self, n: int, generator: torch.Generator) -> Tensor:
        return self.decoder_(to_latent(torch.randn(n, self.latent_dim, generator=generator), self.latent))


class _NoiseLevel(nn.Module):
    """``sigma = least + softplus(a)``, at most `greatest`; or a constant."""

    def __init__(self, least: float, greatest: float | None, learn: bool) -> None:
        super().__init__()
        self.least, self.greatest, self.learn = least, greatest, learn
        if learn:
            self.a = nn.Parameter(torch.tensor(-1.0))

    def forward(self) -> Tensor:
        if not self.learn:
            return torch.tensor(self.least)
        sigma = self.least + nn.functional.softplus(self.a)
        return sigma if self.greatest is None else sigma.clamp(max=max(self.greatest, self.least))


class _Encoder(nn.Module):
    """Mean and log-variance of a normal proposal."""

    def __init__(self, dim: int, hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.body = mlp((dim, *hidden, 2 * latent_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.body(x).chunk(2, dim=-1)
        return mean, log_variance.clamp(-20, 5)
