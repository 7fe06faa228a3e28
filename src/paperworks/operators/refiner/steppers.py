"""What all models share that take fields one step forward in time: shapes, differences, and rollouts."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_count, check_finite, check_number

Fields = Float[Tensor, "batch channels *grid"]
Seen = Float[Tensor, "batch seen *grid"]
Condition = Float[Tensor, "batch parameters"]


class RolloutDiverged(FloatingPointError):
    """A rollout came to a state that is NaN or infinite.

    Parameters
    ----------
    step
        The step whose result it is, from 1 on.
    states
        The states before it, in the shape that the rollout would have had, with `step` times, the start first.

    Examples
    --------
    >>> RolloutDiverged(3, torch.zeros(2, 3, 1, 8))
    RolloutDiverged('step 3 gave NaN or infinite values; the 3 states before it are in `states`')
    """

    def __init__(self, step: int, states: Tensor) -> None:
        super().__init__(f"step {step} gave NaN or infinite values; the {step} states before it are in `states`")
        self.step, self.states = step, states

    def __reduce__(self) -> tuple[type, tuple[int, Tensor]]:
        """Say how it is made again, which its message alone doesn't: errors cross processes."""
        return type(self), (self.step, self.states)


class Stepper(nn.Module, ABC):
    """A model that takes fields one step forward in time, with the loss that trains it.

    Parameters
    ----------
    backbone
        Called with what the model sees stacked along the channels, the condition or None, and the refinement level of
        each row times a constant: ``backbone(x, cond, step)``. `channel_conditioned` makes one of any network.
    predict_difference
        Whether the network predicts the change of a step instead of the state after it.
    difference_scale
        By what the change is divided to be of size one: about its standard deviation. 0.3 by default, the paper's for
        the equation of Kuramoto and Sivashinsky at steps of 0.8.

    Attributes
    ----------
    horizon
        How many steps after the state that the loss is given its target has to be.
    history
        How many states it sees, stacked along the channels, the newest last.

    Raises
    ------
    ValueError
        For a scale that isn't positive.
    """

    horizon = 1
    history = 1

    def __init__(
        self, backbone: Callable[..., Tensor], *, predict_difference: bool = True, difference_scale: float = 0.3
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.predict_difference = predict_difference
        self.difference_scale = check_number("difference_scale", difference_scale, gt=0)

    @abstractmethod
    def loss(
        self, u_prev: Seen, u_next: Fields, cond: Condition | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch, with a graph.

        Parameters
        ----------
        u_prev
            States before the step, (batch, channels, *grid); with a `history`, all of it along the channels.
        u_next
            States after `horizon` steps, (batch, channels, *grid).
        cond
            Physical parameters of each row, where the backbone takes any.
        generator
            torch's generator for what is drawn; the global one by default.

        Returns
        -------
        Tensor
            One number, a mean over rows and space.
        """

    @abstractmethod
    def step(self, u_prev: Seen, cond: Condition | None = None, generator: torch.Generator | None = None) -> Fields:
        """Return the state after a step.

        Parameters
        ----------
        u_prev
            States before the step, (batch, channels, *grid); with a `history`, all of it along the channels.
        cond
            Physical parameters of each row, where the backbone takes any.
        generator
            torch's generator for what is drawn; the global one by default.

        Returns
        -------
        Tensor
            States after the step, (batch, channels, *grid).
        """

    def forward(self, u_prev: Seen, cond: Condition | None = None, generator: torch.Generator | None = None) -> Fields:
        """Return the state after a step, as `step` does.

        Parameters
        ----------
        u_prev
            States before the step, (batch, channels, *grid); with a `history`, all of it along the channels.
        cond
            Physical parameters of each row, where the backbone takes any.
        generator
            torch's generator for what is drawn; the global one by default.

        Returns
        -------
        Tensor
            States after the step, (batch, channels, *grid).
        """
        return self.step(u_prev, cond, generator)

    @torch.no_grad()
    def rollout(
        self,
        u0: Seen,
        n: int,
        cond: Condition | None = None,
        *,
        n_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Step forward again and again.

        Parameters
        ----------
        u0
            States at the start, (batch, channels, *grid); with a `history`, all of it.
        n
            Number of steps.
        cond
            Physical parameters of each row, where the backbone takes any.
        n_samples
            How many rollouts to draw for each row, each with noise of its own in every step; they are made as one
            batch. None for one, without an axis of its own.
        generator
            torch's generator; the global one by default.

        Returns
        -------
        Tensor
            (batch, n + 1, channels, *grid), the start first; with `n_samples`, (n_samples, batch, n + 1, ...).

        Raises
        ------
        ValueError
            For a count below 1, shapes that don't fit, or a start that is NaN or infinite.
        RolloutDiverged
            Where a state is NaN or infinite: what came before is in its `states`.
        """
        check_count("n", n)
        copies = 1 if n_samples is None else check_count("n_samples", n_samples)
        check_fields(u0, cond, history=self.history)
        check_finite("u0", u0)
        state = u0.repeat(copies, *[1] * (u0.ndim - 1))
        many = None if cond is None else cond.repeat(copies, 1)
        states = [self.last(state)]

        def rolled() -> Tensor:
            together = torch.stack(states, 1)
            return together if n_samples is None else together.unflatten(0, (copies, len(u0)))

        for i in range(1, n + 1):
            new = self.step(state, many, generator)
            if not torch.isfinite(new).all():
                raise RolloutDiverged(i, rolled())
            states.append(new)
            state = torch.cat([state[:, new.shape[1] :], new], dim=1)
        return rolled()

    def last(self, u_prev: Seen) -> Fields:
        """Return the newest of the states that the model sees.

        Parameters
        ----------
        u_prev
            States with their history.

        Returns
        -------
        Tensor
            The last `channels` channels.
        """
        return u_prev[:, u_prev.shape[1] // self.history * (self.history - 1) :]

    def to_target(self, u_prev: Fields, u_next: Fields) -> Fields:
        """Return what the network is to predict.

        Parameters
        ----------
        u_prev, u_next
            States before and after a step.

        Returns
        -------
        Tensor
            The scaled change, or the state after the step.
        """
        return (u_next - u_prev) / self.difference_scale if self.predict_difference else u_next

    def to_state(self, u_prev: Fields, target: Fields) -> Fields:
        """Return the state after a step from what the network predicts: the inverse of `to_target`.

        Parameters
        ----------
        u_prev
            States before the step.
        target
            The network's prediction.

        Returns
        -------
        Tensor
            States after the step.
        """
        return u_prev + self.difference_scale * target if self.predict_difference else target

    def _ask(self, seen: Tensor, cond: Tensor | None, steps: Tensor, like: Tensor) -> Tensor:
        """Return what the backbone makes of what it sees, or raise ValueError where it isn't of the shape of states."""
        found = self.backbone(seen, cond, steps)
        if found.shape != like.shape:
            raise ValueError(
                f"backbone returned shape {tuple(found.shape)}; it takes one that returns {tuple(like.shape)}"
            )
        return found


def check_fields(u: Tensor, cond: Tensor | None = None, target: Tensor | None = None, history: int = 1) -> None:
    """Raise ValueError where states, their conditions and the states after a step don't fit together.

    A batch may be empty, unless there is a target: the mean over none is no number.
    """
    if u.ndim < 3 or u.shape[1] % history or 0 in u.shape[1:] or (target is not None and len(u) == 0):
        several = f" times {history}" if history > 1 else ""
        raise ValueError(f"u_prev has shape {tuple(u.shape)}; it takes (batch, channels{several}, *grid)")
    if not u.is_floating_point():
        raise TypeError(f"u_prev has dtype {u.dtype}; it takes a real floating-point one")
    wanted = (len(u), u.shape[1] // history, *u.shape[2:])
    if target is not None and (target.shape != wanted or target.dtype != u.dtype):
        raise ValueError(
            f"u_next has shape {tuple(target.shape)} and dtype {target.dtype}; it takes {wanted} and {u.dtype}, "
            "as u_prev says"
        )
    if cond is not None and (cond.ndim != 2 or len(cond) != len(u)):
        raise ValueError(f"cond has shape {tuple(cond.shape)}; it takes ({len(u)}, parameters), a row for each state")
