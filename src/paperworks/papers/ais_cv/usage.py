"""A beam under three loads: mean deflections, what their variance is due to, and a rare one, from few model calls."""

import numpy as np
from scipy import stats

from paperworks.inference import multiple_expectations, sobol_indices


def deflection(x: np.ndarray) -> np.ndarray:
    load, width, length = x.T
    return 1e3 * load * length**3 / width**4


loads = [stats.multivariate_normal([m, 1.0, 2.0], np.diag([0.1, 0.05, 0.1]) ** 2) for m in (1.0, 1.1, 1.2)]
means = multiple_expectations(deflection, loads, n_max=5000, weights="relative", signed="abs", random_state=0)
for j, (mean, error) in enumerate(zip(means.estimate, means.std_error, strict=True)):
    print(f"mean deflection under load {j + 1}: {mean:.1f} +- {error:.1f}, one sample of {len(means.sample)} for all")

marginals = [stats.norm(1, 0.1), stats.norm(1, 0.05), stats.norm(2, 0.1)]
shares = sobol_indices(deflection, marginals, n_max=1000, order=("first", "total"), random_state=0)
for name, share, half in zip(("load", "width", "length"), shares.S1, shares.S1_conf, strict=True):
    print(f"share of the variance due to {name}: {share:.4f} +- {half:.4f}")

rare = multiple_expectations(deflection, loads[0], n_max=20_000, threshold=17e3, random_state=0)
print(f"probability of more than 17,000: {rare.estimate[0]:.2e} +- {rare.std_error[0]:.1e}")
