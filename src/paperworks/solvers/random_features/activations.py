"""Activations of hidden units, with their Fourier transforms away from the frequency 0."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Complex, Float
from scipy.optimize import brentq
from scipy.special import expit

from paperworks.core.validation import check_choice

Name = Literal["tanh", "sigmoid", "relu", "gauss", "softplus", "sin", "cos"]


@dataclass(frozen=True)
class Activation:
    """A function of one number, and its transform: the integral of sigma(t) exp(-i omega t).

    Parameters
    ----------
    name
        Its name.
    function
        Of an array, which it may overwrite.
    transform
        Of frequencies above 0; None where the transform is made of points at ±1 alone, as that of a sine is.
    parity
        1 if the transform away from 0 is that of an even function, and -1 of an odd one.
    """

    name: Name
    function: Callable[[np.ndarray], np.ndarray]
    transform: Callable[[np.ndarray], np.ndarray] | None
    parity: int

    def effective_band(self, share: float = 1e-2) -> float:
        """Return the frequency beyond which |transform| is below a share of its value at 1.

        Parameters
        ----------
        share
            What counts as nothing.
        """
        if self.transform is None:
            return 1.0
        transform = self.transform
        first = abs(complex(transform(np.array(1.0))))
        return float(brentq(lambda w: abs(complex(transform(np.array(w)))) / first - share, 1.0, 100.0))


def _csch(x: Any) -> Any:
    """Return 1 / sinh x for x > 0, without overflow."""
    return -2 * np.exp(-x) / np.expm1(-2 * x)


ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("tanh", lambda t: np.tanh(t, out=t), lambda w: -1j * math.pi * _csch(np.pi * w / 2), -1),
        Activation("sigmoid", lambda t: expit(t, out=t), lambda w: -1j * math.pi * _csch(np.pi * w), -1),
        Activation("relu", lambda t: np.maximum(t, 0, out=t), lambda w: -1 / w**2 + 0j, 1),
        Activation(
            "gauss",
            lambda t: np.exp(-0.5 * np.square(t, out=t), out=t),
            lambda w: math.sqrt(2 * math.pi) * np.exp(-(w**2) / 2) + 0j,
            1,
        ),
        Activation("softplus", lambda t: np.logaddexp(t, 0, out=t), lambda w: -math.pi * _csch(np.pi * w) / w + 0j, 1),
        Activation("sin", lambda t: np.sin(t, out=t), None, -1),
        Activation("cos", lambda t: np.cos(t, out=t), None, 1),
    )
}


def activation_named(name: Name) -> Activation:
    """Return an activation by its name."""
    return ACTIVATIONS[check_choice("activation", name, get_args(Name))]


Transform = Callable[[Float[np.ndarray, "*n"]], Complex[np.ndarray, "*n"] | Float[np.ndarray, "*n"]]
