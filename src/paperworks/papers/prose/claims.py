"""What the paper says of one network for many equations, measured on three families and a small network."""

import time
from functools import partial
from typing import Any

import numpy as np
import torch

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    exact,
    greatest,
    interleaved,
    least,
    measures,
    races,
    ratio,
)
from paperworks.numerics import silent
from paperworks.operators import (
    ODEDataset,
    SymbolicTokenizer,
    generate_dataset,
    identify,
)
from paperworks.papers.prose.peers import (
    DeepONet,
    Fourier,
    against_network,
    best_settings,
    clipped,
    genetic,
    sindy_forecast,
)
from paperworks.papers.prose.problems import (
    GAMMA,
    HARES,
    LOTKA_VOLTERRA,
    LYNXES,
    NOISE,
    SEEN,
    YEARS,
    Settings,
    answers,
    at_noise,
    by_family,
    config,
    count,
    fit,
    integrated,
    judged,
    mean_of,
    new,
    nominal,
    quotient,
    random_system,
    share,
    subset,
    trained,
)


@measures("c1-tokens")
def tokens(run: Run) -> Measurement:
    """Encode and decode random systems, and round random numbers of all sizes."""
    n = run.at(smoke=1000, desk=100_000, full=100_000)
    tokenizer, rng = SymbolicTokenizer(), run.rng()
    failures, lengths = 0, []
    for _ in run.progress(range(n), label="systems"):
        system = random_system(rng, tokenizer)
        found = tokenizer.encode(system)
        failures += tokenizer.decode(found) != system
        lengths.append(len(found))
    numbers = rng.choice([-1, 1], n) * 10 ** rng.uniform(-7, 11, n)
    off = [abs(tokenizer.rounded(x) - x) / abs(x) for x in numbers]
    return Measurement(
        {"failures": exact(failures), "rounding": exact(max(off))},
        table=Table(
            ["", "value"],
            [
                ["systems", n],
                ["tokens of a system, mean", float(np.mean(lengths))],
                ["tokens of a system, most", max(lengths)],
                ["size of the vocabulary", len(tokenizer.vocabulary)],
            ],
        ),
    )


@measures("c2-one-network")
def one_network(run: Run) -> Measurement:
    """Forecast and identify unseen trajectories, and compare with the nominal equations of the right family."""
    data = judged(run, count(run))
    found, base = answers(trained(run), data), nominal(data)
    again = integrated(found.systems, data)
    rows = []
    for name in dict.fromkeys(data.families):
        mine = np.array(data.families) == name
        rows.append(
            [
                name,
                *(100 * float(np.mean(e[mine])) for e in (found.error, base.error, base.still, again)),
                *(mean_of(e[mine]) for e in (found.symbols, base.symbols)),
                float(found.skeleton[mine].mean()),
            ]
        )
    figure, axes = run.figure(1, len(rows))
    figure.set_size_inches(11, 3.2)
    for axis, name in zip(np.ravel(axes), dict.fromkeys(data.families), strict=True):
        i = data.families.index(name)
        for k in range(int(data.dimensions[i])):
            axis.plot(data.times, data.clean[i, :, k], color=f"C{k}", linewidth=1)
            axis.plot(data.times[SEEN:], found.forecast[i, :, k], color=f"C{k}", linestyle="--")
        axis.axvline(float(data.times[SEEN - 1]), color="black", linewidth=0.6)
        axis.set(xlabel="time", title=name)
    np.ravel(axes)[0].set(ylabel="state (solid) and forecast (dashed)")
    return Measurement(
        {
            "valid": share(found.valid),
            "skeleton": share(found.skeleton),
            "symbols": quotient(found.symbols, base.symbols),
            "forecast": quotient(found.error, base.error),
        },
        table=Table(
            [
                "family",
                "forecast, error in %",
                "nominal equations",
                "a state that stays",
                "decoded equations, integrated",
                "equations, error in %",
                "nominal ones",
                "right skeletons",
            ],
            rows,
        ),
        figure=figure,
        remark=f"Mean forecast error {found.error.mean():.1%}, by the nominal equations {base.error.mean():.1%}, by "
        f"the decoded equations {again.mean():.1%}.",
    )


@measures("c3-two-modes")
def two_modes(run: Run) -> Measurement:
    """Train with and without the guess, for as many steps, and forecast."""
    plan = run.at(
        smoke=Settings(3, 4, 1e-3, 2, 8),
        desk=Settings(450, 16, 1e-3, 100),
        full=Settings(40_000, 256, 1e-4, 5000, 128, cosine=False),
    )
    data = at_noise(judged(run, count(run)), NOISE, 3)
    errors: dict[str, list[Any]] = {"2to1": [], "1to1": []}
    for seed in run.progress(range(run.at(smoke=1, desk=2, full=3)), label="seeds"):
        for modes, found in errors.items():
            found.append(answers(trained(run, modes, plan, seed), data).error)  # type: ignore[arg-type]
    ours, theirs = (np.stack(rows, 1) for rows in errors.values())
    figure, axes = run.figure()
    axes.loglog(theirs.mean(1), ours.mean(1), ".")
    ends = [min(ours.min(), theirs.min()), max(ours.max(), theirs.max())]
    axes.plot(ends, ends, "k", linewidth=0.6)
    axes.set(xlabel="error with data only", ylabel="error with data and guess", title="test trajectories")
    return Measurement(
        quotient(ours, theirs),
        table=Table(
            ["seed", "both inputs, error in %", "data only, error in %"],
            [
                [i, 100 * float(a.mean()), 100 * float(b.mean())]
                for i, (a, b) in enumerate(zip(ours.T, theirs.T, strict=True))
            ],
        ),
        figure=figure,
        remark=f"{plan.steps} steps of {plan.batch} trajectories each; all networks of a table's column count alike.",
    )


@measures("c4-wrong-guess")
def wrong_guess(run: Run) -> Measurement:
    """Give guesses that are wrong in four ways, each to the same trajectories."""
    data, network = at_noise(judged(run, count(run)), NOISE, 3), trained(run)
    kinds: dict[str, dict[str, Any]] = {
        "a term added": {"p_add": 1.0},
        "a term deleted": {"p_del": 1.0},
        "numbers off by 5 %": {"kind": "noisy"},
        "another family": {"kind": "wrong_family"},
    }
    right = answers(network, data)
    wrong = {name: answers(network, data, seed=run.seed, **options) for name, options in kinds.items()}
    return Measurement(
        {
            "error": greatest(quotient(found.error, right.error) for found in wrong.values()),
            "repaired": least(share(found.skeleton) for found in wrong.values()),
        },
        table=Table(
            ["guess", "forecast, error in %", "equations, error in %", "true skeletons", "valid"],
            [
                [
                    name,
                    100 * float(found.error.mean()),
                    mean_of(found.symbols),
                    float(found.skeleton.mean()),
                    float(found.valid.mean()),
                ]
                for name, found in {"right": right, **wrong}.items()
            ],
        ),
    )


@measures("c5-any-time")
def any_time(run: Run) -> Measurement:
    """Ask for all times at once, and for each by itself, with the weights as they are drawn."""
    shape = config(Run("desk", run.seeds, cache_folder=run.cache_folder))
    network = new(shape, run.seed)
    generator = run.torch_rng()
    data = torch.randn(4, SEEN, 4, generator=generator)
    symbols, mask = network.tokenizer.batch([["u_0", "|", "u_1"], ["sin", "u_0"]] * 2)
    times = torch.linspace(2, 6, 128)
    some = torch.arange(0, 128, run.at(smoke=32, desk=1, full=1))
    worst = {}
    for dtype in (torch.float64, torch.float32):
        network, given = network.to(dtype), (data.to(dtype), None, symbols, mask)
        together = network.predict(*given, times.to(dtype))
        alone = torch.cat([network.predict(*given, t[None].to(dtype)) for t in times[some]], 1)
        worst[dtype] = float((together[:, some] - alone).abs().max())
    return Measurement(
        exact(max(worst[torch.float64], 0.0)),
        table=Table(
            ["precision", "largest difference"], [["double", worst[torch.float64]], ["single", worst[torch.float32]]]
        ),
    )


@measures("c6-noise")
def noise(run: Run) -> Measurement:
    """Forecast the same trajectories with and without noise of the measurements, and compare with the clean truth."""
    clean, network = judged(run, count(run)), trained(run)
    sizes = run.at(smoke=(0.0, NOISE), desk=(0.0, NOISE, 0.05), full=(0.0, NOISE, 0.05))
    found = {size: answers(network, at_noise(clean, size, 3)) for size in sizes}
    rise = 100 * (found[NOISE].error - found[0.0].error)
    return Measurement(
        bootstrap(np.mean, rise, of="test trajectories"),
        unit="points",
        table=Table(
            [
                "noise",
                "forecast, error in %",
                *(f"{name}" for name in dict.fromkeys(clean.families)),
                "right skeletons",
            ],
            [
                [
                    f"{size:.0%}",
                    100 * float(a.error.mean()),
                    *(100 * e for e in by_family(clean, a.error).values()),
                    float(a.skeleton.mean()),
                ]
                for size, a in found.items()
            ],
        ),
    )


@measures("c8-wider-range")
def wider_range(run: Run) -> Measurement:
    """Forecast with coefficients from a range half as wide again as in training."""
    network = trained(run)
    inside = at_noise(judged(run, count(run)), NOISE, 3)
    outside = at_noise(judged(run, count(run), gamma=1.5 * GAMMA), NOISE, 3)
    within, beyond = answers(network, inside), answers(network, outside)
    near, base = nominal(inside), nominal(outside)
    return Measurement(
        {"in_range": quotient(beyond.error, within.error), "persistence": quotient(beyond.error, base.still)},
        table=Table(
            [
                "coefficients within",
                "forecast, error in %",
                "nominal equations",
                "a state that stays",
                "right skeletons",
            ],
            [
                [
                    f"{GAMMA:.0%}",
                    100 * float(within.error.mean()),
                    100 * float(near.error.mean()),
                    100 * float(near.still.mean()),
                    float(within.skeleton.mean()),
                ],
                [
                    f"{1.5 * GAMMA:.0%}",
                    100 * float(beyond.error.mean()),
                    100 * float(base.error.mean()),
                    100 * float(base.still.mean()),
                    float(beyond.skeleton.mean()),
                ],
            ],
        ),
    )


@measures("c7-real-data")
def real_data(run: Run) -> Measurement:
    """Train the network on for a moment with the equations of Lotka and Volterra, and show it eleven years."""
    plan = run.at(
        smoke=Settings(2, 4, 1e-3, 1, 4),
        desk=Settings(300, 32, 1e-3, 30, 10),
        full=Settings(10_000, 256, 1e-4, 100, 10),
    )
    n = run.at(smoke=12, desk=3000, full=100_000)
    network = new(config(run), 0)
    network.load_state_dict(trained(run).state_dict())

    def tune(network: Any) -> None:
        known = generate_dataset(
            [LOTKA_VOLTERRA], n, 5, 0.0, gamma=0.5, per_draw=1, points=len(HARES), start=(0.1, 2.5)
        )
        fit(network, known, plan, 5, run.progress if run.scale != "smoke" else silent, YEARS)

    tuned: Any = run.trained("prose-hares", network, tune, scale=run.scale, n=n, **plan._asdict())
    pelts = np.array([HARES, LYNXES]).T
    scale = pelts[:YEARS].mean(0)
    t, u = np.linspace(0, 6, len(pelts)), pelts / scale
    found = identify(tuned, t[:YEARS], u[:YEARS], LOTKA_VOLTERRA.system().skeleton(), t[YEARS:])
    errors = [
        float(np.linalg.norm(x - u[YEARS:]) / np.linalg.norm(u[YEARS:]))
        for x in (found.forecast, u[YEARS - 1 : YEARS], np.ones((1, 2)))
    ]
    figure, axes = run.figure()
    years = 1900 + np.arange(len(pelts))
    for k, name in enumerate(("hares", "lynxes")):
        axes.plot(years, pelts[:, k], "o-", color=f"C{k}", linewidth=0.6, label=name)
        axes.plot(years[YEARS:], found.forecast[:, k] * scale[k], "--", color=f"C{k}")
    axes.axvline(years[YEARS - 1] + 0.5, color="black", linewidth=0.6)
    axes.set(xlabel="year", ylabel="pelts in thousands, forecast dashed")
    axes.legend()
    return Measurement(
        {"reported": exact(bool(np.isfinite(found.forecast).all()))},
        table=Table(
            ["forecast of the last ten years", "relative error"],
            [["network", errors[0]], ["the last measurement", errors[1]], ["the mean", errors[2]]],
        ),
        figure=figure,
        remark=f"Written equations, in scaled units: {found.system if found.system is not None else 'none'}.",
    )


# Races ------------------------------------------------------------------------------------------------------


def per_answer(network: Any, data: ODEDataset) -> Any:
    """Return a job that forecasts and identifies all trajectories at once, with right guesses."""
    return lambda: answers(network, data)


@races("pysindy")
def against_pysindy(run: Run) -> Measurement:
    """Forecast noisy trajectories by SINDy, fitted to each by itself at its best settings for each family."""
    import pysindy  # noqa: F401

    data = judged(run, run.at(smoke=1, desk=60, full=600), NOISE)
    network, settings = trained(run), best_settings(run)
    ours = answers(network, data)

    def theirs(data: ODEDataset) -> list[float]:
        return [
            clipped(data, i, partial(sindy_forecast, data, i, settings[data.families[i]])) for i in range(len(data))
        ]

    found = theirs(data)
    clean = at_noise(data, 0.0, 0)
    timed = subset(data, list(range(min(12, len(data)))))
    times = interleaved(
        run,
        {
            "ours": per_answer(network, timed),
            "pysindy": lambda: theirs(timed),
        },
        run.at(smoke=1, desk=7, full=9),
    )
    quiet = [answers(network, clean).error, np.array(theirs(clean))]
    return Measurement(
        {"error": quotient(np.minimum(ours.error, 1), found), "time": times.ratio("ours", "pysindy")},
        table=Table(
            [
                "family",
                "ours at 2 % noise, error in %",
                "SINDy's",
                "ours without noise",
                "SINDy's",
                "window",
                "threshold",
                "penalty",
            ],
            [
                [
                    name,
                    *(100 * by_family(data, np.asarray(e))[name] for e in (ours.error, found, *quiet)),
                    *settings[name],
                ]
                for name in dict.fromkeys(data.families)
            ],
        ),
        settings="smoothed finite differences with STLSQ, polynomials of degree 2, for Thomas' family with sines; "
        "all three settings chosen for each on other trajectories at 2 % noise; ours identifies 12 in one batch",
    )


@races("gplearn")
def against_gplearn(run: Run) -> Measurement:
    """Find the right-hand side of each component from smoothed slopes by genetic programming."""
    import gplearn.genetic  # noqa: F401

    data = judged(run, run.at(smoke=3, desk=9, full=60), NOISE)
    network = trained(run)
    ours = answers(network, data)
    t, states = data.times[:SEEN].double().numpy(), data.observed[:, :SEEN].double().numpy()
    points = np.random.default_rng(0).uniform(-5, 5, (50, 3))
    errors, seconds = [], []
    for i in run.progress(range(len(data)), label="genetic programming"):
        started = time.perf_counter()
        models = genetic(run, t, states[i])
        seconds.append(time.perf_counter() - started)
        truth = data.systems[i].evaluate(points)
        found = np.stack([model.predict(points) for model in models], 1)
        errors.append(float(np.linalg.norm(found - truth) / np.linalg.norm(truth)))
    mine = []
    for i in range(len(data)):
        started = time.perf_counter()
        answers(network, subset(data, [i]))
        mine.append(time.perf_counter() - started)
    return Measurement(
        {"symbols": quotient(ours.symbols, errors), "time": ratio(mine, seconds, of="trajectories")},
        table=Table(
            ["", "ours", "gplearn"],
            [
                [
                    "error of the equations, mean in %",
                    mean_of(ours.symbols),
                    100 * float(np.mean(errors)),
                ],
                [
                    "median in %",
                    100 * float(np.median(np.nan_to_num(ours.symbols, nan=1.0))),
                    100 * float(np.median(errors)),
                ],
                ["seconds an identification", float(np.median(mine)), float(np.median(seconds))],
            ],
        ),
        settings="population 1000, 20 generations, add, sub, mul and sin, slopes by a Savitzky-Golay filter of 15",
    )


@races("neuraloperator", exclusive=False)
def against_fourier_operator(run: Run) -> Measurement:
    """Train a Fourier neural operator in time on the same trajectories."""
    steps = run.at(smoke=3, desk=2600, full=100_000)  # 0.09 s each at desk scale, where ours takes 0.155 s
    return against_network(run, "FNO", lambda: Fourier(3, run.at(smoke=8, desk=48, full=128)), steps)


@races("deepxde", exclusive=False)
def against_deeponet(run: Run) -> Measurement:
    """Train a DeepONet on the same trajectories."""
    steps = run.at(smoke=3, desk=45_000, full=1_000_000)  # 0.005 s each at desk scale
    return against_network(run, "DeepONet", lambda: DeepONet(3, run.at(smoke=24, desk=192, full=513)), steps)


@races("odeformer")
def against_odeformer(run: Run) -> Measurement:
    """Identify by ODEFormer's pretrained weights, and forecast by its equations."""
    from odeformer.model import SymbolicTransformerRegressor

    data = judged(run, run.at(smoke=3, desk=15, full=150), NOISE)
    model = SymbolicTransformerRegressor(from_pretrained=True)
    t, states = data.times.double().numpy(), data.observed.double().numpy()

    def forecast(i: int) -> Any:
        model.fit(t[:SEEN], states[i, :SEEN])
        return model.predict(t[SEEN - 1 :], states[i, SEEN - 1])[1:]

    found = [clipped(data, i, partial(forecast, i)) for i in range(len(data))]
    return Measurement(quotient(np.minimum(answers(trained(run), data).error, 1), found), settings="published weights")


@races("pysr")
def against_pysr(run: Run) -> Measurement:
    """Find the right-hand side of each component from smoothed slopes by PySR."""
    from pysr import PySRRegressor
    from scipy.signal import savgol_filter

    data = judged(run, 3, NOISE)
    t, states = data.times[:SEEN].double().numpy(), data.observed[0, :SEEN].double().numpy()
    slopes = savgol_filter(states, 15, 3, deriv=1, delta=float(t[1] - t[0]), axis=0)
    iterations = run.at(smoke=1, desk=20, full=100)
    # Its files go to the system's temporary folder, else to the one of the caller.
    model = PySRRegressor(niterations=iterations, unary_operators=["sin"], progress=False, temp_equation_file=True)
    network, one = trained(run), subset(data, [0])
    jobs = {"ours": per_answer(network, one), "PySR": lambda: model.fit(states, slopes)}
    return Measurement(
        interleaved(run, jobs, run.at(smoke=1, desk=6, full=6)).ratio("ours", "PySR"), settings="20 iterations, sines"
    )


@races("scipy")
def against_scipy(run: Run) -> Measurement:
    """Simulate trajectories of the trained families in a batch, and each by SciPy's BDF as the authors' code does."""
    import sympy
    from scipy.integrate import solve_ivp

    n, few = run.at(smoke=(30, 2), desk=(600, 9), full=(6000, 30))
    data = judged(run, few, 0.0)
    starts, times = data.clean[:, 0].double().numpy(), data.times.double().numpy()
    symbols = sympy.symbols("u_:3")
    functions = [sympy.lambdify(symbols, system.to_sympy()) for system in data.systems]

    def one_by_one() -> float:
        worst = 0.0
        for i, compiled in enumerate(functions):
            slope = partial(lambda f, t, u: f(*u), compiled)
            options: dict[str, Any] = {"method": "BDF", "rtol": 1e-5, "atol": 1e-6}
            states = solve_ivp(slope, (0.0, float(times[-1])), starts[i], t_eval=times, **options).y.T
            worst = max(worst, float(np.abs(states - data.clean[i].numpy()).max()))
        return worst

    jobs = {"ours": lambda: judged(run, n, 0.0), "SciPy": one_by_one}
    seconds = interleaved(run, jobs, run.at(smoke=1, desk=6, full=9)).seconds
    ours, theirs = ([s / k for s in seconds[name]] for name, k in (("ours", n), ("SciPy", few)))
    return Measurement(
        ratio(ours, theirs),
        table=Table(
            ["solver", "seconds per trajectory"],
            [["ours, in a batch", float(np.median(ours))], ["SciPy's BDF", float(np.median(theirs))]],
        ),
        settings=f"{n} trajectories at a tolerance of 1e-6, {few} one by one at 1e-5 with compiled right-hand sides; "
        f"they differ by {one_by_one():.1e} at most",
    )
