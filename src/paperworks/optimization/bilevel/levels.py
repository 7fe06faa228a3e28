"""The two levels of a problem as functions of lists of tensors, with counted first-order gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Tensors = list[Tensor]
Objective = Callable[..., Tensor]
"""An objective `(x, y)` or, where samples are drawn, `(x, y, batch)`, that returns a number."""

Batch = tuple[Any, ...]  # none, or one
Projection = Callable[[Any], Any]
"""A projection on a closed convex set, of a point in the structure that the caller gave."""


class Point:
    """A tensor, a nest of tensors or a module's parameters, taken apart into a list and put together again."""

    def __init__(self, name: str, start: Any) -> None:
        tree = dict(start.named_parameters()) if isinstance(start, torch.nn.Module) else start
        leaves, self.spec = pytree.tree_flatten(tree)
        if not leaves:
            raise ValueError(f"{name} is empty; it takes one or more tensors")
        for leaf in leaves:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                got = str(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__
                raise TypeError(f"{name} has {got}; it takes tensors of floating-point numbers")
            if not bool(leaf.isfinite().all()):
                raise ValueError(f"{name} has entries that are not finite; it takes finite ones")
        self.name = name
        self.start: Tensors = [leaf.detach().clone() for leaf in leaves]

    def together(self, parts: Tensors) -> Any:
        """Return a point in the caller's structure."""
        return pytree.tree_unflatten(parts, self.spec)

    def within(self, projection: Projection | None) -> Callable[[Tensors], Tensors]:
        """Return the projection as a function of lists; raise ValueError where the start is not in its set."""
        if projection is None:
            return lambda parts: parts
        if not callable(projection):
            raise TypeError(f"project_{self.name[0]} is {projection!r}; it takes a function of a point")

        def project(parts: Tensors) -> Tensors:
            with torch.no_grad():
                return pytree.tree_flatten(projection(self.together(parts)))[0]

        off, scale = norm(subtract(project(self.start), self.start)), 1 + norm(self.start)
        if off > 1e3 * torch.finfo(self.start[0].dtype).eps * scale:
            raise ValueError(f"{self.name} is {off:.3g} away from its set; it takes a point of the set")
        return project


class Levels:
    """Upper objective f and lower objective g, and how many gradients of each were taken."""

    def __init__(self, f: Objective, g: Objective, x: Point, y: Point) -> None:
        for name, objective in (("f", f), ("g", g)):
            if not callable(objective):
                raise TypeError(f"{name} is {type(objective).__name__}; it takes a function of x and y")
        self.f, self.g, self.x, self.y = f, g, x, y
        self.n_grad_f = self.n_grad_g = 0

    def value(self, name: str, x: Tensors, y: Tensors, batch: Batch = ()) -> Tensor:
        """Return f or g, a number."""
        found = getattr(self, name)(self.x.together(x), self.y.together(y), *batch)
        if not isinstance(found, Tensor) or found.numel() != 1:
            got = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"{name} returned {got}; it takes a tensor of one number")
        return found.reshape(())

    @torch.enable_grad()
    def lower(
        self, x: Tensors, y: Tensors, z: Tensors, upper: Batch = (), lower: Batch = (), count: int = 1
    ) -> tuple[Tensors, Tensors, Tensors]:  # fmt: skip
        """Return the gradients by y of f and g at (x, y), and of g at (x, z)."""
        x, y, z = detached(x), leaves(y), leaves(z)
        of_f = by("f", self.value("f", x, y, upper), y)
        both = by("g", self.value("g", x, y, lower) + self.value("g", x, z, lower), y + z)
        self.n_grad_f += count
        self.n_grad_g += 2 * count
        return of_f, both[: len(y)], both[len(y) :]

    @torch.enable_grad()
    def upper(
        self, x: Tensors, y: Tensors, z: Tensors, upper: Batch = (), lower: Batch = (), count: int = 1
    ) -> tuple[Tensors, Tensors, float, float]:  # fmt: skip
        """Return the gradients by x of f at (x, y) and of g(x, y) - g(x, z), and these two values."""
        x, y, z = leaves(x), detached(y), detached(z)
        value = self.value("f", x, y, upper)
        gap = self.value("g", x, y, lower) - self.value("g", x, z, lower)
        self.n_grad_f += count
        self.n_grad_g += 2 * count
        return by("", value, x), by("", gap, x), float(value.detach()), float(gap.detach())

    @torch.enable_grad()
    def slope(self, name: str, x: Tensors, y: Tensors, batch: Batch = ()) -> Tensors:
        """Return the gradient by y of f or g alone."""
        y = leaves(y)
        return by(name, self.value(name, detached(x), y, batch), y)


def by(name: str, value: Tensor, wrt: Tensors, keep: bool = False) -> Tensors:
    """Return the gradient of a value, to be differentiated again with `keep`; named objectives have to have one."""
    missing = RuntimeError(f"{name} is not differentiable in y; it takes a function that torch differentiates")
    if not value.requires_grad:
        if name:
            raise missing
        return [torch.zeros_like(t) for t in wrt]
    found = torch.autograd.grad(value, wrt, allow_unused=True, create_graph=keep, retain_graph=keep)
    if name and all(g is None for g in found):
        raise missing
    return filled(found, wrt)


def filled(gradients: Sequence[Tensor | None], like: Tensors) -> Tensors:
    """Return gradients with zeros for those that are missing."""
    return [torch.zeros_like(t) if d is None else d for d, t in zip(gradients, like, strict=True)]


def detached(parts: Tensors) -> Tensors:
    return [t.detach() for t in parts]


def leaves(parts: Tensors) -> Tensors:
    return [t.detach().requires_grad_() for t in parts]


def moved(parts: Tensors, directions: Tensors, step: Any) -> Tensors:
    """Return `parts - step * directions`; a step may be a tensor that spreads to each part."""
    return [p - step * d for p, d in zip(parts, directions, strict=True)]


def mixed(a: Any, first: Tensors, second: Tensors) -> Tensors:
    """Return `a * first + second`."""
    return [a * p + q for p, q in zip(first, second, strict=True)]


def subtract(first: Tensors, second: Tensors) -> Tensors:
    return [p - q for p, q in zip(first, second, strict=True)]


def dot(first: Tensors, second: Tensors) -> float:
    return float(sum((p * q).sum() for p, q in zip(first, second, strict=True)))


def norm(parts: Tensors) -> float:
    """Return the Euclidean norm of all entries together."""
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in parts])))


def smoothness(gradient: Callable[[Tensors], Tensors], at: Tensors, steps: int = 20) -> float:
    """Estimate the Lipschitz constant of a gradient near a point by power iteration on its differences.

    The method is of first order, and so is this: a product with the Hessian is a difference of two gradients.
    """
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in at]
    base, found = gradient(at), 0.0
    by_how_much = torch.finfo(at[0].dtype).eps ** (1 / 3) * (1 + norm(at))
    for _ in range(steps):
        length = norm(direction)
        if length == 0:
            return found
        h = by_how_much / length
        shifted = gradient([p + h * d for p, d in zip(at, direction, strict=True)])
        direction = [d / by_how_much for d in subtract(shifted, base)]
        found = norm(direction)
    return found


class RecursiveMomentum:
    """A gradient estimate corrected by what the same samples give at the point before (STORM)."""

    def __init__(self) -> None:
        self.estimate: Tensors | None = None

    def update(self, new: Tensors, eta: float, before: Tensors | None) -> Tensors:
        """Return `new + (1 - eta) * (estimate - before)`, or `new` alone where there is no point before."""
        if self.estimate is not None and before is not None:
            new = mixed(1 - eta, subtract(self.estimate, before), new)
        self.estimate = new
        return new
