"""The observations an attacker may show: near the true one, in range, and equal to it where they can't be changed."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Region:
    """A ball around each observation, cut with a box and with where features are fixed.

    Parameters
    ----------
    center
        The true observations.
    eps
        Radius of each ball.
    norm
        1, 2 or infinity.
    allowed
        Ones where features may change.
    low, high
        The box, which holds the centres.

    Examples
    --------
    >>> center = torch.tensor([[0.5, 0.1]])
    >>> ones = torch.ones_like(center)
    >>> region = Region(center, torch.tensor([[0.2]]), math.inf, ones[0], 0 * ones, ones)
    >>> region.project(center + torch.tensor([[1.0, -1.0]]))
    tensor([[0.7000, 0.0000]])
    """

    center: Float[Tensor, "batch features"]
    eps: Float[Tensor, "batch 1"]
    norm: float
    allowed: Float[Tensor, " features"]
    low: Float[Tensor, "batch features"]
    high: Float[Tensor, "batch features"]

    def __getitem__(self, rows: Tensor) -> "Region":
        """Return the regions of some observations."""
        parts = {name: getattr(self, name)[rows] for name in ("center", "eps", "low", "high")}
        return replace(self, **parts)

    def project(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """Return the nearest points of the regions, the ball and the box at once."""
        moved = (x - self.center) * self.allowed
        # Clamped again, as the center and the move to the box's end may add up to beyond it in the last digit.
        return torch.clamp(self.center + self._onto_ball(moved), self.low, self.high)

    def steepest(
        self, gradient: Float[Tensor, "batch features"], x: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch features"]:
        """Return the step of length 1 that raises a linear function most; zeros for a gradient of zeros.

        With norm 1 it changes one feature, the best of those that have room.
        """
        gradient = gradient * self.allowed
        if self.norm == math.inf:
            return gradient.sign()
        if self.norm == 2:
            return gradient / gradient.norm(dim=1, keepdim=True).clamp_min(least(gradient))
        gradient = self.uphill(gradient, x)
        best = gradient.abs().argmax(1, keepdim=True)
        return torch.zeros_like(gradient).scatter(1, best, gradient.gather(1, best).sign())

    def uphill(
        self, gradient: Float[Tensor, "batch features"], x: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch features"]:
        """Return the part of a gradient that leads on within the box: zero where a feature is at its end."""
        return gradient * torch.where(gradient > 0, x < self.high, x > self.low)

    def random(self, generator: torch.Generator) -> Float[Tensor, "batch features"]:
        """Return random points of the regions."""
        like = self.center
        noise = 2 * torch.rand(like.shape, generator=generator, dtype=like.dtype).to(like.device) - 1
        if self.norm != math.inf:
            share = torch.rand(len(like), 1, generator=generator, dtype=like.dtype).to(like.device)
            noise = share * noise / lengths(noise * self.allowed, self.norm)[:, None].clamp_min(least(noise))
        # Where the ball is without an end, the box is what there is.
        return self.project(self.center + noise * self.eps.clamp_max(min(1e6, torch.finfo(like.dtype).max / 4)))

    def size(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
        """Return how far points are from the centres."""
        return lengths(x - self.center, self.norm)

    def _onto_ball(self, moved: Tensor) -> Tensor:
        if self.norm == math.inf:
            return torch.clamp(moved, -self.eps, self.eps)
        room = torch.where(moved > 0, self.high - self.center, self.center - self.low)
        # Half precision has no squares of small moves, nor of large balls.
        dtype = torch.promote_types(moved.dtype, torch.float32)
        sizes, room, eps = moved.abs().to(dtype), room.to(dtype), self.eps.to(dtype).clamp_max(1e30)
        within = torch.minimum(sizes, room)
        far = lengths(within, self.norm)[:, None] > eps
        if not bool(far.any()):
            return moved.sign() * within.to(moved)
        # What shrinks a move into the ball is not the same once the box holds some features back.
        cut = torch.minimum((_shrunk if self.norm == 2 else _lessened)(sizes, room, eps), room)
        return moved.sign() * torch.where(far, cut, within).to(moved)


def lengths(vectors: Float[Tensor, "batch features"], norm: float) -> Float[Tensor, " batch"]:
    """Return norms of vectors."""
    return torch.linalg.vector_norm(vectors, ord=norm, dim=1)


def least(like: Tensor) -> float:
    """Return a number below all lengths that matter, which the type of a tensor has."""
    return max(1e-30, torch.finfo(like.dtype).tiny)


def _shrunk(sizes: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Scale sizes so that, cut off at their room, their 2-norm is `eps`: the projection onto ball and box.

    Features reach the ends of their room in the order of room / size; before the k-th does, the square of the norm is
    the room of those before, squared, and the scale times the rest, squared.
    """
    ends = torch.where(sizes > 0, room / sizes.clamp_min(torch.finfo(sizes.dtype).tiny), torch.inf)
    ends, order = ends.sort(dim=1)
    held = room.gather(1, order).square().nan_to_num(0).cumsum(1) - room.gather(1, order).square().nan_to_num(0)
    free = sizes.gather(1, order).square().flip(1).cumsum(1).flip(1)
    scale = ((eps.square() - held).clamp_min(0) / free.clamp_min(torch.finfo(sizes.dtype).tiny)).sqrt()
    return sizes * scale.gather(1, (scale > ends).sum(1, keepdim=True).clamp_max(sizes.shape[1] - 1))


def _lessened(sizes: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Take the same from all sizes so that, cut off at their room, their sum is `eps`: the projection onto both.

    The sum is made of a hinge down from each size, and one up from each size less its room, so it is linear between
    those points (after Duchi and others, 2008, who have no box).
    """
    points = torch.cat([sizes, (sizes - room).clamp_min(0)], dim=1)
    slopes = torch.cat([torch.ones_like(sizes), -torch.ones_like(sizes)], dim=1)
    points, order = points.sort(dim=1, descending=True)
    slopes = slopes.gather(1, order)
    slope, height = slopes.cumsum(1), (slopes * points).cumsum(1)
    last = (height - slope * points < eps).sum(1, keepdim=True).clamp_min(1) - 1  # the last point with too small a sum
    taken = (height - eps).gather(1, last) / slope.gather(1, last).clamp_min(1)
    return (sizes - taken.clamp_min(0)).clamp_min(0)


def inside(x: Tensor, low: Tensor, high: Tensor) -> Bool[Tensor, ""]:
    """Say whether all points are in a box."""
    return ((x >= low) & (x <= high)).all()
