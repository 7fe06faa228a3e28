"""Lower bounds on the parts of a set: boxes within it, and sides of ReLUs, many parts at once."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from paperworks.robustness.bounds import backward
from paperworks.robustness.bounds.alpha import optimized
from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.elementwise import ReLURule
from paperworks.robustness.bounds.freedom import Freedom
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.methods import intermediate
from paperworks.robustness.bounds.module import BoundedModule
from paperworks.robustness.bounds.outputs import bounds_of, check_bounds
from paperworks.robustness.bounds.patches import laid_out
from paperworks.robustness.bounds.perturbations import PerturbationLpNorm
from paperworks.robustness.bounds.registry import find_rule
from paperworks.robustness.bounds.splits import Splits
from paperworks.robustness.bounds.tensors import BoundedTensor
from paperworks.robustness.bounds.values import Interval

_SLOW = 0.1  # seconds
_LR_ALPHA, _LR_BETA, _DECAY = 0.1, 0.1, 0.97  # of Adam, as beta-CROWN's authors have them, to a factor of two


@dataclass
class Parts:
    r"""Parts of a set, one a row.

    Attributes
    ----------
    lower, upper
        Ends of the boxes, (parts, \*input).
    below, above
        Ends of what feeds the ReLUs, (parts, neurons), all ReLUs of the graph in order.
    signs
        1 and -1 where a neuron has been split, 0 elsewhere, (parts, neurons).
    alpha, beta
        Slopes of the lower lines of ReLUs, and multipliers of the splits, (parts, neurons).
    """

    lower: Tensor
    upper: Tensor
    below: Tensor
    above: Tensor
    signs: Tensor
    alpha: Tensor
    beta: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    def __getitem__(self, index: Tensor | slice) -> "Parts":
        """Return some of the parts."""
        return Parts(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    @classmethod
    def joined(cls, several: Sequence["Parts"]) -> "Parts":
        """Return all parts of several."""
        return cls(*(torch.cat([getattr(p, f.name) for p in several]) for f in dataclasses.fields(cls)))

    @property
    def nbytes(self) -> int:
        """How many bytes one part takes."""
        tensors = (getattr(self, f.name) for f in dataclasses.fields(self))
        return sum(t[:1].numel() * t.element_size() for t in tensors)

    @property
    def undecided(self) -> Tensor:
        """Which neurons can have either sign, (parts, neurons)."""
        return (self.below < 0) & (self.above > 0)


class Found(NamedTuple):
    r"""What bounding some parts gave.

    Attributes
    ----------
    bounds
        Lower bounds of the specifications, (parts, specs).
    coefficients
        Of the linear functions below them, (parts, specs, \*input).
    arrived
        Coefficients of the best specification at the ReLUs' outputs, (parts, neurons).
    """

    bounds: Tensor
    coefficients: Tensor
    arrived: Tensor


class Deadline(TorchDispatchMode):
    """Within it, no operator begins after a time by `time.monotonic`: it raises TimeoutError."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.monotonic() > self.until:
            raise TimeoutError("the time is over")
        return func(*args, **(kwargs or {}))


class PartBounds:
    """Bounds of linear functions of a module's output, on parts of a box.

    Parameters
    ----------
    bounded
        The module, of one input.

    Attributes
    ----------
    until
        The time, by `time.monotonic`, after which bounding raises TimeoutError; none by default.
    seconds
        How long CROWN took on the last whole box, in time of the processor: other work is no reason to be careful.

    Examples
    --------
    >>> from paperworks.robustness import BoundedModule
    >>> torch.manual_seed(0) and None
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).double()
    >>> low, high = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
    >>> found, parts = PartBounds(BoundedModule(net, low)).root(low, high, torch.ones(1, 1, 1).double(), optimize=False)
    >>> bool(found <= net(low)), parts.signs.shape
    (True, torch.Size([1, 8]))
    """

    def __init__(self, bounded: BoundedModule) -> None:
        self.bounded = bounded
        self.until = self.seconds = math.inf
        self._relus: list[Node] | None = None

    def root(
        self, lower: Tensor, upper: Tensor, C: Tensor, optimize: bool, seconds: float = math.inf
    ) -> tuple[Tensor, Parts]:
        r"""Bound rows on a whole box, by CROWN or by alpha-CROWN.

        Parameters
        ----------
        lower, upper
            Ends of boxes, (boxes, \*input).
        C
            Specifications, (boxes or 1, specs, \*output).
        optimize
            Whether the relaxations are optimised.
        seconds
            After which no further step of that is taken.

        Returns
        -------
        tuple[Tensor, Parts]
            Lower bounds (boxes, specs), and the boxes as parts, of the slopes of the first specification.
        """
        began = time.thread_time()
        with self._in_time():
            call, rows = self._call(lower, upper, C)
            call.options = dataclasses.replace(call.options, seconds=seconds)
            sides = (True, False)
            found, _ = optimized(call, rows, sides) if optimize else bounds_of(call, "CROWN", rows, sides)
        self.seconds = self.seconds if optimize else time.thread_time() - began
        check_bounds(call, (found, None))
        assert found is not None
        below, above = self._ends(call)
        signs = torch.zeros_like(below)
        return found.detach(), Parts(lower, upper, below, above, signs, (above > -below).to(below), signs)

    def bound(
        self, parts: Parts, C: Tensor, offsets: Tensor, refine: bool, steps: int, until: float = math.inf
    ) -> Found:
        r"""Bound specifications on parts, and optimise slopes and multipliers.

        Parameters
        ----------
        parts
            The parts; their ends, slopes and multipliers are replaced by better ones.
        C
            Specifications, (parts, specs, \*output).
        offsets
            What they are compared with, (parts, specs): a part whose greatest difference is positive is settled, and
            the greatest is what is optimised.
        refine
            Whether intermediate bounds are made anew by backward passes, as pays where boxes have shrunk.
        steps
            Steps of the optimisation, which ends once all parts are settled.
        until
            The time, by `time.monotonic`, when no further step begins.

        Returns
        -------
        Found
            The best bounds met, with the coefficients of the last one.
        """
        with self._in_time():
            return self._bound(parts, C, offsets, refine, steps, until)

    def _in_time(self) -> contextlib.AbstractContextManager[Any]:
        # To look at the time before every operator is dear where they are small.
        return Deadline(self.until) if self.seconds > _SLOW else contextlib.nullcontext()

    def _bound(self, parts: Parts, C: Tensor, offsets: Tensor, refine: bool, steps: int, until: float) -> Found:
        call, rows = self._call(parts.lower, parts.upper, C)
        call.splits = Splits(self._interval_at(call, parts))
        if not refine:
            call.refined = dict.fromkeys(call.graph.nodes)
        output = call.graph.output
        with torch.no_grad():
            intermediate(call, output, "CROWN")
        parts.below, parts.above = self._ends(call)
        if refine and not steps:  # slopes fit for the ends there are now
            parts.alpha = (parts.above > -parts.below).to(parts.above)
        freedom = call.freedom = Freedom(shared=True)
        alpha, beta = self._pieces(call, parts.alpha.clone()), parts.beta.clone()
        for relu, piece in alpha.items():
            freedom.parameters[output, 0, relu] = [piece[None, None].clone().requires_grad_()]
            freedom.paces[output, 0, relu] = 1.0
        beta.requires_grad_(bool((parts.signs != 0).any()) and steps > 0)
        best = found = torch.full((len(parts), 1), -math.inf, dtype=call.dtype)
        bounds = coefficients = None
        optimizer = None
        for step in range(steps + 1):
            began = time.monotonic()
            call.lines.clear()
            with torch.set_grad_enabled(steps > 0):
                multipliers = self._pieces(call, parts.signs * beta)
                call.splits.multipliers = {relu.inputs[0]: m[None] for relu, m in multipliers.items()}
                weights, constant = backward.propagate(call, output, rows)
                reached = backward.concretize(call, weights, constant).T
                # What overflows is no bound.
                reached = torch.where(reached.isfinite(), reached, -torch.finfo(call.dtype).max)
                margins = reached - offsets
                objective = margins.amax(1).sum()
            found = margins.detach().amax(1)
            if bounds is None:
                bounds, best = reached.detach(), torch.full_like(found, -math.inf)
            bounds = torch.maximum(bounds, reached.detach())
            better = found > best
            best = torch.where(better, found, best)
            with torch.no_grad():
                for relu, piece in alpha.items():
                    now = freedom.parameters[output, 0, relu][0][0, 0]
                    piece.copy_(torch.where(better.view(-1, *(1,) * (now.ndim - 1)), now, piece))
                parts.beta = torch.where(better[:, None], beta.detach(), parts.beta)
            coefficients = weights
            spent = time.monotonic() - began
            settled = bool((bounds > offsets).any(1).all())
            if step == steps or settled or time.monotonic() + 2 * spent > until or not objective.requires_grad:
                break
            if optimizer is None:
                slopes = [t for t, _ in freedom.leaves()]
                groups = [{"params": slopes, "lr": _LR_ALPHA}, {"params": [beta], "lr": _LR_BETA}]
                optimizer = torch.optim.Adam(groups, maximize=True)
                schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, _DECAY)
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for slope in slopes:
                    slope.clamp_(0, 1)
                beta.clamp_(min=0)
        assert bounds is not None
        assert coefficients is not None
        parts.alpha = self._flat(call, {relu: piece.detach() for relu, piece in alpha.items()})
        root = call.graph.inputs[0]
        weight = laid_out(coefficients[root], root).detach() if root in coefficients else rows.new_zeros(len(rows), 1)
        weight = weight.expand(-1, len(parts), *root.shape).transpose(0, 1).squeeze(2)
        return Found(bounds, weight, self._arrived(call, (bounds - offsets).argmax(1)))

    def _call(self, lower: Tensor, upper: Tensor, C: Tensor) -> tuple[Call, Tensor]:
        middle = (lower / 2 + upper / 2).clamp(lower, upper)
        call, outputs = self.bounded._call(BoundedTensor(middle, PerturbationLpNorm(x_L=lower, x_U=upper)))
        if self._relus is None:
            path = call.relevant(call.graph.output)
            self._relus = [n for n in path if isinstance(find_rule(n.op), ReLURule)]
        return call, self.bounded._specification(C, call, outputs.shape)

    def _pieces(self, call: Call, flat: Tensor) -> dict[Node, Tensor]:
        """Return the columns of each ReLU, in its shape."""
        assert self._relus is not None
        pieces = flat.split([relu.shape.numel() for relu in self._relus], 1)
        return {relu: p.reshape(-1, *relu.shape) for relu, p in zip(self._relus, pieces, strict=True)}

    def _flat(self, call: Call, pieces: dict[Node, Tensor]) -> Tensor:
        flat = [p.expand(call.batch, *relu.shape).reshape(call.batch, -1) for relu, p in pieces.items()]
        return torch.cat(flat, 1) if flat else torch.zeros(call.batch, 0, dtype=call.dtype)

    def _ends(self, call: Call) -> tuple[Tensor, Tensor]:
        assert self._relus is not None
        ends = {relu: call.ends[relu.inputs[0]] for relu in self._relus}
        below, above = (self._flat(call, {relu: e[i].detach() for relu, e in ends.items()}) for i in (0, 1))
        return below, above

    def _interval_at(self, call: Call, parts: Parts) -> dict[Node, Interval]:
        """Return the ends of what feeds ReLUs, no further than their splits."""
        below = torch.where(parts.signs > 0, parts.below.clamp(min=0), parts.below)
        above = torch.where(parts.signs < 0, parts.above.clamp(max=0), parts.above)
        low, high = self._pieces(call, below), self._pieces(call, above)
        return {relu.inputs[0]: Interval(low[relu], high[relu]) for relu in low}

    def _arrived(self, call: Call, row: Tensor) -> Tensor:
        assert call.splits is not None
        at = torch.arange(call.batch)
        pieces = {}
        for relu in self._relus or ():
            rows = call.splits.arrived.get(relu)
            shape = (call.batch, *relu.shape)
            pieces[relu] = rows.expand(-1, *shape)[row, at] if rows is not None else torch.zeros(shape)
        return self._flat(call, pieces)
