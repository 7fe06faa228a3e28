"""The maps of fields that networks learn, Poisson's equation for cycles, and a V-cycle of sparse matrices."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from paperworks.evidence import Run
from paperworks.numerics import torch_generator
from paperworks.operators import MultigridConv
from paperworks.papers.mgno.learning import EQUAL, OURS, THEIRS, Problem, fourier, mgno
from paperworks.solvers import laplacian
from paperworks.testbeds import OperatorPairs, darcy_piecewise, gaussian_fields, helmholtz, navier_stokes

Vector = Float[np.ndarray, " nodes"]
COARSE = 30  # smoothings of the one inner node of the coarsest grid: its equation is solved to rounding


def darcy(run: Run, count: int | None = None) -> Problem:
    """Return the two-phase Darcy problem, with all training samples or the first few."""
    n = run.at(smoke=17, desk=33, full=211)
    train, other = run.at(smoke=(4, 2), desk=(256, 32), full=(1000, 100))
    test = run.at(smoke=2, desk=64, full=100)
    pairs = darcy_piecewise(n, train + other + test, random_state=1)
    count = train if count is None else min(count, train)
    modes = run.at(smoke=(4, 4), desk=(20, 18), full=(24, 24))
    wide, narrow = run.at(smoke=(4, 3), desk=(20, 11), full=(32, 11))
    margin = run.at(smoke=2, desk=3, full=16) / n  # 21, 39 and 243 nodes: products of small primes
    networks = {
        OURS: mgno(run.at(smoke=2, desk=16, full=24), resolution=n, levels=run.at(smoke=4, desk=5, full=6)),
        THEIRS: lambda: fourier(wide, modes, margin),
        EQUAL: lambda: fourier(narrow, modes, margin),
    }
    return Problem(
        "darcy", pairs[:count], pairs[train : train + other], pairs[train + other :], networks,
        settings={"n": n, "samples": count},
    )  # fmt: skip


def flow(run: Run) -> Problem:
    """Return the problem of the next frame of a periodic flow's vorticity; trajectories are of one part alone."""
    n, frames = run.at(smoke=16, desk=64, full=64), run.at(smoke=2, desk=10, full=20)
    parts = run.at(smoke=(3, 2, 2), desk=(64, 8, 16), full=(1000, 100, 100))

    def simulate() -> Tensor:
        equation = navier_stokes(n, 1e-4)
        start = gaussian_fields(equation.grid, sum(parts), lambda k: (k**2 + 7**2) ** -1.5, torch_generator(1))
        start = (2 * start / start.std()).float()
        return equation.simulate(start, 0.5, frames, run.at(smoke=2, desk=20, full=20), progress=run.progress)

    states = run.cached("mgno-flow", simulate, n=n, frames=frames, parts=list(parts), scale=run.scale)
    train, validation, test = (
        OperatorPairs(part[:, :-1].flatten(0, 1)[:, None], part[:, 1:].flatten(0, 1)[:, None])
        for part in states.split(list(parts))
    )
    levels = run.at(smoke=3, desk=5, full=5)
    ours = mgno(
        run.at(smoke=2, desk=16, full=32), padding_mode="circular", norm="layer", skip=None, residual=True,
        resolution=n, levels=levels,
    )  # fmt: skip
    wide, modes = run.at(smoke=(3, (4, 4)), desk=(20, (20, 18)), full=(32, (24, 24)))
    return Problem(
        "flow", train, validation, test, {OURS: ours, THEIRS: lambda: Residual(fourier(wide, modes))},
        residual=True, settings={"n": n},
    )  # fmt: skip


class Residual(torch.nn.Module):
    """A network whose output is added to its input, as ours does for flows."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "batch 1 n m"]) -> Float[Tensor, "batch 1 n m"]:
        y: Tensor = self.network(x)
        return x + y


def waves(run: Run) -> Problem:
    """Return the Helmholtz problem: from the speeds of a medium to the wave in it."""
    n = run.at(smoke=17, desk=33, full=101)
    train, validation, test = run.at(smoke=(4, 2, 2), desk=(256, 32, 64), full=(4000, 100, 100))
    pairs = helmholtz(n, train + validation + test, random_state=1)
    ours = mgno(
        run.at(smoke=2, desk=16, full=20), padding_mode="reflect", norm="layer", skip=None, transfer_padding=0,
        resolution=n, levels=run.at(smoke=3, desk=4, full=5),
    )  # fmt: skip
    wide, modes = run.at(smoke=(3, (4, 4)), desk=(20, (20, 18)), full=(32, (24, 24)))
    margin = run.at(smoke=2, desk=3, full=12) / n  # 21, 39 and 125 nodes
    return Problem(
        "waves", pairs[:train], pairs[train : train + validation], pairs[train + validation :],
        {OURS: ours, THEIRS: lambda: fourier(wide, modes, margin)}, settings={"n": n},
    )  # fmt: skip


def poisson_cycle(n: int, damping: float) -> MultigridConv:
    """Return the layer that is a V(1, 1)-cycle for Poisson's equation on n x n nodes, boundary included."""
    levels = (n - 1).bit_length() - 1
    smoothing = [(1, 1)] * (levels - 1) + [(COARSE, 0)]
    layer = MultigridConv(1, 1, levels, smoothing, residual_restriction=True, boundary_mask=True, resolution=n)
    return layer.double().galerkin_(1 / (n - 1), damping).requires_grad_(False)


def cycled(layer: MultigridConv, f: Float[Tensor, "1 1 n n"], cycles: int) -> tuple[Tensor, list[float]]:
    """Iterate u + layer(f - A u) from 0; return u and the norms of the residuals at inner nodes."""
    stencil, u, norms = layer.residual[0], torch.zeros_like(f), []
    for _ in range(cycles + 1):
        residual = torch.nn.functional.pad((f - stencil(u))[..., 1:-1, 1:-1], (1, 1, 1, 1))
        norms.append(float(residual.norm()))
        if len(norms) <= cycles:
            u = u + layer(residual)
    return u, norms


def levels_of(n: int) -> list[tuple[sparse.csr_array, sparse.csr_array | None]]:
    """Return Poisson's matrices at inner nodes, from n x n nodes down to one, each with the interpolation to it."""
    found: list[tuple[sparse.csr_array, sparse.csr_array | None]] = []
    m = n - 2
    while m > 1:
        half = (m - 1) // 2
        line = sparse.lil_array((m, half))
        for j in range(half):
            line[2 * j : 2 * j + 3, j] = np.array([[0.5], [1.0], [0.5]])
        found.append((laplacian((m, m), 1 / (m + 1)), sparse.csr_array(sparse.kron(line, line))))
        m = half
    return [*found, (laplacian((1, 1), 1 / 2), None)]


def matrix_cycle(
    levels: Sequence[tuple[sparse.csr_array, sparse.csr_array | None]], damping: float
) -> Callable[[Vector], Vector]:
    """Return a V(1, 1)-cycle of damped Jacobi relaxation and full weighting with an exact coarsest solve."""

    def cycle(f: Vector, level: int = 0) -> Vector:
        A, P = levels[level]
        if P is None:
            return np.asarray(f / A.diagonal())
        relax = damping / A.diagonal()
        u = relax * f
        u = u + P @ cycle(P.T @ (f - A @ u) / 4, level + 1)
        return np.asarray(u + relax * (f - A @ u))

    return cycle
