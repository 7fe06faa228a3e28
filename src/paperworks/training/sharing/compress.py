"""Puts shared layers into a network in place of its dense ones, and dense ones back."""

from collections.abc import Collection, Iterable
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from paperworks.core.validation import check_choice, check_count, check_finite, check_number
from paperworks.training.pruning.masks import copied
from paperworks.training.sharing.maps import Mapping
from paperworks.training.sharing.modules import SharedConv2d, SharedEmbedding, SharedLayer, SharedLinear, usual_std
from paperworks.training.sharing.parameter import Scaler, SharedParameter

Scope = Literal["global", "local"]
COMPRESSIBLE: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d, nn.Embedding)


class Use(NamedTuple):
    """A weight, the layers that use it, and under which names."""

    weight: nn.Parameter
    layers: dict[str, nn.Module]


def compress_model(
    model: nn.Module,
    compression: float,
    *,
    mapping: Mapping = "randomfold",
    scope: Scope = "global",
    include: tuple[type[nn.Module], ...] = COMPRESSIBLE,
    exclude: Collection[str | nn.Module] = (),
    min_size: int = 0,
    scaler: Scaler = "v1",
    init_std: float = 0.04,
    init_from_dense: bool = False,
    block: tuple[int, int] = (32, 32),
    cache: bool = False,
    legacy_scale: bool = False,
    recompute: bool = False,
    random_state: int = 0,
) -> nn.Module:
    r"""Replace the weights of a network by signed, scaled copies of the entries of a short array, in place.

    Weights of linear layers, convolutions and embeddings are shared; biases, norms and what is frozen stay as they are,
    and a weight that several layers use stays one. Each weight begins with the standard deviation that it has now, or
    with one over the root of its inputs where that is 0. Layers stay dense that compute with more than a weight and a
    bias, as parametrised and pruned ones do, or by a `forward` of their own; so does the joint projection of attention.
    Make the optimiser afterwards. The array is the parameter `store.values`: a vector, though made of weights, so
    recipes that spare vectors from weight decay should count it with the matrices. Every shared layer holds the array,
    so its names repeat in a state dict as those of tied weights do, while the storage is one.

    Parameters
    ----------
    model
        The network. Where it is itself a layer to compress, only what is returned is compressed.
    compression
        Weights for each stored number, at least 1.
    mapping, scaler, init_std, block, cache, legacy_scale, recompute, random_state
        As in `SharedParameter`. With scope ``local`` each array has a seed of its own.
    scope
        One array for all weights, or one for each.
    include
        Kinds of layers; subclasses that compute otherwise are left out.
    exclude
        Parts to leave out, or their names, with all layers in them.
    min_size
        Fewest weights of a layer that is compressed.
    init_from_dense
        Begin with the best approximation of the present weights, in least squares, instead of with random ones. Weights
        that share an entry are averaged, so it is for trained networks or for a compression of 1, where it is exact.

    Returns
    -------
    nn.Module
        The same network.

    Raises
    ------
    ValueError
        For a compression below 1, a network without such layers, weights on the meta device or of several dtypes or
        devices, weights that something else uses too, an embedding with `max_norm` or sparse gradients, or a tied one
        with `padding_idx`, or, for `init_from_dense`, one whose row of `padding_idx` isn't 0; an excluded part that the
        network doesn't have; a layer that was compiled by itself, which would go on with its dense weight; and what
        `SharedParameter` refuses.
    TypeError
        For weights that are no floating numbers of 16 bits or more, or one part to exclude without a list.

    References
    ----------
    arXiv 2310.11611.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> sorted(p.numel() for p in compress_model(model, 10).parameters())
    [10, 100, 740]
    """
    check_number("compression", compression, ge=1)
    check_choice("scope", scope, get_args(Scope))
    check_count("min_size", min_size, at_least=0)
    uses = _uses(model, include, exclude, min_size)
    if init_from_dense:
        _check_padding(uses)
    whole = sum(use.weight.numel() for use in uses)
    sizes = [whole] if scope == "global" else [use.weight.numel() for use in uses]
    stores = [
        SharedParameter(
            size,
            compression=compression,
            mapping=mapping,
            random_state=random_state + number,
            init_std=init_std,
            scaler=scaler,
            block=block,
            cache=cache,
            legacy_scale=legacy_scale,
            recompute=recompute,
            device=uses[number].weight.device,
            dtype=uses[number].weight.dtype,
        )
        for number, size in enumerate(sizes)
    ]
    new: dict[int, nn.Module] = {}
    for number, use in enumerate(uses):
        store = stores[0 if scope == "global" else number]
        spread = float(use.weight.detach().double().std(correction=0))
        by_rows = any(isinstance(layer, nn.Embedding) for layer in use.layers.values())
        piece = store.add(use.weight.shape, spread or usual_std(use.weight.shape), by_rows=by_rows)
        for layer in use.layers.values():
            if id(layer) not in new:
                new[id(layer)] = _shared(layer, store, piece)
    if init_from_dense:
        weights = [use.weight for use in uses]
        for number, store in enumerate(stores):
            store.fit(weights if scope == "global" else [weights[number]])
    places = {name: new[id(layer)] for use in uses for name, layer in use.layers.items()}
    return _replaced(model, places)


def decompress_model(model: nn.Module) -> nn.Module:
    """Return a copy of a compressed network with ordinary dense layers, which computes the same.

    Parameters
    ----------
    model
        The network; it stays compressed.

    Returns
    -------
    nn.Module
        A network whose layers are those of torch, with weights tied as they were.

    Raises
    ------
    ValueError
        For a network without shared layers, or one of them compiled by itself.

    Examples
    --------
    >>> import torch
    >>> small = compress_model(nn.Sequential(nn.Linear(8, 8)), 4)
    >>> dense, x = decompress_model(small), torch.randn(3, 8)
    >>> type(dense[0]).__name__, torch.equal(dense(x), small(x))
    ('Linear', True)
    """
    model = copied(model)
    layers = {
        name: layer for name, layer in model.named_modules(remove_duplicate=False) if isinstance(layer, SharedLayer)
    }
    if not layers:
        raise ValueError("model has no shared layer to decompress")
    new: dict[int, nn.Module] = {}
    weights: dict[tuple[int, int], nn.Parameter] = {}
    for layer in layers.values():
        if id(layer) in new:
            continue
        key = id(layer.store), layer.piece
        if key not in weights:
            weights[key] = nn.Parameter(layer.weight.detach().clone(), layer.store.values.requires_grad)
        new[id(layer)] = _dense(layer, weights[key])
    return _replaced(model, {name: new[id(layer)] for name, layer in layers.items()})


def shared_layers(model: nn.Module) -> dict[str, SharedLayer]:
    """Return the shared layers of a network, each once."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, SharedLayer)}


def compressible(
    model: nn.Module, include: tuple[type[nn.Module], ...], exclude: Collection[str | nn.Module] = (), min_size: int = 0
) -> Iterable[tuple[str, nn.Module]]:
    """Yield the layers, under each of their names, whose weight can be taken from them."""
    excluded = _excluded(model, exclude)
    for name, layer in model.named_modules(remove_duplicate=False):
        kind = next((k for k in include if isinstance(layer, k)), None)
        weight = layer._parameters.get("weight")
        if kind is None or weight is None or not _plain(layer, kind):
            continue
        if isinstance(weight, UninitializedParameter):
            raise ValueError(f"model has the lazy layer {name!r}, which has no weight before its first call")
        if weight.requires_grad and id(layer) not in excluded and weight.numel() >= max(1, min_size):
            yield name, layer


def _excluded(model: nn.Module, exclude: Collection[str | nn.Module]) -> set[int]:
    """Return the parts to leave out, by id, with all layers in them."""
    if isinstance(exclude, (str, nn.Module)):
        raise TypeError(f"exclude is one {type(exclude).__name__}; it takes a list of layers or of their names")
    parts = dict(model.named_modules(remove_duplicate=False))
    found: set[int] = set()
    for one in exclude:
        part = parts.get(one) if isinstance(one, str) else next((p for p in parts.values() if p is one), None)
        if part is None:
            which = repr(one) if isinstance(one, str) else f"a {type(one).__name__}"
            raise ValueError(f"exclude has {which}, which is no layer of the model")
        found |= {id(layer) for layer in part.modules()}
    return found


def _plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer computes as its kind does, by a weight and a bias that are parameters and nothing else."""
    own = type(layer).forward is not kind.forward or "forward" in vars(layer)
    return not (own or layer._parameters.keys() - {"weight", "bias"} or layer._buffers or layer._modules)


def _uses(
    model: nn.Module, include: tuple[type[nn.Module], ...], exclude: Collection[str | nn.Module], min_size: int
) -> list[Use]:
    known = [isinstance(kind, type) and issubclass(kind, COMPRESSIBLE) for kind in include]
    if not known or not all(known):
        raise ValueError(f"include is {include!r}; it takes some of Linear, Conv2d and Embedding")
    found: dict[int, Use] = {}
    for name, layer in compressible(model, include, exclude, min_size):
        weight: nn.Parameter = layer.weight  # type: ignore[assignment]
        found.setdefault(id(weight), Use(weight, {})).layers[name] = layer
    if not found:
        raise ValueError("model has no layer to compress: none of the kinds in `include` with a trainable weight")
    for use in found.values():
        _check(use)
    kinds = {(use.weight.dtype, use.weight.device) for use in found.values()}
    if len(kinds) > 1:
        raise ValueError(f"model has weights of {sorted(map(str, kinds))}; it takes one dtype and device, or `exclude`")
    for name, part in model.named_modules(remove_duplicate=False):
        for key, parameter in part._parameters.items():
            tied = found.get(id(parameter))
            if tied and not (key == "weight" and name in tied.layers):
                where = f"{name}.{key}".lstrip(".")
                raise ValueError(f"model ties the weight of {next(iter(tied.layers))} to {where}, which isn't to be "
                                 "compressed; include or exclude both")  # fmt: skip
    return list(found.values())


def _check(use: Use) -> None:
    name, weight = next(iter(use.layers)), use.weight
    if weight.is_meta:
        raise ValueError(f"model has the weight of {name!r} on the meta device; move it to a real one first")
    if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
        raise TypeError(f"model has the weight of {name!r} in {weight.dtype}; it takes floating numbers of 16 bits "
                        "or more")  # fmt: skip
    check_finite(f"weight of {name!r}", weight.detach())
    for layer in use.layers.values():
        if isinstance(layer, nn.Embedding):
            if layer.max_norm is not None or layer.sparse:
                raise ValueError(f"model has the embedding {name!r} with max_norm or sparse gradients; exclude it")
            if layer.padding_idx is not None and len({id(one) for one in use.layers.values()}) > 1:
                raise ValueError(f"model has the tied embedding {name!r} with padding_idx; exclude it, or untie it")


def _check_padding(uses: Iterable[Use]) -> None:
    for name, layer in [item for use in uses for item in use.layers.items()]:
        if isinstance(layer, nn.Embedding) and layer.padding_idx is not None and layer.weight[layer.padding_idx].any():
            raise ValueError(f"model has the embedding {name!r} whose row of padding_idx isn't 0; exclude it, or set "
                             "that row to 0, as shared ones have it")  # fmt: skip


def _shared(layer: nn.Module, store: SharedParameter, piece: int) -> nn.Module:
    new: SharedLayer
    if isinstance(layer, nn.Linear):
        new = SharedLinear(layer.in_features, layer.out_features, False, store=store, piece=piece)
    elif isinstance(layer, nn.Conv2d):
        new = SharedConv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,  # type: ignore[arg-type]
            layer.groups, False, layer.padding_mode, store=store, piece=piece,
        )  # fmt: skip
    elif isinstance(layer, nn.Embedding):
        new = SharedEmbedding(
            layer.num_embeddings, layer.embedding_dim, layer.padding_idx, layer.scale_grad_by_freq,
            store=store, piece=piece,
        )  # fmt: skip
    return _dressed(new, layer)


def _dense(layer: SharedLayer, weight: nn.Parameter) -> nn.Module:
    new: nn.Module
    if isinstance(layer, SharedLinear):
        new = nn.Linear(layer.in_features, layer.out_features, False, device="meta")
    elif isinstance(layer, SharedConv2d):
        given: Any = {name: getattr(layer, name) for name in (*SharedConv2d._settings[:7], "padding_mode")}
        new = nn.Conv2d(**given, bias=False, device="meta")
    elif isinstance(layer, SharedEmbedding):
        new = nn.Embedding(
            layer.num_embeddings, layer.embedding_dim, layer.padding_idx,
            scale_grad_by_freq=layer.scale_grad_by_freq, device="meta",
        )  # fmt: skip
    new.weight = weight
    return _dressed(new, layer)


def _dressed(new: nn.Module, old: nn.Module) -> nn.Module:
    """Give a layer the bias, the mode and the hooks of the one that it replaces."""
    if isinstance(getattr(old, "bias", None), Tensor):
        new.bias = old.bias
    for name in ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
                 "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"):  # fmt: skip
        setattr(new, name, getattr(old, name))
    return new.train(old.training)


def _replaced(model: nn.Module, places: dict[str, nn.Module]) -> nn.Module:
    for name in places:
        if name.rpartition(".")[2] == "_orig_mod":  # `torch.compile` holds on to the layer that it was given
            raise ValueError(f"model has the layer {name!r} compiled by itself; compile it after this")
    for name, layer in places.items():
        if not name:
            return layer
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return model
