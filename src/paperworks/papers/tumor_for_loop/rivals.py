"""What the query is compared with: the paper's loop, plain slices, a sampling solver, a learned posterior."""

import math
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from paperworks.reduction import FisherKolmogorov, GrowthRanges, TumorDatabase, dice


class Fit(NamedTuple):
    """What a sampling solver found."""

    score: float
    simulations: int
    seconds: float


def loop_over_volumes(fields: np.ndarray, flair: np.ndarray, t1gd: np.ndarray, thresholds: tuple[float, float]) -> int:
    """Ask as the paper does: threshold each volume, compute both coefficients, keep the best."""
    best, entry = -1.0, -1
    for i, field in enumerate(fields):
        c = field / field.max()
        score = dice(c >= thresholds[0], flair) + dice(c >= thresholds[1], t1gd)
        if score > best:
            best, entry = score, i
    return entry


def slice_whole_volume(brain: tuple[np.ndarray, np.ndarray, float], growth: Any) -> np.ndarray:
    """Let a tumour grow by NumPy's slices of the whole volume, with the steps of ours."""
    (wm, gm, spacing_mm), (Dw, rho, T, x0) = brain, growth
    tissue = wm + gm >= 0.1
    conductivity = np.where(tissue, wm + gm / 10, 0).astype(np.float32)
    h = spacing_mm / 10
    steps = math.ceil(T / min(h * h / (6 * Dw * float(conductivity.max())), 0.1 / rho))
    factor, number = np.float32(math.exp(rho * T / steps / 2)), np.float32(Dw * T / steps / h**2)
    axes = np.ogrid[tuple(slice(n) for n in wm.shape)]
    squares = sum((axis - (x * n - 0.5)) ** 2 for axis, x, n in zip(axes, x0, wm.shape, strict=True))
    c = np.where(tissue, np.exp(-squares / 2), 0).astype(np.float32)
    faces = []
    for axis in range(3):
        low, high = _sides(axis)
        faces.append((conductivity[low] + conductivity[high]) / 2 * (tissue[low] & tissue[high]))
    for _ in range(steps):
        c = c * factor / (1 + c * (factor - 1))
        change = np.zeros_like(c)
        for axis, face in enumerate(faces):
            low, high = _sides(axis)
            flux = face * (c[high] - c[low])
            change[low] += flux
            change[high] -= flux
        c = c + number * change
        c = c * factor / (1 + c * (factor - 1))
    return c


def _sides(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
    high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
    return low, high


def fit_by_cma(
    solver: FisherKolmogorov, flair: np.ndarray, t1gd: np.ndarray, *, goal: float, most: int, seed: int
) -> Fit:
    """Maximise the score by CMA-ES over what is identifiable and the place, from the middle of the tumour.

    It begins where the core is, which is its best start, with the rates in logarithms; T is fixed at its middle.
    """
    import cma

    ranges = GrowthRanges()
    T = sum(ranges.T) / 2
    low, high = (np.log([ranges.Dw[i], ranges.rho[i]]) for i in (0, 1))
    centre = (np.argwhere(t1gd if t1gd.any() else flair).mean(0) + 0.5) / flair.shape
    search = cma.CMAEvolutionStrategy(
        [0.5, 0.2, *centre], 0.15, {"bounds": [0, 1], "seed": seed + 1, "verbose": -9, "maxfevals": most}
    )
    best, count, started = 0.0, 0, time.perf_counter()
    volume = 4 * flair.sum() * (solver.spacing_mm / 10) ** 3
    while count < most and best < goal and not search.stop():
        asked = search.ask()
        losses = []
        for x in asked:
            Dw, rho = np.exp(low + x[:2] * (high - low))
            score = 0.0
            if solver.tissue[solver.locate(x[2:].tolist())]:
                c = solver.solve(Dw, rho, T, x[2:].tolist(), largest_volume=volume)
                if c is not None:
                    score = sum(dice(c >= t * c.max(), m) for t, m in ((0.2, flair), (0.6, t1gd)))
            losses.append(-score)
        search.tell(asked, losses)
        count, best = count + len(asked), max(best, -min(losses))
    return Fit(best, count, time.perf_counter() - started)


def posterior_estimates(
    database: TumorDatabase,
    patients: TumorDatabase,
    regions: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    products: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int,
    epochs: int,
) -> tuple[np.ndarray, Callable[[int], Any]]:
    """Return medians of a posterior that a flow learned from the database, and a function that samples a patient's."""
    import torch
    from sbi.inference import NPE
    from sbi.utils.tracking import TensorBoardTracker
    from sklearn.decomposition import PCA
    from torch.utils.tensorboard import SummaryWriter

    def rows(part: TumorDatabase) -> np.ndarray:
        return np.array([np.concatenate([r.ravel() for r in regions(f)]) for f in part.fields]).astype(np.float32)

    torch.manual_seed(seed)
    pca = PCA(min(32, len(database) // 2), random_state=0).fit(rows(database))
    codes = [torch.from_numpy(pca.transform(rows(part)).astype(np.float32)) for part in (database, patients)]
    theta = torch.from_numpy(products(database.params).astype(np.float32))
    with tempfile.TemporaryDirectory() as logs, SummaryWriter(logs) as writer:  # else in the folder of the caller
        inference = NPE(density_estimator="maf", show_progress_bars=False, tracker=TensorBoardTracker(writer))
        inference.append_simulations(theta, codes[0])
        inference.train(max_num_epochs=epochs, show_train_summary=False)
    posterior = inference.build_posterior()

    def ask(i: int) -> Any:
        code = torch.from_numpy(pca.transform(rows(patients.take([i]))).astype(np.float32))
        return posterior.sample((200,), x=code, show_progress_bars=False)

    return np.array([ask(i).median(0).values.numpy() for i in range(len(patients))]), ask
