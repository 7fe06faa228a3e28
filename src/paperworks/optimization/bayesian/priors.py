"""Prior laws of positive hyper-parameters, with derivatives by their logarithms."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, " p"]


class Prior(ABC):
    """A law of a positive number, by its density in that number."""

    @abstractmethod
    def logpdf(self, x: Values) -> tuple[Values, Values]:
        """Return the log density up to a constant at each `x`, and its derivative by log x.

        Returns
        -------
        tuple[Values, Values]
            The log densities and their derivatives.
        """

    @abstractmethod
    def sample(self, size: int, random_state: np.random.Generator) -> Values:
        """Draw `size` values by a generator `random_state`.

        Returns
        -------
        Values
            Independent draws of the law.
        """


@dataclass(frozen=True)
class LogNormalPrior(Prior):
    """A number whose logarithm is normal.

    Parameters
    ----------
    mu, sigma
        Mean and standard deviation of the logarithm.

    Examples
    --------
    >>> import numpy as np
    >>> LogNormalPrior(0.0, 1.0).logpdf(np.array([1.0]))[1]
    array([-1.])
    """

    mu: float
    sigma: float

    def logpdf(self, x: Values) -> tuple[Values, Values]:
        z = (np.log(x) - self.mu) / self.sigma
        return -0.5 * z**2 - np.log(x), -z / self.sigma - 1

    def sample(self, size: int, random_state: np.random.Generator) -> Values:
        return random_state.lognormal(self.mu, self.sigma, size)


@dataclass(frozen=True)
class GammaPrior(Prior):
    """A number that has a gamma law.

    Parameters
    ----------
    shape, beta
        Shape of the law, and its rate, the inverse of its scale.

    Examples
    --------
    >>> import numpy as np
    >>> GammaPrior(2.0, 0.5).logpdf(np.array([2.0]))[1]  # its mode
    array([0.])
    """

    shape: float
    beta: float

    def logpdf(self, x: Values) -> tuple[Values, Values]:
        return (self.shape - 1) * np.log(x) - self.beta * x, (self.shape - 1) - self.beta * x

    def sample(self, size: int, random_state: np.random.Generator) -> Values:
        return random_state.gamma(self.shape, 1 / self.beta, size)


def default_priors(dim: int) -> Mapping[str, Prior]:
    """Return the priors of points in the unit cube of `dim` dimensions and of standardised values."""
    return {
        "lengthscale": LogNormalPrior(math.sqrt(2) + 0.5 * math.log(dim), math.sqrt(3)),
        "amplitude": GammaPrior(2.0, 0.15),
        "noise": LogNormalPrior(-4.0, 1.0),
    }
