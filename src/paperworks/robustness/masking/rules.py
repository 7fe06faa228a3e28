"""What each kind of layer makes of feature maps with a mask, by the name of its function (arXiv 2211.14646, section 3).

Values at hidden places are garbage between layers: only what mixes places cleans or fills them first. That gives the
outputs of masking after every layer, in fewer passes over memory.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.utils import _pair

from paperworks.robustness.masking.regions import Region, joined
from paperworks.robustness.masking.tensor import (
    MaskedTensor2d,
    UnsupportedLayerError,
    clean,
    common,
    masked_in,
    product,
    rule,
    spread,
)

Func = Callable[..., Any]
_LEAST_SHARE = 1e-8  # that a masked mean divides by, so that nothing kept gives zero; the official code adds it

# Convolutions and pooling


@rule("conv2d")
def conv2d(
    func: Func,
    x: MaskedTensor2d,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve with a filled band around the hole; the output is kept where any of its window is."""
    need_maps("conv2d", x)
    state = x.propagation
    kernel = (weight.shape[2], weight.shape[3])
    geometry = (kernel, stride, padding, dilation)
    pointwise = kernel == (1, 1) and _pair(stride) == (1, 1) and padding in (0, (0, 0), [0, 0], "valid", "same")
    if pointwise:
        y = x.like(func(plain_values(x), weight, bias, stride, padding, dilation, groups))
    elif state.padding == "partial":
        y = x.like(func(clean(x), weight, None, stride, padding, dilation, groups), x.region.convolved(*geometry))
        # A division at kept places alone: elsewhere the share may be zero, and values mean nothing.
        share = x.region.share(*geometry).to(y.dtype)
        scaled = plain_values(y) / torch.where(share > 0, share, 1)
        y = y.like(scaled if bias is None else scaled + bias[:, None, None])
    else:
        reach = max(d * (k - 1) for k, d in zip(kernel, _pair(dilation), strict=True))
        filled = clean(x, reach if state.padding == "neighbor" else 0)
        y = x.like(func(filled, weight, bias, stride, padding, dilation, groups), x.region.convolved(*geometry))
    if state.convolutions is None:
        return y
    state.convolutions -= 1
    if state.convolutions > 0:
        return y
    state.active = False
    return clean(y)


@rule("max_pool2d")
def max_pool2d(
    func: Func,
    x: MaskedTensor2d,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaskedTensor2d:
    """Take the greatest of kept values and the zeros of hidden ones."""
    need_maps("max_pool2d", x)
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    region = x.region.through(lambda m: functional.max_pool2d(m, *options), ("max", *map(str, options)))
    return x.like(functional.max_pool2d(clean(x), *options), region)


@rule("avg_pool2d")
def avg_pool2d(
    func: Func,
    x: MaskedTensor2d,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Take the mean with zeros for hidden values, or if asked for the mean of kept ones; over all of a map, always."""
    need_maps("avg_pool2d", x)
    options = (kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, divisor_override)

    def pool(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, *options)

    pooled = pool(clean(x))
    if pooled.shape[2:] == (1, 1) and _pair(kernel_size) == x.region.size:
        return pooled / kept_share(x)
    region = x.region.through(pool, ("mean", *map(str, options)))
    if x.propagation.renormalize:
        whole = torch.ones_like(x.region.kept[:1, None], dtype=pooled.dtype)
        share = pool(x.region.kept[:, None].to(pooled.dtype)) / pool(whole)
        pooled = pooled / torch.where(share > 0, share, 1)
    return x.like(pooled, region)


@rule("adaptive_avg_pool2d")
def adaptive_avg_pool2d(func: Func, x: MaskedTensor2d, output_size: Any) -> Tensor:
    """Take the mean of kept places; to more than one place, as the official code for AlexNet and VGG, with zeros."""
    need_maps("adaptive_avg_pool2d", x)
    pooled = func(clean(x), output_size)
    return pooled / kept_share(x) if pooled.shape[2:] == (1, 1) else pooled


@rule("adaptive_max_pool2d")
def adaptive_max_pool2d(func: Func, x: MaskedTensor2d, output_size: Any, return_indices: bool = False) -> Tensor:
    """Take the greatest kept value, 0 where nothing is kept."""
    need_maps("adaptive_max_pool2d", x)
    if _pair(output_size) != (1, 1):
        return functional.adaptive_max_pool2d(clean(x), output_size)
    return greatest(x, (2, 3), keepdim=True)


@rule("mean")
def mean(func: Func, x: MaskedTensor2d, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """Take the mean of kept places, or of channels."""
    dims = axes_of(x, dim)
    if not dims & set(x.axes):
        return along_channels(func, x, dims, keepdim, dim, keepdim, **kwargs)
    if not set(x.axes) <= dims or 0 in dims:
        raise UnsupportedLayerError(f"'mean' along {dim} of feature maps with places along {x.axes}")
    means = func(clean(x), tuple(dims), True, **kwargs) / spread_share(x)
    return means if keepdim else means.squeeze(tuple(dims))


@rule("amax")
def amax(func: Func, x: MaskedTensor2d, dim: Any = (), keepdim: bool = False) -> Tensor:
    """Take the greatest value of kept places, or of channels."""
    dims = axes_of(x, dim)
    if not dims & set(x.axes):
        return along_channels(func, x, dims, keepdim, dim, keepdim)
    if not set(x.axes) <= dims or 0 in dims:
        raise UnsupportedLayerError(f"'amax' along {dim} of feature maps with places along {x.axes}")
    return greatest(x, tuple(dims), keepdim)


# Layers that treat each place alone

ELEMENTWISE = (
    "relu", "relu6", "hardtanh", "silu", "gelu", "hardswish", "hardsigmoid", "leaky_relu", "prelu", "rrelu", "elu",
    "selu", "celu", "mish", "softplus", "softsign", "tanhshrink", "softshrink", "hardshrink", "logsigmoid",
    "sigmoid", "tanh", "threshold", "_threshold", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
    "feature_alpha_dropout", "local_response_norm", "add", "sub", "rsub", "__rsub__", "mul", "div", "true_divide",
    "__rdiv__", "__rtruediv__", "pow", "__rpow__", "square", "sqrt", "rsqrt", "reciprocal", "exp", "log", "log1p",
    "expm1", "abs", "neg", "sign", "erf", "clamp", "clip", "clamp_min", "clamp_max", "maximum", "minimum", "where",
    "lerp", "addcmul", "addcdiv", "__add__", "__radd__", "__iadd__", "__sub__", "__isub__", "__mul__", "__rmul__",
    "__imul__", "__truediv__", "__itruediv__", "__neg__", "__pow__", "clone", "contiguous", "detach", "to", "float",
    "half", "bfloat16", "double", "type", "type_as", "requires_grad_",
)  # fmt: skip


@rule(*ELEMENTWISE)
def elementwise(func: Func, *args: Any, **kwargs: Any) -> MaskedTensor2d:
    """Apply a function to each element; of several maps, what all of them keep is kept."""
    maps = list(masked_in(args, kwargs))
    y = func(*args, **kwargs)
    if any(y.shape != m.shape for m in maps):
        raise UnsupportedLayerError(f"'{func.__name__}' of feature maps that changes their shape to {tuple(y.shape)}")
    return maps[0].like(y, common(func, maps))


@rule("batch_norm")
def batch_norm(func: Func, x: MaskedTensor2d, *args: Any, **kwargs: Any) -> MaskedTensor2d:
    """Standardise with stored statistics; those of the batch, in training, are of zeros where hidden."""
    training = kwargs["training"] if "training" in kwargs else args[4]  # the sixth argument of both of its forms
    return x.like(func(clean(x) if training else x, *args, **kwargs))


@rule("softmax", "log_softmax", "normalize", "glu")
def over_channels(func: Func, x: MaskedTensor2d, *args: Any, **kwargs: Any) -> MaskedTensor2d:
    """Apply a function along an axis of channels."""
    # `normalize(x, p, dim)` has its axis third, the others second; without one it is 1 for it and the last for `glu`.
    place = 1 if func.__name__ == "normalize" else 0
    dim = kwargs.get("dim", args[place] if len(args) > place else 1 if place else -1)
    if axes_of(x, dim) & {0, *x.axes}:
        raise UnsupportedLayerError(f"'{func.__name__}' along {dim} of feature maps with places along {x.axes}")
    return x.like(func(x, *args, **kwargs))


@rule("layer_norm", "rms_norm", "linear")
def last_axis(func: Func, x: MaskedTensor2d, second: Any, *args: Any, **kwargs: Any) -> MaskedTensor2d:
    """Standardise or map the last axes, if they are channels."""
    width = 1 if func.__name__ == "linear" else len(second)
    if set(range(x.ndim - width, x.ndim)) & {0, *x.axes}:
        raise UnsupportedLayerError(f"'{func.__name__}' over the places of feature maps, axes {x.axes}")
    return x.like(func(x, second, *args, **kwargs))


@rule("group_norm")
def group_norm(
    func: Func,
    x: MaskedTensor2d,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> MaskedTensor2d:
    """Standardise groups of channels with the statistics of kept places."""
    need_maps("group_norm", x)
    batch, channels = x.shape[:2]
    groups = clean(x).reshape(batch, num_groups, -1)
    kept = x.region.kept.flatten(1)[:, None, :].expand(-1, channels // num_groups, -1).reshape(batch, 1, -1)
    count = kept.sum(2, keepdim=True).clamp_min(1)
    centred = groups - groups.sum(2, keepdim=True) / count
    variance = torch.where(kept, centred, 0).square().sum(2, keepdim=True) / count
    y = (centred * torch.rsqrt(variance + eps)).view(x.shape)
    scale = 1 if weight is None else weight[:, None, None]
    return x.like(y * scale + (0 if bias is None else bias[:, None, None]))


@rule("instance_norm")
def instance_norm(
    func: Func,
    x: MaskedTensor2d,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> MaskedTensor2d:
    """Standardise each channel with the statistics of kept places, or with stored ones."""
    if use_input_stats:
        return group_norm(func, x, x.shape[1], weight, bias, eps)
    return x.like(functional.batch_norm(plain_values(x), running_mean, running_var, weight, bias, False, momentum, eps))


# Layers that join, part or move maps


@rule("cat", "concat", "concatenate")
def cat(func: Func, tensors: Sequence[Tensor], dim: int = 0) -> MaskedTensor2d:
    """Join maps along channels; hidden values of one that the result keeps are zeros."""
    maps = list(masked_in(tensors))
    first = maps[0]
    if dim % first.ndim in (0, *first.axes):
        raise UnsupportedLayerError(f"'cat' along {dim} of feature maps with places along {first.axes}")
    common(func, maps)  # raises where their places differ
    everywhere = Region(torch.ones_like(first.region.kept))
    parts = [t.region if isinstance(t, MaskedTensor2d) else everywhere for t in tensors]
    region = joined(parts, first.propagation.concat)
    values = [clean(t) if isinstance(t, MaskedTensor2d) and t.region is not region else t for t in tensors]
    return first.like(func(values, dim), region)


@rule("chunk", "split", "split_with_sizes", "tensor_split")
def chunk(func: Func, x: MaskedTensor2d, sizes: Any, dim: int = 0) -> tuple[MaskedTensor2d, ...]:
    """Part the channels of maps."""
    if dim % x.ndim in (0, *x.axes):
        raise UnsupportedLayerError(f"'{func.__name__}' along {dim} of feature maps with places along {x.axes}")
    return tuple(x.like(part) for part in func(x, sizes, dim))


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(func: Func, x: MaskedTensor2d, groups: int) -> MaskedTensor2d:
    """Mix the order of channels."""
    need_maps("channel_shuffle", x)
    return x.like(func(x, groups))


@rule("__getitem__")
def getitem(func: Func, x: MaskedTensor2d, index: Any) -> MaskedTensor2d:
    """Take slices along any axes."""
    items = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(item, slice) for item in items) or len(x.axes) != 2:
        raise UnsupportedLayerError(f"indexing feature maps with {index!r}; slices alone keep their places")
    full = [*items, *[slice(None)] * (x.ndim - len(items))]
    places = tuple(full[axis] for axis in (0, *x.axes))
    if all(place == slice(None) for place in places):
        return x.like(func(x, index))
    inside = x.region.inside
    return x.like(func(x, index), Region(x.region.kept[places], None if inside is None else inside[places[1:]]))


@rule("pad")
def pad(func: Func, x: MaskedTensor2d, pad: Sequence[int], mode: str = "constant", value: Any = None) -> MaskedTensor2d:
    """Lay a border around maps, which stays as it is if it is constant and follows the mask if it mirrors the image."""
    need_maps("pad", x)
    left, right, top, bottom = amounts = (*pad, 0, 0, 0, 0)[:4]
    y = func(clean(x), pad, mode, value)
    if len(pad) > 6 or min(amounts) < 0:
        raise UnsupportedLayerError(f"'pad' of feature maps by {tuple(pad)}")
    return x.like(y, x.region.padded((left, right, top, bottom), mode) if any(amounts) else x.region)


@rule("interpolate")
def interpolate(
    func: Func,
    x: MaskedTensor2d,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    *args: Any,
    **kwargs: Any,
) -> MaskedTensor2d:
    """Resize maps by their nearest places."""
    need_maps("interpolate", x)
    if mode not in ("nearest", "nearest-exact"):
        raise UnsupportedLayerError(f"'interpolate' of feature maps by mode {mode!r}; by 'nearest' there is a rule")

    def resize(values: Tensor) -> Tensor:
        return functional.interpolate(values, size, scale_factor, mode, *args, **kwargs)

    return x.like(resize(clean(x)), x.region.through(resize, ("nearest", mode, str(size), str(scale_factor))))


@rule("permute")
def permute(func: Func, x: MaskedTensor2d, *dims: Any) -> MaskedTensor2d:
    """Move axes."""
    order = [d % x.ndim for d in (dims[0] if isinstance(dims[0], (tuple, list)) else dims)]
    axes = tuple(order.index(axis) for axis in x.axes)
    if order[0] or list(axes) != sorted(axes):
        raise UnsupportedLayerError(f"'permute' of feature maps to {tuple(order)}, which mixes batch, height and width")
    return x.like(func(x, *dims), axes=axes)


@rule("transpose", "swapaxes", "swapdims")
def transpose(func: Func, x: MaskedTensor2d, dim0: int, dim1: int) -> MaskedTensor2d:
    """Swap two axes."""
    order = list(range(x.ndim))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return permute(lambda x, *dims: x.permute(*dims), x, *order)


@rule("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view")
def reshape(func: Func, x: MaskedTensor2d, *args: Any, **kwargs: Any) -> Tensor:
    """Give maps another shape: the places stay together, or all of a map becomes one vector without a mask."""
    y = func(x, *args, **kwargs)
    if y.shape[:1] == x.shape[:1] and y.ndim == 2:
        return func(clean(x), *args, **kwargs)
    size = tuple(x.shape[axis] for axis in x.axes)
    before, adjacent = product(x.shape[: x.axes[0]]), x.axes[-1] - x.axes[0] == len(x.axes) - 1
    for start in range(1, y.ndim if y.shape[:1] == x.shape[:1] else 0):
        for places in (size, (product(size),)):
            end = start + len(places)
            if adjacent and tuple(y.shape[start:end]) == places and product(y.shape[:start]) == before:
                return x.like(y, axes=tuple(range(start, end)))
    raise UnsupportedLayerError(
        f"'{func.__name__}' of feature maps to {tuple(y.shape)}, which mixes places and channels"
    )


# What only looks


@rule(
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "is_contiguous", "element_size",
    "get_device", "is_floating_point", "is_complex", "__len__", "__hash__",
)  # fmt: skip
def query(func: Func, *args: Any, **kwargs: Any) -> Any:
    """Answer what isn't about values."""
    return func(*args, **kwargs)


@rule("__get__")
def attribute(func: Func, x: MaskedTensor2d, *args: Any) -> Any:
    """Answer what isn't about values, such as a shape."""
    found = func(x, *args)
    if isinstance(found, Tensor):
        raise UnsupportedLayerError(f"the attribute '{getattr(func, '__self__', func)!r}' of feature maps")
    return found


# What rules share


def plain_values(x: MaskedTensor2d) -> Tensor:
    """Return the values as they are, garbage included."""
    return x.as_subclass(Tensor)


def need_maps(name: str, x: MaskedTensor2d) -> None:
    """Raise if the maps aren't laid out as batch, channels, height, width."""
    if x.axes != (2, 3) or x.ndim != 4:
        raise UnsupportedLayerError(f"'{name}' of feature maps with places along {x.axes}; it takes them along (2, 3)")


def kept_share(x: MaskedTensor2d) -> Tensor:
    """Return what the mean over a map of zeros where hidden is divided by, shaped for (batch, channels, 1, 1)."""
    return x.region.fraction.clamp_min(_LEAST_SHARE).to(x.dtype)[:, None, None, None]


def spread_share(x: MaskedTensor2d) -> Tensor:
    """Return the same for any axes."""
    return x.region.fraction.clamp_min(_LEAST_SHARE).to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def greatest(x: MaskedTensor2d, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    """Return the greatest of kept values, 0 where there are none."""
    best = torch.where(spread(x.region.kept, x), plain_values(x), -torch.inf).amax(dims, keepdim)
    return torch.where(best.isneginf(), 0, best)


def axes_of(x: MaskedTensor2d, dim: Any) -> set[int]:
    """Return axes as a set of non-negative ones."""
    if dim is None or dim == ():
        return set(range(x.ndim))
    return {d % x.ndim for d in ([dim] if isinstance(dim, int) else dim)}


def along_channels(
    func: Func, x: MaskedTensor2d, dims: set[int], keepdim: bool, *args: Any, **kwargs: Any
) -> MaskedTensor2d:
    """Reduce axes of channels."""
    if not keepdim or 0 in dims:
        raise UnsupportedLayerError(f"'{func.__name__}' along {sorted(dims)} of feature maps; keepdim=True has a rule")
    return x.like(func(x, *args, **kwargs))
