"""Other ways of training a network to step forward, which PDE-Refiner is compared with."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.operators.refiner.errors import squared_error
from paperworks.operators.refiner.schedulers import noise_like
from paperworks.operators.refiner.steppers import Condition, Fields, Seen, Stepper, check_fields

Error = Callable[[Tensor, Tensor], Tensor]


class OneStepMSE(Stepper):
    """The usual neural solver: a network trained on the error of one step.

    Parameters
    ----------
    backbone
        Called with the state before, the condition, and zeros for the level: ``backbone(x, cond, step)``.
    error
        From predicted and true target to a number: `squared_error` by default; `sobolev_error` weighs small scales
        more.
    history
        States that it sees, the last one and those before it, stacked along the channels in the order of time; 1 by
        default. With 2, `u_prev` has twice the channels of `u_next`.
    input_noise
        Standard deviation of noise on the state before, in training only, which makes rollouts stabler; 0 by default.
    predict_difference, difference_scale
        Whether the change of a step is predicted, and its size: see `Stepper`.

    Raises
    ------
    ValueError
        For noise below 0, a history below 1, or a scale that isn't positive.

    References
    ----------
    Lippe and others, arXiv:2308.05732, the baselines; Sanchez-Gonzalez and others, arXiv:2002.09405, for the noise.

    Examples
    --------
    >>> from paperworks.operators import DilatedResNet
    >>> OneStepMSE(DilatedResNet(1, 1, width=8)).step(torch.zeros(2, 1, 32)).shape
    torch.Size([2, 1, 32])
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        error: Error = squared_error,
        *,
        history: int = 1,
        input_noise: float = 0.0,
        predict_difference: bool = True,
        difference_scale: float = 0.3,
    ) -> None:
        super().__init__(backbone, predict_difference=predict_difference, difference_scale=difference_scale)
        self.error = error
        self.history = check_count("history", history)
        self.input_noise = check_number("input_noise", input_noise, ge=0)

    def loss(
        self, u_prev: Seen, u_next: Fields, cond: Condition | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """Return the error of the prediction of a step.

        Parameters
        ----------
        u_prev, u_next
            States before and after a step; the first with its `history`.
        cond
            Physical parameters of each row.
        generator
            torch's generator for the noise on the input; the global one by default.

        Returns
        -------
        Tensor
            A number with a graph.

        Raises
        ------
        ValueError
            For shapes that don't fit together.
        """
        check_fields(u_prev, cond, u_next, self.history)
        if self.input_noise:
            u_prev = u_prev + self.input_noise * noise_like(u_prev, generator)
        return self.error(self._predict(u_prev, cond), self.to_target(self.last(u_prev), u_next))

    def step(self, u_prev: Seen, cond: Condition | None = None, generator: torch.Generator | None = None) -> Fields:
        """Return the state after a step.

        Parameters
        ----------
        u_prev
            States before the step.
        cond
            Physical parameters of each row.
        generator
            Not used: nothing is random.

        Returns
        -------
        Tensor
            States after the step.

        Raises
        ------
        ValueError
            For shapes that don't fit together.
        """
        check_fields(u_prev, cond, history=self.history)
        return self.to_state(self.last(u_prev), self._predict(u_prev, cond))

    def _predict(self, u_prev: Tensor, cond: Tensor | None) -> Tensor:
        return self._ask(u_prev, cond, u_prev.new_zeros(len(u_prev)), self.last(u_prev))


class PushForward(OneStepMSE):
    """A network trained on the error of a step from a state that it came to by steps of its own.

    Those steps have no gradient, so the network learns to mend the errors that it makes. The target of the loss is
    ``horizon = pushes + 1`` steps after its state.

    Parameters
    ----------
    backbone
        Called with the state before, the condition, and zeros for the level.
    pushes
        Steps without a gradient; 1 by default.
    error
        From predicted and true target to a number.
    predict_difference, difference_scale
        Whether the change of a step is predicted, and its size: see `Stepper`.

    Raises
    ------
    ValueError
        For fewer than no pushes, or a scale that isn't positive.

    References
    ----------
    Brandstetter, Worrall and Welling, arXiv:2202.03376, section 3.1.

    Examples
    --------
    >>> from paperworks.operators import DilatedResNet
    >>> PushForward(DilatedResNet(1, 1, width=8), pushes=2).horizon
    3
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        pushes: int = 1,
        error: Error = squared_error,
        *,
        predict_difference: bool = True,
        difference_scale: float = 0.3,
    ) -> None:
        super().__init__(backbone, error, predict_difference=predict_difference, difference_scale=difference_scale)
        self.horizon = check_count("pushes", pushes, at_least=0) + 1

    def loss(
        self, u_prev: Seen, u_next: Fields, cond: Condition | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """Return the error of the last of `horizon` steps.

        Parameters
        ----------
        u_prev, u_next
            States, the second `horizon` steps after the first.
        cond
            Physical parameters of each row.
        generator
            Not used: nothing is random.

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
        with torch.no_grad():
            for _ in range(self.horizon - 1):
                u_prev = self.step(u_prev, cond)
        return super().loss(u_prev, u_next, cond)


class ErrorCorrection(Stepper):
    """A network that predicts the error of its own prediction: refinement without noise.

    Level 0 predicts the target from zeros; each later level sees the prediction so far, and predicts what is missing.

    Parameters
    ----------
    backbone
        Called with the prediction so far and the state before, stacked along the channels, the condition, and the
        level, from 0 to 1000.
    corrections
        Number of later levels; 1 by default.
    predict_difference, difference_scale
        Whether the change of a step is predicted, and its size: see `Stepper`.

    Raises
    ------
    ValueError
        For fewer than no corrections, or a scale that isn't positive.

    References
    ----------
    Lippe and others, arXiv:2308.05732, the baseline of error correction.

    Examples
    --------
    >>> from paperworks.operators import DilatedResNet
    >>> ErrorCorrection(DilatedResNet(2, 1, width=8)).step(torch.zeros(2, 1, 32)).shape
    torch.Size([2, 1, 32])
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        corrections: int = 1,
        *,
        predict_difference: bool = True,
        difference_scale: float = 0.3,
    ) -> None:
        super().__init__(backbone, predict_difference=predict_difference, difference_scale=difference_scale)
        self.corrections = check_count("corrections", corrections, at_least=0)

    def loss(
        self, u_prev: Fields, u_next: Fields, cond: Condition | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """Return the squared error of a random level for each row, whose input has no gradient.

        Parameters
        ----------
        u_prev, u_next
            States before and after a step.
        cond
            Physical parameters of each row.
        generator
            torch's generator for the levels; the global one by default.

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
        levels = torch.randint(self.corrections + 1, (len(y),), device=y.device, generator=generator)
        found = torch.zeros_like(y)
        with torch.no_grad():
            for level in range(self.corrections):
                more = self._predict(found, u_prev, cond, torch.full_like(levels, level))
                found = torch.where((levels > level).reshape(-1, *[1] * (y.ndim - 1)), found + more, found)
        return squared_error(found + self._predict(found, u_prev, cond, levels), y)

    def step(self, u_prev: Fields, cond: Condition | None = None, generator: torch.Generator | None = None) -> Fields:
        """Return the state after a step.

        Parameters
        ----------
        u_prev
            States before the step.
        cond
            Physical parameters of each row.
        generator
            Not used: nothing is random.

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
        found = torch.zeros_like(u_prev)
        for level in range(self.corrections + 1):
            found = found + self._predict(found, u_prev, cond, torch.full((len(found),), level, device=found.device))
        return self.to_state(u_prev, found)

    def _predict(self, found: Tensor, u_prev: Tensor, cond: Tensor | None, levels: Tensor) -> Tensor:
        steps = levels.to(found.dtype) * (1000 / max(1, self.corrections))
        return self._ask(torch.cat([found, u_prev], dim=1), cond, steps, u_prev)
