"""How far a field is from its law, and where its front is."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.operators.conservation.quadrature import Rule, quadrature_weights


def conservation_error(
    u: Float[Tensor, "*batch n"], value: Float[Tensor, "..."], x: Float[Tensor, "*grid n"], rule: Rule = "trapezoid"
) -> Float[Tensor, "*batch"]:
    """Return the integral of a field less what it has to be.

    Parameters
    ----------
    u
        Field at the points, (..., n).
    value
        What the integral has to be, (...).
    x
        Points, (n,) or (..., n), strictly increasing.
    rule
        Quadrature: "trapezoid", "left", "right" or "simpson".

    Returns
    -------
    Tensor of shape (...)
        Signed errors, in the unit of the integral.

    Raises
    ------
    ValueError
        For points that aren't increasing, shapes that don't fit, or numbers that aren't finite.

    Examples
    --------
    >>> conservation_error(torch.ones(3), torch.tensor(1.5), torch.linspace(0, 1, 3))
    tensor(-0.5000)
    """
    g = quadrature_weights(x, rule)
    check_finite("u", u)
    check_finite("value", value)
    if u.shape[-1:] != g.shape[-1:] or (value.ndim and value.shape != u.shape[:-1]):
        raise ValueError(
            f"u has shape {tuple(u.shape)} and value {tuple(value.shape)}; they take (…, {g.shape[-1]}) and (…)"
        )
    return (g * u).sum(-1) - value


class ShockLocation(NamedTuple):
    """Where the front of an uncertain field is.

    Parameters
    ----------
    median
        Median of the samples' fronts.
    low, high
        Ends of the interval.
    samples
        The front of each sample.

    Examples
    --------
    >>> ShockLocation(0.5, 0.4, 0.6, torch.tensor([0.4, 0.6])).median
    0.5
    """

    median: float
    low: float
    high: float
    samples: Tensor


def shock_location(
    mean: Float[Tensor, " n"],
    cov: Float[Tensor, "*shape"],
    x: Float[Tensor, " n"],
    threshold: float = 0.0,
    *,
    n_samples: int = 500,
    alpha: float = 0.1,
    generator: torch.Generator | None = None,
) -> ShockLocation:
    """Locate a front: the first point from the left where a sample of the field is at most a threshold.

    Parameters
    ----------
    mean
        Mean of the field at sorted points.
    cov
        Variances (n,), or the covariance (n, n).
    x
        The points, increasing.
    threshold
        Value that the field falls to behind the front.
    n_samples
        Number of samples.
    alpha
        One less the coverage of the interval. Default 0.1, for the quantiles of 5 and 95 per cent.
    generator
        What draws, torch's global generator by default.

    Returns
    -------
    ShockLocation
        Median, interval and the fronts of the samples; the last point where a sample stays above.

    Raises
    ------
    ValueError
        For shapes that don't fit, points that don't increase, a covariance that isn't positive semidefinite or numbers
        that are out of range or not finite.

    Notes
    -----
    arXiv 2302.11002, the downstream task. The covariance's square root is taken: the official code draws with the
    standard deviation itself in its place.

    Examples
    --------
    >>> x = torch.linspace(0, 1, 101)
    >>> found = shock_location(0.99 - 2 * x, torch.full((101,), 1e-12), x)
    >>> round(found.median, 2)
    0.5
    """
    check_count("n_samples", n_samples)
    check_number("alpha", alpha, gt=0, lt=1)
    check_number("threshold", threshold)
    for name, part in (("mean", mean), ("cov", cov), ("x", x)):
        check_finite(name, part)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"x has shape {tuple(x.shape)}; it takes (n,) with a point at least")
    n = len(x)
    if not bool((x.diff() > 0).all()):
        raise ValueError("x is not strictly increasing; it takes sorted, different points")
    if mean.shape != (n,) or cov.shape not in ((n,), (n, n)):
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} and cov {tuple(cov.shape)}; they take ({n},) and ({n},{n})"
        )
    where = generator.device if generator else "cpu"
    noise = torch.randn(n_samples, n, generator=generator, dtype=torch.float64, device=where).to(mean.device)
    S = cov.double()
    if S.ndim == 1:
        if not bool((S >= 0).all()):
            raise ValueError("cov has negative variances; it takes none below 0")
        moved = noise * S.sqrt()
    else:
        if bool((S - S.T).abs().max() > 1e-5 * S.abs().max()):
            raise ValueError("cov isn't symmetric; it takes a covariance")
        sizes, vectors = torch.linalg.eigh(S)  # after an exact constraint it is singular
        if float(sizes[0]) < -1e-6 * float(sizes[-1].abs()):
            raise ValueError(f"cov has the eigenvalue {float(sizes[0]):g}; it takes a positive semidefinite matrix")
        moved = noise @ (vectors * sizes.clamp_min(0).sqrt()).T
    below = mean.double() + moved <= threshold
    first = torch.where(below.any(1), below.int().argmax(1), n - 1)
    fronts = x.double()[first]
    ends = torch.quantile(fronts, torch.tensor([alpha / 2, 0.5, 1 - alpha / 2], dtype=torch.float64).to(fronts.device))
    return ShockLocation(float(ends[1]), float(ends[0]), float(ends[2]), fronts)
