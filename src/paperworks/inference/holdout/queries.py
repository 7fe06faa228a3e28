"""Statistical queries, and the plain ways to answer them: averages, one part of the data each, and noise."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.privacy.accounting import approx_dp_from_zcdp
from paperworks.inference.privacy.ledger import PrivateMechanism
from paperworks.inference.privacy.noise import Noise
from paperworks.inference.privacy.values import as_numbers, kept

Query = Callable[[Any], ArrayLike] | ArrayLike
"""A function from the samples to one value each, or those values."""

_EXACT = 2.0**53  # below it floating point adds whole numbers exactly


class StatisticalQueryOracle(PrivateMechanism, ABC):
    """Answers what the mean of a function over the population is, from samples that it keeps to itself.

    Mechanisms with noise round the values to a grid before they add them up, so that one sample moves a sum by whole
    steps, and the noise is whole steps too. A function is called with the samples themselves: take functions from those
    only who may see these. Where the answers guarantee something, its values are cut off at the range, since to
    refuse them would tell something of the samples; arrays of values out of the range are refused. The samples are
    copied, and can't be written to.

    Parameters
    ----------
    data
        The samples; its first axis is theirs. A query that is a function gets it as it is.
    value_range
        Least and greatest value of a query; None takes any finite values.
    granularity
        Step of the grid of values; by default 2^-20 of the range's width.
    random_state
        None takes noise from the operating system's cryptographic source. A NumPy generator makes it repeatable and is
        for tests and simulations only: whoever knows its state takes the noise off.

    Raises
    ------
    ValueError
        For no samples, an empty range, or a granularity too fine for sums to be exact.
    """

    _is_private = False

    def __init__(
        self,
        data: ArrayLike,
        *,
        value_range: tuple[float, float] | None = (0.0, 1.0),
        granularity: float | None = None,
        random_state: np.random.Generator | None = None,
    ) -> None:
        self._data = kept(data)
        if not self._data.ndim or not len(self._data):
            raise ValueError(f"data has shape {self._data.shape}; it takes one or more samples along its first axis")
        self._samples = len(self._data)  # of which a mean is taken
        self.value_range = check_range(value_range)
        self._low, high = self.value_range or (0.0, 1.0)
        width = high - self._low
        self.granularity = check_number("granularity", width / 2**20 if granularity is None else granularity, gt=0)
        self._width = math.floor(width / self.granularity + 0.5)  # in steps: how far one sample moves a sum
        self._check_exact(self._width)
        self.noise = Noise(random_state)
        self.answered = 0
        self._open(math.inf, "")

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self._data)

    def answer(self, query: Query) -> float:
        """Answer one query: a function of the samples that gives one value each, or those values, of shape (n,).

        Returns
        -------
        float
            The answer, an estimate of the query's mean over the population.

        Raises
        ------
        ValueError
            For values outside the range, or another number of them.
        BudgetExhausted
            Where no further answer can be given.
        """
        self._check_open()
        if callable(query):
            values = evaluated("query", query, self._data, self.value_range if self._is_private else None)
        else:
            values = as_numbers("query", query)
        return float(self.answer_all(np.reshape(values, (1, -1)))[0])

    def answer_all(self, values: ArrayLike) -> np.ndarray:
        """Answer many queries in their order, given their values on the samples, of shape (m, n).

        Returns
        -------
        ndarray
            The answers in the order of the queries, of shape (m,).

        Raises
        ------
        ValueError
            For values outside the range, or another number of samples.
        BudgetExhausted
            Where not all can be answered. Where that was known beforehand none is; else the error has the answers.
        """
        with self._lock:
            self._check_open()
            rows = check_values("values", values, self.n, self.value_range)
            with self._charged(self._certain(len(rows))):
                answers = self._answers(rows)
                self.answered += len(rows)
            return answers

    def _certain(self, queries: int) -> float:
        """Return what so many queries spend whatever the answers are."""
        return 0

    @abstractmethod
    def _answers(self, values: np.ndarray) -> np.ndarray:
        """Answer checked queries (m, n)."""

    def _steps(self, values: np.ndarray) -> np.ndarray:
        """Return values in steps of the grid above the least value: whole numbers, as floats."""
        steps = np.floor((values - self._low) / self.granularity + 0.5)
        if self.value_range is None and steps.size:
            self._check_exact(np.abs(steps).max())
        return steps

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of values (m, n) over the samples, in steps, exactly."""
        return self._steps(values).sum(axis=1).astype(np.int64)

    def _means(self, sums: np.ndarray) -> np.ndarray:
        """Return means from sums in steps."""
        return self._low + sums * (self.granularity / self._samples)

    def _in_steps(self, of_mean: float) -> float:
        """Return how many steps of a sum belong to this much of a mean."""
        return of_mean * self._samples / self.granularity

    def _check_exact(self, steps: float) -> None:
        if steps * self._samples >= _EXACT:
            raise ValueError(
                f"granularity is {self.granularity:g}; with these values and samples it takes a coarser one"
            )


class EmpiricalAnswers(StatisticalQueryOracle):
    """Answers by the mean over the samples: exact about them, and open to overfitting by whoever asks adaptively.

    Parameters
    ----------
    data, value_range, random_state
        As in `StatisticalQueryOracle`.

    Examples
    --------
    >>> EmpiricalAnswers([0.0, 0.5, 1.0]).answer(lambda x: x)
    0.5
    """

    def _answers(self, values: np.ndarray) -> np.ndarray:
        return values.mean(axis=1)


class SampleSplit(StatisticalQueryOracle):
    """Answers each of `m` queries by the mean over a part of the samples that is used for nothing else.

    Parameters
    ----------
    data, value_range, random_state
        As in `StatisticalQueryOracle`. The samples are taken in their order.
    m
        Number of queries, at most that of the samples.

    Raises
    ------
    ValueError
        For more queries than samples.

    Examples
    --------
    >>> oracle = SampleSplit([0.0, 0.0, 1.0, 1.0], m=2)
    >>> oracle.answer(lambda x: x), oracle.answer(lambda x: x)
    (0.0, 1.0)
    """

    def __init__(self, data: ArrayLike, m: int, **options: Any) -> None:
        super().__init__(data, **options)
        self.m = check_count("m", m, at_most=self.n)
        self._open(self.m, f"all m = {self.m} queries are answered")

    def _certain(self, queries: int) -> float:
        return queries

    def _answers(self, values: np.ndarray) -> np.ndarray:
        parts = np.arange(self.answered, self.answered + len(values))
        cuts = np.arange(self.m + 1) * self.n // self.m
        sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
        rows = np.arange(len(values))
        return (sums[rows, cuts[parts + 1]] - sums[rows, cuts[parts]]) / (cuts[parts + 1] - cuts[parts])


class NoisyAnswers(StatisticalQueryOracle):
    """Answers by the mean over the samples plus noise, which makes any sequence of answers differentially private.

    Parameters
    ----------
    data, value_range, granularity, random_state
        As in `StatisticalQueryOracle`.
    noise_scale
        Standard deviation of Gaussian noise, or the scale of Laplace noise. By default
        ``width (2 m / pi)^(1/4) / sqrt(n)``: with it the classifier that overfits `m` answers most, a vote of their
        signs, gains no more than one standard deviation of the noise.
    m
        Number of queries that the default noise is for.
    noise
        ``gaussian`` or ``laplace``.

    Raises
    ------
    ValueError
        For a noise scale that isn't positive, or neither `noise_scale` nor `m`.

    References
    ----------
    Dwork et al., arXiv 1411.2664, section 1.2; Bassily et al. (2016) for the order of the default.

    Examples
    --------
    >>> oracle = NoisyAnswers([0.0, 0.5, 1.0], noise_scale=0.01, random_state=np.random.default_rng(0))
    >>> round(oracle.answer(lambda x: x), 3)
    0.491
    """

    _is_private = True

    def __init__(
        self,
        data: ArrayLike,
        noise_scale: float | None = None,
        *,
        m: int | None = None,
        noise: Literal["gaussian", "laplace"] = "gaussian",
        **options: Any,
    ) -> None:
        super().__init__(data, **options)
        self.kind = check_choice("noise", noise, ("gaussian", "laplace"))
        if noise_scale is None:
            if m is None:
                raise ValueError("noise_scale is None; it takes a positive number, or m, the number of queries")
            noise_scale = width_of(self.value_range) * (2 * check_count("m", m) / math.pi) ** 0.25 / math.sqrt(self.n)
        self.noise_scale = check_number("noise_scale", noise_scale, gt=0)
        self._drawn(0)

    def privacy(self, delta: float = 1e-6) -> dict[str, float]:
        """Return the privacy of all answers so far: epsilon at this delta, and rho of zCDP.

        Gaussian noise composes in rho; Laplace noise by the better of the sum of epsilon and of rho.

        Returns
        -------
        dict[str, float]
            Values under ``rho``, ``epsilon`` and ``delta``, as far as they apply.

        Raises
        ------
        ValueError
            For a delta outside (0, 1), or queries of any range.
        """
        check_number("delta", delta, gt=0, lt=1)
        width_of(self.value_range)
        each, m = self._width / self._in_steps(self.noise_scale), self.answered
        rho = m * each**2 / 2
        epsilon = approx_dp_from_zcdp(rho, delta) if m else 0.0
        if self.kind == "laplace" and m * each <= epsilon:
            return {"rho": rho, "epsilon": m * each, "delta": 0.0}
        return {"rho": rho, "epsilon": epsilon, "delta": delta}

    def _answers(self, values: np.ndarray) -> np.ndarray:
        return self._means(self._sums(values) + self._drawn(len(values)))

    def _drawn(self, size: int) -> np.ndarray:
        draw = self.noise.gaussian if self.kind == "gaussian" else self.noise.laplace
        return draw(self._in_steps(self.noise_scale), size)


def check_range(value_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return a range of values as two floats, or None.

    Examples
    --------
    >>> check_range((0, 1))
    (0.0, 1.0)
    """
    if value_range is None:
        return None
    low = check_number("value_range[0]", value_range[0])
    return low, check_number("value_range[1]", value_range[1], gt=low)


def width_of(value_range: tuple[float, float] | None) -> float:
    """Return how far one sample can move a sum of values.

    Examples
    --------
    >>> width_of((-1.0, 1.0))
    2.0
    """
    if value_range is None:
        raise ValueError("value_range is None; privacy takes the least and greatest value of a query")
    return value_range[1] - value_range[0]


def cut_off(values: ArrayLike, value_range: tuple[float, float] | None) -> np.ndarray:
    """Return values within the range, at whose ends those beyond it are; NaN counts as the least value.

    Examples
    --------
    >>> cut_off([0.5, 7.0, math.nan], (0.0, 1.0))
    array([0.5, 1. , 0. ])
    """
    found = as_numbers("query", values).astype(float)
    return found if value_range is None else np.clip(np.where(np.isnan(found), value_range[0], found), *value_range)


def evaluated(
    name: str, query: Callable[[Any], ArrayLike], data: Any, value_range: tuple[float, float] | None
) -> np.ndarray:
    """Return the values of a function of samples, cut off at the range; a refusal tells nothing of them.

    Examples
    --------
    >>> evaluated("query", lambda x: x[x > 0], np.array([0, 1]), None)
    Traceback (most recent call last):
    ...
    ValueError: query takes a function that gives one value for each of the 2 samples
    """
    values = cut_off(query(data), value_range)
    if values.size != len(data):
        raise ValueError(f"{name} takes a function that gives one value for each of the {len(data)} samples")
    return values.reshape(-1)


def check_values(name: str, values: ArrayLike, n: int | None, value_range: tuple[float, float] | None) -> np.ndarray:
    """Return the values (m, n) of m queries on n samples as floats, if they are finite and in the range.

    Examples
    --------
    >>> check_values("values", [[0.0, 2.0]], 2, (0.0, 1.0))
    Traceback (most recent call last):
    ...
    ValueError: values go from 0 to 2; it takes finite values from 0 to 1
    """
    rows = as_numbers(name, values).astype(float)
    if rows.ndim != 2 or (n is not None and rows.shape[1] != n):
        raise ValueError(f"{name} has shape {rows.shape}; it takes (queries, {'samples' if n is None else n})")
    low, high = (-np.finfo(float).max, np.finfo(float).max) if value_range is None else value_range
    if rows.size and not (low <= rows.min() and rows.max() <= high):  # NaN fails too
        span = f" from {low:g} to {high:g}" if value_range else ""
        raise ValueError(f"{name} go from {rows.min():g} to {rows.max():g}; it takes finite values{span}")
    return rows
