"""What the paper claims of attacks on agents that run a battery, in a building of CityLearn's challenge of 2022."""

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.evidence import Measurement, Run, Table, interleaved, measures, races
from paperworks.numerics import seeded
from paperworks.papers.bifurcation_attack.agents import (
    BINS,
    Algorithm,
    calendar_mask,
    distilled_policy,
    environment,
    pendulum,
    pendulum_policy,
    sb3_policy,
    simulated_policy,
    visited,
    week_starts,
)
from paperworks.robustness import (
    ACG,
    APGD,
    FMN,
    PGD,
    Attack,
    Attacker,
    BifurcationLayer,
    CrossEntropyLoss,
    DynamicDistortion,
    GroupDifferenceLogitsLoss,
    Policy,
    SquaredErrorLoss,
    ToggleSchedule,
    adversarial_training,
    change_test,
    daily_samples,
    detection_rate,
    kpis,
    ks_test,
    ljung_box,
    mmd_test,
    rollout,
    zscore_outliers,
)

STEPS = 40  # gradients of an attack on single states
LOOP_STEPS = 20  # and of one in an episode
EPS = (0.05, 0.1, 0.2)
GRID = tuple(k / 100 for k in range(1, 61))


def states(run: Run, policy: Policy, seed: int) -> Tensor:
    """Return observations that a policy sees in the part of the year that it isn't trained on."""
    return visited(run, policy, seed, run.at(smoke=30, desk=600, full=5000), held_out=True)


def grid(run: Run) -> tuple[float, ...]:
    """Return the distortions that dynamic attacks try."""
    return run.at(smoke=GRID[::15], desk=GRID, full=GRID)


def executed(policy: Policy, obs: Tensor) -> Tensor:
    """Return the actions that are executed, from -1 to 1."""
    found = policy.act(obs)
    return found * (2 / (BINS - 1)) - 1 if policy.low is None else found[:, 0]


def flips(layer: nn.Module, obs: Tensor, shown: Tensor) -> float:
    """Return the share of decisions that are for the other group."""
    with torch.no_grad():
        return float((layer(obs).argmax(1) != layer(shown).argmax(1)).double().mean())


def change(policy: Policy, obs: Tensor, shown: Tensor) -> float:
    """Return the mean change of the action."""
    return float((executed(policy, shown) - executed(policy, obs)).abs().double().mean())


@measures("f1-more-impact")
def more_impact(run: Run) -> Measurement:
    """Attack an agent with discrete actions by both losses, at fixed and dynamic distortions."""
    mask = calendar_mask()
    found: dict[str, list[float]] = {"flips_01": [], "flips_02": [], "action_change": []}
    rows: list[list[Any]] = []
    curves = []
    agents = [(f"distilled, seed {seed}", distilled_policy(run, seed), seed) for seed in run.seeds]
    agents.append(("PPO of stable-baselines3", sb3_policy(run, "discrete PPO"), run.seed))
    for name, policy, seed in run.progress(agents, label="agents"):
        obs, layer = states(run, policy, seed), BifurcationLayer(policy)
        shares = {}
        for eps in EPS:
            ce = ACG(CrossEntropyLoss(), eps, steps=STEPS, mask=mask)(policy, obs).adv
            gdl = ACG(GroupDifferenceLogitsLoss(), eps, steps=STEPS, mask=mask)(layer, obs).adv
            shares[eps] = flips(layer, obs, ce), flips(layer, obs, gdl)
            rows.append([name, f"{eps:g}", *shares[eps], change(policy, obs, ce), change(policy, obs, gdl)])
        dynamic = [
            DynamicDistortion(ACG(loss, 1.0, steps=LOOP_STEPS, mask=mask), grid(run))(model, obs).adv
            for loss, model in ((CrossEntropyLoss(), policy), (GroupDifferenceLogitsLoss(), layer))
        ]
        changes = [change(policy, obs, shown) for shown in dynamic]
        rows.append([name, "dynamic", *(flips(layer, obs, shown) for shown in dynamic), *changes])
        if name.startswith("distilled"):
            found["flips_01"].append(ratio(*shares[0.1]))
            found["flips_02"].append(ratio(*shares[0.2]))
            found["action_change"].append(ratio(*changes))
            curves.append([shares[eps] for eps in EPS])
    figure, axes = run.figure()
    for column, name in enumerate(("cross-entropy", "group difference of logits")):
        axes.plot(EPS, np.mean(curves, axis=0)[:, column], "o-", label=name)
    axes.set(xlabel="greatest change of a feature", ylabel="decisions for the other group", ylim=(0, 1))
    axes.set_title("Charging turned into discharging, or back")
    axes.legend()
    columns = ["agent", "distortion", "flips, cross-entropy", "flips, GDL", "|change|, cross-entropy", "|change|, GDL"]
    return Measurement.over_seeds(found, table=Table(columns, rows), figure=figure)


def ratio(below: float, above: float) -> float:
    """Return a ratio; 1 where both are 0, and never above 1000."""
    return 1.0 if above == below else above / max(below, above / 1000)


@measures("f2-less-distortion")
def less_distortion(run: Run) -> Measurement:
    """Look for the smallest distortion that changes the group, or that reaches the opposite extreme action."""
    mask = calendar_mask()
    rows: list[list[Any]] = []
    ratios, to_used = [], []
    for seed in run.progress(run.seeds, label="seeds"):
        policy = distilled_policy(run, seed)
        obs, layer = states(run, policy, seed), BifurcationLayer(policy)
        with torch.no_grad():
            low = layer(obs).argmax(1) == 0
        used = policy.act(visited(run, policy, seed, 3000)).unique()
        targeted = CrossEntropyLoss(targeted=True)
        trials = {
            "other group, GDL": (layer, GroupDifferenceLogitsLoss(), None),
            "opposite extreme action": (policy, targeted, torch.where(low, BINS - 1, 0)),
            "opposite extreme action in use": (policy, targeted, torch.where(low, used[-1], used[0])),
        }
        medians = []
        for name, (model, loss, target) in trials.items():
            result = DynamicDistortion(ACG(loss, 1.0, steps=LOOP_STEPS, mask=mask), grid(run))(model, obs, target)
            # A failure counts as the largest distortion that was tried, which favours the targeted attack.
            size = torch.where(result.success, result.norm, GRID[-1])
            medians.append(float(size.median()))
            rows.append([f"seed {seed}", name, float(result.success.double().mean()), medians[-1]])
        nearest = FMN(GroupDifferenceLogitsLoss(), steps=run.at(smoke=10, desk=100, full=300), mask=mask)(layer, obs)
        rows.append([
            f"seed {seed}", "other group, minimum norm", float(nearest.success.double().mean()),
            float(nearest.norm[nearest.success].median()) if bool(nearest.success.any()) else math.nan,
        ])  # fmt: skip
        ratios.append(medians[0] / medians[1])
        to_used.append(medians[0] / medians[2])
    return Measurement.over_seeds(
        ratios,
        table=Table(["agent", "attack", "successes", "median distortion"], rows),
        remark=f"To the median distortion that reaches the opposite action in use the ratio is {np.mean(to_used):.2f}.",
    )


@measures("f3-continuous")
def continuous(run: Run) -> Measurement:
    """Attack continuous actions by the pair of logits and by the squared error, which starts at random."""
    mask = calendar_mask()
    rows: list[list[Any]] = []
    least = []
    agents: list[tuple[str, Policy, Tensor, Tensor | None]] = []
    for seed in run.seeds:
        policy = simulated_policy(run, seed)
        agents.append((f"simulated, seed {seed}", policy, states(run, policy, seed), mask))
    for algorithm in ("PPO", "SAC"):
        policy = sb3_policy(run, algorithm)
        agents.append((f"{algorithm} of stable-baselines3", policy, states(run, policy, run.seed), mask))
    policy = pendulum_policy(run)
    agents.append(("SAC, pendulum", policy, swings(run, policy), None))
    for name, policy, obs, free in run.progress(agents, label="agents"):
        layer = BifurcationLayer(policy, threshold=policy.output_of(0.0))
        found = []
        for eps in EPS:
            ours = ACG(GroupDifferenceLogitsLoss(), eps, steps=STEPS, mask=free)(layer, obs).adv
            theirs = ACG(SquaredErrorLoss(), eps, steps=STEPS, mask=free, random_start=True)(policy, obs).adv
            shares = flips(layer, obs, theirs), flips(layer, obs, ours)
            rows.append([name, eps, *shares, change(policy, obs, theirs), change(policy, obs, ours)])
            found.append(ratio(*shares))
        if name.startswith("simulated"):
            least.append(min(found))
    columns = ["agent", "distortion", "flips, squared error", "flips, GDL", "|change|, squared error", "|change|, GDL"]
    return Measurement.over_seeds(least, table=Table(columns, rows))


def swings(run: Run, policy: Policy) -> Tensor:
    """Return observations of the pendulum's episodes."""
    env, found = pendulum(), []
    for episode in range(run.at(smoke=1, desk=3, full=20)):
        obs, _ = env.reset(seed=episode)
        for _ in range(run.at(smoke=20, desk=200, full=200)):
            found.append(np.clip(obs, 0, 1).astype(np.float32))
            obs, *_ = env.step(policy.act(torch.from_numpy(found[-1])[None])[0].numpy())
    return torch.from_numpy(np.array(found))


def attackers(policy: Policy, eps: float) -> dict[str, Attacker]:
    """Return the attackers of an episode."""
    mask, layer = calendar_mask(), BifurcationLayer(policy)
    options: dict[str, Any] = {"steps": LOOP_STEPS, "mask": mask}
    untargeted = (
        ACG(CrossEntropyLoss(), eps, **options)
        if policy.low is None
        else ACG(SquaredErrorLoss(), eps, random_start=True, **options)
    )
    toggle = ACG(GroupDifferenceLogitsLoss(targeted=True), eps, **options)
    return {
        "untargeted": Attacker(policy, untargeted),
        "GDL": Attacker(layer, ACG(GroupDifferenceLogitsLoss(), eps, **options)),
        "toggle": Attacker(layer, toggle, ToggleSchedule()),
    }


def indicators(run: Run, policy: Policy, attacker: Attacker | None = None) -> dict[str, float]:
    """Return means over weeks of what is said of a building's consumption, and the share of attacks that succeed."""
    weeks = run.at(smoke=2, desk=16, full=16)
    bins = BINS if policy.low is None else None
    env = environment(horizon=run.at(smoke=24, desk=168, full=168), num_envs=weeks, bins=bins)
    episodes = rollout(env, policy, week_starts(run, weeks), attacker)
    found = kpis(episodes.consumption, env.price[episodes.hours], env.carbon[episodes.hours])
    return {**{name: float(values.mean()) for name, values in found.items()}, "success": float(episodes.success.mean())}


@measures("f4-closed-loop")
def closed_loop(run: Run) -> Measurement:
    """Run weeks under each attack, of agents trained through the simulation and by stable-baselines3."""
    agents: list[tuple[str, Policy]] = [("simulated", simulated_policy(run)), ("distilled", distilled_policy(run))]
    algorithms: tuple[Algorithm, ...] = ("discrete PPO", "PPO", "SAC")
    agents += [(algorithm, sb3_policy(run, algorithm)) for algorithm in algorithms]
    idle = indicators(run, Policy(lambda obs: 0 * obs[:, :1], -1.0, 1.0))
    rows: list[list[Any]] = []
    rises: dict[str, dict[str, tuple[float, float]]] = {}
    for name, policy in run.progress(agents, label="agents"):
        clean = indicators(run, policy)
        rows.append([name, "none", *(clean[k] / idle[k] - 1 for k in KPIS), 0.0])
        rises[name] = {}
        for attack, attacker in attackers(policy, 0.05).items():
            found = indicators(run, policy, attacker)
            rise = {k: found[k] / clean[k] - 1 for k in KPIS}
            rises[name][attack] = rise["cost"], rise["ramping"]
            rows.append([name, attack, *rise.values(), found["success"]])
    bars = [rises[name] for name in ("simulated", "distilled")]
    figure, panels = run.figure(1, 2, sharex=True)
    for panel, (title, part) in zip(panels, {"cost": 0, "ramping": 1}.items(), strict=True):
        for k, attack in enumerate(bars[0]):
            places = np.arange(len(rises)) + 0.25 * (k - 1)
            panel.bar(places, [100 * found[attack][part] for found in rises.values()], 0.25, label=attack)
        panel.set_xticks(range(len(rises)), list(rises), rotation=30, ha="right")
        panel.set(ylabel=f"rise of {title}, %")
        panel.axhline(0, color="0.5", linewidth=0.8)
    panels[1].legend(loc="upper center")
    figure.suptitle("16 weeks under attacks that change features by up to 0.05")
    return Measurement(
        {
            "toggle_ramping": min(found["toggle"][1] for found in bars),
            "toggle_is_largest": all(found["toggle"][1] >= max(r for _, r in found.values()) for found in bars),
            "least_cost_rise": min(cost for found in bars for cost, _ in found.values()),
        },
        table=Table(["agent", "attack", *KPIS, "successes"], rows),
        figure=figure,
        remark="Bars are of the simulated and the distilled agent. Of those of stable-baselines3, toggling changes the "
        f"ramping by {told(rises, algorithms, 1)} and the cost by {told(rises, algorithms, 0)}. Without an attack, "
        "indicators are relative to the building without a battery, else to the agent's own.",
    )


def told(rises: dict[str, dict[str, tuple[float, float]]], agents: tuple[Algorithm, ...], part: int) -> str:
    """Say by how much toggling changes an indicator of agents."""
    return ", ".join(f"{rises[name]['toggle'][part]:+.1%} ({name})" for name in agents)


KPIS = ("cost", "energy", "carbon", "ramping", "daily_peak")


@measures("f5-defence-and-stealth")
def defence_and_stealth(run: Run) -> Measurement:
    """Train agents on attacked observations, and test the observations of attacked years."""
    falls, losses, rows = [], [], []
    for seed in run.progress(run.seeds, label="defences"):
        policy = simulated_policy(run, seed)
        before, cost = success_rate(run, policy, seed), indicators(run, policy)["cost"]
        trained = hardened(run, policy, seed)
        after, cost_after = success_rate(run, trained, seed), indicators(run, trained)["cost"]
        falls.append(1 - after / max(before, 1e-9))
        losses.append(cost_after / cost - 1)
        rows += [[f"simulated, seed {seed}", before, cost], [f"the same, hardened, seed {seed}", after, cost_after]]
    algorithms: tuple[Algorithm, ...] = ("discrete PPO", "PPO", "SAC")
    for algorithm in algorithms:
        policy = sb3_policy(run, algorithm)
        rows.append([algorithm, success_rate(run, policy, run.seed), indicators(run, policy)["cost"]])
    powers, false_alarm, remark = stealth(run)
    return Measurement(
        {
            "success_fall": float(np.mean(falls)),
            "clean_loss": float(np.mean(losses)),
            "power_is_monotone": all(a <= b for a, b in itertools.pairwise(powers)),
            "false_alarm": false_alarm,
        },
        per_seed={"success_fall": falls, "clean_loss": losses},
        table=Table(["agent", "flips at 0.05", "cost of a week"], rows),
        remark=remark,
    )


def success_rate(run: Run, policy: Policy, seed: int) -> float:
    """Return the share of decisions that change their group at a distortion of 0.05."""
    layer, obs = BifurcationLayer(policy), states(run, policy, seed)
    attack = ACG(GroupDifferenceLogitsLoss(), 0.05, steps=STEPS, mask=calendar_mask())
    return float(attack(layer, obs).success.double().mean())


def hardened(run: Run, policy: Policy, seed: int) -> Policy:
    """Return a copy of a policy that is trained on attacked observations to do what it did before."""
    network = copy.deepcopy(policy.network).requires_grad_(True)
    found = Policy(network, -1.0, 1.0, squash=True)
    attack = ACG(GroupDifferenceLogitsLoss(), 0.05, steps=10, mask=calendar_mask())
    obs = visited(run, policy, seed, run.at(smoke=100, desk=6000, full=6000))
    adversarial_training(
        found, obs, attack, BifurcationLayer(found), discrete=False,
        steps=run.at(smoke=3, desk=500, full=5000), lr=2e-3, random_state=seed,
    )  # fmt: skip
    network.requires_grad_(False)
    return found


def stealth(run: Run) -> tuple[list[float], float, str]:
    """Return the powers of the kernel test for distortions of 0, 0.02, 0.05 and 0.1, its false alarms, and more."""
    policy = simulated_policy(run)
    weeks, hours = run.at(smoke=4, desk=52, full=52), run.at(smoke=72, desk=168, full=168)
    starts = np.linspace(0, 8759 - 168, weeks).astype(int)
    mask = calendar_mask().numpy()
    repeats, size = run.at(smoke=5, desk=1000, full=1000), run.at(smoke=4, desk=40, full=40)

    def year(eps: float) -> tuple[np.ndarray, np.ndarray]:
        attack = ACG(GroupDifferenceLogitsLoss(), eps, steps=LOOP_STEPS, mask=calendar_mask())
        attacker = Attacker(BifurcationLayer(policy), attack) if eps else None
        episodes = rollout(environment(hours, weeks), policy, starts, attacker)
        shown, true = (part[..., mask].reshape(-1, mask.sum()) for part in (episodes.shown, episodes.obs))
        return shown.astype(float), true.astype(float)

    clean, _ = year(0.0)
    clean_days = daily_samples(clean)
    powers, notes = [], []
    false_alarm = detection_rate(lambda k: _p(run, clean_days, clean_days, size, k), n_repeats=repeats)
    for eps in (0.02, 0.05, 0.1):
        shown, true = year(eps)
        days = daily_samples(shown)
        powers.append(detection_rate(lambda k, days=days: _p(run, clean_days, days, size, k), n_repeats=repeats))
        notes.append(f"{eps:g}: kernel test {powers[-1]:.0%}, {_other_tests(clean, shown, true, mask)}")
    text = (
        f"Of {size} random days against {size} clean ones the kernel test raises {false_alarm:.1%} false alarms; "
        f"power by distortion, and features that tests of the whole year reject: {'; '.join(notes)}."
    )
    return powers, false_alarm, text


def _p(run: Run, clean: np.ndarray, other: np.ndarray, size: int, k: int) -> float:
    """Return the p-value of random days of one year against other days of another."""
    order = run.rng(k).permutation(len(clean))
    return mmd_test(clean[order[:size]], other[order[size : 2 * size]], run.at(smoke=19, desk=199, full=999)).pvalue


def _other_tests(clean: np.ndarray, shown: np.ndarray, true: np.ndarray, mask: np.ndarray) -> str:
    moved = shown - true
    features = int(mask.sum())
    distribution = int((ks_test(clean, shown).adjusted < 0.05).sum())
    changes = int((change_test(clean, shown).adjusted < 0.05).sum())
    follow = int((ljung_box(moved).adjusted < 0.05).sum())
    outliers = zscore_outliers(shown, 168).mean() / max(zscore_outliers(clean, 168).mean(), 1e-9)
    return (
        f"distribution {distribution} of {features}, changes {changes}, correlated perturbation {follow}, "
        f"outliers {outliers:.2f} times as many"
    )


# Races


def race_problem(run: Run) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a bifurcated agent of discrete actions, states and their groups; peers know no masks."""
    policy = distilled_policy(run)
    layer, obs = BifurcationLayer(policy), states(run, policy, run.seed)
    with torch.no_grad():
        return layer, obs, layer(obs).argmax(1)


def reached(layer: nn.Module, shown: Tensor, y: Tensor) -> float:
    """Return the mean loss of attacked observations."""
    with torch.no_grad():
        return float(GroupDifferenceLogitsLoss()(layer(shown), y).double().mean())


def loss_table(run: Run, jobs: dict[str, Callable[[], Tensor]]) -> tuple[dict[str, float], Table]:
    """Return the loss that each reaches at a distortion of 0.1, with how many decisions change."""
    layer, obs, y = race_problem(run)
    shown = {name: job() for name, job in jobs.items()}
    values = {name: reached(layer, found, y) for name, found in shown.items()}
    rows = [
        [name, values[name], flips(layer, obs, found), float((found - obs).abs().max())]
        for name, found in shown.items()
    ]
    return values, Table(["attack", "mean loss", "flips", "largest change"], rows)


@races("art")
def against_art(run: Run) -> Measurement:
    """Attack by conjugate gradients with as many gradients and starts, on the same two logits."""
    from art.attacks.evasion import AutoConjugateGradient
    from art.estimators.classification import PyTorchClassifier

    layer, obs, y = race_problem(run)
    steps = run.at(smoke=5, desk=50, full=100)
    estimator = PyTorchClassifier(
        layer, nn.CrossEntropyLoss(), input_shape=obs.shape[1:], nb_classes=2, clip_values=(0, 1), device_type="cpu"
    )
    theirs = AutoConjugateGradient(
        estimator, eps=0.1, eps_step=0.2, max_iter=steps, nb_random_init=1, batch_size=len(obs), verbose=False,
        loss_type="cross_entropy",
    )  # fmt: skip
    ours = ACG(GroupDifferenceLogitsLoss(), 0.1, steps=steps, random_start=True)

    def attack() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.from_numpy(theirs.generate(obs.numpy(), y.numpy()))

    jobs: dict[str, Callable[[], Tensor]] = {"ours": lambda: ours(layer, obs).adv, "ART": attack}
    values, table = loss_table(run, jobs)

    def policy_alone() -> None:
        x = obs.clone().requires_grad_()
        for _ in range(steps):
            torch.autograd.grad(layer(x).sum(), x)

    seconds = interleaved(run, {**jobs, "policy": policy_alone}, repeats=run.at(smoke=1, desk=5, full=15))
    return Measurement(
        {"loss": values["ours"] - values["ART"], "time": seconds["ours"] / seconds["ART"]},
        table=table,
        remark=f"A batch of {len(obs)} states takes {seconds['ours']:.3f} s of ours and {seconds['ART']:.3f} s of ART; "
        f"the gradients of the agent alone take {seconds['policy']:.3f} s.",
    )


def own_attacks(layer: nn.Module, obs: Tensor, steps: int) -> dict[str, Callable[[], Tensor]]:
    """Return three attacks of ours that start at the true observations."""

    def own(kind: Callable[..., Attack]) -> Callable[[], Tensor]:
        return lambda: kind(GroupDifferenceLogitsLoss(), 0.1, steps=steps)(layer, obs).adv

    return {f"ours, {kind.__name__}": own(kind) for kind in (ACG, APGD, PGD)}


@races("foolbox", exclusive=False)
def against_foolbox(run: Run) -> Measurement:
    """Attack by foolbox at the best of three lengths of steps, and by the best of three attacks of ours."""
    from foolbox import PyTorchModel
    from foolbox.attacks import LInfFMNAttack, LinfPGD

    layer, obs, y = race_problem(run)
    steps = run.at(smoke=5, desk=50, full=100)
    network = PyTorchModel(layer.eval(), bounds=(0, 1), device="cpu")

    def attack(length: float) -> Callable[[], Tensor]:
        method = LinfPGD(rel_stepsize=length, steps=steps, random_start=False)
        return lambda: method.run(network, obs, y, epsilon=0.1)

    jobs = own_attacks(layer, obs, steps)
    jobs |= {f"foolbox, steps of {length:g} of the radius": attack(length) for length in (1 / 40, 2.5 / steps, 0.25)}
    values, table = loss_table(run, jobs)
    nearest = FMN(GroupDifferenceLogitsLoss(), steps=steps)(layer, obs).norm
    theirs = LInfFMNAttack(steps=steps).run(network, obs, y)
    size = (theirs - obs).abs().amax(1)
    best = {who: max(value for name, value in values.items() if name.startswith(who)) for who in ("ours", "foolbox")}
    return Measurement(
        best["ours"] - best["foolbox"],
        table=table,
        remark=f"Median of the smallest distortions by the fast minimum norm attack: {float(nearest.median()):.4f} of "
        f"ours, {float(size.median()):.4f} of foolbox.",
    )


@races("torchattacks", exclusive=False)
def against_torchattacks(run: Run) -> Measurement:
    """Attack by torchattacks' APGD from five random starts, in the mean, and by the best of three attacks of ours."""
    from torchattacks import APGD as TheirAPGD

    layer, obs, y = race_problem(run)
    steps = run.at(smoke=5, desk=50, full=100)

    class Images(nn.Module):
        """The agent of observations in the shape of images, which torchattacks asks for."""

        def forward(self, x: Tensor) -> Tensor:
            """Return the two logits."""
            return layer(x.flatten(1))

    def attack(seed: int) -> Callable[[], Tensor]:
        method = TheirAPGD(Images().eval(), eps=0.1, steps=steps, n_restarts=1, loss="ce", seed=seed)

        def best() -> Tensor:
            with seeded(seed):
                # What a call returns is the last success, and the observation itself where there is none.
                return method.attack_single_run(obs[:, None, None], y)[0].flatten(1)

        return best

    jobs = own_attacks(layer, obs, steps) | {f"torchattacks, start {seed}": attack(seed) for seed in range(5)}
    values, table = loss_table(run, jobs)
    theirs = [value for name, value in values.items() if name.startswith("torchattacks")]
    best = max(value for name, value in values.items() if name.startswith("ours"))
    return Measurement(best - float(np.mean(theirs)), table=table)
