"""Diagonal recurrences: how a system is sampled, its kernel, convolutions, and scans of blocks."""

import math
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

Rule = Literal["zoh", "bilinear"]


def discretized(
    eigenvalues: Complex[Tensor, "*n"], dt: Float[Tensor, "*m"], rule: Rule
) -> tuple[Complex[Tensor, "*k"], Complex[Tensor, "*k"]]:
    """Return the factor of a step and what an input is multiplied with: zero-order hold or the bilinear rule.

    Parameters
    ----------
    eigenvalues
        Of the system in continuous time.
    dt
        Length of a step; both broadcast.
    rule
        ``zoh`` or ``bilinear``.

    Returns
    -------
    tuple of Tensor
        The factors, and the multipliers of the input.
    """
    z = eigenvalues * dt
    if rule == "bilinear":
        below = 1 - z / 2
        return (1 + z / 2) / below, dt / below
    # (e^z - 1) / z by its series near 0, where the difference has no digits.
    near = z.abs() < 1e-3
    safe = torch.where(near, torch.ones_like(z), z)
    ratio = torch.where(near, 1 + z / 2 * (1 + z / 3), (safe.exp() - 1) / safe)
    return z.exp(), ratio * dt


def powers(factor: Complex[Tensor, "*n"], count: int) -> Complex[Tensor, "*n k"]:
    """Return the powers 0 to count - 1, by doubling: no logarithm of the factor is needed.

    In double precision, since errors grow with the power, and then in that of the factor.

    Parameters
    ----------
    factor
        Factors of a step.
    count
        How many powers.

    Returns
    -------
    Tensor
        Powers, in a last axis.
    """
    top = factor.to(torch.complex128)
    found = torch.ones_like(top)[..., None]
    while found.shape[-1] < count:
        found = torch.cat([found, found * top[..., None]], -1)
        top = top * top
    return found[..., :count].to(factor.dtype)


def kernel(factor: Complex[Tensor, "h n"], weight: Complex[Tensor, "h n"], length: int) -> Float[Tensor, "h l"]:
    """Return the real part of the sum over states of weight times each power of the factor.

    In blocks of about the root of the length: two tables of powers and one product of matrices, so that no table has
    all states at all times.

    Parameters
    ----------
    factor
        Factors of a step.
    weight
        Products of input and output.
    length
        Steps.

    Returns
    -------
    Tensor
        The answer to a unit input at the first step.
    """
    width = 1 << max(0, math.ceil(math.log2(max(length, 1)) / 2))
    count = -(-length // width)
    inner = powers(factor, width)
    outer = powers(factor.to(torch.complex128) ** width, count).to(factor.dtype) * weight[..., None]
    return (outer.mT @ inner).real.flatten(-2)[..., :length]


def convolved(u: Float[Tensor, "b h l"], k: Float[Tensor, "h l"]) -> Float[Tensor, "b h l"]:
    """Convolve each feature with its kernel, from the first step on.

    Parameters
    ----------
    u
        Inputs.
    k
        Kernels.

    Returns
    -------
    Tensor
        Outputs.
    """
    length = u.shape[-1]
    size = 2 * length
    spectrum = torch.fft.rfft(u, n=size) * torch.fft.rfft(k, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :length]


def scanned(
    inputs: Complex[Tensor, "b l n"], factor: Complex[Tensor, " n"], state: Complex[Tensor, "b n"] | None = None
) -> Complex[Tensor, "b l n"]:
    """Return all states of ``x_k = factor x_(k-1) + inputs_k``.

    In blocks: within one, the states are a product with a triangular matrix of powers, for all blocks at once; then the
    state is carried from block to block.

    Parameters
    ----------
    inputs
        What each step adds.
    factor
        Factors of a step.
    state
        The state before the first step; 0 where it isn't given.

    Returns
    -------
    Tensor
        The states after each step.
    """
    b, length, n = inputs.shape
    width = min(32, length)
    count = -(-length // width)
    padded = torch.nn.functional.pad(inputs, (0, 0, 0, count * width - length))
    blocks = padded.reshape(b, count, width, n).permute(3, 2, 0, 1).reshape(n, width, b * count)
    table = powers(factor, width + 1)
    ahead = torch.nn.functional.pad(table[:, :width], (width - 1, 0))
    within = ahead.unfold(1, width, 1).flip(2)  # at row t and column s the power t - s, or 0
    states = (within @ blocks).reshape(n, width, b, count)
    carried = torch.zeros(n, b, dtype=inputs.dtype, device=inputs.device) if state is None else state.mT
    starts, jump = [], table[:, width, None]
    for end in states[:, -1].unbind(-1):
        starts.append(carried)
        carried = jump * carried + end
    states = states + table[:, 1:, None, None] * torch.stack(starts, -1)[:, None]
    return states.permute(2, 3, 1, 0).reshape(b, count * width, n)[:, :length]
