"""A solution with two high frequencies that nobody names: values, derivatives, uncertainty, and the frequencies."""

import numpy as np

from paperworks.solvers import GPHMSolver, Poisson


def u(x: np.ndarray) -> np.ndarray:
    """Return the solution that is to be found."""
    return np.sin(5 * x) * np.cos(60 * x)


def f(x: np.ndarray) -> np.ndarray:
    """Return its second derivative, the source."""
    return -3625 * u(x) - 600 * np.cos(5 * x) * np.sin(60 * x)


solver = GPHMSolver(Poisson(), domain=(0, 2), grid_shape=100, max_freq=14, n_components=20, steps=80)
solver.fit(f, boundary=u)
x = np.linspace(0, 2, 500)
values, deviations = solver.predict(x, return_std=True)
print(f"largest error {np.abs(values - u(x)).max():.1e}, standard deviation {deviations.mean():.1e}")
print(f"of the second derivative {np.abs(solver.predict(x, 2) - f(x)).max() / 3625:.1e}, relative to its size")
found, true = solver.spectrum_[0], np.array([65, 55]) / (2 * np.pi)
print(f"heaviest frequencies {found.frequencies[:2].round(3)}; true ones {true.round(3)}")
