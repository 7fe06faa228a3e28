"""Privacy budgets: zero-concentrated, approximate and pure differential privacy, and how one turns into another."""

import math
from dataclasses import dataclass
from typing import Literal

from scipy import optimize

from paperworks.core.validation import check_choice, check_number


def zcdp_from_approx_dp(epsilon: float, delta: float) -> float:
    """Return the greatest rho whose rho-zCDP implies (epsilon, delta)-differential privacy by the standard conversion.

    ``rho = (sqrt(L + epsilon) - sqrt(L))^2`` with ``L = ln(1 / delta)``, the inverse of `approx_dp_from_zcdp`. The
    simpler ``epsilon^2 / (4 L)`` is not enough: it leaves out the ``+ rho`` of the conversion.

    Parameters
    ----------
    epsilon, delta
        Parameters of approximate differential privacy: ``epsilon > 0`` and ``0 < delta < 1``.

    Returns
    -------
    float
        The greatest such rho, at least 0.

    Raises
    ------
    ValueError
        For an epsilon or delta out of range.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 2; Bun and Steinke (2016), proposition 1.3.

    Examples
    --------
    >>> round(zcdp_from_approx_dp(1.0, 1e-6), 6)
    0.017469
    """
    epsilon = check_number("epsilon", epsilon, gt=0)
    log = -math.log(check_number("delta", delta, gt=0, lt=1))
    return (epsilon / (math.sqrt(log + epsilon) + math.sqrt(log))) ** 2  # the same, without cancellation


def approx_dp_from_zcdp(rho: float, delta: float, conversion: Literal["standard", "tight"] = "standard") -> float:
    """Return an epsilon such that rho-zCDP implies (epsilon, delta)-differential privacy.

    Parameters
    ----------
    rho, delta
        Parameters of zCDP, ``rho > 0``, and of approximate differential privacy, ``0 < delta < 1``.
    conversion
        ``standard`` is ``rho + 2 sqrt(rho ln(1 / delta))``; ``tight`` minimises Canonne, Kamath and Steinke's bound
        over the order of the Rényi divergence, and is never larger.

    Returns
    -------
    float
        The epsilon that belongs to this delta.

    Raises
    ------
    ValueError
        For a rho or delta out of range, or an unknown conversion.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 2; Canonne, Kamath and Steinke, arXiv 2004.00010, corollary 13.

    Examples
    --------
    >>> round(approx_dp_from_zcdp(0.017469, 1e-6), 3), round(approx_dp_from_zcdp(0.017469, 1e-6, "tight"), 3)
    (1.0, 0.837)
    """
    check_choice("conversion", conversion, ("standard", "tight"))
    rho = check_number("rho", rho, gt=0)
    log = -math.log(check_number("delta", delta, gt=0, lt=1))
    standard = rho + 2 * math.sqrt(rho * log)
    if conversion == "standard":
        return standard

    def bound(log_excess: float) -> float:
        excess = math.exp(log_excess)  # the order less one
        return (1 + excess) * rho + (log - math.log1p(excess)) / excess + log_excess - math.log1p(excess)

    centre = 0.5 * math.log(log / rho)
    found = optimize.minimize_scalar(bound, bounds=(centre - 5, centre + 5), method="bounded")
    return max(0.0, min(standard, float(found.fun)))


@dataclass(frozen=True)
class PrivacyBudget:
    """What a mechanism may spend: rho of zCDP, or epsilon of pure differential privacy.

    Parameters
    ----------
    rho
        Budget of zCDP; with `epsilon` of a pure budget, what it implies.
    epsilon
        Budget of pure or approximate differential privacy, None where only `rho` was given.
    delta
        Delta of approximate differential privacy, None where there is none.

    Examples
    --------
    >>> PrivacyBudget.of(rho=0.5).rho, PrivacyBudget.of(epsilon=1.0).pure
    (0.5, True)
    """

    rho: float
    epsilon: float | None = None
    delta: float | None = None

    @classmethod
    def of(cls, rho: float | None = None, epsilon: float | None = None, delta: float | None = None) -> "PrivacyBudget":
        """Make a budget from rho alone, from epsilon and delta, or from epsilon alone (pure).

        Parameters
        ----------
        rho
            Budget of zCDP, given alone.
        epsilon
            Budget of differential privacy, pure without a `delta`.
        delta
            Delta of approximate differential privacy.

        Returns
        -------
        PrivacyBudget
            A budget from rho alone, from epsilon and delta, or from epsilon alone (pure).
        """
        if (rho is None) == (epsilon is None) or (rho is not None and delta is not None):
            raise ValueError(
                f"rho is {rho!r}, epsilon {epsilon!r}, delta {delta!r}; it takes rho alone, epsilon alone (pure), or "
                "epsilon with delta"
            )
        if rho is not None:
            # Infinite rho means no privacy and no noise, which tests and attacks want.
            return cls(math.inf if rho == math.inf else check_number("rho", rho, gt=0))
        epsilon = check_number("epsilon", epsilon, gt=0)
        if delta is None:
            return cls(epsilon**2 / 2, epsilon)
        return cls(zcdp_from_approx_dp(epsilon, delta), epsilon, delta)

    @property
    def pure(self) -> bool:
        """Whether the budget is of pure differential privacy."""
        return self.epsilon is not None and self.delta is None

    def gaussian_std(self, sensitivity: float) -> float:
        """Return the standard deviation of Gaussian noise on a value of this L2 sensitivity.

        Returns
        -------
        float
            The standard deviation, in the unit of the value.
        """
        return sensitivity / math.sqrt(2 * self.rho)

    def report(self, delta: float = 1e-6) -> dict[str, float]:
        """Return rho with the epsilon it implies at `delta`; for a pure budget epsilon itself.

        Returns
        -------
        dict[str, float]
            Values under ``rho``, ``epsilon`` and ``delta``, as far as they apply.
        """
        if self.pure:
            return {"epsilon": float(self.epsilon or 0), "delta": 0.0, "rho": self.rho}
        if self.rho == math.inf:
            return {"epsilon": math.inf, "delta": delta, "rho": math.inf}
        delta = self.delta or delta
        return {"epsilon": self.epsilon or approx_dp_from_zcdp(self.rho, delta), "delta": delta, "rho": self.rho}


def selection_epsilon(budget: PrivacyBudget, releases: int) -> float:
    """Return the epsilon of one exponential mechanism of so many, each of which is epsilon^2 / 8-zCDP.

    Examples
    --------
    >>> selection_epsilon(PrivacyBudget.of(rho=0.5), 16)
    0.5
    """
    return float(budget.epsilon or 0) / releases if budget.pure else math.sqrt(8 * budget.rho / releases)
