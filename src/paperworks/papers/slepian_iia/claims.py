"""What the paper says of excursions above 0, computed by three ways and held against simulated and exact laws."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import simpson
from scipy.optimize import minimize_scalar
from scipy.special import erf
from scipy.stats import kstest, sem

from paperworks.dynamics import (
    IIA,
    CallableCovariance,
    Diffusion,
    Matern,
    RandomAcceleration,
    RationalQuadratic,
    SlepianIIA,
    SquaredExponential,
    StationaryCovariance,
    persistence_probability,
    simulate_excursions,
)
from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    exact,
    greatest,
    interleaved,
    magnitude,
    mean,
    measures,
    normal,
    races,
    ratio,
    statistic,
)

EXPONENTS = {
    Diffusion(1): 0.120327978842,
    Diffusion(2): 0.186210712979,
    Diffusion(3): 0.235774477540,
    Diffusion(4): 0.276914508963,
    RandomAcceleration(): 0.264668571132,
    SquaredExponential(): 0.411497153976,
}
"""Exponents of the approximation to 12 digits, from a solution of Eq. 5 in arithmetic of 20 digits."""
MONOTONE = [*EXPONENTS, Matern(1.5), Matern(2.2), Matern(2.5), Matern(3.5), RationalQuadratic(1.0)]


@measures("s1-exponents")
def exponents(run: Run) -> Measurement:
    """Solve for the exponents of six models."""
    found = {r: SlepianIIA(r).persistency_exponent() for r in EXPONENTS}
    return Measurement(
        exact(max(abs(found[r].theta - value) for r, value in EXPONENTS.items())),
        table=Table(
            ["model", "exponent", "error", "constant before the exponential"],
            [[repr(r), found[r].theta, found[r].theta - value, found[r].constant] for r, value in EXPONENTS.items()],
        ),
    )


@measures("s2-truth")
def truth(run: Run) -> Measurement:
    """Compare exponents with those known exactly or from long simulations."""
    known = {"one": (1, 0.1205), "two": (2, 3 / 16), "three": (3, 0.238)}
    rows = [[f"diffusion in {d} dimensions", SlepianIIA(Diffusion(d)), value] for d, value in known.values()]
    rows.append(["random acceleration", SlepianIIA(RandomAcceleration()), 0.25])
    errors = [law.persistency_exponent().theta / value - 1 for _, law, value in rows]
    return Measurement(
        {name: exact(abs(error)) for name, error in zip(known, errors, strict=False)},
        table=Table(
            ["model", "known exponent", "relative error"], [[r[0], r[2], e] for r, e in zip(rows, errors, strict=True)]
        ),
        remark="3/16 and 1/4 are exact; 0.1205 and 0.238 are published simulations.",
    )


@measures("s3-three-routes")
def three_routes(run: Run) -> Measurement:
    """Compare the transform with that of the renewal equation, draws with the law, and the two clipped means."""
    s = np.geomspace(0.1, 10, 13)
    models = (Diffusion(2), RandomAcceleration(), SquaredExponential(), Matern(2.5))
    transforms, means, rows = [], [], []
    draws = {r: [] for r in models}  # type: ignore[var-annotated]
    for r in run.progress(models, label="models"):
        law = SlepianIIA(r)
        t = np.linspace(0, law.horizon, 2**17 + 1)
        transforms.append(np.abs(1 - s * simpson(np.exp(-s[:, None] * t) * law.sf(t), x=t) - law.laplace(s)).max())
        times = np.geomspace(1e-3, 20, 500) / math.sqrt(r.lambda2)
        means.append(
            max(
                np.abs(other - law.clipped_mean(times)).max()
                for other in (of_definition(r, times), IIA(r).clipped_mean(times))
            )
        )
        other = np.abs(IIA(r).laplace(s) - law.laplace(s)).max()
        for seed in run.seeds:
            n = run.at(smoke=10**5, desk=10**6, full=10**6)
            draws[r].append(float(kstest(law.rvs(n, seed), law.cdf).statistic) * math.sqrt(n / 10**6))
        rows.append([repr(r), transforms[-1], other, means[-1], float(np.mean(draws[r]))])
    return Measurement(
        {
            "transform": exact(float(max(transforms))),
            "draws": greatest(mean(found) for found in draws.values()),
            "clipped_mean": exact(float(max(means))),
        },
        table=Table(
            ["model", "transform of the solution", "transform by the arcsine", "clipped means of three ways", "draws"],
            rows,
        ),
        settings="distances of draws at smoke scale are those of a million by the root of their number",
    )


def of_definition(r: StationaryCovariance, t: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Integrate the mean sign of Slepian's model, 2 Phi(a R / sigma) - 1, over its Rayleigh variable R."""
    slope = -r.d1(t) / math.sqrt(r.lambda2)
    deviation = np.sqrt(r.complement(t) * (1 + r(t)) - slope**2)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x = 20 * (nodes + 1)  # of R times a / sigma or R itself, whichever changes faster
    steep = np.maximum(slope / deviation, 1)[:, None]
    at = x / steep
    inner = erf(at * (slope / deviation)[:, None] / math.sqrt(2)) * at * np.exp(-(at**2) / 2) / steep
    # Beyond the nodes the mean sign is 1.
    return np.asarray(inner @ (20 * weights) + np.exp(-((40 / steep[:, 0]) ** 2) / 2))


@measures("s4-rice")
def rice(run: Run) -> Measurement:
    """Compare the mean with Rice's formula."""
    errors = {r: SlepianIIA(r).mean() * math.sqrt(r.lambda2) / math.pi - 1 for r in MONOTONE}
    return Measurement(
        exact(max(map(abs, errors.values()))),
        table=Table(["model", "relative error of the mean"], [[repr(r), error] for r, error in errors.items()]),
    )


MODELS = {
    "diffusion": (Diffusion(1), Diffusion(2), Diffusion(3)),
    "matern": (Matern(2.5),),
    "gaussian": (SquaredExponential(),),
    "random_acceleration": (RandomAcceleration(),),
}


def ends(r: StationaryCovariance) -> float:
    """Return the longest time that is followed: 20, or 12 where correlations fall off quickly."""
    return 12.0 if isinstance(r, Matern | SquaredExponential) else 20.0


def distance(run: Run, r: StationaryCovariance, seed: int) -> tuple[float, Float[np.ndarray, " n"]]:
    """Return how far the law is from that of simulated excursions at the most, and their distribution function."""
    n, end = run.at(smoke=4000, desk=200_000, full=1_000_000), ends(r)
    times = simulate_excursions(r, n, end / 400, end, random_state=seed)
    grid = np.linspace(0, end, 401)
    simulated = np.searchsorted(np.sort(times), grid, side="right") / n
    return float(np.abs(simulated - SlepianIIA(r).cdf(grid)).max()), simulated


@measures("s5-excursion-law")
def excursion_law(run: Run) -> Measurement:
    """Compare distribution functions with those of simulated excursions."""
    found = {r: [] for models in MODELS.values() for r in models}  # type: ignore[var-annotated]
    figure, axes = run.figure()
    for r in run.progress(list(found), label="models"):
        for seed in run.seeds:
            apart, simulated = distance(run, r, seed)
            found[r].append(apart)
        grid = np.linspace(0, ends(r), 401)
        axes.plot(grid, simulated - SlepianIIA(r).cdf(grid), label=repr(r))
    axes.set(xlabel="time above 0", ylabel="simulated less approximate probability", title="Laws of excursions")
    axes.legend()
    return Measurement(
        {name: greatest(mean(found[r]) for r in models) for name, models in MODELS.items()},
        table=Table(
            ["model", "largest distance, mean over seeds", "mean excursion", "exponent"],
            [
                [repr(r), float(np.mean(apart)), SlepianIIA(r).mean(), SlepianIIA(r).persistency_exponent().theta]
                for r, apart in found.items()
            ],
        ),
        figure=figure,
        remark="The largest distance of an empirical law from the true one is about 1 / sqrt(n) by chance, 0.002 here.",
    )


INVALID = {
    "sin(t) / t": lambda t: torch.sinc(t / math.pi),
    "exp(-t^2 / 2) cos 3t": lambda t: (-(t**2) / 2).exp() * torch.cos(3 * t),
    "exp(-0.1 t) (cos t + 0.1 sin t)": lambda t: (-0.1 * t).exp() * (torch.cos(t) + 0.1 * torch.sin(t)),
}


@measures("s6-invalid")
def invalid(run: Run) -> Measurement:
    """Look at three covariances that aren't monotone."""
    laws = {name: SlepianIIA(CallableCovariance(r)) for name, r in INVALID.items()}
    reports = {name: law.validity() for name, law in laws.items()}
    apart = [distance(run, laws["sin(t) / t"].covariance, seed)[0] for seed in run.progress(run.seeds, label="seeds")]
    figure, axes = run.figure()
    t = np.linspace(0, 20, 800)
    for name, law in laws.items():
        axes.plot(t, law.sf(t), label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="time", ylabel="“survival function”", ylim=(-0.03, 0.12), title="Covariances that aren't monotone")
    axes.legend()
    return Measurement(
        {
            "flagged": exact(sum(not report.valid for report in reports.values())),
            "bad_survival": exact(sum(r.rises_at is not None or r.negative_at is not None for r in reports.values())),
            "distance": mean(apart),
        },
        table=Table(
            ["covariance", "verdict", "first rise", "least value"],
            [[name, r.status, r.rises_at, r.least] for name, r in reports.items()],
        ),
        figure=figure,
    )


@measures("s7-exact-laws")
def exact_laws(run: Run) -> Measurement:
    """Compare with orthant probabilities: the law of the excursion, and exponents known exactly."""
    points, rng = run.repeats(smoke=2**11, desk=2**17, full=2**20), run.rng()
    deviations, rows = [], []
    for r, end in ((Diffusion(2), 10.0), (SquaredExponential(), 6.0), (Matern(3.5), 6.0)):
        steps = run.at(smoke=10, desk=30, full=30)
        coarse, fine = (
            persistence_probability(r, end, k * steps, n_qmc=points, seen_from="up-crossing", random_state=rng)
            for k in (1, 2)
        )
        n = run.repeats(smoke=4000, desk=400_000, full=4_000_000)
        times = simulate_excursions(r, n, end / 600, end, random_state=rng)
        for k in (steps // 3, 2 * steps // 3, steps):
            p = (4 * fine.probability[2 * k] - coarse.probability[k]) / 3
            error = math.hypot(4 * fine.standard_error[2 * k], coarse.standard_error[k]) / 3
            simulated = float((times > coarse.t[k]).mean())
            chance = math.hypot(error, math.sqrt(simulated * (1 - simulated) / n))
            deviations.append(abs(p - simulated) / chance)
            approximate = float(SlepianIIA(r).sf(coarse.t[k]))
            rows.append([repr(r), float(coarse.t[k]), p, error, simulated, approximate])
    steps_of_three = run.at(smoke=(1.0, 0.5, 0.25), desk=(0.5, 0.25, 0.125), full=(0.5, 0.25, 0.125))
    two = exponent(run, Diffusion(2), (0.25,), rng)
    acceleration = exponent(run, RandomAcceleration(), steps_of_three, rng)
    rates = ((Diffusion(2), two), (RandomAcceleration(), acceleration))
    return Measurement(
        {
            "deviation": statistic(max(deviations), "greatest of nine deviations, in standard errors of both"),
            "exponent": magnitude(normal(two[0] - 3 / 16, two[1])),
            "standard_error": exact(two[1]),
            "random_acceleration": magnitude(normal(acceleration[0] - 1 / 4, acceleration[1])),
        },
        table=Table(
            ["model", "time", "P(T > t), extrapolated", "its error", "simulated", "approximation"],
            rows
            + [[f"exponent, {r!r}", "", *found, "", float(SlepianIIA(r).persistency_exponent())] for r, found in rates],
        ),
    )


def exponent(
    run: Run, r: StationaryCovariance, steps: Iterable[float], rng: np.random.Generator
) -> tuple[float, float]:
    """Return the rate from P(12) / P(8), extrapolated over the steps of the grid, and its standard error."""
    h, points = np.array(list(steps)), run.repeats(smoke=2**11, desk=2**18, full=2**20)
    # Each step's weight in the polynomial through all steps, at 0.
    weights = np.array([np.prod([g / (g - own) for g in h if g != own]) for own in h])
    rates, errors = [], []
    for step in run.progress(h.tolist(), label="steps"):
        logs = []
        for _ in range(4):
            found = persistence_probability(r, 12.0, round(12 / step), n_qmc=points // 4, random_state=rng)
            p = found.probability
            logs.append(math.log(p[round(8 / step)] / p[-1]) / 4)
        rates.append(np.mean(logs))
        errors.append(np.std(logs, ddof=1) / 2)
    return float(weights @ rates), float(np.linalg.norm(weights * errors))


@measures("s8-sea-surface")
def sea_surface(run: Run) -> Measurement:
    """Take monthly sea-surface temperatures off Peru, and see how long they stay above what is usual."""
    from statsmodels.datasets import elnino

    table = elnino.load_pandas().data.drop(columns="YEAR").to_numpy(dtype=float)
    series = (table - table.mean(0)).ravel()
    series -= np.polyval(np.polyfit(np.arange(len(series)), series, 1), np.arange(len(series)))
    lags = np.arange(25)
    observed = np.array([np.mean(series[: len(series) - k] * series[k:]) for k in lags]) / np.mean(series**2)

    def misfit(length: float, nu: float) -> float:
        return float(((Matern(nu, length)(lags) - observed) ** 2).sum())

    fits = {
        nu: minimize_scalar(misfit, bounds=(0.5, 30), args=(nu,), method="bounded") for nu in (1.25, 1.5, 2.0, 2.5, 3.5)
    }
    nu = min(fits, key=lambda key: fits[key].fun)
    law = SlepianIIA(Matern(nu, float(fits[nu].x)))
    places = np.flatnonzero((series[:-1] < 0) != (series[1:] < 0))
    crossings = places + series[places] / (series[places] - series[places + 1])
    durations = np.diff(crossings)
    figure, axes = run.figure()
    t = np.linspace(0, 40, 400)
    axes.step(np.sort(durations), 1 - np.arange(1, len(durations) + 1) / len(durations), label="observed")
    axes.plot(t, law.sf(t), label=f"Matérn {nu:g}")
    axes.set(xlabel="months between zeros", ylabel="share that lasts longer", title="Sea-surface temperature off Peru")
    axes.legend()
    return Measurement(
        {
            "mean": normal(float(durations.mean()) / law.mean(), float(sem(durations)) / law.mean()),
            "distance": exact(float(kstest(durations, law.cdf).statistic)),
        },
        table=Table(
            ["nu", "length, months", "sum of squares"], [[nu, float(fit.x), float(fit.fun)] for nu, fit in fits.items()]
        ),
        figure=figure,
        remark=f"{len(durations)} intervals between zeros; monthly means hide the short ones. The 5 % limit of the "
        f"distance would be {1.36 / math.sqrt(len(durations)):.3f} were the law not fitted.",
    )


@races("gstools")
def against_gstools(run: Run) -> Measurement:
    """Time the law on 4000 points, and gstools' paths with as many excursions as give it to 1e-3."""
    import gstools

    r, step, n = SquaredExponential(), 0.05, run.at(smoke=2_000, desk=40_000, full=400_000)
    # Its Gaussian model has the correlation exp(-pi (t / 2 l)^2) for a length l.
    field = gstools.SRF(gstools.Gaussian(dim=1, var=1.0, len_scale=math.sqrt(math.pi / 2)), mode_no=1000)
    positions, grid = np.arange(n) * step, np.linspace(0, 40, 4000)
    excursions: list[int] = []

    def simulate() -> None:
        path = field.structured([positions], seed=run.seed + len(excursions))
        excursions.append(int(np.count_nonzero((path[:-1] < 0) & (path[1:] >= 0))))

    times = interleaved(
        run, {"ours": lambda: SlepianIIA(r).sf(grid), "gstools": simulate}, run.at(smoke=3, desk=9, full=15)
    )
    needed = 0.25 / 1e-3**2  # of excursions, for a standard error of 1e-3 at the median
    shares = needed / np.mean(excursions)
    return Measurement(
        ratio([float(shares) * t for t in times.seconds["gstools"]], times.seconds["ours"]),
        table=Table(
            ["what", "seconds"],
            [["ours, 4000 points", times.median("ours")], [f"gstools, {n:,} points", times.median("gstools")]],
        ),
        remark=f"{n:,} points have {np.mean(excursions):.0f} excursions; {needed:,.0f} are needed, and the time is in "
        f"proportion. Simulation has no error but chance; the approximation's own is that of s5, about 0.01 here.",
    )
