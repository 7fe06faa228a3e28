"""From pressure to sound: room impulse responses in a band, moving sources and listeners, two ears, files."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.audio.acoustics.sources import SPEED_OF_SOUND, GaussianSource
from paperworks.audio.effects import write_sound
from paperworks.core.validation import check_choice, check_count, check_number

Track = Callable[[float], ArrayLike] | ArrayLike
Responses = Callable[[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]], ArrayLike]
EAR_DISTANCE = 0.175  # m
_LOST = 1e-12  # of the source's spectrum, beyond which rounding would be heard


def room_impulse_response(
    p: ArrayLike,
    dt: float,
    sr: int,
    sigma: float,
    f_max: float = 1000.0,
    kind: Literal["pressure", "monopole"] = "pressure",
    dim: int = 3,
    c: float = SPEED_OF_SOUND,
) -> Float[np.ndarray, "*batch samples"]:
    """Turn the response to a Gaussian into a room impulse response in a band, at a sound's rate.

    The spectrum is divided by the Gaussian's, ends between `f_max` and 1.25 `f_max` along a squared cosine, and is
    resampled exactly. At `f_max` of the paper's source the division multiplies by 55, errors of the pressure too. Where
    the room still sounds at the last time, the answer is wrong in its last 4 / `f_max`: give it more times than needed.

    Parameters
    ----------
    p
        Pressure over time from 0 on, (..., times), of a Gaussian of 1 Pa.
    dt
        Time step in seconds.
    sr
        Samples in a second of the answer.
    sigma
        Width of the Gaussian in metres.
    f_max
        Highest frequency in Hz that is kept; 1000 by default.
    kind
        "pressure" by default: the response to an impulse of the initial pressure. "monopole": to a point source with a
        pulse of volume acceleration, which in the free field is ``delta(t - r/c) / (4 pi r)``.
    dim
        Dimensions of the room, for the Gaussian's spectrum; 3 by default.
    c
        Speed of sound in m/s.

    Returns
    -------
    ndarray
        Impulse responses (..., samples), as long as the pressure, per sample.

    Raises
    ------
    ValueError
        For a time step that is too long for the band, or a Gaussian that is too wide for it.

    References
    ----------
    arXiv:2308.05141, auralisation.

    Examples
    --------
    >>> from paperworks.audio.acoustics import free_field_3d
    >>> p = free_field_3d([2.0], np.arange(0, 0.03, 1e-4), sigma=0.21836)[:, 0]
    >>> h = room_impulse_response(p, 1e-4, 16000, 0.21836, kind="monopole")
    >>> round(float(h.sum()) * 4 * np.pi * 2.0, 2), int(h.argmax()) == round(16000 * 2.0 / 343)
    (1.0, True)
    """
    x = np.asarray(p, np.float64)
    check_choice("kind", kind, ("pressure", "monopole"))
    check_number("dt", dt, gt=0)
    check_number("f_max", f_max, gt=0)
    check_count("sr", sr)
    if 1.25 * f_max > 0.5 / dt or 1.25 * f_max > sr / 2:
        raise ValueError(f"dt is {dt} and sr {sr}; a band to {f_max:g} Hz takes rates above {2.5 * f_max:g} Hz")
    check_count("dim", dim, at_most=3)
    check_number("c", c, gt=0)
    if np.exp(-((1.25 * math.pi * f_max / c * check_number("sigma", sigma, gt=0)) ** 2)) < _LOST:
        raise ValueError(f"sigma is {sigma}; nothing is left of so wide a Gaussian at {1.25 * f_max:g} Hz")
    if x.ndim < 1 or x.shape[-1] < 2 or not np.isfinite(x).all():
        raise ValueError(f"p has shape {x.shape}; it takes finite pressure, two times or more")
    samples = max(1, round(x.shape[-1] * dt * sr))
    # The pressure is even in time, as it starts at rest, so that its mirror image makes the start smooth; a mirror at
    # the end makes a room that still sounds there ring the least.
    even = np.concatenate([x, x[..., -2:0:-1]], -1)
    spectrum = np.fft.rfft(even).real * dt
    length = even.shape[-1] * dt
    f = np.arange(spectrum.shape[-1]) / length
    window = np.where(f <= f_max, 1.0, np.cos(np.pi / 2 * np.clip((f - f_max) / (0.25 * f_max), 0, 1)) ** 2)
    strength = GaussianSource(np.zeros(dim), sigma).spectrum(np.minimum(f, 1.25 * f_max), c)
    spectrum = spectrum * window / strength
    # A sum of cosines, as of the room's modes, each divided by what the source puts into it.
    t = np.arange(samples) / sr
    kept = np.flatnonzero(window > 0)
    angles = 2 * np.pi * f[kept] * t[:, None]
    share = (2 - (kept == 0)) / length
    if kind == "pressure":
        return np.asarray(spectrum[..., kept] * share @ np.cos(angles).T / sr)
    with np.errstate(invalid="ignore"):
        integral = np.where(f[kept] > 0, np.sin(angles) / np.maximum(2 * np.pi * f[kept], 1e-30), t[:, None])
    return np.asarray(c**2 * (spectrum[..., kept] * share @ integral.T) / sr)


def render(
    path_source: Track,
    path_listener: Track,
    dry: Float[np.ndarray, " samples"],
    sr: int,
    responses: Responses,
    block: float = 0.02,
) -> Float[np.ndarray, "channels length"]:
    """Convolve a dry sound with the impulse responses of a moving source and listener.

    The sound is cut into overlapping blocks with windows that add up to one. Each is convolved with the response of its
    middle, so that neighbouring responses fade into one another.

    Parameters
    ----------
    path_source, path_listener
        Place (d,) in metres, a function of the time in seconds that returns it, or places of all blocks (blocks, d).
    dry
        The dry sound, (samples,).
    sr
        Samples in a second.
    responses
        ``responses(sources, listeners)`` returns the impulse responses of pairs, (n, samples) or (n, channels,
        samples), at the sound's rate; see `responder`.
    block
        Seconds from one response to the next; 0.02 by default, in which a walker moves 3 cm.

    Returns
    -------
    ndarray
        Sound (channels, samples), longer than the dry one by the response.

    Raises
    ------
    ValueError
        For an empty or infinite sound, paths that don't fit, or responses of another rate or shape.

    References
    ----------
    arXiv:2308.05141, moving sources and listeners in real time.

    Examples
    --------
    >>> echo = lambda sources, listeners: np.eye(1, 5, 4).repeat(len(sources), 0)
    >>> wet = render([1.0, 1.0], lambda t: [1.0 + t, 1.0], np.ones(10), 100, echo)
    >>> bool(np.allclose(wet, [[0] * 4 + [1] * 10]))
    True
    """
    from scipy.signal import fftconvolve

    sound = np.asarray(dry, np.float64)
    if sound.ndim != 1 or not sound.size or not np.isfinite(sound).all():
        raise ValueError(f"dry has shape {sound.shape}; it takes finite samples (n,), one or more")
    hop = max(1, round(check_number("block", block, gt=0) * check_count("sr", sr)))
    blocks = math.ceil(len(sound) / hop) + 1
    middles = hop * np.arange(blocks) / sr
    places = [_places(name, p, middles) for name, p in (("path_source", path_source), ("path_listener", path_listener))]
    # Only where something moved are there new responses.
    pairs, which = np.unique(np.concatenate(places, 1), axis=0, return_inverse=True)
    d = places[0].shape[1]
    if (theirs := getattr(responses, "sr", sr)) != sr:
        raise ValueError(f"sr is {sr}; responses come at {theirs} samples in a second")
    h = np.asarray(responses(pairs[:, :d], pairs[:, d:]), np.float64)
    if h.ndim not in (2, 3) or len(h) != len(pairs) or not h.shape[-1] or not np.isfinite(h).all():
        raise ValueError(
            f"responses returns shape {h.shape}; it takes finite numbers ({len(pairs)}, samples) or ({len(pairs)}, "
            "channels, samples)"
        )
    h = h.reshape(len(pairs), -1, h.shape[-1])
    if len(pairs) == 1:
        return np.asarray(fftconvolve(sound[None], h[0], axes=-1))
    ramp = np.arange(1, hop + 1) / hop
    window = np.concatenate([ramp, 1 - ramp])[: 2 * hop - 1]
    padded = np.pad(sound, (hop - 1, 2 * hop))  # block k is the middle at sample k hop
    out = np.zeros((h.shape[1], len(padded) + h.shape[2]))
    for k, response in enumerate(which.reshape(-1)):
        wet = fftconvolve(padded[None, k * hop : k * hop + 2 * hop - 1] * window, h[response], axes=-1)
        out[:, k * hop : k * hop + wet.shape[-1]] += wet
    return out[:, hop - 1 : hop - 1 + len(sound) + h.shape[2] - 1]


def _places(name: str, path: Track, times: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
    found = np.array([path(t) for t in times], np.float64) if callable(path) else np.asarray(path, np.float64)
    if found.ndim == 1 and not callable(path):
        found = np.tile(found, (len(times), 1))
    if found.ndim != 2 or len(found) != len(times) or not np.isfinite(found).all():
        raise ValueError(f"{name} has shape {found.shape}; it takes finite places, one or ({len(times)}, d)")
    return found


def responder(
    model: Any,
    times: ArrayLike,
    sr: int,
    *,
    f_max: float | None = None,
    heading: Callable[[Float[np.ndarray, " d"]], ArrayLike] | ArrayLike | None = None,
    kind: Literal["pressure", "monopole"] = "pressure",
) -> Responses:
    """Return what `render` asks for impulse responses, from a network of a room.

    Trunk and branch are each evaluated once for all pairs of a sound, and a place that stays is evaluated once.

    Parameters
    ----------
    model
        A network with a frame, such as `AcousticDeepONet`.
    times
        Evenly spaced times from 0 on, in seconds.
    sr
        Samples in a second of the sound.
    f_max
        Highest frequency in Hz; the frame's by default.
    heading
        Direction in which the listener looks, (2,) in the plane or (3,), or a function of the place: two ears are then
        17.5 cm apart at its sides. A single microphone by default.
    kind
        "pressure" or "monopole", as for `room_impulse_response`.

    Returns
    -------
    Callable
        From places of sources and listeners (n, d) to responses (n, channels, samples).

    Raises
    ------
    ValueError
        For times that aren't evenly spaced from 0 on.

    Examples
    --------
    >>> from paperworks.audio.acoustics import Room, RoomFrame, make_acoustic_deeponet
    >>> model = make_acoustic_deeponet(RoomFrame(Room((2.0, 2.0))), hidden=16, q=8)
    >>> ears = responder(model, np.arange(100) * 2.5e-4, 8000, heading=[0.0, 1.0])
    >>> wet = render(lambda t: [0.5 + t, 1.0], [1.5, 0.5], np.ones(800), 8000, ears)
    >>> wet.shape
    (2, 999)
    """
    t = np.asarray(times, np.float64).reshape(-1)
    if len(t) < 2 or t[0] != 0 or not t[1] > 0 or not np.allclose(np.diff(t), t[1], rtol=1e-4, atol=0):
        raise ValueError("times isn't evenly spaced from 0 on")
    check_count("sr", sr)
    frame = model._frame()

    def responses(sources: Float[np.ndarray, "n d"], listeners: Float[np.ndarray, "n d"]) -> ArrayLike:
        ears = binaural_ears(listeners, heading) if heading is not None else listeners[:, None]
        x0, of_source = np.unique(sources, axis=0, return_inverse=True)
        x, of_ear = np.unique(ears.reshape(-1, ears.shape[-1]), axis=0, return_inverse=True)
        cached = model.cache_receivers_at(x, t)
        weights = model.cache_source(frame.source_fields(x0)).weights.float().cpu().numpy()[of_source.reshape(-1)]
        basis = cached.basis.float().cpu().numpy().reshape(-1, len(x), len(t))[:, of_ear.reshape(ears.shape[:2])]
        p = np.einsum("nq,qnet->net", weights, basis) + (0.0 if model.bias is None else model.bias.item())
        return room_impulse_response(
            p, float(t[1]), sr, frame.sigma, frame.f_max if f_max is None else f_max, kind, frame.room.dim, frame.c
        )

    responses.sr = sr  # type: ignore[attr-defined]
    return responses


def binaural_ears(
    listeners: ArrayLike, heading: Callable[[Float[np.ndarray, " d"]], ArrayLike] | ArrayLike
) -> Float[np.ndarray, "n 2 d"]:
    """Return where the left and the right ear of listeners are; the head itself casts no shadow.

    Parameters
    ----------
    listeners
        Middles of the heads (n, d) in metres, of two or three dimensions, the third one up.
    heading
        Direction in which all look, or a function of the place that returns it.

    Returns
    -------
    ndarray
        Places of the ears (n, 2, d), left before right.

    Raises
    ------
    ValueError
        For one dimension, or a direction that is straight up or zero.

    Examples
    --------
    >>> binaural_ears([[1.0, 1.0]], [0.0, 1.0]).tolist()
    [[[0.9125, 1.0], [1.0875, 1.0]]]
    """
    x = np.atleast_2d(np.asarray(listeners, np.float64))
    if x.shape[1] < 2:
        raise ValueError(f"listeners has shape {x.shape}; ears take two or three dimensions")
    looks = np.array([heading(place) for place in x]) if callable(heading) else np.asarray(heading, np.float64)
    if looks.shape[-1:] not in ((2,), (3,)) or looks.ndim > 2:
        raise ValueError(f"heading has shape {looks.shape}; it takes a direction (2,) or (3,), or one for each place")
    looks = np.broadcast_to(looks[..., :2], (len(x), 2))
    size = np.linalg.norm(looks, axis=1, keepdims=True)
    if not (size > 0).all():
        raise ValueError(f"heading is {heading!r}; it takes a direction that isn't zero in the plane")
    right = np.zeros_like(x)
    right[:, 0], right[:, 1] = looks[:, 1] / size[:, 0], -looks[:, 0] / size[:, 0]
    return np.stack([x - EAR_DISTANCE / 2 * right, x + EAR_DISTANCE / 2 * right], 1)


def snap_to_grid(points: ArrayLike, grid: ArrayLike) -> tuple[Float[np.ndarray, "n d"], Any]:
    """Return the nearest points of a grid, such as that of a reference solution, and their numbers.

    Parameters
    ----------
    points
        Places (n, d) in metres.
    grid
        Points (m, d) of the grid.

    Returns
    -------
    tuple of ndarray
        The nearest points (n, d), and their row numbers in the grid (n,).

    Raises
    ------
    ValueError
        For other numbers of coordinates.

    Examples
    --------
    >>> snap_to_grid([[0.3, 0.9]], [[0.0, 0.0], [0.0, 1.0]])[1].tolist()
    [1]
    """
    from scipy.spatial import cKDTree

    x, nodes = (np.atleast_2d(np.asarray(a, np.float64)) for a in (points, grid))
    if x.shape[1] != nodes.shape[1] or not np.isfinite(x).all():
        raise ValueError(f"points has shape {x.shape}; it takes finite places (n, {nodes.shape[1]})")
    if not len(nodes) or not np.isfinite(nodes).all():
        raise ValueError(f"grid has shape {nodes.shape}; it takes finite places, one or more")
    nearest = cKDTree(nodes).query(x)[1]
    return nodes[nearest], nearest


def write_impulse_responses(
    folder: str | Path, responses: Float[np.ndarray, "receivers samples"], sr: int, names: Sequence[str] | None = None
) -> list[Path]:
    """Write impulse responses as WAV files of one channel each, at one common loudness.

    Parameters
    ----------
    folder
        Where to, made where it isn't there.
    responses
        (receivers, samples); the greatest absolute value of all becomes 1.
    sr
        Samples in a second.
    names
        Names of the files without their ending; numbers by default.

    Returns
    -------
    list of Path
        The files, in order.

    Raises
    ------
    ValueError
        For responses that are empty or infinite, another number of names, or names that aren't those of files.

    Examples
    --------
    >>> import tempfile
    >>> [file.name for file in write_impulse_responses(tempfile.mkdtemp(), np.eye(2, 100), 8000)]
    ['receiver-0.wav', 'receiver-1.wav']
    """
    h = np.atleast_2d(np.asarray(responses, np.float64))
    labels = [f"receiver-{i}" for i in range(len(h))] if names is None else list(names)
    if h.ndim != 2 or not h.size or not np.isfinite(h).all():
        raise ValueError(f"responses has shape {h.shape}; it takes finite samples (receivers, samples), one or more")
    if len(labels) != len(h) or len(set(labels)) != len(h):
        raise ValueError(f"names has {len(set(labels))} different names; it takes {len(h)}")
    for label in labels:
        if not label or Path(label).name != label or "\\" in label:
            raise ValueError(f"names has {label!r}; it takes names of files, without folders")
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = [Path(folder) / f"{label}.wav" for label in labels]
    peak = np.abs(h).max() or 1.0
    for file, one in zip(files, h, strict=True):
        write_sound(file, one[None] / peak, sr)
    return files
