"""Tune a classifier whose accuracy takes time to measure, and find the best of a noisy process in few experiments."""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from paperworks.optimization import BayesianOptimizer, Continuous, minimize

X, y = load_breast_cancer(return_X_y=True)


def error(point: np.ndarray) -> float:
    model = make_pipeline(StandardScaler(), SVC(C=point[0], gamma=point[1]))
    return 1 - cross_val_score(model, X[:200], y[:200], cv=3).mean()


space = [Continuous(1e-2, 1e4, log=True), Continuous(1e-5, 10, log=True)]
result = minimize(error, space, n_calls=12, random_state=0)
print(f"{result.nfev} trials: error {result.func_vals.min():.3f} at C={result.x[0]:.3g}, gamma={result.x[1]:.3g}")

rng = np.random.default_rng(0)
optimizer = BayesianOptimizer([(0, 10), (0, 10)], acq="noisy_ei", random_state=0)
for _ in range(15):
    x = optimizer.ask()
    yields = 80 - (x[:, 0] - 6) ** 2 - 0.5 * (x[:, 1] - 3) ** 2 + 2 * rng.standard_normal(len(x))
    optimizer.tell(x, yields)
print(f"15 noisy experiments: best at {np.round(optimizer.best.x, 1)}, yield about {optimizer.best.y:.0f}")
