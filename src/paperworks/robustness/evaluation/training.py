"""The search inside other loops: as a running metric, and as augmentation of training."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.robustness.evaluation.oracle import Classifier, evaluating
from paperworks.robustness.evaluation.search import OracleConstrainedPerturber


class FoundationModelRobustness:
    """FMR as a metric that is updated batch by batch, with the protocol of torchmetrics.

    Parameters
    ----------
    model
        The evaluated classifier.
    perturber
        Makes images for it.

    Examples
    --------
    >>> from paperworks.robustness import Oracle, OracleConstrainedPerturber, PixelGenerator
    >>> model = torch.nn.Flatten()
    >>> judges = Oracle(lambda x: x.flatten(1))  # the model in another form
    >>> perturber = OracleConstrainedPerturber(PixelGenerator(), judges, step_size=0.1, allow_member=True)
    >>> metric = FoundationModelRobustness(model, perturber)
    >>> metric.update(torch.tensor([[[[0.9, 0.2]]]]), torch.tensor([0]))
    >>> metric.compute()
    tensor(1.)
    """

    higher_is_better = True

    def __init__(self, model: Classifier, perturber: OracleConstrainedPerturber) -> None:
        self.model, self.perturber = model, perturber
        self.reset()

    def update(self, x: Float[Tensor, "batch channels height width"], y: Int64[Tensor, " batch"]) -> None:
        """Make images of a batch and count those the model is right on, before and after.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).
        y
            Labels of shape (batch,).
        """
        self(x, y)

    def compute(self) -> Float[Tensor, ""]:
        """Return PA / SA of all batches since the last reset; NaN where nothing is right.

        Returns
        -------
        Tensor without axes
            The ratio PA / SA, NaN where nothing is right.
        """
        return _ratio(self.clean, self.perturbed)

    def reset(self) -> None:
        """Forget all batches."""
        self.clean = self.perturbed = 0

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], y: Int64[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """Update with a batch, and return the score of that batch alone."""
        counts = self._counts(x, y)
        self.clean, self.perturbed = self.clean + counts[0], self.perturbed + counts[1]
        return _ratio(*counts)

    def _counts(self, x: Tensor, y: Tensor) -> tuple[int, int]:
        made = self.perturber.generate(self.model, x, y)
        with torch.no_grad(), evaluating(self.model):
            clean, perturbed = (int((self.model(images).argmax(1) == y).sum()) for images in (x, made.x))
        return clean, perturbed


def _ratio(clean: int, perturbed: int) -> Tensor:
    return torch.tensor(perturbed / clean if clean else math.nan)


class FMRAugmenter:
    """Replaces a part of the images of some training steps by images made for the model as it is then.

    Parameters
    ----------
    model
        The model in training.
    perturber
        Makes the images, which keep their labels as the judges see them.
    every
        Out of how many steps one is augmented, the first of them.
    mix
        Fraction of that batch which is replaced.
    random_state
        Seed of the choice.

    Raises
    ------
    ValueError
        For a count below 1, or a fraction outside [0, 1].

    Examples
    --------
    >>> from paperworks.robustness import Oracle, OracleConstrainedPerturber, PixelGenerator
    >>> judges = Oracle(lambda x: x.flatten(1))  # the model in another form
    >>> perturber = OracleConstrainedPerturber(PixelGenerator(), judges, step_size=0.1, allow_member=True)
    >>> augment = FMRAugmenter(torch.nn.Flatten(), perturber, every=2)
    >>> x, y = torch.tensor([[[[0.9, 0.2]]]]).expand(4, 1, 1, 2), torch.zeros(4, dtype=torch.long)
    >>> [int((augment(x, y) != x).any((1, 2, 3)).sum()) for step in range(3)]
    [2, 0, 2]
    """

    def __init__(
        self,
        model: Classifier,
        perturber: OracleConstrainedPerturber,
        every: int = 1,
        mix: float = 0.5,
        random_state: int = 0,
    ) -> None:
        self.model, self.perturber = model, perturber
        self.every = check_count("every", every)
        self.mix = check_number("mix", mix, ge=0, le=1)
        self._generator = torch.Generator().manual_seed(random_state)
        self._step = 0

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], y: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the images to train on in this step; their labels stay."""
        due = self._step % self.every == 0
        self._step += 1
        chosen = torch.randperm(len(x), generator=self._generator)[: round(self.mix * len(x))]
        if not due or not len(chosen):
            return x
        mixed = x.clone()
        mixed[chosen] = self.perturber.generate(self.model, x[chosen], y[chosen]).x
        return mixed
