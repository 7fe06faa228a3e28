"""Three families of equations, small networks trained on them, and what their answers are worth."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.evidence import Estimate, Run, bootstrap, proportion
from paperworks.numerics import seeded, silent, train, warmup_cosine
from paperworks.operators import (
    FAMILIES,
    PROSE,
    Expr,
    ODEDataset,
    ODEFamily,
    PROSEConfig,
    PROSETargets,
    SymbolicTokenizer,
    System,
    add_noise,
    expression_scores,
    forecast_errors,
    generate_dataset,
    guess_of,
    guesses,
    integrate_systems,
    prose_loss,
    warmup_inverse_sqrt,
)

NAMES = ("thomas", "sprott_b", "four_wing")
GAMMA = 0.3  # of coefficients: within 10 % of the nominal ones, those alone are good forecasts
NOISE = 0.02
SEEN = 64  # times that are measured; the other 128 are to be forecast
TRAINED, JUDGED = 1, 1000  # seeds of what is trained on, and of what is judged
MIX = {"skeleton": 0.7, "noisy": 0.15, "wrong_family": 0.15}  # kinds of guesses in training
Modes = Literal["2to2", "2to1", "1to1"]


def names(run: Run) -> tuple[str, ...]:
    """Return the families: three, and all of the paper at full scale."""
    return tuple(name for name in FAMILIES if name != "double_pendulum_physical") if run.scale == "full" else NAMES


def config(run: Run, modes: Modes = "2to2") -> PROSEConfig:
    """Return the shape of the network; the paper's own at full scale."""
    if run.scale == "full":
        return PROSEConfig(modes=modes)
    small = dict.fromkeys(_LAYERS, 1) if run.scale == "smoke" else dict.fromkeys(_LAYERS, 2)
    width = run.at(smoke=24, desk=96, full=512)
    return PROSEConfig(
        SymbolicTokenizer(max_dim=3), width, run.at(smoke=2, desk=4, full=8), modes=modes, smooth_numbers=True, **small
    )


_LAYERS = ("data_layers", "symbol_layers", "fusion_layers", "operator_layers", "decoder_layers")


def training_set(run: Run) -> ODEDataset:
    """Return what networks are trained on, clean; at desk scale each trajectory has coefficients of its own."""
    n = run.at(smoke=6, desk=3000, full=512_000)
    return generate_dataset(names(run), n, TRAINED, 0.0, gamma=GAMMA, per_draw=run.at(smoke=1, desk=1, full=20))


def judged(run: Run, n: int, noise: float = 0.0, gamma: float = GAMMA, seed: int | None = None) -> ODEDataset:
    """Return trajectories that nothing was trained on, and no setting chosen on."""
    seed = JUDGED + run.seed if seed is None else seed
    return generate_dataset(names(run), n, seed, noise, gamma=gamma, per_draw=1)


class Settings(NamedTuple):
    """How long and how fast a network is trained; a short training ends slowly, along a cosine."""

    steps: int
    batch: int
    lr: float
    warmup: int
    queries: int = 32
    cosine: bool = True


def settings(run: Run) -> Settings:
    """Return those of the network that most claims share."""
    return run.at(
        smoke=Settings(4, 4, 1e-3, 2, 8),
        desk=Settings(1700, 16, 1e-3, 100),
        full=Settings(160_000, 256, 1e-4, 20_000, 128, cosine=False),
    )


def fit(network: PROSE, data: ODEDataset, plan: Settings, seed: int, progress: Any = silent, seen: int = SEEN) -> PROSE:
    """Train a network on noisy measurements and labels, with guesses of all kinds."""
    rng = np.random.default_rng(seed)
    tokenizer, writes = network.tokenizer, network.config.modes == "2to2"
    others = pool(data)
    mix = {kind: weight for kind, weight in MIX.items() if kind != "wrong_family" or len(others) > 1}
    chances = np.array([*mix.values()]) / sum(mix.values())
    targets = [tokenizer.encode(system) for system in data.systems]

    def of_step(step: int) -> Tensor:
        rows = rng.integers(len(data), size=plan.batch)
        observed = add_noise(data.clean[rows], NOISE, rng)
        kinds = rng.choice([*mix], p=chances, size=plan.batch)
        guessed = [guess_of(data.systems[i], rng, kind, others=others) for i, kind in zip(rows, kinds, strict=True)]
        symbols = guesses(network, [tokenizer.encode(guess) for guess in guessed])
        at = seen + rng.permutation(len(data.times) - seen)[: plan.queries]
        wanted, mask = tokenizer.batch([targets[i] for i in rows], ends=True)
        given = wanted[:, :-1] if writes else None
        output = network(measured(data.times, observed, seen), None, *symbols, data.times[at], given)
        alone = torch.arange(observed.shape[2]) < data.dimensions[rows, None]
        return prose_loss(output, PROSETargets(observed[:, at], wanted[:, 1:], mask[:, 1:], alone))

    def schedule(step: int) -> float:
        if plan.cosine:
            return warmup_cosine(step, plan.warmup, plan.steps)
        return warmup_inverse_sqrt(step, plan.warmup)

    train(
        of_step,
        torch.optim.AdamW(network.parameters(), plan.lr, weight_decay=1e-4, fused=True),
        plan.steps,
        schedule=schedule,
        clip=1.0,
        progress=progress,
        label=f"training {network.config.modes}",
    )
    return network


def pool(data: ODEDataset) -> list[System]:
    """Return one system of each family, to guess wrongly from."""
    return [data.systems[data.families.index(name)] for name in dict.fromkeys(data.families)]


def measured(times: Tensor, observed: Float[Tensor, "n times d"], seen: int = SEEN) -> Float[Tensor, "n seen channels"]:
    """Return the first measurements with their times, as networks take them."""
    return torch.cat([times[:seen].expand(len(observed), seen)[..., None], observed[:, :seen]], 2)


BINARY, UNARY = ("add", "sub", "mul", "div"), ("neg", "inv", "sin", "cos", "pow2")


def new(shape: PROSEConfig, seed: int) -> PROSE:
    """Return an untrained network."""
    with seeded(seed):
        return PROSE(shape)


def trained(run: Run, modes: Modes = "2to2", plan: Settings | None = None, seed: int = 0) -> PROSE:
    """Return a trained network; the one of both outputs is shared by most claims."""
    plan = settings(run) if plan is None else plan
    found = run.trained(
        "prose",
        new(config(run, modes), seed),
        lambda network: fit(network, training_set(run), plan, seed, run.progress),
        **{"scale": run.scale, "modes": modes, "seed": seed, **plan._asdict()},
    )
    assert isinstance(found, PROSE)
    return found


class Answers(NamedTuple):
    """What a network said of trajectories, and what that is worth: one entry for each."""

    forecast: Float[Tensor, "n times d"]
    error: Float[np.ndarray, " n"]
    systems: list[System | None]
    valid: np.ndarray
    skeleton: np.ndarray
    symbols: np.ndarray


def answers(
    network: PROSE, data: ODEDataset, kind: str = "skeleton", p_add: float = 0.0, p_del: float = 0.0, seed: int = 0
) -> Answers:
    """Ask a network for the future and the equations, with guesses of one kind; the truth is without noise."""
    rng, others = np.random.default_rng(seed), pool(data)
    guessed = [guess_of(s, rng, kind, others=others, p_add=p_add, p_del=p_del) for s in data.systems]
    return asked(network, data, guessed)


def asked(network: PROSE, data: ODEDataset, guessed: Sequence[System]) -> Answers:
    """Ask a network with these guesses, in batches of 64."""
    values, systems = [], []
    tokenizer = network.tokenizer
    for rows in torch.arange(len(data)).split(64):
        given = (
            measured(data.times, data.observed[rows]),
            None,
            *guesses(network, [tokenizer.encode(guessed[i]) for i in rows]),
        )
        values.append(network.predict(*given, data.times[SEEN:]))
        if network.config.modes == "2to2":
            systems += [tokenizer.decode(tokens) for tokens in network.decode_symbols(*given)]
    forecast = torch.cat(values)
    error = forecast_errors(forecast, data.clean[:, SEEN:]).relative.double().numpy()
    scores = expression_scores(systems or [None] * len(data), data.systems, random_state=0)
    return Answers(forecast, error, systems, scores.valid, scores.skeleton, scores.error)


def integrated(systems: Sequence[System | None], data: ODEDataset) -> Float[np.ndarray, " n"]:
    """Return the errors of forecasts by integration from the last measurement; one that fails counts as 1."""
    states = integrate_systems(systems, data.observed[:, SEEN - 1].double(), data.times[SEEN - 1 :].tolist())[:, 1:]
    error = forecast_errors(states, data.clean[:, SEEN:].double()).relative.numpy()
    return np.nan_to_num(error, nan=1.0)


class Baseline(NamedTuple):
    """What is known without a network: the nominal equations of the right family."""

    error: Float[np.ndarray, " n"]
    symbols: Float[np.ndarray, " n"]
    still: Float[np.ndarray, " n"]


def nominal(data: ODEDataset) -> Baseline:
    """Return the errors of the nominal equations from the last measurement, and those of a state that stays."""
    systems = [FAMILIES[name].system() for name in data.families]
    still = data.observed[:, SEEN - 1 : SEEN].expand_as(data.clean[:, SEEN:])
    return Baseline(
        integrated(systems, data),
        expression_scores(systems, data.systems, random_state=0).error,
        forecast_errors(still, data.clean[:, SEEN:]).relative.double().numpy(),
    )


def mean_of(values: np.ndarray) -> float:
    """Return the mean in percent of the values that there are, NaN where there are none."""
    known = values[~np.isnan(values)]
    return 100 * float(known.mean()) if len(known) else float("nan")


def by_family(data: ODEDataset, values: np.ndarray) -> dict[str, float]:
    """Return the mean of values in each family."""
    found = {name: np.array(data.families) == name for name in dict.fromkeys(data.families)}
    return {name: mean_of(values[rows]) / 100 for name, rows in found.items()}


def at_noise(data: ODEDataset, noise: float, seed: int) -> ODEDataset:
    """Return the same trajectories with noise of another size, 0 for none."""
    if noise == 0:
        return replace(data, observed=data.clean)
    return data.with_noise(noise, seed, "additive")


def subset(data: ODEDataset, rows: Sequence[int]) -> ODEDataset:
    """Return some of the trajectories."""
    return ODEDataset(
        data.times,
        data.clean[list(rows)],
        data.observed[list(rows)],
        data.dimensions[list(rows)],
        tuple(data.systems[i] for i in rows),
        tuple(data.families[i] for i in rows),
    )


def random_system(rng: np.random.Generator, tokenizer: SymbolicTokenizer) -> System:
    """Return a system of one to five random trees, with numbers that tokens say exactly."""
    d = int(rng.integers(1, tokenizer.max_dim + 1))

    def leaf() -> Expr:
        kind = rng.random()
        if kind < 0.5:
            return Expr.variable(int(rng.integers(d)))
        if kind < 0.65:
            return Expr(int(rng.integers(-tokenizer.max_int, tokenizer.max_int + 1)))
        return Expr(tokenizer.rounded(float(rng.choice([-1, 1]) * 10 ** rng.uniform(-9, 11))))

    def tree(depth: int) -> Expr:
        kind = rng.random()
        if depth == 0 or kind < 0.25:
            return leaf()
        if kind < 0.5:
            return Expr(str(rng.choice([*UNARY])), (tree(depth - 1),))
        return Expr(str(rng.choice([*BINARY])), (tree(depth - 1), tree(depth - 1)))

    return System(tuple(tree(3) for _ in range(d)))


def count(run: Run) -> int:
    """Return how many trajectories are judged, a third of each family."""
    return run.repeats(smoke=3, desk=240, full=25_600)


def share(hits: Any) -> Estimate:
    """Return the share of trajectories that something is true of."""
    return proportion(int(np.sum(hits)), len(hits), "test trajectories")


def quotient(ours: Any, theirs: Any) -> Estimate:
    """Return the ratio of mean errors on the same trajectories; an equation that isn't valid counts as 1."""
    ours, theirs = np.nan_to_num(ours, nan=1.0), np.nan_to_num(theirs, nan=1.0)
    return bootstrap(lambda a, b: a.mean() / b.mean(), ours, theirs, of="test trajectories")


# Pelts in thousands that the Hudson's Bay Company bought from 1900 to 1920.
HARES = [
    30,
    47.2,
    70.2,
    77.4,
    36.3,
    20.6,
    18.1,
    21.4,
    22,
    25.4,
    27.1,
    40.3,
    57,
    76.6,
    52.3,
    19.5,
    11.2,
    7.6,
    14.6,
    16.2,
    24.7,
]
LYNXES = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
YEARS = 11  # that are measured; the rest is to be forecast


def _lotka_volterra(u: Any, p: Any) -> Any:
    hares, lynxes = u
    return p["a"] * hares - p["b"] * hares * lynxes, p["d"] * hares * lynxes - p["c"] * lynxes


# Of populations in units of their mean, and of time in units of 20 / 6 years, so that a cycle of ten years is half of
# the time that networks know.
LOTKA_VOLTERRA = ODEFamily("lotka_volterra", 2, {"a": 2.0, "b": 2.0, "c": 2.5, "d": 2.5}, _lotka_volterra)
