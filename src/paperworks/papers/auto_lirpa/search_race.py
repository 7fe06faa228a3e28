"""The same search with the bounds of the authors' own library."""

import copy
import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.evidence import Measurement, Run, Table, exact
from paperworks.papers.auto_lirpa.race import official
from paperworks.papers.auto_lirpa.verification import classifier, radius_of_half, right
from paperworks.robustness import BoundedModule, PartBounds, robustness_property, verify

NAME = "perceptron, digits"


class TheirBounds(PartBounds):
    """Bounds on parts by auto_LiRPA: alpha-CROWN on the whole box, CROWN from the ends known on each part.

    Which neuron is split, and what a split says of the ends, is as in ours.
    """

    def __init__(self, bounded: BoundedModule, theirs: Any, model: nn.Module, x: Tensor) -> None:
        super().__init__(bounded)
        # In single precision, in which alone it optimises.
        self.theirs, self.model, self.x = theirs, copy.deepcopy(model).float(), x.float()
        self.peer = self._wrapped()

    def _wrapped(self) -> Any:
        options = {"optimize_bound_args": {"iteration": 20}}
        return self.theirs.BoundedModule(self.model, self.x, bound_opts=options)

    def _ball(self, lower: Tensor, upper: Tensor) -> Any:
        lower, upper = lower.float(), upper.float()
        ptb = self.theirs.PerturbationLpNorm(norm=math.inf, x_L=lower, x_U=upper)
        return self.theirs.BoundedTensor((lower + upper) / 2, ptb)

    def _inputs_of_relus(self) -> list[Any]:
        return [n.inputs[0] for n in self.peer.nodes() if type(n).__name__ == "BoundRelu"]

    def root(
        self, lower: Tensor, upper: Tensor, C: Tensor, optimize: bool, seconds: float = math.inf
    ) -> tuple[Tensor, Any]:
        """Bound rows on a whole box."""
        _, parts = super().root(lower, upper, C, False, seconds)
        self.peer = self._wrapped()  # it keeps what it optimised last
        kind = "CROWN-Optimized" if optimize else "CROWN"
        ball = self._ball(lower, upper)
        found = self.peer.compute_bounds(x=(ball,), C=C.float(), method=kind, bound_upper=False)[0]
        ends = [(n.lower.detach().flatten(1), n.upper.detach().flatten(1)) for n in self._inputs_of_relus()]
        parts.below, parts.above = (torch.cat([e[i] for e in ends], 1).double() for i in (0, 1))
        return found.detach().double(), parts

    @torch.no_grad()
    def bound(self, parts: Any, C: Tensor, offsets: Tensor, refine: bool, steps: int, until: float = math.inf) -> Any:
        """Bound specifications on parts, without multipliers."""
        ours = super().bound(parts, C, offsets, refine, 0, until)
        ball = self._ball(parts.lower, parts.upper)
        sizes = [n.lower[0].numel() for n in self._inputs_of_relus()]
        low, high = (ends.float().split(sizes, 1) for ends in (parts.below, parts.above))
        known = {
            n.name: [a.reshape(-1, *n.lower.shape[1:]), b.reshape(-1, *n.lower.shape[1:])]
            for n, a, b in zip(self._inputs_of_relus(), low, high, strict=True)
        }
        found = self.peer.compute_bounds(
            x=(ball,), C=C.float(), method="CROWN", bound_upper=False, interm_bounds=known
        )[0]
        return ours._replace(bounds=found.double())


def against_their_bounds(run: Run) -> Measurement:
    """Decide the same instances by the same search, once with our bounds and once with theirs."""
    theirs = official()
    few, seconds = run.at(smoke=3, desk=50, full=200), run.at(smoke=1.0, desk=3.0, full=30.0)
    model, (train_x, train_y), test = classifier(run, NAME)
    eps = radius_of_half(model, *right(model, train_x, train_y, run.at(smoke=20, desk=200, full=500)))
    x, y = right(model, *test, few)
    by_theirs = functools.partial(TheirBounds, theirs=theirs, model=model.eval(), x=x[:1])
    sides: dict[str, Any] = {"ours": PartBounds, "theirs": by_theirs}
    decided: dict[str, list[float]] = {side: [] for side in sides}
    branches: dict[str, list[float]] = {side: [] for side in sides}
    spent = dict.fromkeys(sides, 0.0)
    for i in run.progress(range(len(x)), label="images"):
        prop = robustness_property(x[i], eps, int(y[i]), 10, clip=(0, 1))
        for side, bounds in sides.items():
            found = verify(model, prop, timeout=seconds, method="relu-split", bounds=bounds)
            decided[side].append(float(found.decided))
            branches[side].append(found.branches)
            spent[side] += found.seconds
    both = [i for i in range(len(x)) if decided["ours"][i] and decided["theirs"][i]]
    used = {side: sum(branches[side][i] for i in both) + 1 for side in sides}
    rows = [[side, sum(decided[side]), used[side] - 1, spent[side]] for side in sides]
    return Measurement(
        {
            "decided": exact((sum(decided["ours"]) - sum(decided["theirs"])) / len(x)),
            "branches": exact(used["ours"] / used["theirs"]),
        },
        table=Table(["bounds", "decided", "branches where both decide", "seconds"], rows),
        settings="alpha-CROWN of 20 steps on the whole box, CROWN on parts, from the same ends of split neurons; "
        "the same attack, the same choice of neurons, and as many seconds for each instance",
    )
