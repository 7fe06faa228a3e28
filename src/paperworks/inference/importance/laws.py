"""Input laws in one shape: one or several densities of the same variables, and draws from their equal mixture."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import special


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

    def logpdf(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n laws"]:
        """Return the log densities of the laws."""
        return np.concatenate([np.asarray(law.logpdf(X), dtype=float).reshape(len(X), -1) for law in self.laws], axis=1)


def log_mixture(log_f: Float[np.ndarray, "n laws"]) -> Float[np.ndarray, " n"]:
    """Return the log density of the equal mixture of laws."""
    return special.logsumexp(log_f, axis=1) - np.log(log_f.shape[1])


def as_law(distribution: Any) -> Law:
    """Return a distribution with SciPy's interface, else raise TypeError."""
    if isinstance(distribution, Law):
        return distribution
    if hasattr(distribution, "computeLogPDF") and hasattr(distribution, "getSample"):
        return OpenTURNSLaw(distribution)
    raise TypeError(
        f"input_dist has a {type(distribution).__name__}; it takes distributions with rvs and logpdf, "
        "as SciPy's frozen ones, or OpenTURNS's"
    )
