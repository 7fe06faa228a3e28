"""The races against the packages that differentiate solutions of an ODE too."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.diffusion import (
    AdjointSolver,
    time_grid,
)
from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    Times,
    every,
    interleaved,
    median,
)
from paperworks.papers.adjoint_dpm.problems import (
    SCHEDULE,
    Contest,
    all_relative,
    contests,
    geometric_mean,
    held,
    sum_of_samples,
)


def torchdiffeq(run: Run) -> Measurement:
    """Sample and differentiate in noise and weights on one grid; errors and memory beside the times."""
    from torchdiffeq import odeint_adjoint

    steps, repeats, t_end = run.at(smoke=2, desk=10, full=20), run.at(smoke=1, desk=9, full=21), 1e-3
    grid = torch.tensor([math.exp(-SCHEDULE.lam(t)) for t in time_grid(SCHEDULE, steps, 1.0, t_end, "logSNR")])

    def nodes(func: Any, y: Tensor, t: Tensor) -> Tensor:
        """Return our grid as torchdiffeq wants it: along the direction, and with the sign, of its own time."""
        along = grid if abs(t[0]) > abs(t[-1]) else grid.flip(0)
        return along if t[0] > 0 else -along

    class Slope(nn.Module):
        def __init__(self, contest: Contest) -> None:
            super().__init__()
            self.network = contest.network
            self.model_fn = contest.model_fn

        def forward(self, rho: Tensor, y: Tensor) -> Tensor:
            t = SCHEDULE.t_of_lam(-math.log(rho.item()))
            return self.model_fn(y * SCHEDULE.alpha(t), t)

    def peer(slope: Slope, method: str, x_T: Tensor) -> Tensor:
        options = {"grid_constructor": nodes}
        start, ends = x_T / SCHEDULE.alpha(1.0), torch.stack([grid[0], grid[-1]])
        y = odeint_adjoint(slope, start, ends, method=method, options=options, adjoint_options=options)
        return y[-1] * SCHEDULE.alpha(t_end)

    methods: dict[AdjointSolver, str] = {"ab": "explicit_adams", "euler": "euler", "midpoint": "midpoint", "rk4": "rk4"}
    solvers: tuple[AdjointSolver, ...] = run.at(smoke=("ab", "euler"), desk=tuple(methods), full=tuple(methods))
    fine = run.at(smoke=4, desk=100, full=200)
    rows: list[list[Any]] = []
    every_times: list[Times] = []
    for contest in contests(run):
        slope = Slope(contest)
        for batch in run.at(smoke=(1,), desk=(1, 8), full=(1, 8, 64)):
            noise = torch.randn(batch, *contest.shape, generator=run.torch_rng())
            truth = contest.gradients(contest.sampler(steps=fine, solver="rk4", t_end=t_end), noise)
            for solver in solvers:
                options = {"steps": steps, "solver": solver, "backward_solver": solver, "t_end": t_end}
                samplers: dict[str, Callable[[Tensor], Tensor]] = {
                    mode: contest.sampler(adjoint=mode, **options) for mode in ("discrete", "continuous")
                }
                samplers["theirs"] = partial(peer, slope, methods[solver])
                times = interleaved(
                    run,
                    {name: partial(contest.gradients, samplers[name], noise) for name in ("discrete", "theirs")},
                    repeats,
                )
                every_times.append(times)
                error = {name: all_relative(contest.gradients(s, noise), truth) for name, s in samplers.items()}
                memory = {
                    name: held(partial(sum_of_samples, sampler, noise), contest.network)[1]
                    for name, sampler in samplers.items()
                }
                rows.append(
                    [
                        contest.name,
                        batch,
                        solver,
                        1e3 * times.median("theirs"),
                        times.ratio("discrete", "theirs").value,
                        *error.values(),
                        *(memory[mode] / memory["theirs"] for mode in ("discrete", "continuous")),
                    ]
                )
    return Measurement(
        overall_ratio(every_times, "discrete", "theirs"),
        table=Table(
            [
                "network",
                "batch",
                "solver",
                "theirs (ms)",
                "time, discrete",
                "error, discrete",
                "error, continuous",
                "error, theirs",
                "memory, discrete",
                "memory, continuous",
            ],
            rows,
        ),
        remark="Times and memory saved for the way back are ratios to theirs. Their Adams method has constant-step "
        "weights, and on the way back neither that method nor ours is stable on this grid: the default is another one.",
        settings=f"odeint_adjoint with the same method and the same {steps} steps both ways, on the ODE without its "
        "linear part",
    )


def overall_ratio(times: list[Times], ours: str, theirs: str) -> Estimate:
    """Return the geometric mean over contests of ours / theirs, round by round, and its median."""
    rounds = range(len(times[0].seconds[ours]))
    return median(
        [geometric_mean([t.seconds[ours][i] / t.seconds[theirs][i] for t in times]) for i in rounds], "rounds"
    )


def without_gradients(sampler: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    """Sample, and keep nothing for a way back."""
    with torch.no_grad():
        return sampler(noise)


def backprop(run: Run) -> Measurement:
    """Compare with plain back-propagation, and with back-propagation that checkpoints each evaluation."""
    from torch.utils.checkpoint import checkpoint

    steps, repeats, batch = run.at(smoke=2, desk=10, full=20), run.at(smoke=1, desk=9, full=21), 8
    rows: list[list[Any]] = []
    every_times: list[Times] = []
    for contest in contests(run):
        noise = torch.randn(batch, *contest.shape, generator=run.torch_rng())
        checkpointed = contest._replace(model_fn=partial(checkpoint, contest.model_fn, use_reentrant=False))
        for solver in run.at(smoke=("ab",), desk=("euler", "ab", "rk4"), full=("euler", "ab", "rk4")):
            options = {"steps": steps, "solver": solver, "t_end": 1e-3}
            samplers = {
                "discrete": contest.sampler(adjoint="discrete", **options),
                "backprop": contest.sampler(adjoint="backprop", **options),
                "checkpoint": checkpointed.sampler(adjoint="backprop", **options),
            }
            jobs: dict[str, Callable[[], Any]] = {
                name: partial(contest.gradients, sampler, noise) for name, sampler in samplers.items()
            }
            jobs["forward"] = partial(without_gradients, samplers["discrete"], noise)
            for name in ("discrete", "backprop"):
                jobs[f"{name}, noise alone"] = partial(contest.noise_gradient, samplers[name], noise)
            times = interleaved(run, jobs, repeats)
            every_times.append(times)
            contest.network.double()
            found, truth = (contest.gradients(samplers[name], noise.double()) for name in ("discrete", "backprop"))
            contest.network.float()
            rows.append(
                [
                    contest.name,
                    solver,
                    1e3 * times.median("backprop"),
                    *(times.ratio(name, "backprop").value for name in ("discrete", "checkpoint", "forward")),
                    times.ratio("discrete, noise alone", "backprop, noise alone").value,
                    all_relative(found, truth),
                ]
            )
    return Measurement(
        {
            "difference": every([row[-1] for row in rows], of="networks and solvers"),
            "time": overall_ratio(every_times, "discrete", "backprop"),
        },
        table=Table(
            [
                "network",
                "solver",
                "backprop (ms)",
                "discrete / backprop",
                "torch checkpoint / backprop",
                "sampling alone / backprop",
                "discrete / backprop, noise alone",
                "difference in float64",
            ],
            rows,
        ),
        remark="Noise and weights have gradients in the first two ratios. Each evaluation is made once more on the way "
        "back; that weighs more where less has to be done there, as for the noise alone.",
        settings="plain back-propagation through the same sampler, all its states kept",
        # What is kept small has to be evaluated once more: sampling again on top of back-propagation.
        floor=1 + float(overall_ratio(every_times, "forward", "backprop").value),
    )
