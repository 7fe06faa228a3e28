"""
Publish running counts without giving anybody away
==================================================

You keep a count that many want to see each year or each evening: cases of a disease, visits, sunspots. Each event in
it belongs to somebody, and whoever compares today's count with yesterday's may learn about one of them. You want to
publish the running count all the same, with a guarantee that holds however long you go on and whatever else is known.

This tutorial publishes a count of 309 periods by :class:`~paperworks.inference.TreeCounter`, compares its error with
the two obvious ways, and checks the promised bound. The data are the yearly sunspots from 1700 to 2008 that come with
statsmodels; read them as the cases of 309 weeks.
"""

import matplotlib.pyplot as plt
import numpy as np
from statsmodels.datasets import sunspots

from paperworks.inference import TreeCounter

cases = sunspots.load_pandas().data["SUNACTIVITY"].round().astype(int).to_numpy()
truth = np.cumsum(cases)
T = len(cases)
print(f"{T} periods, {truth[-1]} cases in all, {cases.max()} in one at most")

# %%
# Say what is protected
# ---------------------
# ``epsilon=1`` promises that with one case more or less every possible publication of all 309 numbers becomes at most
# e times likelier or less likely. One *case* is protected; where one person may have three, say ``sensitivity=3``.
#
# ``random_state`` is here so that this page looks the same each time. Leave it out in earnest: noise that somebody can
# compute protects nobody, and without a seed it comes from the operating system's source for cryptography.

epsilon = 1.0
counter = TreeCounter(T=T, epsilon=epsilon, random_state=np.random.default_rng(0))
published = np.array([counter.update(int(new))[0] for new in cases])  # one call a period, as the data come
print("first true counts:     ", truth[:6])
print("first published counts:", published[:6].astype(int))
bound = counter.error_bound(0.05)
print(f"largest error {np.abs(published - truth).max():.0f}; promised to be below {bound:.0f} with probability 0.95")

# %%
# Once all 309 numbers are out the budget is spent, and the counter refuses to go on rather than to promise less.

try:
    counter.update(0)
except ValueError as error:
    print("refused:", error)

# %%
# What the obvious ways make of it
# --------------------------------
# *Noise on each running count*: a case is in up to T of them, so that each gets noise of T times the scale. *Noise on
# each period's cases*, summed up: errors add up like a random walk. All three keep the same promise, and none of their
# errors depends on the cases, so we can measure them on zeros for any number of periods.

horizons, rounds = [100, 309, 1000, 3000, 10_000, 30_000], 20
rng = np.random.default_rng(1)
ways = {
    "noise on each count": lambda T: rng.laplace(scale=T / epsilon, size=T),
    "noise on each period": lambda T: np.cumsum(rng.laplace(scale=1 / epsilon, size=T)),
    "TreeCounter": lambda T: TreeCounter(T=T, epsilon=epsilon, random_state=rng).release(np.zeros(T, dtype=int))[:, 0],
}
largest = {name: [[np.abs(way(T)).max() for _ in range(rounds)] for T in horizons] for name, way in ways.items()}
medians = {name: np.median(errors, axis=1) for name, errors in largest.items()}
print("periods".ljust(22), *(f"{T:8d}" for T in horizons))
for name, errors in medians.items():
    print(name.ljust(22), *(f"{error:8.0f}" for error in errors))

figure, axes = plt.subplots(2, 1, figsize=(7, 6.5), layout="constrained")
axes[0].plot(truth / 1000, "k", linewidth=4, alpha=0.3, label="true count")
axes[0].plot(published / 1000, "C0", linewidth=1, label="published by TreeCounter")
axes[0].set(xlabel="period", ylabel="thousand cases so far", title="A running count, true and published")
axes[0].legend()
for (name, errors), style in zip(medians.items(), ("C1s--", "C2^--", "C0o-"), strict=True):
    axes[1].loglog(horizons, errors, style, label=name)
axes[1].set(
    xlabel="published counts", ylabel="largest error (cases)", title="Error of three ways with the same promise"
)
axes[1].legend()

# %%
# For some hundred periods the sum of noisy periods is as good as the tree, and simpler. The tree's error grows with a
# power of the logarithm only: it is for counts that go on.

# %%
# Does it keep its promises?
# --------------------------
# *Accuracy*: the bound was to be exceeded in one publication of twenty at most. *Privacy*: no test can prove it, but
# one can fail to refute it. We publish two data sets that differ by one case, in the first period, many times each,
# and look at how often the first number exceeds any threshold: the ratio of the two frequencies must stay below e.

bounds = [TreeCounter(T=T, epsilon=epsilon).error_bound(0.05) for T in horizons]
exceeded = np.mean(np.array(largest["TreeCounter"]) > np.array(bounds)[:, None])
print(f"bounds exceeded in {exceeded:.0%} of {rounds * len(horizons)} publications")

draws = 4000
with_case, without = (
    np.array([TreeCounter(T=T, epsilon=epsilon, random_state=rng).update(n)[0] for _ in range(draws)]) for n in (6, 5)
)
thresholds = range(-10, 22, 4)
ratios = [(with_case >= t).mean() / (without >= t).mean() for t in thresholds]
print("ratio of frequencies at thresholds:", np.round(ratios, 2), f"allowed: up to {np.e**epsilon:.2f}")

# %%
# What it costs, and when not to use it
# -------------------------------------
# A count costs microseconds, and memory that grows with the logarithm of the number of periods.
#
# * The error doesn't depend on how many cases there are. For a count of some dozens the noise is all that is seen.
# * With a small probability of failure, ``delta``, and many counts at once,
#   :class:`~paperworks.inference.FactorizationCounter` is more accurate.
# * Only the final number is wanted? Then add noise to that one alone: one draw of scale 1/epsilon.
# * Whoever keeps the data still sees them all; this protects against readers, not against the keeper.
# * The budget belongs to the data, not to the counter: a second statistic of the same cases spends more of it.

assert exceeded <= 0.1
assert medians["TreeCounter"][-1] < medians["noise on each period"][-1] / 2
assert max(ratios) < 1.15 * np.e**epsilon
assert np.abs(published - truth).max() < bound
