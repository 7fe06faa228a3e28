"""How well a way of removing parts of an image works: removal curves, use of the hole's shape, alignment, linearity."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.robustness.masking.removal import MaskedImageClassifier, Removal
from paperworks.robustness.masking.segments import Segmenter, keep_segments, segment_sums

Order = Literal["random", "most-salient", "least-salient"]
FRACTIONS = tuple(k / 10 for k in range(11))


def missingness_curves(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, " n"],
    segmenter: Segmenter,
    order: Order = "random",
    fractions: Sequence[float] = FRACTIONS,
    method: Removal = "neighbor",
    *,
    saliency: Float[Tensor, "n height width"] | None = None,
    similarity: Float[Tensor, "classes classes"] | None = None,
    random_state: int = 0,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Remove more and more segments of images and follow what the network says.

    Parameters
    ----------
    model
        Takes images in [0, 1] and returns logits.
    images, labels
        Images in [0, 1] with their classes.
    segmenter
        From an image (height, width, channels) to its segments; see `grid_segmenter`.
    order
        In which segments go: ``random``, or by the mean `saliency` of their pixels.
    fractions
        Fractions of the segments that are removed.
    method
        How; see `MaskedImageClassifier`.
    saliency
        A map for each image, needed for an order by it.
    similarity
        Similarity of classes to each other, such as WordNet's, for one more curve.
    random_state
        Seed of the random order, which is thus the same for every method.
    batch_size
        Images in one call of the model.

    Returns
    -------
    dict[str, ndarray]
        For each fraction ``accuracy``; ``unchanged``, the share of predictions that are the same as without removal;
        ``entropy`` of the distribution of predicted classes over the images, in nats; ``similarity`` of the prediction
        to the label if asked for; and each one's mean over fractions, ``accuracy_auc`` and so on; and ``fraction``.

    Raises
    ------
    ValueError
        For labels of another number than images, fractions outside [0, 1], or a missing saliency.

    Notes
    -----
    Section 4 of arXiv 2211.14646.

    Examples
    --------
    >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # the colour is the class
    >>> images, labels = torch.eye(3)[..., None, None].expand(3, 3, 8, 8), torch.arange(3)
    >>> from paperworks.robustness import grid_segmenter
    >>> missingness_curves(network, images, labels, grid_segmenter(4), fractions=(0, 0.5))["accuracy"]
    array([1., 1.])
    """
    check_choice("order", order, ("random", "most-salient", "least-salient"))
    if len(labels) != len(images):
        raise ValueError(f"labels has {len(labels)} elements; it takes one for each of the {len(images)} images")
    removed = [check_number("fractions", fraction, ge=0, le=1) for fraction in fractions]
    if (saliency is None) == (order != "random"):
        raise ValueError(
            f"saliency is {'missing' if saliency is None else 'given'} with order {order!r}; "
            "it takes maps for an order by saliency, and none for another"
        )
    segments = torch.stack([_numbered(segmenter, image) for image in images])
    counts = segments.flatten(1).amax(1) + 1
    ranks = _ranks(segments, counts, order, saliency, random_state)
    classifier = MaskedImageClassifier(model, method, batch_size)
    with torch.no_grad():
        whole = classifier(images, torch.ones(1, 1, *images.shape[2:], dtype=torch.bool))
        logits = [
            classifier(images, keep_segments(segments, ranks >= torch.round(f * counts)[:, None])) if f else whole
            for f in removed
        ]
    predicted = torch.stack([part.argmax(1) for part in logits])
    frequencies = functional.one_hot(predicted, whole.shape[1]).double().mean(1)
    curves = {
        "accuracy": (predicted == labels).double().mean(1),
        "unchanged": (predicted == whole.argmax(1)).double().mean(1),
        "entropy": torch.special.entr(frequencies).sum(1),
    }
    if similarity is not None:
        curves["similarity"] = similarity[predicted, labels].double().mean(1)
    found = {name: curve.numpy() for name, curve in curves.items()}
    return {
        "fraction": np.array(removed),
        **found,
        **{f"{name}_auc": np.array(curve.mean()) for name, curve in found.items()},
    }


def _numbered(segmenter: Segmenter, image: Float[Tensor, "channels h w"]) -> Int64[Tensor, "h w"]:
    segments = segmenter(image.permute(1, 2, 0).numpy())
    return torch.from_numpy(np.unique(segments, return_inverse=True)[1].reshape(segments.shape))


def _ranks(
    segments: Int64[Tensor, "n h w"],
    counts: Int64[Tensor, " n"],
    order: Order,
    saliency: Tensor | None,
    random_state: int,
) -> Int64[Tensor, "n segments"]:
    """Return the place of each segment in the order of removal; numbers that an image doesn't use come last."""
    most = int(counts.max())
    if saliency is None:
        score = torch.rand(len(segments), most, generator=torch.Generator().manual_seed(random_state))
    else:
        size = segment_sums(torch.ones_like(saliency), segments, most)
        score = segment_sums(saliency, segments, most) / size.clamp_min(1)
        score = score if order == "most-salient" else -score
    score = score.masked_fill(torch.arange(most) >= counts[:, None], -torch.inf)
    return score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def broken_mask(mask: Bool[Tensor, "batch 1 height width"]) -> Bool[Tensor, "batch 1 height width"]:
    """Swap the halves of masks, top with bottom and left with right: the same area in another shape.

    Parameters
    ----------
    mask
        What is kept, of shape (batch, 1, height, width).

    Returns
    -------
    Tensor of shape (batch, 1, height, width)
        Masks of the same shape and area.

    Examples
    --------
    >>> broken_mask(torch.tensor([[[[True, False], [False, False]]]]))
    tensor([[[[False, False],
              [False,  True]]]])
    """
    return mask.roll((mask.shape[2] // 2, mask.shape[3] // 2), (2, 3))


def shape_bias(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, " n"],
    objects: Bool[Tensor, "n 1 height width"],
    method: Removal = "neighbor",
    batch_size: int = 64,
) -> dict[str, float]:
    """Measure how much of a class the shape of a hole tells: accuracy with object-shaped holes and with broken ones.

    Parameters
    ----------
    model
        Takes images in [0, 1] and returns logits.
    images, labels
        Images in [0, 1] and the classes of their objects.
    objects
        True on the object, which is removed.
    method, batch_size
        As in `MaskedImageClassifier`.

    Returns
    -------
    dict[str, float]
        ``object``, with the object removed; ``broken``, with the `broken_mask` removed instead; ``gap``, their
        difference; and ``ratio``, object / broken, infinite if nothing is right with broken holes.

    Notes
    -----
    What the broken hole leaves of an object helps too: give images without objects to measure the hole's shape alone.

    Examples
    --------
    >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> objects = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    >>> objects[..., :2, :2] = True
    >>> images = torch.cat([torch.full((1, 1, 4, 4), 0.5), objects.float()], dim=1)  # class 1 where the object is
    >>> shape_bias(network, images, torch.tensor([1]), objects)["object"]
    0.0
    """
    classifier = MaskedImageClassifier(model, method, batch_size)
    with torch.no_grad():
        whole, broken = (
            float((classifier(images, ~hole).argmax(1) == labels).double().mean())
            for hole in (objects, broken_mask(objects))
        )
    ratio = whole / broken if broken else float("inf")
    return {"object": whole, "broken": broken, "gap": whole - broken, "ratio": ratio}


def segment_alignment(
    weights: Float[Tensor, "batch segments"],
    segments: Int64[Tensor, "batch height width"],
    objects: Bool[Tensor, "batch height width"],
) -> Float[Tensor, " batch"]:
    """Compare explanations with the object: the cosine of the weights with each segment's excess of object pixels.

    ``w . g / (|w| |g|)`` with ``g_i`` the sum over segment i of the object's mask less its mean; 0 for zero weights.

    Parameters
    ----------
    weights
        Weights of the segments, by number.
    segments
        The number of each pixel's segment.
    objects
        True on the object.

    Returns
    -------
    Tensor of shape (batch,)
        One cosine for each image.

    Examples
    --------
    >>> segments = torch.tensor([[[0, 1, 2]]])
    >>> segment_alignment(torch.tensor([[2.0, -1.0, -1.0]]), segments, segments == 0)
    tensor([1.])
    """
    excess = objects.to(weights.dtype)
    excess = excess - excess.mean((1, 2), keepdim=True)
    return functional.cosine_similarity(weights, segment_sums(excess, segments, weights.shape[1]))


def top_segments(
    weights: Float[Tensor, "batch segments"], segments: Int64[Tensor, "batch height width"], k: int = 20
) -> Bool[Tensor, "batch 1 height width"]:
    """Return the places of the `k` segments with the greatest weights.

    Parameters
    ----------
    weights
        Weight of each segment, of shape (batch, segments).
    segments
        Number of the segment at each place, of shape (batch, height, width).
    k
        How many segments to keep.

    Returns
    -------
    Tensor of shape (batch, 1, height, width)
        True at each place of these segments.

    Examples
    --------
    >>> top_segments(torch.tensor([[0.1, 0.9]]), torch.tensor([[[0, 1]]]), k=1)
    tensor([[[[False,  True]]]])
    """
    check_count("k", k)
    chosen = torch.zeros(weights.shape, dtype=torch.bool)
    chosen.scatter_(1, weights.topk(min(k, weights.shape[1]), dim=1).indices, True)
    return keep_segments(segments, chosen)


def jaccard(a: Bool[Tensor, " batch *places"], b: Bool[Tensor, " batch *places"]) -> Float[Tensor, " batch"]:
    """Return the share of places in both sets of those in either, 1 for two empty sets.

    Parameters
    ----------
    a, b
        Sets of places, of shape (batch, ...).

    Returns
    -------
    Tensor of shape (batch,)
        One share from 0 to 1 for each pair.

    Examples
    --------
    >>> jaccard(torch.tensor([[True, True, False]]), torch.tensor([[False, True, False]]))
    tensor([0.5000])
    """
    both, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def linearity(
    features: Callable[[Tensor, Tensor], Tensor],
    images: Float[Tensor, "n channels height width"],
    segments: Int64[Tensor, "n height width"],
    generator: torch.Generator,
    patches: int = 4,
) -> dict[str, float]:
    """Compare the features of random patches seen together with the sum of those seen one by one.

    Parameters
    ----------
    features
        ``features(images, mask)``, such as a `MaskedImageClassifier` of a network without its classifier.
    images
        Images, as `features` takes them.
    segments
        The number of each pixel's segment.
    generator
        Draws the patches of each image among its segments.
    patches
        Number of patches.

    Returns
    -------
    dict[str, float]
        Means over images of ``cosine`` and of ``distance``, the norm of the difference relative to the features of all.

    Raises
    ------
    ValueError
        Where an image has fewer segments than `patches`.

    Examples
    --------
    >>> from paperworks.robustness import grid_segments
    >>> images, segments = torch.rand(2, 3, 8, 8), grid_segments(8, 8, side=4).expand(2, -1, -1)
    >>> sums = lambda x, mask: (x * mask).sum((2, 3))
    >>> round(linearity(sums, images, segments, torch.Generator().manual_seed(0))["cosine"], 5)
    1.0
    """
    check_count("patches", patches)
    counts = segments.flatten(1).amax(1) + 1
    if int(counts.min()) < patches:
        raise ValueError(f"segments has an image of {int(counts.min())} segments; it takes at least patches, {patches}")
    score = torch.rand(len(segments), int(counts.max()), generator=generator)
    score = score.masked_fill(torch.arange(score.shape[1]) >= counts[:, None], -1)
    chosen = score.topk(patches, dim=1).indices
    masks = chosen[:, :, None, None] == segments[:, None]  # one for each patch
    with torch.no_grad():
        total = sum((features(images, masks[:, k, None]) for k in range(patches)), start=torch.zeros(()))
        together = features(images, masks.any(1, keepdim=True))
    distance = (total - together).norm(dim=1) / together.norm(dim=1).clamp_min(1e-8)
    return {
        "cosine": float(functional.cosine_similarity(total, together).mean()),
        "distance": float(distance.mean()),
    }
