"""Target surrogates for linear models, where inner steps cost a Gram matrix and the inner problem has a solution."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.optimization.schedules import ExponentialDecay, PolynomialDecay
from paperworks.optimization.targets.surrogates import target_lipschitz

LinearLoss = Literal["squared", "huber", "logistic", "cross_entropy"]
LinearSchedule = Literal["constant", "inv_sqrt", "exponential", "armijo"]
Matrix = Float[np.ndarray, "n p"]


class LinearSSOResult(NamedTuple):
    """A linear model, and what it cost.

    Parameters
    ----------
    weights
        Weights of the model, from features to outputs.
    n_oracle_calls
        Batches whose gradient was asked for.
    n_loss_calls
        Batches whose loss a line search asked for.
    last_eta
        The step that the run ended with.
    """

    weights: Float[np.ndarray, "d p"]
    n_oracle_calls: int
    n_loss_calls: int
    last_eta: float


def loss_and_gradient(loss: str, z: Matrix, y: Matrix) -> tuple[float, Matrix]:
    """Return the mean loss over rows and the gradients of single samples; y has the shape of z."""
    if loss == "squared":
        return float(((z - y) ** 2).sum() / (2 * len(z))), z - y
    if loss == "huber":
        g = np.clip(z - y, -1, 1)
        return float((g * (z - y) - g**2 / 2).sum() / len(z)), g
    if loss == "logistic":
        return float(np.logaddexp(0, -y * z).sum() / len(z)), -y * np.exp(-np.logaddexp(0, y * z))
    return float((logsumexp(z, axis=1) - (y * z).sum(1)).mean()), softmax(z, axis=1) - y


def fit_linear_sso(
    X: Float[np.ndarray, "n d"],
    y: Matrix,
    loss: LinearLoss,
    *,
    eta: float | None = None,
    steps: int = 200,
    inner: Literal["exact", "gd"] = "exact",
    inner_steps: int = 10,
    batch_size: int | None = None,
    eta_schedule: LinearSchedule = "constant",
    weights: Float[np.ndarray, "d p"] | None = None,
    before: int = 0,
    total_steps: int | None = None,
    random_state: int | np.random.Generator | None = None,
) -> LinearSSOResult:
    r"""Fit a linear model `X W` by surrogates in the space of its outputs.

    Inner gradient steps of size one over the surrogate's smoothness update outputs through the Gram matrix of the
    batch, at a cost that doesn't depend on the features. The exact inner solution is
    :math:`W - \eta X_B^\dagger g_B`, the projection of the moved outputs on those that the model has.

    Parameters
    ----------
    X
        Features, with a column of ones where there is an intercept.
    y
        Targets, one column an output: -1 or 1 for "logistic", one-hot rows for "cross_entropy".
    loss
        Mean over samples of one of the losses of `target_lipschitz`.
    eta
        Step size of the outputs; by default one over the loss's smoothness there.
    steps
        Calls of the oracle: gradients of a batch.
    inner
        "exact", or "gd" for gradient steps.
    inner_steps
        Gradient steps on each surrogate.
    batch_size
        Rows of a batch, drawn in passes over the data; None for all.
    eta_schedule
        "constant", "inv_sqrt", "exponential" to `eta / total_steps`, or "armijo", a line search on the batch's loss.
    weights
        Where to start, by default at 0.
    before
        Calls of the oracle that led to `weights`, after which schedules go on.
    total_steps
        The T of "exponential", by default `before + steps`.
    random_state
        Draws the batches.

    Returns
    -------
    LinearSSOResult
        Weights and counts.

    Raises
    ------
    ValueError
        If shapes don't match, or a number is out of range.

    References
    ----------
    arXiv:2302.02607, Algorithms 1 and 2.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> found = fit_linear_sso(X, X @ np.ones((3, 1)), "squared", steps=1)
    >>> found.weights[:, 0].round(6)
    array([1., 1., 1.])
    """
    check_choice("loss", loss, get_args(LinearLoss))
    check_choice("inner", inner, ("exact", "gd"))
    check_choice("eta_schedule", eta_schedule, get_args(LinearSchedule))
    eta = 1 / target_lipschitz(loss) if eta is None else check_number("eta", eta, gt=0)
    check_count("steps", steps)
    check_count("inner_steps", inner_steps)
    last = check_count("before", before, at_least=0) + steps
    total = check_count("total_steps", last if total_steps is None else total_steps)
    X, y = np.asarray(X, dtype=float), np.asarray(y, dtype=float)
    if X.ndim != 2 or y.ndim != 2 or len(X) != len(y) or not len(X):
        raise ValueError(f"X has shape {X.shape} and y {y.shape}; they take (n, d) and (n, p) with n >= 1")
    if not (np.isfinite(X).all() and np.isfinite(y).all()):
        raise ValueError("X or y has entries that are not finite; they take finite numbers")
    if loss == "logistic" and not (np.abs(y) == 1).all():
        raise ValueError("y has entries other than -1 and 1; it takes these with loss 'logistic'")
    if loss == "cross_entropy" and not (np.allclose(y.sum(1), 1) and (y >= 0).all()):
        raise ValueError("y has rows that are no probabilities; it takes one-hot rows with loss 'cross_entropy'")
    n = len(X)
    size = min(n, check_count("batch_size", n if batch_size is None else batch_size))
    W = np.zeros((X.shape[1], y.shape[1])) if weights is None else np.array(weights, dtype=float)
    if W.shape != (X.shape[1], y.shape[1]):
        raise ValueError(f"weights has shape {W.shape}; it takes {(X.shape[1], y.shape[1])}")
    rng = np.random.default_rng(random_state)
    decay = ExponentialDecay(eta, total, 1 / total) if eta_schedule == "exponential" else None
    schedule = decay or PolynomialDecay(eta, 0.5 if eta_schedule == "inv_sqrt" else 0.0)
    searched, loss_calls, order, whole = eta, 0, np.zeros(0, dtype=int), _Batch(X) if size == n else None
    for t in range(before, last):
        if whole is None:
            if len(order) < size:
                order = rng.permutation(n)
            rows, order = order[:size], order[size:]
            batch, targets = _Batch(X[rows]), y[rows]
        else:
            batch, targets = whole, y
        z = batch.X @ W
        value, g = loss_and_gradient(loss, z, targets)
        now = schedule(t)
        if eta_schedule == "armijo":
            now, calls = _searched(loss, z, targets, value, g, searched)
            searched, loss_calls = now, loss_calls + calls
        W = W - (now * batch.solve(g) if inner == "exact" else batch.descend(g, now, inner_steps))
    return LinearSSOResult(W, steps, loss_calls, now)


def _searched(loss: str, z: Matrix, y: Matrix, value: float, g: Matrix, last: float) -> tuple[float, int]:
    eta, decrease = min(1.8 * last, 1e4), float((g**2).sum()) / len(z)
    calls = 0
    while calls < 200:
        calls += 1
        if eta <= 1e-4 or loss_and_gradient(loss, z - eta * g, y)[0] <= value - 0.5 * eta * decrease:
            break
        eta *= 0.9
    return max(eta, 1e-4), calls


class _Batch:
    """Rows of features, with what their inner problems need."""

    def __init__(self, X: np.ndarray) -> None:
        self.X, self._factor = X, None
        self._gram: Any = None
        self._inverse: np.ndarray | None = None

    def descend(self, g: Matrix, eta: float, steps: int) -> np.ndarray:
        """Return by how much the weights fall in gradient steps of size one over the surrogate's smoothness."""
        b, d = self.X.shape
        if self._gram is None:
            self._gram = self.X @ self.X.T if b <= d else self.X.T @ self.X
            self._top = float(np.linalg.eigvalsh(self._gram)[-1])
        if self._top == 0:
            return np.zeros((d, g.shape[1]))
        step = eta / self._top  # times b, which the mean of the gradient divides by again
        if b <= d:
            total, moved = np.zeros_like(g), np.zeros_like(g)
            for _ in range(steps):
                residual = g - moved / eta
                total += residual
                moved = moved + step * (self._gram @ residual)
            return step * (self.X.T @ total)
        pull, fall = self.X.T @ g, np.zeros((d, g.shape[1]))
        for _ in range(steps):
            fall = fall + step * (pull - self._gram @ fall / eta)
        return fall

    def solve(self, g: Matrix) -> np.ndarray:
        """Return the least-norm weights whose outputs are nearest to g."""
        b, d = self.X.shape
        if self._inverse is None and self._factor is None:
            if b < d:
                gram = self.X @ self.X.T
                try:
                    self._factor = cho_factor(gram + 1e-12 * (np.trace(gram) / b or 1.0) * np.eye(b))
                except np.linalg.LinAlgError:
                    self._inverse = np.linalg.pinv(self.X)
            else:
                self._inverse = np.linalg.pinv(self.X)
        if self._factor is not None:
            return self.X.T @ cho_solve(self._factor, g)
        return self._inverse @ g


class _LinearSSO(BaseEstimator):
    """What both estimators share."""

    n_oracle_calls_: int
    _last_eta: float

    def __init__(
        self, eta: float | None = None, steps: int = 200, inner: Any = "gd", inner_steps: int = 20,
        batch_size: int | None = None, eta_schedule: Any = "constant", fit_intercept: bool = True,
        random_state: Any = None,
    ) -> None:  # fmt: skip
        self.eta = eta
        self.steps = steps
        self.inner = inner
        self.inner_steps = inner_steps
        self.batch_size = batch_size
        self.eta_schedule = eta_schedule
        self.fit_intercept = fit_intercept
        self.random_state = random_state

    def _fit(self, X: np.ndarray, y: Matrix, loss: Any, steps: int, weights: np.ndarray | None) -> Any:
        features = np.c_[X, np.ones(len(X))] if self.fit_intercept else X
        state = self.random_state
        rng = np.random.default_rng(state.randint(2**31) if isinstance(state, np.random.RandomState) else state)
        before = 0 if weights is None else self.n_oracle_calls_
        eta = self._last_eta if before and self.eta_schedule == "armijo" else self.eta
        found = fit_linear_sso(
            features, y, loss, eta=eta, steps=steps, inner=self.inner, inner_steps=self.inner_steps,
            batch_size=self.batch_size, eta_schedule=self.eta_schedule, weights=weights, before=before,
            total_steps=max(self.steps, before + steps), random_state=rng,
        )  # fmt: skip
        self._weights = found.weights
        d = X.shape[1]
        self.coef_ = found.weights[:d].T
        self.intercept_ = found.weights[d] if self.fit_intercept else np.zeros(y.shape[1])
        self.n_oracle_calls_, self._last_eta = before + found.n_oracle_calls, found.last_eta
        return self

    def _outputs(self, X: Any) -> Matrix:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=float, reset=False)
        return X @ self.coef_.T + self.intercept_


class SSOClassifier(ClassifierMixin, _LinearSSO):
    """Softmax regression by surrogates in the space of logits: many inner steps for each gradient of the loss.

    Parameters
    ----------
    eta
        Step size of the logits, by default 2, one over the smoothness of the loss.
    steps
        Gradients of the loss that `fit` asks for.
    inner
        "gd" or "exact", as in `fit_linear_sso`.
    inner_steps
        Gradient steps on each surrogate.
    batch_size
        Rows of a batch; None for all.
    eta_schedule
        "constant", "inv_sqrt", "exponential" or "armijo".
    fit_intercept
        Whether to add a constant feature.
    random_state
        Draws the batches.

    References
    ----------
    arXiv:2302.02607, Algorithm 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> SSOClassifier().fit(X, y).score(X, y) > 0.9
    True
    """

    def fit(self, X: Any, y: Any) -> "SSOClassifier":
        """Fit the model from 0.

        Parameters
        ----------
        X
            Features, of shape (n, d).
        y
            Classes, of shape (n,).

        Returns
        -------
        SSOClassifier
            The estimator itself.
        """
        X, y = validate_data(self, X, y, dtype=float)
        check_classification_targets(y)
        self.classes_ = unique_labels(y)
        if len(self.classes_) < 2:
            raise ValueError("y has 1 class; it takes 2 or more")
        return self._fit(X, self._one_hot(y), "cross_entropy", self.steps, None)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "SSOClassifier":
        """Take one oracle call's worth of steps on a batch; schedules go on from call to call.

        Parameters
        ----------
        X
            Features, of shape (n, d).
        y
            Classes, of shape (n,).
        classes
            All classes there are, at the first call; by default those of y.

        Returns
        -------
        SSOClassifier
            The estimator itself.

        Raises
        ------
        ValueError
            If there is one class alone, or y or `classes` has others than at the first call.
        """
        first = not hasattr(self, "_weights")
        X, y = validate_data(self, X, y, dtype=float, reset=first)
        check_classification_targets(y)
        if first:
            self.classes_ = unique_labels(y if classes is None else classes)
            if len(self.classes_) < 2:
                raise ValueError("classes has 1 class; it takes 2 or more")
        elif classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
            raise ValueError(f"classes is {classes}; it takes those of the first call, {self.classes_.tolist()}")
        if not np.isin(y, self.classes_).all():
            raise ValueError(f"y has classes {np.unique(y).tolist()}; it takes those of {self.classes_.tolist()}")
        return self._fit(X, self._one_hot(y), "cross_entropy", 1, None if first else self._weights)

    def _one_hot(self, y: np.ndarray) -> Matrix:
        found = LabelBinarizer().fit(self.classes_).transform(y).astype(float)
        return np.c_[1 - found, found] if len(self.classes_) == 2 else found

    def predict_proba(self, X: Any) -> Matrix:
        """Return the probabilities of classes.

        Parameters
        ----------
        X
            Features, of shape (n, d).

        Returns
        -------
        np.ndarray
            Probabilities, of shape (n, classes).
        """
        return softmax(self._outputs(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest classes.

        Parameters
        ----------
        X
            Features, of shape (n, d).

        Returns
        -------
        np.ndarray
            Classes, of shape (n,).
        """
        outputs = self._outputs(X)  # says so where nothing was fitted
        return self.classes_[outputs.argmax(1)]


class SSORegressor(RegressorMixin, _LinearSSO):
    """Linear regression with the squared loss by surrogates in the space of predictions.

    Parameters
    ----------
    eta
        Step size of the predictions, by default 1, one over the smoothness of the loss.
    steps
        Gradients of the loss that `fit` asks for.
    inner
        "gd" or "exact", as in `fit_linear_sso`.
    inner_steps
        Gradient steps on each surrogate.
    batch_size
        Rows of a batch; None for all.
    eta_schedule
        "constant", "inv_sqrt", "exponential" or "armijo".
    fit_intercept
        Whether to add a constant feature.
    random_state
        Draws the batches.

    References
    ----------
    arXiv:2302.02607, Algorithm 2.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> SSORegressor().fit(X, X @ np.ones(3) + 1).score(X, X @ np.ones(3) + 1) > 0.99
    True
    """

    def fit(self, X: Any, y: Any) -> "SSORegressor":
        """Fit the model from 0.

        Parameters
        ----------
        X
            Features, of shape (n, d).
        y
            Targets, of shape (n,).

        Returns
        -------
        SSORegressor
            The estimator itself.
        """
        X, y = validate_data(self, X, y, dtype=float, y_numeric=True)
        return self._fit(X, y[:, None], "squared", self.steps, None)

    def partial_fit(self, X: Any, y: Any) -> "SSORegressor":
        """Take one oracle call's worth of steps on a batch; schedules go on from call to call.

        Parameters
        ----------
        X
            Features, of shape (n, d).
        y
            Targets, of shape (n,).

        Returns
        -------
        SSORegressor
            The estimator itself.
        """
        first = not hasattr(self, "_weights")
        X, y = validate_data(self, X, y, dtype=float, y_numeric=True, reset=first)
        return self._fit(X, y[:, None], "squared", 1, None if first else self._weights)

    def predict(self, X: Any) -> np.ndarray:
        """Return the predictions.

        Parameters
        ----------
        X
            Features, of shape (n, d).

        Returns
        -------
        np.ndarray
            Predictions, of shape (n,).
        """
        return self._outputs(X)[:, 0]
