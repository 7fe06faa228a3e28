"""What the stochastic interpolants' paper claims, measured where laws and fields are exact, and on digits."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.diffusion import (
    Fields,
    GaussianMixtureInterpolant,
    Interpolant,
    LearnablePath,
    ODESampler,
    OptimalCoupling,
    SchrodingerBridgeTrainer,
    SDESampler,
    best_noise_level,
    gaussian_schrodinger_bridge,
    kl_bound,
    score_loss,
    velocity_loss,
)
from paperworks.evidence import (
    Estimate,
    Measurement,
    NotAtThisScale,
    Run,
    Table,
    every,
    exact,
    greatest,
    interleaved,
    least,
    mean,
    measures,
    proportion,
    races,
)
from paperworks.numerics import energy_distance
from paperworks.papers.stochastic_interpolants.problems import (
    LEVELS,
    D,
    LinearDrift,
    Net,
    divergences,
    fit,
    five_modes,
    gaussian_divergence,
    gradient_variance,
    learn_field,
    quantiles,
    split_components,
    two_to_three_modes,
)

EDGES = (0.0, 1.0)


@measures("s1-transport")
def transport(run: Run) -> Measurement:
    """Put the closed-form density and fields into the equations, with central differences on a grid."""
    x = torch.linspace(-12, 12, run.at(smoke=1001, desk=4001, full=4001), dtype=D)[:, None]
    dx, dt, eps = float(x[1] - x[0]), 1e-4, 1.0
    names = ("linear", "trig", "encdec", "one_sided_linear", "one_sided_trig", "one_sided_vp", "mirror")
    rows: list[list[Any]] = []

    def slope(values: Tensor) -> Tensor:  # of fourth order, so that the grid's own error doesn't show
        return (values[:-4] - 8 * values[1:-3] + 8 * values[3:-1] - values[4:]) / (12 * dx)

    def curvature(values: Tensor) -> Tensor:
        ends, near = values[:-4] + values[4:], values[1:-3] + values[3:-1]
        return (16 * near - ends - 30 * values[2:-2]) / (12 * dx**2)

    for name in run.progress(names, label="families"):
        modes = two_to_three_modes(Interpolant(name))
        for t in (0.2, 0.37, 0.7):
            before, now, after = (modes.log_density(x, time).exp()[:, None] for time in (t - dt, t, t + dt))
            change = ((after - before) / (2 * dt))[2:-2]
            b, s = modes.b(x, t), modes.s(x, t)
            spread = curvature(now)
            residuals = [
                change + slope(b * now),
                change + slope((b + eps * s) * now) - eps * spread,
                change + slope((b - eps * s) * now) + eps * spread,
            ]
            rows.append([name, t, *(float(r.abs().max()) for r in residuals)])
    figure, axes = run.figure()
    modes = two_to_three_modes(Interpolant("linear"))
    for t in (0.0, 0.2, 0.5, 0.8, 1.0):
        axes.plot(x[:, 0], modes.log_density(x, t).exp(), label=f"t = {t:g}")
    axes.set(xlabel="x", ylabel="density of x_t", title="Linear interpolant, Brownian latent")
    axes.legend()
    return Measurement(
        exact(max(value for row in rows for value in row[2:])),
        table=Table(["family", "t", "transport", "forward Fokker-Planck", "backward Fokker-Planck"], rows),
        figure=figure,
    )


@measures("s2-same-law")
def same_law(run: Run) -> Measurement:
    """Sample with the exact fields: the ODE, and the SDE at three noise levels."""
    modes = two_to_three_modes(Interpolant("linear"))
    fields = modes.fields()
    n = run.at(smoke=2000, desk=60_000, full=160_000)
    coarse = run.at(smoke=5, desk=1, full=1)
    truth = quantiles(modes, n)
    rows: list[list[Any]] = []
    samples: dict[str, Tensor] = {}
    for seed in run.progress(run.seeds, label="seeds"):
        rng = run.torch_rng(seed)
        x0, x1, _ = modes.sample(n, 0.0, rng)
        window = (1e-4, 1.0)
        samples = {"ODE, RK4, 50 steps": ODESampler(fields).sample(x0, 50 // coarse, window=window).sample}
        for eps in (0.5, 2.0, 5.0):
            sampler = SDESampler(fields, eps, method="euler")
            result = sampler.sample(x0, 200 // coarse, generator=rng, window=window)
            samples[f"SDE, epsilon {eps:g}, 200 steps"] = result.sample
        floor = float((x1[:, 0].sort().values - truth).abs().mean())
        rows.append([seed, floor, *(float((x[:, 0].sort().values - truth).abs().mean()) for x in samples.values())])
    figure, axes = run.figure()
    x = torch.linspace(-9, 9, 1001, dtype=D)[:, None]
    for name, sample in samples.items():
        axes.hist(sample[:, 0].numpy(), bins=160, range=(-9, 9), density=True, histtype="step", label=name)
    axes.plot(x[:, 0], modes.log_density(x, 1.0).exp(), color="#000000", linewidth=1, label="exact")
    axes.set(xlabel="x", ylabel="density at t = 1", title="One pair of fields, many samplers")
    axes.legend(fontsize=7)
    return Measurement(
        mean([max(row[2:]) for row in rows]),
        table=Table(["seed", "exact samples", *samples], rows),
        figure=figure,
    )


@measures("s3-kl-bound")
def kl_is_bounded(run: Run) -> Measurement:
    """Draw errors of the fields at random and compare the exact divergence with the bound."""
    n = run.at(smoke=1000, desk=5000, full=100_000)
    violations = []
    for seed in run.progress(run.seeds, label="seeds"):
        rng = run.torch_rng(seed)
        db, ds, u = (2 * torch.rand(n, generator=rng, dtype=D) - 1 for _ in range(3))
        eps = 10 ** (1.3 * u)
        kl, area = gaussian_divergence(db, ds, eps, run.at(smoke=1000, desk=2000, full=4000))
        gaps_b, gaps_s = (0.5 * db**2).tolist(), (0.5 * ds**2 * area).tolist()
        bound = torch.tensor([kl_bound(*gaps) for gaps in zip(gaps_b, gaps_s, eps.tolist(), strict=True)])
        best = torch.tensor([kl_bound(b, s) for b, s in zip(gaps_b, gaps_s, strict=True)])
        violations.append(int((kl > bound * (1 + 1e-9)).sum()) + int((best > bound * (1 + 1e-6)).sum()))
    figure, axes = run.figure()
    axes.loglog(bound[:2000], kl[:2000], ".", markersize=2)
    axes.loglog(*([[1e-6, 10]] * 2), color="#666666", linestyle="--", linewidth=1, label="equal")
    axes.set(xlabel="bound (nats)", ylabel="exact divergence (nats)", title="The bound over random errors")
    axes.legend()
    db1, ds1, eps1 = (torch.tensor([v], dtype=D) for v in (0.2, 0.3, 0.5))
    one = float(gaussian_divergence(db1, ds1, eps1, 2000)[0])
    gaps = (0.5 * 0.2**2, 0.5 * 0.3**2 * area)
    return Measurement(
        every(violations),
        table=Table(
            ["velocity off by", "score off by", "epsilon", "divergence", "bound", "best epsilon", "its bound"],
            [[0.2, 0.3, 0.5, one, kl_bound(*gaps, 0.5), best_noise_level(*gaps), kl_bound(*gaps)]],
        ),
        figure=figure,
        remark=f"{n} random errors for each seed; median of divergence over bound: {float((kl / bound).median()):.3f}.",
    )


@measures("s4-sde-beats-ode")
def sde_beats_ode(run: Run) -> Measurement:
    """Learn velocity and score of a mixture in 8 dimensions and compute the divergence at every noise level.

    The noise level is chosen on one half of the points and compared with the ODE on the other.
    """
    size = run.at(smoke=(8, 2, 12), desk=(256, 4, 200), full=(2000, 32, 400))
    width, steps, batch = run.at(smoke=(16, 30, 64), desk=(128, 1000, 256), full=(256, 7000, 2000))
    networks = range(run.at(smoke=1, desk=4, full=4) * len(run.seeds))  # a share needs a dozen to be told from 2/3
    rows: list[list[Any]] = []
    for seed in run.progress(networks, label="networks"):
        rng = run.torch_rng(seed)
        modes = five_modes(rng)
        torch.manual_seed(seed)
        b, s = (learn_field(f, modes, Net(8, width, 3), steps, batch, rng) for f in (velocity_loss, score_loss))
        gaps = divergences(modes, Fields(modes.interpolant, b=b, s=s), size, rng)
        choosing, judging = gaps[:, ::2].mean(1), gaps[:, 1::2].mean(1)
        level = 1 + int(choosing[1:].argmin())
        rows.append([seed, *gaps.mean(1).tolist(), LEVELS[level], bool(judging[level] <= judging[0])])
    figure, axes = run.figure()
    for row in rows:
        axes.plot(LEVELS, row[1 : 1 + len(LEVELS)], "o-", linewidth=1)
    axes.set(xlabel="noise level ε (0: the ODE)", ylabel="divergence from target (nats)", title="Learnt fields, 8-D")
    axes.set_xscale("symlog", linthresh=0.1)
    return Measurement(
        proportion(sum(row[-1] for row in rows), len(rows), of="pairs of networks"),
        table=Table(
            ["seed", "ODE", *(f"epsilon {eps:g}" for eps in LEVELS[1:]), "chosen epsilon", "at most the ODE's"], rows
        ),
        figure=figure,
    )


@measures("s5-bridge")
def bridge(run: Run) -> Measurement:
    """Optimise the weights of the path against a drift and compare with the bridges in closed form."""
    steps, batch = run.at(smoke=(20, 256), desk=(2000, 2048), full=(10_000, 8192))
    times = torch.linspace(0, 1, 101, dtype=D)
    pairs = ((1.0, 0.5, 0.5), (1.0, 2.0, 0.1), (0.3, 1.0, 1.0))
    rows: list[list[Any]] = []
    figure, axes = run.figure()
    for seed, (s0, s1, eps) in run.progress(list(itertools.product(run.seeds, pairs)), label="seeds and pairs"):
        rng = run.torch_rng(seed)

        def draw(n: int = batch, s0: float = s0, s1: float = s1, rng: torch.Generator = rng) -> tuple[Tensor, Tensor]:
            return s0 * torch.randn(n, 1, generator=rng), s1 * torch.randn(n, 1, generator=rng)

        truth = gaussian_schrodinger_bridge(0.0, s0**2, 0.0, s1**2, eps)
        path = LearnablePath(degree=2)
        trainer = SchrodingerBridgeTrainer(path, LinearDrift(4), eps, drift_lr=2e-2, path_lr=3e-3)
        trainer.fit(draw, steps, rng)
        energy = trainer.energy(*draw(run.at(smoke=10_000, desk=1_000_000, full=4_000_000)), rng)
        zero, one = torch.zeros(101, 1), torch.ones(101, 1)
        with torch.no_grad():
            alpha, beta = (path(times[:, None], *pair)[:, 0] for pair in ((one, zero), (zero, one)))
        got = alpha**2 * s0**2 + beta**2 * s1**2 + 2 * eps * times * (1 - times)
        closed = torch.tensor([float(truth.cov(t)) for t in times.tolist()], dtype=D)
        errors = abs(energy / truth.energy - 1), float((got - closed).abs().max())
        rows.append([seed, s0, s1, eps, energy, truth.energy, *errors])
        if seed == run.seed:
            (line,) = axes.plot(times, closed, linestyle="--")
            axes.plot(times, got, color=line.get_color(), label=f"{s0:g} to {s1:g}, ε = {eps:g}")
    axes.set(xlabel="t", ylabel="variance of x_t", title="Optimised interpolants; bridges dashed")
    axes.legend()

    def worst(column: int) -> list[float]:
        return [max(row[column] for row in rows if row[0] == seed) for seed in run.seeds]

    columns = ["deviation 0", "deviation 1", "epsilon", "energy", "closed form", "relative error", "variance error"]
    return Measurement(
        {"energy": every(worst(6)), "variance": every(worst(7))},
        table=Table(["seed", *columns], rows),
        figure=figure,
    )


ENDS = (1e-4, 1 - 1e-4)


@measures("s6-antithetic")
def antithetic(run: Run) -> Measurement:
    """Measure the variance of single-sample gradients of both losses near the ends and in the middle."""
    interpolant = Interpolant("linear")
    n = run.at(smoke=400, desk=4000, full=20_000)
    ratios: dict[tuple[str, bool, float], list[float]] = {}
    for seed in run.progress(range(run.at(smoke=1, desk=3, full=3) * len(run.seeds)), label="seeds"):
        rng = run.torch_rng(seed)
        torch.manual_seed(seed)
        net = Net(2, 16, 2)
        x0, z, noise, signs = (torch.randn(n, 2, generator=rng) for _ in range(4))
        x1 = 0.9 * torch.sign(signs) + math.sqrt(1 - 0.81) * noise  # four modes, unit variance

        for name, loss_of in (("velocity", velocity_loss), ("score", score_loss)):
            for both in (True, False):
                middle, *ends = (
                    gradient_variance(partial(loss_of, interpolant), net, (x0, x1, z), t, both) for t in (0.5, *ENDS)
                )
                for t, end in zip(ENDS, ends, strict=True):
                    ratios.setdefault((name, both, t), []).append(end / middle)
    found = {key: mean(values, of="networks") for key, values in ratios.items()}
    return Measurement(
        {
            "antithetic": greatest([ratio for (_, both, _), ratio in found.items() if both]),
            "plain": least([ratio for (_, both, _), ratio in found.items() if not both]),
        },
        table=Table(
            ["loss", "antithetic", "t", "variance / that at t = 1/2", "least", "greatest"],
            [[*key, ratio.value, min(ratios[key]), max(ratios[key])] for key, ratio in found.items()],
        ),
    )


@measures("s7-real-data")
def real_data(run: Run) -> Measurement:
    """Train equally long on digits: torchcfm's objective, one-sided and two-sided interpolants; translate 3 into 8."""
    try:
        from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    except ImportError as error:
        raise NotAtThisScale(f"torchcfm, which this is relative to, can't be imported: {error}") from None
    batch, made = run.at(smoke=(64, 200), desk=(256, 1000), full=(512, 20_000))
    # Few steps where there are few images: on a hundred and fifty of them thousands of steps overfit, and diverge.
    steps = run.at(
        smoke={"generation": 20, "translation": 20},
        desk={"generation": 1000, "translation": 500},
        full={"generation": 20_000, "translation": 500},
    )
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def learn(kind: str, task: str, starts: Tensor | None, ends: Tensor, seed: int) -> Fields:
        """Learn the velocity, by torchcfm's objective or by an interpolant's; without starts from noise."""
        torch.manual_seed(seed)
        net, rng = Net(16, 256, 3), run.torch_rng(seed)
        interpolant = INTERPOLANTS[kind]
        pairs = batch // 2 if interpolant is not None and not interpolant.one_sided else batch  # antithetic: both signs

        def loss() -> Tensor:
            x1 = ends[torch.randint(len(ends), (pairs,), generator=rng)]
            x0 = torch.randn(pairs, 16, generator=rng)
            if starts is not None:
                x0 = starts[torch.randint(len(starts), (pairs,), generator=rng)]
            if interpolant is not None:
                return velocity_loss(interpolant, net, x0, x1, rng)
            t = torch.rand(pairs, generator=rng)
            t, x, u = matcher.sample_location_and_conditional_flow(x0, x1, t)
            return 0.5 * (net(x, t) - u).square().sum(1).mean()

        fit(net, loss, steps[task])
        return Fields(interpolant or Interpolant("linear", "zero"), b=net)

    def flow(fields: Fields, x: Tensor) -> Tensor:
        return ODESampler(fields).sample(x, 50, window=(1e-3, 1 - 1e-3)).sample

    found: dict[tuple[str, str], list[float]] = {}
    for seed in run.progress(range(run.at(smoke=1, desk=2, full=2) * len(run.seeds)), label="splits"):
        split = split_components(run, seed)
        noise = torch.randn(made, 16, generator=run.torch_rng(1000 + seed))
        threes, eights, test3, test8 = (split.of_class(k, part) for part in ("data", "held_out") for k in (3, 8))
        for kind in INTERPOLANTS:
            if kind != "one-sided linear":  # which starts from noise alone
                translated = flow(learn(kind, "translation", threes, eights, seed), test3)
                found.setdefault(("translation", kind), []).append(energy_distance(translated, test8))
            generated = flow(learn(kind, "generation", None, split.data, seed), noise)
            found.setdefault(("generation", kind), []).append(energy_distance(generated, split.held_out))
        for task, x, y in (("generation", split.data, split.held_out), ("translation", eights, test8)):
            found.setdefault((task, "training images"), []).append(energy_distance(x, y))
        found.setdefault(("translation", "untouched"), []).append(energy_distance(test3, test8))
    figure, axes = run.figure(2, 8)
    for column, (before, after) in enumerate(zip(test3[:8], translated[:8], strict=True)):
        for row, point in enumerate((before, after)):
            axes[row, column].imshow(split.image(point).numpy(), cmap="gray_r")
            axes[row, column].set(xticks=[], yticks=[])
    figure.suptitle("Held-out threes, and what the flow turns them into")
    figure.set_size_inches(10, 2.9)

    def to_torchcfm(task: str) -> Estimate:
        theirs = found[task, "torchcfm"]
        ratios = [
            mean([a / b for a, b in zip(values, theirs, strict=True)], of="random splits")
            for (of, kind), values in found.items()
            if of == task and kind in INTERPOLANTS and kind != "torchcfm"
        ]
        return greatest(ratios)

    return Measurement(
        {task: to_torchcfm(task) for task in ("generation", "translation")},
        table=Table(
            ["task", "by", "mean energy distance to held-out digits", "least", "greatest"],
            [[*key, float(np.mean(values)), min(values), max(values)] for key, values in sorted(found.items())],
        ),
        figure=figure,
    )


# What s7 compares; torchcfm's objective has no interpolant of ours.
INTERPOLANTS: dict[str, Interpolant | None] = {
    "torchcfm": None,
    "one-sided linear": Interpolant("one_sided_linear"),
    "linear, Brownian latent": Interpolant("linear"),
}


@races("torchcfm", exclusive=False)
def against_torchcfm(run: Run) -> Measurement:
    """Compare states and velocities without latent: linear, and variance preserving."""
    from torchcfm.conditional_flow_matching import (
        ConditionalFlowMatcher,
        VariancePreservingConditionalFlowMatcher,
    )

    n = run.at(smoke=100, desk=10_000, full=10_000)
    peers = {
        "linear": ConditionalFlowMatcher(sigma=0.0),
        "trig": VariancePreservingConditionalFlowMatcher(sigma=0.0),
    }
    rows: list[list[Any]] = []
    for seed, (name, peer) in itertools.product(run.seeds, peers.items()):
        rng = run.torch_rng(seed)
        x0, x1 = (torch.randn(n, 16, generator=rng, dtype=D) for _ in range(2))
        t = torch.rand(n, generator=rng, dtype=D)
        interpolant = Interpolant(name, "zero")
        _, x, u = peer.sample_location_and_conditional_flow(x0, x1, t)
        gaps = [interpolant.sample(x0, x1, t)[0] - x, interpolant.dI(x0, x1, t) - u]
        rows.append([seed, name, *(float(gap.abs().max()) for gap in gaps)])
    return Measurement(
        every([max(max(row[2:]) for row in rows if row[0] == seed) for seed in run.seeds]),
        table=Table(["seed", "path", "state", "velocity"], rows),
        settings="ConditionalFlowMatcher and VariancePreservingConditionalFlowMatcher with sigma 0, in float64",
    )


@races("torchcfm-couplings")
def against_couplings(run: Run) -> Measurement:
    """Pair minibatches of digits' components with noise by optimal transport, exactly and by Sinkhorn."""
    from torchcfm.optimal_transport import OTPlanSampler

    digits = split_components(run, run.seed).data
    rows: list[list[Any]] = []
    gaps: list[float] = []
    ratios: dict[str, list[Estimate]] = {"exact": [], "sinkhorn": []}
    for n in run.at(smoke=(32,), desk=(64, 128, 256), full=(64, 128, 256, 512)):
        rng = run.torch_rng()
        x1 = digits[torch.randperm(len(digits), generator=rng)[:n]]
        x0 = torch.randn(x1.shape, generator=rng, dtype=x1.dtype)
        cost = torch.cdist(x0.double(), x1.double()).square()
        plan = torch.from_numpy(OTPlanSampler("exact").get_map(x0, x1))
        ours = OptimalCoupling().partners(x0, x1)
        gaps.append(abs(float(cost[torch.arange(len(x0)), ours].mean() / (plan * cost).sum()) - 1))
        for method in ratios:
            # The same entropy for both, torchcfm's in units of the cost. Its tolerance is POT's default, 1e-9 in norm
            # for the error of all masses 1/n; ours is for the share of each mass, and no looser here.
            coupling = OptimalCoupling(method, reg=0.05, tol=1e-9 * len(x0) ** 0.5)
            peer = OTPlanSampler(method, reg=0.05 * float(cost.mean()), warn=False)
            jobs: dict[str, Callable[[], Any]] = {
                "ours": partial(coupling, x0, x1, rng),
                "torchcfm": partial(peer.sample_plan, x0, x1),
            }
            times = interleaved(run, jobs, repeats=run.at(smoke=2, desk=15, full=15))
            ratios[method].append(times.ratio("ours", "torchcfm"))
            medians = times.medians()
            rows.append([len(x0), method, 1e3 * medians["ours"], 1e3 * medians["torchcfm"], ratios[method][-1].value])
    return Measurement(
        {
            "cost": exact(max(gaps)),
            "exact_time": greatest(ratios["exact"]),
            "sinkhorn_time": greatest(ratios["sinkhorn"]),
        },
        table=Table(["pairs", "method", "ours, ms", "torchcfm, ms", "ours / torchcfm"], rows),
        settings="OTPlanSampler, exact and Sinkhorn with an entropy of 0.05 of the mean cost, drawing as many pairs",
    )


@races("torchsde")
def against_torchsde(run: Run) -> Measurement:
    """Time a step of Euler-Maruyama whose drift costs nothing; torchsde with the faster of its Brownian motions."""
    import torchsde

    steps, repeats = run.at(smoke=(20, 2), desk=(200, 15), full=(200, 51))
    x = torch.randn(256, 2, generator=run.torch_rng())
    rng, still, eps = run.torch_rng(1), torch.zeros(256, 2), 0.5
    ours = SDESampler(Fields(Interpolant("linear"), b=lambda x, t: still, s=lambda x, t: still), eps, method="euler")
    spread = torch.full_like(x, math.sqrt(2 * eps))

    class Still(nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t: Tensor, y: Tensor) -> Tensor:
            return still

        def g(self, t: Tensor, y: Tensor) -> Tensor:
            return spread

    sde, times = Still(), torch.tensor(EDGES)

    def solve(motion: Callable[[], Any]) -> Any:
        with torch.no_grad():
            return torchsde.sdeint(sde, x, times, bm=motion(), method="euler", dt=1 / steps)

    times_of = interleaved(
        run,
        {
            "ours": lambda: ours.sample(x, steps, generator=rng),
            "interval": lambda: solve(lambda: torchsde.BrownianInterval(0.0, 1.0, x.shape, dt=1 / steps)),
            "path": lambda: solve(lambda: torchsde.BrownianPath(0.0, torch.zeros_like(x))),
        },
        repeats,
    )
    found = times_of.medians()
    names = {"ours": "ours", "interval": "torchsde, BrownianInterval", "path": "torchsde, BrownianPath"}
    return Measurement(
        greatest([times_of.ratio("ours", peer) for peer in ("interval", "path")]),
        table=Table(["solver", "microseconds a step"], [[names[k], 1e6 * v / steps] for k, v in found.items()]),
        settings="Euler's method with the time step as the Brownian motion's, the better of BrownianInterval and "
        "BrownianPath",
    )


@races("interflow")
def against_interflow(run: Run) -> Measurement:
    """Time the fields of a mixture of 3 and 5 components in 8 dimensions; the package isn't on PyPI."""
    from interflow.gmm import GMMInterpolant

    n, repeats, dim = run.at(smoke=50, desk=10_000, full=10_000), run.at(smoke=1, desk=7, full=15), 8
    rng = run.torch_rng()
    p, q = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.125, 0.125, 0.25, 0.25, 0.25])

    def component(count: int) -> tuple[Tensor, Tensor]:
        root = torch.randn(count, dim, dim, generator=rng) / dim
        return torch.randn(count, dim, generator=rng), root @ root.mT + 0.5 * torch.eye(dim)

    (m, c), (mean1, cov1) = component(3), component(5)
    ours = GaussianMixtureInterpolant(Interpolant("linear"), q, mean1, cov1, p, m, c)
    theirs = GMMInterpolant(p, q, m, mean1, c, cov1, "linear", "brownian", torch.device("cpu"))
    x = torch.randn(n, dim, generator=rng)
    tx = torch.cat([torch.full((n, 1), 0.37), x], dim=1)
    b, s = ours.b(x, 0.37), ours.s(x, 0.37)
    gap = max(float((theirs.v(tx) - b).abs().max()), float((theirs.s(tx) - s).abs().max()))

    def both() -> None:
        ours._kept = None  # a new time each step of a sampler: no factor is kept
        ours.fields().drift_and_score(x, 0.37, 1.0)

    times = interleaved(run, {"ours": both, "theirs": lambda: (theirs.v(tx), theirs.s(tx))}, repeats)
    return Measurement(
        times.ratio("ours", "theirs"),
        table=Table(
            ["package", "milliseconds"],
            [["ours", 1e3 * times.median("ours")], ["interflow", 1e3 * times.median("theirs")]],
        ),
        remark=f"The fields differ by at most {gap:.1e}.",
        settings="its closed-form mixture interpolant, linear with Brownian latent, on the same points",
    )
