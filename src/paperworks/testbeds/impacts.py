"""Waves after impacts of random strength, time and place: a bar, and a plate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.utils import check_random_state

from paperworks.core.validation import check_count
from paperworks.reduction import Elastodynamics


class BarRuns(NamedTuple):
    """Runs of a bar that is struck at its left end: what a zone of it sees at its two ends.

    Examples
    --------
    >>> struck_bar(2, 0).times[:2]
    array([0.016, 0.032])
    """

    histories: Float[np.ndarray, "n 1 2 times"]
    """Displacements at both ends of the zone, at every fourth step."""
    modulus: Float[np.ndarray, " n"]
    """Young's modulus of each run."""
    inside: Float[np.ndarray, "n times"]
    """Displacements in the middle of the zone."""
    times: Float[np.ndarray, " times"]
    """The stored times."""


def struck_bar(n: int, random_state: object = None) -> BarRuns:
    r"""Simulate a bar of unit length and density, fixed at its right end, that is struck at its left end.

    The modulus is E = 1 + 0.1 N(0, 1), the left end moves by :math:`A \exp(-((t - t_0)/w)^2)` with A = 1 + 0.2 N(0, 1),
    :math:`t_0` uniform from 0.15 to 0.2 and w from 0.04 to 0.06. Central differences on 200 cells take 400 steps to
    t = 1.6; the zone is 0.6 to 0.8.

    Parameters
    ----------
    n
        How many runs there are.
    random_state
        Seed of what is random; None, the default, draws one.

    Returns
    -------
    BarRuns
        Histories at the zone's ends, moduli, and the displacement in its middle.

    Examples
    --------
    >>> runs = struck_bar(3, 0)
    >>> runs.histories.shape, bool(abs(runs.histories).max() > 0.5)
    ((3, 1, 2, 100), True)
    """
    check_count("n", n)
    rng = check_random_state(random_state)
    # Beyond six deviations the steps would be too long for the speed of sound.
    E = np.clip(1 + 0.1 * rng.normal(size=n), 0.4, 1.5)
    A = 1 + 0.2 * rng.normal(size=n)
    t0, w = 0.15 + 0.05 * rng.uniform(size=n), 0.04 + 0.02 * rng.uniform(size=n)
    cells, steps, dt = 200, 400, 1.6 / 400
    courant = E * (dt * cells) ** 2
    old, u = np.zeros((2, cells + 1, n))
    seen = []
    for step in range(1, steps + 1):
        new = 2 * u - old
        new[1:-1] += courant * (u[2:] - 2 * u[1:-1] + u[:-2])
        new[0], new[-1] = A * np.exp(-(((step * dt - t0) / w) ** 2)), 0
        old, u = u, new
        if step % 4 == 0:
            seen.append(u[[120, 140, 160]])
    left, middle, right = np.stack(seen, -1)
    return BarRuns(np.stack([left, right], 1)[:, None], E, middle, np.arange(4, steps + 1, 4) * dt)


class Plate(NamedTuple):
    """A plate under impact: the whole model, and how its loads are drawn.

    Examples
    --------
    >>> plate = struck_plate(8, 4)
    >>> plate.loads(3, 0)(0.4).shape
    (90, 3)
    """

    model: Any
    """The `Elastodynamics` of the plate, clamped at its lower side."""
    dt: float
    """A step of 0.9 h / c."""
    steps: int
    """Steps until the wave has gone twice through the height."""

    def zone(self, width: int, height: int) -> np.ndarray:
        """Return the mask of the elements in the middle, `width` by `height` of them.

        Returns
        -------
        np.ndarray
            Truth values, one for each element.
        """
        mesh = self.model.basis.mesh
        h, size = _pitch(mesh), mesh.p.max(1)
        middle = np.round(size / h / 2 - np.array([width, height]) / 2)[:, None]
        centre = mesh.p[:, mesh.t].mean(1) / h - middle
        return np.asarray(((centre > 0) & (centre < np.array([width, height])[:, None])).all(0))

    def loads(self, n: int, random_state: object = None) -> Callable[[float], Float[np.ndarray, "dofs n"]]:
        r"""Draw impacts on the upper side: :math:`A \exp(-((t - t_0)/w)^2)` with a Gaussian profile around a place.

        A = 1 + 0.2 N(0, 1); :math:`t_0` is uniform from 0.35 to 0.45, w from 0.1 to 0.14, the place from 0.35 to 0.65
        of the length, and the profile's width from 0.1 to 0.2; time in units of height / speed of compression waves.

        Parameters
        ----------
        n
            How many impacts.
        random_state
            Seed of what is random; None, the default, draws one.

        Returns
        -------
        callable
            Forces of all n impacts at a time, as columns.
        """
        rng = check_random_state(random_state)
        A = 1 + 0.2 * rng.normal(size=check_count("n", n))
        t0, w = 0.35 + 0.1 * rng.uniform(size=n), 0.1 + 0.04 * rng.uniform(size=n)
        mesh = self.model.basis.mesh
        place = mesh.p[0].max() * (0.35 + 0.3 * rng.uniform(size=n))
        reach = 0.1 + 0.1 * rng.uniform(size=n)
        top = np.flatnonzero(mesh.p[1] > mesh.p[1].max() - 1e-9)
        profile = np.exp(-(((mesh.p[0][top][:, None] - place) / reach) ** 2)) * _pitch(mesh)
        profile[[0, -1]] /= 2
        dofs = self.model.basis.nodal_dofs[1][top]

        def force(t: float) -> np.ndarray:
            found = np.zeros((self.model.n_dofs, n))
            found[dofs] = -profile * A * np.exp(-(((t - t0) / w) ** 2)) * (1 - np.exp(-((t / 0.02) ** 2)))
            return found

        return force


def _pitch(mesh: Any) -> float:
    return float(np.diff(np.unique(mesh.p[1].round(9))).min())


def struck_plate(nx: int = 40, ny: int = 20, scheme: str = "central") -> Plate:
    """Return a plate of unit height, nx by ny square elements, clamped below and struck from above.

    Its compression waves have speed 1, its shear waves half of it; the density is 1.

    Parameters
    ----------
    nx, ny
        Elements along length and height.
    scheme
        That of `Elastodynamics`: ``"central"``, the default, or ``"newmark"``.

    Returns
    -------
    Plate
        Model, step and number of steps, with drawn loads.

    Raises
    ------
    DatasetMissing
        Where scikit-fem isn't installed.

    Examples
    --------
    >>> plate = struck_plate(8, 4)
    >>> u = plate.model.solve(f=plate.loads(3, 0), dt=plate.dt, steps=plate.steps)
    >>> u.shape[1:], int(plate.zone(4, 2).sum())
    ((90, 3), 8)
    """
    try:
        import skfem
    except ImportError as error:
        from paperworks.testbeds.data import DatasetMissing

        raise DatasetMissing("the plate needs scikit-fem; `pip install 'paperworks[mechanics]'` installs it") from error
    check_count("nx", nx, at_least=2)
    check_count("ny", ny, at_least=2)
    mesh = skfem.MeshQuad.init_tensor(np.linspace(0, nx / ny, nx + 1), np.linspace(0, 1, ny + 1))
    basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementQuad1()))
    clamped = basis.nodal_dofs[:, mesh.p[1] < 1e-9].ravel()
    model = Elastodynamics(basis, lam=0.5, mu=0.25, rho=1.0, scheme=scheme, fixed=clamped)
    steps = int(np.ceil(2 / (0.9 / ny)))
    return Plate(model, 2 / steps, steps)
