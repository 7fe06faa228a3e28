"""Any convolutional network as one that takes a mask, without training."""

import contextlib
import functools
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count
from paperworks.robustness.masking import rules as _rules  # noqa: F401 - fills the table of rules
from paperworks.robustness.masking.regions import Concat, Region
from paperworks.robustness.masking.tensor import (
    PADDINGS,
    MaskedTensor2d,
    Padding,
    Propagation,
    UnsupportedLayerError,
    check_mask,
    masked,
)

ModuleRule = Callable[[Any, MaskedTensor2d], Tensor]
_MODULE_RULES: dict[type[nn.Module], ModuleRule] = {}
_SPATIAL_WITHOUT_RULE = (
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Conv1d, nn.Conv3d, nn.MultiheadAttention,
    nn.PixelShuffle, nn.PixelUnshuffle, nn.Fold, nn.Unfold, nn.FractionalMaxPool2d, nn.MaxUnpool2d, nn.LPPool2d,
    nn.UpsamplingBilinear2d, nn.RNNBase,
)  # fmt: skip


def register_rule(module_type: type[nn.Module], fn: ModuleRule) -> None:
    """Say what layer masking makes of a type of module that mixes places in a way of its own.

    Parameters
    ----------
    module_type
        The type; its subclasses follow the same rule unless they have their own.
    fn
        ``fn(module, x)`` gets the module and its `MaskedTensor2d`, and returns another one, or a tensor without places.

    Raises
    ------
    TypeError
        For a type that is no module, or something that can't be called.

    Examples
    --------
    >>> class Checkerboard(torch.nn.Module):
    ...     def forward(self, x):
    ...         return torch.nn.functional.pixel_unshuffle(x, 2)
    >>> def rule(module, x):
    ...     return MaskedTensor2d(module(x.values), torch.nn.functional.max_pool2d(x.mask.float(), 2))
    >>> register_rule(Checkerboard, rule)
    >>> LayerMaskedModel(Checkerboard())(torch.ones(1, 1, 4, 4), torch.eye(4)[None] > 0).shape
    torch.Size([1, 4, 2, 2])
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise TypeError(f"module_type is {module_type!r}; it takes a subclass of torch.nn.Module")
    if not callable(fn):
        raise TypeError(f"fn is {fn!r}; it takes a function of a module and its masked feature maps")
    _MODULE_RULES[module_type] = fn


class LayerMaskedModel(nn.Module):
    """A network whose input can have hidden parts, which no layer sees: layer masking.

    The mask goes along with the activations. Before each convolution the hole is filled with a thin band of averaged
    neighbours, so that outputs at its border see ordinary values; after it an output is kept if any of its window is;
    global means are over kept places. Modules and functions have rules; see `MaskedTensor2d` and `register_rule`.

    Parameters
    ----------
    model
        Any convolutional network, best in evaluation mode. It isn't changed.
    padding
        ``neighbor``, the method; ``zero``, the mask alone; ``partial``, partial convolutions.
    depth
        Mask only the first convolutions, as many as this number, or all layers up to the end of the submodule of this
        name, and go on with the plain network; everything by default.
    check
        Look at once for modules that mix places and have no rule. What else has none raises when it is reached.
    concat
        What concatenations keep: ``union``, or ``majority`` for networks like DenseNet.
    renormalize
        Whether average pooling divides by the kept share of its window.

    Raises
    ------
    UnsupportedLayerError
        Where a layer has no rule, naming the module.
    ValueError
        For an unknown option, a name that no submodule has, or a mask that doesn't fit.

    Notes
    -----
    arXiv 2211.14646, section 3. Hidden pixels are replaced before anything else, so NaN may hide there. Modules with a
    rule of their own, and a named `depth`, are swapped in for the time of a call, which must then be the only one.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> images, mask = torch.rand(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    >>> mask[:, :, 2:5, 2:5] = 0  # 0 hides
    >>> model = LayerMaskedModel(network)
    >>> logits = model(images, mask)
    >>> images[:, :, 2:5, 2:5] = torch.nan
    >>> torch.equal(model(images, mask), logits)
    True
    """

    def __init__(
        self,
        model: nn.Module,
        padding: Padding = "neighbor",
        depth: int | str | None = None,
        check: bool = True,
        *,
        concat: Concat = "union",
        renormalize: bool = False,
    ) -> None:
        super().__init__()
        check_choice("padding", padding, PADDINGS)
        check_choice("concat", concat, ("union", "majority"))
        if isinstance(depth, str):
            check_choice("depth", depth, [name for name, _ in model.named_modules() if name])
        elif depth is not None:
            check_count("depth", depth)
        self.model = model
        self.padding, self.depth, self.concat, self.renormalize = padding, depth, concat, renormalize
        if check and depth is None:
            for name, module in model.named_modules():
                if isinstance(module, _SPATIAL_WITHOUT_RULE) and _rule_of(module) is None:
                    raise UnsupportedLayerError(f"module '{name}', {type(module).__name__}, has no rule for masks")
        self._last: Region | None = None

    def forward(self, x: Float[Tensor, "batch channels height width"], mask: Tensor | None = None) -> Tensor:
        """Return the network's output for images of which only what `mask` keeps is seen.

        Parameters
        ----------
        x
            Images, as the network takes them.
        mask
            (batch, 1, height, width) or (batch, height, width), True or 1 where kept; nothing is hidden without one.
            One image goes with many masks, and one mask with many images.

        Returns
        -------
        Tensor
            The network's output, one row for each image.
        """
        if mask is None:
            return self.model(x)
        if isinstance(mask, Tensor) and mask.ndim in (3, 4) and 1 in (len(x), len(mask)):
            n = len(mask) if len(x) == 1 else len(x)
            x, mask = x.expand(n, *x.shape[1:]), mask.expand(n, *mask.shape[1:])
        region = self._region(check_mask(mask, x))
        if region.full:
            return self.model(x)
        if any(m.training for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            warnings.warn(
                "the model is in training mode: its batch norms take statistics of hidden places too; call eval()",
                UserWarning,
                stacklevel=2,
            )
        convolutions = self.depth if isinstance(self.depth, int) else None
        propagation = Propagation(self.padding, self.concat, self.renormalize, convolutions)
        kept = torch.where(region.kept[:, None], x, 0).contiguous(memory_format=torch.channels_last)
        with self._naming_layers(), self._swapped(propagation):
            output = self.model(masked(kept, region, (2, 3), propagation))
        return output.values if isinstance(output, MaskedTensor2d) else output

    def _region(self, kept: Tensor) -> Region:
        """Return the region of a mask, which for the mask of the last call is known already."""
        last = self._last
        if last is None or last.kept.device != kept.device or not torch.equal(last.kept, kept):
            self._last = last = Region(kept.contiguous())
        return last

    @contextlib.contextmanager
    def _swapped(self, propagation: Propagation) -> Iterator[None]:
        """Give modules with rules of their own a forward that follows them."""
        swaps: dict[nn.Module, Callable[..., Any]] = {}
        for module in self.model.modules():
            if (found := _rule_of(module)) is not None:
                swaps[module] = functools.partial(_by_rule, found, module, module.forward)
        if isinstance(self.depth, str):
            last = self.model.get_submodule(self.depth)
            swaps[last] = functools.partial(_and_no_further, propagation, swaps.get(last, last.forward))
        own = {module: vars(module).get("forward") for module in swaps}
        try:
            for module, forward in swaps.items():
                module.forward = forward
            yield
        finally:
            for module, before in own.items():
                if before is None:
                    vars(module).pop("forward", None)
                else:
                    module.forward = before

    @contextlib.contextmanager
    def _naming_layers(self) -> Iterator[None]:
        """Say in an error about a layer which module of the network it was met in."""
        try:
            yield
        except UnsupportedLayerError as error:
            names = {id(module): name for name, module in self.model.named_modules()}
            frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
            where = [(names[id(module)], module) for module in frames if id(module) in names]
            name, module = where[-1] if where else ("", self.model)
            kind = type(module).__name__
            raise UnsupportedLayerError(f"module '{name}', {kind}: {error}") from error


def _rule_of(module: nn.Module) -> ModuleRule | None:
    return next((_MODULE_RULES[base] for base in type(module).__mro__ if base in _MODULE_RULES), None)


def _by_rule(fn: ModuleRule, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if len(args) == 1 and not kwargs and isinstance(args[0], MaskedTensor2d) and args[0].propagation.active:
        # Inside the rule the module is itself again.
        swapped = vars(module).pop("forward")
        try:
            return _same_way(fn(module, args[0]), args[0])
        finally:
            module.forward = swapped
    return forward(*args, **kwargs)


def _same_way(result: Any, x: MaskedTensor2d) -> Any:
    """Let maps made anew by a rule go on as those they came from."""
    if isinstance(result, MaskedTensor2d):
        result.propagation = x.propagation
    return result


def _and_no_further(propagation: Propagation, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    output = forward(*args, **kwargs)
    propagation.active = False
    return output.values if isinstance(output, MaskedTensor2d) else output


def neighbor_pad(
    x: Float[Tensor, "batch channels height width"], mask: Tensor, steps: int
) -> tuple[Float[Tensor, "batch channels height width"], Tensor]:
    """Fill a band around the kept region with means of its neighbours, and return it with the mask grown by the band.

    ``x <- x + (1 - m) box(x) / (box(m) + 1e-5)`` and ``m <- min(1, m + box(m))``, with sums over 3 x 3 places, `steps`
    times. Kept places never change; what is left is zero.

    Parameters
    ----------
    x
        Images or feature maps.
    mask
        (batch, 1, height, width) or (batch, height, width), True or 1 where kept.
    steps
        Width of the band; ``dilation (kernel - 1)`` is all that a convolution's kept outputs can see.

    Returns
    -------
    tuple[Tensor of shape (batch, channels, height, width), Tensor]
        The filled images, and the mask grown by the band.

    Raises
    ------
    ValueError
        For a mask that doesn't fit or has values other than 0 and 1, or a negative width.

    Examples
    --------
    >>> x = torch.tensor([[[[1.0, 3.0, 0.0, 0.0, 0.0]]]])
    >>> mask = torch.tensor([[[[1, 1, 0, 0, 0]]]])
    >>> filled, grown = neighbor_pad(x, mask, 2)
    >>> filled.round(decimals=3), grown
    (tensor([[[[1., 3., 3., 3., 0.]]]]), tensor([[[[1, 1, 1, 1, 0]]]]))
    """
    check_count("steps", steps, at_least=0)
    region = Region(check_mask(mask, x))
    batch, channels, height, width = x.shape
    rows = region.fill(x.permute(0, 2, 3, 1).reshape(-1, channels), steps)
    grown = region.kept.flatten().clone()
    for band in region.bands(steps):
        grown[band.rows] = True
    filled = rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return filled, grown.view(mask.shape).to(mask.dtype)
