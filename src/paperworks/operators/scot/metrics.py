"""Errors as they are reported, and what a model saves in samples and in error against a reference."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_number
from paperworks.operators.scot.finetuning import split_channels


def relative_lp_error(
    prediction: Float[Tensor, "batch channels *grid"],
    target: Float[Tensor, "batch channels *grid"],
    groups: Sequence[int] | None = None,
    p: int = 1,
    reduction: Literal["median", "mean", "none"] = "median",
) -> Tensor:
    """Return the error of fields relative to their size, in percent (arXiv 2405.19101, the section on evaluation).

    Parameters
    ----------
    prediction
        Fields of the network.
    target
        What they should be.
    groups
        How many channels are taken together; None for all.
    p
        Exponent of the norms over all points and the channels of a group, 1 as reported, or 2.
    reduction
        "median": the mean over groups of medians over samples, as reported; "mean": the mean over both, as in training;
        "none": each sample's error in each group.

    Returns
    -------
    Tensor
        One number in percent, or (batch, groups).

    Raises
    ------
    ValueError
        For fields that don't fit each other or `groups`, another exponent or reduction, and a target that is zero.

    Examples
    --------
    >>> target = torch.ones(3, 1, 4, 4)
    >>> relative_lp_error(target * torch.tensor([1.0, 1.01, 1.5])[:, None, None, None], target).round(decimals=3)
    tensor(1.)
    """
    check_choice("p", p, (1, 2))
    check_choice("reduction", reduction, ("median", "mean", "none"))
    errors = []
    for a, b in split_channels(groups, prediction, target):
        largest = b.flatten(1).abs().amax(1, keepdim=True)  # against overflow of powers
        if not largest.all():
            raise ValueError(f"target is zero in {int((largest == 0).sum())} samples; it takes fields with a size")
        off, size = (((c.flatten(1) / largest).abs() ** p).sum(1) for c in (a - b, b))
        errors.append(100 * (off / size) ** (1 / p))
    found = torch.stack(errors, 1)
    if reduction == "median":
        return found.quantile(0.5, dim=0).mean()
    return found.mean() if reduction == "mean" else found


@dataclass(frozen=True)
class ScalingGains:
    """What a model saves against a reference.

    Parameters
    ----------
    efficiency
        By how many times fewer samples the model needs for the reference's error.
    bound
        ">=" where the model is better with its fewest samples already, "<=" where it isn't with its most, else "".
    accuracy
        By how many times smaller the model's error is with as many samples; None where its samples don't reach so far.

    Examples
    --------
    >>> ScalingGains(8.0, ">=", 2.0).bound
    '>='
    """

    efficiency: float
    bound: Literal["", ">=", "<="]
    accuracy: float | None


def scaling_gains(
    samples_ref: Sequence[float],
    err_ref: Sequence[float],
    samples: Sequence[float],
    err: Sequence[float],
    s_star: float,
) -> ScalingGains:
    """Return the efficiency and accuracy gains of a model over a reference (arXiv 2405.19101, the section on metrics).

    ``EG = S* / s`` with the fewest samples s at which the model's error is the reference's at S*, and
    ``AG = err_ref(S*) / err(S*)``. Between samples, the logarithm of the error is linear in theirs.

    Parameters
    ----------
    samples_ref, err_ref
        Numbers of training samples of the reference, rising, and its errors.
    samples, err
        Those of the model.
    s_star
        Samples of the reference: 1024 as reported for EG, 128 for AG.

    Returns
    -------
    ScalingGains
        Both gains; the efficiency is a bound where the curves don't reach far enough.

    Raises
    ------
    ValueError
        For numbers that aren't positive, samples that don't rise, or an `s_star` outside of the reference's samples.

    Examples
    --------
    >>> gains = scaling_gains([1, 4, 16, 64], [8, 4, 2, 1], [1, 4, 16, 64], [4, 2, 1, 0.5], 64)
    >>> round(gains.efficiency, 6), round(gains.accuracy, 6)
    (4.0, 2.0)
    """
    reference, model = _curve("samples_ref", samples_ref, "err_ref", err_ref), _curve("samples", samples, "err", err)
    s = math.log(check_number("s_star", s_star, gt=0))
    if not reference[0][0] - 1e-12 <= s <= reference[0][-1] + 1e-12:
        raise ValueError(f"s_star is {s_star:g}; it takes one from {samples_ref[0]:g} to {samples_ref[-1]:g}")
    wanted = float(np.interp(s, *reference))
    x, y = model
    accuracy = math.exp(wanted - float(np.interp(s, x, y))) if x[0] - 1e-12 <= s <= x[-1] + 1e-12 else None
    reached = np.flatnonzero(y <= wanted)
    if not len(reached):
        return ScalingGains(math.exp(s - x[-1]), "<=", accuracy)
    k = int(reached[0])
    if k == 0:
        return ScalingGains(math.exp(s - x[0]), "" if y[0] == wanted else ">=", accuracy)
    crossing = x[k - 1] + (y[k - 1] - wanted) / (y[k - 1] - y[k]) * (x[k] - x[k - 1])
    return ScalingGains(math.exp(s - crossing), "", accuracy)


def _curve(
    x_name: str, x: Sequence[float], y_name: str, y: Sequence[float]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    if not len(x) or len(x) != len(y):
        raise ValueError(f"{x_name} and {y_name} have {len(x)} and {len(y)} numbers; they take as many, one or more")
    for name, values in ((x_name, x), (y_name, y)):
        for value in values:
            check_number(name, value, gt=0)
    if any(b <= a for a, b in itertools.pairwise(x)):
        raise ValueError(f"{x_name} is {list(x)}; it takes rising numbers")
    return np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
