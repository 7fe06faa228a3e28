"""What the paper on robust representation consistency claims, and what every certificate it gives has to hold."""

import importlib.util
import os
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import betaincinv
from scipy.stats import binom
from torch import Tensor, nn

from paperworks.evidence import (
    Measurement,
    NotAtThisScale,
    Run,
    Table,
    Times,
    difference,
    every,
    exact,
    greatest,
    interleaved,
    least,
    mean,
    measures,
    races,
)
from paperworks.numerics import seeded
from paperworks.papers.rrcm.training import Arm, certificates, settings, test_images
from paperworks.robustness import (
    CertificationResult,
    KarrasGrid,
    RRCMClassifier,
    RRCMConvNet,
    Smooth,
    average_certified_radius,
    certified_accuracy_curve,
    lower_confidence_bound,
)
from paperworks.testbeds import Denoiser, UNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
NAMES: dict[Arm, str] = {"rrcm": "rRCM", "contrast": "contrastive learning alone", "scratch": "from scratch"}


POINTS_ALPHA = 0.01


@measures("r1-sound-certificate")
def sound_certificate(run: Run) -> Measurement:
    """Certify points at known distances from the boundary of a linear classifier of images."""
    points = run.at(smoke=50, desk=2000, full=10_000)
    found = [certified_points(run, points, seed) for seed in run.progress(run.seeds, label="seeds")]
    rows = [
        [how, *(float(np.mean([rows[how][part] for rows, _ in found])) for part in range(3))] for how in found[0][0]
    ]
    at_once = next(iter(found[0][0]))
    return Measurement(
        {
            "violations": every([rows[at_once][0] for rows, _ in found]),
            "radius_to_true": mean([radius for _, radius in found]),
        },
        table=Table(["certificate", f"violations of {points}, mean", "abstentions, mean", "mean draws"], rows),
        remark=f"At a failure probability of {POINTS_ALPHA} no more than {binom.ppf(0.999, points, POINTS_ALPHA):.0f} "
        f"of {points} is 99.9 % sure.",
    )


def certified_points(run: Run, points: int, seed: int) -> tuple[dict[str, tuple[float, float, float]], float]:
    """Return violations, abstentions and draws of two certificates of points, and a radius over the true one."""
    n, alpha, sigma = 1000, POINTS_ALPHA, 0.5
    generator = run.torch_rng(seed)
    normal = torch.randn(64, generator=generator)
    normal /= normal.norm()

    def linear(x: Tensor) -> Tensor:
        side = x.flatten(1) @ normal
        return torch.stack([side, -side], 1)

    true = 2 * sigma * (2 * torch.rand(points, generator=generator, dtype=torch.float64) - 1)
    along = torch.randn(points, 64, generator=generator)
    along -= (along @ normal)[:, None] * normal
    x = (along + true[:, None].float() * normal).view(points, 1, 8, 8)
    smooth, distance = Smooth(linear, 2, sigma), true.abs().numpy()

    def row(result: CertificationResult) -> tuple[float, float, float]:
        wrong = (result.predictions >= 0) & (result.predictions != (true < 0).numpy())
        violations = int((wrong | (result.radii > distance)).sum())
        return violations, int((result.predictions < 0).sum()), float(result.draws.mean())

    once = smooth.certify_batch(x, n0=100, n=n, alpha=alpha, random_state=seed)
    early = smooth.certify_batch(x, n0=100, n=n, alpha=alpha, random_state=seed, stop_radius=sigma)
    at_sigma = x[:1] + (sigma - float(true[0])) * normal.view(1, 1, 8, 8)
    many = run.at(smoke=10_000, desk=100_000, full=100_000)
    radius = smooth.certify_batch(at_sigma, n=many, batch_size=10_000, random_state=seed).radii[0]
    rows = {"one look at all draws": row(once), "drawing until half the greatest distance": row(early)}
    return rows, float(radius) / sigma


def curves(run: Run, arms: Sequence[Arm], sigma: float) -> dict[Arm, np.ndarray]:
    """Return the certified accuracies of each arm by seed and radius."""
    _, labels = test_images(settings(run))
    return {
        arm: np.array(
            [certified_accuracy_curve(certificates(run, arm, seed, sigma), labels, RADII) for seed in run.seeds]
        )
        for arm in arms
    }


def curve_rows(run: Run, found: dict[Arm, np.ndarray], sigma: float) -> list[list[Any]]:
    """Return mean certified accuracies by radius, and the mean certified radius."""
    _, labels = test_images(settings(run))
    return [
        [
            sigma,
            NAMES[arm],
            *curve.mean(0).tolist(),
            float(np.mean([average_certified_radius(certificates(run, arm, s, sigma), labels) for s in run.seeds])),
        ]
        for arm, curve in found.items()
    ]


def curve_table(rows: list[list[Any]]) -> Table:
    """Return rows of `curve_rows` with their columns."""
    return Table(["sigma", "encoder", *(f"radius {radius:g}" for radius in RADII), "mean radius"], rows)


def draw(axes: "Axes", found: dict[Arm, np.ndarray], sigma: float) -> None:
    """Draw certified accuracy over the radius, with the range over seeds."""
    for arm, curve in found.items():
        (line,) = axes.plot(RADII, curve.mean(0), "o-", label=NAMES[arm])
        axes.fill_between(RADII, curve.min(0), curve.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="radius", ylabel="certified accuracy", ylim=(0, None), title=f"sigma {sigma:g}")
    axes.legend()


@measures("r2-pretraining")
def pretraining(run: Run) -> Measurement:
    """Fine-tune a pretrained and an untrained encoder on the same few labels, and certify both."""
    figure, axes = run.figure(1, 2, sharey=True)
    rows: list[list[Any]] = []
    for sigma, ax in zip((0.5, 1.0), axes, strict=True):
        found = curves(run, ("rrcm", "scratch"), sigma)
        rows += curve_rows(run, found, sigma)
        draw(ax, found, sigma)
    ours, theirs = (found[arm][:, RADII.index(0.5)].tolist() for arm in ("rrcm", "scratch"))  # at the last sigma
    return Measurement(difference(ours, theirs), table=curve_table(rows), figure=figure)


@measures("r3-consistency-term")
def consistency_term(run: Run) -> Measurement:
    """Pretrain with and without the trajectory, fine-tune both alike, and certify both."""
    sigma = 1.0
    found = curves(run, ("rrcm", "contrast"), sigma)
    gains = [difference(*(found[arm][:, k].tolist() for arm in ("rrcm", "contrast"))) for k in range(len(RADII))]
    figure, ax = run.figure()
    draw(ax, found, sigma)
    return Measurement(
        {"least": least(gains), "at_radius_15": gains[RADII.index(1.5)]},
        table=curve_table(curve_rows(run, found, sigma)),
        figure=figure,
    )


class Counted(nn.Module):
    """A classifier that removes noise first, by one or many passes of a denoiser."""

    def __init__(self, denoiser: Denoiser, classify: nn.Module, noise: float, steps: int) -> None:
        super().__init__()
        self.denoiser, self.classify = denoiser, classify
        self.levels = [noise] if steps == 1 else KarrasGrid(sigma_max=noise).levels(steps).tolist()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of images with noise: Euler steps of the probability flow down the levels, then the class."""
        for level, lower in zip(self.levels, [*self.levels[1:], 0.0], strict=True):
            lam = x.new_full((len(x),), -np.log(level))
            x = x + (lower - level) * self.denoiser(x / np.hypot(1, level), lam)
        return self.classify(x)


@measures("r4-cheaper", exclusive=True)
def cheaper(run: Run) -> Measurement:
    """Count and time the passes of a certificate, ours and with denoisers of the encoder's size."""
    sigma, n = 0.5, run.at(smoke=20, desk=500, full=100_000)
    encoder = RRCMConvNet()
    ours = RRCMClassifier(encoder, 10, sigma)
    clean = RRCMClassifier(RRCMConvNet(), 10, sigma=0.001)
    network = UNet((16, 32), patch=4).to(memory_format=torch.channels_last)
    denoiser = Denoiser(network, (1, 28, 28))
    methods: dict[str, nn.Module] = {
        "ours": ours,
        "one_step": Counted(denoiser, clean, ours.noise, 1).eval(),
        "multi_step": Counted(denoiser, clean, ours.noise, 40).eval(),
    }
    x = torch.zeros(1, 28, 28)

    def certify(method: str, n: int) -> Callable[[], object]:
        smooth = Smooth(methods[method], 10, sigma, input_range=(-1.0, 1.0))
        return lambda: smooth.certify(x, n0=1, n=n, batch_size=500, generator=run.torch_rng())

    passes: dict[str, float] = {}
    seen = [0]
    hooks = [
        part.register_forward_pre_hook(lambda _, inputs: seen.__setitem__(0, seen[0] + len(inputs[0])))
        for part in (encoder.first, clean.encoder.get_submodule("first"), network)
    ]
    for method in methods:
        seen[0] = 0
        certify(method, 19)()
        passes[method] = seen[0] / 20
    for hook in hooks:
        hook.remove()
    times = interleaved(run, {method: certify(method, n) for method in methods}, run.at(smoke=1, desk=9, full=9))
    seconds = times.medians()
    weights = sum(p.numel() for stage in encoder.stages() for p in stage), sum(p.numel() for p in network.parameters())
    labels = {"ours": "ours", "one_step": "one-step denoising", "multi_step": "40-step denoising"}
    return Measurement(
        {
            **{method: exact(count) for method, count in passes.items()},
            "one_step_time": times.ratio("one_step", "ours"),
            "multi_step_time": times.ratio("multi_step", "ours"),
        },
        table=Table(
            ["method", "passes for a draw", "microseconds for a draw", "time / ours"],
            [[labels[m], passes[m], 1e6 * seconds[m] / n, seconds[m] / seconds["ours"]] for m in methods],
        ),
        remark=f"The encoder has {weights[0]:,} weights, the denoiser {weights[1]:,}.",
    )


@measures("r5-imagenet")
def imagenet(run: Run) -> Measurement:
    """Say what a full run takes; ImageNet and weeks of many accelerators are no part of this package."""
    raise NotAtThisScale(
        "it takes ImageNet and 600 000 steps of 4096 images on 32 accelerators; the recipe is RRCMViT.of_size('base', "
        "image_size=224, patch_size=16, hidden=4096, frozen_patches=True) and pretrain_encoder(batch_size=4096, "
        "lr=2e-4, weight_decay=0.03, warmup=15_000)"
    )


class SmallCNN(nn.Sequential):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )


SELECTING, ALPHA, BATCH, SIGMA = 100, 0.001, 1000, 0.5  # what races certify with
SETTINGS = f"{SELECTING} draws to select, failure probability {ALPHA}, batches of {BATCH} draws, one thread for both"
Certifier = Callable[[Tensor], Any]  # of images, one after the other


def certifying_race(run: Run, peer: str, theirs: Callable[[nn.Module, int], Certifier]) -> tuple[Measurement, bool]:
    """Certify the same images by ours and a peer's, with a network of two convolutions and with the encoder of r2.

    Returns the race, whose ratio is that of the smaller network, and whether both certify the same from one seed.
    """
    images = torch.rand(run.at(smoke=1, desk=3, full=20), 1, 28, 28, generator=run.torch_rng())
    with seeded(run.seed):
        networks: dict[str, nn.Module] = {
            "two convolutions": SmallCNN().eval(),
            "the encoder of r2": RRCMClassifier(RRCMConvNet(), 10, SIGMA).eval(),
        }
    draws = run.at(smoke=(200, 200), desk=(20_000, 5000), full=(100_000, 100_000))
    rows: list[list[Any]] = []
    found: list[Times] = []
    equal = True
    for (name, network), n in zip(networks.items(), draws, strict=True):
        jobs: dict[str, Callable[[], Any]] = {
            "ours": partial(certified, network, n, images),
            "theirs": partial(theirs(network, n), images),
        }
        results = []
        for job in jobs.values():
            torch.manual_seed(run.seed)
            results.append(job())
        equal = equal and np.array_equal(*results)
        jobs["network alone"] = partial(classes_of_noise, network, (SELECTING + n) * len(images))
        found.append(interleaved(run, jobs, run.at(smoke=1, desk=9, full=9)))
        medians = found[-1].medians()
        rows.append(
            [name, *(1e6 * medians[job] / n / len(images) for job in jobs), medians["ours"] / medians["theirs"]]
        )
    columns = ["network", *(f"{who}, microseconds for a draw" for who in ("ours", peer, "network and noise alone"))]
    times = found[0]
    race = Measurement(
        times.ratio("ours", "theirs"),
        table=Table([*columns, f"ours / {peer}"], rows),
        settings=SETTINGS,
        floor=times.ratio("network alone", "theirs").value,
    )
    return race, equal


def certified(network: nn.Module, n: int, images: Tensor) -> list[tuple[int, float]]:
    """Return our certificates of images, one after the other."""
    smooth = Smooth(network, 10, SIGMA)
    return [smooth.certify(x, SELECTING, n, ALPHA, BATCH) for x in images]


@torch.inference_mode()
def classes_of_noise(network: nn.Module, n: int) -> None:
    """Draw noise and ask a network for its class, which both sides of a race must do."""
    noise = torch.empty(BATCH, 1, 28, 28)
    for done in range(0, n, BATCH):
        network(noise[: n - done].normal_()).argmax(1)


def load_reference() -> types.ModuleType:
    """Load the reference implementation from the folder that PAPERWORKS_SMOOTHING names.

    It asks for a CUDA device and for a function that SciPy no longer has; both get a stand-in.

    Raises
    ------
    ImportError
        Where the variable isn't set, or the folder holds no such file.
    """
    from scipy import stats

    folder = os.environ.get("PAPERWORKS_SMOOTHING", "")
    path = Path(folder) / "code" / "core.py"
    if not folder or not path.is_file():
        raise ImportError(
            f"PAPERWORKS_SMOOTHING is {folder!r}; it takes the folder of a checkout of github.com/locuslab/smoothing"
        )
    spec = importlib.util.spec_from_file_location("_paperworks_smoothing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    absent = not hasattr(stats, "binom_test")
    if absent:
        stats.binom_test = lambda k, n, p: stats.binomtest(k, n, p).pvalue
    try:
        spec.loader.exec_module(module)
    finally:
        if absent:
            del stats.binom_test
    module.torch = types.SimpleNamespace(  # type: ignore[attr-defined]
        randn_like=lambda x, device: torch.randn_like(x), no_grad=torch.no_grad
    )
    return module


@races("smoothing")
def against_reference(run: Run) -> Measurement:
    """Certify the same images with the same networks by both, from the same seed."""
    reference = load_reference().Smooth

    def theirs(network: nn.Module, n: int) -> Certifier:
        smooth = reference(network, 10, SIGMA)
        return lambda images: [smooth.certify(x, SELECTING, n, ALPHA, BATCH) for x in images]

    race, equal = certifying_race(run, "reference", theirs)
    return replace(race, remark=f"From one seed, classes and radii of both {'are equal' if equal else 'differ'}.")


@races("art")
def against_art(run: Run) -> Measurement:
    """Certify the same images with the same networks by both, with as many draws."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    def theirs(network: nn.Module, n: int) -> Certifier:
        smooth = PyTorchRandomizedSmoothing(
            model=network,
            loss=nn.CrossEntropyLoss(),
            input_shape=(1, 28, 28),
            nb_classes=10,
            sample_size=SELECTING,
            scale=SIGMA,
            alpha=ALPHA,
            device_type="cpu",
        )
        return lambda images: np.stack(smooth.certify(images.numpy(), n, BATCH), 1)

    race, _ = certifying_race(run, "ART", theirs)
    return race


@races("statsmodels")
def against_statsmodels(run: Run) -> Measurement:
    """Bound the probability of every count of several numbers of draws by both."""
    from statsmodels.stats.proportion import proportion_confint

    rows: list[list[Any]] = []
    apart, ratios, floors = [], [], []
    for n, images in ((1000, 10_000), (10_000, 10_000), (100_000, 10_000)):
        counts = run.rng().integers(0, n + 1, run.at(smoke=100, desk=images, full=images))
        jobs: dict[str, Callable[[], Any]] = {
            "ours": partial(lower_confidence_bound, counts, n, ALPHA),
            "statsmodels": partial(proportion_confint, counts, n, 2 * ALPHA, "beta"),
            "quantiles alone": partial(lower_quantiles, np.unique(counts), n),
        }
        times = interleaved(run, jobs, run.at(smoke=1, desk=15, full=15))
        possible = np.arange(0, n + 1, run.at(smoke=n // 100, desk=1, full=1))
        bound, _ = proportion_confint(possible, n, 2 * ALPHA, "beta")
        apart.append(float(np.abs(lower_confidence_bound(possible, n, ALPHA) - np.nan_to_num(bound)).max()))
        ratios.append(times.ratio("ours", "statsmodels"))
        floors.append(times.ratio("quantiles alone", "statsmodels").value)
        rows.append(
            [n, len(counts), *(1e3 * s for s in times.medians().values()), ratios[-1].value, floors[-1], apart[-1]]
        )
    columns = ["draws", "counts", "ours, ms", "statsmodels, ms", "quantiles of the different counts alone, ms"]
    return Measurement(
        {"difference": exact(max(apart)), "time": greatest(ratios)},
        table=Table([*columns, "ours / statsmodels", "floor", "largest difference, all counts"], rows),
        settings="method 'beta' on the whole array, at twice the failure probability",
        floor=max(floors),
    )


def lower_quantiles(counts: np.ndarray, n: int) -> np.ndarray:
    """Return the quantiles of the beta distribution that a lower bound of each count is."""
    return betaincinv(np.maximum(counts, 1), n - counts + 1, ALPHA)
