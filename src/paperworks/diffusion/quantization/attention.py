"""Quantisers for the operands of attention's products, wherever a network computes them.

A product of two activations is no layer that could be replaced. So the modules that compute one are found by running
the network once, and while one of them runs, its calls of ``scaled_dot_product_attention``, ``matmul``, ``bmm``,
``baddbmm`` and ``einsum`` are intercepted (`torch.overrides.TorchFunctionMode`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from paperworks.diffusion.quantization.quantizer import UniformAffineQuantizer

_FUSED = functional.scaled_dot_product_attention
_PRODUCTS = {  # where the two factors stand among the arguments
    torch.matmul: (0, 1),
    torch.Tensor.matmul: (0, 1),
    torch.Tensor.__matmul__: (0, 1),
    torch.bmm: (0, 1),
    torch.Tensor.bmm: (0, 1),
    torch.baddbmm: (1, 2),
    torch.Tensor.baddbmm: (1, 2),
    torch.einsum: (1, 2),
}


class OperandQuantizers(nn.Module):
    """The quantisers of one module's products, two for each factor pair, in the order of its calls."""

    def __init__(self, n_bits: int, count: int = 0) -> None:
        super().__init__()
        self.n_bits = n_bits
        self.quantizers = nn.ModuleList(UniformAffineQuantizer(n_bits) for _ in range(count))
        self.quantizes_activations = False
        self._modes: list[_Interception] = []

    def attach(self, module: nn.Module) -> None:
        """Intercept the products of a module whenever it runs."""
        module.register_forward_pre_hook(self._enter)
        module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self.quantizes_activations:
            self._modes.append(_Interception(self.quantizers))
            self._modes[-1].__enter__()

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._modes:
            self._modes.pop().__exit__(None, None, None)


class _Interception(TorchFunctionMode):
    """Quantises both factors of every product of two activations."""

    def __init__(self, quantizers: nn.ModuleList) -> None:
        super().__init__()
        self.remaining = iter(quantizers)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _FUSED:
            return _attention(self._next, *args, **kwargs)
        if (found := _factors(func, args)) is not None:
            args = list(args)
            for place in found:
                args[place] = self._next(args[place])
        return func(*args, **kwargs)

    def _next(self, factor: Tensor) -> Tensor:
        quantizer = next(self.remaining, None)
        if quantizer is None:
            raise RuntimeError("a module computes more attention products than when it was calibrated")
        return quantizer(factor)


def _factors(func: Any, args: Any) -> tuple[int, int] | None:
    """Return the places of both factors if a call multiplies two activations."""
    places = _PRODUCTS.get(func)
    if places is None or len(args) <= places[1]:
        return None
    factors = [args[place] for place in places]
    return None if any(not isinstance(f, Tensor) or isinstance(f, nn.Parameter) for f in factors) else places


def _attention(
    quantize: Callable[[Tensor], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute attention by its parts, as the fused function documents them, with quantised factors."""
    query, key, value = quantize(query), quantize(key), quantize(value)
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    probabilities = functional.dropout(logits.softmax(-1), dropout_p)
    return quantize(probabilities) @ value


@contextmanager
def counting_products(model: nn.Module) -> Iterator[dict[str, int]]:
    """Count, for each module that computes products of activations itself, the factors of one forward pass."""
    names = {id(module): name for name, module in model.named_modules()}
    running: list[str] = []
    counts: dict[str, int] = {}
    handles = []

    def enter(module: nn.Module, args: Any) -> None:
        running.append(names[id(module)])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    class Counter(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            number = 4 if func is _FUSED else 2 if _factors(func, args) is not None else 0
            if number and running:
                counts[running[-1]] = counts.get(running[-1], 0) + number
            return func(*args, **(kwargs or {}))

    for module in model.modules():
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        with Counter():
            yield counts
    finally:
        for handle in handles:
            handle.remove()
