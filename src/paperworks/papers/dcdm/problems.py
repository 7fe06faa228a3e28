"""Domains, right-hand sides and the trained networks that the claims share."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from paperworks.evidence import Run
from paperworks.numerics import seeded
from paperworks.solvers import DCDMNet, DCDMSolver, PoissonDomain, RitzDataset, cg, train_dcdm

KINDS = ("noise", "bump", "dipole", "ones")
RTOL = 1e-4


def network(run: Run, dim: int = 2) -> DCDMNet:
    """Return the network that all claims of a run share, trained on an empty box of `side` voxels per side."""
    n = side(run, dim)
    channels = run.at(smoke=8, desk=16, full=16)
    levels = run.at(smoke=1, desk=2, full=2) if dim == 2 else 1
    n_ritz = run.at(smoke=40, desk=400, full=400 if dim == 2 else 2000)
    n_samples = run.at(smoke=240, desk=4000 if dim == 2 else 640, full=20_000)
    epochs = run.at(smoke=3, desk=6 if dim == 2 else 4, full=50)

    def fit(net: DCDMNet) -> None:
        domain = box(n, dim)
        data = RitzDataset(domain, n_ritz, n_samples, random_state=0)
        train_dcdm(net, data, domain, epochs, random_state=0, progress=run.progress)

    with seeded(0):
        net = DCDMNet(dim, channels, levels)
    settings = {"n": n, "n_ritz": n_ritz, "n_samples": n_samples, "epochs": epochs, "width": [channels, levels]}
    trained = run.trained(f"dcdm-{dim}d", net, fit, **settings)
    assert isinstance(trained, DCDMNet)
    return trained


def side(run: Run, dim: int = 2) -> int:
    """Return the voxels per side that the network is trained at."""
    return run.at(smoke=12, desk=32, full=64) if dim == 2 else run.at(smoke=6, desk=16, full=64)


def box(n: int, dim: int = 2) -> PoissonDomain:
    """Return a box of fluid with n voxels per side, open at all sides."""
    return PoissonDomain(np.ones((n,) * dim, bool))


def centres(n: int, dim: int = 2) -> Float[np.ndarray, "dim ..."]:
    """Return the centres of the voxels of the unit square or cube."""
    return np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n] * dim, indexing="ij"))


def discs(n: int, *where: tuple[float, float, float]) -> PoissonDomain:
    """Return a box with solid discs, each given by its centre and radius in the unit square."""
    x, y = centres(n)
    fluid: Bool[np.ndarray, "n n"] = np.ones((n, n), bool)
    for a, b, radius in where:
        fluid &= np.hypot(x - a, y - b) >= radius
    return PoissonDomain(fluid)


def corner(n: int) -> PoissonDomain:
    """Return a box with a solid quarter: an L of fluid."""
    x, y = centres(n)
    return PoissonDomain((x > 0.5) | (y > 0.5))


def right_hand_sides(domain: PoissonDomain, rng: np.random.Generator, draws: int = 1) -> Float[np.ndarray, "voxels k"]:
    """Return columns of Gaussian noise, a bump, a dipole and ones, each drawn as often as asked for, 0 in solids."""
    n, dim = domain.grid[0], len(domain.grid)
    at = centres(n, dim)

    def bump(low: float, high: float, width: float) -> np.ndarray:
        middle = rng.uniform(low, high, dim).reshape(-1, *(1,) * dim)
        return np.asarray(np.exp(-((at - middle) ** 2).sum(0) / (2 * width**2)))

    found = []
    for _ in range(draws):
        noise = rng.standard_normal(domain.grid)
        dipole = bump(0.2, 0.8, 0.05) - bump(0.2, 0.8, 0.05)
        found += [noise, bump(0.25, 0.75, 0.1), dipole, np.ones(domain.grid)]
    return np.stack([(domain.fluid * f).ravel() for f in found], axis=1)


def iterations(net: DCDMNet, domain: PoissonDomain, b: Float[np.ndarray, "voxels k"], **options: Any) -> np.ndarray:
    """Return the iterations of our solver to a residual of 1e-4, for each right-hand side.

    Raises
    ------
    RuntimeError
        Where one was not solved.
    """
    solver = DCDMSolver(net, **options)
    _, info = solver.solve(domain, b, rtol=RTOL, maxiter=2000)
    if info:
        raise RuntimeError(f"not solved in {info} iterations on {domain!r}")
    return solver.iterations_


def cg_iterations(domain: PoissonDomain, b: Float[np.ndarray, "voxels k"], M: object = None) -> np.ndarray:
    """Return the iterations of (preconditioned) conjugate gradients to the same residual."""
    matrix = domain.matrix()
    return np.array([cg(matrix, column, rtol=RTOL, M=M).iterations for column in b.T])
