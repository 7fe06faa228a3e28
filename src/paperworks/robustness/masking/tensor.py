"""Feature maps that carry their mask, and rules of what each PyTorch function makes of the two."""

import functools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paperworks.core.validation import check_choice
from paperworks.robustness.masking.regions import Concat, Region

Padding = Literal["neighbor", "zero", "partial"]
PADDINGS: tuple[Padding, ...] = ("neighbor", "zero", "partial")
Mask = Bool[Tensor, "batch 1 height width"] | Float[Tensor, "batch 1 height width"]


class UnsupportedLayerError(NotImplementedError):
    """A layer that mixes places and whose treatment of a mask isn't known; `register_rule` makes one known."""


@dataclass
class Propagation:
    """How masks travel through one forward pass, and whether they still do."""

    padding: Padding = "neighbor"
    concat: Concat = "union"
    renormalize: bool = False
    convolutions: int | None = None  # left to be masked; None for all
    active: bool = True


Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}  # by the name of the function, which methods, in-place forms and modules share


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of PyTorch functions: it gets the function, then its arguments."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class MaskedTensor2d(Tensor):
    """Feature maps with a mask of the places that are kept: 1 is kept and 0 hidden.

    PyTorch functions and modules take it as they take a tensor, and give another one, whose mask follows the paper's
    rule for the layer. Values at hidden places mean nothing and never reach those at kept ones; `values` shows zeros
    there. What has no more places, such as a global mean, is an ordinary tensor.

    Parameters
    ----------
    x
        Images or feature maps.
    mask
        What is seen, made of zeros and ones or truth values: 1 where kept. The official code's masks are the opposite.
    padding
        What convolutions see of hidden places: ``neighbor``, means of neighbours in a thin band, the method;
        ``zero``, zeros; ``partial``, zeros with the output divided by the kept share of the window.
    concat
        What a concatenation keeps: ``union``, what any part does, for branches of one depth (SqueezeNet, Inception);
        ``majority``, what more than half do, for the lists of features of DenseNet.
    renormalize
        Whether average pooling divides by the kept share of its window.

    Raises
    ------
    ValueError
        For a mask of other values or of another size than the maps, or an unknown mode.

    Notes
    -----
    Algorithm 1 and section 3 of arXiv 2211.14646. A band of ``dilation (kernel - 1)`` neighbours gives the same kept
    outputs as the official one of `kernel`, since no kept output sees further.

    Examples
    --------
    >>> mask = torch.ones(1, 1, 5, 5)
    >>> mask[..., 3:] = 0
    >>> x = MaskedTensor2d(torch.ones(1, 1, 5, 5), mask)
    >>> y = torch.nn.AvgPool2d(2)(x)
    >>> y.values[0, 0, 0], y.mask[0, 0, 0]
    (tensor([1.0000, 0.5000]), tensor([True, True]))
    >>> x.mean((2, 3))  # over the kept places
    tensor([[1.]])
    """

    region: Region
    axes: tuple[int, ...]  # of height and width, or of both as one
    propagation: Propagation

    @staticmethod
    def __new__(
        cls,
        x: Float[Tensor, "batch channels height width"],
        mask: Tensor,
        *,
        padding: Padding = "neighbor",
        concat: Concat = "union",
        renormalize: bool = False,
    ) -> "MaskedTensor2d":
        """Make it."""
        check_choice("padding", padding, PADDINGS)
        check_choice("concat", concat, ("union", "majority"))
        region = Region(check_mask(mask, x))
        # `where` and not a product: what is hidden may be NaN.
        kept = torch.where(region.kept[:, None], x, 0)
        return masked(kept, region, (2, 3), Propagation(padding, concat, renormalize))

    @property
    def mask(self) -> Bool[Tensor, "..."]:
        """True where kept, of size 1 along all axes without places."""
        with torch._C.DisableTorchFunctionSubclass():
            return spread(self.region.kept, self)

    @property
    def values(self) -> Tensor:  # type: ignore[override]
        """The values as an ordinary tensor, zero where hidden."""
        with torch._C.DisableTorchFunctionSubclass():
            return clean(self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"MaskedTensor2d({self.values!r}, kept {self.region.fraction.mean():.0%})"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Apply the rule of a function."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            found = RULES.get(name)
            if found is None and name.endswith("_") and not name.endswith("__"):
                found = RULES.get(name[:-1])
            if found is None:
                raise UnsupportedLayerError(f"no rule for '{name}' of a feature map with a mask")
            if not next(iter(masked_in(args, kwargs))).propagation.active:
                return func(*plain(args), **plain(kwargs))
            result = found(func, *args, **kwargs)
            target = args[0]
            if name.endswith("_") and not name.endswith("__") and isinstance(target, MaskedTensor2d):
                target.region = result.region
                return target
            return result

    def like(
        self, values: Tensor, region: Region | None = None, axes: tuple[int, ...] | None = None
    ) -> "MaskedTensor2d":
        """Return other values with the same mask or another.

        Parameters
        ----------
        values
            Values that fit the mask, of any number of channels.
        region
            The mask, by default this one's.
        axes
            Axes of height and width, by default this one's.

        Returns
        -------
        MaskedTensor2d
            The values with their mask.
        """
        return masked(
            values, self.region if region is None else region, self.axes if axes is None else axes, self.propagation
        )


def masked(values: Tensor, region: Region, axes: tuple[int, ...], propagation: Propagation) -> MaskedTensor2d:
    """Return values with a mask that is known to fit."""
    result = values.as_subclass(MaskedTensor2d)
    result.region, result.axes, result.propagation = region, axes, propagation
    return result


def check_mask(mask: Tensor, x: Tensor) -> Bool[Tensor, "batch height width"]:
    """Return a mask as truth values without its channel if it fits the maps, else raise ValueError."""
    if not isinstance(x, Tensor) or x.ndim != 4:
        raise ValueError(f"x is {_kind(x)}; it takes a tensor of shape (batch, channels, height, width)")
    if not isinstance(mask, Tensor) or mask.ndim not in (3, 4) or (mask.ndim == 4 and mask.shape[1] != 1):
        raise ValueError(f"mask is {_kind(mask)}; it takes a tensor of shape (batch, 1, height, width)")
    flat = mask[:, 0] if mask.ndim == 4 else mask
    if flat.shape[1:] != x.shape[2:] or len(flat) != len(x):
        raise ValueError(f"mask has shape {tuple(mask.shape)}; it takes those of x, {tuple(x.shape)}, with 1 channel")
    if flat.dtype == torch.bool:
        return flat
    kept = flat != 0
    if not torch.equal(kept.to(flat.dtype), flat):
        bad = int((kept.to(flat.dtype) != flat).sum())
        raise ValueError(f"mask has {bad} elements other than 0 and 1; it takes 1 where kept and 0 where hidden")
    return kept


def _kind(x: object) -> str:
    return f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"{type(x).__name__}"


def spread(flat: Tensor, x: MaskedTensor2d) -> Tensor:
    """Give a tensor over batch, height and width the axes of the maps, of size 1 where it doesn't vary."""
    shape = [1] * x.ndim
    shape[0] = len(flat)
    for axis in x.axes:
        shape[axis] = x.shape[axis]
    return flat.view(shape)


def clean(x: MaskedTensor2d, bands: int = 0) -> Tensor:
    """Return the values as an ordinary tensor: zero where hidden, but for the first `bands` bands."""
    plain_x = x.as_subclass(Tensor)
    if x.region.full:
        return plain_x
    if x.axes != (2, 3):
        return torch.where(spread(x.region.hidden, x), 0, plain_x)
    batch, channels, height, width = x.shape
    rows = x.region.fill(plain_x.permute(0, 2, 3, 1).reshape(-1, channels), bands)
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def masked_in(*containers: Any) -> Iterable[MaskedTensor2d]:
    """Find the masked maps among arguments."""
    for item in containers:
        if isinstance(item, MaskedTensor2d):
            yield item
        elif isinstance(item, (tuple, list)):
            yield from masked_in(*item)
        elif isinstance(item, dict):
            yield from masked_in(*item.values())


def plain(item: Any) -> Any:
    """Return arguments with ordinary tensors for masked maps."""
    if isinstance(item, MaskedTensor2d):
        return clean(item)
    if isinstance(item, (tuple, list)):
        return (list if isinstance(item, list) else tuple)(plain(i) for i in item)
    return {k: plain(v) for k, v in item.items()} if isinstance(item, dict) else item


def common(func: Callable[..., Any], maps: list[MaskedTensor2d]) -> Region:
    """Return what all of several maps keep, if they have their places on the same axes."""
    if any(m.axes != maps[0].axes or m.region.size != maps[0].region.size for m in maps):
        raise UnsupportedLayerError(f"'{func.__name__}' of feature maps whose places differ")
    return functools.reduce(Region.intersection, [m.region for m in maps])


def product(sizes: Iterable[int]) -> int:
    """Multiply sizes."""
    return functools.reduce(operator.mul, sizes, 1)
