"""Search for inputs of a box whose outputs are unsafe."""

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


class Witness:
    r"""The inputs tried so far: the one of the least margin, and whether it is unsafe.

    Parameters
    ----------
    model
        The network, in double precision, of inputs (batch, \*shape).
    property
        What is to be violated.
    shape
        Of one input.
    """

    def __init__(self, model: nn.Module, property: Property, shape: tuple[int, ...]) -> None:
        self.model, self.property, self.shape = model, property, shape
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
        """Try inputs, moved into the box; return whether a counterexample is known."""
        x = torch.minimum(torch.maximum(x.detach().double(), self.lower), self.upper)
        margins = self.property.margin(self.model(x)).nan_to_num(nan=float("inf"))
        best = x[margins.argmin()][None]
        output = self.model(best)  # alone: a batch may round otherwise
        margin = float(self.property.margin(output))
        if margin < self.margin:
            self.margin, self.x, self.output = margin, best[0], output[0]
        return self.found

    def attack(
        self, kind: Callable[..., Attack], polytopes: Tensor, steps: int, restarts: int, random_state: int
    ) -> bool:
        """Attack from the middle of the box and from random places, towards each of some polytopes."""
        middle, radius = self.lower / 2 + self.upper / 2, self.upper / 2 - self.lower / 2
        loss = MarginLoss(self.property)

        def at(t: Tensor) -> Tensor:  # every feature in units of its own range
            return middle + radius * t.reshape(len(t), *self.shape)

        search = kind(loss, eps=1.0, steps=steps, restarts=restarts, bounds=(-1.0, 1.0), random_state=random_state)
        origin = torch.zeros(len(polytopes), middle.numel(), dtype=torch.float64)
        result = search(lambda t: self.model(at(t)), origin, polytopes)
        return self.consider(at(result.adv))
