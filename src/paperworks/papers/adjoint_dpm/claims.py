"""What AdjointDPM's paper claims, measured against exact gradients and on small networks."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paperworks.diffusion import (
    AdjointSampler,
    AdjointSolver,
    adversarial_noise,
    time_grid,
)
from paperworks.evidence import Measurement, Run, Table, interleaved, measures, races
from paperworks.papers.adjoint_dpm.problems import (
    SCHEDULE,
    WAYS,
    Contest,
    FewSteps,
    MixtureNetwork,
    all_relative,
    contests,
    each,
    exact_gradients,
    geometric_mean,
    held,
    mixtures,
    relative,
    small_unet,
)
from paperworks.testbeds import bench_mixture_1d, trained_classifier, trained_denoiser

MODES = ("continuous", "discrete", "symplectic", "backprop")


@measures("a1-gradients")
def gradients(run: Run) -> Measurement:
    """Solve the adjoint ODE of the mixture and compare with derivatives of its distribution functions."""
    mixture, t_end = bench_mixture_1d(), 1e-2
    noise = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    exact = exact_gradients(mixture, noise, t_end)
    network = MixtureNetwork(mixture)

    def errors(adjoint: str, steps: int) -> list[float]:
        x_T, logits = noise.clone().requires_grad_(), mixture.weights.log().repeat(21, 1).requires_grad_()
        sampler = AdjointSampler(network, SCHEDULE, steps=steps, solver="rk4", adjoint=adjoint, t_end=t_end)
        found = torch.autograd.grad(sampler(x_T, logits).sum(), (x_T, logits, network.means))
        return [relative(a, b) for a, b in zip(found, exact.values(), strict=True)]

    all_steps = run.at(smoke=(5, 10), desk=(10, 20, 50, 100, 200), full=(10, 20, 50, 100, 200, 400))
    continuous = {n: errors("continuous", n) for n in run.progress(all_steps, label="steps")}
    discrete = {n: errors("discrete", n) for n in all_steps}
    *_, coarse, fine = all_steps
    orders = [
        math.log(a / b) / math.log(fine / coarse) for a, b in zip(continuous[coarse], continuous[fine], strict=True)
    ]
    figure, axes = run.figure()
    for i, (name, marker) in enumerate(zip(exact, "os^", strict=True)):
        (line,) = axes.loglog(all_steps, [continuous[n][i] for n in all_steps], f"{marker}-", label=name)
        axes.loglog(all_steps, [discrete[n][i] for n in all_steps], f"{marker}:", color=line.get_color(), alpha=0.6)
    axes.set(xlabel="steps", ylabel="relative error of the gradient", title="Adjoint ODE (line), discrete mode (dots)")
    axes.legend()
    return Measurement(
        {"noise": continuous[fine][0], "weights": continuous[fine][2], "order": min(orders)},
        table=Table(
            ["steps", *(f"{name}, {mode}" for mode in MODES[:2] for name in exact)],
            [[n, *continuous[n], *discrete[n]] for n in all_steps],
        ),
        figure=figure,
    )


def sum_of_samples(sampler: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    """Return a loss of the samples from noise that wants a gradient."""
    return sampler(noise.clone().requires_grad_()).sum()


@measures("a2-memory")
def memory(run: Run) -> Measurement:
    """Count what is saved for the way back through a U-Net, for gradients of noise and weights, step by step."""
    all_steps = run.at(smoke=(1, 4), desk=(10, 20, 50, 100), full=(10, 20, 50, 100))
    network = small_unet(run)
    noise = torch.randn(4, 1, 8, 8, generator=run.torch_rng())
    state = noise.nbytes
    sizes: dict[tuple[str, int], tuple[int, int]] = {}
    for adjoint in run.progress(MODES, label="mode"):
        for steps in all_steps:
            sampler = AdjointSampler(
                network.model(SCHEDULE), SCHEDULE, steps=steps, solver="euler", adjoint=adjoint, t_end=1e-3
            )
            sizes[adjoint, steps] = held(partial(sum_of_samples, sampler, noise), network)
    first, last = all_steps[0], all_steps[-1]
    figure, axes = run.figure()
    for adjoint, style in zip(MODES, ("o-", "s-", "^--", "D-"), strict=True):
        axes.loglog(all_steps, [sizes[adjoint, n][1] / 2**20 for n in all_steps], style, label=adjoint)
    axes.set(xlabel="steps", ylabel="most memory saved (MiB)", title="Saved for the way back, U-Net")
    axes.legend()
    return Measurement(
        {
            "continuous_growth": sizes["continuous", last][1] / sizes["continuous", first][1] - 1,
            "discrete_to_states": max(sizes["discrete", n][0] / (n * state) for n in all_steps),
            "backprop_growth": sizes["backprop", last][1] / sizes["backprop", first][1],
        },
        table=Table(
            ["mode", "steps", "kept between the ways (KiB)", "most at any time (KiB)", "states of all steps (KiB)"],
            [[m, n, between / 1024, most / 1024, n * state / 1024] for (m, n), (between, most) in sizes.items()],
        ),
        figure=figure,
    )


@measures("a3-reparameterisation")
def reparameterisation(run: Run) -> Measurement:
    """Compare Euler in rho with Euler in t on a mixture of 64 dimensions, each on its best grid."""
    n, all_steps = run.at(smoke=10, desk=500, full=5000), run.at(smoke=(1, 2), desk=(10, 20, 50), full=(10, 20, 50))
    barred, *_, concentrated = kinds = ("sample, RMS", "sample by RK4, RMS", "gradient, median", "sample, median")
    errors: dict[tuple[str, str, int, str, int], float] = {}
    for name, seed in run.progress([(name, seed) for name in mixtures() for seed in run.seeds], label="data and seeds"):
        problem = FewSteps(run, mixtures()[name], n, seed)
        for steps in all_steps:
            for way in WAYS:
                sample, gradient = problem.solve(way, "euler", steps, "discrete")
                by_rk4, _ = problem.solve(way, "rk4", steps, None)
                found = (
                    relative(sample, problem.sample),
                    relative(by_rk4, problem.sample),
                    float(each(gradient, problem.gradient).median()),
                    float(each(sample, problem.sample).median()),
                )
                errors.update({(name, kind, steps, way, seed): e for kind, e in zip(kinds, found, strict=True)})

    def best(variable: str, *key: Any) -> float:
        """Return the error in one variable on the better of its grids."""
        *problem, seed = key
        return min(errors[(*problem, way, seed)] for way, (solved_in, _) in WAYS.items() if solved_in == variable)

    def gain(*key: Any) -> float:
        return best("t", *key) / best("rho", *key)

    def over_seeds(value: Callable[..., float], *key: Any) -> float:
        return sum(value(*key, seed) for seed in run.seeds) / len(run.seeds)

    figure, axes = run.figure(1, 2, sharey=True)
    for place, name, kind in zip(axes, ("s=0.2", "s=0.01"), (barred, concentrated), strict=True):
        for way in WAYS:
            means = [over_seeds(lambda *key: errors[key], name, kind, steps, way) for steps in all_steps]
            place.loglog(all_steps, means, "o-", label=f"ODE {way}")
        place.set(xlabel="steps of Euler", title=f"{name}: {kind}")
    axes[0].set(ylabel="relative error")
    axes[1].legend()
    few = all_steps[:2]
    return Measurement.over_seeds(
        [min(gain("s=0.2", barred, steps, seed) for steps in few) for seed in run.seeds],
        table=Table(
            [
                "data",
                "relative error of",
                f"in t, {few[0]} steps",
                f"in ρ, {few[0]} steps",
                *(f"in t / in ρ, {steps} steps" for steps in all_steps),
            ],
            [
                [
                    name,
                    kind,
                    over_seeds(partial(best, "t"), name, kind, few[0]),
                    over_seeds(partial(best, "rho"), name, kind, few[0]),
                    *(over_seeds(gain, name, kind, steps) for steps in all_steps),
                ]
                for name in mixtures()
                for kind in kinds
            ],
        ),
        figure=figure,
    )


@measures("a4-few-steps")
def few_steps(run: Run) -> Measurement:
    """Compare the errors of discrete and continuous gradients with RK4, mean over samples of the relative error."""
    n, all_steps = run.at(smoke=10, desk=500, full=5000), run.at(smoke=(1, 2), desk=(10, 20, 50), full=(10, 20, 50))
    names = ("s=0.2", "s=0.7, means x 0.3")
    modes: dict[str, dict[str, Any]] = {
        "continuous": {"adjoint": "continuous"},
        "with checkpoints": {"adjoint": "continuous", "y_checkpoints": all_steps[-1]},
        "discrete": {"adjoint": "discrete"},
    }
    errors: dict[tuple[Any, ...], Tensor] = {}  # mean and median of the relative error, mean cosine similarity
    for name, seed in run.progress([(name, seed) for name in names for seed in run.seeds], label="data and seeds"):
        problem = FewSteps(run, mixtures()[name], n, seed)
        for steps, way, mode in itertools.product(all_steps, WAYS, modes):
            _, gradient = problem.solve(way, "rk4", steps, **modes[mode])
            error = each(gradient, problem.gradient)
            cosine = torch.cosine_similarity(gradient, problem.gradient, dim=1)
            errors[name, steps, way, mode, seed] = torch.stack([error.mean(), error.median(), cosine.mean()])

    def over_seeds(*key: Any) -> list[float]:
        return torch.stack([errors[(*key, seed)] for seed in run.seeds]).mean(0).tolist()

    figure, axes = run.figure()
    for way in WAYS:
        continuous, _, discrete = ([over_seeds("s=0.2", n, way, mode)[0] for n in all_steps] for mode in modes)
        (line,) = axes.loglog(all_steps, continuous, "o-", label=f"ODE {way}")
        axes.loglog(all_steps, discrete, "s:", color=line.get_color())
    axes.set(
        xlabel="steps of RK4", ylabel="relative error of the gradient", title="Continuous (lines) and discrete (dots)"
    )
    axes.legend()

    def ratio(steps: int, way: str, seed: int) -> float:
        discrete, continuous = (errors["s=0.2", steps, way, mode, seed][0] for mode in ("discrete", "continuous"))
        return float(discrete / continuous)

    rows = []
    for name, steps, way in itertools.product(names, all_steps, WAYS):
        means, medians, cosines = zip(*(over_seeds(name, steps, way, mode) for mode in modes), strict=True)
        rows.append([name, steps, way, *means, means[-1] / means[0], medians[-1] / medians[0], cosines[0], cosines[-1]])
    return Measurement.over_seeds(
        [max(ratio(steps, way, seed) for steps in all_steps[:2] for way in WAYS) for seed in run.seeds],
        table=Table(
            [
                "data",
                "steps",
                "ODE",
                *modes,
                "discrete / continuous",
                "the same of medians",
                "cosine, continuous",
                "cosine, discrete",
            ],
            rows,
        ),
        figure=figure,
    )


@measures("a5-adversarial-noise")
def adversarial(run: Run) -> Measurement:
    """Attack a classifier by the noise that class-conditional images of clothes are sampled from."""
    size = run.at(smoke="smoke", desk="desk", full="desk")
    denoiser = trained_denoiser("fashion-mnist", conditional=True, size=size, progress=run.progress)
    judge = trained_classifier("fashion-mnist", size=size, progress=run.progress)
    n, steps, ascents = run.at(smoke=(4, 3, 2), desk=(50, 10, 30), full=(500, 20, 30))
    labels = torch.arange(n) % 10
    noise = torch.randn(n, *denoiser.shape, generator=run.torch_rng())

    def sampler(adjoint: str, labels: Tensor) -> AdjointSampler:
        options = {"steps": steps, "solver": "euler", "skip_type": "time_uniform", "t_end": 1e-3, "params": ()}
        return AdjointSampler(denoiser.model(SCHEDULE, labels), SCHEDULE, adjoint=adjoint, **options)

    def loss(x_0: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(judge(x_0), labels, reduction="none")

    def wrong(x_0: Tensor) -> Tensor:
        return judge(x_0).argmax(1) != labels

    with torch.no_grad():
        clean = sampler("discrete", labels)(noise)
        right = ~wrong(clean)

    def success(x_0: Tensor) -> float:
        return float(wrong(x_0)[right].double().mean()) if right.any() else 0.0

    def attack(adjoint: str) -> tuple[Tensor, Tensor]:
        """Return the noises found and their samples, some images at a time to keep memory small."""
        parts = []
        for rows in run.progress(torch.arange(n).split(10), label=adjoint):
            found = adversarial_noise(
                sampler(adjoint, labels[rows]),
                noise[rows],
                partial(loss, labels=labels[rows]),
                steps=ascents,
            )
            parts.append((found.x_T, found.sample))
        return torch.cat([x_T for x_T, _ in parts]), torch.cat([x_0 for _, x_0 in parts])

    found = {adjoint: attack(adjoint) for adjoint in ("discrete", "backprop")}
    sizes = (found["discrete"][0] - noise).abs()
    draws = run.at(smoke=1, desk=5, full=5)
    signs = torch.randint(0, 2, (draws, *noise.shape), generator=run.torch_rng(1)) * 2 - 1
    with torch.no_grad():
        chance = sum(success(sampler("discrete", labels)(noise + sizes * sign)) for sign in signs) / draws
    least = 1 / (draws * max(int(right.sum()), 1))  # one success more than none
    memory = {
        adjoint: held(partial(sum_of_samples, sampler(adjoint, labels[:10]), noise[:10]), denoiser)[1]
        for adjoint in found
    }
    reached = {adjoint: success(sample) for adjoint, (_, sample) in found.items()}
    figure, axes = run.figure(2, min(n, 8))
    fooled = (wrong(found["discrete"][1]) & right).nonzero()[:, 0].tolist()
    shown = (fooled + [i for i in range(n) if i not in fooled])[: len(axes[0])]
    for row, (name, images) in enumerate((("sample", clean), ("after the attack", found["discrete"][1]))):
        for place, i in zip(axes[row], shown, strict=True):
            place.imshow(images[i, 0].clamp(-1, 1).numpy(), cmap="gray_r", vmin=-1, vmax=1)
            place.set(xticks=[], yticks=[], title=f"class {int(judge(images[i : i + 1]).argmax())}")
            place.grid(visible=False)
        axes[row][0].set_ylabel(name)
    figure.set_size_inches(1.4 * len(shown), 3.6)
    return Measurement(
        {
            "success_to_random": reached["discrete"] / max(chance, least),
            "success_to_backprop": reached["discrete"] / max(reached["backprop"], least),
            "memory_to_backprop": memory["discrete"] / memory["backprop"],
        },
        table=Table(
            ["noise", "classifier fooled", "mean change of the noise", "most memory saved for 10 images (MiB)"],
            [
                ["as drawn", 0.0, 0.0, 0.0],
                ["random signs, equal size", chance, float(sizes.mean()), 0.0],
                *(
                    [
                        f"attacked, {adjoint}",
                        reached[adjoint],
                        float((x_T - noise).abs().mean()),
                        memory[adjoint] / 2**20,
                    ]
                    for adjoint, (x_T, _) in found.items()
                ),
            ],
        ),
        figure=figure,
        remark=f"Before the attack {int(right.sum())} of {n} images are taken for the class they were sampled from. "
        "The others do not count. Steps follow the sign of the gradient.",
    )


@races("torchdiffeq")
def against_torchdiffeq(run: Run) -> Measurement:
    """Sample and differentiate in noise and weights on one grid; errors and memory beside the times."""
    from torchdiffeq import odeint_adjoint

    steps, repeats, t_end = run.at(smoke=2, desk=20, full=20), run.at(smoke=1, desk=5, full=21), 1e-3
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
    ratios = []
    for contest in contests(run):
        slope = Slope(contest)
        for batch in run.at(smoke=(1,), desk=(1, 8), full=(1, 8, 64)):
            noise = torch.randn(batch, *contest.shape, generator=run.torch_rng())
            exact = contest.gradients(contest.sampler(steps=fine, solver="rk4", t_end=t_end), noise)
            for solver in solvers:
                options = {"steps": steps, "solver": solver, "backward_solver": solver, "t_end": t_end}
                samplers: dict[str, Callable[[Tensor], Tensor]] = {
                    mode: contest.sampler(adjoint=mode, **options) for mode in ("discrete", "continuous")
                }
                samplers["theirs"] = partial(peer, slope, methods[solver])
                seconds = interleaved(
                    run,
                    {name: partial(contest.gradients, sampler, noise) for name, sampler in samplers.items()},
                    repeats,
                )
                error = {name: all_relative(contest.gradients(s, noise), exact) for name, s in samplers.items()}
                memory = {
                    name: held(partial(sum_of_samples, sampler, noise), contest.network)[1]
                    for name, sampler in samplers.items()
                }
                ours = ("discrete", "continuous")
                ratios.append(seconds["discrete"] / seconds["theirs"])
                rows.append(
                    [
                        contest.name,
                        batch,
                        solver,
                        1e3 * seconds["theirs"],
                        *(seconds[mode] / seconds["theirs"] for mode in ours),
                        *error.values(),
                        *(memory[mode] / memory["theirs"] for mode in ours),
                    ]
                )
    return Measurement(
        geometric_mean(ratios),
        table=Table(
            [
                "network",
                "batch",
                "solver",
                "theirs (ms)",
                "time, discrete",
                "time, continuous",
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
    )


@races("torch")
def against_backprop(run: Run) -> Measurement:
    """Compare with plain back-propagation, and with back-propagation that checkpoints each evaluation."""
    from torch.utils.checkpoint import checkpoint

    steps, repeats, batch = run.at(smoke=2, desk=20, full=20), run.at(smoke=1, desk=7, full=21), 8
    rows: list[list[Any]] = []
    ratios = []
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
            seconds = interleaved(
                run, {name: partial(contest.gradients, sampler, noise) for name, sampler in samplers.items()}, repeats
            )
            in_noise = interleaved(
                run,
                {name: partial(contest.noise_gradient, samplers[name], noise) for name in ("discrete", "backprop")},
                repeats,
            )
            contest.network.double()
            found, exact = (contest.gradients(samplers[name], noise.double()) for name in ("discrete", "backprop"))
            contest.network.float()
            ratio = seconds["discrete"] / seconds["backprop"]
            rows.append(
                [
                    contest.name,
                    solver,
                    1e3 * seconds["backprop"],
                    ratio,
                    seconds["checkpoint"] / seconds["backprop"],
                    in_noise["discrete"] / in_noise["backprop"],
                    all_relative(found, exact),
                ]
            )
            ratios.append(ratio)
    return Measurement(
        {"difference": max(row[-1] for row in rows), "time": geometric_mean(ratios)},
        table=Table(
            [
                "network",
                "solver",
                "backprop (ms)",
                "discrete / backprop",
                "torch checkpoint / backprop",
                "discrete / backprop, noise alone",
                "difference in float64",
            ],
            rows,
        ),
        remark="Noise and weights have gradients in the first two ratios. Each evaluation is made once more on the way "
        "back; that weighs more where less has to be done there, as for the noise alone.",
    )
