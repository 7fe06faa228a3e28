"""Imitation: policies that learn from an expert's actions in the states that they visit themselves."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import solve_discrete_are
from torch import Tensor
from torch.nn import functional as F

from paperworks.numerics import mlp
from paperworks.optimization import SSO


@dataclass(frozen=True)
class Task:
    """An environment of gymnasium, an expert for it, and what an output of a policy means there."""

    name: str
    size: int  # entries of an observation
    expert: Callable[[np.ndarray], np.ndarray]  # actions in states
    action: Callable[[float], Any]  # what the environment is told
    loss: Callable[[Tensor, Tensor], Tensor]  # of outputs, against the expert's actions


def swing_up(states: np.ndarray) -> np.ndarray:
    """Return torques that swing a pendulum up by its energy, and hold it there by linear feedback."""
    cos, sin, speed = states.T
    angle = np.arctan2(sin, cos)
    energy = speed**2 / 6 + 5 * (cos - 1)  # 0 where the pendulum stands upright
    swing = -2 * np.sign(speed * energy + 1e-9)
    hold = -(15 * angle + 4 * speed)
    return np.clip(np.where(np.abs(angle) < 0.4, hold, swing), -2, 2)


@functools.cache
def cart_pole_gains() -> np.ndarray:
    """Return the linear-quadratic regulator of gymnasium's cart with a pole, linearised where the pole stands."""
    gravity, pole, total, length, force, time = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
    lever = length * (4 / 3 - pole / total)
    A, B = np.eye(4), np.zeros((4, 1))
    A[0, 1] = A[2, 3] = time
    A[1, 2], A[3, 2] = -time * pole * length / total * gravity / lever, time * gravity / lever
    B[1, 0] = time * force * (1 / total + pole * length / total**2 / lever)
    B[3, 0] = -time * force / total / lever
    P = solve_discrete_are(A, B, np.eye(4), np.eye(1))
    return np.linalg.solve(1 + B.T @ P @ B, B.T @ P @ A)[0]


def balance(states: np.ndarray) -> np.ndarray:
    """Return the side to which the regulator pushes, -1 or 1: there are no other pushes."""
    return np.where(states @ cart_pole_gains() < 0, 1.0, -1.0)


TASKS = {
    "pendulum": Task("Pendulum-v1", 3, swing_up, lambda z: np.clip([z], -2, 2).astype(np.float32),
                     lambda z, y: (z - y).square().mean() / 2),
    "cart_pole": Task("CartPole-v1", 4, balance, lambda z: int(z > 0), lambda z, y: F.softplus(-y * z).mean()),
}  # fmt: skip


def policy(task: Task, deep: bool, seed: int) -> torch.nn.Sequential:
    """Return a linear policy that is 0, or a network of one hidden layer."""
    torch.manual_seed(seed)
    found = mlp([task.size, *([32] if deep else []), 1], torch.nn.Tanh).double()
    if not deep:
        for p in found.parameters():
            torch.nn.init.zeros_(p)
    return found


def rollout(env: Any, task: Task, model: torch.nn.Module, samples: int, seed: int, cloning: float = 0.0) -> np.ndarray:
    """Return the states that a policy visits, where the expert acts instead in a share `cloning` of the steps."""
    rng = np.random.default_rng(seed)
    layers = [p.detach().numpy() for p in model.parameters()]
    states: list[np.ndarray] = []
    observation, _ = env.reset(seed=seed)
    while len(states) < samples:
        states.append(observation)
        z = observation.astype(np.float64)
        for W, b in zip(layers[:-2:2], layers[1:-2:2], strict=True):
            z = np.tanh(W @ z + b)
        output = (layers[-2] @ z + layers[-1])[0]
        if rng.random() < cloning:
            output = task.expert(states[-1][None].astype(np.float64))[0]
        observation, _, ended, truncated, _ = env.step(task.action(float(output)))
        if ended or truncated:
            observation, _ = env.reset()
    return np.array(states, dtype=float)


SCHEDULES: dict[str, Any] = {"SSO, line search": "armijo", "SSO, AdaGrad": "adagrad_norm"}
"""Of surrogates other than with a constant step."""
CLONING = {"SSO, half cloned": 0.5, "SSO, cloned": 1.0}
"""In what share of the steps that are learned from the expert acts; with 1 it is behavioural cloning."""


class Imitated(NamedTuple):
    """What came of an imitation."""

    loss: float  # mean over rounds, of each round's policy on the states that were visited
    excess: float  # of that over the best policy on the states of all rounds


def imitate(task: Task, deep: bool, method: str, step: float, rounds: int, samples: int, seed: int) -> Imitated:
    """Take a round for each gradient: visit states, ask the expert, update; infinities where it diverges.

    Where the expert acts in a share of the steps, losses are still those on the states that the policy visits alone.
    """
    import gymnasium

    env, model, squares = gymnasium.make(task.name), policy(task, deep, seed), 0.0
    optimizer = SSO(model.parameters(), step, inner_steps=100, eta_schedule=SCHEDULES.get(method, "constant"))
    seen, losses = [], []
    for number in range(rounds):
        states = rollout(env, task, model, samples, 1000 * seed + number)
        X, y = torch.from_numpy(states), torch.from_numpy(task.expert(states))[:, None]
        seen.append((X, y))
        loss = task.loss(model(X), y)
        losses.append(float(loss.detach()))
        if not losses[-1] < 1e6:
            return Imitated(math.inf, math.inf)
        if method in CLONING:
            states = rollout(env, task, model, samples, 1000 * seed + number, CLONING[method])
            X, y = torch.from_numpy(states), torch.from_numpy(task.expert(states))[:, None]
        if method.startswith("SSO"):
            optimizer.step(lambda X=X: model(X), lambda z, y=y: task.loss(z, y))
            continue
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        squares += float(sum(g.square().sum() for g in gradients))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p.sub_(g, alpha=step / (math.sqrt(squares) if method == "AdaOGD" else 1.0))
    X, y = (torch.cat(part) for part in zip(*seen, strict=True))
    return Imitated(float(np.mean(losses)), float(np.mean(losses)) - least_loss(task, deep, X, y))


def least_loss(task: Task, deep: bool, X: Tensor, y: Tensor) -> float:
    """Return the loss of the best policy on given states, as L-BFGS finds it from the usual start."""
    model = policy(task, deep, 0)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_change=0.0)

    def closure() -> float:
        loss = task.loss(model(X), y)
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            p.grad = g
        return float(loss.detach())

    optimizer.step(closure)
    with torch.no_grad():
        return float(task.loss(model(X), y))
