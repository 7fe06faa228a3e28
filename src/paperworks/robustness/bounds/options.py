"""What a user may choose about relaxations and cost."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from paperworks.core.validation import check_choice, check_number

ReLU = Literal["adaptive", "same-slope", "zero-lb", "one-lb", "reversed-adaptive"]
Softmax = Literal["lse", "composition"]
Fusion = Literal["auto", "merged", "separate"]


@dataclass(frozen=True)
class Options:
    """Options of `BoundedModule`, each by its name in `bound_opts`.

    Attributes
    ----------
    relu
        Lower line of an undecided ReLU: slope 1 or 0 by the smaller area (adaptive, default), that of the upper line,
        0, 1, or the other of adaptive.
    sound
        Give way by what rounding may have done, so that bounds hold for the function itself and for what the module
        computes in its own type. By default in float32 and below; True in float64 as well, False nowhere.
    softmax
        Bound a softmax by the log-sum-exp pair (lse, default), or as exp, sum, reciprocal and product.
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
    steps, lr, decay, share_alpha
        Adam's steps for α-CROWN (20), its rate (0.5) and decay a step (0.98), and whether rows share their parameters
        (no).
    optimize_intermediate, optimize_decided
        Whether α-CROWN optimises intermediate bounds too (by default where all steps together carry fewer than 2e9
        coefficients back), and those of neurons that CROWN's bounds decide (no): the costly mode.
    seconds
        After how many α-CROWN takes no further step; 30 by default.
    stop_when_decided
        Whether α-CROWN ends once the sign of every row of a specification is known (yes).
    progress
        What wraps the range of α-CROWN's steps, such as tqdm; nothing by default.

    Examples
    --------
    >>> Options.of({"steps": 5}).steps
    5
    """

    relu: ReLU = "adaptive"
    sound: bool | None = None
    softmax: Softmax = "lse"
    product: float = 1.0
    intersect: bool = True
    fusion: Fusion = "auto"
    memory: float = 512e6
    steps: int = 20
    lr: float = 0.5
    decay: float = 0.98
    share_alpha: bool = False
    optimize_intermediate: bool | None = None
    optimize_decided: bool = False
    seconds: float = 30.0
    stop_when_decided: bool = True
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None

    @classmethod
    def of(cls, chosen: "Mapping[str, Any] | None") -> "Options":
        """Return options from what a user gave, checked.

        Parameters
        ----------
        chosen
            Values of some of the options by their names.

        Returns
        -------
        Options
            These, and the defaults of the others.

        Raises
        ------
        ValueError
            For an unknown name or choice, or a number out of range.
        """
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
        if not options.seconds >= 0:  # infinity is as good
            raise ValueError(f"seconds is {options.seconds!r}; it takes a number >= 0")
        if options.progress is not None and not callable(options.progress):
            raise TypeError(f"progress is {options.progress!r}; it takes a function that wraps a range, or None")
        return options
