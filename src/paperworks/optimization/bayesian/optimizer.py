"""The loop: ask where to evaluate, tell what was found (arXiv 1807.02811, Algorithm 1)."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice, check_count
from paperworks.optimization.bayesian.acquisition import Acquisition
from paperworks.optimization.bayesian.batch import fill_batch, qEI, qKG
from paperworks.optimization.bayesian.constrained import ConstrainedEI
from paperworks.optimization.bayesian.entropy import EntropySearch, MaxValueEntropySearch, PredictiveEntropySearch
from paperworks.optimization.bayesian.files import read_json, write_json
from paperworks.optimization.bayesian.gp import GaussianProcess
from paperworks.optimization.bayesian.improvement import LogEI, NoisyExpectedImprovement
from paperworks.optimization.bayesian.knowledge_gradient import (
    KnowledgeGradient,
    default_discretization,
    maximise_mean,
)
from paperworks.optimization.bayesian.search import optimize_acquisition
from paperworks.optimization.bayesian.sources import Sources
from paperworks.optimization.bayesian.spaces import Categorical, Continuous, Integer, Space

Units = Float[np.ndarray, "_ _"]  # one a row
ACQUISITIONS = ("ei", "noisy_ei", "kg", "mes", "es", "pes", "believer", "liar_min", "liar_mean", "liar_max")
_KINDS = {"Continuous": Continuous, "Integer": Integer, "Categorical": Categorical}


class Incumbent(NamedTuple):
    """What an optimiser would report now.

    Parameters
    ----------
    x
        The point to report.
    y
        What is maximised there: the observation without noise, else the posterior mean.

    Examples
    --------
    >>> import numpy as np
    >>> Incumbent(np.array([0.5]), 1.0).y
    1.0
    """

    x: np.ndarray
    y: float


class BayesianOptimizer:
    """Maximises a function that is expensive to evaluate: `ask` where, `tell` what was found, `best` at any time.

    Parameters
    ----------
    bounds
        For each argument (low, high), `Continuous`, `Integer` or `Categorical`.
    acq
        "ei" (its logarithm is searched; for batches qEI), "noisy_ei", "kg" (for batches qKG), "mes", "es", "pes", or
        for batches "believer", "liar_min", "liar_mean" and "liar_max". Or a function from a fitted model in the unit
        cube and its bounds to an `Acquisition`. With sources, the knowledge gradient per unit of cost.
    batch_size
        Points that `ask` returns by default.
    constraints
        How many expensive constraints g(x) <= 0 each evaluation also returns.
    fidelities
        `Sources`: fidelities, sources of information, tasks or environments; points then have one value more.
    random_state
        Seed of the initial points and of all searches; None for a fresh one.
    n_initial
        Points before the first model, max(2 d + 2, 5) by default, of a scrambled Sobol sequence.
    noise
        "auto", or the variance of the noise, 0 where there is none.
    kernel
        Kernel of the process, by its name.
    inference
        "map", "mle" or "bayes".

    Raises
    ------
    ValueError
        Where bounds are reversed, values are not finite, shapes don't fit, or a repeated point without noise has
        another value.

    References
    ----------
    arXiv 1807.02811, Algorithm 1 and Section 5.

    Examples
    --------
    >>> optimizer = BayesianOptimizer([(-2.0, 2.0)], noise=0.0, random_state=0)
    >>> for _ in range(12):
    ...     x = optimizer.ask()
    ...     optimizer.tell(x, -(x[:, 0] - 0.7) ** 2)
    >>> bool(abs(optimizer.best.x[0] - 0.7) < 0.01)
    True
    """

    def __init__(
        self,
        bounds: Sequence[Any],
        acq: str | Callable[[GaussianProcess, Float[np.ndarray, "d 2"]], Acquisition] = "ei",
        batch_size: int = 1,
        constraints: int | None = None,
        fidelities: Sources | None = None,
        random_state: int | None = 0,
        *,
        n_initial: int | None = None,
        noise: float | str = "auto",
        kernel: str = "matern52",
        inference: str = "map",
    ) -> None:
        self.space = Space(bounds)
        self.acq = acq if callable(acq) else check_choice("acq", acq, ACQUISITIONS)
        self.batch_size = check_count("batch_size", batch_size)
        self.n_constraints = 0 if constraints is None else check_count("constraints", constraints)
        self.sources = fidelities
        if fidelities is not None and not isinstance(fidelities, Sources):
            raise TypeError(f"fidelities is {fidelities!r}; it takes Sources")
        if fidelities is not None and (self.n_constraints or not self.space.numeric):
            raise ValueError("fidelities is given; it takes continuous bounds and no constraints")
        if random_state is None:  # a seed that a file keeps
            random_state = int(np.random.default_rng().integers(2**31))
        self.random_state = check_count("random_state", random_state, at_least=0)
        default = max(2 * len(self.space) + 2, 5)
        self.n_initial = default if n_initial is None else check_count("n_initial", n_initial)
        if noise == "fixed":
            raise ValueError("noise is 'fixed'; it takes 'auto' or one variance for all observations")
        self.noise, self.kernel, self.inference = noise, kernel, inference
        self.columns = self.space.size + (fidelities is not None)
        self._U = np.zeros((0, self.columns))
        self._y = np.zeros(0)
        self._G = np.zeros((0, self.n_constraints))
        self._pending = np.zeros((0, self.columns))
        self._asked = 0
        self._models: list[GaussianProcess] = []
        self._fitted = -1
        self._model()  # whose options are checked here

    @property
    def X(self) -> np.ndarray:
        """Points that were evaluated, one a row."""
        return self._decode(self._U)

    @property
    def y(self) -> Float[np.ndarray, " n"]:
        """Values that were told."""
        return self._y.copy()

    @property
    def pending(self) -> np.ndarray:
        """Points that were asked for and not told yet."""
        return self._decode(self._pending)

    @property
    def model(self) -> GaussianProcess:
        """The process of the objective, in the unit cube, fitted to all data."""
        return self._fit()[0]

    @property
    def box(self) -> Float[np.ndarray, "k 2"]:
        """Bounds of the unit cube that models work in; the column of a source has its own."""
        box = np.tile([0.0, 1.0], (self.columns, 1))
        if self.sources is not None:
            low, high = min(self.sources.levels), max(self.sources.levels)
            box[-1] = (low, high) if low < high else (low, low + 1)
        return box

    def _decode(self, U: Units) -> np.ndarray:
        points = self.space.decode(U[:, : self.space.size])
        return points if self.sources is None else np.column_stack([points, U[:, -1]])

    def _encode(self, X: Any) -> Units:
        d = len(self.space) + (self.sources is not None)
        if isinstance(X, np.ndarray) and X.dtype != object and X.ndim != 2:
            raise ValueError(f"X has shape {X.shape}; it takes (n, {d})")
        if self.sources is None:
            return self.space.encode(X)
        rows = [list(x) for x in X]
        for row in rows:
            if len(row) != d:
                raise ValueError(f"X has a point of {len(row)} values; it takes {d}, the last a level of the sources")
            if float(row[-1]) not in [float(level) for level in self.sources.levels]:
                raise ValueError(f"X has the level {row[-1]!r}; it takes one of {tuple(self.sources.levels)!r}")
        levels = np.array([float(row[-1]) for row in rows]).reshape(-1, 1)
        return np.concatenate([self.space.encode([row[:-1] for row in rows]), levels], axis=1)

    def ask(self, n: int | None = None) -> np.ndarray:
        """Return points to evaluate next, given all that was told and all that is pending.

        Parameters
        ----------
        n
            How many points, `batch_size` by default.

        Returns
        -------
        np.ndarray
            One point a row, which is pending until it is told.
        """
        n = self.batch_size if n is None else check_count("n", n)
        initial = max(0, min(n, self.n_initial - self._asked))
        found = [self._initial(initial)] if initial else []
        if n > initial:
            if not len(self._y):
                raise ValueError(
                    f"n is {n} with no values told; beyond the {self.n_initial} initial points `ask` takes at least "
                    "one told value to fit a model to"
                )
            found.append(self._propose(n - initial))
        U = np.concatenate(found)
        self._asked += n
        self._pending = np.concatenate([self._pending, U])
        return self._decode(U)

    def tell(self, X: Any, y: ArrayLike, constraints: ArrayLike | None = None) -> None:
        """Add evaluated points, asked for or not.

        Parameters
        ----------
        X
            Points, one a row.
        y
            Values there, to be maximised.
        constraints
            Values of the constraints, one row for each point, met where <= 0.
        """
        U, values = self._encode(X), np.asarray(y, dtype=float).reshape(-1)
        if values.shape != (len(U),) or not np.isfinite(values).all():
            raise ValueError(f"y is {y!r}; it takes {len(U)} finite numbers, one for each point")
        if (self.n_constraints > 0) != (constraints is not None):
            raise ValueError(f"constraints is {constraints!r}; it takes {self.n_constraints} values for each point")
        G = np.zeros((len(U), 0)) if constraints is None else np.asarray(constraints, dtype=float)
        G = G.reshape(len(U), -1 if G.size else self.n_constraints)
        if G.shape[1] != self.n_constraints or not np.isfinite(G).all():
            raise ValueError(f"constraints has {G.shape[1]} columns; it takes {self.n_constraints} of finite numbers")
        self._U, self._y = np.concatenate([self._U, U]), np.append(self._y, values)
        self._G = np.concatenate([self._G, G])
        for u in U:
            same = np.nonzero((np.abs(self._pending - u) < 1e-9).all(axis=1))[0]
            if len(same):
                self._pending = np.delete(self._pending, same[0], axis=0)
            else:
                self._asked += 1

    def _initial(self, n: int) -> Units:
        start = self._asked
        U = self.space.sample(self.n_initial, np.random.default_rng([self.random_state, 0]))[start : start + n]
        if self.sources is None:
            return U
        levels = np.asarray(self.sources.levels, dtype=float)
        return np.column_stack([U, levels[np.arange(start, start + n) % len(levels)]])

    def _model(self) -> GaussianProcess:
        kernel: Any = self.kernel
        if self.sources is not None:
            kernel = self.sources.covariance(self.kernel, self.space.size)
        n_starts = 4 if len(self._y) < 20 else 2
        model = GaussianProcess(
            kernel,
            noise=self.noise,
            inference=self.inference,  # type: ignore[arg-type]
            bounds=[(0.0, 1.0)] * self.columns,
            n_starts=n_starts,
            warm_start=True,
            random_state=self.random_state,
        )
        model._check_options()
        return model

    def _fit(self) -> list[GaussianProcess]:
        if len(self._y) < 1:
            raise ValueError("model: there are no data yet; it takes at least one point that was told")
        if self._fitted != len(self._y):
            before = self._models or [None] * (1 + self.n_constraints)  # type: ignore[list-item]
            models = []
            for old, values in zip(before, [self._y, *self._G.T], strict=True):
                model = self._model()
                if old is not None:
                    model.theta_ = old.theta_
                models.append(model.fit(self._U, values))
            self._models, self._fitted = models, len(self._y)
        return self._models

    def _feasible(self) -> np.ndarray:
        return np.asarray((self._G <= 0).all(axis=1))

    @property
    def noisy(self) -> bool:
        """Whether observations may be noisy, so that what is reported goes by the posterior mean."""
        return self.noise == "auto" or float(self.noise) > 0

    @property
    def best(self) -> Incumbent:
        """The point to report: the best observation without noise, else the evaluated one of greatest posterior mean.

        With sources it is the maximiser of the posterior mean of what is maximised; with constraints, the best of
        the points that met them, or the one that misses them least.
        """
        if not len(self._y):
            raise ValueError("best: there are no data yet; it takes at least one point that was told")
        if self.sources is not None:
            model, target = self.model, self.sources.target
            A = default_discretization(model, self.box, target, np.random.default_rng(self.random_state))
            u, value = maximise_mean(model.posteriors_[0], self.box, A, target)
            return Incumbent(self.space.decode(u[None, :-1])[0], value)
        values = self.model.predict(self._U) if self.noisy else self._y
        feasible = self._feasible()
        if feasible.any():
            i = int(np.argmax(np.where(feasible, values, -np.inf)))
        else:
            i = int(np.argmin(np.maximum(self._G, 0).sum(axis=1)))
        return Incumbent(self.space.decode(self._U[[i]])[0], float(values[i]))

    def _propose(self, n: int) -> Units:
        models = self._fit()
        rng = np.random.default_rng([self.random_state, 1, len(self._y), self._asked])
        if callable(self.acq) and (acq := self.acq(models[0], self.box)).q == n:
            return self._search(acq, rng).reshape(n, -1)
        if self.sources is not None:
            return self._one_by_one(models, n, self._with_sources, rng)
        if (
            n > 1
            and not self.n_constraints
            and self.acq in ("ei", "believer", "liar_min", "liar_mean", "liar_max", "kg")
        ):
            return self._batch(models[0], n, rng)
        return self._one_by_one(models, n, self._alone, rng)

    def _incumbent(self, model: GaussianProcess) -> float:
        return float(model.predict(self._U).max() if self.noisy else self._y.max())

    def _candidates(self, rng: np.random.Generator) -> Units:
        """Return the best points, and points around them, that a search begins with too."""
        values = self._y if not self.n_constraints else np.where(self._feasible(), self._y, -np.inf)
        top = self._U[np.argsort(-values, kind="stable")[:2]]
        near = np.repeat(top, 16, axis=0)
        near = near + rng.normal(0.0, 1.0, near.shape) * 10.0 ** rng.uniform(-3, -1, (len(near), 1))
        return np.clip(np.concatenate([top, near]), *self.box.T)

    def _search(self, acq: Acquisition, rng: np.random.Generator) -> Units:
        snaps = None if self.space.numeric else self.space
        candidates = self._candidates(rng) if acq.n_decisions == 1 else None
        x, _ = optimize_acquisition(acq, self.box, candidates=candidates, snaps=snaps, random_state=rng)
        return np.atleast_2d(x)

    def _batch(self, model: GaussianProcess, n: int, rng: np.random.Generator) -> Units:
        best, how = self._incumbent(model), str(self.acq)
        believed = self._believing([model])[0]
        greedy = fill_batch(believed, self.box, best, n, "believer" if how in ("ei", "kg") else how, random_state=rng)  # type: ignore[arg-type]
        if not self.space.numeric:
            greedy = self.space.snap(greedy)
        if how not in ("ei", "kg"):
            return greedy
        acq: Acquisition
        if how == "ei":
            acq = qEI(model, best, n, pending=self._pending, random_state=rng)
        else:
            acq = qKG(model, self.box, n, pending=self._pending, random_state=rng)
        snaps = None if self.space.numeric else self.space
        x, _ = optimize_acquisition(
            acq, self.box, 128, 4, candidates=greedy[None], snaps=snaps, steps=30, random_state=rng
        )
        return np.atleast_2d(x)

    def _believing(self, models: list[GaussianProcess], more: Units | None = None) -> list[GaussianProcess]:
        """Return the models with points under way, as if their posterior means had been observed there."""
        waiting = self._pending if more is None else np.concatenate([self._pending, more])
        if not len(waiting):
            return models
        return [model.condition(waiting, model.predict(waiting)) for model in models]

    def _one_by_one(
        self,
        models: list[GaussianProcess],
        n: int,
        choose: Callable[[list[GaussianProcess], np.random.Generator], Units],
        rng: np.random.Generator,
    ) -> Units:
        chosen = np.zeros((0, self.columns))
        for _ in range(n):
            chosen = np.concatenate([chosen, choose(self._believing(models, chosen), rng)])
        return chosen

    def _alone(self, models: list[GaussianProcess], rng: np.random.Generator) -> Units:
        model = models[0]
        if callable(self.acq):
            return self._search(self.acq(model, self.box), rng)
        if self.n_constraints:
            feasible = self._feasible()
            values = model.predict(self._U) if self.noisy else self._y
            best = float(values[feasible].max()) if feasible.any() else None
            return self._search(ConstrainedEI(model, models[1:], best), rng)
        if self.acq == "noisy_ei":
            return self._search(NoisyExpectedImprovement(model), rng)
        if self.acq == "kg":
            return self._search(KnowledgeGradient(model, self.box, random_state=rng), rng)
        if self.acq == "mes":
            return self._search(MaxValueEntropySearch(model, self.box, random_state=rng), rng)
        if self.acq in ("es", "pes"):
            return self._by_entropy(model, rng)
        waiting = model.posteriors_[0].U[len(self._y) :]  # what is under way counts as found, as in a believer's batch
        best = self._incumbent(model)
        if len(waiting):
            best = max(best, float(model.predict(waiting).max()))
        return self._search(LogEI(model, best), rng)

    def _by_entropy(self, model: GaussianProcess, rng: np.random.Generator) -> Units:
        """Choose by a search over entropies: candidates for the maximiser by drawn functions where that can be."""
        if self.acq == "pes" and self.space.numeric and self.kernel != "matern12":
            acq: Acquisition = PredictiveEntropySearch(model, self.box, method="ep", n_samples=16, random_state=rng)
        else:
            A = self.space.snap(default_discretization(model, self.box, None, rng, 64))
            draws = model.sample(A, 256, rng)
            likely = np.unique(draws.argmax(axis=1))
            kind = EntropySearch if self.acq == "es" else PredictiveEntropySearch
            acq = kind(model, A[likely], n_samples=512, random_state=rng)
        snaps = None if self.space.numeric else self.space
        candidates = self._candidates(rng)
        x, _ = optimize_acquisition(
            acq, self.box, 128, 2, candidates=candidates, snaps=snaps, steps=6, random_state=rng
        )
        return np.atleast_2d(x)

    def _with_sources(self, models: list[GaussianProcess], rng: np.random.Generator) -> Units:
        """Choose a point and a source by the knowledge gradient per unit of cost, source by source."""
        assert self.sources is not None
        model, target = models[0], self.sources.target
        acq = KnowledgeGradient(model, self.box, target=target, random_state=rng)
        found = []
        for level, cost in zip(self.sources.levels, self.sources.price, strict=True):
            at = _AtLevel(acq, float(level))
            candidates = self._candidates(rng)[:, :-1]
            x, value = optimize_acquisition(at, self.box[:-1], 96, 3, candidates=candidates, steps=15, random_state=rng)
            found.append((value / cost, np.append(x, level)))
        return max(found, key=lambda pair: pair[0])[1][None]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that was told and is pending to a JSON file, in one step.

        Parameters
        ----------
        path
            Name of the file.
        """
        if callable(self.acq):
            raise ValueError("acq is a function, which a file can't hold; save takes an optimizer whose acq has a name")
        dimensions = [{"kind": type(d).__name__, **asdict(d)} for d in self.space.dimensions]  # type: ignore[call-overload]
        try:
            json.dumps(dimensions)
        except TypeError:
            raise ValueError(
                f"bounds has choices that a file can't hold: {dimensions!r}; it takes texts or numbers"
            ) from None
        write_json(
            path,
            {
                "format": 1,
                "dimensions": dimensions,
                "options": {
                    "acq": self.acq,
                    "batch_size": self.batch_size,
                    "constraints": self.n_constraints or None,
                    "random_state": self.random_state,
                    "n_initial": self.n_initial,
                    "noise": self.noise,
                    "kernel": self.kernel,
                    "inference": self.inference,
                },
                "sources": None if self.sources is None else asdict(self.sources),
                "U": self._U.tolist(),
                "y": self._y.tolist(),
                "G": self._G.tolist(),
                "pending": self._pending.tolist(),
                "asked": self._asked,
                "thetas": [model.theta_.tolist() for model in self._models],
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "BayesianOptimizer":
        """Return the optimiser that a file holds, which goes on where it was saved.

        Parameters
        ----------
        path
            Name of the file.

        Returns
        -------
        BayesianOptimizer
            An optimiser with all data and pending points.
        """
        state = read_json(path)
        if not isinstance(state, dict) or state.get("format") != 1:
            raise ValueError(f"path is {os.fspath(path)!r}, which holds no state of an optimizer of format 1")
        try:
            return cls._restored(state)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"path is {os.fspath(path)!r}, which holds a damaged state of an optimizer: {error!r}"
            ) from error

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> "BayesianOptimizer":
        dimensions = [
            _KINDS[d["kind"]](**{name: value for name, value in d.items() if name != "kind"})
            for d in state["dimensions"]
        ]
        sources = None if state["sources"] is None else Sources(**state["sources"])
        made = cls(dimensions, fidelities=sources, **state["options"])
        made._U = np.array(state["U"], dtype=float).reshape(-1, made.columns)
        made._y = np.array(state["y"], dtype=float)
        made._G = np.array(state["G"], dtype=float).reshape(len(made._y), made.n_constraints)
        made._pending = np.array(state["pending"], dtype=float).reshape(-1, made.columns)
        made._asked = check_count("asked", state["asked"], at_least=0)
        if made._U.shape[0] != len(made._y) or not all(
            np.isfinite(a).all() for a in (made._U, made._y, made._G, made._pending)
        ):
            raise ValueError(f"U has {len(made._U)} and y {len(made._y)} values; they take as many finite numbers")
        for U in (made._U, made._pending):
            if len(U) and ((made.box[:, 0] - 1e-9 > U).any() or (made.box[:, 1] + 1e-9 < U).any()):
                raise ValueError("U or pending has places outside of the unit cube")
        if len(state["thetas"]) not in (0, 1 + made.n_constraints):
            raise ValueError(f"thetas has {len(state['thetas'])} entries; it takes {1 + made.n_constraints}")
        for theta in state["thetas"]:
            model = made._model()
            model.theta_ = np.array(theta, dtype=float)
            made._models.append(model)
        return made


class _AtLevel(Acquisition):
    """A function of points and a level, at one level."""

    def __init__(self, acq: Acquisition, level: float) -> None:
        self.acq, self.level, self.posteriors = acq, level, acq.posteriors

    def __call__(self, X: ArrayLike, gradient: bool = False) -> Any:
        points = np.asarray(X, dtype=float)
        full = np.column_stack([points, np.full(len(points), self.level)])
        if not gradient:
            return self.acq(full)
        values, slopes = self.acq(full, gradient=True)
        return values, slopes[:, :-1]

    def _evaluate(self, number: int, posterior: Any, X: Any, gradient: bool) -> Any:
        return self.acq._evaluate(number, posterior, X, gradient)
