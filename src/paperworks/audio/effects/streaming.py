"""Use of a trained model on whole recordings and on streams of blocks."""

import itertools
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.audio.effects.model import check_positions
from paperworks.audio.effects.training import processed
from paperworks.core.validation import check_count, check_finite


def _checked(model: Any, x: Tensor, sr: float | None = None) -> Tensor:
    """Return sound in the type and on the device of a model, or raise where it can't be taken."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
        kind = f"of shape {tuple(x.shape)} and type {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise TypeError(f"x is {kind}; it takes a tensor of floating-point samples")
    if sr is not None and model.sr is not None and sr != model.sr:
        raise ValueError(f"sr is {sr:g}; the model is made for {model.sr:g}: resample the sound")
    own = next(itertools.chain(model.parameters(), model.buffers()), x)
    return check_finite("x", x.detach()).to(own)


def _knobs(model: Any, knobs: Any, like: Tensor) -> Tensor:
    row = torch.as_tensor(knobs, dtype=like.dtype, device=like.device)
    if row.shape != (model.n_knobs,):
        raise ValueError(f"knobs has shape {tuple(row.shape)}; it takes ({model.n_knobs},)")
    check_positions(row)
    return row


def process_file(
    model: nn.Module,
    x: Float[Tensor, "*channels n"],
    knobs: Any,
    block: int | None = None,
    *,
    sr: float | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "*channels n"]:
    """Process a whole recording, of any length and number of channels, aligned with it.

    Chunks look back at what came before; before the beginning there is silence.

    Parameters
    ----------
    model
        A `SignalTrain`, or a module with `chunk`, `out_chunk`, `n_knobs` and `sr` like it.
    x
        Samples; channels are processed each by itself, in the type and on the device of the model.
    knobs
        Positions of the knobs, one for each.
    block
        New samples of each chunk, at most the `out_chunk` of the model, which is the default and cheapest. Fewer give
        the last samples of the output alone, which look back furthest.
    sr
        Samples in a second of the recording, compared with the model's; not compared by default.
    batch_size
        Chunks that are processed at once; 64 by default.

    Returns
    -------
    Tensor
        Processed samples, of the shape, type and device of `x`.

    Raises
    ------
    ValueError
        For samples that aren't finite or none, another rate or number of knobs, positions outside [-1/2, 1/2], and
        counts out of range.
    TypeError
        For samples that aren't of floating point.

    Examples
    --------
    >>> from paperworks.audio import SignalTrain
    >>> model = SignalTrain(4, chunk=2048, ft=256, hop=96)
    >>> process_file(model, torch.zeros(2, 5000), [0.0, 0.0, 0.0, 0.0]).shape
    torch.Size([2, 5000])
    """
    made: Any = model
    hop = check_count("block", made.out_chunk if block is None else block, at_most=made.out_chunk)
    check_count("batch_size", batch_size)
    sound = _checked(model, x, sr)
    if not sound.numel():
        raise ValueError("x holds no samples")
    n = sound.shape[-1]
    rows = nn.functional.pad(sound.reshape(-1, n), (made.chunk - hop, -n % hop))
    row = _knobs(model, knobs, sound)
    out = []
    for part in rows:
        chunks = part.unfold(0, made.chunk, hop)
        y = processed(model, chunks, row.expand(len(chunks), -1), batch_size)
        out.append(y[:, -hop:].reshape(-1)[:n])
    return torch.stack(out).reshape(x.shape).to(x)


class StreamingProcessor:
    """Processes a stream of blocks of equal length as `process_file` would the whole.

    Blocks come out as long as they go in, `latency` samples late: with blocks of a multiple of `hop` there is no
    latency beyond the block itself. Frames aren't kept from one chunk to the next: those at a chunk's ends see silence
    where a stream has sound, and the model was trained on that. Where a push fails the stream is as it was before. Each
    thread takes a stream of its own; they can share a model that isn't being trained.

    Parameters
    ----------
    model
        A `SignalTrain`, or a module with `chunk`, `out_chunk`, `n_knobs` and `sr` like it.
    knobs
        Positions of the knobs; they can be turned by `turn`.
    block
        Samples of each block that is pushed; the model's `out_chunk` by default.
    hop
        New samples of each call of the model, at most its `out_chunk`. Fewer cost more calls and less latency.
        Default: the largest common divisor with the block that isn't above `out_chunk`, which has no latency, where
        it is an eighth of `out_chunk` or more, else `out_chunk`.
    channels
        Number of channels; 1 by default.
    sr
        Samples in a second of the stream, compared with the model's; not compared by default.

    Raises
    ------
    ValueError
        For counts out of range, another rate, another number of knobs, and positions outside [-1/2, 1/2].

    Examples
    --------
    >>> from paperworks.audio import SignalTrain
    >>> stream = StreamingProcessor(SignalTrain(4, chunk=2048, ft=256, hop=96), [0.0] * 4, block=500, hop=512)
    >>> stream.push(torch.zeros(1, 500)).shape, stream.latency
    (torch.Size([1, 500]), 508)
    """

    def __init__(
        self,
        model: nn.Module,
        knobs: Any,
        block: int | None = None,
        hop: int | None = None,
        *,
        channels: int = 1,
        sr: float | None = None,
    ) -> None:
        made: Any = model
        self.model = made
        most = made.out_chunk
        self.block = check_count("block", most if block is None else block)
        if hop is None:
            whole = max(d for d in range(1, most + 1) if self.block % d == 0)
            hop = whole if 8 * whole >= most else most
        self.hop = check_count("hop", hop, at_most=most)
        self.channels = check_count("channels", channels)
        like = _checked(model, torch.zeros(1), sr)
        self._row = _knobs(made, knobs, like)
        self._heard = like.new_zeros(channels, made.chunk - self.hop)
        self._ready = like.new_zeros(channels, self.latency)

    @property
    def latency(self) -> int:
        """Samples by which the output is later than the input, beyond the block itself."""
        return self.hop - math.gcd(self.block, self.hop)

    def turn(self, knobs: Any) -> None:
        """Turn the knobs, from the next call of the model on.

        Parameters
        ----------
        knobs
            New positions, one for each knob.

        Raises
        ------
        ValueError
            For another number of knobs, and positions outside [-1/2, 1/2].
        """
        self._row = _knobs(self.model, knobs, self._row)

    def push(self, x: Float[Tensor, "channels block"]) -> Float[Tensor, "channels block"]:
        """Take a block in and give one out.

        Parameters
        ----------
        x
            The next block of all channels.

        Returns
        -------
        Tensor
            Processed samples, those of `latency` samples before, of the type and device of `x`.

        Raises
        ------
        ValueError
            For another number of channels or samples, and samples that aren't finite.
        TypeError
            For samples that aren't of floating point.
        """
        sound = _checked(self.model, x)
        if x.shape != (self.channels, self.block):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; it takes {(self.channels, self.block)}, channels and block"
            )
        # The model may have been moved since the last block.
        heard, ready, row = (t.to(sound) for t in (self._heard, self._ready, self._row))
        heard = torch.cat([heard, sound], 1)
        chunk = self.model.chunk
        if count := (heard.shape[1] - chunk) // self.hop + 1:
            chunks = heard.unfold(1, chunk, self.hop).reshape(-1, chunk)
            y = processed(self.model, chunks, row.expand(len(chunks), -1))[:, -self.hop :]
            ready = torch.cat([ready, y.reshape(self.channels, -1)], 1)
            heard = heard[:, count * self.hop :]
        out = ready[:, : self.block].to(x)
        self._heard, self._ready = heard, ready[:, self.block :]
        return out
