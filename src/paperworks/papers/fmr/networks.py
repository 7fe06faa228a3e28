"""The networks of the experiments: small classifiers of garments to evaluate, judges, and a learned vocabulary."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from paperworks.evidence import Run
from paperworks.numerics import seeded
from paperworks.robustness import VQVAE, Oracle, StyleGenerator, VQGenerator
from paperworks.testbeds import erased, fashion_mnist, fit, trained_classifier

Kind = Literal["plain", "noise", "blur", "erased", "wide", "distilled", "judge", "mixed judge"]
KINDS: tuple[Kind, ...] = ("plain", "noise", "blur", "erased", "wide", "distilled")


class Network(nn.Sequential):
    """A small convolutional classifier of garments in [0, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(1, width, 5, 2, 2), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.SiLU(),
            nn.Flatten(), nn.Linear(32 * width, 64), nn.SiLU(), nn.Linear(64, 10),
        )  # fmt: skip


def shown(kind: Kind, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images as a kind of network sees them in training."""
    share = torch.rand(len(images), 1, 1, 1, generator=generator)
    if kind == "noise":
        return (images + 0.5 * share * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    if kind == "blur":
        style = StyleGenerator()
        latents = style.encode(images)
        latents[:, 2] = 1.5 * share[:, 0, 0, 0]
        return style.decode(latents, images).clamp(0, 1)
    if kind == "erased":
        return erased(images, generator)
    if kind == "mixed judge":
        drawn = torch.randint(4, share.shape, generator=generator)
        for number, other in enumerate(("noise", "blur", "erased")):
            images = torch.where(drawn == number, shown(other, images, generator), images)  # type: ignore[arg-type]
    return images


def classifier(run: Run, kind: Kind, seed: int | None = None) -> nn.Module:
    """Return a trained and frozen classifier, from the cache or else training it now."""
    seed = run.seed if seed is None else seed
    strong = kind in ("wide", "judge", "mixed judge")
    network = _untrained(32 if strong else 16, seed)
    steps = run.at(smoke=3, desk=600 if "judge" in kind else 300, full=3000)

    split: Literal["train", "test"] = "test" if run.scale == "smoke" else "train"

    def train(network: nn.Module) -> nn.Module:
        teacher = classifier(run, "judge", 1000 + seed) if kind == "distilled" else None

        def loss(network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
            images = (images + 1) / 2
            if teacher is None:
                return functional.cross_entropy(network(shown(kind, images, generator)), labels)
            with torch.no_grad():
                soft = (teacher(images) / 2).softmax(1)
            return 4 * functional.cross_entropy(network(images) / 2, soft)

        return fit(network, loss, fashion_mnist(split), steps=steps, random_state=seed, progress=run.progress)

    return run.trained("fmr-classifier", network, train, kind=kind, seed=seed, steps=steps, split=split)


def _untrained(width: int, seed: int) -> Network:
    with seeded(seed):
        return Network(width)


def judges(run: Run, kind: Kind = "judge") -> Oracle:
    """Return three judges whose seeds no evaluated network has."""
    return Oracle([classifier(run, kind, seed) for seed in (101, 102, 103)])


def held_out(run: Run) -> Oracle:
    """Return a judge of another architecture that no search asks."""
    network = trained_classifier("fashion-mnist", size="smoke" if run.scale == "smoke" else "desk", random_state=7)
    return Oracle(lambda images: network(2 * images - 1))


def training_images(n: int) -> Tensor:
    """Return images that networks and generators learn from."""
    return (fashion_mnist("train")[:n] + 1) / 2


def vocabulary(run: Run) -> VQGenerator:
    """Return a trained quantised autoencoder, from the cache or else training it now."""
    steps, codes, dim, width = run.at(smoke=5, desk=600, full=10_000), 256, 16, run.at(smoke=8, desk=24, full=64)

    few = run.at(smoke=500, desk=20_000, full=20_000)

    def make() -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        found = VQGenerator.fit(training_images(few), steps, width=width, codes=codes, dim=dim)
        return found.encoder.state_dict(), found.codebook, found.decoder.state_dict()

    encoder, codebook, decoder = run.cached(
        "fmr-vocabulary", make, images=few, steps=steps, codes=codes, dim=dim, width=width
    )
    network = VQVAE(width=width, codes=codes, dim=dim).eval().requires_grad_(False)
    network.encoder.load_state_dict(encoder)
    network.decoder.load_state_dict(decoder)
    return VQGenerator(network.encoder, codebook, network.decoder)
