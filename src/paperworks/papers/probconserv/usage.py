"""Make uncertain fields keep their integral: after any model, and round a regressor of scikit-learn."""

import numpy as np
import torch
from sklearn.gaussian_process import GaussianProcessRegressor

from paperworks.operators import ConservativeUpdate, ConservingRegressor, conservation_error

x = torch.linspace(0, 1, 101)
mean = torch.sigmoid(-40 * (x - 0.45))  # a front that a model smears and puts a little to the left
variance = 1e-4 + 0.1 * torch.exp(-(((x - 0.5) / 0.1) ** 2))  # it knows where it is unsure
mass = torch.tensor([0.5])
updated, left = ConservativeUpdate()(mean, variance, mass, x=x)
before, after = (conservation_error(u, mass[0], x) for u in (mean, updated))
print(f"error of the mass: {before:+.3f} before, {after:+.0e} after")
moved = (updated - mean).abs()
print(f"the field moved by {moved[:20].max():.0e} far from the front, by {moved.max():.2f} at it")
print(f"standard deviation at the front: {variance[50].sqrt():.2f} before, {left[50].sqrt():.2f} after")

days = np.arange(28.0)[:, None]
sales = 10 + 3 * np.sin(2 * np.pi * days[:, 0] / 7)
model = ConservingRegressor(GaussianProcessRegressor(alpha=0.1, normalize_y=True)).fit(days[::3], sales[::3])
weeks = np.kron(np.eye(4), np.ones(7))
plain, kept = model.predict(days), model.predict(days, G=weeks, value=weeks @ sales)
off = [np.abs(weeks @ (v - sales)).max() for v in (plain, kept)]
print(f"weekly totals off by {off[0]:.1f} and {off[1]:.0e};", end=" ")
print(f"days by {np.abs(plain - sales).mean():.2f} and {np.abs(kept - sales).mean():.2f}")
