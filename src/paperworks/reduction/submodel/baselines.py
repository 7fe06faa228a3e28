"""Simpler laws of boundary histories, to know what a generator gains: linear, mixtures, kernels, the data again."""

from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from sklearn.mixture import GaussianMixture

from paperworks.core.validation import check_choice, check_count
from paperworks.reduction.submodel.transforms import PODTransform

Self = TypeVar("Self", bound="PCAGaussian")
LAWS = ("mixture", "kde")


def _integer(generator: torch.Generator | None) -> int:
    """Draw the seed of NumPy's generator from torch's."""
    where = generator.device if generator is not None else "cpu"
    return int(torch.randint(2**31 - 1, (1,), generator=generator, device=where))


class PCAGaussian:
    """The linear stochastic model: principal components with independent Gaussian coefficients.

    Parameters
    ----------
    n_modes
        The most components that are kept; None, the default, sets no limit.
    rtol
        Components are kept until what is left out has this relative norm; 1e-3 by default.

    References
    ----------
    The model that Boukraichi et al., arXiv:2110.13680, 2021, find too poor for waves.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(3.0, 0.1, size=(64, 1, 2, 8))
    >>> PCAGaussian(n_modes=2).fit(X).sample(5).shape
    (5, 1, 2, 8)
    """

    def __init__(self, n_modes: int | None = None, rtol: float | None = 1e-3) -> None:
        self.transform = PODTransform(n_modes, rtol)

    def fit(self: Self, X: Any) -> Self:
        """Find components and the law of their coefficients.

        Parameters
        ----------
        X
            Histories (n, ...), two or more.

        Returns
        -------
        PCAGaussian
            The fitted model itself.

        Raises
        ------
        ValueError
            For data that are not finite or do not vary.
        """
        self._learn(np.asarray(self.transform.fit_transform(X), dtype=float))
        return self

    def sample(
        self, n: int, generator: torch.Generator | None = None, condition: Any = None
    ) -> Float[np.ndarray, "n ..."]:
        """Draw histories.

        Parameters
        ----------
        n
            How many are drawn.
        generator
            Seeds the draw; None, the default, takes torch's global one.
        condition
            Only None, the default: the law is not a conditional one.

        Returns
        -------
        np.ndarray
            Histories of shape (n, ...).

        Raises
        ------
        RuntimeError
            Where it is not fitted.
        """
        if condition is not None:
            raise ValueError(f"condition is given; {type(self).__name__} takes None, as its law is not conditional")
        if not hasattr(self.transform, "modes_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted; call fit")
        drawn = self._draw(check_count("n", n), np.random.default_rng(_integer(generator)))
        return np.asarray(self.transform.inverse_transform(drawn))

    def _learn(self, q: np.ndarray) -> None:
        self._mean, self._std = q.mean(0), q.std(0)

    def _draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self._mean + self._std * rng.normal(size=(n, len(self._std)))


class PCAGaussianMixture(PCAGaussian):
    """Principal components whose coefficients follow a mixture of Gaussians, or a kernel density.

    Parameters
    ----------
    n_modes, rtol
        As in `PCAGaussian`: no limit, and 1e-3 by default.
    law
        ``"mixture"``, the default, is scikit-learn's mixture of Gaussians with full covariances; ``"kde"`` is a kernel
        density with Scott's bandwidth in the coefficients' own covariance, as SciPy's.
    components
        The most Gaussians of the mixture, of which Bayes' information criterion takes 1, 2, 4, ...; 16 by default.
    random_state
        Seed of the mixture's fit; 0 by default.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(3.0, 0.1, size=(64, 1, 2, 8))
    >>> PCAGaussianMixture(n_modes=2, components=2).fit(X).sample(5).shape
    (5, 1, 2, 8)
    """

    def __init__(
        self,
        n_modes: int | None = None,
        rtol: float | None = 1e-3,
        law: str = "mixture",
        components: int = 16,
        random_state: int = 0,
    ) -> None:
        super().__init__(n_modes, rtol)
        self.law = check_choice("law", law, LAWS)
        self.components = check_count("components", components)
        self.random_state = random_state

    def _learn(self, q: np.ndarray) -> None:
        if self.law == "kde":
            self._data, self._bandwidth = q, len(q) ** (-1 / (q.shape[1] + 4))
            self._root = np.linalg.cholesky(np.cov(q.T).reshape(q.shape[1], -1) + 1e-12 * np.eye(q.shape[1]))
            return
        sizes = [2**k for k in range(self.components.bit_length()) if 2**k <= min(self.components, len(q) // 2)]
        mixtures = [GaussianMixture(k, random_state=self.random_state, reg_covar=1e-8).fit(q) for k in sizes]
        self.mixture_ = min(mixtures, key=lambda mixture: mixture.bic(q))

    def _draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        if self.law == "kde":
            noise = rng.normal(size=(n, self._data.shape[1])) @ self._root.T
            return self._data[rng.integers(len(self._data), size=n)] + self._bandwidth * noise
        k = rng.choice(len(self.mixture_.weights_), size=n, p=self.mixture_.weights_ / self.mixture_.weights_.sum())
        roots = np.linalg.cholesky(self.mixture_.covariances_)
        noise = rng.normal(size=(n, roots.shape[1]))
        return np.asarray(self.mixture_.means_[k] + np.einsum("nij,nj->ni", roots[k], noise))


class BootstrapSampler:
    """Draw histories from the data again, with replacement: what no model can be told apart from at its own size.

    Examples
    --------
    >>> import numpy as np
    >>> BootstrapSampler().fit(np.zeros((3, 1, 2, 8))).sample(5).shape
    (5, 1, 2, 8)
    """

    def fit(self, X: Any) -> "BootstrapSampler":
        """Keep the histories `X`, (n, ...).

        Returns
        -------
        BootstrapSampler
            The fitted model itself.

        Raises
        ------
        ValueError
            For data that are not finite.
        """
        data = np.array(X, dtype=float)  # a copy, as the caller's array may change
        if data.ndim < 2 or not len(data):
            raise ValueError(f"X has shape {data.shape}; it takes (n, ...), a row for each sample")
        if not np.isfinite(data).all():
            raise ValueError("X has values that are NaN or infinite; it takes finite ones")
        self._data = data
        return self

    def sample(
        self, n: int, generator: torch.Generator | None = None, condition: Any = None
    ) -> Float[np.ndarray, "n ..."]:
        """Draw histories.

        Parameters
        ----------
        n
            How many are drawn.
        generator
            Seeds the draw; None, the default, takes torch's global one.
        condition
            Only None, the default: the law is not a conditional one.

        Returns
        -------
        np.ndarray
            Histories of shape (n, ...).

        Raises
        ------
        RuntimeError
            Where it is not fitted.
        """
        if condition is not None:
            raise ValueError("condition is given; BootstrapSampler takes None, as its law is not conditional")
        if not hasattr(self, "_data"):
            raise RuntimeError("this BootstrapSampler is not fitted; call fit")
        rows = np.random.default_rng(_integer(generator)).integers(len(self._data), size=check_count("n", n))
        return self._data[rows]
