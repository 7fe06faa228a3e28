"""Deciding properties: bounds, attacks, optimised bounds, and then branch and bound."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.robustness.attacks.attack import Attack
from paperworks.robustness.attacks.auto_step import APGD
from paperworks.robustness.bounds.module import BoundedModule
from paperworks.robustness.bounds.parts import PartBounds, Parts
from paperworks.robustness.verification.counterexamples import Networks, Witness
from paperworks.robustness.verification.properties import Property, robustness_property
from paperworks.robustness.verification.search import Search, Split

Answer = Literal["holds", "violated", "unknown"]
Method = Literal["auto", "CROWN", "alpha-CROWN", "input-split", "relu-split"]
METHODS: tuple[Method, ...] = get_args(Method)
_FEW_INPUTS = 16  # up to as many, boxes are cut rather than neurons
_STEPS = 40  # of an attack
_TARGETS = 16  # polytopes that are attacked, those of the lowest bounds


@dataclass(frozen=True)
class Verdict:
    r"""What `verify` found.

    Parameters
    ----------
    answer
        ``"holds"``: proved for every input; ``"violated"``: a counterexample is given; ``"unknown"``: neither was found
        in the time.
    counterexample, output
        An input of the box and what the network makes of it in double precision; None unless violated.
    bounds
        Between which two numbers the least margin over all inputs lies (`Property.margin`): what is proved, and the
        least that was met. The first is positive where the property holds, the second is 0 or less where it is
        violated.
    branches
        How many parts branch and bound has bounded.
    seconds
        How long it took.
    stage
        What decided: ``"bounds"``, ``"attack"``, ``"alpha-CROWN"`` or ``"branch and bound"``; where nothing did, the
        last one tried.

    Examples
    --------
    >>> Verdict("holds", None, None, (0.1, 0.3), 0, 0.01, "bounds").answer
    'holds'
    """

    answer: Answer
    counterexample: Tensor | None
    output: Tensor | None
    bounds: tuple[float, float]
    branches: int
    seconds: float
    stage: str

    @property
    def decided(self) -> bool:
        """Whether the property holds or is violated."""
        return self.answer != "unknown"


def verify(
    model: nn.Module,
    property: Property | Sequence[Property],
    *,
    timeout: float = 60.0,
    method: Method = "auto",
    attack: type[Attack] | None = APGD,
    restarts: int = 10,
    input_shape: Sequence[int] | None = None,
    bounds: Callable[[BoundedModule], PartBounds] = PartBounds,
    random_state: int = 0,
) -> Verdict:
    r"""Decide whether no input of a box has an unsafe output.

    The stages, each for what the ones before leave open: CROWN's bounds, an attack, alpha-CROWN's bounds, and branch
    and bound with what the attack left out. The network is taken as the function of real numbers that it stands for,
    and bounded in double precision, on the CPU, with all rounding outward; a counterexample lies in the box, and is
    unsafe when the network is run on it in double precision. It is of numbers of the model's own type, and unsafe in it
    too, unless it is only the last digits that decide.

    Parameters
    ----------
    model
        A network of one input (batch, \*shape) that `BoundedModule` takes, in evaluation mode.
    property
        One property, or several that all are to hold, such as `read_vnnlib` returns.
    timeout
        Seconds, after which the answer is *unknown*; several properties share what is left evenly, after what is quick
        has been tried for all.
    method
        How far to go: ``"CROWN"`` and ``"alpha-CROWN"`` end with these bounds; ``"input-split"`` cuts boxes,
        ``"relu-split"`` cuts by the signs of neurons, with a Lagrange multiplier for each cut (and the box where no
        neuron is left). ``"auto"`` cuts the box for up to 16 inputs, and wherever there is no ReLU.
    attack
        A class of attacks, such as `APGD` (default) or `PGD`; None for no attack.
    restarts
        Searches of the attack, from the middle of the box and from random points.
    input_shape
        Shape of one input; by default that of the model, if it has an attribute of this name, or of the property's box.
    bounds
        Makes, of the wrapped network, what bounds parts of the box; a class derived from `PartBounds` brings bounds of
        another library into the same search.
    random_state
        Seed of the attack's starts.

    Returns
    -------
    Verdict
        The answer, with the counterexample, bounds of the margin, and what they cost.

    Raises
    ------
    ValueError
        For a property that does not fit the model, or a model that can't be bounded.
    NotImplementedError
        For an operator without a rule.

    Examples
    --------
    >>> torch.manual_seed(0) and None
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> x = torch.tensor([0.5, 0.5])
    >>> label = int(model(x[None]).argmax())
    >>> verify(model, robustness_property(x, 0.01, label, 2)).answer
    'holds'
    >>> verdict = verify(model, robustness_property(x, 10.0, label, 2))
    >>> verdict.answer, int(model(verdict.counterexample[None].float()).argmax()) != label
    ('violated', True)

    References
    ----------
    Xu et al. (2020), arXiv 2002.12920 (bounds); Wang et al. (2021), arXiv 2103.06624 (split constraints); Bunel et al.
    (2020), arXiv 1909.06588 (branch and bound).
    """
    check_choice("method", method, METHODS)
    timeout = check_number("timeout", timeout, gt=0) if timeout != math.inf else timeout
    restarts = check_count("restarts", restarts)
    if attack is not None and not (isinstance(attack, type) and issubclass(attack, Attack)):
        raise TypeError(f"attack is {attack!r}; it takes a class of attacks, such as APGD, or None")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}; it takes a torch.nn.Module")
    properties = [property] if isinstance(property, Property) else list(property)
    if not properties or not all(isinstance(p, Property) for p in properties):
        raise TypeError("property takes a Property, or a sequence of one or more")
    began = time.monotonic()
    until = began + timeout
    shape = tuple(input_shape or getattr(model, "input_shape", None) or properties[0].lower.shape)
    networks, bounded = _prepared(model, properties, shape)
    parts = bounds(bounded)
    tasks = [Task(networks, parts, one, shape, until, method) for one in properties]
    # What is quick for all, before what takes long for one.
    for run in (lambda task: task.quick(attack, restarts, random_state), Task.thorough):
        for i, task in enumerate(tasks):
            if task.answer == "unknown":
                now = time.monotonic()
                waiting = sum(t.answer == "unknown" for t in tasks[i:])
                task.until = now + max(0.0, until - now) / waiting
                run(task)
            if task.answer == "violated":
                return _verdict(tasks, task, time.monotonic() - began)
    undecided = [task for task in tasks if task.answer == "unknown"]
    return _verdict(tasks, (undecided or tasks)[-1], time.monotonic() - began)


def verify_robustness(
    model: nn.Module,
    images: Float[Tensor, " batch *shape"],
    labels: Int[Tensor, " batch"],
    eps: float,
    timeout: float = 60.0,
    *,
    clip: tuple[float, float] | None = (0.0, 1.0),
    method: Method = "auto",
    progress: Callable[..., Sequence[int]] = lambda items, **_: items,
) -> list[Verdict]:
    """Decide for each image whether its class stays the same while every pixel moves by `eps` at most.

    Parameters
    ----------
    model
        A classifier of logits.
    images
        The inputs, of the shape that the model takes.
    labels
        Their classes; an image that is classified otherwise is its own counterexample.
    eps
        Radius of the balls in the maximum norm.
    timeout
        Seconds for each image.
    clip
        Least and greatest value of a pixel, None for any.
    method
        As `verify` takes it.
    progress
        What wraps the range of images.

    Returns
    -------
    list[Verdict]
        One for each image, in order.

    Raises
    ------
    ValueError
        Where labels and images do not fit each other, or pixels are out of the range to clip to.

    Examples
    --------
    >>> torch.manual_seed(0) and None
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> images = torch.rand(3, 1, 2, 2)
    >>> [v.answer for v in verify_robustness(model, images, model(images).argmax(1), 0.001)]
    ['holds', 'holds', 'holds']
    """
    if labels.shape != images.shape[:1] or not len(images):
        raise ValueError(f"labels have shape {tuple(labels.shape)}; they take ({len(images)},), one image at least")
    with torch.no_grad():
        classes = int(model(images[:1]).flatten(1).shape[1])
    found = []
    for i in progress(range(len(images)), label="images"):
        prop = robustness_property(images[i], eps, int(labels[i]), classes, clip=clip)
        found.append(verify(model, prop, timeout=timeout, method=method))
    return found


class Task:
    """One property of a network, and what is known of it."""

    def __init__(
        self,
        networks: Networks,
        bounds: PartBounds,
        property: Property,
        shape: tuple[int, ...],
        until: float,
        method: Method,
    ) -> None:
        self.bounds, self.property, self.until, self.method = bounds, property, until, method
        self.witness = Witness(networks, property, shape)
        most = max(len(b) for _, b in property.unsafe)
        # Rows of the shorter polytopes come twice, so that all have as many.
        index = [torch.arange(most).clamp(max=len(b) - 1) for _, b in property.unsafe]
        self.C = torch.stack([A[i] for (A, _), i in zip(property.unsafe, index, strict=True)])
        self.offsets = torch.stack([b[i] for (_, b), i in zip(property.unsafe, index, strict=True)])
        self.margins = torch.full((len(self.C),), -math.inf, dtype=torch.float64)
        self.branches, self.stage, self._searched = 0, "bounds", math.inf
        self.answer: Answer = "unknown"

    @property
    def proved(self) -> float:
        """The least margin that is proved."""
        settled = self.margins[self.margins > 0]
        if not len(self.open):
            return float(self.margins.min())
        rest = float(self.margins[self.open].min()) if self._searched == math.inf else self._searched
        return min(rest, float(settled.min())) if len(settled) else rest

    @property
    def open(self) -> Tensor:
        """The numbers of the polytopes that are not settled."""
        return (~(self.margins > 0)).nonzero().flatten()

    def quick(self, attack: type[Attack] | None, restarts: int, random_state: int) -> None:
        """Bound by CROWN, and attack."""
        self._root(optimize=False)
        if self.answer == "holds":
            return
        if self._violated(self.witness.consider((self.witness.lower / 2 + self.witness.upper / 2)[None]), "attack"):
            return
        if attack is not None and self._left():
            self.stage = "attack"
            nearest = self.open[self.margins[self.open].argsort()[:_TARGETS]]
            self._violated(self.witness.attack(attack, nearest, _STEPS, restarts, random_state, self.until), "attack")

    def thorough(self) -> None:
        """Bound by alpha-CROWN, and search."""
        if self.method == "CROWN" or not self._left():
            return
        self.stage = "alpha-CROWN"
        found = self._root(optimize=True)
        if self.answer == "holds" or self.method == "alpha-CROWN" or found is None or not self._left():
            return
        self.stage = "branch and bound"
        parts, rows = found
        open_ = self.open
        neurons = parts.below.shape[1]
        few = self.method == "auto" and parts.lower[0].numel() <= _FEW_INPUTS
        split: Split = "input" if self.method == "input-split" or few or not neurons else "relu"
        search = Search(self.bounds, self.witness, self.C, self.offsets, split)
        search.begin(parts[torch.zeros_like(open_)], open_, rows[open_])
        done = search.run(self.until)
        self.branches, self._searched = search.branches, search.margin
        if not self._violated(self.witness.found, self.stage) and done:
            self.answer = "holds"

    def _root(self, optimize: bool) -> tuple[Parts, Tensor] | None:
        """Bound the rows of all open polytopes on the whole box; return it, and the bounds by polytope, in time."""
        open_ = self.open
        C, seconds = self.C[open_].flatten(0, 1), self._left() / 3
        lower, upper = self.witness.lower[None], self.witness.upper[None]
        self.bounds.until = self.until
        try:
            found, parts = self.bounds.root(lower, upper, C[None], optimize, seconds)
        except TimeoutError:
            return None
        rows = torch.full_like(self.offsets, math.inf)
        rows[open_] = found.reshape(len(open_), -1)
        above = rows[open_] > self.offsets[open_]
        margins = (rows[open_] - self.offsets[open_]).amax(1)
        # A difference that rounds to 0 is one above it, where the bound is above.
        margins = torch.where(above.any(1), margins.clamp(min=5e-324), margins.clamp(max=0.0))
        self.margins[open_] = torch.maximum(self.margins[open_], margins)
        self.answer = "unknown" if len(self.open) else "holds"
        return parts, rows

    def _left(self) -> float:
        return max(0.0, self.until - time.monotonic())

    def _violated(self, found: bool, stage: str) -> bool:
        if found:
            self.stage, self.answer = stage, "violated"
        return found


def _verdict(tasks: Sequence[Task], decisive: Task, seconds: float) -> Verdict:
    witness = decisive.witness
    violated = decisive.answer == "violated"
    low, high = min(t.proved for t in tasks), min(t.witness.margin for t in tasks)
    x, output = (witness.x, witness.output) if violated else (None, None)
    branches = sum(t.branches for t in tasks)
    return Verdict(decisive.answer, x, output, (low, high), branches, seconds, decisive.stage)


def _prepared(
    model: nn.Module, properties: Sequence[Property], shape: tuple[int, ...]
) -> tuple[Networks, BoundedModule]:
    for p in properties:
        if p.lower.numel() != torch.Size(shape).numel():
            raise ValueError(f"property has a box of {p.lower.numel()} inputs; this model takes shape {shape}")
    x = (properties[0].lower / 2 + properties[0].upper / 2).reshape(1, *shape)
    networks = Networks(model, x)
    with torch.no_grad():
        out = networks.exact(x)
    if not isinstance(out, Tensor) or not out.is_floating_point():
        raise TypeError(f"model returns {type(out).__name__}; it takes one that returns a tensor of real numbers")
    for p in properties:
        if out[0].numel() != p.n_outputs:
            raise ValueError(f"property speaks of {p.n_outputs} outputs; this model has {out[0].numel()}")
    return networks, BoundedModule(networks.exact, x, {"sound": True, "memory": 256e6, "lr": 0.25})
