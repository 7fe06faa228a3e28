"""Samples of what would have been had the mutable variables other mechanisms, from data and a causal graph."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import issparse
from sklearn.base import clone
from torch import Tensor

from paperworks.inference.invariance.graph import Node
from paperworks.inference.invariance.mutable import GraphComponents
from paperworks.inference.invariance.regression import SmoothRegressor, TorchFunction, torch_function

Cut = Literal["X_M", "X_do"]
"""Variables whose mechanism an intervention replaces: the mutable ones, or those of the paper's algorithm."""
Columns = dict[Node, Float[np.ndarray, " n"]]


class StructuralModel:
    """Data with the fitted mechanisms of all that mutable variables reach: ``x = g(parents) + noise``.

    Parameters
    ----------
    components
        Parts of the causal graph.
    data
        One column for each variable and the target, environments pooled.
    regressor
        Fits each g; by default a `SmoothRegressor` of least leave-one-out error.
    add_noise
        Whether regenerated variables get the residuals of random samples, or are conditional means as in the released
        code.
    random_state
        Shuffles residuals and columns.

    Examples
    --------
    >>> from paperworks.inference import CausalGraph, parse_mutable
    >>> graph = CausalGraph.from_edges([("Y", "M"), ("Y", "S"), ("M", "S"), ("E", "M")])
    >>> Y, noise = np.random.default_rng(0).normal(size=(2, 500))
    >>> M = Y + noise
    >>> model = StructuralModel(parse_mutable(graph), {"Y": Y, "M": M, "S": Y - M})
    >>> cut = model.intervened()
    >>> bool(abs(np.corrcoef(cut["Y"], cut["M"])[0, 1]) < 0.15), bool(np.std(cut["S"] + cut["M"] - cut["Y"]) < 0.05)
    (True, True)
    """

    def __init__(
        self,
        components: GraphComponents,
        data: Columns,
        regressor: Any = None,
        add_noise: bool = True,
        random_state: np.random.Generator | int | None = 0,
    ) -> None:
        self.components, self.data = components, data
        self.graph = components.graph
        self.rng = np.random.default_rng(random_state)
        self.n = len(data[components.target])
        self._functions: dict[Node, TorchFunction] = {}
        self._noise: Columns = {}
        for node in self.graph.order:
            if node in components.De_M:
                inputs = self.stack(self.parents(node))
                fitted = clone(SmoothRegressor(standard_errors=0) if regressor is None else regressor).fit(
                    inputs, data[node]
                )
                self._functions[node] = torch_function(fitted, inputs)
                residuals = data[node] - fitted.predict(inputs)
                self._noise[node] = self.rng.permutation(residuals) if add_noise else np.zeros(self.n)

    def parents(self, node: Node) -> tuple[Node, ...]:
        """Return the parents of a variable without the environment."""
        return tuple(parent for parent in self.graph.parents(node) if parent != self.components.env)

    def stack(self, nodes: Iterable[Node], data: Mapping[Node, np.ndarray] | None = None) -> Float[np.ndarray, "n d"]:
        """Return the columns of some nodes side by side."""
        columns = [(self.data if data is None else data)[node] for node in nodes]
        return np.stack(columns, axis=1) if columns else np.empty((self.n, 0))

    def regenerate(
        self,
        mechanism: Callable[[Node, Float[Tensor, "... n p"]], Float[Tensor, "... n"]],
        rows: Tensor | None = None,
        cut: Cut = "X_M",
    ) -> dict[Node, Float[Tensor, "... n"]]:
        """Return all variables once some follow other mechanisms.

        Parameters
        ----------
        mechanism
            Gives the values of such a variable from those of its parents; leading axes are carried along.
        rows
            Indices of the samples; by default all.
        cut
            Which these are: the mutable ones, or the paper's ``X_do``.
        """
        chosen = torch.arange(self.n) if rows is None else rows
        parts = self.components
        changed, reached = (parts.X_M, parts.De_M) if cut == "X_M" else (parts.X_do, parts.De_do)
        values: dict[Node, Tensor] = {}
        for node in self.graph.order:
            if node in changed:
                values[node] = mechanism(node, stacked([values[p] for p in self.parents(node)], len(chosen)))
            elif node in reached:
                inputs = stacked([values[p] for p in self.parents(node)], len(chosen))
                values[node] = self._functions[node](inputs) + torch.from_numpy(self._noise[node])[chosen]
            elif node != parts.env:
                values[node] = torch.from_numpy(self.data[node])[chosen]
        return values

    def intervened(self, cut: Cut = "X_M") -> Columns:
        """Return a sample where each mutable variable is independent of all its causes: shuffled on its own."""
        values = self.regenerate(lambda node, _: torch.from_numpy(self.rng.permutation(self.data[node])), cut=cut)
        return {node: value.numpy() for node, value in values.items()}


def stacked(columns: list[Float[Tensor, "... n"]], n: int) -> Float[Tensor, "... n p"]:
    """Return columns side by side along a last axis, broadcast over leading ones."""
    if not columns:
        return torch.empty(n, 0, dtype=torch.float64)
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def is_named(X: Any) -> bool:
    """Say whether columns go by names: those of a data frame or a mapping."""
    return hasattr(X, "columns") or isinstance(X, Mapping)


def columns_of(X: Any, nodes: Iterable[Node], name: str = "X") -> Columns:
    """Return columns by name from a data frame or a mapping, or from an array with one column a node in their order.

    Raises
    ------
    ValueError
        For missing columns, a wrong number of them, other lengths than of one column, or what is no finite real number.
    """
    names = tuple(nodes)
    if is_named(X):
        held = X.columns if hasattr(X, "columns") else X
        if missing := [node for node in names if node not in held]:
            raise ValueError(f"X has no column {missing[0]!r}; it takes {', '.join(map(repr, names))}")
        columns = [np.asarray(X[node]) for node in names]
    else:
        array = X.toarray() if issparse(X) else np.asarray(X)
        if array.ndim != 2 or array.shape[1] != len(names):
            raise ValueError(
                f"X has shape {array.shape}; it takes a data frame or columns {', '.join(map(repr, names))}"
            )
        columns = list(array.T)
    found = {}
    for node, column in zip(names, columns, strict=True):
        if column.ndim != 1:
            raise ValueError(f"{name} has column {node!r} of shape {column.shape}; it takes one of shape (n,)")
        if np.iscomplexobj(column):
            raise ValueError(f"{name} has complex numbers in column {node!r}; it takes real ones")
        try:
            found[node] = np.ascontiguousarray(column, dtype=float)
        except (TypeError, ValueError):
            raise ValueError(f"{name} has something else than numbers in column {node!r}; it takes numbers") from None
        if not np.all(np.isfinite(found[node])):
            raise ValueError(f"{name} has NaN or infinite elements in column {node!r}; it takes finite numbers")
    if len({len(column) for column in found.values()}) > 1:
        lengths = ", ".join(f"{len(column)} of {node!r}" for node, column in found.items())
        raise ValueError(f"{name} has columns of different lengths, {lengths}; it takes the same number of samples")
    return found
