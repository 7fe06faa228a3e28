"""Losses, rates and batches of training."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.operators.symbolic.network import PROSEOutput
from paperworks.operators.symbolic.systems import System

GUESSES = ("skeleton", "noisy", "wrong_family")


class PROSETargets(NamedTuple):
    """What a network should find.

    Parameters
    ----------
    values
        The solution at the times asked for, (batch, times, components).
    symbols
        Tokens that follow the given ones, with the end, (batch, length); None where no symbols are asked for.
    symbol_mask
        Where tokens are no padding.
    components
        Where components are no padding, (batch, components); None for everywhere.

    Examples
    --------
    >>> import torch
    >>> PROSETargets(torch.zeros(1, 4, 3)).symbols is None
    True
    """

    values: Float[Tensor, "batch times d"]
    symbols: Int[Tensor, "batch length"] | None = None
    symbol_mask: Bool[Tensor, "batch length"] | None = None
    components: Bool[Tensor, "batch d"] | None = None


def prose_loss(output: PROSEOutput, targets: PROSETargets, data_weight: float = 6.0) -> Float[Tensor, ""]:
    """Return the loss of values and symbols together (arXiv 2309.16816, the section on the loss).

    Values count by their squared error relative to the squared size of the sample's solution, symbols by the cross
    entropy of tokens, the end included.

    Parameters
    ----------
    output
        What the network found.
    targets
        What it should have found.
    data_weight
        Weight of the values; 6 in the paper.

    Returns
    -------
    Tensor
        One number, with a graph.

    Raises
    ------
    ValueError
        For values of another shape, logits without symbols to compare with, or a negative weight.

    Examples
    --------
    >>> import torch
    >>> output = PROSEOutput(torch.full((1, 4, 2), 1.1), None)
    >>> prose_loss(output, PROSETargets(torch.ones(1, 4, 2))).round(decimals=3)
    tensor(0.0600)
    """
    check_number("data_weight", data_weight, ge=0)
    values, wanted = output.values.float(), targets.values
    if values.shape != wanted.shape:
        raise ValueError(f"output has values of shape {tuple(values.shape)}; targets has {tuple(wanted.shape)}")
    if targets.components is not None:
        values, wanted = (x * targets.components[:, None] for x in (values, wanted))
    off = (values - wanted).square().sum((1, 2)) / (wanted.square().sum((1, 2)) + 1e-5)
    loss = data_weight * off.mean()
    if output.logits is None:
        return loss
    if targets.symbols is None or targets.symbols.shape != output.logits.shape[:2]:
        raise ValueError("output has logits; targets takes symbols, one for each of them")
    symbols = targets.symbols
    if targets.symbol_mask is not None:
        symbols = symbols.masked_fill(~targets.symbol_mask, -100)  # what cross_entropy ignores
    return loss + nn.functional.cross_entropy(output.logits.float().transpose(1, 2), symbols)


def warmup_inverse_sqrt(step: int, warmup: int, start: float = 1e-3) -> float:
    """Return the share of the full rate at a step: rising evenly to 1, then falling as one over the root of the steps.

    Parameters
    ----------
    step
        From 0 on.
    warmup
        Steps of the rise; 20 000 in the authors' code.
    start
        Share in the first step; 1e-7 / 1e-4 in the authors' code.

    Returns
    -------
    float
        From `start` to 1.

    Raises
    ------
    ValueError
        For a negative step, no warm-up, or a start outside [0, 1].

    Examples
    --------
    >>> [round(warmup_inverse_sqrt(step, 100), 4) for step in (0, 50, 100, 400)]
    [0.001, 0.5005, 1.0, 0.5]
    """
    check_count("step", step, at_least=0)
    check_count("warmup", warmup)
    check_number("start", start, ge=0, le=1)
    if step < warmup:
        return start + (1 - start) * step / warmup
    return math.sqrt(warmup / step)


def guess_of(
    system: System,
    random_state: int | np.random.Generator,
    mode: Literal["skeleton", "noisy", "wrong_family"] = "skeleton",
    *,
    others: Sequence[System] = (),
    p_add: float = 0.15,
    p_del: float = 0.15,
    noise: float = 0.05,
) -> System:
    """Return what somebody might guess of a system (arXiv 2309.16816, the section on inputs).

    Parameters
    ----------
    system
        The true equations.
    random_state
        Seed, or NumPy's generator.
    mode
        "skeleton": without numbers, with a term more or less at times; "noisy": numbers that are off by a normal share;
        "wrong_family": another system without numbers.
    others
        Systems that "wrong_family" chooses from: those of as many components and another skeleton.
    p_add, p_del
        Chances of a term more and less in a skeleton, as `System.perturb` takes them; 0.15 each in the authors' code.
    noise
        Standard deviation of the share that numbers are off by, 0.05 by default.

    Returns
    -------
    System
        Equations as they are guessed, for the tokenizer to encode.

    Raises
    ------
    ValueError
        For an unknown mode, placeholders where numbers are needed, or no other system to choose.

    Examples
    --------
    >>> from paperworks.operators import FAMILIES
    >>> print(guess_of(FAMILIES["sprott_linz_f"].system(), 0, p_add=0, p_del=0))
    u_0' = (u_1 + u_2), u_1' = (neg(u_0) + (? * u_1)), u_2' = (pow2(u_0) - u_2)
    """
    check_choice("mode", mode, GUESSES)
    rng = np.random.default_rng(random_state)
    if mode == "noisy":
        check_number("noise", noise, ge=0)
        if np.isnan(system.numbers()).any():
            raise ValueError("system has placeholders; the mode 'noisy' takes one with numbers")
        return system.with_numbers([x * (1 + noise * float(rng.standard_normal())) for x in system.numbers()])
    if mode == "skeleton":
        return system.skeleton().perturb(rng, p_add, p_del)
    mine = system.skeleton()
    choices = [s for s in others if s.dimension == system.dimension and s.skeleton() != mine]
    if not choices:
        raise ValueError("others has no system of as many components and another skeleton; it takes one or more")
    return choices[int(rng.integers(len(choices)))].skeleton()
