"""When an attacker acts in an episode, and what for."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from paperworks.core.validation import check_count, check_number

Choice = tuple[Bool[Tensor, " batch"], Int64[Tensor, " batch"] | None]


class Schedule(ABC):
    """Says of each step which observations to attack, and of a targeted attack where to.

    Examples
    --------
    >>> EveryStep().choose(3, torch.zeros(2, 4))
    (tensor([True, True]), None)
    """

    targeted = False
    """Whether it names targets, and so goes with a targeted loss."""

    @abstractmethod
    def choose(self, step: int, obs: Float[Tensor, "batch features"]) -> Choice:
        """Return which observations of a step to attack, and their targets.

        Parameters
        ----------
        obs
            Observations of shape (batch, features).

        Returns
        -------
        Choice
            Which observations to attack, of shape (batch,), and their targets, None for untargeted attacks.
        """


class EveryStep(Schedule):
    """All steps.

    Examples
    --------
    >>> EveryStep().choose(0, torch.zeros(1, 4))
    (tensor([True]), None)
    """

    def choose(self, step: int, obs: Float[Tensor, "batch features"]) -> Choice:
        """Return all.

        Parameters
        ----------
        step
            Number of the step, from 0.
        obs
            Observations of shape (batch, features).

        Returns
        -------
        Choice
            All observations, without targets of their own.
        """
        return torch.ones(len(obs), dtype=torch.bool, device=obs.device), None


class RandomSchedule(Schedule):
    """A random share of the steps.

    Parameters
    ----------
    fraction
        Probability of a step to be attacked.
    random_state
        Seed of the choice.

    Raises
    ------
    ValueError
        For a fraction outside [0, 1].

    Examples
    --------
    >>> chosen, _ = RandomSchedule(0.25).choose(0, torch.zeros(4000, 1))
    >>> round(float(chosen.float().mean()), 1)
    0.2
    """

    def __init__(self, fraction: float, random_state: int = 0) -> None:
        self.fraction = check_number("fraction", fraction, ge=0, le=1)
        self._generator = torch.Generator().manual_seed(random_state)

    def choose(self, step: int, obs: Float[Tensor, "batch features"]) -> Choice:
        """Return a random choice, anew in each call.

        Parameters
        ----------
        step
            Number of the step, from 0.
        obs
            Observations of shape (batch, features).

        Returns
        -------
        Choice
            Which observations to attack, and their targets.
        """
        return (torch.rand(len(obs), generator=self._generator) < self.fraction).to(obs.device), None


class ValueThreshold(Schedule):
    """Steps at which there is much to lose: where a critic's value is high.

    Parameters
    ----------
    critic
        From observations to values (batch,) or (batch, 1).
    at_least
        Value from which on to attack.

    Examples
    --------
    >>> ValueThreshold(lambda obs: obs.sum(1), at_least=1.0).choose(0, torch.tensor([[0.5, 0.2], [0.5, 0.7]]))
    (tensor([False,  True]), None)
    """

    def __init__(self, critic: Callable[[Tensor], Tensor], at_least: float) -> None:
        self.critic, self.at_least = critic, check_number("at_least", at_least)

    def choose(self, step: int, obs: Float[Tensor, "batch features"]) -> Choice:
        """Return the observations of high value.

        Parameters
        ----------
        step
            Number of the step, from 0.
        obs
            Observations of shape (batch, features).

        Returns
        -------
        Choice
            The observations of high value, without targets of their own.
        """
        with torch.no_grad():
            return self.critic(obs).view(len(obs)) >= self.at_least, None


class ToggleSchedule(Schedule):
    """Each group in turn, so that a battery alternates between charging and discharging: a load altering attack.

    Parameters
    ----------
    groups
        Number of groups.

    Raises
    ------
    ValueError
        For fewer than two groups.

    Notes
    -----
    arXiv 2407.05182, the toggle attack: the target is the number of the step modulo 2.

    Examples
    --------
    >>> ToggleSchedule().choose(3, torch.zeros(2, 4))
    (tensor([True, True]), tensor([1, 1]))
    """

    targeted = True

    def __init__(self, groups: int = 2) -> None:
        self.groups = check_count("groups", groups, at_least=2)

    def choose(self, step: int, obs: Float[Tensor, "batch features"]) -> Choice:
        """Return the group whose turn it is.

        Parameters
        ----------
        step
            Number of the step, from 0.
        obs
            Observations of shape (batch, features).

        Returns
        -------
        Choice
            All observations, with the group of this turn as target.
        """
        rows = torch.ones(len(obs), dtype=torch.bool, device=obs.device)
        return rows, torch.full((len(obs),), step % self.groups, device=obs.device)


class AdversaryTargets(Schedule):
    """What an adversary would do: the target is the action, or the group, of a policy that wants the opposite.

    Parameters
    ----------
    adversary
        From observations to logits, such as a policy trained with the negative reward, or the negative of Q.

    Notes
    -----
    arXiv 2407.05182, the optimal targeted attack.

    Examples
    --------
    >>> AdversaryTargets(torch.nn.Identity()).choose(0, torch.tensor([[0.1, 0.9]]))
    (tensor([True]), tensor([1]))
    """

    targeted = True

    def __init__(self, adversary: Callable[[Tensor], Tensor]) -> None:
        self.adversary = adversary

    def choose(self, step: int, obs: Float[Tensor, "batch features"]) -> Choice:
        """Return the adversary's choice.

        Parameters
        ----------
        step
            Number of the step, from 0.
        obs
            Observations of shape (batch, features).

        Returns
        -------
        Choice
            Which observations to attack, and their targets.
        """
        with torch.no_grad():
            return torch.ones(len(obs), dtype=torch.bool, device=obs.device), self.adversary(obs).argmax(1)
