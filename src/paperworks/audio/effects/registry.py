"""Effects by name, those that there are and those of users."""

from collections.abc import Callable

from paperworks.audio.effects.base import Effect
from paperworks.audio.effects.dynamics import Compressor4C, SimpleCompressor
from paperworks.audio.effects.linear import Denoise, Echo, LowPass
from paperworks.audio.effects.shifting import PitchShift, TimeAlign

_EFFECTS: dict[str, Callable[[float], Effect]] = {}


def register_effect(name: str, make: Callable[[float], Effect]) -> None:
    """Give an effect a name, by which `make_effect` makes it.

    Parameters
    ----------
    name
        Name of the effect, not yet taken.
    make
        Called with the sample rate, returns the effect.

    Raises
    ------
    ValueError
        For a name that is taken.
    TypeError
        For a name that is no text, or what can't be called.

    Examples
    --------
    >>> from paperworks.audio import Compressor4C, make_effect
    >>> register_effect("limiter", lambda sr: Compressor4C(sr, {"ratio": 20.0, "attack": 1e-3}))
    >>> make_effect("limiter", 44100).knobs
    ('threshold', 'release')
    """
    if not isinstance(name, str) or not callable(make):
        raise TypeError(f"name is {name!r} and make {make!r}; they take text and a function of the sample rate")
    if name in _EFFECTS:
        raise ValueError(f"name is {name!r}, which is taken")
    _EFFECTS[name] = make


def make_effect(name: str, sr: float = 44100) -> Effect:
    """Make an effect by the name under which it was registered.

    Parameters
    ----------
    name
        Such as "compressor", "echo" or "lowpass".
    sr
        Samples in a second; 44100 by default, the paper's.

    Returns
    -------
    Effect
        The effect at this sample rate.

    Raises
    ------
    ValueError
        For an unknown name; the message lists those that there are.
    TypeError
        Where what was registered makes no `Effect`.

    Examples
    --------
    >>> make_effect("compressor-threshold").knobs
    ('threshold',)
    """
    if name not in _EFFECTS:
        raise ValueError(f"name is {name!r}; it takes one of {sorted(_EFFECTS)}")
    effect = _EFFECTS[name](sr)
    if not isinstance(effect, Effect):
        raise TypeError(f"{name!r} makes {effect!r}; what is registered takes a sample rate and returns an Effect")
    return effect


register_effect("compressor", Compressor4C)
register_effect(
    "compressor-large",
    lambda sr: Compressor4C(
        sr, {"threshold": (-50.0, 0.0), "ratio": (1.5, 10.0), "attack": (1e-3, 1.0), "release": (1e-3, 1.0)}
    ),
)
register_effect(  # as a levelling amplifier is
    "compressor-threshold",
    lambda sr: Compressor4C(sr, {"threshold": (-50.0, -10.0), "ratio": 3.0, "attack": 0.05, "release": 1.0}),
)
register_effect(
    "compressor-one",
    lambda sr: Compressor4C(sr, {"threshold": -25.0, "ratio": 4.0, "attack": 0.005, "release": 0.02}),
)
register_effect("compressor-simple", SimpleCompressor)
register_effect("decompressor", lambda sr: Compressor4C(sr, inverse=True))
register_effect("echo", Echo)
register_effect("lowpass", LowPass)
register_effect("denoise", Denoise)
register_effect("pitch", PitchShift)
register_effect("time-align", TimeAlign)
