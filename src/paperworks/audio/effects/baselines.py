"""What else learns effects: a convolutional network with few layers, and a compressor whose settings are learned."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.audio.effects.model import check_chunks
from paperworks.audio.effects.smoothing import ballistics, time_coefficient
from paperworks.core.validation import check_count, check_number
from paperworks.numerics.training import mlp


class MicroTCN(nn.Module):
    """A causal convolutional network with few, rapidly dilated layers, told the knobs by scales and shifts.

    Parameters
    ----------
    n_knobs
        Number of knobs, at least one.
    chunk
        Samples of a chunk; 8192 by default.
    shrink
        Samples of a chunk for each sample of the output; 4 by default.
    blocks
        Number of layers; 4 by default, the published ones.
    kernel
        Taps of each; 13 by default.
    growth
        By what the dilation grows from layer to layer; 10 by default.
    channels
        Width of the layers; 32 by default.
    sr
        Samples in a second of the sound it is made for; unknown by default.

    Raises
    ------
    ValueError
        For counts below 1.

    References
    ----------
    Steinmetz and Reiss, arXiv:2102.06200.

    Examples
    --------
    >>> MicroTCN(4, chunk=2048)(torch.zeros(2, 2048), torch.zeros(2, 4)).shape
    torch.Size([2, 512])
    """

    def __init__(
        self,
        n_knobs: int,
        chunk: int = 8192,
        shrink: int = 4,
        blocks: int = 4,
        kernel: int = 13,
        growth: int = 10,
        channels: int = 32,
        *,
        sr: float | None = None,
    ) -> None:
        super().__init__()
        self.n_knobs, self.chunk = check_count("n_knobs", n_knobs), check_count("chunk", chunk)
        self.out_chunk = check_count("out chunk", chunk // check_count("shrink", shrink))
        self.sr = sr
        for name, value in (("kernel", kernel), ("growth", growth), ("channels", channels)):
            check_count(name, value)
        self.told = nn.Sequential(mlp([n_knobs, 16, 32, 32]), nn.ReLU())
        widths = [1] + [channels] * check_count("blocks", blocks)
        self.dilations = [growth**i for i in range(blocks)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, channels, kernel, dilation=d) for a, d in zip(widths, self.dilations, strict=False)
        )
        self.films = nn.ModuleList(nn.Linear(32, 2 * channels) for _ in self.dilations)
        self.activations = nn.ModuleList(nn.PReLU(channels) for _ in self.dilations)
        self.residuals = nn.ModuleList(
            nn.Conv1d(a, channels, 1, bias=False) for a, _ in zip(widths, self.dilations, strict=False)
        )
        self.last = nn.Conv1d(channels, 1, 1)
        self.seen = 1 + (kernel - 1) * sum(self.dilations)

    def forward(
        self, x: Float[Tensor, "batch chunk"], knobs: Float[Tensor, "batch knobs"]
    ) -> Float[Tensor, "batch out"]:
        """Process chunks; where layers look back beyond a chunk they see silence.

        Parameters
        ----------
        x
            Chunks of sound, whose last samples are processed.
        knobs
            Positions of the knobs, for each chunk.

        Returns
        -------
        Tensor
            Processed last samples.

        Raises
        ------
        ValueError
            For chunks of another length, another number of knobs or chunks, and knobs outside [-1/2, 1/2].
        """
        check_chunks(x, knobs, self.chunk, self.n_knobs)
        told = self.told(knobs)
        # What the last samples can't see is cut off before anything is computed.
        need = self.out_chunk + self.seen - 1
        z = functional.pad(x[:, -need:], (max(need - self.chunk, 0), 0))[:, None]
        for convolution, film, activation, residual in zip(
            self.convolutions, self.films, self.activations, self.residuals, strict=True
        ):
            scale, shift = film(told)[..., None].chunk(2, 1)
            y = convolution(z)
            z = activation(y * (1 + scale) + shift) + residual(z[..., -y.shape[-1] :])
        return self.last(z).tanh()[:, 0]


class GreyBoxCompressor(nn.Module):
    """A compressor with unknown threshold, ratio, attack and release, learned through its recursion.

    Parameters
    ----------
    sr
        Samples in a second.
    n_knobs
        Number of knobs, in which the settings (threshold, and the logarithms of the ratio less 1 and of both times) are
        affine; 0 by default, for a device with one setting.
    chunk
        Samples of a chunk; 8192 by default.
    shrink
        Samples of a chunk for each sample of the output; 4 by default.

    Raises
    ------
    ValueError
        For counts out of range, or a rate that isn't positive.

    References
    ----------
    The recursion is the compressor's of Hawley, Colburn and Mimilakis, arXiv:1905.11928; learned settings: Yu and
    others, arXiv:2404.07970.

    Examples
    --------
    >>> box = GreyBoxCompressor(44100)
    >>> {name: round(value.item(), 3) for name, value in box.settings(torch.zeros(1, 0)).items()}
    {'threshold': -15.0, 'ratio': 3.0, 'attack': 0.01, 'release': 0.01}
    """

    def __init__(self, sr: float, n_knobs: int = 0, chunk: int = 8192, shrink: int = 4) -> None:
        super().__init__()
        self.sr, self.n_knobs = check_number("sr", sr, gt=0), check_count("n_knobs", n_knobs, at_least=0)
        self.chunk = check_count("chunk", chunk)
        self.out_chunk = check_count("out chunk", chunk // check_count("shrink", shrink))
        # The middle of the paper's ranges; thresholds in tens of decibels, so that one rate of training fits all.
        self.middle = nn.Parameter(torch.tensor([-1.5, math.log(2.0), math.log(0.01), math.log(0.01)]))
        self.slope = nn.Parameter(torch.zeros(4, n_knobs))

    def settings(self, knobs: Float[Tensor, "batch knobs"]) -> dict[str, Tensor]:
        """Return what the knobs are learned to stand for.

        Parameters
        ----------
        knobs
            Positions of the knobs, (batch, knobs).

        Returns
        -------
        dict
            Threshold (dB), ratio, attack and release (seconds), each of shape (batch,).
        """
        threshold, ratio, attack, release = (self.middle + knobs @ self.slope.T).unbind(-1)
        return {"threshold": 10 * threshold, "ratio": 1 + ratio.exp(), "attack": attack.exp(), "release": release.exp()}

    def forward(
        self, x: Float[Tensor, "batch chunk"], knobs: Float[Tensor, "batch knobs"]
    ) -> Float[Tensor, "batch out"]:
        """Compress chunks.

        Parameters
        ----------
        x
            Chunks of sound, whose last samples come out.
        knobs
            Positions of the knobs, for each chunk.

        Returns
        -------
        Tensor
            Compressed last samples.

        Raises
        ------
        ValueError
            For chunks of another length, another number of knobs or chunks, and knobs outside [-1/2, 1/2].
        """
        check_chunks(x, knobs, self.chunk, self.n_knobs)
        found = self.settings(knobs)
        level = (20 * (x.abs() + 1e-8).log10()).clamp_min(-96)
        over = functional.relu(level - found["threshold"][:, None])
        gain = over * (1 / found["ratio"] - 1)[:, None]
        attack, release = (time_coefficient(found[name], self.sr) for name in ("attack", "release"))
        smoothed = ballistics(gain, attack, release)
        return (x * 10 ** (smoothed / 20))[:, -self.out_chunk :]
