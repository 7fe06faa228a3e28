"""How far answers can be from the population, how many samples that takes, and max-information."""

import math
from dataclasses import dataclass
from typing import Literal

from paperworks.core.validation import check_choice, check_count, check_number

BoundMethod = Literal["hoeffding", "splitting", "expectation", "pure", "approximate", "monitor", "sparse-validate"]
"""The bounds of `generalization_bound`, which says what each assumes."""
METHODS = ("hoeffding", "splitting", "expectation", "pure", "approximate", "monitor", "sparse-validate")


def generalization_bound(
    method: BoundMethod,
    *,
    n: int | None = None,
    m: int = 1,
    beta: float = 0.05,
    epsilon: float | None = None,
    delta: float = 0.0,
    budget: int = 1,
) -> float:
    """Return the tolerance that answers about the population keep with probability ``1 - beta``.

    Parameters
    ----------
    method
        - ``hoeffding``: m queries fixed beforehand, ``sqrt(ln(2 m / beta) / 2 n)``.
        - ``splitting``: m adaptive queries, each on its own part, ``sqrt(m ln(2 m / beta) / 2 n)``.
        - ``expectation``: the mean error of a query that an (epsilon, delta)-private analysis chose,
          ``e^epsilon - 1 + delta``.
        - ``pure``: the error of such a query for delta = 0, the least tau with ``epsilon <= tau / 2`` and
          ``n >= 12 ln(4 / beta) / tau^2``.
        - ``approximate``: the least tau with ``epsilon <= tau / 4``, ``delta <= exp(-4 ln(8 / beta) / tau)`` and
          ``n >= 48 ln(4 / beta) / tau^2``.
        - ``monitor``: Bassily et al.'s form, ``18 epsilon`` with probability ``1 - delta / epsilon``, for
          ``n >= ln(4 epsilon / delta) / epsilon^2``; `beta` is not used.
        - ``sparse-validate``: m questions of which `budget` may be found wrong,
          ``sqrt((budget ln(m + 1) + ln(2 m / beta)) / 2 n)``.
    n
        Number of samples; all but ``expectation`` take it.
    m, beta
        Number of queries, and probability of failure.
    epsilon, delta
        Parameters of the differential privacy of the whole analysis.
    budget
        Budget of ``sparse-validate``.

    Returns
    -------
    float
        The tolerance, in the range 0 to 1 of the queries.

    Raises
    ------
    ValueError
        For an unknown method, an argument out of range or missing, or too few samples for ``monitor``.

    References
    ----------
    Dwork et al., arXiv 1411.2664, theorems 10 and 11; arXiv 1506.02629, section 5; Bassily et al.,
    arXiv 1511.02513, theorem 1.2.

    Examples
    --------
    >>> round(generalization_bound("hoeffding", n=1000, m=500), 4)
    0.0704
    >>> round(generalization_bound("splitting", n=1000, m=500), 4)
    1.5735
    """
    check_choice("method", method, METHODS)
    beta, m = check_number("beta", beta, gt=0, lt=1), check_count("m", m)
    if method in ("hoeffding", "splitting", "sparse-validate"):
        logs = math.log(2 * m / beta)
        if method == "splitting":
            logs *= m
        if method == "sparse-validate":
            logs += check_count("budget", budget) * math.log1p(m)
        return math.sqrt(logs / (2 * _samples(n, method)))
    if epsilon is None:
        raise ValueError(f"epsilon is None; method {method!r} takes a number > 0")
    epsilon = check_number("epsilon", epsilon, gt=0)
    delta = check_number("delta", delta, ge=0, lt=1)
    if method == "expectation":
        return math.expm1(epsilon) + delta
    samples = _samples(n, method)
    if method == "pure":
        return max(2 * epsilon, math.sqrt(12 * math.log(4 / beta) / samples))
    if method == "approximate":
        from_delta = 4 * math.log(8 / beta) / -math.log(delta) if delta else 0.0
        return max(4 * epsilon, from_delta, math.sqrt(48 * math.log(4 / beta) / samples))
    check_number("delta", delta, gt=0)
    least = math.log(4 * epsilon / delta) / epsilon**2
    if samples < least:
        raise ValueError(f"n is {n}; epsilon = {epsilon:g} with delta = {delta:g} takes {math.ceil(least)} or more")
    return 18 * epsilon


def required_n(method: BoundMethod, tau: float, *, m: int = 1, beta: float = 0.05, budget: int = 1) -> int:
    """Return how many samples a tolerance takes: the least n for which `generalization_bound` is at most tau.

    For ``pure`` and ``approximate`` that is the part of the condition that concerns n; the analysis has to be private
    enough besides.

    Parameters
    ----------
    method
        As in `generalization_bound`; ``expectation`` and ``monitor`` have no such number.
    tau
        Tolerance that the answers have to keep.
    m, beta, budget
        As in `generalization_bound`.

    Returns
    -------
    int
        The least number of samples.

    Raises
    ------
    ValueError
        For a method without an answer, or an argument out of range.

    References
    ----------
    As `generalization_bound`.

    Examples
    --------
    >>> required_n("hoeffding", 0.05, m=500), required_n("splitting", 0.05, m=500)
    (1981, 990349)
    """
    check_choice("method", method, [name for name in METHODS if name not in ("expectation", "monitor")])
    tau = check_number("tau", tau, gt=0)
    at_one = generalization_bound(method, n=1, m=m, beta=beta, budget=budget, epsilon=1e-300)
    return max(1, math.ceil((at_one / tau) ** 2 * (1 - 1e-12)))


@dataclass(frozen=True)
class MaxInformation:
    """How much an analysis can make any outcome likelier than it is on fresh data: ``2^bits``, and beta besides.

    The sum of two is that of both analyses, one after the other.

    Examples
    --------
    >>> both = MaxInformation(3.0, 0.01) + MaxInformation(2.0, 0.02)
    >>> both, both.failure(1e-4)
    (MaxInformation(bits=5.0, beta=0.03), 0.0332)
    """

    bits: float
    beta: float = 0.0

    def __add__(self, other: "MaxInformation") -> "MaxInformation":
        return MaxInformation(self.bits + other.bits, self.beta + other.beta)

    def failure(self, probability: float) -> float:
        """Return the probability of an outcome that has this probability for every fixed answer of the analysis.

        Returns
        -------
        float
            The bound on the probability, at most 1.
        """
        probability = check_number("probability", probability, ge=0, le=1)
        return min(1.0, 2.0**self.bits * probability + self.beta)


def max_information(
    kind: Literal["description", "pure", "product"],
    *,
    bits: float | None = None,
    epsilon: float | None = None,
    n: int | None = None,
    beta: float = 0.0,
) -> MaxInformation:
    """Return the (approximate) max-information of an analysis.

    Parameters
    ----------
    kind
        - ``description``: its answer is one of ``2^bits``. With beta = 0 a union bound gives `bits`; the rule for
          beta > 0 is ``bits + log2(1 / beta)``.
        - ``pure``: it is epsilon-differentially private on n samples of any joint distribution: ``epsilon n log2 e``.
        - ``product``: the same on independent samples, except with probability `beta`:
          ``log2 e (epsilon^2 n / 2 + epsilon sqrt(n ln(2 / beta) / 2))``.
    bits, epsilon, n, beta
        What the formulas name: length of the output in bits, privacy, number of samples and probability of failure.

    Returns
    -------
    MaxInformation
        Bits of information and the probability of failure beside them.

    Raises
    ------
    ValueError
        For an unknown kind, or an argument out of range or missing.

    References
    ----------
    Dwork et al., arXiv 1506.02629, theorems 17, 19 and 20.

    Examples
    --------
    >>> round(max_information("product", epsilon=0.01, n=10_000, beta=0.01).bits, 2)
    3.07
    """
    check_choice("kind", kind, ("description", "pure", "product"))
    beta = check_number("beta", beta, ge=0, lt=1)
    if kind == "description":
        length = check_number("bits", bits, ge=0)
        return MaxInformation(length + (math.log2(1 / beta) if beta else 0.0), beta)
    epsilon, n = check_number("epsilon", epsilon, gt=0), check_count("n", n)
    if kind == "pure":
        return MaxInformation(epsilon * n * math.log2(math.e))
    check_number("beta", beta, gt=0)
    nats = epsilon**2 * n / 2 + epsilon * math.sqrt(n * math.log(2 / beta) / 2)
    return MaxInformation(nats * math.log2(math.e), beta)


def _samples(n: int | None, method: str) -> int:
    if n is None:
        raise ValueError(f"n is None; method {method!r} takes the number of samples")
    return check_count("n", n)
