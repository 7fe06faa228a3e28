"""Search for inputs of a box whose outputs are unsafe."""

import contextlib
import copy
import math
import time
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from paperworks.robustness.attacks.attack import Attack
from paperworks.robustness.attacks.losses import AttackLoss
from paperworks.robustness.verification.properties import Property


class MarginLoss(AttackLoss):
    """The depth of outputs in a polytope: positive where they are unsafe.

    Parameters
    ----------
    property
        The property; references are numbers of its polytopes.
    """

    def __init__(self, property: Property) -> None:
        super().__init__()
        self.property = property

    def reference(self, outputs: Float[Tensor, " batch *outputs"]) -> Int64[Tensor, " batch"]:
        """Return the number of the nearest polytope.

        Parameters
        ----------
        outputs
            Outputs of the network.

        Returns
        -------
        Tensor of shape (batch,)
            The number of the polytope of the least margin.
        """
        return self.property.margins(outputs).argmin(1)

    def __call__(self, outputs: Float[Tensor, " batch *outputs"], reference: Tensor) -> Float[Tensor, " batch"]:
        """Return the negative margins."""
        return -self.property.margins(outputs).gather(1, reference[:, None])[:, 0]

    def success(self, outputs: Float[Tensor, " batch *outputs"], reference: Tensor) -> Bool[Tensor, " batch"]:
        """Say which outputs lie in their polytope.

        Parameters
        ----------
        outputs
            Outputs of the network.
        reference
            Numbers of polytopes.

        Returns
        -------
        Tensor of shape (batch,)
            True for each output that is unsafe.
        """
        return self(outputs, reference) >= 0


class Networks:
    r"""A network in double precision, and as it is: the answer is about the first, and people run the second.

    Parameters
    ----------
    model
        The network.
    x
        An input, of shape (1, \*shape), in double precision.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.exact, self.own = (copy.deepcopy(model).cpu().eval().requires_grad_(False) for _ in range(2))
        self.exact.double()
        tensors = (*self.own.parameters(), *self.own.buffers())
        self.dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
        try:
            with torch.no_grad():
                self.own(x.to(self.dtype))
        except RuntimeError:  # of several types
            self.own, self.dtype = self.exact, torch.float64


class Witness:
    r"""The inputs tried so far: the one of the least margin, and whether it is unsafe.

    Parameters
    ----------
    networks
        The network, of inputs (batch, \*shape).
    property
        What is to be violated.
    shape
        Of one input.
    """

    def __init__(self, networks: Networks, property: Property, shape: tuple[int, ...]) -> None:
        self.networks, self.property, self.shape = networks, property, shape
        self.lower, self.upper = property.lower.reshape(shape), property.upper.reshape(shape)
        self.margin = float("inf")
        self.x: Tensor | None = None
        self.output: Tensor | None = None

    @property
    def found(self) -> bool:
        """Whether a counterexample has been found."""
        return self.margin <= 0

    @torch.no_grad()
    def consider(self, x: Tensor) -> bool:
        """Try inputs, moved into the box; return whether a counterexample is known.

        One of the network's own type, that is unsafe in it too, is preferred.
        """
        x = torch.minimum(torch.maximum(x.detach().double(), self.lower), self.upper)
        margins = self._margins(self.networks.exact, x)
        if bool((margins <= 0).any()):
            own = self._representable(x)
            both = torch.maximum(
                self._margins(self.networks.exact, own),
                self._margins(self.networks.own, own.to(self.networks.dtype)),
            )
            if bool((both <= 0).any()):
                x, margins = own, both
        best = x[margins.argmin()][None]
        output = self.networks.exact(best)  # alone: a batch may round otherwise
        margin = float(self.property.margin(output))
        if margin < self.margin:
            self.margin, self.x, self.output = margin, best[0], output[0]
        return self.found

    def _margins(self, network: nn.Module, x: Tensor) -> Tensor:
        return self.property.margin(network(x)).nan_to_num(nan=math.inf)

    def _representable(self, x: Tensor) -> Tensor:
        """Return the nearest points of the box that the network's own type has, where there are any."""
        own = x.to(self.networks.dtype)
        own = torch.where(own.double() < self.lower, own.nextafter(torch.full_like(own, math.inf)), own)
        own = torch.where(own.double() > self.upper, own.nextafter(torch.full_like(own, -math.inf)), own)
        inside = (own.double() >= self.lower) & (own.double() <= self.upper)
        return torch.where(inside, own.double(), x)

    def attack(
        self,
        kind: Callable[..., Attack],
        polytopes: Tensor,
        steps: int,
        restarts: int,
        random_state: int,
        until: float = math.inf,
    ) -> bool:
        """Attack from the middle of the box and from random places, towards each of some polytopes."""
        middle, radius = self.lower / 2 + self.upper / 2, self.upper / 2 - self.lower / 2
        loss = MarginLoss(self.property)
        last = middle[None]

        def at(t: Tensor) -> Tensor:  # every feature in units of its own range
            return middle + radius * t.reshape(len(t), *self.shape)

        def outputs(t: Tensor) -> Tensor:
            nonlocal last
            last = at(t)
            if time.monotonic() > until:
                raise TimeoutError
            found: Tensor = self.networks.exact(last)
            return found

        search = kind(loss, eps=1.0, steps=steps, restarts=restarts, bounds=(-1.0, 1.0), random_state=random_state)
        origin = torch.zeros(len(polytopes), middle.numel(), dtype=torch.float64)
        with contextlib.suppress(TimeoutError):
            last = at(search(outputs, origin, polytopes).adv)
        return self.consider(last)
