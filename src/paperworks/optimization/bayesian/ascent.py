"""Many searches at once: L-BFGS within a box, each row with a memory, a step and an end of its own."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Rows = Float[np.ndarray, "r d"]
Objective = Callable[[Rows, np.ndarray], tuple[Float[np.ndarray, " r"], Rows]]
"""Takes points and the numbers of their rows, and returns values and gradients."""


def maximise_rows(
    objective: Objective,
    start: Rows,
    low: Float[np.ndarray, " d"],
    high: Float[np.ndarray, " d"],
    steps: int = 60,
    rtol: float = 1e-7,
    memory: int = 6,
    free: Float[np.ndarray, "r d"] | Float[np.ndarray, " d"] | None = None,
) -> tuple[Rows, Float[np.ndarray, " r"]]:
    """Return for each row a local maximum of its objective within the box, and the value there.

    Columns where `free` is 0 stay as they are. A row ends when its gradient within the box, or its last gain, is less
    than `rtol` of its value.
    """
    width = high - low
    x = np.clip((start - low) / width, 0.0, 1.0)
    rows, d = x.shape
    mask = np.ones((rows, d)) if free is None else np.broadcast_to(free, (rows, d)) * 1.0

    def at(u: Rows, which: np.ndarray) -> tuple[Float[np.ndarray, " r"], Rows]:
        values, gradient = objective(low + u * width, which)
        return values, np.nan_to_num(gradient * width * mask[which])

    f, g = at(x, np.arange(rows))
    S, Y, rho = np.zeros((memory, rows, d)), np.zeros((memory, rows, d)), np.zeros((memory, rows))
    live = np.arange(rows)
    for step in range(steps):
        inside = g[live] * ~(((x[live] <= 0) & (g[live] < 0)) | ((x[live] >= 1) & (g[live] > 0)))
        live_now = np.abs(inside).max(axis=1, initial=0.0) > rtol * np.maximum(np.abs(f[live]), 1e-12)
        live, inside = live[live_now], inside[live_now]
        if not len(live):
            break
        p = _direction(inside, S[:, live], Y[:, live], rho[:, live], step)
        p *= inside != 0
        slope = np.einsum("rd,rd->r", p, inside)
        norm = np.sqrt(np.einsum("rd,rd->r", inside, inside))
        poor = slope <= 1e-10 * norm * np.sqrt(np.einsum("rd,rd->r", p, p))
        fresh = poor | (rho[:, live] == 0).all(axis=0)
        p[poor] = inside[poor]
        t = np.where(fresh, 0.1 / np.maximum(norm, 1e-300), 1.0)
        new_x, new_f, new_g = x[live].copy(), f[live].copy(), g[live].copy()
        open_ = np.arange(len(live))
        for _ in range(12):
            trial = np.clip(x[live[open_]] + t[open_, None] * p[open_], 0.0, 1.0)
            value, gradient = at(trial, live[open_])
            gain = np.einsum("rd,rd->r", g[live[open_]], trial - x[live[open_]])
            change = value - f[live[open_]]
            good = np.isfinite(value) & (change >= 1e-4 * gain) & (change >= 0)
            took = open_[good]
            new_x[took], new_f[took], new_g[took] = trial[good], value[good], gradient[good]
            # The next step is where a parabola through what is known is greatest, within reason.
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                shrink = 0.5 * gain / (gain - change)
            t[open_] *= np.clip(np.nan_to_num(shrink, nan=0.1), 0.1, 0.5)
            open_ = open_[~good]
            if not len(open_):
                break
        s, y = new_x - x[live], g[live] - new_g
        curvature = np.einsum("rd,rd->r", s, y)
        keep = curvature > 1e-12 * np.einsum("rd,rd->r", y, y)
        slot = step % memory
        S[slot, live], Y[slot, live] = s, y
        rho[slot, live] = np.where(keep, 1 / np.where(keep, curvature, 1.0), 0.0)
        gained = new_f - f[live]
        x[live], f[live], g[live] = new_x, new_f, new_g
        live = live[gained > rtol * np.maximum(np.abs(new_f), 1e-12)]
    return low + x * width, f


def _direction(
    g: Rows, S: Float[np.ndarray, "k r d"], Y: Float[np.ndarray, "k r d"], rho: Float[np.ndarray, "k r"], step: int
) -> Rows:
    """Return the two-loop recursion's direction of each row; pairs that were refused have rho 0 and do nothing."""
    memory = len(S)
    newest_first = [(step - 1 - k) % memory for k in range(min(step, memory))]
    p, alphas = g.copy(), {}
    for k in newest_first:
        alphas[k] = rho[k] * np.einsum("rd,rd->r", S[k], p)
        p -= alphas[k][:, None] * Y[k]
    if newest_first:
        k = newest_first[0]
        yy = np.einsum("rd,rd->r", Y[k], Y[k])
        ok = (rho[k] > 0) & (yy > 0)
        p *= np.where(ok, 1 / (np.where(ok, rho[k], 1.0) * np.where(ok, yy, 1.0)), 1.0)[:, None]
    for k in reversed(newest_first):
        beta = rho[k] * np.einsum("rd,rd->r", Y[k], p)
        p += (alphas[k] - beta)[:, None] * S[k]
    return p
