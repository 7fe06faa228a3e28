"""What AdjointDPM's paper claims, measured against exact gradients and on small networks."""

import itertools
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paperworks.diffusion import (
    AdjointSampler,
    adversarial_noise,
)
from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    bootstrap,
    exact,
    greatest,
    least,
    measures,
    proportion,
    races,
)
from paperworks.papers.adjoint_dpm import peers
from paperworks.papers.adjoint_dpm.problems import (
    SCHEDULE,
    WAYS,
    FewSteps,
    MixtureNetwork,
    each,
    exact_gradients,
    held,
    mixtures,
    relative,
    small_unet,
    sum_of_samples,
)
from paperworks.testbeds import bench_mixture_1d, trained_classifier, trained_denoiser

MODES = ("continuous", "discrete", "symplectic", "backprop")


@measures("a1-gradients")
def gradients(run: Run) -> Measurement:
    """Solve the adjoint ODE of the mixture and compare with derivatives of its distribution functions."""
    mixture, t_end = bench_mixture_1d(), 1e-2
    noise = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    truth = exact_gradients(mixture, noise, t_end)
    network = MixtureNetwork(mixture)

    def errors(adjoint: str, steps: int) -> list[float]:
        x_T, logits = noise.clone().requires_grad_(), mixture.weights.log().repeat(21, 1).requires_grad_()
        sampler = AdjointSampler(network, SCHEDULE, steps=steps, solver="rk4", adjoint=adjoint, t_end=t_end)
        found = torch.autograd.grad(sampler(x_T, logits).sum(), (x_T, logits, network.means))
        return [relative(a, b) for a, b in zip(found, truth.values(), strict=True)]

    all_steps = run.at(smoke=(5, 10), desk=(10, 20, 50, 100, 200), full=(10, 20, 50, 100, 200, 400))
    continuous = {n: errors("continuous", n) for n in run.progress(all_steps, label="steps")}
    discrete = {n: errors("discrete", n) for n in all_steps}
    *_, coarse, fine = all_steps
    orders = [
        math.log(a / b) / math.log(fine / coarse) for a, b in zip(continuous[coarse], continuous[fine], strict=True)
    ]
    figure, axes = run.figure()
    for i, (name, marker) in enumerate(zip(truth, "os^", strict=True)):
        (line,) = axes.loglog(all_steps, [continuous[n][i] for n in all_steps], f"{marker}-", label=name)
        axes.loglog(all_steps, [discrete[n][i] for n in all_steps], f"{marker}:", color=line.get_color(), alpha=0.6)
    axes.set(xlabel="steps", ylabel="relative error of the gradient", title="Adjoint ODE (line), discrete mode (dots)")
    axes.legend()
    return Measurement(
        {
            "noise": exact(continuous[fine][0]),
            "weights": exact(continuous[fine][2]),
            "order": exact(min(orders)),
        },
        table=Table(
            ["steps", *(f"{name}, {mode}" for mode in MODES[:2] for name in truth)],
            [[n, *continuous[n], *discrete[n]] for n in all_steps],
        ),
        figure=figure,
    )


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
            "continuous_growth": exact(sizes["continuous", last][1] / sizes["continuous", first][1] - 1),
            "discrete_to_states": exact(max(sizes["discrete", n][0] / (n * state) for n in all_steps)),
            "backprop_growth": exact(sizes["backprop", last][1] / sizes["backprop", first][1]),
        },
        table=Table(
            ["mode", "steps", "kept between the ways (KiB)", "most at any time (KiB)", "states of all steps (KiB)"],
            [[m, n, between / 1024, most / 1024, n * state / 1024] for (m, n), (between, most) in sizes.items()],
        ),
        figure=figure,
    )


@measures("a3-reparameterisation")
def reparameterisation(run: Run) -> Measurement:
    """Compare Euler in rho with Euler in t on a mixture of 64 dimensions, each on its best grid.

    The grids are chosen on noise of their own.
    """
    n, all_steps = run.at(smoke=10, desk=300, full=5000), run.at(smoke=(1, 2), desk=(10, 20, 50), full=(10, 20, 50))
    barred, by_rk4, gradients_, _ = kinds = ("sample", "sample by RK4", "gradient", "sample, median")
    few = all_steps[:2]

    def errors_of(name: str, seed: int) -> dict[tuple[str, int, str], Tensor]:
        """Return the relative error of each sample and of each gradient."""
        problem = FewSteps(run, mixtures()[name], n, seed)
        found = {}
        for steps, way in itertools.product(all_steps, WAYS):
            sample, gradient = problem.solve(way, "euler", steps, "discrete")
            found[barred, steps, way] = each(sample, problem.sample)
            found[by_rk4, steps, way] = each(problem.solve(way, "rk4", steps, None)[0], problem.sample)
            found[gradients_, steps, way] = each(gradient, problem.gradient)
        return found

    def average(errors: Tensor, kind: str) -> float:
        return float(errors.square().mean().sqrt()) if kind in (barred, by_rk4) else float(errors.median())

    trials = {name: errors_of(name, 1000) for name in run.progress(mixtures(), label="choosing grids")}

    def best_way(variable: str, name: str, kind: str, steps: int) -> str:
        """Return the ODE in one variable on the better of its grids."""
        source = barred if kind == kinds[-1] else kind
        return min(
            (way for way, (solved_in, _) in WAYS.items() if solved_in == variable),
            key=lambda way: average(trials[name][source, steps, way], kind),
        )

    main = next(iter(mixtures()))
    found: dict[str, dict[tuple[str, int, str], Tensor]] = {}
    for name in run.progress(mixtures(), label="data"):
        seeds = run.seeds if name == main else run.seeds[:1]  # what has no bar is measured once
        parts = [errors_of(name, seed) for seed in seeds]
        found[name] = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def errors(variable: str, name: str, kind: str, steps: int) -> Tensor:
        source = barred if kind == kinds[-1] else kind
        return found[name][source, steps, best_way(variable, name, kind, steps)]

    def gain(steps: int) -> Estimate:
        pair = errors("t", main, barred, steps), errors("rho", main, barred, steps)
        return bootstrap(lambda a, b: math.sqrt((a**2).mean() / (b**2).mean()), *pair, of="samples")

    rows: list[list[Any]] = []
    for name, kind in itertools.product(mixtures(), kinds):
        of_both = {
            steps: [average(errors(variable, name, kind, steps), kind) for variable in ("t", "rho")]
            for steps in all_steps
        }
        rows.append([name, kind, *of_both[few[0]], *(in_t / in_rho for in_t, in_rho in of_both.values())])
    figure, axes = run.figure(1, 2, sharey=True)
    for place, name, kind in zip(axes, ("s=0.2", "s=0.01"), (barred, kinds[-1]), strict=True):
        for way in WAYS:
            means = [average(found[name][barred, steps, way], kind) for steps in all_steps]
            place.loglog(all_steps, means, "o-", label=f"ODE {way}")
        place.set(xlabel="steps of Euler", title=f"{name}: {kind}")
    axes[0].set(ylabel="relative error")
    axes[1].legend()
    return Measurement(
        least([gain(steps) for steps in few]),
        table=Table(
            [
                "data",
                "relative error of",
                f"in t, {few[0]} steps",
                f"in ρ, {few[0]} steps",
                *(f"in t / in ρ, {steps} steps" for steps in all_steps),
            ],
            rows,
        ),
        figure=figure,
        remark="Of samples the root mean square, of gradients the median, where nothing else is said.",
    )


@measures("a4-few-steps")
def few_steps(run: Run) -> Measurement:
    """Compare the errors of discrete and continuous gradients with RK4, mean over samples of the relative error."""
    n, all_steps = run.at(smoke=10, desk=300, full=5000), run.at(smoke=(1, 2), desk=(10, 20, 50), full=(10, 20, 50))
    main, broad = names = ("s=0.2", "s=0.7, means x 0.3")
    modes: dict[str, dict[str, Any]] = {
        "continuous": {"adjoint": "continuous"},
        "with checkpoints": {"adjoint": "continuous", "y_checkpoints": all_steps[-1]},
        "discrete": {"adjoint": "discrete"},
    }
    parts: dict[tuple[str, int, str, str], list[Tensor]] = {}  # relative error and cosine similarity of each sample
    jobs = [*((main, seed) for seed in run.seeds), (broad, run.seed)]  # what has no bar is measured once
    for name, seed in run.progress(jobs, label="data and seeds"):
        problem = FewSteps(run, mixtures()[name], n, seed)
        for steps, way, mode in itertools.product(all_steps, WAYS, modes):
            _, gradient = problem.solve(way, "rk4", steps, **modes[mode])
            cosine = torch.cosine_similarity(gradient, problem.gradient, dim=1)
            found = torch.stack([each(gradient, problem.gradient), cosine])
            parts.setdefault((name, steps, way, mode), []).append(found)
    errors = {key: torch.cat(found, dim=1) for key, found in parts.items()}
    figure, axes = run.figure()
    for way in WAYS:
        continuous, discrete = (
            [float(errors[main, steps, way, mode][0].mean()) for steps in all_steps]
            for mode in ("continuous", "discrete")
        )
        (line,) = axes.loglog(all_steps, continuous, "o-", label=f"ODE {way}")
        axes.loglog(all_steps, discrete, "s:", color=line.get_color())
    axes.set(
        xlabel="steps of RK4", ylabel="relative error of the gradient", title="Continuous (lines) and discrete (dots)"
    )
    axes.legend()

    def ratio(steps: int, way: str) -> Estimate:
        pair = (errors[main, steps, way, mode][0] for mode in ("discrete", "continuous"))
        return bootstrap(lambda a, b: a.mean() / b.mean(), *pair, of="samples")

    rows = []
    for name, steps, way in itertools.product(names, all_steps, WAYS):
        of_modes = [errors[name, steps, way, mode] for mode in modes]
        means, medians, cosines = zip(
            *((float(e[0].mean()), float(e[0].median()), float(e[1].mean())) for e in of_modes), strict=True
        )
        rows.append([name, steps, way, *means, means[-1] / means[0], medians[-1] / medians[0], cosines[0], cosines[-1]])
    return Measurement(
        greatest([ratio(steps, way) for steps in all_steps[:2] for way in WAYS]),
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
    """Attack a classifier by the noise that class-conditional digits are sampled from."""
    size = run.at(smoke="smoke", desk="desk", full="desk")
    denoiser = trained_denoiser("digits", conditional=True, size=size, progress=run.progress)
    judge = trained_classifier("digits", size=size, progress=run.progress)
    n, steps, ascents = run.at(smoke=(4, 3, 2), desk=(40, 10, 30), full=(200, 20, 30))
    n *= len(run.seeds)
    labels = torch.arange(n) % 10
    noise = torch.cat(
        [torch.randn(n // len(run.seeds), *denoiser.shape, generator=run.torch_rng(s)) for s in run.seeds]
    )

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
        by_chance = torch.stack([wrong(sampler("discrete", labels)(noise + sizes * sign)) for sign in signs])[:, right]
    fooled_by = {adjoint: wrong(sample)[right] for adjoint, (_, sample) in found.items()}
    memory = {
        adjoint: held(partial(sum_of_samples, sampler(adjoint, labels[:10]), noise[:10]), denoiser)[1]
        for adjoint in found
    }
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
            "success_to_random": times_as_often(fooled_by["discrete"], by_chance.flatten()),
            "success_to_backprop": bootstrap(
                lambda a, b: a.mean() / max(b.mean(), 0.5 / len(b)),
                fooled_by["discrete"],
                fooled_by["backprop"],
                of="images",
            ),
            "memory_to_backprop": exact(memory["discrete"] / memory["backprop"]),
        },
        table=Table(
            ["noise", "classifier fooled", "mean change of the noise", "most memory saved for 10 images (MiB)"],
            [
                ["as drawn", 0.0, 0.0, 0.0],
                ["random signs, equal size", share(by_chance), float(sizes.mean()), 0.0],
                *(
                    [
                        f"attacked, {adjoint}",
                        share(fooled_by[adjoint]),
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


def share(hits: Tensor) -> float:
    """Return the share of what is true; 0 of nothing."""
    return float(hits.double().mean()) if hits.numel() else 0.0


def times_as_often(ours: Tensor, theirs: Tensor) -> Estimate:
    """Return the ratio of two rates; where theirs is zero, as if half a trial more had succeeded."""
    if not ours.numel():
        return exact(0.0)
    one, other = (proportion(int(hits.sum()), hits.numel(), of="attacks") for hits in (ours, theirs))
    least_rate = 0.5 / theirs.numel()

    def interval(level: float) -> tuple[float, float]:
        (low, high), (low_other, high_other) = (rate.interval((1 + level) / 2) for rate in (one, other))
        return low / high_other, high / max(low_other, least_rate)

    return Estimate(one.value / max(other.value, least_rate), one.method, interval)


@races("torchdiffeq")
def against_torchdiffeq(run: Run) -> Measurement:
    """Sample and differentiate in noise and weights on one grid; errors and memory beside the times."""
    return peers.torchdiffeq(run)


@races("torch")
def against_backprop(run: Run) -> Measurement:
    """Compare with plain back-propagation, and with back-propagation that checkpoints each evaluation."""
    return peers.backprop(run)
