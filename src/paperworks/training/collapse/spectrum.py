"""What becomes of small deviations from collapsed features, in closed form."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from paperworks.core.validation import check_count, check_number


@dataclass(frozen=True)
class NearCollapseSpectrum:
    """Spectrum of the map from deviations of given features to those of the minimiser, at collapsed features.

    The map is `(I + M / beta)^{-1}`, and `F = I - M / beta` for large beta.

    Parameters
    ----------
    eigenvalues
        Eigenvalues of M: within classes outside the span of the means and inside it, of the means along symmetric
        changes of their products, and 0.
    multiplicities
        How often each of them occurs.
    attenuation
        What the map multiplies each of these deviations by, `1 / (1 + eigenvalue / beta)`.
    block
        Singular values of a class's own block of F, (dn,), in descending order.
    cross
        The only singular value of a block of F between two classes that isn't 0.

    Examples
    --------
    >>> near_collapse_spectrum(4, 10, 10, 0.5, 0.5, 100.0).multiplicities
    array([216, 144,  10,  30])
    """

    eigenvalues: Float[np.ndarray, "4"]
    multiplicities: Int[np.ndarray, "4"]
    attenuation: Float[np.ndarray, "4"]
    block: Float[np.ndarray, " dn"]
    cross: float

    @property
    def spectrum(self) -> Float[np.ndarray, " dN"]:
        """All eigenvalues of M, each as often as it occurs, in ascending order.

        Returns
        -------
        np.ndarray
            As many as H has entries.
        """
        return np.sort(np.repeat(self.eigenvalues, self.multiplicities))


def near_collapse_spectrum(K: int, n: int, d: int, lam_W: float, lam_H: float, beta: float) -> NearCollapseSpectrum:
    r"""Return the spectrum of the map of deviations where the given features are collapsed and minimise the model.

    With `c = sqrt(lam_H lam_W) < 1` and `s = sqrt(lam_H / lam_W)`, M has the eigenvalues `lam_H` and `s` for deviations
    within classes, outside and inside the span of the class means, `4 lam_H (1 - c)` for symmetric changes of the
    means, and 0 for turns and shifts of them. So a greater `lam_H` shrinks all deviations within classes more, a
    greater `lam_W` those inside the span less. Source: Theorem 4.2 of arXiv 2210.16658.

    Parameters
    ----------
    K, n, d
        Classes, samples of each, and dimension of features, at least K.
    lam_W, lam_H
        Penalties of the last layer and of the features, both positive, with a product below 1.
    beta
        How strongly features are tied to the given ones, positive.

    Returns
    -------
    NearCollapseSpectrum
        Eigenvalues with multiplicities and attenuations, and singular values of the blocks.

    Raises
    ------
    ValueError
        For d < K, penalties or a beta that aren't positive, and for `lam_W lam_H >= 1`, where nothing but 0 is left.

    Examples
    --------
    >>> found = near_collapse_spectrum(2, 5, 3, lam_W=1.0, lam_H=0.25, beta=1.0)
    >>> found.eigenvalues, found.attenuation.round(3)
    (array([0.25, 0.5 , 0.5 , 0.  ]), array([0.8  , 0.667, 0.667, 1.   ]))
    """
    K, n, d = check_count("K", K, at_least=2), check_count("n", n), check_count("d", d)
    lam_W, lam_H = check_number("lam_W", lam_W, gt=0), check_number("lam_H", lam_H, gt=0)
    beta, c, s = check_number("beta", beta, gt=0), math.sqrt(lam_W * lam_H), math.sqrt(lam_H / lam_W)
    if d < K:
        raise ValueError(f"d is {d} for {K} classes; it takes d >= K")
    if c >= 1:
        raise ValueError(
            f"lam_W and lam_H have the product {lam_W * lam_H:g}; it takes one below 1 to have class means"
        )
    means = 4 * lam_H * (1 - c)
    eigenvalues = np.array([lam_H, s, means, 0.0])
    rest = K * (d - K) + K * (K - 1) // 2
    multiplicities = np.array([(n - 1) * K * (d - K), (n - 1) * K * K, K * (K + 1) // 2, rest])
    kept = np.repeat(
        [1.0, 1 - lam_H / beta, 1 - s / beta, 1 - means / 2 / beta, 1 - means / beta],
        [d - K, (n - 1) * (d - K), (n - 1) * K, K - 1, 1],
    )
    return NearCollapseSpectrum(
        eigenvalues, multiplicities, 1 / (1 + eigenvalues / beta), np.sort(np.abs(kept))[::-1], means / 2 / beta
    )
