"""The knowledge gradient: what an observation is worth for the maximum of the posterior mean (Section 4.2)."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special

from paperworks.core.validation import check_choice, check_count
from paperworks.optimization.bayesian.acquisition import Acquisition, Batches, Values, posteriors_of
from paperworks.optimization.bayesian.ascent import maximise_rows
from paperworks.optimization.bayesian.improvement import evaluated_points
from paperworks.optimization.bayesian.piecewise import piecewise_expectation
from paperworks.optimization.bayesian.posterior import Anchors, Posterior
from paperworks.optimization.bayesian.search import box_of, sobol
from paperworks.optimization.bayesian.targets import TargetMean

Points = Float[np.ndarray, "_ _"]  # one a row
Method = Literal["discrete", "hybrid", "mc", "one_shot"]


class KnowledgeGradient(Acquisition):
    """E[max mean_(n+1) - max mean_n] by an observation at x, the maximum over the domain.

    "discrete" takes the maximum over a finite set and x itself, exactly; "hybrid" finds the maximisers of mean_(n+1)
    for a few quantiles of the observation and takes them as that set; "mc" averages the maxima over quasi-random
    observations; "one_shot" makes the maximisers arguments of their own, to be found together with x. Gradients by x
    hold inner maximisers fixed: exact for "mc" by the envelope theorem, and an approximation for "hybrid".

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    bounds
        Low and high of each column of the domain.
    method
        Which of the four; see above.
    discretization
        The finite set; by default 128 Sobol points, those of the data and the mean's maximiser.
    n_draws
        Observations of "hybrid" (default 7), "mc" (32) and "one_shot" (8).
    refine
        Whether inner maximisers are sought between the points of the finite set.
    target
        What is maximised, where it isn't f itself: a fidelity, a task, a mean over environments.
    random_state
        Seed of the points and draws.

    Raises
    ------
    ValueError
        Where the model has no data, or an option is out of its range.

    References
    ----------
    arXiv 1807.02811, Section 4.2 and Algorithms 2 to 4.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.01).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> value, gradient = KnowledgeGradient(model, [(0, 1)])([[0.6]], gradient=True)
    >>> bool(value[0] > 0), gradient.shape
    (True, (1, 1))
    """

    def __init__(
        self,
        model: Any,
        bounds: ArrayLike,
        method: Method = "discrete",
        *,
        discretization: ArrayLike | None = None,
        n_draws: int | None = None,
        refine: bool = True,
        target: TargetMean | None = None,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        super().__init__(model)
        self.box = box_of(bounds)
        self.method = check_choice("method", method, ("discrete", "hybrid", "mc", "one_shot"))
        draws = {"discrete": 1, "hybrid": 7, "mc": 32, "one_shot": 8}[method]
        self.n_draws = draws if n_draws is None else check_count("n_draws", n_draws)
        self.refine, self.target = bool(refine), target
        rng = np.random.default_rng(random_state)
        if discretization is None:
            A = default_discretization(model, self.box, target, rng)
        else:
            A = np.asarray(discretization, dtype=float)
        if A.ndim != 2 or A.shape[1] != len(self.box) or not np.isfinite(A).all():
            raise ValueError(f"discretization has shape {A.shape}; it takes finite points (m, {len(self.box)})")
        self.A = A
        if method == "mc":
            self.z = special.ndtri(np.clip(sobol(self.n_draws, 1, rng)[:, 0], 1e-9, 1 - 1e-9))
        else:
            self.z = special.ndtri((np.arange(self.n_draws) + 0.5) / self.n_draws)
        self.sets = [_Readout(p, A, target) for p in self.posteriors]
        self.before = [self._greatest_mean(p, s) for p, s in zip(self.posteriors, self.sets, strict=True)]
        if method == "one_shot":
            self.q = 1 + self.n_draws

    @property
    def n_decisions(self) -> int:
        """Points that are to be evaluated: one, whatever it takes to find it."""
        return 1

    def _greatest_mean(self, posterior: Posterior, readout: "_Readout") -> float:
        if not self.refine or self.method in ("discrete", "hybrid"):
            return float(readout.mean.max())
        first = self.A[[int(np.argmax(readout.mean))]]
        zero = np.zeros(1)
        return float(max(self._inner(posterior, first, zero, first)[1].max(), readout.mean.max()))

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        readout = self.sets[number]
        if self.method == "discrete":
            return self._discrete(posterior, readout, X, gradient)
        if self.method == "one_shot":
            return self._one_shot(number, posterior, X, gradient)
        inner = self._maximisers(posterior, readout, X[:, 0])
        return self._given(number, posterior, X, inner, gradient)

    def _discrete(
        self, posterior: Posterior, readout: "_Readout", X: Batches, gradient: bool
    ) -> tuple[Values, Batches | None]:
        most = max(1, 64 // len(readout.shares))
        if self.target is not None and len(X) > most:  # pairs of points and copies take memory by the square
            parts = [self._discrete(posterior, readout, X[i : i + most], gradient) for i in range(0, len(X), most)]
            slopes = [slope for _, slope in parts if slope is not None]
            return np.concatenate([values for values, _ in parts]), np.concatenate(slopes) if slopes else None
        joint = posterior.joint(X, readout.anchors)
        assert joint.cross is not None
        variance = joint.covariance[:, 0, 0]
        s = _spread(variance, posterior)
        own = _Own(posterior, X[:, 0], joint.mean[:, 0], variance, self.target)
        a = np.concatenate([np.broadcast_to(readout.mean, (len(X), len(readout.mean))), own.mean[:, None]], axis=1)
        b = np.concatenate([readout.reduce(joint.cross[:, 0]), own.covariance[:, None]], axis=1) / s[:, None]
        found = piecewise_expectation(a, b, "value" if gradient else "none")
        if not gradient:
            return found.value, None
        assert found.by_a is not None
        assert found.by_b is not None
        by_variance = -0.5 * (found.by_b * b).sum(axis=1) / s**2
        by_cross = readout.spread(found.by_b[:, :-1] / s[:, None])
        by_own, own_mean, own_variance = own.pull(found.by_a[:, -1], found.by_b[:, -1] / s)
        slope = joint.pull(own_mean[:, None], (by_variance + own_variance)[:, None, None], by_cross[:, None])
        return found.value, slope + by_own[:, None]

    def _maximisers(self, posterior: Posterior, readout: "_Readout", X: Points) -> Float[np.ndarray, "m j d"]:
        """Return for each x and draw the point of the greatest mean after the observation."""
        joint = posterior.joint(X[:, None], readout.anchors)
        assert joint.cross is not None
        s = _spread(joint.covariance[:, 0, 0], posterior)
        slopes = readout.reduce(joint.cross[:, 0]) / s[:, None]
        lines = readout.mean[None, None] + slopes[:, None] * self.z[None, :, None]
        inner = self.A[lines.argmax(axis=2)]  # (m, j, d)
        if not self.refine:
            return inner
        m, j, d = inner.shape
        rows = np.repeat(X, j, axis=0)
        return self._inner(posterior, rows, np.tile(self.z, m), inner.reshape(-1, d), X)[0].reshape(m, j, d)

    def _inner(
        self, posterior: Posterior, X: Points, z: Values, start: Points, distinct: Points | None = None
    ) -> tuple[Points, Values]:
        """Maximise mean_n(x') + s(x', x) z over x' for each row of X, z, from `start`."""
        distinct = X if distinct is None else distinct
        P = posterior.encode(distinct)
        n, scaling = len(posterior.U), posterior.scaling
        fixed = posterior.anchors(distinct)
        C, _ = posterior.kernel.at(posterior.theta, P, posterior.U)
        variance = posterior.kernel.diagonal(posterior.theta, P)[0] - np.einsum("mn,nm->m", C, fixed.weights)
        s = np.sqrt(np.maximum(variance, 0.0) + posterior.new_noise + 1e-18)
        each = len(X) // len(distinct)
        which = np.repeat(np.arange(len(distinct)), each)
        W = np.zeros((len(X), n + len(distinct)))
        tilt = z / s[which]
        W[:, :n] = posterior.weights - tilt[:, None] * fixed.weights.T[which]
        W[np.arange(len(X)), n + which] = tilt
        known = np.concatenate([posterior.U, P])
        shares, free = _shares(self.target, X.shape[1])

        def objective(Y: Points, rows: np.ndarray) -> tuple[Values, Points]:
            expanded = _expand(self.target, Y)
            r = expanded.shape[1]
            V = posterior.encode(expanded.reshape(-1, Y.shape[1]))
            K, pull = posterior.kernel.at(posterior.theta, V, known)
            w = np.repeat(W[rows], r, axis=0)
            value = np.einsum("rn,rn->r", w, K) + posterior.trend.basis(V) @ posterior.beta
            slope = (pull(w)[0] + posterior.trend.gradient(V, posterior.beta))[:, : Y.shape[1]] / scaling.width
            slope = np.einsum("rkd,k->rd", slope.reshape(len(Y), r, -1), shares) * free
            return (
                scaling.shift * shares.sum() + scaling.scale * value.reshape(len(Y), r) @ shares,
                scaling.scale * slope,
            )

        return maximise_rows(objective, start, self.box[:, 0], self.box[:, 1], steps=12, rtol=1e-5, free=free)

    def _given(
        self, number: int, posterior: Posterior, X: Batches, inner: Float[np.ndarray, "m j d"], gradient: bool
    ) -> tuple[Values, Batches | None]:
        """Return the value where the maximisers are known: by lines through them, or by their average."""
        m, j, d = inner.shape
        readout = _Readout(posterior, inner.reshape(m * j, d), self.target)
        joint = posterior.joint(X, readout.anchors)
        assert joint.cross is not None
        variance = joint.covariance[:, 0, 0]
        s = _spread(variance, posterior)
        own_block = np.arange(m)
        cross = readout.reduce(joint.cross[:, 0]).reshape(m, m, j)[own_block, own_block]
        a, b = readout.mean.reshape(m, j), cross / s[:, None]
        if self.method == "mc":
            value = (a + b * self.z).mean(axis=1) - self.before[number]
            by_b = np.broadcast_to(self.z / j, b.shape)
            own = None
        else:
            own = _Own(posterior, X[:, 0], joint.mean[:, 0], variance, self.target)
            top = self.before[number]
            a = np.concatenate([a, own.mean[:, None], np.full((m, 1), top)], axis=1)
            stay = self.sets[number]
            best = stay.anchors_of(int(np.argmax(stay.mean)))
            anchored = posterior.joint(X, best)
            assert anchored.cross is not None
            at_best = anchored.cross[:, 0] @ stay.shares
            b = np.concatenate([b, own.covariance[:, None] / s[:, None], at_best[:, None] / s[:, None]], axis=1)
            found = piecewise_expectation(a, b, "value" if gradient else "none")
            value = found.value
            by_b = found.by_b if found.by_b is not None else b
        if not gradient:
            return value, None
        by_variance = -0.5 * (by_b * b).sum(axis=1) / s**2
        full = np.zeros((m, m, j))
        full[own_block, own_block] = by_b[:, :j] / s[:, None]
        by_cross = readout.spread(full.reshape(m, m * j))
        if own is None:
            return value, joint.pull(None, by_variance[:, None, None], by_cross[:, None])
        assert found.by_a is not None
        by_own, own_mean, own_variance = own.pull(found.by_a[:, j], by_b[:, j] / s)
        slope = joint.pull(own_mean[:, None], (by_variance + own_variance)[:, None, None], by_cross[:, None])
        by_best = (by_b[:, j + 1] / s)[:, None] * stay.shares[None]
        return value, slope + by_own[:, None] + anchored.pull(None, None, by_best[:, None])

    def complete(self, X: Batches) -> Batches:
        """Return points `X`, for "one_shot" with the maximisers on the finite set as further points of a batch.

        Returns
        -------
        Batches
            The points, each alone or with one point for each draw.
        """
        if self.method != "one_shot":
            return X
        refine, self.refine = self.refine, False
        inner = self._maximisers(self.posteriors[0], self.sets[0], X[:, 0])
        self.refine = refine
        return np.concatenate([X, inner], axis=1)

    def _one_shot(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        b, q, d = X.shape
        shares, free = _shares(self.target, d)
        inner = _expand(self.target, X[:, 1:].reshape(-1, d)).reshape(b, -1, d)  # (b, j r, d)
        joint = posterior.joint(np.concatenate([X[:, :1], inner], axis=1))
        s = _spread(joint.covariance[:, 0, 0], posterior)
        weights = np.tile(shares, q - 1) / (q - 1)
        z = np.repeat(self.z, len(shares))
        sums = (joint.covariance[:, 0, 1:] * z) @ weights
        value = joint.mean[:, 1:] @ weights + sums / s - self.before[number]
        if not gradient:
            return value, None
        mean_bar = np.concatenate([np.zeros(1), weights])[None].repeat(b, axis=0)
        covariance_bar = np.zeros_like(joint.covariance)
        covariance_bar[:, 0, 1:] = weights * z / s[:, None]
        covariance_bar[:, 0, 0] = -0.5 * sums / s**3
        slope = joint.pull(mean_bar, covariance_bar)
        rest = slope[:, 1:].reshape(b, q - 1, len(shares), d).sum(axis=2) * free
        return value, np.concatenate([slope[:, :1], rest], axis=1)

    def gradient_draws(self, x: ArrayLike, z: ArrayLike) -> Float[np.ndarray, "j d"]:
        """Return one unbiased draw of the gradient for each normal number: z times that of s(x*, x), x* held fixed.

        Parameters
        ----------
        x
            One point of the domain.
        z
            Standard normal numbers.

        Returns
        -------
        Float[np.ndarray, "j d"]
            Gradients of max mean_(n+1) by x for each of the observations.
        """
        posterior, readout = self.posteriors[0], self.sets[0]
        point, z = np.asarray(x, dtype=float).reshape(1, -1), np.asarray(z, dtype=float)
        joint = posterior.joint(point[:, None], readout.anchors)
        assert joint.cross is not None
        s = _spread(joint.covariance[:, 0, 0], posterior)
        if self.refine:
            drawn, self.z = self.z, z
            inner = self._maximisers(posterior, readout, point)[0]
            self.z = drawn
        else:
            lines = readout.mean + np.multiply.outer(z, readout.reduce(joint.cross[:, 0])[0] / s[0])
            inner = self.A[lines.argmax(axis=1)]
        places, which = np.unique(inner, axis=0, return_inverse=True)
        chosen = _Readout(posterior, places, self.target)
        repeated = np.repeat(point[:, None], len(places), axis=0)
        moved = posterior.joint(repeated, chosen.anchors)
        assert moved.cross is not None
        slopes = chosen.reduce(moved.cross[:, 0])
        by_cross = chosen.spread(np.eye(len(places)) / s[0])
        by_variance = -0.5 * slopes.diagonal() / s[0] ** 3
        gradient = moved.pull(None, by_variance[:, None, None], by_cross[:, None])[:, 0]
        return z[:, None] * gradient[which.ravel()]


class _Readout:
    """A finite set of points with the means of what is maximised there."""

    def __init__(self, posterior: Posterior, A: Points, target: TargetMean | None) -> None:
        self.count = len(A)
        self.shares = _shares(target, A.shape[1])[0]
        self.anchors = posterior.anchors(_expand(target, A).reshape(-1, A.shape[1]))
        self.mean = self.anchors.mean.reshape(self.count, -1) @ self.shares

    def reduce(self, cross: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "b m"]:
        return cross if len(self.shares) == 1 else cross.reshape(len(cross), self.count, -1) @ self.shares

    def spread(self, bar: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b k"]:
        return bar if len(self.shares) == 1 else (bar[:, :, None] * self.shares).reshape(len(bar), -1)

    def anchors_of(self, i: int) -> Anchors:
        r = len(self.shares)
        where = slice(i * r, (i + 1) * r)
        return Anchors(self.anchors.points[where], self.anchors.weights[:, where], self.anchors.mean[where])


class _Own:
    """Mean of what is maximised at the points themselves, and its covariance with f there."""

    def __init__(
        self, posterior: Posterior, X: Points, mean: Values, variance: Values, target: TargetMean | None
    ) -> None:
        self.target, self.mean, self.covariance = target, mean, variance
        if target is None:
            return
        self.shares, self.free = target.shares, target.free(X.shape[1])
        copies = target.expand(X).reshape(-1, X.shape[1])  # all copies of a point after one another
        self.joint = posterior.joint(copies[:, None])
        values, self.back = posterior.pairs(copies, np.repeat(X, len(self.shares), axis=0))
        self.mean = self.joint.mean.reshape(len(X), -1) @ self.shares
        self.covariance = values.reshape(len(X), -1) @ self.shares

    def pull(self, by_mean: Values, by_covariance: Values) -> tuple[Points, Values, Values]:
        """Return a gradient by the points, and what is left for the mean and the variance of f."""
        if self.target is None:
            return np.zeros((len(by_mean), 1)), by_mean, by_covariance
        weights = (by_covariance[:, None] * self.shares).ravel()
        by_copy, by_point = self.back(weights)
        by_copy = by_copy + self.joint.pull((by_mean[:, None] * self.shares).reshape(-1, 1))[:, 0]
        total = (by_copy * self.free + by_point).reshape(len(by_mean), len(self.shares), -1).sum(axis=1)
        return total, np.zeros_like(by_mean), np.zeros_like(by_mean)


def _spread(variance: Values, posterior: Posterior) -> Values:
    """Return the standard deviation of an observation to come."""
    return np.sqrt(np.maximum(variance + posterior.noise_variance, (1e-9 * posterior.scaling.scale) ** 2))


def _expand(target: TargetMean | None, X: Points) -> Float[np.ndarray, "m r d"]:
    return X[:, None] if target is None else target.expand(X)


def _shares(target: TargetMean | None, dim: int) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " d"]]:
    return (np.ones(1), np.ones(dim)) if target is None else (target.shares, target.free(dim))


def default_discretization(
    model: Any, box: Float[np.ndarray, "d 2"], target: TargetMean | None, rng: np.random.Generator, n: int = 128
) -> Points:
    """Return Sobol points, those of the data, and where the mean is greatest."""
    low, high = box.T
    A = np.concatenate([low + (high - low) * sobol(n, len(box), rng), np.clip(evaluated_points(model), low, high)])
    if target is not None:
        A[:, list(target.columns)] = target.table[0]
        A = np.unique(A, axis=0)
    best = [maximise_mean(posterior, box, A, target)[0] for posterior in posteriors_of(model)]
    return np.concatenate([A, np.array(best)])


def maximise_mean(
    posterior: Posterior, box: Float[np.ndarray, "d 2"], A: Points, target: TargetMean | None = None
) -> tuple[Float[np.ndarray, " d"], float]:
    """Return where the posterior mean of what is maximised is greatest within a box, from the best points of `A`."""
    shares, free = _shares(target, len(box))
    d = len(box)

    def objective(Y: Points, rows: np.ndarray) -> tuple[Values, Points]:
        copies = _expand(target, Y)
        joint = posterior.joint(copies.reshape(-1, 1, d))
        weights = np.tile(shares, len(Y))[:, None]
        slope = joint.pull(weights).reshape(len(Y), -1, d).sum(axis=1)
        return joint.mean.reshape(len(Y), -1) @ shares, slope * free

    values = posterior.joint(_expand(target, A).reshape(-1, 1, d)).mean.reshape(len(A), -1) @ shares
    starts = A[np.argsort(-values, kind="stable")[:4]]
    X, found = maximise_rows(objective, starts, box[:, 0], box[:, 1], free=free)
    best = int(np.argmax(found))
    return X[best], float(found[best])
