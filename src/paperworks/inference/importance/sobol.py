"""Sobol' indices: shares of a model's variance that its inputs, groups or pairs of them explain."""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.importance.adaptive import ExpectationsResult, multiple_expectations
from paperworks.inference.importance.components import Family, GaussianComponents
from paperworks.inference.importance.pick_freeze import Inputs, PickFreeze
from paperworks.inference.importance.points import REPLICATES, Net, Sampling, largest_net, sobol_points, streams
from paperworks.inference.importance.polynomials import Surrogate, fit_surrogate
from paperworks.inference.importance.targets import Signed

_PILOT = 8  # a pilot has one in so many of the sample points
# Nets profit where the contrasts' variance, pooled over indices and inputs, is below this share of independent points':
# noise has 0.73 to 1.23 of it in nine of ten pilots, and a pilot's small nets show the least of what larger ones gain.
_PROFIT = 2 / 3
_GROUPS = 32  # of independent points, whose spread tells errors


@dataclass(frozen=True)
class SobolResult:
    """Sobol' indices with the half-widths of their confidence intervals, named as in SALib.

    Arrays have an axis of the inputs, or of the groups in the order of `names`, and a last one of the outputs where the
    model returns several.

    Parameters
    ----------
    S1_conf
        Half-widths of the intervals of `S1`; None where that is.
    ST_conf
        Half-widths of the intervals of `ST`; None where that is.
    S2_conf
        Half-widths of the intervals of `S2`; None where that is.

    Examples
    --------
    >>> result = sobol_indices(lambda x: 3 + x[:, 0] + x[:, 1], 2, n_max=2000, random_state=0)
    >>> result.S1.round(4)
    array([0.5, 0.5])
    """

    S1: Float[np.ndarray, "..."] | None
    """First-order indices, closed ones of groups; None where they weren't asked for."""
    S1_conf: Float[np.ndarray, "..."] | None
    ST: Float[np.ndarray, "..."] | None
    """Total-order indices; None where they weren't asked for."""
    ST_conf: Float[np.ndarray, "..."] | None
    S2: Float[np.ndarray, "..."] | None
    """Second-order indices, symmetric with zeros on the diagonal; None where they weren't asked for."""
    S2_conf: Float[np.ndarray, "..."] | None
    names: tuple[Hashable, ...]
    """Numbers of the inputs, or labels of the groups."""
    n_calls: int
    """Calls of the model."""
    replicates: int | None
    """Scrambled Sobol' nets that errors are from; None for independent draws."""
    expectations: ExpectationsResult | None
    """The expectations behind the indices, where the sample was adapted."""

    @classmethod
    def of(
        cls,
        found: Mapping[str, tuple[Float[np.ndarray, "I q"], Float[np.ndarray, "I q"]]],
        names: tuple[Hashable, ...],
        scalar: bool,
        n_calls: int,
        replicates: int | None = None,
        expectations: ExpectationsResult | None = None,
    ) -> "SobolResult":
        """Return a result from rows of indices and half-widths for each order, pairs in the order of `triu_indices`.

        Parameters
        ----------
        found
            Indices and half-widths for each order that was asked for.
        names
            Labels of the factors.
        scalar
            Whether the model has one output without an axis.
        n_calls
            Calls of the model.
        replicates, expectations
            As the fields.

        Returns
        -------
        SobolResult
            The indices in their shapes.
        """

        def shaped(order: str, which: int) -> Float[np.ndarray, "..."] | None:
            if order not in found:
                return None
            values = found[order][which]
            if order == "second":
                i, j = np.triu_indices(len(names), 1)
                table = np.zeros((len(names), len(names), found[order][0].shape[-1]))
                table[i, j] = table[j, i] = values
                values = table
            return values[..., 0] if scalar else values

        fields = {"S1": "first", "ST": "total", "S2": "second"}
        arrays = {name + end: shaped(order, k) for name, order in fields.items() for k, end in enumerate(("", "_conf"))}
        return cls(**arrays, names=names, n_calls=n_calls, replicates=replicates, expectations=expectations)


def sobol_indices(
    func: Callable[[Float[np.ndarray, "n d"]], ArrayLike],
    inputs: Any,
    n_max: int = 10_000,
    order: str | Sequence[str] = ("first",),
    conf_level: float = 0.95,
    family: Family = "sg",
    signed: Signed = None,
    random_state: np.random.Generator | int | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
    sampling: Sampling = "auto",
    replicates: int = REPLICATES,
    adapt: bool = False,
    **options: Any,
) -> SobolResult:
    """Estimate Sobol' indices of a model with independent inputs, by pick-freeze contrasts on quasi-random points.

    A sample point is two points of inputs, which lend each other coordinates. A pilot of an eighth of them centres the
    model, so that no index depends on a constant added to it, and fits a polynomial whose own indices are known: what
    the rest estimates is the difference to it, without a bias whatever the polynomial is. Intervals come from the
    spread of independent scrambles, and are Student's.

    Parameters
    ----------
    func
        Maps inputs (n, d) to values (n,), or (n, q) for q outputs.
    inputs
        Marginal distributions with SciPy's ``ppf``, ``isf`` and ``support``; or d, for standard normal inputs.
    n_max
        Sample points at most. Each costs d + 2 calls of the model for first and total orders together, and d more for
        second ones.
    order
        ``first``, ``total``, ``second``, or several in a sequence.
    conf_level
        Confidence level of the intervals.
    groups
        A label for each input: inputs of one label are one factor, and indices are those of factors.
    sampling
        ``sobol`` takes scrambled Sobol' nets, ``random`` independent points. ``auto`` decides by the pilot, which is
        made of eight nets: nets, where their variance is less than two thirds of that of as many independent points.
    replicates
        Scrambles at least; up to twice as many where n_max isn't a power of two times it.
    adapt
        Draw by adaptive importance sampling on pairs of points, as in the paper: for one output whose variance comes
        from a rare corner of the inputs. Smooth models do better without.
    family, signed, options
        As in `multiple_expectations`, for an adapted sample; contrasts are of both signs, and split by default.
    random_state
        Source of randomness.

    Returns
    -------
    SobolResult
        The indices with their intervals, one for each input.

    Raises
    ------
    ValueError
        For another order, groups that don't match, too few points, or values of the model of another shape.
    TypeError
        For options without `adapt`.

    Warns
    -----
    RuntimeWarning
        Where an output is constant: its indices are 0.

    References
    ----------
    arXiv 2212.00568, section 5.3, for adapted samples. First orders are the contrasts of Saltelli et al. (2010), total
    ones those of Jansen (1999); intervals are by the delta method.

    Examples
    --------
    >>> result = sobol_indices(lambda x: np.exp((x[:, 0] + x[:, 1] / 2) / 2), 2, n_max=4000, random_state=0)
    >>> result.S1.round(2)  # in closed form 0.774 and 0.176
    array([0.77, 0.18])
    """
    orders = check_orders(order)
    check_number("conf_level", conf_level, gt=0, lt=1)
    check_choice("sampling", sampling, get_args(Sampling))
    check_count("replicates", replicates, at_least=2)
    check_count("n_max", n_max, at_least=max(64, 4 * replicates))
    if options and not adapt:
        raise TypeError(f"{', '.join(options)} given for a sample that isn't adapted; adapt=True takes them")
    law = Inputs(inputs)
    names, factors = factors_of(groups, law.d)
    model = PickFreeze(func, factors, "second" in orders)
    rng = np.random.default_rng(random_state)
    pilot = _Pilot(model, law, n_max, rng)
    found = None
    if adapt and model.q != 1:
        raise ValueError(f"func has {model.q} outputs; adapt=True takes one")
    if adapt and not pilot.constant:
        found = _adapted(model, law, pilot, n_max, rng, family=family, signed=signed, sampling=sampling, **options)
        means, freedom = found.estimate[:, None], np.inf
        covariance = found.covariance[..., None]
        nets = found.replicates
        if nets is not None:
            freedom = nets - 1
    else:
        by_nets = sampling == "sobol" or (sampling == "auto" and pilot.profits)
        draws = pilot.replicate_means(n_max - pilot.net.total, replicates if by_nets else None, rng)
        means, freedom, nets = draws.mean(axis=0), len(draws) - 1, len(draws) if by_nets else None
        centred = draws - means
        covariance = np.einsum("rjq,rkq->jkq", centred, centred) / (freedom * len(draws))
    return _result(model, orders, names, means, covariance, freedom, conf_level, nets, found, pilot.rounding)


def check_orders(order: str | Sequence[str], known: tuple[str, ...] = ("first", "total", "second")) -> tuple[str, ...]:
    """Return the orders if they are known, else raise ValueError.

    Parameters
    ----------
    order
        One order or several.
    known
        What there is.

    Returns
    -------
    tuple[str, ...]
        The orders asked for.
    """
    orders = (order,) if isinstance(order, str) else tuple(order)
    if not orders or not set(orders) <= set(known):
        raise ValueError(f"order is {order!r}; it takes {', '.join(map(repr, known))} or several of them")
    return orders


def factors_of(groups: Sequence[Hashable] | None, d: int) -> tuple[tuple[Hashable, ...], list[Int[np.ndarray, " _"]]]:
    """Return the labels of the factors and the inputs of each.

    Parameters
    ----------
    groups
        A label for each input, or None.
    d
        Number of inputs.

    Returns
    -------
    tuple[tuple, list[ndarray]]
        Labels, and the numbers of the inputs of each.
    """
    labels = list(range(d)) if groups is None else list(groups)
    if not all(isinstance(label, Hashable) and label == label for label in labels):
        raise TypeError(f"groups is {groups!r}; it takes labels that are equal to themselves, as names or numbers")
    if len(labels) != d:
        raise ValueError(f"groups has {len(labels)} labels; it takes one for each of {d} inputs")
    names = tuple(dict.fromkeys(labels))
    return names, [np.array([i for i, label in enumerate(labels) if label == name]) for name in names]


class _Pilot:
    """The model at a few nets: its centre, its scale, a surrogate, and whether nets profit."""

    def __init__(self, model: PickFreeze, law: Inputs, n_max: int, random_state: np.random.Generator) -> None:
        self._model, self._law = model, law
        self.net: Net = largest_net(max(n_max // _PILOT, REPLICATES))
        U = self._points(sobol_points(2 * law.d, self.net, random_state))
        F = self._model.evaluate(self._inputs(U))
        flat, values = U.reshape(-1, law.d), F.reshape(-1, F.shape[2])
        self._centre, largest = values.mean(axis=0), np.abs(values).max(axis=0)
        # Values are taken in units of their spread, as squares of large and small ones have no numbers.
        spread = np.abs(values - self._centre).max(axis=0)
        self._unit = np.where(spread > 0, spread, np.where(largest > 0, largest, 1.0))
        self.rounding = 1e3 * np.finfo(float).eps * (largest / self._unit)
        self.constant = bool(np.all((spread == 0) | (self.rounding >= 1)))
        values = self.centred(values)
        held_out = np.tile(np.arange(self.net.total) >= self.net.total // 2, len(U))
        self.surrogate: Surrogate = fit_surrogate(flat, values, held_out, law.bounded)
        contrasts = self._model.contrasts(self.centred(F))
        within = contrasts.var(axis=1, ddof=1)
        nets = contrasts.reshape(len(contrasts), self.net.replicates, self.net.size, F.shape[2])
        between = nets.mean(axis=2).var(axis=1, ddof=1)
        variance = values.var(axis=0)
        J, varies = 2 * len(model.factors), variance > 0
        weights = variance[varies] ** -2.0
        self.profits = bool(
            self.net.size * (between[:J, varies] @ weights).sum() < _PROFIT * (within[:J, varies] @ weights).sum()
        )

    def centred(self, F: Float[np.ndarray, "*some q"]) -> Float[np.ndarray, "*some q"]:
        """Return values of the model about their centre, in units of their spread."""
        return (F - self._centre) / self._unit

    def _points(self, U: Float[np.ndarray, "n twice_d"]) -> Float[np.ndarray, "blocks n d"]:
        d = self._law.d
        return self._model.mixed(U[:, :d], U[:, d:])

    def _inputs(self, U: Float[np.ndarray, "blocks n d"]) -> Float[np.ndarray, "blocks n d"]:
        return self._law.from_uniform(U.reshape(-1, U.shape[2])).reshape(U.shape)

    def _known(self) -> Float[np.ndarray, "J q"]:
        """Return the contrasts' means for the surrogate."""
        s, factors = self.surrogate, self._model.factors
        pairs = zip(*np.triu_indices(len(factors), 1), strict=True) if self._model.second else ()
        constant = s.coefficients[0]
        return np.array(
            [
                *(s.closed(factor) for factor in factors),
                *(s.total(factor) for factor in factors),
                *(s.closed(np.concatenate([factors[int(i)], factors[int(j)]])) for i, j in pairs),
                constant,
                s.total(np.arange(self._law.d)) + constant**2,
            ]
        )

    def replicate_means(
        self, n: int, replicates: int | None, random_state: np.random.Generator
    ) -> Float[np.ndarray, "R J q"]:
        """Return means of the contrasts, a row for each net of points or group of independent ones."""
        d, s = self._law.d, self.surrogate
        net = Net(min(_GROUPS, n), n // min(_GROUPS, n)) if replicates is None else largest_net(n, replicates)
        known = self._known()
        means = []
        for child in streams(random_state, net.replicates):
            points = (
                child.random((net.size, 2 * d)) if replicates is None else sobol_points(2 * d, Net(1, net.size), child)
            )
            sums = np.zeros_like(known)
            for start in range(0, net.size, self._model.rows):
                U = self._points(points[start : start + self._model.rows])
                F = self.centred(self._model.evaluate(self._inputs(U)))
                P = s(U.reshape(-1, d)).reshape(F.shape)
                sums += (self._model.contrasts(F) - self._model.contrasts(P)).sum(axis=1)
            means.append(sums / net.size + known)
        return np.array(means)


def _adapted(
    model: PickFreeze,
    law: Inputs,
    pilot: _Pilot,
    n_max: int,
    random_state: np.random.Generator,
    signed: Signed,
    **options: Any,
) -> ExpectationsResult:
    """Estimate the contrasts' means by adaptive importance sampling on pairs of standard normal points."""

    def contrasts(Z: Float[np.ndarray, "n twice_d"]) -> Float[np.ndarray, "n J"]:
        A, B = law.from_normal(Z[:, : law.d]), law.from_normal(Z[:, law.d :])
        return model.contrasts(pilot.centred(model.evaluate(model.mixed(A, B))))[..., 0].T

    doubled = GaussianComponents(np.zeros((1, 2 * law.d)), np.eye(2 * law.d)[None])
    return multiple_expectations(
        contrasts, doubled, n_max - pilot.net.total, signed=signed or "split", random_state=random_state, **options
    )


def _result(
    model: PickFreeze,
    orders: tuple[str, ...],
    names: tuple[Hashable, ...],
    means: Float[np.ndarray, "J q"],
    covariance: Float[np.ndarray, "J J q"],
    freedom: float,
    conf_level: float,
    nets: int | None,
    found: ExpectationsResult | None,
    rounding: Float[np.ndarray, " q"],
) -> SobolResult:
    """Return indices as ratios of the contrasts' means to the variance, with errors by the delta method."""
    G, J = len(names), len(means)
    mean, square = means[-2], means[-1]
    variance = square - mean**2 + covariance[-2, -2]  # whose last term takes away the bias of the squared mean
    constant = variance <= rounding**2
    if constant.any():
        which = "func" if model.scalar else f"func's output {', '.join(map(str, np.flatnonzero(constant)))}"
        warnings.warn(f"{which} is constant: indices are 0", RuntimeWarning, stacklevel=3)
    i, j = np.triu_indices(G, 1)
    # Numerators as linear in the means: closed variances, total ones, and those of pairs less their members'.
    numerators = np.eye(J)[:-2]
    numerators[2 * G + np.arange(J - 2 - 2 * G), i[: J - 2 - 2 * G]] = -1
    numerators[2 * G + np.arange(J - 2 - 2 * G), j[: J - 2 - 2 * G]] = -1
    divisor = np.where(constant, 1.0, variance)
    index = np.where(constant, 0.0, numerators @ means / divisor)
    gradient = np.repeat(numerators[..., None], means.shape[1], axis=2)
    gradient[:, -2] += 2 * mean * index
    gradient[:, -1] -= index
    errors = (
        np.sqrt(np.maximum(np.einsum("ijq,jkq,ikq->iq", gradient, covariance, gradient, optimize=True), 0)) / divisor
    )
    half = np.where(constant, 0.0, stats.t.ppf((1 + conf_level) / 2, freedom) * errors)

    rows = {"first": slice(0, G), "total": slice(G, 2 * G), "second": slice(2 * G, None)}
    return SobolResult.of(
        {order: (index[rows[order]], half[rows[order]]) for order in orders},
        names=names, scalar=model.scalar, n_calls=model.calls, replicates=nets, expectations=found,
    )  # fmt: skip
