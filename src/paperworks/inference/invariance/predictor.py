"""Predictors that stay right under any mechanism of the mutable variables."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.dummy import DummyRegressor
from sklearn.utils.validation import _num_samples, check_is_fitted

from paperworks.core.validation import check_choice
from paperworks.inference.invariance.discrete import stable_subset
from paperworks.inference.invariance.graph import CausalGraph, Node
from paperworks.inference.invariance.interventions import Columns, Cut, StructuralModel, columns_of, is_named
from paperworks.inference.invariance.mutable import parse_mutable
from paperworks.inference.invariance.regression import SmoothRegressor, TorchFunction, torch_function


class StablePredictor(RegressorMixin, BaseEstimator):
    """``E[Y | x_subset, do(x_M)]``: a prediction from stable variables that no change of mutable mechanisms touches.

    It is regressed on a sample in which the mutable variables are shuffled, each on its own, and all that they reach is
    regenerated from fitted mechanisms: their dependence on their causes, which may change, is gone, and their effects
    are kept. Mutable variables stay inputs of the prediction.

    Parameters
    ----------
    graph
        Over the variables, the target and the environment's node, whose children are the mutable variables.
    subset
        Stable variables to use; None for all.
    regressor
        Any regressor of scikit-learn; by default `SmoothRegressor`. It is cloned.
    mechanism
        The regressor of what mutable variables reach on its causes; by default `SmoothRegressor`.
    target, env
        Names of the target and of the environment's node; None for `env` says that nothing is mutable.
    add_noise
        Whether regenerated variables get residuals; False is what the released code does.
    cut
        What is shuffled. ``X_M``: the mutable variables. ``X_do``: those of the paper's algorithm, mutable effects of
        the target and all they reach but other effects of it. Both are right for all stable variables together. For
        fewer only the first is, as these have to learn from what the second shuffles.
    random_state
        Seed of the shuffles.

    Attributes
    ----------
    subset_, inputs_
        The stable variables used, and these with the mutable ones: what the prediction is of.
    n_features_in_
        Number of variables, all that the graph has but the target and the environment's node.
    feature_names_in_
        Their names, where those are text and X has named columns.
    regressor_
        The fitted regressor.
    model_
        The data in a fixed order of rows, which makes a fit independent of theirs, and the fitted mechanisms.

    References
    ----------
    arXiv 2107.01876, algorithm 1.

    Examples
    --------
    >>> graph = CausalGraph.from_edges([("Y", "M"), ("Y", "S"), ("M", "S"), ("E", "M")])
    >>> Y, u, v = np.random.default_rng(0).normal(size=(3, 2000))
    >>> M = Y + u
    >>> model = StablePredictor(graph, ["S"]).fit({"M": M, "S": Y + M + v}, Y)
    >>> model.predict({"M": [0.0, 1.0], "S": [1.0, 2.0]}).round(1)  # (S - M) / 2
    array([0.5, 0.5])
    """

    def __init__(
        self,
        graph: CausalGraph,
        subset: Iterable[Node] | None = None,
        regressor: Any = None,
        mechanism: Any = None,
        target: Node = "Y",
        env: Node | None = "E",
        add_noise: bool = True,
        cut: Cut = "X_M",
        random_state: int = 0,
    ) -> None:
        self.graph = graph
        self.subset = subset
        self.regressor = regressor
        self.mechanism = mechanism
        self.target = target
        self.env = env
        self.add_noise = add_noise
        self.cut = cut
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike) -> "StablePredictor":
        """Fit to all environments pooled.

        Parameters
        ----------
        X
            All variables but the target: a data frame or a mapping from names to columns, or an array of shape (n, d)
            with columns in the order of the graph's nodes.
        y
            The target, of shape (n,).

        Returns
        -------
        StablePredictor
            The fitted predictor itself.

        Raises
        ------
        ValueError
            For missing columns, lengths that don't match, numbers that are complex or not finite, a graph without the
            target or the environment's node, or a subset with nodes that aren't stable variables.
        """
        model = structural_model(self, X, y)
        return self.fit_to(model, model.intervened(check_choice("cut", self.cut, get_args(Cut))))

    def fit_to(self, model: StructuralModel, sample: Columns) -> "StablePredictor":
        """Fit to a sample of an intervention on the mutable variables, drawn from `model`.

        Returns
        -------
        StablePredictor
            The fitted predictor itself.
        """
        parts = model.components
        self.model_ = model
        self.subset_ = parts.X_S if self.subset is None else stable_subset(parts, self.subset)
        self.inputs_ = (*self.subset_, *parts.X_M)
        self.n_features_in_ = len(parts.X_S) + len(parts.X_M)
        self._inputs = model.stack(self.inputs_, sample)
        chosen = SmoothRegressor() if self.regressor is None else self.regressor
        self.regressor_ = clone(chosen) if self.inputs_ else DummyRegressor()
        self.regressor_.fit(self._inputs, sample[parts.target])
        return self

    def predict(self, X: Any) -> Float[np.ndarray, " n"]:
        """Predict; X is as in `fit`, but a data frame or mapping needs the columns `inputs_` only.

        Returns
        -------
        ndarray of shape (n,)
            One prediction for each sample, in the unit of the target.
        """
        check_is_fitted(self, "regressor_")
        parts = self.model_.components
        named = is_named(X)
        columns = columns_of(X, self.inputs_ if named else variables(self.graph, parts.target, parts.env))
        if not self.inputs_:  # only the number of samples says anything
            any_column = next(iter(X.values()), ()) if isinstance(X, Mapping) else X
            return self.regressor_.predict(np.empty((_num_samples(any_column), 0)))
        return self.regressor_.predict(np.stack([columns[node] for node in self.inputs_], axis=1))

    def torch_function(self) -> TorchFunction:
        """Return the prediction as a function of tensors (..., inputs), or a smooth stand-in for it.

        Returns
        -------
        TorchFunction
            Maps inputs (..., inputs) to predictions (...).
        """
        check_is_fitted(self, "regressor_")
        return torch_function(self.regressor_, self._inputs)


def variables(graph: CausalGraph, target: Node, env: Node | None) -> tuple[Node, ...]:
    """Return the nodes that are columns of X."""
    return tuple(node for node in graph.nodes if node != target and (env is None or node != env))


def structural_model(estimator: Any, X: Any, y: ArrayLike) -> StructuralModel:
    """Fit the mechanisms that an estimator with `graph`, `target`, `env` and so on asks for, and note X's features.

    Rows are put in the order of their values, so that neither what is shuffled nor a regressor that depends on the
    order of its samples, as bagging does, makes the fit depend on the order they came in.
    """
    parts = parse_mutable(estimator.graph, estimator.target, estimator.env)
    names = variables(estimator.graph, estimator.target, estimator.env)
    data = columns_of(X, names)
    data |= columns_of({estimator.target: y}, [estimator.target], "y")
    if len({len(column) for column in data.values()}) > 1:
        lengths = ", ".join(f"{len(column)} of {node!r}" for node, column in data.items())
        raise ValueError(f"X and y have different lengths, {lengths}; they take the same number of samples")
    estimator.n_features_in_ = len(names)
    if is_named(X) and all(isinstance(name, str) for name in names):
        estimator.feature_names_in_ = np.array(names, dtype=object)
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_
    rows = np.lexsort([data[node] for node in (*names, estimator.target)])
    data = {node: column[rows] for node, column in data.items()}
    return StructuralModel(parts, data, estimator.mechanism, estimator.add_noise, estimator.random_state)
