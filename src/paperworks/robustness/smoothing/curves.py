"""What certificates of many images say together: certified accuracy over the radius, and the mean radius."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from paperworks.robustness.smoothing.certify import CertificationResult

Labels = Int[np.ndarray, " images"] | Int[Tensor, " images"] | Sequence[int]
Radii = Float[np.ndarray, " radii"] | Sequence[float]


def certified_accuracy_curve(result: CertificationResult, labels: Labels, radii: Radii) -> Float[np.ndarray, " radii"]:
    """Return the share of images whose certified class is right and whose certified radius is at least each radius.

    An image that the classifier abstains on is an error at every radius.

    Parameters
    ----------
    result
        Classes and radii of the images.
    labels
        Classes of the images, of shape (images,).
    radii
        Radii to ask of, in the unit of the pixels.

    Returns
    -------
    ndarray of shape (radii,)
        Shares from 0 to 1, one for each radius.

    Raises
    ------
    ValueError
        For another number of labels than of images, or negative radii.

    Examples
    --------
    >>> result = CertificationResult.of([0, 1, -1, 1], [0.5, 1.5, 0.0, 1.0])
    >>> certified_accuracy_curve(result, [0, 1, 1, 0], [0, 1])
    array([0.5 , 0.25])
    """
    radius = np.asarray(radii, dtype=float)
    if not (radius >= 0).all():
        raise ValueError(f"radii is {radii!r}; it takes numbers >= 0")
    return (result.correct(labels) & (result.radii >= radius[:, None])).mean(1)


def certified_accuracy_envelope(
    results: Mapping[float, CertificationResult], labels: Labels, radii: Radii
) -> tuple[Float[np.ndarray, " radii"], Float[np.ndarray, " radii"]]:
    """Return the best certified accuracy at each radius over the noise levels, and the level that reaches it.

    Parameters
    ----------
    results
        For each noise level, the certificates of the same images.
    labels
        Classes of the images, of shape (images,).
    radii
        Radii of the curve.

    Returns
    -------
    tuple[ndarray of shape (radii,), ndarray of shape (radii,)]
        Shares from 0 to 1 and noise levels, one of each for each radius.

    Raises
    ------
    ValueError
        Without results, and as `certified_accuracy_curve`.

    Examples
    --------
    >>> few, many = (CertificationResult.of([0, 0], radii) for radii in ([1.0, 0.9], [3.0, 0.0]))
    >>> certified_accuracy_envelope({0.25: few, 1.0: many}, [0, 0], [0.5, 2.0])
    (array([1. , 0.5]), array([0.25, 1.  ]))
    """
    if not results:
        raise ValueError("results is empty; it takes the certificates of at least one noise level")
    curves = np.stack([certified_accuracy_curve(result, labels, radii) for result in results.values()])
    return curves.max(0), np.array(list(results))[curves.argmax(0)]


def average_certified_radius(result: CertificationResult, labels: Labels) -> float:
    """Return the mean certified radius of images, 0 for those whose class is wrong or that are abstained on.

    Source: MACER (arXiv 2001.02378).

    Parameters
    ----------
    result
        Classes and radii of the images.
    labels
        Classes of the images, of shape (images,).

    Returns
    -------
    float
        The mean radius, in the unit of the pixels.

    Raises
    ------
    ValueError
        For another number of labels than of images.

    Examples
    --------
    >>> average_certified_radius(CertificationResult.of([0, 1], [0.5, 1.5]), [0, 0])
    0.25
    """
    return float((result.radii * result.correct(labels)).mean())
