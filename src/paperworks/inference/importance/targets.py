"""What is estimated, as targets that a density can be fitted to; and the evaluations that densities are fitted to."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice
from paperworks.inference.importance.estimator import ISCVEstimator
from paperworks.inference.importance.laws import InputLaws, log_mixture

Function = Callable[[Float[np.ndarray, "n d"]], ArrayLike]
Signed = Literal["split", "abs"] | None
RANGE = 1e-150, 1e150  # of values whose squares are finite and not 0
RARE = 0.1  # share of a batch above the next level, the usual choice of multilevel methods


class Targets:
    """The functions with their laws, as targets that a density can be fitted to: J of them, or 2 J parts if split.

    With thresholds the functions are scores, and the targets are the events that scores reach levels.
    """

    J: int
    n_laws: int
    _outputs: int

    def __init__(
        self, func: Function, laws: InputLaws, signed: Signed = None, threshold: ArrayLike | None = None
    ) -> None:
        self._func, self._laws, self.signed = func, laws, signed
        self.threshold = None if threshold is None else np.atleast_1d(np.asarray(threshold, dtype=float))
        if self.threshold is not None and (self.threshold.ndim > 1 or not np.all(np.isfinite(self.threshold))):
            raise ValueError(f"threshold is {threshold!r}; it takes a finite number, or one for each output")

    def __call__(
        self, X: Float[np.ndarray, "n d"]
    ) -> tuple[Float[np.ndarray, "n laws"], Float[np.ndarray, "n outputs"]]:
        """Return the log densities of the laws and the values of the functions; either may be one column for all.

        Where no law has density the functions aren't called, and their values count as 0, or as the lowest score.
        """
        log_f = self._laws.logpdf(X)
        inside = (log_f > -np.inf).any(axis=1)
        found = self._values(X[inside], log_f[inside])
        outside = 0.0 if self.threshold is None else found.min(axis=0, initial=np.inf)
        Y = np.broadcast_to(np.where(np.isfinite(outside), outside, 0.0), (len(X), found.shape[1])).copy()
        Y[inside] = found
        if self.signed is None and self.threshold is None and np.any(Y < 0):
            j = int(Y.min(axis=0).argmin())
            raise ValueError(f"func returned {Y[:, j].min():g} for output {j}; it takes values >= 0, or signed='split'")
        widths = {Y.shape[1], log_f.shape[1], 1 if self.threshold is None else len(self.threshold)}
        if len(widths - {1}) > 1:
            thresholds = "" if self.threshold is None else f" and {len(self.threshold)} thresholds"
            raise ValueError(
                f"func has {Y.shape[1]} outputs for {log_f.shape[1]} laws{thresholds}; it takes as many or one of each"
            )
        self.J, self.n_laws = max(widths), log_f.shape[1]
        if self.threshold is not None:
            Y = np.broadcast_to(Y, (len(Y), max(Y.shape[1], len(self.threshold))))
        if self.signed == "split":
            Y = np.broadcast_to(Y, (len(Y), self.J))
            Y = np.concatenate([np.maximum(Y, 0), np.maximum(-Y, 0)], axis=1)
            log_f = log_f if self.n_laws == 1 else np.tile(log_f, 2)
        return log_f, Y

    def _values(
        self, X: Float[np.ndarray, "n d"], log_f: Float[np.ndarray, "n laws"]
    ) -> Float[np.ndarray, "n outputs"]:
        """Return the functions at points, 0 where the law of a function has no density for what isn't finite."""
        if not len(X):
            return np.zeros((0, self._outputs))
        Y = real_values(self._func(X), len(X), "J")
        Y = Y[:, None] if Y.ndim == 1 else Y
        if self.threshold is None and log_f.shape[1] in (1, Y.shape[1]):
            Y[np.broadcast_to(log_f == -np.inf, Y.shape)] = 0.0
        if not np.all(np.isfinite(Y)):
            raise ValueError("func returned NaN or infinite values; it takes finite ones")
        if self.threshold is None and np.abs(Y).max() > RANGE[1]:
            worst = Y.flat[np.abs(Y).argmax()]
            raise ValueError(f"func returned {worst:g}, whose square overflows; it takes values up to {RANGE[1]:g}")
        self._outputs = Y.shape[1]
        return Y

    def levels(self, Y: Float[np.ndarray, "n outputs"]) -> Float[np.ndarray, " outputs"] | None:
        """Return the levels that a tenth of the newest scores reach, the thresholds where they are lower.

        Where all but fewer scores are equal the level is what the best of those few reach.
        """
        if self.threshold is None:
            return None
        lowest, level = Y.min(axis=0), np.quantile(Y, 1 - RARE, axis=0)
        above = np.where(lowest < Y, Y, np.inf).min(axis=0)
        return np.minimum(self.threshold, np.where((level == lowest) & (above < np.inf), above, level))

    def arrived(self, levels: Float[np.ndarray, " outputs"] | None) -> bool:
        """Say whether all levels are the thresholds."""
        return self.threshold is None or levels is None or bool(np.all(levels >= self.threshold))

    def missed(self, Y: Float[np.ndarray, "n outputs"], n_evals: int) -> str:
        """Return what to say where the adaptation ends below the thresholds."""
        levels, threshold = np.quantile(Y, 1 - RARE, axis=0), np.broadcast_to(np.asarray(self.threshold), Y.shape[1])
        j = int((threshold - levels).argmax())
        return (
            f"threshold is {threshold[j]:g} for output {j}, and after {n_evals} evaluations a tenth of func's values "
            f"reach {levels[j]:g}; a larger n_max gets further"
        )

    def values(
        self, Y: Float[np.ndarray, "n outputs"], levels: Float[np.ndarray, " outputs"] | None = None
    ) -> Float[np.ndarray, "n outputs"]:
        """Return the integrands at points with known values or scores, of events at the given levels or at the last."""
        if self.threshold is None:
            return Y
        return ((self.threshold if levels is None else levels) <= Y).astype(float)

    def outputs(self, Y: Float[np.ndarray, "n outputs"]) -> Float[np.ndarray, "n outputs2"]:
        """Return the functions' own values."""
        return Y[:, : self.J] - Y[:, self.J :] if self.signed == "split" else Y

    @property
    def combination(self) -> Float[np.ndarray, "J K"]:
        """The matrix that makes expectations of targets' ones."""
        identity = np.eye(self.J)
        return np.concatenate([identity, -identity], axis=1) if self.signed == "split" else identity

    def target_weights(self, weights: Any, estimate: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
        """Return the weights of the targets' variances from the user's."""
        if isinstance(weights, str):
            check_choice("weights", weights, ("relative",))
            found = self.combination @ estimate
            # An estimate of 0 has no relative error; its variance counts as the largest other one's.
            scale = np.where(found == 0, np.abs(found).max(), found)
            w = np.where(scale == 0, 1.0, scale) ** -2.0
        else:
            w = np.ones(self.J) if weights is None else np.asarray(weights, dtype=float)
        if w.shape != (self.J,) or not np.all((w > 0) & (w < np.inf)):
            raise ValueError(f"weights is {weights!r}; it takes {self.J} finite numbers > 0")
        return np.tile(w, 2) if self.signed == "split" else w


def real_values(values: ArrayLike, n: int, outputs: str) -> Float[np.ndarray, "n ..."]:
    """Return a function's values at n points as an array of its own, else raise ValueError."""
    found = np.array(values)
    if found.ndim not in (1, 2) or len(found) != n or not found.size:
        raise ValueError(f"func returned shape {found.shape} for {n} points; it takes ({n},) or ({n}, {outputs})")
    if np.iscomplexobj(found):
        raise ValueError("func returned complex values; it takes real ones")
    return found.astype(float)


class Pool:
    """All evaluations of the adaptation, with the law that they were drawn from: the mixture of all batches' ones."""

    def __init__(self, X: Float[np.ndarray, "n d"], evaluate: Targets) -> None:
        self._evaluate, self._proposals = evaluate, list[tuple[float, ISCVEstimator]]()
        self._first, self.X, self.counts = np.log(len(X)), X, np.ones(len(X))
        self.log_f, self.Y = evaluate(X)
        self._log_sum = (
            log_mixture(self.log_f) + self._first
        )  # of the densities of all proposals, each times its points

    def __len__(self) -> int:
        return len(self.X)

    @property
    def log_H(self) -> Float[np.ndarray, " n"]:
        """Log density of the mixture at all points."""
        return self._log_sum - np.log(len(self.X))

    @property
    def W(self) -> Float[np.ndarray, "n laws"]:
        """Importance weights of all points."""
        return self.counts[:, None] * np.exp(self.log_f - self.log_H[:, None])

    def add(
        self, estimator: ISCVEstimator, X: Float[np.ndarray, "m d"], counts: Float[np.ndarray, " m"]
    ) -> tuple[Float[np.ndarray, "m laws"], Float[np.ndarray, "m outputs"], Float[np.ndarray, "m K"]]:
        """Evaluate a batch drawn from `estimator`; return the batch's ``f / g_alpha``, values and ``g / g_alpha``."""
        log_f, Y = self._evaluate(X)
        log_sum = log_mixture(log_f) + self._first
        for log_size, proposal in self._proposals:
            log_sum = np.logaddexp(log_sum, log_size + proposal.logpdf(X, log_f))
        log_size = np.log(len(X))
        old = np.logaddexp(self._log_sum, log_size + estimator.logpdf(self.X, self.log_f))
        new = np.logaddexp(log_sum, log_size + estimator.logpdf(X, log_f))
        W, R = (counts[:, None] * ratio for ratio in estimator.ratios(X, log_f))
        self._log_sum = np.concatenate([old, new])
        self._proposals.append((log_size, estimator))
        self.X, self.Y = np.concatenate([self.X, X]), np.concatenate([self.Y, Y])
        self.log_f, self.counts = np.concatenate([self.log_f, log_f]), np.concatenate([self.counts, counts])
        return W, Y, R
