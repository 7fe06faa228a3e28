"""Trajectories of the Kuramoto-Sivashinsky equation, and the networks trained on them that the claims share."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.evidence import Run
from paperworks.numerics import ExponentialAverage, seeded, torch_generator, train, warmup_cosine
from paperworks.operators import DilatedResNet, OneStepMSE, PDERefiner, PeriodicUNet, RolloutDiverged, Stepper
from paperworks.testbeds import kuramoto_sivashinsky, sine_fields

STEP = 0.8
WIDE, NARROW = 64.0, 22.0
"""Lengths of the circle: many modes of about the same size, and few, behind which amplitudes fall off fast."""
MIN_NOISE = 4e-7
Kind = Literal["mse", "refiner"]


class Trajectories(NamedTuple):
    """Trajectories on the attractor.

    Parameters
    ----------
    states
        (trajectories, times, 1, points), in single precision.
    dt
        Time of a step of each.
    cond
        What networks are told of each: a quarter of its step, and the spacing of its grid. None where all are alike.
    """

    states: Float[Tensor, "n times 1 points"]
    dt: Float[Tensor, " n"]
    cond: Float[Tensor, "n 2"] | None


def points(run: Run, length: float) -> int:
    """Return the points of the grid."""
    return run.at(smoke=64 if length == WIDE else 24, desk=64 if length == WIDE else 48, full=256)


def trajectories(run: Run, length: float, count: int, steps: int, seed: int) -> Trajectories:
    """Simulate trajectories after 72 units of time, in which they reach the attractor.

    At full scale lengths and steps vary by a tenth, as in the paper; else all are alike.
    """
    n, vary = points(run, length), run.scale == "full"

    def make() -> tuple[Tensor, Tensor, Tensor]:
        generator = torch_generator(seed)
        spread = 0.1 * (2 * torch.rand(2, count, dtype=torch.float64, generator=generator) - 1) * vary
        lengths, dt = length * (1 + spread[0]), STEP * (1 + spread[1])
        equation = kuramoto_sivashinsky(n, lengths)
        u0 = sine_fields(equation.grid, count, generator=generator)
        # The error of steps of 0.1 is far below that of any network.
        start = equation.simulate(u0, 90 * dt, n=1, substeps=90 * 8)[:, -1]
        states = equation.simulate(start, dt, n=steps, substeps=8, progress=run.progress)
        return states.float()[:, :, None], dt.float(), torch.stack([dt / 4, lengths / n], 1).float()

    settings = {"length": length, "points": n, "count": count, "steps": steps, "seed": seed, "vary": vary}
    states, dt, cond = run.cached("kuramoto-sivashinsky", make, **settings)
    return Trajectories(states, dt, cond if vary else None)


def solver(run: Run, length: float, kind: Kind, min_noise: float = MIN_NOISE, count: int | None = None) -> Stepper:
    """Return a network that steps forward by 0.8, trained on the error of a step or as a refiner.

    Both kinds have the same layers, data, batches, optimiser, schedule and number of steps.
    """
    count = run.at(smoke=8, desk=512, full=2048) if count is None else count
    steps = run.at(smoke=20, desk=2000 if length == WIDE else 1500, full=200_000)
    batch = run.at(smoke=8, desk=64, full=128)
    # Of 2e-3 and 4e-3 the better for both kinds, on a test set of its own.
    lr = run.at(smoke=2e-3, desk=4e-3, full=1e-4)
    seen = 1 if kind == "mse" else 2
    with seeded(0):
        backbone: torch.nn.Module
        if run.scale == "full":
            backbone = PeriodicUNet(seen, 1, conditions=[(0.15, 100), (0.2, 100)])
        else:
            backbone = DilatedResNet(seen, 1, run.at(smoke=8, desk=32, full=64))
        model = OneStepMSE(backbone) if kind == "mse" else PDERefiner(backbone, min_noise=min_noise)

    def fit(model: Stepper) -> torch.nn.Module:
        data = trajectories(run, length, count, run.at(smoke=10, desk=70, full=140), seed=1)
        generator = torch_generator(2)
        average = ExponentialAverage(model, 0.995)

        def loss(step: int) -> Tensor:
            row = torch.randint(count, (batch,), generator=generator)
            at = torch.randint(data.states.shape[1] - 1, (batch,), generator=generator)
            cond = None if data.cond is None else data.cond[row]
            return model.loss(data.states[row, at], data.states[row, at + 1], cond, generator)

        train(
            loss,
            torch.optim.Adam(model.parameters(), lr, fused=True),
            steps,
            schedule=lambda step: 0.01 + 0.99 * warmup_cosine(step, 0, steps),
            callback=lambda step, _: average.update(step),
            progress=run.progress,
            label=f"training {kind}",
        )
        return average.network

    settings = {"length": length, "kind": kind, "min_noise": min_noise, "count": count, "steps": steps, "batch": batch}
    trained = run.trained(f"pde-refiner-{kind}", model, fit, scale=run.scale, **settings)
    assert isinstance(trained, Stepper)
    return trained


def judged(run: Run, length: float, count: int, steps: int) -> Trajectories:
    """Return trajectories that no network was trained on, and no setting chosen on."""
    return trajectories(run, length, count, steps, seed=2000 + run.seed)


def rollout(model: Stepper, data: Trajectories, seed: int) -> Float[Tensor, "n times 1 points"]:
    """Roll out from the start of each trajectory; after a row became infinite it is NaN."""
    n, generator = data.states.shape[1] - 1, torch_generator(3, seed)
    try:
        return model.rollout(data.states[:, 0], n, data.cond, generator=generator)
    except RolloutDiverged:
        rolled = torch.full_like(data.states, torch.nan)
        for i in range(len(rolled)):
            try:
                cond = None if data.cond is None else data.cond[i : i + 1]
                rolled[i] = model.rollout(data.states[i : i + 1, 0], n, cond, generator=generator)[0]
            except RolloutDiverged as stopped:
                rolled[i, : stopped.step] = stopped.states[0]
        return rolled


@torch.no_grad()
def mode_errors(
    model: Stepper, data: Trajectories, seed: int
) -> tuple[Float[Tensor, "n modes"], Float[Tensor, "n modes"]]:
    """Return the mean absolute error of each mode in one step, and its amplitude, for each trajectory.

    Every eighth state counts: those in between are like them. Modes end at a third of the points, beyond which the
    solver that makes the data keeps none.
    """
    before, after = data.states[:, :-1:8], data.states[:, 1::8]
    times = before.shape[1]
    cond = None if data.cond is None else data.cond.repeat_interleave(times, 0)
    found = model.step(before.flatten(0, 1), cond, torch_generator(4, seed)).unflatten(0, (-1, times))
    kept = (before.shape[-1] - 1) // 3 + 1

    def amplitudes(fields: Tensor) -> Tensor:
        return torch.fft.rfft(fields.double(), norm="forward").abs().mean((1, 2))[:, :kept]

    return amplitudes(found - after), amplitudes(after)
