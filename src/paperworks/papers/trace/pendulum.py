"""Swinging up a pendulum: a controller of three gains, and what an observer says of a rollout."""

import math
from itertools import pairwise
from typing import Any, NamedTuple

STEPS = 200


class Rollout(NamedTuple):
    """What was seen: the cost, angles from upright, angular speeds, and torques that the controller asked for."""

    cost: float
    angles: list[float]
    speeds: list[float]
    torques: list[float]


def torque(angle: float, speed: float, pump: float, pull: float, brake: float) -> float:
    """Return the torque: energy is pumped in below, and near the top the pendulum is pulled upright and braked."""
    if math.cos(angle) > 0.8:
        return -pull * angle - brake * speed
    energy = speed * speed / 6.0 + 5.0 * math.cos(angle)  # m = l = 1, g = 10, inertia 1/3: 5 at rest on top
    return pump * speed * (5.0 - energy)


def roll(gains: tuple[float, float, float], seed: int) -> Rollout:
    """Run one episode of gymnasium's Pendulum-v1."""
    import gymnasium
    import numpy as np

    environment = gymnasium.make("Pendulum-v1").unwrapped
    (x, y, speed), _ = environment.reset(seed=seed)
    cost, angles, speeds, torques = 0.0, [], [], []
    for _ in range(STEPS):
        angle = math.atan2(y, x)
        wanted = torque(angle, float(speed), *gains)
        angles.append(angle)
        speeds.append(float(speed))
        torques.append(wanted)
        (x, y, speed), reward, *_ = environment.step(np.array([wanted], dtype=np.float32))
        cost -= float(reward)
    return Rollout(cost, angles, speeds, torques)


def remarks(rollouts: list[Rollout]) -> str:
    """Say in words what an observer sees, about each gain, without its numbers."""
    said: dict[str, list[str]] = {"pump": [], "pull": [], "brake": []}
    for rollout in rollouts:
        near = [math.cos(a) > 0.8 for a in rollout.angles]
        if not any(near):
            said["pump"].append("too low, it never comes up")
            continue
        first = near.index(True)
        if first > 100:
            said["pump"].append("too low, it comes up late")
        lost = sum(a and not b for a, b in pairwise(near))
        if lost > 0:
            exits = [i for i, (a, b) in enumerate(pairwise(near)) if a and not b]
            fast = abs(rollout.speeds[exits[0]]) > 3.0
            said["brake" if fast else "pull"].append(
                "too low, it flies past the top" if fast else "too low, it sinks back from the top"
            )
            continue
        late = range(max(first + 30, STEPS - 60), STEPS)
        turns = sum(rollout.angles[i] * rollout.angles[i - 1] < 0 for i in late)
        if turns > 4:
            said["brake"].append("too low, it swings to and fro on top")
        elif late and max(abs(rollout.angles[i]) for i in late) > 0.05:
            said["brake"].append("too high, it creeps to the top")
    sentences = [f"{gain}: {max(set(words), key=words.count)}." for gain, words in said.items() if words]
    return " ".join(sentences) or "correct"


def mean_cost(gains: Any, seeds: range) -> float:
    """Return the mean cost of swing-ups from the starts of some seeds."""
    return sum(roll(tuple(gains), seed).cost for seed in seeds) / len(seeds)
