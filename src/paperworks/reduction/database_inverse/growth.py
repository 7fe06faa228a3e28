"""Growth of a tumour by diffusion and proliferation, in brain tissue that nothing leaves (Fisher and Kolmogorov)."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from joblib import Parallel, delayed

from paperworks.core.validation import check_count, check_number

TISSUE = 0.1  # less white and grey matter than this is no brain
FRONT = 1e-8  # below it nothing has arrived


class FisherKolmogorov:
    r"""The reaction-diffusion model of a tumour in a brain, with no flux through its boundary.

    .. math:: \partial_t c = \nabla\cdot(D(x)\nabla c) + \rho\,c\,(1-c),\qquad
        D = D_w\,(p_w + p_g/r), \qquad c(x, 0) = \exp(-|x-x_0|^2/2 s^2)

    Space is discretised by finite volumes on the voxels, a face to a voxel without tissue lets nothing through. Time is
    split after Strang: half a step of the logistic growth, exactly, one explicit step of the diffusion, and the other
    half. A step is stable and keeps :math:`\rho\,\Delta t \le 0.1`. Only the box that the tumour has reached is
    computed; the loops are numba's where it is installed, else NumPy's.

    Parameters
    ----------
    wm, gm
        Shares of white and grey matter in each voxel, in [0, 1]; where both together are below 0.1 there is no brain.
    spacing_mm
        Edge of a voxel in mm.
    ratio
        By how much slower diffusion is in grey matter, r; 10 by default, as in the paper.
    dtype
        ``np.float32``, the default, or ``np.float64``: of the concentrations.

    References
    ----------
    Ezhov et al., "A for-loop is all you need", arXiv:2205.04550, the forward model.

    Examples
    --------
    >>> import numpy as np
    >>> brain = FisherKolmogorov(np.ones((16, 16, 16)), np.zeros((16, 16, 16)), 5.0)
    >>> c = brain.solve(0.003, 0.05, 60.0, (0.5, 0.5, 0.5))
    >>> c.shape, bool(c.max() <= 1)
    ((16, 16, 16), True)
    """

    def __init__(
        self,
        wm: Float[np.ndarray, "x y z"],
        gm: Float[np.ndarray, "x y z"],
        spacing_mm: float,
        ratio: float = 10.0,
        dtype: Any = np.float32,
    ) -> None:
        wm, gm = np.asarray(wm, dtype=np.float64), np.asarray(gm, dtype=np.float64)
        for name, tissue in (("wm", wm), ("gm", gm)):
            if tissue.ndim != 3 or tissue.shape != wm.shape:
                raise ValueError(f"{name} has shape {tissue.shape}; it takes volumes of one shape (x, y, z)")
            if not (np.isfinite(tissue).all() and tissue.min() >= 0 and tissue.max() <= 1 + 1e-6):
                raise ValueError(f"{name} has values out of [0, 1] or not finite; it takes shares of tissue")
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype is {np.dtype(dtype)}; it takes float32 or float64")
        self.spacing_mm = check_number("spacing_mm", spacing_mm, gt=0)
        self.ratio = check_number("ratio", ratio, ge=1)
        self.dtype = np.dtype(dtype)
        self.tissue = wm + gm >= TISSUE
        if not self.tissue.any():
            raise ValueError("wm and gm have no voxel with tissue; it takes a brain")
        conductivity = np.where(self.tissue, wm + gm / ratio, 0.0)
        self._largest = float(conductivity.max())
        # Between each voxel and the next along an axis; a row of zeros closes the far side.
        self._faces = tuple(_faces(conductivity, self.tissue, axis).astype(self.dtype, order="C") for axis in range(3))

    def locate(self, x0: Sequence[float]) -> tuple[int, ...]:
        """Return the voxel of a place.

        Parameters
        ----------
        x0
            The place, in shares of the edges of the volume, from 0 to 1.

        Returns
        -------
        tuple of int
            Indices of the voxel.
        """
        place = [check_number("x0", x, ge=0, le=1) for x in x0]
        if len(place) != 3:
            raise ValueError(f"x0 has {len(place)} numbers; it takes three")
        return tuple(min(int(x * n), n - 1) for x, n in zip(place, self.tissue.shape, strict=True))

    def solve(
        self,
        Dw: float,
        rho: float,
        T: float,
        x0: Sequence[float],
        *,
        seed_width_mm: float | None = None,
        largest_volume: float | None = None,
    ) -> Float[np.ndarray, "x y z"] | None:
        """Let a tumour grow, and return its concentration.

        Parameters
        ----------
        Dw
            Diffusion in white matter in cm²/day.
        rho
            Proliferation in 1/day.
        T
            How long it grows, in days.
        x0
            Where it begins, in shares of the edges of the volume; it takes a voxel with tissue.
        seed_width_mm
            Standard deviation of the start in mm; None, the default, takes the edge of a voxel.
        largest_volume
            In cm³: where the tumour, as far as its concentration is at least 0.2, becomes larger, the simulation ends
            and None is returned. None, the default, sets no limit.

        Returns
        -------
        np.ndarray or None
            Concentration in [0, 1].

        Raises
        ------
        ValueError
            For a place without tissue, or a number that is negative or not finite.

        Examples
        --------
        >>> import numpy as np
        >>> brain = FisherKolmogorov(np.ones((8, 8, 8)), np.zeros((8, 8, 8)), 5.0)
        >>> brain.solve(0.01, 0.1, 500.0, (0.5, 0.5, 0.5), largest_volume=10.0) is None
        True
        """
        check_number("Dw", Dw, ge=0)
        check_number("rho", rho, ge=0)
        check_number("T", T, ge=0)
        width = self.spacing_mm if seed_width_mm is None else check_number("seed_width_mm", seed_width_mm, gt=0)
        voxel = self.locate(x0)
        if not self.tissue[voxel]:
            raise ValueError(f"x0 is {tuple(x0)}, in voxel {voxel} without tissue; it takes a place in the brain")
        h = self.spacing_mm / 10
        at = [x * n - 0.5 for x, n in zip(x0, self.tissue.shape, strict=True)]
        axes = np.ogrid[tuple(slice(n) for n in self.tissue.shape)]
        squares = sum((axis - a) ** 2 for axis, a in zip(axes, at, strict=True)) * (self.spacing_mm / width) ** 2
        c = np.where(self.tissue, np.exp(-squares / 2), 0).astype(self.dtype, order="C")
        if not c.max() > FRONT:
            raise ValueError(
                f"seed_width_mm is {width:g}, which no voxel of {self.spacing_mm:g} mm sees; it takes more"
            )
        limits = [h * h / (6 * Dw * self._largest) if Dw else math.inf, 0.1 / rho if rho else math.inf]
        steps = max(1, math.ceil(T / min(limits))) if min(limits) < math.inf else 1
        most = math.inf if largest_volume is None else check_number("largest_volume", largest_volume, gt=0) / h**3
        dt = T / steps
        advance: Callable[..., bool] = _compiled() or _march_numpy
        real = self.dtype.type
        done = advance(c, *self._faces, real(Dw * dt / h**2), real(math.exp(rho * dt / 2)), steps, most)
        return c if done else None

    def solve_batch(
        self, parameters: Sequence[Sequence[Any]], *, n_jobs: int = 1, **options: Any
    ) -> list[Float[np.ndarray, "x y z"] | None]:
        """Let several tumours grow.

        Parameters
        ----------
        parameters
            For each Dw, rho, T and x0, as `solve` takes them.
        n_jobs
            How many threads; 1 by default. The compiled loops run beside each other.
        **options
            Further arguments of `solve`.

        Returns
        -------
        list of np.ndarray or None
            For each its concentration in [0, 1], or None where it became too large.
        """
        check_count("n_jobs", n_jobs)
        return Parallel(n_jobs, prefer="threads")(delayed(self.solve)(*one, **options) for one in parameters)


def _faces(conductivity: np.ndarray, tissue: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean conductivity between each voxel and the next along an axis, zero where either has no tissue."""
    ahead = np.roll(conductivity, -1, axis)
    both = tissue & np.roll(tissue, -1, axis)
    found = np.where(both, (conductivity + ahead) / 2, 0.0)
    found[(slice(None),) * axis + (-1,)] = 0.0
    return found


def march(c: Any, fx: Any, fy: Any, fz: Any, number: float, growth: float, steps: int, most: float) -> bool:
    """Advance the concentration in place; plain loops, for numba.

    Half a step of growth at the end of a step and the one at the start of the next are one. The box is followed along
    the first two axes; the inner loops run along whole pieces of planes, without branches, so that they become vector
    instructions.

    Parameters
    ----------
    c
        Concentration.
    fx, fy, fz
        Conductivity between each voxel and the next along each axis.
    number
        Diffusion in white matter times the step over the square of the spacing, in the precision of `c`.
    growth
        The factor of exponential growth in half a step, in the precision of `c`.
    steps
        How many steps.
    most
        How many voxels may have a concentration of 0.2 or more.

    Returns
    -------
    bool
        Whether it got to the end.
    """
    n0, n1, n2 = c.shape
    a0, a1, b0, b1 = n0, n1, 0, 0
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                if c[i, j, k] > 1e-8:
                    a0, a1, b0, b1 = min(a0, i), min(a1, j), max(b0, i + 1), max(b1, j + 1)
    a0, a1, b0, b1 = max(a0 - 1, 0), max(a1 - 1, 0), min(b0 + 1, n0), min(b1 + 1, n1)
    one = growth / growth
    fifth = one / (one + one + one + one + one)
    area = n1 * n2
    old, new = c.reshape(n0, area), c.copy().reshape(n0, area)
    fx, fy, fz = fx.reshape(n0, area), fy.reshape(n0, area), fz.reshape(n0, area)
    for i in range(a0, b0):
        for q in range(a1 * n2, b1 * n2):
            old[i, q] = old[i, q] * growth / (one + old[i, q] * (growth - one))
    for step in range(steps):
        last = step == steps - 1
        factor = growth if last else growth * growth
        # What a concentration of 0.2 at the end of a step is when the next half step of growth has been taken.
        level = fifth if last else fifth * growth / (one + fifth * (growth - one))
        large = 0
        low, high = a1 * n2, b1 * n2
        for i in range(a0, b0):
            ahead, back = min(i + 1, b0 - 1), max(i - 1, a0)  # at an end itself, to which nothing flows
            here, out, y, z = old[i, low:high], new[i, low:high], fy[i, low:high], fz[i, low:high]
            x_ahead, x_back, f_ahead, f_back = (
                old[ahead, low:high],
                old[back, low:high],
                fx[i, low:high],
                fx[back, low:high],
            )
            for q in range(len(here)):
                v = here[q]
                out[q] = v + number * (f_ahead[q] * (x_ahead[q] - v) + f_back[q] * (x_back[q] - v))
            out_1, here_1, out_n, here_n = out[1:], here[1:], out[n2:], here[n2:]
            for q in range(len(out_n)):
                out[q] += number * (y[q] * (here_n[q] - here[q]))
            for q in range(len(out_n)):
                out_n[q] -= number * (y[q] * (here_n[q] - here[q]))
            for q in range(len(out_1)):  # at the end of a row the conductivity is zero
                out[q] += number * (z[q] * (here_1[q] - here[q]))
            for q in range(len(out_1)):
                out_1[q] -= number * (z[q] * (here_1[q] - here[q]))
            for q in range(len(out)):
                v = out[q]
                v = v * factor / (one + v * (factor - one))
                out[q] = v
                large += v >= level
        old, new = new, old
        if large > most:
            return False
        below, above = (old[a0, low:high] > 1e-8).any(), (old[b0 - 1, low:high] > 1e-8).any()
        left = right = False
        for i in range(a0, b0):
            left = left or (old[i, low : low + n2] > 1e-8).any()
            right = right or (old[i, high - n2 : high] > 1e-8).any()
        a0, a1, b0, b1 = max(a0 - below, 0), max(a1 - left, 0), min(b0 + above, n0), min(b1 + right, n1)
    c[:] = old.reshape(c.shape)
    return True


def _march_numpy(
    c: np.ndarray, fx: np.ndarray, fy: np.ndarray, fz: np.ndarray, number: Any, growth: Any, steps: int, most: float
) -> bool:
    """Do what `march` does with NumPy's slices of the box that the tumour has reached."""
    for step in range(steps):
        if step % 8 == 0:  # what arrives in eight steps is within eight voxels
            reached = [np.flatnonzero((c > FRONT).any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
            box = tuple(slice(max(r[0] - 8, 0), r[-1] + 9) if len(r) else slice(0, 0) for r in reached)
        part = c[box]
        part = part * growth / (1 + part * (growth - 1))
        change = np.zeros_like(part)
        for axis, face in enumerate((fx, fy, fz)):
            here = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
            ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
            flux = face[box][here] * np.diff(part, axis=axis)
            change[here] += flux
            change[ahead] -= flux
        part += number * change
        c[box] = part * growth / (1 + part * (growth - 1))
        if (c[box] >= 0.2).sum() > most:
            return False
    return True


@cache
def _compiled() -> Callable[..., bool] | None:
    """Return the loops compiled, or None where numba isn't installed."""
    try:
        from numba import njit
    except ImportError:
        return None
    return njit(nogil=True, error_model="numpy")(inspect.unwrap(march))
