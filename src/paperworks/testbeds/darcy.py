"""Flow through porous ground and waves in an uneven medium: coefficients and the solutions that they lead to."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import fft, sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.testbeds.data import DatasetMissing

Nodes = Float[np.ndarray, "n n"]
Values = Float[np.ndarray, "samples n n"]


class OperatorPairs(NamedTuple):
    """Samples of a map between fields, one channel each, at the nodes of the unit square's grid, boundary included.

    Examples
    --------
    >>> pairs = darcy_piecewise(17, 4, random_state=0)
    >>> pairs.inputs.shape, pairs.outputs.dtype
    (torch.Size([4, 1, 17, 17]), torch.float32)
    """

    inputs: Float[Tensor, "samples 1 n n"]
    """What is given, such as a coefficient."""
    outputs: Float[Tensor, "samples 1 n n"]
    """What it leads to."""

    def __getitem__(self, index: slice) -> "OperatorPairs":  # type: ignore[override]
        """Return some of the samples."""
        return OperatorPairs(*(tuple.__getitem__(self, k)[index] for k in range(2)))


def darcy_solve(a: ArrayLike, f: ArrayLike = 1.0) -> Nodes:
    r"""Solve $-\nabla \cdot (a \nabla u) = f$ in the unit square with u = 0 on its boundary.

    Fluxes between neighbours see the harmonic mean of their coefficients, which is right for jumps between nodes;
    the sparse system is solved directly.

    Parameters
    ----------
    a
        Coefficient at the n x n nodes, boundary included, above 0.
    f
        Source at the nodes, or one number.

    Returns
    -------
    ndarray
        Solution at the nodes.

    Raises
    ------
    ValueError
        For a coefficient that isn't square, real, finite and positive, fewer than 3 nodes a side, or a source of
        another shape or that isn't finite.

    Examples
    --------
    >>> round(float(darcy_solve(np.ones((65, 65)))[32, 32]), 4)
    0.0737
    """
    a = _positive("a", a)
    n, m = len(a), len(a) - 2
    along = (2 / (1 / a[1:] + 1 / a[:-1]))[:, 1:-1]
    across = (2 / (1 / a[:, 1:] + 1 / a[:, :-1]))[1:-1]
    centre = along[1:] + along[:-1] + across[:, 1:] + across[:, :-1]
    down = -along[1:-1].ravel()
    right = -np.pad(across[:, 1:-1], ((0, 0), (0, 1))).ravel()[:-1]  # no neighbour beyond the end of a row
    bands = 5 if m > 1 else 1  # a node alone has no neighbours
    diagonals = [centre.ravel(), down, down, right, right][:bands]
    matrix = sparse.diags_array(diagonals, offsets=[0, m, -m, 1, -1][:bands])
    inside = _finite("f", f, (n, n))[1:-1, 1:-1].ravel() / (n - 1) ** 2
    # It is symmetric and definite: no pivots, and an order for symmetric patterns.
    factor = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return np.pad(factor.solve(inside).reshape(m, m), 1)


def helmholtz_solve(c: ArrayLike, omega: float, flux: ArrayLike) -> Nodes:
    r"""Solve $-\Delta u - (\omega / c)^2 u = 0$ in the unit square with a given normal derivative on the last row.

    The other three sides reflect waves: the normal derivative is 0. Central differences, solved directly.

    Parameters
    ----------
    c
        Speed of waves at the n x n nodes, boundary included.
    omega
        Frequency; ten nodes or more a wave of length ``2 pi c / omega`` keep the error small.
    flux
        The normal derivative at the n nodes of the last row, or one number.

    Returns
    -------
    ndarray
        Solution at the nodes.

    Raises
    ------
    ValueError
        For speeds that aren't square, real, finite and positive, a frequency that isn't positive, or a derivative of
        another shape or that isn't finite.

    Examples
    --------
    >>> u = helmholtz_solve(np.ones((65, 65)), 1.0, 1.0)
    >>> round(float(u[-1, 0]), 3), round(float(-1 / np.tan(1.0)), 3)  # -cos(x) / sin(1) at x = 1
    (-0.642, -0.642)
    """
    c = _positive("c", c)
    check_number("omega", omega, gt=0)
    n, h = len(c), 1 / (len(c) - 1)
    line = sparse.lil_array(sparse.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]))
    line[0, 1] = line[-1, -2] = -2  # mirror images beyond both ends
    line = line.tocsr() / h**2
    eye = sparse.eye_array(n)
    matrix = sparse.kron(line, eye) + sparse.kron(eye, line) - sparse.diags_array(((omega / c) ** 2).ravel())
    source = np.zeros((n, n))
    source[-1] = 2 * _finite("flux", flux, (n,)) / h
    return np.asarray(splu(matrix.tocsc()).solve(source.ravel()).reshape(n, n))


def neumann_fields(
    n: int, samples: int, tau: float, power: float, random_state: int | np.random.Generator
) -> Float[np.ndarray, "samples n n"]:
    r"""Draw Gaussian fields with covariance $(-\Delta + \tau^2)^{-power}$, without slope at the boundary and of mean 0.

    Parameters
    ----------
    n
        Nodes per side, boundary included.
    samples
        Number of fields.
    tau
        Inverse length of correlations.
    power
        How fast the spectrum falls: the greater, the smoother.
    random_state
        Seed, or a generator.

    Returns
    -------
    ndarray
        Fields at the nodes; their sign and shape matter, not their size.

    Raises
    ------
    ValueError
        For numbers that aren't positive.

    Examples
    --------
    >>> fields = neumann_fields(33, 2, 3.0, 2.0, 0)
    >>> fields.shape, abs(float(fields.mean())) < 0.1
    ((2, 33, 33), True)
    """
    check_count("n", n, at_least=3)
    check_count("samples", samples)
    check_number("tau", tau, gt=0)
    check_number("power", power, gt=0)
    rng = np.random.default_rng(random_state)
    k = np.pi * np.arange(n)
    amplitude = (k[:, None] ** 2 + k**2 + tau**2) ** (-power / 2) * tau ** (power - 1)
    amplitude[0] /= np.sqrt(2)  # a constant has twice the mean square of a wave
    amplitude[:, 0] /= np.sqrt(2)
    amplitude[0, 0] = 0.0
    waves = rng.standard_normal((samples, n, n)) * amplitude
    waves[:, 1:-1] /= 2  # the transform counts all waves but the first and the last twice
    waves[:, :, 1:-1] /= 2
    return np.asarray(2 * fft.dctn(waves, type=1, axes=(1, 2)))


def darcy_piecewise(
    n: int,
    samples: int,
    contrast: tuple[float, float] = (3.0, 12.0),
    *,
    tau: float = 3.0,
    random_state: int | np.random.Generator = 0,
) -> OperatorPairs:
    """Draw two-phase coefficients and their pressures under a source of 1: the usual Darcy problem.

    Parameters
    ----------
    n
        Nodes per side, boundary included.
    samples
        Number of samples.
    contrast
        Coefficient where a smooth Gaussian field is negative, and where it isn't.
    tau
        Inverse length of the phases.
    random_state
        Seed, or a generator.

    Returns
    -------
    OperatorPairs
        Coefficients and pressures.

    Raises
    ------
    ValueError
        For numbers that aren't positive.

    Examples
    --------
    >>> darcy_piecewise(17, 2).inputs.unique().tolist()
    [3.0, 12.0]
    """
    low, high = _phases(contrast)
    return _darcy(np.where(neumann_fields(n, samples, tau, 2.0, random_state) < 0, low, high))


def darcy_rough(n: int, samples: int, *, random_state: int | np.random.Generator = 0) -> OperatorPairs:
    """Draw coefficients of two phases in small, rough patches (2 and 12, inverse length 20), and their pressures.

    Parameters
    ----------
    n
        Nodes per side, boundary included.
    samples
        Number of samples.
    random_state
        Seed, or a generator.

    Returns
    -------
    OperatorPairs
        Coefficients and pressures.

    Raises
    ------
    ValueError
        For numbers that aren't positive.

    Examples
    --------
    >>> darcy_rough(33, 2).outputs.shape
    torch.Size([2, 1, 33, 33])
    """
    return darcy_piecewise(n, samples, (2.0, 12.0), tau=20.0, random_state=random_state)


def darcy_multiscale(n: int, samples: int, *, random_state: int | np.random.Generator = 0) -> OperatorPairs:
    r"""Draw coefficients that vary on six scales at once, and their pressures.

    The coefficient is a product over k = 1 to 6 of $(1 + \cos(a_k \pi (x + y)) / 2)(1 + \sin(a_k \pi (y - 3 x)) / 2)$
    with $a_k$ uniform in $[2^{k-1}, 1.5 \cdot 2^{k-1}]$.

    Parameters
    ----------
    n
        Nodes per side, boundary included; 129 or more resolve the finest scale.
    samples
        Number of samples.
    random_state
        Seed, or a generator.

    Returns
    -------
    OperatorPairs
        Coefficients and pressures.

    Raises
    ------
    ValueError
        For numbers that aren't positive.

    Examples
    --------
    >>> bool(darcy_multiscale(33, 2).inputs.min() > 0)
    True
    """
    check_count("n", n, at_least=3)
    rng = np.random.default_rng(random_state)
    scales = 2.0 ** np.arange(6)
    a = rng.uniform(scales, 1.5 * scales, (check_count("samples", samples), 6))[..., None, None] * np.pi
    x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij")
    return _darcy(((1 + np.cos(a * (x + y)) / 2) * (1 + np.sin(a * (y - 3 * x)) / 2)).prod(1))


def darcy_images(n: int, contrast: tuple[float, float] = (3.0, 12.0)) -> OperatorPairs:
    """Return coefficients of two phases that are photographs, cut at their median, and their pressures.

    Bricks, coins, gravel, grass, blood vessels of a retina, the surface of the moon and a printed page, which come with
    scikit-image: structures that no Gaussian field has.

    Parameters
    ----------
    n
        Nodes per side, boundary included.
    contrast
        Coefficient of the dark and of the bright phase.

    Returns
    -------
    OperatorPairs
        Coefficients and pressures, one sample an image.

    Raises
    ------
    ValueError
        For numbers that aren't positive.
    DatasetMissing
        Where scikit-image isn't installed.

    Examples
    --------
    >>> darcy_images(17).inputs.shape  # doctest: +SKIP
    torch.Size([7, 1, 17, 17])
    """
    check_count("n", n, at_least=3)
    low, high = _phases(contrast)
    try:
        from skimage import data, transform
    except ImportError as error:
        raise DatasetMissing("the images come with scikit-image; `pip install scikit-image` installs it") from error
    fields = []
    for load in (data.brick, data.coins, data.gravel, data.grass, data.microaneurysms, data.moon, data.page):
        image = np.asarray(load(), dtype=float)
        side = min(image.shape)
        scaled = transform.resize(image[:side, :side], (n, n), anti_aliasing=True)
        fields.append(np.where(scaled < np.median(scaled), low, high))
    return _darcy(np.stack(fields))


def helmholtz(
    n: int, samples: int, *, omega: float | None = None, random_state: int | np.random.Generator = 0
) -> OperatorPairs:
    """Draw speeds of waves in an uneven medium, and the waves that a vibrating part of one side sends through it.

    Speeds are 20 + tanh of a smooth Gaussian field; the normal derivative on the last row is 1 in the middle 30 % of it
    and 0 elsewhere, as in the problem that the paper takes from de Hoop, Huang, Qian and Stuart (2022).

    Parameters
    ----------
    n
        Nodes per side, boundary included.
    samples
        Number of samples.
    omega
        Frequency; by default 10 for each interval between nodes, about twelve nodes a wave, which is the original's
        1000 at its 101 nodes.
    random_state
        Seed, or a generator.

    Returns
    -------
    OperatorPairs
        Speeds and waves.

    Raises
    ------
    ValueError
        For numbers that aren't positive.

    Examples
    --------
    >>> pairs = helmholtz(33, 2)
    >>> bool(((pairs.inputs > 19) & (pairs.inputs < 21)).all())
    True
    """
    field = neumann_fields(n, samples, 3.0, 2.0, random_state)
    speeds = 20 + np.tanh(field)
    at = np.linspace(0, 1, n)
    flux = ((at >= 0.35) & (at <= 0.65)).astype(float)
    frequency = 10.0 * (n - 1) if omega is None else omega
    return _pairs(speeds, lambda c: helmholtz_solve(c, frequency, flux))


def _positive(name: str, values: ArrayLike) -> Nodes:
    x = np.asarray(values)
    if x.ndim != 2 or x.shape[0] != x.shape[1] or len(x) < 3:
        raise ValueError(f"{name} has shape {x.shape}; it takes n x n nodes, 3 or more a side")
    if np.iscomplexobj(x) or not (np.isfinite(x).all() and (x > 0).all()):
        raise ValueError(f"{name} has elements that are 0, negative, complex or not finite; it takes positive numbers")
    return x.astype(float)


def _finite(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    x = np.asarray(values)
    if x.ndim and x.shape != shape:
        raise ValueError(f"{name} has shape {x.shape}; it takes a number, or {shape}")
    if np.iscomplexobj(x) or not np.isfinite(x).all():
        raise ValueError(f"{name} has elements that are complex or not finite; it takes real, finite numbers")
    return np.broadcast_to(x.astype(float), shape)


def _phases(contrast: tuple[float, float]) -> tuple[float, float]:
    if len(contrast) != 2:
        raise ValueError(f"contrast is {contrast!r}; it takes the coefficients of two phases")
    low, high = (check_number("contrast", value, gt=0) for value in contrast)
    return low, high


def _darcy(a: Values) -> OperatorPairs:
    return _pairs(a, darcy_solve)


def _pairs(inputs: Values, solve: Callable[[Nodes], Nodes]) -> OperatorPairs:
    outputs = np.stack([solve(field) for field in inputs])
    return OperatorPairs(*(torch.from_numpy(x).float().unsqueeze(1) for x in (inputs, outputs)))
