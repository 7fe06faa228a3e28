"""Preconditioned gradient descent on an elliptic energy, with an error that is certified."""

import math
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.solvers.energy.constants import DescentConstants, paper_constants, sharp_constants
from paperworks.solvers.energy.lagrangians import HessianRange
from paperworks.solvers.energy.problems import EllipticEnergy
from paperworks.solvers.energy.representations import space_of
from paperworks.solvers.energy.series import SineSeries
from paperworks.solvers.energy.sums import TrigSum

Representation = Literal["sine", "trig", "grid"]
Step = Literal["sharp", "optimal", "paper"]
Track = Literal["energy", "barron", "certified"]
_BEYOND = 1e-9  # by which realised Hessians may leave their bounds, relatively: rounding
_LEAST_STEP = 1e-6  # relative to the step asked for


@dataclass(frozen=True)
class PGDResult:
    """The end of a descent, and how it went.

    Parameters
    ----------
    u
        The last iterate: a series, a sum or an array, as it was represented.
    history
        For the start and each iteration: ``size``, the norm in H¹ of the preconditioned gradient, and what was tracked:
        ``energy``, ``barron`` and ``certified``.
    constants
        Rate and step sizes that the bounds of the Hessian give.
    certified_error
        Bound of the distance in H¹ of the last iterate from the solution, of the discrete problem in sines and on grids
        and of the problem itself on the torus. It holds where the Hessian is within its bounds.
    hessian
        Range of the Hessian over all iterates.
    converged
        Whether the tolerance was reached.

    Examples
    --------
    >>> from paperworks.solvers import EllipticEnergy, linear
    >>> problem = EllipticEnergy(linear(), SineSeries(np.ones((1, 1))), dim=2)
    >>> result = solve_pgd(problem, n_modes=1)
    >>> result.converged, result.certified_error < 1e-8
    (True, True)
    """

    u: SineSeries | TrigSum | np.ndarray
    history: dict[str, np.ndarray]
    constants: DescentConstants
    certified_error: float
    hessian: HessianRange
    converged: bool

    @property
    def iterations(self) -> int:
        """Number of iterations made."""
        return len(self.history["size"]) - 1


def solve_pgd(
    problem: EllipticEnergy,
    *,
    representation: Representation = "sine",
    n_modes: int | None = None,
    step: Step | float = "sharp",
    rtol: float = 1e-8,
    maxiter: int = 1000,
    start: SineSeries | TrigSum | Float[np.ndarray, "*grid"] | None = None,
    track: Collection[Track] = ("barron", "certified"),
    callback: Callable[[Any], Any] | None = None,
    prune: float | None = None,
    most_terms: int | None = None,
    mask: Bool[np.ndarray, "*grid"] | None = None,
    spacing: float | None = None,
    solve: Callable[[np.ndarray], np.ndarray] | None = None,
) -> PGDResult:
    """Minimise an elliptic energy by descent along its gradient in H¹: u ← u - step (1 - Laplacian)⁻¹ DE(u).

    Parameters
    ----------
    problem
        The energy to minimise.
    representation
        What iterates are: "sine" series on the unit cube, "trig" sums on the torus in any dimension, or values on a
        "grid" of any shape.
    n_modes
        Number of modes along each axis, for sines.
    step
        "sharp", the reciprocal of the smoothness, which makes the energy fall by a known rate; "optimal", with which
        the error in H¹ falls fastest in the worst case; "paper", the paper's; or a number.
    rtol
        It ends where the gradient's norm is at most this times that of the source, in the dual of H¹.
    maxiter
        Most iterations that are made.
    start
        Where it starts, such as the solution of a neighbouring problem. Default: 0.
    track
        What is kept of each iterate beside the gradient's norm. With "energy", which costs as much again, a step that
        raises it is halved, with a warning.
    callback
        Called with the present iterate after each iteration.
    prune
        For sums: the share of the mass of an iterate, or of a product, that may be dropped. Default 1e-12.
    most_terms
        For sums: most terms of an iterate. Default: any number. The gradient then stays above what the dropped terms
        leave, so give `maxiter` as well.
    mask
        For grids: True at the points of the domain; beyond them the function is 0.
    spacing
        For grids: distance between neighbours. The first point along an axis lies at one spacing.
    solve
        For grids: applies (1 - Laplacian)⁻¹ to the values at the points of the domain. Default: a fast transform on a
        box, a sparse factorisation elsewhere.

    Returns
    -------
    PGDResult
        The last iterate with the history and a bound of its error.

    Raises
    ------
    ValueError
        For options that don't fit the representation, too few modes for the source, or an energy that isn't strongly
        convex.
    RuntimeError
        Where iterates become infinite.

    Notes
    -----
    arXiv 2210.12101, the iteration of section 4. With mu the strong convexity in H¹, the error is at most the norm of
    the preconditioned gradient over mu.

    Examples
    --------
    >>> from paperworks.solvers import semilinear
    >>> exact = SineSeries(np.array([[1.0]]))
    >>> problem = EllipticEnergy.with_solution(semilinear(), exact, c_bounds=(0.0, 3.0))
    >>> result = solve_pgd(problem, n_modes=3)
    >>> (result.u - exact).h1_norm <= result.certified_error
    True
    """
    check_choice("representation", representation, get_args(Representation))
    check_number("rtol", rtol, ge=0)
    check_count("maxiter", maxiter, at_least=0)
    for tracked in track:
        check_choice("track", tracked, get_args(Track))
    given = {
        "n_modes": n_modes, "prune": prune, "most_terms": most_terms, "mask": mask, "spacing": spacing,
        "solve": solve,
    }  # fmt: skip
    space: Any = space_of(problem, representation, {name: v for name, v in given.items() if v is not None})
    constants = sharp_constants(problem.c_bounds, problem.p_bounds, space.lambda1)
    eta = _step(step, constants, problem, space.lambda1)
    u = space.zero() if start is None else space.state(start)
    goal = rtol * space.source_norm()
    history: dict[str, list[float]] = {"size": [], **{name: [] for name in track}}
    reached: HessianRange | None = None
    error, asked = math.inf, eta
    while True:
        g, within, slack = space.gradient(u)
        reached = within if reached is None else reached.merged(within)
        d = space.precondition(g)
        size = space.size(g, d)
        if not math.isfinite(size):
            raise RuntimeError(f"iterate {len(history['size'])} is infinite; take a smaller step than {eta:.3g}")
        error = (size + slack) / constants.mu
        found = {
            "size": lambda: size,  # noqa: B023 - called at once
            "barron": lambda: space.barron_norm(u),  # noqa: B023
            "certified": lambda: error,  # noqa: B023
            "energy": lambda: space.energy(u),  # noqa: B023
        }
        for name, values in history.items():
            values.append(found[name]())
        if len(history["size"]) > 1 and callback is not None:
            callback(space.function(u))
        if size <= goal or len(history["size"]) > maxiter:
            break
        new = space.moved(u, d, eta)
        if "energy" in track:
            new, eta = _descending(space, u, new, d, eta, history["energy"][-1], asked)
        u = new
    _warn_of_range(reached, problem)
    return PGDResult(
        space.function(u), {name: np.array(v) for name, v in history.items()}, constants, error, reached, size <= goal
    )


def _step(step: Step | float, constants: DescentConstants, problem: EllipticEnergy, lambda1: float) -> float:
    if not isinstance(step, str):
        return check_number("step", step, gt=0)
    check_choice("step", step, get_args(Step))
    if step == "paper":
        upper = max(problem.c_bounds[1], problem.p_bounds[1])
        return paper_constants(problem.p_bounds[0], upper, max(1.0, 1 / lambda1 if lambda1 else 1.0)).step
    return constants.step if step == "sharp" else constants.optimal_step


def _descending(space: Any, u: Any, new: Any, d: Any, eta: float, energy: float, asked: float) -> tuple[Any, float]:
    """Return an iterate of lower energy, up to rounding, and the step that led to it."""
    margin = 1e-12 * abs(energy)
    while space.energy(new) > energy + margin and eta > _LEAST_STEP * asked:
        eta /= 2
        warnings.warn(f"a step raised the energy, so it was halved to {eta:.3g}", RuntimeWarning, stacklevel=3)
        new = space.moved(u, d, eta)
    return new, eta


def _warn_of_range(reached: HessianRange, problem: EllipticEnergy) -> None:
    """Warn where the Hessian left the bounds that rate and certified error rest on."""
    c, p = problem.c_bounds, problem.p_bounds
    pairs = (
        ("c_bounds", c, reached.c_low, reached.c_high),
        ("p_bounds", p, reached.p_low, reached.p_high),
    )
    for name, (low, high), least, greatest in pairs:
        margin = _BEYOND * max(abs(low), abs(high), 1.0)
        if least < low - margin or greatest > high + margin:
            warnings.warn(
                f"{name} is ({low:g}, {high:g}), and the iterates reached {least:.4g} to {greatest:.4g}: the certified"
                " error doesn't hold; declare wider bounds",
                RuntimeWarning,
                stacklevel=3,
            )
