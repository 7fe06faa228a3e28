"""Search of the range that a quantiser keeps: every candidate is scored on a histogram, the best on the numbers.

A candidate is a scale `s` and a zero point `z`; its values are the multiples of `s` from ``-z s`` to ``(L - 1 - z) s``.
So the rounding error of a number depends on the scale alone, and a zero point only moves the window outside which
numbers are clipped. With running sums over the bins, all zero points of a scale cost one lookup each.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from paperworks.core.validation import check_choice
from paperworks.diffusion.quantization.histogram import BINS, Histogram

ScaleMethod = Literal["minmax", "mse", "l1", "cosine", "kl"]
METHODS: tuple[ScaleMethod, ...] = ("minmax", "mse", "l1", "cosine", "kl")

SHORTLIST = 3
_LEAST_SCALE = 1e-8
_MOST_ZERO_POINTS = 256  # tried per scale; beyond 8 bits they are spread evenly
_BUDGET = 2**22  # numbers held at once


def affine_parameters(
    lo: Float[Tensor, "*shape"], hi: Float[Tensor, "*shape"], n_bits: int
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return scale and zero point of the range from `lo` to `hi`, widened to contain 0.

    Examples
    --------
    >>> affine_parameters(torch.tensor(-1.0), torch.tensor(2.0), 2)
    (tensor(1.), tensor(1.))
    """
    last = 2**n_bits - 1
    lo, hi = lo.clamp_max(0), hi.clamp_min(0)
    scale = ((hi - lo) / last).clamp_min(_LEAST_SCALE)
    # That of a symmetric range lies halfway between two codes; the last bit must not decide.
    return scale, torch.round(-lo / scale * (1 + 1e-6)).clamp(0, last)


def search(
    rows: Float[Tensor, "rows n"], method: ScaleMethod, *, symmetric: bool, n_bits: int, p: float, candidates: int
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Find scale and zero point of each row of numbers.

    Examples
    --------
    >>> rows = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.5, 4.0]])
    >>> search(rows, "minmax", symmetric=False, n_bits=2, p=2.0, candidates=1)[0]
    tensor([0.6667, 2.0000])
    """
    check_choice("method", method, METHODS)
    if method == "kl" and len(rows) > 1:
        return _search_together(rows, symmetric, n_bits, candidates)
    lo, hi = (bound.double() for bound in rows.aminmax(dim=1))
    scored_directly = method not in ("minmax", "kl") and rows.shape[1] <= BINS
    if scored_directly and (symmetric or any(_one_sided(lo, hi))):  # few numbers are their own histogram
        scale, zeros = _grid(lo, hi, symmetric, n_bits, candidates)
        zero_point = zeros[..., 0]
    else:
        scale, zero_point = shortlist(Histogram.of(rows), method, symmetric, n_bits, p, candidates)
    if scale.shape[1] > 1:
        sums = error_sums(rows, None, scale.to(rows), zero_point.to(rows), n_bits, method, p)
        scale, zero_point = pick(scale, zero_point, scores_of(sums, method), 1)
    return scale[:, 0].to(rows), zero_point[:, 0].to(rows)


def shortlist(
    histogram: Histogram, method: ScaleMethod, symmetric: bool, n_bits: int, p: float, candidates: int
) -> tuple[Float[Tensor, "rows best"], Float[Tensor, "rows best"]]:
    """Return scales and zero points of the best few candidates of each row, the best first.

    ``minmax`` and ``kl`` have nothing to refine on the numbers themselves and return one.
    """
    lo, hi = histogram.lo, histogram.hi
    if method == "minmax":
        return _shrunk(lo, hi, torch.ones_like(lo)[:1], symmetric, n_bits)
    if method == "kl":
        scale, zero_point = _shrunk(lo, hi, _shares(lo, candidates), symmetric, n_bits)
        return pick(scale, zero_point, kl_divergences(histogram, scale, zero_point, n_bits), 1)
    scale, zeros = _grid(lo, hi, symmetric, n_bits, candidates)
    if zeros.shape[2] == 1:
        sums = error_sums(histogram.centers, histogram.weights, scale, zeros[..., 0], n_bits, method, p)[:, :, None]
    else:
        sums = window_sums(histogram, scale, zeros, n_bits, method, p)
    scores = scores_of(sums, method)
    scales = scale[..., None].expand_as(scores)
    return pick(scales.flatten(1), zeros.expand_as(scores).flatten(1), scores.flatten(1), SHORTLIST)


def pick(
    scale: Float[Tensor, "rows n"], zero_point: Float[Tensor, "rows n"], scores: Float[Tensor, "rows n"], best: int
) -> tuple[Float[Tensor, "rows best"], Float[Tensor, "rows best"]]:
    """Return the candidates of the lowest scores, the best first."""
    index = scores.topk(min(best, scores.shape[1]), largest=False).indices
    return scale.gather(1, index), zero_point.gather(1, index)


def scores_of(sums: Float[Tensor, "... parts"], method: ScaleMethod) -> Float[Tensor, "..."]:
    """Return what is minimised: the sum of powers, or one minus the cosine."""
    if method == "cosine":
        return 1 - sums[..., 0] / (sums[..., 1] * sums[..., 2]).sqrt().clamp_min(torch.finfo(sums.dtype).tiny)
    return sums[..., 0]


def error_sums(
    x: Float[Tensor, "rows n"],
    weights: Float[Tensor, "rows n"] | None,
    scale: Float[Tensor, "rows candidates"],
    zero_point: Float[Tensor, "rows candidates"],
    n_bits: int,
    method: ScaleMethod,
    p: float,
) -> Float[Tensor, "rows candidates parts"]:
    """Add up over the numbers ``|q - x|^p``, or the parts ``q x``, ``q^2`` and ``x^2`` of the cosine, in float64.

    The sums of several batches of numbers may be added.
    """
    parts = []
    per_candidate = max(1, _BUDGET // x.numel())
    power = 1.0 if method == "l1" else p
    for s, z in zip(scale.split(per_candidate, 1), zero_point.split(per_candidate, 1), strict=True):
        ratio = torch.round(x[:, None] / s[..., None])
        q = torch.clamp(ratio, -z[..., None], 2**n_bits - 1 - z[..., None]).mul_(s[..., None])
        if method == "cosine":
            terms = [q * x[:, None], q.square(), x[:, None].square().expand_as(q)]
        else:
            terms = [(q.sub_(x[:, None])).abs_().pow_(power)]
        parts.append(torch.stack([_total(term, weights) for term in terms], dim=-1))
    return torch.cat(parts, dim=1)


def window_sums(
    histogram: Histogram,
    scale: Float[Tensor, "rows candidates"],
    zero_point: Float[Tensor, "rows candidates zeros"],
    n_bits: int,
    method: ScaleMethod,
    p: float,
) -> Float[Tensor, "rows candidates zeros parts"]:
    """Add up the same as `error_sums` over a histogram, for many zero points of each scale."""
    x, weights = histogram.centers, histogram.weights
    rows, bins = x.shape
    power = 1.0 if method == "l1" else p
    below = _clipped_below(weights, power) * histogram.width[:, None] ** power
    above = _clipped_below(weights.flip(1), power).flip(1) * histogram.width[:, None] ** power
    mass, moment = _running(weights), _running(weights * x)
    squares = (weights * x.square()).sum(1)[:, None, None]
    parts = []
    at_once = max(1, _BUDGET // (rows * max(bins, zero_point.shape[2])))
    for s, z in zip(scale.split(at_once, 1), zero_point.split(at_once, 1), strict=True):
        s = s[..., None]
        lower, upper = -z * s, (2**n_bits - 1 - z) * s
        first, last = (
            ((edge - histogram.lo[:, None, None]) / histogram.width[:, None, None]).clamp(0, bins)
            for edge in (lower, upper)
        )
        q = torch.round(x[:, None] / s) * s

        def inside(terms: Tensor, first: Tensor = first, last: Tensor = last) -> Tensor:
            running = _running(terms)
            return _lookup(running, last) - _lookup(running, first)

        if method == "cosine":
            under, over = _lookup(mass[:, None], first), mass[:, None, -1:] - _lookup(mass[:, None], last)
            under_x, over_x = _lookup(moment[:, None], first), moment[:, None, -1:] - _lookup(moment[:, None], last)
            w = weights[:, None]
            products = inside(q * x[:, None] * w) + lower * under_x + upper * over_x
            norms = inside(q.square() * w) + lower.square() * under + upper.square() * over
            parts.append(torch.stack([products, norms, squares.expand_as(norms)], dim=-1))
        else:
            rounding = inside((q - x[:, None]).abs_().pow_(power).mul_(weights[:, None]))
            clipping = _lookup(below[:, None], first) + _lookup(above[:, None], last)
            parts.append((rounding + clipping)[..., None])
    return torch.cat(parts, dim=1)


def kl_divergences(
    histogram: Histogram,
    scale: Float[Tensor, "rows candidates"],
    zero_point: Float[Tensor, "rows candidates"],
    n_bits: int,
) -> Float[Tensor, "rows candidates"]:
    """Return the divergence of the clipped histogram from the one that spreads each code's share over its bins.

    It is infinite where the histogram can't tell codes apart: a scale below a bin's width, fewer numbers than bins.
    """
    x, weights = histogram.centers[:, None], histogram.weights[:, None]
    levels = 2**n_bits
    enough = histogram.counts.sum(1, keepdim=True) >= histogram.counts.shape[1]
    found = []
    at_once = max(1, _BUDGET // (len(x) * max(x.shape[2], levels)))
    for s, z in zip(scale.split(at_once, 1), zero_point.split(at_once, 1), strict=True):
        code = torch.round(x / s[..., None]) + z[..., None]
        index = code.clamp(0, levels - 1).long()
        occupied = (code == index) & (weights > 0)
        kept = weights * occupied
        empty = torch.zeros(*s.shape, levels, dtype=x.dtype, device=x.device)
        share = empty.scatter_add(2, index, kept) / empty.scatter_add(2, index, occupied.to(x.dtype)).clamp_min(1)
        spread = share.gather(2, index) * occupied
        spread = spread / spread.sum(2, keepdim=True)
        # What is clipped joins the first or the last bin that is kept.
        first = occupied.to(torch.uint8).argmax(2, keepdim=True)
        last = x.shape[2] - 1 - occupied.flip(2).to(torch.uint8).argmax(2, keepdim=True)
        clipped = weights * (code != index)
        low = (clipped * (code < 0)).sum(2, keepdim=True)
        kept = kept.scatter_add(2, first, low).scatter_add(2, last, clipped.sum(2, keepdim=True) - low)
        divergence = torch.special.xlogy(kept, kept / spread).nan_to_num(0.0, posinf=0.0).sum(2)
        found.append(torch.where(occupied.any(2) & enough & (s >= histogram.width[:, None]), divergence, torch.inf))
    divergences = torch.cat(found, dim=1)
    # Where no candidate can be judged, the whole range is kept: it is the last one.
    divergences[:, -1] = torch.where(divergences.isfinite().any(1), divergences[:, -1], 0.0)
    return divergences


def _search_together(
    rows: Float[Tensor, "rows n"], symmetric: bool, n_bits: int, candidates: int
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Shrink the ranges of all rows by the share that is best for them together: few numbers have no distribution."""
    lo, hi = (bound.double() for bound in rows.aminmax(dim=1))
    reach = torch.maximum(-lo, hi).clamp_min(torch.finfo(torch.float32).tiny)
    pooled = Histogram.of((rows.double() / reach[:, None]).reshape(1, -1))
    whole = shortlist(pooled, "minmax", symmetric, n_bits, 1.0, 1)[0]
    share = shortlist(pooled, "kl", symmetric, n_bits, 1.0, candidates)[0] / whole
    return tuple(v[:, 0].to(rows) for v in _shrunk(lo, hi, share[0], symmetric, n_bits))  # type: ignore[return-value]


def _shrunk(
    lo: Float[Tensor, " rows"], hi: Float[Tensor, " rows"], share: Float[Tensor, " n"], symmetric: bool, n_bits: int
) -> tuple[Float[Tensor, "rows n"], Float[Tensor, "rows n"]]:
    """Return scale and zero point of shares of each row's range."""
    if symmetric:
        positive, negative = _one_sided(lo, hi)
        reach = torch.maximum(-lo, hi)
        lo, hi = (torch.zeros_like(lo) if positive else -reach), (torch.zeros_like(hi) if negative else reach)
    return affine_parameters(lo[:, None] * share, hi[:, None] * share, n_bits)


def _one_sided(lo: Tensor, hi: Tensor) -> tuple[bool, bool]:
    """Tell whether no row has a negative number, and whether none has a positive one."""
    return bool((lo >= 0).all()), bool((hi <= 0).all())


def _shares(like: Tensor, candidates: int) -> Float[Tensor, " candidates"]:
    return torch.arange(1, candidates + 1, dtype=like.dtype, device=like.device) / candidates


def _grid(
    lo: Float[Tensor, " rows"], hi: Float[Tensor, " rows"], symmetric: bool, n_bits: int, candidates: int
) -> tuple[Float[Tensor, "rows candidates"], Float[Tensor, "rows candidates zeros"]]:
    """Return the scales that are tried, and the zero points of each."""
    share = _shares(lo, candidates)
    positive, negative = _one_sided(lo, hi)
    lo, hi = lo.clamp_max(0), hi.clamp_min(0)
    if symmetric or positive or negative:
        scale, zero_point = _shrunk(lo, hi, share, True, n_bits)
        return scale, zero_point[..., None]
    scale = ((hi - lo)[:, None] * share / (2**n_bits - 1)).clamp_min(_LEAST_SCALE)
    zeros = torch.linspace(0, 2**n_bits - 1, min(2**n_bits, _MOST_ZERO_POINTS), dtype=lo.dtype, device=lo.device)
    return scale, zeros.round().expand(*scale.shape, -1)


def _total(terms: Float[Tensor, "rows candidates n"], weights: Float[Tensor, "rows n"] | None) -> Tensor:
    if weights is None:
        return terms.sum(2, dtype=torch.float64)
    return torch.einsum("rcn,rn->rc", terms, weights).double()


def _running(terms: Float[Tensor, "... bins"]) -> Float[Tensor, "... edges"]:
    """Return the sum of all terms left of each edge."""
    return functional.pad(terms.cumsum(-1), (1, 0))


def _lookup(table: Float[Tensor, "rows c edges"], position: Float[Tensor, "rows n zeros"]) -> Tensor:
    """Read a table between its edges, linearly."""
    table = table.expand(*position.shape[:2], -1)
    left = position.long().clamp_max(table.shape[2] - 2)
    a, b = table.gather(2, left), table.gather(2, left + 1)
    return torch.lerp(a, b, position - left)


def _clipped_below(weights: Float[Tensor, "rows bins"], p: float) -> Float[Tensor, "rows edges"]:
    """Return for each edge ``sum w (edge - x)^p`` over the bins left of it, in bin widths: a convolution."""
    bins = weights.shape[1]
    kernel = (torch.arange(bins, dtype=weights.dtype, device=weights.device) + 0.5) ** p
    spectrum = torch.fft.rfft(weights, 2 * bins) * torch.fft.rfft(kernel, 2 * bins)
    return functional.pad(torch.fft.irfft(spectrum, 2 * bins)[:, :bins].clamp_min(0), (1, 0))
