"""Small versions of the paper's problems and networks: trajectories, images, pretraining, training on few samples."""

import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.evidence import Run
from paperworks.numerics import torch_generator, train, warmup_cosine
from paperworks.operators import (
    All2AllDataset,
    GroupedRelativeLoss,
    ScOT,
    ScOTConfig,
    finetune_param_groups,
    fourier_resample,
    relative_lp_error,
)
from paperworks.testbeds import (
    PeriodicGrid,
    allen_cahn,
    gaussian_fields,
    navier_stokes,
    photographs,
    random_crops,
    sine_fields,
    velocity_of,
    vortex_sheets,
)

SNAPSHOTS = 9  # with the start; lead times are shares of the horizon
TIMES = torch.linspace(0, 1, SNAPSHOTS)
TRAIN, TEST, VALIDATION = (
    0,
    1000,
    2000,
)  # seeds of what is trained on, of what is judged, and of what rates are chosen on
LR = 2e-3  # of short trainings; the paper takes 5e-4 for long ones
RATES = (LR, 4e-3, 8e-3)
BATCH = 8  # with 16 a step takes longer and teaches hardly more
_VELOCITY = 0.5  # what velocities are divided by
_HORIZON = 0.5  # of flows in a box of side 1, in which they move by about a quarter of it

Trajectories = Float[Tensor, "n snapshots channels height width"]


def side(run: Run) -> int:
    """Points of the grid along each axis."""
    return run.at(smoke=16, desk=32, full=128)


def flows(run: Run, kind: str, n: int, seed: int) -> Trajectories:
    """Velocities of flows that start as sums of sine waves or as vortex sheets, solved on a grid twice as fine."""
    points = side(run)

    def make() -> Tensor:
        equation, generator = navier_stokes(2 * points, 1e-3, 1.0), torch_generator(seed)
        if kind == "sines":
            frequencies = [k for k in range(-4, 5) if k]
            # At twice the amplitude a network of this size learns next to nothing in the seconds that it has.
            start = sine_fields(equation.grid, n, frequencies=frequencies, amplitude=4.0, generator=generator)
        else:
            start = vortex_sheets(equation.grid, n, generator=generator)
        last = SNAPSHOTS - 1
        states = equation.simulate(start, _HORIZON / last, last, substeps=points // 4)
        velocity = velocity_of(equation.grid, states) / _VELOCITY
        return fourier_resample(velocity, (points, points)).float()

    return run.cached("poseidon-flows", make, kind=kind, n=n, seed=seed, points=points)


def phases(run: Run, n: int, seed: int) -> Trajectories:
    """Phases that part and coarsen, by the equation of Allen and Cahn: another physics, and one channel."""
    points = side(run)

    def make() -> Tensor:
        equation = allen_cahn((2 * points, 2 * points), 0.04)
        start = gaussian_fields(equation.grid, n, lambda k: 0.3 * (k < 9 * math.pi) * (k > 0), torch_generator(seed))
        last = SNAPSHOTS - 1
        states = equation.simulate(start.clamp(-1, 1), 4 / last, last, substeps=8)[:, :, None]
        return fourier_resample(states, (points, points)).float()

    return run.cached("poseidon-phases", make, n=n, seed=seed, points=points)


def screened_poisson(run: Run, n: int, seed: int) -> Trajectories:
    """Crops of photographs f and solutions of u - L^2 Laplace u = f, as two snapshots: a problem without time."""
    points, reach = side(run), 0.05
    photos = list(photographs().values())
    # What is trained on and what is judged are cut from different photographs.
    chosen = photos[:5] if seed < TEST else photos[5:]
    crops = random_crops(chosen, math.ceil(n / len(chosen)), points, torch_generator(seed))
    grey = crops.mean(1)[torch.randperm(len(crops), generator=torch_generator(seed))[:n]].double()
    f = (grey - grey.mean((1, 2), keepdim=True)) / 0.25
    grid = PeriodicGrid((points, points), 1.0)
    u = grid.real(grid.modes(f) / (1 + reach**2 * grid.square))
    return torch.stack([f, u], 1)[:, :, None].float()


def config(run: Run, channels: int) -> ScOTConfig:
    """Return the shape of a tiny network, of three stages on 32 by 32 points at desk scale."""
    return run.at(
        smoke=ScOTConfig(16, 2, channels, channels, 8, (1, 1), (2, 4), (1, 0), 4, learn_residual=True),
        desk=ScOTConfig(32, 2, channels, channels, 24, (2, 2, 2), (3, 6, 12), (2, 2, 0), 8, learn_residual=True),
        full=ScOTConfig.of_size("L", channels, channels, learn_residual=True),
    )


def fit(
    network: nn.Module,
    data: All2AllDataset,
    steps: int,
    seed: int,
    rate: float = LR,
    groups: Sequence[Any] | None = None,
    progress: Any = None,
) -> nn.Module:
    """Train a network on pairs of snapshots, with the relative loss and rates that fall along a cosine.

    Unless groups are given, the ends of ours learn five times as fast as its middle, and its norms, which begin near 0,
    ten times.
    """
    generator, loss = torch_generator(seed), GroupedRelativeLoss()
    if groups is None and isinstance(network, ScOT):
        groups = finetune_param_groups(network, rate, 5 * rate, 10 * rate)
    optimizer = torch.optim.AdamW(list(groups or network.parameters()), rate, weight_decay=1e-6)

    def of_step(step: int) -> Tensor:
        x, lead_time, y = data.draw(BATCH, generator)
        return loss(network(x, lead_time), y)

    options = {} if progress is None else {"progress": progress}
    schedule = lambda step: warmup_cosine(step, min(10, steps // 4), steps)  # noqa: E731
    train(of_step, optimizer, steps, schedule=schedule, clip=5.0, **options)
    return network.eval()


def new(run: Run, channels: int = 2, seed: int = 0) -> ScOT:
    """Return an untrained network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ScOT(config(run, channels))


def pretrained(run: Run) -> ScOT:
    """Return the network that was trained on sine waves, on every second snapshot."""
    n, steps = run.at(smoke=(8, 4), desk=(256, 600), full=(19640, 100_000))

    def training(network: nn.Module) -> None:
        data = flows(run, "sines", n, TRAIN)[:, ::2]
        fit(network, All2AllDataset(data, TIMES[::2]), steps, TRAIN, progress=run.progress)

    network = run.trained("poseidon-pretrained", new(run), training, scale=run.scale, n=n, steps=steps)
    assert isinstance(network, ScOT)
    return network


MOST = 64  # samples that are trained on


def samples(run: Run, problem: str, n: int, seed: int) -> Trajectories:
    """Return samples of a downstream problem."""
    if problem == "sheets":
        return flows(run, "sheets", n, seed)
    return phases(run, n, seed) if problem == "phases" else screened_poisson(run, n, seed)


def training_set(run: Run, problem: str, n: int) -> All2AllDataset:
    """Return pairs of the first n samples of a problem; what has no time is a step of length 1."""
    data = samples(run, problem, run.at(smoke=4, desk=MOST, full=1024), TRAIN + 1)[:n]
    if problem == "images":
        return All2AllDataset(data, torch.tensor([0.0, 1.0]), "vanilla", include_identity=False)
    return All2AllDataset(data, TIMES)


def test_set(run: Run, problem: str) -> Trajectories:
    """Return samples that nothing is trained on."""
    return samples(run, problem, run.at(smoke=8, desk=64, full=240), TEST)


def steps_of(run: Run) -> int:
    """Steps of a training on a downstream problem."""
    return run.at(smoke=2, desk=80, full=10_000)


def best_rate(run: Run, train: Callable[[float], nn.Module]) -> float:
    """Return the rate at which 16 vortex sheets train best, judged on others that nothing else is judged on."""
    rates = run.at(smoke=(LR,), desk=RATES, full=RATES)
    validation = flows(run, "sheets", run.at(smoke=4, desk=32, full=120), VALIDATION) if len(rates) > 1 else None
    return min(rates, key=lambda rate: 0.0 if validation is None else float(errors(train(rate), validation).median()))


MIDDLE = 16  # samples that rates are chosen with


def finetuned(run: Run, problem: str, n: int, rate: float | None = None) -> ScOT:
    """Return a copy of the pretrained network trained on n samples, its ends new where the channels are others."""
    rate = rate or best_rate(run, lambda rate: finetuned(run, "sheets", MIDDLE, rate))
    data, steps = training_set(run, problem, n), steps_of(run)
    channels = data.trajectories.shape[2]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # of new ends, as intended
        torch.manual_seed(TRAIN)
        pretrained(run).save_pretrained(folder)
        network = ScOT.from_pretrained(folder, channels, channels).train()

    def training(network: nn.Module) -> None:
        fit(network, data, steps, TRAIN, rate, finetune_param_groups(network, rate / 2, rate, rate))

    inputs = {"scale": run.scale, "problem": problem, "n": n, "steps": steps, "rate": rate}
    found = run.trained("poseidon-finetuned", network, training, **inputs)
    assert isinstance(found, ScOT)
    return found


def scratch(run: Run, problem: str, n: int, rate: float | None = None) -> ScOT:
    """Return a new network of the same shape that was trained on the same samples as long."""
    rate = rate or best_rate(run, lambda rate: scratch(run, "sheets", MIDDLE, rate))
    data, steps = training_set(run, problem, n), steps_of(run)
    channels = data.trajectories.shape[2]
    network = new(run, channels)
    inputs = {"scale": run.scale, "problem": problem, "n": n, "steps": steps, "rate": rate}
    found = run.trained("poseidon-scratch", network, lambda network: fit(network, data, steps, TRAIN, rate), **inputs)
    assert isinstance(found, ScOT)
    return found


def errors(
    predict: Callable[[Tensor, Tensor], Tensor], test: Trajectories, last: int = SNAPSHOTS - 1
) -> Float[Tensor, " n"]:
    """Return each test trajectory's error at a snapshot, predicted from the first one at once, in percent."""
    time = TIMES[last] if test.shape[1] > 2 else torch.tensor(1.0)  # two snapshots are of a problem without time
    with torch.no_grad():
        found = [predict(x, time.expand(len(x))) for x in test[:, 0].split(32)]
    return relative_lp_error(torch.cat(found), test[:, min(last, test.shape[1] - 1)], reduction="none")[:, 0]
