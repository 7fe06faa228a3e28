"""The worst case of a predictor: the interventions on mutable variables under which it errs most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.inference.invariance.graph import Node
from paperworks.inference.invariance.interventions import StructuralModel, stacked
from paperworks.inference.invariance.predictor import StablePredictor
from paperworks.numerics import train


@dataclass(frozen=True)
class BoundedNetworks:
    """For each mutable variable many small networks of its parents, with outputs within bounds.

    Each is ``lo + (hi - lo) sigmoid(w' tanh(W x + b) + c)`` of standardised parents x.
    """

    bounds: dict[Node, tuple[float, float]]
    scaling: dict[Node, tuple[Float[Tensor, " p"], Float[Tensor, " p"]]]
    parameters: dict[Node, list[Tensor]]

    @classmethod
    def random(
        cls, model: StructuralModel, bounds: Mapping[Node, tuple[float, float]], shape: tuple[int, int], hidden: int,
        generator: torch.Generator,
    ) -> "BoundedNetworks":  # fmt: skip
        """Draw networks for (predictors, restarts), the same restarts for all predictors."""
        scaling, parameters = {}, {}
        for node in model.components.X_M:
            inputs = torch.from_numpy(model.stack(model.parents(node)))
            scaling[node] = inputs.mean(0), inputs.std(0).clamp_min(1e-12)
            p = inputs.shape[1]
            sizes = [(p, hidden), (1, hidden), (hidden, 1), (1, 1)]
            drawn = [torch.randn(shape[1], *size, generator=generator, dtype=torch.float64) for size in sizes]
            drawn[2] /= hidden**0.5 / 2
            parameters[node] = [t.expand(shape[0], *t.shape).clone().requires_grad_() for t in drawn]
        return cls(dict(bounds), scaling, parameters)

    def __call__(self, node: Node, parents: Float[Tensor, "... n p"]) -> Float[Tensor, "... n"]:
        """Return the values of a mutable variable."""
        mean, std = self.scaling[node]
        W, b, w, c = self.parameters[node]
        low, high = self.bounds[node]
        out = torch.tanh((parents - mean) / std @ W + b) @ w + c
        return low + (high - low) * torch.sigmoid(out[..., 0])

    def only(self, i: int, r: int) -> "BoundedNetworks":
        """Return the networks of one predictor and one restart."""
        chosen = {node: [t[i, r].detach() for t in tensors] for node, tensors in self.parameters.items()}
        return BoundedNetworks(self.bounds, self.scaling, chosen)


@dataclass(frozen=True)
class WorstCase:
    """The largest risk of a predictor that was found, with the interventions that cause it.

    Parameters
    ----------
    risk
        The largest mean squared error that was found.

    Examples
    --------
    >>> WorstCase(0.5, {}, np.array([0.3, 0.5])).risk
    0.5
    """

    risk: float
    J: dict[Node, "Intervention"] = field(compare=False, repr=False)
    """For each mutable variable the function of its parents that it follows."""
    trace: Float[np.ndarray, " steps"] = field(compare=False, repr=False)
    """Risk of the best restart at each step, on that step's samples."""


@dataclass(frozen=True)
class Intervention:
    """A function of the parents (n, p) of a mutable variable, in the order of the graph's `parents`."""

    node: Node
    networks: BoundedNetworks

    def __call__(self, parents: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        return self.networks(self.node, torch.as_tensor(np.asarray(parents, dtype=float))).numpy()


class WorstCaseRisk:
    """Maximises a predictor's mean squared error over the mechanisms of the mutable variables.

    Deterministic functions ``X_m = J_m(parents)`` suffice, as the risk is linear in each mechanism. They are small
    networks, bounded because otherwise the risk usually is not, and climb the risk by Adam from random restarts;
    variables that a mutable one reaches are regenerated from their fitted mechanisms with common residuals.

    Parameters
    ----------
    bounds
        For some or all mutable variables their least and greatest value; by default those seen in the data. The risk
        depends on them: repeat with others to see how much.
    widen
        Share of the range seen by which default bounds are widened on each side.
    hidden
        Units of each network.
    restarts, steps, lr
        Restarts, steps and step size of the ascent.
    batch_size
        Samples of each step; the final risk is of all.
    random_state
        Seed of networks and batches.

    Raises
    ------
    ValueError
        For numbers out of range.

    References
    ----------
    arXiv 2107.01876, algorithm 1 and section 4.2.

    Examples
    --------
    >>> from paperworks.inference import CausalGraph, StablePredictor
    >>> graph = CausalGraph.from_edges([("Y", "M"), ("Y", "S"), ("M", "S"), ("E", "M")])
    >>> Y, u, v = np.random.default_rng(0).normal(size=(3, 500))
    >>> M = Y + u
    >>> predictor = StablePredictor(graph, []).fit({"M": M, "S": Y + M + v}, Y)
    >>> found = WorstCaseRisk(steps=50).evaluate(predictor)
    >>> bool(abs(found.risk / np.var(Y) - 1) < 0.1)  # a constant can't be attacked
    True
    """

    def __init__(
        self,
        bounds: Mapping[Node, tuple[float, float]] | None = None,
        widen: float = 0.0,
        hidden: int = 8,
        restarts: int = 3,
        steps: int = 100,
        lr: float = 0.2,
        batch_size: int = 128,
        random_state: int = 0,
    ) -> None:
        self.bounds = dict(bounds or {})
        for node, given in self.bounds.items():
            if np.shape(given) != (2,) or not np.all(np.isfinite(given)) or given[0] > given[1]:
                raise ValueError(
                    f"bounds has {given!r} for {node!r}; it takes two finite numbers, the least value first"
                )
        self.widen = check_number("widen", widen, ge=0)
        self.hidden, self.restarts = check_count("hidden", hidden), check_count("restarts", restarts)
        self.steps, self.batch_size = check_count("steps", steps), check_count("batch_size", batch_size)
        self.lr = check_number("lr", lr, gt=0)
        self.random_state = random_state

    def evaluate(self, predictor: StablePredictor) -> WorstCase:
        """Return the worst case of one fitted predictor.

        Returns
        -------
        WorstCase
            The largest risk found and its interventions.
        """
        return self.evaluate_all([predictor])[0]

    def evaluate_all(self, predictors: Sequence[StablePredictor]) -> list[WorstCase]:
        """Return the worst cases of predictors that share one structural model, all climbed together.

        Returns
        -------
        list[WorstCase]
            One worst case for each predictor, in their order.

        Raises
        ------
        ValueError
            Where they don't share it.
        """
        if not len(predictors):
            return []
        for predictor in predictors:
            check_is_fitted(predictor, "regressor_")
        model = predictors[0].model_
        if any(predictor.model_ is not model for predictor in predictors):
            raise ValueError("predictors have different structural models; it takes those of one fit")
        generator = torch.Generator().manual_seed(self.random_state)
        networks = BoundedNetworks.random(
            model, self._ranges(model), (len(predictors), self.restarts), self.hidden, generator
        )
        trace = self._climb(model, predictors, networks, generator)
        return [self._final(model, predictor, networks, i, trace[:, i]) for i, predictor in enumerate(predictors)]

    def _ranges(self, model: StructuralModel) -> dict[Node, tuple[float, float]]:
        if unknown := [node for node in self.bounds if node not in model.components.X_M]:
            raise ValueError(f"bounds has {unknown[0]!r}; it takes mutable variables, {model.components.X_M!r}")
        ranges = {}
        for node in model.components.X_M:
            low, high = float(model.data[node].min()), float(model.data[node].max())
            margin = self.widen * (high - low)
            ranges[node] = self.bounds.get(node, (low - margin, high + margin))
        return ranges

    def _climb(
        self,
        model: StructuralModel,
        predictors: Sequence[StablePredictor],
        networks: BoundedNetworks,
        generator: torch.Generator,
    ) -> Float[np.ndarray, "steps predictors"]:
        parameters = [tensor for tensors in networks.parameters.values() for tensor in tensors]
        trace = np.empty((self.steps if parameters else 0, len(predictors)))
        if not parameters:
            return trace
        functions = [predictor.torch_function() for predictor in predictors]
        optimizer = torch.optim.Adam(parameters, lr=self.lr)
        size = min(self.batch_size, model.n)

        def gain(step: int) -> Tensor:
            values = model.regenerate(networks, torch.randperm(model.n, generator=generator)[:size])
            errors = [
                _of(i, values[model.components.target])
                - function(stacked([_of(i, values[node]) for node in predictor.inputs_], size))
                for i, (predictor, function) in enumerate(zip(predictors, functions, strict=True))
            ]
            risks = torch.stack([(error**2).expand(self.restarts, size).mean(-1) for error in errors])
            trace[step] = risks.detach().max(dim=1).values.numpy()
            return -risks.sum()

        train(gain, optimizer, self.steps)
        return trace

    def _final(
        self,
        model: StructuralModel,
        predictor: StablePredictor,
        networks: BoundedNetworks,
        i: int,
        trace: np.ndarray,
    ) -> WorstCase:
        """Take the restart of greatest risk, and its risk with the regressor itself."""
        risks, found = [], []
        for r in range(self.restarts):
            one = networks.only(i, r)
            values = {node: value.numpy() for node, value in model.regenerate(one).items()}
            error = values[model.components.target] - predictor.regressor_.predict(
                model.stack(predictor.inputs_, values)
            )
            risks.append(float(np.mean(error**2)))
            found.append({node: Intervention(node, one) for node in model.components.X_M})
        best = int(np.argmax(risks))
        return WorstCase(risks[best], found[best], trace)


def _of(i: int, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return what concerns one predictor of values (predictors, restarts, n), or all values if they are untouched."""
    return value[i] if value.ndim == 3 else value
