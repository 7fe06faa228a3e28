"""Pairs of sound and processed sound with knobs: made on the way, from sound files, and recorded from a device."""

import ast
import configparser
import glob
import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from paperworks.audio.effects.base import Effect, Values
from paperworks.audio.effects.files import read_sound
from paperworks.audio.effects.signals import COMPRESSOR_MIX, SIGNALS, Signal, beta_knobs, test_signal
from paperworks.core.validation import check_choice, check_count

KnobLaw = Callable[[np.random.Generator, int], np.ndarray]


class Example(NamedTuple):
    """Chunks of sound with knobs and targets, one or a batch.

    Parameters
    ----------
    x
        Input, whole chunks with the samples to look back at.
    knobs
        Normalised positions of the knobs.
    y
        Targets at the last samples of each chunk.

    Examples
    --------
    >>> Example(torch.zeros(8, 64), torch.zeros(8, 4), torch.zeros(8, 16)).y.shape
    torch.Size([8, 16])
    """

    x: Float[Tensor, "*batch chunk"]
    knobs: Float[Tensor, "*batch knobs"]
    y: Float[Tensor, "*batch out"]


class EffectDataset(Dataset[Example], ABC):
    """Examples that a seed and their number decide, so that workers of a loader never repeat each other.

    Parameters
    ----------
    effect
        What is learned.
    chunk
        Samples of an input.
    out
        Last samples of which targets are given; the whole chunk by default.
    size
        Number of examples.
    flip
        Whether half of them have their signs changed.
    random_state
        Seed; another one gives other examples.

    Raises
    ------
    ValueError
        For counts below 1, `out` above `chunk`, or a negative seed.
    """

    def __init__(
        self, effect: Effect, chunk: int, out: int | None, size: int, *, flip: bool, random_state: int
    ) -> None:
        self.effect, self.flip = effect, flip
        self.random_state = check_count("random_state", random_state, at_least=0)
        self.chunk, self.size = check_count("chunk", chunk), check_count("size", size)
        self.out = check_count("out", chunk if out is None else out, at_most=chunk)

    def __len__(self) -> int:
        return self.size

    @abstractmethod
    def _made(self, rngs: Sequence[np.random.Generator]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return inputs, knobs and targets, as long as chunks, in double or single precision."""

    def batch(self, indices: Sequence[int]) -> Example:
        """Return the examples of these numbers, made together.

        Parameters
        ----------
        indices
            Numbers of the examples, from 0 to below the size.

        Returns
        -------
        Example
            Tensors in single precision, whose first axis is the batch.

        Raises
        ------
        IndexError
            For numbers out of range.
        ValueError
            For no numbers.
        TypeError
            For numbers that aren't whole.
        """
        indices = [operator.index(i) for i in indices]
        if not indices:
            raise ValueError("indices is empty; it takes numbers of examples")
        for i in indices:
            if not 0 <= i < self.size:
                raise IndexError(f"example {i} of {self.size}")
        rngs = [np.random.default_rng((self.random_state, i)) for i in indices]
        x, knobs, y = self._made(rngs)
        if self.flip:
            sign = np.array([random_state.choice([-1, 1]) for random_state in rngs])[:, None]
            x, y = sign * x, sign * y
        y = y[:, self.chunk - self.out :]
        return Example(*(torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in (x, knobs, y)))

    def __getitem__(self, index: int) -> Example:
        return Example(*(t[0] for t in self.batch([index])))

    def __getitems__(self, indices: list[int]) -> list[Example]:
        """Return examples one by one; a `DataLoader` asks for those of a batch at once."""
        return [Example(*parts) for parts in zip(*self.batch(indices), strict=True)]


class SynthAudioDataset(EffectDataset):
    """Signals made on the way, each processed by an effect at its own knobs.

    Parameters
    ----------
    effect
        What is learned, such as a `Compressor4C`.
    chunk
        Samples of an input; 8192 by default, the paper's.
    out
        Last samples of which targets are given; the whole chunk by default.
    signals
        Kinds of signals that are drawn, each as often; by default the paper's mix for compressors.
    size
        Number of examples; 200,000 by default, an epoch of the paper.
    stream
        Samples that the effect heard before the chunk, in a longer signal: it then has the state that it has within a
        recording. None by default: the effect starts with the chunk.
    knobs
        Draws positions, called with a generator and the number of knobs; `beta_knobs` by default. A law that leaves
        combinations out holds them back for a test.
    flip
        Whether half of the examples have their signs changed; no by default, signals have random signs anyway.
    random_state
        Seed; another one gives other examples.

    Raises
    ------
    ValueError
        For an unknown kind of signal, none, or counts out of range.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584.

    Examples
    --------
    >>> from paperworks.audio import Compressor4C
    >>> data = SynthAudioDataset(Compressor4C(11025), chunk=2048, out=512)
    >>> x, knobs, y = data.batch(range(8))
    >>> x.shape, knobs.shape, y.shape
    (torch.Size([8, 2048]), torch.Size([8, 4]), torch.Size([8, 512]))
    """

    def __init__(
        self,
        effect: Effect,
        chunk: int = 8192,
        out: int | None = None,
        signals: Sequence[Signal] = COMPRESSOR_MIX,
        size: int = 200_000,
        *,
        stream: int | None = None,
        knobs: KnobLaw = beta_knobs,
        flip: bool = False,
        random_state: int = 0,
    ) -> None:
        super().__init__(effect, chunk, out, size, flip=flip, random_state=random_state)
        if not signals:
            raise ValueError(f"signals is empty; it takes some of {SIGNALS}")
        self.signals: list[Signal] = [check_choice("signals", kind, SIGNALS) for kind in signals]
        self.lead = 0 if stream is None else check_count("stream", stream)
        self.law = knobs

    def _made(self, rngs: Sequence[np.random.Generator]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, sr = self.lead + self.chunk, self.effect.sr
        kinds = [self.signals[random_state.integers(len(self.signals))] for random_state in rngs]
        x = np.stack([test_signal(kind, n, sr, random_state) for kind, random_state in zip(kinds, rngs, strict=True)])
        knobs = np.stack([self.law(random_state, len(self.effect.knobs)) for random_state in rngs])
        if self.effect.RANDOM:  # row by row, so that an example doesn't depend on its batch
            pairs = [self.effect.pair(*row) for row in zip(x, knobs, rngs, strict=True)]
            heard, wanted = (np.stack(rows) for rows in zip(*pairs, strict=True))
        else:
            heard, wanted = self.effect.pair(x, knobs)
        return heard[:, self.lead :], knobs, wanted[:, self.lead :]


class FileEffect(Effect):
    """A device of which there are recordings alone: names and ranges of its knobs.

    Parameters
    ----------
    sr
        Samples in a second of the recordings; 44100 by default.
    ranges
        By the name of each knob, in the order in which files name them, its ends.
    name
        Name of the device, for whoever looks.

    Examples
    --------
    >>> FileEffect(44100, {"limit": (0, 1), "reduction": (0, 100)}, name="LA-2A").knobs
    ('limit', 'reduction')
    """

    RANGES = {}  # noqa: RUF012  # each device has its own

    def __init__(self, sr: float, ranges: dict[str, tuple[float, float]], name: str = "") -> None:
        super().__init__(sr)
        self.name = name
        self.ranges = {knob: (float(low), float(high)) for knob, (low, high) in ranges.items()}
        for knob, (low, high) in self.ranges.items():
            if low == high or not math.isfinite(high - low):
                raise ValueError(f"ranges[{knob!r}] is {(low, high)}; it takes two different ends")

    @classmethod
    def read(cls, path: str | Path, sr: float = 44100) -> "FileEffect":
        """Read names and ranges from an ``effect_info.ini``.

        Parameters
        ----------
        path
            Folder that holds the file.
        sr
            Samples in a second of the recordings.

        Returns
        -------
        FileEffect
            The device that the file describes.

        Raises
        ------
        ValueError
            Where the file is missing or describes no knobs.
        """
        file = Path(path) / "effect_info.ini"
        parser = configparser.ConfigParser()
        try:
            if not parser.read(file, encoding="utf-8"):
                raise ValueError("there is no such file")
            section = parser["effect"]
            names, ends = (ast.literal_eval(section[key]) for key in ("knob_names", "knob_ranges"))
            ranges = {str(name): (float(a), float(b)) for name, (a, b) in zip(names, ends, strict=True)}
            if len(ranges) < len(names):
                raise ValueError(f"knob_names are {names}, some alike")
            return cls(sr, ranges, section.get("name", "").strip("'\""))
        except (
            configparser.Error,
            KeyError,
            SyntaxError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
            MemoryError,
        ) as error:
            raise ValueError(f"{file} describes no effect: {error!r}") from None

    def _apply(self, x: np.ndarray, values: Values, random_state: np.random.Generator | None) -> np.ndarray:
        """Refuse: what the device does to other sound isn't known."""
        raise TypeError(f"{self.name or 'the device'} is known from recordings alone; train a network to process sound")


LA2A = {"Limit/Comp": (0.0, 1.0), "Peak Reduction": (0.0, 100.0)}


class AudioFileDataset(EffectDataset):
    """Chunks from a folder of sound files, processed by an effect, or recorded from a device.

    Processed by an effect, all files are inputs. With a `FileEffect` they are pairs: ``input_7_.wav`` and
    ``target_7_NAME__2__0.3.wav``, with the values of the knobs behind double underscores, as in the LA-2A data set,
    whose folders ``Train``, ``Val`` and ``Test`` are one data set each. Files may differ in their channels, of which
    each is a sound of its own.

    Parameters
    ----------
    path
        Folder of files; WAV, and where `soundfile` is installed FLAC, AIFF and OGG. Hidden files are passed over.
    effect
        What is learned. None by default: the device that ``effect_info.ini`` in the folder or the one above describes,
        else an LA-2A with its two knobs.
    chunk
        Samples of an input; 8192 by default, the paper's.
    out
        Last samples of which targets are given; the whole chunk by default.
    size
        Number of examples; 200,000 by default.
    stream
        Whether the effect heard the file from its start, at the same knobs, as a device does; else it starts with the
        chunk, which costs less in long files.
    resample
        Whether files of another rate are resampled to the effect's; they are an error by default.
    pad
        Whether silence goes before files shorter than a chunk; they are an error by default.
    knobs
        Draws positions, called with a generator and the number of knobs; `beta_knobs` by default.
    flip
        Whether half of the examples have their signs changed; no by default.
    random_state
        Seed; another one gives other examples.

    Raises
    ------
    ValueError
        For a folder without files or pairs, files that are too short or of another rate, and pairs that differ in
        length or channels.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; Hawley and others, the LA-2A data set, doi 10.5281/zenodo.3824876.

    Examples
    --------
    >>> import tempfile
    >>> from paperworks.audio import Compressor4C, write_sound
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_sound(folder / "noise.wav", np.random.default_rng(0).uniform(-1, 1, (2, 4000)), 8000)
    >>> data = AudioFileDataset(folder, Compressor4C(8000), chunk=1024, out=256)
    >>> data[0].y.shape
    torch.Size([256])
    """

    def __init__(
        self,
        path: str | Path,
        effect: Effect | None = None,
        chunk: int = 8192,
        out: int | None = None,
        size: int = 200_000,
        *,
        stream: bool = True,
        resample: bool = False,
        pad: bool = False,
        knobs: KnobLaw = beta_knobs,
        flip: bool = False,
        random_state: int = 0,
    ) -> None:
        folder = Path(path)
        if effect is None:
            homes = [home for home in (folder, folder.parent) if (home / "effect_info.ini").is_file()]
            effect = FileEffect.read(homes[0]) if homes else FileEffect(44100, dict(LA2A), "LA-2A")
        super().__init__(effect, chunk, out, size, flip=flip, random_state=random_state)
        self.stream, self.pad, self.law = stream, pad, knobs
        self._rate = int(effect.sr) if resample else None
        kinds = (".wav", ".wave", ".flac", ".aif", ".aiff", ".ogg")
        files = sorted(f for f in folder.glob("[!.]*") if f.suffix.lower() in kinds)
        self.sounds: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.settings: list[np.ndarray] = []
        if isinstance(effect, FileEffect):
            self._read_pairs([f for f in files if f.name.startswith("target_")])
        else:
            self.sounds = [row for file in files for row in self._read(file)]
        if not self.sounds:
            raise ValueError(f"path is {folder}, which holds no {'pairs' if self._recorded else 'sound files'}")
        self.starts = np.cumsum([0] + [row.size - chunk + 1 for row in self.sounds])

    @property
    def _recorded(self) -> bool:
        return isinstance(self.effect, FileEffect)

    def _read(self, file: Path) -> np.ndarray:
        sound = read_sound(file, self._rate)
        if sound.sr != self.effect.sr:
            raise ValueError(
                f"{file.name} has {sound.sr} samples a second, the effect {self.effect.sr:g}; resample=True adapts it"
            )
        short = self.chunk - sound.samples.shape[1]
        if short > 0 and not self.pad:
            raise ValueError(
                f"{file.name} has {sound.samples.shape[1]} samples, a chunk {self.chunk}; pad=True puts silence before"
            )
        return np.pad(sound.samples, ((0, 0), (max(short, 0), 0)))

    def _read_pairs(self, targets: list[Path]) -> None:
        for file in targets:
            match = re.fullmatch(r"target_([^_]+)_?(.*?)((?:__-?[\d.]+)+)", file.stem)
            if not match:
                raise ValueError(f"{file.name} names no settings; it takes target_NUMBER_NAME__KNOB__KNOB")
            sources = [f for f in file.parent.glob(f"input_{glob.escape(match[1])}_*") if f.suffix == file.suffix]
            if not sources:
                raise ValueError(f"{file.name} has no input beside it: input_{match[1]}_{file.suffix}")
            x, y = self._read(sources[0]), self._read(file)
            if x.shape != y.shape:
                raise ValueError(f"{file.name} has shape {y.shape} of channels and samples, its input {x.shape}")
            try:
                settings = self.effect.normalised([float(value) for value in match[3].split("__")[1:]])
            except ValueError as error:
                raise ValueError(f"{file.name} has settings that don't fit: {error}") from None
            self.sounds += list(x)
            self.targets += list(y)
            self.settings += [settings] * len(x)

    def _made(self, rngs: Sequence[np.random.Generator]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        made = []
        for random_state in rngs:
            place = int(random_state.integers(self.starts[-1]))
            i = int(np.searchsorted(self.starts, place, side="right")) - 1
            start = place - int(self.starts[i])
            part = slice(start, start + self.chunk)
            if self._recorded:
                made.append((self.sounds[i][part], self.settings[i], self.targets[i][part]))
                continue
            knobs = self.law(random_state, len(self.effect.knobs))
            # The whole of what came before settles the effect's state; what comes after can't change it.
            first = 0 if self.stream else start
            heard, wanted = self.effect.pair(self.sounds[i][first : part.stop], knobs, random_state)
            made.append((heard[-self.chunk :], knobs, wanted[-self.chunk :]))
        x, knobs, y = (np.stack(parts) for parts in zip(*made, strict=True))
        return x, knobs, y
