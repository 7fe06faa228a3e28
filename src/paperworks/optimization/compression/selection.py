"""The k entries of greatest magnitude, the lowest index first among equals, in little more than one pass."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

LARGE = 1 << 16  # entries from which a sample finds the threshold sooner than sorting does
_STRIDE = 97  # every how many entries the sample takes one; a prime, which no width of a layer divides
_CHUNK = 1 << 16  # entries that stay in the processor's cache from one operation to the next


def largest(v: Float[Tensor, "rows d"], k: int) -> Int64[Tensor, " chosen"]:
    """Return where the k entries of greatest magnitude of each row are, as ascending indices into the flat array."""
    rows, d = v.shape
    if rows == 1 and d >= LARGE and 20 * k <= d:
        candidates = _candidates(v[0], k)
        if len(candidates) >= k:
            return candidates[_exactly(v[0][candidates].abs()[None], k)]
        if len(candidates) == int(v.count_nonzero()):  # all that there is
            zeros = (v[0, :k] == 0).nonzero().squeeze(1)[: k - len(candidates)]  # those with the lowest indices
            return torch.cat([candidates, zeros]).sort().values
    if k == 1:
        return v.abs().argmax(dim=1) + torch.arange(0, rows * d, d, device=v.device)  # the first of equals
    return _exactly(v.abs(), k)


def _exactly(magnitude: Float[Tensor, "rows d"], k: int) -> Int64[Tensor, " chosen"]:
    kth = magnitude.kthvalue(magnitude.shape[1] - k + 1, dim=1, keepdim=True).values
    chosen, tied = magnitude > kth, magnitude == kth
    missing = k - chosen.sum(dim=1, keepdim=True)
    if bool((tied.sum(dim=1, keepdim=True) > missing).any()):
        tied &= tied.cumsum(dim=1) <= missing
    return (chosen | tied).view(-1).nonzero().squeeze(1)


def _candidates(v: Float[Tensor, " d"], k: int) -> Int64[Tensor, " found"]:
    """Return where entries are that reach a threshold which a sample puts below the k-th greatest, and are not 0.

    There may be fewer than k: the sample has misled, or most entries are 0, as gradients of units that are off.

    The sample has about k / stride entries above the right threshold, give or take the root of that; four roots more
    leave the refinement little, and one vector in 30 000 to sorting.
    """
    expected = k / _STRIDE
    sample = v[::_STRIDE].abs()
    threshold = sample.topk(min(len(sample), int(expected + 4 * expected**0.5) + 2)).values[-1]
    threshold = threshold.clamp(min=torch.finfo(v.dtype).smallest_normal * torch.finfo(v.dtype).eps)
    if v.device.type != "cpu" or v.dtype not in (torch.float32, torch.float64):
        return (v.abs() >= threshold).nonzero().squeeze(1)
    # NumPy finds the few true entries of a mask several times faster than torch does.
    array, limit = v.detach().numpy(), threshold.item()
    magnitude, mask = np.empty(min(_CHUNK, len(array)), array.dtype), np.empty(min(_CHUNK, len(array)), bool)
    found = []
    for start in range(0, len(array), _CHUNK):
        part = array[start : start + _CHUNK]
        np.abs(part, out=magnitude[: len(part)])
        np.greater_equal(magnitude[: len(part)], limit, out=mask[: len(part)])
        found.append(np.flatnonzero(mask[: len(part)]) + start)
    return torch.from_numpy(np.concatenate(found).astype(np.int64, copy=False))
