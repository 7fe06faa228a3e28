"""
Tune a model when each trial is costly
======================================

You have a model with two numbers to choose, and each choice costs a cross-validation: some minutes for your data. A
fine grid takes a night. You want a good choice in some twenty trials, and to know how near to the best it is.

Bayesian optimisation fits a Gaussian process to the trials so far and asks where an improvement is likeliest. This
tutorial runs it on a regression that is small enough to know the whole grid, so that we can check the answer, and sets
it beside random search with the same number of trials.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import KFold, cross_val_score

from paperworks.optimization import BayesianOptimizer, Continuous, minimize

# %%
# The costly function
# -------------------
# Kernel ridge regression of the course of diabetes from ten measurements of 442 patients. The folds are always the
# same, so that a point has one value. ``alpha`` and ``gamma`` go over decades, which is said by ``log=True``: the
# search then takes a factor of ten for the same step everywhere.

X, y = load_diabetes(return_X_y=True)
X, y = X / X.std(axis=0), y - y.mean()
folds = KFold(3, shuffle=True, random_state=0)
space = [Continuous(1e-4, 1e3, log=True), Continuous(1e-5, 1e1, log=True)]


def error(point) -> float:
    """Return the cross-validated error of the model with alpha and gamma, in the unit of the target."""
    model = KernelRidge(alpha=point[0], gamma=point[1], kernel="rbf")
    return -cross_val_score(model, X, y, cv=folds, scoring="neg_root_mean_squared_error").mean()


# %%
# Twenty trials
# -------------
# :func:`~paperworks.optimization.minimize` has SciPy's result: the best point ``x``, its value ``fun``, and all
# trials.

trials = 20
began = time.perf_counter()
result = minimize(error, space, n_calls=trials, noise=0.0, random_state=0)
print(f"error {result.fun:.2f} at alpha = {result.x[0]:.3g}, gamma = {result.x[1]:.3g}, after {result.nfev} trials")
print(f"took {time.perf_counter() - began:.1f} s, most of it not in the trials: they are cheap here, yours are not")

# %%
# Check it against the grid and against chance
# --------------------------------------------
# The grid of 16 by 16 points gives what is to be found. Random search, the baseline that is hard to beat, gets as many
# trials as we had, in many repetitions; they are looked up on the grid, as they would cost too much otherwise.

alphas, gammas = np.logspace(-4, 3, 16), np.logspace(-5, 1, 16)
table = np.array([[error((alpha, gamma)) for gamma in gammas] for alpha in alphas])
runs = [minimize(error, space, n_calls=trials, noise=0.0, random_state=seed) for seed in (1, 2)]
ours = np.array([np.minimum.accumulate(r.func_vals) for r in (result, *runs)])
rng = np.random.default_rng(0)
chance = np.minimum.accumulate(rng.choice(table.ravel(), (2000, trials)), axis=1)
best = table.min()
print(f"best of the grid's {table.size} points: {best:.2f}")
for k in (10, 15, 20):
    above, random = ours[:, k - 1] - best, chance[:, k - 1] - best
    print(f"after {k} trials, above that: ours {above.mean():.2f} (worst of 3: {above.max():.2f}),", end=" ")
    print(f"random search {random.mean():.2f} (nine in ten below {np.quantile(random, 0.9):.2f})")

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
mesh = axes[0].pcolormesh(gammas, alphas, table, shading="nearest", cmap="viridis_r", vmax=best + 30)
points = np.array([list(x) for x in result.x_iters], dtype=float)
axes[0].scatter(points[:, 1], points[:, 0], c="white", edgecolors="black", s=40)
axes[0].scatter(result.x[1], result.x[0], marker="*", c="C1", edgecolors="black", s=220, label="found")
axes[0].set(xscale="log", yscale="log", xlabel="gamma", ylabel="alpha", title="Trials over the true error")
axes[0].legend(loc="upper left")
figure.colorbar(mesh, ax=axes[0], label="cross-validated error", extend="max")
steps = np.arange(1, trials + 1)
axes[1].fill_between(steps, *np.quantile(chance, [0.1, 0.9], axis=0) - best, alpha=0.25, color="C1")
axes[1].plot(steps, chance.mean(0) - best, "C1--", label="random search (mean, 10 % to 90 %)")
axes[1].plot(steps, ours.T - best, "C0", alpha=0.35)
axes[1].plot(steps, ours.mean(0) - best, "C0", linewidth=2, label="Bayesian optimisation (3 runs, mean)")
axes[1].set(xlabel="trials", ylabel="error above the best of the grid", title="Best trial so far")
axes[1].set_yscale("symlog", linthresh=0.1)
axes[1].set_ylim(0, 100)
axes[1].legend()

# %%
# When trials run elsewhere
# -------------------------
# Where a trial is a job on a cluster or a day in a laboratory there is no function to call. Ask for points and tell
# what came out, in any order; here for two at once. :class:`~paperworks.optimization.BayesianOptimizer` *maximises*.

optimizer = BayesianOptimizer(space, batch_size=2, noise=0.0, random_state=0)
for _ in range(5):
    asked = optimizer.ask()
    optimizer.tell(asked, [-error(point) for point in asked])
print(f"ten trials in five rounds of two: error {-optimizer.best.y:.2f}")

# %%
# What it costs, and when not to use it
# -------------------------------------
# Choosing a point costs about a tenth of a second, and more with more trials behind it.
#
# * Trials that take less than that are cheaper to make at random.
# * With more than some twenty numbers to choose, a Gaussian process of a few dozen trials knows too little.
# * Cross-validation on few samples is noisy between folds. The winner's error is a little too good by having been
#   chosen: measure it again on data that the search hasn't seen (:func:`~paperworks.inference.nested_cv`).

assert (ours[:, -1] <= best + 0.5).all()
assert ours[:, -1].mean() < chance[:, -1].mean()
assert -optimizer.best.y < np.median(table)
