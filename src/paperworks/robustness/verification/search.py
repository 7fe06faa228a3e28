"""Branch and bound: a box is cut into parts until each is proved safe, or one holds a counterexample."""

import math
import time
from typing import Literal

import torch
from torch import Tensor

from paperworks.robustness.bounds.parts import Found, PartBounds, Parts
from paperworks.robustness.verification.counterexamples import Witness

Split = Literal["input", "relu"]
_STEPS = 20  # of the optimisation of slopes and multipliers, for parts whose neurons are split
_CANDIDATES = 8  # neurons whose two sides are bounded before one is chosen
_MEMORY = 1e9  # bytes of parts that wait; beyond, those nearest to a proof go first
_SECONDS = 0.5  # that a round may take: the number of parts follows


class Search:
    r"""The parts of one box that are still open, each with the polytope it may reach.

    Parameters
    ----------
    bounds
        Bounds the network on parts.
    witness
        Tries inputs.
    C, offsets
        Rows and right-hand sides of each polytope, (polytopes, rows, outputs) and (polytopes, rows).
    split
        What is cut: the box along a feature, or a neuron by its sign (and where none is left, the box).

    Attributes
    ----------
    branches
        How many parts have been bounded.
    least
        The least margin that is proved of the parts that are settled.
    """

    def __init__(self, bounds: PartBounds, witness: Witness, C: Tensor, offsets: Tensor, split: Split) -> None:
        self.bounds, self.witness, self.C, self.offsets, self.split = bounds, witness, C, offsets, split
        self.branches = 0
        self.least = math.inf
        self.size = int(max(1, min(16, _SECONDS / max(bounds.seconds, 1e-9))))
        self._stuck = False

    def begin(self, parts: Parts, polytope: Tensor, proved: Tensor) -> None:
        """Begin with parts, the numbers of their polytopes, and lower bounds of the rows, (parts, rows)."""
        self.parts, self.polytope, self.proved = parts, polytope, proved

    @property
    def margin(self) -> float:
        """The least margin that is proved of the whole box."""
        if not len(self.parts):
            return self.least
        return min(self.least, float(self._margins(self.proved, self.polytope).min()))

    def run(self, until: float) -> bool:
        """Search until all parts are settled (True), or one is violated or the time is over (False)."""
        while len(self.parts):
            began = time.monotonic()
            if began >= until or self._stuck:
                return False
            taken = self._taken()
            try:
                over = self._round(taken, until)
            except TimeoutError:
                self._wait(*taken)
                return False
            if over:
                return False
            spent = time.monotonic() - began
            if spent < _SECONDS / 2:
                self.size = min(2 * self.size, 1024)
            elif spent > _SECONDS:
                self.size = max(self.size // 2, 1)
        return True

    def _round(self, taken: tuple[Parts, Tensor, Tensor], until: float) -> bool:
        """Cut parts, bound and settle what they are cut into; return whether an input of them is unsafe."""
        children, polytope, known = self._children(*taken)
        if not len(children):
            return False
        offsets = self.offsets[polytope]
        steps = _STEPS if self.split == "relu" else 0
        found = self.bounds.bound(children, self.C[polytope], offsets, True, steps, until)
        self.branches += len(children)
        proved = torch.maximum(found.bounds, known)  # a part is no worse than the whole it was cut from
        settled = (proved > offsets).any(1)
        over = self._tried(children[~settled], found.coefficients[~settled], proved[~settled] - offsets[~settled])
        self._settle(proved[settled], polytope[settled])
        self._wait(children[~settled], polytope[~settled], proved[~settled])
        return over

    def _margins(self, proved: Tensor, polytope: Tensor) -> Tensor:
        return (proved - self.offsets[polytope]).amax(1)

    def _settle(self, proved: Tensor, polytope: Tensor) -> None:
        if len(proved):
            self.least = min(self.least, float(self._margins(proved, polytope).min()))

    def _wait(self, parts: Parts, polytope: Tensor, proved: Tensor) -> None:
        self.parts = Parts.joined([self.parts, parts])
        self.polytope, self.proved = torch.cat([self.polytope, polytope]), torch.cat([self.proved, proved])

    def _taken(self) -> tuple[Parts, Tensor, Tensor]:
        """Take the parts of the lowest margins out, or of the highest where too many wait."""
        margins = self._margins(self.proved, self.polytope)
        full = len(self.parts) * self.parts.nbytes > _MEMORY
        order = margins.argsort(descending=full)
        first, rest = order[: self.size], order[self.size :]
        taken = self.parts[first], self.polytope[first], self.proved[first]
        self.parts, self.polytope, self.proved = self.parts[rest], self.polytope[rest], self.proved[rest]
        return taken

    def _tried(self, parts: Parts, coefficients: Tensor, margins: Tensor) -> bool:
        """Try the corner of each open part where the linear function below its best row is least, and the middle."""
        if not len(parts):
            return False
        best = coefficients[torch.arange(len(parts)), margins.argmax(1)]
        corner = torch.where(best > 0, parts.lower, torch.where(best < 0, parts.upper, (parts.lower + parts.upper) / 2))
        points = [corner] if self.split == "relu" else [corner, (parts.lower + parts.upper) / 2]
        return self.witness.consider(torch.cat(points))

    def _children(self, parts: Parts, polytope: Tensor, proved: Tensor) -> tuple[Parts, Tensor, Tensor]:
        """Cut every part in two."""
        offsets = self.offsets[polytope]
        found = self.bounds.bound(parts[:], self.C[polytope], offsets, False, 0)
        row = (found.bounds - offsets).argmax(1)
        undecided = parts.undecided.any(1) if self.split == "relu" else torch.zeros(len(parts), dtype=torch.bool)
        cut, whole = undecided.nonzero().flatten(), (~undecided).nonzero().flatten()
        pieces, origin = [], []
        if len(cut):
            neuron = self._neurons(parts[cut], polytope[cut], found.arrived[cut])
            pieces.append(_by_neuron(parts[cut], neuron))
            origin.append(cut.repeat(2))
        if len(whole):
            weights = found.coefficients[torch.arange(len(parts)), row]
            made, kept = _by_feature(parts[whole], weights[whole])
            self._stuck |= len(kept) < len(whole)
            pieces.append(made)
            origin.append(whole[kept].repeat(2))
            if len(kept) < len(whole):  # boxes that are points, and no proof: rounding forbids it
                gone = torch.ones(len(whole), dtype=torch.bool)
                gone[kept] = False
                self._wait(parts[whole[gone]], polytope[whole[gone]], proved[whole[gone]])
        at = torch.cat(origin)
        return Parts.joined(pieces), polytope[at], proved[at]

    def _neurons(self, parts: Parts, polytope: Tensor, arrived: Tensor) -> Tensor:
        """Choose a neuron for each part: of those with the greatest room, the one whose worse side is best.

        The room of a neuron is the height of the triangle that its ReLU is relaxed to, times what arrives there.
        """
        low, high, open_ = parts.below, parts.above, parts.undecided
        height = torch.where(open_, -low * high / (high - low).clamp(min=1e-300), 0.0)
        score = torch.where(open_, (arrived.abs() + 1e-12) * height, -1.0)
        few = min(_CANDIDATES, int(open_.sum(1).min()), score.shape[1])
        candidates = score.topk(few, 1).indices
        if few == 1:
            return candidates[:, 0]
        rows = torch.arange(len(parts)).repeat_interleave(few)
        sides = _by_neuron(parts[rows], candidates.flatten())
        numbers = polytope[rows].repeat(2)
        found: Found = self.bounds.bound(sides, self.C[numbers], self.offsets[numbers], False, 0)
        worse = (found.bounds - self.offsets[numbers]).amax(1).reshape(2, len(parts), few).amin(0)
        return candidates.gather(1, worse.argmax(1, keepdim=True))[:, 0]


def _by_neuron(parts: Parts, neuron: Tensor) -> Parts:
    """Return the positive sides of a neuron of each part, and the negative ones behind them."""
    both = Parts.joined([parts, parts])
    rows = torch.arange(len(parts))
    both.signs[rows, neuron], both.signs[len(parts) + rows, neuron] = 1, -1
    return both


def _by_feature(parts: Parts, weights: Tensor) -> tuple[Parts, Tensor]:
    """Return the lower halves of boxes, and the upper ones behind them; and which of the boxes have halves."""
    lower, upper = parts.lower.flatten(1), parts.upper.flatten(1)
    middle = lower / 2 + upper / 2
    divisible = (lower < middle) & (middle < upper)
    width = (upper - lower) * (weights.flatten(1).abs() + 1e-12 * weights.abs().amax().clamp(min=1e-12))
    feature = torch.where(divisible, width, -1.0).argmax(1)
    kept = divisible.any(1).nonzero().flatten()
    feature, rows = feature[kept], torch.arange(len(kept))
    first, second = parts[kept], parts[kept]
    cut = middle[kept][rows, feature]
    first.upper.flatten(1)[rows, feature] = cut
    second.lower.flatten(1)[rows, feature] = cut
    return Parts.joined([first, second]), kept
