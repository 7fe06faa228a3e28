"""Penalty methods of first order for bilevel problems: double loop, single loop with momentum, and F2SA."""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, finfo

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.optimization.bilevel.levels import (
    Levels,
    Objective,
    Point,
    Projection,
    RecursiveMomentum,
    Tensors,
    mixed,
    moved,
    norm,
    smoothness,
    subtract,
)
from paperworks.optimization.schedules import PolynomialDecay

Method = Literal["double_loop", "single_loop", "f2sa"]
Schedule = float | Callable[[int], float]
StepSize = float | Tensor | Callable[[int], float | Tensor]
"""A step size, one for each entry, or a schedule of either; a number is the first value of the method's schedule."""

# Exponents of the decay of sigma, lr_x and lr_y: with samples, and without.
POWERS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "double_loop": ((1 / 3, 1 / 3, 0.0), (1 / 3, 1 / 3, 0.0)),
    "single_loop": ((1 / 5, 3 / 5, 2 / 5), (1 / 3, 1 / 3, 0.0)),
    "f2sa": ((1 / 7, 5 / 7, 4 / 7), (1 / 3, 1 / 3, 0.0)),
}
OFFSET = 10.0
SIGMA_PER_ATOL = 10.0


@dataclass(frozen=True)
class BilevelResult:
    """Where a bilevel method is, or ended.

    Parameters
    ----------
    x, y
        The upper and the lower variables, in the structure of `x0` and `y0`.
    z
        The lower variables that follow the lower objective alone.
    psi_sigma
        The penalised objective `f(x, y) + (g(x, y) - g(x, z)) / sigma` at the last estimate, of a batch where there are
        batches.
    grad_norm
        Norm of the last projected step over its step size: the estimated gradient's where nothing is projected.
    inner_residual
        The larger norm of the last steps of y and z over their step size.
    sigma
        The last penalty parameter.
    steps
        Outer steps taken.
    n_grad_f, n_grad_g
        Gradients of each objective, times the samples of each.
    n_samples
        Samples drawn, 0 without a sampler.
    history
        By name, one value for each outer step: "psi_sigma", "grad_norm", "inner_residual", "sigma".
    status
        0 converged to `atol`, 1 took all steps, 2 stopped by the callback.
    """

    x: Any
    y: Any
    z: Any
    psi_sigma: float
    grad_norm: float
    inner_residual: float
    sigma: float
    steps: int
    n_grad_f: int
    n_grad_g: int
    n_samples: int
    status: int
    history: dict[str, list[float]] = field(repr=False)

    @property
    def success(self) -> bool:
        """Whether it converged."""
        return self.status == 0

    @property
    def message(self) -> str:
        """How it ended, in words."""
        return ("Converged.", "All steps were taken.", "Stopped by the callback.")[self.status]


def penalty_bilevel(
    f: Objective,
    g: Objective,
    x0: Any,
    y0: Any,
    *,
    method: Method = "double_loop",
    sigma: Schedule = 0.1,
    project_x: Projection | None = None,
    project_y: Projection | None = None,
    prox_rho: float | None = None,
    averaging: float | None = None,
    steps: int = 1000,
    inner_steps: int | Callable[[int], int] | None = None,
    lr_x: StepSize | None = None,
    lr_y: StepSize | None = None,
    momentum: Schedule | None = None,
    sampler: Callable[[int], tuple[Any, Any]] | None = None,
    batch_size: int | Callable[[int], int] | None = None,
    inner_batch_size: int | Callable[[int], int] = 1,
    atol: float = 0.0,
    callback: Callable[[BilevelResult], Any] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> BilevelResult:
    r"""Minimise `f(x, y)` over x in X and over y among the minimisers of `g(x, .)` in Y, by first-order gradients only.

    Two copies of the lower variables follow `sigma f + g` and `g`. Where they are, the gradient of the penalised
    objective :math:`\psi_\sigma(x) = (\min_y (\sigma f + g) - \min_y g) / \sigma` is
    :math:`\nabla_x f(x, y) + (\nabla_x g(x, y) - \nabla_x g(x, z)) / \sigma`: of order sigma from the true one wherever
    the lower level meets a proximal error bound, several lower solutions included (`estimate_error_bound`).

    Parameters
    ----------
    f, g
        Upper and lower objective: functions of x and y, and of a batch where there is a sampler, that return a number.
        In batches they are means over samples.
    x0, y0
        Starts: tensors, nests of them, or modules, whose parameters come as a dictionary by name
        (`torch.func.functional_call` takes it).
    method
        "double_loop" (Algorithm 1), "single_loop" (Algorithm 2: one inner step, momentum on every partial gradient), or
        "f2sa" (Algorithm 1 without projections and proximal terms, with the schedules of the predecessor).
    sigma
        Penalty parameter: a schedule of the outer step, or its first value. Numbers fall by the method's power of
        `1 + k / 10`: 1/3, with samples 1/5 in the single loop and 1/7 for F2SA.
    project_x, project_y
        Projections on X and Y, such as `paperworks.optimization.prox_box`, of points in the structure of x0 and y0.
    prox_rho
        Inner steps minimise with a proximal term `|y - y_k|^2 / (2 rho)`; `math.inf` for none. By default 1 / (4 L_g)
        in the double loop, with L_g estimated, and none in the others.
    averaging
        How far y and z move to where the inner steps led, over 0 and up to 1; by default 1, with a sampler 0.5 in the
        double loop.
    steps
        Outer steps at most.
    inner_steps
        Inner steps for each outer one, or a schedule; by default 10, in the single loop 1.
    lr_x
        Step sizes of x: a schedule, or its first value (powers 1/3, with samples 3/5 and 5/7). By default that of
        sigma, since the penalised objective is as steep as 1 / sigma. Tensors give each entry its own.
    lr_y
        Step sizes of y and z: a schedule, or its first value (constant, with samples powers 2/5 and 4/7). By default
        1 / (L_g + sigma L_f + 1 / rho) with constants estimated at the start by power iteration.
    momentum
        In the single loop, the share of the new gradient in each estimate: a schedule, or a constant; 1 for none. By
        default `(1 + k / 10) ** (-4 / 5)` with a sampler, else 1. The first estimate is the gradient itself.
    sampler
        Called with a number of samples, returns an upper and a lower batch of so many; by default objectives are
        deterministic.
    batch_size
        Samples of the outer gradient, or a schedule; by default `(1 + k) ** (4 / 3)` in the double loop, else 1.
    inner_batch_size
        Samples of each inner gradient, or a schedule.
    atol
        The run has converged where `grad_norm` is at most this, sigma at most ten times this or constant, and, without
        samples, the lower level is solved to sigma times this, without its proximal terms.
    callback
        Called after each outer step with the result so far; it stops the run by raising StopIteration.
    progress
        What wraps the range of outer steps.

    Returns
    -------
    BilevelResult
        The last iterates with their history and counts.

    Raises
    ------
    ValueError
        If a number is out of range, sigma rises, a start lies outside its set, or something becomes infinite.
    TypeError
        If an argument is of a type that is not taken.
    RuntimeError
        If an objective is not differentiable in y.

    Warns
    -----
    UserWarning
        If a deterministic run ends with an inner residual above `sigma * grad_norm`: sigma is too small for the
        accuracy of the lower level, so take more inner steps.

    References
    ----------
    arXiv:2309.01753, equation (4), Algorithms 1 and 2.

    Examples
    --------
    Which ridge fits held-out data? The lower level has the closed form `y = b / (1 + x)`.

    >>> import torch
    >>> b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> found = penalty_bilevel(
    ...     lambda x, y: ((y - b / 1.5) ** 2).sum(),
    ...     lambda x, y: ((y - b) ** 2).sum() / 2 + x * (y**2).sum() / 2,
    ...     torch.tensor(0.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64),
    ...     sigma=0.01, lr_x=0.1, prox_rho=math.inf, steps=500,
    ... )
    >>> round(float(found.x), 3)
    0.5
    """  # fmt: skip
    run = _Run(f, g, x0, y0, method, sigma, project_x, project_y, prox_rho, averaging, steps, inner_steps, lr_x, lr_y,
               momentum, sampler, batch_size, inner_batch_size, atol)  # fmt: skip
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {type(callback).__name__}; it takes a function")
    status = 1
    for k in range(run.steps) if progress is None else progress(range(run.steps)):
        run.step(k)
        if callback is not None:
            try:
                callback(run.result(2))
            except StopIteration:
                status = 2
                break
        if run.converged:
            status = 0
            break
    found = run.result(status)
    needed = max(found.sigma * max(found.grad_norm, run.atol), run.rounding)
    if sampler is None and status != 2 and found.inner_residual > needed:
        warnings.warn(
            f"the inner residual {found.inner_residual:.2g} exceeds sigma {found.sigma:.2g} times the gradient "
            f"{found.grad_norm:.2g}: sigma is smaller than the inner accuracy allows; take more inner_steps",
            stacklevel=2,
        )
    return found


class _Run:
    """One run: its checked settings and its state."""

    def __init__(self, f: Objective, g: Objective, x0: Any, y0: Any, method: Method, sigma: Schedule,
                 project_x: Projection | None, project_y: Projection | None, prox_rho: float | None,
                 averaging: float | None, steps: int, inner_steps: Any, lr_x: StepSize | None, lr_y: StepSize | None,
                 momentum: Schedule | None, sampler: Any, batch_size: Any, inner_batch_size: Any,
                 atol: float) -> None:  # fmt: skip
        check_choice("method", method, get_args(Method))
        self.steps, self.atol = check_count("steps", steps), check_number("atol", atol, ge=0)
        plain = {"project_x": project_x, "project_y": project_y, "prox_rho": prox_rho}
        for name, given in plain.items():
            if method == "f2sa" and given is not None:
                raise ValueError(f"{name} is {given!r}; it takes None with method 'f2sa', which is unconstrained")
        if method != "single_loop" and momentum is not None:
            raise ValueError(f"momentum is {momentum!r}; it takes None with method {method!r}")
        if method == "single_loop" and inner_steps not in (None, 1):
            raise ValueError(f"inner_steps is {inner_steps!r}; it takes 1 with method 'single_loop'")
        single, sampled = method == "single_loop", sampler is not None
        if sampled and not callable(sampler):
            raise TypeError(f"sampler is {type(sampler).__name__}; it takes a function of a number of samples")
        x, y = Point("x0", x0), Point("y0", y0)
        self.levels, self.sampler, self.n_samples = Levels(f, g, x, y), sampler, 0
        self.project_x, self.project_y = x.within(project_x), y.within(project_y)
        self.x, self.y, self.z = x.start, y.start, y.start

        powers = POWERS[method][0 if sampled else 1]
        self.constant_sigma = False
        self.sigma = _schedule("sigma", sigma, powers[0])
        first = float(_positive("sigma", self.sigma(0)))
        self.constant_sigma = self.sigma(self.steps - 1) == first  # a schedule may end with the run
        self.lr_x = self.sigma if lr_x is None else _schedule("lr_x", lr_x, powers[1])
        automatic = lr_y is None or (prox_rho is None and method == "double_loop")
        L_f, L_g = self._smoothness() if automatic else (0.0, 0.0)
        if prox_rho is None:
            prox_rho = 1 / (4 * L_g) if method == "double_loop" and L_g else math.inf
        self.rho = prox_rho if prox_rho == math.inf else check_number("prox_rho", prox_rho, gt=0)
        total = L_g + first * L_f + 1 / self.rho
        self.lr_y = _schedule("lr_y", (1 / total if total else 1.0) if lr_y is None else lr_y, powers[2])
        default = 0.5 if sampled and method == "double_loop" else 1.0
        self.averaging = check_number("averaging", default if averaging is None else averaging, gt=0, le=1)
        self.inner_steps = _counts("inner_steps", (1 if single else 10) if inner_steps is None else inner_steps)
        if batch_size is None:
            batch_size = (lambda k: math.ceil((1 + k) ** (4 / 3))) if method == "double_loop" else 1
        self.batch_size = _counts("batch_size", batch_size)
        self.inner_batch_size = _counts("inner_batch_size", inner_batch_size)
        if momentum is None:
            momentum = PolynomialDecay(1.0, 4 / 5, OFFSET) if single and sampled else 1.0
        constant = momentum if callable(momentum) else check_number("momentum", momentum, gt=0, le=1)
        self.eta: Callable[[int], float] = constant if callable(constant) else lambda k: constant
        self.momenta = [RecursiveMomentum() for _ in range(5)]
        self.before: tuple[Tensors, Tensors, Tensors] | None = None
        self.last_sigma = math.inf
        self.history: dict[str, list[float]] = {n: [] for n in ("psi_sigma", "grad_norm", "inner_residual", "sigma")}

    @property
    def rounding(self) -> float:
        """What rounding leaves of an inner residual."""
        return 1e3 * float(finfo(self.y[0].dtype).eps) * (1 + norm(self.y))

    def _smoothness(self) -> tuple[float, float]:
        upper, lower = self._draw(32)
        of_f, of_g = (
            smoothness(partial(self.levels.slope, name, self.x, batch=batch), self.y)
            for name, batch in (("f", upper), ("g", lower))
        )
        return of_f, of_g

    def _draw(self, count: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        if self.sampler is None:
            return (), ()
        self.n_samples += count
        upper, lower = self.sampler(count)
        return (upper,), (lower,)

    def _smoothed(
        self, which: slice, k: int, new: tuple[Tensors, ...], again: Callable[[], tuple[Any, ...]] | None
    ) -> list[Tensors]:
        """Return the gradients by recursive momentum; `again` gives those of the same samples at the point before."""
        eta = check_number("momentum", self.eta(k), gt=0, le=1)
        momenta = self.momenta[which]
        old = None if eta == 1 or again is None else again()
        return [
            m.update(value, eta, None if old is None else old[i])
            for i, (m, value) in enumerate(zip(momenta, new, strict=True))
        ]  # fmt: skip

    def step(self, k: int) -> None:
        """Take one outer step."""
        sigma = float(_positive("sigma", self.sigma(k)))
        if sigma > self.last_sigma * (1 + 1e-12):
            raise ValueError(
                f"sigma rises from {self.last_sigma:g} to {sigma:g} at step {k}; it takes a falling schedule"
            )
        lr_x, lr_y = _positive("lr_x", self.lr_x(k)), _positive("lr_y", self.lr_y(k))
        x, y, z, levels, before = self.x, self.y, self.z, self.levels, self.before

        w, u, count = y, z, self.inner_batch_size(k) if self.sampler else 1
        for _ in range(self.inner_steps(k)):
            upper, lower = self._draw(count)
            found = levels.lower(x, w, u, upper, lower, count)
            of_f, of_y, of_z = self._smoothed(
                slice(0, 3), k, found, before and partial(levels.lower, *before, upper, lower, count)
            )
            towards_w, towards_u = mixed(sigma, of_f, of_y), of_z
            if self.rho < math.inf:
                towards_w = mixed(1 / self.rho, subtract(w, y), towards_w)
                towards_u = mixed(1 / self.rho, subtract(u, z), towards_u)
            w_before, u_before = w, u
            w, u = self.project_y(moved(w, towards_w, lr_y)), self.project_y(moved(u, towards_u, lr_y))
        residual = max(_length(w_before, w, lr_y), _length(u_before, u, lr_y))
        behind = max(norm(subtract(w, y)), norm(subtract(u, z))) / self.rho  # the pull of the proximal terms
        if self.averaging < 1:
            w, u = moved(y, subtract(y, w), self.averaging), moved(z, subtract(z, u), self.averaging)

        count = self.batch_size(k) if self.sampler else 1
        upper, lower = self._draw(count)
        of_f, of_gap, value, gap = levels.upper(x, w, u, upper, lower, count)
        of_f, of_gap = self._smoothed(
            slice(3, 5), k, (of_f, of_gap), before and partial(levels.upper, before[0], y, z, upper, lower, count)
        )
        new = self.project_x(moved(x, mixed(1 / sigma, of_gap, of_f), lr_x))
        grad_norm = _length(x, new, lr_x)
        if not math.isfinite(grad_norm + residual):
            raise ValueError(
                f"the iterates left the finite numbers at step {k}: lr_x or lr_y is too large, or an objective infinite"
            )
        self.before, self.x, self.y, self.z = (x, y, z), new, w, u
        self.last_sigma = sigma
        for name, entry in zip(self.history, (value + gap / sigma, grad_norm, residual, sigma), strict=True):
            self.history[name].append(entry)
        small = self.constant_sigma or sigma <= SIGMA_PER_ATOL * self.atol
        # An error of the lower level is one of the gradient, over sigma; in batches it is noise.
        enough = max(sigma * self.atol, self.rounding / min(1.0, self.rho))
        followed = self.sampler is not None or max(residual, behind) <= enough
        self.converged = grad_norm <= self.atol and small and followed

    def result(self, status: int) -> BilevelResult:
        """Return where the run is."""
        levels, last = self.levels, {name: values[-1] for name, values in self.history.items()}
        return BilevelResult(
            x=levels.x.together(self.x), y=levels.y.together(self.y), z=levels.y.together(self.z),
            steps=len(self.history["sigma"]), n_grad_f=levels.n_grad_f, n_grad_g=levels.n_grad_g,
            n_samples=self.n_samples, status=status, history=self.history, **last,
        )  # fmt: skip


def _length(old: Tensors, new: Tensors, lr: Any) -> float:
    return norm([(a - b) / lr for a, b in zip(old, new, strict=True)])


def _schedule(name: str, given: Any, power: float) -> Callable[[int], Any]:
    if callable(given):
        return given
    if isinstance(given, Tensor):
        return lambda k: _positive(name, given) * (1 + k / OFFSET) ** -power
    return PolynomialDecay(check_number(name, given, gt=0), power, OFFSET)


def _positive(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        if not bool((value > 0).all() and value.isfinite().all()):
            raise ValueError(f"{name} has entries that are not positive and finite; it takes finite numbers > 0")
        return value
    return check_number(name, value, gt=0)


def _counts(name: str, given: Any) -> Callable[[int], int]:
    if callable(given):
        return lambda k: check_count(name, given(k))
    count = check_count(name, given)
    return lambda k: count
