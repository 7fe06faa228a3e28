"""
Publish running counts without giving anybody away
==================================================

You keep a count that many want to see each year or each evening: cases of a disease, visits, sunspots. Each event in it
belongs to somebody, and whoever compares today's count with yesterday's may learn about one of them. You want to publish
the running count all the same, with a guarantee that holds however long you go on and whatever else is known.

Adding fresh noise to each number isn't enough or is far too much. This tutorial publishes a count of 309 periods by
:class:`~paperworks.inference.TreeCounter`, compares its error with the two obvious ways, and checks the promised bound.
The data are the yearly sunspots from 1700 to 2008 that come with statsmodels; read them as the cases of 309 weeks.
"""

import matplotlib.pyplot as plt
import numpy as np
from statsmodels.datasets import sunspots

from paperworks.inference import FactorizationCounter, TreeCounter

cases = sunspots.load_pandas().data["SUNACTIVITY"].round().astype(int).to_numpy()
truth = np.cumsum(cases)
T = len(cases)
print(f"{T} periods, {truth[-1]} cases in all, {cases.max()} in one at most")

# %%
# Say what is protected
# ---------------------
# ``epsilon=1`` promises that with one case more or less every possible publication of all 309 numbers becomes at most e
# times likelier or less likely. One *case* is protected; where one person may have three, say ``sensitivity=3``.
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
# *Noise on each period's cases*, summed up: protects as well, and errors add up like a random walk. *Noise on each running
# count*: a case is in up to 309 of them, so that each gets noise of 309 times the scale. All three keep the same promise.
# With a small ``delta`` of failure, :class:`~paperworks.inference.FactorizationCounter` has Gaussian noise and does better.

rounds = 100
largest = {"noise on each count": [], "noise on each period": [], "TreeCounter": [], "FactorizationCounter, δ = 1e-6": []}
for seed in range(rounds):
    rng = np.random.default_rng(seed)
    found = {
        "noise on each count": truth + rng.laplace(scale=T / epsilon, size=T),
        "noise on each period": np.cumsum(cases + rng.laplace(scale=1 / epsilon, size=T)),
        "TreeCounter": TreeCounter(T=T, epsilon=epsilon, random_state=rng).release(cases)[:, 0],
        "FactorizationCounter, δ = 1e-6": FactorizationCounter(
            T=T, epsilon=epsilon, delta=1e-6, random_state=rng
        ).release(cases)[:, 0],
    }
    for name, counts in found.items():
        largest[name].append(np.abs(counts - truth).max())
for name, errors in largest.items():
    print(f"{name:32} largest error of all {T} counts: median {np.median(errors):7.1f} cases")

figure, axes = plt.subplots(2, 1, figsize=(7, 6), layout="constrained")
axes[0].plot(truth / 1000, "k", linewidth=3, alpha=0.3, label="true count")
axes[0].plot(published / 1000, "C0", linewidth=1, label="published by TreeCounter")
axes[0].set(xlabel="period", ylabel="thousand cases so far", title="A running count, true and published")
axes[0].legend()
axes[1].boxplot(list(largest.values()), vert=False, tick_labels=list(largest))
axes[1].set(xscale="log", xlabel="largest error of all counts (cases)", title=f"Errors of {rounds} publications")

# %%
# Does it keep its promises?
# --------------------------
# *Accuracy*: the bound was to be exceeded in one publication of twenty at most. *Privacy*: no test can prove it, but one
# can fail to refute it. We publish two data sets that differ by one case, in the first period, many times each, and look
# at how often the first number exceeds any threshold: the ratio of the two frequencies must stay below e.

exceeded = np.mean(np.array(largest["TreeCounter"]) > bound)
print(f"bound exceeded in {exceeded:.0%} of {rounds} publications")

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
# * Only the final number is wanted? Then add noise to that one alone: one draw of scale 1/epsilon.
# * Whoever keeps the data still sees them all; this protects against readers, not against the keeper.
# * The budget belongs to the data, not to the counter: a second statistic of the same cases spends more of it.

medians = {name: np.median(errors) for name, errors in largest.items()}
assert exceeded <= 0.1
assert medians["TreeCounter"] < medians["noise on each count"] / 5
assert max(ratios) < 1.15 * np.e**epsilon
assert np.abs(published - truth).max() < truth[-1] / 50
