"""
Tell how long a warm spell will last
====================================

The sea off Peru has become warmer than usual. How long until it is back to normal? In the record you find some dozens
of such spells, too few to tell how often one lasts two years. You want the whole law of their lengths from what the
record tells well: how this month resembles the months after.

:class:`~paperworks.dynamics.SlepianIIA` computes that law from a correlation function, without simulating anything.
This tutorial fits a correlation to 61 years of temperatures, predicts the lengths of spells, and checks the prediction
against simulation, an independent numerical method, and the spells of the record, none of which it has seen.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize
from statsmodels.datasets import elnino
from statsmodels.tsa.stattools import acf

from paperworks.dynamics import Matern, SlepianIIA, persistence_probability, simulate_excursions

# %%
# Temperatures, less what is usual
# --------------------------------
# Monthly temperatures of the sea's surface off the coast of Peru, which come with statsmodels. An anomaly is the
# difference from the month's mean over all years, averaged over three months, as is usual for El Niño.

years = elnino.load_pandas().data.dropna().set_index("YEAR")
anomaly = np.convolve((years - years.mean()).to_numpy().ravel(), np.ones(3) / 3, "valid")
anomaly -= anomaly.mean()
print(f"{len(anomaly)} months, standard deviation {anomaly.std():.2f} °C")

# %%
# Fit a correlation
# -----------------
# A Matérn correlation has two numbers, a smoothness and a length. They are fitted to the autocorrelations of the first
# year; the process has to be smooth enough to cross its mean a finite number of times a year, that is a smoothness
# over 1.

lags = np.arange(1, 13)
empirical = acf(anomaly, nlags=24, fft=True)


def misfit(log_parameters):
    """Return the squared error of the correlations."""
    smoothness, length = np.exp(log_parameters)
    return np.square(Matern(1 + smoothness, length)(lags) - empirical[lags]).sum()


smoothness, length = np.exp(minimize(misfit, [0.0, 1.5], method="Nelder-Mead", bounds=[(-2, 2), (0, 3)]).x)
correlation = Matern(1 + smoothness, length)
print(f"smoothness {1 + smoothness:.2f}, length {length:.1f} months")

# %%
# The law of a spell
# ------------------
# From an up-crossing on: how long the anomaly stays above 0. ``sf`` is the probability of more than so many months.
# First ask whether the approximation is a probability law for this correlation at all; for some it isn't, and says so.

law = SlepianIIA(correlation)
began = time.perf_counter()
print(f"validity: {law.validity().status}")
exponent = law.persistency_exponent()
print(f"mean {law.mean():.1f} months; long spells end at a rate of {exponent.theta:.3f} a month")
print(f"took {time.perf_counter() - began:.2f} s")
for months in (6, 12, 24):
    print(f"longer than {months:2d} months with probability {float(law.sf(months)):.2f}")

# %%
# Is it right?
# ------------
# *Mathematics*: the law is an approximation, so compare it with a simulation of the same Gaussian process, and with
# its probability on a grid of times. *Reality*: compare it with the warm and the cold spells of the record.


def spells(x):
    """Return the lengths of the spells above 0, whose ends are interpolated."""
    crossings = np.flatnonzero(np.diff(x > 0))
    times = crossings + x[crossings] / (x[crossings] - x[crossings + 1])
    ups = np.flatnonzero(x[crossings + 1] > 0)
    return np.array([times[k + 1] - times[k] for k in ups if k + 1 < len(times)])


observed = np.concatenate([spells(anomaly), spells(-anomaly)])
simulated = simulate_excursions(correlation, n=20_000, dt=0.25, t_max=60.0, random_state=0)
grid = persistence_probability(correlation, t=24.0, n_grid=48, n_qmc=2**13, seen_from="up-crossing", random_state=0)
print(f"{len(observed)} spells in the record, median {np.median(observed):.1f} months")
print(f"simulated median {np.median(simulated):.1f} months")
for months in (6, 12, 24):
    chance, among = float(law.sf(months)), (simulated > months).mean()
    share, error = (observed > months).mean(), np.sqrt(chance * (1 - chance) / len(observed))
    print(f"longer than {months:2d} months: law {chance:.3f}, simulated {among:.3f},", end=" ")
    print(f"on the grid {np.interp(months, grid.t, grid.probability):.3f}, record {share:.2f} +- {error:.2f}")

figure, axes = plt.subplots(2, 1, figsize=(7, 6.5), layout="constrained")
month = years.index[0] + (np.arange(len(anomaly)) + 1.5) / 12
axes[0].fill_between(month, anomaly, where=anomaly > 0, color="C1", interpolate=True, label="warmer than usual")
axes[0].fill_between(month, anomaly, where=anomaly < 0, color="C0", interpolate=True, label="colder than usual")
axes[0].set(xlabel="year", ylabel="anomaly (°C)", title="Sea surface off Peru, and how long its spells last")
axes[0].legend(loc="upper left")
t = np.linspace(0.01, 36, 200)
axes[1].step(np.sort(observed), 1 - np.arange(1, len(observed) + 1) / len(observed), "k", where="post", label="record")
axes[1].plot(t, law.sf(t), "C2", linewidth=2, label="law from the correlation")
axes[1].plot(t, [(simulated > s).mean() for s in t], "C3:", linewidth=2, label="simulation")
axes[1].set(xlabel="months since the crossing", ylabel="share of spells that go on", xlim=(0, 36), ylim=(0, 1))
axes[1].legend()

# %%
# What it costs, and when not to use it
# -------------------------------------
# Milliseconds a law, where the grid takes seconds and reaches as far as its points do, and rare long spells ask a
# simulation for millions of paths.
#
# * It is for stationary Gaussian processes, and crossings of their mean. Rain isn't one; take its logarithm or its
#   rank.
# * Where the trend matters, as in temperatures of the last decades, take it out first or see spells without end.
# * Correlations that swing, such as that of a pure swell, have laws that the approximation can't give: see
#   ``validity``.

for months in (6, 12, 24):
    chance = float(law.sf(months))
    assert abs(chance - (simulated > months).mean()) < 0.03
    assert abs(chance - (observed > months).mean()) < 3 * np.sqrt(chance * (1 - chance) / len(observed))
assert law.validity().status == "valid"
