"""Integrals over all of time, and equations of renewal."""

import math

import numpy as np
from jaxtyping import Float
from scipy.signal import fftconvolve

from paperworks.dynamics.excursions.covariances import StationaryCovariance, clipped_mean

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
NEGLIGIBLE = 1e-120
ROUNDING = 1e-9


class TimeGrid:
    """Nodes and weights for integrals of the clipped mean over all of time, with what is beyond them.

    Panels of 16 Gauss-Legendre nodes: geometric ones towards 0, where a rough process bends, then as long as the
    time scale of the process, so that oscillations are resolved, and growing ones far out, where only powers are left.

    Parameters
    ----------
    covariance
        The correlation of the process.

    Attributes
    ----------
    t, weights, values
        Nodes, weights, and the clipped mean at the nodes.
    """

    def __init__(self, covariance: StationaryCovariance) -> None:
        scale = 1 / math.sqrt(covariance.lambda2)
        rate = covariance.tail_rate
        near = scale * 2.0 ** np.arange(-36, 1)
        end = (min(400.0, 4 + 280 / (rate * scale)) if 0 < rate < math.inf else 400.0) * scale
        even = np.arange(1, math.ceil(end / scale) + 1) * scale
        far = even[-1] * 1.4 ** np.arange(1, 500) if end >= 400 * scale else []
        edges = np.concatenate([[0.0], near[:-1], even, far])
        half = np.diff(edges)[:, None] / 2
        t = (edges[:-1, None] + half * (1 + _NODES)).ravel()
        values = clipped_mean(covariance, t)
        # Where the mean is down to rounding it may be noise, which long panels would weigh as if it were something.
        noise = np.append(False, (values[1:] * values[:-1] < 0) & (np.abs(values[1:]) < ROUNDING))
        end = int(np.argmax(noise)) if noise.any() else len(values)
        keep = slice(0, 1 + int(np.flatnonzero(np.abs(values[:end]) > NEGLIGIBLE)[-1]))
        self.t, self.values = t[keep], values[keep]
        self.weights = (half * _WEIGHTS).ravel()[keep]
        self.rate = rate

    def transform(self, s: float, power: int = 0) -> float:
        """Return the integral of t^power e^(-s t) times the clipped mean.

        Parameters
        ----------
        s
            The argument, which may be negative down to minus the rate of the tail.
        power
            Power of time.

        Returns
        -------
        float
            The integral; infinite where it is too large for a number.
        """
        with np.errstate(over="ignore"):
            total = float((self.weights * self.t**power * np.exp(-s * self.t)) @ self.values)
        if s < 0 and math.isfinite(self.rate):  # the tail beyond the last node, as the exponential that it is
            last, value = self.t[-1], self.values[-1]
            total += value * last**power * math.exp(-s * last) / (self.rate + s)
        return total if math.isfinite(total) else math.inf


def renewal(known: Float[np.ndarray, " n"], law: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Solve g(t) = known(t) + 1/2 of the convolution of g with the law, on an even grid from 0.

    The trapezoid rule in the law's own measure, of second order in the grid. The equations are triangular and
    Toeplitz: a power series is divided by another one, by Newton's method and fast Fourier transforms.

    Parameters
    ----------
    known
        Values of the known part; g is equal to it at 0.
    law
        The distribution function of the law on the same grid, which begins at 0.

    Returns
    -------
    ndarray
        g on the grid.
    """
    n = len(known)
    rises = np.append(np.diff(law), 0.0)
    # With generating functions: g (1 - (1 + z) rises / 4) = known - g(0) rises / 4.
    series = -(rises + np.append(0.0, rises[:-1])) / 4
    series[0] += 1
    inverse = np.array([1 / series[0]])
    while (m := len(inverse)) < n:
        error = -fftconvolve(series[: 2 * m], inverse)[m : 2 * m]
        inverse = np.append(inverse, fftconvolve(error, inverse)[:m])[:n]
    return np.asarray(fftconvolve(known - known[0] * rises / 4, inverse)[:n])


def extrapolated(fine: Float[np.ndarray, " m"], coarse: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return Richardson's extrapolation of two solutions of second order, at the points that both have.

    Parameters
    ----------
    fine, coarse
        Solutions on a grid of half the step, and on the grid.

    Returns
    -------
    ndarray
        Values on the coarser grid.
    """
    return (4 * fine[::2] - coarse) / 3
