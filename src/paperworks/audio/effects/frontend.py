"""Short-time Fourier transforms that can be trained: as published, at half the cost, and frozen."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count

Bank = Literal["literal", "half", "rfft"]
Spectrum = tuple[Float[Tensor, "batch bins frames"], Float[Tensor, "batch bins frames"]]


class FourierFrontEnd(nn.Module):
    """Analysis and synthesis by banks of filters that begin as a short-time Fourier transform.

    Frames are `ft` samples long and begin every `hop` samples, the first `ft` before the sound and the last at its end.
    At initialisation the banks are orthonormal transforms behind a Hamming window, and the synthesis is that of least
    squares, so that synthesis undoes analysis.

    Parameters
    ----------
    ft
        Samples of a frame, an even number; 1024 by default, the paper's.
    hop
        Samples from frame to frame; 384 by default, the paper's.
    bank
        "literal", convolutions with `ft` channels each, as published; "half", the same map by the ``ft / 2 + 1``
        channels that count, as products of matrices; "rfft", which isn't trained and fastest. Default: "half".
    trainable
        Whether filters are trained, all but those of "rfft"; yes by default.

    Raises
    ------
    ValueError
        For an odd `ft`, a `hop` above `ft`, an unknown bank, and "rfft" that is to be trained.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; Hawley, Colburn and Mimilakis, arXiv:1905.11928, section 3. Least squares:
    Griffin and Lim (1984).

    Examples
    --------
    >>> front = FourierFrontEnd(64, 24)
    >>> x = torch.randn(2, 176, generator=torch.Generator().manual_seed(0))
    >>> re, im = front.analysis(x)
    >>> re.shape, bool((front.synthesis(re, im) - x).abs().max() < 1e-5)
    (torch.Size([2, 33, 11]), True)
    """

    weight: Tensor
    analysis_real: Tensor
    analysis_imag: Tensor
    synthesis_real: Tensor
    synthesis_imag: Tensor
    analysis_window: Tensor
    synthesis_window: Tensor

    def __init__(self, ft: int = 1024, hop: int = 384, bank: Bank = "half", *, trainable: bool = True) -> None:
        super().__init__()
        self.ft, self.hop = check_count("ft", ft, at_least=4), check_count("hop", hop, at_most=ft)
        self.bank: Bank = check_choice("bank", bank, ("literal", "half", "rfft"))
        if ft % 2:
            raise ValueError(f"ft is {ft}; it takes an even number")
        if trainable and bank == "rfft":
            raise ValueError("bank is 'rfft', which isn't trained; take 'half', or trainable=False")
        self.bins = ft // 2 + 1
        window = torch.hamming_window(ft, periodic=False, dtype=torch.float64)
        # The sum over all frames of the squared window, at each place within a hop.
        overlap = functional.pad(window.square(), (0, -ft % hop)).view(-1, hop).sum(0)
        dual = window / overlap.repeat(-(-ft // hop))[:ft]
        weight = torch.full((self.bins,), 2.0)
        weight[0] = weight[-1] = 1.0  # conjugates stand for the bins between
        self.register_buffer("weight", weight, persistent=False)
        if bank == "rfft":
            self.register_buffer("analysis_window", window.float(), persistent=False)
            self.register_buffer("synthesis_window", dual.float(), persistent=False)
            return
        rows = ft if bank == "literal" else self.bins
        angle = 2 * math.pi / ft * (torch.arange(rows)[:, None] * torch.arange(ft) % ft).double()
        for name, bank_of, shape in (
            ("analysis_real", angle.cos(), window),
            ("analysis_imag", -angle.sin(), window),
            ("synthesis_real", angle.cos(), dual),
            ("synthesis_imag", -angle.sin(), dual),
        ):
            filters = (bank_of * shape / math.sqrt(ft)).float()
            setattr(self, name, nn.Parameter(filters, requires_grad=trainable))

    def frames(self, n: int) -> int:
        """Return the number of frames of `n` samples.

        Returns
        -------
        int
            Frames, the first of which begins `ft` before the sound.
        """
        return (n + self.ft) // self.hop + 1

    def samples(self, frames: int) -> int:
        """Return the number of samples that a number of `frames` gives.

        Returns
        -------
        int
            Samples after `ft` is cut at both ends.
        """
        return (frames - 1) * self.hop - self.ft

    def analysis(self, x: Float[Tensor, "batch n"]) -> Spectrum:
        """Transform sound to frames.

        Parameters
        ----------
        x
            Rows of sound.

        Returns
        -------
        tuple
            Real and imaginary parts, (batch, bins, frames) each.
        """
        if self.bank == "literal":
            parts = (
                functional.conv1d(x[:, None], filters[:, None], stride=self.hop, padding=self.ft)[:, : self.bins]
                for filters in (self.analysis_real, self.analysis_imag)
            )
            real, imag = parts
            return real, imag
        frames = functional.pad(x, (self.ft, self.ft)).unfold(-1, self.ft, self.hop)
        if self.bank == "rfft":
            windowed = frames * self.analysis_window.to(x)
            # No Fourier transform in half precision on all devices.
            spectrum = torch.fft.rfft(windowed if x.dtype == torch.float64 else windowed.float(), norm="ortho").mT
            return spectrum.real, spectrum.imag
        real, imag = (frames @ torch.cat([self.analysis_real, self.analysis_imag]).T).mT.split(self.bins, 1)
        return real, imag

    def synthesis(
        self, real: Float[Tensor, "batch bins frames"], imag: Float[Tensor, "batch bins frames"]
    ) -> Float[Tensor, "batch m"]:
        """Transform frames to sound.

        Parameters
        ----------
        real, imag
            Parts of the frames' transforms, (batch, bins, frames) each.

        Returns
        -------
        Tensor
            Sound of ``samples(frames)`` samples.
        """
        if self.bank == "literal":
            mirrored = (
                torch.cat([real, real[:, 1:-1].flip(1)], 1),
                torch.cat([imag, -imag[:, 1:-1].flip(1)], 1),
            )
            parts = (
                functional.conv_transpose1d(part, filters[:, None], stride=self.hop)
                for part, filters in zip(mirrored, (self.synthesis_real, self.synthesis_imag), strict=True)
            )
            return sum(parts, torch.zeros(()).to(real))[:, 0, self.ft : -self.ft]
        if self.bank == "rfft":
            # What has no place in a real transform, the imaginary parts of the ends, is left out, as by the banks.
            parts = (part if part.dtype == torch.float64 else part.float() for part in (real, imag))
            waves = torch.fft.irfft(torch.complex(*parts).mT, self.ft, norm="ortho").to(real.dtype)
            waves = waves * self.synthesis_window.to(real)
        else:
            weight = self.weight.to(real)[:, None]
            filters = torch.cat([self.synthesis_real, self.synthesis_imag])
            waves = torch.cat([weight * real, weight * imag], 1).mT @ filters
        length = (real.shape[-1] - 1) * self.hop + self.ft
        added = functional.fold(waves.mT, (1, length), (1, self.ft), stride=(1, self.hop))
        return added[:, 0, 0, self.ft : -self.ft]
