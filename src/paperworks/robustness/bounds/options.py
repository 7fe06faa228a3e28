"""What a user may choose about relaxations and cost."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from paperworks.core.validation import check_choice, check_number

ReLU = Literal["adaptive", "same-slope", "zero-lb", "one-lb", "reversed-adaptive"]
Softmax = Literal["composition", "lse"]
Fusion = Literal["auto", "merged", "separate"]


@dataclass(frozen=True)
class Options:
    """Options of `BoundedModule`, each by its name in `bound_opts`.

    Attributes
    ----------
    relu
        Lower line of an undecided ReLU: slope 1 or 0 by the smaller area (adaptive, default), that of the upper line,
        0, 1, or the other of adaptive.
    softmax
        Bound a softmax as exp, sum, reciprocal and product (default), or by the log-sum-exp pair.
    product
        Which mix of the two McCormick planes bounds a product from each side, in [0, 1]; 1 by default, ½ the middle.
    intersect
        Keep the better of intervals and linear bounds for every value (default). Without it, bounds are those of the
        linear functions that `return_A` returns.
    fusion
        Intervals of the differences of logits in a fused loss: from the rows' differences of the last layer (merged),
        from the logits' own intervals (separate), or the first up to 64 classes (auto, default).
    memory
        Bytes that the coefficients of one backward pass may take; larger ones are done in parts. 512 MB by default.
    steps, lr, decay, optimize_intermediate, share_alpha
        Of α-CROWN: Adam's steps (20), its rate (0.5) and decay a step (0.98), whether intermediate bounds are optimised
        too (yes), and whether rows share their parameters (no).
    """

    relu: ReLU = "adaptive"
    softmax: Softmax = "composition"
    product: float = 1.0
    intersect: bool = True
    fusion: Fusion = "auto"
    memory: float = 512e6
    steps: int = 20
    lr: float = 0.5
    decay: float = 0.98
    optimize_intermediate: bool = True
    share_alpha: bool = False

    @classmethod
    def of(cls, chosen: "Mapping[str, Any] | None") -> "Options":
        """Return options from what a user gave, checked."""
        chosen = dict(chosen or {})
        for name in chosen:
            check_choice("bound_opts", name, [f.name for f in fields(cls)])
        options = cls(**chosen)
        check_choice("relu", options.relu, get_args(ReLU))
        check_choice("softmax", options.softmax, get_args(Softmax))
        check_choice("fusion", options.fusion, get_args(Fusion))
        check_number("product", options.product, ge=0, le=1)
        check_number("memory", options.memory, gt=0)
        check_number("steps", options.steps, ge=0)
        check_number("lr", options.lr, gt=0)
        check_number("decay", options.decay, gt=0, le=1)
        return options
