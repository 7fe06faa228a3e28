"""Judges of what an image shows: one or more pretrained models that vote."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_number

Classifier = Callable[[Tensor], Tensor]
"""From images (batch, channels, height, width) to logits (batch, classes)."""

Rule = Literal["mean", "majority", "unanimous"]
_SAME = 0.02  # relative distance of logits below which a model is taken for a judge; bfloat16 leaves 0.01
NONE = -1  # the label of an image that the judges don't agree on


class Oracle:
    """Pretrained models that together say what an image shows: the surrogate of a human judge.

    Parameters
    ----------
    models
        Classifiers of the same classes, from images to logits; one will do.
    rule
        ``mean``: the largest mean probability; ``majority``: the most votes, ties by mean probability; ``unanimous``:
        all must say the same, and without that there is no label.
    weights
        Weights of the models in means and votes; equal by default.

    Raises
    ------
    ValueError
        Without models, for an unknown rule, or weights that aren't positive or not one for each model.

    Notes
    -----
    arXiv 2308.10632, section 3. Models are called in evaluation mode and without gradients; the rule ``unanimous``
    asks the smallest first and the others only about images that it accepts.

    Examples
    --------
    >>> dark = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())  # the strongest colour
    >>> oracle = Oracle([dark])
    >>> images = 0.5 * torch.eye(3)[..., None, None].expand(3, 3, 4, 4)
    >>> oracle.predict(images), oracle.accepts(images, torch.tensor([0, 1, 1]))
    (tensor([0, 1, 2]), tensor([ True,  True, False]))
    """

    def __init__(
        self, models: Sequence[Classifier] | Classifier, rule: Rule = "mean", weights: Sequence[float] | None = None
    ) -> None:
        if callable(models):
            models = [models]
        if not models:
            raise ValueError("models is empty; it takes one or more classifiers")
        if weights is not None and len(weights) != len(models):
            raise ValueError(f"weights has {len(weights)} numbers; it takes one for each of the {len(models)} models")
        self.rule = check_choice("rule", rule, ("mean", "majority", "unanimous"))
        shares = [check_number("weights", w, gt=0) for w in weights or [1] * len(models)]
        self.models = list(models)
        self.weights = [w / sum(shares) for w in shares]
        self._told = False

    def probabilities(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return the weighted mean of the models' probabilities.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).

        Returns
        -------
        Tensor of shape (batch, classes)
            Probabilities of the classes, one row for each image.
        """
        answers = zip(self.weights, self._answers(x), strict=True)
        return torch.stack([w * p for w, p in answers]).sum(0)

    def predict(self, x: Float[Tensor, "batch channels height width"]) -> Int64[Tensor, " batch"]:
        """Return the label of each image; -1 where a unanimous answer is asked for and there is none.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).

        Returns
        -------
        Tensor of shape (batch,)
            One class for each image, -1 for none.
        """
        answers = self._answers(x)
        mean = torch.stack([w * p for w, p in zip(self.weights, answers, strict=True)]).sum(0)
        if self.rule == "mean":
            return mean.argmax(1)
        labels = torch.stack([p.argmax(1) for p in answers])
        if self.rule == "unanimous":
            return torch.where((labels == labels[0]).all(0), labels[0], NONE)
        # Of the labels with the most votes, up to rounding of the weights, the likeliest.
        votes = functional.one_hot(labels, mean.shape[1]).to(mean) * mean.new_tensor(self.weights)[:, None, None]
        total = votes.sum(0)
        return torch.where(total >= total.amax(1, keepdim=True) - 1e-6, mean, -1).argmax(1)

    def accepts(
        self, x: Float[Tensor, "batch channels height width"], y: Int64[Tensor, " batch"]
    ) -> Bool[Tensor, " batch"]:
        """Say of each image whether its label is the given one.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).
        y
            Labels of shape (batch,).

        Returns
        -------
        Tensor of shape (batch,)
            True for each image whose label is the given one.
        """
        if self.rule != "unanimous":
            return self.predict(x) == y
        accepted = torch.ones_like(y, dtype=torch.bool)
        for model in sorted(self.models, key=_size):
            rows = accepted.nonzero()[:, 0]
            if len(rows):
                accepted[rows] = self._ask(model, x[rows]).argmax(1) == y[rows]
        return accepted

    def check_classes(self, x: Float[Tensor, "batch channels height width"], classes: int) -> None:
        """Raise ValueError if a model has another number of classes.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).
        """
        for answer in self._answers(x):
            if answer.shape[1] != classes:
                raise ValueError(f"oracle has a model of {answer.shape[1]} classes; the evaluated one has {classes}")

    def check_stranger(self, model: Classifier, x: Float[Tensor, "batch channels height width"] | None = None) -> None:
        """Raise ValueError if a model is one of the judges.

        It is where it shares weights with one, holds copies of all of them, or answers alike: however it is wrapped,
        fused or stored, the logits of a judge differ from each other by the same.

        Parameters
        ----------
        model
            Classifier to be evaluated.
        x
            Images on which answers are compared; without them weights alone are.
        """
        own = {id(p) for judge in self.models for p in _parameters(judge)}
        shared = any(model is judge for judge in self.models) or any(id(p) in own for p in _parameters(model))
        contents = {_content(p) for p in _parameters(model) if _tells(p)}
        held = [{_content(p) for p in _parameters(judge) if _tells(p)} for judge in self.models]
        copied = any(judge and judge <= contents for judge in held)
        if shared or copied or (x is not None and any(_alike(model, judge, x) for judge in self.models)):
            raise ValueError(
                "model is a member of the oracle, which inflates its score; it takes another one, or allow_member=True"
            )

    def _answers(self, x: Tensor) -> list[Tensor]:
        return [self._ask(model, x) for model in self.models]

    def _ask(self, model: Classifier, x: Tensor) -> Tensor:
        logits = answers(model, x, "a model of the oracle")
        if not self._told:
            self._told = warn_of_probabilities("a model of the oracle", logits)
        return logits.softmax(1)


class ZeroShotClassifier(nn.Module):
    """A classifier made of an image encoder and the embedded descriptions of classes, as CLIP is used.

    Parameters
    ----------
    image_encoder
        From images to embeddings (batch, features).
    text_embeddings
        (classes, features), or (classes, prompts, features) of several descriptions such as "a photo of a {class}",
        whose directions are averaged.
    scale
        Scale of the cosines that are the logits; 100 is CLIP's.

    Raises
    ------
    ValueError
        For embeddings of another shape, or a scale that isn't positive.

    Examples
    --------
    >>> encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> classifier = ZeroShotClassifier(encoder, torch.eye(3))
    >>> classifier(torch.ones(1, 3, 2, 2)).round(decimals=1)
    tensor([[57.7000, 57.7000, 57.7000]])
    """

    text: Tensor

    def __init__(self, image_encoder: nn.Module, text_embeddings: Tensor, scale: float = 100.0) -> None:
        super().__init__()
        if text_embeddings.ndim not in (2, 3):
            raise ValueError(
                f"text_embeddings has shape {tuple(text_embeddings.shape)}; "
                "it takes (classes, features) or (classes, prompts, features)"
            )
        self.image_encoder = image_encoder
        self.scale = check_number("scale", scale, gt=0)
        prompts = functional.normalize(text_embeddings.detach(), dim=-1)
        mean = prompts if prompts.ndim == 2 else prompts.mean(1)
        self.register_buffer("text", functional.normalize(mean, dim=-1))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return scaled cosines.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).

        Returns
        -------
        Tensor of shape (batch, classes)
            Scaled cosines with each class, one row for each image.
        """
        return self.scale * functional.normalize(self.image_encoder(x), dim=-1) @ self.text.T


@contextlib.contextmanager
def evaluating(*models: Any) -> Iterator[None]:
    """Put modules into evaluation mode, and each part of them back into its own mode afterwards."""
    parts = [part for model in models if isinstance(model, nn.Module) for part in model.modules() if part.training]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part in parts:
            part.training = True


def answers(model: Classifier, x: Tensor, who: str = "the model") -> Tensor:
    """Ask a model in evaluation mode and without gradients, and refuse answers of which no class is the greatest."""
    with torch.no_grad(), evaluating(model):
        logits = model(x)
    # Infinities of one sign leave probabilities that are known; NaN would count as class 0.
    if bad := int(logits.softmax(1).isnan().any(1).sum()):
        raise ValueError(f"{who} returns NaN or infinite logits for {bad} of {len(x)} images; it takes finite ones")
    return logits


def warn_of_probabilities(who: str, outputs: Tensor) -> bool:
    """Warn if outputs look like probabilities, and say whether so."""
    likely = (
        outputs.shape[1] > 1 and bool((outputs >= 0).all()) and bool(((outputs.detach().sum(1) - 1).abs() < 1e-4).all())
    )
    if likely:
        warnings.warn(f"{who} returns rows that sum to 1, which look like probabilities; it takes logits", stacklevel=4)
    return likely


def _parameters(model: Any) -> Iterable[nn.Parameter]:
    return model.parameters() if isinstance(model, nn.Module) else ()


def _content(parameter: nn.Parameter) -> tuple[torch.Size, bytes]:
    """Return what a weight and its copies have in common, whatever their type and device."""
    values = parameter.detach().double().cpu()
    return values.shape, hashlib.sha256(values.numpy().tobytes()).digest()  # in order of the indices, not of memory


def _tells(parameter: nn.Parameter) -> bool:
    """Say whether a weight can be told from another network's, as ones and zeros of a fresh normalisation can't."""
    return parameter.numel() > 0 and bool((parameter != parameter.flatten()[0]).any())


def _alike(model: Classifier, judge: Classifier, x: Tensor) -> bool:
    """Say whether two models give the same logits up to a constant and the rounding of half precision."""
    ours, theirs = (answers(m, x, who).double() for m, who in ((model, "the model"), (judge, "a model of the oracle")))
    if ours.shape != theirs.shape:
        return False
    ours, theirs = (logits - logits.mean(1, keepdim=True) for logits in (ours, theirs))
    return bool((ours - theirs).norm() < _SAME * theirs.norm())


def _size(model: Any) -> int:
    return sum(p.numel() for p in _parameters(model))
