"""What a GAN at the boundary of a submodel learns, what the submodel saves, and races of its parts."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import splu
from torch import Tensor, nn

from paperworks.evidence import Measurement, Run, Table, every, exact, interleaved, measures, median, races
from paperworks.numerics import mlp, seeded, train
from paperworks.papers.wgan_submodel.problems import (
    INSIDE,
    SIGNALS,
    Data,
    Zone,
    distances,
    evaluate_quantities,
    generated_inside,
    inside,
    plate_with_zone,
    signals,
    threshold_of,
    trained,
)
from paperworks.reduction import (
    BootstrapSampler,
    PCAGaussian,
    PCAGaussianMixture,
    extract_submodel,
    field_errors,
    gradient_penalty,
    memorisation_ratio,
    sampling_floor,
)
from paperworks.testbeds import struck_plate

UNITS = ("in stored times", "/ the scale", "/ the scale", "/ the scale squared")


def of_bar(run: Run, sampler: Any, data: Data, seed: int) -> np.ndarray:
    """Return the quantities of the signals that a sampler draws, as many as are judged."""
    histories = sampler.sample(len(data.test), generator=run.torch_rng(10_000 + seed))
    return signals(histories, float(np.abs(data.train).max()))


def by_name(names: tuple[str, ...], columns: dict[str, np.ndarray]) -> Table:
    """Return a table with a row for each quantity."""
    return Table(
        ["quantity", *columns], [[name, *(float(c[k]) for c in columns.values())] for k, name in enumerate(names)]
    )


def edges_of(values: np.ndarray) -> np.ndarray:
    """Return the edges of a histogram's bins."""
    low, high = np.quantile(values, [0.001, 0.999])
    return np.linspace(float(low), float(high), 40)


def floors(quantities: np.ndarray) -> np.ndarray:
    """Return what two halves of the judged runs differ by."""
    return np.array([sampling_floor(column) for column in quantities.T])


@measures("w1-exact-submodel")
def exact_submodel(run: Run) -> Measurement:
    """Drive the zone by the true histories at its cut, and compare it with the whole."""
    worst, rows = {}, []
    for name, scheme in (("implicit", "newmark"), ("explicit", "central")):
        plate = struck_plate(40, 20, scheme)
        u = plate.model.solve(f=plate.loads(4, run.seed), dt=plate.dt, steps=plate.steps)
        zone = extract_submodel(plate.model.basis, plate.zone(12, 10))
        drive = np.moveaxis(zone.histories(u), (0, -1), (-1, 0)).reshape(plate.steps + 1, -1, u.shape[-1])
        found = zone.model(plate.model).solve((zone.boundary_dofs.ravel(), drive), dt=plate.dt, steps=plate.steps)
        truth = u[:, zone.dof_map]
        worst[name] = float(np.abs(found - truth).max() / np.abs(truth).max())
        rows.append([name, plate.steps, len(zone.dof_map), worst[name]])
    return Measurement(
        {name: exact(value) for name, value in worst.items()},
        table=Table(["scheme", "steps", "degrees of freedom of the zone", "relative difference"], rows),
    )


@measures("w2a-boundary-law")
def boundary_law(run: Run) -> Measurement:
    """Compare signals of generated histories with those of held-out runs."""
    found = []
    figure, axes = run.figure(2, 2)
    for seed in run.seeds:
        data, gan, _ = trained(run, "bar", seed)
        drawn = of_bar(run, gan, data, seed)
        found.append(distances(drawn, data.quantities))
        if seed == run.seed:
            again = of_bar(run, BootstrapSampler().fit(data.train), data, seed)
            table = by_name(
                SIGNALS,
                {
                    "generated": found[0],
                    "the training runs again": distances(again, data.quantities),
                    "two halves of the judged runs": floors(data.quantities),
                },
            )
            copies = memorisation_ratio(gan.sample(500, run.torch_rng(seed)), data.train, data.test[:500])
            kept = gan.best_step_
            for k, name in enumerate(SIGNALS):
                edges = edges_of(data.quantities[:, k])
                for values, label in ((data.quantities, "held-out runs"), (drawn, "generated")):
                    axes.flat[k].hist(values[:, k], edges, density=True, histtype="step", label=label)
                axes.flat[k].set(xlabel=f"{name}, {UNITS[k]}", yticks=[])
            axes.flat[0].legend()
    return Measurement(
        {
            "largest": every([float(w.max()) for w in found]),
            "median": every([float(np.median(w)) for w in found]),
        },
        table=table,
        figure=figure,
        remark=f"Of the first seed the generator after {kept} steps is kept. Its histories are {copies:.2f} times as"
        " far from the nearest training run as new runs are; well below 1 they would be copies.",
    )


@measures("w2b-inside")
def uncertainty_inside(run: Run) -> Measurement:
    """Drive the submodel of a plate by generated histories, and compare what happens inside with full runs."""
    zone = plate_with_zone(run)
    threshold, found = threshold_of(zone), []
    figure, axes = run.figure(2, 2)
    for seed in run.seeds:
        data, gan, _ = trained(run, "plate", seed)
        n, rng = len(data.quantities), run.torch_rng(10_000 + seed)
        drawn = generated_inside(run, zone, gan, threshold, n, rng)
        found.append(distances(drawn, data.quantities))
        if seed == run.seed:
            again = generated_inside(run, zone, BootstrapSampler().fit(data.train), threshold, n, rng)
            linear = generated_inside(run, zone, PCAGaussian().fit(data.known.astype(float)), threshold, n, rng)
            table = by_name(
                INSIDE,
                {
                    "generated": found[0],
                    "the training runs again": distances(again, data.quantities),
                    "principal components, Gaussian": distances(linear, data.quantities),
                    "two halves of the judged runs": floors(data.quantities),
                },
            )
            for k, name in enumerate(INSIDE):
                edges = edges_of(data.quantities[:, k])
                if name == "arrival":  # a whole number of steps
                    edges = (np.arange(zone.plate.steps + 2) - 0.5) * zone.plate.dt
                    axes.flat[k].set_xlim(data.quantities[:, k].min() - 0.1, data.quantities[:, k].max() + 0.1)
                for values, label in ((data.quantities, "full runs"), (drawn, "GAN and submodel")):
                    axes.flat[k].hist(values[:, k], edges, density=True, histtype="step", label=label)
                axes.flat[k].set(xlabel=name, yticks=[])
            axes.flat[0].legend()
    return Measurement(every([float(w.max()) for w in found]), table=table, figure=figure)


@measures("w3-beats-linear")
def beats_linear(run: Run) -> Measurement:
    """Set the distances of principal components with Gaussian coefficients against those of the GAN."""
    least, middle = [], []
    sizes = run.at(smoke=(5, 10), desk=(5, 10, 20, 40), full=(5, 10, 20, 40))
    for seed in run.seeds:
        data, gan, _ = trained(run, "bar", seed)
        ours = distances(of_bar(run, gan, data, seed), data.quantities)
        linear = {
            f"{k} components": distances(of_bar(run, PCAGaussian(k, None).fit(data.known), data, seed), data.quantities)
            for k in sizes
        }
        ratios = np.min(list(linear.values()), axis=0) / ours
        least.append(float(ratios.min()))
        middle.append(float(np.median(ratios)))
        if seed == run.seed:
            table = by_name(SIGNALS, {"generated": ours, **linear})
            figure, axes = run.figure(1, 2)
            times = np.arange(4, 401, 4) * 0.004
            rng = run.torch_rng(seed)
            sets = {
                "GAN": gan.sample(6, rng),
                "linear, 40 components": PCAGaussian(40, None).fit(data.known).sample(6, rng),
            }
            for axis, (name, histories) in zip(axes, sets.items(), strict=True):
                axis.plot(times, histories[:, 0, 0].T, lw=0.9)
                axis.set(title=name, xlabel="time", ylabel="displacement at the left end", ylim=(-1.6, 1.6))
    return Measurement({"least": every(least), "median": every(middle)}, table=table, figure=figure)


@measures("w4-faster", exclusive=True)
def faster(run: Run) -> Measurement:
    """Time Monte Carlo on the whole plate, and on the submodel with the histories drawn."""
    zone = plate_with_zone(run, "newmark")
    threshold = threshold_of(plate_with_zone(run))
    data, gan, training = trained(run, "plate", run.seed)
    n, plate = run.at(smoke=8, desk=256, full=256), zone.plate
    load, one, rng = plate.loads(n, 1), plate.loads(1, 1), run.torch_rng()

    def whole(load: Callable[[float], np.ndarray]) -> Any:
        states = plate.model.march(f=load, dt=plate.dt, steps=plate.steps)
        return evaluate_quantities(states, inside(zone, threshold), zone.submodel)

    seconds = interleaved(
        run,
        {
            "whole": lambda: whole(load),
            "ours": lambda: generated_inside(run, zone, gan, threshold, n, rng),
            "one by one": lambda: [whole(one) for _ in range(4)],
        },
        run.repeats(smoke=2, desk=7, full=7),
    )
    each = {name: seconds.median(name) / (4 if name == "one by one" else n) for name in ("whole", "ours", "one by one")}
    learned = len(data.known)
    even = learned + training / (each["whole"] - each["ours"]) if each["whole"] > each["ours"] else float("inf")
    share = len(zone.submodel.elements) / plate.model.basis.nelems
    return Measurement(
        seconds.ratio("whole", "ours"),
        table=Table(
            ["what", "milliseconds a sample"],
            [
                [f"the whole plate, {n} at once", 1e3 * each["whole"]],
                ["the whole plate, one by one", 1e3 * each["one by one"]],
                [f"sampling and submodel, {n} at once", 1e3 * each["ours"]],
            ],
        ),
        remark=f"The zone has 1/{1 / share:.1f} of the elements. With {learned} full runs to learn from and"
        f" {training:.0f} s of training it pays from {even:,.0f} samples on; against full runs one by one from"
        f" {learned + training / max(each['one by one'] - each['ours'], 1e-12):,.0f} on.",
    )


def toy_gap(d: float, weight: float, critic: Any, steps: int) -> float:
    """Train a critic between two point masses at a distance; return the relative error of its gap."""
    real, fake = torch.full((64, 1), d), torch.zeros(64, 1)
    with (
        torch.no_grad()
    ):  # on a line a critic that falls from fake to real can't turn: the penalty has a hill at slope 0
        sign = 1.0 if float(critic(real).mean() - critic(fake).mean()) >= 0 else -1.0
        for parameter in (critic if isinstance(critic, nn.Linear) else critic[-1]).parameters():
            parameter *= sign
    rng = torch.Generator().manual_seed(0)

    def loss(step: int) -> Tensor:
        gap = critic(real).mean() - critic(fake).mean()
        return weight * gradient_penalty(lambda x: critic(x)[:, 0], real, fake, generator=rng) - gap

    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    train(loss, optimizer, steps, schedule=lambda step: 1 - step / steps)
    with torch.no_grad():
        gap = float(critic(real).mean() - critic(fake).mean())
    return abs(gap / (d * (1 + d / (2 * weight))) - 1)


@measures("w5-lipschitz")
def lipschitz(run: Run) -> Measurement:
    """Take the norms of trained critics' gradients, and train critics where the best one is known."""
    steps = run.at(smoke=100, desk=1500, full=5000)
    norms, errors, rows = [], [], []
    for seed in run.seeds:
        data, gan, _ = trained(run, "bar", seed)
        norms.append(float(gan.slopes(data.test[:1000], run.torch_rng(seed)).mean()))
    with seeded(run.seed):
        for d, weight in ((1.0, 10.0), (1.0, 1.0), (2.0, 1.0)):
            critics = {"linear": nn.Linear(1, 1), "layered": mlp([1, 32, 32, 1], nn.SiLU)}
            for name, critic in critics.items():
                errors.append(toy_gap(d, weight, critic, steps))
                rows.append([name, d, weight, d * (1 + d / (2 * weight)), errors[-1]])
    return Measurement(
        {"gradient_norm": every(norms), "toy_gap": exact(max(errors))},
        table=Table(["critic", "distance", "weight", "gap of the best critic", "relative error"], rows),
    )


@measures("w6-convolutional")
def convolutions(run: Run) -> Measurement:
    """Train networks of convolutions on the histories themselves."""
    found = []
    figure, axes = run.figure(1, 2)
    for seed in run.seeds:
        data, gan, _ = trained(run, "bar by convolutions", seed)
        drawn = gan.sample(len(data.test), run.torch_rng(10_000 + seed))
        found.append(field_errors(drawn, data.test))
        if seed == run.seed:
            times = np.arange(4, 401, 4) * 0.004
            for axis, title, k in zip(axes, ("left end", "right end"), (0, 1), strict=True):
                for X, label in ((data.test, "held-out runs"), (drawn, "generated")):
                    centre, spread = X[:, 0, k].mean(0), X[:, 0, k].std(0)
                    line = axis.plot(times, centre, label=label)[0]
                    axis.fill_between(times, centre - spread, centre + spread, alpha=0.2, color=line.get_color())
                axis.set(title=title, xlabel="time", ylabel="mean ± deviation")
            axes.flat[0].legend()
    return Measurement(
        {"mean": every([e.mean for e in found]), "deviation": every([e.std for e in found])}, figure=figure
    )


@races("openturns", exclusive=True)
def against_openturns(run: Run) -> Measurement:
    """Draw histories by a Karhunen-Loève decomposition with kernel smoothing in openturns."""
    import openturns as ot

    ratios, seconds, rows = [], [], []
    sizes = run.at(smoke=(3, 5), desk=(3, 5, 10, 20), full=(3, 5, 10, 20, 40))
    for seed in run.seeds:
        data, gan, _ = trained(run, "bar", seed)
        ours = distances(of_bar(run, gan, data, seed), data.quantities)
        # As ours: fitted to the training runs, chosen by the validation runs.
        scale = float(np.abs(data.train).max())
        held, process = signals(data.validation, scale), KarhunenLoeve(data.train, max(sizes))
        scores = {}
        for size in sizes:
            for law in (*BANDWIDTHS, *(COPULAS if size <= 5 else ())):
                ot.RandomGenerator.SetSeed(seed)
                drawn = process.sample(size, law, 500 if law in COPULAS else 2000)  # milliseconds a draw with copulas
                scores[size, law] = float(distances(signals(drawn, scale), held).max())
        size, law = min(scores, key=lambda key: scores[key])
        ot.RandomGenerator.SetSeed(seed)
        drawn = process.sample(size, law, len(data.test))
        theirs = distances(signals(drawn, scale), data.quantities)
        copies = memorisation_ratio(drawn[:500], data.train, data.test[:500])
        ratios.append(float(ours.max() / theirs.max()))
        usual = min(value for (_, kind), value in scores.items() if kind == 1.0 or kind in COPULAS)
        rows.append([seed, size, str(law), float(ours.max()), float(theirs.max()), copies, usual])
        for _ in range(run.repeats(smoke=2, desk=4, full=4)):
            started = time.perf_counter()
            gan.sample(10_000, run.torch_rng())
            seconds.append(time.perf_counter() - started)
    return Measurement(
        {"distance": every(ratios), "seconds": median(seconds, of="rounds")},
        table=Table(
            [
                "seed",
                "components",
                "bandwidth or copula",
                "largest distance, ours",
                "openturns",
                "openturns' distance to training runs / new runs'",
                "openturns without a choice of bandwidth, validation runs",
            ],
            rows,
        ),
        settings=f"KarhunenLoeveSVDAlgorithm with the best of {', '.join(map(str, sizes))} components; KernelSmoothing"
        f" of all coefficients together with {', '.join(map(str, BANDWIDTHS))} of Silverman's bandwidth, or up to 5 of"
        " them each with a normal or Bernstein copula; the best on validation runs",
    )


BANDWIDTHS = (1.0, 0.5, 0.25, 0.125)  # shares of Silverman's, which is for a Gaussian
COPULAS = ("normal", "Bernstein")


class KarhunenLoeve:
    """openturns' decomposition of histories, and laws of its coefficients."""

    def __init__(self, histories: np.ndarray, size: int) -> None:
        import openturns as ot

        self.mean = histories.mean(0)
        flat = (histories - self.mean).reshape(len(histories), -1)
        sample = ot.ProcessSample(ot.RegularGrid(0.0, 1.0, flat.shape[1]), [ot.Sample(row[:, None]) for row in flat])
        algorithm = ot.KarhunenLoeveSVDAlgorithm(sample, 0.0, True)  # which is told that it is centred
        algorithm.setNbModes(size)
        algorithm.run()
        result = algorithm.getResult()
        self.coefficients = result.project(sample)
        modes = result.getScaledModesAsProcessSample()
        self.rows = np.stack([np.asarray(modes.getField(k).getValues())[:, 0] for k in range(modes.getSize())])

    def sample(self, size: int, law: float | str, n: int) -> np.ndarray:
        """Return histories of the first coefficients, smoothed with a share of the bandwidth, or with a copula."""
        import openturns as ot

        found, smoothing = self.coefficients.getMarginal(list(range(size))), ot.KernelSmoothing()
        if isinstance(law, float):
            drawn = smoothing.build(found, smoothing.computeSilvermanBandwidth(found) * law).getSample(n)
        else:
            factory = ot.NormalCopulaFactory() if law == "normal" else ot.BernsteinCopulaFactory()
            marginals = [smoothing.build(found.getMarginal(k)) for k in range(size)]
            drawn = ot.JointDistribution(marginals, factory.build(found)).getSample(n)
        return np.asarray((np.asarray(drawn) @ self.rows[:size]).reshape(n, *self.mean.shape) + self.mean)


@races("scikit-learn", exclusive=False)
def against_scikit_learn(run: Run) -> Measurement:
    """Draw histories by principal components with scikit-learn's mixture of Gaussians."""
    ratios, rows = [], []
    sizes = run.at(smoke=(3, 5), desk=(5, 10, 20, 40), full=(5, 10, 20, 40))
    for seed in run.seeds:
        data, gan, _ = trained(run, "bar", seed)
        ours = distances(of_bar(run, gan, data, seed), data.quantities)
        scale = float(np.abs(data.train).max())
        held = signals(data.validation, scale)
        fitted = {size: PCAGaussianMixture(size, None, components=64).fit(data.train) for size in sizes}
        scores = {
            size: float(distances(signals(law.sample(2000, run.torch_rng(seed)), scale), held).max())
            for size, law in fitted.items()
        }
        size = min(scores, key=lambda key: scores[key])
        theirs = distances(of_bar(run, fitted[size], data, seed), data.quantities)
        ratios.append(float(ours.max() / theirs.max()))
        rows.append([seed, size, fitted[size].mixture_.n_components, float(ours.max()), float(theirs.max())])
    return Measurement(
        every(ratios),
        table=Table(["seed", "components", "Gaussians", "largest distance, ours", "scikit-learn"], rows),
        settings="GaussianMixture with full covariances on the coefficients; 1, 2, 4, ..., 64 Gaussians by Bayes'"
        f" criterion, the best of {', '.join(map(str, sizes))} components on validation runs",
    )


@races("scikit-fem")
def against_scikit_fem(run: Run) -> Measurement:
    """March 64 right-hand sides through the submodel together, and one after the other on scikit-fem's matrices."""
    zone = plate_with_zone(run, "newmark")
    n = run.at(smoke=8, desk=64, full=64)
    u = zone.plate.model.solve(f=zone.plate.loads(n, run.seed), dt=zone.plate.dt, steps=zone.plate.steps)
    drive = u[:, zone.submodel.full_boundary_dofs.ravel()]
    held = zone.submodel.boundary_dofs.ravel()
    theirs = _loop(zone, held)
    ours = zone.model.solve((held, drive), dt=zone.plate.dt, steps=zone.plate.steps)
    apart = max(float(np.abs(theirs(drive[..., k]) - ours[..., k]).max()) for k in range(2)) / float(np.abs(ours).max())
    seconds = interleaved(
        run,
        {
            "ours": lambda: zone.model.solve((held, drive), dt=zone.plate.dt, steps=zone.plate.steps),
            "theirs": lambda: [theirs(drive[..., k]) for k in range(n)],
        },
        run.repeats(smoke=2, desk=9, full=9),
    )
    return Measurement(
        seconds.ratio("ours", "theirs"),
        table=Table(
            ["what", "milliseconds a sample"],
            [[name, 1e3 * seconds.median(name) / n] for name in ("ours", "theirs")],
        ),
        settings="matrices by scikit-fem's forms, factorised once by SuperLU, one right-hand side at a time",
        remark=f"The displacements agree to {apart:.1e} of their size.",
    )


def _loop(zone: Zone, held: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a march of one right-hand side, written with scikit-fem as its users do."""
    import skfem
    from skfem.helpers import ddot, div, dot, sym_grad

    basis, dt, model = zone.submodel.basis, zone.plate.dt, zone.model
    lam, mu = float(model.lam[0]), float(model.mu[0])
    K = skfem.BilinearForm(lambda u, v, _: lam * div(u) * div(v) + 2 * mu * ddot(sym_grad(u), sym_grad(v))).assemble(
        basis
    )
    M = skfem.BilinearForm(lambda u, v, _: dot(u, v)).assemble(basis)
    free = basis.complement_dofs(held)
    A = M + dt**2 / 4 * K
    inner, coupling = splu(A[free][:, free].tocsc()), A[free][:, held].tocsr()
    K_free = K[free].tocsr()

    def march(drive: np.ndarray) -> np.ndarray:
        u, v, a = np.zeros((3, basis.N))
        found = [u]
        for moved in drive[1:]:
            u, v = u + dt * v + dt**2 / 4 * a, v + dt / 2 * a
            a = np.zeros(basis.N)
            a[held] = (moved - u[held]) / (dt**2 / 4)
            a[free] = inner.solve(-(K_free @ u) - coupling @ a[held])
            u, v = u + dt**2 / 4 * a, v + dt / 2 * a
            found.append(u)
        return np.array(found)

    return march
