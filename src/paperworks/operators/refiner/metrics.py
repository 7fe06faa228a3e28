"""How long rollouts stay accurate, how far samples agree, and which Fourier modes a prediction gets wrong."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number

Rollouts = Float[Tensor, "batch times channels *grid"]


class SpectralError(NamedTuple):
    """Amplitudes by the number of waves.

    Parameters
    ----------
    error
        Mean absolute Fourier coefficient of what was predicted less what is true, for 0, 1, 2, ... waves.
    amplitude
        That of what is true.
    """

    error: Float[Tensor, " waves"]
    amplitude: Float[Tensor, " waves"]

    @property
    def relative(self) -> Float[Tensor, " waves"]:
        """Errors relative to the amplitudes."""
        return self.error / self.amplitude


def correlation(pred: Rollouts, target: Rollouts) -> Float[Tensor, "batch times"]:
    """Return Pearson's correlation of predicted and true states over all points and channels.

    Parameters
    ----------
    pred, target
        Trajectories (batch, times, channels, *grid).

    Returns
    -------
    Tensor
        For each row and time; NaN where a state is NaN, infinite or constant.

    Raises
    ------
    ValueError
        For two shapes, fewer than four axes, or an empty one.
    TypeError
        For states that aren't real floating-point numbers.

    References
    ----------
    Lippe and others, arXiv:2308.05732, the evaluation.

    Examples
    --------
    >>> u = torch.randn(2, 3, 1, 8, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(correlation(2 * u + 1, u), torch.ones(2, 3))
    True
    """
    _check_rollouts(pred, target)
    return (_standard(pred) * _standard(target)).sum(-1).to(torch.result_type(pred, target))


def time_above(curve: Float[Tensor, "*batch times"], dt: float, threshold: float = 0.8) -> Float[Tensor, "*batch"]:
    """Return the last time before a curve first falls below a threshold.

    Parameters
    ----------
    curve
        Values at times 0, dt, 2 dt, ... along the last axis; NaN counts as below.
    dt
        Time from one value to the next.
    threshold
        Where it ends; 0.8 by default, the paper's.

    Returns
    -------
    Tensor
        Times, the last one of the curve where it never falls below.

    Raises
    ------
    ValueError
        For a time of a step that isn't positive, a threshold that isn't finite, or a curve without a time.

    References
    ----------
    Lippe and others, arXiv:2308.05732, the high-correlation time.

    Examples
    --------
    >>> time_above(torch.tensor([[1.0, 0.9, 0.7, 0.9], [1.0, 1.0, 1.0, 1.0]]), 0.5).tolist()
    [0.5, 1.5]
    """
    check_number("dt", dt, gt=0), check_number("threshold", threshold)
    if curve.ndim == 0 or curve.shape[-1] == 0:
        raise ValueError(f"curve has shape {tuple(curve.shape)}; it takes (..., times), one time or more")
    good = (curve >= threshold).int().cumprod(-1).sum(-1)
    return (good - 1).clamp(min=0).to(curve.dtype) * dt


def high_correlation_time(
    pred: Rollouts, target: Rollouts, dt: float, threshold: float = 0.8, *, per_trajectory: bool = False
) -> Float[Tensor, "*batch"]:
    """Return how long rollouts stay correlated with the truth.

    Parameters
    ----------
    pred, target
        Trajectories (batch, times, channels, *grid), the common start first.
    dt
        Time from one state to the next.
    threshold
        Correlation that ends it; 0.8 by default, the paper's.
    per_trajectory
        Whether each row has a time of its own; else the mean of the correlations over rows decides, as in the paper.

    Returns
    -------
    Tensor
        A time, or one for each row.

    Raises
    ------
    ValueError
        For two shapes, or a time of a step that isn't positive.

    References
    ----------
    Lippe and others, arXiv:2308.05732, the evaluation.

    Examples
    --------
    >>> u = torch.randn(2, 4, 1, 64, generator=torch.Generator().manual_seed(0))
    >>> wrong = u.clone()
    >>> wrong[:, 2:] = u[:, :2]
    >>> float(high_correlation_time(wrong, u, dt=0.5))
    0.5
    """
    found = correlation(pred, target)
    return time_above(found if per_trajectory else found.mean(0), dt, threshold)


def pairwise_correlation(samples: Float[Tensor, "samples batch times channels *grid"]) -> Float[Tensor, "batch times"]:
    """Return the mean correlation of all pairs of repeated rollouts.

    Parameters
    ----------
    samples
        What `Stepper.rollout` returns with `n_samples`: (samples, batch, times, channels, *grid), two samples or more.

    Returns
    -------
    Tensor
        For each row and time.

    Raises
    ------
    ValueError
        For fewer than two samples.

    References
    ----------
    Lippe and others, arXiv:2308.05732, the section on uncertainty.

    Examples
    --------
    >>> u = torch.randn(2, 3, 1, 8, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(pairwise_correlation(torch.stack([u, -u, u])), torch.full((2, 3), -1 / 3))
    True
    """
    if samples.ndim < 5 or len(samples) < 2:
        raise ValueError(
            f"samples has shape {tuple(samples.shape)}; it takes (samples, batch, times, channels, *grid), "
            "two samples or more"
        )
    _check_rollouts(samples[0], samples[0])
    count = len(samples)
    # The square of the sum of unit vectors has each pair twice, and each vector's own square, 1.
    together = torch.stack([_standard(sample) for sample in samples]).sum(0)
    return (((together**2).sum(-1) - count) / (count * (count - 1))).to(samples.dtype)


def spectral_error(
    pred: Float[Tensor, "batch channels *grid"], target: Float[Tensor, "batch channels *grid"]
) -> SpectralError:
    """Return the error of each number of waves, and its amplitude in the truth.

    Parameters
    ----------
    pred, target
        Fields (batch, channels, *grid) on a periodic box. In two and more dimensions modes count to the nearest whole
        number of waves.

    Returns
    -------
    SpectralError
        Means over batch, channels and modes of a number of waves, up to half the points along the shortest side.

    Raises
    ------
    ValueError
        For two shapes, fewer than three axes, or an empty one.
    TypeError
        For fields that aren't real floating-point numbers.

    References
    ----------
    Lippe and others, arXiv:2308.05732, the figures of spectra.

    Examples
    --------
    >>> x = torch.arange(8) * 2 * torch.pi / 8
    >>> found = spectral_error(1.1 * (2 * x).sin()[None, None], (2 * x).sin()[None, None])
    >>> round(float(found.relative[2]), 4), round(float(found.amplitude[2]), 4)
    (0.1, 0.5)
    """
    _check_pair(pred, target, "(batch, channels, *grid)")
    shape, axes = target.shape[2:], tuple(range(2, target.ndim))
    square = torch.zeros((), dtype=torch.float64)
    for axis, n in enumerate(shape):
        wave = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
        square = square + wave.square().reshape(-1, *[1] * (len(shape) - 1 - axis))
    waves = square.sqrt().round().long().flatten()
    counts, kept = torch.bincount(waves), min(shape) // 2 + 1

    def amplitudes(fields: Tensor) -> Tensor:
        modes = torch.fft.fftn(_at_least_single(fields), dim=axes, norm="forward").abs().mean((0, 1)).flatten()
        sums = modes.new_zeros(len(counts)).index_add_(0, waves.to(modes.device), modes)
        return (sums / counts.to(sums))[:kept].to(fields.dtype)

    return SpectralError(amplitudes(pred - target), amplitudes(target))


def _check_rollouts(pred: Tensor, target: Tensor) -> None:
    _check_pair(pred, target, "(batch, times, channels, *grid)")


def _check_pair(pred: Tensor, target: Tensor, axes: str) -> None:
    if pred.shape != target.shape or pred.ndim < axes.count(",") + 1 or pred.numel() == 0:
        raise ValueError(
            f"pred has shape {tuple(pred.shape)}, target {tuple(target.shape)}; they take one shape {axes}, not empty"
        )
    if not (pred.is_floating_point() and target.is_floating_point()):
        raise TypeError(
            f"pred and target have dtypes {pred.dtype} and {target.dtype}; they take real floating-point ones"
        )


def _at_least_single(fields: Tensor) -> Tensor:
    """Return fields in single precision where they have less, in which sums lose digits and transforms don't exist."""
    return fields.to(torch.promote_types(fields.dtype, torch.float32))


def _standard(fields: Tensor) -> Tensor:
    """Return each state as a vector of mean 0 and length 1."""
    flat = _at_least_single(fields).flatten(2)
    # Of size one, so that no square overflows or vanishes, and a constant state is exactly so.
    flat = flat / flat.abs().amax(-1, keepdim=True)
    centred = flat - flat.mean(-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True)
