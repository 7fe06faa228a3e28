"""
Replace a simulation by a reduced model that knows when it is wrong
===================================================================

You simulate a part that creeps under load and heat, again and again, for one temperature field after the other. A
reduced model computes each in a fraction of the work: a few modes instead of all unknowns. But the next temperature
field may be one that it was never trained for, and a wrong answer looks like a right one.

This tutorial reduces a plate with a hole, trained on two temperature fields, gives it an indicator of its own error,
and meets a third field. :class:`~paperworks.reduction.AdaptiveROM` notices, asks the full model for those steps alone,
and goes on. We also run the full model, to see whether the indicator told the truth.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection

from paperworks.reduction import AdaptiveROM, GappyErrorIndicator, HyperReducedModel, calibration_pairs
from paperworks.testbeds import heated_plate, hot_spot, plate_with_hole

# %%
# The full model
# --------------
# A quarter of a plate with a hole, in scikit-fem: it is pulled and heated in cycles of two seconds, and its material
# is elasto-viscoplastic. Two places of a hot spot are known beforehand, a third comes as a surprise, hotter and
# elsewhere.

mesh, times = plate_with_hole(10), np.linspace(0, 4, 21)
spots = {"known, 100 K": (100.0, (4.0, 0.0)), "known, 300 K": (300.0, (7.0, 7.0)), "new, 600 K": (600.0, (3.0, 9.0))}
problems = [heated_plate(mesh, hot_spot(mesh.p, kelvin, place, width=2.0))[0] for kelvin, place in spots.values()]
problem, new = problems[0], problems[0].with_loads(problems[2].loads)
began = time.perf_counter()
training = [problem.solve(times), problem.with_loads(problems[1].loads).solve(times)]
seconds = (time.perf_counter() - began) / 2
print(f"{problem.elements.n_points} integration points; {len(times) - 1} steps took {seconds:.2f} s")

# %%
# Reduce it
# ---------
# ``fit`` finds modes of the displacement and a few integration points with weights that replace all others: the
# material law is evaluated at these alone.

rom = HyperReducedModel(problem).fit(training)
print(f"{len(rom.modes_)} modes, {len(rom.points_)} integration points")


def error(found, truth) -> np.ndarray:
    """Return the error of the plastic strain at each time, relative to its greatest norm."""
    return problem.norm(found.p - truth.p) / problem.norm(truth.p).max()


again = rom.reconstruct(rom.solve(problem.loads, times))
print(f"on a field that it knows: error {100 * error(again, training[0]).max():.2f} %")

# %%
# Meet what it doesn't know
# -------------------------
# The indicator looks at how well the points' plastic strain fits the modes, and is calibrated on the training fields.
# Where it exceeds ``rtol``, here 5 %, one step is taken by the full model, and the reduced one learns from it.

plain = rom.reconstruct(rom.solve(new.loads, times))
indicator = GappyErrorIndicator().calibrate(*calibration_pairs(rom, training))
began = time.perf_counter()
adaptive = AdaptiveROM(rom, new, indicator, rtol=0.05).solve(times)
print(f"took {time.perf_counter() - began:.2f} s")
print(f"full steps: {adaptive.n_hf_steps} of {len(times) - 1}, at {times[list(adaptive.enrichments)].round(1)} s")

# %%
# Did it tell the truth?
# ----------------------
# Now, and only now, the full model on the new field.

truth = new.solve(times)
errors = {"reduced": error(plain, truth), "adaptive": error(adaptive.trajectory, truth)}
for name, values in errors.items():
    print(f"{name:9} greatest error of the plastic strain {100 * values.max():.2f} %")

figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
axis.semilogy(times[1:], 100 * errors["reduced"][1:], "C1s--", label="error of the reduced model")
axis.semilogy(times[1:], 100 * errors["adaptive"][1:], "C0o-", label="error of the adaptive model")
asked = list(adaptive.enrichments)
axis.plot(times[asked], 100 * errors["adaptive"][asked], "C3*", markersize=14, label="step of the full model")
axis.axhline(5, color="gray", linestyle=":", label="tolerance")
axis.set(xlabel="time (s)", ylabel="error of plastic strain (%)")
axis.set_title("A temperature field that the model was not trained for")
axis.legend()

# %%
# The fields at the end: what was to be found, and by how much either model misses it.

corners = mesh.p[:, mesh.t].transpose(2, 1, 0)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for axis, (name, field) in zip(
    axes,
    {
        "full model": truth.p[-1],
        "reduced: error": np.abs(plain.p[-1] - truth.p[-1]),
        "adaptive: error": np.abs(adaptive.trajectory.p[-1] - truth.p[-1]),
    }.items(),
    strict=True,
):
    values = field.reshape(mesh.nelements, -1).mean(1)
    shown = axis.add_collection(PolyCollection(corners, array=100 * values, cmap="viridis"))
    axis.autoscale_view()
    axis.set(title=name, aspect="equal", xlabel="x (mm)", ylabel="y (mm)")
    figure.colorbar(shown, ax=axis, label="plastic strain (%)")
figure.suptitle("Plastic strain at the end")

# %%
# What it costs, and when not to use it
# -------------------------------------
# Training costs the full simulations that it learns from, and a reduced step as much as its few points and modes. On
# this small mesh nothing is saved, as the times above show, since the full model is small itself; the work of the
# reduced one doesn't grow with the mesh.
#
# * One simulation is never worth a reduced model; dozens of the same part are.
# * Cracks and contacts that move have no few modes. See :func:`~paperworks.reduction.kolmogorov_width` before you
#   begin.
# * Where the indicator calls the full model in most steps the training fields were the wrong ones: add that one to
#   them.

assert errors["adaptive"].max() < 0.05 < errors["reduced"].max()
assert 0 < adaptive.n_hf_steps < len(times) - 1
assert error(again, training[0]).max() < 0.02
