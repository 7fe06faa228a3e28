"""Discrete causal models, in which predictors and their worst-case risks are exact."""

import functools
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice
from paperworks.inference.invariance.graph import CausalGraph, Node
from paperworks.inference.invariance.mutable import GraphComponents, parse_mutable
from paperworks.numerics import train


@dataclass(frozen=True)
class DiscreteWorstCase:
    """The largest risk of a predictor over interventions on the mutable variables, and the one that attains it.

    Examples
    --------
    >>> found = full_set_counterexample().worst_case_risk(["S1"])
    >>> round(found.risk, 12), found.J["M"]
    (0.106, array([1, 0]))
    """

    risk: float
    J: dict[Node, Int[np.ndarray, "..."]] = field(compare=False)
    """For each mutable variable its state by those of its parents, in the order of the graph's `parents`."""


class DiscreteSCM:
    """A causal model whose variables have finitely many states.

    Parameters
    ----------
    graph
        Over the variables, the target and the environment's node.
    tables
        For each variable but the environment and the mutable ones ``P(x | parents)``, of shape (states of each parent
        in the order of `graph.parents`, states of x). A mutable variable has no table but its number of states.
    target, env
        Names of the target and of the environment's node; None for `env` says that nothing is mutable.
    values
        Values of the target's states; by default 0, 1, …

    Raises
    ------
    ValueError
        For missing tables, shapes that don't match, or rows that aren't probabilities.

    Examples
    --------
    >>> graph = CausalGraph.from_edges([("Y", "S")])
    >>> model = DiscreteSCM(graph, {"Y": [0.5, 0.5], "S": [[0.9, 0.1], [0.2, 0.8]]}, env=None)
    >>> model.predictor(["S"]).round(3)
    array([0.182, 0.889])
    """

    def __init__(
        self,
        graph: CausalGraph,
        tables: Mapping[Node, ArrayLike],
        target: Node = "Y",
        env: Node | None = "E",
        values: ArrayLike | None = None,
    ) -> None:
        self.components = parse_mutable(graph, target, env)
        self.graph, self.target = graph, target
        self._variables = (target, *self.components.X_S, *self.components.X_M)
        if missing := [node for node in self._variables if node not in tables]:
            raise ValueError(f"tables has nothing for {missing[0]!r}; it takes an entry for each variable")
        arrays = {node: np.asarray(tables[node], dtype=float) for node in self._variables}
        for node, array in arrays.items():
            mutable = node in self.components.X_M
            if (array.ndim > 0) == mutable or (mutable and (array < 1 or array % 1)):
                kind = "a whole number of states" if mutable else "a table of probabilities"
                raise ValueError(f"tables has {tables[node]!r} for {node!r}; it takes {kind}")
        self.states = {
            node: int(array) if node in self.components.X_M else array.shape[-1] for node, array in arrays.items()
        }
        self._tables = {node: arrays[node] for node in self._variables if node not in self.components.X_M}
        for node, table in self._tables.items():
            shape = (*(self.states[parent] for parent in self.parents(node)), self.states[node])
            if table.shape != shape or np.any(table < 0) or not np.allclose(table.sum(-1), 1):
                raise ValueError(
                    f"tables has shape {table.shape} for {node!r}; it takes {shape} with rows that are probabilities"
                )
        self.values = np.arange(self.states[target]) if values is None else np.asarray(values, dtype=float)
        if self.values.shape != (self.states[target],):
            raise ValueError(f"values has shape {self.values.shape}; it takes ({self.states[target]},)")
        if not np.all(np.isfinite(self.values)):
            raise ValueError(f"values has NaN or infinite elements, {self.values}; it takes finite numbers")

    def parents(self, node: Node) -> tuple[Node, ...]:
        """Return the parents of a variable without the environment.

        Parameters
        ----------
        node
            Name of the variable.

        Returns
        -------
        tuple[Node, ...]
            Names of the parents, in the order of the graph.
        """
        return tuple(parent for parent in self.graph.parents(node) if parent != self.components.env)

    def predictor(self, subset: Iterable[Node]) -> Float[np.ndarray, "..."]:
        """Return ``E[Y | x_subset, do(x_M)]`` for all states of the subset, in the graph's order, and of X_M.

        States that can't occur get the plain mean of the target's values.

        Returns
        -------
        ndarray of shape (...)
            ``E[Y | x_subset, do(x_M)]`` for all states of the subset, in the graph's order, and of X_M.

        Raises
        ------
        ValueError
            For nodes that aren't stable variables.
        """
        kept = {self.target, *self.components.X_M, *stable_subset(self.components, subset)}
        dropped = tuple(i for i, node in enumerate(self._variables) if node not in kept)
        mass = self._stable_mass.sum(axis=dropped)
        total = mass.sum(axis=0)
        means = np.tensordot(self.values, mass, axes=1)
        return np.where(total > 0, means / np.where(total > 0, total, 1), self.values.mean())

    def worst_case_risk(
        self, subset: Iterable[Node], method: Literal["exact", "ascent"] = "exact"
    ) -> DiscreteWorstCase:
        """Return the largest mean squared error of a subset's predictor over all interventions on X_M.

        Parameters
        ----------
        subset
            Some of the stable variables.
        method
            ``exact`` enumerates deterministic interventions, which suffice because the risk is linear in each
            ``P(x_m | parents)``; ``ascent`` climbs the risk of random ones by its gradient and returns where it ends.

        Returns
        -------
        DiscreteWorstCase
            The largest risk and the intervention that attains it.

        Raises
        ------
        ValueError
            For nodes that aren't stable variables, or another method.

        References
        ----------
        arXiv 2107.01876, section 4.2.
        """
        check_choice("method", method, ("exact", "ascent"))
        nodes = stable_subset(self.components, subset)
        shape = [self.states[n] if n in (*nodes, *self.components.X_M) else 1 for n in self._variables]
        errors = (self.values.reshape(-1, *[1] * (len(shape) - 1)) - self.predictor(nodes).reshape(shape)) ** 2
        loss = self._stable_mass * errors
        interventions = self._enumerate(loss) if method == "exact" else self._ascend(loss)
        return DiscreteWorstCase(self._risk(loss, interventions), interventions)

    @functools.cached_property
    def _stable_mass(self) -> Float[np.ndarray, "..."]:
        """``P(y | parents) prod_i P(x_i | parents)`` over the stable variables, for all states of all variables."""
        factors = [self._spread(table, node) for node, table in self._tables.items()]
        return math.prod(factors) * np.ones([self.states[node] for node in self._variables])

    def _spread(self, table: np.ndarray, node: Node) -> np.ndarray:
        """Return a table over (parents, node) with one axis for each variable of the model."""
        axes = [self._variables.index(name) for name in (*self.parents(node), node)]
        ordered = np.transpose(table, np.argsort(axes))
        shape = [self.states[name] if i in axes else 1 for i, name in enumerate(self._variables)]
        return ordered.reshape(shape)

    def _indicator(self, node: Node, choice: np.ndarray) -> np.ndarray:
        return self._spread(np.eye(self.states[node])[choice], node)

    def _risk(self, loss: np.ndarray, J: dict[Node, np.ndarray]) -> float:
        return float((loss * math.prod(self._indicator(node, choice) for node, choice in J.items())).sum())

    def _configurations(self, node: Node) -> tuple[int, ...]:
        return tuple(self.states[parent] for parent in self.parents(node))

    def _enumerate(self, loss: np.ndarray) -> dict[Node, np.ndarray]:
        """Try all interventions; for the last mutable variable each state of its parents is settled on its own."""
        if not self.components.X_M:
            return {}
        *others, last = sorted(
            self.components.X_M,
            key=lambda node: math.prod(self._configurations(node)) * math.log(self.states[node]),
        )
        axes = [self._variables.index(name) for name in (*self.parents(last), last)]
        away = tuple(i for i in range(loss.ndim) if i not in axes)
        back = np.argsort(np.argsort(axes))
        best, found = -math.inf, {}
        choices = (
            itertools.product(range(self.states[node]), repeat=math.prod(self._configurations(node))) for node in others
        )
        for combination in itertools.product(*choices):
            J = {
                node: np.array(choice, dtype=int).reshape(self._configurations(node))
                for node, choice in zip(others, combination, strict=True)
            }
            weighted = loss * math.prod(self._indicator(node, choice) for node, choice in J.items())
            table = np.transpose(weighted.sum(axis=away), back)
            risk = float(table.max(axis=-1).sum())
            if risk > best:
                best, found = risk, {**J, last: np.asarray(table.argmax(axis=-1))}
        return found

    def _ascend(self, loss: np.ndarray, restarts: int = 8, steps: int = 100, lr: float = 0.3) -> dict[Node, np.ndarray]:
        """Climb the risk of random interventions ``softmax(logits)``, and take the likeliest states of the best."""
        generator = torch.Generator().manual_seed(0)
        target = torch.tensor(loss)
        logits = {
            node: torch.randn(
                restarts, *self._configurations(node), self.states[node], generator=generator, dtype=torch.float64
            ).requires_grad_()
            for node in self.components.X_M
        }
        if not logits:
            return {}
        optimizer = torch.optim.Adam(logits.values(), lr=lr)
        letters = {node: chr(ord("a") + i) for i, node in enumerate(self._variables)}
        joint = "".join(letters.values())
        factors = [f"z{''.join(letters[name] for name in (*self.parents(node), node))}" for node in logits]
        equation = f"{joint},{','.join(factors)}->z"

        def gain(step: int) -> torch.Tensor:
            return -torch.einsum(equation, target, *(value.softmax(-1) for value in logits.values())).sum()

        train(gain, optimizer, steps)
        ends = [{node: value[r].detach().argmax(-1).numpy() for node, value in logits.items()} for r in range(restarts)]
        return max(ends, key=lambda J: self._risk(loss, J))


def full_set_counterexample() -> DiscreteSCM:
    """Return a model of three binary variables whose full stable set is not minimax optimal.

    The target has an effect S1 that its mutable effect M changes. Using S1 has a worst case of 0.106, using nothing of
    0.09.

    Returns
    -------
    DiscreteSCM
        A model of three binary variables with its mechanisms.

    Examples
    --------
    >>> [round(full_set_counterexample().worst_case_risk(subset).risk, 12) for subset in (["S1"], [])]
    [0.106, 0.09]
    """
    graph = CausalGraph.from_edges([("Y", "M"), ("Y", "S1"), ("M", "S1"), ("E", "M")])
    tables: dict[Node, ArrayLike] = {
        "Y": [0.9, 0.1],
        "M": 2,
        "S1": [[[0.5, 0.5], [8 / 9, 1 / 9]], [[0.5, 0.5], [0.0, 1.0]]],
    }
    return DiscreteSCM(graph, tables)


def stable_subset(components: GraphComponents, subset: Iterable[Node]) -> tuple[Node, ...]:
    """Return a subset of the stable variables in the graph's order, else raise ValueError."""
    if isinstance(subset, str):
        raise ValueError(f"subset is the text {subset!r}; it takes several names, such as [{subset!r}]")
    chosen = set(subset)
    if wrong := [node for node in chosen if node not in components.X_S]:
        kind = "mutable" if wrong[0] in components.X_M else "not a stable variable"
        raise ValueError(f"subset has {wrong[0]!r}, which is {kind}; it takes some of {list(components.X_S)!r}")
    return tuple(node for node in components.X_S if node in chosen)
