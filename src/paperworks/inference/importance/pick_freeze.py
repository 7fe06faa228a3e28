"""A model at pairs of points that share some inputs, and the contrasts whose means are variances of Sobol' indices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import special, stats

from paperworks.core.validation import check_count
from paperworks.inference.importance.targets import real_values

_TAKES = "it takes a number of inputs, or a sequence of one distribution each with SciPy's ppf, isf and support"
_ELEMENTS = 4_000_000  # of the largest block of values


class Inputs:
    """Independent inputs as maps of uniform or of standard normal coordinates."""

    def __init__(self, inputs: Any) -> None:
        self._marginals = list(inputs) if np.iterable(inputs) and not isinstance(inputs, (str, Mapping)) else None
        if self._marginals is None and not hasattr(inputs, "__index__"):
            raise TypeError(f"inputs is {inputs!r}; {_TAKES}")
        self.d = check_count("inputs", inputs if self._marginals is None else len(self._marginals))
        for i, marginal in enumerate(self._marginals or ()):
            if not all(callable(getattr(marginal, name, None)) for name in ("ppf", "isf", "support")):
                raise TypeError(f"inputs has a {type(marginal).__name__} for input {i}; {_TAKES}")
            if np.ndim(marginal.ppf(0.5)):
                raise ValueError(
                    f"inputs has a distribution of shape {np.shape(marginal.ppf(0.5))} for input {i}; {_TAKES}"
                )

    @property
    def bounded(self) -> Bool[np.ndarray, " d"]:
        """Whether inputs have bounded support."""
        if self._marginals is None:
            return np.zeros(self.d, dtype=bool)
        return np.array([bool(np.all(np.isfinite(marginal.support()))) for marginal in self._marginals])

    def from_uniform(self, U: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Map uniform points to inputs."""
        if self._marginals is None:
            return special.ndtri(U)
        return np.stack([m.ppf(u) for m, u in zip(self._marginals, U.T, strict=True)], axis=1)

    def from_normal(self, Z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Map standard normal points to inputs, with all digits in both tails."""
        if self._marginals is None:
            return Z.copy()
        lower, upper = stats.norm.cdf(Z), stats.norm.sf(Z)
        columns = [np.where(Z[:, i] < 0, m.ppf(lower[:, i]), m.isf(upper[:, i])) for i, m in enumerate(self._marginals)]
        return np.stack(columns, axis=1)


class PickFreeze:
    """Evaluations of a model at points that mix two, and contrasts of them.

    The first two blocks are the two points A and B; then for each factor A with B's value of it, and for second orders
    B with A's. A factor is an input or a group of them.
    """

    def __init__(self, func: Callable[..., ArrayLike], factors: Sequence[Int[np.ndarray, " _"]], second: bool) -> None:
        self._func, self.factors, self.second, self.calls = func, factors, second, 0
        self.q: int | None = None
        self.scalar = True

    @property
    def blocks(self) -> int:
        """Calls of the model for each pair of points."""
        return 2 + (2 if self.second else 1) * len(self.factors)

    def mixed(self, A: Float[np.ndarray, "n d"], B: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "blocks n d"]:
        """Return all points where the model is evaluated."""
        points = np.stack([A, B] + [A] * len(self.factors) + [B] * (len(self.factors) if self.second else 0))
        for k, factor in enumerate(self.factors):
            points[2 + k][:, factor] = B[:, factor]
            if self.second:
                points[2 + len(self.factors) + k][:, factor] = A[:, factor]
        return points

    def evaluate(self, points: Float[np.ndarray, "blocks n d"]) -> Float[np.ndarray, "blocks n q"]:
        """Return the model at points; raise ValueError for values of another shape or not finite."""
        flat = points.reshape(-1, points.shape[2])
        values = real_values(self._func(flat), len(flat), "q" if self.q is None else f"{self.q}")
        if self.q not in (None, values.size // len(flat)):
            raise ValueError(f"func returned {values.size // len(flat)} outputs, and {self.q} before")
        if not np.all(np.isfinite(values)):
            raise ValueError("func returned NaN or infinite values; it takes finite ones")
        self.calls += len(flat)
        self.scalar = values.ndim == 1
        values = values.reshape(*points.shape[:2], -1)
        self.q = values.shape[2]
        return values

    @property
    def rows(self) -> int:
        """Base points that fit into one block of values."""
        return max(1, _ELEMENTS // (self.blocks * (self.q or 1)))

    def contrasts(self, F: Float[np.ndarray, "blocks n q"]) -> Float[np.ndarray, "J n q"]:
        """Return what, of centred values, has as means: closed variances, total ones, those of pairs, mean, square."""
        G = len(self.factors)
        A, B, AB, BA = F[0], F[1], F[2 : 2 + G], F[2 + G :]
        closed, total = B * (AB - A), (A - AB) ** 2 / 2
        pairs = np.empty((0, *A.shape))
        if self.second:
            closed = (closed + A * (BA - B)) / 2
            total = (total + (B - BA) ** 2 / 2) / 2
            i, j = np.triu_indices(G, 1)
            pairs = (BA[i] * AB[j] + BA[j] * AB[i]) / 2 - A * B
        return np.concatenate([closed, total, pairs, F.mean(axis=0)[None], (F**2).mean(axis=0)[None]])
