"""Ways to remove a part of an image from what a classifier sees: layer masking, or paint."""

import contextlib
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_count, check_number
from paperworks.robustness.masking.model import LayerMaskedModel
from paperworks.robustness.masking.tensor import PADDINGS, Padding, check_mask

Paint = Literal["black", "grey", "mean", "blur-grey"]
PAINTS: tuple[Paint, ...] = get_args(Paint)
Removal = Padding | Paint | tuple[float, ...]
_GREY = (0.485, 0.456, 0.406)  # the mean colour of ImageNet


def paint(
    images: Float[Tensor, "batch channels height width"], mask: Tensor, fill: Paint | tuple[float, ...] = "grey"
) -> Float[Tensor, "batch channels height width"]:
    """Paint over the hidden parts of images, the baseline that layer masking replaces.

    Parameters
    ----------
    images
        Values in [0, 1].
    mask
        (batch, 1, height, width) or (batch, height, width), True or 1 where kept.
    fill
        ``black``; ``grey``, the mean colour of ImageNet (0.449 for images that haven't three channels); ``mean``, each
        image's own mean colour; ``blur-grey``, grey whose edge is blurred inwards (5 x 5, standard deviation 1); or a
        colour with a number for each channel.

    Returns
    -------
    Tensor of shape (batch, channels, height, width)
        Painted images of the same shape.

    Raises
    ------
    ValueError
        For an unknown fill, a colour of another length, or a mask that doesn't fit.

    Examples
    --------
    >>> paint(torch.ones(1, 1, 1, 3), torch.tensor([[[1, 0, 1]]]), (0.25,))
    tensor([[[[1.0000, 0.2500, 1.0000]]]])
    """
    kept = check_mask(mask, images)[:, None]
    channels = images.shape[1]
    if fill == "mean":
        colour = images.mean((2, 3), keepdim=True)
    elif fill == "black":
        colour = images.new_zeros(1, 1, 1, 1)
    elif fill in ("grey", "blur-grey"):
        grey = _GREY if channels == len(_GREY) else (sum(_GREY) / len(_GREY),) * channels
        colour = images.new_tensor(grey)[:, None, None]
    elif isinstance(fill, tuple) and len(fill) == channels:
        colour = images.new_tensor([check_number("fill", value) for value in fill])[:, None, None]
    else:
        raise ValueError(f"fill is {fill!r}; it takes {', '.join(map(repr, PAINTS))} or a colour of {channels} numbers")
    painted = torch.where(kept, images, colour)
    return torch.where(kept, images, _blurred(painted)) if fill == "blur-grey" else painted


def _blurred(images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
    line = torch.exp(-0.5 * torch.arange(-2.0, 3.0, device=images.device).square())
    line = (line / line.sum()).to(images.dtype)
    channels = images.shape[1]
    kernel = torch.outer(line, line).expand(channels, 1, 5, 5)
    return functional.conv2d(functional.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)


class MaskedImageClassifier:
    """A classifier of images with hidden parts, removed in a way of one's choice, for explainers and audits.

    Parameters
    ----------
    model
        Takes images in [0, 1], which it standardises itself, and returns logits.
    method
        ``neighbor`` (layer masking), ``zero`` or ``partial``, as `LayerMaskedModel` takes them; or a paint or colour,
        as `paint` takes them.
    batch_size
        Images in one call of the model.

    Raises
    ------
    ValueError
        For an unknown method.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> classifier = MaskedImageClassifier(network)
    >>> image, mask = torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8)
    >>> torch.allclose(classifier(image, mask), network(image))
    True

    Captum perturbs the input it is given, so give it the mask, and the image as the argument beside it:

    >>> from captum.attr import FeatureAblation  # doctest: +SKIP
    >>> ablation = FeatureAblation(classifier.of_mask)  # doctest: +SKIP
    >>> ablation.attribute(mask, 0.0, target=3, additional_forward_args=(image,))  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, method: Removal = "neighbor", batch_size: int = 64) -> None:
        self.batch_size = check_count("batch_size", batch_size)
        self.method = method
        self._model = model
        self._grey: bool | None = None  # whether the network takes one channel; not known before it is asked
        if method in PADDINGS:
            self._forward: Callable[[Tensor, Tensor], Tensor] = LayerMaskedModel(model, method)
        elif method in PAINTS or isinstance(method, tuple):
            self._forward = lambda images, mask: model(paint(images, mask, method))
        else:
            takes = ", ".join(map(repr, (*PADDINGS, *PAINTS)))
            raise ValueError(f"method is {method!r}; it takes one of {takes}, or a colour")

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], masks: Tensor
    ) -> Float[Tensor, "n classes"]:
        """Return the logits of images seen through masks; one image goes with many masks and one mask with many images.

        Parameters
        ----------
        images
            Values in [0, 1].
        masks
            (batch, 1, height, width) or (batch, height, width), True or 1 where kept.
        """
        n = max(len(images), len(masks))
        images, masks = images.expand(n, *images.shape[1:]), masks.expand(n, *masks.shape[1:])
        parts = zip(images.split(self.batch_size), masks.split(self.batch_size), strict=True)
        return torch.cat([self._forward(image, mask) for image, mask in parts])

    def of_mask(
        self, masks: Tensor, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "n classes"]:
        """Return the same with the mask first: the function that Captum's perturbations take.

        Parameters
        ----------
        masks
            What is kept, one mask for each row of the output.
        images
            Images of shape (batch, channels, height, width).

        Returns
        -------
        Tensor of shape (n, classes)
            Logits of shape (n, classes).
        """
        return self(images, masks)

    def predict_proba(self, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Return probabilities of images (n, height, width, channels) and masks (n, height, width), as LIME takes them.

        Bytes are scaled to [0, 1]. A grey image, which LIME repeats in three channels, goes to a network that takes
        one channel as it was. The network gets its own dtype and device.

        Returns
        -------
        ndarray
            Probabilities of shape (n, classes), in float64.

        Raises
        ------
        ValueError
            For an image in colours where the network takes one channel.
        """
        scale = 255 if images.dtype == np.uint8 else 1
        different = images[:1] if images.strides[0] == 0 else images  # one image seen through many masks
        weight = next((p for p in self._model.parameters() if p.is_floating_point()), torch.empty(0))
        tensor = torch.from_numpy(np.array(different)).permute(0, 3, 1, 2).to(weight).contiguous() / scale
        if tensor.shape[1] == 3 and self._takes_one_channel(tensor):
            if not torch.equal(tensor, tensor[:, :1].expand_as(tensor)):
                raise ValueError("images has three channels that differ; the network takes one, as of a grey image")
            tensor = tensor[:, :1].contiguous()
        with torch.no_grad():
            return self(tensor, torch.from_numpy(masks).to(tensor.device)).softmax(1).double().cpu().numpy()

    def _takes_one_channel(self, images: Tensor) -> bool:
        if self._grey is None:
            self._grey = False
            with torch.no_grad():
                try:
                    self._model(images[:1])
                except RuntimeError:  # of shapes that don't fit
                    with contextlib.suppress(RuntimeError):
                        self._model(images[:1, :1])
                        self._grey = True
        return self._grey
