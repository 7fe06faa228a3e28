"""Errors of predicted fields that networks are trained on."""

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number

Fields = Float[Tensor, "batch channels *grid"]


def squared_error(pred: Fields, target: Fields) -> Float[Tensor, ""]:
    """Return the squared error, summed over channels and averaged over space and batch.

    Parameters
    ----------
    pred, target
        Fields of one shape.

    Returns
    -------
    Tensor
        A number with a graph.

    Raises
    ------
    ValueError
        For fields of two shapes, or empty ones.
    TypeError
        For fields that aren't real floating-point numbers.

    References
    ----------
    Lippe and others, arXiv:2308.05732, the training loss.

    Examples
    --------
    >>> float(squared_error(torch.zeros(2, 3, 8), torch.ones(2, 3, 8)))
    3.0
    """
    return (_apart(pred, target) ** 2).sum(1).mean()


def sobolev_error(pred: Fields, target: Fields, order: float = 1.0) -> Float[Tensor, ""]:
    r"""Return the squared error in a Sobolev norm, which weighs mode k by :math:`(1 + |k|^2)^s`.

    Parameters
    ----------
    pred, target
        Fields of one shape on a periodic box; k counts waves along a side.
    order
        The exponent s; 1 by default, the norm that counts first derivatives. With 0 it is `squared_error`.

    Returns
    -------
    Tensor
        A number with a graph.

    Raises
    ------
    ValueError
        For fields of two shapes, empty ones, or an exponent that isn't finite.
    TypeError
        For fields that aren't real floating-point numbers.

    References
    ----------
    Lippe and others, arXiv:2308.05732, the baseline with a Sobolev norm.

    Examples
    --------
    >>> x = torch.arange(16) * 2 * torch.pi / 16
    >>> round(float(sobolev_error((3 * x).sin()[None, None], torch.zeros(1, 1, 16))), 4)  # (1 + 9) / 2
    5.0
    """
    check_number("order", order)
    apart = _apart(pred, target)
    dtype = apart.dtype
    apart = apart.to(torch.promote_types(dtype, torch.float32))  # half precision has no Fourier transform everywhere
    axes = tuple(range(2, apart.ndim))
    square = torch.zeros((), dtype=apart.dtype, device=apart.device)
    for axis, n in zip(axes, apart.shape[2:], strict=True):
        wave = torch.fft.fftfreq(n, 1 / n, dtype=apart.dtype, device=apart.device)
        square = square + wave.square().reshape(-1, *[1] * (apart.ndim - 1 - axis))
    modes = torch.fft.fftn(apart, dim=axes, norm="forward")
    # Parseval: the squares of modes sum to the mean of squares over space.
    return (modes.abs().square() * (1 + square) ** order).sum(1).mean(0).sum().to(dtype)


def _apart(pred: Tensor, target: Tensor) -> Tensor:
    if pred.shape != target.shape:
        raise ValueError(f"target has shape {tuple(target.shape)}; it takes that of pred, {tuple(pred.shape)}")
    if pred.ndim < 2 or pred.numel() == 0:
        raise ValueError(f"pred has shape {tuple(pred.shape)}; it takes (batch, channels, *grid), not empty")
    if not (pred.is_floating_point() and target.is_floating_point()):
        raise TypeError(
            f"pred and target have dtypes {pred.dtype} and {target.dtype}; they take real floating-point ones"
        )
    return pred - target
