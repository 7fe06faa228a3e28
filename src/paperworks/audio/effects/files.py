"""Sound files of any rate, width and number of channels, read and written as floating-point samples."""

import math
import os
import struct
import tempfile
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.io import wavfile
from scipy.signal import resample_poly

from paperworks.core.validation import check_choice, check_count

_UNKNOWN_LENGTH = 0x7FFFF000  # what a header says at least where its writer didn't know the length
_LARGEST_RATIO = 1_000_000  # beyond it the filter that resamples is larger than most files
_MOST_CHANNELS = 256


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
    """Read a sound file: WAV by SciPy, all other kinds and codings by `soundfile`, of the extra `sound`.

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
        For a file that is broken, cut short or empty.
    ImportError
        For another kind than WAV, or a coding such as mu law, where `soundfile` isn't installed.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "tone.wav"
    >>> write_sound(file, np.sin(np.arange(800) / 10)[None], 8000)
    >>> read_sound(file, sr=16000).samples.shape
    (1, 1600)
    """
    path = Path(path)
    _check_whole(path)
    try:
        rate, data = _read_wav(path) if path.suffix.lower() in (".wav", ".wave") else _read_other(path)
    except MemoryError:
        raise ValueError(f"path is {path}, whose header says more samples than fit into memory") from None
    if not data.size:
        raise ValueError(f"path is {path}, which holds no samples")
    with np.errstate(over="ignore"):
        samples: np.ndarray = np.atleast_2d(data.T.astype(np.float32))
    if data.dtype == np.uint8:
        samples = (samples - 128) / 128  # bytes are unsigned
    elif np.issubdtype(data.dtype, np.integer):
        samples /= -float(np.iinfo(data.dtype).min)  # SciPy puts 24 bits into the upper ones of 32
    if not np.isfinite(samples).all():
        raise ValueError(f"path is {path}, which holds samples that are NaN, infinite or beyond single precision")
    if rate < 1:
        raise ValueError(f"path is {path}, which says {rate} samples a second")
    if sr is not None and check_count("sr", sr) != rate:
        if max(sr, rate) // math.gcd(sr, rate) > _LARGEST_RATIO:
            raise ValueError(f"path is {path}, whose {rate} samples a second can't be resampled to {sr}")
        samples, rate = resample_poly(samples, sr, rate, axis=-1), sr
    return Sound(np.ascontiguousarray(samples, dtype=np.float32), int(rate))


def _check_whole(path: Path) -> None:
    """Raise ValueError where a file is shorter than its header says, which readers pass over in silence."""
    with path.open("rb") as file:
        kind, size = file.read(4), file.read(4)
    length = path.stat().st_size
    said = int.from_bytes(size, "big" if kind in (b"RIFX", b"FORM") else "little") + 8
    # Recorders that write to a pipe don't know the length, and say 0 or about as much as fits.
    if kind in (b"RIFF", b"RIFX", b"FORM") and length < said < _UNKNOWN_LENGTH:
        raise ValueError(f"path is {path}, which is cut short: it has {length} bytes of {said}")


def _read_wav(path: Path) -> tuple[int, np.ndarray]:
    """Return rate and samples of a WAV file, (samples, channels), by `soundfile` where SciPy lacks its coding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that hold no sound
        try:
            return wavfile.read(path)
        # SciPy trips over hostile headers in ways of its own: no channels, no chunk of sound.
        except (ValueError, EOFError, struct.error, ArithmeticError, TypeError, UnboundLocalError) as error:
            if "Unknown wave file format" in str(error):  # mu law, A law and others
                return _read_other(path)
            raise ValueError(f"path is {path}, which is no whole WAV file: {error}") from None


def _read_other(path: Path) -> tuple[int, np.ndarray]:
    """Return rate and samples of a file of any kind that `soundfile` knows, (samples, channels)."""
    try:
        import soundfile
    except ImportError:
        raise ImportError(
            f"{path.name} is no WAV file of plain samples; pip install 'paperworks[sound]' to read it"
        ) from None
    try:
        data, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"path is {path}, which can't be read: {error.error_string}") from None
    return rate, data


def write_sound(
    path: str | Path, x: Float[np.ndarray, "channels n"], sr: int, kind: Literal["float32", "int16"] = "float32"
) -> None:
    """Write a WAV file, whole or not at all.

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
        For an unknown kind, samples that aren't finite or of floating point, or more than a WAV file can hold.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "silence.wav"
    >>> write_sound(file, np.zeros((2, 100)), 44100, "int16")
    >>> file.stat().st_size
    444
    """
    check_choice("kind", kind, ("float32", "int16"))
    x = np.asarray(x)
    if x.ndim not in (1, 2) or not x.size or not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"x has shape {x.shape} and type {x.dtype}; it takes (channels, samples) of floating point")
    if x.ndim == 2 and len(x) > _MOST_CHANNELS:
        raise ValueError(
            f"x has {len(x)} channels; it takes (channels, samples) with at most {_MOST_CHANNELS} channels"
        )
    check_count("sr", sr, at_most=2**32 // (4 * len(np.atleast_2d(x))) - 1)  # bytes a second are in the header
    if kind == "int16":
        if clipped := np.count_nonzero(np.abs(x) > 1):
            warnings.warn(f"{clipped} samples exceed 1 and are clipped", stacklevel=2)
        data = np.round(np.clip(x, -1, 1) * 32767)
    else:
        with np.errstate(over="ignore"):
            data = x.astype(np.float32)
    if not np.isfinite(data).all():
        raise ValueError("x has samples that are NaN, infinite or beyond single precision")
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing") as folder:
        whole = Path(folder) / path.name
        wavfile.write(whole, sr, data.astype(kind).T)
        os.replace(whole, path)
