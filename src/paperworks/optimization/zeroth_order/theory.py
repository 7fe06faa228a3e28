"""What SPSA does on a quadratic, exactly: how much a step gains, and which step size gains most."""

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.zeroth_order.directions import Noise, SharedDirection


def _spread(size: int, samples: int, noise: Noise) -> float:
    check_count("size", size)
    check_count("samples", samples)
    return size - 2 + samples + SharedDirection(0, noise).fourth_moment


def spsa_contraction(lr: float, curvature: float, size: int, samples: int = 1, noise: Noise = "gaussian-lut") -> float:
    """Return ``E f(next) / f`` of a step on ``f = curvature |x|^2 / 2``, with the mean over samples.

    It is ``1 - 2 lr curvature + (lr curvature)^2 (P - 2 + N + E z^4) / N``, with ``P + N + 1`` for normal entries and
    ``P + N - 1`` for signs.

    Parameters
    ----------
    lr
        Step size, with ``scale="mean"``.
    curvature
        The one eigenvalue of the Hessian.
    size
        Number P of parameters.
    samples
        Number N of samples on all machines together.
    noise
        Law of the directions' entries.

    Returns
    -------
    float
        Factor by which the loss changes in the mean.

    Examples
    --------
    >>> round(spsa_contraction(spsa_lr(2.0, 200, 4), 2.0, 200, 4), 4)
    0.9805
    """
    step = check_number("lr", lr, ge=0) * check_number("curvature", curvature, gt=0)
    return 1 - 2 * step + step**2 * _spread(size, samples, noise) / samples


def spsa_lr(curvature: float, size: int, samples: int = 1, noise: Noise = "gaussian-lut") -> float:
    """Return the step size that gains most: ``N / (curvature (P - 2 + N + E z^4))``, for ``scale="mean"``.

    Parameters
    ----------
    curvature
        The one eigenvalue of the Hessian, or the greatest of several.
    size
        Number P of parameters.
    samples
        Number N of samples on all machines together.
    noise
        Law of the directions' entries.

    Returns
    -------
    float
        The step size, with which a step leaves ``1 - N / (P - 2 + N + E z^4)`` of the loss.

    Examples
    --------
    >>> round(spsa_lr(1.0, 200, 1, noise="gaussian") * 202, 12)
    1.0
    """
    return samples / (check_number("curvature", curvature, gt=0) * _spread(size, samples, noise))
