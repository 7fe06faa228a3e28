"""Weights of the published code: trees of Flax, exported as NumPy archives, in our modules."""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.audio.acoustics.deeponet import AcousticDeepONet
from paperworks.audio.acoustics.frame import RoomFrame
from paperworks.audio.acoustics.networks import FrequencyFeatures, ModifiedMLP, ResNetBranch, SineMLP

_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def load_official_deeponet(
    weights: str | Path | Mapping[str, Float[np.ndarray, "..."]],
    frame: RoomFrame,
    freqs_hz: tuple[float, ...] = (500.0, 250.0, 167.0),
    *,
    activation: str = "sin",
    gate_activation: bool = True,
) -> AcousticDeepONet:
    """Make a network with the weights of the published code's checkpoints.

    The tree's leaves are expected by their paths, joined by "/", such as ``bn/params/linear_bn_0/kernel``: an archive
    that ``np.savez`` writes of the flattened tree. Widths and depths are read off the weights; adaptive weights are
    left out.

    Parameters
    ----------
    weights
        The archive ``.npz``, or its arrays by their paths.
    frame
        Room and normalisation that the network was trained with; its sensors have to be as many as the branch reads.
    freqs_hz
        Frequencies of the features; the published settings' by default.
    activation
        "sin", "tanh" or "relu".
    gate_activation
        Whether gates are activated: yes for networks trained by the present code, no for the weights that were
        published with the paper (doi 10.11583/DTU.24812004).

    Returns
    -------
    AcousticDeepONet
        The network in evaluation mode.

    Raises
    ------
    ValueError
        For an archive that can't be read without unpickling, or weights that lack one or don't fit.

    References
    ----------
    arXiv:2308.05141; github.com/dtu-act/deeponet-acoustic-wave-prop.

    Examples
    --------
    >>> load_official_deeponet("cube.npz", RoomFrame(Room((2.0, 2.0, 2.0))))  # doctest: +SKIP
    """
    tree = _read(weights)
    bias = tree.pop("b0", np.zeros(()))
    if bias.size != 1:
        raise ValueError(f"weights have b0 of shape {bias.shape}; it takes one number")
    trunk, q = _layers(tree, "tn", activation, gate_activation)
    features = FrequencyFeatures(freqs_hz, frame.c)
    if trunk.in_dim != features.out_dim(frame.room.dim + 1):
        raise ValueError(
            f"weights have a trunk of {trunk.in_dim} inputs; freqs_hz and the room's dimensions make "
            f"{features.out_dim(frame.room.dim + 1)}"
        )
    branch: nn.Module
    if any(key.startswith("bn/params/Conv_0") for key in tree):
        branch = _resnet(tree, frame)
    else:
        branch, outputs = _layers(tree, "bn", activation, gate_activation)
        sensors = int(np.prod(frame.sensor_shape))
        if branch.in_dim != sensors or outputs != q:
            raise ValueError(
                f"weights have a branch from {branch.in_dim} sensors to {outputs} numbers; the frame has {sensors} "
                f"sensors and the trunk {q} numbers"
            )
    model = AcousticDeepONet(branch, nn.Sequential(features, trunk), q, frame=frame)
    assert model.bias is not None
    model.bias.data.fill_(bias.item())
    return model.eval()


def _read(weights: Any) -> dict[str, np.ndarray]:
    if isinstance(weights, (str, Path)):
        try:
            archive = np.load(weights, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, no archive")
            with archive:
                weights = {key: archive[key] for key in archive.files}
        except (ValueError, OSError, EOFError, KeyError, NotImplementedError, BadZipFile, zlib.error) as error:
            raise ValueError(f"weights is {weights}, which can't be read as arrays alone: {error}") from None
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights is {type(weights).__name__}; it takes the path of an archive, or a mapping to arrays")
    found = {str(key).replace(".", "/").strip("/"): np.asarray(value) for key, value in weights.items()}
    for key, value in found.items():
        real = np.issubdtype(value.dtype, np.floating) or np.issubdtype(value.dtype, np.integer)
        if not real or not (np.abs(value) <= np.finfo(np.float32).max).all():
            raise ValueError(f"weights has {key}, which isn't finite real numbers in single precision")
    return found


def _tensor(tree: Mapping[str, np.ndarray], key: str, dims: int | None = None) -> Tensor:
    if key not in tree:
        raise ValueError(f"weights lack {key}")
    if dims is not None and tree[key].ndim != dims:
        raise ValueError(f"weights have {key} of shape {tree[key].shape}; it takes {dims} axes")
    return torch.tensor(np.asarray(tree[key], np.float32))


def _fill(target: Tensor, value: Tensor, key: str) -> None:
    if target.shape != value.shape:
        raise ValueError(f"weights have {key} of shape {tuple(value.shape)}; it takes {tuple(target.shape)}")
    target.data.copy_(value)


def _layers(tree: Mapping[str, np.ndarray], tag: str, activation: Any, gate_activation: bool) -> tuple[SineMLP, int]:
    """Return the fully connected network of a tag, and its number of outputs."""
    pattern = re.compile(rf"{tag}/params/linear_{tag}_(\d+)/kernel")
    numbers = sorted(int(found[1]) for key in tree if (found := pattern.fullmatch(key)))
    if len(numbers) < 2 or numbers != list(range(len(numbers))):
        raise ValueError(f"weights have layers {numbers} of {tag}; it takes two or more, from 0 on")

    def name(layer: str) -> str:
        return f"{tag}/params/{layer}"

    inputs, hidden = _tensor(tree, name(f"linear_{tag}_0/kernel"), 2).shape
    outputs = _tensor(tree, name(f"linear_{tag}_{numbers[-1]}/kernel"), 2).shape[1]
    sizes = (int(inputs), int(hidden), len(numbers) - 1, int(outputs))
    network: SineMLP
    if name(f"transformerU_{tag}/kernel") in tree:
        network = ModifiedMLP(*sizes, activation=activation, gate_activation=gate_activation)
        gates = {f"transformerU_{tag}": network.gate_u, f"transformerV_{tag}": network.gate_v}
    else:
        network, gates = SineMLP(*sizes, activation=activation), {}
    layers: list[Any] = [*network.layers, network.output]
    named = {f"linear_{tag}_{i}": part for i, part in enumerate(layers)} | gates
    for layer, module in named.items():
        _fill(module.weight, _tensor(tree, name(f"{layer}/kernel")).T, layer)
        # The plain network multiplies its inputs by w0, ours its weights: the same.
        _fill(module.bias, _tensor(tree, name(f"{layer}/bias")), layer)
    return network, int(outputs)


def _resnet(tree: Mapping[str, np.ndarray], frame: RoomFrame) -> ResNetBranch:
    """Return the convolutional branch: channels stand last in the published code, first in ours."""
    dense = sorted(int(m[1]) for key in tree if (m := re.fullmatch(r"bn/params/Dense_(\d+)/kernel", key)))
    numbers = {int(m[1]) for key in tree if (m := re.match(r"bn/params/ResNetBlock_(\d+)/", key))}
    if not dense or not numbers or numbers != set(range(len(numbers))):
        raise ValueError("weights lack dense layers or blocks of the convolutional branch")
    axes = len(frame.sensor_shape) + 2
    widths = [_tensor(tree, f"bn/params/ResNetBlock_{i}/Conv_0/kernel", axes).shape[-1] for i in range(len(numbers))]
    strided = [f"bn/params/ResNetBlock_{i}/Conv_2/kernel" in tree for i in range(len(numbers))]
    starts = [0, *(i for i, s in enumerate(strided) if s)]
    blocks = np.diff([*starts, len(widths)]).tolist()
    hidden = [int(_tensor(tree, f"bn/params/Dense_{i}/kernel", 2).shape[1]) for i in dense]
    branch = ResNetBranch(frame.sensor_shape, hidden[-1], [int(widths[i]) for i in starts], blocks, hidden[:-1])

    def convolution(module: Any, path: str) -> None:
        kernel = _tensor(tree, f"bn/params/{path}/kernel", axes)
        _fill(module.conv.weight, kernel.permute(-1, -2, *range(kernel.ndim - 2)), path)
        if module.conv.bias is not None:
            _fill(module.conv.bias, _tensor(tree, f"bn/params/{path}/bias"), path)

    def norm(module: Any, path: str) -> None:
        for theirs, ours in _NORM.items():
            part = "params" if theirs in ("scale", "bias") else "batch_stats"
            if part == "params" or f"bn/batch_stats/{path}/{theirs}" in tree:
                _fill(getattr(module, ours), _tensor(tree, f"bn/{part}/{path}/{theirs}"), path)

    convolution(branch.stem, "Conv_0")
    norm(branch.norm, "BatchNorm_0")
    for i, block in enumerate(branch.blocks):
        for part, path in (("first", "Conv_0"), ("second", "Conv_1"), ("shortcut", "Conv_2")):
            if part != "shortcut" or strided[i]:
                convolution(getattr(block, part), f"ResNetBlock_{i}/{path}")
        norm(block.norm_first, f"ResNetBlock_{i}/BatchNorm_0")
        norm(block.norm_second, f"ResNetBlock_{i}/BatchNorm_1")
    for i, layer in enumerate([*branch.dense, branch.output]):
        assert isinstance(layer, nn.Linear)
        kernel = _tensor(tree, f"bn/params/Dense_{i}/kernel")
        if i == 0:
            channels, *rest = branch.out_shape
            if len(kernel) != channels * int(np.prod(rest)):
                raise ValueError(
                    f"weights have Dense_0 of {len(kernel)} inputs; the frame's sensors make "
                    f"{channels * int(np.prod(rest))}"
                )
            kernel = kernel.reshape(*rest, channels, -1).movedim(len(rest), 0).reshape(len(kernel), -1)
        _fill(layer.weight, kernel.T, f"Dense_{i}")
        _fill(layer.bias, _tensor(tree, f"bn/params/Dense_{i}/bias"), f"Dense_{i}")
    return branch
