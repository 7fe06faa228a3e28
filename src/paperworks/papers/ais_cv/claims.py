"""What the paper reports of many expectations from one sample, measured against exact values and plain sampling."""

import contextlib
import importlib
import io
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special, stats
from scipy.stats import qmc

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    interleaved,
    measures,
    races,
    statistic,
)
from paperworks.inference import (
    ExpectationsResult,
    GaussianComponents,
    ISCVEstimator,
    multiple_expectations,
    sobol_indices,
)
from paperworks.papers.ais_cv.beam import MEANS, VARIATIONS, BeamLaws, deflection, marginals

IndexEstimator = Callable[[np.random.Generator, int], np.ndarray]
"""Estimates the beam's first-order indices from a number of base points."""

POWERS = 2 * np.arange(1, 11)
MOMENTS = special.factorial2(POWERS - 1)
NORMAL = GaussianComponents([[0.0]], [[[1.0]]])


def powers(X: Float[np.ndarray, "n 1"]) -> Float[np.ndarray, "n 10"]:
    """Return the ten even powers."""
    return X**POWERS


PAPERS: dict[str, Any] = {"sampling": "random", "defensive": 0.0}  # independent draws, none of them defensive


def estimate_moments(n_max: int, seed: Any, **options: Any) -> ExpectationsResult:
    """Estimate the ten even moments of a normal law, errors weighed as relative ones."""
    return multiple_expectations(powers, NORMAL, n_max, weights=1 / MOMENTS**2, random_state=seed, **options)


def total_variance(estimates: Float[np.ndarray, "repeats J"]) -> float:
    """Return the variance over repetitions, summed over what is estimated."""
    return float(np.var(estimates, axis=0, ddof=1).sum())


def monte_carlo_moments(n: int) -> Float[np.ndarray, " 10"]:
    """Return the exact relative variances of the moments by n plain draws."""
    return (special.factorial2(2 * POWERS - 1) / MOMENTS**2 - 1) / n


@measures("a1-gaussian-moments")
def gaussian_moments(run: Run) -> Measurement:
    """Estimate ten moments many times, and compare their spread with that of plain sampling."""
    n, repeats, rng = 20_000, run.repeats(smoke=4, desk=400, full=1000), run.rng()
    results = [estimate_moments(n, rng, **PAPERS) for _ in run.progress(range(repeats), label="repeats")]
    relative = np.array([result.estimate for result in results]) / MOMENTS - 1
    ours, plain = relative.var(axis=0, ddof=1), monte_carlo_moments(n)
    bias = relative.mean(axis=0) / np.sqrt(ours / repeats)
    adapted = np.mean([n - len(result.sample) for result in results])
    figure, axes = run.figure()
    axes.semilogy(POWERS, plain, "o-", label="plain Monte Carlo (exact)")
    axes.semilogy(POWERS, ours, "s-", label="one adaptive sample")
    axes.set(xlabel="moment", ylabel="relative variance")
    axes.legend()
    columns = ["moment", "relative variance", "of plain Monte Carlo", "gain", "bias in standard errors"]
    rows = zip(POWERS.tolist(), ours.tolist(), plain.tolist(), (plain / ours).tolist(), bias.tolist(), strict=True)
    return Measurement(
        {
            "criterion": bootstrap(total_variance, relative),
            "gain": bootstrap(lambda found: plain.sum() / total_variance(found), relative),
            "worst_bias": statistic(np.abs(bias).max(), "the largest of ten z-scores of the bias"),
        },
        table=Table(columns, [list(row) for row in rows]),
        figure=figure,
        remark=(
            f"{repeats} repetitions, {adapted:.0f} of {n} evaluations spent on adaptation. The squared standard errors "
            f"that the runs report add up to {np.mean([np.sum((r.std_error / MOMENTS) ** 2) for r in results]):.3g}."
        ),
    )


@measures("a2-many-input-laws")
def many_input_laws(run: Run) -> Measurement:
    """Estimate the mean deflection under 100 laws from one sample, and from samples of their own or of the mixture."""
    J, n = run.at(smoke=10, desk=100, full=100), run.at(smoke=2000, desk=20_000, full=20_000)
    repeats, draws = run.repeats(smoke=3, desk=80, full=200), run.at(smoke=10_000, desk=400_000, full=1_000_000)
    rng = run.rng()
    laws = BeamLaws.design(J, rng)
    estimates = [
        multiple_expectations(deflection, laws, n, random_state=rng, **PAPERS).estimate
        for _ in run.progress(range(repeats), label="repeats")
    ]
    ours = np.var(estimates, axis=0, ddof=1)
    individual, mixture = _plain_variances(laws, n, draws, rng)
    gains = {"individual": individual / ours, "mixture": mixture / ours}
    rows = [
        [name, float(variance.sum()), float(variance.sum() / ours.sum()), float((variance / ours).min())]
        for name, variance in {"own samples": individual, "the mixture": mixture, "one adaptive sample": ours}.items()
    ]
    figure, axes = run.figure()
    axes.hist(
        [np.log10(gains["individual"]), np.log10(gains["mixture"])],
        bins=20,
        label=["over own samples", "over the mixture"],
    )
    axes.set(xlabel="log10 of the gain in variance", ylabel=f"laws of {J}")
    axes.legend()
    return Measurement(
        {
            "over_individual": bootstrap(lambda found: individual.sum() / total_variance(found), estimates),
            "over_mixture": bootstrap(lambda found: mixture.sum() / total_variance(found), estimates),
            "least_gain": bootstrap(lambda found: (individual / np.var(found, axis=0, ddof=1)).min(), estimates),
        },
        table=Table(["sample", "summed variance", "ours is smaller by", "for the worst law"], rows),
        figure=figure,
        remark=f"The mean gain over own samples is {gains['individual'].mean():.0f}.",
    )


def _plain_variances(
    laws: BeamLaws, n: int, draws: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, " J"]]:
    """Return the variances of the means by n / J draws of each law, and by n draws of their mixture, from many draws.

    Both follow from moments under the mixture h: the weights f_j / h turn them into moments under f_j.
    """
    sums = np.zeros((3, len(laws)))
    for _ in range(draws // 10_000):
        X = laws.rvs(10_000, rng)
        log_f = laws.logpdf(X)
        W = np.exp(log_f - special.logsumexp(log_f, axis=1, keepdims=True) + math.log(len(laws)))
        phi = deflection(X)[:, None]
        sums += [(W * phi).sum(0), (W * phi**2).sum(0), (W**2 * phi**2).sum(0)]
    mean, square, weighted = sums / (draws // 10_000 * 10_000)
    return (square - mean**2) / (n / len(laws)), (weighted - mean**2) / n


@measures("a3-sobol-indices")
def beam_indices(run: Run) -> Measurement:
    """Estimate first-order indices of the beam by the adaptive sample and by plain pick-freeze, with as many calls.

    Ours makes eight calls for each of its points, pick-freeze seven.
    """
    n, repeats, rng = run.at(smoke=2000, desk=20_000, full=20_000), run.repeats(smoke=3, desk=200, full=400), run.rng()
    ours, plain = [], []
    for _ in run.progress(range(repeats), label="repeats"):
        ours.append(sobol_indices(deflection, marginals(), n * 7 // 8, random_state=rng, adapt=True, **PAPERS).S1)
        plain.append(pick_freeze(rng, n))
    variances = np.var(ours, axis=0, ddof=1), np.var(plain, axis=0, ddof=1)
    gains = variances[1] / variances[0]
    names = ["F_X", "F_Y", "E", "w", "t", "L"]
    columns = ["input", "index", "variance", "of pick-freeze", "gain"]
    rows = zip(names, np.mean(ours, axis=0).tolist(), *(v.tolist() for v in (*variances, gains)), strict=True)

    def least(found: Float[np.ndarray, "repeats 6"], rival: Float[np.ndarray, "repeats 6"]) -> float:
        return float((np.var(rival, axis=0, ddof=1) / np.var(found, axis=0, ddof=1)).min())

    return Measurement(
        {
            "total": bootstrap(lambda found, rival: total_variance(rival) / total_variance(found), ours, plain),
            "least": bootstrap(least, ours, plain),
        },
        table=Table(columns, [list(row) for row in rows]),
    )


def pick_freeze(rng: np.random.Generator, n: int) -> Float[np.ndarray, " 6"]:
    """Estimate the beam's first-order indices from n plain draws and seven calls each, as the paper's rival does."""
    X, other = (np.stack([m.rvs(n, rng) for m in marginals()], axis=1) for _ in range(2))
    Y = deflection(X)
    products = []
    for i in range(6):
        mixed = other.copy()
        mixed[:, i] = X[:, i]
        products.append(np.mean(Y * deflection(mixed)))
    return (np.array(products) - Y.mean() ** 2) / Y.var(ddof=1)


def directions(rng: np.random.Generator, J: int, d: int, length: float) -> Float[np.ndarray, "J d"]:
    """Return random vectors of a given length."""
    a = rng.standard_normal((J, d))
    return length * a / np.linalg.norm(a, axis=1, keepdims=True)


@measures("a4-zero-variance")
def zero_variance(run: Run) -> Measurement:
    """Estimate four exponentials with the densities that are ideal for them, and with adapted ones."""
    J, d, n, rng = 4, 3, 10_000, run.rng()
    a, law = directions(rng, J, d, 1.5), GaussianComponents(np.zeros((1, d)), np.eye(d)[None])
    means = np.exp((a**2).sum(axis=1) / 2)
    ideal = GaussianComponents(a, np.broadcast_to(np.eye(d), (J, d, d)))
    errors = []
    for alpha in rng.dirichlet(np.ones(J), size=20):
        estimator = ISCVEstimator(ideal, alpha, means)
        X = estimator.rvs(1000, rng)
        found = estimator.estimate(X, law.logpdf(X), np.exp(X @ a.T)).estimate
        errors.append(float(np.abs(found / means - 1).max()))
    relative = [
        multiple_expectations(
            lambda X: np.exp(X @ a.T), law, n, weights=1 / means**2, random_state=rng, **PAPERS
        ).estimate
        / means
        - 1
        for _ in run.progress(range(run.repeats(smoke=3, desk=200, full=1000)), label="repeats")
    ]
    ours = np.var(relative, axis=0, ddof=1)
    plain = (np.exp((a**2).sum(axis=1)) - 1) / n
    return Measurement(
        {
            "relative_error": every(errors, "mixtures"),
            "adapted_gain": bootstrap(lambda found: plain.sum() / total_variance(found), relative),
        },
        table=Table(
            ["expectation", "exact", "relative variance", "of plain Monte Carlo"],
            [[j + 1, float(means[j]), float(ours[j]), float(plain[j])] for j in range(J)],
        ),
    )


@measures("a5-unbiased")
def unbiased(run: Run) -> Measurement:
    """Estimate the moments with few evaluations, many times, and look for a bias and for budgets spent too soon."""
    n, repeats, rng = 5000, run.repeats(smoke=20, desk=1000, full=3000), run.rng()
    results = [estimate_moments(n, rng, **PAPERS) for _ in run.progress(range(repeats), label="repeats")]
    relative = np.array([result.estimate for result in results]) / MOMENTS - 1
    z = relative.mean(axis=0) / (relative.std(axis=0, ddof=1) / math.sqrt(repeats))
    batches, counts = np.unique([len(result.history) for result in results], return_counts=True)
    return Measurement(
        {
            "worst_z": statistic(np.abs(z).max(), "the largest of ten z-scores of the bias"),
            "least_share": every([len(result.sample) / n for result in results], "repetitions"),
        },
        table=Table(["moment", "mean relative error", "z"], [
            [int(p), float(e), float(s)] for p, e, s in zip(POWERS, relative.mean(axis=0), z, strict=True)
        ]),
        remark="Runs that stopped after "
        + ", ".join(f"{b} batches: {c}" for b, c in zip(batches, counts, strict=True))
        + ".",
    )  # fmt: skip


@measures("a6-real-data")
def real_data(run: Run) -> Measurement:
    """Estimate exponentials under a kernel density of two columns of the diabetes data."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(as_frame=False)
    columns = [data.feature_names.index(name) for name in ("bmi", "bp")]
    points = data.data[:, columns] / data.data[:, columns].std(axis=0)
    n, rng, bandwidth = 10_000, run.rng(), 0.4
    law = GaussianComponents(points[None], np.broadcast_to(bandwidth**2 * np.eye(2), (1, len(points), 2, 2)))
    a = directions(rng, 6, 2, 1.5)

    def exactly(b: Float[np.ndarray, "J 2"]) -> Float[np.ndarray, " J"]:
        return np.mean(np.exp(points @ b.T), axis=0) * np.exp(bandwidth**2 * (b**2).sum(axis=1) / 2)

    means, repeats = exactly(a), run.repeats(smoke=2, desk=20, full=200)
    plain = (exactly(2 * a) / means**2 - 1) / n
    gains, found = {}, {}
    kinds: dict[str, dict[str, Any]] = {
        "mixtures": {"family": "gm", **PAPERS},
        "Gaussians": {"family": "sg", **PAPERS},
        "mixtures, nets": {"family": "gm", "sampling": "sobol"},
        "Gaussians, nets": {"family": "sg", "sampling": "sobol"},
    }
    for kind, options in kinds.items():
        relative = [
            multiple_expectations(lambda X: np.exp(X @ a.T), law, n, 1 / means**2, random_state=rng, **options).estimate
            / means
            for _ in run.progress(range(repeats), label=kind)
        ]
        ours = np.var(relative, axis=0, ddof=1)
        gains[kind], found[kind] = plain / ours, np.array(relative)
    rows = [[j + 1, float(plain[j]), *(float(gains[kind][j]) for kind in kinds)] for j in range(6)]
    totals = {kind: plain.sum() / total_variance(found[kind]) for kind in kinds}
    return Measurement(
        bootstrap(lambda each: plain.sum() / total_variance(each), found["mixtures"]),
        table=Table(["expectation", "relative variance, plain", *(f"gain, {kind}" for kind in kinds)], rows),
        remark="Gains in total: " + ", ".join(f"{kind} {total:.3g}" for kind, total in totals.items()) + ".",
    )


def _index_race(run: Run, rivals: dict[str, Callable[[np.random.Generator, int], np.ndarray]]) -> Measurement:
    """Compare the variances of the beam's first-order indices with the best rival's, at eight calls a point for all."""
    n, repeats, rng = run.at(smoke=1024, desk=16_384, full=16_384), run.repeats(smoke=3, desk=100, full=200), run.rng()
    everyone: dict[str, IndexEstimator] = {"ours": _our_indices, **rivals}
    found: dict[str, list[np.ndarray]] = {name: [] for name in everyone}
    for _ in run.progress(range(repeats), label="repeats"):
        for name, estimate in everyone.items():
            found[name].append(estimate(rng, n))
    variances = {name: np.var(values, axis=0, ddof=1) for name, values in found.items()}
    total = {name: float(variance.sum()) for name, variance in variances.items()}
    rows = [
        [name, v, total["ours"] / v, float((variances["ours"] / variances[name]).max())] for name, v in total.items()
    ]
    best = min(rivals, key=lambda name: total[name])
    return Measurement(
        bootstrap(lambda ours, theirs: total_variance(ours) / total_variance(theirs), found["ours"], found[best]),
        table=Table(["estimator", "summed variance", "ours / its", "for the worst index"], rows),
        remark=f"The rival of least variance is {best}, by which the bar decides.",
    )


def _our_indices(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.asarray(sobol_indices(deflection, marginals(), n, random_state=rng).S1)


@races("salib", exclusive=False)
def against_salib(run: Run) -> Measurement:
    """Analyse the beam by SALib, on random samples and on scrambled Sobol' sequences."""
    from SALib.analyze import sobol

    problem = {"num_vars": 6, "names": list("abcdef"), "bounds": [[0, 1]] * 6}

    def analyse(units: Float[np.ndarray, "n 12"], rng: np.random.Generator) -> np.ndarray:
        A, B = (_transform(half) for half in np.split(units, 2, axis=1))
        blocks = [A]
        for i in range(6):
            mixed = A.copy()
            mixed[:, i] = B[:, i]
            blocks.append(mixed)
        # SALib's order: for each base point A, then A with one column of B at a time, then B.
        Y = np.stack([*(deflection(block) for block in blocks), deflection(B)], axis=1).ravel()
        seed = int(rng.integers(2**31))
        return sobol.analyze(problem, Y, calc_second_order=False, num_resamples=2, seed=seed)["S1"]

    return _index_race(
        run,
        {
            "SALib on random samples": lambda rng, n: analyse(rng.random((n, 12)), rng),
            "SALib on scrambled Sobol' sequences": lambda rng, n: analyse(qmc.Sobol(12, rng=rng).random(n), rng),
        },
    )


def _transform(units: Float[np.ndarray, "n 6"]) -> Float[np.ndarray, "n 6"]:
    return np.stack([m.ppf(np.clip(u, 1e-16, None)) for m, u in zip(marginals(), units.T, strict=True)], axis=1)


@races("openturns", exclusive=False)
def against_openturns(run: Run) -> Measurement:
    """Analyse the beam by the four estimators of OpenTURNS, on random samples and on Sobol' sequences."""
    import openturns as ot

    lognormal, normal = slice(0, 3), slice(3, 6)
    sigma = np.sqrt(np.log1p(VARIATIONS[lognormal] ** 2))
    mu = np.log(MEANS[lognormal]) - sigma**2 / 2
    inputs = [ot.LogNormal(m, s) for m, s in zip(mu, sigma, strict=True)]
    inputs += [ot.Normal(m, c * m) for m, c in zip(MEANS[normal], VARIATIONS[normal], strict=True)]
    law = ot.JointDistribution(inputs)

    def estimator(name: str, sequence: bool) -> Callable[[np.random.Generator, int], np.ndarray]:
        def estimate(rng: np.random.Generator, n: int) -> np.ndarray:
            ot.RandomGenerator.SetSeed(int(rng.integers(2**31)))
            if sequence:
                design = ot.LowDiscrepancyExperiment(ot.SobolSequence(), law, n)
                design.setRandomize(True)
                X = ot.SobolIndicesExperiment(design, False).generate()
            else:
                X = ot.SobolIndicesExperiment(law, n, False).generate()
            Y = ot.Sample(deflection(np.array(X))[:, None])
            algorithm = getattr(ot, f"{name}SensitivityAlgorithm")(X, Y, n)
            algorithm.setUseAsymptoticDistribution(True)
            return np.array(algorithm.getFirstOrderIndices())

        return estimate

    names = ("Saltelli", "MauntzKucherenko", "Jansen", "Martinez")
    points = {"random samples": False, "randomised Sobol' sequences": True}
    return _index_race(
        run, {f"{name} on {kind}": estimator(name, sequence) for name in names for kind, sequence in points.items()}
    )


@races("vegas", exclusive=False)
def against_vegas(run: Run) -> Measurement:
    """Integrate the ten moments by vegas, adapted to their sum, at its best division of as many evaluations."""
    import gvar
    import vegas

    n, repeats, rng = 20_000, run.repeats(smoke=3, desk=100, full=400), run.rng()

    @vegas.batchintegrand
    def integrand(X: np.ndarray) -> np.ndarray:
        relative = powers(X) / MOMENTS * stats.norm.pdf(X)
        return np.concatenate([relative.sum(axis=1, keepdims=True), relative], axis=1)  # it adapts to the first

    # Iterations and evaluations of each, first for the adaptation and then for the result.
    divisions = {
        "vegas, 5 and 5 iterations": (5, n // 10, 5, n // 10),
        "vegas, 5 short and 5 long ones": (5, n // 20, 5, 3 * n // 20),
        "vegas, 3 short ones and 1": (3, n // 20, 1, 17 * n // 20),
    }
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("ours", *divisions)}
    calls: dict[str, list[int]] = {name: [] for name in found}
    for _ in run.progress(range(repeats), label="repeats"):
        ours = estimate_moments(n, rng)
        found["ours"].append(ours.estimate / MOMENTS)
        calls["ours"].append(ours.n_evals)
        for name, (first, few, last, many) in divisions.items():
            gvar.ranseed(int(rng.integers(2**31)))
            integrator = vegas.Integrator([[-14, 14]])
            adapted = integrator(integrand, nitn=first, neval=few)
            result = integrator(integrand, nitn=last, neval=many, adapt=False)
            calls[name].append(adapted.sum_neval + result.sum_neval)
            found[name].append(np.array([value.mean for value in result[1:]]))
    variances = {name: total_variance(np.array(values)) for name, values in found.items()}
    best = min(divisions, key=lambda name: variances[name])
    rows = [
        [name, float(np.mean(calls[name])), variance, variances["ours"] / variance]
        for name, variance in variances.items()
    ]
    return Measurement(
        bootstrap(lambda ours, theirs: total_variance(ours) / total_variance(theirs), found["ours"], found[best]),
        table=Table(["estimator", "evaluations", "summed relative variance", "ours / its"], rows),
        remark=f"The best division is {best}, by which the bar decides.",
    )


@races("official")
def against_official(run: Run) -> Measurement:
    """Estimate the Gaussian moments by the authors' code."""
    import openturns as ot

    estimate, n = load_official(), run.at(smoke=500, desk=20_000, full=20_000)
    law, function = ot.Normal(1), ot.PythonFunction(1, 10, lambda x: (x[0] ** POWERS).tolist())

    def theirs() -> np.ndarray:
        ot.RandomGenerator.SetSeed(0)
        with contextlib.redirect_stdout(io.StringIO()):
            return estimate(function, 1 / MOMENTS**2, law, N_max=n, cross_entropy="SG")[0]

    jobs = {"ours": lambda: estimate_moments(n, 0, **PAPERS), "theirs": theirs}
    times = interleaved(run, jobs, run.at(smoke=1, desk=8, full=9))
    seconds = times.medians()
    errors = {
        "ours": estimate_moments(n, 0, **PAPERS).estimate / MOMENTS - 1,
        "theirs": np.asarray(theirs()) / MOMENTS - 1,
    }
    rows = [[name, s, s / seconds["theirs"], float(np.sum(errors[name] ** 2))] for name, s in seconds.items()]
    return Measurement(
        times.ratio("ours", "theirs"),
        table=Table(["code", "seconds", "over theirs", "summed squared relative error"], rows),
    )


def load_official() -> Callable[..., Any]:
    """Load the authors' algorithm from the folder that PAPERWORKS_AIS_CV names.

    Raises
    ------
    ImportError
        Where the variable isn't set, or the folder holds no such file.
    """
    folder = os.environ.get("PAPERWORKS_AIS_CV", "")
    found = sorted(Path(folder).rglob("aISCV_algorithm.py")) if folder else []
    if not found:
        raise ImportError(
            f"PAPERWORKS_AIS_CV is {folder!r}; it takes the folder of a checkout of "
            "github.com/Julien6431/Multiple_expectation_estimation"
        )
    sys.path.insert(0, str(found[0].parent))
    try:
        return importlib.import_module("aISCV_algorithm").multiple_expectations_iscv
    finally:
        sys.path.remove(str(found[0].parent))
