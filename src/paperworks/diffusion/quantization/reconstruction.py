"""Reconstruction: weights are rounded up or down so that each part of the network returns what it did before."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.quantization.calibration import CalibrationSet
from paperworks.diffusion.quantization.layers import QuantLayer, on_device_of
from paperworks.diffusion.quantization.model import QuantModel
from paperworks.diffusion.quantization.quantizer import UniformAffineQuantizer
from paperworks.numerics.training import Progress, silent

Unit = Literal["layer", "block"]


@dataclass(frozen=True)
class _Options:
    steps: int
    batch_size: int
    rounding_weight: float
    sharpness: tuple[float, float]
    warmup: float
    lr: float
    scale_lr: float
    keep_share: float
    learn_scales: bool

    def beta(self, step: int) -> float | None:
        """Return the exponent of the rounding penalty; None while it has not begun."""
        start = self.warmup * self.steps
        if step < start:
            return None
        first, last = self.sharpness
        return last + (first - last) * (1 - (step - start) / (self.steps - start))


def reconstruct(
    model: QuantModel,
    calibration: CalibrationSet,
    unit: Unit = "block",
    *,
    generator: torch.Generator,
    steps: int = 20_000,
    batch_size: int = 32,
    rounding_weight: float = 0.01,
    sharpness: tuple[float, float] = (20.0, 2.0),
    warmup: float = 0.2,
    lr: float = 1e-3,
    scale_lr: float = 4e-5,
    keep_share: float = 0.5,
    learn_scales: bool = True,
    progress: Progress = silent,
) -> QuantModel:
    """Learn the rounding of weights and the scales of activations, part by part; return the model.

    In the order in which the network calls them, each part is trained to return on its quantised inputs what the
    full-precision network returns there: it minimises ``sum_channels |out_q - out|^2``, averaged over all else, plus
    ``rounding_weight sum (1 - |2 h - 1|^beta)``, where each weight is ``s (floor(w / s) + h)`` and ``h`` starts where
    nothing is rounded. In the end `h` is rounded itself.

    Parameters
    ----------
    model
        Calibrated; changed in place.
    calibration
        The set it was calibrated on.
    unit
        ``layer`` (AdaRound, arXiv 2004.10568) or ``block`` (BRECQ, arXiv 2102.05426): a module with several layers of
        its own below the network, residual blocks and attention; what is in none is trained layer by layer.
    generator
        Chooses samples and what is dropped.
    steps, batch_size, rounding_weight, sharpness, warmup, lr, scale_lr
        As in BRECQ and QDrop: steps per part, samples a step, weight of the penalty, first and last exponent
        ``beta``, share of the steps before it begins, Adam's rates of rounding and of scales (the latter falling along
        a cosine).
    keep_share
        Share of the activations, and of a part's inputs, that are quantised in a step, the others left as they are
        (QDrop, arXiv 2203.05740). 1 quantises all.
    learn_scales
        Whether activation scales are trained as well.
    progress
        Wraps the parts.

    Returns
    -------
    QuantModel
        The model itself, with its weights rounded.

    Raises
    ------
    RuntimeError
        Where the model isn't calibrated.
    ValueError
        Where a number is out of range or `unit` is unknown.

    Examples
    --------
    >>> from paperworks.diffusion.quantization import QuantConfig, quantize_diffusion
    >>> class Network(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = nn.Linear(4, 4)
    ...     def forward(self, x, t):
    ...         return self.layer(x)
    >>> calibration = CalibrationSet(torch.randn(64, 4), torch.zeros(64))
    >>> model = quantize_diffusion(Network(), calibration, QuantConfig(n_bits_w=3, first_last_8bit=False))
    >>> model = reconstruct(model, calibration, steps=20, generator=torch.Generator().manual_seed(0))
    >>> model.layers()["layer"].weight_quantizer.rounds_up.shape
    torch.Size([4, 4])
    """
    check_choice("unit", unit, get_args(Unit))
    check_count("steps", steps)
    check_count("batch_size", batch_size)
    check_number("rounding_weight", rounding_weight, ge=0)
    check_number("warmup", warmup, ge=0, lt=1)
    check_number("lr", lr, gt=0)
    check_number("scale_lr", scale_lr, gt=0)
    check_number("keep_share", keep_share, gt=0, le=1)
    options = _Options(steps, batch_size, rounding_weight, sharpness, warmup, lr, scale_lr, keep_share, learn_scales)
    args, kwargs = calibration.rows(slice(0, 1), on_device_of(model.model))
    order = _called(model, args, kwargs)
    for layer in (m for m in order if isinstance(m, QuantLayer)):
        if not layer.weight_quantizer.calibrated:
            raise RuntimeError("model is not calibrated; quantize_diffusion does it")
    parts = [m for m in order if isinstance(m, QuantLayer)] if unit == "layer" else _blocks(model, order)
    for layer in model.layers().values():
        layer.quantizes_weights = layer.quantizes_activations = True
    for part in progress(parts, label="parts"):
        _reconstruct_part(model, part, calibration, options, generator)
    return model


def _called(model: QuantModel, args: Any, kwargs: Any) -> list[nn.Module]:
    """Return the modules of the network in the order in which they are first called."""
    order: dict[nn.Module, None] = {}
    handles = [
        module.register_forward_pre_hook(lambda module, args: order.setdefault(module))
        for module in model.model.modules()
    ]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


def _blocks(model: QuantModel, order: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the called modules with several layers of their own, outermost first, and the layers in none of them."""

    def own_layers(module: nn.Module) -> int:
        return sum(isinstance(child, QuantLayer) for child in module.children())

    taken: set[nn.Module] = set()
    parts: list[nn.Module] = []
    for module in order:
        if module is model.model or module in taken:
            continue
        if isinstance(module, QuantLayer) or own_layers(module) > 1:
            parts.append(module)
            taken.update(module.modules())
    return parts


def _reconstruct_part(
    model: QuantModel, part: nn.Module, calibration: CalibrationSet, options: _Options, generator: torch.Generator
) -> None:
    layers = [m for m in part.modules() if isinstance(m, QuantLayer)]
    model.set_quant_state(weights=False, activations=False)
    exact_inputs, targets = _seen(model, part, calibration, options.batch_size)
    model.set_quant_state(weights=True, activations=True)
    inputs, _ = _seen(model, part, calibration, options.batch_size)
    alphas = [layer.weight_quantizer.start_rounding(layer.weight) for layer in layers]
    quantizers = [m for m in part.modules() if isinstance(m, UniformAffineQuantizer)]
    activations = [q for q in quantizers if q.calibrated and q.alpha is None]
    by_weight = torch.optim.Adam(alphas, lr=options.lr)
    scales = [q.scale.requires_grad_() for q in activations] if options.learn_scales else []
    by_scale = torch.optim.Adam(scales, lr=options.scale_lr) if scales else None
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(by_scale, options.steps) if by_scale else None
    for quantizer in activations:
        quantizer.drop = (options.keep_share, generator) if options.keep_share < 1 else None
    try:
        for step in range(options.steps):
            chosen = torch.randint(len(calibration), (min(options.batch_size, len(calibration)),), generator=generator)
            with torch.enable_grad():
                out = _call(part, inputs, exact_inputs, chosen, options.keep_share, generator)
                loss = (out - targets[chosen].to(out)).square().sum(1).mean()
                if (beta := options.beta(step)) is not None:
                    leaning = [layer.weight_quantizer.soft_rounding() for layer in layers]
                    penalty = sum((1 - (2 * h - 1).abs().pow(beta)).sum() for h in leaning)
                    loss = loss + options.rounding_weight * penalty
                gradients = torch.autograd.grad(loss, [*alphas, *scales], allow_unused=True)
            for variable, gradient in zip([*alphas, *scales], gradients, strict=True):
                variable.grad = gradient
            by_weight.step()
            if by_scale is not None and cosine is not None:
                by_scale.step()
                cosine.step()
    finally:
        for layer in layers:
            layer.weight_quantizer.finish_rounding()
        for quantizer in activations:
            quantizer.drop = None
            quantizer.scale = quantizer.scale.detach().clamp_min(1e-8)


class _Seen(Exception):
    """Raised where a part has returned and the rest of a forward pass isn't needed."""


def _seen(
    model: QuantModel, part: nn.Module, calibration: CalibrationSet, batch_size: int
) -> tuple[tuple[list[Any], dict[str, Any]], Float[Tensor, " n *shape"]]:
    """Return a part's arguments and output over a calibration set."""
    calls: list[tuple[Any, dict[str, Any], Tensor]] = []

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        calls.append((args, kwargs, output))
        raise _Seen

    handle = part.register_forward_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            for args, kwargs in calibration.batches(batch_size, on_device_of(model.model)):
                with suppress(_Seen):
                    model(*args, **kwargs)
    finally:
        handle.remove()
    positional = [_stack([call[0][i] for call in calls]) for i in range(len(calls[0][0]))]
    named = {name: _stack([call[1][name] for call in calls]) for name in calls[0][1]}
    return (positional, named), torch.cat([call[2] for call in calls])


def _stack(values: list[Any]) -> Any:
    return torch.cat(values) if isinstance(values[0], Tensor) and values[0].ndim else values[0]


def _call(
    part: nn.Module, inputs: Any, exact_inputs: Any, chosen: Tensor, keep_share: float, generator: torch.Generator
) -> Tensor:
    """Run a part on some samples, part of each input as the full-precision network would give it."""

    def mixed(value: Any, exact: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        if keep_share == 1 or not value.is_floating_point():
            return value[chosen]
        kept = torch.rand(value[chosen].shape, generator=generator).to(value.device) < keep_share
        return torch.where(kept, value[chosen], exact[chosen])

    args = [mixed(v, e) for v, e in zip(inputs[0], exact_inputs[0], strict=True)]
    return part(*args, **{name: mixed(v, exact_inputs[1][name]) for name, v in inputs[1].items()})
