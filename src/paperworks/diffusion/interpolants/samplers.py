"""Samplers: one trained pair of velocity and score, an ODE and a family of SDEs that reach the same density."""

import itertools
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.interpolants.fields import Fields
from paperworks.diffusion.interpolants.interpolant import check_level
from paperworks.diffusion.sampling import Callback, SampleResult, Sampling, check_sample, check_state
from paperworks.numerics.integration import Sums, Tolerance, adapt, runge_kutta_step
from paperworks.numerics.tableaus import TABLEAUS

Direction = Literal["forward", "backward"]
ODEMethod = Literal["euler", "heun", "rk4", "dopri5"]
SDEMethod = Literal["euler", "heun"]
NoiseLevel = float | Callable[[float], float]
Window = tuple[float, float]
WINDOW: Window = (1e-4, 1 - 1e-4)

Stepper = Callable[[Tensor, float, float], Tensor]  # (x, t, signed step) -> the next x


def grid(steps: int, window: Window, direction: Direction) -> tuple[float, ...]:
    """Return the uniform times of a walk, rising or falling."""
    check_count("steps", steps)
    check_choice("direction", direction, get_args(Direction))
    low, high = (check_number("window", end, ge=0, le=1) for end in window)
    if low >= high:
        raise ValueError(f"window is {window!r}; it takes two times that rise")
    times = [low + (high - low) * k / steps for k in range(steps)] + [high]
    return tuple(times if direction == "forward" else times[::-1])


class ODESampler:
    """Follow the probability flow ``dX/dt = b(X, t)`` from the base to the target, or back.

    Parameters
    ----------
    fields
        The fields, of which the velocity is used.
    method
        ``euler``, ``heun``, ``rk4`` (default) or ``dopri5``, which chooses its steps.
    rtol, atol
        Tolerances of ``dopri5``.

    Raises
    ------
    ValueError
        For an unknown method or tolerances that aren't positive.

    Examples
    --------
    >>> from paperworks.diffusion import Interpolant
    >>> fields = Fields(Interpolant("linear", "zero"), b=lambda x, t: torch.ones_like(x))
    >>> ODESampler(fields).sample(torch.zeros(1, 2), steps=2, window=(0.0, 1.0)).sample
    tensor([[1., 1.]])
    """

    def __init__(self, fields: Fields, method: ODEMethod = "rk4", *, rtol: float = 1e-5, atol: float = 1e-5) -> None:
        self.fields = fields
        self.method: ODEMethod = check_choice("method", method, get_args(ODEMethod))
        self.tolerance = Tolerance(check_number("rtol", rtol, gt=0), check_number("atol", atol, gt=0))

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, " batch *shape"],
        steps: int = 100,
        *,
        direction: Direction = "forward",
        window: Window = WINDOW,
        return_trajectory: bool = False,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Solve from `x` at one end of the window to the other.

        Parameters
        ----------
        x
            Samples of the base (``forward``) or of the target (``backward``).
        steps
            Number of equal steps; not read by ``dopri5``.
        direction, window
            Which way, and the first and last time. Default [1e-4, 1 - 1e-4].
        return_trajectory, callback
            Keep all states; called after each step.

        Returns
        -------
        SampleResult
            States at the other end in ``sample``, with the count of evaluations.
        """
        check_state("x", x)
        times = grid(steps, window, direction)
        if self.method == "dopri5":
            return self._adapt(x, times[0], times[-1], return_trajectory, callback)
        step = ode_step(self.fields, self.method)
        return walk(step, x, times, len(TABLEAUS[self.method].b), return_trajectory, callback)

    def _adapt(
        self, x: Tensor, start: float, end: float, return_trajectory: bool, callback: Callback | None
    ) -> SampleResult:
        sampling = Sampling(self.fields.b, x, start, None, return_trajectory, callback, "fields")
        now = start  # where the model was evaluated last: a step that is kept ends there

        def field(state: tuple[Tensor, ...], t: float, weighs: bool) -> tuple[tuple[Tensor, ...], tuple[()]]:
            nonlocal now
            now = t
            return (check_sample(sampling.ask(state[0], _clip(t)), "fields", f"at t={t:g}, "),), ()

        def visit(state: tuple[Tensor, ...]) -> None:
            sampling.reached(state[0], now)

        _, plan = adapt(field, (x,), start, end, self.tolerance, Sums(0), visit)
        return sampling.result(n_accept=len(plan))


class SDESampler:
    """Simulate ``dX = (b + eps s) dt + sqrt(2 eps) dW`` forward, or its counterpart with ``b - eps s`` backward.

    Every noise level leads to the same density at all times if the fields are exact; which one is best otherwise
    depends on their errors: `best_noise_level`.

    Parameters
    ----------
    fields
        The fields, of which velocity and score are used.
    eps
        Noise level, a number or a function of the time such as ``lambda t: c * interpolant.gamma(t)``, which calms
        the drift where the score is largest. At 0 everywhere the sampler is the ODE's of the same method. Default 1.
    direction
        ``forward`` from the base at t = 0, or ``backward`` from the target at t = 1.
    method
        ``euler``: Euler-Maruyama; ``heun``: the noise first, then Heun's method at the later time (the
        sampler of arXiv 2303.08797). Default ``heun``.

    Raises
    ------
    ValueError
        For an unknown choice, or a negative noise level.

    Examples
    --------
    >>> from paperworks.diffusion import Interpolant
    >>> fields = Fields(Interpolant("one_sided_linear"), s=lambda x, t: -x / ((1 - t) ** 2 + t**2)[:, None])
    >>> noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    >>> result = SDESampler(fields, eps=0.5).sample(noise, 50, generator=torch.Generator().manual_seed(1))
    >>> bool(abs(result.sample.var() - 1) < 0.1)
    True
    """

    def __init__(
        self,
        fields: Fields,
        eps: NoiseLevel = 1.0,
        direction: Direction = "forward",
        method: SDEMethod = "heun",
    ) -> None:
        self.fields = fields
        self.eps = eps if callable(eps) else check_level(eps)
        self.direction: Direction = check_choice("direction", direction, get_args(Direction))
        self.method: SDEMethod = check_choice("method", method, get_args(SDEMethod))

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, " batch *shape"],
        steps: int = 100,
        *,
        generator: torch.Generator | None = None,
        window: Window = WINDOW,
        return_trajectory: bool = False,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Simulate from `x` at one end of the window to the other; arguments as in `ODESampler.sample`.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        steps
            Number of steps, at least one.
        generator
            What draws the noise; its device is drawn on.
        window
            First and last time of the solution, inside [0, 1].
        return_trajectory
            Whether the states between are returned too.
        callback
            Called with a `SamplingStep` after each step.

        Returns
        -------
        SampleResult
            States at the other end in ``sample``, with the count of evaluations.

        Raises
        ------
        ValueError
            Where the noise level is negative somewhere, or noise is to be drawn without a generator.
        """
        check_state("x", x)
        times = grid(steps, window, self.direction)
        levels = {t: self.eps if isinstance(self.eps, float) else check_level(self.eps(t)) for t in times}
        if not any(levels.values()):
            return walk(
                ode_step(self.fields, self.method), x, times, len(TABLEAUS[self.method].b), return_trajectory, callback
            )
        sign = 1.0 if self.direction == "forward" else -1.0
        drift, noise = self.fields.drift, noise_source(x, generator)

        def euler(x: Tensor, t: float, h: float) -> Tensor:
            eps = levels[t]
            moved = torch.add(x, drift(x, t, sign * eps), alpha=h)
            return moved.add_(noise(), alpha=math.sqrt(2 * eps * abs(h)))

        def heun(x: Tensor, t: float, h: float) -> Tensor:
            after = _clip(t + h)
            noisy = torch.add(x, noise(), alpha=math.sqrt(2 * levels[t] * abs(h)))
            first = drift(noisy, after, sign * levels[t])
            second = drift(torch.add(noisy, first, alpha=h), after, sign * levels[t])
            return noisy.add_(first, alpha=h / 2).add_(second, alpha=h / 2)

        step = euler if self.method == "euler" else heun
        return walk(step, x, times, len(TABLEAUS[self.method].b), return_trajectory, callback)


class FrozenDenoiserSampler:
    """Sample a weighted sum by holding its denoisers over each step: ``x' = alpha' E[x0] + beta' E[x1] + gamma' E[z]``.

    Exact where the denoisers don't change over the step; for one-sided paths it is the update of DDIM.

    Parameters
    ----------
    fields
        Fields that determine the three denoisers.

    Raises
    ------
    ValueError
        Where the interpolant isn't a weighted sum.

    Examples
    --------
    >>> from paperworks.diffusion import Interpolant
    >>> point = Fields(Interpolant("one_sided_linear"), eta1=lambda x, t: torch.full_like(x, 3.0))
    >>> FrozenDenoiserSampler(point).sample(torch.randn(1, 1), steps=1, window=(0.0, 1.0)).sample
    tensor([[3.]])
    """

    def __init__(self, fields: Fields) -> None:
        if not fields.interpolant.linear:
            raise ValueError(f"fields belong to {fields.interpolant!r}; this sampler takes a weighted sum")
        self.fields = fields

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, " batch *shape"],
        steps: int = 100,
        *,
        direction: Direction = "forward",
        window: Window = WINDOW,
        return_trajectory: bool = False,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Step from `x` at one end of the window to the other; arguments as in `ODESampler.sample`.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        steps
            Number of steps, each one evaluation.
        direction
            ``forward`` from t = 0 to 1, or ``backward``.
        window
            First and last time of the solution, inside [0, 1].
        return_trajectory
            Whether the states between are returned too.
        callback
            Called with a `SamplingStep` after each step.

        Returns
        -------
        SampleResult
            States at the other end in ``sample``, with the count of evaluations.
        """
        check_state("x", x)
        i = self.fields.interpolant

        def step(x: Tensor, t: float, h: float) -> Tensor:
            after = _clip(t + h)
            x0, x1, z = self.fields.denoisers(x, t)
            moved = i.beta(after) * x1 + i.gamma(after) * z
            return moved if i.one_sided or i.mirror else moved + i.alpha(after) * x0

        return walk(step, x, grid(steps, window, direction), 1, return_trajectory, callback)


def noise_source(x: Tensor, generator: torch.Generator | None) -> Callable[[], Tensor]:
    """Return a function that draws normal noise like `x` into one buffer, over and over."""
    if generator is None:
        raise ValueError("generator is None; a sampler that draws noise takes a torch.Generator")
    buffer = torch.empty_like(x, device=generator.device)
    if generator.device == x.device:
        return lambda: buffer.normal_(generator=generator)
    return lambda: buffer.normal_(generator=generator).to(x.device)


def ode_step(fields: Fields, method: str) -> Stepper:
    """Return one step of an explicit method for the probability flow."""
    return lambda x, t, h: runge_kutta_step(lambda y, s: fields.b(y, _clip(s)), x, t, h, method)


def walk(
    step: Stepper,
    x: Tensor,
    times: tuple[float, ...],
    stages: int,
    return_trajectory: bool = False,
    callback: Callback | None = None,
    who: str = "fields",
) -> SampleResult:
    """Step along a grid of times; `who` answers along the way."""
    sampling = Sampling(None, x, times[0], len(times) - 1, return_trajectory, callback, who)
    for t, after in itertools.pairwise(times):
        x = step(x, t, after - t)
        sampling.reached(x, after, stages)
    return sampling.result()


def _clip(t: float) -> float:
    """Keep rounding from leaving [0, 1]."""
    return min(max(t, 0.0), 1.0)
