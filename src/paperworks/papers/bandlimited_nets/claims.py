"""What the paper says of random hidden weights from a band: a floor of the error, a right range, bounds and advice."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.linalg import lstsq
from scipy.special import erf
from sklearn.datasets import load_diabetes
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    exact,
    greatest,
    interleaved,
    mean,
    measures,
    races,
    ratio,
)
from paperworks.papers.bandlimited_nets.targets import (
    FUNCTIONS,
    OSCILLATING,
    Split,
    of_data,
    of_function,
    relative_error,
)
from paperworks.solvers import (
    BandlimitedRandomFeaturesRegressor,
    budget_curve,
    inverse_ridgelet,
    recommend_scale,
    ridgelet_transform,
    spectral_lower_bound,
    spectrum_share,
)

RANGES = (0.5, 1.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 1000.0)
SINES = {5: "sin 5x", 20: "sin 20x", 60: "sin 60x"}
_SAMPLES = 400  # of a sine, evenly spaced


def error_of(data: Split, seed: int, scale: float, units: int = 300) -> float:
    """Fit with weights from a range, and return the relative error between the samples."""
    model = BandlimitedRandomFeaturesRegressor(units, scale=scale, bias_scale="paper", random_state=seed)
    return relative_error(model.fit(data.X, data.y).predict(data.X_test), data.y_test)


@measures("c1-error-floor")
def error_floor(run: Run) -> Measurement:
    """Fit fast sines with narrow weights, and with ten times as many units."""
    more = run.at(smoke=1000, desk=3000, full=10000)
    cases = [(20, 0.5), (60, 0.5), (60, 1.0)]
    few, many = (
        {case: [error_of(of_function(SINES[case[0]], _SAMPLES), s, case[1], n) for s in run.seeds] for case in cases}
        for n in (300, more)
    )
    gains = {case: np.divide(many[case], few[case]) for case in cases}
    return Measurement(
        {
            "omega_20": mean(few[20, 0.5]),
            "omega_60": mean(np.minimum(few[60, 0.5], few[60, 1.0])),
            "more_units": mean(np.min([gains[case] for case in cases], axis=0)),
        },
        table=Table(
            ["frequency", "range", "error of 300 units", f"of {more} units"],
            [[w, lam, float(np.mean(few[w, lam])), float(np.mean(many[w, lam]))] for w, lam in cases],
        ),
        settings="400 even samples on [-1, 1], singular values below 1e-12 of the largest left out",
        remark="The floor is one of coefficients in double precision: without a bound on them it would vanish.",
    )


@measures("c2-suitable-range")
def suitable_range(run: Run) -> Measurement:
    """Sweep the range of weights for three sines."""
    data = {w: of_function(name, _SAMPLES) for w, name in SINES.items()}
    errors = {
        w: np.array([[error_of(data[w], s, lam) for lam in RANGES] for s in run.progress(run.seeds)]) for w in SINES
    }
    # Of errors over twelve orders the geometric mean says which range is best.
    best = {w: int(np.log(found).mean(0).argmin()) for w, found in errors.items()}
    chosen = [RANGES[i] for i in best.values()]
    figure, axes = run.figure()
    for w, found in errors.items():
        axes.loglog(RANGES, np.exp(np.log(found).mean(0)), "o-", label=f"sin {w}x")
    axes.set(xlabel="range of the hidden weights", ylabel="relative error, geometric mean of the seeds")
    axes.legend()
    return Measurement(
        {
            **{f"omega_{w}": _geometric_mean(errors[w][:, best[w]]) for w in SINES},
            "least_range": exact(min(chosen)),
            "largest_range": exact(max(chosen)),
            "too_wide": _geometric_mean(np.min([found[:, -1] for found in errors.values()], axis=0)),
            "range_grows": exact(chosen == sorted(chosen)),
        },
        table=Table(
            ["range", *(f"sin {w}x" for w in SINES)],
            [
                [lam, *(float(np.exp(np.log(found[:, i]).mean())) for found in errors.values())]
                for i, lam in enumerate(RANGES)
            ],
        ),
        figure=figure,
    )


def _geometric_mean(errors: np.ndarray) -> Estimate:
    """Return the mean of errors that spread over orders: Student's t for their logarithms."""
    logs = mean(np.log(errors))

    def interval(level: float) -> tuple[float, float]:
        low, high = np.exp(logs.interval(level))
        return float(low), float(high)

    return Estimate(math.exp(float(logs.value)), f"{logs.method}, of logarithms", interval, tuple(errors), varies=True)


def _wave_packet(w: np.ndarray) -> np.ndarray:
    """Return the transform of exp(-x²/2) cos 12x."""
    return np.sqrt(np.pi / 2) * (np.exp(-((w - 12) ** 2) / 2) + np.exp(-((w + 12) ** 2) / 2))


@measures("c3-lower-bound")
def lower_bound(run: Run) -> Measurement:
    """Bound the error of networks with Gaussian units for a wave packet, and hold it against the best there are."""
    x = np.linspace(-8, 8, run.at(smoke=321, desk=1601, full=3201))
    step = x[1] - x[0]
    target = np.exp(-(x**2) / 2) * np.cos(12 * x) * math.sqrt(step)
    distance = np.abs(x[:, None] - x)
    ridges = np.geomspace(1e-1, 1e-10, 10)
    rows, violations, tightness = [], 0, {}
    figure, axes = run.figure()
    for lam in (2.0, 4.0, 8.0):
        # The inner product of all units' values at two points: an integral over biases, then over weights.
        with np.errstate(invalid="ignore", divide="ignore"):
            kernel = 2 * np.pi * erf(lam * distance / 2) / distance
        np.fill_diagonal(kernel, 2 * math.sqrt(math.pi) * lam)
        sizes, vectors = np.linalg.eigh(step * kernel)
        features = vectors * np.sqrt(sizes.clip(0))
        curve = budget_curve(features, target, ridges / sizes[-1])
        bounds = [spectral_lower_bound(_wave_packet, lam, budget, "gauss").bound for budget in curve.budgets]
        violations += int((np.array(bounds) > curve.errors).sum())
        rows += [
            [lam, float(b), float(bound), float(error)]
            for b, bound, error in zip(curve.budgets, bounds, curve.errors, strict=True)
        ]
        limit = {2.0: 1e4, 4.0: 10.0, 8.0: math.inf}[lam]
        last = int(np.flatnonzero(curve.budgets < limit)[-1])
        tightness[lam] = bounds[last] / float(curve.errors[last])
        (line,) = axes.semilogx(curve.budgets, curve.errors, "o-", label=f"range {lam:g}, best error")
        axes.semilogx(curve.budgets, bounds, "--", color=line.get_color(), label=f"range {lam:g}, bound")
    shares = [spectrum_share(_wave_packet, lam, "gauss").share for lam in (2.0, 4.0, 8.0)]
    axes.set(xlabel="norm of the coefficients", ylabel="error in L²")
    axes.legend()
    return Measurement(
        {"violations": exact(violations), "range_2": exact(tightness[2.0]), "range_4": exact(tightness[4.0])},
        table=Table(["range", "norm of coefficients", "bound", "best error"], rows),
        figure=figure,
        remark="The best errors are of all networks with as many units as one likes; shares of the ridgelet spectrum"
        f" outside the bands: {', '.join(f'{share:.2g}' for share in shares)}.",
    )


def _grid_of_parameters(
    radii: np.ndarray, directions: np.ndarray, reach: float, step: float
) -> Iterator[tuple[Any, ...]]:
    """Yield weights, biases and the length of a bias step for each hidden weight: biases as far as its ridges reach."""
    for radius, direction in itertools.product(radii, directions):
        end = reach * radius + 8
        b = np.arange(-end, end + step, step)
        yield np.broadcast_to(radius * direction, (len(b), len(direction))), b, step


@measures("c4-plancherel")
def plancherel(run: Run) -> Measurement:
    """Transform Gaussians, compare norms, and transform back."""
    order, rows = 4, []
    # One dimension: even in (a, b), so that half of the plane is enough.
    x = np.linspace(-7, 7, run.at(smoke=141, desk=561, full=1121))
    f, weights = np.exp(-(x**2) / 2), np.full(len(x), x[1] - x[0])
    largest, count = run.at(smoke=(4.0, 40), desk=(10.0, 200), full=(15.0, 400))
    radii = (np.arange(count) + 0.5) * largest / count
    transformed = [
        (a, b, ridgelet_transform((x[:, None], f, weights), a, b, order), db * largest / count)
        for a, b, db in _grid_of_parameters(radii, np.ones((1, 1)), 5.0, 0.1)
    ]
    # Of the ridgelet, the integral of |rho^(w)|² / |w|: 2 pi times that of w^(2k - 1) exp(-w²) over all w.
    own = 2 * math.pi * math.gamma(order)
    norm = 2 * sum(float((R**2).sum()) * cell for _, _, R, cell in transformed)
    one = norm / (own * float((f**2 * weights).sum()))
    places = np.linspace(-3, 3, 41)[:, None]
    back = sum(
        inverse_ridgelet(R, a, b, places, cell, "gauss", order)
        + inverse_ridgelet(R, -a, -b, places, cell, "gauss", order)
        for a, b, R, cell in run.progress(transformed)
    )
    error = float(np.abs(back - np.exp(-(places[:, 0] ** 2) / 2)).max())
    two = []
    for largest_2 in run.at(smoke=(2.0,), desk=(3.5, 5.0), full=(5.0, 8.0)):
        two.append(_norm_in_the_plane(largest_2, order, run))
        rows.append([f"two dimensions, weights up to {largest_2:g}", two[-1]])
    return Measurement(
        {"one_dimension": exact(one), "two_dimensions": exact(two[-1]), "reconstruction": exact(error)},
        table=Table(
            ["what", "value"],
            [
                [f"one dimension, weights up to {largest:g}", one],
                *rows,
                ["greatest error of the reconstruction", error],
            ],
        ),
        remark=f"The ridgelet is the derivative of order {order} of a Gaussian; the target is a Gaussian, in two"
        " dimensions of different widths.",
    )


def _norm_in_the_plane(largest: float, order: int, run: Run) -> float:
    side = np.linspace(-5.5, 5.5, run.at(smoke=41, desk=81, full=161))
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    step = side[1] - side[0]
    f = np.exp(-(grid[:, 0] ** 2) / 2 - grid[:, 1] ** 2)
    weights = np.full(len(grid), step**2)
    count, turns = run.at(smoke=(8, 6), desk=(24, 12), full=(60, 24))
    radii = (np.arange(count) + 0.5) * largest / count
    angles = np.pi * np.arange(turns) / turns  # half a turn: the rest is the same with b turned round
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    norm = 0.0
    for a, b, db in run.progress(list(_grid_of_parameters(radii, directions, 4.5, 0.25)), label="plane"):
        R = ridgelet_transform((grid, f, weights), a, b, order)
        norm += 2 * float((R**2).sum()) * db * np.linalg.norm(a[0]) * (largest / count) * (np.pi / turns)
    # (2 pi) times the integral of |rho^(w)|² w^-2 over all w.
    own = 2 * math.pi * 2 * math.pi * math.gamma(order - 0.5)
    return norm / (own * float((f**2 * weights).sum()))


@measures("c5-adviser", exclusive=True)
def adviser(run: Run) -> Measurement:
    """Fit with the range that is advised, and with each of 25."""
    grid = np.geomspace(0.2, 2000, run.at(smoke=7, desk=25, full=25))
    samples = run.at(smoke=400, desk=1000, full=1000)
    rows, worst = [], dict.fromkeys(run.seeds, 0.0)
    for name, seed in run.progress(list(itertools.product(FUNCTIONS, run.seeds))):
        data = of_function(name, samples)
        advice = recommend_scale(data.X, data.y, random_state=seed)
        found = error_of(data, seed, advice.scale)
        errors = [error_of(data, seed, lam) for lam in grid]
        worst[seed] = max(worst[seed], found / max(min(errors), 1e-9 / 3))
        rows.append([name, seed, advice.band, advice.scale, found, float(grid[int(np.argmin(errors))]), min(errors)])
    losses = [_diabetes_loss(seed, grid, run) for seed in run.seeds]
    data = of_function("sin 20x", samples)
    times = interleaved(
        run,
        {"advice": lambda: recommend_scale(data.X, data.y, random_state=0), "fit": lambda: error_free_fit(data)},
        run.at(smoke=3, desk=15, full=15),
    )
    return Measurement(
        {
            "error_to_best": mean(list(worst.values())),
            "r2_loss": mean(losses),
            "cost": ratio(times.seconds["advice"], times.seconds["fit"]),
        },
        table=Table(["target", "seed", "band", "advised range", "error", "best of the grid", "its error"], rows),
    )


def error_free_fit(data: Split) -> Any:
    """Fit once at a given range."""
    return BandlimitedRandomFeaturesRegressor(300, scale=10.0, random_state=0).fit(data.X, data.y)


def _diabetes_loss(seed: int, grid: np.ndarray, run: Run) -> float:
    X, y = load_diabetes(return_X_y=True)
    folds = KFold(run.at(smoke=2, desk=5, full=5), shuffle=True, random_state=seed)

    def score(scale: Any) -> float:
        model = BandlimitedRandomFeaturesRegressor(300, scale=scale, alpha="auto", random_state=seed)
        return float(cross_val_score(make_pipeline(StandardScaler(), model), X, y, cv=folds).mean())

    coarse = np.geomspace(1e-3, 10, run.at(smoke=3, desk=9, full=25))
    return max(score(scale) for scale in coarse) - score("auto")


def _all_sets(run: Run, seed: int) -> dict[str, Split]:
    names = run.at(smoke=OSCILLATING, desk=tuple(FUNCTIONS), full=tuple(FUNCTIONS))
    functions = {name: of_function(name, run.at(smoke=150, desk=1000, full=1000)) for name in names}
    real = run.at(smoke=(), desk=("diabetes", "digits"), full=("diabetes", "digits"))
    return {**functions, **{name: of_data(name, seed) for name in real}}


Predict = Callable[[np.ndarray], np.ndarray]


def _race(run: Run, name: str, fitted: Callable[[Split, int, int], Predict], how: str) -> Measurement:
    """Compare errors at equal numbers of units; `fitted(data, units, seed)` returns the peer's prediction."""
    units = run.at(smoke=60, desk=300, full=300)
    rows: list[list[Any]] = []
    ratios: dict[str, list[float]] = {}
    for seed in run.progress(run.seeds):
        for target, data in _all_sets(run, seed).items():
            ours, activation = _advised(data, units, seed)
            pair = [
                relative_error(predict(data.X_test).ravel(), data.y_test)
                for predict in (ours.predict, fitted(data, units, seed))
            ]
            ratios.setdefault(target, []).append(pair[0] / pair[1])
            rows.append([target, seed, activation, *pair])
    means = {target: mean(values) for target, values in ratios.items()}
    return Measurement(
        {
            "error": greatest(means.values()),
            "oscillating": greatest(means[target] for target in OSCILLATING),
        },
        table=Table(["target", "seed", "our activation", "our relative error", f"that of {name}"], rows),
        remark=f"{units} units each; our activation, range and ridge by left-out samples. {how}",
    )


def _advised(data: Split, units: int, seed: int) -> tuple[BandlimitedRandomFeaturesRegressor, str]:
    """Fit with the activation, range and ridge of the least error of samples left out."""
    advice = {
        activation: recommend_scale(data.X, data.y, activation, n_features=units, alpha="auto", random_state=seed)
        for activation in ("tanh", "cos")
    }
    best = min(advice, key=lambda activation: advice[activation].error)
    model = BandlimitedRandomFeaturesRegressor(
        units, activation=best, scale=advice[best].scale, alpha=advice[best].alpha, random_state=seed
    )
    return model.fit(data.X, data.y), best


@races("scikit-learn", exclusive=False)
def against_scikit_learn(run: Run) -> Measurement:
    """Race random Fourier features, whose width and ridge cross-validation chooses."""

    def fitted(data: Split, units: int, seed: int) -> Predict:
        ridge = RidgeCV(np.geomspace(1e-14, 1e2, 17))
        search = GridSearchCV(
            make_pipeline(RBFSampler(n_components=units, random_state=seed), ridge),
            {"rbfsampler__gamma": np.geomspace(1e-4, 1e4, run.at(smoke=5, desk=17, full=33))},
            cv=KFold(5, shuffle=True, random_state=seed),
        )
        return search.fit(data.X, data.y).predict

    return _race(run, "RBFSampler", fitted, "Its gamma by five folds, its ridge by left-out samples.")


@races("rfflearn", exclusive=False)
def against_rfflearn(run: Run) -> Measurement:
    """Race rfflearn's random Fourier features, whose width cross-validation chooses."""
    import rfflearn.cpu as rfflearn

    def fitted(data: Split, units: int, seed: int) -> Predict:
        rfflearn.seed(seed)
        widths = np.geomspace(1e-2, 1e2, run.at(smoke=5, desk=17, full=33))
        folds = KFold(5, shuffle=True, random_state=seed)

        def loss(width: float) -> float:
            errors = []
            for train, held in folds.split(data.X):
                model = rfflearn.RFFRegressor(dim_kernel=units // 2, std_kernel=width).fit(data.X[train], data.y[train])
                errors.append(float(np.square(model.predict(data.X[held]).ravel() - data.y[held]).mean()))
            return float(np.mean(errors))

        best = min(widths, key=loss)
        return rfflearn.RFFRegressor(dim_kernel=units // 2, std_kernel=best).fit(data.X, data.y).predict

    return _race(
        run, "rfflearn", fitted, "Its width by five folds; a unit of it is a sine and a cosine, so it has half."
    )


@races("scikit-elm", exclusive=False)
def against_scikit_elm(run: Run) -> Measurement:
    """Race scikit-elm, whose ridge cross-validation chooses."""
    from skelm import ELMRegressor

    def fitted(data: Split, units: int, seed: int) -> Predict:
        model = ELMRegressor(n_neurons=units, ufunc="tanh", random_state=seed)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), FunctionTransformer(_multiplied), model),
            {
                "elmregressor__alpha": np.geomspace(1e-9, 1e2, run.at(smoke=3, desk=8, full=12)),
                "functiontransformer__kw_args": [{"factor": factor} for factor in _factors(run)],
            },
            cv=KFold(5, shuffle=True, random_state=seed),
        )
        return search.fit(data.X, data.y).predict

    return _race(run, "scikit-elm", fitted, f"Its ridge {_ON_STANDARDISED}")


_ON_STANDARDISED = (
    "by five folds and, as its range is fixed, a factor of the standardised inputs, which does what a range would."
)


def _factors(run: Run) -> list[float]:
    """Return factors of standardised inputs for peers whose range of weights is fixed."""
    return [2.0**k for k in run.at(smoke=(0, 2), desk=range(-4, 7, 2), full=range(-5, 8))]


def _multiplied(X: np.ndarray, factor: float) -> np.ndarray:
    return factor * X


@races("hpelm", exclusive=False)
def against_hpelm(run: Run) -> Measurement:
    """Race hpelm, whose ridge cross-validation chooses."""
    from hpelm import ELM

    def fitted(data: Split, units: int, seed: int) -> Predict:
        scaler = StandardScaler().fit(data.X)
        folds = KFold(5, shuffle=True, random_state=seed)

        def train(X: np.ndarray, y: np.ndarray, norm: float) -> Any:
            np.random.seed(seed)  # noqa: NPY002 - it draws from the global generator
            model = ELM(X.shape[1], 1, norm=norm)
            model.add_neurons(units, "tanh")
            model.train(X, y[:, None], "r")
            return model

        def loss(setting: tuple[float, float]) -> float:
            norm, factor = setting
            X = factor * scaler.transform(data.X)
            errors = [
                float(np.square(train(X[i], data.y[i], norm).predict(X[j]).ravel() - data.y[j]).mean())
                for i, j in folds.split(X)
            ]
            return float(np.mean(errors))

        norms = np.geomspace(1e-12, 1e2, run.at(smoke=3, desk=8, full=15))
        norm, factor = min(itertools.product(norms, _factors(run)), key=loss)
        model = train(factor * scaler.transform(data.X), data.y, norm)
        return lambda X: model.predict(factor * scaler.transform(X))

    return _race(run, "hpelm", fitted, f"Its ridge {_ON_STANDARDISED}")


@races("scipy")
def against_scipy(run: Run) -> Measurement:
    """Race SciPy's least squares alone, on features that are there already."""
    data = of_function("sin 20x", 1000)
    model = error_free_fit(data)
    H = np.tanh(data.X @ model.weights_ - model.biases_)
    times = interleaved(
        run,
        {"ours": lambda: error_free_fit(data), "lstsq": lambda: lstsq(H, data.y, cond=1e-12, lapack_driver="gelsd")},
        run.at(smoke=3, desk=31, full=31),
    )
    return Measurement(
        ratio(times.seconds["ours"], times.seconds["lstsq"]),
        table=Table(
            ["what", "seconds"],
            [
                ["fit of 300 units on 1000 samples", times.median("ours")],
                ["least squares alone", times.median("lstsq")],
            ],
        ),
        floor=1.0,
    )
