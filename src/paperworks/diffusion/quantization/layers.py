"""Layers with quantisers, and the network rebuilt from them."""

import itertools
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from paperworks.diffusion.quantization.config import QuantConfig
from paperworks.diffusion.quantization.quantizer import UniformAffineQuantizer

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NEVER_CALLED = nn.modules.linear.NonDynamicallyQuantizableLinear  # attention modules only read its weight


class QuantLayer(nn.Module):
    """A convolution or linear layer whose weight and activations go through quantisers when switched on."""

    def __init__(self, layer: nn.Module, config: QuantConfig, *, is_end: bool, is_output: bool) -> None:
        super().__init__()
        n_bits_w, n_bits_a = config.n_bits_w, config.n_bits_a
        if is_end and config.first_last_8bit:
            n_bits_w, n_bits_a = max(n_bits_w, 8), max(n_bits_a, 8)
        self.layer: Any = layer
        self.weight_quantizer = UniformAffineQuantizer(n_bits_w, axis=0 if config.channel_wise else None)
        quantizes = config.activations == "input" or not is_output  # what the network returns stays as it is
        self.act_quantizer = UniformAffineQuantizer(n_bits_a) if quantizes else None
        self.at_input = config.activations == "input"
        # What integer kernels need where the quantiser stands behind the layer; see `QuantModel.to_int8`.
        self.input_range = None if self.at_input else UniformAffineQuantizer(n_bits_a)
        self._bounds: list[Tensor] | None = None
        self.activation: Callable[[Tensor], Tensor] = nn.Identity()  # a ReLU that is quantised with its layer
        self.quantizes_weights = self.quantizes_activations = False

    @property
    def weight(self) -> Tensor:
        """The weight in floating point."""
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias."""
        return self.layer.bias

    @property
    def input_quantizer(self) -> UniformAffineQuantizer | None:
        """The quantiser of what the layer sees, which it applies itself only where activations are quantised there."""
        return self.act_quantizer if self.at_input else self.input_range

    def start_bounding(self) -> None:
        """Begin to keep the least and the greatest number of what the layer sees."""
        self._bounds = None if self.at_input else []

    def finish_bounding(self) -> None:
        """Take them for the range of what it sees."""
        if self._bounds and self.input_range is not None:
            bounds = torch.stack(self._bounds)
            self.input_range.set_range(bounds.amin(), bounds.amax())
        self._bounds = None

    def quantized_weight(self) -> Tensor:
        """The weight after its quantiser."""
        return self.weight_quantizer(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        quantize = self.act_quantizer if self.quantizes_activations else None
        if self._bounds is not None:
            self._bounds += x.detach().aminmax()
        if quantize is not None and self.at_input:
            x = quantize(x)
        weight = self.quantized_weight() if self.quantizes_weights else self.weight
        if isinstance(self.layer, nn.Linear):
            out = functional.linear(x, weight, self.bias)
        else:
            out = self.layer._conv_forward(x, weight, self.bias)
        out = self.activation(out)
        return quantize(out) if quantize is not None and not self.at_input else out


def quantizable(model: nn.Module, config: QuantConfig) -> dict[str, nn.Module]:
    """Return the layers to quantise by name, one name per layer."""
    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Conv3d, nn.Linear)
    if config.quantize_attention:
        kinds = (*kinds, nn.Conv1d)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and not isinstance(module, _NEVER_CALLED)
        and not any(fnmatch(name, pattern) for pattern in config.skip)
    }


def replace_layers(model: nn.Module, config: QuantConfig) -> None:
    """Put a `QuantLayer` in the place of each layer to quantise, everywhere it is used.

    Raises
    ------
    ValueError
        Where there is no such layer.
    """
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    found = quantizable(model, config)
    if not found:
        raise ValueError(
            f"model has no layer to quantise ({type(model).__name__}, skip={config.skip!r}); "
            "it takes a network with convolutions or linear layers below it"
        )
    ends = [name for name, layer in found.items() if isinstance(layer, _CONVOLUTIONS)] or list(found)
    made = {
        id(layer): QuantLayer(layer, config, is_end=name in (ends[0], ends[-1]), is_output=name == ends[-1])
        for name, layer in found.items()
    }
    for parent in list(model.modules()):
        if isinstance(parent, QuantLayer):
            continue
        for name, child in list(parent._modules.items()):
            if id(child) in made:
                parent._modules[name] = made[id(child)]
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            _fuse_relus(module)


def _fold_batch_norms(sequence: nn.Sequential) -> None:
    for i in range(len(sequence) - 1):
        layer, norm = sequence[i], sequence[i + 1]
        if isinstance(layer, _CONVOLUTIONS) and isinstance(norm, nn.modules.batchnorm._BatchNorm) and not norm.training:
            sequence[i] = fuse_conv_bn_eval(layer, norm)
            sequence[i + 1] = nn.Identity()


def _fuse_relus(sequence: nn.Sequential) -> None:
    layers = [(i, module) for i, module in enumerate(sequence) if not isinstance(module, nn.Identity)]
    for (_, layer), (j, relu) in itertools.pairwise(layers):
        if isinstance(layer, QuantLayer) and isinstance(relu, (nn.ReLU, nn.ReLU6)) and not layer.at_input:
            layer.activation, sequence[j] = relu, nn.Identity()


def stored_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


def size_of(layer: QuantLayer) -> int:
    """Return the bytes of a layer whose weight is stored as packed codes with their scales and zero points."""
    quantizer = layer.weight_quantizer
    codes = (layer.weight.numel() * quantizer.n_bits + 7) // 8
    zeros = quantizer.zero_point.numel() * ((quantizer.n_bits + 7) // 8)
    bias = 0 if layer.bias is None else stored_bytes(layer.bias)
    activations = 0 if layer.act_quantizer is None else 2 * stored_bytes(layer.act_quantizer.scale)
    return codes + stored_bytes(quantizer.scale) + zeros + bias + activations


def swap_modules(model: nn.Module, make: Callable[[QuantLayer], nn.Module]) -> None:
    """Put what `make` returns in the place of each quantised layer."""
    made: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, QuantLayer):
                if id(child) not in made:
                    made[id(child)] = make(child)
                parent._modules[name] = made[id(child)]


def on_device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
