"""The Schrödinger bridge between two Gaussians, in closed form."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_finite, check_number

Moment = float | Tensor


@dataclass(frozen=True)
class GaussianBridge:
    r"""The process of least kinetic energy with ``dX = b_F dt + sqrt(2 eps) dW`` between two Gaussians.

    `coupling` is Cov(X_0, X_1). The marginals are Gaussian with ``mean(t)`` and ``cov(t)``.

    Parameters
    ----------
    mean0, mean1
        Means of the two ends, of shape (dim,).
    cov0, cov1
        Covariances of the two ends, of shape (dim, dim).
    coupling
        Covariance of the first end with the other, of shape (dim, dim).
    eps
        Half the square of the noise's size.

    Examples
    --------
    >>> bridge = gaussian_schrodinger_bridge(0.0, 1.0, 0.0, 0.25, eps=0.5)
    >>> round(bridge.energy, 4), bridge.cov(1.0)
    (0.7052, tensor([[0.2500]], dtype=torch.float64))
    """

    mean0: Float[Tensor, " dim"]
    cov0: Float[Tensor, "dim dim"]
    mean1: Float[Tensor, " dim"]
    cov1: Float[Tensor, "dim dim"]
    coupling: Float[Tensor, "dim dim"]
    eps: float

    def mean(self, t: float) -> Float[Tensor, " dim"]:
        """Return the mean at time t.

        Returns
        -------
        Tensor of shape (dim,)
            The mean, of shape (dim,).
        """
        check_number("t", t, ge=0, le=1)
        return (1 - t) * self.mean0 + t * self.mean1

    def cov(self, t: float) -> Float[Tensor, "dim dim"]:
        """Return the covariance at time t: that of Brownian bridges between coupled ends.

        Returns
        -------
        Tensor of shape (dim, dim)
            The covariance, of shape (dim, dim).
        """
        check_number("t", t, ge=0, le=1)
        both = self.coupling + self.coupling.mT + 2 * self.eps * self._eye
        return (1 - t) ** 2 * self.cov0 + t**2 * self.cov1 + t * (1 - t) * both

    def drift(self, x: Float[Tensor, "batch dim"], t: float) -> Float[Tensor, "batch dim"]:
        """Return the forward drift b_F, linear in x.

        Parameters
        ----------
        x
            States of shape (batch, dim).
        t
            Time from 0 to 1.

        Returns
        -------
        Tensor of shape (batch, dim)
            The drift, of the shape of `x`.
        """
        gain = self._gain(t).to(x)
        return (self.mean1 - self.mean0).to(x) + (x - self.mean(t).to(x)) @ gain.mT

    def score(self, x: Float[Tensor, "batch dim"], t: float) -> Float[Tensor, "batch dim"]:
        """Return the score at time t.

        Parameters
        ----------
        x
            States of shape (batch, dim).
        t
            Time from 0 to 1.

        Returns
        -------
        Tensor of shape (batch, dim)
            The score, of the shape of `x`.
        """
        return -torch.linalg.solve(self.cov(t).to(x), (x - self.mean(t).to(x)).mT).mT

    @functools.cached_property
    def energy(self) -> float:
        """The kinetic energy ``integral of E|b_F|^2 dt / 2``, by Gauss-Legendre quadrature."""
        nodes, weights = np.polynomial.legendre.leggauss(64)
        total = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            t = float(node + 1) / 2
            gain = self._gain(t)
            total += 0.25 * float(weight) * float((gain @ self.cov(t) * gain).sum())
        return total + 0.5 * float((self.mean1 - self.mean0).square().sum())

    def _gain(self, t: float) -> Tensor:
        """Return K with b_F = m' + K (x - m): (E[X_1 | x] - x)/(1 - t), with 1 - t divided out by hand."""
        covariance = (
            (1 - t) * (self.coupling.mT - self.cov0) + t * (self.cov1 - self.coupling) - 2 * self.eps * t * self._eye
        )
        return torch.linalg.solve(self.cov(t), covariance.mT).mT

    @property
    def _eye(self) -> Tensor:
        return torch.eye(len(self.cov0), dtype=self.cov0.dtype, device=self.cov0.device)


def gaussian_schrodinger_bridge(mean0: Moment, cov0: Moment, mean1: Moment, cov1: Moment, eps: float) -> GaussianBridge:
    r"""Solve the Schrödinger bridge between N(mean0, cov0) and N(mean1, cov1) for the diffusion ``sqrt(2 eps) dW``.

    ``Cov(X_0, X_1) = (A D A^-1 - 2 eps)/2`` with ``A = cov0^(1/2)`` and ``D = (4 A cov1 A + 4 eps^2)^(1/2)``.

    Parameters
    ----------
    mean0, cov0, mean1, cov1
        Means (dim,) and covariances (dim, dim); numbers in one dimension.
    eps
        Noise level, positive.

    Returns
    -------
    GaussianBridge
        The bridge, with its marginals and drift.

    Raises
    ------
    ValueError
        Where shapes disagree, a covariance isn't symmetric positive definite, or eps isn't positive.

    Examples
    --------
    >>> bridge = gaussian_schrodinger_bridge(0.0, 1.0, 0.0, 1.0, eps=1e-9)  # nothing to do
    >>> round(float(bridge.coupling), 6)
    1.0
    """
    check_number("eps", eps, gt=0)
    means, covs = [], []
    for which, mean, cov in (("0", mean0, cov0), ("1", mean1, cov1)):
        m = torch.atleast_1d(torch.as_tensor(mean, dtype=torch.float64))
        c = torch.atleast_2d(torch.as_tensor(cov, dtype=torch.float64))
        if m.ndim != 1 or c.shape != (len(m), len(m)):
            raise ValueError(
                f"mean{which} and cov{which} have shapes {tuple(m.shape)}, {tuple(c.shape)}; they take "
                "(dim,) and (dim, dim)"
            )
        check_finite(f"mean{which}", m)
        check_finite(f"cov{which}", c)
        if not torch.allclose(c, c.mT) or bool(torch.linalg.cholesky_ex(c).info):
            raise ValueError(f"cov{which} isn't a symmetric positive definite matrix")
        means.append(m)
        covs.append(c)
    if means[0].shape != means[1].shape:
        raise ValueError(f"mean0 has {len(means[0])} elements and mean1 {len(means[1])}; they take equally many")
    eye = torch.eye(len(means[0]), dtype=torch.float64, device=means[0].device)
    root = _square_root(covs[0])
    inner = _square_root(4 * root @ covs[1] @ root + 4 * eps**2 * eye)
    coupling = 0.5 * (torch.linalg.solve(root, (root @ inner).mT).mT - 2 * eps * eye)
    return GaussianBridge(means[0], covs[0], means[1], covs[1], coupling, float(eps))


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
