"""Sounds of a measurement that a reader can hear: what claims return, and how they are written."""

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paperworks.core.validation import check_count
from paperworks.evidence.files import write_atomically
from paperworks.evidence.measurement import Measurement

LONGEST = 10.0
"""Seconds of a recording; the evidence is committed, and a few seconds tell what there is to hear."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A few seconds of sound with what is heard in them.

    Parameters
    ----------
    says
        What is heard, in words; the label of the page's player.
    samples
        Samples of shape (n,) or (channels, n), where 1 is full scale; what is beyond is clipped.
    sr
        Samples in a second.

    Raises
    ------
    ValueError
        Where there is no sound, more than ten seconds of it, more than two channels, or a sample that isn't finite.

    Examples
    --------
    >>> Recording("A tone of 440 Hz", np.sin(2 * np.pi * 440 * np.arange(8000) / 8000), 8000).seconds
    1.0
    """

    says: str
    samples: np.ndarray
    sr: int

    def __post_init__(self) -> None:
        check_count("sr", self.sr)
        if not self.says.strip():
            raise ValueError("says is empty; it takes what is heard, in words")
        samples = np.atleast_2d(np.asarray(self.samples, np.float64))
        if samples.ndim != 2 or not 1 <= samples.shape[0] <= 2 or not samples.shape[1]:
            raise ValueError(f"samples have shape {np.shape(self.samples)}; they take (n,), (1, n) or (2, n)")
        if samples.shape[1] > LONGEST * self.sr:
            raise ValueError(f"samples last {samples.shape[1] / self.sr:.3g} s; they take {LONGEST:g} s at most")
        if not np.isfinite(samples).all():
            raise ValueError("samples hold a NaN or an infinite number; they take finite ones")
        object.__setattr__(self, "samples", samples)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return float(self.samples.shape[1] / self.sr)

    def wav(self) -> bytes:
        """Return the sound as a WAV file of 16 bits.

        Returns
        -------
        bytes
            Content of the file.
        """
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(len(self.samples))
            file.setsampwidth(2)
            file.setframerate(self.sr)
            file.writeframes(np.round(self.samples.clip(-1, 1) * 32767).astype("<i2").T.tobytes())
        return buffer.getvalue()


@dataclass(frozen=True)
class AudibleMeasurement(Measurement):
    """A measurement with sounds beside its figure.

    Parameters
    ----------
    recordings
        What the page of the paper plays, in this order; the other parameters are those of `Measurement`.
    """

    recordings: Sequence[Recording] = field(default=(), compare=False)


def save_recordings(recordings: Sequence[Recording], stem: Path) -> None:
    """Write each recording as `stem`.1.wav, `stem`.2.wav and so on."""
    for number, recording in enumerate(recordings, start=1):
        write_atomically(stem.with_name(f"{stem.name}.{number}.wav"), recording.wav())
