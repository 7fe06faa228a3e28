"""Polynomials that are orthonormal under independent inputs: a model's surrogate whose variances are known exactly."""

from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

_MOST_TERMS, _HIGHEST = 500, 6
# Beyond the points it was fitted to a polynomial of a higher degree than `_TAME` grows apart from a model unless it
# predicts all but this share of its variance: where inputs are unbounded that would drown what it saves.
_TAME, _NEARLY_EXACT = 2, 5e-3


class Polynomials:
    """Products of Legendre polynomials in uniform coordinates, or Hermite ones in normal ones, up to a total degree."""

    def __init__(self, bounded: Bool[np.ndarray, " d"], degree: int) -> None:
        self._bounded, self.degree, d = bounded, degree, len(bounded)
        rows, parents, factors = [np.zeros(d, dtype=int)], [0], [(0, 0)]
        # Each term is an earlier one times a polynomial of a later input.
        for start, row in enumerate(rows):  # which grows
            used, last = int(row.sum()), int(np.flatnonzero(row).max(initial=-1))
            for i in range(last + 1, d):
                for power in range(1, degree - used + 1):
                    rows.append(row + power * np.eye(d, dtype=int)[i])
                    parents.append(start)
                    factors.append((i, power))
        self.exponents: Int[np.ndarray, "terms d"] = np.array(rows)
        self._parents, self._factors = parents, factors

    def __call__(self, U: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n terms"]:
        """Return the polynomials at uniform points."""
        return self.products(self.single(U))

    def single(self, U: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "powers d n"]:
        """Return the polynomials of each input alone, by degree from 0."""
        T = np.where(self._bounded, 2 * U - 1, special.ndtri(U)).T
        single = np.empty((self.degree + 1, *T.shape))
        single[0] = 1
        for k in range(self.degree):
            before = single[k - 1] if k else 0.0
            legendre = ((2 * k + 1) * T * single[k] - k * before) / (k + 1)
            single[k + 1] = np.where(self._bounded[:, None], legendre, T * single[k] - k * before)
        powers = np.arange(self.degree + 1)[:, None]
        norms = np.where(self._bounded, np.sqrt(2 * powers + 1), 1 / np.sqrt(special.factorial(powers)))
        single *= norms[..., None]
        return single

    def products(self, single: Float[np.ndarray, "powers d n"]) -> Float[np.ndarray, "n terms"]:
        """Return the products that the terms are, of polynomials of each input alone."""
        terms = np.ones((len(self.exponents), single.shape[2]))
        for t in range(1, len(terms)):
            i, power = self._factors[t]
            np.multiply(terms[self._parents[t]], single[power, i], out=terms[t])
        return terms.T


@dataclass(frozen=True)
class Surrogate:
    """Polynomials fitted to a model of q outputs."""

    basis: Polynomials
    coefficients: Float[np.ndarray, "terms q"]

    def __call__(self, U: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n q"]:
        """Return the surrogate at uniform points."""
        return self.basis(U) @ self.coefficients

    def closed(self, inputs: Int[np.ndarray, " _"]) -> Float[np.ndarray, " q"]:
        """Return the variance of the surrogate's mean given some inputs."""
        others = np.delete(self.basis.exponents, inputs, axis=1).sum(axis=1)
        return self._share((others == 0) & (self.basis.exponents.sum(axis=1) > 0))

    def total(self, inputs: Int[np.ndarray, " _"]) -> Float[np.ndarray, " q"]:
        """Return the surrogate's variance that some inputs take part in."""
        return self._share(self.basis.exponents[:, inputs].sum(axis=1) > 0)

    def _share(self, terms: Bool[np.ndarray, " terms"]) -> Float[np.ndarray, " q"]:
        return (self.coefficients[terms] ** 2).sum(axis=0)


def fit_surrogate(
    U: Float[np.ndarray, "n d"],
    Y: Float[np.ndarray, "n q"],
    held_out: Bool[np.ndarray, " n"],
    bounded: Bool[np.ndarray, " d"],
) -> Surrogate:
    """Fit each output by polynomials of the degree, 0 among them, that predicts the points held out best.

    High degrees of unbounded inputs have to predict them nearly exactly.
    """
    d, n = len(bounded), len(U)
    degree = 0
    while degree < _HIGHEST and comb(d + degree + 1, d) <= min(_MOST_TERMS, n // 8):
        degree += 1
    basis = Polynomials(bounded, degree)
    T, order = basis(U), basis.exponents.sum(axis=1)
    some, out = T[~held_out], T[held_out]
    gram, moments = some.T @ some, some.T @ Y[~held_out]
    variance = Y[held_out].var(axis=0)
    least, best = np.full(Y.shape[1], np.inf), np.zeros(Y.shape[1], dtype=int)
    for k in range(degree + 1):
        terms = order <= k
        fitted = _solve(gram[np.ix_(terms, terms)], moments[terms])
        error = ((Y[held_out] - out[:, terms] @ fitted) ** 2).mean(axis=0)
        if k > _TAME and not bounded.all():
            error[error > _NEARLY_EXACT * variance] = np.inf
        least, best = np.minimum(error, least), np.where(error < least, k, best)
    gram, moments = gram + out.T @ out, moments + out.T @ Y[held_out]
    coefficients = np.zeros_like(moments)
    for k in np.unique(best):
        terms, outputs = order <= k, best == k
        coefficients[np.ix_(terms, outputs)] = _solve(gram[np.ix_(terms, terms)], moments[np.ix_(terms, outputs)])
    return Surrogate(basis, coefficients)


def _solve(
    gram: Float[np.ndarray, "terms terms"], moments: Float[np.ndarray, "terms q"]
) -> Float[np.ndarray, "terms q"]:
    """Return coefficients of least squares, with a ridge that rounding asks for."""
    return np.linalg.solve(gram + 1e-10 * np.trace(gram) / len(gram) * np.eye(len(gram)), moments)
