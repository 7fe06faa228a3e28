"""SignalTrain: a network of two autoencoders behind a trainable Fourier transform, told where the knobs are."""

import itertools
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.audio.effects.companding import mu_compress, mu_expand
from paperworks.audio.effects.frontend import Bank, FourierFrontEnd
from paperworks.core.validation import check_choice, check_count, check_number

KnobMode = Literal["concat", "film"]
Skip = Literal["sf", "res", "exp", "none"]
Init = Literal["xavier", "kaiming", "default"]
_SLACK = 1e-6


class FramesAutoencoder(nn.Module):
    """An autoencoder along the frames of each bin, with weights that all bins share.

    Layers have ``T, R, R/2, R/4, R/4`` numbers, take the knobs in, and go back to ``R`` and the frames of the output;
    an activation follows each.

    Parameters
    ----------
    frames, out_frames
        Frames of the input, and of the output.
    n_knobs
        Number of knobs.
    rank
        Width of the first layer, a multiple of 4; 64 by default, the paper's.
    skip
        How the last frames of the input meet the answer: "sf" multiplies, "res" adds before the last activation, "exp"
        multiplies logarithms, "none" ignores them.
    knob_mode
        "concat" appends the knobs to the narrowest layer, as published; "film" scales and shifts it by them.
    activation
        Makes what follows each layer; ELU by default, the paper's.
    init
        "xavier" (normal; biases 0), the paper's, "kaiming" (the same for rectifiers), or "default", which is torch's.
    unet
        Whether layers of the decoder also see those of the encoder that are as wide; no by default.

    Raises
    ------
    ValueError
        For counts or choices out of range.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; Hawley, Colburn and Mimilakis, arXiv:1905.11928, section 3.

    Examples
    --------
    >>> network = FramesAutoencoder(25, 9, n_knobs=4)
    >>> network(torch.rand(2, 513, 25), torch.zeros(2, 4)).shape
    torch.Size([2, 513, 9])
    """

    def __init__(
        self,
        frames: int,
        out_frames: int,
        n_knobs: int,
        rank: int = 64,
        skip: Skip = "none",
        knob_mode: KnobMode = "concat",
        activation: Callable[[], nn.Module] = nn.ELU,
        init: Init = "xavier",
        *,
        unet: bool = False,
    ) -> None:
        super().__init__()
        self.skip: Skip = check_choice("skip", skip, ("sf", "res", "exp", "none"))
        self.knob_mode: KnobMode = check_choice("knob_mode", knob_mode, ("concat", "film"))
        check_choice("init", init, ("xavier", "kaiming", "default"))
        if check_count("rank", rank, at_least=4) % 4:
            raise ValueError(f"rank is {rank}; it takes a multiple of 4")
        self.out_frames = check_count("out_frames", out_frames, at_most=frames)
        half, narrow = rank // 2, rank // 4
        self.activation = activation()
        self.encoder = nn.ModuleList(
            [nn.Linear(frames, rank), nn.Linear(rank, half), nn.Linear(half, narrow), nn.Linear(narrow, narrow)]
        )
        self.add_knobs = nn.Linear(narrow + (n_knobs if knob_mode == "concat" else 0), narrow)
        widths = [narrow, narrow, half, rank, out_frames]
        self.unet = unet
        self.decoder = nn.ModuleList(nn.Linear((1 + unet) * a, b) for a, b in itertools.pairwise(widths))
        layers = [*self.encoder, self.add_knobs, *self.decoder]
        if knob_mode == "film":
            self.film = nn.Linear(n_knobs, 2 * narrow)
            layers.append(self.film)
        for layer in layers if init != "default" else ():
            assert isinstance(layer, nn.Linear)
            fill = nn.init.xavier_normal_ if init == "xavier" else nn.init.kaiming_normal_
            fill(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Float[Tensor, "batch bins frames"], knobs: Float[Tensor, "batch knobs"]
    ) -> Float[Tensor, "batch bins out_frames"]:
        """Return the frames of the output.

        Parameters
        ----------
        x
            Magnitudes or phases, (batch, bins, frames).
        knobs
            Positions of the knobs, (batch, knobs).

        Returns
        -------
        Tensor
            What the autoencoder and its skip make of the last frames.
        """
        z, seen = x, []
        for layer in self.encoder:
            z = self.activation(layer(z))
            seen.append(z)
        if self.knob_mode == "concat":
            z = torch.cat([z, knobs[:, None].expand(-1, z.shape[1], -1).to(z.dtype)], -1)
        else:
            scale, shift = self.film(knobs)[:, None].chunk(2, -1)
            z = (1 + scale) * z + shift
        z = self.activation(self.add_knobs(z))
        last = x[..., -self.out_frames :]
        for i, layer in enumerate(self.decoder):
            if self.unet:
                z = torch.cat([z, seen[-1 - i]], -1)
            z = layer(z)
            if i == len(self.decoder) - 1 and self.skip == "res":
                z = z + last
            z = self.activation(z)
        if self.skip == "sf":
            return z * last
        if self.skip == "exp":
            # Activations and magnitudes are kept positive, so that logarithms exist, and the product, which is large
            # where both are near 0, within what an exponential can take.
            return ((z.clamp_min(0) + 1e-6).log() * (last.clamp_min(0) + 1e-6).log()).clamp_max(10).exp()
        return z


class Processed(NamedTuple):
    """What the model makes of chunks, and the magnitudes that its loss bounds.

    Parameters
    ----------
    y
        Processed last samples of each chunk.
    magnitude
        Magnitudes of the output's frames, (batch, bins, frames).

    Examples
    --------
    >>> model = SignalTrain(4, chunk=2048, ft=256, hop=96)
    >>> model(torch.zeros(2, 2048), torch.zeros(2, 4), return_aux=True).magnitude.shape
    torch.Size([2, 129, 9])
    """

    y: Float[Tensor, "batch out"]
    magnitude: Float[Tensor, "batch bins frames"]


class SignalTrain(nn.Module):
    """A network that emulates an effect with knobs: chunks of sound and knobs to processed sound.

    A chunk is much longer than what comes out, which belongs to its last samples: the rest is there to look back at.
    Magnitudes and phases of its frames go through an autoencoder each, the first as a filter of the magnitudes, and
    the transform back is added to the sound itself.

    Parameters
    ----------
    n_knobs
        Number of knobs.
    chunk
        Samples of a chunk; 8192 by default, the paper's. Reduced, with a warning, to a number at whose end a frame
        begins: else the output would not be aligned.
    shrink
        Samples of a chunk for each sample of the output; 4 by default, the paper's.
    ft, hop
        Samples of a frame and from frame to frame; 1024 and 384 by default, the paper's.
    rank
        Width of the autoencoders' first layers; 64 by default, the paper's.
    trainable_frontend
        Whether the Fourier transform is trained with the rest; yes by default, as in the paper.
    knob_mode
        "concat" appends the knobs to the narrowest layers, as published; "film" scales and shifts these by them.
    skip
        How magnitudes of the input meet those of the output: "sf" (a filter), the paper's, "res", "exp" or "none".
    activation
        Makes what follows each layer; ELU by default, the paper's.
    init
        "xavier", the paper's, "kaiming" or "default".
    phase
        Whether phases have their autoencoder; without it they pass. Default: yes, as in the paper.
    unet
        Whether decoders also see layers of their encoders; no by default.
    bank
        How the transform is computed, see `FourierFrontEnd`. By default "half", and "rfft" where it isn't trained.
    companding
        The mu of a mu law in which the network hears and answers, such as 32, the paper's; none by default.
    sr
        Samples in a second of the sound it is made for, checked where sound says its own; unknown by default.

    Raises
    ------
    ValueError
        For counts or choices out of range, and chunks too short for their frames.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; Hawley, Colburn and Mimilakis, arXiv:1905.11928, section 3.

    Examples
    --------
    >>> model = SignalTrain(n_knobs=4)
    >>> model(torch.zeros(2, 8192), torch.zeros(2, 4)).shape
    torch.Size([2, 2048])
    """

    def __init__(
        self,
        n_knobs: int,
        chunk: int = 8192,
        shrink: int = 4,
        ft: int = 1024,
        hop: int = 384,
        rank: int = 64,
        trainable_frontend: bool = True,
        knob_mode: KnobMode = "concat",
        *,
        skip: Skip = "sf",
        activation: Callable[[], nn.Module] = nn.ELU,
        init: Init = "xavier",
        phase: bool = True,
        unet: bool = False,
        bank: Bank | None = None,
        companding: float | None = None,
        sr: float | None = None,
    ) -> None:
        super().__init__()
        self.n_knobs = check_count("n_knobs", n_knobs, at_least=0)
        bank = bank or ("half" if trainable_frontend else "rfft")
        self.front = FourierFrontEnd(ft, hop, bank, trainable=trainable_frontend)
        frames = self.front.frames(check_count("chunk", chunk))
        self.chunk = self.front.samples(frames)
        out_frames = self.front.frames(chunk // check_count("shrink", shrink))
        self.out_chunk = self.front.samples(out_frames)
        if self.out_chunk < 1:
            raise ValueError(f"chunk is {chunk} and shrink {shrink}; with ft {ft} and hop {hop} nothing would come out")
        if self.chunk != chunk or self.out_chunk != chunk // shrink:
            warnings.warn(
                f"chunks of {chunk} and {chunk // shrink} samples hold no whole frames; they become {self.chunk} and "
                f"{self.out_chunk}",
                stacklevel=2,
            )
        self.companding = None if companding is None else check_number("companding", companding, gt=0)
        self.sr = None if sr is None else check_number("sr", sr, gt=0)

        def autoencoder(skip: Skip) -> FramesAutoencoder:
            return FramesAutoencoder(frames, out_frames, n_knobs, rank, skip, knob_mode, activation, init, unet=unet)

        self.magnitudes = autoencoder(skip)
        self.phases = autoencoder("none") if phase else None
        self.out_frames = out_frames

    def forward(
        self, x: Float[Tensor, "batch chunk"], knobs: Float[Tensor, "batch knobs"], *, return_aux: bool = False
    ) -> Float[Tensor, "batch out"] | Processed:
        """Process chunks.

        Parameters
        ----------
        x
            Chunks of sound, whose last samples are processed.
        knobs
            Positions of the knobs from -1/2 to 1/2, for each chunk.
        return_aux
            Whether the magnitudes come back too, which the loss needs; no by default.

        Returns
        -------
        Tensor or Processed
            Processed last samples, alone or with the magnitudes of their frames.

        Raises
        ------
        ValueError
            For chunks of another length, another number of knobs or chunks, and knobs outside [-1/2, 1/2].
        """
        check_chunks(x, knobs, self.chunk, self.n_knobs)
        if self.companding is not None:
            x = mu_compress(x, self.companding)
        real, imag = (part.float() if x.dtype != torch.float64 else part for part in self.front.analysis(x / 2))
        # The root and the angle have gradients at silence, too.
        magnitude = (real.square() + imag.square() + 1e-16).sqrt()
        phase = torch.atan2(imag, real + 1e-7)
        # Autoencoders in half precision take it; angles above are in single precision at least.
        magnitude, phase, knobs = (t.to(x.dtype) for t in (magnitude, phase, knobs))
        magnitude = self.magnitudes(magnitude, knobs)
        angle = phase[..., -self.out_frames :]
        if self.phases is not None:
            angle = angle + self.phases(phase, knobs)
        magnitude, angle = magnitude.to(x.dtype), angle.to(x.dtype)
        y = 2 * self.front.synthesis(magnitude * angle.cos(), magnitude * angle.sin()) + x[:, -self.out_chunk :]
        if self.companding is not None:
            y = mu_expand(y, self.companding)
        return Processed(y, magnitude) if return_aux else y


def check_chunks(x: Tensor, knobs: Tensor, chunk: int, n_knobs: int) -> None:
    """Raise ValueError or TypeError where chunks or knobs aren't what a model takes."""
    if not x.is_floating_point():
        raise TypeError(f"x has type {x.dtype}; it takes floating-point samples")
    if x.shape[-1] != chunk:
        raise ValueError(f"x has chunks of {x.shape[-1]} samples; it takes {chunk}; process_file takes any number")
    if knobs.shape != (len(x), n_knobs):
        raise ValueError(f"knobs has shape {tuple(knobs.shape)}; it takes ({len(x)}, {n_knobs}), a row for each chunk")
    check_positions(knobs)


def check_positions(knobs: Tensor) -> None:
    """Raise ValueError where knobs are beyond their ends."""
    if not bool((knobs.abs() <= 0.5 + _SLACK).all()):  # NaN too
        raise ValueError("knobs are beyond their ends; they take positions from -0.5 to 0.5")
