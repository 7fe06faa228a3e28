"""The agents of the experiments: trained through the simulation, distilled from that, or by stable-baselines3."""

import io
import math
from collections.abc import Callable
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paperworks.evidence import Run
from paperworks.numerics import mlp, seeded, train
from paperworks.robustness import BatteryDispatchEnv, Policy, charge, from_sb3, rollout
from paperworks.testbeds import BuildingName, citylearn_building

BINS = 20
WEEK = 168
TRAINING_HOURS = 6000  # of 8760; the rest is for evaluation
Algorithm = Literal["discrete PPO", "PPO", "SAC"]


def environment(
    horizon: int = WEEK,
    num_envs: int = 1,
    bins: int | None = None,
    name: BuildingName = "Building_6",
    hours: slice | None = None,
) -> BatteryDispatchEnv:
    """Return a building as an environment, of the whole year or a part of it."""
    series = {key: values[hours or slice(None)] for key, values in citylearn_building(name).series().items()}
    return BatteryDispatchEnv(**series, horizon=horizon, num_envs=num_envs, bins=bins)


def calendar_mask() -> Tensor:
    """Return True for the features an attacker may change."""
    return torch.from_numpy(environment().calendar_mask)


def network_of(*sizes: int, seed: int = 0) -> nn.Sequential:
    """Return a network with hyperbolic tangents."""
    with seeded(seed):
        return mlp(sizes, nn.Tanh)


def one_cycle(
    run: Run, network: nn.Module, loss: Callable[[int], Tensor], steps: int, label: str, clip: float = math.inf
) -> None:
    """Train by Adam with rates that rise and fall once."""
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    train(loss, optimizer, steps, clip=clip, callback=lambda *_: schedule.step(), progress=run.progress, label=label)


def simulated_cost(network: nn.Module, env: BatteryDispatchEnv, starts: Tensor, charged: Tensor, hours: int) -> Tensor:
    """Return the mean cost of an hour, through which gradients flow to the network, from given states of charge."""
    table, price, demand = (torch.from_numpy(v).float() for v in (env.table, env.price, env.demand))
    soc = env.feature_names.index("soc")
    stored, consumption, cost = env.capacity * charged, demand[starts], torch.zeros(())
    for hour in range(hours):
        row = table[starts + hour]
        own = torch.stack([stored / env.capacity, (consumption - env.least) / (env.most - env.least)], dim=1)
        obs = torch.cat([row[:, :soc], own, row[:, soc + 2 :]], dim=1)
        stored, energy = charge(stored, network(obs)[:, 0].tanh(), env.capacity, env.power, env.efficiency)
        consumption = demand[starts + hour] + energy
        cost = cost + (price[starts + hour] * consumption.clamp_min(0)).mean()
    return cost / hours


def simulated_policy(run: Run, seed: int | None = None) -> Policy:
    """Return a policy with a continuous action, trained by the gradient of the cost through the simulation."""
    seed = run.seed if seed is None else seed
    steps, hours = run.at(smoke=3, desk=300, full=3000), run.at(smoke=6, desk=48, full=WEEK)
    env = environment()

    def fit(network: nn.Module) -> None:
        generator = run.torch_rng(seed)

        def cost(step: int) -> Tensor:
            starts = torch.randint(TRAINING_HOURS, (64,), generator=generator)
            # Batteries that are always empty at first give no gradient to discharging, and some agents never charge.
            charged = torch.rand(64, generator=generator)
            return simulated_cost(network, env, starts, charged, hours)

        one_cycle(run, network, cost, steps, "simulated policy", clip=1.0)

    network = network_of(len(env.feature_names), 64, 64, 1, seed=seed)
    run.trained("battery-policy", network, fit, seed=seed, steps=steps, hours=hours)
    return Policy(network, -1.0, 1.0, squash=True)


def distilled_policy(run: Run, seed: int | None = None) -> Policy:
    """Return a policy with 20 discrete actions that does what the simulated one does."""
    seed = run.seed if seed is None else seed
    steps = run.at(smoke=5, desk=1500, full=10_000)
    teacher = simulated_policy(run, seed)

    def fit(network: nn.Module) -> None:
        generator = run.torch_rng(seed)
        obs = visited(run, teacher, seed, TRAINING_HOURS)
        labels = ((teacher.act(obs)[:, 0] + 1) / 2 * (BINS - 1)).round().long()

        def loss(step: int) -> Tensor:
            chosen = torch.randint(len(obs), (256,), generator=generator)
            return functional.cross_entropy(network(obs[chosen]), labels[chosen])

        one_cycle(run, network, loss, steps, "distilled policy")

    network = network_of(len(environment().feature_names), 64, 64, BINS, seed=seed)
    run.trained("battery-distilled", network, fit, seed=seed, scale=run.scale, steps=steps)
    return Policy(network)


def week_starts(run: Run, n: int, held_out: bool = True) -> np.ndarray:
    """Return the first hours of weeks, of the part of the year that no agent is trained on, or of the other."""
    first, last = (TRAINING_HOURS + 100, 8759 - WEEK) if held_out else (0, TRAINING_HOURS - WEEK)
    return np.linspace(first, last, n).astype(int)


def visited(run: Run, policy: Policy, seed: int, n: int, held_out: bool = False) -> Tensor:
    """Return observations of a policy's own episodes, in random order."""
    weeks = -(-n // WEEK)
    bins = BINS if policy.low is None else None
    episodes = rollout(environment(num_envs=weeks, bins=bins), policy, week_starts(run, weeks, held_out))
    obs = torch.from_numpy(episodes.obs).flatten(0, 1)
    return obs[torch.randperm(len(obs), generator=run.torch_rng(seed))[:n]]


def sb3_policy(run: Run, algorithm: Algorithm, seed: int | None = None) -> Policy:
    """Return a policy of the building that stable-baselines3 trained."""
    seed = run.seed if seed is None else seed
    steps = run.at(smoke=64, desk=40_000 if algorithm == "SAC" else 200_000, full=800_000)
    from paperworks.papers.bifurcation_attack.vectorised import BatteryVecEnv

    bins = BINS if algorithm == "discrete PPO" else None
    env = BatteryVecEnv(environment(WEEK, 16, bins), TRAINING_HOURS - WEEK, seed)
    return from_sb3(_sb3_agent(run, algorithm, env, "battery", steps, seed))


def pendulum() -> gymnasium.Env:
    """Return the pendulum of gymnasium, with observations in [0, 1]."""
    env = gymnasium.make("Pendulum-v1")
    return gymnasium.wrappers.RescaleObservation(env, np.float32(0), np.float32(1))


def pendulum_policy(run: Run, seed: int | None = None) -> Policy:
    """Return a policy that swings the pendulum up, trained by SAC of stable-baselines3."""
    steps = run.at(smoke=40, desk=6000, full=50_000)
    return from_sb3(_sb3_agent(run, "SAC", pendulum(), "pendulum", steps, run.seed if seed is None else seed))


def _sb3_agent(run: Run, algorithm: Algorithm, env: Any, world: str, steps: int, seed: int) -> Any:
    import stable_baselines3 as sb3

    small = run.scale == "smoke"
    kind: Any = sb3.SAC if algorithm == "SAC" else sb3.PPO
    options: dict[str, Any] = {"learning_rate": 1e-3, "gamma": 0.95, "seed": seed, "device": "cpu"}
    if kind is sb3.SAC:
        many = getattr(env, "num_envs", 1) > 1
        options |= {"gradient_steps": 4 if many else 1, "learning_starts": 16 if small else 500}
        options |= {"policy_kwargs": {"net_arch": [64, 64]}}
    else:
        options |= {"n_steps": 4 if small else 256, "batch_size": 32 if small else 512, "n_epochs": 8}
        options |= {"gae_lambda": 0.964, "policy_kwargs": {"net_arch": [64, 64]}}

    def learned() -> Tensor:
        agent = kind("MlpPolicy", env, **options)

        def report(found: dict[str, Any], _: Any) -> bool:
            run.report(agent.num_timesteps, steps, f"{algorithm}, {world}")
            return True

        agent.learn(steps, callback=report)
        saved = io.BytesIO()
        agent.save(saved)
        return torch.frombuffer(bytearray(saved.getvalue()), dtype=torch.uint8)

    kept = run.cached("rl-agent", learned, algorithm=algorithm, world=world, steps=steps, options=options)
    return kind.load(io.BytesIO(kept.numpy().tobytes()), device="cpu")
