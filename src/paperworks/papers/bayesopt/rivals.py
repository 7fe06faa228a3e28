"""Races against packages of Bayesian optimisation: overhead, posterior, and regret at equal evaluations."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.evidence import Estimate, Measurement, Run, Table, greatest, interleaved, statistic
from paperworks.evidence import exact as exactly
from paperworks.evidence import ratio as paired_ratio
from paperworks.optimization import BayesianOptimizer, GaussianProcess
from paperworks.papers.bayesopt.loops import maximise, regrets
from paperworks.testbeds import TestFunction, branin, hartmann6

Values = Float[np.ndarray, " n"]
Optimise = Callable[[TestFunction, int, int, int], Values]
"""Takes a function, a seed, how many initial points and how many in all; returns the values it found."""


def excess(ours: list[float], theirs: list[float]) -> Estimate:
    """Return how many standard errors our mean log10 regret is above theirs, over seeds."""
    a, b = np.log10(np.maximum(ours, 1e-6)), np.log10(np.maximum(theirs, 1e-6))
    error = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a)) if len(a) > 1 else math.inf
    gap = float(a.mean() - b.mean())
    return statistic(
        gap / error if error > 0 and math.isfinite(error) else 0.0, "difference of mean log10 regrets over its error"
    )


def _regret_race(run: Run, theirs: Optimise, settings: str, ours: Optimise | None = None) -> Measurement:
    """Optimise Branin's function by both, as often as there are seeds; each round times both."""
    function, first = branin(), 8
    total, count = run.at(smoke=9, desk=30, full=30), run.repeats(smoke=1, desk=10, full=30)
    runs: dict[str, list[float]] = {"ours": [], "theirs": []}
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    jobs: dict[str, Optimise] = {"ours": ours or maximise, "theirs": theirs}
    for k in run.progress(range(count), label="seeds"):
        for name in ("ours", "theirs") if k % 2 else ("theirs", "ours"):
            started = time.perf_counter()
            values = jobs[name](function, 1000 * run.seed + k, first, total)
            seconds[name].append((time.perf_counter() - started) / (total - first))
            runs[name].append(float(regrets(function, values)[-1]))
    rows = [[name, float(np.median(runs[name])), max(runs[name]), float(np.median(seconds[name]))] for name in runs]
    return Measurement(
        {
            "regret": excess(runs["ours"], runs["theirs"]),
            "overhead": paired_ratio(seconds["ours"], seconds["theirs"], "seeds"),
        },
        table=Table(["package", "median regret", "largest regret", "seconds an iteration"], rows),
        settings=settings,
    )


def against_botorch(run: Run) -> Measurement:
    """Compare posteriors, the time of an iteration, and regrets with BoTorch's SingleTaskGP and LogEI."""
    import torch

    theirs = _botorch_step()
    torch.set_num_threads(1)
    rows: list[list[Any]] = []
    overheads = []
    sizes = run.at(
        smoke=((branin(), 20),),
        desk=((branin(), 30), (hartmann6(), 50), (hartmann6(), 100)),
        full=((branin(), 30), (hartmann6(), 50), (hartmann6(), 100)),
    )
    for function, n in sizes:
        low, high = np.array(function.bounds).T
        U = np.random.default_rng(n).random((n, len(low)))
        y = -function(low + (high - low) * U)

        def ours(U: Any = U, y: Any = y, function: TestFunction = function) -> None:
            optimizer = BayesianOptimizer([(0, 1)] * U.shape[1], n_initial=1)
            optimizer.tell(U, y)
            optimizer.ask()

        times = interleaved(
            run,
            {"ours": ours, "theirs": lambda U=U, y=y: theirs(U, y)},
            run.at(smoke=1, desk=8, full=9),
        )
        overheads.append(times.ratio("ours", "theirs"))
        rows.append(
            [f"{len(low)} dimensions, {n} points", times.median("ours"), times.median("theirs"), overheads[-1].value]
        )
    regret = []
    for function, first, total, count in (
        (branin(), 8, run.at(smoke=9, desk=30, full=30), run.at(smoke=2, desk=10, full=10)),
        (hartmann6(), 12, run.at(smoke=12, desk=50, full=50), run.at(smoke=2, desk=10, full=10)),
    ):
        if total == first:
            continue
        found: dict[str, list[float]] = {"ours": [], "theirs": []}
        for k in run.progress(range(count), label="regret"):
            found["ours"].append(float(regrets(function, maximise(function, k, first, total, kernel="rbf"))[-1]))
            found["theirs"].append(float(regrets(function, _drive(theirs, function, k, first, total))[-1]))
        regret.append(excess(found["ours"], found["theirs"]))
        rows.append(
            [
                f"median regret, {len(function.bounds)} dimensions",
                *(float(np.median(f)) for f in found.values()),
                regret[-1].value,
            ]
        )
    return Measurement(
        {"overhead": greatest(overheads), "posterior": exactly(_posterior_difference()), "regret": greatest(regret)},
        table=Table(["what", "ours", "BoTorch", "ratio, or standard errors"], rows),
        settings=(
            "SingleTaskGP in float64 with its default priors, LogExpectedImprovement, optimize_acqf with 10 restarts "
            "of 512 raw samples, one thread; for the times both estimate the noise, for the regret both have its kernel"
        ),
    )


def _botorch_step() -> Callable[..., Any]:
    """Return one iteration of BoTorch on the unit cube: fit, acquisition and its search."""
    import warnings

    import torch
    from botorch.acquisition.analytic import LogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Standardize
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import ExactMarginalLogLikelihood

    def step(U: Float[np.ndarray, "n d"], y: Values, seed: int = 0, exact: bool = False) -> Float[np.ndarray, " d"]:
        torch.manual_seed(seed)
        X, Y = torch.from_numpy(U), torch.from_numpy(y)[:, None]
        options: Any = {"train_Yvar": torch.full_like(Y, 1e-6 * float(y.var()))} if exact else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = SingleTaskGP(X, Y, outcome_transform=Standardize(1), **options)
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            bounds = torch.stack([torch.zeros(U.shape[1]), torch.ones(U.shape[1])]).double()
            found, _ = optimize_acqf(
                LogExpectedImprovement(model, best_f=float(y.max())), bounds, q=1, num_restarts=10, raw_samples=512
            )
        return found[0].numpy()

    return step


def _drive(step: Callable[..., Values], function: TestFunction, seed: int, first: int, total: int) -> Values:
    """Run the loop around a step on the unit cube, from the same initial points as ours."""
    low, high = np.array(function.bounds).T
    X = BayesianOptimizer(function.bounds, n_initial=first, random_state=seed, noise=0.0).ask(first)
    U = (X - low) / (high - low)
    for k in range(total - first):
        u = step(U, -function(low + (high - low) * U), seed=1000 * seed + k, exact=True)
        U = np.concatenate([U, u[None]])
    return function(low + (high - low) * U)


def _posterior_difference() -> float:
    """Return the largest difference of means and covariances at the same hyper-parameters, values of order 1."""
    import torch
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import MaternKernel, ScaleKernel

    rng, worst = np.random.default_rng(0), 0.0
    for n, d in ((20, 1), (50, 3), (100, 6)):
        X, Z, noise = rng.random((n, d)), rng.random((40, d)), 0.01
        y = np.sin(3 * X.sum(axis=1))
        lengths = rng.uniform(0.3, 1.0, d)
        kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=d))
        model = SingleTaskGP(
            torch.from_numpy(X), torch.from_numpy(y)[:, None], torch.full((n, 1), noise, dtype=torch.float64),
            covar_module=kernel, outcome_transform=None,
        ).double()  # fmt: skip
        model.covar_module.base_kernel.lengthscale = torch.from_numpy(lengths)
        model.covar_module.outputscale = torch.tensor(1.3, dtype=torch.float64)  # as a float it is rounded to single
        model.mean_module.constant.data.fill_(0.2)
        posterior: Any = model.posterior(torch.from_numpy(Z))
        ours = GaussianProcess(
            noise=noise, mean=0.2, inference="fixed", hyperparameters={"lengthscale": lengths, "amplitude": 1.3},
            bounds=[(0, 1)] * d, standardize=False,
        ).fit(X, y)  # fmt: skip
        mean, covariance = ours.predict(Z, return_cov=True)
        theirs = posterior.mean.detach().numpy()[:, 0], posterior.distribution.covariance_matrix.detach().numpy()
        worst = max(worst, float(np.abs(mean - theirs[0]).max()), float(np.abs(covariance - theirs[1]).max()))
    return worst


def against_scikit_optimize(run: Run) -> Measurement:
    """Minimise Branin's function by skopt's gp_minimize."""
    from skopt import gp_minimize

    def theirs(function: TestFunction, seed: int, first: int, total: int) -> Values:
        result = gp_minimize(
            lambda x: float(function(np.array([x]))[0]), [tuple(b) for b in function.bounds], n_calls=total,
            n_initial_points=first, initial_point_generator="sobol", noise=1e-10, acq_func="EI", random_state=seed,
        )  # fmt: skip
        return np.asarray(result.func_vals, dtype=float)

    return _regret_race(run, theirs, "gp_minimize with Sobol points, noise 1e-10, EI, and its lbfgs search")


def against_bayesian_optimization(run: Run) -> Measurement:
    """Minimise Branin's function by bayes_opt with expected improvement."""
    from bayes_opt import BayesianOptimization
    from bayes_opt.acquisition import ExpectedImprovement

    def theirs(function: TestFunction, seed: int, first: int, total: int) -> Values:
        found: list[float] = []

        def target(**x: float) -> float:
            found.append(float(function(np.array([[x["x0"], x["x1"]]]))[0]))
            return -found[-1]

        names = {f"x{j}": tuple(bounds) for j, bounds in enumerate(function.bounds)}
        optimizer = BayesianOptimization(
            target, names, acquisition_function=ExpectedImprovement(xi=0.0), random_state=seed, verbose=0
        )
        optimizer.maximize(init_points=first, n_iter=total - first)
        return np.array(found[:total])

    return _regret_race(run, theirs, "expected improvement with xi 0")


def against_smt(run: Run) -> Measurement:
    """Minimise Branin's function by SMT's EGO."""
    from smt.applications.ego import EGO
    from smt.design_space import DesignSpace, FloatVariable
    from smt.surrogate_models import KRG

    def theirs(function: TestFunction, seed: int, first: int, total: int) -> Values:
        space = DesignSpace([FloatVariable(*bounds) for bounds in function.bounds], seed=seed)
        ego = EGO(
            n_iter=total - first, criterion="EI", n_doe=first, seed=seed,
            surrogate=KRG(design_space=space, print_global=False, seed=seed),
        )  # fmt: skip
        return np.asarray(ego.optimize(fun=lambda X: function(X)[:, None])[-1], dtype=float).ravel()

    return _regret_race(run, theirs, "EGO with Kriging and EI")


def against_emukit(run: Run) -> Measurement:
    """Minimise Branin's function by max-value entropy search, ours and Emukit's."""
    from unittest.mock import patch

    from emukit.bayesian_optimization.acquisitions import max_value_entropy_search as their_module
    from emukit.bayesian_optimization.interfaces import IEntropySearchModel
    from emukit.bayesian_optimization.loops import BayesianOptimizationLoop
    from emukit.core import ContinuousParameter, ParameterSpace

    from paperworks.papers.bayesopt.emukit_model import SklearnModel

    fit_gumbel = their_module._fit_gumbel

    def flat(mean: Any, deviation: Any) -> Any:
        return fit_gumbel(mean.ravel(), deviation.ravel())  # as columns they are no numbers to NumPy 2.4

    class Model(SklearnModel, IEntropySearchModel):
        pass

    def theirs(function: TestFunction, seed: int, first: int, total: int) -> Values:
        np.random.seed(seed)  # noqa: NPY002 - the peer draws from NumPy's global generator
        low, high = np.array(function.bounds).T
        X = BayesianOptimizer(function.bounds, n_initial=first, random_state=seed, noise=0.0).ask(first)
        space = ParameterSpace([ContinuousParameter(f"x{j}", 0, 1) for j in range(len(low))])

        def scaled(U: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 1"]:
            return function(low + (high - low) * U)[:, None]

        U = (X - low) / (high - low)
        model = Model(U, scaled(U))
        acquisition = their_module.MaxValueEntropySearch(model, space, num_samples=10)
        loop = BayesianOptimizationLoop(model=model, space=space, acquisition=acquisition)
        with patch.object(their_module, "_fit_gumbel", flat):
            loop.run_loop(scaled, total - first)
        return np.asarray(loop.loop_state.Y, dtype=float).ravel()

    def ours(function: TestFunction, seed: int, first: int, total: int) -> Values:
        return maximise(function, seed, first, total, acq="mes")

    return _regret_race(
        run,
        theirs,
        "max-value entropy search on a scikit-learn process with Matern-5/2, its lbfgs search; its fit of a Gumbel law "
        "is patched to take flat arrays, which NumPy 2.4 asks for",
        ours,
    )
