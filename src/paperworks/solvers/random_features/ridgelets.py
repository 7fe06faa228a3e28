"""The ridgelet transform of a function, its inverse, and hidden weights drawn in proportion to it."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Complex, Float
from numpy.polynomial import hermite_e
from scipy.integrate import quad

from paperworks.core.validation import check_count, check_number
from paperworks.solvers.random_features.activations import Name, activation_named

_BLOCK = 1 << 22  # numbers in one part of a computation
Samples = tuple[Float[np.ndarray, "samples dim"], Float[np.ndarray, " samples"], Float[np.ndarray, " samples"]]


def ridgelet(t: Float[np.ndarray, "*n"], order: int) -> Float[np.ndarray, "*n"] | np.float64:
    """Return the derivative of exp(-t²/2) of a given order."""
    return (-1) ** order * hermite_e.hermeval(t, [0] * order + [1]) * np.exp(-(t**2) / 2)


def ridgelet_spectrum(w: Float[np.ndarray, "*n"], order: int) -> Complex[np.ndarray, "*n"] | np.complex128:
    """Return the transform of the same: (i w)^order sqrt(2 pi) exp(-w²/2)."""
    return (1j * w) ** order * math.sqrt(2 * math.pi) * np.exp(-(w**2) / 2)


def ridgelet_transform(
    f: Samples | Callable[[np.ndarray], np.ndarray],
    a: Float[np.ndarray, "*parameters dim"],
    b: Float[np.ndarray, "*parameters"],
    order: int = 2,
    *,
    x: Float[np.ndarray, "samples dim"] | None = None,
    weights: Float[np.ndarray, " samples"] | None = None,
) -> Float[np.ndarray, "*parameters"]:
    """Return the integrals of f(x) rho(a·x - b), with rho a derivative of a Gaussian.

    Parameters
    ----------
    f
        A function of points (samples, dim), with `x` and `weights`; or points, values and weights, of a quadrature or
        of samples (the reciprocal of their density, over their number).
    a, b
        Hidden weights and biases, of the same shape but for the last axis of `a`.
    order
        Order of the derivative, at most 100.
    x, weights
        Points and weights of the quadrature for a function.

    Returns
    -------
    ndarray
        One integral for each pair of weights and bias.

    Raises
    ------
    ValueError
        For shapes that don't fit, or values that aren't finite.

    Notes
    -----
    arXiv 2008.08427, section 2. Along b its Fourier transform is f^(w a) times the conjugate of rho^(w).

    Examples
    --------
    >>> x = np.linspace(-8, 8, 801)[:, None]
    >>> found = ridgelet_transform(lambda x: np.exp(-x[:, 0] ** 2 / 2), np.ones((1, 1)), np.zeros(1), 2,
    ...                            x=x, weights=np.full(801, 0.02))
    >>> found.round(4), round(-np.sqrt(np.pi) / 2, 4)
    (array([-0.8862]), -0.8862)
    """
    points, values, measure = _samples(f, x, weights)
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    check_count("order", order, at_most=100)
    if a.shape != (*b.shape, points.shape[1]):
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; they take (…, {points.shape[1]}) and (…)")
    flat_a, flat_b = a.reshape(-1, points.shape[1]), b.ravel()
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a or b has NaN or infinite elements; they take finite ones")
    product = values * measure
    found = np.empty(len(flat_b))
    rows = max(1, _BLOCK // len(points))
    for start in range(0, len(flat_b), rows):
        part = slice(start, start + rows)
        found[part] = ridgelet(flat_a[part] @ points.T - flat_b[part, None], order) @ product
    return found.reshape(b.shape)


def inverse_ridgelet(
    R: Float[np.ndarray, " parameters"],
    a: Float[np.ndarray, "parameters dim"],
    b: Float[np.ndarray, " parameters"],
    x: Float[np.ndarray, "points dim"],
    weights: Float[np.ndarray, " parameters"] | float,
    activation: Name = "gauss",
    order: int = 2,
) -> Float[np.ndarray, " points"]:
    """Reconstruct a function from its ridgelet transform: a network with a unit at each pair of weights and bias.

    Parameters
    ----------
    R
        Values of the transform.
    a, b
        Hidden weights and biases where they were taken.
    x
        Points at which the function is wanted.
    weights
        Weights of the quadrature over (a, b).
    activation
        Name of the activation.
    order
        Order of the ridgelet that the transform was taken with.

    Returns
    -------
    ndarray of shape (points,)
        The integral of R(a, b) sigma(a·x - b), divided by the constant of admissibility.

    Raises
    ------
    ValueError
        For shapes that don't fit, values that aren't finite, or a pair that isn't admissible.

    Examples
    --------
    >>> inverse_ridgelet(np.zeros(1), np.ones((1, 1)), np.zeros(1), np.zeros((2, 1)), 1.0, "gauss", 2)
    array([0., 0.])
    """
    R, a, b, x = (np.asarray(v, dtype=float) for v in (R, a, b, x))
    if not all(np.isfinite(v).all() for v in (R, a, b, x)):
        raise ValueError("R, a, b or x has NaN or infinite elements; they take finite ones")
    if x.ndim != 2 or R.shape != b.shape or a.shape != (*b.shape, x.shape[1]):
        raise ValueError(f"R, a, b and x have shapes {R.shape}, {a.shape}, {b.shape} and {x.shape}; they don't fit")
    constant = admissibility_constant(activation, order, x.shape[1])
    outer = R * weights / constant
    sigma = activation_named(activation).function
    found = np.zeros(len(x))
    rows = max(1, _BLOCK // len(x))
    for start in range(0, len(b), rows):
        part = slice(start, start + rows)
        found += sigma(x @ a[part].T - b[part]) @ outer[part]
    return found


def admissibility_constant(activation: Name, order: int, dim: int = 1) -> float:
    """Return the constant by which a function comes back from its ridgelet transform.

    Parameters
    ----------
    activation
        Name of the activation sigma.
    order
        The ridgelet rho is the derivative of a Gaussian of this order.
    dim
        Number of dimensions m.

    Returns
    -------
    float
        ``(2 pi)^(m - 1)`` times the integral of ``sigma^(w) conj(rho^(w)) |w|^-m``.

    Raises
    ------
    ValueError
        Where the integral is 0, as for an odd activation with an even order, or doesn't converge, and for an order
        over 100.

    Notes
    -----
    arXiv 2008.08427, section 2.

    Examples
    --------
    >>> round(admissibility_constant("gauss", 2), 4)  # -2 pi
    -6.2832
    """
    sigma = activation_named(activation)
    check_count("order", order, at_most=100)  # the constants grow like factorials
    check_count("dim", dim)
    if sigma.transform is None:
        raise ValueError(f"activation is {activation!r}, whose transform is made of points; it takes another")
    if (-1) ** order != sigma.parity:
        kind = "an even" if sigma.parity == 1 else "an odd"
        raise ValueError(f"order is {order}, for which the pair is not admissible; {activation} takes {kind} order")
    # At 0 the transforms are as w^-1 (tanh, sigmoid), w^-2 (relu, softplus) and a constant.
    pole = {"gauss": 0, "tanh": 1, "sigmoid": 1}.get(activation, 2)
    if order - pole - dim <= -1:
        raise ValueError(f"order is {order}, for which the pair is not admissible; it takes {pole + dim} or more")
    transform = sigma.transform

    def integrand(w: float) -> float:
        at = np.array(w)
        return (complex(transform(at)) * complex(ridgelet_spectrum(at, order)).conjugate()).real * w**-dim

    return 2 * (2 * math.pi) ** (dim - 1) * quad(integrand, 0, 50, epsabs=0, epsrel=1e-12, limit=200)[0]


class RidgeletSampler:
    """Draws hidden weights and biases in proportion to the ridgelet transform of data, in up to three dimensions.

    Parameters
    ----------
    scale
        Half side of the cube that weights are drawn from.
    order
        Order of the ridgelet.
    oversampling
        Candidates for each pair that is kept.

    Raises
    ------
    ValueError
        For numbers that aren't positive.

    Notes
    -----
    With outer weights gamma / p the mean squared error of n units is the integral of gamma² / p |sigma|² over n, which
    is least for p in proportion to |gamma| (arXiv 2008.08427).

    Examples
    --------
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> a, b = RidgeletSampler(scale=10.0).draw(x, np.sin(5 * x[:, 0]), 20, random_state=0)
    >>> a.shape, b.shape
    ((20, 1), (20,))
    """

    def __init__(self, scale: float, order: int = 2, oversampling: int = 20) -> None:
        self.scale = check_number("scale", scale, gt=0)
        self.order = check_count("order", order)
        self.oversampling = check_count("oversampling", oversampling)

    def draw(
        self,
        x: Float[np.ndarray, "samples dim"],
        y: Float[np.ndarray, " samples"],
        n: int,
        random_state: int | np.random.Generator | np.random.RandomState | None = None,
        weights: Float[np.ndarray, " samples"] | None = None,
    ) -> tuple[Float[np.ndarray, "n dim"], Float[np.ndarray, " n"]]:
        """Draw weights and biases.

        Parameters
        ----------
        x, y
            Points and values of the target.
        n
            Number of pairs.
        random_state
            Seed, or NumPy's generator.
        weights
            Weights of the samples: the reciprocals of their density. Default: equal ones, for samples that fill the
            domain evenly.

        Returns
        -------
        tuple of ndarray
            Weights of shape (n, dim) and biases of shape (n,).

        Raises
        ------
        ValueError
            For more than three dimensions.
        """
        points, values, measure = _samples((x, y, np.ones(len(y)) if weights is None else weights), None, None)
        dim = points.shape[1]
        if dim > 3:
            raise ValueError(f"x has {dim} dimensions; ridgelets of data are drawn in up to 3")
        legacy = isinstance(random_state, np.random.RandomState)
        rng = np.random.default_rng(random_state.randint(2**31) if legacy else random_state)  # type: ignore[union-attr]
        count = self.oversampling * check_count("n", n)
        a = rng.uniform(-self.scale, self.scale, (count, dim))
        centre = points.mean(0)
        b = a @ centre + rng.uniform(-1, 1, count) * self.scale * np.abs(points - centre).sum(1).max()
        sizes = np.abs(ridgelet_transform((points, values, measure), a, b, self.order))
        total = sizes.sum()
        if not total > 0:
            return a[:n], b[:n]
        # Systematic: one even grid with a random start, so that no pair is drawn much more often than its share.
        places = np.searchsorted(np.cumsum(sizes) / total, (rng.random() + np.arange(n)) / n)
        chosen = np.minimum(places, count - 1)
        return a[chosen], b[chosen]


def _samples(
    f: Samples | Callable[[np.ndarray], np.ndarray], x: np.ndarray | None, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if callable(f):
        if x is None or weights is None:
            raise ValueError("x or weights is None; a function takes both, of a quadrature")
        f = (x, f(x), weights)
    points, values, measure = (np.asarray(part, dtype=float) for part in f)
    if points.ndim != 2 or values.shape != points.shape[:1] or measure.shape != values.shape or not len(values):
        raise ValueError(
            f"f has points, values and weights of shapes {points.shape}, {values.shape} and {measure.shape}; it takes"
            " (samples, dim), (samples,) and (samples,)"
        )
    if not all(np.isfinite(part).all() for part in (points, values, measure)):
        raise ValueError("f has NaN or infinite elements; it takes finite ones")
    return points, values, measure
