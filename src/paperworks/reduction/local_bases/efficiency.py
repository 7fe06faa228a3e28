"""Whether a dictionary of local bases can pay, told before any classifier is trained."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paperworks.core.validation import check_count, check_number
from paperworks.reduction.local_bases.bases import LocalReducedBases, Snapshots
from paperworks.reduction.local_bases.dictionary import as_rows, check_classifier
from paperworks.reduction.local_bases.dissimilarity import projection_errors


@dataclass(frozen=True)
class Efficiency:
    r"""What a dictionary of K bases of N modes promises, from held-out simulations.

    With accuracy a of the classifier the expected error is :math:`a\,\varepsilon_{ok} + (1-a)\,\varepsilon_{bad}`;
    it is below the global basis's where :math:`a G > (1-a) L`, with the gain :math:`G = \varepsilon_g -
    \varepsilon_{ok}` and the loss :math:`L = \varepsilon_{bad} - \varepsilon_g`.

    Attributes
    ----------
    n_clusters, n_modes : int
        The size of the dictionary.
    local_error : float
        The mean error on the right basis.
    wrong_error : float
        The mean error on the bases that a classifier confuses with it; without inputs, on all others.
    any_wrong_error : float
        The mean error on all other bases, which is pessimistic: classifiers confuse neighbours.
    global_error : float
        The mean error on one basis of as many modes.
    accuracy : float or None
        The accuracy of the cheap classifier; None where there are no inputs.
    confused_error : float or None
        The mean error with the cheap classifier's own choices, all confusions counted; None without inputs.
    smallest_cluster : int
        How many simulations the smallest cluster had.

    Examples
    --------
    >>> found = Efficiency(4, 5, 0.1, 0.5, 0.6, 0.2, 0.9, 0.13, 20)
    >>> round(found.required_accuracy, 3), round(found.coefficient, 3), found.pays
    (0.75, 3.0, 'yes')
    """

    n_clusters: int
    n_modes: int
    local_error: float
    wrong_error: float
    any_wrong_error: float
    global_error: float
    accuracy: float | None
    confused_error: float | None
    smallest_cluster: int

    @property
    def gain(self) -> float:
        """What the right basis saves."""
        return self.global_error - self.local_error

    @property
    def loss(self) -> float:
        """What a wrong basis costs."""
        return self.wrong_error - self.global_error

    @property
    def required_accuracy(self) -> float | None:
        """The accuracy above which the dictionary pays; 0 where it always does, None where it never does."""
        if self.gain <= 0:
            return None
        return max(self.loss, 0.0) / (self.gain + max(self.loss, 0.0))

    @property
    def coefficient(self) -> float | None:
        """The efficiency coefficient: the dictionary pays where it is above 1. None without an accuracy."""
        if self.accuracy is None:
            return None
        if self.gain <= 0:
            return 0.0
        cost = (1 - self.accuracy) * max(self.loss, 0.0)
        return self.accuracy * self.gain / cost if cost > 0 else np.inf

    @property
    def expected_error(self) -> float | None:
        """The expected error with the accuracy; None without one."""
        if self.accuracy is None:
            return None
        return self.accuracy * self.local_error + (1 - self.accuracy) * self.wrong_error

    @property
    def expected_gain(self) -> float | None:
        """By which factor the expected error is below the global basis's; None without an accuracy."""
        return None if self.expected_error is None else self.global_error / max(self.expected_error, 1e-300)

    @property
    def pays(self) -> str:
        """Whether it pays: "always", "never", "yes", "no", or "above" an accuracy that isn't known."""
        if self.gain <= 0:
            return "never"
        if self.loss <= 0:
            return "always"
        if self.coefficient is None:
            return "above"
        return "yes" if self.coefficient > 1 else "no"


def efficiency_criterion(
    U: Snapshots,
    inputs: Any = None,
    n_clusters: Sequence[int] = (2, 4, 8),
    n_modes: Sequence[int] = (2, 5, 10),
    *,
    bases: LocalReducedBases | None = None,
    classifier: Any = None,
    accuracy: float | None = None,
    cv: int = 5,
    random_state: int = 0,
) -> list[Efficiency]:
    """Judge dictionaries of several sizes by cross-validation, before any classifier of a ROM-net is trained.

    In each fold the clusters and the bases are those of the other folds alone, as the errors of simulations that a
    basis was made from are too small, and more so the more clusters there are.

    Parameters
    ----------
    U
        Simulations, as `LocalReducedBases` takes them; results of a cheap, simplified model will do.
    inputs
        What each was made from, as rows; None, the default, leaves the accuracy open.
    n_clusters, n_modes
        The numbers K and N to look at; (2, 4, 8) and (2, 5, 10) by default.
    bases
        A `LocalReducedBases` with the other options; None, the default, takes its defaults.
    classifier
        The cheap classifier whose accuracy and confusions are taken; None, the default, takes the 5 nearest neighbours
        of the standardised inputs.
    accuracy
        An accuracy that is known or hoped for, in place of the cheap classifier's; None, the default, takes that.
    cv
        How many folds; 5 by default.
    random_state
        The seed of the folds; 0 by default.

    Returns
    -------
    list of Efficiency
        One for each K and N, K outer.

    Raises
    ------
    ValueError
        Where there are fewer simulations than folds or clusters, or inputs for other simulations.

    References
    ----------
    Daniel et al., arXiv:2103.13683. The algebra of the coefficient follows from its stated purpose.

    Examples
    --------
    >>> import numpy as np
    >>> x, centres = np.linspace(0, 1, 100), np.random.default_rng(0).uniform(0.2, 0.8, size=(80, 1))
    >>> U = np.exp(-(((x - centres) / 0.1) ** 2))
    >>> found = efficiency_criterion(U, centres, [4], [3])[0]
    >>> found.pays, bool(found.required_accuracy < found.accuracy)
    ('yes', True)
    """
    check_count("cv", cv, at_least=2, at_most=len(U))
    for name, numbers in (("n_clusters", n_clusters), ("n_modes", n_modes)):
        if np.ndim(numbers) != 1 or not len(numbers):
            raise ValueError(f"{name} is {numbers!r}; it takes a list of numbers to look at")
    sizes = [check_count("n_clusters", k) for k in n_clusters]
    modes = [check_count("n_modes", n) for n in n_modes]
    check_classifier(classifier)
    if bases is not None and not isinstance(bases, LocalReducedBases):
        raise TypeError(f"bases is {type(bases).__name__}; it takes a LocalReducedBases, or None")
    if accuracy is not None:
        check_number("accuracy", accuracy, ge=0, le=1)
    rows = None if inputs is None else np.asarray(as_rows(inputs))
    if not isinstance(U, (list, tuple)) or np.ndim(U[0]) != 2:  # not a list of trajectories
        U = np.asarray(U)
    if rows is not None and len(rows) != len(U):
        raise ValueError(f"inputs are {len(rows)}; it takes one for each simulation, {len(U)}")
    neighbours = min(5, len(U) - -(-len(U) // cv))  # no more than a fold leaves to learn from
    cheap = make_pipeline(StandardScaler(), KNeighborsClassifier(neighbours)) if classifier is None else classifier
    template = clone(LocalReducedBases(random_state=random_state) if bases is None else bases)
    folds = list(KFold(cv, shuffle=True, random_state=random_state).split(np.arange(len(U))))
    return [found for k in sizes for found in _judge(U, rows, k, modes, template, cheap, accuracy, folds)]


def _judge(
    U: Any,
    rows: np.ndarray | None,
    k: int,
    modes: list[int],
    template: Any,
    cheap: Any,
    accuracy: float | None,
    folds: Any,
) -> list[Efficiency]:
    """Judge the dictionaries of one number of clusters; the modes of a smaller basis are the first of a larger."""
    seen: dict[int, list[tuple[np.ndarray, ...]]] = {n: [] for n in modes}
    smallest = len(U)
    for train, test in folds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # clusters smaller than n_modes are counted below
            local = clone(template).set_params(n_clusters=k, n_modes=max(modes)).fit(_take(U, train))
        held = _take(U, test)
        blocks = [np.atleast_2d(u) for u in held]
        labels = local.predict(held)
        smallest = min(smallest, int(np.bincount(local.labels_).min()))
        chosen = None
        if rows is not None:
            chosen = clone(cheap).fit(rows[train], local.labels_).predict(rows[test]) if local.labels_.max() else labels
        for n in modes:
            table = projection_errors(blocks, [B[:n] for B in local.bases_], local.inner_product)
            one = projection_errors(blocks, [local.global_basis_[:n]], local.inner_product)[:, 0]
            seen[n].append(_of_fold(table, labels, chosen, one))
    return [
        _gather(
            k, n, [np.concatenate(part) for part in zip(*seen[n], strict=True)], accuracy, smallest, rows is not None
        )
        for n in modes
    ]


def _of_fold(
    table: np.ndarray, labels: np.ndarray, chosen: np.ndarray | None, one: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return each held-out simulation's errors, right, mean wrong, taken and global, and whether it was confused."""
    m, k = table.shape
    right = table[np.arange(m), labels]
    wrong = (table.sum(1) - right) / (k - 1) if k > 1 else right
    if chosen is None:  # nothing tells which bases would be confused: all others count
        return right, wrong, wrong, one, np.ones(m, dtype=bool)
    return right, wrong, table[np.arange(m), chosen], one, chosen != labels


def _gather(k: int, n: int, parts: list[np.ndarray], accuracy: float | None, smallest: int, known: bool) -> Efficiency:
    right, wrong, taken, one, confused = parts
    return Efficiency(
        n_clusters=k,
        n_modes=n,
        local_error=float(right.mean()),
        wrong_error=float(taken[confused].mean() if confused.any() else wrong.mean()),
        any_wrong_error=float(wrong.mean()),
        global_error=float(one.mean()),
        accuracy=accuracy if accuracy is not None else float(1 - confused.mean()) if known else None,
        confused_error=float(taken.mean()) if known else None,
        smallest_cluster=smallest,
    )


def _take(U: Any, which: np.ndarray) -> Any:
    return U[which] if isinstance(U, np.ndarray) else [U[i] for i in which]


def calibrate(
    table: Sequence[Efficiency],
    *,
    budget: float,
    n_simulations: int,
    simplified_cost: float,
    full_cost: float,
    full_per_cluster: int,
) -> Efficiency:
    """Choose the dictionary with the largest expected gain whose training is within a budget.

    Parameters
    ----------
    table
        What `efficiency_criterion` found, with accuracies.
    budget
        What training may cost, in any unit.
    n_simulations
        How many simplified simulations are clustered.
    simplified_cost, full_cost
        What one simplified and one high-fidelity simulation cost, in the same unit.
    full_per_cluster
        How many high-fidelity simulations each cluster gets; a basis has no more modes than these have snapshots.

    Returns
    -------
    Efficiency
        The chosen size.

    Raises
    ------
    ValueError
        Where no size is within the budget, or none pays, or accuracies are not known.

    Examples
    --------
    >>> small = Efficiency(2, 5, 0.1, 0.3, 0.4, 0.2, 0.9, 0.12, 30)
    >>> large = Efficiency(8, 5, 0.05, 0.3, 0.4, 0.2, 0.9, 0.08, 9)
    >>> costs = dict(n_simulations=100, simplified_cost=0.01, full_cost=1.0, full_per_cluster=6)
    >>> calibrate([small, large], budget=20, **costs).n_clusters
    2
    >>> calibrate([small, large], budget=60, **costs).n_clusters
    8
    """
    check_number("budget", budget, gt=0)
    check_number("simplified_cost", simplified_cost, ge=0)
    check_number("full_cost", full_cost, ge=0)
    check_count("n_simulations", n_simulations)
    check_count("full_per_cluster", full_per_cluster)
    if not len(table):
        raise ValueError("table is empty; it takes what efficiency_criterion returns")
    if any(cell.expected_gain is None for cell in table):
        raise ValueError("table has sizes without an accuracy; give efficiency_criterion inputs or an accuracy")
    filled = [cell for cell in table if cell.n_modes <= min(full_per_cluster, cell.smallest_cluster)]
    if not filled:
        raise ValueError(
            f"table has no size whose clusters have as many simulations as modes, of {full_per_cluster} each"
            " (full_per_cluster) and in the smallest cluster; it takes one with fewer modes or clusters"
        )
    fixed = n_simulations * simplified_cost
    within = [cell for cell in filled if fixed + cell.n_clusters * full_per_cluster * full_cost <= budget]
    if not within:
        least = min(cell.n_clusters for cell in filled) * full_per_cluster * full_cost + fixed
        raise ValueError(f"budget is {budget:g}; no size of table fits it, whose cheapest costs {least:g}")
    best = max(within, key=lambda cell: cell.expected_gain or 0.0)
    if best.pays in ("no", "never"):
        raise ValueError("table has no size within the budget that pays: one global basis is the better choice")
    return best
