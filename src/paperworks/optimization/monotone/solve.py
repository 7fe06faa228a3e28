"""What all solvers of monotone inclusions share: counting evaluations, checks, histories, and a verified end."""

import math
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.monotone.operators import FiniteSumOperator
from paperworks.optimization.monotone.residuals import Operator, norm
from paperworks.optimization.proximal import Array, Prox, namespace

Callback = Callable[[OptimizeResult], Any]
"""Called after each step with the result so far; it stops by raising StopIteration."""


class Iterate(NamedTuple):
    """Where a method is after a step."""

    u: Array
    residual: float  # |F(u) + g|, or its estimate
    g: Array | None = None  # an element of G(u), where the step gives one
    exact: bool = False  # whether the residual is one


Steps = Generator[Iterate, Any, None]


class Oracle:
    """F with its components, each evaluation counted and checked."""

    def __init__(
        self,
        F: Operator | FiniteSumOperator,
        u0: Array,
        *,
        F_batch: Callable[[Array, Any], Array] | None = None,
        F_batch_diff: Callable[[Array, Array, Any], Array] | None = None,
        n: int | None = None,
        L: float | None = None,
        resolvent: Prox | None = None,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        if not callable(F):
            raise TypeError(f"F is {type(F).__name__}; it takes an operator, called with a point")
        try:
            self.F, self.xp = F, namespace(u0)
        except TypeError:
            raise TypeError(f"u0 is {type(u0).__name__}; it takes a NumPy array or a torch tensor") from None
        if u0.ndim != 1 or not len(u0):
            raise ValueError(f"u0 has shape {tuple(u0.shape)}; it takes one vector")
        if not bool(self.xp.isfinite(u0).all()):
            raise ValueError("u0 has entries that are not finite; it takes finite ones")
        own = F if isinstance(F, FiniteSumOperator) else None
        if own and len(u0) != own.size:
            raise ValueError(f"u0 has {len(u0)} entries; it takes {own.size}, as F does")
        if own and isinstance(getattr(own, "A", None), np.ndarray) and self.xp is not np:
            raise TypeError("u0 is a torch tensor; it takes a NumPy array, since F holds some")
        self.u0 = u0 * 1.0  # a copy, of floating-point numbers
        if n is None and own is None and (F_batch is not None or F_batch_diff is not None):
            raise TypeError("n is missing; it takes the number of components, since F does not bring one")
        self.n = check_count("n", n if n is not None else own.n if own else 1)
        given = L if L is not None else own.L if own else None
        if given is None:
            raise TypeError("L is missing; it takes the Lipschitz constant, since F does not bring one")
        self.L = check_number("L", given, gt=0)
        self.L_F = own.L_F if own else self.L  # the one bounds the other
        self.resolvent = resolvent if resolvent is not None else own.resolvent if own else None
        self.rng = np.random.default_rng(random_state)
        self._batch = F_batch or (own.batch if own else None)
        parts = own if F_batch is None and F_batch_diff is None else None
        self._difference = F_batch_diff or (parts.batch_difference if parts else None)
        self._sample = parts.sample if parts else self._uniform
        self.nfev = 0

    def _uniform(self, count: int, rng: np.random.Generator) -> Any:
        index = rng.integers(self.n, size=count)
        return index if self.xp is np else self.xp.as_tensor(index, device=self.u0.device)

    @property
    def samples(self) -> bool:
        """Whether components can be evaluated."""
        return self._batch is not None or self._difference is not None

    def constant(self, count: int) -> float:
        """Return the Lipschitz constant in expectation of the mean of a number of components."""
        return math.sqrt(self.L**2 / count + self.L_F**2 * (1 - 1 / count))

    def __call__(self, u: Array) -> Array:
        """Return F, for as many evaluations as it has components."""
        self.nfev += self.n
        return self._checked("F", self.F(u))

    def sample(self, count: int) -> Any:
        """Draw components."""
        return self._sample(count, self.rng)

    def batch(self, u: Array, count: int) -> Array:
        """Return the mean of freshly drawn components."""
        if self._batch is None:
            raise TypeError("F_batch is missing; it takes the mean of components, which this method draws")
        self.nfev += count
        return self._checked("F_batch", self._batch(u, self.sample(count)))

    def difference(self, u: Array, v: Array, count: int) -> Array:
        """Return the mean of the same freshly drawn components at `u`, less that at `v`."""
        self.nfev += 2 * count
        index = self.sample(count)
        if self._difference is not None:
            return self._checked("F_batch_diff", self._difference(u, v, index))
        if self._batch is None:
            raise TypeError("F_batch is missing; it takes the mean of components, which this method draws")
        return self._checked("F_batch", self._batch(u, index)) - self._checked("F_batch", self._batch(v, index))

    def resolve(self, v: Array, eta: float) -> Array:
        """Return the resolvent of G."""
        return v if self.resolvent is None else self.resolvent(v, eta)

    def _checked(self, name: str, value: Array) -> Array:
        if not isinstance(value, type(self.u0)) or value.shape != self.u0.shape:
            got = f"{type(value).__name__} of shape {tuple(getattr(value, 'shape', ()))}"
            raise ValueError(f"{name} returned {got}; it takes as many entries as u0 has, {len(self.u0)}")
        if not math.isfinite(float(value.sum())) and not bool(self.xp.isfinite(value).all()):
            raise ValueError(f"{name} returned entries that are not finite after {self.nfev} evaluations")
        return value


@dataclass(frozen=True)
class Limits:
    """When a solver ends."""

    atol: float
    max_passes: float
    callback: Callback | None = None

    def __post_init__(self) -> None:
        check_number("atol", self.atol, ge=0)
        check_number("max_passes", self.max_passes, gt=0)
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback is {type(self.callback).__name__}; it takes a function")


class Restarts:
    """Starts a method again from where it got to, each time the residual has fallen by a factor.

    Parameters
    ----------
    rule
        "adaptive", or after how many steps to start again; None for never.
    factor
        To what part the residual has to fall.
    """

    def __init__(self, rule: str | int | None, factor: float) -> None:
        if rule is not None and rule != "adaptive":
            if isinstance(rule, str):
                raise ValueError(f"restart is {rule!r}; it takes 'adaptive', a number of steps, or None")
            check_count("restart", rule)
        self.rule, self.factor = rule, check_number("restart_factor", factor, gt=0, lt=1)

    def due(self, steps: int, residual: float, first: float) -> bool:
        """Say whether to start again after `steps` since the last start, whose first residual is given."""
        if self.rule is None:
            return False
        return residual <= self.factor * first if self.rule == "adaptive" else steps >= int(self.rule)


def solve(
    method: Callable[[Array], Steps], oracle: Oracle, limits: Limits, restarts: Restarts | None = None
) -> OptimizeResult:
    """Run a method until its residual, confirmed by a whole evaluation, is small enough.

    Parameters
    ----------
    method
        Makes the method's steps from a starting point.
    oracle
        What the method evaluates, with its counts.
    limits
        When to stop.
    restarts
        When to start the method again; by default never.

    Returns
    -------
    OptimizeResult
        As documented of `halpern_vr`.
    """
    restarts = restarts or Restarts(None, 0.25)
    steps, residuals, counts, since = method(oracle.u0), [], [], 0
    first = math.inf
    status, message, at, warned = 1, "The number of passes ran out.", Iterate(oracle.u0, math.inf), False
    sent = None
    while oracle.nfev < limits.max_passes * oracle.n:
        at = steps.send(sent)
        sent, residual, since = None, at.residual, since + 1
        if residual <= limits.atol and not at.exact:
            at, sent = _confirmed(at, oracle)
            residual = at.residual
        residuals.append(residual)
        counts.append(oracle.nfev)
        first = residual if since == 1 else first
        if not warned and residual > 10 * residuals[0] > 0:
            warned = True
            warnings.warn(
                f"the residual grew from {residuals[0]:.3g} to {residual:.3g}: L may be too small", RuntimeWarning, 3
            )
        if limits.callback is not None:
            try:
                limits.callback(_so_far(at, oracle, len(residuals)))
            except StopIteration:
                status, message = 2, "The callback stopped it."
                break
        if residual <= limits.atol and (at.exact or sent is not None):
            status, message = 0, "The residual is within its tolerance."
            break
        if restarts.due(since, residual, first):
            steps, since, sent = method(at.u), 0, None
    return OptimizeResult(
        **_so_far(at, oracle, len(residuals)),
        success=status == 0,
        status=status,
        message=message,
        residual_history=np.array(residuals),
        nfev_history=np.array(counts),
    )


def _confirmed(at: Iterate, oracle: Oracle) -> tuple[Iterate, Array]:
    """Evaluate F where the method is, which ends a run or makes its estimate exact."""
    value = oracle(at.u)
    if at.g is not None or oracle.resolvent is None:
        g = 0.0 if at.g is None else at.g
        return at._replace(residual=norm(value + g)), value
    # No element of G is known here: a forward-backward step gives one.
    eta = 1 / oracle.L
    ahead = at.u - eta * value
    end = oracle.resolve(ahead, eta)
    return at._replace(u=end, residual=norm(oracle(end) + (ahead - end) / eta)), value


def _so_far(at: Iterate, oracle: Oracle, nit: int) -> OptimizeResult:
    """Return what a callback sees: no histories, which would take longer to copy the longer a run is."""
    return OptimizeResult(x=at.u, residual=at.residual, nfev=oracle.nfev, npasses=oracle.nfev / oracle.n, nit=nit)
