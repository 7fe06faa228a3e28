"""What PFGM++'s paper claims, measured on data whose field is known and on digits."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
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
from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    every,
    greatest,
    interleaved,
    least,
    magnitude,
    mean,
    measures,
    normal,
    races,
)
from paperworks.numerics import energy_distance, seeded, train
from paperworks.testbeds import digits, pseudo_values

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

    def edm_loss(y: Tensor, generator: torch.Generator) -> Tensor:
        sigma = (-1.2 + 1.2 * torch.randn(len(y), generator=generator, dtype=F64)).exp()
        x = y + torch.randn(y.shape, generator=generator, dtype=F64) * sigma[:, None]
        weight = (sigma.square() + 0.25) / (sigma * 0.5).square()
        return (weight[:, None] * (EDMPrecond(silent)(x, sigma) - y).square()).mean()

    def silent(x: Tensor, level: Tensor) -> Tensor:
        return 0 * x

    near = 2.0**30
    near_model = as_model(empirical_denoiser(pixels, near))
    at_infinity, at_near = [], []
    for seed in run.progress(run.seeds, label="seeds"):
        prior = PFGMPPNoise(INF, 64).sample((n, 64), 80.0, run.torch_rng(seed), dtype=F64)
        reference_prior = torch.randn(n, 64, generator=run.torch_rng(seed), dtype=F64) * 80.0
        ours = sample_heun(model_fn, prior, steps, return_trajectory=True)
        loss = EDMLoss(INF)(EDMPrecond(silent), pixels, run.torch_rng(1 + seed))
        gaps = (
            prior - reference_prior,
            ours.sample - edm_sample(reference_prior, list(ours.times)),
            loss - edm_loss(pixels, run.torch_rng(1 + seed)),
        )
        at_infinity.append(max(float(gap.abs().max()) for gap in gaps))
        near_prior = PFGMPPNoise(near, 64).sample((n, 64), 80.0, run.torch_rng(seed), dtype=F64)
        at_near.append(float((sample_heun(near_model, near_prior, steps).sample - ours.sample).abs().max()))
    distances = {D: [coordinate_distance(D, run, seed) for seed in run.seeds] for D in (64.0, 2.0**20)}
    return Measurement(
        {
            "at_infinity": every(at_infinity),
            "at_2_to_30": every(at_near),
            "ks_at_2_to_20": mean(distances[2.0**20]),
        },
        table=Table(
            ["D", "mean Kolmogorov distance of a coordinate to the normal"],
            [[D, float(np.mean(found))] for D, found in distances.items()],
        ),
    )


def coordinate_distance(D: float, run: Run, seed: int) -> float:
    """Return the Kolmogorov distance of one coordinate of the noise to the standard normal."""
    from scipy import stats

    n = run.at(smoke=20_000, desk=200_000, full=2_000_000)
    draw = PFGMPPNoise(D, 4).sample((n, 4), 1.0, run.torch_rng(seed), dtype=F64)[:, 0]
    return float(stats.kstest(draw.numpy(), "norm").statistic)


@measures("p2-pfgm-limit")
def pfgm_limit(run: Run) -> Measurement:
    """Compare dx/dr at D = 1 with the sum over charges in N + 1 dimensions."""
    gaps = []
    for seed in run.seeds:
        rng = run.torch_rng(seed)
        data = torch.randn(200, 5, generator=rng, dtype=F64)
        x, r = torch.randn(6, 5, generator=rng, dtype=F64), 0.3 + torch.rand(6, generator=rng, dtype=F64)
        from_charges = torch.stack([charges_slope(point, radius, data) for point, radius in zip(x, r, strict=True)])
        e_x, e_r = poisson_field(x, r, data, D=1)
        slope = (x - empirical_denoiser(data, 1)(x, r)) / r[:, None]
        gaps.append(max(float((found - from_charges).abs().max()) for found in (e_x / e_r[:, None], slope)))
    return Measurement(every(gaps), remark="Both the Poisson field and the denoiser's ODE are compared.")


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
    sizes = (16, 64, 256)
    biases = {
        (D, size): batch_bias(D, size, data, points, sigma, run)
        for D in (1.0, 64.0)
        for size in run.progress(sizes, label=f"batches at D = {D:g}")
    }
    errors = {D: [one_sample_error(D, data, sigma, run, seed) for seed in run.seeds] for D in (1.0, 64.0)}
    return Measurement(
        {
            "pfgm_bias": least([biases[D, sizes[-1]] for D in errors]),
            "standard_errors": every([max(pair) for pair in zip(*errors.values(), strict=True)]),
        },
        table=Table(
            ["D", "batch", "relative bias of the batch target"],
            [[D, size, float(bias.value)] for (D, size), bias in biases.items()],
        ),
        remark="One-sample targets, in standard errors, the largest of three for each seed: "
        + "; ".join(f"{' '.join(f'{e:.2f}' for e in found)} at D = {D:g}" for D, found in errors.items())
        + ". Without bias six of them exceed 3 once in sixty times.",
    )


def batch_bias(D: float, size: int, data: Tensor, points: Tensor, sigma: float, run: Run) -> Estimate:
    """Return how far the mean of batch estimates of the slope (x - E[y])/sigma is from the slope, relative to it."""
    generator = run.torch_rng(2)
    exact = (points - empirical_denoiser(data, D)(points, sigma)) / sigma
    found = []
    for _ in range(run.repeats(smoke=50, desk=400, full=4000)):
        batch = data[torch.randint(len(data), (size,), generator=generator)]
        found.append((points - empirical_denoiser(batch, D)(points, sigma)) / sigma)
    # The noise of the mean adds to the norm; the jackknife takes that away.
    values = pseudo_values(lambda slopes: float((slopes.mean(0) - exact).norm() / exact.norm()), torch.stack(found))
    return mean(values, of="groups of a jackknife")


def one_sample_error(D: float, data: Tensor, sigma: float, run: Run, seed: int) -> float:
    """Regress one-sample targets on known functions of x, and compare with the exact denoiser's regression.

    If E[target | x] is the exact slope, ``E[(target - slope(x)) g(x)] = 0`` for every g; returned is the largest of
    these means for a few g, in its own standard errors.
    """
    n = run.at(smoke=10_000, desk=180_000, full=4_000_000)
    generator = run.torch_rng(3 + seed)
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
    average = total / n
    return float((average / ((square / n - average.square()) / n).sqrt()).abs().max())


@measures("p4-exact-transport")
def exact_transport(run: Run) -> Measurement:
    """Transport the prior onto two atoms with the exact denoiser and count what arrives where."""
    atoms = torch.tensor([[-1.0, 0.5]] + [[1.0, 0.0]] * 3, dtype=F64)
    n = run.at(smoke=2000, desk=20_000, full=200_000)
    rows: list[list[Any]] = []
    errors = []
    for D in run.progress((1.0, 2.0, 128.0, 2048.0, INF), label="D"):
        noise = PFGMPPNoise(D, 2)
        prior = torch.cat([noise.sample((n, 2), 80.0, run.torch_rng(seed), dtype=F64) for seed in run.seeds])
        sample = sample_heun(as_model(empirical_denoiser(atoms, D)), prior, 18).sample
        mass = float((sample[:, 0] < 0).double().mean())
        error = math.sqrt(mass * (1 - mass) / len(sample))
        errors.append(magnitude(normal(mass - 0.25, error, of=f"{len(sample)} samples")))
        rows.append([name_of(D), mass, abs(mass - 0.25), float(torch.cdist(sample, atoms).min(dim=1).values.max())])
    return Measurement(
        greatest(errors),
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


def trained(run: Run, D: float, seed: int) -> nn.Module:
    """Return the denoiser of one D and seed, trained once and kept; all D see the same batches and normal draws."""
    with seeded(seed):
        denoiser = EDMPrecond(DigitsNetwork(), sigma_data=0.5)
    steps = run.at(smoke=20, desk=1000, full=20_000)
    train_it = partial(learn_digits, D=D, seed=seed, steps=steps)
    return run.trained("pfgmpp-digits", denoiser, train_it, D=str(D), seed=seed, steps=steps)


def learn_digits(denoiser: nn.Module, D: float, seed: int, steps: int) -> nn.Module:
    """Train a denoiser of digits, and return the moving average of its weights."""
    average = torch.optim.swa_utils.AveragedModel(
        denoiser, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    loss_fn, pixels = EDMLoss(D), split_digits()[0]
    generator = torch.Generator().manual_seed(seed)

    def of_step(step: int) -> Tensor:
        return loss_fn(denoiser, pixels[torch.randint(len(pixels), (128,), generator=generator)], generator)

    train(
        of_step,
        optimizer,
        steps,
        schedule=lambda step: min(1, (step + 1) / 100, 2 * (1 - step / steps)),
        callback=lambda *_: average.update_parameters(denoiser),
    )
    return average.module


def split_digits() -> tuple[Tensor, Tensor]:
    """Return digits to train on and held-out ones, scaled to a standard deviation of about 0.5."""
    pixels = digits()[:].flatten(1) * (0.5 / 0.75)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return pixels[order[:1397]], pixels[order[1397:]]


@torch.no_grad()
def quality(run: Run, denoiser: nn.Module, D: float, seed: int, steps: int = 18, step_noise: float = 0.0) -> float:
    """Return the energy distance of samples to held-out digits; all D start from the same normal draws."""
    n = run.at(smoke=50, desk=1000, full=10_000)
    prior = PFGMPPNoise(D, 64).sample((n, 64), 80.0, run.torch_rng(1000 + seed))
    noise = run.torch_rng(2000 + seed)
    sample = sample_heun(as_model(denoiser), prior, steps, D=D, step_noise=step_noise, generator=noise).sample
    return energy_distance(sample, split_digits()[1])


def more_than(run: Run) -> range:
    """Return the seeds of the networks that judge: two for each of the run's, since networks differ much."""
    return range(run.at(smoke=1, desk=2, full=2) * len(run.seeds))


@measures("p5-finite-d")
def finite_d(run: Run) -> Measurement:
    """Train one network for each D and seed for equally long, and compare what they sample.

    The D that is compared with infinity is chosen on networks of other seeds.
    """
    tried = range(1000, 1000 + run.at(smoke=1, desk=2, full=5))
    judged = more_than(run)

    def distances(D: float, seeds: Sequence[int]) -> list[float]:
        return [quality(run, trained(run, D, seed), D, seed) for seed in seeds]

    trials = {D: distances(D, tried) for D in run.progress(DIMENSIONS[:-1], label="choosing D")}
    best = min(trials, key=lambda D: float(np.mean(trials[D])))
    found = {D: distances(D, judged) for D in run.progress((best, INF), label="judging D")}
    figure, axes = run.figure()
    places = [DIMENSIONS.index(D) for D in found]
    axes.plot(range(len(trials)), [np.mean(v) for v in trials.values()], "o", label="networks that choose D")
    axes.errorbar(
        places, [np.mean(v) for v in found.values()], yerr=[np.std(v) for v in found.values()], fmt="s", capsize=4,
        label="networks that judge it",
    )  # fmt: skip
    axes.set_xticks(range(len(DIMENSIONS)), [name_of(D) for D in DIMENSIONS])
    axes.set(xlabel="additional dimensions D", ylabel="energy distance to held-out digits", title="Sample quality by D")
    axes.legend()
    return Measurement(
        mean([a / b for a, b in zip(found[best], found[INF], strict=True)], of="pairs of networks"),
        table=Table(
            ["D", "energy distance, networks that choose", "networks that judge"],
            [
                [name_of(D), *(float(np.mean(part[D])) if D in part else "" for part in (trials, found))]
                for D in DIMENSIONS
            ],
        ),
        figure=figure,
        remark=f"D = {name_of(best)} was chosen on {len(tried)} networks for each D and judged on {len(judged)}.",
    )


def quantised(denoiser: nn.Module, bits: int) -> nn.Module:
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
    many = more_than(run)

    def distances(D: float, seeds: Sequence[int], bits: int = 0, steps: int = 18, alpha: float = 0.0) -> list[float]:
        values = []
        for seed in seeds:
            denoiser = trained(run, D, seed)
            values.append(quality(run, quantised(denoiser, bits) if bits else denoiser, D, seed, steps, alpha))
        return values

    noisy = {D: [distances(D, many, alpha=a) for a in alphas] for D in run.progress(DIMENSIONS, label="noise")}
    bits = run.at(smoke=(6,), desk=(5, 6, 7, 8, 9), full=(5, 6, 7, 8, 9))
    few = run.at(smoke=(6,), desk=(5, 6, 8, 12), full=(5, 6, 8, 12))
    beside = run.seeds[:1]  # what has no bar is measured on one network of each D
    rounded = {D: [distances(D, beside, bits=b) for b in bits] for D in run.progress(DIMENSIONS, label="rounding")}
    short = {D: [distances(D, beside, steps=n) for n in few] for D in run.progress(DIMENSIONS, label="few steps")}

    def ratio(D: float, other: float, alpha: float, less: float = 0.0) -> Estimate:
        pairs = zip(noisy[D][alphas.index(alpha)], noisy[other][alphas.index(alpha)], strict=True)
        return mean([a / b - less for a, b in pairs], of="pairs of networks")

    figure, axes = run.figure(1, 3)
    averages = {D: [[float(np.mean(v)) for v in found[D]] for found in (noisy, rounded, short)] for D in DIMENSIONS}
    for D, (by_alpha, by_bits, by_steps) in averages.items():
        axes[0].plot(alphas, by_alpha, "o-", label=f"D = {name_of(D)}")
        axes[1].semilogy(bits, by_bits, "o-")
        axes[2].semilogy(few, by_steps, "o-")
    axes[0].set(xlabel="noise before each step, in multiples of σ", ylabel="energy distance", title="Noisy sampler")
    axes[1].set(xlabel="bits per weight", title="Rounded weights")
    axes[2].set(xlabel="sampling steps", title="Few steps")
    axes[0].legend()
    return Measurement(
        {
            "alpha_04": ratio(16.0, INF, 0.4),
            "alpha_06": ratio(16.0, INF, 0.6),
            # An inversion: a smaller D that does worse than the next larger one.
            "worst_inversion": greatest(
                [ratio(a, b, alpha, less=1.0) for a, b in itertools.pairwise(DIMENSIONS) for alpha in (0.4, 0.6)]
            ),
        },
        table=Table(
            ["D", *(f"α {a:g}" for a in alphas), *(f"{b} bits" for b in bits), *(f"{n} steps" for n in few)],
            [[name_of(D), *itertools.chain(*found)] for D, found in averages.items()],
        ),
        figure=figure,
    )


@races("diffusers")
def against_diffusers(run: Run) -> Measurement:
    """Time a trajectory of both schedulers with a network that costs nothing, per network call."""
    from diffusers import EDMEulerScheduler

    shapes = run.at(smoke=((1, 3, 8, 8),), desk=((1, 3, 8, 8), (16, 3, 64, 64)), full=((1, 3, 8, 8), (16, 3, 64, 64)))
    rows: list[list[Any]] = []
    ratios = []
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

        times = interleaved(run, {"ours": heun, "diffusers": euler}, run.at(smoke=3, desk=31, full=101))
        ratios.append(times.ratio("ours", "diffusers"))
        micro = {name: 1e6 * value / 35 for name, value in times.medians().items()}
        rows.append(["×".join(map(str, shape)), micro["ours"], micro["diffusers"], ratios[-1].value])
    return Measurement(
        greatest(ratios),
        table=Table(["shape", "ours, µs a call", "EDMEulerScheduler, µs a call", "ratio"], rows),
        settings="EDMEulerScheduler, 35 steps against our 18 of two calls",
    )


@races("k-diffusion", exclusive=False)
def against_k_diffusion(run: Run) -> Measurement:
    """Sample by k-diffusion's Heun from the same draws with the same denoiser at D = infinity."""
    from paperworks.testbeds import load_k_diffusion_sampling

    sampling = load_k_diffusion_sampling()
    denoise = empirical_denoiser(digits()[:].double().flatten(1), INF)
    gaps = []
    for seed in run.seeds:
        shape = (run.at(smoke=8, desk=128, full=512), 64)
        prior = PFGMPPNoise(INF, 64).sample(shape, 80.0, run.torch_rng(seed), dtype=F64)
        ours = sample_heun(as_model(denoise), prior, 18, return_trajectory=True)
        theirs = sampling.sample_heun(denoise, prior, torch.tensor(list(ours.times), dtype=F64), disable=True)
        gaps.append(float((ours.sample - theirs).abs().max()))
    return Measurement(every(gaps), settings="sample_heun without churn on the same 18 levels")


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

    times = interleaved(
        run,
        {
            "ours": lambda: noise.sample((n, dims), 1.0, generator),
            "NumPy Beta": by_beta,
            "the normals alone": lambda: torch.randn(n, dims, generator=generator),
        },
        run.at(smoke=2, desk=21, full=101),
    )
    return Measurement(
        times.ratio("ours", "NumPy Beta"),
        table=Table(["draw", "milliseconds"], [[name, 1e3 * value] for name, value in times.medians().items()]),
        settings="radii from NumPy's Generator.beta, directions from the same torch normals as ours",
        floor=float(times.ratio("the normals alone", "NumPy Beta").value),
    )
