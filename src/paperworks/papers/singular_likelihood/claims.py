"""What the paper on singular distributions claims: perturb the data, fit, and sample without noise."""

import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.diffusion import (
    SingularDistributionEstimator,
    log_marginal,
    ppca_mle,
    singularity_slope,
    wasserstein1,
)
from paperworks.evidence import Measurement, Run, Table, every, interleaved, mean, measures, races
from paperworks.testbeds import digits

Draw = Callable[[int, np.random.Generator], np.ndarray]


def petals(n: int, rng: np.random.Generator, noise: float = 0.0) -> np.ndarray:
    """Draw points on the three-petalled curve ``r = 1 + 0.3 cos 3 theta``."""
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = 1 + 0.3 * np.cos(3 * angle)
    points = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    return points + noise * rng.standard_normal(points.shape)


def scale_of(X: np.ndarray) -> float:
    """Return the unit of the estimator's noise levels."""
    return float(np.sqrt(((X - X.mean(0)) ** 2).mean()))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of two samples."""
    return wasserstein1(torch.from_numpy(np.asarray(a, float)), torch.from_numpy(np.asarray(b, float)))


Fit = Callable[[float, int], SingularDistributionEstimator]


def by_level(
    run: Run, levels: Sequence[float], seeds: Sequence[int], fit: Fit, truth: Callable[[int], np.ndarray]
) -> dict[float, list[float]]:
    """Return for each perturbation the distances of the estimate to true points, seed by seed.

    Each is the mean over three draws, since those of one draw vary more than what some perturbations change.
    """
    found: dict[float, list[float]] = {level: [] for level in levels}
    for level, seed in run.progress(list(itertools.product(levels, seeds)), label="fits"):
        estimator = fit(level, seed)
        targets = [truth(1000 * draw + seed) for draw in (1, 2, 3)]
        draws = [estimator.sample(len(points), random_state=100 * i + seed) for i, points in enumerate(targets)]
        found[level].append(float(np.mean([distance(*pair) for pair in zip(draws, targets, strict=True)])))
    return found


def best_of(found: dict[float, list[float]]) -> float:
    """Return the perturbation with the least mean distance."""
    return min(found, key=lambda level: float(np.mean(found[level])))


def ratios(found: dict[float, list[float]], one: float, other: float) -> list[float]:
    """Return the ratios of distances at two perturbations, seed by seed."""
    return [a / b for a, b in zip(found[one], found[other], strict=True)]


TRIALS = (1000, 1001)  # the seeds of the fits that choose a perturbation


@measures("l1-perturbation-helps")
def perturbation_helps(run: Run) -> Measurement:
    """Fit a two-dimensional latent to a curve with almost no noise, for perturbations from none to too much."""
    n, noise, levels = run.at(smoke=100, desk=1000, full=1000), 0.01, (0.0, 0.05, 0.1, 0.2, 0.4)

    def fit(level: float, seed: int) -> SingularDistributionEstimator:
        X = petals(n, run.rng(seed), noise)
        unit = scale_of(X)
        estimator = SingularDistributionEstimator(
            latent_dim=2,
            likelihood="iwae",
            K=8,
            perturbation=level / unit,
            sigma=noise / unit,
            max_iter=run.at(smoke=20, desk=1500, full=5000),
            random_state=seed,
        )
        return estimator.fit(X)

    def truth(seed: int) -> np.ndarray:
        return petals(n, run.rng(seed))

    none, *between, largest = levels
    trials = by_level(run, between, TRIALS[: run.at(smoke=1, desk=2, full=2)], fit, truth)
    best = best_of(trials)
    judged = range(run.at(smoke=1, desk=2, full=2) * len(run.seeds))
    found = by_level(run, (none, best, largest), judged, fit, truth)
    floor = distance(petals(n, run.rng(1)), petals(n, run.rng(2)))
    figure, axes = run.figure()
    axes.plot(between, [np.mean(v) for v in trials.values()], "o", label="fits that choose")
    judging = list(found), [np.mean(v) for v in found.values()], [np.std(v) for v in found.values()]
    axes.errorbar(*judging, fmt="s-", capsize=4, label="fits that judge")
    axes.axhline(floor, color="#666666", linestyle="--", label="two true samples")
    axes.set(xlabel="perturbation, units of the data", ylabel="Wasserstein-1 distance", title="How much noise to add")
    axes.legend()
    rows = [
        [f"{level:g}", purpose, float(np.mean(values)), min(values), max(values)]
        for purpose, part in (("choosing", trials), ("judging", found))
        for level, values in part.items()
    ]
    return Measurement(
        {
            "best_to_none": mean(ratios(found, best, none), of="paired fits"),
            "largest_to_best": mean(ratios(found, largest, best), of="paired fits"),
        },
        table=Table(
            ["perturbation", "fits for", "mean Wasserstein distance", "least", "greatest"],
            [*rows, ["two true samples", "", floor, "", ""]],
        ),
        figure=figure,
    )


@measures("l2-learned-noise")
def learned_noise(run: Run) -> Measurement:
    """Let the noise level be learnt: for a smooth map into 20 dimensions, and for digits."""
    smooth = np.random.default_rng(0)
    first, second = smooth.standard_normal((2, 10)), smooth.standard_normal((10, 20)) / math.sqrt(10)

    def surface(n: int, rng: np.random.Generator) -> np.ndarray:
        return np.tanh(rng.standard_normal((n, 2)) @ first) @ second

    pixels = digits()[:].flatten(1).double().numpy()
    order = np.random.default_rng(0).permutation(len(pixels))
    n = run.at(smoke=60, desk=300, full=300)
    half = run.at(smoke=60, desk=800, full=800)

    def fit_surface(level: float, seed: int) -> SingularDistributionEstimator:
        estimator = SingularDistributionEstimator(
            latent_dim=2, perturbation=level, hidden=(128, 128), max_iter=run.at(smoke=20, desk=2000, full=20_000),
            random_state=seed,
        )  # fmt: skip
        return estimator.fit(surface(n, run.rng(seed)))

    def fit_digits(level: float, seed: int) -> SingularDistributionEstimator:
        estimator = SingularDistributionEstimator(
            latent_dim=6, perturbation=level, hidden=(128, 128), max_iter=run.at(smoke=20, desk=1200, full=20_000),
            random_state=seed,
        )  # fmt: skip
        return estimator.fit(pixels[order[:half]])

    judged = range(len(run.seeds) + run.at(smoke=0, desk=1, full=1))
    chosen = TRIALS[: run.at(smoke=1, desk=2, full=2)]
    problems: dict[str, tuple[Fit, Callable[[int], np.ndarray]]] = {
        "map_20d": (
            fit_surface,
            lambda seed: surface(run.at(smoke=100, desk=1000, full=2000), run.rng(seed)),
        ),
        "digits": (fit_digits, lambda seed: pixels[order[half : 2 * half]]),
    }
    value, rows = {}, []
    for name, (fit, truth) in problems.items():
        trials = by_level(run, (0.1, 0.2), chosen, fit, truth)
        best = best_of(trials)
        found = by_level(run, (0.0, best), judged, fit, truth)
        value[name] = mean(ratios(found, best, 0.0), of="paired fits")
        rows += [
            [name, purpose, f"{level:g}", float(np.mean(values)), min(values), max(values)]
            for purpose, part in (("choosing", trials), ("judging", found))
            for level, values in part.items()
        ]
    return Measurement(
        value,
        table=Table(["data", "fits for", "perturbation", "mean Wasserstein distance", "least", "greatest"], rows),
        remark="A learnt noise level is itself a perturbation, so what is added on top gains little.",
    )


@measures("l3-unbounded")
def unbounded(run: Run) -> Measurement:
    """Follow the likelihood of linear data of rank 2 in 6 dimensions as the noise level falls."""
    levels = [10.0**-k for k in range(6)]
    slopes, finite = [], []
    for seed in run.seeds:
        rng = run.torch_rng(seed)
        X = linear_data(rng)
        plain, perturbed = ppca_mle(X, 2), ppca_mle(X, 2, perturbation=0.1)
        slopes.append(singularity_slope(plain.mean_log_likelihood, 1e-3))
        finite.append(math.isfinite(perturbed.mean_log_likelihood()))
    figure, axes = run.figure()
    axes.semilogx(levels, [plain.mean_log_likelihood(s) for s in levels], "o-", label="as they are")
    axes.semilogx(levels, [perturbed.mean_log_likelihood(s) for s in levels], "s-", label="perturbed by 0.1")
    axes.set(xlabel="noise level σ", ylabel="mean log-likelihood", ylim=(-80, None), title="Singular data")
    axes.legend()
    return Measurement({"slope": every(slopes), "perturbed_is_finite": every(finite)}, figure=figure)


def linear_data(rng: torch.Generator) -> Tensor:
    """Draw 500 points of rank 2 in 6 dimensions."""
    coordinates, directions = (torch.randn(*size, generator=rng, dtype=torch.float64) for size in ((500, 2), (2, 6)))
    return coordinates @ directions


@measures("l4-same-generator")
def same_generator(run: Run) -> Measurement:
    """Compare the linear fits with and without perturbation."""
    changes, shifts = [], []
    for seed in run.seeds:
        rng = run.torch_rng(seed)
        X = linear_data(rng)
        X = X + 0.05 * torch.randn(X.shape, generator=rng, dtype=torch.float64)
        plain, perturbed = ppca_mle(X, 2), ppca_mle(X, 2, perturbation=0.3)
        # Fitted anew to the covariance S + s^2 I, not shifted: its eigenvectors and values are found from scratch.
        covariance = torch.cov(X.T, correction=0) + 0.09 * torch.eye(6, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(covariance)
        noise = float(values[:4].mean())
        loadings = vectors[:, 4:] * (values[4:] - noise).sqrt()
        own = plain.loadings @ plain.loadings.T
        changes.append(max(float((found @ found.T - own).abs().max()) for found in (loadings, perturbed.loadings)))
        shifts.append(max(abs(found - plain.noise_variance - 0.09) for found in (noise, perturbed.noise_variance)))
    return Measurement({"loadings": every(changes), "noise_shift": every(shifts)})


def line(u: Tensor) -> Tensor:
    """Map the unit interval onto a smooth open curve."""
    return torch.cat([torch.cos(1.2 * math.pi * u), 0.6 * torch.sin(2 * math.pi * u)], dim=1)


@measures("l5-rate")
def rate(run: Run) -> Measurement:
    """Fit by exact likelihood for growing samples, with the theory's perturbation and with a fixed one."""
    sizes = run.at(smoke=(50, 100), desk=(100, 400, 1600, 6400), full=(100, 400, 1600, 6400, 25_600))
    nodes = ((torch.arange(1000) + 0.5) / 1000)[:, None]
    truth = line(nodes).double()
    found: dict[str, dict[int, list[float]]] = {"n^(-1/4)": {}, "0.4": {}}
    for name, n in run.progress([(name, n) for name in found for n in sizes], label="fits"):
        level = n**-0.25 if name == "n^(-1/4)" else 0.4
        found[name][n] = []
        for seed in run.seeds:
            X = line(torch.rand(n, 1, generator=run.torch_rng(seed))).numpy()
            estimator = SingularDistributionEstimator(
                latent_dim=1,
                likelihood="quadrature",
                latent="uniform",
                perturbation=level,
                batch_size=256,
                init="embedding",
                max_iter=run.at(smoke=5, desk=1500, full=10_000),
                random_state=seed,
            ).fit(X)
            with torch.no_grad():
                estimate = estimator.decoder_(nodes) * estimator.scale_ + estimator.mean_
            found[name][n].append(wasserstein1(estimate.double(), truth))
    means = {name: [float(np.mean(values)) for values in by_n.values()] for name, by_n in found.items()}
    logs = np.log(sizes)
    by_seed = {name: np.log(list(by_n.values())) for name, by_n in found.items()}  # sizes in rows, seeds in columns
    slopes = np.polyfit(logs, by_seed["n^(-1/4)"], 1)[0]
    fixed = (by_seed["0.4"][-1] - by_seed["0.4"][-2]) / (logs[-1] - logs[-2])
    figure, axes = run.figure()
    for name, values in means.items():
        axes.loglog(sizes, values, "o-", label=f"perturbation {name}")
    axes.loglog(
        sizes, means["n^(-1/4)"][0] * (np.array(sizes) / sizes[0]) ** -0.25, "--", color="#666666", label="n^(-1/4)"
    )
    axes.set(xlabel="sample size n", ylabel="Wasserstein-1 distance", title="Rate of the perturbed estimate")
    axes.legend()
    return Measurement(
        {"slope": mean(slopes), "fixed_slope": mean(fixed)},
        table=Table(
            ["perturbation", *(f"n = {n}" for n in sizes)], [[name, *values] for name, values in means.items()]
        ),
        figure=figure,
    )


@measures("l6-bounds")
def bounds(run: Run) -> Measurement:
    """Compare the bounds of trained models with the exact likelihood by quadrature."""
    violations, rows = [], []
    for seed in run.progress(run.seeds, label="models"):
        X = petals(run.at(smoke=100, desk=1000, full=1000), run.rng(seed), 0.01)
        model = SingularDistributionEstimator(
            latent_dim=1, K=8, perturbation=0.1, max_iter=run.at(smoke=30, desk=1500, full=5000), random_state=seed
        ).fit(X)
        x = ((torch.from_numpy(X).float() - model.mean_) / model.scale_).double()
        decoder, encoder = model.decoder_.double(), model.encoder_.double()

        def at(
            method: Any, K: int, x: Tensor = x, d: Any = decoder, e: Any = encoder, s: float = model.sigma_
        ) -> Tensor:
            generator = run.torch_rng(K)
            with torch.no_grad():
                return log_marginal(x, d, s, method, latent_dim=1, encoder=e, K=K, generator=generator)

        ladder = [at("elbo", 8), *(at("iwae", K) for K in (8, 64)), at("quadrature", 1)]
        gaps = [upper - lower for lower, upper in itertools.pairwise(ladder)]
        violations.append(sum(int(gap.mean() < -3 * gap.std() / math.sqrt(len(gap))) for gap in gaps))
        rows.append([seed, *(float(value.mean()) for value in ladder)])
    return Measurement(every(violations), table=Table(["seed", "ELBO", "IWAE 8", "IWAE 64", "exact"], rows))


@races("pythae")
def against_pythae(run: Run) -> Measurement:
    """Train pythae's IWAE on the same curve for equally many steps, its data scaled as suits it best."""
    import logging

    from pythae.data.datasets import BaseDataset
    from pythae.models import IWAE, IWAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    from paperworks.numerics import mlp

    logging.getLogger("pythae").setLevel(logging.ERROR)
    n, noise = run.at(smoke=100, desk=1000, full=1000), 0.01
    epochs, timed = run.at(smoke=2, desk=150, full=500), run.at(smoke=1, desk=15, full=50)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp((2, 64, 64, 4))

        def forward(self, x: Tensor) -> ModelOutput:
            mean, log_covariance = self.body(x.flatten(1)).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_covariance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp((2, 64, 64, 2))

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(z))

    def theirs(sigma: float, seed: int, epochs: int = epochs) -> np.ndarray:
        X = petals(n, run.rng(seed), noise)
        torch.manual_seed(seed)
        # Its decoder has unit variance, so the data are scaled for sigma to be one.
        data = BaseDataset(torch.from_numpy(X / sigma).float(), torch.zeros(n))
        model = IWAE(IWAEConfig(input_dim=(2,), latent_dim=2, number_samples=8), encoder=Encoder(), decoder=Decoder())
        model.save = lambda dir_path: None  # it would pickle the classes of this function
        with tempfile.TemporaryDirectory() as folder:
            settings = BaseTrainerConfig(
                output_dir=folder, num_epochs=epochs, per_device_train_batch_size=100, learning_rate=2e-3,
                no_cuda=True, optimizer_cls="Adam", steps_saving=None,
            )  # fmt: skip
            BaseTrainer(model=model, train_dataset=data, training_config=settings).train()
        with torch.no_grad():
            drawn = model.decoder(torch.randn(n, 2, generator=run.torch_rng(seed))).reconstruction
        return (drawn * sigma).numpy()

    def ours(seed: int, epochs: int = epochs) -> np.ndarray:
        X = petals(n, run.rng(seed), noise)
        unit = scale_of(X)
        estimator = SingularDistributionEstimator(
            latent_dim=2,
            K=8,
            perturbation=0.1 / unit,
            sigma=noise / unit,
            max_iter=epochs * n // 100,
            random_state=seed,
        )
        return estimator.fit(X).sample(n, random_state=seed)

    def apart(drawn: np.ndarray, seed: int) -> float:
        return distance(drawn, petals(n, run.rng(1000 + seed)))

    candidates = run.at(smoke=(0.1,), desk=(0.05, 0.1, 0.2), full=(0.02, 0.05, 0.1, 0.2, 0.4))
    trials = {
        sigma: [apart(theirs(sigma, seed), seed) for seed in TRIALS[: run.at(smoke=1, desk=2, full=2)]]
        for sigma in run.progress(candidates, label="pythae")
    }
    best = best_of(trials)
    judged = range(run.at(smoke=1, desk=2, full=2) * len(run.seeds))
    found = [(apart(ours(seed), seed), apart(theirs(best, seed), seed)) for seed in run.progress(judged, label="fits")]
    times = interleaved(
        run,
        {"ours": lambda: ours(run.seed, timed), "pythae": lambda: theirs(best, run.seed, timed)},
        run.at(smoke=1, desk=9, full=15),
    )
    steps = timed * n // 100
    own, other = (float(np.mean(column)) for column in zip(*found, strict=True))
    return Measurement(
        {
            "distance": mean([a / b for a, b in found], of="paired fits"),
            "step_time": times.ratio("ours", "pythae"),
        },
        table=Table(
            ["estimator", "mean Wasserstein distance", "milliseconds a step"],
            [
                ["ours, perturbation 0.1", own, 1e3 * times.median("ours") / steps],
                [f"pythae IWAE, data / {best:g}", other, 1e3 * times.median("pythae") / steps],
            ],
        ),
        settings=f"IWAE of 8 samples, Adam at 2e-3 as ours, batches of 100; its data are divided by {best:g}, the best "
        f"of {len(candidates)} on other seeds",
    )
