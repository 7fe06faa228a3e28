"""Many buildings side by side, as stable-baselines3 takes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from paperworks.robustness import BatteryDispatchEnv


class BatteryVecEnv(VecEnv):
    """Episodes of a `BatteryDispatchEnv` in step with each other, that start at random hours of its first part."""

    def __init__(self, env: BatteryDispatchEnv, latest: int, seed: int = 0) -> None:
        self.env, self.latest = env, latest  # before the base class asks for what it renders
        super().__init__(env.num_envs, env.observation_space, env.action_space)
        self.rng = np.random.default_rng(seed)
        self.rewards = np.zeros(env.num_envs)

    def reset(self) -> np.ndarray:
        """Start all episodes."""
        self.rewards[:] = 0
        return self.env.reset_batch(self.rng.integers(self.latest + 1, size=self.num_envs))

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions."""
        self.actions = actions.reshape(self.num_envs)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take the actions."""
        obs, reward, done, _ = self.env.step_batch(self.actions)
        self.rewards += reward
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done:
            for info, last, total in zip(infos, obs, self.rewards, strict=True):
                info["terminal_observation"], info["TimeLimit.truncated"] = last, True
                info["episode"] = {"r": float(total), "l": self.env.horizon}
            obs = self.reset()
        return obs, reward.astype(np.float32), np.full(self.num_envs, done), infos

    def close(self) -> None:
        """Do nothing."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the environment, for each episode."""
        return [getattr(self.env, attr_name, None)] * self.env.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the environment."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the environment."""
        return [getattr(self.env, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return False."""
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the starts."""
        self.rng = np.random.default_rng(seed)
        return [seed] * self.num_envs
