"""The struck bar and the struck plate: runs, quantities of interest, and generators that claims share."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from paperworks.evidence import Run
from paperworks.numerics import seeded
from paperworks.reduction import (
    WGANGP,
    ConvCritic,
    ConvGenerator,
    Elastodynamics,
    Quantity,
    Submodel,
    SubmodelUQ,
    evaluate_quantities,
    extract_submodel,
    relative_w1,
)
from paperworks.testbeds import Plate, struck_bar, struck_plate

SIGNALS = ("arrival", "peak", "differential", "energy")
INSIDE = ("von Mises", "displacement", "energy", "arrival")


class Data(NamedTuple):
    """Histories (n, C, n_b, n_t) to train, to choose and to judge by, and the quantities (n, 4) of the judged runs."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    quantities: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """All runs that may be learned from."""
        return np.concatenate([self.train, self.validation])


def counts(run: Run) -> tuple[int, int, int]:
    """Return how many runs train, choose and judge."""
    return run.at(smoke=(120, 60, 200), desk=(1500, 500, 4000), full=(1500, 500, 4000))


def signals(histories: np.ndarray, scale: float) -> np.ndarray:
    """Return four quantities of the bar's boundary signals, scaled by the largest absolute value of the training data.

    The first stored time at which the left signal exceeds 0.1 (the last where it never does), its peak, the largest
    difference of left and right, and the sum of its squared increments.
    """
    left, right = histories[:, 0, 0] / scale, histories[:, 0, 1] / scale
    over = np.abs(left) > 0.1
    arrival = np.where(over.any(1), over.argmax(1), left.shape[1]).astype(float)
    energy = (np.diff(left, axis=1) ** 2).sum(1)
    return np.stack([arrival, left.max(1), np.abs(left - right).max(1), energy], 1)


def bar_data(run: Run, seed: int) -> Data:
    """Simulate bars; every seed has its own."""

    def make() -> list[np.ndarray]:
        return [struck_bar(n, 1000 * seed + k).histories for k, n in enumerate(counts(run))]

    train, validation, test = run.cached("wgan-bar-runs", make, seed=seed, scale=run.scale)
    return Data(train, validation, test, signals(test, float(np.abs(train).max())))


def distances(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the relative Wasserstein distance of each quantity, a column."""
    return np.array([relative_w1(a, b) for a, b in zip(generated.T, real.T, strict=True)])


class Zone(NamedTuple):
    """A plate with a zone of a seventh of its volume in the middle."""

    plate: Plate
    submodel: Submodel
    model: Elastodynamics


def plate_with_zone(run: Run, scheme: str = "central") -> Zone:
    """Return the plate of the claims."""
    nx, ny, width, height = run.at(smoke=(14, 8, 4, 4), desk=(42, 20, 12, 10), full=(84, 40, 24, 20))
    plate = struck_plate(nx, ny, scheme)
    submodel = extract_submodel(plate.model.basis, plate.zone(width, height))
    return Zone(plate, submodel, submodel.model(plate.model))


def inside(zone: Zone, threshold: float) -> dict[str, Quantity]:
    """Return four quantities inside the zone: the largest stress, the peak in the middle, energy, arrival."""
    x = zone.submodel.basis.doflocs
    vertical = zone.submodel.field_dofs[1]
    middle = int(vertical[((x[:, vertical] - x.mean(1, keepdims=True)) ** 2).sum(0).argmin()])
    found = [
        Quantity.von_mises(zone.model),
        Quantity.displacement(middle),
        Quantity.energy(zone.model),
        Quantity.arrival(middle, threshold),
    ]
    return dict(zip(INSIDE, found, strict=True))


def plate_runs(run: Run, zone: Zone, n: int, random_state: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Run the whole plate; return histories at the cut, and what is inside the zone."""
    steps, cut = zone.plate.steps, zone.submodel.full_boundary_dofs
    histories = np.empty((n, *cut.shape, steps + 1), dtype=np.float32)
    found = []
    for start in run.progress(range(0, n, 500), label="full runs"):
        size = min(500, n - start)
        load = zone.plate.loads(size, random_state + start)
        states = zone.plate.model.march(f=load, dt=zone.plate.dt, steps=steps)

        def keeping(states: Any = states, start: int = start, size: int = size) -> Any:
            for state in states:
                histories[start : start + size, ..., state.step] = np.moveaxis(state.u[cut], -1, 0)
                yield state

        values = evaluate_quantities(keeping(), inside(zone, threshold), zone.submodel)
        found.append(np.stack([values[name] for name in INSIDE], 1))
    return histories, np.concatenate(found)


def threshold_of(zone: Zone) -> float:
    """Return a fifth of the median peak in the middle, over runs that nothing else uses."""
    load = zone.plate.loads(64, 999_983)
    peaks = evaluate_quantities(
        zone.plate.model.march(f=load, dt=zone.plate.dt, steps=zone.plate.steps), inside(zone, 0.0), zone.submodel
    )
    return float(np.median(peaks["displacement"]) / 5)


def plate_data(run: Run, zone: Zone, seed: int, threshold: float) -> Data:
    """Run plates, once for all claims; every seed has its own."""

    def make() -> list[np.ndarray]:
        parts = [plate_runs(run, zone, n, 100_000 * (3 * seed + k), threshold) for k, n in enumerate(counts(run))]
        return [*(histories for histories, _ in parts), parts[2][1]]

    return Data(*run.cached("wgan-plate", make, seed=seed, scale=run.scale, threshold=threshold))


def generated_inside(run: Run, zone: Zone, sampler: Any, threshold: float, n: int, generator: Any) -> np.ndarray:
    """Draw histories, solve the zone alone, and return the quantities inside."""
    times = np.arange(zone.plate.steps + 1) * zone.plate.dt
    uq = SubmodelUQ(zone.submodel, sampler, inside(zone, threshold), zone.model, zone.plate.dt, times)
    result = uq.run(n, generator, batch_size=500, progress=run.progress)
    return np.stack([result.samples[name] for name in INSIDE], 1)


def untrained(run: Run, name: str, seed: int) -> WGANGP:
    """Return a generator before its training; settings are the best of a few on runs of other seeds."""
    if name != "bar by convolutions":
        return WGANGP.on_modes(rtol=1e-2, latent_dim=32, ema=0.999)
    shape, channels = (1, 2, 100), run.at(smoke=4, desk=16, full=32)
    with seeded(seed):
        return WGANGP(ConvGenerator(64, shape, channels), ConvCritic(shape, channels), lr=5e-4, ema=0.98)


def steps_of(run: Run, name: str) -> int:
    """Return the steps of a training."""
    return {
        "bar": run.at(smoke=4, desk=5000, full=30_000),
        "plate": run.at(smoke=4, desk=4000, full=30_000),
        "bar by convolutions": run.at(smoke=2, desk=400, full=10_000),
    }[name]


def data_of(run: Run, name: str, seed: int) -> Data:
    """Return what a generator learns."""
    if name != "plate":
        return bar_data(run, seed)
    zone = plate_with_zone(run)
    return plate_data(run, zone, seed, threshold_of(zone))


class Trained(NamedTuple):
    """A generator with what it learned, and the processor seconds of its training."""

    data: Data
    gan: WGANGP
    seconds: float


def trained(run: Run, name: str, seed: int) -> Trained:
    """Return a generator trained once for all claims: "bar", "plate" or "bar by convolutions"."""

    def make() -> dict[str, Any]:
        data, started = data_of(run, name, seed), time.process_time()
        every = run.at(smoke=2, desk=100, full=100)
        gan = untrained(run, name, seed).fit(
            data.train,
            steps_of(run, name),
            validation=data.validation,
            check_every=every,
            random_state=seed,
            progress=run.progress,
        )
        seconds = time.process_time() - started
        with TemporaryDirectory() as folder:
            return {"file": np.fromfile(gan.save(Path(folder) / "model.safetensors"), np.uint8), "seconds": seconds}

    found = run.cached(f"wgan-{name.replace(' ', '-')}", make, seed=seed, scale=run.scale)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        found["file"].tofile(path)
        return Trained(data_of(run, name, seed), WGANGP.load(path), float(found["seconds"]))
