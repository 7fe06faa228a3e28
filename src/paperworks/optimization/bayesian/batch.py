"""Acquisition functions of batches, by fixed quasi-random draws, and simpler ways to fill a batch (Section 5.2)."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.optimization.bayesian import linalg
from paperworks.optimization.bayesian.acquisition import Acquisition, Batches, Values
from paperworks.optimization.bayesian.improvement import LogEI
from paperworks.optimization.bayesian.knowledge_gradient import default_discretization
from paperworks.optimization.bayesian.posterior import Posterior
from paperworks.optimization.bayesian.search import box_of, optimize_acquisition, sobol

Points = Float[np.ndarray, "_ _"]  # one a row


def _normal_draws(n: int, dim: int, random_state: int | np.random.Generator | None) -> Float[np.ndarray, "n q"]:
    return special.ndtri(np.clip(sobol(n, dim, random_state), 1e-9, 1 - 1e-9))


class _Batch(Acquisition):
    """A function of `q` points and of those that are pending, by draws that stay the same."""

    def __init__(
        self,
        model: Any,
        q: int,
        pending: ArrayLike | None,
        n_draws: int,
        random_state: int | np.random.Generator | None,
    ) -> None:
        super().__init__(model)
        self.q = check_count("q", q)
        d = self.posteriors[0].scaling.low.size
        self.pending = np.zeros((0, d)) if pending is None else np.asarray(pending, dtype=float).reshape(-1, d)
        self.z = _normal_draws(check_count("n_draws", n_draws), self.q + len(self.pending), random_state)

    def _with_pending(self, X: Batches) -> Batches:
        if not len(self.pending):
            return X
        return np.concatenate([X, np.broadcast_to(self.pending, (len(X), *self.pending.shape))], axis=1)


class qEI(_Batch):
    """E[(max_i f(x_i) - best)^+] of a batch, by the Cholesky factor of its covariance and fixed draws.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    best
        The value to improve on.
    q
        Points of a batch.
    pending
        Points that are being evaluated, which count as part of each batch.
    n_draws
        Scrambled Sobol points that are made normal.
    random_state
        Seed of the draws.

    Raises
    ------
    ValueError
        Where the model has no data, or `q` is below 1.

    References
    ----------
    arXiv 1807.02811, Section 5.2; gradients by infinitesimal perturbation, Wang et al., arXiv 1602.05149.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.0).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> qEI(model, best=1.0, q=2)([[[0.3], [0.6]]]).shape
    (1,)
    """

    def __init__(
        self,
        model: Any,
        best: float,
        q: int = 4,
        *,
        pending: ArrayLike | None = None,
        n_draws: int = 512,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        super().__init__(model, q, pending, n_draws, random_state)
        self.best = check_number("best", best)

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        joint = posterior.joint(self._with_pending(X))
        L = linalg.batch_cholesky(joint.covariance)
        F = joint.mean[:, None] + self.z @ np.swapaxes(L, 1, 2)  # (b, draws, q)
        gain = F.max(axis=2) - self.best
        value = np.maximum(gain, 0.0).mean(axis=1)
        if not gradient:
            return value, None
        chosen = np.zeros_like(F)
        np.put_along_axis(chosen, F.argmax(axis=2)[:, :, None], (gain > 0)[:, :, None] / len(self.z), axis=2)
        slope = joint.pull(chosen.sum(axis=1), linalg.pull_cholesky(L, np.swapaxes(chosen, 1, 2) @ self.z))
        return value, slope[:, : self.q]


class qKG(_Batch):
    """E[max mean_(n+q) - max mean_n] of a batch, the maxima over a finite set and the batch itself, by fixed draws.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    bounds
        Low and high of each column of the domain.
    q
        Points of a batch.
    discretization
        The finite set; by default 128 Sobol points, those of the data and the mean's maximiser.
    pending
        Points that are being evaluated, which count as part of each batch.
    n_draws
        Scrambled Sobol points that are made normal.
    random_state
        Seed of the points and draws.

    Raises
    ------
    ValueError
        Where the model has no data, or `q` is below 1.

    References
    ----------
    arXiv 1807.02811, Section 5.2; Wu and Frazier, arXiv 1606.04414.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.1).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> qKG(model, [(0, 1)], q=2)([[[0.3], [0.6]]]).shape
    (1,)
    """

    def __init__(
        self,
        model: Any,
        bounds: ArrayLike,
        q: int = 4,
        *,
        discretization: ArrayLike | None = None,
        pending: ArrayLike | None = None,
        n_draws: int = 128,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        rng = np.random.default_rng(random_state)
        super().__init__(model, q, pending, n_draws, rng)
        box = box_of(bounds)
        A = (
            default_discretization(model, box, None, rng)
            if discretization is None
            else np.asarray(discretization, float)
        )
        if A.ndim != 2 or A.shape[1] != len(box):
            raise ValueError(f"discretization has shape {A.shape}; it takes points (m, {len(box)})")
        self.anchors = [p.anchors(A) for p in self.posteriors]

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        if len(X) > 64:  # the lines of all draws at once take memory
            parts = [self._evaluate(number, posterior, X[i : i + 64], gradient) for i in range(0, len(X), 64)]
            slopes = [slope for _, slope in parts if slope is not None]
            return np.concatenate([v for v, _ in parts]), np.concatenate(slopes) if slopes else None
        anchors = self.anchors[number]
        joint = posterior.joint(self._with_pending(X), anchors)
        assert joint.cross is not None
        b, q = joint.mean.shape
        noise = posterior.noise_variance
        L = linalg.batch_cholesky(joint.covariance + noise * np.eye(q))
        a = np.concatenate([np.broadcast_to(anchors.mean, (b, len(anchors.mean))), joint.mean], axis=1)
        C = np.concatenate([np.swapaxes(joint.cross, 1, 2), joint.covariance], axis=1)  # (b, lines, q)
        B = np.swapaxes(np.linalg.solve(L, np.swapaxes(C, 1, 2)), 1, 2)
        lines = a[:, None] + self.z @ np.swapaxes(B, 1, 2)  # (b, draws, lines)
        top = lines.argmax(axis=2)
        value = np.take_along_axis(lines, top[:, :, None], 2)[:, :, 0].mean(axis=1) - a.max(axis=1)
        if not gradient:
            return value, None
        hit = np.zeros_like(lines)
        np.put_along_axis(hit, top[:, :, None], 1 / len(self.z), axis=2)
        by_a = hit.sum(axis=1)
        by_a[np.arange(b), a.argmax(axis=1)] -= 1
        by_b = np.swapaxes(hit, 1, 2) @ self.z
        by_c = np.swapaxes(np.linalg.solve(np.swapaxes(L, 1, 2), np.swapaxes(by_b, 1, 2)), 1, 2)
        by_covariance = linalg.pull_cholesky(L, -np.swapaxes(by_c, 1, 2) @ B) + by_c[:, -q:]
        slope = joint.pull(by_a[:, -q:], by_covariance, np.swapaxes(by_c[:, :-q], 1, 2))
        return value, slope[:, : self.q]


def fill_batch(
    model: Any,
    bounds: ArrayLike,
    best: float,
    q: int = 4,
    how: Literal["believer", "liar_min", "liar_mean", "liar_max", "naive"] = "believer",
    **options: Any,
) -> Float[np.ndarray, "q d"]:
    """Fill a batch one point after the other by expected improvement, each as if those before had been observed.

    The Kriging believer takes the posterior mean for what was observed, the constant liar the least, mean or greatest
    value of the data. "naive" pretends nothing: it takes the greatest points of one surface, its maximiser and the best
    of 1,024 Sobol points, each further than a hundredth of the domain from the others.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    bounds
        Low and high of each column of the domain.
    best
        The value to improve on.
    q
        Points of the batch.
    how
        "believer", "liar_min", "liar_mean", "liar_max" or "naive".
    options
        Passed on to `optimize_acquisition`.

    Returns
    -------
    Float[np.ndarray, "q d"]
        The batch, one point a row.

    Raises
    ------
    ValueError
        Where `q` is below 1, or `how` none of the choices.

    References
    ----------
    arXiv 1807.02811, Section 5.2; Ginsbourger, Le Riche and Carraro (2010).

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.0).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> fill_batch(model, [(0, 1)], best=1.0, q=3).shape
    (3, 1)
    """
    check_choice("how", how, ("believer", "liar_min", "liar_mean", "liar_max", "naive"))
    q, box = check_count("q", q), box_of(bounds)
    if how == "naive":
        return _greatest(LogEI(model, best), box, q)
    acq = LogEI(model, best)
    posterior = acq.posteriors[0]
    observed = posterior.scaling.shift + posterior.scaling.scale * (
        posterior.residual + posterior.trend.basis(posterior.U) @ posterior.beta
    )
    lie = {"liar_min": observed.min(), "liar_mean": observed.mean(), "liar_max": observed.max()}.get(how)
    chosen: list[np.ndarray] = []
    for _ in range(q):
        x, _ = optimize_acquisition(acq, box, **options)
        chosen.append(x)
        value = float(np.mean([p.moments(x[None])[0] for p in acq.posteriors])) if lie is None else float(lie)
        acq.posteriors = [p.condition(x[None], np.array([value])) for p in acq.posteriors]
        acq.best = max(acq.best, value)
    return np.array(chosen)


def _greatest(acq: Acquisition, box: Float[np.ndarray, "d 2"], q: int) -> Float[np.ndarray, "q d"]:
    """Return the q best points of one surface: its maximiser, and the best Sobol points, all a hundredth apart."""
    low, high = box.T
    X = low + (high - low) * sobol(1024, len(box), 0)
    best, _ = optimize_acquisition(acq, box)
    X = np.concatenate([best[None], X])
    order = np.argsort(-acq(X), kind="stable")
    order = np.concatenate([[0], order[order != 0]])
    chosen: list[np.ndarray] = []
    for i in order:
        if all(np.linalg.norm((X[i] - x) / (high - low)) > 0.01 for x in chosen):
            chosen.append(X[i])
        if len(chosen) == q:
            break
    return np.array(chosen)
