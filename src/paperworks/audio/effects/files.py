"""Sound files of any rate, width and number of channels, read and written as floating-point samples."""

import os
import struct
import uuid
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.io import wavfile
from scipy.signal import resample_poly

from paperworks.core.validation import check_choice, check_count


class Sound(NamedTuple):
    """Sound of a file.

    Parameters
    ----------
    samples
        (channels, samples), in single precision, from -1 to 1 where the file has whole numbers.
    sr
        Samples in a second.

    Examples
    --------
    >>> Sound(np.zeros((2, 44100), np.float32), 44100).sr
    44100
    """

    samples: Float[np.ndarray, "channels n"]
    sr: int


def read_sound(path: str | Path, sr: int | None = None) -> Sound:
    """Read a sound file: WAV by SciPy, all other kinds by `soundfile`, of the extra `sound`.

    Parameters
    ----------
    path
        The file, with 8 to 64 bits a sample and any number of channels.
    sr
        Rate to which it is resampled; by default it keeps its own.

    Returns
    -------
    Sound
        Samples of all channels, and the rate.

    Raises
    ------
    ValueError
        For a file that is broken or empty.
    ImportError
        For another kind than WAV where `soundfile` isn't installed.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "tone.wav"
    >>> write_sound(file, np.sin(np.arange(800) / 10)[None], 8000)
    >>> read_sound(file, sr=16000).samples.shape
    (1, 1600)
    """
    path = Path(path)
    if path.suffix.lower() in (".wav", ".wave"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that hold no sound
            try:
                rate, data = wavfile.read(path)
            except (ValueError, EOFError, struct.error) as error:
                raise ValueError(f"path is {path}, which is no whole WAV file: {error}") from None
        if np.issubdtype(data.dtype, np.integer):
            # SciPy puts 24 bits into the upper ones of 32; bytes are unsigned.
            data = (data - 128.0) / 128 if data.dtype == np.uint8 else data / -float(np.iinfo(data.dtype).min)
        samples = np.atleast_2d(data.T)
    else:
        try:
            import soundfile
        except ImportError:
            raise ImportError(f"{path.name} is no WAV file; pip install 'paperworks[sound]' to read it") from None
        try:
            data, rate = soundfile.read(path, always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"path is {path}: {error}") from None
        samples = data.T
    if not samples.size:
        raise ValueError(f"path is {path}, which holds no samples")
    if not np.isfinite(samples).all():
        raise ValueError(f"path is {path}, which holds samples that are NaN or infinite")
    if sr is not None and check_count("sr", sr) != rate:
        samples, rate = resample_poly(samples, sr, rate, axis=-1), sr
    return Sound(np.ascontiguousarray(samples, dtype=np.float32), int(rate))


def write_sound(
    path: str | Path, x: Float[np.ndarray, "channels n"], sr: int, kind: Literal["float32", "int16"] = "float32"
) -> None:
    """Write a WAV file.

    Parameters
    ----------
    path
        The file, which is replaced at once.
    x
        Sound, (channels, samples).
    sr
        Samples in a second.
    kind
        "float32", which keeps what exceeds 1, or "int16", which clips it, with a warning.

    Raises
    ------
    ValueError
        For an unknown kind, or samples that aren't finite.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "silence.wav"
    >>> write_sound(file, np.zeros((2, 100)), 44100, "int16")
    >>> file.stat().st_size
    444
    """
    check_choice("kind", kind, ("float32", "int16"))
    if not np.isfinite(x).all():
        raise ValueError("x has samples that are NaN or infinite")
    if kind == "int16":
        if clipped := np.count_nonzero(np.abs(x) > 1):
            warnings.warn(f"{clipped} samples exceed 1 and are clipped", stacklevel=2)
        data = np.round(np.clip(x, -1, 1) * 32767).astype(np.int16)
    else:
        data = x.astype(np.float32)
    # Beside the target first: a file that was there stays whole until the new one is.
    part = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex}")
    try:
        wavfile.write(part, check_count("sr", sr, at_most=2**32 - 1), data.T)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
