"""Finding frequencies, weights and precisions: the solution projected out, or all at once by Adam as in the paper."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.solvers.kernels.prior import Axis, Prior
from paperworks.solvers.kernels.projection import Linearised, Problem, Projection, project, projection
from paperworks.solvers.kernels.spectral import SpectralMixtureKernel

Optimizer = Literal["varpro", "adam"]
LOG_PRECISION_CAP = 18.0
MOST_CERTAIN = 60.0
"""Logarithm of the greatest precision of a posterior: deviations from the data of 1e-13."""


class GPHMStep(NamedTuple):
    """What is known after a step of training.

    Parameters
    ----------
    number
        The step, from 0.
    objective
        The negative logarithm of the joint density, which is minimised.
    boundary_gap, equation_gap
        Mean squares that the boundary values and the equation fail by at their nodes.
    boundary_precision, equation_precision
        Both precisions at which the step stood.
    jitter
        What was added to the diagonal of the covariance.
    seconds
        Time since training began, callbacks not counted.
    """

    number: int
    objective: float
    boundary_gap: float
    equation_gap: float
    boundary_precision: float
    equation_precision: float
    jitter: float
    seconds: float


Watch = Callable[[GPHMStep, Float[Tensor, "*grid"]], bool | None]


@dataclass(frozen=True)
class Settings:
    """How to train."""

    optimizer: Optimizer
    lr: float
    steps: int
    patience: int
    jitter: float
    inner_steps: int
    cg_rtol: float
    cg_steps: int


@dataclass
class Part:
    """A process that is fitted, or being so: its kernels, precisions and whitened values."""

    axes: Sequence[Axis]
    kernels: nn.ModuleList
    log_precisions: Tensor
    W: Tensor
    history: list[GPHMStep] = field(default_factory=list)
    selected: GPHMStep | None = None
    stopped: bool = False

    def prior(self, problem: Problem, jitter: float) -> Prior:
        """Return the process at the present parameters."""
        kernels: list[SpectralMixtureKernel] = list(self.kernels)  # type: ignore[arg-type]
        return Prior(self.axes, kernels, problem.equation.coefficients, jitter)

    def posterior(self, problem: Problem, prior: Prior, settings: Settings) -> Projection:
        """Return what applies the covariance of the whitened values around the fitted ones.

        The precisions are those that fit the gaps, N / |gap|^2, which training goes towards by small steps; the factor
        of the boundary, which makes it no more certain, is left out.
        """
        boundary, equation, H = problem.gaps(prior, self.W)
        best = torch.stack([problem.count / (problem.boundary_weight * boundary), H.numel() / equation]).log()
        best.clamp_(max=MOST_CERTAIN)  # a gap of 0 would be certain
        around = Linearised.around(problem, prior, self.W, best)
        return projection(around, settings.cg_rtol, settings.cg_steps)


def train(part: Part, problem: Problem, settings: Settings, first: int = 0, watch: Watch | None = None) -> None:
    """Train a part in place and leave it at the step of the least objective.

    A covariance that no longer has a factor ends the training with a warning, at the best step so far.
    """
    log_precisions = nn.Parameter(part.log_precisions.clone())
    U = torch.zeros_like(problem.source)
    joint = settings.optimizer == "adam"
    free = [*part.kernels.parameters(), log_precisions]
    if joint:
        free.append(nn.Parameter(U))
    # A gradient may jump as the precisions grow; a short memory of squares keeps what follows within lr. It was chosen
    # on sin(100x) and sin(6x)cos(100x); on sin(60x) + cos(25x) it makes no difference (7.9e-6, 7.0e-6 with 0.999).
    adam = torch.optim.Adam(free, lr=settings.lr, betas=(0.9, 0.999 if joint else 0.99))
    best, kept, since = float("inf"), None, 0
    spent = 0.0
    for number in range(first, first + settings.steps):
        started = time.perf_counter()
        try:
            prior = part.prior(problem, settings.jitter)
        except torch.linalg.LinAlgError as failure:
            if kept is None:
                raise
            warnings.warn(f"training ended at step {number}: {failure}", stacklevel=3)
            break
        if joint:
            W = prior.whitened(free[-1])
        else:
            with torch.no_grad():
                W = project(
                    problem,
                    prior,
                    prior.whitened(U),
                    log_precisions,
                    settings.inner_steps,
                    settings.cg_rtol,
                    settings.cg_steps,
                )
        loss, boundary, equation, _ = problem.objective(prior, W, log_precisions)
        value = float(loss.detach())
        if not torch.isfinite(loss):
            break
        below = bool((log_precisions < LOG_PRECISION_CAP).all())
        improved = value < best and (below or kept is None)
        if improved:
            best, since = value, 0
            kept = (_copies(part.kernels), log_precisions.detach().clone(), W.detach().clone())
        else:
            since += 1
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            U = prior.values(W)
            tau1, tau2 = log_precisions.exp().tolist()
            adam.step()
            log_precisions.clamp_(max=LOG_PRECISION_CAP)
        part.W = W.detach()
        spent += time.perf_counter() - started
        gaps = boundary.item() / problem.count, equation.item() / U.numel()
        step = GPHMStep(number, value, *gaps, tau1, tau2, prior.jitter, spent)
        part.history.append(step)
        if improved:
            part.selected = step
        if watch is not None and watch(step, U + problem.base):
            part.stopped = True
            break
        if since >= settings.patience:
            break
    if kept is None:
        raise RuntimeError(
            "the objective is not finite at the first step; the source, the boundary values, boundary_weight, max_freq "
            "or the length of the box is out of range"
        )
    for kernel, state in zip(part.kernels, kept[0], strict=True):
        kernel.load_state_dict(state)
    part.log_precisions, part.W = kept[1:]


def _copies(kernels: nn.ModuleList) -> list[dict[str, Tensor]]:
    return [{name: value.detach().clone() for name, value in kernel.state_dict().items()} for kernel in kernels]
