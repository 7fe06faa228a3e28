"""How far processed sound is from what it should be: by samples, by loudness and by spectra."""

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import sosfilt
from torch import Tensor

from paperworks.core.validation import check_count, check_finite, check_number

Sounds = Float[Tensor, "*batch n"]


def _checked(y_hat: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if y_hat.shape != y.shape or y.numel() == 0:
        raise ValueError(f"y_hat has shape {tuple(y_hat.shape)}, y {tuple(y.shape)}; they take the same, not empty")
    return check_finite("y_hat", y_hat.detach().double()), check_finite("y", y.detach().double())


def mean_absolute_error(y_hat: Sounds, y: Sounds) -> float:
    """Return the mean absolute error of samples.

    It says little about quiet sound: compare it with those of the dry signal and of the best constant gain.

    Parameters
    ----------
    y_hat
        Sound to be judged.
    y
        What it should be, of the same shape.

    Returns
    -------
    float
        Mean over all samples.

    Raises
    ------
    ValueError
        For shapes that differ, nothing to compare, or samples that aren't finite.

    Examples
    --------
    >>> mean_absolute_error(torch.tensor([0.5, 1.0]), torch.tensor([0.0, 1.0]))
    0.25
    """
    a, b = _checked(y_hat, y)
    return float((a - b).abs().mean())


def error_to_signal(y_hat: Sounds, y: Sounds) -> float:
    """Return the energy of the error over that of the signal, over all rows together, in decibels.

    Parameters
    ----------
    y_hat
        Sound to be judged.
    y
        What it should be, of the same shape.

    Returns
    -------
    float
        Decibels, lower is better; infinite for a silent target that isn't met, and minus infinity without error.

    Raises
    ------
    ValueError
        For shapes that differ, nothing to compare, or samples that aren't finite.

    Examples
    --------
    >>> round(error_to_signal(torch.tensor([0.9, -0.9]), torch.tensor([1.0, -1.0])), 4)
    -20.0
    """
    a, b = _checked(y_hat, y)
    error, energy = float((a - b).square().sum()), float(b.square().sum())
    if error == 0:
        return -math.inf
    return 10 * math.log10(error / energy) if energy else math.inf


def signal_to_noise(y_hat: Sounds, y: Sounds) -> float:
    """Return the energy of the signal over that of the error, in decibels: minus `error_to_signal`.

    Parameters
    ----------
    y_hat
        Sound to be judged.
    y
        What it should be, of the same shape.

    Returns
    -------
    float
        Decibels, higher is better.

    Raises
    ------
    ValueError
        For shapes that differ, nothing to compare, or samples that aren't finite.

    Examples
    --------
    >>> round(signal_to_noise(torch.tensor([0.9, -0.9]), torch.tensor([1.0, -1.0])), 4)
    20.0
    """
    return -error_to_signal(y_hat, y)


def loudness(x: Sounds, sr: float) -> float:
    """Return the integrated loudness in LUFS, with K weighting and both gates.

    Parameters
    ----------
    x
        Sound, (channels, samples) of at most five channels, or samples of one. Channels count as left, right, centre
        and two surrounds.
    sr
        Samples in a second.

    Returns
    -------
    float
        LUFS; minus infinity where no block of 400 ms is above -70 LUFS.

    Raises
    ------
    ValueError
        For sound shorter than 400 ms or not finite, more channels, or a rate below 4000, which K weighting is above.

    References
    ----------
    ITU-R BS.1770-4.

    Examples
    --------
    >>> t = torch.arange(96000, dtype=torch.float64) / 48000
    >>> round(loudness(torch.sin(2 * math.pi * 997 * t), 48000), 1)
    -3.0
    """
    rows = np.atleast_2d(check_finite("x", x.detach().double()).cpu().numpy())
    block, step = round(0.4 * check_number("sr", sr, ge=4000)), round(0.1 * sr)
    if rows.ndim != 2 or rows.shape[1] < block or len(rows) > 5:
        raise ValueError(f"x has shape {tuple(x.shape)}; it takes at most 5 channels of at least {block} samples")
    weighted = sosfilt(_k_weighting(sr), rows) ** 2
    energy = np.lib.stride_tricks.sliding_window_view(weighted, block, axis=1)[:, ::step].mean(-1)
    energy = np.array([1, 1, 1, 1.41, 1.41])[: len(rows)] @ energy
    energy = energy[energy > 10 ** ((-70 + 0.691) / 10)]
    if energy.size:
        energy = energy[energy > energy.mean() / 10]
    return float(-0.691 + 10 * np.log10(energy.mean())) if energy.size else -math.inf


def _k_weighting(sr: float) -> np.ndarray:
    """Return the two sections of the K weighting, at any rate, by the analogue filters behind those of 48 kHz."""
    # High shelf of 4 dB, then high pass: Brecht De Man (2014), which gives the standard's digits at 48 kHz.
    k, q, gain = math.tan(math.pi * 1681.974450955533 / sr), 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    middle = gain**0.4996667741545416
    a0 = 1 + k / q + k * k
    shelf = [gain + middle * k / q + k * k, 2 * (k * k - gain), gain - middle * k / q + k * k]
    rows = [[*(b / a0 for b in shelf), 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]]
    k, q = math.tan(math.pi * 38.13547087602444 / sr), 0.5003270373238773
    a0 = 1 + k / q + k * k
    rows.append([1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0])
    return np.array(rows)


def loudness_error(y_hat: Sounds, y: Sounds, sr: float) -> float:
    """Return the difference of integrated loudness, in LU.

    Parameters
    ----------
    y_hat
        Sound to be judged, (channels, samples) or samples.
    y
        What it should be, of the same shape.
    sr
        Samples in a second.

    Returns
    -------
    float
        Absolute difference; 0 where both are below the gate.

    Raises
    ------
    ValueError
        For shapes that differ, sound shorter than 400 ms or not finite, and a rate below 4000.

    Examples
    --------
    >>> y = torch.sin(torch.arange(48000.0) / 7)
    >>> round(loudness_error(y / 2, y, 48000), 2)
    6.02
    """
    a, b = (loudness(part, sr) for part in _checked(y_hat, y))
    return 0.0 if a == b else abs(a - b)


def log_spectral_distance(y_hat: Sounds, y: Sounds, ft: int = 1024, floor_db: float = -100.0) -> float:
    """Return the root mean square difference of log power spectra over bins, averaged over frames, in decibels.

    Parameters
    ----------
    y_hat
        Sound to be judged.
    y
        What it should be, of the same shape.
    ft
        Samples of a frame, of which a quarter is the hop; 1024 by default.
    floor_db
        Power below this, relative to the target's largest, counts as this; -100 dB by default.

    Returns
    -------
    float
        Decibels, lower is better.

    Raises
    ------
    ValueError
        For shapes that differ, and sound shorter than a frame or not finite.

    Examples
    --------
    >>> y = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    >>> round(log_spectral_distance(y / 10, y), 3)
    20.0
    """
    a, b = _checked(y_hat, y)
    if y.shape[-1] < check_count("ft", ft, at_least=4):
        raise ValueError(f"y has {y.shape[-1]} samples; it takes a frame of {ft} at least")
    window = torch.hann_window(ft, dtype=torch.float64, device=y.device)
    power = [
        torch.fft.rfft(part.reshape(-1, part.shape[-1]).unfold(-1, ft, ft // 4) * window).abs().square()
        for part in (a, b)
    ]
    least = max(float(power[1].max()) * 10 ** (floor_db / 10), 1e-300)
    apart = 10 * (power[0].clamp_min(least).log10() - power[1].clamp_min(least).log10())
    return float(apart.square().mean(-1).sqrt().mean())
