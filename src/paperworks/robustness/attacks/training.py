"""Training against an attacker: on examples, with a penalty of what they change, or in turns with an adversary."""

import copy
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics import torch_generator, train, warmup_cosine
from paperworks.robustness.attacks.episodes import ObservationAttack

Mapping = Literal["replace", "sum", "scaled", "around"]


def adversarial_training(
    policy: nn.Module,
    obs: Float[Tensor, "n features"],
    attack: ObservationAttack,
    attacked: nn.Module | None = None,
    *,
    discrete: bool = True,
    smooth: bool = False,
    weight: float = 1.0,
    steps: int = 300,
    batch_size: int = 256,
    lr: float = 1e-3,
    random_state: int = 0,
) -> nn.Module:
    """Train a policy further so that it does on attacked observations what it did on the true ones.

    ``d(pi_0(o), pi(o)) + weight d(pi_0(o), pi(o + delta))`` by Adam, with the policy as it was, pi_0, and with d the
    divergence of discrete policies or the squared error of continuous ones; with `smooth` the second is
    ``weight d(pi(o), pi(o + delta))``.

    Parameters
    ----------
    policy
        Trained in place.
    obs
        Observations such as those of its episodes.
    attack
        Makes the perturbations, anew for each batch.
    attacked
        What the attack differentiates; a module that contains the policy, such as its `BifurcationLayer`. The policy
        by default.
    discrete
        Whether outputs are logits.
    smooth
        Whether to compare with the policy itself as it is in training.
    weight
        Weight of perturbed observations.
    steps, batch_size, lr
        Number of steps, observations in each step, and step size of Adam.
    random_state
        Seed of the batches.

    Returns
    -------
    nn.Module
        The policy itself, which was trained in place.

    Raises
    ------
    ValueError
        For options out of range.

    Notes
    -----
    With `smooth` the regulariser of SA-PPO, arXiv 2003.08938, for a trained policy.

    Examples
    --------
    >>> from paperworks.robustness import FGSM, CrossEntropyLoss
    >>> policy = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> adversarial_training(policy, torch.rand(64, 2), FGSM(CrossEntropyLoss(), eps=0.1), steps=2) is policy
    True
    """
    check_number("weight", weight, ge=0)
    check_number("lr", lr, gt=0)
    check_count("steps", steps)
    check_count("batch_size", batch_size)
    teacher = copy.deepcopy(policy).requires_grad_(False)
    generator = torch_generator(random_state)

    def of_step(step: int) -> Tensor:
        clean = obs[torch.randint(len(obs), (batch_size,), generator=generator)]
        shown = attack(policy if attacked is None else attacked, clean).adv
        before, now = teacher(clean), policy(clean)
        apart = _divergence(before, now, discrete)
        return apart + weight * _divergence(now if smooth else before, policy(shown), discrete)

    optimizer = torch.optim.Adam(policy.parameters(), lr)
    train(of_step, optimizer, steps, schedule=lambda step: warmup_cosine(step, 0, steps))
    return policy


def _divergence(before: Tensor, after: Tensor, discrete: bool) -> Tensor:
    if not discrete:
        return functional.mse_loss(after, before)
    return functional.kl_div(after.log_softmax(1), before.log_softmax(1), log_target=True, reduction="batchmean")


class _Perturbation:
    """What an adversary's action does to an observation."""

    def __init__(
        self, space: gymnasium.spaces.Box, mapping: Mapping, mask: np.ndarray | None, scale: float, drift: float
    ) -> None:
        self.mapping = check_choice("mapping", mapping, get_args(Mapping))
        self.scale = check_number("scale", scale, gt=0)
        self.drift = check_number("drift", drift, gt=0)
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"env has observations of {space}; it takes a Box of one axis")
        self.mask = np.ones(space.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        if self.mask.shape != space.shape:
            raise ValueError(f"mask has shape {self.mask.shape}; it takes {space.shape}, one for each feature")
        if mapping == "replace" and not space.is_bounded():
            raise ValueError("mapping is 'replace'; it takes an environment with bounded observations")
        self.low, self.high = space.low, space.high
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (int(self.mask.sum()),), np.float32)

    def __call__(self, obs: np.ndarray, previous: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return what to show."""
        move = np.zeros_like(obs)
        move[self.mask] = action
        if self.mapping == "replace":
            shown = np.where(self.mask, self.low + (move + 1) / 2 * (self.high - self.low), obs)
        elif self.mapping == "around":
            low, high = np.minimum(previous - self.drift, obs), np.maximum(previous + self.drift, obs)
            shown = np.where(self.mask, np.clip(obs + move, low, high), obs)
        else:
            shown = obs + (self.scale if self.mapping == "scaled" else 1.0) * move
        return np.clip(shown, self.low, self.high).astype(obs.dtype)


class AdversaryEnv(gymnasium.Wrapper):
    """The world of an adversary: its action changes what a victim sees, and it is paid for what the victim loses.

    The reward is ``-r (1 - min(1, |delta|_inf / limit))^k``, of the victim's r: less for changes that are seen.

    Parameters
    ----------
    env
        The victim's environment, with observations of one axis.
    victim
        An agent with ``predict(observation, deterministic=True)``, such as one of stable-baselines3.
    mapping
        ``replace`` observations, add the action to them (``sum``), add it ``scaled``, or add it but stay ``around`` the
        previous observation, within `drift` or the true one.
    mask
        True for features that may change; all by default. The adversary has an action for each of these.
    scale
        Size of a ``scaled`` action.
    drift
        Greatest distance from the previous observation.
    limit
        Change of a feature from which on nothing is paid.
    k
        Power of the discount.

    Raises
    ------
    ValueError
        For options out of range, or an environment or a mask that don't fit.

    Notes
    -----
    arXiv 2407.05182 after ATLA, arXiv 2101.08452.

    Examples
    --------
    >>> class Push:
    ...     def predict(self, obs, deterministic=True):
    ...         return np.array([1.0]), None
    >>> env = AdversaryEnv(gymnasium.make("Pendulum-v1"), Push())
    >>> _ = env.reset(seed=0)
    >>> obs, reward, *_ = env.step(np.zeros(3))
    >>> reward > 0
    True
    """

    def __init__(
        self,
        env: gymnasium.Env,
        victim: Any,
        mapping: Mapping = "scaled",
        mask: Bool[np.ndarray, " features"] | None = None,
        *,
        scale: float = 0.1,
        drift: float = 0.33,
        limit: float = 1.0,
        k: float = 3.0,
    ) -> None:
        super().__init__(env)
        self.victim = victim
        self.limit, self.k = check_number("limit", limit, gt=0), check_number("k", k, ge=0)
        self._shown = _Perturbation(env.observation_space, mapping, mask, scale, drift)  # type: ignore[arg-type]
        self.action_space = self._shown.action_space
        self._obs = self._previous = np.zeros(0)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode.

        Returns
        -------
        tuple[ndarray, dict[str, Any]]
            What the adversary sees first, and the environment's information.
        """
        self._obs, info = self.env.reset(**options)
        self._previous = self._obs
        return self._obs, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Show the victim something, and let it act.

        Parameters
        ----------
        action
            What the adversary shows, as its action space says.

        Returns
        -------
        tuple[ndarray, float, bool, bool, dict[str, Any]]
            What the adversary sees, its reward, whether the episode ended or was cut off, and information.
        """
        shown = self._shown(self._obs, self._previous, action)
        choice, _ = self.victim.predict(shown, deterministic=True)
        self._previous = self._obs
        self._obs, reward, terminated, truncated, info = self.env.step(choice)
        size = float(np.abs(shown - self._previous).max())
        paid = -float(reward) * (1 - min(1.0, size / self.limit)) ** self.k
        return self._obs, paid, terminated, truncated, {**info, "victim_reward": float(reward), "shown": shown}


class AdversaryObservations(gymnasium.ObservationWrapper):
    """The world of a victim whose observations a trained adversary changes.

    Parameters
    ----------
    env
        The victim's environment.
    adversary
        An agent with ``predict(observation, deterministic=True)``, trained in an `AdversaryEnv`.
    mapping, mask, scale, drift
        As in `AdversaryEnv`.

    Raises
    ------
    ValueError
        For options out of range, or an environment or a mask that don't fit.

    Examples
    --------
    >>> class Shift:
    ...     def predict(self, obs, deterministic=True):
    ...         return np.ones(3), None
    >>> shown, _ = AdversaryObservations(gymnasium.make("Pendulum-v1"), Shift()).reset(seed=0)
    >>> plain, _ = gymnasium.make("Pendulum-v1").reset(seed=0)
    >>> (shown - plain).round(3)
    array([0.1, 0.1, 0.1], dtype=float32)
    """

    def __init__(
        self,
        env: gymnasium.Env,
        adversary: Any,
        mapping: Mapping = "scaled",
        mask: Bool[np.ndarray, " features"] | None = None,
        *,
        scale: float = 0.1,
        drift: float = 0.33,
    ) -> None:
        super().__init__(env)
        self.adversary = adversary
        self._shown = _Perturbation(env.observation_space, mapping, mask, scale, drift)  # type: ignore[arg-type]
        self._previous: np.ndarray | None = None

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode.

        Returns
        -------
        tuple[ndarray, dict[str, Any]]
            The first observation as the adversary shows it, and the environment's information.
        """
        self._previous = None
        return super().reset(**options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return what the adversary shows.

        Parameters
        ----------
        observation
            What the environment shows, of shape (features,).

        Returns
        -------
        ndarray
            What the adversary shows, of the same shape.
        """
        previous = observation if self._previous is None else self._previous
        self._previous = observation
        action, _ = self.adversary.predict(observation, deterministic=True)
        return self._shown(observation, previous, action)


def train_atla(
    env: gymnasium.Env,
    victim: Any,
    adversary: Any = None,
    *,
    rounds: int = 2,
    adversary_steps: int = 5000,
    victim_steps: int = 10_000,
    mapping: Mapping = "scaled",
    mask: Bool[np.ndarray, " features"] | None = None,
    scale: float = 0.1,
    drift: float = 0.33,
    limit: float = 1.0,
    k: float = 3.0,
    random_state: int = 0,
) -> tuple[Any, Any]:
    """Train an adversary and its victim in turns, each while the other is frozen.

    Parameters
    ----------
    env
        The victim's environment.
    victim
        An agent of stable-baselines3, trained in place.
    adversary
        Another for an `AdversaryEnv`; a new `SAC` by default.
    rounds
        Number of turns of both.
    adversary_steps, victim_steps
        Steps of a turn.
    mapping, mask, scale, drift, limit, k
        As in `AdversaryEnv`.
    random_state
        Seed of a new adversary.

    Returns
    -------
    tuple[Any, Any]
        The victim and the adversary.

    Raises
    ------
    ValueError
        For options out of range.

    Notes
    -----
    Alternating training with learned adversaries, arXiv 2101.08452, with the rewards of arXiv 2407.05182.

    Examples
    --------
    >>> from stable_baselines3 import PPO  # doctest: +SKIP
    >>> env = gymnasium.make("Pendulum-v1")  # doctest: +SKIP
    >>> victim, adversary = train_atla(env, PPO("MlpPolicy", env))  # doctest: +SKIP
    """
    check_count("rounds", rounds)
    check_count("adversary_steps", adversary_steps)
    check_count("victim_steps", victim_steps)
    world = AdversaryEnv(env, victim, mapping, mask, scale=scale, drift=drift, limit=limit, k=k)
    if adversary is None:
        from stable_baselines3 import SAC

        adversary = SAC("MlpPolicy", world, seed=random_state)
    else:
        adversary.set_env(world)
    for _ in range(rounds):
        adversary.learn(adversary_steps, reset_num_timesteps=False)
        victim.set_env(AdversaryObservations(env, adversary, mapping, mask, scale=scale, drift=drift))
        victim.learn(victim_steps, reset_num_timesteps=False)
    return victim, adversary
