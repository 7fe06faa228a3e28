"""Stationary kernels whose spectrum is a mixture of bumps, with derivatives in closed form (arXiv 2311.04465)."""

import math
from collections.abc import Collection
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number

Kind = Literal["student", "gauss"]
MAX_ORDER = 4
"""The highest derivative of a Matérn-5/2 kernel that is continuous."""
_VANISHED = 800.0  # exp(-800) is 0 in double precision; beyond it a product with a power of the lag would be inf * 0


class MixtureSpectrum(NamedTuple):
    """The bumps of a kernel's spectrum, the heaviest first.

    Parameters
    ----------
    weights
        Variance of the process that each bump has.
    frequencies
        Their centres in cycles per unit of length, not negative.
    lengthscales
        Lengths over which the waves of each bump stay in phase; the bump is the narrower the longer they are.

    Examples
    --------
    >>> SpectralMixtureKernel(n_components=3, max_freq=4.0).spectrum().frequencies
    array([0., 2., 4.])
    """

    weights: Float[np.ndarray, " q"]
    frequencies: Float[np.ndarray, " q"]
    lengthscales: Float[np.ndarray, " q"]

    def active(self, share: float = 0.1) -> "MixtureSpectrum":
        """Keep the bumps that weigh more than a share of the heaviest.

        Parameters
        ----------
        share
            The least weight relative to the greatest, between 0 and 1.

        Returns
        -------
        MixtureSpectrum
            The bumps that are left, the heaviest first.
        """
        kept = self.weights > check_number("share", share, ge=0, lt=1) * self.weights.max()
        return MixtureSpectrum(*(values[kept] for values in self))


class SpectralMixtureKernel(nn.Module):
    r"""Kernel of a mixture of frequencies, $k(r) = \sum_q w_q\, g(r; \ell_q) \cos(2 \pi \mu_q r)$.

    The envelope $g$ of "student" is Matérn-5/2, $(1 + a|r| + a^2 r^2 / 3) e^{-a|r|}$ with $a_q = \sqrt 5 e^{\ell_q}$,
    whose spectrum is a Student-t bump around each frequency (StM); that of "gauss" is $\exp(-e^{\ell_q} r^2)$ with a
    Gaussian bump (GM). One component at frequency 0 is the plain Matérn or squared exponential kernel. Weights and
    scales are kept as logarithms, which is Jeffreys' prior on the weights and prunes frequencies that aren't needed.

    Derivatives by the lag are in closed form, since automatic ones take that of |r| at 0 to be 0 and lose the
    diagonal of second derivatives. They are differentiable by the parameters.

    Parameters
    ----------
    kind
        "student" (the paper's StM, which finds frequencies from farther away) or "gauss" (GM).
    n_components
        How many bumps there are; the paper takes 30.
    max_freq
        Greatest frequency at the start, in cycles per unit; they are spread evenly from 0 to it.
    init_lengthscale
        Length of every envelope at the start, 1 in the paper.

    Examples
    --------
    >>> kernel = SpectralMixtureKernel(n_components=1, max_freq=0.0)  # a plain Matérn-5/2
    >>> kernel(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach().numpy().round(4)
    array([1.   , 0.524])
    >>> kernel(torch.zeros(1, dtype=torch.float64), order=2).item()  # -a^2 / 3
    -1.66666...
    """

    def __init__(
        self,
        kind: Kind = "student",
        n_components: int = 30,
        *,
        max_freq: float,
        init_lengthscale: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("kind", kind, ("student", "gauss"))
        self.kind = kind
        n = check_count("n_components", n_components)
        top = check_number("max_freq", max_freq, ge=0)
        scale = -math.log(check_number("init_lengthscale", init_lengthscale, gt=0)) * (1 if kind == "student" else 2)
        self.raw_mixture_weights = nn.Parameter(torch.full((n,), -math.log(n), dtype=torch.float64))
        self.raw_mixture_means = nn.Parameter(torch.linspace(0, top, n, dtype=torch.float64))
        self.raw_mixture_scales = nn.Parameter(torch.full((n,), scale, dtype=torch.float64))

    def extra_repr(self) -> str:
        """Say what kind of mixture it is, for `repr`.

        Returns
        -------
        str
            The kind and the number of components.
        """
        return f"kind={self.kind!r}, n_components={len(self.raw_mixture_weights)}"

    @property
    def weights(self) -> Float[Tensor, " q"]:
        """The weights, whose sum is the variance of the process."""
        return self.raw_mixture_weights.exp()

    @property
    def frequencies(self) -> Float[Tensor, " q"]:
        """The frequencies in cycles per unit; the kernel is even in them, and they are given as not negative."""
        return self.raw_mixture_means.abs()

    @property
    def lengthscales(self) -> Float[Tensor, " q"]:
        """The lengths of the envelopes: 1 / e^l of "student", 1 / sqrt(e^l) of "gauss"."""
        return (-self.raw_mixture_scales / (1 if self.kind == "student" else 2)).exp()

    def spectrum(self) -> MixtureSpectrum:
        """Return weights, frequencies and lengths as they are now.

        Returns
        -------
        MixtureSpectrum
            Arrays in the order of falling weights.
        """
        order = self.weights.argsort(descending=True, stable=True)
        return MixtureSpectrum(
            *(v.detach()[order].cpu().numpy().copy() for v in (self.weights, self.frequencies, self.lengthscales))
        )

    def forward(self, lag: Float[Tensor, "*lags"], order: int = 0) -> Float[Tensor, "*lags"]:
        """Return the kernel, or a derivative of it, at signed lags.

        Parameters
        ----------
        lag
            Differences x - x' of any shape.
        order
            Which derivative by the lag, 0 to 4. A Matérn-5/2 process has only two in mean square: of orders 3 and 4
            there is a derivative of the kernel, hence of a conditional mean, and not of the process.

        Returns
        -------
        Tensor
            Values of the shape of `lag`; 0 at lags so great that the envelope has vanished.

        Raises
        ------
        ValueError
            Where the order is above 4.
        """
        return self.derivatives(lag, (order,))[order]

    def derivatives(self, lag: Float[Tensor, "*lags"], orders: Collection[int]) -> dict[int, Float[Tensor, "*lags"]]:
        r"""Return several derivatives at once, which share their exponentials and waves.

        With $s = 2 \pi \mu$ it is Leibniz' rule, $k^{(n)} = \sum_q w_q \sum_m \binom nm g^{(n-m)} s^m \cos^{(m)}(s r)$.

        Parameters
        ----------
        lag
            Differences x - x' of any shape.
        orders
            Which derivatives by the lag, each from 0 to 4.

        Returns
        -------
        dict[int, Tensor]
            Values of the shape of `lag` by their order.
        """
        for order in orders:
            check_count("order", order, at_least=0, at_most=MAX_ORDER)
        z = lag[..., None]
        s = 2 * math.pi * self.raw_mixture_means
        cos, sin = torch.cos(s * z), torch.sin(s * z)
        waves = (cos, -sin, -cos, sin, cos)
        envelope = _matern if self.kind == "student" else _squared_exponential
        g = envelope(z, self.raw_mixture_scales.exp(), max(orders, default=0))
        found = {}
        for n in orders:
            terms = (math.comb(n, m) * s**m * g[n - m] * waves[m] for m in range(n + 1))
            found[n] = sum(terms, start=torch.zeros_like(g[0])) @ self.weights
        return found


def _matern(z: Tensor, inverse_length: Tensor, order: int) -> list[Tensor]:
    """Return the Matérn-5/2 envelope and its derivatives up to an order."""
    a = math.sqrt(5) * inverse_length
    x = (a * z.abs()).clamp(max=_VANISHED)
    decay = (-x).exp()
    g = [(1 + x + x * x / 3) * decay]
    if order >= 1:
        g.append(-(a**2 / 3) * z * (1 + x) * decay)
    if order >= 2:
        g.append(-(a**2 / 3) * (1 + x - x * x) * decay)
    if order >= 3:
        g.append(a**4 / 3 * z * (3 - x) * decay)
    if order >= 4:
        g.append(a**4 / 3 * (3 - 5 * x + x * x) * decay)
    return g


def _squared_exponential(z: Tensor, b: Tensor, order: int) -> list[Tensor]:
    """Return exp(-b z^2) and its derivatives up to an order."""
    y = (b * z * z).clamp(max=_VANISHED)
    g = (-y).exp()
    factors = (
        torch.ones_like(y),
        -2 * b * z,
        2 * b * (2 * y - 1),
        4 * b**2 * z * (3 - 2 * y),
        4 * b**2 * (4 * y * y - 12 * y + 3),
    )
    return [factor * g for factor in factors[: order + 1]]
