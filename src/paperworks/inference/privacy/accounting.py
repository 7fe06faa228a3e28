"""Privacy budgets: zero-concentrated, approximate and pure differential privacy, and how one turns into another."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scipy import optimize

from paperworks.core.validation import check_choice, check_number

Conversion = Literal["tight", "standard"]


def zcdp_from_approx_dp(epsilon: float, delta: float, conversion: Conversion = "tight") -> float:
    """Return the greatest rho whose rho-zCDP implies (epsilon, delta)-differential privacy by a conversion.

    The inverse of `approx_dp_from_zcdp`. For the standard conversion it is ``(sqrt(L + epsilon) - sqrt(L))^2`` with
    ``L = ln(1 / delta)``; the simpler ``epsilon^2 / (4 L)`` is not enough, since it leaves out the ``+ rho``.

    Parameters
    ----------
    epsilon, delta
        Parameters of approximate differential privacy: ``epsilon > 0`` and ``0 < delta < 1``.
    conversion
        As in `approx_dp_from_zcdp`.

    Returns
    -------
    float
        The greatest such rho, at least 0.

    Raises
    ------
    ValueError
        For an epsilon or delta out of range, or an unknown conversion.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 2; Bun and Steinke (2016), proposition 1.3; Canonne, Kamath and Steinke,
    arXiv 2004.00010, corollary 13.

    Examples
    --------
    >>> round(zcdp_from_approx_dp(1.0, 1e-6), 6), round(zcdp_from_approx_dp(1.0, 1e-6, "standard"), 6)
    (0.024356, 0.017469)
    """
    check_choice("conversion", conversion, ("tight", "standard"))
    epsilon = check_number("epsilon", epsilon, gt=0)
    log = -math.log(check_number("delta", delta, gt=0, lt=1))
    standard = (epsilon / (math.sqrt(log + epsilon) + math.sqrt(log))) ** 2  # the same, without cancellation
    if conversion == "standard":
        return standard

    def lacking(log_excess: float) -> float:  # every order gives a rho that implies the guarantee
        return -(epsilon - _beside_rho(log_excess, log)) / (1 + math.exp(log_excess))

    return max(standard, -_least(lacking, 0.5 * math.log(log / standard)))


def approx_dp_from_zcdp(rho: float, delta: float, conversion: Conversion = "tight") -> float:
    """Return an epsilon such that rho-zCDP implies (epsilon, delta)-differential privacy.

    Parameters
    ----------
    rho, delta
        Parameters of zCDP, ``rho > 0``, and of approximate differential privacy, ``0 < delta < 1``.
    conversion
        ``tight`` minimises Canonne, Kamath and Steinke's bound over the order of the Rényi divergence, and is never
        larger than ``standard``, which is ``rho + 2 sqrt(rho ln(1 / delta))``.

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
    >>> round(approx_dp_from_zcdp(0.017469, 1e-6), 3), round(approx_dp_from_zcdp(0.017469, 1e-6, "standard"), 3)
    (0.837, 1.0)
    """
    check_choice("conversion", conversion, ("tight", "standard"))
    rho = check_number("rho", rho, gt=0)
    log = -math.log(check_number("delta", delta, gt=0, lt=1))
    standard = rho + 2 * math.sqrt(rho * log)
    if conversion == "standard":
        return standard

    def bound(log_excess: float) -> float:
        return (1 + math.exp(log_excess)) * rho + _beside_rho(log_excess, log)

    return max(0.0, min(standard, _least(bound, 0.5 * math.log(log / rho))))


def _beside_rho(log_excess: float, log: float) -> float:
    """Return what the order alpha, given by ln(alpha - 1), adds to ``alpha rho``; `log` is ln(1 / delta)."""
    excess = math.exp(log_excess)
    return (log - math.log1p(excess)) / excess + log_excess - math.log1p(excess)


def _least(function: Callable[[float], float], centre: float) -> float:
    return float(optimize.minimize_scalar(function, bounds=(centre - 5, centre + 5), method="bounded").fun)


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

    def laplace_scale(self, sensitivity: float) -> float:
        """Return the scale of Laplace noise on a value of this L1 sensitivity, for a pure budget.

        Returns
        -------
        float
            The scale, in the unit of the value.
        """
        return sensitivity / float(self.epsilon or 1)

    def times(self, streams: int) -> "PrivacyBudget":
        """Return the budget of so many mechanisms on the same people's data, each of which has this one.

        Parameters
        ----------
        streams
            How many mechanisms there are, or streams that one of them has seen.

        Returns
        -------
        PrivacyBudget
            The sum; a delta stays as it is, and epsilon follows from the sum of rho.
        """
        if streams == 1:
            return self
        if self.pure:
            return PrivacyBudget.of(epsilon=streams * float(self.epsilon or 0))
        return PrivacyBudget(streams * self.rho, None, self.delta)

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
