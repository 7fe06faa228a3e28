r"""Tight ends of what is normalised to mean 0 and variance 1.

The standard deviation :math:`\sigma(x)` is a norm, so that at a box's middle m it lies above its tangent and, as the
root of a sum of squares, below a parabola that touches it there. An output :math:`y_i = c_i x / \sigma(x)` is at most t
where :math:`h(t) = \max_x c_i x - t \sigma(x) \le 0`; with the tangent (t >= 0) or the parabola (t < 0) in place of
:math:`\sigma` that maximum is a sum over coordinates, and convex in t: a chord of h from above 0 to below it crosses 0
where h is not positive, which gives a better t.
"""

import math

import torch
from torch import Tensor

from paperworks.robustness.bounds.rounding import gap

_LAID_OUT = 1 << 23  # pairs of coordinates, beyond which nothing is gained for the memory
_CHORDS = 3


def normalized_ends(lower: Tensor, upper: Tensor, axes: int, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return ends of x less its mean over its standard deviation, over the last axes, in double precision.

    They give way for the rounding of differences from the mean in `dtype`, which grows with an offset of x.
    """
    low, high = (end.flatten(-axes) for end in (lower, upper))
    n = low.shape[-1]
    limit = torch.full_like(low, math.sqrt(n))  # of one less, were the mean exact
    if low.numel() * n > _LAID_OUT:
        return (-limit).reshape(lower.shape), limit.reshape(lower.shape)
    middle, radius = (low + high) / 2, (high - low) / 2
    centred = middle - middle.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    tilt = centred / (n * sigma)
    least = (sigma - (radius * tilt.abs()).sum(-1, keepdim=True)).clamp(min=math.sqrt(eps))
    bend = radius.square().mean(-1, keepdim=True) / (2 * sigma)
    pairs = torch.eye(n, dtype=low.dtype, device=low.device) - 1 / n

    def greatest(sign: int) -> Tensor:
        own = sign * centred

        def beyond(t: Tensor) -> Tensor:
            steep = (pairs - t[..., :, None] * (sign * tilt)[..., None, :]).abs()
            return own - t * sigma + (steep @ radius[..., None])[..., 0] + t.clamp(max=0).neg() * bend

        start = own / sigma
        above = beyond(start).clamp(min=0)
        t = start + above / least
        for _ in range(_CHORDS):
            below = beyond(t).clamp(max=0)
            span = above - below
            t = start + (t - start) * above / torch.where(span > 0, span, 1.0)
        return t

    size = torch.maximum(low.abs(), high.abs()).detach().amax(-1, keepdim=True)
    lost = 2 * gap(n, torch.promote_types(dtype, torch.float32), dtype) * size
    away = lost * (1 + limit) / torch.maximum(least - lost, torch.full_like(least, math.sqrt(eps))).detach()
    found = []
    for sign in (1, -1):
        end = greatest(sign) + away
        found.append(torch.where(end.isfinite(), torch.minimum(end, limit), limit).reshape(lower.shape))
    return -found[1], found[0]
