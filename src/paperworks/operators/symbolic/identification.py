"""One call for whoever has a series and a guess."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from paperworks.operators.symbolic.network import PROSE, guesses
from paperworks.operators.symbolic.systems import System


class Identification(NamedTuple):
    """What `identify` found.

    Parameters
    ----------
    system
        The equations, or None where the network wrote tokens that make none.
    forecast
        The solution at the times asked for, (times, d).
    tokens
        What the network wrote.

    Examples
    --------
    >>> Identification(None, np.zeros((4, 2)), ["add"]).system is None
    True
    """

    system: System | None
    forecast: Float[np.ndarray, "times d"]
    tokens: list[str]


def identify(
    model: PROSE,
    t: Float[np.ndarray, " n"],
    u: Float[np.ndarray, "n d"],
    guess: System,
    query_times: Float[np.ndarray, " times"] | None = None,
    beam: int = 1,
) -> Identification:
    """Return the equations behind a measured series, and its future (arXiv 2309.16816).

    Parameters
    ----------
    model
        A trained network that writes symbols; scales of time and state have to be those it was trained on.
    t
        Times of the measurements, strictly rising.
    u
        Measurements in rows, one for each time.
    guess
        What is known of the equations: terms with numbers or placeholders, some of which may be wrong.
    query_times
        Times to forecast; by default twice as many again as `t` has, at its mean distance, after its last one.
    beam
        Sequences of tokens that are followed at once.

    Returns
    -------
    Identification
        Equations, forecast and tokens.

    Raises
    ------
    ValueError
        For times that don't rise, times or measurements that aren't finite or are masked, measurements that don't fit
        the times or the guess, or are too large, more components than the network takes, or a network without symbol
        output.
    TypeError
        For complex measurements, or a guess that is no `System`.

    Examples
    --------
    >>> from paperworks.operators import FAMILIES, PROSEConfig
    >>> model = PROSE(PROSEConfig(width=16, heads=2, symbol_layers=1, fusion_layers=1, operator_layers=1,
    ...                           decoder_layers=1))
    >>> t = np.linspace(0, 2, 20)
    >>> found = identify(model, t, np.ones((20, 3)), FAMILIES["thomas"].system().skeleton())
    >>> found.forecast.shape
    (40, 3)
    """
    if np.iscomplexobj(u):
        raise TypeError("u is complex; it takes real numbers")
    # What is masked is missing, and refused as NaN is.
    t, u = (np.ma.filled(np.ma.asanyarray(x).astype(float), np.nan) for x in (t, u))
    if t.ndim != 1 or len(t) < 2 or not np.isfinite(t).all() or not (np.diff(t) > 0).all():
        raise ValueError(
            "t doesn't rise from each time to the next; it takes two finite times or more, strictly rising"
        )
    if u.ndim != 2 or len(u) != len(t) or not np.isfinite(u).all():
        raise ValueError(f"u has shape {u.shape}; it takes finite numbers in one row for each of {len(t)} times")
    if not isinstance(guess, System):
        raise TypeError(f"guess is {type(guess).__name__}; it takes a System, such as System.from_sympy returns")
    if guess.dimension != u.shape[1]:
        raise ValueError(f"guess has {guess.dimension} components; u has {u.shape[1]}")
    if query_times is None:
        query_times = t[-1] + (t[-1] - t[0]) / (len(t) - 1) * np.arange(1, 2 * len(t) + 1)
    queries = np.asarray(query_times, float)
    if queries.ndim != 1 or not np.isfinite(queries).all():
        raise ValueError(f"query_times has shape {queries.shape}; it takes one row of finite times")
    weight = model.values.weight
    data = torch.from_numpy(np.column_stack([t, u]))[None].to(weight)
    symbols, mask = guesses(model, [model.tokenizer.encode(guess)])
    training = model.training
    model.eval()
    try:
        forecast = model.predict(data, None, symbols, mask, torch.from_numpy(queries).to(weight))[0]
        (tokens,) = model.decode_symbols(data, None, symbols, mask, beam=beam)
    finally:
        model.train(training)
    if not torch.isfinite(forecast).all():
        raise ValueError(
            f"u reaches {np.abs(u).max():g}, too much for a network of {weight.dtype}; it takes scaled states"
        )
    return Identification(model.tokenizer.decode(tokens), forecast.double().cpu().numpy(), tokens)
