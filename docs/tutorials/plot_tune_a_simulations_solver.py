"""
Let your simulation tune its own linear solver
==============================================

Your simulation solves a linear system in every step, and its solver has a parameter that nobody knows: the relaxation
of symmetric sweeps, ``omega``. The best value changes while the simulation runs, and searching for it costs solves.

:class:`~paperworks.solvers.AdaptiveSolver` learns it from the iterations that the steps cost anyway. This tutorial
wraps the solver of a diffusion whose strength changes in time, checks that the solution stays the same, and compares
the iterations with the usual value and with the best one in hindsight.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from paperworks.solvers import AdaptiveSolver, ChebCB, laplacian, ssor_pcg

# %%
# The simulation
# --------------
# Heat spreads on a plate of 30 by 30 points, by implicit Euler steps; its diffusivity swings between 0 and 10. Each
# step solves ``(1 + dt kappa L) u = u_before + dt``, with the solution before as the start.

grid, dt, steps = laplacian((30, 30), 1 / 31), 1e-3, 900
identity = sparse.eye_array(900, format="csr")
kappas = 5 + 5 * np.sin(np.arange(steps) / 20)
start = np.random.default_rng(0).random(900)


def simulate(solve):
    """Return the last field, and the iterations of each step that `solve(A, b, x0, kappa)` makes."""
    u, iterations = start, []
    for kappa in kappas:
        result = solve(identity + dt * kappa * grid, u + dt, u, kappa)
        u = result.x
        iterations.append(result.iterations)
    return u, np.array(iterations)


# %%
# Wrap the solver
# ---------------
# The bandit :class:`~paperworks.solvers.ChebCB` chooses among twenty values by what is known of a system before it is
# solved, its *context*: here the diffusivity. It is told the iterations, and needs nothing else.

adaptive = AdaptiveSolver(ssor_pcg, ChebCB(low=0.0, high=10.0, random_state=0))
u, learnt = simulate(lambda A, b, x0, kappa: adaptive.solve(A, b, x0, context=kappa))
for kappa in (0.1, 5.0, 10.0):
    favourite = adaptive.bandit.arms[adaptive.bandit.probabilities(kappa).argmax()]
    print(f"at diffusivity {kappa:4.1f} it now takes omega = {favourite:.2f}")

# %%
# Is it right?
# ------------
# The parameter changes how fast a solver is, not what it solves: each solve ends by the same tolerance. So the field
# has to be that of a direct solver.

exact = start
for kappa in kappas:
    exact = spsolve(sparse.csc_array(identity + dt * kappa * grid), exact + dt)
difference = np.linalg.norm(u - exact) / np.linalg.norm(exact)
print(f"relative difference from a direct solver after {steps} steps: {difference:.0e}")

# %%
# Was it worth it?
# ----------------
# The usual value is 1. *Best fixed value* is found by running the whole simulation for each value, which costs ten
# simulations; no value fixed beforehand can do better.

fixed = {w: simulate(lambda A, b, x0, kappa, w=w: ssor_pcg(A, b, x0, omega=w))[1] for w in np.arange(1.0, 1.91, 0.15)}
usual, best = fixed[1.0], min(fixed, key=lambda w: fixed[w].sum())
print(f"usual, omega = 1:             {usual.sum()} iterations")
print(f"best fixed, omega = {best:.2f}:     {fixed[best].sum()}")
print(
    f"learnt:                       {learnt.sum()}, of which {learnt[: steps // 3].sum()} in the first third of steps"
)
late = slice(2 * steps // 3, None)
print(
    f"in the last third: usual {usual[late].mean():.1f} a step, best fixed {fixed[best][late].mean():.1f}, "
    f"learnt {learnt[late].mean():.1f}"
)

figure, axes = plt.subplots(2, 1, figsize=(7, 6), layout="constrained")
window = np.ones(60) / 60
for name, counts, style in (
    ("usual, omega = 1", usual, "C1--"),
    (f"best fixed, omega = {best:.2f}", fixed[best], "C2-."),
    ("learnt while running", learnt, "C0-"),
):
    axes[0].plot(np.arange(60, steps + 1), np.convolve(counts, window, "valid"), style, label=name)
axes[0].set(xlabel="step of the simulation", ylabel="iterations (mean of 60 steps)", ylim=(0, None))
axes[0].set_title("Iterations of the solver in a diffusion that changes")
axes[0].legend()
shares = np.array([adaptive.bandit.probabilities(kappa) for kappa in np.linspace(0, 10, 60)])
mesh = axes[1].pcolormesh(np.linspace(0, 10, 60), adaptive.bandit.arms, shares.T, shading="nearest")
axes[1].set(xlabel="diffusivity", ylabel="omega", title="What it chooses at the end")
figure.colorbar(mesh, ax=axes[1], label="probability")

# %%
# What it costs, and when not to use it
# -------------------------------------
# A choice costs microseconds; what costs are the first hundreds of solves, in which it tries bad values too.
#
# * In a simulation of fifty steps there is no time to learn. Take :func:`~paperworks.solvers.optimal_omega` where its
#   theory fits, or one value.
# * Without anything known of a system beforehand take :class:`~paperworks.solvers.TsallisINF`, which needs no context.
# * A multigrid solver needs a few iterations whatever its parameters: for large elliptic problems that is the better
#   change.

assert difference < 1e-5
assert learnt[late].sum() < usual[late].sum()
assert learnt.sum() < usual.sum()
