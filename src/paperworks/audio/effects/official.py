"""Checkpoints of the released code, read without running anything that they hold."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from paperworks.audio.effects.model import SignalTrain

_LAYERS = ("fnn_enc", "fnn_enc2", "fnn_enc3", "fnn_enc4", "fnn_addknobs", "fnn_dec4", "fnn_dec3", "fnn_dec2", "fnn_dec")
_OURS = (*(f"encoder.{i}" for i in range(4)), "add_knobs", *(f"decoder.{i}" for i in range(4)))
_HEADS = {"aenc": "magnitudes", "phs_aenc": "phases"}


class Official(NamedTuple):
    """A released model with what its file says of it.

    Parameters
    ----------
    model
        The model in evaluation mode.
    knob_ranges
        Ends of each knob, (knobs, 2), where the file has them.
    knob_names
        Names of the knobs, where the file has them.

    Examples
    --------
    >>> Official(SignalTrain(1, chunk=512, ft=64, hop=24, rank=16), None, []).model.n_knobs
    1
    """

    model: SignalTrain
    knob_ranges: np.ndarray | None
    knob_names: list[str]


def load_official(path: str | Path, bank: str = "half") -> Official:
    """Load a `modelcheckpoint.tar` of the released code.

    The file is read by torch's restricted unpickler, with NumPy's arrays allowed, which it holds the knobs' ranges in.

    Parameters
    ----------
    path
        The file of the released code.
    bank
        "literal" computes as published, "half" the same at half the cost; "half" by default.

    Returns
    -------
    Official
        Model, ranges and names of the knobs.

    Raises
    ------
    ValueError
        For a file that holds something else, or code.

    References
    ----------
    github.com/drscotthawley/signaltrain, whose keys these are.

    Examples
    --------
    >>> load_official("modelcheckpoint.tar").knob_names  # doctest: +SKIP
    ['thresh', 'ratio', 'attackTime', 'releaseTime']
    """
    if bank not in ("literal", "half"):
        raise ValueError(f"bank is {bank!r}; it takes 'literal' or 'half'")
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # broken files end in errors of any kind
        raise ValueError(f"path is {path}, which can't be read as weights alone: {error}") from None
    held = held if isinstance(held, dict) else {}
    try:
        weights = dict(held.get("state_dict", held))
        weights = {str(key).removeprefix("module.").removeprefix("mpaec."): value for key, value in weights.items()}
        model = _model(weights, held, bank)
        ranges, names = held.get("knob_ranges"), [str(name) for name in held.get("knob_names", [])]
        return Official(model.eval(), None if ranges is None else np.asarray(ranges, dtype=float), names)
    except KeyError as error:
        raise ValueError(f"path is {path}, whose weights lack {error}") from None
    except (ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"path is {path}, whose weights aren't those of a model: {error}") from None


def _numpy_globals() -> list[Any]:
    """Return what unpickles NumPy arrays of numbers and nothing else, under its old names and new."""
    rebuild: Any = np.zeros(1).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)]
    old = [(f, f"numpy.core.multiarray.{f.__name__}") for f in (rebuild, scalar)]
    return [np.ndarray, np.dtype, rebuild, scalar, *kinds, *old]


def _model(weights: dict[str, Tensor], held: dict[str, Any], bank: str) -> SignalTrain:
    filters = weights["dft_analysis.conv_analysis_real.weight"]
    ft = filters.shape[-1]
    frames, rank = weights["aenc.fnn_enc.weight"].shape[::-1]
    out_frames = len(weights["aenc.fnn_dec.weight"])
    narrow, wide = weights["aenc.fnn_addknobs.weight"].shape
    hop = 384 * ft // 1024  # in both of the released schemes
    chunk, out = (frames - 1) * hop - ft, (out_frames - 1) * hop - ft
    if int(held.get("in_chunk_size", chunk)) - chunk not in range(hop):
        raise ValueError(f"chunks of {held['in_chunk_size']} don't have {frames} frames of {ft} every {hop} samples")
    shrink = max(s for s in range(1, chunk + 1) if chunk // s >= out)
    model = SignalTrain(
        wide - narrow, chunk, math.floor(shrink), ft, hop, rank, bank="literal" if bank == "literal" else "half"
    )
    own = model.state_dict()
    rows = ft if bank == "literal" else ft // 2 + 1
    for part in ("real", "imag"):
        own[f"front.analysis_{part}"] = weights[f"dft_analysis.conv_analysis_{part}.weight"][:rows, 0]
        synthesis = weights[f"dft_synthesis.conv_synthesis_{part}.weight"][:, 0]
        if bank == "half":
            # The mean of each bin and its mirror image, whose input is its own or, for imaginary parts, its negative.
            sign = 1 if part == "real" else -1
            mirrored = synthesis[1 : rows - 1] + sign * synthesis[rows:].flip(0)
            synthesis = torch.cat([synthesis[:1], mirrored / 2, synthesis[rows - 1 : rows]])
        own[f"front.synthesis_{part}"] = synthesis
    for theirs, ours in _HEADS.items():
        for a, b in zip(_LAYERS, _OURS, strict=True):
            for kind in ("weight", "bias"):
                own[f"{ours}.{b}.{kind}"] = weights[f"{theirs}.{a}.{kind}"]
    model.load_state_dict(own)
    return model
