"""The solver: a Gaussian process whose frequencies are found while it meets an equation (arXiv 2311.04465)."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_finite, check_number
from paperworks.solvers.kernels.equations import Equation
from paperworks.solvers.kernels.prior import Axis, Prior, mode_product
from paperworks.solvers.kernels.projection import Problem, with_base
from paperworks.solvers.kernels.spectral import MAX_ORDER, Kind, MixtureSpectrum, SpectralMixtureKernel
from paperworks.solvers.kernels.training import GPHMStep, Optimizer, Part, Settings, Watch, train

Data = ArrayLike | Tensor | Callable[..., Any]
_LEAST_NODES = 5
_MISFIT = 0.1
_CHUNK = 4096
_SMOOTH = 2  # derivatives in mean square of a Matérn-5/2 process


class GPHMSolver:
    r"""Solves differential equations whose solutions have high or many frequencies, on a tensor grid of a box.

    The solution is a Gaussian process whose kernel is a product over the axes of mixtures of frequencies. Its values
    at the nodes, the kernels and the precisions tau of boundary and equation minimise (Eq. 11 of the paper, negated)

    $$\tfrac12 \log|K| + \tfrac12 U^\top K^{-1} U
      + \lambda [\tfrac{\tau_1}2 \|U_b - g\|^2 - \tfrac{N_b}2 \log \tau_1]
      + \tfrac{\tau_2}2 \|H\|^2 - \tfrac N2 \log \tau_2,$$

    where H is what the equation fails by at the nodes, from derivatives $K^{(a)} K^{-1} U$ of the conditional mean.
    "varpro" solves for U exactly in each step (or by Gauss-Newton where the equation is nonlinear) and moves the rest
    along the gradient; "adam" moves all at once, which is the paper's way and takes 1e5 steps and more. Nothing is
    random. The step of the least objective is returned.

    How to choose: `max_freq` should exceed the highest frequency of the solution, with the bumps no farther apart
    than about one cycle per unit (`n_components` > `max_freq`), and the nodes should have 2.5 a period or more.

    Units matter: lengths start at 1 and precisions at 1, frequencies move by `lr` cycles per unit a step and the
    logarithms of precisions by `lr`. Choose units in which the box is 0.1 to 10 long and the solution 1 to 100 great,
    or scale `init_lengthscale`, `max_freq` and `init_log_precisions` with them. `fit` warns where the solution
    doesn't meet its data at the nodes to a tenth of their size.

    Parameters
    ----------
    equation
        What is solved: `Poisson()`, `AllenCahn()`, `Helmholtz(k)`, `Advection(beta)`, `Linear(...)`, `Equation(...)`.
    domain
        Ends (a, b) of one variable, or a sequence of such pairs.
    grid_shape
        Nodes along each axis, ends included: one number, or one for each axis; at least 5.
    nodes
        Coordinates of the nodes along each axis, rising, in place of `domain` and `grid_shape`. Uneven ones cost N^2
        values of the kernel in place of N.
    kernel
        "student" (Matérn-5/2 envelopes) or "gauss".
    n_components
        Bumps of each axis' spectrum; 30 in the paper.
    max_freq
        The greatest frequency at the start in cycles per unit, for each axis or all; "nyquist/2" for half of what the
        grid can tell apart.
    init_lengthscale
        Length of the envelopes at the start; 1 in the paper.
    boundary_weight
        The factor lambda of the boundary; 200 in the paper, 500 for advection.
    init_log_precisions
        log tau_1 and log tau_2 at the start: by default 0 and 0, as in the paper; with several variables and "varpro"
        5 and 0, since from 0 the boundary may be ignored and the solution collapse to 0.
    jitter
        Added to the diagonal of each axis' covariance, relative to a variance of 1. The paper takes 1e-6, which bounds
        the error at 1e-5 or so. It is multiplied by ten where a Cholesky factor fails, up to 1e-4.
    optimizer
        "varpro" or "adam".
    lr
        Rate of Adam for what is not projected out: by default 0.03 of "varpro" and 0.01, the paper's, of "adam".
    steps
        The most steps that are taken.
    patience
        After how many steps that didn't lower the objective to end; 30 of "varpro", and never of "adam", by default.
    extra_gp
        Where not None, the share of the steps after which the process is frozen and a plain Matérn-5/2 process
        trained on what is left (Sec. 3.4, 0.5 in the paper's multi-scale problem). Both precisions go on from where
        they are; in the paper that of the equation starts again at 1.
    inner_steps
        Gauss-Newton steps in each step of "varpro".
    cg_rtol, cg_steps
        Tolerance and most steps of the conjugate gradients with several variables. Where the steps end first, the
        gradient is not exact and the objective may rise from step to step; what is returned is still its least.

    Attributes
    ----------
    solution_
        Values at the nodes.
    residual_
        What the equation fails by at the nodes.
    spectrum_
        A `MixtureSpectrum` for each axis.
    history_
        A `GPHMStep` for each step.
    selected_
        The step that was returned, of the last part.
    kernels_
        The kernel of each axis.

    Raises
    ------
    ValueError
        Where an option is out of its range, or data have another shape than the grid, NaN or infinity, or less than
        double precision.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.solvers import Poisson
    >>> solver = GPHMSolver(Poisson(), domain=(0, 1), grid_shape=60, n_components=15, max_freq=12, steps=60)
    >>> k = 2 * np.pi * 8
    >>> _ = solver.fit(source=lambda x: -k**2 * np.sin(k * x), boundary=lambda x: np.sin(k * x))
    >>> x = np.linspace(0, 1, 200)
    >>> bool(np.abs(solver.predict(x) - np.sin(k * x)).max() < 1e-2)
    True
    >>> solver.spectrum_[0].frequencies[:1].round(1)  # the heaviest
    array([8.])
    """

    def __init__(
        self,
        equation: Equation,
        domain: Sequence[Any] | None = None,
        grid_shape: int | Sequence[int] | None = None,
        *,
        nodes: ArrayLike | Sequence[ArrayLike] | None = None,
        kernel: Kind = "student",
        n_components: int = 30,
        max_freq: float | str | Sequence[float] = "nyquist/2",
        init_lengthscale: float = 1.0,
        boundary_weight: float = 200.0,
        init_log_precisions: tuple[float, float] | None = None,
        jitter: float = 1e-9,
        optimizer: Optimizer = "varpro",
        lr: float | None = None,
        steps: int = 200,
        patience: int | None = None,
        extra_gp: float | None = None,
        inner_steps: int = 2,
        cg_rtol: float = 1e-6,
        cg_steps: int = 200,
    ) -> None:
        if not isinstance(equation, Equation):
            raise TypeError(f"equation is {equation!r}; it takes an Equation, such as Poisson()")
        self.equation = equation
        self.axes = _axes(equation.ndim, domain, grid_shape, nodes)
        check_choice("kernel", kernel, ("student", "gauss"))
        self.kernel = kernel
        self.n_components = check_count("n_components", n_components)
        self.max_freq = _frequencies(max_freq, self.axes)
        self.init_lengthscale = check_number("init_lengthscale", init_lengthscale, gt=0)
        self.boundary_weight = check_number("boundary_weight", boundary_weight, gt=0)
        check_choice("optimizer", optimizer, ("varpro", "adam"))
        if init_log_precisions is None:
            init_log_precisions = (5.0, 0.0) if equation.ndim > 1 and optimizer == "varpro" else (0.0, 0.0)
        if np.shape(init_log_precisions) != (2,):
            raise ValueError(f"init_log_precisions is {init_log_precisions!r}; it takes two numbers")
        self.init_log_precisions = [check_number("init_log_precisions", v, le=18) for v in init_log_precisions]
        self.extra_gp = None if extra_gp is None else check_number("extra_gp", extra_gp, gt=0, lt=1)
        self.settings = Settings(
            optimizer,
            check_number("lr", (0.03 if optimizer == "varpro" else 0.01) if lr is None else lr, gt=0),
            check_count("steps", steps, at_least=1 if extra_gp is None else 2),
            check_count("patience", (30 if optimizer == "varpro" else steps) if patience is None else patience),
            check_number("jitter", jitter, gt=0, le=1e-4),
            check_count("inner_steps", inner_steps),
            check_number("cg_rtol", cg_rtol, gt=0, lt=1),
            check_count("cg_steps", cg_steps),
        )
        if kernel == "student" and equation.max_order > _SMOOTH:
            warnings.warn(_ROUGH.format(what="equation"), stacklevel=2)

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Nodes along each axis."""
        return tuple(len(axis.nodes) for axis in self.axes)

    def grid(self) -> list[Float[np.ndarray, "*grid"]]:
        """Return the coordinates of all nodes, one array for each variable.

        Returns
        -------
        list[ndarray]
            Arrays of the shape of the grid.
        """
        return [x.numpy() for x in torch.meshgrid(*(axis.nodes for axis in self.axes), indexing="ij")]

    def fit(
        self,
        source: Data,
        boundary: Data,
        *,
        known: ArrayLike | None = None,
        callback: Callable[[GPHMStep, np.ndarray], bool | None] | None = None,
    ) -> "GPHMSolver":
        """Solve the equation.

        Parameters
        ----------
        source
            The right side f at the nodes: an array of the shape of the grid, a number, or a function of one array of
            coordinates for each variable.
        boundary
            Values of the solution, as of `source`; in one variable also the pair of values at both ends. Only those
            at known nodes are read.
        known
            At which nodes values are given, as truth values of the shape of the grid; by default all faces of the
            box. For a problem of evolution leave out the last time.
        callback
            Called after each step with a `GPHMStep` and the values at the nodes; where it returns True, training ends.

        Returns
        -------
        GPHMSolver
            The solver itself.
        """
        problem = self._problem(source, boundary, known)
        watch = None if callback is None else _in_numpy(callback)
        first = self.settings if self.extra_gp is None else self._share(self.extra_gp)
        part = self._part(self.kernel, self.n_components, self.max_freq, self.init_log_precisions)
        train(part, problem, first, watch=watch)
        self.parts_, problems, self.history_ = [part], [problem], part.history
        if self.extra_gp is not None and not part.stopped:
            prior = part.prior(problem, self.settings.jitter)
            with torch.no_grad():
                problem = with_base(problem, prior.values(part.W), prior.operator(part.W))
            # The paper has tau_2 start anew at 1. With steps of `lr` it then ends the lower: on 0.1 sin(45x) + cos(3x)
            # and on sin(20x) + x^2 the error after 200 steps is 1.7 and 2.1 times that from the copied one, on
            # sin(2x) + 0.2 sin(30x) it is 0.8 times.
            extra = self._part("student", 1, [0.0] * len(self.axes), part.log_precisions.tolist())
            train(extra, problem, replace(self.settings, steps=self.settings.steps - first.steps), first.steps, watch)
            self.parts_.append(extra)
            problems.append(problem)
            self.history_ = part.history + extra.history
        self._finish(problems)
        if not any(part.stopped for part in self.parts_):
            self._warn_of_misfit(problems[0])
        return self

    def predict(self, points: ArrayLike, derivative: int | Sequence[int] = 0, *, return_std: bool = False) -> Any:
        """Return the solution, or a derivative of it, at points.

        Parameters
        ----------
        points
            One row for each point and one column for each variable; in one variable an array of any length too.
        derivative
            The order of the derivative by each variable, 0 to 4; 0 for the solution.
        return_std
            Whether to return standard deviations too: those of the process, of the kernels found, given that equation
            and boundary hold at the nodes up to the gaps that are left. With several variables each point costs as
            much as a step. An extra process has its own only.

        Returns
        -------
        ndarray
            One value for each point, and with `return_std` a second array of standard deviations.
        """
        rows, orders = self._points(points), self._orders(derivative)
        values, deviations = [], []
        for chunk in rows.split(_CHUNK):
            total = torch.zeros(len(chunk), dtype=torch.float64)
            for prior, dual in zip(self._priors, self._duals, strict=True):
                crosses = self._crosses(prior, chunk, orders)
                term = crosses[0] @ dual.reshape(len(dual), -1)
                for cross in crosses[1:]:
                    term = torch.einsum("nab,na->nb", term.reshape(len(chunk), cross.shape[1], -1), cross)
                total += term[:, 0]
            values.append(total)
            if return_std:
                deviations.append(self._deviations(chunk, orders))
        found = torch.cat(values).numpy()
        return (found, torch.cat(deviations).numpy()) if return_std else found

    def predict_grid(
        self, axes: Sequence[ArrayLike], derivative: int | Sequence[int] = 0
    ) -> Float[np.ndarray, "*grid"]:
        """Return the solution, or a derivative of it, on the tensor grid of some axes.

        Parameters
        ----------
        axes
            Coordinates along each axis.
        derivative
            The order of the derivative by each variable, 0 to 4; 0 for the solution.

        Returns
        -------
        ndarray
            Values with one axis for each variable.
        """
        self._check_fitted()
        lengthy = hasattr(axes, "__len__")
        if not lengthy or len(axes) != len(self.axes):
            got = f"has {len(axes)} entries" if lengthy else f"is {axes!r}"
            raise ValueError(f"axes {got}; it takes an array for each of {len(self.axes)} variables")
        orders = self._orders(derivative)
        lines = [check_finite("axes", _reals("axes", x)) for x in axes]
        for line in lines:
            if line.ndim > 1:
                raise ValueError(f"axes has an entry of the shape {tuple(line.shape)}; it takes one line each")
        lines = [line.reshape(-1) for line in lines]
        total = torch.zeros([len(x) for x in lines], dtype=torch.float64)
        with torch.no_grad():
            for prior, dual in zip(self._priors, self._duals, strict=True):
                total += mode_product(
                    [a.cross(k, x, o) for a, k, x, o in zip(self.axes, prior.kernels, lines, orders, strict=True)], dual
                )
        return total.numpy()

    def _share(self, share: float) -> Settings:
        steps = min(max(round(share * self.settings.steps), 1), self.settings.steps - 1)
        return replace(self.settings, steps=steps)

    def _part(self, kind: Kind, n: int, max_freq: Sequence[float], log_precisions: Sequence[float]) -> Part:
        kernels = nn.ModuleList(
            SpectralMixtureKernel(kind, n, max_freq=top, init_lengthscale=self.init_lengthscale) for top in max_freq
        )
        return Part(self.axes, kernels, torch.tensor(log_precisions, dtype=torch.float64), torch.empty(0))

    def _problem(self, source: Data, boundary: Data, known: ArrayLike | None) -> Problem:
        shape = self.grid_shape
        faces = torch.ones(shape, dtype=torch.bool)
        faces[(slice(1, -1),) * len(shape)] = False
        if known is not None:
            given = _numbers("known", known)
            if given.dtype != torch.bool or given.shape != faces.shape:
                raise ValueError(
                    f"known has shape {tuple(given.shape)} and dtype {given.dtype}; it takes truth values of {shape}"
                )
            faces = given
            if not faces.any():
                raise ValueError("known is False everywhere; it takes a node or more at which values are given")
        f = check_finite("source", self._data("source", source))
        if len(shape) == 1 and not callable(boundary) and np.shape(boundary) == (2,) and known is None:
            ends = self._array("boundary", boundary)
            g = torch.zeros(shape, dtype=torch.float64)
            g[0], g[-1] = ends[0], ends[1]
        else:
            g = self._data("boundary", boundary)
        check_finite("boundary", g[faces])
        zero = torch.zeros(shape, dtype=torch.float64)
        for name, function in (("nonlinear", self.equation.nonlinear), ("slope", self.equation.slope)):
            start = zero if function is None else function(zero)  # training starts at the solution 0
            if not isinstance(start, Tensor) or start.shape != zero.shape:
                raise ValueError(f"{name} takes a tensor of the grid's shape {shape} and has to return one")
            check_finite(f"{name} of 0", start)
        return Problem(self.equation, f, g, faces, self.boundary_weight, zero, zero)

    def _data(self, name: str, data: Data) -> Tensor:
        """Return values on the grid."""
        values = self._array(name, data(*self.grid()) if callable(data) else data)
        if values.ndim == 0:
            values = values.expand(self.grid_shape)
        if tuple(values.shape) != self.grid_shape:
            raise ValueError(
                f"{name} has the shape {tuple(values.shape)}; it takes that of the grid, {self.grid_shape}"
            )
        return values.clone()

    @staticmethod
    def _array(name: str, data: Any) -> Tensor:
        values = _numbers(name, data)
        if values.is_floating_point() and values.dtype != torch.float64:
            raise ValueError(
                f"{name} is {values.dtype}; it takes float64, since covariances of many nodes have no Cholesky factor "
                "in single precision"
            )
        return values.to(torch.float64)

    def _finish(self, problems: Sequence[Problem]) -> None:
        """Keep what predictions take, and the solution at the nodes."""
        self._problems = list(problems)
        with torch.no_grad():
            self._priors = [part.prior(p, self.settings.jitter) for part, p in zip(self.parts_, problems, strict=True)]
            self._duals = [prior.dual(part.W) for prior, part in zip(self._priors, self.parts_, strict=True)]
            last, prior, W = problems[-1], self._priors[-1], self.parts_[-1].W
            own = prior.values(W)
            self.solution_ = (own + last.base).numpy()
            self.residual_ = last.residual(own, prior.operator(W)).numpy()
        self.kernels_ = self.parts_[0].kernels
        self.spectrum_: list[MixtureSpectrum] = [kernel.spectrum() for kernel in self._priors[0].kernels]
        self.selected_ = self.parts_[-1].selected

    def _warn_of_misfit(self, problem: Problem) -> None:
        """Warn where the data at the nodes aren't met, as they aren't in units far from 1 or after too few steps."""
        known = problem.known.numpy()
        off = self.solution_[known] - problem.boundary.numpy()[known]
        for name, gap, data in (
            ("boundary", off, self.solution_),  # values at the boundary may all be 0
            ("source", self.residual_, problem.source.numpy()),
        ):
            size = np.abs(data).max()
            share = np.abs(gap).max() / size if size else 0.0
            if share > _MISFIT:
                warnings.warn(
                    f"the solution misses {name} by {share:.2g} of the greatest value; more steps, or units in which "
                    "the box is 0.1 to 10 long and the solution 1 to 100 great, may help",
                    stacklevel=3,
                )

    def _check_fitted(self) -> None:
        if not hasattr(self, "parts_"):
            raise RuntimeError("this solver is not fitted; call fit first")

    def _points(self, points: ArrayLike) -> Tensor:
        self._check_fitted()
        rows = _reals("points", points)
        if len(self.axes) == 1 and rows.ndim <= 1:
            rows = rows.reshape(-1, 1)
        if rows.ndim != 2 or rows.shape[1] != len(self.axes):
            raise ValueError(f"points has the shape {tuple(rows.shape)}; it takes rows of {len(self.axes)} coordinates")
        return check_finite("points", rows)

    def _orders(self, derivative: int | Sequence[int]) -> list[int]:
        given: list[Any] = [derivative] if np.ndim(derivative) == 0 else list(derivative)  # type: ignore[arg-type]
        if np.ndim(derivative) == 0 and check_count("derivative", derivative, at_least=0, at_most=MAX_ORDER) == 0:
            given = [0] * len(self.axes)
        if len(given) != len(self.axes):
            raise ValueError(f"derivative is {derivative!r}; it takes an order for each of {len(self.axes)} variables")
        orders = [check_count("derivative", order, at_least=0, at_most=MAX_ORDER) for order in given]
        if self.kernel == "student" and max(orders) > _SMOOTH:
            warnings.warn(_ROUGH.format(what="derivative"), stacklevel=3)
        return orders

    def _crosses(self, prior: Prior, rows: Tensor, orders: Sequence[int]) -> list[Tensor]:
        with torch.no_grad():
            return [
                axis.cross(kernel, rows[:, j], order)
                for j, (axis, kernel, order) in enumerate(zip(self.axes, prior.kernels, orders, strict=True))
            ]

    def _deviations(self, rows: Tensor, orders: Sequence[int]) -> Tensor:
        """Return standard deviations from the covariance of the whitened values, A^-1, of the last part."""
        if max(orders) > _SMOOTH:
            raise ValueError(f"derivative is {list(orders)}; with return_std it takes orders up to {_SMOOTH}")
        prior, part, problem = self._priors[-1], self.parts_[-1], self._problems[-1]
        with torch.no_grad():
            posterior = part.posterior(problem, prior, self.settings)
            crosses = [
                torch.linalg.solve_triangular(L, c.mT, upper=False).mT
                for L, c in zip(prior.factors, self._crosses(prior, rows, orders), strict=True)
            ]
            variances = []
            for vectors in zip(*crosses, strict=True):
                v = vectors[0]
                for vector in vectors[1:]:
                    v = v[..., None] * vector
                variances.append(prior.variance(orders) - (v * v).sum() + (v * posterior.apply_inverse(v)).sum())
        return torch.stack(variances).clamp(min=0).sqrt() if variances else torch.zeros(0, dtype=torch.float64)


_ROUGH = (
    "{what} asks for more than two derivatives in one variable, which a process with Student-t bumps doesn't have; "
    "those of its conditional mean are taken, which kernel='gauss' has all"
)


def _axes(ndim: int, domain: Any, grid_shape: Any, nodes: Any) -> list[Axis]:
    if (nodes is None) == (domain is None or grid_shape is None) or (nodes is not None and domain is not None):
        raise ValueError("the grid takes either domain and grid_shape, or nodes")
    if nodes is not None:
        given = [nodes] if not hasattr(nodes, "__len__") or len(nodes) == 0 or np.ndim(nodes[0]) == 0 else nodes
        lines = [_reals("nodes", x).numpy() for x in given]
    else:
        if np.ndim(domain) == 0:
            raise ValueError(f"domain is {domain!r}; it takes two ends for each axis")
        pairs = [domain] if np.ndim(domain) == 1 else list(domain)
        counts = [grid_shape] * len(pairs) if np.ndim(grid_shape) == 0 else list(grid_shape)
        if len(counts) != len(pairs):
            raise ValueError(f"grid_shape is {grid_shape!r}; it takes one number for each of {len(pairs)} axes")
        lines = []
        for pair, count in zip(pairs, counts, strict=True):
            if len(pair) != 2:
                raise ValueError(f"domain is {domain!r}; it takes two ends for each axis")
            a, b = (check_number("domain", end) for end in pair)
            lines.append(np.linspace(a, b, check_count("grid_shape", count, at_least=_LEAST_NODES)))
    name = "domain" if nodes is None else "nodes"
    if len(lines) != ndim:
        raise ValueError(f"{name} has {len(lines)} axes; the equation has {ndim} variables")
    for line in lines:
        if line.ndim != 1 or len(line) < _LEAST_NODES or not np.isfinite(line).all() or (np.diff(line) <= 0).any():
            raise ValueError(f"{name} takes finite, strictly rising coordinates, at least {_LEAST_NODES} on each axis")
    return [Axis(torch.as_tensor(line)) for line in lines]


def _numbers(name: str, data: Any) -> Tensor:
    """Return a tensor on the CPU that shares nothing with the data, where they are real numbers."""
    if isinstance(data, Tensor):
        if data.is_meta:
            raise ValueError(f"{name} is on the device meta; it takes data")
        values = data.detach().cpu().clone()
    else:
        array = np.array(data, order="C")  # a copy: PyTorch takes neither negative strides nor read-only memory
        if array.dtype.kind not in "biufc":
            raise TypeError(f"{name} has the dtype {array.dtype}; it takes real numbers")
        values = torch.from_numpy(array)
    if values.is_complex():
        raise ValueError(f"{name} is complex; it takes real numbers")
    return values


def _reals(name: str, data: Any) -> Tensor:
    """Return coordinates in double precision."""
    return _numbers(name, data).to(torch.float64)


def _frequencies(max_freq: Any, axes: Sequence[Axis]) -> list[float]:
    if isinstance(max_freq, str):
        check_choice("max_freq", max_freq, ("nyquist/2",))
        return [axis.nyquist / 2 for axis in axes]
    given = [max_freq] * len(axes) if np.ndim(max_freq) == 0 else list(max_freq)
    if len(given) != len(axes):
        raise ValueError(f"max_freq is {max_freq!r}; it takes one number for each of {len(axes)} axes")
    found = [check_number("max_freq", top, ge=0) for top in given]
    for top, axis in zip(found, axes, strict=True):
        if top >= axis.nyquist:
            warnings.warn(
                f"max_freq is {top:g}, and the nodes can't tell frequencies above {axis.nyquist:.4g} from lower ones: "
                "solutions of such frequencies can meet the equation at all nodes and nowhere else",
                stacklevel=3,
            )
    return found


def _in_numpy(callback: Callable[[GPHMStep, np.ndarray], bool | None]) -> Watch:
    return lambda step, values: callback(step, values.numpy().copy())
