"""Errors of fields that also see their slopes, and the scaling of fields before and after a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number

Reduction = Literal["sum", "mean", "none"]


class _FieldLoss(nn.Module):
    """A number for each sample, then their sum, mean or none of both."""

    def __init__(self, reduction: Reduction = "sum") -> None:
        super().__init__()
        self.reduction = check_choice("reduction", reduction, get_args(Reduction))

    def forward(
        self, prediction: Float[Tensor, "batch channels *grid"], target: Float[Tensor, "batch channels *grid"]
    ) -> Float[Tensor, "..."]:
        """Compare predicted fields with the true ones.

        Parameters
        ----------
        prediction, target
            Fields of the same shape.

        Returns
        -------
        Tensor
            Error of the batch, or of each sample where nothing is reduced.

        Raises
        ------
        TypeError
            For values that aren't real floating-point numbers.
        ValueError
            For shapes that differ, are empty or have no grid, and where a relative error has a target that is all zero
            or not finite.
        """
        if prediction.shape != target.shape or prediction.ndim < 3 or not prediction.numel():
            raise ValueError(
                f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}; they take one shape "
                "(batch, channels, grid), without zeros"
            )
        _check_real(prediction=prediction, target=target)
        errors = self._errors(_full(prediction), _full(target)).to(prediction.dtype)
        return errors if self.reduction == "none" else errors.sum() if self.reduction == "sum" else errors.mean()

    def _errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class RelativeL2Loss(_FieldLoss):
    r"""The relative error $\|p - y\| / \|y\|$ of each sample, over channels and nodes.

    Parameters
    ----------
    reduction
        "sum" over the batch, as in the paper, "mean", or "none".

    Raises
    ------
    ValueError
        For another reduction.

    Examples
    --------
    >>> loss = RelativeL2Loss("mean")
    >>> loss(torch.full((2, 1, 4, 4), 1.5), torch.ones(2, 1, 4, 4)).item()
    0.5
    """

    def _errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        prediction, target = _scaled(prediction, target)
        return _ratio((prediction - target).flatten(1), target.flatten(1))


class RelativeH1Loss(_FieldLoss):
    r"""The relative error of each sample in a Sobolev norm, $\|w F(p - y)\| / \|w F y\|$ with Fourier transforms F.

    The weight is $w^2 = 1 + \beta^2 (k_1^2 + k_2^2 + \dots)$ with the wave numbers of the grid, of which those from
    `kmax` on count as 0: high waves keep the weight 1.

    Parameters
    ----------
    kmax
        Wave numbers below it add to the weight, on each axis by itself; 20 as in the paper's code.
    beta
        Factor of the wave numbers; with 0 it is the relative error of `RelativeL2Loss`.
    reduction
        "sum" over the batch, as in the paper, "mean", or "none".

    Raises
    ------
    ValueError
        For numbers out of range or another reduction.

    References
    ----------
    He, Liu, Xu, arXiv 2310.19809, the training with an H1 loss.

    Examples
    --------
    >>> x = torch.linspace(0, 2 * torch.pi, 65)[:-1]
    >>> y = torch.sin(x)[None, None]
    >>> error = 0.1 * torch.sin(7 * x)[None, None]
    >>> round(RelativeH1Loss()(y + error, y).item(), 6)  # 0.1 sqrt(1 + 49) / sqrt(1 + 1)
    0.5
    """

    def __init__(self, kmax: int = 20, beta: float = 1.0, reduction: Reduction = "sum") -> None:
        super().__init__(reduction)
        self.kmax = check_count("kmax", kmax)
        self.beta = check_number("beta", beta, ge=0)

    def _errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        prediction, target = _scaled(prediction, target)
        weight = self._weight(target.shape[2:], target)
        axes = tuple(range(2, target.ndim))
        parts = (torch.view_as_real(torch.fft.fftn(x, dim=axes)) for x in (prediction - target, target))
        error, norm = ((part * weight[..., None]).flatten(1) for part in parts)
        return _ratio(error, norm)

    def _weight(self, shape: Sequence[int], like: Tensor) -> Tensor:
        total = like.new_ones(())
        for axis, n in enumerate(shape):
            k = torch.fft.fftfreq(n, 1 / n, dtype=total.dtype, device=total.device).round()
            squared = torch.where(k.abs() < self.kmax, (self.beta * k) ** 2, 0.0)
            total = total + squared.reshape([-1 if other == axis else 1 for other in range(len(shape))])
        return total.sqrt()


class DifferenceH1Loss(_FieldLoss):
    r"""The error $\sqrt{\sum c\, e^2 + |\nabla e|^2}$ of each sample with central differences, which isn't relative.

    Fields span the unit length along each axis.

    Parameters
    ----------
    weight
        The factor c of the error itself; 10 as in the paper's Helmholtz problem.
    reduction
        "mean" over the batch, as in the paper, "sum", or "none".

    Raises
    ------
    ValueError
        For a negative weight or another reduction.

    References
    ----------
    He, Liu, Xu, arXiv 2310.19809, the Helmholtz problem.

    Examples
    --------
    >>> y = torch.zeros(2, 1, 8, 8)
    >>> round(DifferenceH1Loss()(y + 1, y).item(), 4)  # sqrt(10 * 64)
    25.2982
    """

    def __init__(self, weight: float = 10.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.weight = check_number("weight", weight, ge=0)

    def _errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        error = prediction - target
        if min(error.shape[2:]) < 2:
            raise ValueError(f"prediction has shape {tuple(error.shape)}; differences take two nodes or more an axis")
        slopes = [torch.gradient(error, spacing=1 / error.shape[k], dim=k)[0] for k in range(2, error.ndim)]
        # A norm: its gradient where there is no error is 0, that of a root isn't a number.
        return torch.linalg.vector_norm(torch.cat([self.weight**0.5 * error, *slopes], 1).flatten(1), dim=1)


@dataclass(frozen=True, eq=False)
class FieldNormalizer:
    """The scaling of fields to mean 0 and deviation 1, of all nodes together or of each by itself.

    As in the paper's code, 1e-5 is added to deviations, so that nodes where all samples agree are taken too: fields
    whose deviation isn't well above that want another unit.

    Parameters
    ----------
    mean, std
        Mean and deviation, of a shape that fields broadcast with.

    Examples
    --------
    >>> fields = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    >>> scale = FieldNormalizer.of(fields)
    >>> [round(value, 3) for value in scale.encode(fields)[:, 0, 0, 0].tolist()]
    [-0.707, 0.707]
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, fields: Float[Tensor, "batch channels *grid"], pointwise: bool = True) -> "FieldNormalizer":
        """Take mean and deviation of samples.

        Parameters
        ----------
        fields
            Two samples or more.
        pointwise
            Whether each node has a mean and a deviation of its own, as the paper scales outputs; else each channel.

        Returns
        -------
        FieldNormalizer
            The scaling of these samples.

        Raises
        ------
        TypeError
            For values that aren't real floating-point numbers.
        ValueError
            For fewer than two samples, or fields without a grid.
        """
        if fields.ndim < 3 or len(fields) < 2:
            raise ValueError(f"fields has shape {tuple(fields.shape)}; it takes two samples or more with a grid")
        _check_real(fields=fields)
        axes = (0,) if pointwise else (0, *range(2, fields.ndim))
        std, mean = torch.std_mean(fields, dim=axes, keepdim=True)
        return cls(mean, std + 1e-5)  # as the paper's code: no division by 0 where all samples agree

    def encode(self, fields: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch channels *grid"]:
        """Scale fields for a network.

        Parameters
        ----------
        fields
            Fields in their own unit.

        Returns
        -------
        Tensor
            Fields of about mean 0 and deviation 1.
        """
        return (fields - self.mean) / self.std

    def decode(self, fields: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch channels *grid"]:
        """Scale a network's fields back.

        Parameters
        ----------
        fields
            Fields as a network returns them.

        Returns
        -------
        Tensor
            Fields in their own unit.
        """
        return fields * self.std + self.mean


def _check_real(**fields: Tensor) -> None:
    for name, x in fields.items():
        if not x.is_floating_point():
            raise TypeError(f"{name} is of type {x.dtype}; it takes real floating-point numbers")


def _full(x: Tensor) -> Tensor:
    """Return numbers of a precision that sums of squares and Fourier transforms take on all devices."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _scaled(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Divide both by each target's greatest value, so that no square overflows or vanishes."""
    size = target.detach().flatten(1).abs().amax(1)
    if not bool(((size > 0) & size.isfinite()).all()):
        raise ValueError("target has a sample that is all zero, infinite or NaN, of which no error is relative")
    size = size.reshape(-1, *[1] * (target.ndim - 1))
    return prediction / size, target / size


def _ratio(error: Tensor, norm: Tensor) -> Tensor:
    return torch.linalg.vector_norm(error, dim=1) / torch.linalg.vector_norm(norm, dim=1)
