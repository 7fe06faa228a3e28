"""Fine-tuning of a pretrained encoder to classify images under noise of one level, in a single pass."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_count, check_number
from paperworks.robustness.smoothing.contrast import ConsistencyKind, consistency_regularizer
from paperworks.robustness.smoothing.encoder import NoiseConditionedEncoder
from paperworks.robustness.smoothing.schedules import KarrasGrid

Labels = Int64[Tensor, " batch"] | Float[Tensor, "batch classes"]


class RRCMClassifier(nn.Module):
    """An encoder with a linear head, which classifies images that carry noise of one level.

    It is the base classifier of ``Smooth(..., sigma, input_range=(-1, 1))``: it takes pixels from -1 to 1 that carry
    noise of ``2 sigma``, and tells the encoder the nearest level of its grid. Even in training the encoder is in
    evaluation mode.

    Parameters
    ----------
    encoder
        The pretrained encoder.
    num_classes
        Number of classes.
    sigma
        Noise level of the smoothing, where pixels range from 0 to 1.
    normalized
        Whether the head sees features after the encoder's last normalisation (ImageNet) or before it (CIFAR-10, the
        default).
    linear_probe
        Freeze the encoder and train the head alone.
    grid, levels
        Noise levels of the pretraining, and their number at its end. Default 81.

    Raises
    ------
    ValueError
        For fewer than two classes, or ``2 sigma`` outside the grid.

    Examples
    --------
    >>> from paperworks.robustness import RRCMConvNet, Smooth
    >>> classifier = RRCMClassifier(RRCMConvNet(), num_classes=10, sigma=0.5)
    >>> smooth = Smooth(classifier, num_classes=10, sigma=0.5, input_range=(-1, 1))
    >>> round(classifier.level, 3)
    0.965
    >>> prediction, radius = smooth.certify(torch.zeros(1, 28, 28), n=200)
    """

    def __init__(
        self,
        encoder: NoiseConditionedEncoder,
        num_classes: int,
        sigma: float,
        *,
        normalized: bool = False,
        linear_probe: bool = False,
        grid: KarrasGrid | None = None,
        levels: int = 81,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False) if linear_probe else encoder
        self.noise = 2 * check_number("sigma", sigma, gt=0)
        self.level = (KarrasGrid() if grid is None else grid).nearest(self.noise, levels)
        self.normalized = normalized
        self.head = nn.Linear(encoder.width, check_count("num_classes", num_classes, at_least=2))
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)
        self.train()

    def train(self, mode: bool = True) -> "RRCMClassifier":
        """Set the mode of the head; the encoder's is evaluation.

        Returns
        -------
        RRCMClassifier
            The classifier itself, as `nn.Module.train` returns it.
        """
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits of images with their noise.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).

        Returns
        -------
        Tensor of shape (batch, classes)
            Logits, one row for each image.
        """
        features = self.encoder.features if self.normalized else self.encoder.raw_features
        return self.head(features(x, self.level))


def layerwise_groups(classifier: RRCMClassifier, lr: float, decay: float = 0.75) -> list[dict[str, Any]]:
    """Return parameters for an optimiser, with a rate that falls from the head down to the first layer.

    Parameters
    ----------
    classifier
        Its frozen parameters and its projector, which it doesn't use, are left out.
    lr
        Rate of the head and the last normalisation.
    decay
        By how much the rate is multiplied from each stage of the encoder to the one before. The paper takes 0.75 for
        CIFAR-10 (0.65 at sigma 1) and 0.65 for ImageNet.

    Returns
    -------
    list[dict[str, Any]]
        Groups of parameters with ``lr``, as optimisers of torch take them.

    Raises
    ------
    ValueError
        For a rate not above 0, or a decay outside (0, 1].

    Examples
    --------
    >>> from paperworks.robustness import RRCMViT
    >>> classifier = RRCMClassifier(RRCMViT.of_size("tiny"), num_classes=10, sigma=0.25)
    >>> [group["lr"] for group in layerwise_groups(classifier, lr=1.0, decay=0.5)]
    [0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0]
    """
    check_number("lr", lr, gt=0)
    check_number("decay", decay, gt=0, le=1)
    last = [*classifier.head.parameters(), *(classifier.encoder.norm.parameters() if classifier.normalized else ())]
    stages = [*classifier.encoder.stages(), last]
    groups = [
        {"params": [p for p in stage if p.requires_grad], "lr": lr * decay ** (len(stages) - 1 - depth)}
        for depth, stage in enumerate(stages)
    ]
    return [group for group in groups if group["params"]]


def finetune_step(
    classifier: RRCMClassifier,
    optimizer: torch.optim.Optimizer,
    x: Float[Tensor, "batch channels height width"],
    labels: Labels,
    *,
    lam: float = 20.0,
    eta: float = 0.5,
    kind: ConsistencyKind = "default",
    copies: int = 2,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Take a step towards right and equal predictions of images under different noise.

    Parameters
    ----------
    classifier, optimizer
        What is trained, and how; see `layerwise_groups`.
    x
        Images without noise, with pixels from -1 to 1.
    labels
        Classes, or shares of classes where images are mixed.
    lam, eta, kind
        As in `consistency_regularizer`. Defaults 20 and 0.5, of the paper for sigma 0.5 and 1; 10 at sigma 0.25.
    copies
        Noisy copies of each image. With 1 the loss is cross-entropy plus `eta` times the entropy of predictions.
    generator
        Source of the noise, on the device of `x`.

    Returns
    -------
    dict[str, Tensor]
        ``loss``, and its parts ``cross_entropy`` and ``consistency``.

    Raises
    ------
    ValueError
        As `consistency_regularizer`, and for labels of another number than images.

    Examples
    --------
    >>> from paperworks.robustness import RRCMConvNet
    >>> classifier = RRCMClassifier(RRCMConvNet(), num_classes=10, sigma=0.5)
    >>> optimizer = torch.optim.AdamW(layerwise_groups(classifier, lr=1e-3))
    >>> terms = finetune_step(classifier, optimizer, torch.zeros(2, 1, 28, 28), torch.tensor([3, 7]))
    >>> round(float(terms["cross_entropy"]), 2)  # of ten equal probabilities
    2.3
    """
    if len(labels) != len(x):
        raise ValueError(f"labels has {len(labels)} rows; it takes one for each of the {len(x)} images")
    repeated = x.repeat(check_count("copies", copies), 1, 1, 1)
    noise = torch.randn(repeated.shape, generator=generator, device=x.device, dtype=x.dtype)
    logits = classifier(repeated + classifier.noise * noise)
    cross_entropy = functional.cross_entropy(logits, torch.cat([labels] * copies))
    consistency = consistency_regularizer(logits.chunk(copies), lam, eta, kind)
    loss = cross_entropy + consistency
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return {"loss": loss.detach(), "cross_entropy": cross_entropy.detach(), "consistency": consistency.detach()}
