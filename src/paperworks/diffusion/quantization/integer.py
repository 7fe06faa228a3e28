"""Integer kernels: the same codes, multiplied as 8-bit integers by the processor."""

import copy
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from paperworks.diffusion.quantization.config import QuantConfig
from paperworks.diffusion.quantization.layers import QuantLayer, stored_bytes, swap_modules

_LARGEST = 128  # two codes of one sign that sum to at most this, times 255, stay below 2^15


class Int8Model(nn.Module):
    """A network whose convolutions and linear layers multiply 8-bit integers; made by `QuantModel.to_int8`.

    Each layer rounds its input to unsigned bytes, and one kernel of oneDNN multiplies them with the signed bytes of the
    weight, adds up in 32 bits and rescales to floating point. All else runs in floating point as before.

    What is gained grows with channels and batch, for rounding an input costs a pass over it. On one core with VNNI, a
    `UNet2DModel` of two levels took, by the measure of float32 in the faster of its layouts:

    ======== ======== ========= ==========
    channels pixels   batch 1   batch 16
    ======== ======== ========= ==========
    32       16 × 16  1.7       0.9
    64       16 × 16  1.3       0.5
    128      16 × 16  0.5       0.5
    256      8 × 8    0.5       0.3
    ======== ======== ========= ==========

    So a narrow network that samples one image at a time is faster in floating point: measure yours. A `QuantModel`,
    which simulates integers in floating point, is always slower than the network (two to fifteen times here). To keep
    integers in a file, save the `QuantModel`, load it and make integers again, which suits the processor at hand.

    Processors without VNNI add pairs of products in 16 bits. There, the scale of an output channel whose two largest
    weights could overflow them is enlarged just so far that they can't, by less than a factor of two.

    Parameters
    ----------
    model
        A `QuantModel`, calibrated, with symmetric weights and at most 8 bits.

    Raises
    ------
    TypeError
        Where the model is no `QuantModel`.
    ValueError
        Where the model is quantised in a way that these kernels don't compute.
    RuntimeError
        Where it isn't calibrated, or this build of torch has no such kernels.

    Examples
    --------
    >>> from paperworks.diffusion.quantization import CalibrationSet, quantize_diffusion
    >>> class Network(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = nn.Conv2d(8, 8, 3, padding=1)
    ...     def forward(self, x, t):
    ...         return self.conv(x)
    >>> calibration = CalibrationSet(torch.randn(4, 8, 8, 8), torch.zeros(4))
    >>> fast = quantize_diffusion(Network(), calibration).to_int8()
    >>> fast(torch.zeros(1, 8, 8, 8), torch.zeros(1)).dtype
    torch.float32
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        c: Any = getattr(model, "quant_config", None)
        if not isinstance(c, QuantConfig):
            raise TypeError(f"model is {type(model).__name__}; it takes a QuantModel")
        wrong = {
            "symmetric_w": not c.symmetric_w,
            "n_bits_w": c.n_bits_w > 8,
            "n_bits_a": c.n_bits_a > 8,
            "timewise_groups": c.timewise_groups > 1,
        }
        if any(wrong.values()):
            got = ", ".join(f"{name}={getattr(c, name)!r}" for name, is_wrong in wrong.items() if is_wrong)
            raise ValueError(
                f"model is quantised with {got}; integer kernels take symmetric_w=True, at "
                "most 8 bits and one group of times"
            )
        if not torch.backends.mkldnn.is_available():
            raise RuntimeError("this build of torch has no oneDNN, whose integer kernels are used")
        with torch.no_grad():
            self.model: Any = copy.deepcopy(model)
            swap_modules(self.model, packed)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns.

        Returns
        -------
        Any
            What the network returns, by integer kernels.
        """
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> NoReturn:
        """Refuse: packed integers belong to this machine's kernels.

        Parameters
        ----------
        save_directory, options
            What a pipeline says that is saved, with this model in it.

        Raises
        ------
        TypeError
            Always: save the `QuantModel`, and call `to_int8` on what is loaded.
        """
        raise TypeError("an Int8Model isn't saved; save the QuantModel, and call to_int8 on what from_pretrained loads")

    def size_bytes(self) -> int:
        """Return the bytes it takes to store.

        Returns
        -------
        int
            Number of bytes of the stored model.
        """
        return sum(stored_bytes(t) for t in {id(t): t for t in self.state_dict(keep_vars=True).values()}.values())


def packed(layer: QuantLayer) -> nn.Module:
    """Return an integer layer for a quantised one; the one itself where no kernel computes it."""
    if layer.input_quantizer is None or not layer.input_quantizer.calibrated:
        return layer
    if isinstance(layer.layer, nn.Linear):
        return Int8Linear(layer)
    plain = layer.layer.padding_mode == "zeros" and not isinstance(layer.layer.padding, str)
    return Int8Convolution(layer) if plain else layer


def signed_codes(layer: QuantLayer, pairs_in_16_bits: bool) -> tuple[Tensor, Tensor]:
    """Return a weight as signed bytes and the scale of each output channel."""
    weight = layer.quantized_weight().flatten(1)
    scale = layer.weight_quantizer.scale.reshape(-1).expand(len(weight)).clone()
    ratio = weight / scale[:, None]
    reach = torch.maximum(ratio.amax(1) / 127, ratio.amin(1) / -128)
    if pairs_in_16_bits and ratio.shape[1] > 1:
        largest = torch.stack([sign * (sign * ratio).clamp_min(0).topk(2, 1).values.sum(1) for sign in (1, -1)])
        reach = torch.maximum(reach, largest.abs().amax(0) / (_LARGEST - 1))
    scale *= torch.where(reach > 1 + 1e-4, reach, 1.0)
    return torch.round(weight / scale[:, None]).clamp(-128, 127).to(torch.int8).view_as(layer.weight), scale


class _Int8Layer(nn.Module):
    """What both kinds share: the codes, and how an input becomes bytes."""

    codes: Tensor
    scale: Tensor
    zeros: Tensor

    def __init__(self, layer: QuantLayer) -> None:
        super().__init__()
        assert layer.input_quantizer is not None
        self.input_scale = float(layer.input_quantizer.scale)
        self.input_zero = int(layer.input_quantizer.zero_point)
        self.last_code = layer.input_quantizer.levels - 1
        codes, scale = signed_codes(layer, pairs_in_16_bits=not torch.cpu._is_vnni_supported())
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("zeros", torch.zeros(len(codes), dtype=torch.int32), persistent=False)
        self.bias = layer.bias
        self.activation = layer.activation
        self._packed: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The layout of packed codes is the processor's own and can't be copied or stored.
        return {**self.__dict__, "_packed": None}

    def _bytes(self, x: Tensor) -> Tensor:
        quantized = torch.quantize_per_tensor(x.float(), self.input_scale, self.input_zero, torch.quint8)
        # The same memory seen as bytes; `int_repr` would copy it.
        codes = torch.empty(0, dtype=torch.uint8)
        codes.set_(quantized.untyped_storage(), 0, quantized.shape, quantized.stride())
        return codes if self.last_code == 255 else codes.clamp_(max=self.last_code)

    def _scales(self) -> tuple[float, int]:
        return self.input_scale, self.input_zero


_FLOAT_OUT: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")  # no requantisation, no fused activation


class Int8Convolution(_Int8Layer):
    """A convolution of bytes, in one to three dimensions."""

    def __init__(self, layer: QuantLayer) -> None:
        super().__init__(layer)
        inner: Any = layer.layer
        self.geometry = (list(inner.stride), list(inner.padding), list(inner.dilation), inner.groups)
        self.kernel = f"qconv{self.codes.ndim - 2}d_pointwise"

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        ops = torch.ops.onednn
        if self._packed is None:
            self._packed = ops.qconv_prepack(self.codes, self.scale, *self._scales(), *self.geometry, list(x.shape))
        out = getattr(ops, self.kernel)(
            self._bytes(x),
            *self._scales(),
            self._packed,
            self.scale,
            self.zeros,
            self.bias,
            *self.geometry,
            *_FLOAT_OUT,
        )
        return self.activation(out).to(x.dtype)


class Int8Linear(_Int8Layer):
    """A linear layer of bytes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        ops = torch.ops.onednn
        if self._packed is None:
            self._packed = ops.qlinear_prepack(self.codes, None)
        out = ops.qlinear_pointwise(
            self._bytes(x), *self._scales(), self._packed, self.scale, self.zeros, self.bias, *_FLOAT_OUT
        )
        return self.activation(out).to(x.dtype)
