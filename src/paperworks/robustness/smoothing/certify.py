"""Certificates of a classifier under Gaussian noise (Cohen and others, arXiv 1902.02918).

The smoothed classifier returns the class that its base classifier most often sees in noisy copies of an image. Where
that class has probability at least p > 1/2, no change of the image by less than ``sigma Phi^-1(p)`` in the 2-norm
changes it. A few draws select the class; others, independent of them, bound its probability from below.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.numerics import torch_generator
from paperworks.robustness.smoothing.binomial import lower_confidence_bound, two_sided_p_value

ABSTAIN = -1
_BLOCK = 16  # numbers that torch's normal generator makes at once
_LOOKS = 8  # times that an image's draws are looked at, each after twice as many as the one before

BaseClassifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CertificationResult:
    """Certificates of images: with probability 1 - alpha each, the class is that of the whole ball of the radius.

    Parameters
    ----------
    predictions
        Certified classes; `Smooth.ABSTAIN` (-1) where none is.
    radii
        Radii in the 2-norm, in the unit of `Smooth.sigma`; 0 where it abstains.
    selected
        Classes that the first draws selected, certified or not.
    counts, draws
        How many of how many of the other draws saw the selected class.
    """

    predictions: Int[np.ndarray, " images"]
    radii: Float[np.ndarray, " images"]
    selected: Int[np.ndarray, " images"]
    counts: Int[np.ndarray, " images"]
    draws: Int[np.ndarray, " images"]

    @classmethod
    def of(cls, predictions: Sequence[int], radii: Sequence[float]) -> "CertificationResult":
        """Make a result of classes and radii that come from elsewhere, such as a file.

        Parameters
        ----------
        predictions
            Class of each image, -1 where it was abstained on.
        radii
            Certified radius of each image, in the unit of the pixels.

        Returns
        -------
        CertificationResult
            The result, with counts of draws that are zero.
        """
        classes, zero = np.asarray(predictions, dtype=int), np.zeros(len(predictions), dtype=int)
        return cls(classes, np.asarray(radii, dtype=float), classes, zero, zero)

    @classmethod
    def concatenate(cls, parts: Iterable["CertificationResult"]) -> "CertificationResult":
        """Join the certificates of the parts of a data set, in order.

        Returns
        -------
        CertificationResult
            One result over all images, in the order of the parts.
        """
        columns = zip(*([getattr(part, field.name) for field in fields(cls)] for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def __len__(self) -> int:
        return len(self.predictions)

    def correct(self, labels: Any) -> Bool[np.ndarray, " images"]:
        """Return which images are certified to be of their class.

        Parameters
        ----------
        labels
            Classes of the images, of shape (images,).

        Returns
        -------
        ndarray of shape (images,)
            True for each image that is certified and right.
        """
        classes = np.asarray(labels)
        if classes.shape != self.predictions.shape:
            raise ValueError(f"labels has shape {classes.shape}; it takes one for each of the {len(self)} images")
        return self.predictions == classes


class Smooth:
    """A classifier smoothed by Gaussian noise, with predictions and certified radii that hold with high probability.

    Parameters
    ----------
    base_classifier
        Returns scores of shape (batch, num_classes). A module is in evaluation mode while it is asked.
    num_classes
        Number of classes.
    sigma
        Standard deviation of the noise, and unit of the radii, where pixels range from 0 to 1.
    input_range
        Least and greatest value of a pixel as the base classifier takes it. With ``(-1, 1)`` the noise that is added
        has standard deviation ``2 sigma``, while `sigma` and radii keep the unit of ``(0, 1)``. Default (0, 1).

    Raises
    ------
    ValueError
        For `sigma` not above 0, fewer than two classes, or an empty range.

    Examples
    --------
    >>> halves = Smooth(lambda x: torch.cat([x, -x], 1), num_classes=2, sigma=0.5)  # the sign of a number
    >>> certificates = halves.certify_batch(torch.tensor([[1.0], [-0.5], [0.0]]), n=1000)
    >>> certificates.predictions
    array([ 0,  1, -1])
    >>> bool((certificates.radii <= [1.0, 0.5, 0.0]).all())
    True
    """

    ABSTAIN = ABSTAIN

    def __init__(
        self,
        base_classifier: BaseClassifier,
        num_classes: int,
        sigma: float,
        *,
        input_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        low, high = input_range
        if not (low < high and math.isfinite(high - low)):
            raise ValueError(f"input_range is {input_range!r}; it takes a least and a greater value, both finite")
        self.base_classifier = base_classifier
        self.num_classes = check_count("num_classes", num_classes, at_least=2)
        self.sigma = check_number("sigma", sigma, gt=0)
        self.input_range = input_range

    @property
    def noise(self) -> float:
        """Standard deviation of the noise in the unit of the base classifier's input."""
        return self.sigma * (self.input_range[1] - self.input_range[0])

    def certify(
        self,
        x: Float[Tensor, "*shape"],
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        batch_size: int = 1000,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[int, float]:
        """Certify one image: the class and the radius within which the smoothed classifier keeps it.

        Parameters
        ----------
        x
            The image, without a batch axis.
        n0, n
            Draws that select the class, and that bound its probability. Defaults of the field: 100 and 100 000. Where
            `n` is too small for any certificate, ``n <= log2(1 / alpha)``, a warning says so.
        alpha
            Probability of a wrong certificate, at most.
        batch_size
            Draws in one call of the base classifier, in whole blocks of 16 numbers of noise: results don't depend on
            it.
        generator
            Source of the noise, on the device of `x`; by default torch's own, as `torch.manual_seed` sets it.

        Returns
        -------
        tuple[int, float]
            The class and its radius; `ABSTAIN` and 0 where the probability of the class isn't surely above one half.

        Raises
        ------
        ValueError
            For counts below 1, `alpha` outside (0, 1), an image that isn't finite, or scores that aren't one for each
            class.
        """
        _warn_of_too_few_draws(check_count("n", n), check_number("alpha", alpha, gt=0, lt=1))
        image, source = _checked("x", x)[None], [generator]
        with self._asking():
            selected = int(self._count(image, check_count("n0", n0), batch_size, source).argmax(1))
            count = int(self._count(image, n, batch_size, source)[0, selected])
        radius = float(self._radius(lower_confidence_bound(count, n, alpha)))
        return (selected, radius) if radius >= 0 else (ABSTAIN, 0.0)

    def predict(
        self,
        x: Float[Tensor, "*shape"],
        n: int = 1000,
        alpha: float = 0.001,
        batch_size: int = 1000,
        *,
        generator: torch.Generator | None = None,
    ) -> int:
        """Predict the class of one image, or abstain where a two-sided test can't tell it from the second.

        The parameters are those of `certify`; the class is that of the smoothed classifier except with probability
        `alpha`.

        Parameters
        ----------
        x
            One image, of shape (channels, height, width).
        n
            Number of noisy copies to classify.
        alpha
            Probability that the answer is another class than the smoothed classifier's.
        batch_size
            Copies that go through at once.
        generator
            What draws the noise, torch's global generator by default.

        Returns
        -------
        int
            The class, or -1 where it abstains.
        """
        check_number("alpha", alpha, gt=0, lt=1)
        with self._asking():
            counts = self._count(_checked("x", x)[None], check_count("n", n), batch_size, [generator])[0]
        (first, second), classes = counts.topk(2)
        p_value = float(two_sided_p_value(int(first), int(first + second)))
        return int(classes[0]) if p_value <= alpha else ABSTAIN

    def certify_batch(
        self,
        x: Float[Tensor, " images *shape"],
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        batch_size: int = 1000,
        *,
        random_state: int = 0,
        first: int = 0,
        labels: Int64[Tensor, " images"] | None = None,
        stop_radius: float | None = None,
    ) -> CertificationResult:
        """Certify many images, each by draws of its own.

        Image `i` draws its noise from a stream that only `random_state` and ``first + i`` decide, so images can be
        certified in parts, on several machines, or taken up again later, with the same results.

        An image is abstained on early once fewer than half of all draws surely see the selected class. That can't make
        a certificate wrong; it loses one with probability `alpha` at most.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).
        n0, n, alpha, batch_size
            As in `certify`; `alpha` is for each image.
        random_state
            Seed of all noise.
        first
            Number of the first image, where `x` is a part of a data set.
        labels
            Classes of the images. An image whose selected class is another is an error whatever its radius: it is
            returned as such with radius 0, without further draws. Curves and mean radii of `labels` are the same.
        stop_radius
            Stop drawing for an image as soon as this radius is certified. The draws are then looked at eight times,
            after twice as many each time, and `alpha` is split evenly between the looks, so radii are a little
            smaller. By default a radius comes from one look at all draws.

        Returns
        -------
        CertificationResult
            One certificate for each image.

        Raises
        ------
        ValueError
            As `certify`, and for labels of another number than images.
        """
        check_count("n0", n0)
        check_count("n", n)
        check_count("first", first, at_least=0)
        check_number("alpha", alpha, gt=0, lt=1)
        _checked("x", x)
        if labels is not None and labels.shape != x.shape[:1]:
            raise ValueError(f"labels has shape {tuple(labels.shape)}; it takes one for each of the {len(x)} images")
        enough = (
            1.0 if stop_radius is None else float(ndtr(check_number("stop_radius", stop_radius, ge=0) / self.sigma))
        )
        looks = _looks(n)
        split = alpha / len(looks)
        _warn_of_too_few_draws(n, alpha if stop_radius is None else split)
        sources = [torch_generator(random_state, first + i, device=x.device) for i in range(len(x))]
        with self._asking():
            selected = self._count(x, n0, batch_size, sources).argmax(1)
            counts = torch.zeros_like(selected)
            draws, bounds = np.zeros(len(x), dtype=int), np.zeros(len(x))
            active = torch.arange(len(x), device=x.device)
            if labels is not None:
                active = active[selected == labels.to(selected)]
            for drawn, total in itertools.pairwise([0, *looks]):
                votes = self._count(x[active], total - drawn, batch_size, [sources[i] for i in active.tolist()])
                counts[active] += votes.gather(1, selected[active, None])[:, 0]
                index, seen = active.cpu().numpy(), counts[active].cpu().numpy()
                draws[index] = total
                if stop_radius is not None:
                    bounds[index] = np.maximum(bounds[index], lower_confidence_bound(seen, total, split))
                elif total == n:
                    bounds[index] = lower_confidence_bound(seen, n, alpha)
                hopeless = lower_confidence_bound(total - seen, total, split) > 0.5
                active = active[torch.from_numpy((bounds[index] < enough) & ~hopeless).to(active.device)]
        radii = self._radius(bounds)
        classes = selected.cpu().numpy()
        wrong = np.zeros(len(x), dtype=bool) if labels is None else classes != labels.cpu().numpy()
        return CertificationResult(
            predictions=np.where((radii >= 0) | wrong, classes, ABSTAIN),
            radii=np.maximum(radii, 0.0),
            selected=classes,
            counts=counts.cpu().numpy(),
            draws=draws,
        )

    def _radius(self, bound: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Return the radius that a lower bound of the probability certifies, negative below one half."""
        return np.asarray(self.sigma * np.maximum(ndtri(bound), -1.0))

    def _count(
        self,
        x: Float[Tensor, " images *shape"],
        n: int,
        batch_size: int,
        sources: Sequence[torch.Generator | None],
    ) -> Int64[Tensor, "images classes"]:
        """Count how often the base classifier sees each class in `n` noisy copies of each image."""
        check_count("batch_size", batch_size)
        # Noise is drawn for whole blocks of copies, so that what a copy gets doesn't depend on `batch_size`.
        block = _BLOCK // math.gcd(_BLOCK, math.prod(x.shape[1:]))
        size = min(-(-n // block), max(1, batch_size // block)) * block
        group = max(1, batch_size // n)  # images in one call, where a call holds several
        counts = torch.zeros(len(x), self.num_classes, dtype=torch.int64, device=x.device)
        noisy = x.new_empty(min(group, len(x)), size, *x.shape[1:])
        for start in range(0, len(x), group):
            images = x[start : start + group]
            for done in range(0, n, size):
                left = min(size, n - done)
                part = noisy[: len(images), : -(-left // block) * block]
                for copies, source in zip(part, sources[start : start + group], strict=True):
                    torch.randn(copies.shape, generator=source, dtype=x.dtype, device=x.device, out=copies)
                part = part[:, :left]
                torch.add(images[:, None], part, alpha=self.noise, out=part)
                counts[start : start + group] += self._votes(part)
        return counts

    def _votes(self, noisy: Float[Tensor, "images copies *shape"]) -> Int64[Tensor, "images classes"]:
        images, copies = noisy.shape[:2]
        scores = self.base_classifier(noisy.flatten(0, 1))
        if scores.shape != (images * copies, self.num_classes):
            raise ValueError(
                f"base_classifier returned shape {tuple(scores.shape)} for a batch of {images * copies}; "
                f"it takes scores of shape (batch, num_classes = {self.num_classes})"
            )
        if scores.isnan().any():
            raise ValueError("base_classifier returned NaN; it takes scores that can be compared")
        offset = self.num_classes * torch.arange(images, device=scores.device)
        votes = (scores.argmax(1).view(images, copies) + offset[:, None]).flatten()
        return votes.bincount(minlength=images * self.num_classes).view(images, self.num_classes)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Have the base classifier in evaluation mode, without gradients, and in its own mode afterwards."""
        module = self.base_classifier if isinstance(self.base_classifier, nn.Module) else None
        training = [] if module is None else [part for part in module.modules() if part.training]
        if module is not None:
            module.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for part in training:
                part.training = True


def _warn_of_too_few_draws(n: int, alpha: float) -> None:
    """Warn where not even draws that all see one class would show that it has more than half of the probability."""
    least = math.floor(-math.log2(alpha)) + 1
    if n < least:
        warnings.warn(
            f"n is {n}, with which nothing can be certified at a probability of error of {alpha:.3g}; "
            f"it takes {least} draws or more",
            stacklevel=3,
        )


def _looks(n: int) -> list[int]:
    """Return the numbers of draws, up to `n`, after which an image is looked at."""
    return sorted({-(-n // 2**halvings) for halvings in range(_LOOKS)})


def _checked(name: str, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; it takes floating-point pixels, in input_range")
    return check_finite(name, x)
