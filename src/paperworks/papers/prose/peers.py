"""Existing packages that forecast or identify: their settings, and networks of theirs on the same trajectories."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.evidence import Measurement, Run, Table
from paperworks.numerics import seeded, train, warmup_cosine
from paperworks.operators import ODEDataset, PROSEOutput, PROSETargets, add_noise, forecast_errors, prose_loss
from paperworks.papers.prose.problems import (
    NOISE,
    SEEN,
    answers,
    by_family,
    count,
    judged,
    quotient,
    settings,
    trained,
    training_set,
)

Row = Float[np.ndarray, "times d"]


class Sparse(NamedTuple):
    """Settings of SINDy: the length of the smoothing filter, the least size of a coefficient, and the ridge penalty."""

    window: int
    threshold: float
    alpha: float


def _runs_away(t: float, u: Float[np.ndarray, " d"]) -> float:
    """Return a number that is 0 where a solution is given up, as in the data."""
    return 1e3 - float(np.abs(u).max())


_runs_away.terminal = True  # type: ignore[attr-defined]


def sindy_forecast(data: ODEDataset, row: int, settings: Sparse, rtol: float = 1e-6) -> Row:
    """Fit SINDy to one measured trajectory, and return its forecast."""
    import pysindy
    from scipy.signal import savgol_filter

    t, u = data.times.double().numpy(), data.observed[row].double().numpy()
    seen = u[:SEEN]
    smoothing = {"window_length": settings.window, "polyorder": 3}
    library: Any = pysindy.PolynomialLibrary(degree=2)
    if data.families[row] == "thomas":
        waves = pysindy.CustomLibrary([lambda x: np.sin(x)], [lambda name: f"sin({name})"])
        library = pysindy.PolynomialLibrary(degree=2) + waves
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pysindy.SINDy(
            optimizer=pysindy.STLSQ(threshold=settings.threshold, alpha=settings.alpha),
            feature_library=library,
            differentiation_method=pysindy.SmoothedFiniteDifference(smoother_kws=smoothing),
        )
        model.fit(seen, t[:SEEN])
        start = savgol_filter(seen, settings.window, 3, axis=0)[-1]
        options = {"method": "LSODA", "rtol": rtol, "atol": rtol, "events": _runs_away}
        return model.simulate(start, t[SEEN - 1 :], integrator_kws=options)[1:]


def clipped(data: ODEDataset, row: int, forecast: Callable[[], Row]) -> float:
    """Return the error of a forecast; one that fails or runs away counts as 1, as a forecast of 0 does."""
    truth = data.clean[row : row + 1, SEEN:].double()
    try:
        found = torch.from_numpy(np.asarray(forecast(), float))[None]
    except (ValueError, RuntimeError, OverflowError, FloatingPointError, np.linalg.LinAlgError):
        return 1.0
    if found.shape != truth.shape or not bool(torch.isfinite(found).all()):
        return 1.0
    return min(1.0, float(forecast_errors(found, truth).relative))


def best_settings(run: Run) -> dict[str, Sparse]:
    """Return the settings of SINDy that forecast each family best, on trajectories that nothing else is judged on."""
    data = judged(run, run.at(smoke=1, desk=15, full=60), NOISE, seed=5000)
    windows = run.at(smoke=(45,), desk=(15, 31, 45), full=(9, 15, 25, 35, 45))
    thresholds = run.at(smoke=(0.2,), desk=(0.05, 0.1, 0.2, 0.4), full=(0.02, 0.05, 0.1, 0.2, 0.4))
    penalties = run.at(smoke=(1.0,), desk=(0.05, 1.0, 10.0), full=(0.001, 0.05, 0.3, 1.0, 3.0, 10.0))
    found = {}
    for name in dict.fromkeys(data.families):
        rows = [i for i, family in enumerate(data.families) if family == name]
        choices = [Sparse(*triple) for triple in itertools.product(windows, thresholds, penalties)]
        scores = [
            np.mean([clipped(data, i, partial(sindy_forecast, data, i, s, 1e-4)) for i in rows])
            for s in run.progress(choices, label=f"settings for {name}")
        ]
        found[name] = choices[int(np.argmin(scores))]
    return found


class Forecaster(nn.Module):
    """A network from the first measurements, with their times, to the values at all later times at once."""

    def forward(
        self, observed: Float[Tensor, "n seen d"], times: Float[Tensor, " times"]
    ) -> Float[Tensor, "n later d"]:
        """Return the values after the measurements."""
        raise NotImplementedError


class Fourier(Forecaster):
    """A Fourier neural operator on all times, of which it sees the first, with a channel that says so."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        from neuralop.models import FNO

        self.network = FNO((24,), d + 2, d, hidden_channels=width)

    def forward(
        self, observed: Float[Tensor, "n seen d"], times: Float[Tensor, " times"]
    ) -> Float[Tensor, "n later d"]:
        """Return the values after the measurements."""
        seen, n = observed.shape[1], len(times)
        # What isn't known begins as it was last.
        known = torch.cat([observed, observed[:, -1:].expand(-1, n - seen, -1)], 1)
        flag = (torch.arange(n) < seen).to(observed).expand(len(observed), n)
        channels = torch.cat([known, flag[..., None], times.expand(len(observed), n)[..., None]], 2)
        return self.network(channels.mT).mT[:, seen:]


class DeepONet(Forecaster):
    """A branch of the measurements and a trunk of the time asked for."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        import deepxde

        self.network = deepxde.nn.DeepONetCartesianProd(
            [SEEN * d, width, width, width],
            [1, width, width, width // d],
            "gelu",
            "Glorot normal",
            num_outputs=d,
            multi_output_strategy="split_branch",
        )

    def forward(
        self, observed: Float[Tensor, "n seen d"], times: Float[Tensor, " times"]
    ) -> Float[Tensor, "n later d"]:
        """Return the values after the measurements."""
        later = times[observed.shape[1] :, None]
        return self.network((observed.flatten(1), (later - 4) / 2))


def forecaster(run: Run, name: str, make: Callable[[], Forecaster], steps: int) -> tuple[Forecaster, float]:
    """Train a network on the same trajectories at the best of three rates, stopped where it is best; return its rate.

    Rates and the step to stop at are chosen on trajectories that nothing is judged on.
    """
    batch = run.at(smoke=8, desk=32, full=256)
    rates = run.at(smoke=(1e-3,), desk=(5e-4, 1e-3, 3e-3), full=(1e-3,))
    validation = judged(run, run.at(smoke=3, desk=90, full=600), NOISE, seed=5000)

    def network(rate: float, steps: int) -> Forecaster:
        with seeded(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = make()

        def fit() -> dict[str, Tensor]:
            data, rng = training_set(run), np.random.default_rng(0)
            best: dict[str, Tensor] = {}
            least = np.inf

            def keep(step: int, _: float) -> None:
                nonlocal best, least
                if (step + 1) % max(1, steps // 10):
                    return
                error = float(forecast_of(made, validation).mean())
                if error < least:
                    # The networks' own states hold more than tensors.
                    best, least = {key: p.detach().clone() for key, p in made.named_parameters()}, error

            def loss(step: int) -> Tensor:
                rows = rng.integers(len(data), size=batch)
                observed = add_noise(data.clean[rows], NOISE, rng)
                values = made(observed[:, :SEEN], data.times)
                return prose_loss(PROSEOutput(values, None), PROSETargets(observed[:, SEEN:]), 1.0)

            train(
                loss,
                torch.optim.AdamW(made.parameters(), rate, weight_decay=1e-4),
                steps,
                schedule=lambda step: warmup_cosine(step, 50, steps),
                clip=1.0,
                callback=keep,
                progress=run.progress,
                label=name,
            )
            return best

        weights = run.cached(f"prose-{name}", fit, scale=run.scale, rate=rate, steps=steps, batch=batch)
        with torch.no_grad():
            for key, parameter in made.named_parameters():
                parameter.copy_(weights[key])
        return made.eval()

    def score(rate: float) -> float:
        return float(forecast_of(network(rate, max(1, steps // 13)), validation).mean())

    rate = rates[0] if len(rates) == 1 else min(rates, key=score)
    return network(rate, steps), rate


@torch.no_grad()
def forecast_of(network: Forecaster, data: ODEDataset) -> Float[np.ndarray, " n"]:
    """Return the errors of a network's forecasts."""
    values = torch.cat([network(part[:, :SEEN], data.times) for part in data.observed.split(64)])
    return forecast_errors(values, data.clean[:, SEEN:]).relative.double().numpy()


def genetic(run: Run, t: Float[np.ndarray, " times"], u: Row) -> Sequence[Any]:
    """Fit gplearn to the slopes of smoothed measurements, one regressor for each component."""
    from gplearn.genetic import SymbolicRegressor
    from scipy.signal import savgol_filter

    smooth = savgol_filter(u, 15, 3, axis=0)
    slopes = savgol_filter(u, 15, 3, deriv=1, delta=float(t[1] - t[0]), axis=0)
    population, generations = run.at(smoke=(50, 2), desk=(1000, 20), full=(5000, 40))
    return [
        SymbolicRegressor(
            population_size=population,
            generations=generations,
            function_set=("add", "sub", "mul", "sin"),
            const_range=(-2.0, 2.0),
            parsimony_coefficient=1e-3,
            metric="rmse",
            random_state=0,
        ).fit(smooth, slopes[:, k])
        for k in range(u.shape[1])
    ]


def against_network(run: Run, name: str, make: Callable[[], Forecaster], steps: int) -> Measurement:
    """Compare forecasts with those of another network, trained on the same trajectories for about as many seconds."""
    data = judged(run, count(run), NOISE)
    network, plan = trained(run), settings(run)
    theirs, rate = forecaster(run, name, make, steps)
    ours, found = answers(network, data).error, forecast_of(theirs, data)
    sizes = [sum(p.numel() for p in n.parameters()) for n in (network, theirs)]
    return Measurement(
        quotient(ours, found),
        table=Table(
            ["network", "parameters", "forecast, error in %", *dict.fromkeys(data.families)],
            [
                [label, size, 100 * float(e.mean()), *(100 * x for x in by_family(data, e).values())]
                for label, size, e in zip(("PROSE", name), sizes, (ours, found), strict=True)
            ],
        ),
        settings=f"about as many seconds of training on the same noisy trajectories: ours {plan.steps} steps of "
        f"{plan.batch}, theirs {steps} of {run.at(smoke=8, desk=32, full=256)}; their rate, {rate:g} of three, and the "
        "step to stop at chosen on others",
    )
