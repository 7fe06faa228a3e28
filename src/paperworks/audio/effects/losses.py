"""Losses of processed sound, and the bound on magnitudes."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_number

DataLoss = Literal["logcosh", "mae", "mse", "huber", "esr", "mrstft", "a-weighted"]
Sounds = Float[Tensor, "*batch n"]


def _check_shapes(y_hat: Tensor, y: Tensor) -> None:
    if y_hat.shape != y.shape:
        raise ValueError(f"y_hat has shape {tuple(y_hat.shape)}, y {tuple(y.shape)}; they take the same")


def log_cosh(error: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the logarithm of the hyperbolic cosine, for errors of any size.

    Parameters
    ----------
    error
        Errors, any shape and size.

    Returns
    -------
    Tensor
        ``log cosh`` of each, which is about half the square where small and ``|e| - log 2`` where large.

    References
    ----------
    Hawley, Colburn and Mimilakis, arXiv:1905.11928, the loss.

    Examples
    --------
    >>> [round(v, 3) for v in log_cosh(torch.tensor([0.0, 1.0, -1000.0])).tolist()]
    [0.0, 0.434, 999.307]
    """
    size = error.abs()
    return size + functional.softplus(-2 * size) - math.log(2)


def esr_loss(y_hat: Sounds, y: Sounds, *, dc: bool = True, pre_emphasis: float = 0.95, eps: float = 1e-8) -> Tensor:
    """Return the mean over rows of the energy of the error relative to the signal's.

    Parameters
    ----------
    y_hat
        Processed sound, in the last axis.
    y
        What it should be, of the same shape.
    dc
        Whether the squared difference of the means, relative to the signal's power, is added; yes by default.
    pre_emphasis
        The coefficient of ``1 - c z^-1``, through which both go before the ratio; 0.95 by default, 0 for none.
    eps
        Added to the signal's energy, so that silence has a loss; 1e-8 by default, that of auraloss.

    Returns
    -------
    Tensor
        A number, with gradients.

    Raises
    ------
    ValueError
        For shapes that differ.

    References
    ----------
    Wright and Valimaki, arXiv:1911.08922.

    Examples
    --------
    >>> esr_loss(torch.tensor([[0.5, -0.5]]), torch.tensor([[1.0, -1.0]]), pre_emphasis=0.0).item()
    0.25
    """
    _check_shapes(y_hat, y)
    offset = (y_hat - y).mean(-1).square() / (y.square().mean(-1) + eps) if dc else torch.zeros((), dtype=y.dtype)
    if pre_emphasis:
        y_hat, y = (
            torch.cat([t[..., :1], t[..., 1:] - check_number("pre_emphasis", pre_emphasis) * t[..., :-1]], -1)
            for t in (y_hat, y)
        )
    return ((y_hat - y).square().sum(-1) / (y.square().sum(-1) + eps) + offset.to(y.device)).mean()


def spectral_loss(y_hat: Sounds, y: Sounds, sizes: Sequence[int] = (1024, 512, 256)) -> Tensor:
    """Return the sum of spectral convergence and log-magnitude error, averaged over transforms of several sizes.

    Parameters
    ----------
    y_hat
        Processed sound, in the last axis.
    y
        What it should be, of the same shape.
    sizes
        Samples of a frame of each transform, of which a quarter is the hop; those longer than the sound are left out.

    Returns
    -------
    Tensor
        A number, with gradients.

    Raises
    ------
    ValueError
        For shapes that differ, and where all frames are longer than the sound.

    References
    ----------
    Yamamoto, Song and Kim, arXiv:1910.11480, the multi-resolution loss.

    Examples
    --------
    >>> y = torch.sin(torch.arange(2048.0))[None]
    >>> spectral_loss(y, y).item()
    0.0
    """
    _check_shapes(y_hat, y)
    fitting = [size for size in sizes if size <= y.shape[-1]]
    if not fitting:
        raise ValueError(f"sizes is {list(sizes)}; it takes some of at most {y.shape[-1]} samples")
    total = torch.zeros((), dtype=y.dtype, device=y.device)
    for size in fitting:
        window = torch.hann_window(size, dtype=y.dtype, device=y.device)
        a, b = (
            (
                torch.fft.rfft(t.reshape(-1, t.shape[-1]).unfold(-1, size, size // 4) * window).abs().square() + 1e-8
            ).sqrt()
            for t in (y_hat, y)
        )
        total = total + torch.linalg.vector_norm(b - a) / torch.linalg.vector_norm(b) + (b.log() - a.log()).abs().mean()
    return total / len(fitting)


def a_weighted(x: Sounds, sr: float) -> Sounds:
    """Filter sound by the A weighting of hearing, without shifting its phases.

    Parameters
    ----------
    x
        Sound, in the last axis.
    sr
        Samples in a second.

    Returns
    -------
    Tensor
        Weighted sound, of the same shape; 1 kHz keeps its size.

    References
    ----------
    IEC 61672-1.

    Examples
    --------
    >>> tone = torch.sin(2 * math.pi * 1000 * torch.arange(44100) / 44100)
    >>> round((a_weighted(tone, 44100).square().sum() / tone.square().sum()).item(), 3)
    1.0
    """
    n = x.shape[-1]
    squared = torch.fft.rfftfreq(n, 1 / check_number("sr", sr, gt=0), dtype=torch.float64, device=x.device).square()

    def size(f2: Tensor) -> Tensor:
        roots = ((f2 + 107.7**2) * (f2 + 737.9**2)).sqrt()
        return 12194**2 * f2.square() / ((f2 + 20.6**2) * roots * (f2 + 12194**2))

    weight = size(squared) / size(torch.tensor(1000.0**2, dtype=torch.float64))
    return torch.fft.irfft(torch.fft.rfft(x) * weight.to(x.dtype), n)


class SignalTrainLoss(nn.Module):
    """The mean ``log cosh`` of errors, with a bound on the magnitudes that favours low frequencies.

    Parameters
    ----------
    strength
        Weight of the bound; 2e-5 by default, the paper's.
    weighted
        Whether the bound weighs bins by ``exp(7 f / F) / 10``, as training did; else all are alike. Default: yes.
    data
        What is asked of samples: "logcosh", the paper's, "mae", "mse", "huber", "esr" (with `esr_loss`), "mrstft" (the
        mean absolute error plus `spectral_loss`), or "a-weighted" (``log cosh`` behind the A weighting).
    bound
        "l1", the paper's, or "logcosh" of the magnitudes.
    sr
        Samples in a second, for "a-weighted"; 44100 by default.

    Raises
    ------
    ValueError
        For a negative strength, or unknown choices.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; Hawley, Colburn and Mimilakis, arXiv:1905.11928, the loss.

    Examples
    --------
    >>> loss = SignalTrainLoss(weighted=False)
    >>> round(loss(torch.ones(1, 4), torch.zeros(1, 4), torch.ones(1, 3, 2)).item(), 6)
    0.433801
    """

    def __init__(
        self,
        strength: float = 2e-5,
        weighted: bool = True,
        data: DataLoss = "logcosh",
        bound: Literal["l1", "logcosh"] = "l1",
        sr: float = 44100,
    ) -> None:
        super().__init__()
        self.strength = check_number("strength", strength, ge=0)
        self.weighted, self.sr = weighted, check_number("sr", sr, gt=0)
        self.data: DataLoss = check_choice("data", data, get_args(DataLoss))
        self.bound = check_choice("bound", bound, ("l1", "logcosh"))

    def forward(self, y_hat: Sounds, y: Sounds, magnitude: Float[Tensor, "batch bins frames"] | None = None) -> Tensor:
        """Return the loss of processed sound.

        Parameters
        ----------
        y_hat
            Processed sound, in the last axis.
        y
            What it should be, of the same shape.
        magnitude
            Magnitudes of the output's frames, (batch, bins, frames); none by default, and no bound.

        Returns
        -------
        Tensor
            A number, with gradients.

        Raises
        ------
        ValueError
            For shapes that differ.
        """
        _check_shapes(y_hat, y)
        loss = self._of_samples(y_hat, y)
        if magnitude is None or not self.strength:
            return loss
        size = magnitude.abs() if self.bound == "l1" else log_cosh(magnitude)
        if self.weighted:
            bins = size.shape[1]
            size = size * (7 / bins * torch.arange(bins, device=size.device)).exp().to(size)[:, None] / 10
        return loss + self.strength * size.mean()

    def _of_samples(self, y_hat: Tensor, y: Tensor) -> Tensor:
        match self.data:
            case "mae":
                return functional.l1_loss(y_hat, y)
            case "mse":
                return functional.mse_loss(y_hat, y)
            case "huber":
                return functional.huber_loss(y_hat, y)
            case "esr":
                return esr_loss(y_hat, y)
            case "mrstft":
                return functional.l1_loss(y_hat, y) + spectral_loss(y_hat, y)
            case "a-weighted":
                return log_cosh(a_weighted(y_hat - y, self.sr)).mean()
        return log_cosh(y_hat - y).mean()
