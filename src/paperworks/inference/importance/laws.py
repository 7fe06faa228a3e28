"""Input laws in one shape: one or several densities of the same variables, and draws from their equal mixture."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import special, stats

_NORMAL, _UNIVARIATE = type(stats.multivariate_normal()), (type(stats.norm()), stats.rv_continuous)


@runtime_checkable
class Law(Protocol):
    """What an input law takes: the interface of SciPy's frozen distributions."""

    def rvs(self, size: int, random_state: Any) -> np.ndarray:
        """Draw `size` points, of shape (size, d), or (size,) in one dimension."""
        ...

    def logpdf(self, x: Any) -> np.ndarray:
        """Return the log density at points, of shape (n,); or (n, J) where one object stands for J laws."""
        ...


class OpenTURNSLaw:
    """A distribution of OpenTURNS with the interface of SciPy's; its global generator is seeded by each draw."""

    def __init__(self, distribution: Any) -> None:
        self.distribution = distribution

    def rvs(self, size: int, random_state: np.random.Generator) -> np.ndarray:
        """Draw `size` points."""
        from openturns import RandomGenerator

        RandomGenerator.SetSeed(int(random_state.integers(2**31)))
        return np.array(self.distribution.getSample(size))

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        """Return the log density at points."""
        return np.array(self.distribution.computeLogPDF(x))[:, 0]

    @property
    def d(self) -> int | None:
        """Number of variables; None where the distribution isn't a map of independent normal ones."""
        normal = self.distribution.getStandardDistribution().getClassName() == "Normal"
        return int(self.distribution.getDimension()) if normal else None

    def from_uniform(self, U: Float[np.ndarray, "n more_d"]) -> Float[np.ndarray, "n d"]:
        """Map uniform points of 1 + d coordinates, the first unused, to draws."""
        return np.array(self.distribution.getInverseIsoProbabilisticTransformation()(special.ndtri(U[:, 1:])))


class ScipyLaw:
    """One of SciPy's frozen distributions whose draws are a smooth map of uniform points."""

    def __init__(self, law: Any) -> None:
        self.rvs, self.logpdf = law.rvs, law.logpdf
        if isinstance(law, _UNIVARIATE):
            self.d = 1
            self._map = law.ppf
            if np.ndim(law.ppf(0.5)):
                raise ValueError(
                    f"input_dist has a law with parameters of shape {np.shape(law.ppf(0.5))}; it takes one law of all "
                    "variables, with scalar parameters where it is univariate"
                )
            if law.cdf(1e15) > 1 + 1e-9:  # as SciPy's von Mises law, on the circle
                raise ValueError("input_dist has a law whose density is periodic; it takes one on the line")
        else:
            self.d = int(law.dim)
            values, vectors = np.linalg.eigh(np.atleast_2d(law.cov))
            if law.cov_object.rank < self.d:
                raise ValueError(
                    f"input_dist has a covariance of rank below {self.d}, whose law has no density; it takes a regular "
                    "one, with dependent variables left to func"
                )
            root = vectors * np.sqrt(np.maximum(values, 0))
            self._map = lambda U: np.asarray(law.mean) + special.ndtri(U) @ root.T

    def from_uniform(self, U: Float[np.ndarray, "n more_d"]) -> Float[np.ndarray, "n d"]:
        """Map uniform points of 1 + d coordinates, the first unused, to draws."""
        return np.asarray(self._map(U[:, 1:]), dtype=float).reshape(len(U), self.d)


class InputLaws:
    """One law, a list of laws, or an object that stands for several and draws from their equal mixture."""

    def __init__(self, input_dist: Any) -> None:
        laws = list(input_dist) if isinstance(input_dist, Sequence) else [input_dist]
        self.laws = [as_law(law) for law in laws]
        if not self.laws:
            raise ValueError("input_dist is empty; it takes at least one law")

    def rvs(self, size: int, random_state: np.random.Generator) -> Float[np.ndarray, "size d"]:
        """Draw from the equal mixture of the laws."""
        counts = random_state.multinomial(size, np.full(len(self.laws), 1 / len(self.laws)))
        drawn = [
            np.asarray(law.rvs(size=int(n), random_state=random_state), dtype=float).reshape(n, -1)
            for law, n in zip(self.laws, counts, strict=True)
            if n
        ]
        return np.concatenate(drawn)

    @property
    def uniform_dimension(self) -> int | None:
        """Number of variables where all laws can map uniform points to draws, else None."""
        dimensions = {getattr(law, "d", None) if hasattr(law, "from_uniform") else None for law in self.laws}
        return dimensions.pop() if len(dimensions) == 1 else None

    def from_uniform(self, U: Float[np.ndarray, "n more_d"]) -> Float[np.ndarray, "n d"]:
        """Map uniform points of 1 + d coordinates to draws from the equal mixture; the first chooses the law."""
        X = np.empty((len(U), U.shape[1] - 1))
        place = U[:, 0] * len(self.laws)
        for k, law in enumerate(self.laws):
            mine = np.minimum(place.astype(int), len(self.laws) - 1) == k
            if mine.any():
                X[mine] = law.from_uniform(np.column_stack([place[mine] - k, U[mine, 1:]]))
        return X

    def logpdf(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n laws"]:
        """Return the log densities of the laws, else raise ValueError where one isn't a number below infinity."""
        logs = [self._column(np.asarray(law.logpdf(X), dtype=float), len(X)) for law in self.laws]
        log_f = np.concatenate(logs, axis=1)
        if not np.all(log_f < np.inf):
            raise ValueError("input_dist has a logpdf that is NaN or infinite; it takes densities that are finite")
        return log_f

    @staticmethod
    def _column(logs: Float[np.ndarray, "..."], n: int) -> Float[np.ndarray, "n laws"]:
        if logs.size == 0 or logs.size % n:
            raise ValueError(f"input_dist has a logpdf of shape {logs.shape} for {n} points; it takes ({n},)")
        return logs.reshape(n, -1)


def log_mixture(log_f: Float[np.ndarray, "n laws"]) -> Float[np.ndarray, " n"]:
    """Return the log density of the equal mixture of laws."""
    return special.logsumexp(log_f, axis=1) - np.log(log_f.shape[1])


def as_law(distribution: Any) -> Any:
    """Return a distribution with SciPy's interface, and with `from_uniform` where it is known, else raise TypeError."""
    if isinstance(distribution, stats.rv_continuous) and distribution.numargs:
        raise TypeError(f"input_dist has {distribution.name} without its parameters; it takes a frozen distribution")
    if isinstance(distribution, Law):
        return ScipyLaw(distribution) if isinstance(distribution, (*_UNIVARIATE, _NORMAL)) else distribution
    if hasattr(distribution, "computeLogPDF") and hasattr(distribution, "getSample"):
        return OpenTURNSLaw(distribution)
    raise TypeError(
        f"input_dist has a {type(distribution).__name__}; it takes distributions with rvs and logpdf, "
        "as SciPy's frozen ones, or OpenTURNS's"
    )
