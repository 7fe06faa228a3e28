"""What the experiments train: encoders with each part of the loss or none, classifiers of few labels, certificates."""

from dataclasses import asdict, dataclass, fields
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from paperworks.evidence import Run
from paperworks.numerics import seeded, warmup_cosine
from paperworks.robustness import (
    CertificationResult,
    KarrasGrid,
    RRCMClassifier,
    RRCMConvNet,
    RRCMLoss,
    ScaleSchedule,
    Smooth,
    finetune_step,
    layerwise_groups,
    pretrain_encoder,
)
from paperworks.testbeds import fashion_mnist

Arm = Literal["rrcm", "contrast", "scratch"]
RATE = 0.01  # of fine-tuning; of 0.001, 0.003 and 0.01 the best without pretraining, on test images not certified


@dataclass(frozen=True)
class Settings:
    """How much is trained and certified."""

    unlabelled: int
    steps: int
    batch: int
    greatest: float  # noise level
    start: int  # intervals of levels
    end: int
    labelled: int
    tuning: int
    images: int
    draws: int


def settings(run: Run) -> Settings:
    """Return the settings of a run's scale."""
    return run.at(
        smoke=Settings(200, 2, 8, 2.0, 1, 2, labelled=20, tuning=2, images=20, draws=50),
        # A few hundred steps are too few for the paper's 80 small intervals: until the chain reaches down to clean
        # images, neighbouring points are matched by their noise, and probes of noisy images are worse than untrained.
        desk=Settings(20_000, 300, 128, 2.0, 1, 2, labelled=500, tuning=250, images=500, draws=1000),
        full=Settings(50_000, 20_000, 192, 80.0, 20, 80, labelled=500, tuning=250, images=10_000, draws=10_000),
    )


def test_images(s: Settings) -> tuple[Float[Tensor, "n 1 28 28"], Int64[Tensor, " n"]]:
    """Return the images that are certified, and their classes."""
    images = fashion_mnist("test")
    return images[: s.images], images.labels[: s.images]


def grid(s: Settings) -> KarrasGrid:
    """Return the noise levels of the pretraining."""
    return KarrasGrid(sigma_max=s.greatest)


def pretrained(run: Run, arm: Arm, seed: int) -> RRCMConvNet:
    """Return an encoder, pretrained with the whole loss, with its contrastive part, or not at all."""
    s = settings(run)
    with seeded(seed):
        network = RRCMConvNet()
    if arm == "scratch":
        return network

    def pretrain(network: RRCMConvNet) -> RRCMConvNet:
        scales = ScaleSchedule(s.steps, s.start, s.end)
        loss = RRCMLoss(scales, grid(s), consistency_weight=float(arm == "rrcm"))
        return pretrain_encoder(
            network,
            fashion_mnist()[: s.unlabelled],
            loss,
            batch_size=s.batch,
            lr=3e-3,
            warmup=s.steps // 10,
            decay=0.98,
            random_state=seed,
            progress=lambda steps, label: run.progress(steps, label=f"{label} {seed}"),
        )

    run.trained("rrcm-encoder", network, pretrain, **asdict(s), arm=arm, seed=seed)
    return network.train().requires_grad_(True)  # to be fine-tuned


def classifier(run: Run, arm: Arm, seed: int, sigma: float) -> RRCMClassifier:
    """Fine-tune an encoder on few labels under noise; each seed has labels of its own, the same for every arm."""
    s, images = settings(run), fashion_mnist()
    generator = torch.Generator().manual_seed(seed)
    chosen = s.unlabelled + torch.randperm(len(images) - 5000 - s.unlabelled, generator=generator)[: s.labelled]
    x, labels = images[chosen], images.labels[chosen]
    with seeded(seed):
        network = RRCMClassifier(pretrained(run, arm, seed), 10, sigma, grid=grid(s), levels=s.end + 1)
    # The paper's decay of rates keeps what pretraining found; layers that hold nothing yet learn best at the full rate.
    decay = 1.0 if arm == "scratch" else 0.65 if sigma >= 1 else 0.75
    optimizer = torch.optim.AdamW(layerwise_groups(network, RATE, decay), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, s.tuning // 10, s.tuning))
    for _ in run.progress(range(s.tuning), label=f"fine-tuning {seed}"):
        batch = torch.randint(s.labelled, (min(100, s.labelled),), generator=generator)
        finetune_step(network, optimizer, x[batch], labels[batch], generator=generator)
        schedule.step()
    return network.eval()


def certificates(run: Run, arm: Arm, seed: int, sigma: float) -> CertificationResult:
    """Return certificates of test images by an arm's classifier, from the cache or else making them now."""
    s = settings(run)
    names = [field.name for field in fields(CertificationResult)]

    def make() -> dict[str, np.ndarray]:
        x, labels = test_images(s)
        smooth = Smooth(classifier(run, arm, seed, sigma), 10, sigma, input_range=(-1.0, 1.0))
        parts = [
            smooth.certify_batch(x[a : a + 50], n=s.draws, random_state=seed, first=a, labels=labels[a : a + 50])
            for a in run.progress(range(0, len(x), 50), label=f"certifying {seed}")
        ]
        whole = CertificationResult.concatenate(parts)
        return {name: getattr(whole, name) for name in names}

    return CertificationResult(**run.cached("rrcm-certificates", make, **asdict(s), arm=arm, seed=seed, sigma=sigma))
