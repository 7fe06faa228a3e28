"""Real sound of one instrument or voice that is on the machine, and plucked strings that are computed."""

import functools
import shutil
import struct
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from paperworks.audio import read_sound
from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.testbeds.data import DatasetMissing

Instrument = Literal["piano", "guitar", "bass", "drums"]
_PROGRAMS = {"piano": 0, "guitar": 24, "bass": 33, "drums": 0}  # of General MIDI, from 0 on
_NOTES = {"piano": (48, 84), "guitar": (40, 76), "bass": (28, 52), "drums": (35, 52)}
_FONTS = (
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",  # of fluid-soundfont-gm
    "/usr/share/sounds/sf2/TimGM6mb.sf2",  # of timgm6mb-soundfont
    "/usr/share/sounds/sf2/default-GM.sf2",
)


def plucked_strings(n: int, sr: float, random_state: np.random.Generator, notes: int = 1) -> Float[np.ndarray, " n"]:
    """Compute plucked strings: noise that goes round a delay with a low pass.

    Parameters
    ----------
    n
        Number of samples.
    sr
        Samples in a second.
    random_state
        Draws pitches from 80 to 800 Hz, times and strengths.
    notes
        Number of plucks, the first at the beginning; 1 by default.

    Returns
    -------
    ndarray
        Sound from -1 to 1.

    References
    ----------
    Karplus and Strong, Digital synthesis of plucked-string and drum timbres (1983).

    Examples
    --------
    >>> sound = plucked_strings(8000, 8000, np.random.default_rng(0))
    >>> bool(abs(sound[:800]).max() > 2 * abs(sound[-800:]).max())
    True
    """
    from scipy.signal import lfilter

    y = np.zeros(check_count("n", n))
    for note in range(check_count("notes", notes)):
        start = 0 if note == 0 else int(random_state.integers(n))
        period = max(round(check_number("sr", sr, gt=0) / 80 / 10 ** random_state.uniform(0, 1)), 2)
        burst = np.zeros(n - start)
        burst[:period] = random_state.uniform(-1, 1, min(period, n - start))
        feedback = np.zeros(period + 2)
        feedback[0], feedback[period], feedback[period + 1] = 1, -0.498, -0.498
        y[start:] += random_state.uniform(0.3, 1.0) * lfilter([1.0], feedback, burst)
    return y / max(1.0, float(np.abs(y).max()))


@functools.cache
def recorded_pluck(sr: int | None = None) -> Float[np.ndarray, " n"]:
    """Load the plucked string that Python's own tests of sound files use: a third of a second, recorded.

    Parameters
    ----------
    sr
        Rate to which it is resampled; its own of 11,025 by default.

    Returns
    -------
    ndarray
        The first channel.

    Raises
    ------
    DatasetMissing
        Where this Python came without its tests.

    Examples
    --------
    >>> recorded_pluck().shape  # doctest: +SKIP
    (3307,)
    """
    file = Path(sysconfig.get_path("stdlib")) / "test" / "audiodata" / "pluck-pcm16.wav"
    if not file.is_file():
        file = file.parents[1] / file.name  # where older versions had it
    if not file.is_file():
        raise DatasetMissing(f"{file.name} is not in {file.parent}; Debian has it in libpython3-testsuite")
    return read_sound(file, sr).samples[0].astype(np.float64)


def rendered_instrument(
    instrument: Instrument, seconds: float, sr: int = 44100, random_state: int = 0
) -> Float[np.ndarray, "2 n"]:
    """Render a random melody of one sampled instrument by `fluidsynth` and a sound font of Debian.

    Parameters
    ----------
    instrument
        "piano", "guitar", "bass" or "drums".
    seconds
        Length of the sound.
    sr
        Samples in a second; 44100 by default.
    random_state
        Seed of notes and strengths.

    Returns
    -------
    ndarray
        Both channels of the sound.

    Raises
    ------
    DatasetMissing
        Where fluidsynth or a sound font isn't installed, or fails.

    Examples
    --------
    >>> rendered_instrument("piano", 2.0).shape  # doctest: +SKIP
    (2, 88200)
    """
    check_choice("instrument", instrument, get_args(Instrument))
    font = next((f for f in _FONTS if Path(f).is_file()), None)
    if font is None:
        raise DatasetMissing(f"none of {', '.join(_FONTS)} is here; `apt install timgm6mb-soundfont` brings one")
    midi = melody(instrument, check_number("seconds", seconds, gt=0), random_state)
    return _rendered(
        "fluidsynth",
        lambda source, wav: ["-n", "-i", "-q", "-r", str(check_count("sr", sr)), "-F", str(wav), font, str(source)],
        midi,
        round(seconds * sr),
        sr,
    )


def spoken(text: str, sr: int = 22050) -> Float[np.ndarray, "channels n"]:
    """Speak a text by `espeak-ng`.

    Parameters
    ----------
    text
        What is said, in English.
    sr
        Samples in a second, to which it is resampled; its own 22,050 by default.

    Returns
    -------
    ndarray
        Its channels, of which it has one.

    Raises
    ------
    DatasetMissing
        Where espeak-ng isn't installed, or fails.

    Examples
    --------
    >>> spoken("Hello").shape[0]  # doctest: +SKIP
    1
    """
    return _rendered("espeak-ng", lambda source, wav: ["-w", str(wav), "-f", str(source)], text.encode(), None, sr)


def melody(instrument: Instrument, seconds: float, random_state: int = 0) -> bytes:
    """Return a MIDI file with a random melody.

    Parameters
    ----------
    instrument
        "piano", "guitar", "bass" or "drums".
    seconds
        Length of the melody; notes last an eighth to half a second.
    random_state
        Seed of notes and strengths.

    Returns
    -------
    bytes
        A file of format 0 with one track.

    Examples
    --------
    >>> melody("piano", 1.0)[:4]
    b'MThd'
    """
    rng = np.random.default_rng(random_state)
    low, high = _NOTES[check_choice("instrument", instrument, get_args(Instrument))]
    channel = 9 if instrument == "drums" else 0
    ticks = 480  # of half a second, which is MIDI's quarter note unless told otherwise
    track, passed = bytearray([0, 0xC0 | channel, _PROGRAMS[instrument]]), 0
    while passed < 2 * ticks * seconds:
        note, strength = int(rng.integers(low, high + 1)), int(rng.integers(30, 128))
        length = int(rng.choice([ticks // 4, ticks // 2, ticks]))
        track += bytes([0, 0x90 | channel, note, strength]) + _variable(length) + bytes([0x80 | channel, note, 0])
        passed += length
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, ticks) + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _variable(number: int) -> bytes:
    """Return a number in groups of seven bits, all but the last marked."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(0x80 | number & 0x7F)
    return bytes(reversed(groups))


def _rendered(
    program: str, arguments: Callable[[Path, Path], Sequence[str]], content: bytes, n: int | None, sr: int
) -> np.ndarray:
    """Have a program make a sound file from another file; it starts at 0 and is of `n` samples where that is given."""
    found = shutil.which(program)
    if found is None:
        raise DatasetMissing(f"{program} is not installed; `apt install {program}` brings it")
    with tempfile.TemporaryDirectory() as folder:
        source, wav = Path(folder) / "source", Path(folder) / "sound.wav"
        source.write_bytes(content)
        done = subprocess.run(
            [found, *arguments(source, wav)], capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode or not wav.is_file():
            raise DatasetMissing(f"{program} failed with code {done.returncode}: {done.stderr.strip()[-300:]}")
        samples = read_sound(wav, sr).samples.astype(np.float64)
    if n is None:
        return samples
    return np.pad(samples[:, :n], ((0, 0), (0, max(n - samples.shape[1], 0))))
