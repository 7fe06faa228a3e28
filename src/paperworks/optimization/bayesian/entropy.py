"""Entropy search in its forms: what an observation tells of the maximiser, or of the maximum (Section 4.3)."""

import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import signal, special

from paperworks.core.validation import check_choice, check_count
from paperworks.optimization.bayesian import linalg
from paperworks.optimization.bayesian.acquisition import Acquisition, Batches, Values
from paperworks.optimization.bayesian.derivatives import VALUE, DerivativeKernel
from paperworks.optimization.bayesian.kernels import MaternKernel, RBFKernel, StationaryKernel
from paperworks.optimization.bayesian.knowledge_gradient import default_discretization
from paperworks.optimization.bayesian.paths import PosteriorPaths
from paperworks.optimization.bayesian.posterior import Posterior
from paperworks.optimization.bayesian.search import box_of
from paperworks.optimization.bayesian.trend import Trend

Points = Float[np.ndarray, "_ _"]  # one a row


_ROWS = 2048  # draws that are looked at together, so that they stay in a cache


def count_entropy(counts: Float[np.ndarray, " k"]) -> float:
    """Return the entropy in nats of a law of which draws were counted, with Miller and Madow's correction of bias."""
    total = counts.sum()
    return float(special.entr(counts / total).sum() + (np.count_nonzero(counts) - 1) / (2 * total))


class _OnCandidates(Acquisition):
    """What is measured by joint draws of the process at a finite set of candidates for the maximiser."""

    has_gradient = False

    def __init__(
        self, model: Any, candidates: ArrayLike, n_samples: int, random_state: int | np.random.Generator | None
    ) -> None:
        super().__init__(model)
        d = self.posteriors[0].scaling.low.size
        self.candidates = np.asarray(candidates, dtype=float)
        if self.candidates.ndim != 2 or self.candidates.shape[1] != d or not np.isfinite(self.candidates).all():
            raise ValueError(f"candidates has shape {self.candidates.shape}; it takes finite points (m, {d})")
        self.n_samples = check_count("n_samples", n_samples)
        self.rng = np.random.default_rng(random_state)
        self.prepared = [self._prepare(p) for p in self.posteriors]

    def _prepare(self, posterior: Posterior) -> "_Draws":
        return _Draws(posterior, self.candidates, self.n_samples, self.rng)


class _Draws:
    """Joint draws at the candidates, and what extends them to any other point."""

    def __init__(self, posterior: Posterior, A: Points, n: int, rng: np.random.Generator) -> None:
        self.anchors = posterior.anchors(A)
        joint = posterior.joint(A[None])
        S = joint.covariance[0]
        prior = posterior.prior_scale * posterior.scaling.scale**2
        try:
            self.L = linalg.cholesky(S, max(float(np.trace(S)) / len(S), 1e-12 * prior))
        except linalg.NotPositiveDefinite:  # where nearly nothing is left to learn, rounding is as large as S
            self.L = linalg.cholesky(S, prior)
        self.z = rng.standard_normal((n, len(A)))
        self.f = joint.mean[0] + self.z @ self.L.T
        self.own, self.noise = rng.standard_normal(n), rng.standard_normal(n)

    def at(self, posterior: Posterior, x: Float[np.ndarray, " d"]) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Return draws of f(x), its covariances with the candidates, its mean and its variance."""
        joint = posterior.joint(x[None, None], self.anchors)
        assert joint.cross is not None
        cross, mean, variance = joint.cross[0, 0], float(joint.mean[0, 0]), float(joint.covariance[0, 0, 0])
        half = linalg.half_solve(self.L, cross)
        rest = math.sqrt(max(variance - float(half @ half), 0.0))
        return mean + self.z @ half + rest * self.own, cross, mean, variance


class EntropySearch(_OnCandidates):
    """H[p(x*)] - E_y H[p(x* | x, y)], the expected loss of entropy of the maximiser's law by an observation at x.

    On a finite set of candidates, by joint draws: the same draws are moved to each of several values of y, so
    nothing is factored again.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    candidates
        Points of which one is the maximiser.
    n_samples
        Joint draws at the candidates.
    n_nodes
        Gauss-Hermite nodes for y.
    random_state
        Seed of the draws.

    Raises
    ------
    ValueError
        Where the model has no data, or the candidates have another shape.

    References
    ----------
    arXiv 1807.02811, Equation (11); Hennig and Schuler, arXiv 1112.1217.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.1).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> acq = EntropySearch(model, np.linspace(0, 1, 20)[:, None])
    >>> bool(acq([[0.5]])[0] > 0)
    True
    """

    def __init__(
        self,
        model: Any,
        candidates: ArrayLike,
        *,
        n_samples: int = 512,
        n_nodes: int = 8,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        super().__init__(model, candidates, n_samples, random_state)
        nodes, weights = special.roots_hermitenorm(check_count("n_nodes", n_nodes))
        self.nodes, self.weights = nodes, weights / weights.sum()

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        draws = self.prepared[number]
        before = count_entropy(1.0 * np.bincount(draws.f.argmax(axis=1)))
        return np.array([before - self._after(posterior, draws, x) for x in X[:, 0]]), None

    def _after(self, posterior: Posterior, draws: _Draws, x: Float[np.ndarray, " d"]) -> float:
        f_x, cross, mean, variance = draws.at(posterior, x)
        s = math.sqrt(max(variance + posterior.noise_variance, 1e-300))
        zeta = (f_x + math.sqrt(posterior.noise_variance) * draws.noise - mean) / s
        step = cross / s
        counts = np.zeros((len(self.nodes), draws.f.shape[1]))
        for start in range(0, len(zeta), _ROWS):
            rows = slice(start, start + _ROWS)
            base = draws.f[rows] - zeta[rows, None] * step  # draws less what the observation explains
            for k, node in enumerate(self.nodes):
                counts[k] += np.bincount((base + node * step).argmax(axis=1), minlength=counts.shape[1])
        return float(self.weights @ [count_entropy(row) for row in counts])


class PredictiveEntropySearch(_OnCandidates):
    """H[p(y)] - E_(x*) H[p(y | x*)], the same information as entropy search, by the entropies of an observation.

    "exact" and "moments" take the maximiser from a finite set: joint draws are grouped by it, and the law of y within a
    group is taken as it is, by quadrature, or as a Gaussian of its variance, which makes its entropy too large and
    the value too small. "ep" takes maximisers of drawn functions from the whole domain, and conditions on a
    gradient of zero there, exactly, on f(x*) not being less than what was observed, and on f(x) <= f(x*), by moments.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    candidates
        Points of which one is the maximiser; for "ep", bounds of the domain.
    method
        "exact", "moments" or "ep".
    n_samples
        Joint draws at the candidates, or for "ep" maximisers (32 are plenty).
    n_bins
        Bins of the quadrature.
    random_state
        Seed of the draws.

    Raises
    ------
    ValueError
        Where the model has no data, or for "ep" a kernel that is not stationary and differentiable.

    References
    ----------
    arXiv 1807.02811, Equation (12); Hernandez-Lobato, Hoffman and Ghahramani, arXiv 1406.2541.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.1).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> acq = PredictiveEntropySearch(model, [(0, 1)], method="ep", n_samples=16)
    >>> bool(acq([[0.5]])[0] > 0)
    True
    """

    def __init__(
        self,
        model: Any,
        candidates: ArrayLike,
        *,
        method: Literal["exact", "moments", "ep"] = "exact",
        n_samples: int = 2048,
        n_bins: int = 256,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        self.method = check_choice("method", method, ("exact", "moments", "ep"))
        self.n_bins = check_count("n_bins", n_bins, at_least=16)
        if method == "ep":
            Acquisition.__init__(self, model)
            rng, box = np.random.default_rng(random_state), box_of(candidates)
            each = max(1, check_count("n_samples", n_samples) // len(self.posteriors))
            self.conditioned = [_at_maximisers(p, box, each, rng) for p in self.posteriors]
        else:
            super().__init__(model, candidates, n_samples, random_state)

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        if self.method == "ep":
            return self._by_moments(number, posterior, X), None
        draws = self.prepared[number]
        chosen = draws.f.argmax(axis=1)
        groups, chosen = np.unique(chosen, return_inverse=True)
        within = self._exact if self.method == "exact" else self._gaussian
        found = []
        for x in X[:, 0]:
            f_x, _, _, variance = draws.at(posterior, x)
            noise = posterior.noise_variance
            before = 0.5 * math.log(2 * math.pi * math.e * max(variance + noise, 1e-300))
            found.append(before - within(f_x, chosen, len(groups), noise))
        return np.array(found), None

    def _gaussian(self, f_x: np.ndarray, chosen: np.ndarray, count: int, noise: float) -> float:
        """Return the average entropy of y where its law in each group is taken to be Gaussian."""
        size = np.bincount(chosen, minlength=count)
        mean = np.bincount(chosen, f_x, count) / size
        free = np.maximum(size - 1, 1)
        variance = np.bincount(chosen, (f_x - mean[chosen]) ** 2, count) / free
        total = np.maximum(variance + noise, 1e-300)
        # The logarithm of an estimated variance is too small by half its relative variance, 2 / (size - 1).
        each = 0.5 * (np.log(2 * math.pi * math.e * total) + (variance / total) ** 2 / free)
        return float(size @ each) / len(f_x)

    def _exact(self, f_x: np.ndarray, chosen: np.ndarray, count: int, noise: float) -> float:
        """Return the average entropy of y, whose law in each group is a mixture of normal laws around the draws."""
        scale, bins = math.sqrt(noise), self.n_bins
        low, high = f_x.min() - 5 * scale, f_x.max() + 5 * scale
        width = max((high - low) / bins, 1e-300)
        place = (f_x - low) / width - 0.5
        lower = np.clip(np.floor(place).astype(int), 0, bins - 2)
        share = np.clip(place - lower, 0.0, 1.0)  # each draw in two bins, so that means are kept
        flat = np.bincount(chosen * bins + lower, 1 - share, count * bins)
        flat += np.bincount(chosen * bins + lower + 1, share, count * bins)
        histogram = flat.reshape(count, bins)
        size = histogram.sum(axis=1, keepdims=True)
        density, squares = histogram / size, histogram / size
        if scale > 0:
            # Spreading a draw over two bins adds about width^2 / 6 to its variance.
            sigma = math.sqrt(max(noise - width**2 / 6, (0.3 * width) ** 2))
            half = min(int(6 * sigma / width) + 1, bins - 1)
            blur = np.exp(-0.5 * (np.arange(-half, half + 1) * width / sigma) ** 2)
            blur = (blur / blur.sum())[None]
            density, squares = (
                np.maximum(signal.fftconvolve(density, kernel, mode="same", axes=1), 0.0) for kernel in (blur, blur**2)
            )
        each = special.entr(density).sum(axis=1) + math.log(width)
        # The entropy of an estimated density is too small by half its relative variance, as Miller and Madow's is.
        spread = np.where(density > 1e-12, squares / np.maximum(density, 1e-12), 0.0).sum(axis=1) - 1
        return float(size[:, 0] @ each + 0.5 * spread.sum()) / len(f_x)

    def _by_moments(self, number: int, posterior: Posterior, X: Batches) -> Values:
        noise = posterior.noise_variance / posterior.scaling.scale**2
        prior = posterior.joint(X).covariance[:, 0, 0] / posterior.scaling.scale**2
        after = np.array([m.variance(X[:, 0]) for m in self.conditioned[number]])
        return 0.5 * (np.log(prior + noise + 1e-12) - np.log(after + noise + 1e-12).mean(axis=0))


class _Maximiser(NamedTuple):
    """What is known where x* is the maximiser: a posterior, the row of x*, f(x*)'s mean, what its variance keeps."""

    posterior: Posterior
    star: Float[np.ndarray, "1 d"]
    mean_star: float
    keep: float

    def variance(self, X: Points) -> Values:
        """Return the variance of f(x) in scaled units."""
        posterior, star, mean_star, keep = self
        P = np.column_stack([posterior.scaling.unit(X), np.full(len(X), VALUE)])
        prior = posterior.kernel.diagonal(posterior.theta, P)[0]
        C, _ = posterior.kernel.at(posterior.theta, P, posterior.U)
        mean = C @ posterior.weights + posterior.trend.basis(P) @ posterior.beta
        v = np.maximum(prior - np.einsum("mn,nm->m", C, linalg.solve(posterior.L, np.asfortranarray(C.T))), 1e-12)
        c = posterior.rows_covariance(P, star)[:, 0]
        v_star = max(float(posterior.rows_covariance(star, star)[0, 0]), 1e-12)
        old = self._mean_star(posterior, star)
        # f(x*) was moved to mean_star and its variance to keep * v_star; f(x) follows along its covariance.
        gain = c / v_star
        mean = mean + gain * (mean_star - old)
        v = v - gain * c * (1 - keep)
        c = c * keep
        v_star = v_star * keep
        gap, spread = mean_star - mean, np.maximum(v_star + v - 2 * c, 1e-12)
        z = gap / np.sqrt(spread)
        beta = np.exp(-0.5 * z * z - 0.5 * math.log(2 * math.pi) - special.log_ndtr(z))
        return np.maximum(v - (c - v) ** 2 / spread * beta * (beta + z), 1e-12)

    @staticmethod
    def _mean_star(posterior: Posterior, star: Points) -> float:
        C, _ = posterior.kernel.at(posterior.theta, star, posterior.U)
        return float((C @ posterior.weights + posterior.trend.basis(star) @ posterior.beta)[0])


def _at_maximisers(
    posterior: Posterior, box: Float[np.ndarray, "d 2"], n: int, rng: np.random.Generator
) -> list[_Maximiser]:
    """Draw maximisers, and return the posterior that knows each of them to be one."""
    if not isinstance(posterior.kernel, StationaryKernel) or (
        isinstance(posterior.trend.mean, str) and posterior.trend.mean == "linear"
    ):
        raise ValueError(f"model has the kernel {posterior.kernel!r}; 'ep' takes a stationary one and a constant mean")
    stars, _ = PosteriorPaths(posterior, n, random_state=rng).maximise(box)
    d = len(box)
    rows = replace(
        posterior,
        kernel=DerivativeKernel(posterior.kernel),
        trend=Trend(posterior.trend.mean, True),
        U=np.column_stack([posterior.U, np.full(len(posterior.U), VALUE)]),
    )
    observed = posterior.residual + posterior.trend.basis(posterior.U) @ posterior.beta
    found = []
    for star in stars:
        u = posterior.scaling.unit(star)
        place = (star - box[:, 0]) / (box[:, 1] - box[:, 0])
        inside = np.nonzero((place > 1e-6) & (place < 1 - 1e-6))[0]  # at an edge the gradient need not vanish
        P = np.column_stack([np.repeat(u[None], len(inside), axis=0), inside.astype(float)])
        known = rows.condition_rows(P, np.zeros(len(inside)), np.full(len(inside), 1e-6)) if len(inside) else rows
        value_row = np.append(u, VALUE).reshape(1, d + 1)
        mean = _Maximiser._mean_star(known, value_row)
        variance = max(float(known.rows_covariance(value_row, value_row)[0, 0]), 1e-12)
        # f(x*) + noise is at least the greatest observation: one truncation, whose moments are exact.
        spread = variance + posterior.new_noise + 1e-12
        z = (mean - float(observed.max())) / math.sqrt(spread)
        beta = math.exp(-0.5 * z * z - 0.5 * math.log(2 * math.pi) - float(special.log_ndtr(z)))
        moved = mean + variance / math.sqrt(spread) * beta
        keep = max(1 - variance / spread * beta * (beta + z), 1e-6)
        found.append(_Maximiser(known, value_row, moved, keep))
    return found


class MaxValueEntropySearch(Acquisition):
    """What an observation at x tells of the maximum f*: E[z phi(z) / (2 Phi(z)) - log Phi(z)], z = (f* - mean) / s.

    It costs little more than expected improvement, once maxima are drawn.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    bounds
        Low and high of each column of the domain.
    n_samples
        Maxima that are drawn.
    random_state
        Seed of the draws.

    Raises
    ------
    ValueError
        Where the model has no data.

    References
    ----------
    Wang and Jegelka, arXiv 1703.01968, Equation (6).

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.1).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> value, gradient = MaxValueEntropySearch(model, [(0, 1)])([[0.5]], gradient=True)
    >>> bool(value[0] > 0)
    True
    """

    def __init__(
        self,
        model: Any,
        bounds: ArrayLike,
        *,
        n_samples: int = 32,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        super().__init__(model)
        rng, box, n = np.random.default_rng(random_state), box_of(bounds), check_count("n_samples", n_samples)
        self.maxima = [self._draw(model, p, box, n, rng) for p in self.posteriors]

    def _draw(
        self, model: Any, p: Posterior, box: Float[np.ndarray, "d 2"], n: int, rng: np.random.Generator
    ) -> Float[np.ndarray, " s"]:
        if isinstance(p.kernel, (MaternKernel, RBFKernel)) and p.kernel.columns is None:
            tops = PosteriorPaths(p, n, random_state=rng).maximise(box)[1]
        else:
            A = default_discretization(model, box, None, rng, 512)
            joint = p.joint(A[None])
            w, Q = np.linalg.eigh(joint.covariance[0])
            draws = joint.mean[0] + rng.standard_normal((n, len(A))) * np.sqrt(np.maximum(w, 0)) @ Q.T
            tops = draws.max(axis=1)
        U = p.joint((p.U[:, : len(box)] * p.scaling.width + p.scaling.low)[:, None])
        return np.maximum(tops, U.mean.max() + 1e-3 * p.scaling.scale * math.sqrt(p.new_noise + 1e-6))

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        joint = posterior.joint(X)
        s = np.sqrt(np.maximum(joint.covariance[:, 0, 0], (1e-7 * posterior.scaling.scale) ** 2))
        z = (self.maxima[number] - joint.mean) / s[:, None]
        log_cdf = special.log_ndtr(z)
        ratio = np.exp(-0.5 * np.minimum(z * z, 1e4) - 0.5 * math.log(2 * math.pi) - log_cdf)
        ratio = np.where(z * z > 1e4, np.where(z > 0, 0.0, -z), ratio)
        value = (0.5 * z * ratio - log_cdf).mean(axis=1)
        if not gradient:
            return value, None
        by_z = -0.5 * ratio * (1 + z * z + z * ratio)
        by_mean = (-by_z / s[:, None]).mean(axis=1)
        by_variance = (-0.5 * by_z * z / s[:, None] ** 2).mean(axis=1)
        return value, joint.pull(by_mean[:, None], by_variance[:, None, None])
