"""Publish a running count each evening, and after every record which of many things is the most frequent."""

import numpy as np

from paperworks.inference import TreeCounter, auto_mechanism

rng = np.random.default_rng(0)
visits = rng.poisson(200, 365)  # of a year's days
counter = TreeCounter(T=365, epsilon=1.0)  # one visit is protected; sensitivity=5 would protect a visitor who has 5
published = np.array(
    [counter.update(day)[0] for day in visits]
)  # one number each evening, whatever the number of visits
print(f"largest error {np.abs(published - np.cumsum(visits)).max():.0f} in {visits.sum()} visits")
print(f"bound {counter.error_bound(0.05):.0f} with probability .95; opendp's binary tree has 37 to 60, after the year")

flags = rng.random((10_000, 20)) < np.linspace(0.1, 0.5, 20)  # 20 of them; the last is set most often
mechanism = auto_mechanism("sumselect", T=10_000, d=20, epsilon=1.0, delta=1e-6)
print(type(mechanism).__name__, {name: f"{value:.3g}" for name, value in mechanism.privacy().items()})
for record in flags[:9_000]:
    leader = mechanism.update(record)
print("leads after 9000 records:", leader)
print("leads after each of the last:", mechanism.update_batch(flags[9_000:])[-5:])
print("error below", round(mechanism.error_bound()), "with probability 2/3, at the true count of", flags[:, -1].sum())
