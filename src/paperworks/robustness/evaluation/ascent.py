"""Steps that raise a loss: along its gradient, or by trial where the model is a black box."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Latents = Float[Tensor, " rows *latent"]
Index = Int64[Tensor, " rows"]
Objective = Callable[[Tensor, Tensor], Tensor]
"""From latents and the numbers of their images to a loss for each."""

Rule = Literal["gradient", "sign", "adam", "random", "evolution"]


class Ascent(ABC):
    """Proposes the next latents of images of one set; some rules remember what they did for each image.

    Parameters
    ----------
    size
        Length of a step of each image, or of all; the rate of Adam.
    like
        Latents of the whole set, for their shape and type.
    allowed
        Ones where latents may move, of the shape of those of one image; everywhere by default.
    seeds
        For each image that of whatever is drawn for it, so that this doesn't depend on which others are under way.
    """

    def __init__(self, size: float | Tensor, like: Tensor, allowed: Tensor | None, seeds: Sequence[int]) -> None:
        ones = [1] * (like.ndim - 1)
        self.size = torch.as_tensor(size, dtype=like.dtype, device=like.device).expand(len(like)).view(-1, *ones)
        self.seeds, self.draws = list(seeds), [0] * len(like)
        self.allowed = torch.ones_like(like[0]) if allowed is None else allowed.to(like)
        self._generator = torch.Generator()

    @abstractmethod
    def propose(self, latents: Latents, index: Index, objective: Objective) -> tuple[Latents, Float[Tensor, " rows"]]:
        """Return new latents, and the loss of the old ones."""

    def _gradient(self, latents: Tensor, index: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = latents.detach().requires_grad_()
            losses = objective(leaf, index)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return gradient * self.allowed, losses.detach()

    def _drawn(self, latents: Tensor, index: Tensor) -> Tensor:
        noise = torch.empty(latents.shape, dtype=latents.dtype)
        for row, image in zip(noise, index.tolist(), strict=True):
            self._generator.manual_seed((self.seeds[image] + self.draws[image]) % 2**63)
            self.draws[image] += 1
            row.normal_(generator=self._generator)
        return noise.to(latents.device) * self.allowed


class GradientAscent(Ascent):
    """A step of given length along the gradient."""

    def propose(self, latents: Latents, index: Index, objective: Objective) -> tuple[Latents, Float[Tensor, " rows"]]:
        """Return ``z + size g / |g|``."""
        gradient, losses = self._gradient(latents, index, objective)
        return latents + self.size[index] * unit(gradient), losses


class SignAscent(Ascent):
    """A step of given length that is equally large in every latent."""

    def propose(self, latents: Latents, index: Index, objective: Objective) -> tuple[Latents, Float[Tensor, " rows"]]:
        """Return ``z + size sign(g) / |sign(g)|``."""
        gradient, losses = self._gradient(latents, index, objective)
        return latents + self.size[index] * unit(gradient.sign()), losses


class AdamAscent(Ascent):
    """Adam on each image's latents, with the size of a step as its rate (arXiv 1412.6980)."""

    def __init__(self, size: float | Tensor, like: Tensor, allowed: Tensor | None, seeds: Sequence[int]) -> None:
        super().__init__(size, like, allowed, seeds)
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)
        self.count = torch.zeros(len(like), *[1] * (like.ndim - 1), dtype=like.dtype, device=like.device)

    def propose(self, latents: Latents, index: Index, objective: Objective) -> tuple[Latents, Float[Tensor, " rows"]]:
        """Return ``z + size m / (sqrt(v) + 1e-8)``, with both moments freed from their start at zero."""
        gradient, losses = self._gradient(latents, index, objective)
        self.count[index] += 1
        self.mean[index] = torch.lerp(gradient, self.mean[index], 0.9)
        self.square[index] = torch.lerp(gradient.square(), self.square[index], 0.999)
        count = self.count[index]
        mean, square = self.mean[index] / (1 - 0.9**count), self.square[index] / (1 - 0.999**count)
        return latents + self.size[index] * mean / (square.sqrt() + 1e-8), losses


class RandomAscent(Ascent):
    """A step of given length in a random direction, or none if it doesn't raise the loss."""

    def propose(self, latents: Latents, index: Index, objective: Objective) -> tuple[Latents, Float[Tensor, " rows"]]:
        """Return ``z + size u / |u|`` or z, of which the loss is higher."""
        return self._if_better(
            latents, latents + self.size[index] * unit(self._drawn(latents, index)), index, objective
        )

    def _if_better(self, latents: Tensor, trial: Tensor, index: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            before, after = objective(torch.cat([latents, trial]), torch.cat([index, index])).chunk(2)
        better = (after > before).view(-1, *[1] * (latents.ndim - 1))
        return torch.where(better, trial, latents), before


class EvolutionAscent(RandomAscent):
    """A step along a gradient estimated from losses at antithetic random points (arXiv 1703.03864)."""

    pairs = 8

    def propose(self, latents: Latents, index: Index, objective: Objective) -> tuple[Latents, Float[Tensor, " rows"]]:
        """Return ``z + size g / |g|`` with ``g = sum_k (loss(z + s u_k) - loss(z - s u_k)) u_k``, or z if no better."""
        rows = len(latents)
        size = self.size[index]
        drawn = torch.stack([unit(self._drawn(latents, index)) for _ in range(self.pairs)])
        points = torch.cat([latents + size * drawn, latents - size * drawn]).flatten(0, 1)
        with torch.no_grad():
            losses = objective(points, index.repeat(2 * self.pairs)).view(2, self.pairs, rows)
        slopes = (losses[0] - losses[1]).view(self.pairs, rows, *[1] * (latents.ndim - 1))
        return self._if_better(latents, latents + size * unit((slopes * drawn).sum(0)), index, objective)


RULES: dict[Rule, type[Ascent]] = {
    "gradient": GradientAscent,
    "sign": SignAscent,
    "adam": AdamAscent,
    "random": RandomAscent,
    "evolution": EvolutionAscent,
}


def unit(vectors: Latents) -> Latents:
    """Return vectors divided by their lengths, zeros for zeros and for what isn't finite."""
    scale = vectors.flatten(1).abs().amax(1)  # so that squares of tiny gradients don't vanish
    good = (scale > 0) & scale.isfinite()
    rows = torch.where(good[:, None], vectors.flatten(1) / torch.where(good, scale, 1)[:, None], 0)
    return (rows / rows.norm(dim=1, keepdim=True).clamp_min(math.sqrt(0.5))).view_as(vectors)
