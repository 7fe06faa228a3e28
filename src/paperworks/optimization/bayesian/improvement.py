"""Expected improvement: its closed form, its logarithm, and the form for noisy observations (Sections 4.1 and 5.1)."""

import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special

from paperworks.core.validation import check_number
from paperworks.optimization.bayesian.acquisition import Acquisition, Batches, Values, posteriors_of
from paperworks.optimization.bayesian.piecewise import log_h, normal_pdf, piecewise_expectation
from paperworks.optimization.bayesian.posterior import Posterior

_LEAST = 1e-150  # a standard deviation that stands for none


class ExpectedImprovement(Acquisition):
    """E[(f(x) - best)^+] = d Phi(d / s) + s phi(d / s), with d = mean(x) - best and s the deviation of f(x).

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    best
        The value to improve on: the greatest observation without noise, which is the default of a search for maxima.

    Raises
    ------
    ValueError
        Where the model has no data or `best` is not finite.

    References
    ----------
    arXiv 1807.02811, Equations (7) and (8).

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.0).fit([[0.0], [1.0]], [0.0, 1.0])
    >>> value, gradient = ExpectedImprovement(model, best=1.0)([[0.8]], gradient=True)
    >>> bool(value[0] > 0), gradient.shape
    (True, (1, 1))
    """

    def __init__(self, model: Any, best: float) -> None:
        super().__init__(model)
        self.best = check_number("best", best)

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        joint = posterior.joint(X)
        s = np.sqrt(joint.covariance[:, 0, 0])
        d = joint.mean[:, 0] - self.best
        z = d / np.maximum(s, _LEAST)
        far = np.clip(z, -38.0, 38.0)
        pdf, below = normal_pdf(far), special.ndtr(-np.abs(far))
        value = np.where(s > _LEAST, np.maximum(d, 0.0) + s * (pdf - np.abs(far) * below), np.maximum(d, 0.0))
        log_value = np.log(np.maximum(s, _LEAST)) + log_h(np.minimum(z, 0.0))
        value = np.where((d < 0) & (s > _LEAST), np.exp(np.maximum(log_value, -745.0)), np.maximum(value, 0.0))
        if not gradient:
            return value, None
        by_variance = 0.5 * pdf / np.maximum(s, _LEAST)
        return value, joint.pull(special.ndtr(far)[:, None], by_variance[:, None, None])


class LogEI(Acquisition):
    """The logarithm of the expected improvement, whose gradient doesn't vanish where the improvement underflows.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    best
        The value to improve on.

    Raises
    ------
    ValueError
        Where the model has no data or `best` is not finite.

    References
    ----------
    arXiv 1807.02811, Equation (8); Ament et al., arXiv 2310.20708, for the branches of the logarithm.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.0).fit([[0.0], [1.0]], [0.0, 1.0])
    >>> bool(LogEI(model, best=1000.0)([[0.5]])[0] < -1000)
    True
    """

    is_log = True

    def __init__(self, model: Any, best: float) -> None:
        super().__init__(model)
        self.best = check_number("best", best)

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        return log_improvement(posterior, X, self.best, gradient)


def log_improvement(posterior: Posterior, X: Batches, best: float, gradient: bool) -> tuple[Values, Batches | None]:
    """Return the logarithm of the expected improvement on `best`, with its gradient."""
    joint = posterior.joint(X)
    s = np.sqrt(np.maximum(joint.covariance[:, 0, 0], (1e-9 * posterior.scaling.scale) ** 2))
    z = (joint.mean[:, 0] - best) / s
    logs = log_h(z)
    if not gradient:
        return np.log(s) + logs, None
    # Phi / h and phi / h, by logarithms; far below, where those cancel, by the first terms of their expansions.
    near = np.maximum(z, -1e4)
    logs_near = log_h(near)
    by_mean = np.where(z < near, -z, np.exp(special.log_ndtr(near) - logs_near)) / s
    pdf_ratio = np.exp(-0.5 * near * near - 0.5 * math.log(2 * math.pi) - logs_near)
    by_variance = 0.5 * np.where(z < near, z * z + 3, pdf_ratio) / s**2
    return np.log(s) + logs, joint.pull(by_mean[:, None], by_variance[:, None, None])


class NoisyExpectedImprovement(Acquisition):
    """The tutorial's expected improvement for noisy observations, exactly.

    What is reported in the end is one of the evaluated points, the one of greatest posterior mean. An evaluation at x
    is worth E[max_(i <= n+1) mean_(n+1)(x_i)] - max_(i <= n) mean_n(x_i), where x itself is the (n + 1)-th point. It
    reduces to expected improvement without noise. Values are logarithms by default.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    evaluated
        Points that may be reported; by default those of the data.
    log
        Whether values are logarithms.

    Raises
    ------
    ValueError
        Where the model has no data.

    References
    ----------
    arXiv 1807.02811, Section 5.1.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.1).fit([[0.0], [0.5], [1.0]], [0.0, 1.0, 0.2])
    >>> bool(NoisyExpectedImprovement(model, log=False)([[0.5]])[0] > 0)  # an old point may be worth another look
    True
    """

    def __init__(self, model: Any, evaluated: ArrayLike | None = None, log: bool = True) -> None:
        super().__init__(model)
        self.is_log = bool(log)
        points = evaluated_points(model) if evaluated is None else np.asarray(evaluated, dtype=float)
        self.anchors = [p.anchors(np.unique(points, axis=0)) for p in self.posteriors]

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        anchors = self.anchors[number]
        joint = posterior.joint(X, anchors)
        assert joint.cross is not None
        variance, noise = joint.covariance[:, 0, 0], posterior.noise_variance
        s = np.sqrt(np.maximum(variance + noise, (1e-9 * posterior.scaling.scale) ** 2))
        a = np.concatenate([np.broadcast_to(anchors.mean, joint.cross[:, 0].shape), joint.mean], axis=1)
        b = np.concatenate([joint.cross[:, 0], variance[:, None]], axis=1) / s[:, None]
        kind: Literal["value", "log"] = "log" if self.is_log else "value"
        found = piecewise_expectation(a, b, kind if gradient else "none")
        lead = joint.mean[:, 0] - anchors.mean.max()  # what the maximum of the old points alone leaves out
        share, by_lead = np.ones(len(s)), (lead > 0).astype(float)
        if self.is_log:
            with np.errstate(divide="ignore"):
                value = np.logaddexp(found.log_value, np.log(np.maximum(lead, 0.0)))
            base = np.where(np.isfinite(value), value, 0.0)
            share, by_lead = np.exp(found.log_value - base), (lead > 0) * np.exp(-np.where(lead > 0, base, 0.0))
        else:
            value = found.value + np.maximum(lead, 0.0)
        if not gradient:
            return value, None
        assert found.by_a is not None
        assert found.by_b is not None
        slopes = share[:, None] * found.by_b
        by_mean = share * found.by_a[:, -1] + by_lead
        by_variance = slopes[:, -1] / s - 0.5 * (slopes * b).sum(axis=1) / s**2
        by_cross = slopes[:, :-1] / s[:, None]
        return value, joint.pull(by_mean[:, None], by_variance[:, None, None], by_cross[:, None])


def evaluated_points(model: Any) -> Float[np.ndarray, "n d"]:
    """Return the points of a model's data whose values were observed, in the units of the data."""
    posterior = posteriors_of(model)[0]
    d = posterior.scaling.low.size
    U = posterior.U if posterior.U.shape[1] == d else posterior.U[posterior.U[:, -1] < 0, :d]
    return U * posterior.scaling.width + posterior.scaling.low
