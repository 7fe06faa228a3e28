"""What is approximated: functions of one variable with known spectra, and two sets of real data."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler


class Split(NamedTuple):
    """Samples to fit and samples to judge by."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


FUNCTIONS = {
    "sin 5x": lambda x: np.sin(5 * x),
    "sin 20x": lambda x: np.sin(20 * x),
    "sin 60x": lambda x: np.sin(60 * x),
    "Doppler": lambda x: np.sin(2.1 * np.pi / ((x + 1) / 2 + 0.05)),
}
OSCILLATING = ("sin 20x", "sin 60x", "Doppler")


def of_function(name: str, samples: int) -> Split:
    """Sample a function evenly on [-1, 1], and at 2001 other points to judge by."""
    x, between = np.linspace(-1, 1, samples), np.linspace(-1, 1, 2001)
    f = FUNCTIONS[name]
    return Split(x[:, None], f(x), between[:, None], f(between))


def of_data(name: str, seed: int) -> Split:
    """Split real data in four to one, standardised by the larger part."""
    data = {"diabetes": load_diabetes, "digits": load_digits}[name]()
    X, X_test, y, y_test = train_test_split(data.data, data.target.astype(float), test_size=0.2, random_state=seed)
    scaler = StandardScaler().fit(X)
    return Split(scaler.transform(X), y, scaler.transform(X_test), y_test)


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the error relative to the spread of the truth round 0."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
