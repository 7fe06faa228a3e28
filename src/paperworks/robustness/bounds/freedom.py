"""What relaxations leave open, as parameters that an optimisation moves."""

from collections.abc import Callable

import torch
from torch import Tensor

from paperworks.robustness.bounds.graph import Node

Key = tuple[Node | None, int, Node]


class Freedom:
    """Parameters of relaxations, one for each start, row, side and neuron, made when a backward pass first asks.

    Parameters
    ----------
    shared
        Whether the rows of a pass share theirs.
    """

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.parameters: dict[Key, list[Tensor]] = {}
        self.paces: dict[Key, float] = {}

    def of(
        self,
        place: tuple[Node | None, int],
        node: Node,
        rows: Tensor,
        initial: Callable[[], list[Tensor]],
        pace: float = 1.0,
    ) -> list[Tensor]:
        """Return the parameters of a node in a part of a pass, rows in front; the first are `initial`'s.

        `place` is where the pass began and the part of its rows; `pace` is the share of the learning rate they move by.
        """
        key = (*place, node)
        if key not in self.parameters:
            count = 1 if self.shared else len(rows)
            with torch.no_grad():
                made = [t.expand(count, *t.shape).contiguous() for t in initial()]
            self.paces[key] = pace
            self.parameters[key] = [t.detach().clone().requires_grad_() for t in made]
        return self.parameters[key]

    def leaves(self) -> list[tuple[Tensor, float]]:
        """Return all parameters made so far, and their paces."""
        return [(t, self.paces[key]) for key, made in self.parameters.items() for t in made]
