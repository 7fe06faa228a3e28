"""Gradients without their part along the weights: the arithmetic, on blocks of rows."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from paperworks.training.grokking.sharding import is_sharded, local, sums, whole, whole_rows

Granularity = Literal["tensor", "global", "row"]
_SMALL = 1 << 13  # elements of a tensor below which tensors of one size go through together
_TOGETHER = 1 << 17  # elements that go through together, so that they stay in the cache
_EASY = 0.99  # share of the squared gradient across the weights, below which sums are taken in double precision
_HARD = 1e-6  # and below which what is left is computed to be measured
_ROUNDING = 16  # rounding errors, to which what is left of a gradient along the weights is no direction


class Projection(NamedTuple):
    """How gradients are projected."""

    rescale: bool
    granularity: Granularity
    exclude_1d: bool
    eps: float
    foreach: bool | None

    def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor], *, in_place: bool = False) -> list[Tensor]:
        """Return the projected gradients, new ones or the same tensors."""
        found = list(grads)
        chosen = [i for i, p in enumerate(params) if self._projects(p)]
        foreach = any(not p.is_cpu for p in params) if self.foreach is None else self.foreach
        if any(is_sharded(params[i]) for i in chosen):
            self._over_processes(params, found, chosen, in_place)
        elif self.granularity == "global" and chosen:
            self._together(params, found, chosen, in_place)
        elif foreach:
            for numbers in _alike(chosen, params, grads):
                self._foreach([params[i] for i in numbers], found, numbers, in_place)
        else:
            for block in _blocks(params, found, chosen, self.granularity):
                r, c = self._factors([block], together=False)
                block.write(found, r, c, in_place)
        return found

    def _projects(self, p: Tensor) -> bool:
        if self.granularity == "row":  # a row of one element has no direction but its own
            return p.ndim > 1 and p.numel() > p.shape[0]
        return (p.numel() > 1 or self.granularity == "global") and not (self.exclude_1d and p.ndim < 2)

    @np.errstate(over="ignore", invalid="ignore")  # of gradients that are infinite
    def _factors(self, blocks: "Sequence[_Block]", *, together: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return r and c of r (g - c w), for each row of a block, or for all rows of several together."""
        dots = [block.sums() for block in blocks]
        wg, ww, gg = np.sum([d.sum(1, keepdims=True) for d in dots], axis=0) if together else dots[0]
        c = wg / (ww + self.eps)
        share = 1 - wg * c / np.maximum(gg, 1e-300)
        least = max(torch.finfo(block.dtype).tiny for block in blocks) * 1e8
        easy = (gg > least) & (ww > least) & (gg < 1e30) & (ww < 1e30) & (share > _EASY)
        r = np.ones_like(c)
        if self.rescale:
            size = np.sqrt(gg)
            r[easy] = size[easy] / (size[easy] * np.sqrt(share[easy]) + self.eps)
        if not easy.all():
            rows = np.flatnonzero(~easy)
            self._hard([block.doubled(None if together else rows) for block in blocks], rows, r, c)
        return r, c

    def _hard(self, blocks: "Sequence[_Block]", rows: np.ndarray, r: np.ndarray, c: np.ndarray) -> None:
        """Take rows in double precision that have a part along the weights, or whose squares under- or overflow."""
        wg, ww, gg = np.sum([block.sums() for block in blocks], axis=0)
        c[rows] = np.where(ww > 0, wg / (np.where(ww > 0, ww, 1) + self.eps), 0)
        if not self.rescale:
            return
        size, share = np.sqrt(gg), 1 - wg * c[rows] / np.maximum(gg, 1e-300)
        left = size * np.sqrt(np.maximum(share, 0))
        if (share < _HARD).any():
            column = torch.from_numpy(c[rows])[:, None]
            left = np.sqrt(sum((b.g - column.to(b.g) * b.w).square().sum(1).cpu().numpy() for b in blocks))
        error = _ROUNDING * max(torch.finfo(block.dtype).eps for block in blocks)
        noise = left <= error * size
        r[rows] = np.where(noise, np.where(gg > 0, 0.0, 1.0), size / np.where(noise, 1, left + self.eps))

    def _together(self, params: Sequence[Tensor], found: list[Tensor], chosen: list[int], in_place: bool) -> None:
        if sum(params[i].numel() for i in chosen) < 2:
            return
        blocks = list(_blocks(params, found, chosen, "global"))
        r, c = self._factors(blocks, together=True)
        for block in blocks:
            block.write(found, r, c, in_place)

    def _over_processes(self, params: Sequence[Any], found: list[Tensor], chosen: list[int], in_place: bool) -> None:
        """Project where some parameters are spread over processes, whose parts of the sums are added."""
        scales: list[tuple[float, float]] = []
        if self.granularity != "row":
            table = sums([params[i] for i in chosen], [found[i] for i in chosen])
            shares = table[:, 3:]
            if self.granularity == "global":
                shares = shares.max().expand_as(shares)
                ratio = table[:, 3:] / shares
                powers = torch.cat([ratio, ratio**0, ratio**2], 1)
                table = (table[:, :3] * powers).nan_to_num(0.0).sum(0, keepdim=True).expand(len(chosen), 3)
            wg, ww, gg = table[:, :3].T
            c = torch.where(ww > 0, wg / (torch.where(ww > 0, ww, 1.0) + self.eps), 0.0)
            across = (1 - wg * c / torch.where(gg > 0, gg, 1.0)).clamp(min=0)
            noise = (_ROUNDING * max(torch.finfo(params[i].dtype).eps for i in chosen)) ** 2
            r = torch.where(across <= max(noise, 1e-14), 0.0, across.rsqrt()) if self.rescale else torch.ones_like(c)
            scales = list(zip((shares[:, 0] * c).tolist(), r.tolist(), strict=True))
        for number, i in enumerate(chosen):
            p, grad = params[i], found[i]
            w, g = local(p), local(grad, p)
            if self.granularity == "row":
                if is_sharded(p) and not whole_rows(p):
                    raise RuntimeError("granularity is 'row', and a parameter is sharded across its rows")
                (new,) = self._replace(foreach=False).apply([w], [g])
            else:
                dtype = _computing(w.dtype, g.dtype)
                c_i, r_i = scales[number]
                new = torch.add(g.to(dtype), w.to(dtype), alpha=-c_i).mul_(r_i).to(g.dtype)
            new = whole(new, p) if is_sharded(p) else new
            found[i] = grad.copy_(new) if in_place else new

    def _foreach(self, weights: list[Tensor], found: list[Tensor], numbers: list[int], in_place: bool) -> None:
        """Project on any device with operations on lists, without waiting for it."""
        dtype = _computing(weights[0].dtype, found[numbers[0]].dtype)
        rows = self.granularity == "row"
        w = [p.detach().reshape(len(p) if rows else 1, -1).to(dtype) for p in weights]
        g = [found[i].reshape(x.shape).to(dtype) for i, x in zip(numbers, w, strict=True)]
        # Gradients of 1e-25, as there are after memorising, have squares that single precision can't hold.
        tops = [x.abs().amax(1, keepdim=True) for x in g]
        tops = [torch.where(top > 0, top, 1.0) for top in tops]
        g = list(torch._foreach_div(g, tops))
        products, squares = torch._foreach_mul(w, g), torch._foreach_mul(w, w)
        c = [a.sum(1, keepdim=True) / (b.sum(1, keepdim=True) + self.eps)
             for a, b in zip(products, squares, strict=True)]  # fmt: skip
        out = torch._foreach_mul(w, torch._foreach_neg(c))
        torch._foreach_add_(out, g)
        if self.rescale:
            before = [x.norm(dim=1, keepdim=True) for x in g]
            after = [x.norm(dim=1, keepdim=True) for x in out]
            noise = _ROUNDING * torch.finfo(dtype).eps
            tops = [
                torch.where(a <= noise * b, 0.0, b / a) * top for a, b, top in zip(after, before, tops, strict=True)
            ]
        torch._foreach_mul_(out, tops)
        for i, x in zip(numbers, out, strict=True):
            if in_place:
                found[i].copy_(x.view(found[i].shape))
            else:
                found[i] = x.view(found[i].shape).to(found[i].dtype)


class _Block(NamedTuple):
    """Weights and gradients as rows, each of which is projected by itself or together with all others."""

    numbers: list[int]
    w: Tensor
    g: Tensor
    dtype: torch.dtype

    def sums(self) -> np.ndarray:
        """Return the dot products <w, g>, <w, w> and <g, g> of each row."""
        if len(self.w) == 1:
            w, g = self.w[0], self.g[0]
            return np.array([[torch.dot(w, g).item()], [torch.dot(w, w).item()], [torch.dot(g, g).item()]])
        pairs = ((self.w, self.g), (self.w, self.w), (self.g, self.g))
        return np.stack([torch.linalg.vecdot(a, b).double().cpu().numpy() for a, b in pairs])

    def doubled(self, rows: np.ndarray | None) -> "_Block":
        """Return some rows, or all of them as one, in double precision."""
        if rows is None:
            return self._replace(w=self.w.reshape(1, -1).double(), g=self.g.reshape(1, -1).double())
        chosen = torch.from_numpy(rows).to(self.w.device)
        return self._replace(w=self.w[chosen].double(), g=self.g[chosen].double())

    def write(self, found: list[Tensor], r: np.ndarray, c: np.ndarray, in_place: bool) -> None:
        alone = len(r) == 1
        if len(self.numbers) == 1 and (alone or len(self.w) > 1):
            (i,) = self.numbers
            target = found[i]
            same = in_place and self.g.dtype == target.dtype and target.is_contiguous()
            out = target.view(self.g.shape) if same else None
            if alone:
                new = torch.add(self.g, self.w, alpha=-float(c[0]), out=out).mul_(float(r[0]))
            else:
                new = torch.addcmul(self.g, self.w, self._column(c), value=-1, out=out).mul_(self._column(r))
            if not same:
                found[i] = _put(target, new.view(target.shape), in_place)
            return
        columns = (float(c[0]), float(r[0])) if alone else (self._column(c), self._column(r))
        new = self.g.sub_(self.w.mul_(columns[0])).mul_(columns[1])  # both were stacked, and are nobody else's
        parts = [row.view(found[i].shape) for i, row in zip(self.numbers, new.unbind(), strict=True)]
        if in_place:
            torch._foreach_copy_([found[i] for i in self.numbers], parts)
        else:
            for i, part in zip(self.numbers, parts, strict=True):
                found[i] = part.to(found[i].dtype)

    def _column(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.g)[:, None]


def _put(target: Tensor, new: Tensor, in_place: bool) -> Tensor:
    return target.copy_(new) if in_place else new.to(target.dtype)


def _computing(*dtypes: torch.dtype) -> torch.dtype:
    found = torch.float32
    for dtype in dtypes:
        found = torch.promote_types(found, dtype)
    return found


def _alike(chosen: Iterable[int], params: Sequence[Tensor], grads: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[torch.device, torch.dtype, torch.dtype], list[int]] = {}
    for i in chosen:
        groups.setdefault((params[i].device, params[i].dtype, grads[i].dtype), []).append(i)
    return list(groups.values())


def _blocks(
    params: Sequence[Tensor], grads: Sequence[Tensor], chosen: Iterable[int], granularity: Granularity
) -> Iterable[_Block]:
    """Yield blocks of rows: each large tensor by itself while it is in the cache, small ones of one size together."""
    small: dict[tuple[int, torch.device, torch.dtype, torch.dtype], list[int]] = {}
    for i in chosen:
        p, g = params[i].detach(), grads[i]
        if granularity != "row" and p.numel() < _SMALL:
            small.setdefault((p.numel(), p.device, p.dtype, g.dtype), []).append(i)
            continue
        rows, dtype = len(p) if granularity == "row" else 1, _computing(p.dtype, g.dtype)
        yield _Block([i], p.reshape(rows, -1).to(dtype), g.reshape(rows, -1).to(dtype), dtype)
    for (size, _, p_dtype, g_dtype), numbers in small.items():
        dtype, most = _computing(p_dtype, g_dtype), max(1, _TOGETHER // max(1, size))
        for part in (numbers[start : start + most] for start in range(0, len(numbers), most)):
            w = torch.stack([params[i].detach().reshape(-1) for i in part]).to(dtype)
            yield _Block(part, w, torch.stack([grads[i].reshape(-1) for i in part]).to(dtype), dtype)
