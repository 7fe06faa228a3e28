"""A ROM-net: a dictionary of local bases, and a classifier that chooses the basis from the input."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks.core.validation import check_choice
from paperworks.reduction.local_bases.bases import LocalReducedBases, Snapshots

RULES = ("classifier", "medoid", "best")


class ROMNet(BaseEstimator):
    """Local bases with a classifier that tells from the input of a simulation which basis it takes.

    Parameters
    ----------
    local_bases
        The dictionary, which is fitted anew.
    classifier
        Any classifier of scikit-learn; None, the default, takes a random forest. A network of torch is one through
        skorch's `NeuralNetClassifier`.

    Attributes
    ----------
    local_bases_ : LocalReducedBases
        The fitted dictionary.
    classifier_ : object
        The fitted classifier; None where there is one cluster.

    References
    ----------
    Daniel et al., "Physics-informed cluster analysis and a priori efficiency criterion for the construction of local
    reduced-order bases", arXiv:2103.13683, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> x, centres = np.linspace(0, 1, 100), np.random.default_rng(0).uniform(0.2, 0.8, size=(80, 1))
    >>> U = np.exp(-(((x - centres) / 0.1) ** 2))
    >>> net = ROMNet(LocalReducedBases(4, 3, random_state=0)).fit(centres, U)
    >>> bool(net.errors(centres, U).mean() < net.global_errors(U).mean() / 2)
    True
    """

    def __init__(self, local_bases: LocalReducedBases, classifier: Any = None) -> None:
        self.local_bases = local_bases
        self.classifier = classifier

    def fit(self, inputs: Any, U: Snapshots) -> "ROMNet":
        """Group simulations, find their bases, and learn the groups from the inputs.

        Parameters
        ----------
        inputs
            What each simulation was made from, as rows (m, d); fields and images are flattened.
        U
            The simulations, as `LocalReducedBases` takes them.

        Returns
        -------
        ROMNet
            The fitted model.

        Raises
        ------
        ValueError
            Where the numbers of inputs and simulations differ.
        """
        found = validate_data(self, as_rows(inputs))
        if len(found) != len(U):
            raise ValueError(f"inputs are {len(found)}; it takes one for each simulation, {len(U)}")
        if not isinstance(self.local_bases, LocalReducedBases):
            raise TypeError(f"local_bases is {type(self.local_bases).__name__}; it takes a LocalReducedBases")
        check_classifier(self.classifier)
        self.local_bases_ = clone(self.local_bases).fit(U)
        labels = self.local_bases_.labels_
        chosen = RandomForestClassifier(random_state=0) if self.classifier is None else self.classifier
        self.classifier_ = clone(chosen).fit(found, labels) if labels.max() else None
        return self

    def predict(self, inputs: Any) -> Int[np.ndarray, " m"]:
        """Return the number of the basis for each input.

        Parameters
        ----------
        inputs
            Inputs as rows (m, d).

        Returns
        -------
        np.ndarray
            Numbers of clusters.
        """
        check_is_fitted(self)
        found = validate_data(self, as_rows(inputs), reset=False)
        return np.zeros(len(found), dtype=int) if self.classifier_ is None else self.classifier_.predict(found)

    def basis(self, inputs: Any) -> list[Float[np.ndarray, "_ n"]]:
        """Return the basis for each input, its modes as rows.

        Parameters
        ----------
        inputs
            Inputs as rows (m, d).

        Returns
        -------
        list of np.ndarray
            Bases of the dictionary.
        """
        return [self.local_bases_.bases_[label] for label in self.predict(inputs)]

    def errors(self, inputs: Any, U: Snapshots, rule: str = "classifier") -> Float[np.ndarray, " m"]:
        """Return the relative errors of projecting simulations onto the bases that are chosen for them.

        Parameters
        ----------
        inputs
            Inputs as rows; only ``"classifier"`` looks at them.
        U
            The simulations, one for each input.
        rule
            ``"classifier"``, the default; ``"medoid"``: of the nearest medoid, which a cheap simulation could tell;
            ``"best"``: of the basis with the least error, which nothing can tell beforehand.

        Returns
        -------
        np.ndarray
            For each simulation its error.
        """
        check_choice("rule", rule, RULES)
        check_is_fitted(self)
        table = self.local_bases_.projection_errors(U)
        if rule == "best":
            return table.min(1)
        labels = self.predict(inputs) if rule == "classifier" else self.local_bases_.predict(U)
        if len(labels) != len(table):
            raise ValueError(f"inputs are {len(labels)}; it takes one for each simulation, {len(table)}")
        return table[np.arange(len(table)), labels]

    def global_errors(self, U: Snapshots) -> Float[np.ndarray, " m"]:
        """Return the relative errors on the one global basis of as many modes.

        Parameters
        ----------
        U
            The simulations, as in `fit`.

        Returns
        -------
        np.ndarray
            For each simulation its error.
        """
        check_is_fitted(self)
        local = self.local_bases_
        one = clone(local).set_params(n_clusters=1)
        one.bases_, one.n_features_in_ = [local.global_basis_], local.n_features_in_
        return one.projection_errors(U)[:, 0]


def as_rows(inputs: Any) -> Any:
    """Return inputs as rows: fields and images are flattened, tensors become arrays.

    Parameters
    ----------
    inputs
        Inputs, one along the first axis each.
    """
    found = inputs.numpy(force=True) if isinstance(inputs, torch.Tensor) else inputs
    found = np.asarray(found) if isinstance(found, (list, tuple)) else found
    return np.reshape(found, (len(found), -1)) if np.ndim(found) > 2 else found


def check_classifier(classifier: Any) -> None:
    """Refuse what is neither None nor a classifier of scikit-learn's kind.

    Parameters
    ----------
    classifier
        What an argument of that name got.
    """
    if classifier is not None and not all(hasattr(classifier, name) for name in ("fit", "predict", "get_params")):
        raise TypeError(f"classifier is {classifier!r}; it takes a classifier of scikit-learn's kind, or None")
