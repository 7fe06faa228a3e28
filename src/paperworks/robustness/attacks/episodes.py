"""Policies that act on what an attacker shows them, step by step."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from paperworks.robustness.attacks.attack import Attack
from paperworks.robustness.attacks.battery import BatteryDispatchEnv
from paperworks.robustness.attacks.minimum import DynamicDistortion
from paperworks.robustness.attacks.policies import Policy
from paperworks.robustness.attacks.schedules import EveryStep, Schedule

ObservationAttack = Attack | DynamicDistortion


class Attacker:
    """An attack that a schedule starts.

    Parameters
    ----------
    model
        What the attack differentiates, such as the `BifurcationLayer` of a policy.
    attack
        What makes the perturbations.
    schedule
        When it acts, and where to if its loss is targeted; every step by default.

    Raises
    ------
    ValueError
        Where one of attack and schedule is targeted and the other isn't.

    Examples
    --------
    >>> from paperworks.robustness import FGSM, CrossEntropyLoss
    >>> attacker = Attacker(nn.Identity(), FGSM(CrossEntropyLoss(), eps=0.1))
    >>> attacker.perturb(0, torch.tensor([[0.4, 0.6]]))[0]
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, model: nn.Module, attack: ObservationAttack, schedule: Schedule | None = None) -> None:
        self.model, self.attack = model, attack
        self.schedule = EveryStep() if schedule is None else schedule
        if self.schedule.targeted != attack.loss.targeted:
            raise ValueError(
                f"schedule is {'' if self.schedule.targeted else 'not '}targeted and the attack's loss is "
                f"{'' if attack.loss.targeted else 'not '}; it takes both or neither"
            )

    def perturb(
        self, step: int, obs: Float[Tensor, "batch features"], previous: Float[Tensor, "batch features"] | None = None
    ) -> tuple[Float[Tensor, "batch features"], Bool[Tensor, " batch"]]:
        """Return what to show instead of the observations of a step, and where the attack succeeded.

        Parameters
        ----------
        step
            Number of the step, from 0.
        obs
            Observations of shape (batch, features).
        previous
            What was shown at the step before, None at the first.

        Returns
        -------
        tuple[Tensor of shape (batch, features), Tensor of shape (batch,)]
            What is shown, and where the attack succeeded.
        """
        chosen, targets = self.schedule.choose(step, obs)
        shown, success = obs.clone(), torch.zeros_like(chosen)
        if bool(chosen.any()):
            y = None if targets is None else targets[chosen]
            result = self.attack(self.model, obs[chosen], y, previous=(obs if previous is None else previous)[chosen])
            shown[chosen], success[chosen] = result.adv, result.success
        return shown, success


class ObservationAttackWrapper(gymnasium.ObservationWrapper):
    """An environment whose observations an attacker changes, for evaluation or for training against it.

    Parameters
    ----------
    env
        The environment, with observations of one axis.
    policy
        What the attack differentiates, such as the `BifurcationLayer` of the agent's policy.
    attack
        What makes the perturbations.
    schedule
        When it acts; every step by default.

    Raises
    ------
    ValueError
        Where one of attack and schedule is targeted and the other isn't.

    Examples
    --------
    >>> from paperworks.robustness import BifurcationLayer, GroupDifferenceLogitsLoss, PGD
    >>> policy = nn.Linear(3, 1)
    >>> attack = PGD(GroupDifferenceLogitsLoss(), eps=0.1, steps=3, bounds=(-8.0, 8.0))
    >>> env = ObservationAttackWrapper(gymnasium.make("Pendulum-v1"), BifurcationLayer(policy), attack)
    >>> shown, _ = env.reset(seed=0)
    >>> bool(np.abs(shown - env.true_observation).max() <= 0.1 + 1e-6)
    True
    """

    def __init__(
        self, env: gymnasium.Env, policy: nn.Module, attack: ObservationAttack, schedule: Schedule | None = None
    ) -> None:
        super().__init__(env)
        self.attacker = Attacker(policy, attack, schedule)
        self.true_observation: np.ndarray | None = None
        self._step = 0

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode.

        Returns
        -------
        tuple[ndarray, dict[str, Any]]
            The first observation as the attacker shows it, and the environment's information.
        """
        self.true_observation, self._step = None, 0
        return super().reset(**options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return what the attacker shows.

        Parameters
        ----------
        observation
            What the environment shows, of shape (features,).

        Returns
        -------
        ndarray
            What the attacker shows, of the same shape.
        """
        before = observation if self.true_observation is None else self.true_observation
        obs, previous = (torch.from_numpy(np.asarray(values))[None] for values in (observation, before))
        shown, _ = self.attacker.perturb(self._step, obs, previous)
        self.true_observation, self._step = observation, self._step + 1
        return shown[0].numpy()


@dataclass(frozen=True)
class Rollout:
    """Episodes side by side.

    Parameters
    ----------
    obs, shown
        True observations, and what the policy saw.
    actions
        What was executed.
    consumption, rewards
        Values of each hour and battery: energy in kWh, and what the agent got for it.
    success
        Where the attack succeeded.
    hours
        Numbers of the hours.

    Examples
    --------
    >>> Rollout(*np.zeros((2, 1, 3, 4)), *np.zeros((3, 1, 3)), np.zeros((1, 3), bool), np.arange(3)[None]).rewards.shape
    (1, 3)
    """

    obs: Float[np.ndarray, "batch steps features"]
    shown: Float[np.ndarray, "batch steps features"]
    actions: Float[np.ndarray, "batch steps"] | Int64[np.ndarray, "batch steps"]
    consumption: Float[np.ndarray, "batch steps"]
    rewards: Float[np.ndarray, "batch steps"]
    success: Bool[np.ndarray, "batch steps"]
    hours: Int64[np.ndarray, "batch steps"]


def rollout(
    env: BatteryDispatchEnv,
    policy: Policy,
    starts: Int64[np.ndarray, " batch"],
    attacker: Attacker | None = None,
) -> Rollout:
    """Let a policy run batteries, on what an attacker shows it if there is one.

    Parameters
    ----------
    env
        An environment of as many episodes as `starts`.
    policy
        From observations to what is executed.
    starts
        First hours of the episodes.
    attacker
        Changes observations; none by default.

    Returns
    -------
    Rollout
        What happened, hour by hour for each battery.

    Examples
    --------
    >>> hours = np.ones(50)
    >>> env = BatteryDispatchEnv(
    ...     hours, 0 * hours, 0.2 * hours, 0.1 * hours, np.zeros((50, 0)), num_envs=2, horizon=5
    ... )
    >>> idle = Policy(lambda obs: 0 * obs[:, :1], low=-1.0, high=1.0)
    >>> float(rollout(env, idle, np.array([0, 10])).consumption.sum())
    10.0
    """
    obs, previous = torch.from_numpy(env.reset_batch(starts)), None
    steps: list[tuple[np.ndarray, ...]] = []
    for step in range(env.horizon):
        shown, success = obs, torch.zeros(len(obs), dtype=torch.bool)
        if attacker is not None:
            shown, success = attacker.perturb(step, obs, previous)
        actions = policy.act(shown).view(len(obs)).numpy()
        found, rewards, _, consumption = env.step_batch(actions)
        steps.append((obs.numpy(), shown.numpy(), actions, consumption, rewards, success.numpy(), starts + step))
        previous, obs = obs, torch.from_numpy(found)
    return Rollout(*(np.stack(column, axis=1) for column in zip(*steps, strict=True)))
