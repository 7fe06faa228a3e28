"""Which mechanism to take, and how well any can do."""

import math
from typing import Any, Literal

import numpy as np

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.continual.mechanism import ContinualMechanism
from paperworks.inference.continual.recompute import RecomputeMaxSum, RecomputeSumSelect
from paperworks.inference.continual.trees import TreeMaxSum, TreeSumSelect
from paperworks.inference.privacy.accounting import PrivacyBudget

Problem = Literal["maxsum", "sumselect"]


class ConstantAnswer(ContinualMechanism):
    """Publish 0 after every record: private without noise, and the best there is for very short streams.

    Parameters
    ----------
    T, d, rho, epsilon, delta, sensitivity, granularity, random_state
        As in `ContinualMechanism`.
    max_value
        What entries of a record are at most, for the bound of the error.

    Examples
    --------
    >>> ConstantAnswer(T=3, rho=0.1).release([1, 1, 0])
    array([0, 0, 0])
    """

    def __init__(self, T: int, d: int = 1, *, max_value: float = 1, **options: Any) -> None:
        self.max_value = check_number("max_value", max_value, gt=0)
        super().__init__(T, d, **options)

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return ``max_value T``, which no sum exceeds.

        Parameters
        ----------
        beta
            Not used, since the bound always holds.

        Returns
        -------
        float
            What no sum exceeds, in the unit of the records.
        """
        return self.max_value * self.T

    def _answer(self, records: np.ndarray) -> np.ndarray:
        self.t += len(records)
        return np.zeros(len(records), dtype=int)


def auto_mechanism(
    problem: Problem, T: int, d: int, *, beta: float = 1 / 3, max_value: float = 1, **options: Any
) -> ContinualMechanism:
    """Return the mechanism with the least error bound: recomputing, the tree, or a constant.

    Parameters
    ----------
    problem
        ``maxsum`` for the largest of the running sums, ``sumselect`` for its index.
    T, d
        Horizon and coordinates.
    beta
        Failure probability of the bounds that are compared.
    max_value
        What entries of a record are at most; the bounds of all mechanisms but the tree rest on it.
    **options
        The budget (`rho`, or `epsilon` and `delta`, or `epsilon`), `sensitivity`, `granularity` and `random_state`, as
        in `ContinualMechanism`.

    Returns
    -------
    ContinualMechanism
        The mechanism, ready for its first record.

    Raises
    ------
    ValueError
        For an unknown problem, and as `ContinualMechanism`.

    References
    ----------
    Jain et al., arXiv 2112.00828, theorem 1.1.

    Examples
    --------
    >>> [type(auto_mechanism("maxsum", 2**14, d, rho=0.5)).__name__ for d in (1, 64)]
    ['TreeMaxSum', 'RecomputeMaxSum']
    """
    check_choice("problem", problem, ("maxsum", "sumselect"))
    kinds = (RecomputeMaxSum, TreeMaxSum) if problem == "maxsum" else (RecomputeSumSelect, TreeSumSelect)
    candidates: list[ContinualMechanism] = [
        kinds[0](T, d, beta=beta, max_value=max_value, **options),
        kinds[1](T, d, **options),
        ConstantAnswer(T, d, max_value=max_value, **options),
    ]
    return min(candidates, key=lambda mechanism: mechanism.error_bound(beta))


def lower_bound_rate(
    T: int, d: int, *, rho: float | None = None, epsilon: float | None = None, delta: float | None = None
) -> float:
    """Return the rate, without constants, below which no private mechanism's error for either problem can be.

    ``min(T^(1/3) / (epsilon^(2/3) log^(2/3)(epsilon T)), sqrt(d) / (epsilon log d), T)`` for approximate, and
    ``min(sqrt(T / epsilon), d / epsilon, T)`` for pure differential privacy.

    Parameters
    ----------
    T, d
        Horizon and coordinates.
    rho, epsilon, delta
        The budget, as in `ContinualMechanism`; for `rho` epsilon is taken as ``sqrt(2 rho)``.

    Returns
    -------
    float
        The rate, in counts of records.

    Raises
    ------
    ValueError
        For a horizon or dimension below 1, or a budget out of range.

    References
    ----------
    Jain et al., arXiv 2112.00828, theorem 1.2; constants are left out and logarithms cut at 1.

    Examples
    --------
    >>> lower_bound_rate(10**6, 4, epsilon=1.0)
    4.0
    """
    T, d = check_count("T", T), check_count("d", d)
    budget = PrivacyBudget.of(rho, epsilon, delta)
    if budget.pure:
        return min(math.sqrt(T / budget.epsilon), d / budget.epsilon, float(T))  # type: ignore[operator]
    eps = budget.epsilon or math.sqrt(2 * budget.rho)
    cube = T ** (1 / 3) / (eps ** (2 / 3) * max(1.0, math.log(max(eps * T, 1))) ** (2 / 3))
    return min(cube, math.sqrt(d) / (eps * max(1.0, math.log(d))), float(T))
