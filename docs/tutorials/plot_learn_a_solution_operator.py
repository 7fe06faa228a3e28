"""
Predict a simulation's answer with a network, and make it obey the law
======================================================================

You solve the same equation for thousands of inputs: the pressure of ground water, for one map of permeability after
the other. A network that has seen some hundred solutions gives the next one without solving. Two questions decide
whether it is of use: is it better than a cheap guess, and does what it predicts conserve what must be conserved?

This tutorial trains a small :class:`~paperworks.operators.MgNO`, sets it beside two baselines, and then asks its
answers for their water balance. They don't have one; :func:`~paperworks.operators.condition_linear` gives it to them.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from paperworks.operators import FieldNormalizer, MgNO, RelativeH1Loss, RelativeL2Loss, condition_linear
from paperworks.testbeds import darcy_piecewise, darcy_solve

# %%
# Solutions to learn from
# -----------------------
# Two kinds of rock, whose permeabilities ``a`` are four times apart, a constant source of water, and pressure 0 at the
# boundary: ``-div(a grad u) = 1`` on a grid of 17 by 17 nodes.

n, n_train = 17, 448
pairs = darcy_piecewise(n, n_train + 64, random_state=0)
train, test = pairs[:n_train], pairs[n_train:]
began = time.perf_counter()
for a in test.inputs[:, 0].double().numpy():
    darcy_solve(a)
solving = (time.perf_counter() - began) / len(test.inputs)

# %%
# Train
# -----
# The layers of MgNO are multigrid cycles with learned weights. Inputs and outputs are scaled by what the training set
# shows; the loss sees gradients of the pressure too, as they carry the flow.

torch.manual_seed(0)
scale_a, scale_u = FieldNormalizer.of(train.inputs, pointwise=False), FieldNormalizer.of(train.outputs)
network = MgNO(hidden_channels=12, n_layers=3, levels=4, resolution=n)
steps = 260
optimizer = torch.optim.AdamW(network.parameters(), 8e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
loss_of = RelativeH1Loss()
began = time.perf_counter()
for _ in range(steps):
    chosen = torch.randint(n_train, (16,))
    loss = loss_of(scale_u.decode(network(scale_a.encode(train.inputs[chosen]))), train.outputs[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
print(f"{sum(p.numel() for p in network.parameters())} parameters, trained in {time.perf_counter() - began:.0f} s")


def predict(a: torch.Tensor) -> torch.Tensor:
    """Return the network's pressures."""
    with torch.no_grad():
        return scale_u.decode(network(scale_a.encode(a)))


# %%
# Is it better than a cheap guess?
# --------------------------------
# The mean of all training solutions knows nothing of the input; ridge regression from all nodes to all nodes is what a
# network has to beat.

ridge = RidgeCV(np.logspace(-2, 4, 13)).fit(train.inputs.flatten(1).numpy(), train.outputs.flatten(1).numpy())
guesses = {
    "mean of the training": train.outputs.mean(0, keepdim=True).expand_as(test.outputs),
    "ridge regression": torch.tensor(ridge.predict(test.inputs.flatten(1).numpy())).float().reshape(test.outputs.shape),
    "MgNO": predict(test.inputs),
}
relative = RelativeL2Loss("mean")
errors = {name: float(relative(guess, test.outputs)) for name, guess in guesses.items()}
for name, error in errors.items():
    print(f"{name:22} relative error {error:.3f}")
began = time.perf_counter()
predict(test.inputs)
asking = (time.perf_counter() - began) / len(test.inputs)
print(f"time for one: network {1e3 * asking:.2f} ms, direct solver {1e3 * solving:.2f} ms")

# %%
# Does it conserve water?
# -----------------------
# What the source brings in has to leave through the boundary. The outflow is linear in the pressure: the sum over all
# edges to the boundary of the edge's permeability times the pressure inside. Row by row that is a matrix G with G u =
# outflow.


def outflow_rows(a: torch.Tensor) -> torch.Tensor:
    """Return for each map the weights of the nodes' pressures in the outflow."""
    a = a[:, 0].double()
    rows = torch.zeros_like(a)
    inner = slice(1, -1)
    for grid, weights in ((a, rows), (a.mT, rows.mT)):  # along both axes
        for here, beyond in ((1, 0), (-2, -1)):
            weights[:, here, inner] += 2 / (1 / grid[:, here, inner] + 1 / grid[:, beyond, inner])
    return rows.flatten(1)


rows = outflow_rows(test.inputs)
source = torch.tensor(((n - 2) / (n - 1)) ** 2, dtype=torch.float64)
fields = {"solver": test.outputs, "MgNO": guesses["MgNO"]}
balance = {name: (rows * u.flatten(1)).sum(1) / source - 1 for name, u in fields.items()}
for name, off in balance.items():
    print(f"water balance of the {name}: off by {100 * off.abs().mean():.3f} % on average")

# %%
# Give it the law
# ---------------
# Take the prediction as the mean of a Gaussian whose variances say where the network errs, learnt on the training set,
# and condition it on the balance. The field then moves as little as the law asks for, and where it is least certain.

residual = (predict(train.inputs) - train.outputs).flatten(1)
variance = residual.square().mean(0).double().expand(len(rows), -1)
kept = condition_linear(guesses["MgNO"].flatten(1).double(), variance, rows[:, None], source.expand(len(rows), 1)).mean
balance["MgNO with the law"] = (rows * kept).sum(1) / source - 1
errors["MgNO with the law"] = float(relative(kept.reshape(test.outputs.shape).float(), test.outputs))
print(f"off by {100 * balance['MgNO with the law'].abs().max():.0e} % at most", end="; ")
print(f"relative error {errors['MgNO with the law']:.3f}")

figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
shown = {
    "permeability": test.inputs[0, 0],
    "pressure, solver": test.outputs[0, 0],
    "pressure, MgNO": guesses["MgNO"][0, 0],
    "error with the law": kept[0].reshape(n, n) - test.outputs[0, 0],
}
top = float(test.outputs[0].max())
for axis, (name, field) in zip(axes, shown.items(), strict=True):
    widest = float(field.abs().max())
    limits = {"vmin": 0, "vmax": top} if name.startswith("pressure") else {}
    limits = {"vmin": -widest, "vmax": widest, "cmap": "RdBu"} if name.startswith("error") else limits
    image = axis.imshow(field, extent=(0, 1, 0, 1), origin="lower", **limits)
    axis.set(title=name, xlabel="x")
    figure.colorbar(image, ax=axis, shrink=0.8)
figure.suptitle("A map that the network hasn't seen, and its answer")

# %%
# What it costs, and when not to use it
# -------------------------------------
# Training and some hundred solutions, once; then the time of the table for each input.
#
# * On a grid as small as this one a direct solver is as fast, and exact. A network pays on large grids and for
#   equations that are nonlinear or in three dimensions.
# * It knows maps like those that it was trained on, and no others.
# * The balance holds to rounding, each single pressure doesn't: an exact total isn't an exact field.

assert errors["MgNO"] < 0.7 * errors["ridge regression"] < errors["mean of the training"]
assert balance["solver"].abs().max() < 1e-4
assert balance["MgNO with the law"].abs().max() < 1e-9
assert errors["MgNO with the law"] < 1.02 * errors["MgNO"]
