"""The choice of the stable variables whose predictor has the smallest worst case."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from paperworks.core.validation import check_choice
from paperworks.inference.invariance.classes import EquivalenceClass, core, stable_equivalence_classes
from paperworks.inference.invariance.graph import CausalGraph, Node
from paperworks.inference.invariance.interventions import Cut
from paperworks.inference.invariance.predictor import StablePredictor, structural_model
from paperworks.inference.invariance.worst_case import WorstCase, WorstCaseRisk

Evaluate = Callable[[Iterable[Iterable[Node]]], list[tuple[StablePredictor, WorstCase]]]
Search = Literal["classes", "greedy", "exhaustive", "full"]


class SubsetRisk(NamedTuple):
    """A subset of the stable variables and the worst-case risk of its predictor.

    Examples
    --------
    >>> SubsetRisk(("S",), 0.5).risk
    0.5
    """

    subset: tuple[Node, ...]
    risk: float


class MinimaxInvariantRegressor(RegressorMixin, BaseEstimator):
    """Predicts from the stable variables whose worst case over mutable mechanisms is the smallest.

    Where the graph says that the full set is optimal, it is used without a search. Else each class of equivalent
    subsets is represented by its smallest, and the risks of all representatives are maximised together.

    Parameters
    ----------
    graph
        As in `StablePredictor`.
    search
        ``classes``: as above. ``greedy``: beginning at the empty set, take in the class with one more variable that
        lowers the worst case most, as long as any does; for graphs with too many classes. ``exhaustive``: all subsets.
        ``full``: the full set, whatever the graph says.
    worst_case
        The maximisation; by default `WorstCaseRisk` as it is.
    regressor, mechanism, target, env, add_noise, cut, random_state
        As in `StablePredictor`.

    Attributes
    ----------
    subset_
        The chosen stable variables.
    risks_
        List of `SubsetRisk`, the smallest risk first, which ``pandas.DataFrame`` takes as rows. Empty where nothing was
        searched.
    predictors_
        The fitted `StablePredictor` of each of them.
    worst_case_
        The `WorstCase` of the choice, or None.
    predictor_
        The fitted `StablePredictor`.
    n_features_in_, feature_names_in_
        As in `StablePredictor`.

    References
    ----------
    arXiv 2107.01876, section 4 and algorithm 1.

    Examples
    --------
    >>> graph = CausalGraph.from_edges([("Y", "M"), ("Y", "S"), ("M", "S"), ("E", "M")])
    >>> Y, u, v = np.random.default_rng(0).normal(size=(3, 1000))
    >>> M = Y + u
    >>> X = {"M": M, "S": Y + M + v / 2}
    >>> model = MinimaxInvariantRegressor(graph, worst_case=WorstCaseRisk(steps=30)).fit(X, Y)
    >>> model.subset_, [risk.subset for risk in model.risks_]
    (('S',), [('S',), ()])
    """

    def __init__(
        self,
        graph: CausalGraph,
        search: Search = "classes",
        worst_case: WorstCaseRisk | None = None,
        regressor: Any = None,
        mechanism: Any = None,
        target: Node = "Y",
        env: Node | None = "E",
        add_noise: bool = True,
        cut: Cut = "X_M",
        random_state: int = 0,
    ) -> None:
        self.graph = graph
        self.search = search
        self.worst_case = worst_case
        self.regressor = regressor
        self.mechanism = mechanism
        self.target = target
        self.env = env
        self.add_noise = add_noise
        self.cut = cut
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike) -> "MinimaxInvariantRegressor":
        """Fit to all environments pooled; X and y are as in `StablePredictor.fit`, with the same errors.

        Parameters
        ----------
        X
            Samples with named columns, as in `StablePredictor.fit`.
        y
            Targets of shape (n,).

        Returns
        -------
        MinimaxInvariantRegressor
            The fitted regressor itself.
        """
        check_choice("search", self.search, get_args(Search))
        model = structural_model(self, X, y)
        parts, sample = model.components, model.intervened(check_choice("cut", self.cut, get_args(Cut)))

        def fitted(subset: Iterable[Node]) -> StablePredictor:
            predictor = StablePredictor(
                self.graph, subset, self.regressor, self.mechanism, self.target, self.env, self.add_noise, self.cut,
                self.random_state,
            )  # fmt: skip
            if hasattr(self, "feature_names_in_"):
                predictor.feature_names_in_ = self.feature_names_in_
            return predictor.fit_to(model, sample)

        def evaluate(subsets: Iterable[Iterable[Node]]) -> list[tuple[StablePredictor, WorstCase]]:
            predictors = [fitted(subset) for subset in subsets]
            worst = (self.worst_case or WorstCaseRisk()).evaluate_all(predictors)
            return list(zip(predictors, worst, strict=True))

        if self.search == "full" or not parts.X_M or (self.search != "exhaustive" and parts.is_full_set):
            self.predictor_, self.worst_case_, found = fitted(parts.X_S), None, []
        else:
            if self.search == "exhaustive":
                everything = EquivalenceClass(frozenset(), frozenset(parts.X_S))
                found = evaluate(everything)
            elif self.search == "classes":
                found = evaluate(one.core for one in stable_equivalence_classes(self.graph, self.target, parts.X_S))
            else:
                found = self._greedy(parts.X_S, evaluate)
            found.sort(key=lambda pair: pair[1].risk)
            self.predictor_, self.worst_case_ = found[0]
        self.subset_ = self.predictor_.subset_
        self.predictors_ = [predictor for predictor, _ in found]
        self.risks_ = [SubsetRisk(predictor.subset_, worst.risk) for predictor, worst in found]
        return self

    def predict(self, X: Any) -> Float[np.ndarray, " n"]:
        """Predict with the chosen subset; X is as in `StablePredictor.predict`.

        Returns
        -------
        ndarray of shape (n,)
            One prediction for each sample, in the unit of the target.
        """
        check_is_fitted(self, "predictor_")
        return self.predictor_.predict(X)

    def _greedy(self, stable: tuple[Node, ...], evaluate: Evaluate) -> list[tuple[StablePredictor, WorstCase]]:
        """Grow a subset by the variable that lowers its worst case most; subsets of one class are tried once."""
        subset: frozenset[Node] = frozenset()
        found = evaluate([subset])
        tried, lowest = {subset}, found[0][1].risk
        while True:
            grown = {core(self.graph, self.target, subset | {node}, stable) for node in stable} - tried
            if not grown:
                return found
            step = evaluate(sorted(grown, key=repr))
            tried |= grown
            found += step
            predictor, worst = min(step, key=lambda pair: pair[1].risk)
            if worst.risk >= lowest:
                return found
            subset, lowest = frozenset(predictor.subset_), worst.risk
