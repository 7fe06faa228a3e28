"""PDE-Refiner: one prediction of the next state, and a few denoising steps that repair its small components."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count
from paperworks.operators.refiner.errors import squared_error
from paperworks.operators.refiner.metrics import pairwise_correlation, time_above
from paperworks.operators.refiner.schedulers import AdditiveScheduler, NoiseScheduler, RefinerScheduler, noise_like
from paperworks.operators.refiner.steppers import Condition, Fields, Stepper, check_fields


class Uncertainty(NamedTuple):
    """How far repeated rollouts agree.

    Parameters
    ----------
    correlation
        Mean correlation of pairs of samples at each step, (batch, n + 1).
    time
        For each row, the last time before it falls below the threshold.
    """

    correlation: Float[Tensor, "batch times"]
    time: Float[Tensor, " batch"]


class DenoisingStepper(Stepper):
    """A model that draws the next state by denoising, at the levels of any scheduler.

    With `VarianceScheduler` and the many small variances of images it is the plain conditional diffusion that
    PDE-Refiner is compared with.

    Parameters
    ----------
    backbone
        Called with noisy target and state before, stacked along the channels in this order, the condition, and the
        level, scaled to 0 to 1000: ``backbone(x, cond, step)``. It returns fields of the target's shape.
    scheduler
        What the network sees and is asked for at each level.
    predict_difference, difference_scale
        Whether the change of a step is predicted, and its size: see `Stepper`.

    References
    ----------
    Lippe and others, arXiv:2308.05732; Ho, Jain and Abbeel, arXiv:2006.11239.

    Examples
    --------
    >>> from paperworks.operators import DilatedResNet, VarianceScheduler
    >>> diffusion = DenoisingStepper(DilatedResNet(2, 1, width=8), VarianceScheduler([0.02] * 20))
    >>> diffusion.step(torch.zeros(3, 1, 32)).shape
    torch.Size([3, 1, 32])
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        scheduler: NoiseScheduler,
        *,
        predict_difference: bool = True,
        difference_scale: float = 0.3,
    ) -> None:
        super().__init__(backbone, predict_difference=predict_difference, difference_scale=difference_scale)
        self.scheduler = scheduler

    def loss(
        self, u_prev: Fields, u_next: Fields, cond: Condition | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """Return the squared error of the network at a random level for each row.

        Parameters
        ----------
        u_prev, u_next
            States before and after a step.
        cond
            Physical parameters of each row.
        generator
            torch's generator for levels and noise; the global one by default.

        Returns
        -------
        Tensor
            A number with a graph.

        Raises
        ------
        ValueError
            For shapes that don't fit together.
        """
        check_fields(u_prev, cond, u_next)
        y = self.to_target(u_prev, u_next)
        levels = torch.randint(len(self.scheduler.timesteps), (len(y),), device=y.device, generator=generator)
        noise = noise_like(y, generator)
        found = self._predict(self.scheduler.add_noise(y, noise, levels), u_prev, cond, levels)
        return squared_error(found, self.scheduler.get_target(y, noise, levels))

    def step(self, u_prev: Fields, cond: Condition | None = None, generator: torch.Generator | None = None) -> Fields:
        """Draw the state after a step, by one evaluation of the network for each level.

        Parameters
        ----------
        u_prev
            States before the step.
        cond
            Physical parameters of each row.
        generator
            torch's generator; the global one by default.

        Returns
        -------
        Tensor
            States after the step.

        Raises
        ------
        ValueError
            For shapes that don't fit together.
        """
        check_fields(u_prev, cond)
        x = self.scheduler.begin(u_prev, generator)
        for level in self.scheduler.timesteps:
            levels = torch.full((len(x),), level, device=x.device)
            x = self.scheduler.step(self._predict(x, u_prev, cond, levels), level, x, generator).prev_sample
        return self.to_state(u_prev, x)

    def uncertainty(
        self,
        u0: Fields,
        n: int,
        dt: float,
        cond: Condition | None = None,
        *,
        n_samples: int = 32,
        threshold: float = 0.8,
        generator: torch.Generator | None = None,
    ) -> Uncertainty:
        """Estimate from repeated rollouts how long a rollout will be accurate, without knowing the truth.

        Parameters
        ----------
        u0
            States at the start.
        n
            Number of steps.
        dt
            Time of a step.
        cond
            Physical parameters of each row.
        n_samples
            Number of rollouts of each row, two or more; 32 by default, the paper's.
        threshold
            Correlation below which they no longer agree; 0.8 by default, the paper's.
        generator
            torch's generator; the global one by default.

        Returns
        -------
        Uncertainty
            Mean correlation of pairs at each step, and the time at which it falls below the threshold.

        Raises
        ------
        ValueError
            For fewer than two samples, or shapes that don't fit together.
        RolloutDiverged
            Where a state is NaN or infinite.

        References
        ----------
        arXiv:2308.05732, the section on uncertainty.
        """
        check_count("n_samples", n_samples, at_least=2)
        agreement = pairwise_correlation(self.rollout(u0, n, cond, n_samples=n_samples, generator=generator))
        return Uncertainty(agreement, time_above(agreement, dt, threshold))

    def _predict(self, x: Tensor, u_prev: Tensor, cond: Tensor | None, levels: Tensor) -> Tensor:
        steps = levels.to(x.dtype) * self.scheduler.embedding_scale
        return self._ask(torch.cat([x, u_prev], dim=1), cond, steps, u_prev)


class PDERefiner(DenoisingStepper):
    """A neural solver that predicts the next state once and then refines it at exponentially smaller levels of noise.

    A network trained on the squared error of a step learns the large Fourier modes only. At a level of noise all modes
    above it have to be modelled, so a few levels make the network learn all, and rollouts stay accurate for longer. A
    step costs ``num_refinement_steps + 1`` evaluations.

    Parameters
    ----------
    backbone
        Called with noisy target and state before, stacked along the channels, the condition, and the level, from 0 to
        1000: ``backbone(x, cond, step)``. `PeriodicUNet` and `DilatedResNet` are such.
    num_refinement_steps
        Denoising steps after the first prediction; 3 by default, the paper's. With 0 it predicts in one step.
    min_noise
        The smallest level: a variance for "v", a standard deviation for "eps". Default: 4e-7, the released one, or its
        root for "eps".
    parameterization
        "v" for the released implementation, a denoising diffusion whose network predicts v; "eps" for the form in the
        paper's text, whose network predicts added noise.
    predict_difference
        Whether the network predicts the change of a step, as in the paper, instead of the state after it.
    difference_scale
        By what the change is divided to be of size one; 0.3 by default, the paper's.

    Raises
    ------
    ValueError
        For a negative number of steps, a level outside (0, 1), or a scale that isn't positive.

    References
    ----------
    Lippe and others, PDE-Refiner, arXiv:2308.05732, section 3, algorithm 1 and appendix B.

    Examples
    --------
    >>> from paperworks.operators import DilatedResNet
    >>> refiner = PDERefiner(DilatedResNet(2, 1, width=8))
    >>> u = torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(0))
    >>> refiner.loss(u, 0.9 * u).shape, refiner.rollout(u, 5).shape
    (torch.Size([]), torch.Size([4, 6, 1, 32]))
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        num_refinement_steps: int = 3,
        min_noise: float | None = None,
        parameterization: Literal["v", "eps"] = "v",
        *,
        predict_difference: bool = True,
        difference_scale: float = 0.3,
    ) -> None:
        check_choice("parameterization", parameterization, ("v", "eps"))
        scheduler = RefinerScheduler if parameterization == "v" else AdditiveScheduler
        levels = (num_refinement_steps,) if min_noise is None else (num_refinement_steps, min_noise)
        super().__init__(
            backbone, scheduler(*levels), predict_difference=predict_difference, difference_scale=difference_scale
        )
