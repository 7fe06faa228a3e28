"""What is known of a part of a set, besides its box, where neurons have been split by their sign."""

from dataclasses import dataclass, field

from torch import Tensor

from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.values import Interval


@dataclass(eq=False)
class Splits:
    r"""Ends and constraints that hold on each part of a set, a part to each sample of the batch.

    Attributes
    ----------
    ends
        Intermediate bounds that are known to hold on a part, (parts, \*shape).
    multipliers
        Coefficients (rows or 1, parts, \*shape) of nodes that feed ReLUs, whose products with the node's value are no
        less than 0 on the part: Lagrange multipliers of its constraints, with their signs.
    arrived
        Coefficients that the last backward pass from the output brought to each ReLU: what a split would be worth.

    References
    ----------
    Wang et al. (2021), Beta-CROWN, arXiv 2103.06624.
    """

    ends: dict[Node, Interval] = field(default_factory=dict)
    multipliers: dict[Node, Tensor] = field(default_factory=dict)
    arrived: dict[Node, Tensor] = field(default_factory=dict)
