"""Estimators of a value function from paths: the martingale loss, and martingale orthogonality."""

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.dynamics.martingales.residuals import (
    Test,
    martingale_increments,
    processes_of,
    targets,
    time_weights,
)
from paperworks.dynamics.martingales.trajectories import Trajectories
from paperworks.dynamics.martingales.values import LinearValue, TorchValue, Value

Array = Float[np.ndarray, "..."]
Rate = float | Callable[[int], float]


class _Evaluator:
    """What all estimators share: a family that they fit, and its values."""

    value: Value
    value_: Any

    @property
    def theta_(self) -> Float[np.ndarray, " p"]:
        """The fitted parameters."""
        if not hasattr(self, "value_"):
            raise ValueError(f"{type(self).__name__} isn't fitted yet; call fit first")
        return self.value_.theta

    def predict(self, t: Any, x: Any) -> Array:
        """Return the fitted values.

        Parameters
        ----------
        t, x
            Times (...) and states (...) or (..., d).

        Returns
        -------
        ndarray
            Values, of the shape of the times.
        """
        _ = self.theta_
        return self.value_(np.asarray(t, dtype=np.float64), np.asarray(x, dtype=np.float64))

    def _begin(self, paths: Any) -> Any:
        """Copy the family, which stays as it was given."""
        if not isinstance(paths, Trajectories):
            raise TypeError(f"paths is {type(paths).__name__}; it takes Trajectories")
        if not len(paths):
            raise ValueError("paths has none; it takes one or more")
        family = copy.deepcopy(self.value)
        if isinstance(family, LinearValue):
            family.check_end(paths)
            if family._theta is None:
                family.theta = np.zeros(family.gradient(paths.t[:1, 0], paths.x[:1, 0]).shape[-1])
        return family


def _family(value: Any, linear: bool = False) -> Any:
    kinds = LinearValue if linear else (LinearValue, TorchValue)
    if not isinstance(value, kinds):
        raise TypeError(f"value is {value!r}; it takes a LinearValue" + ("" if linear else " or a TorchValue"))
    return value


def _rate(lr: Rate, decay: float) -> Callable[[int], float]:
    if callable(lr):
        return lr
    first = check_number("lr", lr, gt=0)
    return lambda k: first / (k + 1) ** decay


class MartingaleLoss(_Evaluator):
    """Minimise the martingale loss: a regression of returns, which gives the best mean-square fit of the value.

    Parameters
    ----------
    value
        The family that is fitted.
    solver
        ``lstsq`` solves for a linear family; ``sgd`` takes a step a path; an optimiser of torch, made for the
        network's parameters, trains a network.
    lr
        Step of ``sgd``: at the first path, falling with the root of their number, or a function of it.
    weighting
        ``uniform`` or ``discounted``, as in `martingale_loss`.
    epochs, batch_size
        For optimisers of torch: passes through all steps of all paths, and how many of those go through at once.
    random_state
        Seed of their order.

    Examples
    --------
    >>> from paperworks.testbeds import OUQuadratic
    >>> problem = OUQuadratic()
    >>> paths = problem.sample(2000, 100, random_state=0)
    >>> fitted = MartingaleLoss(LinearValue(problem.features, problem.offset)).fit(paths)
    >>> bool(abs(fitted.predict(0.0, 0.5) - problem.value(0.0, 0.5)) < 0.03)
    True
    """

    def __init__(
        self,
        value: Value,
        solver: Literal["lstsq", "sgd"] | Callable[[Any], torch.optim.Optimizer] = "lstsq",
        *,
        lr: Rate = 1.0,
        weighting: Literal["uniform", "discounted"] = "uniform",
        epochs: int = 20,
        batch_size: int = 1024,
        random_state: int | None = None,
    ) -> None:
        if not callable(solver):
            check_choice("solver", solver, ("lstsq", "sgd"))
        self.value = _family(value, linear=solver == "lstsq")
        if callable(solver) and not isinstance(value, TorchValue):
            raise TypeError(f"value is {value!r}; with an optimiser of torch it takes a TorchValue")
        self.solver, self.weighting, self.random_state = solver, weighting, random_state
        self.lr, self.epochs = _rate(lr, 0.5), check_count("epochs", epochs)
        self.batch_size = check_count("batch_size", batch_size)
        check_choice("weighting", weighting, ("uniform", "discounted"))

    def fit(self, paths: Trajectories) -> "MartingaleLoss":
        """Fit the family to all paths.

        Parameters
        ----------
        paths
            Paths with what is paid at the end.

        Returns
        -------
        MartingaleLoss
            The estimator itself.
        """
        family = self._begin(paths)
        weights = np.broadcast_to(time_weights(paths, self.weighting), (len(paths), paths.steps))
        left = np.broadcast_to(paths.t[:, :-1], weights.shape), paths.x[:, :-1]
        goal = targets(paths)[:, :-1]
        if self.solver == "lstsq":
            root = np.sqrt(weights)
            rows = family.gradient(*left) * root[..., None]
            misses = (goal - family.fixed(*left)) * root
            family.theta = _least(rows.reshape(-1, rows.shape[-1]), misses.ravel())
        elif self.solver == "sgd":
            for k in range(len(paths)):
                t, x = left[0][k], left[1][k]
                misses = (goal[k] - family(t, x)) * weights[k]
                family.theta = family.theta + self.lr(k) * misses @ family.gradient(t, x)
                _check_divergence(family.theta, paths[k : k + 1], f"{k + 1} paths")
        else:
            self._train(family, left, goal, weights)
        self.value_ = family
        return self

    def _train(self, family: TorchValue, left: Any, goal: Array, weights: Array) -> None:
        like = next(family.module.parameters())
        optimizer = self.solver(family.module.parameters())  # type: ignore[operator]
        t, x, y, w = (torch.from_numpy(np.array(v)).flatten(0, 1).to(like) for v in (*left, goal, weights))
        generator = torch.Generator().manual_seed(self.random_state or 0)
        scale = len(goal) / len(y)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(y), generator=generator).split(self.batch_size):
                optimizer.zero_grad()
                loss = ((y[rows] - family.tensor(t[rows], x[rows])).square() * w[rows]).mean() / (2 * scale)
                loss.backward()
                optimizer.step()


class CTD(_Evaluator):
    r"""Temporal differences in continuous time, by the traces $\int_0^t \lambda^{t - s} \partial_\theta J_s ds$.

    Parameters
    ----------
    value
        The family; its own parameters are where it starts.
    lam
        Decay of traces in a unit of time, between 0 (the gradient itself) and 1 (the martingale loss' gradient).
    mode
        ``online`` moves the parameters at every step, ``offline`` once a path.
    lr
        Step size at the first path, or a function of the path's number.
    decay
        Power of the number of paths by which the step falls: 1/2, with averages, is the usual one.
    averaging
        Whether the parameters are the average over the second half of the paths.

    Examples
    --------
    >>> from paperworks.testbeds import OUQuadratic
    >>> problem = OUQuadratic()
    >>> paths = problem.sample(300, 50, random_state=0)
    >>> fitted = CTD(LinearValue(problem.features, problem.offset), lam=0.1, lr=3.0).fit(paths)
    >>> bool(abs(fitted.predict(0.0, 0.5) - problem.value(0.0, 0.5)) < 0.15)
    True
    """

    def __init__(
        self,
        value: Value,
        lam: float = 0.0,
        mode: Literal["online", "offline"] = "online",
        *,
        lr: Rate = 1.0,
        decay: float = 0.5,
        averaging: bool = True,
    ) -> None:
        self.value, self.lam = _family(value), check_number("lam", lam, ge=0, le=1)
        self.mode = check_choice("mode", mode, ("online", "offline"))
        self.lr, self.averaging = _rate(lr, check_number("decay", decay, ge=0, le=1)), averaging

    def fit(self, paths: Trajectories) -> "CTD":
        """Learn from all paths in order, from the family's own parameters on.

        Parameters
        ----------
        paths
            The paths, one an episode.

        Returns
        -------
        CTD
            The estimator itself.
        """
        family = self._begin(paths)
        self._episodes, self._sum, self._kept = 0, np.zeros_like(family.theta), 0
        half = len(paths) // 2
        for k in range(len(paths)):
            self._learn(family, paths[k : k + 1])
            if k >= half:
                self._sum, self._kept = self._sum + family.theta, self._kept + 1
        self._last = copy.deepcopy(family)
        if self.averaging:
            family.theta = self._sum / self._kept
        self.value_ = family
        return self

    def partial_fit(self, paths: Trajectories) -> "CTD":
        """Learn from more paths; averages are then over all paths of these calls.

        Parameters
        ----------
        paths
            One path or more, each an episode.

        Returns
        -------
        CTD
            The estimator itself.
        """
        if not hasattr(self, "_last"):
            self._last = self._begin(paths)
            self._episodes, self._sum, self._kept = 0, np.zeros_like(self._last.theta), 0
        for k in range(len(paths)):
            self._learn(self._last, paths[k : k + 1])
            self._sum, self._kept = self._sum + self._last.theta, self._kept + 1
        self.value_ = copy.deepcopy(self._last)
        if self.averaging:
            self.value_.theta = self._sum / self._kept
        return self

    def _learn(self, family: Any, path: Trajectories) -> None:
        lr = self.lr(self._episodes)
        self._episodes += 1
        if self.mode == "offline":
            xi = processes_of(family, path, None, self.lam)
            family.theta = family.theta + lr * martingale_increments(family, path)[0] @ xi[0]
        elif isinstance(family, LinearValue):
            family.theta = self._online(family, path, lr)
        else:
            self._online_network(family, path, lr)
        _check_divergence(family.theta, path, f"{self._episodes} paths")

    def _online(self, family: LinearValue, path: Trajectories, lr: float) -> Array:
        """Go through one path; features don't depend on the parameters, so that each step is two products."""
        t = path.t[0]
        phi, fixed = family.gradient(t, path.x[0]), family.fixed(t, path.x[0])
        factors, dt = path.factors[0], path.dt[0]
        fades, theta, trace = self.lam**dt, family.theta.copy(), np.zeros(phi.shape[1])
        ended, terminal = np.broadcast_to(path.ended[0], t.shape), path.terminal
        moves = factors[:, None] * phi[1:] - phi[:-1]
        known = factors * fixed[1:] - fixed[:-1] + path.income[0]
        if terminal is not None:
            moves[ended[1:]] -= factors[ended[1:], None] * phi[1:][ended[1:]]
            known[ended[1:]] += factors[ended[1:]] * (terminal[0] - fixed[1:][ended[1:]])
        with np.errstate(over="ignore", invalid="ignore"):
            for i in range(int(np.argmax(ended))):
                trace = phi[i] if self.lam == 0 else (fades[i - 1] if i else 0.0) * trace + phi[i] * dt[i]
                theta += lr * (known[i] + moves[i] @ theta) * trace
        return theta

    def _online_network(self, family: TorchValue, path: Trajectories, lr: float) -> None:
        t, x, dt = path.t[0], path.x[0], path.dt[0]
        trace = np.zeros(len(family.theta))
        for i in range(int(np.argmax(np.broadcast_to(path.ended[0], t.shape)))):
            gradient = family.gradient(t[i : i + 1], x[i : i + 1])[0]
            trace = gradient if self.lam == 0 else (self.lam ** dt[i - 1] if i else 0.0) * trace + gradient * dt[i]
            now, then = family(t[i : i + 2], x[i : i + 2])
            if path.terminal is not None and np.broadcast_to(path.ended[0], t.shape)[i + 1]:
                then = path.terminal[0]
            family.theta = family.theta + lr * (path.factors[0, i] * then - now + path.income[0, i]) * trace


class CLSTD(_Evaluator):
    r"""Least-squares temporal differences: solve $E \int \xi_t dM_t = 0$ for a linear family at once.

    Parameters
    ----------
    value
        The linear family.
    lam
        Decay of traces in a unit of time.
    test
        Test functions of times and states, as many as features; the features where they aren't given.
    ridge
        What is added to the diagonal of the equations, relative to their mean diagonal.
    batch_size
        Paths whose features are held at once.

    Examples
    --------
    >>> from paperworks.testbeds import OUQuadratic
    >>> problem = OUQuadratic()
    >>> family = LinearValue(problem.features, problem.offset)
    >>> CLSTD(family).fit(problem.sample(4000, 100, random_state=0)).theta_.round(1)
    array([ 1.5, -0.1, -0.2])
    """

    def __init__(
        self,
        value: LinearValue,
        lam: float = 0.0,
        test: Test | None = None,
        ridge: float = 0.0,
        *,
        batch_size: int = 2048,
    ) -> None:
        self.value, self.test = _family(value, linear=True), test
        self.lam, self.ridge = check_number("lam", lam, ge=0, le=1), check_number("ridge", ridge, ge=0)
        self.batch_size = check_count("batch_size", batch_size)

    def fit(self, paths: Trajectories) -> "CLSTD":
        """Solve the equations of all paths.

        Parameters
        ----------
        paths
            The paths to fit.

        Returns
        -------
        CLSTD
            The estimator itself.
        """
        self.__dict__.pop("_equations", None)
        return self.partial_fit(paths)

    def partial_fit(self, paths: Trajectories) -> "CLSTD":
        """Add the equations of more paths, and solve again: what a recursive update of the inverse gives, exactly.

        Parameters
        ----------
        paths
            More paths of the same process.

        Returns
        -------
        CLSTD
            The estimator itself.
        """
        family = self._begin(paths)
        self._equations: tuple[Array, Array]
        for part in paths.parts(self.batch_size):
            A, b = equations(family, part, self.test, self.lam)
            if A.shape[0] != A.shape[1]:
                raise ValueError(f"test gave {A.shape[0]} functions; it takes as many as features, {A.shape[1]}")
            old = getattr(self, "_equations", None)
            self._equations = (A, b) if old is None else (old[0] + A, old[1] + b)
        A, b = self._equations
        if self.ridge:
            A = A + self.ridge * np.abs(np.diagonal(A)).mean() * np.eye(len(A))
        if self.test is None:  # equations in units of the features too
            A, b = _evened(A, b)
        family.theta = _least(A, b, 1e-12)
        self.value_ = family
        return self


class CGTD(_Evaluator):
    r"""Gradient temporal differences: minimise $\frac12 g^\top W g$ for $g(\theta) = E \int \xi_t dM_t$.

    Parameters
    ----------
    value
        The family; networks need `lr` and go step by step.
    variant
        ``gtd0`` with W the identity, ``gtd2`` with the inverse of :math:`E \int \xi \xi^\top dt`, ``tdc`` its form
        with a corrected temporal difference.
    test
        Test functions of times and states, at least as many as parameters; the gradient where they aren't given.
    lr
        Step of the parameters at the first path, or a function of the path's number. None minimises for a linear
        family at once, by the paths' own means.
    ratio
        Step of the auxiliary variable, in those of the parameters.
    batch_size
        Paths that are averaged for one step.
    epochs
        Passes through all paths.

    Examples
    --------
    >>> from paperworks.testbeds import OUQuadratic
    >>> problem = OUQuadratic()
    >>> family = LinearValue(problem.features, problem.offset)
    >>> CGTD(family).fit(problem.sample(4000, 100, random_state=0)).theta_.round(1)
    array([ 1.5, -0.1, -0.2])
    """

    def __init__(
        self,
        value: Value,
        variant: Literal["gtd0", "gtd2", "tdc"] = "gtd0",
        test: Test | None = None,
        *,
        lr: Rate | None = None,
        ratio: float = 4.0,
        batch_size: int = 64,
        epochs: int = 1,
    ) -> None:
        self.value = _family(value, linear=lr is None)
        self.variant = check_choice("variant", variant, ("gtd0", "gtd2", "tdc"))
        if variant == "tdc" and test is not None:
            raise ValueError("test isn't None; variant 'tdc' takes the gradient itself")
        self.test, self.lr = test, None if lr is None else _rate(lr, 0.5)
        self.ratio = check_number("ratio", ratio, gt=0)
        self.batch_size, self.epochs = check_count("batch_size", batch_size), check_count("epochs", epochs)

    def fit(self, paths: Trajectories) -> "CGTD":
        """Minimise over all paths.

        Parameters
        ----------
        paths
            The paths to fit.

        Returns
        -------
        CGTD
            The estimator itself.
        """
        family = self._begin(paths)
        if self.lr is None:
            family.theta = self._solved(family, paths)
        else:
            self._descend(family, paths)
        self.value_ = family
        return self

    def _solved(self, family: LinearValue, paths: Trajectories) -> Array:
        A, b = equations(family, paths, self.test, 0.0)
        if A.shape[0] < A.shape[1]:
            raise ValueError(f"test gave {A.shape[0]} functions; it takes at least as many as features, {A.shape[1]}")
        if self.variant == "gtd0" and self.test is None:  # all can be met, so that their weights don't matter
            A, b = _evened(A, b)
        elif self.variant != "gtd0":
            xi = processes_of(family, paths, self.test, 0.0)
            gram = np.einsum("mkp,mkq,mk->pq", xi, xi, np.broadcast_to(paths.dt, xi.shape[:2]), optimize=True)
            units = np.sqrt(np.diagonal(gram))
            units[units == 0] = 1.0
            gram = gram / units[:, None] / units
            root = np.linalg.cholesky(gram + 1e-14 * len(gram) * np.eye(len(gram)))
            A, b = np.linalg.solve(root, A / units[:, None]), np.linalg.solve(root, b / units)
        return _least(A, b, 1e-12)

    def _descend(self, family: Any, paths: Trajectories) -> None:
        u, k = None, 0
        total, kept = np.zeros_like(family.theta), 0
        parts = -(-len(paths) // self.batch_size) * self.epochs
        for _ in range(self.epochs):
            for part in paths.parts(self.batch_size):
                lr = self.lr(k)  # type: ignore[misc]
                xi = processes_of(family, part, self.test, 0.0)
                u = np.zeros(xi.shape[-1]) if u is None else u
                deltas = martingale_increments(family, part)
                g = np.einsum("mkp,mk->p", xi, deltas) / len(part)
                weights = np.broadcast_to(part.dt, deltas.shape)
                along = xi @ u
                pull = g - u if self.variant == "gtd0" else g - np.einsum("mkp,mk->p", xi, along * weights) / len(part)
                now, then = _slopes(family, part)
                if self.variant == "tdc":
                    step = g - np.einsum("mkp,mk->p", then, along * weights) / len(part)
                else:
                    step = -np.einsum("mkp,mk->p", then - now, along) / len(part)
                u = u + min(self.ratio * lr, 1.0) * pull
                family.theta = family.theta + lr * step
                _check_divergence(family.theta, part, f"{k + 1} steps")
                k += 1
                if k > parts // 2:
                    total, kept = total + family.theta, kept + 1
        family.theta = total / kept


def _slopes(family: Any, paths: Trajectories) -> tuple[Array, Array]:
    """Return the derivatives of increments: at their left ends, and at their right ends, discounted."""
    t = np.broadcast_to(paths.t, paths.x.shape[:2])
    gradients = family.gradient(t, paths.x)
    discounts = np.exp(-paths.discount * paths.t)[..., None]
    if paths.terminal is not None:
        gradients = np.where(paths.ended[..., None], 0.0, gradients)
    scaled = gradients * discounts
    return scaled[:, :-1], scaled[:, 1:]


def equations(
    family: LinearValue, paths: Trajectories, test: Test | None, lam: float
) -> tuple[Float[np.ndarray, "q p"], Float[np.ndarray, " q"]]:
    r"""Return A and b of the orthogonality conditions $A \theta = b$ of a linear family, summed over paths.

    Parameters
    ----------
    family
        The family.
    paths
        The paths.
    test
        Test functions; the features where they aren't given.
    lam
        Decay of traces in a unit of time.

    Returns
    -------
    A, b : ndarray
        (q, p) and (q,) for q test functions and p features.
    """
    t = np.broadcast_to(paths.t, paths.x.shape[:2])
    phi, values = family.gradient(t, paths.x), paths.at_end(family.fixed(t, paths.x))
    known = np.zeros(paths.x.shape[:2])  # in the last column stays 0
    gains = np.multiply(paths.factors, values[:, 1:], out=known[:, :-1])
    gains -= values[:, :-1]
    gains += paths.income
    even = np.ptp(paths.factors) == 0 and paths.ended.shape[0] == 1
    if test is None and lam == 0 and even:
        return _even_equations(phi, known, float(paths.factors[0, 0]), anchored=paths.terminal is not None)
    if paths.terminal is not None:
        phi = np.where(paths.ended[..., None], 0.0, phi)
    xi = processes_of(family, paths, test, lam)
    moves = phi[:, :-1] - paths.factors[..., None] * phi[:, 1:]
    rows = xi.reshape(-1, xi.shape[-1])
    return rows.T @ moves.reshape(-1, moves.shape[-1]), rows.T @ gains.ravel()


def _even_equations(
    phi: Float[np.ndarray, "m n p"], known: Float[np.ndarray, "m n"], factor: float, anchored: bool
) -> tuple[Float[np.ndarray, "p p"], Float[np.ndarray, " p"]]:
    """Take the products of all features with themselves, and a step apart, without a copy of them.

    What the rows of one path's end and the next one's start add is taken away again.
    """
    flat = np.ascontiguousarray(phi).reshape(-1, phi.shape[-1])
    first, before, last = phi[:, 0], phi[:, -2], phi[:, -1]
    now, then = _products(flat)
    now -= last.T @ last
    then -= last[:-1].T @ first[1:]
    if anchored:  # what is paid at the end has no parameters
        then -= before.T @ last
    return now - factor * then, flat.T @ known.ravel()


def _products(rows: Float[np.ndarray, "n p"]) -> tuple[Float[np.ndarray, "p p"], Float[np.ndarray, "p p"]]:
    """Return the sums of products of rows with themselves and with the next ones.

    A product of matrices with few columns is slow: eight rows are taken as one, and both sums read off its blocks.
    """
    n, p = rows.shape
    width = 8 if p <= 8 else 1
    whole = n // width * width
    wide = rows[:whole].reshape(-1, width * p)
    blocks = (wide.T @ wide).reshape(width, p, width, p)
    now = np.einsum("ipiq->pq", blocks) + rows[whole:].T @ rows[whole:]
    then = sum((blocks[i, :, i + 1] for i in range(width - 1)), np.zeros((p, p)))
    then = then + wide[:-1, -p:].T @ wide[1:, :p]
    ends = rows[max(whole - 1, 0) :]
    return now, then + ends[:-1].T @ ends[1:]


def _evened(A: Float[np.ndarray, "p p"], b: Float[np.ndarray, " p"]) -> tuple[Array, Array]:
    """Return equations in units of the features that they are multiplied with."""
    units = np.sqrt(np.abs(np.diagonal(A)))
    units[units == 0] = 1.0
    return A / units[:, None], b / units


def _least(
    A: Float[np.ndarray, "n p"], b: Float[np.ndarray, " n"], rcond: float | None = None
) -> Float[np.ndarray, " p"]:
    """Solve by least squares, each column in units of its own, so that features of any scale count alike."""
    with np.errstate(over="ignore"):
        units = np.sqrt(np.einsum("np,np->p", A, A))
    units[(units == 0) | ~np.isfinite(units)] = 1.0
    found, _, rank, _ = np.linalg.lstsq(A / units, b, rcond=rcond)
    if rank < A.shape[1]:
        message = f"features of rank {rank} among {A.shape[1]}: the least parameters of all that solve were taken"
        warnings.warn(message, UserWarning, stacklevel=3)
    return np.asarray(found / units)


def _check_divergence(theta: Float[np.ndarray, " p"], paths: Trajectories, what: str) -> None:
    """Raise ValueError where parameters have grown beyond all that is paid."""
    paid = np.abs(paths.income).sum(1).max() + (0.0 if paths.terminal is None else np.abs(paths.terminal).max())
    if not np.abs(theta).max() < 1e12 * max(1.0, float(paid)):
        raise ValueError(f"lr is too large: parameters diverge after {what}")
