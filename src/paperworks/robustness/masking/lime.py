"""LIME for images whose superpixels are hidden from the network instead of painted over."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from sklearn.utils import check_random_state

from paperworks.core.validation import check_count, check_number
from paperworks.robustness.masking.segments import Segmenter, quickshift_segmenter

ClassifierFn = Callable[[np.ndarray, np.ndarray], np.ndarray]


class ImageExplanation:
    """The weights of an image's superpixels for each explained label, with the attributes of LIME's own class.

    Parameters
    ----------
    image
        The image, (height, width, channels).
    segments
        The number of each pixel's superpixel.

    Examples
    --------
    >>> explanation = ImageExplanation(np.zeros((1, 2, 3)), np.array([[0, 1]]))
    >>> explanation.local_exp[7] = [(1, 0.5), (0, -0.1)]
    >>> explanation.get_image_and_mask(7)[1]
    array([[0, 1]])
    """

    def __init__(self, image: np.ndarray, segments: np.ndarray) -> None:
        self.image = image
        self.segments = segments
        self.intercept: dict[int, float] = {}
        self.local_exp: dict[int, list[tuple[int, float]]] = {}
        self.local_pred: Any = None
        self.score: float | None = None
        self.top_labels: list[int] = []

    def get_image_and_mask(
        self, label: int, num_features: int = 5, hide_rest: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the image, of nothing but the strongest supporting superpixels if asked for, and their mask."""
        if label not in self.local_exp:
            raise KeyError(f"label is {label!r}; explained are {sorted(self.local_exp)}")
        chosen = [feature for feature, weight in self.local_exp[label] if weight > 0][:num_features]
        mask = np.isin(self.segments, chosen).astype(self.segments.dtype)
        return (self.image * mask[..., None] if hide_rest else self.image.copy()), mask


class LayerMaskLimeImageExplainer:
    """LIME for images, for a classifier that takes the image and a mask, so that nothing has to be painted.

    It draws the same samples as `lime.lime_image.LimeImageExplainer` for the same random state, and fits the same
    weighted ridge regression on all superpixels; only what the classifier is shown differs.

    Parameters
    ----------
    kernel_width
        Width of the kernel that weighs samples, on cosine distances.
    kernel
        ``kernel(distances, kernel_width)``; ``sqrt(exp(-d^2 / width^2))`` by default.
    random_state
        Seed or generator of the samples.

    Raises
    ------
    ValueError
        For a width that isn't positive.

    Notes
    -----
    The defaults are those of LIME (arXiv 1602.04938), save 512 samples, those of arXiv 2211.14646.

    Examples
    --------
    >>> def classifier_fn(images, masks):  # the left half decides for class 1
    ...     left = masks[:, :, :4].mean((1, 2))
    ...     return np.stack([1 - left, left], axis=1)
    >>> explainer = LayerMaskLimeImageExplainer(random_state=0)
    >>> halves = lambda image: np.repeat([[0] * 4 + [1] * 4], 8, axis=0)
    >>> found = explainer.explain_instance(np.zeros((8, 8, 3)), classifier_fn, labels=(1,), top_labels=None,
    ...                                    num_samples=64, segmentation_fn=halves)
    >>> part, weight = found.local_exp[1][0]
    >>> int(part), round(float(weight), 1)
    (0, 0.9)
    """

    def __init__(
        self,
        kernel_width: float = 0.25,
        kernel: Callable[[np.ndarray, float], np.ndarray] | None = None,
        random_state: Any = None,
    ) -> None:
        self.kernel_width = check_number("kernel_width", kernel_width, gt=0)
        self.kernel = kernel or _exponential
        self.random_state = check_random_state(random_state)

    def explain_instance(
        self,
        image: np.ndarray,
        classifier_fn: ClassifierFn,
        labels: Sequence[int] = (1,),
        top_labels: int | None = 5,
        num_features: int = 100_000,
        num_samples: int = 512,
        batch_size: int = 64,
        segmentation_fn: Segmenter | None = None,
        distance_metric: str = "cosine",
        model_regressor: Any = None,
        random_seed: int | None = None,
    ) -> Any:
        """Explain the classifier's output for one image.

        Parameters
        ----------
        image
            (height, width, channels), or (height, width) of a grey one.
        classifier_fn
            ``classifier_fn(images, masks) -> (n, classes)``, as `MaskedImageClassifier.predict_proba`: images are
            (n, height, width, channels), all the one explained, and masks (n, height, width), 1 where kept.
        labels
            Labels to explain, where `top_labels` is None.
        top_labels
            Explain as many labels, the likeliest first.
        num_features
            Most superpixels that an explanation lists, those of the largest weights.
        num_samples, batch_size
            Number of samples, the first of which hides nothing, and of those in one call of the classifier.
        segmentation_fn
            From the image to its superpixels, numbered in any way; quickshift with LIME's settings by default.
        distance_metric
            Name of a distance of scikit-learn, between samples and the one that hides nothing.
        model_regressor
            A scikit-learn regressor with `coef_`; ``Ridge(alpha=1)`` by default.
        random_seed
            Seed of the segmentation by default; drawn if not given.

        Returns
        -------
        explanation
            LIME's `ImageExplanation` where LIME is installed, else ours.

        Raises
        ------
        ValueError
            For an image of another shape, segments of another size, or counts below 1.
        """
        if image.ndim not in (2, 3):
            raise ValueError(f"image has shape {image.shape}; it takes (height, width, channels) or (height, width)")
        for name, value in (("num_features", num_features), ("num_samples", num_samples), ("batch_size", batch_size)):
            check_count(name, value)
        if not np.isfinite(image).all():
            raise ValueError("image has NaN or infinite pixels; it takes finite ones")
        image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        seed = self.random_state.randint(0, high=1000) if random_seed is None else random_seed
        colours = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image  # as segmenters take them
        segments = (segmentation_fn or quickshift_segmenter(kernel_size=4, random_state=seed))(colours)
        if segments.shape != image.shape[:2]:
            raise ValueError(f"segmentation_fn gave shape {segments.shape}; it takes {image.shape[:2]}")
        names, numbered = np.unique(segments, return_inverse=True)
        data = self.random_state.randint(0, 2, num_samples * len(names)).reshape(num_samples, len(names))
        data[0] = 1
        place = numbered.reshape(segments.shape)
        # Taken, not indexed, which would put the batch innermost in memory, and so in all that a network computes.
        outputs = np.concatenate(
            [
                classifier_fn(np.broadcast_to(image, (len(rows), *image.shape)), rows.take(place, axis=1))
                for rows in np.split(data.astype(np.int8), range(batch_size, num_samples, batch_size))
            ]
        )
        explained = list(labels) if top_labels is None else [int(i) for i in np.argsort(outputs[0])[::-1][:top_labels]]
        weights = self.kernel(pairwise_distances(data, data[:1], metric=distance_metric).ravel(), self.kernel_width)
        explanation = _explanation_class()(image, segments)
        explanation.top_labels = explained
        for label in explained:
            # A regressor that is passed in is fitted again for each label, as LIME does.
            fitted = (Ridge(alpha=1) if model_regressor is None else model_regressor).fit(
                data, outputs[:, label], sample_weight=weights
            )
            order = np.argsort(-np.abs(fitted.coef_), kind="stable")[:num_features]
            explanation.intercept[label] = fitted.intercept_
            explanation.local_exp[label] = [(names[i], fitted.coef_[i]) for i in order]
            explanation.score = fitted.score(data, outputs[:, label], sample_weight=weights)
            explanation.local_pred = fitted.predict(data[:1])
        return explanation


def _exponential(distances: np.ndarray, width: float) -> np.ndarray:
    return np.sqrt(np.exp(-(distances**2) / width**2))


def _explanation_class() -> Any:
    try:
        from lime.lime_image import ImageExplanation as Theirs
    except ImportError:
        return ImageExplanation
    return Theirs
