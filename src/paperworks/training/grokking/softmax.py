"""StableMax: a softmax that grows linearly and doesn't collapse, with its cross-entropy."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number

Reduction = Literal["mean", "sum", "none"]


class _SymLog(torch.autograd.Function):
    """``sign(x) log(1 + |x|)`` with the derivative ``1 / (1 + |x|)``, which autograd of the formula has not at 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.abs().log1p_().copysign_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / ctx.saved_tensors[0].abs().add_(1)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent / (1 + ctx.saved_tensors[0].abs())


def _symlog(x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # which doesn't take functions with a forward derivative
        return torch.where(x < 0, -x.clamp(max=0).neg().log1p(), x.clamp(min=0).log1p())
    return _SymLog.apply(x)


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype


_CHUNK = 1 << 16  # logits that go through at once, so that what is between stays in the cache


class _MeanLoss(torch.autograd.Function):
    """Sum over the rows of a matrix of logits / `count`, with the gradient taken on the way, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, ignore_index: int, count: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(input, target, count)
        ctx.ignore_index, ctx.dtype = ignore_index, dtype
        # At least in single precision, as a loss that is scaled up for half precision multiplies it only later.
        ctx.grad = torch.empty_like(input, dtype=_at_least_single(input.dtype)) if ctx.needs_input_grad[0] else None
        total, rows = torch.zeros((), dtype=dtype), max(1, _CHUNK // max(1, input.shape[1]))
        pieces = [input.split(rows), target.split(rows)] + ([ctx.grad.split(rows)] if ctx.grad is not None else [])
        for x, y, *grads in zip(*pieces, strict=True):
            kept = (y != ignore_index)[:, None]
            y = y[:, None].where(kept, 0)
            x = x.to(dtype)
            size = x.abs()
            found = functional.log_softmax(size.log1p().copysign_(x), 1)
            total -= found.gather(1, y).where(kept, 0).sum()
            for grad in grads:
                found.exp_().scatter_add_(1, y, torch.full_like(y, -1, dtype=dtype)).div_(size.add_(1))
                grad.copy_(found.mul_(kept / count.clamp(min=1)))
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        input, target, count = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return (ctx.grad * grad.to(ctx.grad.dtype)).to(input.dtype), None, None, None, None
        z = _SymLog.apply(input.to(ctx.dtype))  # to be differentiated again
        loss = functional.cross_entropy(z, target, ignore_index=ctx.ignore_index, reduction="sum") / count
        (found,) = torch.autograd.grad(loss, input, grad, create_graph=True)
        return found, None, None, None, None


def _goes_in_chunks(input: Tensor, target: Tensor) -> bool:
    """Whether a loss is that of plain matrices on the CPU, which no transform of functions looks into."""
    plain = type(input) in (Tensor, nn.Parameter) and type(target) is Tensor and input.ndim == 2 and target.ndim == 1
    if not plain or torch.compiler.is_compiling() or input.device.type != "cpu" or target.device.type != "cpu":
        return False
    if not input.shape[1]:  # without classes there is none to gather
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return not (wrapped(input) or wrapped(target)) and torch.autograd.forward_ad._current_level < 0


def _check_classes(target: Tensor, shape: torch.Size, ignore_index: int) -> None:
    if len(target) != shape[0] or target.is_floating_point():
        raise ValueError(f"target has shape {tuple(target.shape)} and {target.dtype} for logits of {tuple(shape)}")
    bad = ((target < 0) | (target >= shape[1])) & (target != ignore_index)
    if bad.any():
        raise ValueError(f"target has class {int(target[bad][0])}; it takes 0 to {shape[1] - 1} or {ignore_index}")


def _check_logits(input: Tensor, dim: int, dtype: torch.dtype | None) -> torch.dtype:
    """Check logits and return the dtype to compute in, at least single precision."""
    if not isinstance(input, Tensor):
        raise TypeError(f"input is a {type(input).__name__}; it takes a tensor of logits")
    if not input.is_floating_point():
        raise ValueError(f"input is of {input.dtype}; it takes logits of a floating-point dtype")
    if not isinstance(dtype, torch.dtype | None):
        raise TypeError(f"dtype is {dtype!r}; it takes a dtype of torch")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; it takes a floating-point dtype")
    least = -max(input.ndim, 1)
    if isinstance(dim, bool) or not hasattr(dim, "__index__"):
        raise TypeError(f"dim is {dim!r}; it takes a whole number")
    if not least <= dim < -least:
        raise ValueError(f"dim is {dim}; it takes a whole number from {least} to {-least - 1} for {input.ndim} axes")
    return _at_least_single(dtype or input.dtype)


def _logits(input: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    """Return log s(x) of checked logits in the dtype to compute in."""
    least = _check_logits(input, dim, dtype)
    return _symlog(input.to(least))


def log_stablemax(
    input: Float[Tensor, "*shape"], dim: int = -1, dtype: torch.dtype | None = None
) -> Float[Tensor, "*shape"]:
    """Return ``log s(x) - log sum s(x)`` with ``s(x) = 1 + x`` for x >= 0 and ``1 / (1 - x)`` below.

    Since ``log s(x) = sign(x) log(1 + |x|)``, this is log-softmax of that. Unlike log-softmax it changes where a
    constant is added to all logits. Half precision is computed in single precision and rounded at the end.

    Parameters
    ----------
    input
        Logits of any shape.
    dim
        The axis of the classes.
    dtype
        What to compute in and return, that of the input by default.

    Returns
    -------
    Tensor
        Log-probabilities of the same shape; their exponentials sum to 1 along `dim`.

    Raises
    ------
    TypeError
        If the input is no tensor, `dim` no whole number or `dtype` no dtype.
    ValueError
        If logits aren't floating-point numbers, or `dim` is out of range.

    References
    ----------
    arXiv 2501.04697, the definition of StableMax.

    Examples
    --------
    >>> log_stablemax(torch.tensor([3.0, 0.0, -1.0])).exp()
    tensor([0.7273, 0.1818, 0.0909])
    """
    found = functional.log_softmax(_logits(input, dim, dtype), dim)
    return found.to(dtype or input.dtype)


def stablemax(
    input: Float[Tensor, "*shape"], dim: int = -1, dtype: torch.dtype | None = None
) -> Float[Tensor, "*shape"]:
    """Return ``s(x) / sum s(x)`` with ``s(x) = 1 + x`` for x >= 0 and ``1 / (1 - x)`` below.

    Parameters
    ----------
    input, dim, dtype
        As in `log_stablemax`.

    Returns
    -------
    Tensor
        Probabilities of the same shape, which sum to 1 along `dim`.

    Raises
    ------
    TypeError, ValueError
        As `log_stablemax`.

    References
    ----------
    arXiv 2501.04697, the definition of StableMax.

    Examples
    --------
    >>> stablemax(torch.tensor([1.0, 0.0]))  # s is 2 and 1
    tensor([0.6667, 0.3333])
    """
    found = functional.softmax(_logits(input, dim, dtype), dim)
    return found.to(dtype or input.dtype)


def stablemax_cross_entropy(
    input: Float[Tensor, "*logits"],
    target: Shaped[Tensor, "*targets"],
    weight: Float[Tensor, " classes"] | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    compute_dtype: torch.dtype | None = torch.float64,
) -> Float[Tensor, "*loss"]:
    """Return the cross-entropy of targets and StableMax of logits; all options are those of `torch`'s `cross_entropy`.

    The gradient of logit k is ``(StableMax_k - [k = y]) / (1 + |z_k|)``: it decays with the logit, and is never rounded
    to 0 as that of softmax is.

    Parameters
    ----------
    input
        Logits, (classes), (batch, classes) or (batch, classes, ...).
    target
        Numbers of classes, shaped as the logits without the axis of the classes, or probabilities, shaped as they are.
    weight
        A weight for each class.
    ignore_index
        The class number whose places don't count.
    reduction
        ``mean`` (by the weights of the places that count), ``sum`` or ``none``.
    label_smoothing
        Share of the targets that is spread evenly over the classes, 0 to 1.
    compute_dtype
        What to compute in and return; the paper's code uses double precision. None stands for the dtype of the logits,
        at least single precision, and takes about half the time.

    Returns
    -------
    Tensor
        A number, or for ``none`` the losses of all places, of the dtype it is computed in.

    Raises
    ------
    TypeError
        If an input is no tensor, `compute_dtype` no dtype or `ignore_index` no whole number.
    ValueError
        If logits or `compute_dtype` aren't of floating-point numbers, class numbers are out of range (on the CPU; what
        an accelerator does is torch's choice), shapes don't fit, or an option is none of those above.

    References
    ----------
    arXiv 2501.04697, StableMax cross-entropy.

    Examples
    --------
    >>> logits = torch.zeros(1, 4, requires_grad=True)
    >>> loss = stablemax_cross_entropy(logits, torch.tensor([2]))
    >>> loss.backward()
    >>> loss.item(), logits.grad.tolist()  # of a uniform distribution over four classes
    (1.3862943611198906, [[0.25, 0.25, -0.75, 0.25]])
    """
    check_choice("reduction", reduction, get_args(Reduction))
    check_number("label_smoothing", label_smoothing, ge=0, le=1)
    if not isinstance(target, Tensor):
        raise TypeError(f"target is a {type(target).__name__}; it takes a tensor of classes or probabilities")
    if target.is_complex():
        raise ValueError(f"target is of {target.dtype}; it takes classes or probabilities")
    if not isinstance(weight, Tensor | None):
        raise TypeError(f"weight is a {type(weight).__name__}; it takes a tensor")
    ignore_index = check_count("ignore_index", ignore_index, at_least=torch.iinfo(torch.int64).min)
    if isinstance(input, Tensor) and input.ndim == 0:
        raise ValueError("input has no axis; it takes logits of (classes), (batch, classes) or (batch, classes, ...)")
    if weight is None and not label_smoothing and reduction != "none" and _goes_in_chunks(input, target):
        checked = _check_logits(input, 1, compute_dtype)
        _check_classes(target, input.shape, ignore_index)
        count = (target != ignore_index).sum() if reduction == "mean" else torch.ones((), dtype=torch.int64)
        return _MeanLoss.apply(input, target.long(), ignore_index, count, checked)
    z = _logits(input, 0 if getattr(input, "ndim", 1) == 1 else 1, compute_dtype)
    target = target.to(z.dtype) if target.is_floating_point() else target.long()
    try:
        return functional.cross_entropy(
            z, target, None if weight is None else weight.to(z.dtype), None, ignore_index, None, reduction,
            label_smoothing,
        )  # fmt: skip
    except IndexError as error:
        raise ValueError(f"target: {error}; with {z.shape[0 if z.ndim == 1 else 1]} classes") from None
    except RuntimeError as error:
        raise ValueError(
            f"target has shape {tuple(target.shape)} and weight {None if weight is None else tuple(weight.shape)} for "
            f"logits of {tuple(z.shape)}: {error}"
        ) from None


class StableMax(nn.Module):
    """StableMax as a layer, in the place of `torch.nn.Softmax`.

    Parameters
    ----------
    dim
        The axis of the classes.

    References
    ----------
    arXiv 2501.04697.

    Examples
    --------
    >>> StableMax(dim=1)(torch.tensor([[1.0, 0.0]]))
    tensor([[0.6667, 0.3333]])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return probabilities.

        Parameters
        ----------
        input
            Logits of any shape.

        Returns
        -------
        Tensor
            As `stablemax` does.
        """
        return stablemax(input, self.dim)

    def extra_repr(self) -> str:
        """Return the axis, for the printed form of a network.

        Returns
        -------
        str
            The argument as it was given.
        """
        return f"dim={self.dim}"


class LogStableMax(StableMax):
    """Log-StableMax as a layer, in the place of `torch.nn.LogSoftmax`.

    Parameters
    ----------
    dim
        The axis of the classes.

    References
    ----------
    arXiv 2501.04697.

    Examples
    --------
    >>> LogStableMax(dim=1)(torch.zeros(1, 2)).exp()
    tensor([[0.5000, 0.5000]])
    """

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return log-probabilities.

        Parameters
        ----------
        input
            Logits of any shape.

        Returns
        -------
        Tensor
            As `log_stablemax` does.
        """
        return log_stablemax(input, self.dim)


class StableMaxCrossEntropyLoss(nn.Module):
    """StableMax cross-entropy as a module, in the place of `torch.nn.CrossEntropyLoss`.

    Parameters
    ----------
    weight, ignore_index, reduction, label_smoothing, compute_dtype
        As in `stablemax_cross_entropy`; the weight is a buffer and follows the module to its device.

    Raises
    ------
    ValueError
        For another reduction, or a smoothing outside 0 to 1.

    References
    ----------
    arXiv 2501.04697, StableMax cross-entropy.

    Examples
    --------
    >>> criterion = StableMaxCrossEntropyLoss(label_smoothing=0.1)
    >>> round(criterion(torch.zeros(2, 10), torch.tensor([1, 7])).item(), 4)
    2.3026
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Float[Tensor, " classes"] | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        compute_dtype: torch.dtype | None = torch.float64,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction: Reduction = check_choice("reduction", reduction, get_args(Reduction))
        self.label_smoothing = check_number("label_smoothing", label_smoothing, ge=0, le=1)
        self.compute_dtype = compute_dtype

    def forward(self, input: Float[Tensor, "*logits"], target: Shaped[Tensor, "*targets"]) -> Float[Tensor, "*loss"]:
        """Return the loss.

        Parameters
        ----------
        input, target
            As in `stablemax_cross_entropy`.

        Returns
        -------
        Tensor
            A number, or for the reduction ``none`` one for each place.
        """
        return stablemax_cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing, self.compute_dtype
        )
