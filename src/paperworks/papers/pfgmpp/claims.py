"""What PFGM++'s paper claims, measured on data whose field is known and on digits."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.diffusion import (
    EDMLoss,
    EDMPrecond,
    EDMSchedule,
    PFGMPPNoise,
    PFGMPPScheduler,
    empirical_denoiser,
    poisson_field,
    sample_heun,
    wrap_model,
)
from paperworks.evidence import Measurement, Run, Table, interleaved, measures, races
from paperworks.numerics import energy_distance, train
from paperworks.testbeds import digits

F64 = torch.float64
INF = math.inf
ModelFn = Callable[[Tensor, float | Tensor], Tensor]


def as_model(denoiser: Callable[..., Tensor]) -> ModelFn:
    """Return the noise that a denoiser of EDM's schedule predicts."""
    return wrap_model(denoiser, EDMSchedule(), "x_start")


def name_of(D: float) -> str:
    """Write D."""
    return "∞" if D == INF else f"{D:g}"


@measures("p1-edm-limit")
def edm_limit(run: Run) -> Measurement:
    """Compare noise, loss and sampler with an EDM written out here, at infinity and at D = 2^30."""
    pixels = digits()[:].double().flatten(1)
    model_fn = as_model(empirical_denoiser(pixels, INF))
    n, steps = run.at(smoke=16, desk=256, full=2048), 18

    def edm_sample(x: Tensor, times: list[float]) -> Tensor:
        for t, u in itertools.pairwise(times):
            d = model_fn(x, t)
            y = torch.add(x, d, alpha=u - t)
            x = y if u == 0 else torch.add(x, d + model_fn(y, u), alpha=0.5 * (u - t))
        return x

    def edm_loss(y: Tensor) -> Tensor:
        generator = run.torch_rng(1)
        sigma = (-1.2 + 1.2 * torch.randn(len(y), generator=generator, dtype=F64)).exp()
        x = y + torch.randn(y.shape, generator=generator, dtype=F64) * sigma[:, None]
        weight = (sigma.square() + 0.25) / (sigma * 0.5).square()
        return (weight[:, None] * (EDMPrecond(silent)(x, sigma) - y).square()).mean()

    def silent(x: Tensor, level: Tensor) -> Tensor:
        return 0 * x

    prior = PFGMPPNoise(INF, 64).sample((n, 64), 80.0, run.torch_rng(), dtype=F64)
    reference_prior = torch.randn(n, 64, generator=run.torch_rng(), dtype=F64) * 80.0
    ours = sample_heun(model_fn, prior, steps, return_trajectory=True)
    loss = EDMLoss(INF)(EDMPrecond(silent), pixels, run.torch_rng(1))
    at_infinity = max(
        float((prior - reference_prior).abs().max()),
        float((ours.sample - edm_sample(reference_prior, list(ours.times))).abs().max()),
        float((loss - edm_loss(pixels)).abs()),
    )
    near = 2.0**30
    near_prior = PFGMPPNoise(near, 64).sample((n, 64), 80.0, run.torch_rng(), dtype=F64)
    near_sample = sample_heun(as_model(empirical_denoiser(pixels, near)), near_prior, steps).sample
    distances = {D: coordinate_distance(D, run) for D in (64.0, 2.0**20)}
    return Measurement(
        {
            "at_infinity": at_infinity,
            "at_2_to_30": float((near_sample - ours.sample).abs().max()),
            "ks_at_2_to_20": distances[2.0**20],
        },
        table=Table(["D", "Kolmogorov distance of a coordinate to the normal"], [[*row] for row in distances.items()]),
    )


def coordinate_distance(D: float, run: Run) -> float:
    """Return the Kolmogorov distance of one coordinate of the noise to the standard normal."""
    from scipy import stats

    n = run.at(smoke=20_000, desk=200_000, full=2_000_000)
    draw = PFGMPPNoise(D, 4).sample((n, 4), 1.0, run.torch_rng(), dtype=F64)[:, 0]
    return float(stats.kstest(draw.numpy(), "norm").statistic)


@measures("p2-pfgm-limit")
def pfgm_limit(run: Run) -> Measurement:
    """Compare dx/dr at D = 1 with the sum over charges in N + 1 dimensions."""
    rng = run.torch_rng()
    data = torch.randn(200, 5, generator=rng, dtype=F64)
    x, r = torch.randn(6, 5, generator=rng, dtype=F64), 0.3 + torch.rand(6, generator=rng, dtype=F64)
    from_charges = torch.stack([charges_slope(point, radius, data) for point, radius in zip(x, r, strict=True)])
    e_x, e_r = poisson_field(x, r, data, D=1)
    slope = (x - empirical_denoiser(data, 1)(x, r)) / r[:, None]
    return Measurement(
        max(float((found - from_charges).abs().max()) for found in (e_x / e_r[:, None], slope)),
        remark="Both the Poisson field and the denoiser's ODE are compared.",
    )


def charges_slope(x: Tensor, r: Tensor, data: Tensor) -> Tensor:
    """Add up the fields of unit charges in the augmented space and return the slope of the field line."""
    apart = torch.cat([x - data, r.expand(len(data), 1)], dim=1)
    field = (apart / apart.norm(dim=1, keepdim=True) ** apart.shape[1]).sum(0)
    return field[:-1] / field[-1]


@measures("p3-unbiased")
def unbiased(run: Run) -> Measurement:
    """Estimate the conditional mean of the target at a few points, by PFGM's batches and by one-sample targets."""
    rng = run.torch_rng()
    data = torch.randn(2000, 8, generator=rng, dtype=F64)
    sigma, points = 0.3, 0.8 * torch.randn(4, 8, generator=rng, dtype=F64)
    rows = [
        [D, size, batch_bias(D, size, data, points, sigma, run)]
        for D in (1.0, 64.0)
        for size in run.progress((16, 64, 256), label=f"batches at D = {D:g}")
    ]
    errors = [one_sample_error(D, data, sigma, run) for D in (1.0, 64.0)]
    return Measurement(
        {"pfgm_bias": min(row[2] for row in rows if row[1] == 256), "standard_errors": max(errors)},
        table=Table(["D", "batch", "relative bias of the batch target"], rows),
        remark=f"One-sample targets: {errors[0]:.2f} and {errors[1]:.2f} standard errors at D = 1 and 64.",
    )


def batch_bias(D: float, size: int, data: Tensor, points: Tensor, sigma: float, run: Run) -> float:
    """Return how far the mean of batch estimates of the slope (x - E[y])/sigma is from the slope, relative to it."""
    repeats = run.at(smoke=50, desk=400, full=4000)
    generator = run.torch_rng(2)
    exact = (points - empirical_denoiser(data, D)(points, sigma)) / sigma
    mean = torch.zeros_like(exact)
    for _ in range(repeats):
        batch = data[torch.randint(len(data), (size,), generator=generator)]
        mean += (points - empirical_denoiser(batch, D)(points, sigma)) / sigma / repeats
    return float((mean - exact).norm() / exact.norm())


def one_sample_error(D: float, data: Tensor, sigma: float, run: Run) -> float:
    """Regress one-sample targets on known functions of x, and compare with the exact denoiser's regression.

    If E[target | x] is the exact slope, ``E[(target - slope(x)) g(x)] = 0`` for every g; returned is the largest of
    these means for a few g, in its own standard errors.
    """
    n = run.at(smoke=20_000, desk=500_000, full=4_000_000)
    generator = run.torch_rng(3)
    exact = empirical_denoiser(data, D)
    noise = PFGMPPNoise(D, data.shape[1])
    total, square = torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64)
    done = 0
    while done < n:
        m = min(20_000, n - done)
        y = data[torch.randint(len(data), (m,), generator=generator)]
        x = y + noise.sample(y.shape, sigma, generator, dtype=F64)
        residual = (exact(x, sigma) - y)[:, 0]
        tests = torch.stack([torch.ones(m, dtype=F64), torch.tanh(x[:, 0]), torch.tanh(x[:, 1])])
        products = tests * residual
        total += products.sum(1)
        square += products.square().sum(1)
        done += m
    mean = total / n
    return float((mean / ((square / n - mean.square()) / n).sqrt()).abs().max())


@measures("p4-exact-transport")
def exact_transport(run: Run) -> Measurement:
    """Transport the prior onto two atoms with the exact denoiser and count what arrives where."""
    atoms = torch.tensor([[-1.0, 0.5]] + [[1.0, 0.0]] * 3, dtype=F64)
    n = run.at(smoke=2000, desk=20_000, full=200_000)
    rows: list[list[Any]] = []
    for D in run.progress((1.0, 2.0, 128.0, 2048.0, INF), label="D"):
        prior = PFGMPPNoise(D, 2).sample((n, 2), 80.0, run.torch_rng(), dtype=F64)
        sample = sample_heun(as_model(empirical_denoiser(atoms, D)), prior, 18).sample
        mass = float((sample[:, 0] < 0).double().mean())
        rows.append([name_of(D), mass, abs(mass - 0.25), float(torch.cdist(sample, atoms).min(dim=1).values.max())])
    return Measurement(
        max(row[2] for row in rows),
        table=Table(["D", "mass on the atom of weight 1/4", "error", "largest distance to an atom"], rows),
        remark="At D of 1 and 2 the heaviest tails are not quite carried in within 18 steps.",
    )


class DigitsNetwork(nn.Module):
    """A residual MLP for digits of 64 pixels."""

    def __init__(self, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.level = nn.Linear(32, width)
        self.enter = nn.Linear(64, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.leave = nn.Linear(width, 64)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return EDM's raw output F."""
        waves = level[:, None] * torch.exp2(torch.linspace(-2, 4, 16))
        h = self.enter(x) + self.level(torch.cat([waves.sin(), waves.cos()], dim=1))
        for block in self.blocks:
            h = h + block(h)
        return self.leave(nn.functional.silu(h))


DIMENSIONS = (16.0, 128.0, 2048.0, INF)


def trained(run: Run, D: float, seed: int) -> EDMPrecond:
    """Return the denoiser of one D and seed, trained once and kept; all D see the same batches and normal draws."""
    steps = run.at(smoke=20, desk=1000, full=20_000)
    settings = {"D": str(D), "seed": seed, "steps": steps, "version": 1}

    def build(folder: "object") -> None:
        from pathlib import Path

        torch.manual_seed(seed)
        denoiser = EDMPrecond(DigitsNetwork(), sigma_data=0.5)
        average = torch.optim.swa_utils.AveragedModel(
            denoiser, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
        )
        optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
        loss_fn, pixels, _ = EDMLoss(D), *split_digits()
        generator = run.torch_rng(seed)

        def of_step(step: int) -> Tensor:
            return loss_fn(denoiser, pixels[torch.randint(len(pixels), (128,), generator=generator)], generator)

        train(
            of_step,
            optimizer,
            steps,
            schedule=lambda step: min(1, (step + 1) / 100, 2 * (1 - step / steps)),
            callback=lambda *_: average.update_parameters(denoiser),
        )
        torch.save(average.module.state_dict(), Path(str(folder)) / "weights.pt")

    folder = run.cache("pfgmpp-digits", build, **settings)
    denoiser = EDMPrecond(DigitsNetwork(), sigma_data=0.5)
    denoiser.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return denoiser.eval()


def split_digits() -> tuple[Tensor, Tensor]:
    """Return digits to train on and held-out ones, scaled to a standard deviation of about 0.5."""
    pixels = digits()[:].flatten(1) * (0.5 / 0.75)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return pixels[order[:1397]], pixels[order[1397:]]


@torch.no_grad()
def quality(run: Run, denoiser: nn.Module, D: float, seed: int, steps: int = 18, step_noise: float = 0.0) -> float:
    """Return the energy distance of samples to held-out digits; all D start from the same normal draws."""
    n = run.at(smoke=200, desk=1000, full=10_000)
    prior = PFGMPPNoise(D, 64).sample((n, 64), 80.0, run.torch_rng(1000 + seed))
    noise = run.torch_rng(2000 + seed)
    sample = sample_heun(as_model(denoiser), prior, steps, D=D, step_noise=step_noise, generator=noise).sample
    return energy_distance(sample, split_digits()[1])


@measures("p5-finite-d")
def finite_d(run: Run) -> Measurement:
    """Train one network for each D and seed for equally long, and compare what they sample."""
    found = {
        D: [quality(run, trained(run, D, seed), D, seed) for seed in run.seeds]
        for D in run.progress(DIMENSIONS, label="D")
    }
    means = {D: float(np.mean(values)) for D, values in found.items()}
    best = min((D for D in DIMENSIONS if D < INF), key=lambda D: means[D])
    figure, axes = run.figure()
    axes.errorbar(
        range(len(DIMENSIONS)), list(means.values()), yerr=[np.std(v) for v in found.values()], fmt="o", capsize=4
    )
    axes.set_xticks(range(len(DIMENSIONS)), [name_of(D) for D in DIMENSIONS])
    axes.set(xlabel="additional dimensions D", ylabel="energy distance to held-out digits", title="Sample quality by D")
    return Measurement(
        means[best] / means[INF],
        per_seed=[a / b for a, b in zip(found[best], found[INF], strict=True)],
        table=Table(
            ["D", "mean energy distance", *(f"seed {s}" for s in run.seeds)],
            [[name_of(D), means[D], *found[D]] for D in DIMENSIONS],
        ),
        figure=figure,
    )


def quantised(denoiser: EDMPrecond, bits: int) -> EDMPrecond:
    """Return a copy whose weights are rounded to 2^bits levels between their least and greatest."""
    copy = EDMPrecond(DigitsNetwork(), sigma_data=0.5)
    rounded = {}
    for name, weight in denoiser.state_dict().items():
        low, high = weight.min(), weight.max()
        step = (high - low).clamp(min=1e-12) / (2**bits - 1)
        rounded[name] = ((weight - low) / step).round() * step + low if weight.ndim > 1 else weight
    copy.load_state_dict(rounded)
    return copy.eval()


@measures("p6-robustness")
def robustness(run: Run) -> Measurement:
    """Disturb the sampler by noise before each step, the weights by rounding, and the grid by fewer steps."""
    alphas = (0.0, 0.2, 0.4, 0.6)

    def over_seeds(D: float, **how: float) -> float:
        steps = int(how.get("steps", 18))
        values = []
        for seed in run.seeds:
            denoiser = trained(run, D, seed)
            if "bits" in how:
                denoiser = quantised(denoiser, int(how["bits"]))
            values.append(quality(run, denoiser, D, seed, steps, how.get("alpha", 0.0)))
        return float(np.mean(values))

    noisy = {D: [over_seeds(D, alpha=a) for a in alphas] for D in run.progress(DIMENSIONS, label="noise")}
    bits = run.at(smoke=(6,), desk=(5, 6, 7, 8, 9), full=(5, 6, 7, 8, 9))
    rounded = {D: [over_seeds(D, bits=b) for b in bits] for D in run.progress(DIMENSIONS, label="rounding")}
    few = run.at(smoke=(6,), desk=(5, 6, 8, 12), full=(5, 6, 8, 12))
    short = {D: [over_seeds(D, steps=n) for n in few] for D in run.progress(DIMENSIONS, label="few steps")}
    # An inversion: a smaller D that does worse than the next larger one at alpha 0.4 or 0.6.
    inversions = [
        noisy[a][i] / noisy[b][i] - 1
        for a, b in itertools.pairwise(DIMENSIONS)
        for i in (alphas.index(0.4), alphas.index(0.6))
    ]
    figure, axes = run.figure(1, 3)
    for D in DIMENSIONS:
        axes[0].plot(alphas, noisy[D], "o-", label=f"D = {name_of(D)}")
        axes[1].semilogy(bits, rounded[D], "o-")
        axes[2].semilogy(few, short[D], "o-")
    axes[0].set(xlabel="noise before each step, in multiples of σ", ylabel="energy distance", title="Noisy sampler")
    axes[1].set(xlabel="bits per weight", title="Rounded weights")
    axes[2].set(xlabel="sampling steps", title="Few steps")
    axes[0].legend()
    return Measurement(
        {
            "alpha_04": noisy[16.0][2] / noisy[INF][2],
            "alpha_06": noisy[16.0][3] / noisy[INF][3],
            "worst_inversion": max(inversions),
        },
        table=Table(
            ["D", *(f"α {a:g}" for a in alphas), *(f"{b} bits" for b in bits), *(f"{n} steps" for n in few)],
            [[name_of(D), *noisy[D], *rounded[D], *short[D]] for D in DIMENSIONS],
        ),
        figure=figure,
    )


@races("diffusers")
def against_diffusers(run: Run) -> Measurement:
    """Time a trajectory of both schedulers with a network that costs nothing, per network call."""
    from diffusers import EDMEulerScheduler

    shapes = run.at(smoke=((1, 3, 8, 8),), desk=((1, 3, 8, 8), (16, 3, 64, 64)), full=((1, 3, 8, 8), (16, 3, 64, 64)))
    rows: list[list[Any]] = []
    for shape in shapes:
        start = torch.randn(shape, generator=run.torch_rng())
        output = torch.zeros(shape)
        theirs, ours = EDMEulerScheduler(), PFGMPPScheduler()

        def euler(scheduler: "EDMEulerScheduler" = theirs, x: Tensor = start, output: Tensor = output) -> None:
            scheduler.set_timesteps(35)
            for t in scheduler.timesteps:
                scheduler.scale_model_input(x, t)
                x = scheduler.step(output, t, x).prev_sample

        def heun(scheduler: PFGMPPScheduler = ours, x: Tensor = start, output: Tensor = output) -> None:
            scheduler.set_timesteps(18)
            for t in scheduler.timesteps:
                scheduler.scale_model_input(x, t)
                x = scheduler.step(output, t, x).prev_sample

        seconds = interleaved(run, {"ours": heun, "diffusers": euler}, run.at(smoke=3, desk=31, full=101))
        micro = {name: 1e6 * value / 35 for name, value in seconds.items()}
        rows.append(["×".join(map(str, shape)), micro["ours"], micro["diffusers"], micro["ours"] / micro["diffusers"]])
    return Measurement(
        max(row[3] for row in rows),
        table=Table(["shape", "ours, µs a call", "EDMEulerScheduler, µs a call", "ratio"], rows),
    )


@races("k-diffusion", exclusive=False)
def against_k_diffusion(run: Run) -> Measurement:
    """Sample by k-diffusion's Heun from the same draws with the same denoiser at D = infinity."""
    from paperworks.testbeds import load_k_diffusion_sampling

    sampling = load_k_diffusion_sampling()
    denoise = empirical_denoiser(digits()[:].double().flatten(1), INF)
    prior = PFGMPPNoise(INF, 64).sample((run.at(smoke=8, desk=128, full=512), 64), 80.0, run.torch_rng(), dtype=F64)
    ours = sample_heun(as_model(denoise), prior, 18, return_trajectory=True)
    theirs = sampling.sample_heun(denoise, prior, torch.tensor(list(ours.times), dtype=F64), disable=True)
    return Measurement(float((ours.sample - theirs).abs().max()))


@races("numpy-beta")
def against_numpy_beta(run: Run) -> Measurement:
    """Draw the noise of 512 images of 3072 pixels, by the Student-t form and as a direction times a Beta radius."""
    n, dims, D = 512, 3072, 2048
    noise, generator, rng = PFGMPPNoise(D, dims), run.torch_rng(), run.rng()

    def by_beta() -> Tensor:
        share = rng.beta(dims / 2, D / 2, size=n)
        radii = math.sqrt(D) * np.sqrt(share / (1 - share))
        direction = torch.nn.functional.normalize(torch.randn(n, dims, generator=generator))
        return direction * torch.from_numpy(radii)[:, None].float()

    seconds = interleaved(
        run,
        {"ours": lambda: noise.sample((n, dims), 1.0, generator), "NumPy Beta": by_beta},
        run.at(smoke=2, desk=21, full=101),
    )
    return Measurement(
        seconds["ours"] / seconds["NumPy Beta"],
        table=Table(["draw", "milliseconds"], [[name, 1e3 * value] for name, value in seconds.items()]),
    )
