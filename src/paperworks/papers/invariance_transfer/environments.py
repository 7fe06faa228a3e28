"""The paper's simulated environments, and rivals that learn from several of them."""

from collections.abc import Callable, Iterable
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from scipy import special, stats

from paperworks.inference import CausalGraph

Columns = dict[str, np.ndarray]

STABLE_EDGES = "Y>X1 X6>X1 X5>X1 X6>X5 X1>X3 X3>X2 X8>X2 X2>X4 X7>X4 X8>X4 X8>X7"
MUTABLE_EDGES = "Y>X9 X9>X1 X3>X10 X5>X10 X8>X10 E>X9 E>X10"


def edges(text: str) -> list[tuple[str, str]]:
    """Read edges such as ``Y>X1``."""
    return [(cause, effect) for cause, effect in (edge.split(">") for edge in text.split())]


def paper_graph() -> CausalGraph:
    """Return the graph of the paper's simulation: eight stable variables, of which two are mutable besides."""
    return CausalGraph.from_edges(edges(f"{STABLE_EDGES} {MUTABLE_EDGES}"))


def simulate(rng: np.random.Generator, n: int = 100) -> list[Columns]:
    """Draw n samples in each of 20 environments, which differ in the strength of the mutable mechanisms."""

    def environment(strength: float) -> Columns:
        u = dict(zip(["Y", *(f"X{i}" for i in range(1, 11))], 0.1 * rng.standard_normal((11, n)), strict=True))
        Y, X6, X8 = u["Y"], u["X6"], u["X8"]
        X9 = strength * np.tanh(1.91 * Y) + u["X9"]
        X5 = special.expit(0.84 * X6) + u["X5"]
        X7 = -1.52 * X8 + u["X7"]
        X1 = special.expit(0.63 * Y - 0.58 * X9 + 1.51 * X6 + 1.13 * X5) + u["X1"]
        X3 = np.tanh(-0.95 * X1) + u["X3"]
        X2 = np.tanh(1.47 * X3 - 0.64 * X8) + u["X2"]
        X10 = strength * np.tanh(-1.2 * X5 + 1.33 * X3 + 0.64 * X8) + u["X10"]
        X4 = special.expit(1.42 * X2 + 0.99 * X7 + 0.72 * X8) + u["X4"]
        names = ("Y", "X1", "X2", "X3", "X4", "X5", "X6", "X7", "X8", "X9", "X10")
        return dict(zip(names, (Y, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10), strict=True))

    return [environment(e - 10.5) for e in range(1, 21)]


def pooled(environments: Iterable[Columns]) -> Columns:
    """Put the samples of environments together."""
    parts = list(environments)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def standardised(columns: Columns, by: Columns) -> Columns:
    """Subtract the means and divide by the deviations that the columns of `by` have."""
    return {name: (column - by[name].mean()) / by[name].std() for name, column in columns.items()}


Linear = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, " n"]]


def least_squares(X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"]) -> Linear:
    """Return ordinary least squares of centred data."""
    w = np.linalg.lstsq(X, y, rcond=None)[0]
    return lambda inputs: inputs @ w


def anchor_regression(
    X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], env: np.ndarray, gamma: float = 10.0
) -> Linear:
    """Return anchor regression (arXiv 1801.06229): what environments' means explain of the residuals weighs more."""
    onehot = (env[:, None] == np.unique(env)).astype(float)
    project = np.linalg.lstsq(onehot, np.column_stack([X, y]), rcond=None)[0]
    data = np.column_stack([X, y]) + (gamma**0.5 - 1) * onehot @ project
    return least_squares(data[:, :-1], data[:, -1])


def invariant_risk(
    X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], env: np.ndarray, penalty: float = 10.0
) -> Linear:
    """Return a linear model of invariant risk minimisation (arXiv 1907.02893, IRMv1)."""
    inputs, target = torch.from_numpy(X), torch.from_numpy(y)
    rows = [torch.from_numpy(np.flatnonzero(env == e)) for e in np.unique(env)]
    w = torch.zeros(X.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        predicted = inputs @ w
        residual = predicted - target
        # The gradient with respect to a scale of the prediction is 2 mean(residual prediction).
        slopes = torch.stack([2 * (residual[r] * predicted[r]).mean() for r in rows])
        total = (residual**2).mean() + penalty * (slopes**2).mean()
        total.backward()
        return total

    optimizer.step(loss)
    found = w.detach().numpy()
    return lambda inputs: inputs @ found


def invariant_prediction(
    X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], env: np.ndarray, level: float = 0.05
) -> tuple[int, ...]:
    """Return the inputs that invariant causal prediction (arXiv 1501.01332) keeps: those in every accepted subset.

    A subset is accepted where the residuals of its regression have the same mean and spread in all environments.
    """
    d = X.shape[1]
    common: set[int] | None = None
    for size in range(d + 1):
        for subset in combinations(range(d), size):
            if common is not None and common <= set(subset):
                continue  # it can't make the intersection smaller
            residual = y - least_squares(X[:, subset], y)(X[:, subset])
            groups = [residual[env == e] for e in np.unique(env)]
            p = 2 * min(stats.f_oneway(*groups).pvalue, stats.levene(*groups).pvalue)
            if p > level:
                common = set(subset) if common is None else common & set(subset)
                if not common:
                    return ()
    return tuple(sorted(common or ()))
