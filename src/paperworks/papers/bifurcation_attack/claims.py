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

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    difference,
    every,
    interleaved,
    mean,
    measures,
    proportion,
    races,
)
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
    kpis,
    ks_test,
    ljung_box,
    mmd_test,
    rollout,
    zscore_outliers,
)

EPS = (0.05, 0.1, 0.2)
GRID = tuple(k / 100 for k in range(1, 61))


def gradients_of_state(run: Run) -> int:
    """Return how many gradients an attack on single states takes."""
    return run.at(smoke=10, desk=40, full=40)


def gradients_of_hour(run: Run) -> int:
    """Return how many gradients an attack takes in each hour of an episode, or for each distortion it tries."""
    return run.at(smoke=3, desk=20, full=20)


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
            ce = ACG(CrossEntropyLoss(), eps, steps=gradients_of_state(run), mask=mask)(policy, obs).adv
            gdl = ACG(GroupDifferenceLogitsLoss(), eps, steps=gradients_of_state(run), mask=mask)(layer, obs).adv
            shares[eps] = flips(layer, obs, ce), flips(layer, obs, gdl)
            rows.append([name, f"{eps:g}", *shares[eps], change(policy, obs, ce), change(policy, obs, gdl)])
        dynamic = [
            DynamicDistortion(ACG(loss, 1.0, steps=gradients_of_hour(run), mask=mask), grid(run))(model, obs).adv
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
            result = DynamicDistortion(ACG(loss, 1.0, steps=gradients_of_hour(run), mask=mask), grid(run))(
                model, obs, target
            )
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
            ours = ACG(GroupDifferenceLogitsLoss(), eps, steps=gradients_of_state(run), mask=free)(layer, obs).adv
            theirs = ACG(SquaredErrorLoss(), eps, steps=gradients_of_state(run), mask=free, random_start=True)(
                policy, obs
            ).adv
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


def attackers(run: Run, policy: Policy, eps: float) -> dict[str, Attacker]:
    """Return the attackers of an episode."""
    mask, layer = calendar_mask(), BifurcationLayer(policy)
    options: dict[str, Any] = {"steps": gradients_of_hour(run), "mask": mask}
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


Rises = dict[str, tuple[float, float]]
"""By attack, the relative rises of cost and ramping."""


@measures("f4-closed-loop")
def closed_loop(run: Run) -> Measurement:
    """Run weeks under each attack, of agents trained through the simulation and by stable-baselines3."""
    agents: list[tuple[str, Policy]] = []
    for seed in run.seeds:
        agents += [("simulated", simulated_policy(run, seed)), ("distilled", distilled_policy(run, seed))]
    algorithms: tuple[Algorithm, ...] = ("discrete PPO", "PPO", "SAC")
    agents += [(algorithm, sb3_policy(run, algorithm)) for algorithm in algorithms]
    idle = indicators(run, Policy(lambda obs: 0 * obs[:, :1], -1.0, 1.0))
    rows: dict[tuple[str, str], list[list[float]]] = {}
    rises: dict[str, list[Rises]] = {}
    for name, policy in run.progress(agents, label="agents"):
        clean = indicators(run, policy)
        rows.setdefault((name, "none"), []).append([*(clean[k] / idle[k] - 1 for k in KPIS), 0.0])
        of_agent: Rises = {}
        for attack, attacker in attackers(run, policy, 0.05).items():
            found = indicators(run, policy, attacker)
            rise = {k: found[k] / clean[k] - 1 for k in KPIS}
            of_agent[attack] = rise["cost"], rise["ramping"]
            rows.setdefault((name, attack), []).append([*rise.values(), found["success"]])
        rises.setdefault(name, []).append(of_agent)
    means = {
        name: {attack: np.mean([one[attack] for one in found], axis=0) for attack in found[0]}
        for name, found in rises.items()
    }
    figure, panels = run.figure(1, 2, sharex=True)
    for part, (panel, title) in enumerate(zip(panels, ("cost", "ramping"), strict=True)):
        for k, attack in enumerate(means["simulated"]):
            places = np.arange(len(means)) + 0.25 * (k - 1)
            panel.bar(places, [100 * found[attack][part] for found in means.values()], 0.25, label=attack)
        panel.set_xticks(range(len(means)), list(means), rotation=30, ha="right")
        panel.set(ylabel=f"rise of {title}, %")
        panel.axhline(0, color="0.5", linewidth=0.8)
    panels[1].legend(loc="upper center")
    figure.suptitle("16 weeks under attacks that change features by up to 0.05")
    pairs = list(zip(rises["simulated"], rises["distilled"], strict=True))  # by seed
    return Measurement(
        {
            "toggle_ramping": mean([min(found["toggle"][1] for found in pair) for pair in pairs]),
            "toggle_is_largest": every(
                [all(found["toggle"][1] >= max(r for _, r in found.values()) for found in pair) for pair in pairs]
            ),
            "least_cost_rise": mean([min(cost for found in pair for cost, _ in found.values()) for pair in pairs]),
        },
        table=Table(
            ["agent", "attack", *KPIS, "successes"],
            [[*names, *np.mean(found, axis=0).tolist()] for names, found in rows.items()],
        ),
        figure=figure,
        remark="Bars are of the worse of the simulated and the distilled agent of each seed. Of those of "
        "stable-baselines3, "
        f"toggling changes the ramping by {told(means, algorithms, 1)} and the cost by {told(means, algorithms, 0)}. "
        "Without an attack, indicators are relative to the building without a battery, else to the agent's own.",
    )


def told(means: dict[str, dict[str, np.ndarray]], agents: tuple[Algorithm, ...], part: int) -> str:
    """Say by how much toggling changes an indicator of agents."""
    return ", ".join(f"{means[name]['toggle'][part]:+.1%} ({name})" for name in agents)


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
    alarms, size = [], run.at(smoke=4, desk=40, full=40)
    for seed in run.progress(run.seeds, label="detection"):
        alarms.append(stealth(run, seed, size))
    shares = np.mean(alarms, axis=(0, 2))
    return Measurement(
        {
            "success_fall": mean(falls),
            "clean_loss": mean(losses),
            "power_is_monotone": every(
                [all(a <= b for a, b in itertools.pairwise(found[1:].mean(1).tolist())) for found in alarms]
            ),
            "false_alarm": proportion(
                sum(int(found[0].sum()) for found in alarms), sum(found.shape[1] for found in alarms)
            ),
        },
        table=Table(["agent", "flips at 0.05", "cost of a week"], rows),
        remark=f"Of {size} random days against {size} clean ones the kernel test raises {shares[0]:.1%} false alarms; "
        "power by distortion: "
        + ", ".join(f"{eps:g}: {share:.0%}" for eps, share in zip(SHOWN_EPS[1:], shares[1:], strict=True))
        + f". Features of the whole year of seed {run.seed} that tests reject: {year_tests(run)}.",
    )


def success_rate(run: Run, policy: Policy, seed: int) -> float:
    """Return the share of decisions that change their group at a distortion of 0.05."""
    layer, obs = BifurcationLayer(policy), states(run, policy, seed)
    attack = ACG(GroupDifferenceLogitsLoss(), 0.05, steps=gradients_of_state(run), mask=calendar_mask())
    return float(attack(layer, obs).success.double().mean())


def hardened(run: Run, policy: Policy, seed: int) -> Policy:
    """Return a copy of the simulated policy of a seed that is trained on attacked observations to act as before."""
    steps, few = run.at(smoke=3, desk=500, full=5000), run.at(smoke=100, desk=6000, full=6000)

    def fit(network: nn.Module) -> None:
        network.requires_grad_(True)
        found = Policy(network, -1.0, 1.0, squash=True)
        attack = ACG(GroupDifferenceLogitsLoss(), 0.05, steps=10, mask=calendar_mask())
        adversarial_training(
            found, visited(run, policy, seed, few), attack, BifurcationLayer(found), discrete=False,
            steps=steps, lr=2e-3, random_state=seed,
        )  # fmt: skip

    network = copy.deepcopy(policy.network)
    run.trained("battery-hardened", network, fit, scale=run.scale, seed=seed, steps=steps, few=few)
    return Policy(network, -1.0, 1.0, squash=True)


SHOWN_EPS = (0.0, 0.02, 0.05, 0.1)


def shown_year(run: Run, seed: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what the simulated policy of a seed is shown in a year under attack, and what is true."""
    policy = simulated_policy(run, seed)
    weeks, hours = run.at(smoke=4, desk=52, full=52), run.at(smoke=48, desk=168, full=168)
    attack = ACG(GroupDifferenceLogitsLoss(), eps, steps=gradients_of_hour(run), mask=calendar_mask())
    attacker = Attacker(BifurcationLayer(policy), attack) if eps else None
    episodes = rollout(environment(hours, weeks), policy, np.linspace(0, 8759 - 168, weeks).astype(int), attacker)
    mask = calendar_mask().numpy()
    shown, true = (part[..., mask].reshape(-1, mask.sum()).astype(float) for part in (episodes.shown, episodes.obs))
    return shown, true


def stealth(run: Run, seed: int, size: int) -> np.ndarray:
    """Return which of many kernel tests of random days raise an alarm, (distortions, repeats)."""
    repeats = run.repeats(smoke=5, desk=400, full=1000)

    def make() -> np.ndarray:
        days = [daily_samples(shown_year(run, seed, eps)[0]) for eps in SHOWN_EPS]
        return np.array([[_p(run, days[0], other, size, (seed, k)) <= 0.05 for k in range(repeats)] for other in days])

    return run.cached("battery-alarms", make, scale=run.scale, seed=seed, size=size, repeats=repeats)


def _p(run: Run, clean: np.ndarray, other: np.ndarray, size: int, draw: tuple[int, int]) -> float:
    """Return the p-value of random days of one year against other days of another."""
    order = np.random.default_rng(draw).permutation(len(clean))
    return mmd_test(clean[order[:size]], other[order[size : 2 * size]], run.at(smoke=19, desk=199, full=999)).pvalue


def year_tests(run: Run) -> str:
    """Say what tests of a whole year find at each distortion."""
    clean, _ = shown_year(run, run.seed, 0.0)
    return "; ".join(f"{eps:g}: {_other_tests(clean, *shown_year(run, run.seed, eps))}" for eps in SHOWN_EPS[1:])


def _other_tests(clean: np.ndarray, shown: np.ndarray, true: np.ndarray) -> str:
    moved = shown - true
    features = clean.shape[1]
    distribution = int((ks_test(clean, shown).adjusted < 0.05).sum())
    changes = int((change_test(clean, shown).adjusted < 0.05).sum())
    follow = int((ljung_box(moved).adjusted < 0.05).sum())
    outliers = zscore_outliers(shown, 168).mean() / max(zscore_outliers(clean, 168).mean(), 1e-9)
    return (
        f"distribution {distribution} of {features}, changes {changes}, correlated perturbation {follow}, "
        f"outliers {outliers:.2f} times as many"
    )


# Races


def race_problem(run: Run, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a bifurcated agent of discrete actions, states and their groups; peers know no masks."""
    policy = distilled_policy(run, seed)
    layer, obs = BifurcationLayer(policy).eval(), states(run, policy, seed)
    with torch.no_grad():
        return layer, obs, layer(obs).argmax(1)


def reached(layer: nn.Module, shown: Tensor, y: Tensor) -> Tensor:
    """Return the losses of attacked observations."""
    with torch.no_grad():
        return GroupDifferenceLogitsLoss()(layer(shown), y).double()


Jobs = dict[str, Callable[[], Tensor]]
"""Attacks by name, which return what they show."""


def losses_reached(
    run: Run, jobs_of: Callable[[nn.Module, Tensor, Tensor, int], Jobs]
) -> tuple[dict[str, list[float]], Table]:
    """Return the mean loss that each attack reaches at a distortion of 0.1, agent by agent, and a table of means."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in run.progress(run.seeds, label="agents"):
        layer, obs, y = race_problem(run, seed)
        for name, job in jobs_of(layer, obs, y, seed).items():
            shown = job()
            row = float(reached(layer, shown, y).mean()), flips(layer, obs, shown), float((shown - obs).abs().max())
            found.setdefault(name, []).append(row)
    rows = [[name, *np.mean(values, axis=0).tolist()] for name, values in found.items()]
    losses = {name: [loss for loss, _, _ in values] for name, values in found.items()}
    return losses, Table(["attack", "mean loss", "flips", "largest change"], rows)


def gradients(run: Run) -> int:
    """Return how many gradients each attack of a race gets."""
    return run.at(smoke=5, desk=50, full=100)


@races("art")
def against_art(run: Run) -> Measurement:
    """Attack by conjugate gradients with as many gradients and starts, on the same two logits."""
    from art.attacks.evasion import AutoConjugateGradient
    from art.estimators.classification import PyTorchClassifier

    steps = gradients(run)

    def jobs_of(layer: nn.Module, obs: Tensor, y: Tensor, seed: int) -> Jobs:
        estimator = PyTorchClassifier(
            layer, nn.CrossEntropyLoss(), input_shape=obs.shape[1:], nb_classes=2, clip_values=(0, 1), device_type="cpu"
        )
        theirs = AutoConjugateGradient(
            estimator, eps=0.1, eps_step=0.2, max_iter=steps, nb_random_init=1, batch_size=len(obs), verbose=False,
            loss_type="cross_entropy",
        )  # fmt: skip
        ours = ACG(GroupDifferenceLogitsLoss(), 0.1, steps=steps, random_start=True, random_state=seed)

        def attack() -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                np.random.seed(seed)  # noqa: NPY002 - where it draws its starts from
                return torch.from_numpy(theirs.generate(obs.numpy(), y.numpy()))

        return {"ours": lambda: ours(layer, obs).adv, "ART": attack}

    losses, table = losses_reached(run, jobs_of)
    layer, obs, y = race_problem(run, run.seed)

    def policy_alone() -> None:
        x = obs.clone().requires_grad_()
        for _ in range(steps):
            torch.autograd.grad(layer(x).sum(), x)

    jobs = {**jobs_of(layer, obs, y, run.seed), "policy": policy_alone}
    times = interleaved(run, jobs, repeats=run.at(smoke=1, desk=9, full=15))
    seconds = times.medians()
    return Measurement(
        {"loss": difference(losses["ours"], losses["ART"], of="paired agents"), "time": times.ratio("ours", "ART")},
        table=table,
        settings=f"{steps} gradients from one random start each, whole batches, steps of twice the radius at first",
        floor=times.ratio("policy", "ART").value,
        remark=f"A batch of {len(obs)} states takes {seconds['ours']:.3f} s of ours and {seconds['ART']:.3f} s of ART; "
        f"the gradients of the agent alone take {seconds['policy']:.3f} s.",
    )


@races("foolbox", exclusive=False)
def against_foolbox(run: Run) -> Measurement:
    """Attack by foolbox at the best of three lengths of steps, and by the best of three attacks of ours."""
    from foolbox import PyTorchModel
    from foolbox.attacks import LInfFMNAttack, LinfPGD

    steps = gradients(run)
    lengths = (1 / 40, 2.5 / steps, 0.25)
    sizes: dict[str, list[float]] = {"ours": [], "foolbox": []}

    def own(kind: Callable[..., Attack], layer: nn.Module, obs: Tensor) -> Callable[[], Tensor]:
        return lambda: kind(GroupDifferenceLogitsLoss(), 0.1, steps=steps)(layer, obs).adv

    def jobs_of(layer: nn.Module, obs: Tensor, y: Tensor, seed: int) -> Jobs:
        network = PyTorchModel(layer, bounds=(0, 1), device="cpu")
        sizes["ours"].append(float(FMN(GroupDifferenceLogitsLoss(), steps=steps)(layer, obs).norm.median()))
        nearest = LInfFMNAttack(steps=steps).run(network, obs, y)
        sizes["foolbox"].append(float((nearest - obs).abs().amax(1).median()))

        def attack(length: float) -> Callable[[], Tensor]:
            method = LinfPGD(rel_stepsize=length, steps=steps, random_start=False)
            return lambda: method.run(network, obs, y, epsilon=0.1)

        ours = {f"ours, {kind.__name__}": own(kind, layer, obs) for kind in (ACG, APGD, PGD)}
        return ours | {f"foolbox, steps of {length:g} of the radius": attack(length) for length in lengths}

    losses, table = losses_reached(run, jobs_of)
    best = {
        who: np.max([values for name, values in losses.items() if name.startswith(who)], axis=0).tolist()
        for who in ("ours", "foolbox")
    }
    return Measurement(
        difference(best["ours"], best["foolbox"], of="paired agents"),
        table=table,
        settings=f"{steps} gradients from the true observation; the best of three step sizes for each agent",
        remark="Median of the smallest distortions by the fast minimum norm attack, mean over agents: "
        f"{np.mean(sizes['ours']):.4f} of ours, {np.mean(sizes['foolbox']):.4f} of foolbox.",
    )


STARTS = 5


@races("torchattacks", exclusive=False)
def against_torchattacks(run: Run) -> Measurement:
    """Attack from as many random starts by both, and keep the best of them for each state."""
    from torchattacks import APGD as TheirAPGD

    steps = gradients(run)

    def jobs_of(layer: nn.Module, obs: Tensor, y: Tensor, seed: int) -> Jobs:
        class Images(nn.Module):
            """The agent of observations in the shape of images, which torchattacks asks for."""

            def forward(self, x: Tensor) -> Tensor:
                """Return the two logits."""
                return layer(x.flatten(1))

        def own(kind: Callable[..., Attack]) -> Callable[[], Tensor]:
            attack = kind(
                GroupDifferenceLogitsLoss(), 0.1, steps=steps, restarts=STARTS, random_start=True, random_state=seed
            )
            return lambda: attack(layer, obs).adv

        def theirs() -> Tensor:
            found = []
            for start in range(STARTS):
                number = STARTS * seed + start
                method = TheirAPGD(Images().eval(), eps=0.1, steps=steps, n_restarts=1, loss="ce", seed=number)
                with seeded(number):
                    # What a call returns is the last success, and the observation itself where there is none.
                    found.append(method.attack_single_run(obs[:, None, None], y)[0].flatten(1))
            best = torch.stack([reached(layer, shown, y) for shown in found]).argmax(0)
            return torch.stack(found)[best, torch.arange(len(obs))]

        return {"ours, ACG": own(ACG), "ours, APGD": own(APGD), "torchattacks, APGD": theirs}

    losses, table = losses_reached(run, jobs_of)
    return Measurement(
        difference(losses["ours, ACG"], losses["torchattacks, APGD"], of="paired agents"),
        table=table,
        settings=f"APGD on the cross-entropy, the best of {STARTS} random starts of {steps} gradients for each state",
    )
