"""Trained policies as an attack needs them: their outputs before anything is clipped, squashed or drawn."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from paperworks.core.validation import check_number


class Policy(nn.Module):
    """A policy that gives what an attack differentiates and what is executed.

    Parameters
    ----------
    network
        From observations to logits (batch, n), or to a continuous action (batch, dims) before it is squashed.
    low, high
        Range of continuous actions: numbers, or tensors of one for each dimension; without one, actions are discrete.
    squash
        Whether continuous actions go through tanh to that range; else they are clipped to it.

    Examples
    --------
    >>> policy = from_module(nn.Identity(), low=0.0, high=10.0, squash=True)
    >>> policy(torch.tensor([[0.0]])), policy.act(torch.tensor([[0.0]])), policy.output_of(5.0)
    (tensor([[0.]]), tensor([[5.]]), 0.0)
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        low: Any = None,
        high: Any = None,
        squash: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.low, self.high = (None if bound is None else torch.as_tensor(bound) for bound in (low, high))
        self.squash = squash

    def forward(self, obs: Float[Tensor, "batch features"]) -> Float[Tensor, "batch outputs"]:
        """Return logits, or actions as they are before squashing and clipping.

        Parameters
        ----------
        obs
            Observations of shape (batch, features).

        Returns
        -------
        Tensor of shape (batch, outputs)
            One row of outputs for each observation.
        """
        return self.network(obs)

    @torch.no_grad()
    def act(self, obs: Float[Tensor, "batch features"]) -> Int64[Tensor, " batch"] | Float[Tensor, "batch dims"]:
        """Return the deterministic actions that are executed.

        Parameters
        ----------
        obs
            Observations of shape (batch, features).

        Returns
        -------
        Tensor of shape (batch,) | Tensor of shape (batch, dims)
            One number of an action for each observation, or one row of a continuous one.
        """
        outputs = self(obs)
        if self.low is None or self.high is None:
            return outputs.argmax(1)
        low, high = self.low.to(outputs), self.high.to(outputs)
        if self.squash:
            return low + (high - low) * (outputs.tanh() + 1) / 2
        return torch.clamp(outputs, low, high)

    def output_of(self, action: float) -> float:
        """Return the output at which a single continuous action is executed: a `BifurcationLayer`'s threshold.

        Returns
        -------
        float
            The output before squashing, in the network's unit.

        Raises
        ------
        ValueError
            For discrete or several actions, or one out of range.
        """
        if self.low is None or self.high is None or self.low.numel() > 1:
            raise ValueError("action is asked of a policy without one continuous action; it takes such a policy")
        low, high = float(self.low), float(self.high)
        check_number("action", action, ge=low, le=high)
        if not self.squash:
            return action
        check_number("action", action, gt=low, lt=high)
        return math.atanh(2 * (action - low) / (high - low) - 1)


def from_module(network: nn.Module, low: Any = None, high: Any = None, squash: bool = False) -> Policy:
    """Return the policy of a network of one's own; see `Policy`.

    Parameters
    ----------
    network
        Maps observations to logits or continuous actions.
    low, high
        Bounds of continuous actions; None for discrete ones.
    squash
        Whether outputs go through tanh before they are scaled to the bounds.

    Returns
    -------
    Policy
        A policy that shares the network.

    Examples
    --------
    >>> from_module(nn.Identity()).act(torch.tensor([[0.1, 0.7, 0.2]]))
    tensor([1])
    """
    return Policy(network, low, high, squash)


def from_sb3(model: Any) -> Policy:
    """Return the policy of a trained agent of stable-baselines3, which shares its weights.

    PPO, A2C and DQN with discrete actions give logits or values of actions; PPO, A2C, SAC, TD3 and DDPG give the mean
    of continuous ones, before the tanh of those that squash.

    Parameters
    ----------
    model
        A trained agent, such as PPO.

    Returns
    -------
    Policy
        A policy that shares the agent's weights.

    Raises
    ------
    ValueError
        For an agent of another kind.

    Examples
    --------
    >>> from stable_baselines3 import PPO  # doctest: +SKIP
    >>> from_sb3(PPO("MlpPolicy", "CartPole-v1")).act(torch.zeros(1, 4))  # doctest: +SKIP
    tensor([0])
    """
    policy = model.policy
    policy.set_training_mode(False)
    space = model.action_space
    discrete = hasattr(space, "n")
    low, high = (None, None) if discrete else (torch.from_numpy(space.low), torch.from_numpy(space.high))
    if hasattr(policy, "mlp_extractor") and (discrete or low is not None) and not hasattr(space, "nvec"):
        return Policy(_ActorCritic(policy), low, high, squash=policy.squash_output)
    if hasattr(policy, "q_net"):
        return Policy(policy.q_net)
    actor = getattr(policy, "actor", None)
    if hasattr(actor, "get_action_dist_params"):
        return Policy(_SoftActor(actor), low, high, squash=True)
    if actor is not None and isinstance(actor.mu, nn.Sequential) and isinstance(actor.mu[-1], nn.Tanh):
        return Policy(_DeterministicActor(actor), low, high, squash=True)
    raise ValueError(f"model is a {type(model).__name__}; it takes PPO, A2C, DQN, SAC, TD3 or DDPG")


class _ActorCritic(nn.Module):
    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Tensor) -> Tensor:
        """Return logits or means."""
        features = self.policy.extract_features(obs, self.policy.pi_features_extractor)
        return self.policy.action_net(self.policy.mlp_extractor.forward_actor(features))


class _SoftActor(nn.Module):
    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, obs: Tensor) -> Tensor:
        """Return means before the tanh."""
        return self.actor.get_action_dist_params(obs)[0]


class _DeterministicActor(nn.Module):
    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions before the tanh."""
        return self.actor.mu[:-1](self.actor.extract_features(obs, self.actor.features_extractor))
