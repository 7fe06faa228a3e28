"""A projected gradient in one byte, and what it is compared with."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from paperworks.core.validation import check_choice, check_count, check_number

CodecName = Literal["int8-log", "fp32", "fp16", "sign"]
CODECS: tuple[CodecName, ...] = get_args(CodecName)
_ZERO, _TOP, _SIGN = 64, 127, 128  # the level of 1, the greatest level, and the bit of the sign


@dataclass(frozen=True)
class ScalarCodec:
    r"""How a projected gradient is sent.

    In a byte of "int8-log", bit 7 is the sign and the others a level c, 0 for 0 and else the magnitude
    ``exp((c - 64 + shift) step)``. What is smaller than the least of them by more than half a level becomes 0, what is
    greater than the greatest becomes that.

    Parameters
    ----------
    name
        "int8-log" takes a byte, "fp32" four, "fp16" two and "sign" a bit, which stands for 1 or -1.
    step
        Logarithm of the ratio of two levels: 1/16 reaches from 0.0195 to 51.3 within 3.2 %, 1/8 from 3.8e-4 to 2.6e3.
    stochastic
        Whether a magnitude between two levels is rounded to either at random, so that its mean is right.
    adaptive
        Whether `shift` follows the median magnitude of all machines from round to round.

    Raises
    ------
    ValueError
        For a name that isn't known, or a step that isn't positive.

    Examples
    --------
    >>> codec = ScalarCodec()
    >>> codec.encode([1.0, -2.0, 0.0])
    b'@\xcb\x00'
    >>> codec.decode(b"@\xcb\x00", 3).round(3).tolist()
    [1.0, -1.9889999628067017, 0.0]
    """

    name: CodecName = "int8-log"
    step: float = 1 / 16
    stochastic: bool = False
    adaptive: bool = False

    def __post_init__(self) -> None:
        check_choice("codec", self.name, CODECS)
        check_number("step", self.step, gt=0, le=0.5)

    def nbytes(self, count: int) -> int:
        """Return how many bytes a number of projected gradients takes.

        Parameters
        ----------
        count
            How many they are.

        Returns
        -------
        int
            Bytes of the payload.
        """
        return {"int8-log": count, "fp32": 4 * count, "fp16": 2 * count, "sign": -(-count // 8)}[self.name]

    def encode(self, g: Any, shift: int = 0, random_state: int | np.random.Generator | None = None) -> bytes:
        """Return the bytes of projected gradients.

        Parameters
        ----------
        g
            One finite number for each sample.
        shift
            By how many levels the range is moved.
        random_state
            Rounds, where the codec is stochastic.

        Returns
        -------
        bytes
            As many as `nbytes` says.
        """
        g = np.atleast_1d(np.asarray(g, np.float64))
        if g.ndim != 1 or not np.isfinite(g).all():
            raise ValueError(f"g is {g.tolist()}; it takes finite numbers in one row")
        if self.name == "sign":
            return np.packbits(g < 0, bitorder="little").tobytes()
        if self.name != "int8-log":
            kind = np.dtype("<f4" if self.name == "fp32" else "<f2")
            top = float(np.finfo(kind).max)
            return g.clip(-top, top).astype(kind).tobytes()
        magnitude = np.abs(g)
        with np.errstate(divide="ignore"):
            level = np.log(magnitude) / self.step + _ZERO - shift
        if self.stochastic:
            low = np.floor(level.clip(0, _TOP - 1))
            below, above = self._magnitude(low, shift), self._magnitude(low + 1, shift)
            chance = ((magnitude - below) / (above - below)).clip(0, 1)
            level = low + (np.random.default_rng(random_state).random(len(g)) < chance)
        level = np.rint(level.clip(0, _TOP)).astype(np.uint8)
        return (level + _SIGN * ((g < 0) & (level > 0)).astype(np.uint8)).astype(np.uint8).tobytes()

    def decode(self, payload: bytes, count: int, shift: int = 0) -> np.ndarray:
        """Return the projected gradients that bytes stand for.

        Parameters
        ----------
        payload
            What `encode` returned.
        count
            How many they are.
        shift
            The shift that they were encoded with.

        Returns
        -------
        np.ndarray
            One float32 for each sample.

        Raises
        ------
        ValueError
            Where the payload has another length, or stands for numbers that aren't finite.
        """
        if len(payload) != self.nbytes(count):
            raise ValueError(f"payload has {len(payload)} bytes; it takes {self.nbytes(count)}, for {count} samples")
        if self.name == "sign":
            bits = np.unpackbits(np.frombuffer(payload, np.uint8), count=count, bitorder="little")
            return 1 - 2 * bits.astype(np.float32)
        if self.name != "int8-log":
            found = np.frombuffer(payload, "<f4" if self.name == "fp32" else "<f2").astype(np.float32)
            if not np.isfinite(found).all():
                raise ValueError("payload has NaN or infinity; it takes finite numbers")
            return found
        code = np.frombuffer(payload, np.uint8)
        size = self._magnitude((code & _TOP).astype(np.float64), shift)
        return np.where(code & _SIGN, -size, size).astype(np.float32)

    def next_shift(self, payload: bytes, shift: int) -> int:
        """Return the shift of the round after one in which all machines sent these bytes.

        Parameters
        ----------
        payload
            The bytes of all machines.
        shift
            The shift that they were encoded with.

        Returns
        -------
        int
            The shift that moves half of the way to the median level, eight levels at most.
        """
        if not self.adaptive or self.name != "int8-log" or not payload:
            return shift
        levels = np.sort(np.frombuffer(payload, np.uint8) & _TOP).astype(int)
        move = (int(levels[len(levels) // 2]) - _ZERO) // 2
        return max(-(2**14), min(2**14, shift + max(-8, min(8, move))))

    def _magnitude(self, level: np.ndarray, shift: int) -> np.ndarray:
        power = ((level - _ZERO + shift) * self.step).clip(-87.0, 88.0)  # what float32 holds
        return np.where(level > 0, np.exp(power), 0.0)


def encode(g: Any, step: float = 1 / 16) -> np.ndarray:
    """Return the byte of each projected gradient: a sign and a logarithmic level, as `ScalarCodec` says.

    Parameters
    ----------
    g
        Projected gradients, finite numbers.
    step
        Logarithm of the ratio of two levels.

    Returns
    -------
    np.ndarray
        One uint8 for each number.

    Examples
    --------
    >>> encode([1.0, -1.0, 1e-9, 1e9]).tolist()
    [64, 192, 0, 127]
    """
    return np.frombuffer(ScalarCodec(step=step).encode(g), np.uint8).copy()


def decode(code: Any, step: float = 1 / 16) -> np.ndarray:
    """Return the projected gradients that bytes stand for.

    Parameters
    ----------
    code
        Whole numbers from 0 to 255.
    step
        The step that they were encoded with.

    Returns
    -------
    np.ndarray
        One float32 for each byte.

    Examples
    --------
    >>> decode([64, 192, 0]).tolist()
    [1.0, -1.0, 0.0]
    """
    codes = [check_count("code", int(c), at_least=0, at_most=255) for c in np.atleast_1d(np.asarray(code))]
    return ScalarCodec(step=step).decode(bytes(codes), len(codes))
