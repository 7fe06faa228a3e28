"""
Solve a nonlinear equation and know how wrong you are
=====================================================

You solve a nonlinear elliptic equation, say for the concentration of a substance that diffuses and reacts, and
somebody relies on the number. A residual is small, but by how much is the solution off? You want an error bound that
comes with the solution, and that holds.

This tutorial solves ``-Δu + u³ = f`` on the unit square by :func:`~paperworks.solvers.solve_pgd`, stops as soon as the
certified error is small enough, and checks the certificate against a known solution and the solution against an
independent finite-difference solver.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from paperworks.solvers import EllipticEnergy, SineSeries, laplacian, semilinear, solve_pgd

# %%
# A problem with a known answer
# -----------------------------
# First one whose solution we choose, so that the error can be seen: ``with_solution`` computes the source that belongs
# to it. ``c_bounds`` bounds the derivative of the reaction, ``3 u²``, where the solution and the iterates go; the
# certificate rests on it, and the solver reports the range that was met.

exact = SineSeries(np.diag([1.0, 0.0, 0.1]))  # sin(pi x) sin(pi y) + sin(3 pi x) sin(3 pi y) / 10
problem = EllipticEnergy.with_solution(semilinear(), exact, c_bounds=(0.0, 5.0))
iterates = []
result = solve_pgd(problem, n_modes=31, callback=lambda u: iterates.append(u))
print(f"{result.iterations} iterations, converged: {result.converged}")
print(f"derivative of the reaction met: {result.hessian.c_low:.2f} to {result.hessian.c_high:.2f}, allowed 0 to 5")

# %%
# Is the certificate right?
# -------------------------
# It has to lie above the true error in every iteration, and not by much, or it is of no use.

certified = result.history["certified"][1:]
true = np.array([(u - exact).h1_norm for u in iterates])
seen = true > 1e-12  # below that, rounding is all there is
print(f"certified / true error: {(certified / true)[seen].min():.2f} to {(certified / true)[seen].max():.2f}")

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.semilogy(np.arange(1, len(true) + 1), certified, "C1o-", label="certified error")
axis.semilogy(np.arange(1, len(true) + 1), true, "C0s--", label="true error")
axis.set(xlabel="iteration", ylabel="error in H¹")
axis.set_title("The certified error of each iterate, and the true one")
axis.legend()

# %%
# A problem of your own
# ---------------------
# A source of two spots, whose solution nobody knows. A source is a function of coordinates. We solve it with more and
# more modes.


def spots(x, y):
    """Return the source at points."""
    return 60 * np.exp(-80 * ((x - 0.3) ** 2 + (y - 0.4) ** 2)) + 40 * np.exp(-60 * ((x - 0.7) ** 2 + (y - 0.7) ** 2))


mine = EllipticEnergy(semilinear(), spots, dim=2, c_bounds=(0.0, 3.0))
began = time.perf_counter()
found = {modes: solve_pgd(mine, n_modes=modes) for modes in (30, 45, 60, 90)}
print(f"four resolutions took {time.perf_counter() - began:.2f} s")
for modes, solution in found.items():
    finer = (solution.u.resized(90) - found[90].u).h1_norm
    print(f"{modes:2d} modes: certified {solution.certified_error:.1e} for these modes; {finer:.1e} from 90 modes")

# %%
# The certificate is for the equation *in these modes*. What more modes would add is the other part of the error, and
# the last column shows it: it has to fall too before you stop.

# %%
# Ask another solver
# ------------------
# Second-order differences on a grid of 128 by 128 cells, Newton's method and a sparse direct solver share nothing with
# the sine series but the equation.

m = 127
nodes = np.arange(1, m + 1) / (m + 1)
x, y = np.meshgrid(nodes, nodes, indexing="ij")
A, b, u = laplacian((m, m), 1 / (m + 1)), spots(x, y).ravel(), np.zeros(m * m)
for _ in range(6):
    u -= spsolve(sparse.csc_array(A + sparse.diags_array(3 * u**2)), A @ u + u**3 - b)
ours = found[90].u(np.stack([x, y], axis=-1)).ravel()
difference = np.abs(ours - u).max() / np.abs(u).max()
print(f"largest difference from finite differences: {100 * difference:.2f} % of the largest value")
print(f"3 u² reaches {3 * ours.max() ** 2:.2f}; 3 was allowed")

figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for axis, (name, field) in zip(axes, {"solution": ours, "difference of the solvers": ours - u}.items(), strict=True):
    image = axis.imshow(field.reshape(m, m).T, origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
    axis.set(title=name, xlabel="x", ylabel="y")
    figure.colorbar(image, ax=axis, label="concentration")
figure.suptitle("Two sources in a medium that consumes")

# %%
# What it costs, and when not to use it
# -------------------------------------
# An iteration is a few fast sine transforms.
#
# * It is for cubes with the solution 0 at their boundary, for the torus, and for grids; a part with holes wants finite
#   elements.
# * The energy must be convex: where the reaction's derivative is negative there may be several solutions and no bound.
# * The tighter ``c_bounds``, the faster it is: give the range that the solution has, and look at ``result.hessian``
#   afterwards. If it was left, the certificate doesn't hold.

assert (certified[seen] >= true[seen] * (1 - 1e-6)).all()
assert (certified / true)[seen].max() < 20
assert result.hessian.c_high <= 5
assert difference < 0.005
assert 3 * ours.max() ** 2 <= 3
