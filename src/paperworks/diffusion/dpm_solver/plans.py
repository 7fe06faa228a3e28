"""Plans: a sampler on a given grid as a list of stages, each one evaluation and one linear combination."""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from paperworks.diffusion.dpm_solver.exponential import Form, Level, SolverType
from paperworks.diffusion.schedules import NoiseSchedule, SkipType, time_grid

Method = Literal["multistep", "singlestep", "singlestep_fixed"]

SHORT = 10  # steps below which the last ones are taken at lower order


class Stage(NamedTuple):
    """One evaluation of the network at the current state, and the state that follows from it.

    The next state is ``coefficients[0]`` times the state at the start of the step plus ``coefficients[1:]`` times
    the values of the network from the newest back, plus `noise` times normal noise.
    """

    t: float
    alpha: float
    sigma: float
    coefficients: tuple[float, ...]
    noise: float
    advances: bool  # the next state ends a step, and a new one starts from it
    t_next: float


@functools.lru_cache(maxsize=64)
def make_plan(
    schedule: NoiseSchedule,
    form: Form,
    method: Method,
    steps: int,
    order: int,
    skip_type: SkipType,
    t_start: float,
    t_end: float,
    solver_type: SolverType,
    lower_order_final: bool,
    legacy_3m: bool,
) -> tuple[Stage, ...]:
    """Lay out a sampler; the plan has as many stages as the sampler makes evaluations."""
    if method == "multistep":
        times = time_grid(schedule, steps, t_start, t_end, skip_type)
        orders = multistep_orders(steps, order, lower_order_final and steps < SHORT)
        return multistep_plan(schedule, form, tuple(times), tuple(orders), solver_type, legacy_3m)
    orders = [order] * (steps // order) if method == "singlestep_fixed" else singlestep_orders(steps, order)
    return singlestep_plan(schedule, form, singlestep_times(schedule, orders, skip_type, t_start, t_end), solver_type)


def multistep_orders(steps: int, order: int, lower_order_final: bool) -> list[int]:
    """Return the order of each step: rising from 1, and where asked falling to 1 at the end.

    Examples
    --------
    >>> multistep_orders(6, 3, lower_order_final=True)
    [1, 2, 3, 3, 2, 1]
    """
    return [min(i + 1, order, steps - i if lower_order_final else order) for i in range(steps)]


def singlestep_orders(steps: int, order: int) -> list[int]:
    """Split a budget of exactly `steps` evaluations into steps of at most that order (arXiv 2206.00927, section 3.4).

    Examples
    --------
    >>> singlestep_orders(12, 3), singlestep_orders(13, 3), singlestep_orders(14, 3)
    ([3, 3, 3, 2, 1], [3, 3, 3, 3, 1], [3, 3, 3, 3, 2])
    """
    if order == 3 and steps:
        blocks, left = divmod(steps, 3)
        return [3] * (blocks - 1) + [2, 1] if left == 0 else [3] * blocks + [left]
    if order == 2:
        return [2] * (steps // 2) + [1] * (steps % 2)
    return [1] * steps


def singlestep_times(
    schedule: NoiseSchedule, orders: list[int], skip_type: SkipType, t_start: float, t_end: float
) -> tuple[tuple[float, ...], ...]:
    """Place the nodes of each step: its ends, and as many inner ones as its order less one."""
    if skip_type == "logSNR":
        outer = time_grid(schedule, len(orders), t_start, t_end, skip_type)
    else:
        fine = time_grid(schedule, sum(orders), t_start, t_end, skip_type)
        outer = [fine[0], *(fine[sum(orders[: i + 1])] for i in range(len(orders)))]
    return tuple(
        tuple(time_grid(schedule, order, s, t, skip_type))
        for order, s, t in zip(orders, outer[:-1], outer[1:], strict=True)
    )


@functools.lru_cache(maxsize=64)
def multistep_plan(
    schedule: NoiseSchedule,
    form: Form,
    times: tuple[float, ...],
    orders: tuple[int, ...],
    solver_type: SolverType,
    legacy_3m: bool,
) -> tuple[Stage, ...]:
    """Lay out a multistep sampler on the given times, one evaluation a step."""
    nodes = Level.at_time(schedule, torch.tensor(times, dtype=torch.float64))
    s, t = nodes[:-1], nodes[1:]
    h = t.lam - s.lam
    # Offsets of the two values before each step, in units of it; meaningless where the order doesn't reach them.
    back_1 = -h.roll(1) / h
    back_2 = back_1 - h.roll(2) / h
    updates = {1: form.update(s, t)}
    if 2 in orders:
        updates[2] = form.update(s, t, [back_1], "midpoint" if solver_type == "dpmsolver" else "taylor")
    if 3 in orders:
        updates[3] = form.update(s, t, [back_1, back_2], "legacy" if legacy_3m else "taylor")
    rows = {order: torch.stack(update, dim=1).tolist() for order, update in updates.items()}
    noise = form.noise(s, t).tolist() if form.sde else [0.0] * len(orders)
    alphas, sigmas = s.log_alpha.exp().tolist(), s.log_sigma.exp().tolist()
    return tuple(
        Stage(times[i], alphas[i], sigmas[i], tuple(rows[order][i]), noise[i], True, times[i + 1])
        for i, order in enumerate(orders)
    )


@functools.lru_cache(maxsize=64)
def singlestep_plan(
    schedule: NoiseSchedule, form: Form, times: tuple[tuple[float, ...], ...], solver_type: SolverType
) -> tuple[Stage, ...]:
    """Lay out a singlestep sampler from the nodes of its steps, as many evaluations a step as its order."""
    rows: list[list[tuple[float, ...]]] = [[] for _ in times]
    for order in {len(nodes) - 1 for nodes in times}:
        chosen = [i for i, nodes in enumerate(times) if len(nodes) == order + 1]
        grid = torch.tensor([times[i] for i in chosen], dtype=torch.float64).T
        levels = [Level.at_time(schedule, nodes) for nodes in grid]
        # On a grid that isn't uniform in lam the inner nodes aren't at 1/2, or 1/3 and 2/3.
        h = levels[-1].lam - levels[0].lam
        r = [(inner.lam - levels[0].lam) / h for inner in levels[1:-1]]
        for update in singlestep_updates(form, levels, solver_type, r):
            for i, row in zip(chosen, torch.stack(update, dim=1).tolist(), strict=True):
                rows[i].append(tuple(row))
    flat = [t for nodes in times for t in nodes[:-1]] + [times[-1][-1]]
    here = Level.at_time(schedule, torch.tensor(flat, dtype=torch.float64))
    alphas, sigmas = here.log_alpha.exp().tolist(), here.log_sigma.exp().tolist()
    stages = [(row, j + 1 == len(block)) for block in rows for j, row in enumerate(block)]
    return tuple(
        Stage(flat[i], alphas[i], sigmas[i], row, 0.0, advances, flat[i + 1])
        for i, (row, advances) in enumerate(stages)
    )


def singlestep_updates(
    form: Form, levels: list[Level], solver_type: SolverType, r: Sequence[float | Tensor]
) -> list[list[Tensor]]:
    """Return the updates of one singlestep step of order ``len(levels) - 1``, values from the newest back.

    `levels` are those of the nodes: start, inner ones, end; `r` says where in the step the inner ones are. The update
    with index j leads from the start to node j + 1 (arXiv 2206.00927, algorithms 1 and 2; 2211.01095, algorithm 1
    for the data network).
    """
    start, end = levels[0], levels[-1]
    order = len(levels) - 1
    if order == 1:
        updates = [form.update(start, end)]
    elif order == 2:
        rule: Literal["midpoint", "taylor"] = "midpoint" if solver_type == "dpmsolver" else "taylor"
        updates = [form.update(start, levels[1]), form.update(start, end, r, rule)]
    else:
        updates = [
            form.update(start, levels[1]),
            form.update(start, levels[2], [r[0] / r[1]]),
            form.update(start, end, r, "outer" if solver_type == "dpmsolver" else "taylor"),
        ]
    return [[ratio, *reversed(values)] for ratio, *values in updates]


@functools.lru_cache(maxsize=64)
def scaled(plan: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return the plan for values that carry the factor alpha of the stage they come from."""
    return tuple(
        stage._replace(
            coefficients=(
                stage.coefficients[0],
                *(c / plan[i - back].alpha for back, c in enumerate(stage.coefficients[1:])),
            )
        )
        for i, stage in enumerate(plan)
    )
