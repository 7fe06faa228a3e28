"""The uniform affine quantiser."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.diffusion.quantization.search import ScaleMethod, affine_parameters, search

_STRETCH = (-0.1, 1.1)  # gamma and zeta of arXiv 2004.10568, equation 23


class UniformAffineQuantizer(nn.Module):
    """Round numbers to ``s (clamp(round(x/s) + z, 0, 2^n - 1) - z)``; the gradient passes straight through rounding.

    Rounding is half to even. The scale `s` and the zero point `z` are set by `fit` or `set_range`, or loaded from a
    state dict, and there is one pair for the whole tensor, for each index of an axis, or for each group of samples.

    Parameters
    ----------
    n_bits
        Bits of a code, 2 to 16.
    axis
        Axis whose indices each have a scale; by default one scale for all.

    Raises
    ------
    ValueError
        Where `n_bits` is out of range.
    RuntimeError
        Where it is used before it has a scale.

    Examples
    --------
    >>> quantizer = UniformAffineQuantizer(n_bits=2).fit(torch.tensor([-1.0, 2.0]), "minmax", symmetric=False)
    >>> quantizer(torch.tensor([-1.2, 0.4, 0.6, 5.0]))
    tensor([-1.,  0.,  1.,  2.])
    >>> quantizer.codes(torch.tensor([-1.2, 0.4, 0.6, 5.0]))
    tensor([0, 1, 2, 3], dtype=torch.int32)
    """

    scale: Tensor
    zero_point: Tensor
    rounds_up: Tensor  # of each weight whether it is rounded up instead of to the nearest; empty where not learned

    def __init__(self, n_bits: int = 8, axis: int | None = None) -> None:
        super().__init__()
        self.n_bits = check_count("n_bits", n_bits, at_least=2, at_most=16)
        self.axis = axis
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("zero_point", torch.empty(0, dtype=torch.int32))
        self.register_buffer("rounds_up", torch.empty(0, dtype=torch.bool))
        # What others lend it while they calibrate, reconstruct or run it; none of it is state.
        self.observer: Callable[[Tensor], Tensor] | None = None
        self.group: Tensor | None = None
        self.alpha: Tensor | None = None
        self.drop: tuple[float, torch.Generator] | None = None

    @property
    def levels(self) -> int:
        """Number of codes."""
        return 2**self.n_bits

    @property
    def calibrated(self) -> bool:
        """Whether it has a scale."""
        return self.scale.numel() > 0

    def fit(
        self,
        x: Float[Tensor, "..."],
        method: ScaleMethod = "mse",
        *,
        symmetric: bool = True,
        p: float = 2.4,
        candidates: int = 100,
    ) -> "UniformAffineQuantizer":
        """Search the range of `x` and return itself.

        Parameters
        ----------
        x
            Numbers like those to come.
        method, symmetric, p, candidates
            As `scale_method`, `symmetric_w`, `metric_p` and `candidates` of `QuantConfig`.

        Returns
        -------
        UniformAffineQuantizer
            The quantiser itself, with its range set.

        Raises
        ------
        ValueError
            Where `x` is empty or not finite, or a choice is unknown.
        """
        if not x.numel():
            raise ValueError("x is empty; it takes at least one number")
        check_number("p", p, gt=0)
        rows = check_finite("x", x.detach())
        rows = rows.reshape(1, -1) if self.axis is None else rows.movedim(self.axis, 0).flatten(1)
        scale, zero_point = search(rows, method, symmetric=symmetric, n_bits=self.n_bits, p=p, candidates=candidates)
        return self.set_parameters(*((scale[0], zero_point[0]) if self.axis is None else (scale, zero_point)))

    def set_range(self, lo: Float[Tensor, "*shape"], hi: Float[Tensor, "*shape"]) -> "UniformAffineQuantizer":
        """Take the range from `lo` to `hi`, widened to contain 0, and return itself.

        Returns
        -------
        UniformAffineQuantizer
            The quantiser itself, with this range.
        """
        return self.set_parameters(*affine_parameters(lo, hi, self.n_bits))

    def set_parameters(self, scale: Float[Tensor, "*shape"], zero_point: Tensor) -> "UniformAffineQuantizer":
        """Take a scale and a zero point and return itself.

        Parameters
        ----------
        scale
            Width of a step, above 0.
        zero_point
            Code that stands for 0.

        Returns
        -------
        UniformAffineQuantizer
            The quantiser itself, with these parameters.
        """
        self.scale = scale.detach().float()
        self.zero_point = zero_point.detach().to(torch.int32)
        return self

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the numbers that the codes of `x` stand for.

        Returns
        -------
        Tensor of shape (...)
            Numbers of the shape of `x`.
        """
        if self.observer is not None:
            return self.observer(x)
        if not self.calibrated:
            raise RuntimeError(
                "the quantizer has no scale yet; calibrate it first (quantize_diffusion, fit, set_range)"
            )
        if self.drop is None:
            return self.quantized(x)
        share, generator = self.drop
        kept = torch.rand(x.shape, generator=generator, device=generator.device).to(x.device) < share
        return torch.where(kept, self.quantized(x), x)

    def codes(self, x: Float[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
        """Return the integer codes of `x`, 0 to ``2^n - 1``.

        Returns
        -------
        Tensor
            Codes in int32, of the shape of `x`.
        """
        scale, zero_point = self._spread(x)
        return (torch.round(self.quantized(x) / scale) + zero_point).to(torch.int32)

    def start_rounding(self, weight: Float[Tensor, "*shape"]) -> Tensor:
        """Begin to learn how each weight is rounded; return the variables, so set that nothing is rounded yet.

        Returns
        -------
        Tensor
            The variables to train, of the shape of the weight.
        """
        scale = self._spread(weight)[0]
        gamma, zeta = _STRETCH
        rest = (weight / scale - torch.floor(weight / scale)).detach()
        self.alpha = torch.logit((rest - gamma) / (zeta - gamma)).requires_grad_()
        return self.alpha

    def soft_rounding(self) -> Tensor:
        """Return how far each weight is rounded up, ``clip(sigmoid(alpha) (zeta - gamma) + gamma, 0, 1)``.

        Returns
        -------
        Tensor
            Numbers from 0 to 1, of the shape of the weight.
        """
        assert self.alpha is not None
        gamma, zeta = _STRETCH
        return (torch.sigmoid(self.alpha) * (zeta - gamma) + gamma).clamp(0, 1)

    def finish_rounding(self) -> None:
        """Round each weight to where it leans."""
        assert self.alpha is not None
        self.rounds_up, self.alpha = self.alpha.detach() > 0, None

    def quantized(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the same as a call, whatever observer there is.

        Parameters
        ----------
        x
            Numbers to quantise, of any shape.

        Returns
        -------
        Tensor of shape (...)
            Numbers of the shape of `x`.
        """
        if self.alpha is not None or self.rounds_up.numel() or self.scale.requires_grad or x.dtype != torch.float32:
            return self._composed(x)
        if self.scale.ndim == 0:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, self.levels - 1)
        scale, zero_point, axis = self.scale, self.zero_point, self.axis
        if axis is None:
            index, axis = self._group_of_rows(x), 0
            scale, zero_point = scale[index], zero_point[index]
        return torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, 0, self.levels - 1)

    def _composed(self, x: Tensor) -> Tensor:
        scale, zero_point = self._spread(x)
        ratio = x / scale
        if self.alpha is not None:
            steps = torch.floor(ratio) + self.soft_rounding()
        elif self.rounds_up.numel():
            steps = torch.floor(ratio) + self.rounds_up
        else:
            steps = ratio + (torch.round(ratio) - ratio).detach()
        return (torch.clamp(steps + zero_point, 0, self.levels - 1) - zero_point) * scale

    def _spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and zero point shaped to broadcast over `x`."""
        scale, zero_point, axis = self.scale.to(x.dtype), self.zero_point, self.axis
        if scale.ndim == 0:
            return scale, zero_point
        if axis is None:
            index, axis = self._group_of_rows(x), 0
            scale, zero_point = scale[index], zero_point[index]
        shape = [1] * x.ndim
        shape[axis] = -1
        return scale.reshape(shape), zero_point.reshape(shape)

    def _group_of_rows(self, x: Tensor) -> Tensor:
        """Return the group of each row of `x`, whose rows may be several heads of a sample."""
        if self.group is None:
            raise RuntimeError(
                "the quantizer has a scale per group of times and no times; call it through its QuantModel"
            )
        return group_of_rows(self.group, x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # What is loaded decides how many scales there are.
        for name, buffer in list(self._buffers.items()):
            if buffer is not None and (stored := state_dict.get(prefix + name)) is not None:
                self._buffers[name] = torch.empty_like(stored, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Describe it.

        Returns
        -------
        str
            The words within the parentheses of ``repr``.
        """
        return f"n_bits={self.n_bits}, axis={self.axis}, scales={self.scale.numel()}"


def group_of_rows(group: Tensor, x: Tensor) -> Tensor:
    """Return the group of each row of `x` where each sample of a batch gave one or several rows in a block."""
    if len(x) % len(group):
        raise ValueError(
            f"an activation has {len(x)} rows for {len(group)} times; timewise groups take whole multiples"
        )
    return group.repeat_interleave(len(x) // len(group))
