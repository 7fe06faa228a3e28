"""Publish after every record which of many things is the most frequent, with a privacy budget for the whole stream."""

import numpy as np

from paperworks.inference import auto_mechanism

records = np.random.default_rng(0).random((10_000, 20)) < np.linspace(
    0.1, 0.5, 20
)  # 20 flags; the last is set most often
mechanism = auto_mechanism("sumselect", T=10_000, d=20, epsilon=1.0, delta=1e-6)
print(type(mechanism).__name__, {name: f"{value:.3g}" for name, value in mechanism.privacy().items()})
for record in records[:9_000]:
    leader = mechanism.update(record)
print("leads after 9000 records:", leader)
print("leads after each of the last:", mechanism.update_batch(records[9_000:])[-5:])
print("error below", round(mechanism.error_bound()), "with probability 2/3, at the true count of", records[:, -1].sum())
