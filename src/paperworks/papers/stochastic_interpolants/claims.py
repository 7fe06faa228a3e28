"""What the stochastic interpolants' paper claims, measured where laws and fields are exact, and on digits."""

import itertools
import math
from collections.abc import Callable
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
    SchrodingerBridgeTrainer,
    SDESampler,
    best_noise_level,
    gaussian_schrodinger_bridge,
    kl_bound,
    log_likelihood,
    score_loss,
    velocity_loss,
)
from paperworks.evidence import Measurement, NotAtThisScale, Run, Table, interleaved, measures, races
from paperworks.numerics import Sums, energy_distance, fixed_plan, follow, train, warmup_cosine
from paperworks.testbeds import digits

D = torch.float64
EDGES = (0.0, 1.0)


def on_a_line(means: list[float], variances: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights, means and covariances of an even mixture in one dimension."""
    n = len(means)
    return (
        torch.full((n,), 1 / n, dtype=D),
        torch.tensor(means, dtype=D)[:, None],
        torch.tensor(variances, dtype=D)[:, None, None],
    )


def two_to_three_modes(interpolant: Interpolant) -> GaussianMixtureInterpolant:
    """Return the exact interpolant from two modes to three, or to the three from what its path starts from."""
    target = on_a_line([-6.0, 0.0, 6.0], [0.5, 0.33, 0.5])
    if interpolant.one_sided or interpolant.mirror:
        return GaussianMixtureInterpolant(interpolant, *target)
    return GaussianMixtureInterpolant(interpolant, *target, *on_a_line([-3.0, 3.0], [0.25, 0.25]))


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
        exact = two_to_three_modes(Interpolant(name))
        for t in (0.2, 0.37, 0.7):
            before, now, after = (exact.log_density(x, time).exp()[:, None] for time in (t - dt, t, t + dt))
            change = ((after - before) / (2 * dt))[2:-2]
            b, s = exact.b(x, t), exact.s(x, t)
            spread = curvature(now)
            residuals = [
                change + slope(b * now),
                change + slope((b + eps * s) * now) - eps * spread,
                change + slope((b - eps * s) * now) + eps * spread,
            ]
            rows.append([name, t, *(float(r.abs().max()) for r in residuals)])
    figure, axes = run.figure()
    exact = two_to_three_modes(Interpolant("linear"))
    for t in (0.0, 0.2, 0.5, 0.8, 1.0):
        axes.plot(x[:, 0], exact.log_density(x, t).exp(), label=f"t = {t:g}")
    axes.set(xlabel="x", ylabel="density of x_t", title="Linear interpolant, Brownian latent")
    axes.legend()
    return Measurement(
        max(value for row in rows for value in row[2:]),
        table=Table(["family", "t", "transport", "forward Fokker-Planck", "backward Fokker-Planck"], rows),
        figure=figure,
    )


def quantiles(exact: GaussianMixtureInterpolant, n: int) -> Tensor:
    """Return the n mid-point quantiles of a one-dimensional target, from its distribution function on a fine grid."""
    weights, means, covs = exact.target
    x = torch.linspace(-12, 12, 200_001, dtype=D)
    cdf = (weights * torch.special.ndtr((x[:, None] - means[:, 0]) / covs[:, 0, 0].sqrt())).sum(1)
    middle = (np.arange(n) + 0.5) / n
    return torch.from_numpy(np.interp(middle, cdf.numpy(), x.numpy()))


@measures("s2-same-law")
def same_law(run: Run) -> Measurement:
    """Sample with the exact fields: the ODE, and the SDE at three noise levels."""
    exact = two_to_three_modes(Interpolant("linear"))
    fields = exact.fields()
    n = run.at(smoke=2000, desk=160_000, full=160_000)
    coarse = run.at(smoke=5, desk=1, full=1)
    truth = quantiles(exact, n)
    rows: list[list[Any]] = []
    samples: dict[str, Tensor] = {}
    for seed in run.progress(run.seeds, label="seeds"):
        rng = run.torch_rng(seed)
        x0, x1, _ = exact.sample(n, 0.0, rng)
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
    axes.plot(x[:, 0], exact.log_density(x, 1.0).exp(), color="#000000", linewidth=1, label="exact")
    axes.set(xlabel="x", ylabel="density at t = 1", title="One pair of fields, many samplers")
    axes.legend(fontsize=7)
    return Measurement.over_seeds(
        [max(row[2:]) for row in rows],
        table=Table(["seed", "exact samples", *samples], rows),
        figure=figure,
    )


def gaussian_divergence(db: Tensor, ds: Tensor, eps: Tensor, steps: int) -> tuple[Tensor, float]:
    """Return the exact KL of the SDE's density from a Gaussian pair, and the integral of the variance.

    Means 0 and 2, variances 1 and 1/4, linear path, Brownian latent; the velocity is off by `db` and the score by
    ``ds (x - m)``. All laws stay Gaussian, so two ODEs for mean and variance say all.
    """

    def variance(t: float) -> tuple[float, float]:
        return (1 - t) ** 2 + 0.25 * t**2 + t * (1 - t), -2 * (1 - t) + 0.5 * t + 1 - 2 * t

    def slopes(state: Any, t: float, weighs: bool) -> tuple[tuple[Tensor, Tensor], tuple[()]]:
        (gap, v), (s, s_dot) = state, variance(t)
        rate = (0.5 * s_dot - eps) / s + eps * ds
        return (rate * gap + db, 2 * rate * v + 2 * eps), ()

    plan = fixed_plan("rk4", [k / steps for k in range(steps + 1)])
    gap, v = follow(slopes, (torch.zeros_like(db), torch.ones_like(db)), plan, Sums(0))
    ratio = 0.25 / v
    return 0.5 * (ratio - 1 - ratio.log() + gap**2 / v), (1 + 0.25) / 3 + 1 / 6


@measures("s3-kl-bound")
def kl_is_bounded(run: Run) -> Measurement:
    """Draw errors of the fields at random and compare the exact divergence with the bound."""
    n, rng = run.at(smoke=1000, desk=10_000, full=100_000), run.torch_rng()
    db, ds, u = (2 * torch.rand(n, generator=rng, dtype=D) - 1 for _ in range(3))
    eps = 10 ** (1.3 * u)
    kl, area = gaussian_divergence(db, ds, eps, run.at(smoke=1000, desk=2000, full=4000))
    delta_b, delta_s = 0.5 * db**2, 0.5 * ds**2 * area
    bound = torch.tensor([kl_bound(*gaps) for gaps in zip(*(v.tolist() for v in (delta_b, delta_s, eps)), strict=True)])
    best = torch.tensor([kl_bound(b, s) for b, s in zip(delta_b.tolist(), delta_s.tolist(), strict=True)])
    violations = int((kl > bound * (1 + 1e-9)).sum()) + int((best > bound * (1 + 1e-6)).sum())
    figure, axes = run.figure()
    axes.loglog(bound[:2000], kl[:2000], ".", markersize=2)
    axes.loglog(*([[1e-6, 10]] * 2), color="#666666", linestyle="--", linewidth=1, label="equal")
    axes.set(xlabel="bound (nats)", ylabel="exact divergence (nats)", title="The bound over random errors")
    axes.legend()
    db1, ds1, eps1 = (torch.tensor([v], dtype=D) for v in (0.2, 0.3, 0.5))
    one = float(gaussian_divergence(db1, ds1, eps1, 2000)[0])
    gaps = (0.5 * 0.2**2, 0.5 * 0.3**2 * area)
    return Measurement(
        violations,
        table=Table(
            ["velocity off by", "score off by", "epsilon", "divergence", "bound", "best epsilon", "its bound"],
            [[0.2, 0.3, 0.5, one, kl_bound(*gaps, 0.5), best_noise_level(*gaps), kl_bound(*gaps)]],
        ),
        figure=figure,
        remark=f"Median of divergence over bound: {float((kl / bound).median()):.3f}.",
    )


class Net(nn.Module):
    """A multilayer perceptron of x and t, with several outputs of the size of x that share the trunk."""

    def __init__(self, dim: int, width: int, layers: int, outputs: int = 1) -> None:
        super().__init__()
        sizes = [dim + 3, *[width] * layers]
        blocks: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            blocks += [nn.Linear(a, b), nn.SiLU()]
        self.body = nn.Sequential(*blocks, nn.Linear(width, outputs * dim))
        self.outputs = outputs

    def forward(self, x: Tensor, t: Tensor) -> Any:
        """Return one field, or a tuple of several."""
        time = torch.stack([t, torch.sin(math.pi * t), torch.cos(math.pi * t)], dim=1)
        answer = self.body(torch.cat([x, time], dim=1))
        return answer if self.outputs == 1 else answer.chunk(self.outputs, dim=1)


def fit(net: nn.Module, loss: Callable[[], Tensor], steps: int, lr: float = 2e-3) -> nn.Module:
    """Minimise a stochastic loss with Adam and a learning rate that falls like a cosine."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    train(lambda step: loss(), optimizer, steps, schedule=lambda step: warmup_cosine(step, 0, steps))
    return net.requires_grad_(False)


LEVELS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)


def five_modes(rng: torch.Generator, dim: int = 8) -> GaussianMixtureInterpolant:
    """Return the linear interpolant from N(0, 1) to five Gaussians at random places."""
    one, eye = torch.ones(1), torch.eye(dim)
    centres = 2.0 * torch.randn(5, dim, generator=rng)
    return GaussianMixtureInterpolant(
        Interpolant("linear"),
        torch.ones(5),
        centres,
        0.3 * eye.expand(5, dim, dim),
        one,
        torch.zeros(1, dim),
        eye[None],
    )


def learn_field(
    loss_of: Any, exact: GaussianMixtureInterpolant, net: nn.Module, steps: int, batch: int, rng: torch.Generator
) -> Any:
    """Learn one field of a mixture from samples."""

    def loss() -> Tensor:
        x0, x1, _ = exact.sample(batch, 0.5, rng)
        return loss_of(exact.interpolant, net, x0, x1, rng)

    return fit(net, loss, steps)


def divergences(
    exact: GaussianMixtureInterpolant, learnt: Fields, size: tuple[int, int, int], rng: torch.Generator
) -> list[float]:
    """Return KL(target || sampler) at all noise levels: exact for the ODE, for the SDEs at most too large."""
    points, paths, steps = size
    _, x, _ = exact.sample(points, 1.0, rng)
    truth = exact.log_density(x, 1.0).double()
    found = []
    for eps in LEVELS:
        kind: Any = {"method": "sde", "eps": eps, "steps": steps} if eps else {"method": "ode", "steps": steps // 4}
        estimate = log_likelihood(
            learnt,
            x,
            lambda y: exact.log_density(y, 0.0),
            n_paths=paths,
            generator=rng,
            window=(1e-3, 1 - 1e-3),
            **kind,
        )
        found.append(float((truth - estimate.double()).mean()))
    return found


@measures("s4-sde-beats-ode")
def sde_beats_ode(run: Run) -> Measurement:
    """Learn velocity and score of a mixture in 8 dimensions and compute the divergence at every noise level."""
    size = run.at(smoke=(8, 2, 12), desk=(400, 8, 200), full=(2000, 32, 400))
    width, steps, batch = run.at(smoke=(16, 30, 64), desk=(128, 2000, 256), full=(256, 7000, 2000))
    rows: list[list[Any]] = []
    for seed in run.progress(run.seeds, label="seeds"):
        rng = run.torch_rng(seed)
        exact = five_modes(rng)
        torch.manual_seed(seed)
        b, s = (learn_field(f, exact, Net(8, width, 3), steps, batch, rng) for f in (velocity_loss, score_loss))
        rows.append([seed, *divergences(exact, Fields(exact.interpolant, b=b, s=s), size, rng)])
    figure, axes = run.figure()
    for row in rows:
        axes.plot(LEVELS, row[1:], "o-", label=f"seed {row[0]}")
    axes.set(xlabel="noise level ε (0: the ODE)", ylabel="divergence from target (nats)", title="Learnt fields, 8-D")
    axes.set_xscale("symlog", linthresh=0.1)
    axes.legend()
    return Measurement.over_seeds(
        [float(min(row[2:]) <= row[1]) for row in rows],
        table=Table(["seed", "ODE", *(f"epsilon {eps:g}" for eps in LEVELS[1:])], rows),
        figure=figure,
    )


class LinearDrift(nn.Module):
    """A drift ``c(t) + k(t) x`` with polynomial coefficients: the class of the bridges between Gaussians."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(degree + 1, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the drift."""
        polynomials = [torch.special.legendre_polynomial_p(2 * t - 1, n) for n in range(len(self.coefficients))]
        c, k = (torch.stack(polynomials, dim=-1) @ self.coefficients).unbind(1)
        return c[:, None] + k[:, None] * x


@measures("s5-bridge")
def bridge(run: Run) -> Measurement:
    """Optimise the weights of the path against a drift and compare with the bridges in closed form."""
    steps, batch = run.at(smoke=(20, 256), desk=(2000, 2048), full=(10_000, 8192))
    times = torch.linspace(0, 1, 101, dtype=D)
    rows: list[list[Any]] = []
    figure, axes = run.figure()
    for s0, s1, eps in run.progress(((1.0, 0.5, 0.5), (1.0, 2.0, 0.1), (0.3, 1.0, 1.0)), label="pairs"):
        rng = run.torch_rng()

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
        exact = torch.tensor([float(truth.cov(t)) for t in times.tolist()], dtype=D)
        rows.append(
            [s0, s1, eps, energy, truth.energy, abs(energy / truth.energy - 1), float((got - exact).abs().max())]
        )
        (line,) = axes.plot(times, exact, linestyle="--")
        axes.plot(times, got, color=line.get_color(), label=f"{s0:g} to {s1:g}, ε = {eps:g}")
    axes.set(xlabel="t", ylabel="variance of x_t", title="Optimised interpolants; bridges dashed")
    axes.legend()
    columns = ["deviation 0", "deviation 1", "epsilon", "energy", "closed form", "relative error", "variance error"]
    return Measurement(
        {"energy": max(row[5] for row in rows), "variance": max(row[6] for row in rows)},
        table=Table(columns, rows),
        figure=figure,
    )


@measures("s6-antithetic")
def antithetic(run: Run) -> Measurement:
    """Measure the variance of single-sample gradients of both losses near the ends and in the middle."""
    interpolant = Interpolant("linear")
    n, rng = run.at(smoke=400, desk=4000, full=20_000), run.torch_rng()
    torch.manual_seed(run.seed)
    net = Net(2, 16, 2)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    x0, z, noise, signs = (torch.randn(n, 2, generator=rng) for _ in range(4))
    x1 = 0.9 * torch.sign(signs) + math.sqrt(1 - 0.81) * noise  # four modes, unit variance

    def variance(loss_of: Any, t: float, both: bool) -> float:
        def single(p: dict[str, Tensor], x0: Tensor, x1: Tensor, z: Tensor) -> Tensor:
            f = lambda x, t: torch.func.functional_call(net, p, (x, t))  # noqa: E731
            time = torch.full((1,), t)
            return loss_of(interpolant, f, x0[None], x1[None], t=time, z=z[None], antithetic=both)

        gradients = torch.func.vmap(torch.func.grad(single), in_dims=(None, 0, 0, 0))(parameters, x0, x1, z)
        return sum(float(g.var(dim=0).sum()) for g in gradients.values())

    rows: list[list[Any]] = []
    for name, loss_of in (("velocity", velocity_loss), ("score", score_loss)):
        for both in (True, False):
            middle = variance(loss_of, 0.5, both)
            ends = [variance(loss_of, t, both) for t in (1e-4, 1 - 1e-4)]
            rows.append([name, both, middle, *ends, max(ends) / middle, min(ends) / middle])
    return Measurement(
        {
            "antithetic": max(row[5] for row in rows if row[1]),
            "plain": min(row[6] for row in rows if not row[1]),
        },
        table=Table(["loss", "antithetic", "t = 1/2", "t = 1e-4", "t = 1 - 1e-4", "largest ratio", "least"], rows),
    )


@measures("s7-real-data")
def real_data(run: Run) -> Measurement:
    """Train equally long on digits: torchcfm's objective, one-sided and two-sided interpolants; translate 3 into 8."""
    try:
        from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    except ImportError as error:
        raise NotAtThisScale(f"torchcfm, which this is relative to, can't be imported: {error}") from None
    images = digits()
    order = torch.randperm(len(images), generator=run.torch_rng(0))
    pixels, labels = images[order].flatten(1), images.labels[order]
    n = len(pixels) * 4 // 5
    centre = pixels[:n].mean(0)
    axes16 = torch.linalg.svd(pixels[:n] - centre, full_matrices=False).Vh[:16]
    points = (pixels - centre) @ axes16.T
    scale = points[:n].std()
    points = points / scale
    data, held_out = points[:n], points[n:]
    epochs, batch, made = run.at(smoke=(20, 64, 200), desk=(4000, 256, 5000), full=(20_000, 512, 20_000))
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def learn(interpolant: Interpolant | None, starts: Tensor | None, ends: Tensor, seed: int) -> Fields:
        """Learn the velocity; without an interpolant by torchcfm's, without starts from noise."""
        torch.manual_seed(seed)
        net, rng = Net(16, 256, 3), run.torch_rng(seed)
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

        fit(net, loss, epochs)
        return Fields(interpolant or Interpolant("linear", "zero"), b=net)

    def apart(fields: Fields, x: Tensor, from_: Tensor) -> tuple[float, Tensor]:
        sample = ODESampler(fields).sample(x, 50, window=(1e-3, 1 - 1e-3)).sample
        return energy_distance(sample, from_), sample

    rows: list[list[Any]] = []
    for seed in run.progress(run.seeds, label="seeds"):
        noise = torch.randn(made, 16, generator=run.torch_rng(1000 + seed))
        theirs, one_sided, two_sided = (
            apart(learn(i, None, data, seed), noise, held_out)[0]
            for i in (None, Interpolant("one_sided_linear"), Interpolant("linear"))
        )
        rows.append([seed, energy_distance(data, held_out), theirs, one_sided, two_sided])
    threes, eights = (data[labels[:n] == k] for k in (3, 8))
    test3, test8 = (held_out[labels[n:] == k] for k in (3, 8))
    translated, sample = apart(learn(Interpolant("linear"), threes, eights, run.seed), test3, test8)
    figure, axes = run.figure(2, 8)
    for column, (before, after) in enumerate(zip(test3[:8], sample[:8], strict=True)):
        for row, point in enumerate((before, after)):
            axes[row, column].imshow((scale * point @ axes16 + centre).reshape(8, 8).numpy(), cmap="gray_r")
            axes[row, column].set(xticks=[], yticks=[])
    figure.suptitle("Held-out threes, and what the flow turns them into")
    figure.set_size_inches(10, 2.9)
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return Measurement(
        max(mean[3], mean[4]) / mean[2],
        table=Table(["seed", "training digits", "torchcfm", "one-sided linear", "linear, Brownian latent"], rows),
        figure=figure,
        remark=f"Threes into eights: energy distance {energy_distance(test3, test8):.3f} before and {translated:.3f} "
        f"after; training eights are at {energy_distance(eights, test8):.3f}.",
    )


@races("torchcfm", exclusive=False)
def against_torchcfm(run: Run) -> Measurement:
    """Compare states and velocities without latent: linear, and variance preserving."""
    from torchcfm.conditional_flow_matching import (
        ConditionalFlowMatcher,
        VariancePreservingConditionalFlowMatcher,
    )

    rng = run.torch_rng()
    n = run.at(smoke=100, desk=10_000, full=10_000)
    x0, x1 = (torch.randn(n, 16, generator=rng, dtype=D) for _ in range(2))
    t = torch.rand(n, generator=rng, dtype=D)
    rows: list[list[Any]] = []
    for name, peer in (
        ("linear", ConditionalFlowMatcher(sigma=0.0)),
        ("trig", VariancePreservingConditionalFlowMatcher(sigma=0.0)),
    ):
        interpolant = Interpolant(name, "zero")
        _, x, u = peer.sample_location_and_conditional_flow(x0, x1, t)
        gaps = [interpolant.sample(x0, x1, t)[0] - x, interpolant.dI(x0, x1, t) - u]
        rows.append([name, *(float(gap.abs().max()) for gap in gaps)])
    return Measurement(
        max(value for row in rows for value in row[1:]), table=Table(["path", "state", "velocity"], rows)
    )


@races("torchsde")
def against_torchsde(run: Run) -> Measurement:
    """Time a step of Euler-Maruyama whose drift costs nothing; torchsde with the faster of its Brownian motions."""
    import torchsde

    steps, repeats = run.at(smoke=(20, 2), desk=(200, 11), full=(200, 51))
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

    seconds = interleaved(
        run,
        {
            "ours": lambda: ours.sample(x, steps, generator=rng),
            "interval": lambda: solve(lambda: torchsde.BrownianInterval(0.0, 1.0, x.shape, dt=1 / steps)),
            "path": lambda: solve(lambda: torchsde.BrownianPath(0.0, torch.zeros_like(x))),
        },
        repeats,
    )
    names = {"ours": "ours", "interval": "torchsde, BrownianInterval", "path": "torchsde, BrownianPath"}
    return Measurement(
        seconds["ours"] / min(seconds["interval"], seconds["path"]),
        table=Table(["solver", "microseconds a step"], [[names[k], 1e6 * v / steps] for k, v in seconds.items()]),
    )


@races("interflow")
def against_interflow(run: Run) -> Measurement:
    """Time the fields of a mixture of 3 and 5 components in 8 dimensions; the package isn't on PyPI."""
    from interflow.gmm import GMMInterpolant

    n, repeats, dim = run.at(smoke=50, desk=10_000, full=10_000), run.at(smoke=1, desk=3, full=5), 8
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

    seconds = interleaved(run, {"ours": both, "theirs": lambda: (theirs.v(tx), theirs.s(tx))}, repeats)
    return Measurement(
        seconds["ours"] / seconds["theirs"],
        table=Table(
            ["package", "milliseconds"], [["ours", 1e3 * seconds["ours"]], ["interflow", 1e3 * seconds["theirs"]]]
        ),
        remark=f"The fields differ by at most {gap:.1e}.",
    )
