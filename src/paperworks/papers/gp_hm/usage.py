"""A solution with two high frequencies that nobody names: values, derivatives, uncertainty, and the frequencies."""

import numpy as np

from paperworks.solvers import GPHMSolver, Poisson


def u(x):
    """Return the solution that is to be found."""
    return np.sin(5 * x) * np.cos(60 * x)


def f(x):
    """Return its second derivative, the source."""
    return -3625 * u(x) - 600 * np.cos(5 * x) * np.sin(60 * x)


solver = GPHMSolver(Poisson(), domain=(0, 2), grid_shape=120, max_freq=14, n_components=30, steps=100)
solver.fit(f, boundary=u)
x = np.linspace(0, 2, 1000)
values, deviations = solver.predict(x, return_std=True)
print(f"largest error {np.abs(values - u(x)).max():.1e}, standard deviation {deviations.mean():.1e}")
print(f"of the second derivative {np.abs(solver.predict(x, 2) - f(x)).max() / 3625:.1e}, relative to its size")
found = solver.spectrum_[0].active()
print(
    f"{len(found.weights)} frequencies left: {found.frequencies.round(2)}; true: {(np.array([55, 65]) / 2 / np.pi).round(2)}"
)
