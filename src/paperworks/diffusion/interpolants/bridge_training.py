"""Finding the Schrödinger bridge by optimising the interpolant against its drift."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_count, check_number
from paperworks.diffusion.interpolants.interpolant import Interpolant
from paperworks.diffusion.interpolants.losses import draw_times
from paperworks.diffusion.interpolants.paths import Path
from paperworks.diffusion.interpolants.samplers import WINDOW, Window, grid, noise_source, walk
from paperworks.diffusion.sampling import Callback, SampleResult, check_state, evaluate, noise_like, per_sample
from paperworks.numerics.training import Progress, silent, warmup_cosine


class LearnablePath(nn.Module):
    """The path ``alpha(t) x0 + beta(t) x1`` whose weights are polynomials with the right ends, the linear one at first.

    Parameters
    ----------
    degree
        Degree of the polynomials that are multiplied by t(1-t) and added to 1-t and t. Default 4.

    Examples
    --------
    >>> path = LearnablePath()
    >>> path(torch.tensor([[0.25]]), torch.zeros(1, 1), torch.ones(1, 1))
    tensor([[0.2500]], grad_fn=<AddBackward0>)
    """

    def __init__(self, degree: int = 4) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(check_count("degree", degree, at_least=0) + 1, 2))

    def forward(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the path at times that have as many dimensions as the samples.

        Parameters
        ----------
        t
            Times with as many axes as the samples.
        x0
            Samples of the first end, of shape (batch, ...).
        x1
            Samples of the other end, of shape (batch, ...).

        Returns
        -------
        Tensor
            Points of the path, of the shape of the samples.
        """
        p, q = (legendre(t, len(self.coefficients)) @ self.coefficients.to(t)).unbind(-1)
        return (1 - t + t * (1 - t) * p) * x0 + (t + t * (1 - t) * q) * x1

    def dot(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the derivative of the path in time.

        Parameters
        ----------
        t
            Times with as many axes as the samples.
        x0
            Samples of the first end, of shape (batch, ...).
        x1
            Samples of the other end, of shape (batch, ...).

        Returns
        -------
        Tensor
            The derivative, of the shape of the samples.
        """
        coefficients = self.coefficients.to(t)
        values, slopes = legendre(t, len(coefficients)), legendre_dot(t, len(coefficients))
        change = (1 - 2 * t)[..., None] * values + (t * (1 - t))[..., None] * slopes
        p, q = (change @ coefficients).unbind(-1)
        return (p - 1) * x0 + (1 + q) * x1


class NetworkPath(nn.Module):
    """The path ``(1-t) x0 + t x1 + t(1-t) net([t, x0, x1])`` for flat samples.

    Examples
    --------
    >>> path = NetworkPath(nn.Linear(5, 2))
    >>> path(torch.ones(3, 1), torch.zeros(3, 2), torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the path at times (batch, 1).

        Parameters
        ----------
        t
            Times of shape (batch, 1).
        x0
            Samples of the first end, of shape (batch, ...).
        x1
            Samples of the other end, of shape (batch, ...).

        Returns
        -------
        Tensor
            Points of the path, of the shape of the samples.
        """
        return (1 - t) * x0 + t * x1 + t * (1 - t) * self.net(torch.cat([t, x0, x1], dim=1))


def legendre(t: Tensor, count: int) -> Tensor:
    """Return the first `count` Legendre polynomials of 2t - 1 in a last dimension."""
    x = 2 * t - 1
    rows = [torch.ones_like(x), x]
    for n in range(1, count - 1):
        rows.append(((2 * n + 1) * x * rows[-1] - n * rows[-2]) / (n + 1))
    return torch.stack(rows[:count], dim=-1)


def legendre_dot(t: Tensor, count: int) -> Tensor:
    """Return the derivatives in t of `legendre`."""
    values = legendre(t, count)
    rows = [torch.zeros_like(t), torch.full_like(t, 2.0)]
    for n in range(1, count - 1):
        rows.append(rows[n - 1] + 2 * (2 * n + 1) * values[..., n])
    return torch.stack(rows[:count], dim=-1)


@dataclass(frozen=True)
class BridgeStep:
    """One step of the training: the objective before it, which rises to minus the kinetic energy.

    Parameters
    ----------
    index
        Number of the step, from 0.
    objective
        What `SchrodingerBridgeTrainer.step` returned.
    """

    index: int
    objective: float


class SchrodingerBridgeTrainer:
    r"""Approach the Schrödinger bridge: the drift descends on its loss, the interpolant ascends on the same.

    ``max over I, min over u of E[|u(x_t, t)|^2/2 - (dI/dt + (gamma' - eps/gamma) z) . u]`` with
    ``gamma = sqrt(2 eps t (1-t))``. The least value over u is minus the kinetic energy of the drift b + eps s, so the
    best I has the least energy (arXiv 2303.08797, section 3.4). With this gamma the factor of z is
    ``-2 eps t/gamma``; latents are taken with both signs.

    Parameters
    ----------
    path
        ``path(t, x0, x1)``, a module whose ends are fixed, such as `LearnablePath` or `NetworkPath`; its method `dot`,
        if it has one, is its derivative in t.
    drift
        ``drift(x, t)``, a module for the forward drift u.
    eps
        Noise level of the bridge.
    drift_lr, path_lr
        Learning rates of Adam; the path's should be the smaller one. Defaults 5e-3 and 2e-3.
    inner_steps
        Steps of the drift for one of the path. Default 3.
    t_min
        How near to the ends times are drawn. Default 1e-3.

    Raises
    ------
    ValueError
        Where a number is out of range.

    Examples
    --------
    >>> class Linear(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.k = nn.Parameter(torch.zeros(1))
    ...     def forward(self, x, t):
    ...         return self.k * x
    >>> trainer = SchrodingerBridgeTrainer(LearnablePath(), Linear(), eps=0.5)
    >>> generator = torch.Generator().manual_seed(0)
    >>> draw = lambda: (torch.randn(64, 1, generator=generator), torch.randn(64, 1, generator=generator))
    >>> len(trainer.fit(draw, steps=3, generator=generator))
    3
    """

    def __init__(
        self,
        path: nn.Module,
        drift: nn.Module,
        eps: float,
        *,
        drift_lr: float = 5e-3,
        path_lr: float = 2e-3,
        inner_steps: int = 3,
        t_min: float = 1e-3,
    ) -> None:
        self.eps = check_number("eps", eps, gt=0)
        self.t_min = check_number("t_min", t_min, gt=0, lt=0.5)
        self.inner_steps = check_count("inner_steps", inner_steps)
        self.path, self.drift = path, drift
        self.interpolant = Interpolant(Path(mean=path, mean_dot=getattr(path, "dot", None)), "brownian", a=2 * eps)
        self.drift_optimizer = torch.optim.Adam(drift.parameters(), lr=check_number("drift_lr", drift_lr, gt=0))
        self.path_optimizer = torch.optim.Adam(path.parameters(), lr=check_number("path_lr", path_lr, gt=0))

    def objective(
        self,
        x0: Float[Tensor, " batch *shape"],
        x1: Float[Tensor, " batch *shape"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the objective on a batch of pairs, latents taken with both signs.

        Parameters
        ----------
        x0
            Samples of the first end, of shape (batch, ...).
        x1
            Samples of the other end, of shape (batch, ...).
        generator
            What draws the noise; its device is drawn on.

        Returns
        -------
        Tensor without axes
            The objective, one differentiable number.
        """
        u = torch.rand(len(x1), generator=generator, dtype=x1.dtype, device=generator.device).to(x1.device)
        layers = (torch.arange(len(x1), dtype=x1.dtype, device=x1.device) + u) / len(x1)
        t = self.t_min + (1 - 2 * self.t_min) * layers  # one in each layer: less variance, same mean
        z = noise_like(x1, generator)
        i = self.interpolant
        gamma = per_sample(i.gamma(t), x1)
        mean, moved = i.mean(x0, x1, t), i.dI(x0, x1, t)
        kick = z * (per_sample(-2 * self.eps * t, x1) / gamma)
        u = self.drift(torch.cat([mean + gamma * z, mean - gamma * z]), torch.cat([t, t]))
        aim = torch.cat([moved + kick, moved - kick])
        return ((0.5 * u - aim) * u).flatten(1).sum(1).mean()

    def step(
        self, draw: Callable[[], tuple[Tensor, Tensor]], generator: torch.Generator, *, path: bool = True
    ) -> float:
        """Take `inner_steps` steps of the drift and, unless told not to, one of the path; return the objective.

        Parameters
        ----------
        draw
            Returns a batch of pairs (x0, x1).
        generator
            What draws the noise; its device is drawn on.
        path
            Whether the path takes a step too.

        Returns
        -------
        float
            The objective at the drift's last step, before its update.
        """
        for _ in range(self.inner_steps):
            loss = self.objective(*draw(), generator)
            self._update(self.drift_optimizer, self.drift, loss)
        if path:
            self._update(self.path_optimizer, self.path, -self.objective(*draw(), generator))
        return float(loss.detach())

    def fit(
        self,
        draw: Callable[[], tuple[Tensor, Tensor]],
        steps: int,
        generator: torch.Generator,
        *,
        progress: Progress = silent,
    ) -> list[BridgeStep]:
        """Train on pairs from `draw()` with learning rates that fall to nought like a cosine.

        Parameters
        ----------
        draw
            Returns a batch of pairs (x0, x1), independent or coupled.
        steps
            Steps of the path.
        generator
            Source of times and latents.
        progress
            Wraps the loop, to show how far it got.

        Returns
        -------
        list[BridgeStep]
            One entry for each step of the path, in order.
        """
        rates = [
            (o, group, group["lr"]) for o in (self.drift_optimizer, self.path_optimizer) for group in o.param_groups
        ]
        history = []
        for k in progress(range(check_count("steps", steps)), label="training"):
            for _, group, rate in rates:
                group["lr"] = rate * warmup_cosine(k, 0, steps)
            history.append(BridgeStep(k, self.step(draw, generator)))
        for _, group, rate in rates:
            group["lr"] = rate
        return history

    def energy(
        self,
        x0: Float[Tensor, " batch *shape"],
        x1: Float[Tensor, " batch *shape"],
        generator: torch.Generator,
    ) -> float:
        """Return the kinetic energy ``E|u|^2/2`` of the learnt drift along the learnt interpolant.

        Parameters
        ----------
        x0
            Samples of the first end, of shape (batch, ...).
        x1
            Samples of the other end, of shape (batch, ...).
        generator
            What draws the noise; its device is drawn on.

        Returns
        -------
        float
            The mean over the pairs, one number.
        """
        with torch.no_grad():
            t = draw_times(x1, generator, 0.0)
            x, _ = self.interpolant.sample(x0, x1, t, generator=generator)
            return float(0.5 * self.drift(x, t).square().flatten(1).sum(1).mean())

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, " batch *shape"],
        steps: int = 100,
        *,
        generator: torch.Generator,
        window: Window = WINDOW,
        return_trajectory: bool = False,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Simulate ``dX = u dt + sqrt(2 eps) dW`` from samples of the base, by Euler-Maruyama.

        Parameters
        ----------
        x
            Samples of the base, of shape (batch, ...).
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
        """
        check_state("x", x)
        noise = noise_source(x, generator)

        def step(x: Tensor, t: float, h: float) -> Tensor:
            times = torch.full((), t, dtype=x.dtype, device=x.device).expand(len(x))
            moved = torch.add(x, evaluate(self.drift, x, times, "drift"), alpha=h)
            return moved.add_(noise(), alpha=math.sqrt(2 * self.eps * h))

        return walk(step, x, grid(steps, window, "forward"), 1, return_trajectory, callback, "drift")

    def _update(self, optimizer: torch.optim.Optimizer, module: nn.Module, loss: Tensor) -> None:
        parameters = list(module.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
